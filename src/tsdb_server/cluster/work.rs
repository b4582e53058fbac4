//! Plans, carried out step by step. A step that was done already is done again without harm, so a plan that was cut off is
//! made anew and goes on.
//!
//! Whatever waits here says how far it is, ends when whoever asked does not want it any more, and gives up when nothing
//! has moved for `STUCK`.

use crate::env::Clock;
use crate::meta::key::StateKey;
use crate::meta::op::ClusterOp;
use crate::meta::op::Op;
use crate::tsdb_server::cluster::Cluster;
use crate::tsdb_server::cluster::monitor::HEARD;
use crate::tsdb_server::cluster::monitor::Leaving;
use crate::tsdb_server::cluster::plan::LAG_MAX;
use crate::tsdb_server::cluster::plan::Plan;
use crate::tsdb_server::cluster::plan::Step;
use crate::tsdb_server::cluster::rows;
use crate::types::FsError;
use crate::types::NodeId;
use crate::wire::cluster::Progress;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

/// How often something that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A wait in which nothing moves ends after this.
const STUCK: Duration = Duration::from_secs(300);
/// For a change of members, or another leader: some elections.
const SETTLED: Duration = Duration::from_secs(30);

/// Who is told how far it is, and says whether it is still wanted.
pub type Watch<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// Rests that somebody else can end.
#[derive(Default)]
pub struct Pause {
    closed: Mutex<bool>,
    changed: Condvar,
}

impl Pause {
    /// # Errors
    /// `Closing`, at once when it is closed.
    pub fn rest(&self, time: Duration) -> Result<(), FsError> {
        let mut closed = self.closed.lock();
        if !*closed {
            self.changed.wait_for(&mut closed, time);
        }
        if *closed { Err(FsError::Closing) } else { Ok(()) }
    }

    /// Nobody rests any more.
    pub fn close(&self) {
        *self.closed.lock() = true;
        self.changed.notify_all();
    }
}

/// What became of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Worked {
    Done,
    /// This node leads now, and is to be asked the same again.
    PassOn(NodeId),
}

impl Cluster {
    /// Does what the plan says.
    ///
    /// # Errors
    /// What a step met; `NotLeader` where another node leads meanwhile; `Closing`; `Refused` where nothing moves, or it
    /// is not wanted any more.
    pub fn carry_out(&self, plan: &Plan, watch: Watch<'_>) -> Result<Worked, FsError> {
        let mut leaving = Leaving { cluster: self, nodes: BTreeSet::new() };
        for step in plan {
            if let Step::Forget(node) = step {
                leaving.add(*node);
            }
        }
        for step in plan {
            tracing::info!(%step, "the cluster is changed");
            match step {
                Step::HandOver(to) => {
                    self.members.hand_over(*to)?;
                    let led = || self.members.leader() == Some(*to);
                    let doing = format!("node {} takes over", to.0);
                    self.settle(&doing, led, watch)?;
                    return Ok(Worked::PassOn(*to));
                }
                Step::AwaitLog(node) => {
                    let lag = || {
                        let followers = self.members.followers();
                        followers.iter().find(|other| other.node == *node).map(|other| other.lag)
                    };
                    let doing = format!("node {} gets the log", node.0);
                    self.wait(&doing, "entries", LAG_MAX, lag, watch)?;
                }
                Step::AwaitBlocks(node) => {
                    let doing = format!("node {} fetches blocks", node.0);
                    self.wait(&doing, "blocks", 0, || self.lacks(*node), watch)?;
                }
                Step::MoveAway(node) => {
                    leaving.add(*node);
                    let doing = format!("others fetch what node {} keeps", node.0);
                    let left = || self.left_with(*node);
                    self.wait(&doing, "blocks", 0, left, watch)?;
                }
                Step::Members { voters, learners } => {
                    self.change_members(voters, learners, &leaving.nodes)?;
                    let holds = || {
                        let members = self.members.members();
                        let learns = |node| members.learners.contains(node);
                        members.voters == *voters
                            && learners.iter().all(learns)
                            && !leaving.nodes.iter().any(learns)
                    };
                    self.settle("the nodes agree on who decides", holds, watch)?;
                }
                Step::AwaitMounts => self.await_mounts(watch)?,
                Step::Forget(node) => {
                    self.server.administer(Op::Cluster(ClusterOp::RemoveNode { node: *node }))?;
                }
            }
        }
        Ok(Worked::Done)
    }

    /// Has these vote and these learn. Whoever came since that was decided goes on learning.
    fn change_members(
        &self,
        voters: &[NodeId],
        learners: &[NodeId],
        leaving: &BTreeSet<NodeId>,
    ) -> Result<(), FsError> {
        let from = self.members.members();
        let mut learners = learners.to_vec();
        learners.extend(from.learners.iter().filter(|node| !leaving.contains(node)));
        learners.sort_unstable();
        learners.dedup();
        learners.retain(|node| !voters.contains(node));
        self.members.change(from, voters.to_vec(), learners)
    }

    /// Blocks that a node should have and has not; `None` where it is not known.
    pub(super) fn lacks(&self, node: NodeId) -> Option<u64> {
        let placement = rows::placement(&*self.server).ok()?;
        self.copies.standing(node)?.lacks_by(&placement)
    }

    /// Nothing when a node is not, and is not going to be, home to blocks by name; until then one more than what its heirs
    /// have yet to fetch.
    fn left_with(&self, node: NodeId) -> Option<u64> {
        let placement = rows::placement(&*self.server).ok()?;
        if !placement.names(node) && placement.now.is_some() {
            return Some(0);
        }
        let heirs = placement.next.as_ref().filter(|next| !next.has(node))?;
        let lack = |heir| self.copies.standing(heir)?.lacks_by(&placement);
        heirs.nodes().map(lack).sum::<Option<u64>>().map(|left| left + 1)
    }

    /// Waits for as long as a mount may go by what it heard before; not at all where there is none.
    fn await_mounts(&self, watch: Watch<'_>) -> Result<(), FsError> {
        let begun = self.clock.steady();
        let left = || {
            let any = !self.server.state(&StateKey::sessions(), 1).ok()?.rows.is_empty();
            let rest = HEARD.saturating_sub(self.clock.steady().saturating_sub(begun));
            Some(if any { rest.as_millis().div_ceil(1000) as u64 } else { 0 })
        };
        self.wait("all mounts hear of it", "seconds", 0, left, watch)
    }

    /// Waits until `left` is no more than `enough`.
    fn wait(
        &self,
        doing: &str,
        unit: &str,
        enough: u64,
        left: impl Fn() -> Option<u64>,
        watch: Watch<'_>,
    ) -> Result<(), FsError> {
        let first = left();
        let (mut least, mut moved) = (first, self.clock.steady());
        loop {
            let now = left();
            if now.is_some_and(|left| left <= enough) {
                return Ok(());
            }
            self.still_lead()?;
            if now.is_some() && (least.is_none() || now < least) {
                (least, moved) = (now, self.clock.steady());
            }
            let total = first.max(now);
            let done = total.zip(now).map_or(0, |(total, left)| total - left);
            let progress = Progress { doing: doing.to_owned(), done, total, unit: unit.to_owned() };
            if watch(progress).is_break() {
                return Err(FsError::Refused(format!("{doing}: nobody waits for it any more")));
            }
            if stuck(&*self.clock, moved) {
                return Err(FsError::Refused(format!(
                    "{doing}: nothing has moved for {} minutes, and {} {unit} are left; look at 'tsfs cluster status', then \
                     try again",
                    STUCK.as_secs() / 60,
                    now.map_or("an unknown number of".to_owned(), |left| left.to_string())
                )));
            }
            self.pause.rest(LOOK_EVERY)?;
        }
    }

    /// Waits until something holds that takes an election or two.
    fn settle(
        &self,
        doing: &str,
        holds: impl Fn() -> bool,
        watch: Watch<'_>,
    ) -> Result<(), FsError> {
        let begun = self.clock.steady();
        while !holds() {
            let progress = Progress {
                doing: doing.to_owned(),
                done: 0,
                total: Some(1),
                unit: "steps".to_owned(),
            };
            // What is in the log already comes true whether anybody waits or not.
            let _ = watch(progress);
            if self.clock.steady().saturating_sub(begun) > SETTLED {
                return Err(FsError::Unreachable(format!(
                    "{doing}: it has taken more than {} s; look at 'tsfs cluster status', then try again",
                    SETTLED.as_secs()
                )));
            }
            self.pause.rest(LOOK_EVERY)?;
        }
        Ok(())
    }

    fn still_lead(&self) -> Result<(), FsError> {
        match self.members.leader() {
            Some(leader) if leader == self.here => Ok(()),
            leader => Err(FsError::NotLeader { leader }),
        }
    }
}

fn stuck(clock: &dyn Clock, moved: Duration) -> bool {
    clock.steady().saturating_sub(moved) > STUCK
}
