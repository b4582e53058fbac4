//! The contract of `series::table::Table`, as functions over any table.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::series::table::Table;
use crate::store::table::MemoryTable;
use crate::store::table::Options;
use crate::store::table::RocksTable;
use bytes::Bytes;
use std::ops::ControlFlow;

#[test]
fn memory() {
    contract(&|| Box::new(MemoryTable::default()));
}

#[test]
fn rocksdb() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    contract(&|| {
        count.set(count.get() + 1);
        let options = Options { create: true, ..Options::default() };
        Box::new(RocksTable::open(&dir.path().join(count.get().to_string()), &options).unwrap())
    });
}

type New<'a> = &'a dyn Fn() -> Box<dyn Table>;

fn contract(new: New<'_>) {
    rows_come_back_and_go(&*new());
    families_are_apart(&*new());
    a_later_change_of_a_row_wins(&*new());
    scans_keep_to_their_range(&*new());
    a_scan_ends_when_told(&*new());
    a_visitor_may_read_the_table(&*new());
    a_snapshot_stays(&*new());
    large_rows_come_back_after_a_flush(&*new());
}

fn everything() -> KeyRange {
    KeyRange { start: Vec::new(), end: Vec::new() }
}

fn put(table: &dyn Table, family: Family, rows: &[(&str, &str)]) {
    let mut changes = Changes::default();
    for (key, value) in rows {
        changes.put(family, key.as_bytes(), value.as_bytes().to_vec());
    }
    table.write(&changes).unwrap();
}

fn keys(rows: &dyn Rows, family: Family, range: &KeyRange, direction: Direction) -> Vec<String> {
    let mut keys = Vec::new();
    rows.scan(family, range, direction, &mut |key, _| {
        keys.push(String::from_utf8(key.to_vec()).unwrap());
        ControlFlow::Continue(())
    })
    .unwrap();
    keys
}

fn value(rows: &dyn Rows, family: Family, key: &str) -> Option<Bytes> {
    rows.get(family, key.as_bytes()).unwrap()
}

fn rows_come_back_and_go(table: &dyn Table) {
    assert_eq!(value(table, Family::State, "a"), None);
    put(table, Family::State, &[("a", "1"), ("empty", "")]);
    assert_eq!(value(table, Family::State, "a").as_deref(), Some(&b"1"[..]));
    assert_eq!(value(table, Family::State, "empty").as_deref(), Some(&b""[..]));
    let mut changes = Changes::default();
    changes.delete(Family::State, "a");
    changes.delete(Family::State, "never there");
    table.write(&changes).unwrap();
    assert_eq!(value(table, Family::State, "a"), None);
}

fn families_are_apart(table: &dyn Table) {
    for family in Family::ALL {
        put(table, family, &[("key", &format!("{family:?}"))]);
    }
    for family in Family::ALL {
        assert_eq!(value(table, family, "key").unwrap(), format!("{family:?}"));
    }
}

fn a_later_change_of_a_row_wins(table: &dyn Table) {
    let mut changes = Changes::default();
    changes.put(Family::Current, "a", "1");
    changes.put(Family::Current, "b", "1");
    changes.delete(Family::Current, "a");
    changes.delete(Family::Current, "b");
    changes.put(Family::Current, "b", "2");
    table.write(&changes).unwrap();
    assert_eq!(value(table, Family::Current, "a"), None);
    assert_eq!(value(table, Family::Current, "b").unwrap(), "2");
}

fn scans_keep_to_their_range(table: &dyn Table) {
    put(table, Family::History, &[("b", ""), ("a", ""), ("c", ""), ("ab", "")]);
    let range =
        |start: &str, end: &str| KeyRange { start: start.to_owned().into(), end: end.into() };
    let cases = [
        (everything(), vec!["a", "ab", "b", "c"]),
        (range("ab", "c"), vec!["ab", "b"]),
        (range("aa", "aa"), vec![]),
        (range("c", "a"), vec![]),
        (range("b", ""), vec!["b", "c"]),
        (KeyRange::prefix(b"a"), vec!["a", "ab"]),
        (range("d", "e"), vec![]),
    ];
    for (range, mut expected) in cases {
        assert_eq!(keys(table, Family::History, &range, Direction::Forward), expected, "{range:?}");
        expected.reverse();
        assert_eq!(
            keys(table, Family::History, &range, Direction::Backward),
            expected,
            "{range:?}"
        );
    }
}

fn a_scan_ends_when_told(table: &dyn Table) {
    put(table, Family::Local, &[("x1", ""), ("x2", ""), ("x3", "")]);
    for (direction, first) in [(Direction::Forward, "x1"), (Direction::Backward, "x3")] {
        let mut seen = Vec::new();
        table
            .scan(Family::Local, &KeyRange::prefix(b"x"), direction, &mut |key, _| {
                seen.push(key.to_vec());
                ControlFlow::Break(())
            })
            .unwrap();
        assert_eq!(seen, [first.as_bytes()]);
    }
}

fn a_visitor_may_read_the_table(table: &dyn Table) {
    put(table, Family::State, &[("a", "b"), ("b", "c")]);
    let mut found = Vec::new();
    table
        .scan(Family::State, &everything(), Direction::Forward, &mut |_, value| {
            found.push(table.get(Family::State, value).unwrap());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(found, [Some(Bytes::from("c")), None]);
}

fn a_snapshot_stays(table: &dyn Table) {
    put(table, Family::Current, &[("a", "old"), ("b", "old")]);
    let snapshot = table.snapshot();
    let mut changes = Changes::default();
    changes.put(Family::Current, "a", "new");
    changes.delete(Family::Current, "b");
    changes.put(Family::Current, "c", "new");
    table.write(&changes).unwrap();
    assert_eq!(value(&*snapshot, Family::Current, "a").unwrap(), "old");
    assert_eq!(keys(&*snapshot, Family::Current, &everything(), Direction::Backward), ["b", "a"]);
    assert_eq!(keys(table, Family::Current, &everything(), Direction::Forward), ["a", "c"]);
}

fn large_rows_come_back_after_a_flush(table: &dyn Table) {
    let frame = Bytes::from(vec![7; 64 << 10]);
    for family in Family::ALL {
        let mut changes = Changes::default();
        changes.put(family, "large", frame.clone());
        table.write(&changes).unwrap();
    }
    table.flush().unwrap();
    for family in Family::ALL {
        assert_eq!(value(table, family, "large").as_ref(), Some(&frame));
    }
}
