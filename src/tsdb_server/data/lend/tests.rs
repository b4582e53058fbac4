//! Checkpoints of a table on a real disk: what they hold, and when they go.

use super::*;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::series::table::Table;
use crate::store::disk::RealDisk;
use crate::store::table::Options;
use crate::tsdb_server::data::stream::Receiver;
use crate::tsdb_server::data::stream::Source;
use crate::tsdb_server::data::tests::Hands;

const HOLD: Duration = Duration::from_secs(60);
const TO: NodeId = NodeId(2);

/// What a connection does.
struct Borrowed<'a>(&'a Lender, LentId);

impl Source for Borrowed<'_> {
    fn read(&self, chunk: Chunk) -> Result<Bytes, FsError> {
        self.0.read(self.1, chunk)
    }
}

fn put(table: &RocksTable, key: &str, family: Family) {
    let mut changes = Changes::default();
    changes.put(family, key, vec![7; 3000]);
    table.write(&changes).unwrap();
}

fn table(dir: &Path) -> RocksTable {
    RocksTable::open(dir, &Options { create: true, ..Options::default() }).unwrap()
}

fn lender(dir: &Path, clock: &Arc<Hands>) -> Lender {
    Lender::open(RealDisk::shared(), dir, clock.clone(), HOLD).unwrap()
}

#[test]
fn a_checkpoint_is_the_table_as_it_was_and_can_be_opened_elsewhere() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = Arc::new(Hands::default());
    let table = table(&here.path().join("table"));
    for family in Family::ALL {
        put(&table, "before", family);
    }
    let lender = lender(here.path(), &clock);
    let (id, plan) = lender.lend(&table, LogIndex(3), TO).unwrap();
    for family in Family::ALL {
        put(&table, "after", family);
    }
    table.flush().unwrap();
    let mut receiver =
        Receiver::open(RealDisk::shared(), &there.path().join("table"), (*plan).clone()).unwrap();
    receiver.run(&Borrowed(&lender, id), &mut |_, _| ()).unwrap();
    receiver.finish().unwrap();
    lender.done(id);
    assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 1, "the checkpoint is gone");
    let copy = RocksTable::open(&there.path().join("table"), &Options::default()).unwrap();
    for family in Family::ALL {
        assert!(copy.get(family, b"before").unwrap().is_some_and(|row| row.len() == 3000));
        assert_eq!(copy.get(family, b"after").unwrap(), None);
    }
}

#[test]
fn it_is_kept_while_it_is_read_and_goes_when_nobody_does() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hands::default());
    let table = table(&dir.path().join("table"));
    let first = lender(dir.path(), &clock);
    let (id, plan) = first.lend(&table, LogIndex(3), TO).unwrap();
    let (other, _) = first.lend(&table, LogIndex(5), NodeId(3)).unwrap();
    let error = first.lend(&table, LogIndex(6), TO).unwrap_err();
    assert!(error.to_string().contains("ask again later"), "{error}");
    assert_eq!(first.needs_log_behind(&[]), Some(LogIndex(3)));
    // RocksDB's files may be empty.
    let file = plan.files.iter().position(|file| file.bytes > 0).unwrap() as u32;
    let chunk = Chunk { file, offset: 0, bytes: 1 };
    for _ in 0..5 {
        clock.advance(HOLD / 2);
        first.tend();
        assert!(first.read(id, chunk).is_ok());
    }
    assert_eq!(first.read(other, chunk), Err(FsError::Stale), "nobody has read it");
    let beyond = Chunk { offset: u64::MAX, ..chunk };
    assert!(matches!(first.read(id, beyond), Err(FsError::Invalid(_))));
    assert!(matches!(first.read(id, Chunk { file: 99, ..chunk }), Err(FsError::Invalid(_))));
    clock.advance(HOLD * 2);
    assert!(first.lend(&table, LogIndex(9), TO).is_ok());
    assert_eq!(first.needs_log_behind(&[]), Some(LogIndex(9)));
    // A process that dies leaves it; the next one removes it.
    std::mem::forget(first);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    let second = lender(dir.path(), &clock);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!((second.needs_log_behind(&[]), second.read(id, chunk)), (None, Err(FsError::Stale)));
}

#[test]
fn the_log_behind_a_table_is_kept_until_its_borrower_has_that_too() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hands::default());
    let table = table(&dir.path().join("table"));
    let lender = lender(dir.path(), &clock);
    let follower = |node, matched| Follower {
        node: NodeId(node),
        voter: true,
        matched: LogIndex(matched),
        active: true,
    };
    let (id, _) = lender.lend(&table, LogIndex(30), TO).unwrap();
    lender.done(id);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the checkpoint is gone");
    // It takes the table over: so far it is where it was, and longer than the checkpoint would be kept.
    clock.advance(HOLD * 5);
    lender.tend();
    assert_eq!(lender.needs_log_behind(&[]), Some(LogIndex(30)));
    assert_eq!(lender.needs_log_behind(&[follower(3, 99), follower(2, 30)]), Some(LogIndex(30)));
    // Two at a time, and who begins anew needs nothing of the first time.
    let (other, _) = lender.lend(&table, LogIndex(40), NodeId(3)).unwrap();
    let (again, _) = lender.lend(&table, LogIndex(50), TO).unwrap();
    assert_eq!(lender.needs_log_behind(&[]), Some(LogIndex(40)));
    lender.done(other);
    lender.done(again);
    assert_eq!(lender.needs_log_behind(&[follower(3, 41)]), Some(LogIndex(50)));
    assert_eq!(lender.needs_log_behind(&[follower(2, 51)]), None);
    // Whoever never comes is not waited for without end.
    let (id, _) = lender.lend(&table, LogIndex(60), TO).unwrap();
    lender.done(id);
    clock.advance(TAKE_OVER);
    assert_eq!(lender.needs_log_behind(&[]), None);
}
