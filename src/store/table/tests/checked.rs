//! Each rule of the versioned map, broken on purpose: its check must say so.

use super::past::Change;
use super::past::compare;
use super::past::faults;
use super::past::key;
use super::past::play;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::check::Fault;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::series::table::Table;
use crate::store::table::MemoryTable;
use bytes::Bytes;
use std::ops::ControlFlow;

/// A table in which key 6 was changed twice and key 7 is gone.
fn small() -> MemoryTable {
    let table = MemoryTable::default();
    let put = |n| Change::Put(n, vec![3; 300], true);
    let edit = |byte| Change::Edit(6, byte, true);
    let next = Change::Batch(10);
    let gone = Change::Remove(7, true);
    play(&table, &[put(6), put(7), next.clone(), edit(1), next.clone(), edit(9), next, gone]);
    assert_eq!(faults(&table), []);
    table
}

/// The n-th row of history whose key begins with `first`: `D` for versions, 0 for the index.
fn past_row(table: &MemoryTable, first: u8, n: usize) -> (Vec<u8>, Bytes) {
    let mut rows = Vec::new();
    table
        .scan(Family::History, &KeyRange::prefix(&[first]), Direction::Forward, &mut |key, row| {
            rows.push((key.to_vec(), Bytes::copy_from_slice(row)));
            ControlFlow::Continue(())
        })
        .unwrap();
    rows.swap_remove(n)
}

/// What the check says of the small table once `damage` is done to it.
fn told(damage: impl FnOnce(&MemoryTable, &mut Changes)) -> Vec<String> {
    let table = small();
    let mut changes = Changes::default();
    damage(&table, &mut changes);
    table.write(&changes).unwrap();
    faults(&table).iter().map(Fault::to_string).collect()
}

#[track_caller]
fn assert_told(told: &[String], expected: &str) {
    assert!(told.iter().any(|fault| fault.contains(expected)), "{told:#?}");
}

#[test]
fn a_chain_of_deltas_ends_in_time() {
    let edits = (0..60).flat_map(|n| [Change::Edit(6, 4 * n, true), Change::Batch(10)]);
    let table = MemoryTable::default();
    let model = play(&table, &edits.collect::<Vec<_>>());
    compare(&table, &model);
    assert_eq!(faults(&table), []);
}

#[test]
fn a_missing_base() {
    let told = told(|_, changes| changes.delete(Family::Current, key(6)));
    assert_told(&told, "it is told from a next newer version, which is missing");
}

#[test]
fn a_base_that_was_changed_under_its_delta() {
    let told = told(|table, changes| {
        let row = table.get(Family::Current, &key(6)).unwrap().unwrap();
        changes.put(Family::Current, key(6), row.slice(..10));
    });
    assert_told(&told, "its delta does not fit the next newer version");
}

#[test]
fn a_present_row_that_forgot_its_run() {
    let told = told(|table, changes| {
        let mut row = table.get(Family::Current, &key(6)).unwrap().unwrap().to_vec();
        row[0] &= 0xe0;
        changes.put(Family::Current, key(6), row);
    });
    assert_told(&told, "the present row does not know that this delta rests on it");
}

#[test]
fn overlapping_and_empty_intervals() {
    let to = |length: u8| {
        told(move |table, changes| {
            let (key, row) = past_row(table, b'D', 1);
            changes.put(Family::History, key, [&row[..1], &[length], &row[2..]].concat());
        })
    };
    assert_told(&to(11), "after the next one began");
    assert_told(&to(0), "which is no time at all");
}

#[test]
fn an_index_that_lists_too_little_or_too_much() {
    let missing = told(|table, changes| changes.delete(Family::History, past_row(table, 0, 0).0));
    assert_told(&missing, "the index does not list it as it is");
    let extra = told(|table, changes| {
        let (key, row) = past_row(table, 0, 0);
        changes.put(Family::History, [&key[..], b"x"].concat(), row);
    });
    assert_eq!(extra.len(), 1);
    assert_told(&extra, "the index lists a version that is not there");
}

#[test]
fn rows_that_cannot_be_read() {
    for family in [Family::Current, Family::History, Family::Changes] {
        let told = told(|_, changes| changes.put(family, "Dx345678", "x"));
        assert_told(&told, "of another format");
        assert_told(&told, &format!("{family:?} row Dx345678"));
    }
}
