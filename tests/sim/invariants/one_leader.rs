//! In one term, one member leads at most.

use crate::member::Member;
use std::collections::BTreeMap;
use tsfs::types::NodeId;
use tsfs::types::Term;

#[derive(Default)]
pub(crate) struct OneLeader {
    leaders: BTreeMap<Term, NodeId>,
}

impl OneLeader {
    pub(crate) fn check(&mut self, members: &[Member]) {
        for member in members {
            if let Some(term) = member.leads() {
                let first = *self.leaders.entry(term).or_insert(member.node);
                assert_eq!(first, member.node, "two lead in term {}", term.0);
            }
        }
    }

    pub(crate) fn reigns(&self) -> u64 {
        self.leaders.len() as u64
    }
}
