//! Changing who takes part, handing over, and how far each follower is.
//!
//! One change at a time. More than one step goes through a state in which both majorities are needed, and the leader ends
//! that state by itself as soon as it may, also one that it found when it was elected.

use crate::tsdb_log::core::Core;
use crate::tsdb_log::core::convert;
use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::members::Change;
use crate::tsdb_log::members::Step;
use crate::tsdb_log::members::steps;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use raft::eraftpb;

/// A learner that lacks no more entries than this may become a voter.
const LAG_MAX: u64 = 1024;

/// A member as its leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Follower {
    pub node: NodeId,
    pub voter: bool,
    /// Up to here its log is known to be the leader's, on its disk.
    pub matched: LogIndex,
    /// It has answered within an election timeout.
    pub active: bool,
}

impl Core {
    /// Who takes part, as of what was handed out.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// How far the others are. Empty where this member does not lead.
    pub fn followers(&self) -> Vec<Follower> {
        if !self.is_leader() {
            return Vec::new();
        }
        let rounds = (self.options.election_ticks / self.options.heartbeat_ticks.max(1)) as u64;
        let others = self.members.all().into_iter().filter(|node| *node != self.options.node);
        let follower = |node: NodeId| {
            let matched = self.engine.raft.prs().get(node.0).map_or(0, |progress| progress.matched);
            Follower {
                node,
                voter: self.members.is_voter(node),
                matched: LogIndex(matched),
                active: self.rounds.silence(node) <= rounds,
            }
        };
        others.map(follower).collect()
    }

    /// Puts a change of members into the log: its entry. `voters` and `learners` are all that there will be.
    ///
    /// # Errors
    /// `NotLeader`; `Refused` with the reason: a change that is under way, or one that could stop the log.
    pub fn change_members(
        &mut self,
        mut voters: Vec<NodeId>,
        mut learners: Vec<NodeId>,
    ) -> Result<LogIndex, FsError> {
        for list in [&mut voters, &mut learners] {
            list.sort_unstable();
            list.dedup();
        }
        self.judge(&voters, &learners)?;
        Ok(self.append_change(&Change::To { voters, learners }))
    }

    fn judge(&self, voters: &[NodeId], learners: &[NodeId]) -> Result<(), FsError> {
        let refused = |why: String| Err(FsError::Refused(why));
        if !self.is_leader() {
            return Err(FsError::NotLeader { leader: self.leader() });
        }
        if self.members.is_joint()
            || self.engine.raft.has_pending_conf()
            || self.engine.raft.lead_transferee.is_some()
        {
            return refused(
                "the members are being changed already; try again in a moment".to_owned(),
            );
        }
        if !voters.contains(&self.options.node) {
            return refused(format!(
                "node {} leads and cannot be taken out; hand the lead over first",
                self.options.node.0
            ));
        }
        if let Some(twice) = voters.iter().find(|node| learners.contains(node)) {
            return refused(format!("node {} cannot be a voter and a learner at once", twice.0));
        }
        let followers = self.followers();
        let known = |node: NodeId| followers.iter().find(|follower| follower.node == node);
        for node in voters.iter().filter(|node| !self.members.is_voter(**node)) {
            let lag =
                known(*node).map(|follower| self.commit().0.saturating_sub(follower.matched.0));
            match lag {
                None => {
                    return refused(format!(
                        "node {} has to be a learner before it can vote",
                        node.0
                    ));
                }
                Some(lag) if lag > LAG_MAX => {
                    return refused(format!(
                        "node {} lacks {lag} entries of the log; wait until it has caught up",
                        node.0
                    ));
                }
                Some(_) => {}
            }
        }
        let next = Members { voters: voters.to_vec(), ..Members::default() };
        let answers = |node: NodeId| {
            node == self.options.node || known(node).is_some_and(|follower| follower.active)
        };
        if !next.is_quorum(answers) {
            return refused(
                "of the nodes that would be left to decide, no majority answers; bring them up first"
                    .to_owned(),
            );
        }
        if steps(&self.members, voters, learners).is_empty() {
            return refused("these are the members already".to_owned());
        }
        Ok(())
    }

    /// Ends the state in which both majorities are needed, if it may end. To be called now and then; true where there is
    /// something to be done then.
    pub fn carry_on_change(&mut self) -> bool {
        let due =
            self.members.is_joint() && self.is_settled() && !self.engine.raft.has_pending_conf();
        if due {
            self.append_change(&Change::Leave);
        }
        due
    }

    /// Past the engine's own door, which would parse the body as one of its own.
    fn append_change(&mut self, change: &Change) -> LogIndex {
        let mut entry =
            eraftpb::Entry { data: change.encode().into(), ..eraftpb::Entry::default() };
        entry.set_entry_type(eraftpb::EntryType::EntryConfChangeV2);
        let taken = self.engine.raft.append_entry(&mut [entry]);
        assert!(taken, "the engine was given no limit for what is not committed");
        self.engine.raft.pending_conf_index = self.last().0;
        self.engine.raft.bcast_append();
        self.last()
    }

    /// A committed change takes effect.
    pub(super) fn take_up(&mut self, entry: &Entry) -> Result<(), FsError> {
        let change: Vec<Step> = match Change::decode(&entry.body)? {
            Change::To { voters, learners } => steps(&self.members, &voters, &learners),
            Change::Leave => Vec::new(),
        };
        let state = self.engine.apply_conf_change(&convert::change(&change)).map_err(|error| {
            FsError::Damaged(format!(
                "log entry {} changes the members in a way that cannot be: {error}",
                entry.index.0
            ))
        })?;
        self.members = convert::members(&state);
        if self.is_leader() && !self.members.is_voter(self.options.node) {
            // It found the change half done when it was elected. Who is left will elect somebody.
            let term = self.engine.raft.term;
            self.engine.raft.become_follower(term, 0);
        }
        Ok(())
    }

    /// Has `to` lead as soon as it has everything. Until then, or for an election timeout, nothing is taken; and this leader
    /// has no lease any more, whatever comes of it.
    ///
    /// # Errors
    /// `NotLeader`; `Refused` where that node cannot lead.
    pub fn hand_over(&mut self, to: NodeId) -> Result<(), FsError> {
        if !self.is_leader() {
            return Err(FsError::NotLeader { leader: self.leader() });
        }
        if to == self.options.node || !self.members.voters.contains(&to) {
            return Err(FsError::Refused(format!("node {} is no other voter", to.0)));
        }
        self.rounds.hand_over(self.term());
        self.engine.transfer_leader(to.0);
        Ok(())
    }
}
