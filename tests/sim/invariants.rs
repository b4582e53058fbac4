//! What must hold after every step, one file for each.

mod acknowledged;
mod equal_rows;
mod lease;
mod log_matching;
mod one_leader;

use crate::member::Member;
use equal_rows::EqualRows;
use one_leader::OneLeader;
use tsfs::types::NodeId;

/// What has been seen so far.
#[derive(Default)]
pub(crate) struct Invariants {
    one_leader: OneLeader,
    equal_rows: EqualRows,
    /// Terms in which somebody led.
    pub(crate) reads: u64,
}

impl Invariants {
    /// After every step of the world. `promised` is the last number that anybody was told is durable.
    pub(crate) fn check(&mut self, members: &[Member], promised: u64) {
        self.one_leader.check(members);
        lease::check(members);
        self.reads += acknowledged::check_reads(members, promised);
    }

    /// After `member` has applied an entry.
    pub(crate) fn applied(&mut self, member: &Member) {
        self.equal_rows.check(member);
    }

    pub(crate) fn reigns(&self) -> u64 {
        self.one_leader.reigns()
    }

    /// When everything is well again.
    pub(crate) fn check_end(&mut self, members: &[Member], part: &[NodeId], promised: u64) {
        let part: Vec<&Member> = members.iter().filter(|m| part.contains(&m.node)).collect();
        acknowledged::check_end(&part, promised);
        equal_rows::check_end(&part);
        log_matching::check(&part);
    }
}
