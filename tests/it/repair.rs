//! Stores are damaged in ways that can be repaired, and in one that cannot: what fsck says, what it ends with, and that what
//! was there is there again.
//!
//! Rules between rows are broken one by one in `model::faults`. Not here: that damage is noticed (`damage`).

use crate::embedded::Contents;
use crate::embedded::Open;
use crate::embedded::options;
use crate::support::Random;
use crate::support::run;
use crate::support::scratch;
use crate::support::tsfs;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tsfs::meta::key;
use tsfs::series::Direction;
use tsfs::series::table::Changes;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::series::table::Table;
use tsfs::store::table::RocksTable;
use tsfs::types::AsOf;
use tsfs::types::FsError;

struct Store {
    _scratch: tempfile::TempDir,
    dir: PathBuf,
    contents: Contents,
}

impl Store {
    /// A store with contents in rows and in blocks, closed; or as a process leaves it that died, with a log to be replayed.
    fn new(closed: bool) -> Store {
        let scratch = scratch();
        let dir = scratch.path().join("store");
        let open = Open::new(&dir, true).unwrap();
        let mut random = Random::new(3);
        let mut contents = Contents::new();
        for n in 0..50 {
            contents.insert(format!("small{n}"), format!("the contents of {n}").into_bytes());
        }
        contents.insert("payload".to_owned(), random.noise(30_000));
        contents.insert("blocks".to_owned(), random.noise(700_000));
        for (name, bytes) in &contents {
            // Groups of the log, each of its own.
            open.write(&Contents::from([(name.clone(), bytes.clone())]));
        }
        let dir = if closed {
            open.close().unwrap();
            dir
        } else {
            let copy = scratch.path().join("killed");
            run(Command::new("cp").args(["-a", "--sparse=always"]).arg(&dir).arg(&copy));
            open.close().unwrap();
            copy
        };
        Store { _scratch: scratch, dir, contents }
    }

    /// What fsck ends with, and what it says.
    fn fsck(&self, repair: bool) -> (i32, String) {
        let mut command = tsfs();
        command.arg("fsck").arg(&self.dir);
        command.args(["--set", "store.reserve=16MiB"]);
        if repair {
            command.arg("--repair");
        }
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
    }

    /// It says that it is damaged and can be repaired, repairs it, and says that it is clean; what the repair said.
    #[track_caller]
    fn repaired(&self) -> String {
        let (code, said) = self.fsck(false);
        assert_eq!(code, 4, "{said}");
        assert!(said.contains("(--repair may help)"), "{said}");
        let (code, told) = self.fsck(true);
        assert_eq!(code, 1, "{told}");
        assert!(told.contains("(repaired)"), "{told}");
        let (code, said) = self.fsck(false);
        assert_eq!(code, 0, "{said}");
        told
    }

    fn change(&self, change: impl FnOnce(&RocksTable) -> Changes) {
        let table = RocksTable::open(&self.dir.join("table"), &options(false).table).unwrap();
        table.write(&change(&table)).unwrap();
        table.flush().unwrap();
    }

    /// How many files have their contents. None has others.
    #[track_caller]
    fn readable(&self) -> usize {
        let open = Open::new(&self.dir, false).unwrap();
        let whole =
            |(name, bytes): &(&String, &Vec<u8>)| match open.read(name, AsOf::Now, bytes.len()) {
                Ok(read) => {
                    assert!(read == *bytes, "{name} has other bytes");
                    true
                }
                Err(FsError::NotFound | FsError::Damaged(_)) => false,
                Err(error) => panic!("{name}: {error}"),
            };
        let readable = self.contents.iter().filter(whole).count();
        open.close().unwrap();
        readable
    }

    /// The log's segment that was written last.
    fn segment(&self) -> (PathBuf, Vec<u8>, usize) {
        let files = fs::read_dir(self.dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|end| end == "log"));
        logs.map(|path| {
            let bytes = fs::read(&path).unwrap();
            let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            (path, bytes, end)
        })
        .max_by_key(|(_, _, end)| *end)
        .unwrap()
    }
}

/// All rows of a family whose keys begin so.
fn rows(table: &RocksTable, family: Family, prefix: &[u8]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let range = tsfs::series::KeyRange::prefix(prefix);
    table
        .scan(family, &range, Direction::Forward, &mut |key, _| {
            keys.push(key.to_vec());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    keys
}

#[test]
fn a_log_that_the_table_has_costs_nothing() {
    let store = Store::new(true);
    let (path, mut bytes, end) = store.segment();
    bytes[end / 2] ^= 0x10;
    fs::write(path, bytes).unwrap();
    let told = store.repaired();
    assert!(told.contains("nothing is lost"), "{told}");
    assert_eq!(store.readable(), store.contents.len());
}

#[test]
fn a_log_that_is_needed_loses_what_follows_the_damage() {
    let store = Store::new(false);
    let (path, mut bytes, end) = store.segment();
    bytes[end / 2] ^= 0x10;
    fs::write(path, bytes).unwrap();
    let told = store.repaired();
    assert!(told.contains("is lost, everything before is there"), "{told}");
    let readable = store.readable();
    assert!((1..store.contents.len()).contains(&readable), "{readable}");
    let kept = fs::read_dir(store.dir.join("log")).unwrap();
    let kept = kept.filter(|entry| {
        entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "damaged")
    });
    assert_ne!(kept.count(), 0, "the damaged files are set aside, not removed");
}

#[test]
fn a_log_that_is_gone_leaves_what_the_table_has() {
    let store = Store::new(true);
    for entry in fs::read_dir(store.dir.join("log")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let told = store.repaired();
    assert!(told.contains("nothing of it can be read"), "{told}");
    assert_eq!(store.readable(), store.contents.len());
}

#[test]
fn the_index_of_blocks_is_made_anew() {
    let damages: [fn(&RocksTable, &mut Changes); 4] = [
        // Where they lie is not known any more.
        |table, changes| {
            for key in rows(table, Family::Local, b"B") {
                changes.delete(Family::Local, key);
            }
        },
        // All are said to lie where one of them does.
        |table, changes| {
            let keys = rows(table, Family::Local, b"B");
            let first = table.get(Family::Local, &keys[0]).unwrap().unwrap();
            for key in keys {
                changes.put(Family::Local, key, first.clone());
            }
        },
        // Segments that nothing is said about.
        |table, changes| {
            for key in rows(table, Family::Local, b"G") {
                changes.delete(Family::Local, key);
            }
        },
        // Rows that cannot be read.
        |table, changes| {
            for key in rows(table, Family::Local, b"B") {
                changes.put(Family::Local, key, vec![9]);
            }
        },
    ];
    for (n, damage) in damages.iter().enumerate() {
        let store = Store::new(true);
        store.change(|table| {
            assert!(rows(table, Family::Local, b"B").len() > 1);
            let mut changes = Changes::default();
            damage(table, &mut changes);
            changes
        });
        let told = store.repaired();
        assert!(told.contains("block"), "{n}: {told}");
        assert_eq!(store.readable(), store.contents.len(), "{n}");
    }
}

#[test]
fn a_lost_name_is_found_again() {
    let store = Store::new(true);
    store.change(|table| {
        let entries = rows(table, Family::Current, &key::all_dirents().start);
        let mut changes = Changes::default();
        changes.delete(Family::Current, entries[0].clone());
        changes
    });
    let told = store.repaired();
    assert!(told.contains("0 entries name it, and it says 1"), "{told}");
    assert_eq!(store.readable(), store.contents.len() - 1);
    let open = Open::new(&store.dir, false).unwrap();
    let found = open.client.lookup(tsfs::types::Ino::ROOT, b"lost+found", AsOf::Now).unwrap();
    assert_eq!(found.size, 1);
    open.close().unwrap();
}

#[test]
fn contents_that_are_gone_are_left_as_they_are() {
    let store = Store::new(true);
    let blocks = fs::read_dir(store.dir.join("blocks")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&blocks).unwrap();
    bytes[10_000] ^= 1;
    fs::write(&blocks, bytes).unwrap();
    for repair in [false, true] {
        let (code, said) = store.fsck(repair);
        assert_eq!(code, 4, "{said}");
        assert!(said.contains("block") && !said.contains("(--repair may help)"), "{said}");
    }
    assert_eq!(store.readable(), store.contents.len() - 1, "and never served");
}
