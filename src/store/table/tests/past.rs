//! Random batches against the model: every stamp read back, by key, by range both ways, and by version.

use super::model::Key;
use super::model::Model;
use super::model::groups;
use crate::series::Batch;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Origin;
use crate::series::Past;
use crate::series::Present;
use crate::series::Read;
use crate::series::Readable;
use crate::series::Series;
use crate::series::changes::Record;
use crate::series::check::Fault;
use crate::series::check::check;
use crate::series::table::Family;
use crate::series::table::Table;
use crate::store::table::MemoryTable;
use crate::store::table::Options;
use crate::store::table::RocksTable;
use crate::types::AsOf;
use crate::types::BatchSeq;
use crate::types::SessionId;
use crate::types::Stamp;
use bytes::Bytes;
use proptest::prelude::Just;
use proptest::prelude::Strategy;
use proptest::prelude::any;
use proptest::prelude::prop_oneof;
use proptest::test_runner::Config;
use proptest::test_runner::TestRunner;
use std::ops::ControlFlow;

#[derive(Clone, Debug)]
pub(super) enum Change {
    Put(u8, Vec<u8>, bool),
    /// A few bytes of the present value become others: what deltas are for.
    Edit(u8, u8, bool),
    Remove(u8, bool),
    Cut,
    /// The batch ends; the next one comes so many nanoseconds later.
    Batch(u32),
    /// Forget the version that the key showed at the n-th stamp.
    Forget(u8, u16),
}

const KEYS: u8 = 12;

/// Two groups, and keys of none around them. Names of a group are prefix-free by their end.
pub(super) fn key(n: u8) -> Key {
    match n % KEYS {
        0 => b"A first\0".to_vec(),
        n @ 1..=5 => [b"D1", &b"nnnnn"[..n as usize], b"\0"].concat(),
        n @ 6..=8 => [b"D2", &[n][..], b"\0"].concat(),
        n => vec![b'E', n, 0xff, 0],
    }
}

fn change() -> impl Strategy<Value = Change> {
    let long = |(step, len): (u8, u32)| (0..len).map(|n| (n * n / 7) as u8 ^ step).collect();
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..60),
        (0..4u8, 250..400u32).prop_map(long),
    ];
    // Some keys change often enough that their deltas must be cut by images.
    let which = || prop_oneof![1 => Just(0), 2 => Just(6), 1 => any::<u8>()];
    let often = || proptest::bool::weighted(0.8);
    prop_oneof![
        2 => (which(), value, any::<bool>()).prop_map(|(k, v, keep)| Change::Put(k, v, keep)),
        24 => (which(), any::<u8>(), often()).prop_map(|(k, v, keep)| Change::Edit(k, v, keep)),
        1 => (which(), often()).prop_map(|(k, keep)| Change::Remove(k, keep)),
        8 => Just(Change::Cut),
        4 => prop_oneof![Just(1), 1..100u32, any::<u32>()].prop_map(Change::Batch),
        2 => (which(), any::<u16>()).prop_map(|(k, n)| Change::Forget(k, n)),
    ]
}

fn past(keep: bool) -> Past {
    if keep { Past::Keep } else { Past::Forget }
}

/// Applies the changes to the table and to a model, which it returns.
pub(super) fn play(table: &dyn Table, changes: &[Change]) -> Model {
    let mut model = Model::default();
    let mut stamp = Stamp(1 << 60);
    for part in changes.split_inclusive(|change| matches!(change, Change::Batch(_))) {
        let origin = Origin { stamp, session: SessionId(1), seq: BatchSeq(1) };
        let mut batch = Batch::new(table, groups(), origin);
        let before = model.states.keys().copied().collect::<Vec<_>>();
        model.step(stamp);
        for change in part {
            match change {
                Change::Put(n, value, keep) => {
                    batch.put(&key(*n), value.clone().into(), past(*keep));
                    model.change(&key(*n), Some(value), past(*keep));
                }
                Change::Edit(n, byte, keep) => {
                    let key = key(*n);
                    let mut value = model.now().get(&key).cloned().unwrap_or(vec![7; 300]);
                    let at = usize::from(*byte) % value.len().max(1);
                    value.splice(at..(at + 2).min(value.len()), [*byte, 1]);
                    assert_eq!(
                        batch.get(&key).unwrap().as_deref(),
                        model.now().get(&key).map(Vec::as_slice)
                    );
                    batch.put(&key, value.clone().into(), past(*keep));
                    model.change(&key, Some(&value), past(*keep));
                }
                Change::Remove(n, keep) => {
                    batch.remove(&key(*n), past(*keep));
                    model.change(&key(*n), None, past(*keep));
                }
                Change::Cut => {
                    batch.cut();
                    model.step(batch.stamp().unwrap());
                }
                Change::Batch(_) => {}
                Change::Forget(n, at) if !before.is_empty() => {
                    let at = before[usize::from(*at) % before.len()];
                    forget(table, &mut batch, &mut model, &key(*n), at);
                }
                Change::Forget(..) => {}
            }
        }
        assert_eq!(
            scanned(&mut batch, Direction::Forward),
            model.now().into_iter().collect::<Vec<_>>()
        );
        let finished = batch.finish().unwrap();
        let gap = match part.last() {
            Some(Change::Batch(gap)) => u64::from(*gap).max(1),
            _ => 1,
        };
        stamp = Stamp(finished.last.0 + gap);
        table.write(&finished.changes).unwrap();
    }
    model
}

fn scanned(batch: &mut Batch<'_>, direction: Direction) -> Vec<(Key, Vec<u8>)> {
    let mut rows = Vec::new();
    batch
        .scan(&KeyRange::prefix(b""), direction, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

/// Forgets the past version that holds at a stamp, if there is one, in the batch and in the model.
fn forget(table: &dyn Table, batch: &mut Batch<'_>, model: &mut Model, key: &Key, at: Stamp) {
    let mut found = None;
    let series = Series::new(table, groups(), Readable::default());
    series
        .versions(key, Stamp::ZERO, at, &mut |version| {
            found = Some(version);
            ControlFlow::Break(())
        })
        .unwrap();
    let Some(version) = found.filter(|version| version.to < Stamp::MAX) else { return };
    let mut told = None;
    let known = batch
        .replica()
        .unwrap()
        .forget(key, version.from, &mut |_, value, _| told = Some(value.to_vec()))
        .unwrap();
    // A second time in the same batch there is nothing left.
    assert_eq!(known.then_some(&version.value[..]), told.as_deref());
    model.show(key, version.from, version.to, None);
}

pub(super) fn compare(table: &dyn Table, model: &Model) {
    let snapshot = table.snapshot();
    let series = Series::new(&*snapshot, groups(), Readable::default());
    let first = *model.states.first_key_value().unwrap().0;
    assert_eq!(series.get(&key(0), AsOf::At(Stamp(first.0 - 1))).unwrap(), None);
    let ranges = [
        KeyRange::prefix(b""),
        KeyRange::prefix(b"D1"),
        KeyRange::prefix(b"D2"),
        KeyRange::prefix(b"E"),
        KeyRange { start: key(2), end: key(4) },
        KeyRange { start: [key(1), vec![0]].concat(), end: KeyRange::prefix(b"D1").end },
        KeyRange { start: [key(9), vec![0]].concat(), end: [key(10), vec![0]].concat() },
        KeyRange { start: b"D1nn".to_vec(), end: b"E".to_vec() },
    ];
    for (stamp, state) in &model.states {
        for n in 0..KEYS {
            let got = series.get(&key(n), AsOf::At(*stamp)).unwrap();
            assert_eq!(got.as_deref(), state.get(&key(n)).map(Vec::as_slice), "{n} at {stamp}");
        }
        for range in &ranges {
            let mut expected: Vec<_> =
                state.iter().filter(|(key, _)| range.contains(key)).collect();
            for direction in [Direction::Forward, Direction::Backward] {
                let mut rows = Vec::new();
                series
                    .scan(range, AsOf::At(*stamp), direction, &mut |key, value| {
                        rows.push((key.to_vec(), value.to_vec()));
                        ControlFlow::Continue(())
                    })
                    .unwrap();
                let rows: Vec<_> = rows.iter().map(|(key, value)| (key, value)).collect();
                assert_eq!(rows, expected, "{range:?} {direction:?} at {stamp}");
                expected.reverse();
            }
        }
    }
    for n in 0..KEYS {
        assert_eq!(runs(&series, &key(n)), model.runs(&key(n)), "versions of {n}");
    }
}

/// What a key showed, from its versions, with equal neighbours as one.
fn runs(series: &Series<'_>, key: &[u8]) -> Vec<(Stamp, Option<Vec<u8>>)> {
    let mut versions = Vec::new();
    series
        .versions(key, Stamp::ZERO, Stamp::MAX, &mut |version| {
            versions.push(version);
            ControlFlow::Continue(())
        })
        .unwrap();
    let mut runs: Vec<(Stamp, Option<Vec<u8>>)> = vec![(Stamp::ZERO, None)];
    let mut push = |stamp, value: Option<Bytes>| {
        let value = value.map(|value| value.to_vec());
        let last = runs.last_mut().unwrap();
        if last.0 == stamp {
            last.1 = value;
        } else if last.1 != value {
            runs.push((stamp, value));
        }
    };
    for version in versions.into_iter().rev() {
        push(version.from, Some(version.value));
        if version.to < Stamp::MAX {
            push(version.to, None);
        }
    }
    // A gap that was closed at once leaves two equal runs.
    runs.dedup_by(|later, earlier| later.1 == earlier.1);
    runs
}

fn changes_parse(table: &dyn Table, model: &Model) {
    table
        .scan(Family::Changes, &KeyRange::prefix(b""), Direction::Forward, &mut |key, row| {
            let record = Record::decode(key, row).unwrap();
            assert_eq!(record.encode(), row);
            for event in &record.events {
                assert!(model.states.contains_key(&event.stamp), "{event:?}");
            }
            ControlFlow::Continue(())
        })
        .unwrap();
}

/// Every fault that the check of the rules finds.
pub(super) fn faults(table: &dyn Table) -> Vec<Fault> {
    let mut faults = Vec::new();
    check(table, groups(), &mut |_, _| {}, &mut |fault| faults.push(fault)).unwrap();
    faults
}

fn against_the_model(cases: u32, length: usize, new: &dyn Fn() -> Box<dyn Table>) {
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let changes = proptest::collection::vec(change(), 1..length);
    let outcome = runner.run(&changes, |changes| {
        let table = new();
        let model = play(&*table, &changes);
        compare(&*table, &model);
        table.flush().unwrap();
        compare(&*table, &model);
        changes_parse(&*table, &model);
        assert_eq!(faults(&*table), []);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn every_stamp_reads_as_the_model_in_memory() {
    against_the_model(60, 200, &|| Box::new(MemoryTable::default()));
}

#[test]
fn every_stamp_reads_as_the_model_on_rocksdb() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    against_the_model(4, 500, &|| {
        count.set(count.get() + 1);
        let options = Options { create: true, ..Options::default() };
        Box::new(RocksTable::open(&dir.path().join(count.get().to_string()), &options).unwrap())
    });
}
