//! Blocks on the list for repair: how they come on it, and how they leave it. `crash` cuts the power meanwhile.

use super::*;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::LogIndex;
use index::Kind;

fn shared(world: &World) -> BlockStore {
    let store = world.open();
    store.share(true);
    store
}

pub(super) fn name(world: &World, store: &BlockStore, numbers: std::ops::Range<u64>) {
    let blocks: Vec<_> = numbers.map(block).collect();
    world.write(store, |changes| store.named(&blocks, changes).unwrap());
}

fn upkeep(world: &World, store: &BlockStore) {
    assert!(store.upkeep_due());
    world.write(store, |changes| store.upkeep(changes).unwrap());
}

/// Which rows there are of a block.
pub(super) fn rows(world: &World, number: u64) -> String {
    let has = |kind: &Kind| {
        world.table.get(Family::Local, &index::block_key(*kind, block(number))).unwrap().is_some()
    };
    let kinds = [Kind::Named, Kind::Pending, Kind::Listed, Kind::Elsewhere];
    kinds.into_iter().filter(has).map(|kind| char::from(kind as u8)).collect()
}

pub(super) fn missing(store: &BlockStore) -> Vec<u64> {
    store.missing(None, 100).unwrap().into_iter().map(|block| block.number).collect()
}

/// Damages the frame of a block where it lies.
pub(super) fn damage(world: &World, store: &BlockStore, number: u64) {
    let place = store.locate(block(number)).unwrap().unwrap();
    let path = place.segment.path(Path::new("/blocks"));
    world.disk.flip_bit(&path, place.offset() + 100, 2).unwrap();
}

#[test]
fn what_the_log_names_and_is_not_durable_here_is_listed_and_comes_off_when_it_is() {
    let world = World::new();
    let store = shared(&world);
    store.put(block(1), &packed(block(1))).unwrap();
    store.sync().unwrap();
    store.put(block(2), &packed(block(2))).unwrap();
    name(&world, &store, 1..4);
    assert_eq!([1, 2, 3].map(|number| rows(&world, number)), ["B", "L", "L"]);
    assert_eq!(
        (store.listed(), missing(&store)),
        (2, vec![3]),
        "2 is written and wants no fetching"
    );
    check(&store, 1..3);
    let error = store.get(block(3)).unwrap_err().to_string();
    assert!(error.contains("fetched from another node"), "{error}");
    assert!(!store.upkeep_due(), "nothing is durable yet");
    assert_eq!(store.supply(block(3), &frame(block(3))), Ok(Supplied::Written));
    assert_eq!(store.supply(block(3), &frame(block(3))), Ok(Supplied::Unneeded));
    assert_eq!(store.supply(block(9), &frame(block(9))), Ok(Supplied::Unneeded));
    let cut = frame(block(3)).slice(..50);
    assert!(matches!(store.supply(block(3), &cut), Err(FsError::Damaged(_))));
    store.sync().unwrap();
    upkeep(&world, &store);
    assert_eq!([1, 2, 3].map(|number| rows(&world, number)), ["B", "B", "B"]);
    assert_eq!((store.listed(), missing(&store)), (0, vec![]));
    check(&store, 1..4);
    scrub(&store);
    world.flush(&store);
    check(&world.open(), 1..4);
}

#[test]
fn a_put_that_comes_after_its_naming_takes_the_block_off_the_list() {
    let world = World::new();
    let store = shared(&world);
    name(&world, &store, 1..3);
    store.put(block(1), &packed(block(1))).unwrap();
    store.sync().unwrap();
    // Any batch will do; it need not be the upkeep.
    name(&world, &store, 5..6);
    assert_eq!([1, 2, 5].map(|number| rows(&world, number)), ["B", "L", "L"]);
    // Written, but the session ends and the power goes before it was noted.
    store.put(block(2), &packed(block(2))).unwrap();
    store.sync().unwrap();
    world.write(&store, |changes| store.sweep_session(SessionId(0), changes).unwrap());
    check(&store, 1..3);
    world.table.flush().unwrap();
    drop(store);
    let store = shared(&world);
    assert_eq!((store.pending_sessions(), missing(&store)), ([].into(), vec![5]));
    check(&store, 1..3);
    scrub(&store);
}

#[test]
fn freeing_a_listed_block_takes_it_off_the_list_with_what_has_arrived() {
    let world = World::new();
    let store = shared(&world);
    store.put(block(1), &packed(block(1))).unwrap();
    name(&world, &store, 1..4);
    store.supply(block(2), &frame(block(2))).unwrap();
    world.free(&store, 1..4);
    store.sync().unwrap();
    assert_eq!((store.listed(), missing(&store)), (0, vec![]));
    assert_eq!([1, 2, 3].map(|number| rows(&world, number)), ["", "", ""]);
    assert_eq!(store.supply(block(3), &frame(block(3))), Ok(Supplied::Unneeded));
    assert_eq!(
        [1, 2, 3].map(|number| store.get(block(number))),
        [(); 3].map(|()| Err(FsError::Stale))
    );
    // Named and freed by one batch.
    world.write(&store, |changes| {
        store.named(&[block(7)], changes).unwrap();
        store.freed(&[block(7)], changes).unwrap();
    });
    assert_eq!((store.listed(), rows(&world, 7)), (0, String::new()));
    world.reclaim(&store);
    assert_eq!(store.live_bytes(), 0);
}

#[test]
fn a_damaged_block_is_listed_when_it_is_met_and_replaced_where_others_have_it() {
    let world = World::new();
    let store = shared(&world);
    world.name(&store, 0..60);
    world.flush(&store);
    damage(&world, &store, 3);
    damage(&world, &store, 4);
    assert!(store.get(block(3)).is_err());
    let place = store.locate(block(4)).unwrap().unwrap();
    store.scrub(place.segment, &mut |_| ()).unwrap();
    upkeep(&world, &store);
    assert_eq!((missing(&store), rows(&world, 3)), (vec![3, 4], "BL".to_owned()));
    // It stays listed over a restart.
    world.flush(&store);
    drop(store);
    let store = shared(&world);
    assert_eq!(missing(&store), [3, 4]);
    assert_eq!(store.supply(block(3), &frame(block(3))), Ok(Supplied::Written));
    assert_eq!(missing(&store), [4]);
    store.sync().unwrap();
    upkeep(&world, &store);
    assert_eq!((missing(&store), rows(&world, 3)), (vec![4], "B".to_owned()));
    check(&store, (0..60).filter(|number| *number != 4));
    // Its row is lost with the power, and the record is found.
    store.supply(block(4), &frame(block(4))).unwrap();
    store.sync().unwrap();
    drop(store);
    world.table.lose_power();
    let store = shared(&world);
    assert_eq!((store.listed(), missing(&store)), (2, vec![]), "both are here");
    upkeep(&world, &store);
    assert_eq!(store.listed(), 0);
    scrub(&store);
    assert_eq!(store.damage_met(), 0);
    // The segment that was damaged is rewritten like any other.
    world.free(&store, (0..60).filter(|number| number % 5 != 0));
    world.reclaim(&store);
    check(&store, (0..60).step_by(5));
    assert!(store.segments().iter().all(|(id, _)| *id != place.segment), "it is gone");
    scrub(&store);
}

#[test]
fn of_two_replacements_one_counts() {
    let world = World::new();
    let store = shared(&world);
    world.name(&store, 0..10);
    damage(&world, &store, 3);
    assert!(store.get(block(3)).is_err());
    for _ in 0..2 {
        // A read and the repair at once.
        assert_eq!(store.supply(block(3), &frame(block(3))), Ok(Supplied::Written));
    }
    store.sync().unwrap();
    upkeep(&world, &store);
    check(&store, 0..10);
    scrub(&store);
    world.free(&store, 0..10);
    world.reclaim(&store);
    assert_eq!(store.live_bytes(), 0);
}

#[test]
fn a_segment_that_is_gone_is_made_good_by_others() {
    let world = World::new();
    let store = shared(&world);
    world.name(&store, 0..60);
    world.flush(&store);
    let gone = store.segments()[0].0;
    drop(store);
    world.disk.remove(&gone.path(Path::new("/blocks"))).unwrap();
    let (store, faults) = world.open_with_faults();
    assert_eq!(faults.len(), 1);
    store.share(true);
    store.scrub(gone, &mut |_| ()).unwrap();
    upkeep(&world, &store);
    let lost = missing(&store);
    assert!(lost.len() > 10, "{lost:?}");
    for number in lost {
        store.supply(block(number), &frame(block(number))).unwrap();
    }
    store.sync().unwrap();
    world.reclaim(&store);
    check(&store, 0..60);
    let store = world.open();
    check(&store, 0..60);
    scrub(&store);
}

#[test]
fn copies_are_not_taken_for_dead_while_their_rows_are_to_follow() {
    let world = World::new();
    let store = world.open();
    world.name(&store, 0..200);
    world.free(&store, (0..200).filter(|number| number % 3 != 0));
    let mut number = 1000;
    while let Some(plan) = store.plan_reclaim() {
        let copying = &mut |_| {
            // Meanwhile the driver writes rows, and a full disk makes it retire and flush what it can.
            world.name(&store, number..number + 1);
            number += 1;
            world.write(&store, |changes| store.upkeep(changes).unwrap());
            world.flush(&store);
            ControlFlow::Continue(())
        };
        store.reclaim(&plan, copying).unwrap();
        world.write(&store, |changes| store.upkeep(changes).unwrap());
    }
    world.flush(&store);
    check(&store, (0..200).step_by(3));
    scrub(&store);
}

#[test]
fn puts_and_the_driver_at_once_leave_every_named_block_right_or_listed() {
    let world = World::new();
    let store = shared(&world);
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let store = &store;
            threads.spawn(move || {
                for number in (0..200).filter(|number| number % 4 == thread || number % 7 == 0) {
                    store.put(block(number), &packed(block(number))).unwrap();
                }
                store.sync().unwrap();
            });
        }
        for number in 0..200 {
            name(&world, &store, number..number + 1);
            if number % 5 == 0 {
                world.free(&store, number..number + 1);
            }
        }
    });
    store.sync().unwrap();
    world.write(&store, |changes| store.upkeep(changes).unwrap());
    // Every named one was put in the end, so all are off the list.
    assert_eq!((store.listed(), missing(&store)), (0, vec![]));
    check(&store, (0..200).filter(|number| number % 5 != 0));
    world.write(&store, |changes| store.sweep_session(SessionId(0), changes).unwrap());
    world.free(&store, (0..200).filter(|number| number % 5 != 0));
    world.reclaim(&store);
    assert_eq!(store.live_bytes(), 0);
}

#[test]
fn what_is_found_damaged_is_not_said_to_be_here() {
    let world = World::new();
    let store = world.open();
    store.share(true);
    world.name(&store, 1..4);
    assert_eq!(store.complete(LogIndex(5)), LogIndex(5));
    store.met(block(2), &FsError::Damaged("a bit is another".to_owned()));
    world.write(&store, |changes| store.upkeep(changes).unwrap());
    assert_eq!(store.listed(), 1);
    assert_eq!(store.complete(LogIndex(6)), LogIndex(0), "its home has no whole copy");
    assert_eq!(store.supply(block(2), &frame(block(2))).unwrap(), Supplied::Written);
    store.sync().unwrap();
    world.write(&store, |changes| store.upkeep(changes).unwrap());
    assert_eq!((store.listed(), store.complete(LogIndex(7))), (0, LogIndex(7)));
}
