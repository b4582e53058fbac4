//! While a leader has a lease, nobody else leads in a later term.

use crate::member::Member;
use tsfs::env::Clock;

pub(crate) fn check(members: &[Member]) {
    for member in members {
        let Some(running) = &member.running else { continue };
        if !running.has_lease(member.clock.steady()) {
            continue;
        }
        let mine = running.leadership();
        assert!(mine.here, "node {} has a lease and does not lead", member.node.0);
        for other in members.iter().filter(|other| other.node != member.node) {
            let later = other.leads().filter(|term| *term > mine.term);
            assert_eq!(
                later, None,
                "node {} leads while node {} has a lease in term {}",
                other.node.0, member.node.0, mine.term.0
            );
        }
    }
}
