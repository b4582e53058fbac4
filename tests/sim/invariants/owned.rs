//! What a batch rests on is so when it is applied. One that is not direct touches only what its session owns, so nothing that a
//! fenced or yielding mount still had on its way changes what another has; a direct one is applied only to rows as it saw them,
//! which nobody else owns.

use super::book::Book;
use super::book::batch;
use crate::member::Member;
use tsfs::meta::key;
use tsfs::meta::op::Batch;
use tsfs::meta::op::Outcome;
use tsfs::meta::op::Seen;
use tsfs::meta::own;
use tsfs::series::Read;
use tsfs::series::Readable;
use tsfs::series::Series;
use tsfs::series::table::Rows;
use tsfs::tsdb_log::entry::Entry;
use tsfs::types::AsOf;
use tsfs::types::SessionId;

/// Before an entry is applied for the first time anywhere. Of a direct batch: why it may not be applied.
pub(crate) fn check(book: &Book, member: &Member, entry: &Entry) -> Option<String> {
    let (_, batch) = batch(entry)?;
    match &batch.direct {
        Some(seen) => obstacle(member, batch.session, seen),
        None => {
            check_local(book, member, entry, &batch);
            None
        }
    }
}

fn obstacle(member: &Member, session: SessionId, seen: &[Seen]) -> Option<String> {
    let rows: &dyn Rows = &*member.table;
    let series = Series::new(rows, key::GROUPS, Readable::default());
    seen.iter().find_map(|row| {
        let ino = key::inode_of(&row.key)?;
        let owner = own::owner(rows, ino).unwrap();
        if owner.is_some_and(|owner| owner != session) {
            return Some(format!("another session owns inode {ino}"));
        }
        let now = series.get(&row.key, AsOf::Now).unwrap();
        let other = now.map(|now| Seen::hash(&now)) != row.value;
        other.then(|| format!("{} is not as it was seen", key::describe(&row.key)))
    })
}

/// After it was applied.
pub(crate) fn check_applied(entry: &Entry, obstacle: Option<String>, outcome: &Outcome) {
    if let (Some(why), Outcome::Applied) = (obstacle, outcome) {
        panic!("entry {} is applied, and {why}", entry.index.0);
    }
}

fn check_local(book: &Book, member: &Member, entry: &Entry, batch: &Batch) {
    if batch.session == SessionId(0) {
        return;
    }
    let Some(known) = book.sessions.get(&batch.session) else { return };
    let Some(made) = known.made.get(&batch.seq.0) else { return };
    if known.ended || batch.seq.0 != known.last + 1 {
        return;
    }
    let rows: &dyn Rows = &*member.table;
    for ino in &made.touched {
        let owner = own::owner(rows, *ino).unwrap();
        assert_eq!(
            owner,
            Some(batch.session),
            "entry {}: batch {} of session {} rests on owning inode {ino}",
            entry.index.0,
            batch.seq.0,
            batch.session.0
        );
    }
}
