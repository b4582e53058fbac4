//! Whatever became of a mount: of its batches the first so many are applied, and among them all that programs were told is
//! durable.

use super::book::Book;
use crate::member::Member;
use tsfs::env::Clock;

/// For every read that a leader would answer; how many would.
pub(crate) fn check_reads(book: &Book, members: &[Member]) -> u64 {
    let mut reads = 0;
    for member in members {
        let Some(running) = &member.running else { continue };
        let sure = running.has_lease(member.clock.steady());
        if !sure || running.progress().index < running.commit() {
            continue;
        }
        reads += 1;
        check_member(book, member);
    }
    reads
}

pub(crate) fn check_member(book: &Book, member: &Member) {
    for (session, known) in book.sessions.iter().filter(|(_, known)| !known.ended) {
        let last = member.session(*session).map_or(0, |row| row.last.0);
        assert!(
            last >= known.promised,
            "node {} would show {last} of session {}, of which {} are promised",
            member.node.0,
            session.0,
            known.promised
        );
    }
}

/// What a session leaves when it ends is what it was promised, and no more than it made.
pub(crate) fn check_ended(book: &Book) {
    for (session, known) in &book.sessions {
        let made = known.made.keys().next_back().copied().unwrap_or(0);
        assert!(known.last <= made, "session {} made {made}", session.0);
        if known.ended {
            let (last, promised) = (known.last, known.promised);
            assert!(promised <= last, "session {}: {last} of {promised}", session.0);
        }
    }
}
