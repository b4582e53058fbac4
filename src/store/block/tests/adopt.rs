//! A node takes over another node's table: what is here is found, the rest is listed, and a power cut anywhere only means
//! to begin again.

use super::elsewhere::HERE;
use super::elsewhere::all_on;
use super::*;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::placement::Placed;
use crate::types::placement::Placement;
use index::Kind;

const KEEP: [&[u8]; 2] = [b"format", b"applied"];

/// The other node's table, in which blocks 0 to 59 are named; it still has blocks from 60 on pending, misses one itself,
/// and keeps a few rows of its own.
fn theirs() -> Arc<MemoryTable> {
    let world = World::new();
    let store = world.open();
    store.share(true);
    world.name(&store, 0..59);
    world.write(&store, |changes| store.named(&[block(59)], changes).unwrap());
    for number in 60..65 {
        store.put(block(number), &packed(block(number))).unwrap();
    }
    store.sync().unwrap();
    world.name(&store, 70..71);
    world.free(&store, 70..71);
    world.write(&store, |changes| {
        changes.put(Family::Local, "applied", vec![9]);
        changes.put(Family::Local, "scrubbed", vec![9]);
        changes.put(Family::State, "x", vec![9]);
    });
    world.flush(&store);
    world.table
}

/// This node: it named 0 to 29, of which 40 to 44 are pending here and named there; 100 is pending and named nowhere; 80 to
/// 89 were named and freed, and 50 is rotten.
fn ours() -> World {
    let world = World::new();
    let store = world.open();
    world.name(&store, 0..30);
    world.name(&store, 50..51);
    world.name(&store, 80..90);
    world.free(&store, 80..90);
    world.flush(&store);
    for number in (40..45).chain(100..101) {
        store.put(block(number), &packed(block(number))).unwrap();
    }
    store.sync().unwrap();
    let place = store.locate(block(50)).unwrap().unwrap();
    let path = place.segment.path(Path::new("/blocks"));
    world.disk.flip_bit(&path, place.offset() + 300, 1).unwrap();
    // Another copy of 3 lies in a later segment.
    let (packed, place) = (packed(block(3)), store.locate(block(3)).unwrap());
    store.append(Origin::Copied, block(3), packed.parts(), packed.checksum(), place).unwrap();
    store.sync().unwrap();
    world
}

fn adopt_into(world: &World, table: &Arc<MemoryTable>, old: bool) -> Result<Adopted, FsError> {
    adopt_by(world, table, old, &Placement::default())
}

fn adopt_by(
    world: &World,
    table: &Arc<MemoryTable>,
    old: bool,
    placement: &Placement,
) -> Result<Adopted, FsError> {
    let keeping = Keeping::new(HERE, Arc::new(Placed::new(placement)));
    let old = old.then(|| world.table.clone() as Arc<dyn Table>);
    adopt(&world.disk.shared(), Path::new("/blocks"), STORE, &**table, old, &KEEP, &keeping)
}

fn has(table: &MemoryTable, kind: Kind, number: u64) -> bool {
    table.get(Family::Local, &index::block_key(kind, block(number))).unwrap().is_some()
}

#[track_caller]
fn check_adopted(world: &World, table: &Arc<MemoryTable>, pending: &[u64]) {
    let own = World { disk: world.disk.clone(), table: table.clone() };
    let store = own.open();
    store.share(true);
    scrub(&store);
    let here = |number: &u64| *number < 30 || (40..45).contains(number);
    check(&store, (0..60).filter(here));
    let missing: Vec<_> = store.missing(None, 100).unwrap();
    let wanted: Vec<_> = (0..60).filter(|number| !here(number)).map(block).collect();
    assert_eq!(missing, wanted);
    check(&store, pending.iter().copied());
    let held: Vec<_> = store.state.lock().pending.keys().map(|block| block.number).collect();
    assert_eq!(held, pending);
    let row = |family, key: &str| table.get(family, key.as_bytes()).unwrap().map(|row| row[0]);
    assert_eq!((row(Family::Local, "applied"), row(Family::State, "x")), (Some(9), Some(9)));
    assert_eq!((row(Family::Local, "scrubbed"), row(Family::Local, "adopting")), (None, None));
    // It goes on as any other: what others send comes off the list, and what is dead goes.
    for block in missing {
        store.supply(block, &frame(block)).unwrap();
    }
    store.sync().unwrap();
    own.write(&store, |changes| store.upkeep(changes).unwrap());
    check(&store, 0..60);
    own.free(&store, (0..60).filter(|number| number % 6 != 0));
    own.write(&store, |changes| store.sweep_session(SessionId(0), changes).unwrap());
    own.reclaim(&store);
    check(&store, (0..60).step_by(6));
    scrub(&store);
}

#[test]
fn what_lies_here_is_kept_and_the_rest_is_listed() {
    let (world, table) = (ours(), theirs());
    let adopted = adopt_into(&world, &table, true).unwrap();
    assert_eq!(adopted, Adopted { here: 35, listed: 25, elsewhere: 0 });
    assert!(!has(&table, Kind::Pending, 62), "pending there is nothing here");
    check_adopted(&world, &table, &[100]);
}

#[test]
fn without_its_own_table_a_node_gives_nothing_up_that_a_client_may_rely_on() {
    let (world, table) = (ours(), theirs());
    let adopted = adopt_into(&world, &table, false).unwrap();
    assert_eq!(adopted, Adopted { here: 35, listed: 25, elsewhere: 0 });
    let kept: Vec<u64> = (80..90).chain(100..101).collect();
    check_adopted(&world, &table, &kept);
}

#[test]
fn an_empty_node_lists_everything() {
    let (world, table) = (World::new(), theirs());
    assert_eq!(
        adopt_into(&world, &table, false),
        Ok(Adopted { here: 0, listed: 60, elsewhere: 0 })
    );
    let again = adopt_into(&world, &table, false);
    assert_eq!(again, Ok(Adopted { here: 0, listed: 60, elsewhere: 0 }), "once more is no harm");
}

#[test]
fn cut_anywhere_it_is_begun_again() {
    for operations in 0..24 {
        let (world, table) = (ours(), theirs());
        let mut first = true;
        for cut in [operations, operations / 2, operations + 1] {
            world.disk.power_off_after(cut);
            if adopt_into(&world, &table, true).is_ok() {
                break;
            }
            first = false;
            world.disk.crash(operations * 100 + cut);
            // RocksDB may have flushed what was written, or not.
            if cut % 2 == 0 {
                table.lose_power();
            }
        }
        world.disk.crash(operations);
        table.flush().unwrap();
        let adopted = adopt_into(&world, &table, true).unwrap();
        assert_eq!(adopted, Adopted { here: 35, listed: 25, elsewhere: 0 }, "{operations} {first}");
        check_adopted(&world, &table, &[100]);
    }
}

#[test]
fn the_placement_says_what_is_listed_and_what_lies_here_counts_whatever_it_says() {
    for operations in [9, 11, 14, 17, 1000] {
        let (world, table) = (ours(), theirs());
        // The lender need not have 7, 45 and 46.
        let mut changes = Changes::default();
        for number in [7, 45, 46] {
            changes.delete(Family::Local, index::block_key(Kind::Named, block(number)));
            let key = index::block_key(Kind::Elsewhere, block(number));
            changes.put(Family::Local, key, index::listed_row());
        }
        table.write(&changes).unwrap();
        table.flush().unwrap();
        let nowhere = all_on(2, &Placement::default());
        world.disk.power_off_after(operations);
        if adopt_by(&world, &table, true, &nowhere).is_err() {
            world.disk.crash(operations);
            if operations % 2 == 0 {
                table.lose_power();
            }
        }
        world.disk.crash(operations);
        let adopted = adopt_by(&world, &table, true, &nowhere).unwrap();
        assert_eq!(adopted, Adopted { here: 35, listed: 0, elsewhere: 25 });
        assert_eq!(index::placed(&*table), Ok(Some(1)));
        let here = |number: u64| number < 30 || (40..45).contains(&number);
        for number in 0..60 {
            let kinds = [Kind::Named, Kind::Listed, Kind::Elsewhere];
            let kinds = kinds.map(|kind| has(&table, kind, number));
            assert_eq!(kinds, [here(number), false, !here(number)], "{number}");
        }
        // Under another placement the same rows say what is to be fetched.
        let adopted = adopt_by(&world, &table, true, &all_on(1, &nowhere)).unwrap();
        assert_eq!(adopted, Adopted { here: 35, listed: 25, elsewhere: 0 });
        assert_eq!(index::placed(&*table), Ok(Some(2)));
        check_adopted(&world, &table, &[100]);
    }
}
