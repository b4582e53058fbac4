//! What anybody was told is durable is there: for every read that a leader would answer, and in the end everywhere.

use crate::member::Member;
use tsfs::env::Clock;

/// How many members would have answered a read of the present.
pub(crate) fn check_reads(members: &[Member], promised: u64) -> u64 {
    let mut reads = 0;
    for member in members {
        let Some(running) = &member.running else { continue };
        let sure = running.has_lease(member.clock.steady());
        if sure && running.progress().index >= running.commit() {
            let last = member.last_applied().unwrap_or(0);
            assert!(last >= promised, "node {} would show {last} of {promised}", member.node.0);
            reads += 1;
        }
    }
    reads
}

pub(crate) fn check_end(members: &[&Member], promised: u64) {
    for member in members {
        let last = member.last_applied().unwrap_or(0);
        assert!(last >= promised, "node {} has {last} of {promised}", member.node.0);
    }
}
