//! A batch that is not direct touches only what its session owns when it is applied, and is applied as it was decided: so
//! nothing that a fenced or yielding mount still had on its way changes what another has.

use super::book::Book;
use super::book::batch;
use crate::member::Member;
use tsfs::meta::own;
use tsfs::series::table::Rows;
use tsfs::tsdb_log::entry::Entry;
use tsfs::types::SessionId;

/// Before an entry is applied for the first time anywhere.
pub(crate) fn check(book: &Book, member: &Member, entry: &Entry) {
    let Some((_, batch)) = batch(entry) else { return };
    if batch.session == SessionId(0) || batch.direct.is_some() {
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
