//! Letting go of blocks that need not be here: only what may, with its space, and not for ever before it is flushed.

use super::elsewhere::all_on;
use super::elsewhere::half;
use super::elsewhere::keep_by;
use super::elsewhere::keeps;
use super::elsewhere::open;
use super::elsewhere::put;
use super::elsewhere::settle;
use super::elsewhere::surplus;
use super::listed::damage;
use super::listed::missing;
use super::listed::rows;
use super::*;
use crate::types::placement::Placement;

#[test]
fn letting_go_takes_only_what_it_may() {
    let (world, placement) = (World::new(), half());
    let store = world.open();
    store.share(true);
    world.name(&store, 0..40);
    put(&store, 50..51);
    store.sync().unwrap();
    keep_by(&store, &placement);
    settle(&world, &store);
    let over: Vec<_> = (0..40).filter(|number| !keeps(&placement, *number)).collect();
    assert_eq!(surplus(&store), over);
    let (freed, late) = (over[0], over[1]);
    world.free(&store, freed..freed + 1);
    // Everything is handed in: what is to be here, what is pending, what is freed and what was never heard of.
    let asked: Vec<_> = (0..70).filter(|number| *number != late).map(block).collect();
    store.let_go(&asked);
    check(&store, over[2..].iter().copied());
    settle(&world, &store);
    for number in 0..40 {
        let wanted = match number {
            _ if number == freed => "",
            _ if number == late || keeps(&placement, number) => "B",
            _ => "E",
        };
        assert_eq!(rows(&world, number), wanted, "{number}");
    }
    assert_eq!((surplus(&store), store.listed()), (vec![late], 0));
    check(&store, (0..40).filter(|number| keeps(&placement, *number)).chain([late, 50]));
    // Not flushed: it is as if it had not been.
    drop(store);
    let store = open(&world, &placement);
    settle(&world, &store);
    scrub(&store);
    world.reclaim(&store);
    check(&store, (0..40).filter(|number| keeps(&placement, *number)));
    // What was allowed under one placement is not under the next.
    store.let_go(&[block(late)]);
    keep_by(&store, &all_on(2, &placement));
    settle(&world, &store);
    assert_eq!(rows(&world, late), "B");
}

#[test]
fn letting_go_gives_space_back_and_a_power_cut_the_block() {
    let world = World::new();
    let store = world.open();
    store.share(true);
    world.name(&store, 0..100);
    world.flush(&store);
    let nowhere = all_on(2, &Placement::default());
    keep_by(&store, &nowhere);
    settle(&world, &store);
    world.flush(&store);
    store.let_go(&(0..100).map(block).collect::<Vec<_>>());
    settle(&world, &store);
    assert_eq!((store.live_bytes(), surplus(&store)), (0, vec![]));
    drop(store);
    world.table.lose_power();
    let store = open(&world, &nowhere);
    check(&store, 0..100);
    store.let_go(&(0..100).map(block).collect::<Vec<_>>());
    settle(&world, &store);
    world.reclaim(&store);
    assert!(world.disk.used() < 2 << 20, "{}", world.disk.used());
    scrub(&store);
    assert!((0..100).all(|number| rows(&world, number) == "E"));
}

#[test]
fn a_damaged_copy_that_need_not_be_here_is_repaired_or_let_go_of() {
    let world = World::new();
    let store = world.open();
    store.share(true);
    world.name(&store, 0..10);
    let nowhere = all_on(2, &Placement::default());
    keep_by(&store, &nowhere);
    for number in [3, 4] {
        damage(&world, &store, number);
        assert!(store.get(block(number)).is_err());
    }
    settle(&world, &store);
    assert_eq!([3, 4, 5].map(|number| rows(&world, number)), ["BL", "BL", "B"]);
    assert_eq!(missing(&store), [3, 4]);
    store.supply(block(3), &frame(block(3))).unwrap();
    store.sync().unwrap();
    settle(&world, &store);
    store.let_go(&[block(4)]);
    settle(&world, &store);
    assert_eq!([3, 4].map(|number| rows(&world, number)), ["B", "E"]);
    assert_eq!((store.listed(), store.damage_met()), (0, 0));
    // Listed in the very call that may let it go: it is let go of later, or both rows go.
    damage(&world, &store, 6);
    assert!(store.get(block(6)).is_err());
    store.let_go(&[block(6)]);
    settle(&world, &store);
    store.let_go(&[block(6)]);
    settle(&world, &store);
    assert_eq!((rows(&world, 6), store.listed()), ("E".to_owned(), 0));
}

#[test]
fn a_block_that_is_elsewhere_when_a_segment_is_copied_stays_so() {
    let world = World::new();
    let store = world.open();
    store.share(true);
    world.name(&store, 0..100);
    world.free(&store, (0..100).filter(|number| number % 3 != 0));
    let nowhere = all_on(2, &Placement::default());
    keep_by(&store, &nowhere);
    settle(&world, &store);
    let plan = store.plan_reclaim().unwrap();
    store.reclaim(&plan, &mut |_| ControlFlow::Continue(())).unwrap();
    // The copies are there, their rows not yet.
    store.let_go(&(0..100).map(block).collect::<Vec<_>>());
    settle(&world, &store);
    store.let_go(&(0..100).map(block).collect::<Vec<_>>());
    settle(&world, &store);
    assert!((0..100).step_by(3).all(|number| rows(&world, number) == "E"));
    world.reclaim(&store);
    assert_eq!(store.live_bytes(), 0);
    scrub(&store);
}
