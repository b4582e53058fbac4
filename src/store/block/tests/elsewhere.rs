//! Blocks that are not to be here: naming, placing, letting go. `homes` has several nodes and power cuts.

use super::listed::missing;
use super::listed::name;
use super::listed::rows;
use super::*;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::NodeId;
use crate::types::placement::Layout;
use crate::types::placement::Placed;
use crate::types::placement::Placement;
use crate::types::placement::Share;

pub(super) const HERE: NodeId = NodeId(1);

pub(super) fn layout(copies: u8, nodes: impl IntoIterator<Item = u64>) -> Layout {
    let share = |node| Share { node: NodeId(node), weight: 8 };
    Layout::new(copies, nodes.into_iter().map(share).collect()).unwrap()
}

/// One copy, on this node or another: about half of all blocks are to be here.
pub(super) fn half() -> Placement {
    changed(&Placement::default(), Some(layout(1, 1..=2)), None)
}

/// All are to be on the other node, or all here.
pub(super) fn all_on(node: u64, before: &Placement) -> Placement {
    changed(before, Some(layout(1, [node])), None)
}

pub(super) fn changed(before: &Placement, now: Option<Layout>, next: Option<Layout>) -> Placement {
    let mut placement = before.clone();
    placement.number += 1;
    placement.now = now;
    placement.next = next;
    placement
}

pub(super) fn keep_by(store: &BlockStore, placement: &Placement) {
    store.keep_by(HERE, Arc::new(Placed::new(placement)));
}

pub(super) fn keeps(placement: &Placement, number: u64) -> bool {
    Placed::new(placement).keeps(HERE, block(number))
}

pub(super) fn open(world: &World, placement: &Placement) -> BlockStore {
    let store = world.open();
    store.share(true);
    keep_by(&store, placement);
    store
}

/// Upkeep until nothing is due: how many calls it took.
pub(super) fn settle(world: &World, store: &BlockStore) -> usize {
    let mut calls = 0;
    while store.upkeep_due() {
        world.write(store, |changes| store.upkeep(changes).unwrap());
        calls += 1;
        assert!(calls < 10_000);
    }
    calls
}

pub(super) fn put(store: &BlockStore, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        store.put(block(number), &packed(block(number))).unwrap();
    }
}

pub(super) fn surplus(store: &BlockStore) -> Vec<u64> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let (page, go_on) = store.surplus(after, 3).unwrap();
        assert!(page.len() <= 3);
        found.extend(page.into_iter().map(|block| block.number));
        after = go_on;
        if after.is_none() {
            return found;
        }
    }
}

#[test]
fn without_a_placement_no_row_says_elsewhere() {
    let world = World::new();
    let store = open(&world, &Placement::default());
    assert!(!store.upkeep_due());
    put(&store, 0..3);
    store.sync().unwrap();
    name(&world, &store, 0..5);
    assert_eq!((store.placed(), surplus(&store)), (None, vec![]));
    assert_eq!([2, 3].map(|number| rows(&world, number)), ["B", "L"]);
    // The first change: everything counts everywhere as before, and it is said that rows are so.
    let placement = changed(&Placement::default(), None, Some(layout(1, [2])));
    keep_by(&store, &placement);
    assert_eq!(store.placed(), None);
    assert!(settle(&world, &store) > 0);
    assert_eq!((store.placed(), surplus(&store)), (Some(1), vec![]));
    assert_eq!([2, 3].map(|number| rows(&world, number)), ["B", "L"]);
}

#[test]
fn naming_gives_each_block_one_row() {
    let (world, placement) = (World::new(), half());
    let store = open(&world, &placement);
    settle(&world, &store);
    put(&store, 0..20);
    store.sync().unwrap();
    put(&store, 20..40);
    name(&world, &store, 0..60);
    for number in 0..60 {
        let wanted = match (keeps(&placement, number), number) {
            (_, 0..20) => "B",
            (true, _) => "L",
            (false, _) => "E",
        };
        assert_eq!(rows(&world, number), wanted, "{number}");
    }
    store.sync().unwrap();
    settle(&world, &store);
    for number in 20..60 {
        let (keeps, read) = (keeps(&placement, number), store.get(block(number)));
        let here = keeps && number < 40;
        assert_eq!(read.is_ok(), here, "{number}");
        if !keeps {
            let what = read.unwrap_err().to_string();
            assert!(what.contains("not kept on this node"), "{what}");
        }
    }
    let wanted: Vec<_> = (40..60).filter(|number| keeps(&placement, *number)).collect();
    assert_eq!((store.listed(), missing(&store)), (wanted.len() as u64, wanted));
    assert_eq!(store.damage_met(), 0);
    // Named again, by another op or by a log that is gone through again: nothing changes.
    let before: Vec<_> = (0..60).map(|number| rows(&world, number)).collect();
    name(&world, &store, 0..60);
    assert_eq!(before, (0..60).map(|number| rows(&world, number)).collect::<Vec<_>>());
    scrub(&store);
    // What was dropped takes no space for ever, and freeing leaves no row.
    world.free(&store, 0..60);
    assert!((0..60).all(|number| rows(&world, number).is_empty()));
    assert!((0..60).all(|number| store.get(block(number)) == Err(FsError::Stale)));
    world.reclaim(&store);
    assert_eq!((store.live_bytes(), store.listed()), (0, 0));
}

#[test]
fn named_and_freed_by_one_batch_leaves_nothing() {
    let world = World::new();
    let store = open(&world, &all_on(2, &Placement::default()));
    put(&store, 2..3);
    world.write(&store, |changes| {
        store.named(&[block(1), block(2)], changes).unwrap();
        store.freed(&[block(1), block(2)], changes).unwrap();
    });
    assert_eq!([1, 2].map(|number| rows(&world, number)), ["", ""]);
    assert_eq!(store.get(block(2)), Err(FsError::Stale));
}

#[test]
fn what_comes_for_a_block_that_is_elsewhere_is_not_kept() {
    let world = World::new();
    let store = open(&world, &all_on(2, &Placement::default()));
    // Before its row is in the table, and after.
    let mut changes = Changes::default();
    store.named(&[block(1)], &mut changes).unwrap();
    put(&store, 1..2);
    world.table.write(&changes).unwrap();
    store.written();
    put(&store, 1..2);
    assert_eq!(store.supply(block(1), &frame(block(1))), Ok(Supplied::Unneeded));
    store.sync().unwrap();
    settle(&world, &store);
    assert_eq!(rows(&world, 1), "E");
    assert!(store.get(block(1)).is_err());
    assert!(store.pending_sessions().is_empty() && missing(&store).is_empty());
}

#[test]
fn written_and_not_durable_when_it_was_named_it_is_elsewhere_until_it_is_found() {
    let world = World::new();
    let placement = all_on(2, &Placement::default());
    let store = open(&world, &placement);
    settle(&world, &store);
    put(&store, 1..2);
    name(&world, &store, 1..2);
    assert_eq!(rows(&world, 1), "E");
    store.sync().unwrap();
    world.table.flush().unwrap();
    drop(store);
    // The record is whole, and where rows say nothing yet: for all that is known, others count on it.
    let store = open(&world, &placement);
    assert!(store.pending_sessions().is_empty());
    settle(&world, &store);
    assert_eq!((rows(&world, 1), surplus(&store)), ("B".to_owned(), vec![1]));
    // Where its naming was lost, it is found and counts.
    put(&store, 2..3);
    name(&world, &store, 2..3);
    store.sync().unwrap();
    drop(store);
    world.table.lose_power();
    let store = open(&world, &placement);
    name(&world, &store, 2..3);
    assert_eq!(rows(&world, 2), "B");
    check(&store, 2..3);
}

#[test]
fn what_was_fetched_and_told_counts_where_its_row_is_lost() {
    let (world, nowhere) = (World::new(), all_on(2, &Placement::default()));
    let store = open(&world, &nowhere);
    settle(&world, &store);
    name(&world, &store, 0..9);
    world.table.flush().unwrap();
    let here = all_on(1, &nowhere);
    keep_by(&store, &here);
    settle(&world, &store);
    for number in 0..9 {
        store.supply(block(number), &frame(block(number))).unwrap();
    }
    store.sync().unwrap();
    settle(&world, &store);
    // Whoever leads hears this, and others let go.
    assert_eq!((store.placed(), store.listed()), (Some(2), 0));
    drop(store);
    world.table.lose_power();
    let store = open(&world, &nowhere);
    assert!(store.pending_sessions().is_empty(), "its session may have ended");
    world.write(&store, |changes| store.sweep_session(SessionId(0), changes).unwrap());
    check(&store, 0..9);
    assert!((0..9).all(|number| rows(&world, number) == "B"));
    world.free(&store, 0..9);
    world.reclaim(&store);
    assert_eq!(store.live_bytes(), 0);
    // Freed before anything was written of it.
    drop(store);
    world.table.lose_power();
    let store = open(&world, &nowhere);
    world.free(&store, 0..9);
    settle(&world, &store);
    assert!((0..9).all(|number| rows(&world, number).is_empty()));
    world.reclaim(&store);
    assert_eq!(store.live_bytes(), 0);
}

#[test]
fn placing_turns_rows_in_steps_and_says_when_it_is_done() {
    let (world, nowhere) = (World::new(), all_on(2, &Placement::default()));
    let store = open(&world, &nowhere);
    settle(&world, &store);
    put(&store, 0..10);
    store.sync().unwrap();
    name(&world, &store, 0..50);
    let here = all_on(1, &nowhere);
    keep_by(&store, &here);
    assert_eq!(store.placed(), None);
    world.write(&store, |changes| store.upkeep(changes).unwrap());
    assert_eq!((store.placed(), store.listed()), (None, 7), "a step");
    // What is named meanwhile follows the new one.
    name(&world, &store, 50..52);
    assert!(settle(&world, &store) > 5);
    assert_eq!(store.placed(), Some(2));
    assert_eq!(missing(&store), (10..52).collect::<Vec<_>>());
    // A step whose changes are not in the table yet says nothing.
    let nowhere = all_on(2, &here);
    keep_by(&store, &nowhere);
    for number in 10..15 {
        store.supply(block(number), &frame(block(number))).unwrap();
    }
    store.sync().unwrap();
    for number in 15..20 {
        store.supply(block(number), &frame(block(number))).unwrap();
    }
    loop {
        let mut changes = Changes::default();
        store.upkeep(&mut changes).unwrap();
        assert_eq!(store.placed(), None);
        world.table.write(&changes).unwrap();
        store.written();
        if store.placed().is_some() {
            break;
        }
    }
    assert_eq!((store.placed(), store.listed(), missing(&store)), (Some(3), 0, vec![]));
    for number in 0..52 {
        assert_eq!(rows(&world, number), if number < 15 { "B" } else { "E" }, "{number}");
    }
    store.sync().unwrap();
    settle(&world, &store);
    scrub(&store);
    check(&store, 0..15);
    world.free(&store, 0..52);
    world.reclaim(&store);
    assert_eq!(store.live_bytes(), 0);
}

#[test]
fn another_placement_begins_the_pass_anew_and_so_does_a_power_cut() {
    let (world, nowhere) = (World::new(), all_on(2, &Placement::default()));
    let store = open(&world, &nowhere);
    settle(&world, &store);
    name(&world, &store, 0..30);
    let here = all_on(1, &nowhere);
    keep_by(&store, &here);
    world.write(&store, |changes| store.upkeep(changes).unwrap());
    let nowhere = all_on(2, &here);
    keep_by(&store, &nowhere);
    settle(&world, &store);
    assert_eq!((store.placed(), store.listed()), (Some(3), 0));
    assert!((0..30).all(|number| rows(&world, number) == "E"));
    let here = all_on(1, &nowhere);
    keep_by(&store, &here);
    for _ in 0..3 {
        world.write(&store, |changes| store.upkeep(changes).unwrap());
    }
    world.table.flush().unwrap();
    world.write(&store, |changes| store.upkeep(changes).unwrap());
    drop(store);
    world.table.lose_power();
    let store = open(&world, &here);
    assert_eq!((store.placed(), store.listed()), (None, 21));
    settle(&world, &store);
    assert_eq!((store.placed(), store.listed()), (Some(4), 30));
    world.table.flush().unwrap();
    let store = open(&world, &here);
    assert!(!store.upkeep_due());
    assert_eq!(store.placed(), Some(4));
}

#[test]
fn what_a_client_put_before_the_block_was_to_be_here_counts() {
    let (world, nowhere) = (World::new(), all_on(2, &Placement::default()));
    let store = open(&world, &nowhere);
    settle(&world, &store);
    name(&world, &store, 0..3);
    keep_by(&store, &all_on(1, &nowhere));
    // Upkeep has not come to these rows yet.
    put(&store, 0..1);
    store.sync().unwrap();
    put(&store, 1..2);
    world.free(&store, 2..3);
    settle(&world, &store);
    assert_eq!([0, 1, 2].map(|number| rows(&world, number)), ["B", "L", ""]);
    store.sync().unwrap();
    settle(&world, &store);
    assert_eq!((rows(&world, 1), store.listed()), ("B".to_owned(), 0));
    check(&store, 0..2);
    scrub(&store);
}

#[test]
fn puts_and_the_driver_at_once_leave_each_block_one_row() {
    let (world, placement) = (World::new(), half());
    let store = open(&world, &placement);
    settle(&world, &store);
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let store = &store;
            threads.spawn(move || {
                for number in (0..200).filter(|number| number % 4 == thread || number % 7 == 0) {
                    put(store, [number]);
                    if number % 11 == 0 {
                        store.sync().unwrap();
                        // Who hears this before the block is named counts on it.
                    }
                }
                store.sync().unwrap();
            });
        }
        let mut placement = placement.clone();
        for number in 0..200 {
            name(&world, &store, number..number + 1);
            if number % 50 == 49 {
                placement = all_on(1 + number % 4 / 2, &placement);
                keep_by(&store, &placement);
            }
            if number % 3 == 0 {
                world.write(&store, |changes| store.upkeep(changes).unwrap());
            }
            if number % 5 == 0 {
                world.free(&store, number..number + 1);
            }
        }
        keep_by(&store, &all_on(1, &placement));
    });
    store.sync().unwrap();
    settle(&world, &store);
    for number in 0..200 {
        match rows(&world, number).as_str() {
            "" | "P" => assert_eq!(number % 5, 0, "{number}"),
            "B" => check(&store, number..number + 1),
            "L" => assert!(missing(&store).contains(&number)),
            other => panic!("{number}: {other}"),
        }
    }
    world.write(&store, |changes| store.sweep_session(SessionId(0), changes).unwrap());
    world.free(&store, (0..200).filter(|number| number % 5 != 0));
    world.reclaim(&store);
    assert_eq!((store.live_bytes(), store.listed()), (0, 0));
}

#[test]
fn a_row_that_cannot_be_read_has_rows_looked_through_once_more() {
    let (world, placement) = (World::new(), half());
    let store = open(&world, &placement);
    settle(&world, &store);
    name(&world, &store, 0..20);
    world.write(&store, |changes| {
        changes.put(Family::Local, "placed", vec![77]);
    });
    let store = open(&world, &placement);
    assert_eq!(store.placed(), None);
    settle(&world, &store);
    assert_eq!(store.placed(), Some(1));
    assert_eq!(world.table.get(Family::Local, b"placed").unwrap(), Some(vec![1, 1].into()));
}
