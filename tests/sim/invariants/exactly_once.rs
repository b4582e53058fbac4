//! A session's batches are applied in order, each once, and none behind its end: the number in its row goes along with what is
//! counted here, and so does every answer.

use super::book::Book;
use super::book::batch;
use super::book::opens_and_ends;
use crate::member::Member;
use tsfs::meta::op::Outcome;
use tsfs::tsdb_log::entry::Entry;
use tsfs::types::FsError;
use tsfs::types::SessionId;

/// Whether an entry holds a batch that was applied before.
pub(crate) fn is_again(book: &Book, entry: &Entry) -> bool {
    let known = batch(entry).and_then(|(_, batch)| {
        let session = book.sessions.get(&batch.session)?;
        Some(batch.seq.0 <= session.last)
    });
    known.unwrap_or(false)
}

/// An entry was applied for the first time anywhere.
pub(crate) fn follow(book: &mut Book, member: &Member, entry: &Entry, outcome: &Outcome) {
    let Some((_, batch)) = batch(entry) else { return };
    if batch.session == SessionId(0) {
        if *outcome == Outcome::Applied {
            for (session, opens) in opens_and_ends(&batch) {
                let known = book.sessions.entry(session).or_default();
                match opens {
                    true => known.open = true,
                    false => known.ended = true,
                }
            }
        }
        return;
    }
    let (session, seq, at) = (batch.session, batch.seq.0, entry.index.0);
    let Some(known) = book.sessions.get_mut(&session) else {
        panic!("entry {at} is of session {}, which nobody opened", session.0)
    };
    let made = known.made.get(&seq).unwrap_or_else(|| panic!("entry {at} was never made"));
    assert!(made.bytes == entry.body, "batch {seq} of session {} is another", session.0);
    let next = known.last + 1;
    let fits = match outcome {
        Outcome::Refused { error: FsError::Refused(why), .. } if why.contains("not open") => {
            known.ended
        }
        _ if known.ended => false,
        Outcome::Early => seq > next,
        Outcome::Repeated => seq < next,
        // The outcome of the last one is kept, if it was a direct one.
        Outcome::Applied if seq == known.last => made.direct,
        Outcome::Applied => seq == next,
        Outcome::Held(_) | Outcome::Conflict => made.direct && (seq == next || seq == known.last),
        Outcome::Refused { .. } => made.direct && (seq == next || seq == known.last),
    };
    let last = known.last;
    assert!(
        fits,
        "entry {at}: batch {seq} of session {} behind {last}, ended {}: {outcome:?}",
        session.0, known.ended
    );
    if seq == next && !known.ended {
        known.last = seq;
    }
    if !known.ended {
        let row = member.session(session).map(|row| row.last.0);
        assert_eq!(row, Some(known.last), "entry {at}: the row of session {}", session.0);
    }
}
