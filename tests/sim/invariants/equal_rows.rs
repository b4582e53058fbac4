//! Members that have applied the same entry have the same rows.

use crate::member::Member;
use std::collections::BTreeMap;
use tsfs::types::LogIndex;

/// Reading all rows after every entry would take most of the time.
const EVERY: u64 = 16;

#[derive(Default)]
pub(crate) struct EqualRows {
    digests: BTreeMap<LogIndex, u64>,
}

impl EqualRows {
    pub(crate) fn check(&mut self, member: &Member) {
        let index = member.progress().index;
        if !index.0.is_multiple_of(EVERY) {
            return;
        }
        let digest = member.digest();
        let first = *self.digests.entry(index).or_insert(digest);
        assert_eq!(first, digest, "node {} has other rows at entry {}", member.node.0, index.0);
    }
}

pub(crate) fn check_end(members: &[&Member]) {
    let all: Vec<_> = members.iter().map(|m| (m.progress().index, m.digest())).collect();
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "in the end they differ: {all:?}");
}
