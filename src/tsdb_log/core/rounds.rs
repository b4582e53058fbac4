//! Rounds of heartbeats: whom a majority takes for the leader, and since when.
//!
//! A heartbeat carries the number of its round and is answered with it. Once a majority has answered a round, nobody else can
//! have been elected before it was sent, nor for an election timeout behind that. Not here: the clock. Whoever drives
//! remembers when it sent a round.

use crate::tsdb_log::core::Core;
use crate::tsdb_log::entry::Message;
use crate::tsdb_log::entry::MessageKind;
use crate::types::NodeId;
use crate::types::Term;
use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Rounds {
    /// The last one sent. Never used twice, in no reign.
    last: u64,
    /// Whose reign the rest is about.
    reign: Term,
    /// The last round that each member has answered.
    answers: BTreeMap<NodeId, u64>,
    /// It was told to hand over. A member may stand for election on its word at any time from then on, and others may vote for
    /// it though they have just heard of this leader.
    handing_over: bool,
}

impl Rounds {
    fn enter(&mut self, reign: Term) {
        if self.reign != reign {
            self.reign = reign;
            self.answers.clear();
            self.handing_over = false;
        }
    }

    pub(super) fn answered(&mut self, reign: Term, node: NodeId, context: &[u8]) {
        self.enter(reign);
        let Ok(round) = context.try_into().map(u64::from_be_bytes) else { return };
        if round <= self.last {
            let known = self.answers.entry(node).or_default();
            *known = round.max(*known);
        }
    }

    /// Gives the heartbeats among these the number of a new round.
    pub(super) fn mark<'a>(
        &mut self,
        reign: Term,
        messages: impl Iterator<Item = &'a mut Message>,
    ) -> Option<u64> {
        self.enter(reign);
        let mut marked = None;
        for message in messages.filter(|message| message.kind == MessageKind::Heartbeat) {
            let round = *marked.get_or_insert(self.last + 1);
            message.context = Bytes::copy_from_slice(&round.to_be_bytes());
        }
        self.last = marked.unwrap_or(self.last);
        marked
    }

    pub(super) fn hand_over(&mut self, reign: Term) {
        self.enter(reign);
        self.handing_over = true;
    }

    /// How many rounds ago this member answered last.
    pub(super) fn silence(&self, node: NodeId) -> u64 {
        self.last - self.answers.get(&node).copied().unwrap_or(0)
    }
}

impl Core {
    /// Sends a round now. For a leader; does nothing elsewhere.
    pub fn ask_round(&mut self) {
        self.engine.ping();
    }

    /// The last round that a majority has answered: nobody else led when it was sent. `None` where that is not known, and for
    /// a leader that has committed nothing yet.
    pub fn confirmed(&self) -> Option<u64> {
        if !self.is_settled() || self.rounds.reign != self.term() {
            return None;
        }
        let rounds = &self.rounds;
        let mut answers: Vec<u64> = rounds.answers.values().copied().collect();
        answers.sort_unstable();
        let answered = |node: NodeId, round| {
            node == self.options.node
                || rounds.answers.get(&node).is_some_and(|last| *last >= round)
        };
        let is_enough = |round: &u64| self.members.is_quorum(|node| answered(node, *round));
        answers.into_iter().rev().find(is_enough)
    }

    /// Whether a majority's answer holds for an election timeout. Not any more in a reign in which handing over was tried.
    pub fn may_lease(&self) -> bool {
        !(self.rounds.reign == self.term() && self.rounds.handing_over)
    }
}
