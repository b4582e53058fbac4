//! What a table on disk may meet: a restart, a second opener, strangers, flipped bytes.

use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::series::table::Table;
use crate::store::table::MemoryTable;
use crate::store::table::Options;
use crate::store::table::RocksTable;
use crate::types::FsError;
use std::path::Path;
use std::path::PathBuf;

fn create(dir: &Path) -> RocksTable {
    RocksTable::open(dir, &Options { create: true, ..Options::default() }).unwrap()
}

fn reopen(dir: &Path) -> Result<RocksTable, FsError> {
    RocksTable::open(dir, &Options::default())
}

fn refusal(opened: Result<RocksTable, FsError>) -> String {
    match opened {
        Ok(_) => panic!("it opened"),
        Err(error) => error.to_string(),
    }
}

fn fill(table: &dyn Table, family: Family, rows: u32) {
    let mut changes = Changes::default();
    for row in 0..rows {
        changes.put(family, row.to_be_bytes(), vec![row as u8; 1000]);
    }
    table.write(&changes).unwrap();
}

#[test]
fn what_was_flushed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let table = create(dir.path());
    for family in Family::ALL {
        fill(&table, family, 10);
    }
    table.flush().unwrap();
    drop(table);
    let table = reopen(dir.path()).unwrap();
    for family in Family::ALL {
        assert_eq!(table.get(family, &9u32.to_be_bytes()).unwrap().unwrap(), vec![9; 1000]);
    }
    let sizes = table.approximate_bytes().unwrap();
    assert!(sizes.iter().all(|(_, bytes)| *bytes > 0), "{sizes:?}");
    assert!(sizes[Family::Payload as usize].1 >= 10_000, "{sizes:?}");
}

#[test]
fn a_memory_table_without_power_forgets_what_was_not_flushed() {
    let table = MemoryTable::default();
    fill(&table, Family::Current, 1);
    table.flush().unwrap();
    fill(&table, Family::Current, 2);
    table.lose_power();
    assert!(table.get(Family::Current, &0u32.to_be_bytes()).unwrap().is_some());
    assert!(table.get(Family::Current, &1u32.to_be_bytes()).unwrap().is_none());
}

#[test]
fn who_cannot_open_is_told_why() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(reopen(dir.path())).contains("holds no table"));
    let table = create(dir.path());
    assert!(refusal(reopen(dir.path())).contains("is open already"));
    let mut changes = Changes::default();
    changes.put(Family::Local, "format", vec![200]);
    table.write(&changes).unwrap();
    drop(table);
    assert!(refusal(reopen(dir.path())).contains("use a newer tsfs"));
}

#[test]
fn a_table_with_a_part_of_later_times_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path()));
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, dir.path()).unwrap();
    let mut later = rocksdb::DB::open_cf(&options, dir.path(), names).unwrap();
    later.create_cf("grants", &options).unwrap();
    drop(later);
    assert!(refusal(reopen(dir.path())).contains("'grants'"));
}

/// The largest file with this ending.
fn largest(dir: &Path, ending: &str) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|found| found == ending));
    files.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[test]
fn flipped_bytes_are_found_named_and_never_served() {
    for (family, ending) in [(Family::History, "sst"), (Family::Payload, "blob")] {
        let dir = tempfile::tempdir().unwrap();
        let table = create(dir.path());
        fill(&table, family, 100);
        table.flush().unwrap();
        let mut read = 0;
        assert_eq!(table.verify_checksums(&mut |_, bytes| read = bytes).unwrap(), []);
        assert!(read > 100_000);
        drop(table);

        let path = largest(dir.path(), ending);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[200] ^= 1;
        std::fs::write(&path, bytes).unwrap();

        let table = reopen(dir.path()).unwrap();
        let faults: Vec<_> = (0..100u32)
            .filter_map(|row| match table.get(family, &row.to_be_bytes()) {
                Ok(value) => {
                    assert_eq!(value.unwrap(), vec![row as u8; 1000]);
                    None
                }
                Err(fault) => Some(fault),
            })
            .collect();
        let name = match ending {
            "blob" => "*.blob",
            _ => path.file_stem().unwrap().to_str().unwrap(),
        };
        assert!(!faults.is_empty());
        for fault in faults {
            assert!(
                matches!(&fault, FsError::Damaged(what) if what.contains(name)),
                "{fault} does not name {name}"
            );
        }
        let damage = table.verify_checksums(&mut |_, _| {}).unwrap();
        assert!(damage.len() == 1 && damage[0].1.contains(name), "{damage:?}");
    }
}

#[test]
fn a_checkpoint_is_the_table_after_some_write_and_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let table = create(&dir.path().join("table"));
    let write = |n: u32| {
        let mut changes = Changes::default();
        for family in Family::ALL {
            changes.put(family, *b"row", vec![n as u8; 20_000]);
        }
        table.write(&changes).unwrap();
    };
    write(0);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| (1..200).for_each(write));
        for copy in 0..3 {
            table.checkpoint(&dir.path().join(format!("copy{copy}"))).unwrap();
        }
        writing.join().unwrap();
    });
    drop(table);
    for copy in 0..3 {
        let copy = reopen(&dir.path().join(format!("copy{copy}"))).unwrap();
        let rows = Family::ALL.map(|family| copy.get(family, b"row").unwrap().unwrap());
        assert!(rows.windows(2).all(|pair| pair[0] == pair[1]), "all families are of one write");
    }
    let again = reopen(&dir.path().join("table")).unwrap();
    assert_eq!(again.get(Family::State, b"row").unwrap().unwrap()[0], 199);
}
