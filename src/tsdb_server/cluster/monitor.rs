//! The node that leads looks after the others: once a second it asks each how it stands, and does what follows from that.
//!
//! A learner that has everything votes; blocks are kept where they are to be ([`place`]); the store is raised to what
//! every node knows; where another node is to lead, it does. Each of these is decided first. Not here: the plans.

use crate::meta::apply::FEATURES;
use crate::meta::op::ClusterOp;
use crate::meta::op::Op;
use crate::tsdb_server::cluster::Cluster;
use crate::tsdb_server::cluster::headroom::headroom;
use crate::tsdb_server::cluster::place;
use crate::tsdb_server::cluster::place::Keeper;
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
use crate::wire::message::Standing;
use std::collections::BTreeMap;
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

/// What was last heard of the others. A node that does not lead knows nothing.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) standings: BTreeMap<NodeId, Standing>,
    /// When each answered last, or was missed first.
    answered: BTreeMap<NodeId, Duration>,
    /// The placement, since when it has been this one, and what was committed then.
    placement: Option<Since>,
}

/// A placement that is being waited for.
#[derive(Clone, Copy)]
struct Since {
    number: u64,
    at: Duration,
    committed: LogIndex,
}

impl Heard {
    /// Whether these nodes have rows of the placement, and everything that it says they are to have and that is named up to here.
    /// What is named later they may lack: it is listed there, and whoever has it beside keeps it until it is at home.
    fn have_all(&self, nodes: &Layout, placement: &Placement, named: LogIndex) -> bool {
        let has_all = |node: NodeId| {
            self.standings.get(&node).is_some_and(|standing| {
                standing.complete >= named && standing.placed == Some(placement.number)
            })
        };
        nodes.nodes().all(has_all)
    }
}

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
        let Placement { now: Some(now), next: None, .. } = &placement else { return Ok(false) };
        let heard = self.heard.lock();
        Ok(placement.number == number && heard.have_all(now, &placement, named))
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

    /// Asks every node how it stands.
    fn listen(&self, facts: &Facts) {
        let now = self.clock.steady();
        let mut heard = self.heard.lock();
        let Heard { standings, answered, placement } = &mut *heard;
        standings.clone_from(&facts.standings);
        answered.retain(|node, _| facts.nodes.contains_key(node));
        for node in facts.nodes.keys() {
            match standings.contains_key(node) {
                true => answered.insert(*node, now),
                false => Some(*answered.entry(*node).or_insert(now)),
            };
        }
        let number = facts.placement.number;
        if placement.is_none_or(|since| since.number != number) {
            *placement = Some(Since { number, at: now, committed: facts.committed });
        }
    }

    /// The placement that is to be next, if it is to be another one.
    fn to_place(&self, facts: &Facts) -> Option<Placement> {
        let now = self.clock.steady();
        let (heard, leaving) = (self.heard.lock(), self.leaving.lock());
        let keeper = |node: NodeId| {
            let standing = facts.standings.get(&node);
            Some(Keeper {
                node,
                roles: facts.nodes.get(&node)?.roles,
                follows: facts.follows(node),
                silent: now.saturating_sub(heard.answered.get(&node).copied().unwrap_or(now)),
                disk: standing.map(|standing| standing.disk_total),
            })
        };
        let members = facts.members.voters.iter().chain(&facts.members.learners);
        let placement = &facts.placement;
        let since = heard.placement.filter(|since| since.number == placement.number);
        let settled = since.zip(placement.next.as_ref()).is_some_and(|(since, next)| {
            now.saturating_sub(since.at) >= HEARD
                && heard.have_all(next, placement, since.committed)
        });
        let keepers = members.filter_map(|node| keeper(*node)).collect();
        let gone = self.gone;
        place::decide(&place::Facts { placement, keepers, leaving: &leaving, gone, settled })
    }

    fn place(&self, facts: &Facts) -> Result<(), FsError> {
        if self.server_features()? < PLACEMENTS {
            return Ok(());
        }
        let Some(placement) = self.to_place(facts) else { return Ok(()) };
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
        self.listen(&facts);
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
