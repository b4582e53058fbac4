//! A block store on a simulated disk and a table in memory: what it does, and what it does after faults. `crash`
//! cuts the power everywhere.

mod adopt;
mod crash;
mod cuts;
mod elsewhere;
mod homes;
mod listed;
mod node;
mod rebuild;
mod surplus;

use super::*;
use crate::series::table::Changes;
use crate::store::disk::Access;
use crate::store::disk::SimulatedDisk;
use crate::store::table::MemoryTable;
use crate::types::SessionId;
use std::ops::ControlFlow;
use std::path::Path;

const STORE: [u8; 16] = *b"sixteen bytes id";

fn options() -> Options {
    // Little more than the largest record, so that tests go through many segments.
    let segment_bytes = u64::from(segment::RECORD_UNITS_MAX + 40) * UNIT_BYTES;
    Options { segment_bytes, allocate_bytes: 128 << 10, open_files_max: 8, rows_per_step: 7 }
}

struct World {
    disk: SimulatedDisk,
    table: Arc<MemoryTable>,
}

impl World {
    fn new() -> World {
        World { disk: SimulatedDisk::new(64 << 20), table: Arc::new(MemoryTable::default()) }
    }

    fn open(&self) -> BlockStore {
        let (store, faults) = self.open_with_faults();
        assert_eq!(faults, []);
        store
    }

    fn open_with_faults(&self) -> (BlockStore, Vec<FsError>) {
        let table: Arc<dyn Table> = self.table.clone();
        let dir = Path::new("/blocks");
        BlockStore::open(self.disk.shared(), dir, STORE, table, options(), Access::ReadWrite)
            .unwrap()
    }

    fn write(&self, store: &BlockStore, run: impl FnOnce(&mut Changes)) {
        let mut changes = Changes::default();
        run(&mut changes);
        self.table.write(&changes).unwrap();
        store.written();
    }

    fn flush(&self, store: &BlockStore) {
        let retired = store.retired();
        self.table.flush().unwrap();
        store.remove(retired).unwrap();
    }

    /// Puts, syncs and names blocks of about 40 KiB.
    fn name(&self, store: &BlockStore, numbers: std::ops::Range<u64>) {
        let blocks: Vec<_> = numbers.map(block).collect();
        for block in &blocks {
            store.put(*block, &packed(*block)).unwrap();
        }
        store.sync().unwrap();
        self.write(store, |changes| store.named(&blocks, changes).unwrap());
    }

    fn free(&self, store: &BlockStore, numbers: impl Iterator<Item = u64>) {
        let blocks: Vec<_> = numbers.map(block).collect();
        self.write(store, |changes| store.freed(&blocks, changes).unwrap());
    }

    /// Reclaims until there is nothing to be had.
    fn reclaim(&self, store: &BlockStore) {
        loop {
            while store.upkeep_due() {
                self.write(store, |changes| store.upkeep(changes).unwrap());
            }
            let Some(plan) = store.plan_reclaim() else { break };
            store.reclaim(&plan, &mut |_| ControlFlow::Continue(())).unwrap();
        }
        self.flush(store);
        self.write(store, |changes| store.upkeep(changes).unwrap());
    }
}

fn block(number: u64) -> BlockId {
    BlockId { session: SessionId(number >> 32), number }
}

/// A frame that only this block has, of 1 to 60 KiB.
fn packed(block: BlockId) -> Frame {
    let mut state = block.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let len = 1000 + state % 60_000;
    let mut raw = Vec::new();
    while raw.len() < len as usize {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        raw.extend_from_slice(&state.to_le_bytes());
    }
    Frame::pack(&raw.into(), 1)
}

/// The same in one piece.
fn frame(block: BlockId) -> Bytes {
    packed(block).to_bytes()
}

#[track_caller]
fn check(store: &BlockStore, blocks: impl Iterator<Item = u64>) {
    for block in blocks.map(block) {
        assert!(store.get(block).unwrap() == frame(block), "block {block}");
    }
}

/// Everything verifies.
#[track_caller]
fn scrub(store: &BlockStore) {
    for (id, _) in store.segments() {
        store.scrub(id, &mut |fault| panic!("{}", fault.what)).unwrap();
    }
}

#[test]
fn blocks_come_back_in_every_state_and_after_every_way_to_reopen() {
    let world = World::new();
    let store = world.open();
    store.put(block(1), &packed(block(1))).unwrap();
    check(&store, 1..2);
    store.put(block(1), &packed(block(2))).unwrap();
    check(&store, 1..2);
    world.name(&store, 0..60);
    check(&store, 0..60);
    world.flush(&store);
    world.name(&store, 60..100);
    store.close().unwrap();
    drop(store);
    // The table loses what was not flushed; the log would name it again.
    world.table.lose_power();
    let store = world.open();
    check(&store, 0..100);
    assert!(store.segments().len() > 2);
    let named = store
        .table
        .get(crate::series::table::Family::Local, &index::block_key(index::Kind::Named, block(70)));
    assert_eq!(named.unwrap(), None, "pending again");
    world.write(&store, |changes| {
        store.named(&(60..100).map(block).collect::<Vec<_>>(), changes).unwrap();
    });
    check(&store, 0..100);
    scrub(&store);
    assert_eq!(store.get(block(1000)), Err(FsError::Stale));
}

#[test]
fn a_block_is_not_named_before_it_is_synced() {
    let world = World::new();
    let store = world.open();
    store.put(block(1), &packed(block(1))).unwrap();
    let mut changes = Changes::default();
    assert!(matches!(store.named(&[block(1)], &mut changes), Err(FsError::Damaged(_))));
    assert!(changes.rows.is_empty());
}

#[test]
fn a_block_that_the_log_names_and_is_gone_is_reported_and_the_rest_goes_on() {
    let world = World::new();
    let store = world.open();
    for block in [block(1), block(2)] {
        store.put(block, &packed(block)).unwrap();
    }
    store.sync().unwrap();
    let place = store.locate(block(1)).unwrap().unwrap();
    drop(store);
    // Nothing was named yet, so opening has only the scan to go by, and that cannot tell this from a torn write.
    let path = place.segment.path(Path::new("/blocks"));
    world.disk.flip_bit(&path, place.offset() + 100, 0).unwrap();
    let store = world.open();
    let both = [block(1), block(2)];
    world.write(&store, |changes| store.named(&both, changes).unwrap());
    check(&store, 2..3);
    let error = store.get(block(1)).unwrap_err();
    assert!(matches!(&error, FsError::Damaged(what) if what.contains("block 0.1 ")), "{error}");
    assert_eq!((store.listed(), store.missing(None, 9)), (1, Ok(vec![block(1)])));
    let store = world.open();
    assert_eq!((store.missing(None, 9), store.get(block(1))), (Ok(vec![block(1)]), Err(error)));
    world.free(&store, 1..3);
    assert_eq!(store.get(block(1)), Err(FsError::Stale));
    assert_eq!((store.listed(), store.missing(None, 9)), (0, Ok(vec![])));
}

#[test]
fn freed_space_returns_to_the_disk() {
    let world = World::new();
    let store = world.open();
    world.name(&store, 0..200);
    let full = world.disk.used();
    // Every segment is left a quarter live: all are rewritten.
    world.free(&store, (0..200).filter(|number| number % 4 != 0));
    check(&store, (0..200).step_by(4));
    world.reclaim(&store);
    check(&store, (0..200).step_by(4));
    scrub(&store);
    assert!(world.disk.used() < full / 2, "{} of {full}", world.disk.used());
    world.free(&store, (0..200).step_by(4));
    world.reclaim(&store);
    assert!(world.disk.used() < 2 << 20, "{} of {full}", world.disk.used());
    assert_eq!(store.get(block(0)), Err(FsError::Stale));
    let store = world.open();
    scrub(&store);
}

#[test]
fn a_session_that_ended_leaves_nothing() {
    let world = World::new();
    let store = world.open();
    let of = |session: u64| (session << 32..(session << 32) + 30).map(block);
    for block in of(1).chain(of(2)) {
        store.put(block, &packed(block)).unwrap();
    }
    store.sync().unwrap();
    world.name(&store, 7..8);
    assert_eq!(store.pending_sessions(), [SessionId(1), SessionId(2)].into());
    world.write(&store, |changes| store.sweep_session(SessionId(1), changes).unwrap());
    assert_eq!(store.pending_sessions(), [SessionId(2)].into());
    world.flush(&store);
    let store = world.open();
    assert_eq!(store.pending_sessions(), [SessionId(2)].into());
    assert_eq!(store.get(block(1 << 32)), Err(FsError::Stale));
    check(&store, (2 << 32)..(2 << 32) + 30);
    scrub(&store);
}

#[test]
fn many_threads_put_and_sync_at_once() {
    let world = World::new();
    let store = world.open();
    std::thread::scope(|threads| {
        for thread in 0..8_u64 {
            let store = &store;
            threads.spawn(move || {
                for number in 0..20 {
                    let block = block(thread << 32 | number);
                    store.put(block, &packed(block)).unwrap();
                    if number % 3 == 0 {
                        store.sync().unwrap();
                    }
                }
                store.sync().unwrap();
            });
        }
    });
    let all: Vec<u64> = (0..8).flat_map(|t| (0..20).map(move |n| t << 32 | n)).collect();
    world.disk.crash(3);
    let store = world.open();
    check(&store, all.into_iter());
}

#[test]
fn a_full_disk_refuses_blocks_and_keeps_what_it_has() {
    let world = World::new();
    let store = world.open();
    world.name(&store, 0..20);
    world.disk.set_capacity(world.disk.used() + (200 << 10));
    let refused = (20..60).find_map(|number| {
        store.put(block(number), &packed(block(number))).err().map(|error| (number, error))
    });
    let (number, error) = refused.unwrap();
    assert_eq!(error, FsError::NoSpace);
    store.sync().unwrap();
    check(&store, 0..number);
    world.disk.set_capacity(64 << 20);
    world.name(&store, number..60);
    check(&store, 0..60);
}

#[test]
fn after_a_failed_sync_nothing_changes_any_more() {
    let world = World::new();
    let store = world.open();
    world.name(&store, 0..5);
    store.put(block(5), &packed(block(5))).unwrap();
    world.disk.fail_sync(".blocks");
    assert!(matches!(store.sync(), Err(FsError::Io(_))));
    // The disk would succeed now, but what it lost is lost.
    let error = store.sync().unwrap_err().to_string();
    assert!(error.contains("can no longer be stored"), "{error}");
    let mut changes = Changes::default();
    assert!(store.put(block(6), &packed(block(6))).is_err());
    assert!(store.named(&[block(5)], &mut changes).is_err());
    assert!(store.freed(&[block(1)], &mut changes).is_err());
    assert!(store.upkeep(&mut changes).is_err());
    assert!(store.sweep_session(SessionId(0), &mut changes).is_err());
    assert!(changes.rows.is_empty());
    check(&store, 0..5);
}

#[test]
fn damage_is_named_and_never_served_or_copied() {
    let world = World::new();
    let store = world.open();
    world.name(&store, 0..60);
    world.flush(&store);
    let place = store.locate(block(3)).unwrap().unwrap();
    let path = place.segment.path(Path::new("/blocks"));
    let whole = |number: u64| (number != 3).then_some(number);
    for offset in [0, 1, 9, 20, 30, 41, 47, 48, 60, 500] {
        world.disk.flip_bit(&path, place.offset() + offset, 3).unwrap();
        let error = store.get(block(3)).unwrap_err();
        let named = format!("block 0.3 at byte {} of segment {}", place.offset(), place.segment);
        assert!(matches!(&error, FsError::Damaged(what) if what.contains(&named)), "{error}");
        check(&store, (0..60).filter_map(whole));
        let mut faults = Vec::new();
        store.scrub(place.segment, &mut |fault| faults.push(fault.what.to_string())).unwrap();
        assert!(faults.iter().any(|fault| fault.contains("block 0.3")), "{offset}: {faults:?}");
        world.disk.flip_bit(&path, place.offset() + offset, 3).unwrap();
    }
    world
        .disk
        .flip_bit(&path, place.offset() + 5000_u64.min(u64::from(place.frame_bytes)), 0)
        .unwrap();
    world.free(&store, (0..60).filter(|number| number % 3 != 0));
    let plan = store.plan_reclaim().unwrap();
    assert_eq!(plan.segment, place.segment);
    let done = store.reclaim(&plan, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(done, Err(FsError::Damaged(_))));
    world.write(&store, |changes| store.upkeep(changes).unwrap());
    assert_ne!(store.plan_reclaim().map(|plan| plan.segment), Some(place.segment));
    check(&store, (0..60).step_by(3).filter_map(whole));
    assert!(store.get(block(3)).is_err());
}

#[test]
fn a_cut_or_missing_segment_is_reported_at_opening() {
    let world = World::new();
    let store = world.open();
    world.name(&store, 0..60);
    world.flush(&store);
    let (first, last) = (store.segments()[0].0, store.segments()[1].0);
    drop(store);
    let dir = Path::new("/blocks");
    world.disk.cut(&first.path(dir), 200_000).unwrap();
    world.disk.remove(&last.path(dir)).unwrap();
    let (store, faults) = world.open_with_faults();
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert!(faults.iter().any(|fault| fault.contains("missing")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.contains("is cut: 200000 bytes")), "{faults:?}");
    check(&store, 0..2);
    let mut lost = Vec::new();
    for (id, _) in store.segments() {
        store.scrub(id, &mut |fault| lost.push(fault.what.to_string())).unwrap();
    }
    for number in 0..60 {
        let named = lost.iter().any(|fault| fault.contains(&format!("block 0.{number} ")));
        assert_eq!(store.get(block(number)).is_err(), named, "{number}: {lost:?}");
    }
    // What is left goes on working.
    world.name(&store, 100..110);
    check(&store, 100..110);
}

#[test]
fn nothing_is_written_into_what_a_torn_record_claims() {
    let world = World::new();
    let store = world.open();
    store.put(block(2), &packed(block(2))).unwrap();
    store.sync().unwrap();
    let place = store.locate(block(2)).unwrap().unwrap();
    assert!(place.units() > 2);
    drop(store);
    // Of the record, the first page survives a power cut, and of the length no more.
    let path = place.segment.path(Path::new("/blocks"));
    world.disk.cut(&path, place.offset() + UNIT_BYTES).unwrap();
    let store = world.open();
    store.put(block(3), &packed(block(3))).unwrap();
    store.sync().unwrap();
    drop(store);
    let store = world.open();
    check(&store, 3..4);
    assert_eq!(store.get(block(2)), Err(FsError::Stale));
}

#[test]
fn a_record_in_another_ones_place_is_noticed() {
    let world = World::new();
    let store = world.open();
    world.name(&store, 0..2);
    let [a, b] = [0, 1].map(|number| store.locate(block(number)).unwrap().unwrap());
    let file = world.disk.open(&a.segment.path(Path::new("/blocks")), Access::ReadWrite).unwrap();
    let record = file.read_at(b.offset(), b.frame_bytes as usize + 48).unwrap();
    file.write_at(a.offset(), &[IoSlice::new(&record)]).unwrap();
    assert!(matches!(store.get(block(0)), Err(FsError::Damaged(_))));
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let place = Place { segment: SegmentId(0x0a0b), unit: 3, frame_bytes: 0x0102 };
    let block = BlockId { session: SessionId(7), number: 9 };
    let record = Record { origin: Origin::Copied, block, place, checksum: 0x1122_3344 };
    let bytes = record.to_bytes();
    assert_eq!(bytes[..8], [1, 1, 0, 0, 2, 1, 0, 0]);
    assert_eq!(bytes[8..24], block.to_bytes());
    assert_eq!(bytes[24..40], [0x0b, 0x0a, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0x44, 0x33, 0x22, 0x11]);
    assert_eq!(bytes[40..44], [0; 4]);
    assert_eq!(bytes[44..], crc32c::crc32c(&bytes[..44]).to_le_bytes());
    assert_eq!(Record::from_bytes(&bytes, place.segment, 3), Some(record));
    assert_eq!(Record::from_bytes(&bytes, place.segment, 4), None);
    assert_eq!(Record::from_bytes(&bytes, SegmentId(1), 3), None);
    let header = segment::segment_header(SegmentId(2), &STORE);
    assert_eq!(header[..9], *b"tsfsblok\x01");
    assert_eq!(header.len(), 37);
    assert_eq!(SegmentId(0xab).path(Path::new("/x")), Path::new("/x/00000000000000ab.blocks"));
}
