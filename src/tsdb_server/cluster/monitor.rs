//! The node that leads looks after the others: once a second it asks each how it stands, and does what follows from that.
//!
//! A learner that has everything votes; blocks are kept where they are to be (`place`); the store is raised to what
//! every node knows; where another node is to lead, it does. Each of these is decided first. Not here: the plans.

use crate::meta::apply::FEATURES;
use crate::meta::op::ClusterOp;
use crate::meta::op::Op;
use crate::tsdb_server::cluster::Cluster;
use crate::tsdb_server::cluster::headroom::headroom;
use crate::tsdb_server::cluster::heard::Heard;
use crate::tsdb_server::cluster::heard::Waits;
use crate::tsdb_server::cluster::plan;
use crate::tsdb_server::cluster::plan::Facts;
use crate::tsdb_server::cluster::plan::Plan;
use crate::tsdb_server::cluster::rows;
use crate::tsdb_server::task::Task;
use crate::tsdb_server::task::Worked;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::placement::COPIES_MAX;
use crate::types::placement::GROUPS;
use crate::types::placement::Layout;
use crate::types::placement::Placement;
use crate::wire::cluster::Answer;
use crate::wire::cluster::HomeState;
use crate::wire::cluster::PlacementState;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Weak;
use std::time::Duration;

/// How often the others are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After this time every client that may still put a block has heard of a placement, or who decides: a lease and a half.
pub(super) const HEARD: Duration = Duration::from_secs(15);
/// The first feature level with placements.
const PLACEMENTS: u32 = 3;
/// Fewer copies than this have no majority when one is lost.
const COPIES_MIN: u8 = 3;

impl Cluster {
    /// Whether all blocks that the log names up to this entry are where the placement of that number says: then whoever has
    /// them beside need not.
    ///
    /// # Errors
    /// `NotLeader`; `Damaged`, `Io`.
    pub fn is_at_home(&self, number: u64, named: LogIndex) -> Result<bool, FsError> {
        let leader = self.members.leader();
        if leader != Some(self.here) {
            return Err(FsError::NotLeader { leader });
        }
        let placement = rows::placement(&*self.server)?;
        Ok(self.heard.lock().is_at_home(&placement, number, named))
    }

    /// Has so many copies of each block be wanted. The blocks follow.
    ///
    /// # Errors
    /// `Refused` with a sentence; `Damaged`, `Io`.
    pub(super) fn want_copies(&self, copies: u8) -> Result<Answer, FsError> {
        if copies.is_multiple_of(2) || !(COPIES_MIN..=COPIES_MAX).contains(&copies) {
            return Err(FsError::Refused(format!(
                "there can be 3, 5, 7 or {COPIES_MAX} copies: a majority of them has to be left when one is lost, and an even number survives no more \
                 than the odd one below"
            )));
        }
        if self.server_features()? < PLACEMENTS {
            return Err(FsError::Refused(
                "some nodes are of an older version, which knows of no copies: bring them to this one first".to_owned(),
            ));
        }
        let placement = rows::placement(&*self.server)?;
        if placement.copies != copies {
            let placement = Placement { number: placement.number + 1, copies, ..placement };
            self.server.administer(Op::Cluster(ClusterOp::Place { placement }))?;
        }
        Ok(Answer::Done(format!(
            "{copies} copies of each block are wanted, on as many nodes that keep blocks"
        )))
    }

    /// Which nodes keep how much.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub(super) fn placement_state(&self) -> Result<PlacementState, FsError> {
        let placement = rows::placement(&*self.server)?;
        let Placement { copies, now, next, .. } = &placement;
        let thousandths = |layout: &Option<Layout>, node| match layout {
            None => 1000,
            Some(layout) => (u32::from(layout.groups_of(node)) * 1000 / u32::from(GROUPS)) as u16,
        };
        let then = if next.is_some() { next } else { now };
        let all = now.iter().chain(next).flat_map(Layout::nodes).collect::<BTreeSet<_>>();
        let home = |node: NodeId| HomeState {
            node: node.0,
            now: thousandths(now, node),
            then: thousandths(then, node),
        };
        Ok(PlacementState {
            copies: *copies,
            everywhere: placement.is_everywhere(),
            homes: all.into_iter().map(home).collect(),
            moving: next.is_some(),
        })
    }

    fn place(&self, facts: &Facts) -> Result<(), FsError> {
        if self.server_features()? < PLACEMENTS {
            return Ok(());
        }
        let (now, waits) = (self.clock.steady(), Waits { gone: self.gone, heard: HEARD });
        let to_be = self.heard.lock().to_place(facts, &self.leaving.lock(), waits, now);
        let Some(placement) = to_be else { return Ok(()) };
        let homes = |layout: &Option<Layout>| match layout {
            None => "every node".to_owned(),
            Some(layout) => plan::list(&layout.nodes().collect::<Vec<_>>()),
        };
        let (now, next) = (homes(&placement.now), placement.next.as_ref());
        let number = placement.number;
        match next {
            None => tracing::info!(number, now, "blocks are at home"),
            Some(next) => {
                let next = plan::list(&next.nodes().collect::<Vec<_>>());
                tracing::info!(number, now, next, "blocks are to be kept elsewhere");
            }
        }
        self.server.administer(Op::Cluster(ClusterOp::Place { placement }))?;
        Ok(())
    }

    fn server_features(&self) -> Result<u32, FsError> {
        Ok(rows::store(&*self.server)?.features)
    }

    /// Raises the store to this version's features, when every node knows them: the last of them was brought to it.
    fn raise(&self, facts: &Facts) -> Result<(), FsError> {
        let knows = |node: &NodeId| {
            facts.standings.get(node).is_some_and(|standing| standing.features >= FEATURES)
        };
        if facts.nodes.keys().all(knows) && self.server_features()? < FEATURES {
            tracing::info!(
                features = FEATURES,
                "every node is of this version: older ones are not let in any more"
            );
            self.server.administer(Op::Raise { features: FEATURES })?;
        }
        Ok(())
    }

    fn look_after(&self) -> Result<(), FsError> {
        let facts = match self.facts() {
            Ok(facts) => facts,
            Err(FsError::NotLeader { .. }) => {
                *self.heard.lock() = Heard::default();
                self.copies.heard_of_headroom(None);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.heard.lock().listen(&facts, self.clock.steady());
        self.copies.heard_of_headroom(Some(headroom(&facts)));
        self.raise(&facts)?;
        self.place(&facts)?;
        let plans = [plan::promote, plan::better_leader, plan::demote];
        match plans.iter().find_map(|plan| plan(&facts)) {
            Some(plan) => self.try_to(&plan),
            None => Ok(()),
        }
    }

    fn try_to(&self, plan: &Plan) -> Result<(), FsError> {
        match self.carry_out(plan, &mut |_| ControlFlow::Continue(())) {
            // Another change came first, or another leader: it is looked at again.
            Ok(_) | Err(FsError::Refused(_) | FsError::NotLeader { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Nodes that are to keep nothing, for as long as this is there.
pub(super) struct Leaving<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) nodes: BTreeSet<NodeId>,
}

impl Leaving<'_> {
    pub(super) fn add(&mut self, node: NodeId) {
        self.nodes.insert(node);
        self.cluster.leaving.lock().insert(node);
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.cluster.leaving.lock().retain(|node| !self.nodes.contains(node));
    }
}

pub struct Monitor(pub Weak<Cluster>);

impl Task for Monitor {
    fn name(&self) -> &'static str {
        "monitor"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        let cluster = self.0.upgrade().ok_or(FsError::Closing)?;
        match cluster.look_after() {
            // Somebody else leads meanwhile, or another placement came first.
            Ok(()) | Err(FsError::NotLeader { .. } | FsError::Invalid(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(Worked::Idle(LOOK_EVERY))
    }
}
