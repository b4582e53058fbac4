//! Taking up a table that came from another member, in a store that nobody uses.
//!
//! The table waits under a name of its own, complete and on disk, until it and the log are one again: what was begun is gone
//! on with at the next opening. Whether it is as it was sent, and which of its rows are of this node alone, is for whoever
//! received it. Not here: blocks.

use crate::store::disk::Disk;
use crate::store::log::Log;
use crate::store::table;
use crate::store::table::RocksTable;
use crate::tsdb_server::open;
use crate::tsdb_server::replica;
use crate::tsdb_server::replica::Progress;
use crate::types::FsError;
use crate::types::Term;
use std::path::Path;

/// The directory of a table on its way here, and the name it gets once it is complete.
pub const RECEIVING: &str = "table.receiving";
pub const RECEIVED: &str = "table.received";
/// The former table, until it is removed.
const FORMER: &str = "table.former";

/// The table in [`RECEIVING`] is complete, and every file of it is on disk. It is taken up when the store is opened next.
///
/// # Errors
/// `NoSpace`, `Io`.
pub fn received(dir: &Path, disk: &dyn Disk) -> Result<(), FsError> {
    disk.rename(&dir.join(RECEIVING), &dir.join(RECEIVED))?;
    disk.sync_dir(dir)
}

/// Takes up a table that was received, if there is one. The log begins anew behind it, unless it has what the table has.
/// May be interrupted anywhere, and be repeated.
///
/// # Errors
/// `Refused` where the table is older than the log; `Damaged`, `NoSpace`, `Io`.
pub(in crate::tsdb_server) fn take_up(
    dir: &Path,
    disk: &dyn Disk,
    store: [u8; 16],
    options: &table::Options,
) -> Result<(), FsError> {
    let (came, former) = (dir.join(RECEIVED), dir.join(FORMER));
    if disk.exists(&came)? {
        let table = RocksTable::open(&came, &table::Options { create: false, ..options.clone() })?;
        let Progress { index, term, .. } = Progress::read(&table)?;
        let members = replica::members_of(&table)?;
        drop(table);
        if term == Term::default() {
            return Err(FsError::Refused(format!(
                "the table in {} does not say which log it belongs to; remove it, and have it sent again",
                came.display()
            )));
        }
        Log::install(disk, &dir.join(open::LOG), store, index, term, &members)?;
        let table = dir.join(open::TABLE);
        if disk.exists(&table)? {
            RocksTable::destroy(&former)?;
            disk.rename(&table, &former)?;
        }
        disk.rename(&came, &table)?;
        disk.sync_dir(dir)?;
    }
    RocksTable::destroy(&former)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::table::Changes;
    use crate::series::table::Family;
    use crate::series::table::Rows;
    use crate::series::table::Table;
    use crate::store::disk::RealDisk;
    use crate::store::log;
    use crate::tsdb_log::entry::Members;
    use crate::tsdb_log::store::LogStore;
    use crate::types::LogIndex;
    use crate::types::NodeId;
    use crate::types::Stamp;

    const STORE: [u8; 16] = *b"the test's store";

    #[test]
    fn a_table_that_came_is_taken_up_wherever_that_was_interrupted() {
        for done in 0..4 {
            let home = tempfile::tempdir().unwrap();
            let (dir, disk) = (home.path(), RealDisk::shared());
            let founders = Members::alone(NodeId(1));
            disk.make_dir(&dir.join(open::LOG)).unwrap();
            Log::create(&*disk, &dir.join(open::LOG), STORE, &founders).unwrap();
            let options = table::Options { create: true, ..table::Options::default() };
            RocksTable::open(&dir.join(open::TABLE), &options).unwrap();
            // The other member's, as a checkpoint leaves it.
            let theirs = RocksTable::open(&dir.join("theirs"), &options).unwrap();
            let mut changes = Changes::default();
            let progress = Progress { index: LogIndex(40), stamp: Stamp(7), term: Term(3) };
            progress.put(&mut changes);
            let voters = [1, 2, 3].map(NodeId).to_vec();
            let members = Members { voters, ..Members::default() };
            changes.put(Family::Local, *b"members", members.encode());
            changes.put(Family::State, *b"x", b"theirs".to_vec());
            theirs.write(&changes).unwrap();
            theirs.checkpoint(&dir.join(RECEIVING)).unwrap();
            received(dir, &*disk).unwrap();
            if done > 0 {
                let log = dir.join(open::LOG);
                Log::install(&*disk, &log, STORE, LogIndex(40), Term(3), &members).unwrap();
            }
            if done > 1 {
                disk.rename(&dir.join(open::TABLE), &dir.join(FORMER)).unwrap();
            }
            if done > 2 {
                disk.rename(&dir.join(RECEIVED), &dir.join(open::TABLE)).unwrap();
            }
            take_up(dir, &*disk, STORE, &options).unwrap();
            let table = RocksTable::open(&dir.join(open::TABLE), &options).unwrap();
            assert_eq!(table.get(Family::State, b"x").unwrap().unwrap(), "theirs");
            assert_eq!(Progress::read(&table), Ok(progress));
            let options = log::Options { segment_bytes: 64 << 10, spares_max: 1 };
            let log = Log::open(disk.clone(), &dir.join(open::LOG), STORE, &options).unwrap();
            assert_eq!(log.reader().last(), LogIndex(40));
            assert_eq!(log.members(), members);
            assert!(!disk.exists(&dir.join(FORMER)).unwrap());
        }
    }
}
