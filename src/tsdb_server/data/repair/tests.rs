//! The task, piece by piece, on a clock that the test moves.

use super::*;
use crate::tsdb_server::data::tests::Others;
use crate::tsdb_server::data::tests::World;
use crate::tsdb_server::data::tests::block;
use crate::tsdb_server::data::tests::frame;
use crate::tsdb_server::data::tests::write;
use bytes::Bytes;
use std::sync::Barrier;

fn repair(world: &World, peers: Arc<dyn Peers>, options: Options) -> Repair {
    let (table, blocks) = (world.table.clone(), world.blocks.clone());
    let upkeep = move || {
        write(&table, &blocks, |changes| blocks.upkeep(changes).unwrap());
        Ok(())
    };
    let parts = Parts {
        blocks: world.blocks.clone(),
        peers,
        clock: world.clock.clone(),
        upkeep: Box::new(upkeep),
        space_left: Box::new(|| 1 << 30),
    };
    Repair::new(parts, options)
}

fn with_others(world: &World) -> Repair {
    repair(world, world.others.clone(), Options { bytes_per_second: u64::MAX, at_once: 3 })
}

/// Works until there is nothing to do for now.
fn work(repair: &mut Repair) {
    while repair.work().unwrap() == Worked::More {}
}

fn asked(others: &Others) -> usize {
    std::mem::take(&mut *others.asked.lock()).len()
}

#[test]
fn everything_on_the_list_is_fetched_once() {
    let world = World::new();
    world.name(0..100, |number| number % 4 == 0);
    world.others_have(0..100);
    let mut repair = with_others(&world);
    let watch = repair.watch();
    assert_eq!(watch.progress().left, 75);
    assert_eq!(watch.health().len(), 1);
    work(&mut repair);
    assert_eq!(asked(&world.others), 75);
    let Progress { left, repaired, repaired_bytes, nobody_has, unreachable } = watch.progress();
    assert_eq!((left, repaired, nobody_has, unreachable), (0, 75, 0, 0));
    assert!(repaired_bytes > 75 * 1000);
    assert_eq!(watch.health(), [""; 0]);
    for number in 0..100 {
        assert_eq!(world.blocks.get(block(number)), Ok(frame(number)));
    }
    // What is damaged later is met, listed and fetched.
    world.damage(7);
    assert!(world.blocks.get(block(7)).is_err());
    work(&mut repair);
    assert_eq!((asked(&world.others), world.blocks.get(block(7))), (1, Ok(frame(7))));
}

#[test]
fn what_nobody_has_is_asked_for_ever_more_rarely_and_said() {
    let world = World::new();
    world.name(0..3, |_| false);
    world.others_have(0..2);
    let mut repair = with_others(&world);
    let watch = repair.watch();
    let mut rounds = 0;
    for _ in 0..4000 {
        work(&mut repair);
        rounds += usize::from(asked(&world.others) > 0);
        world.clock.advance(Duration::from_secs(1));
    }
    // At 1, 2, 4, … seconds, then every five minutes.
    assert!((18..=26).contains(&rounds), "{rounds}");
    assert_eq!((watch.progress().left, watch.progress().nobody_has), (1, 1));
    assert!(watch.health()[1].contains("1 blocks are whole on no node"), "{:?}", watch.health());
    // A node that has it comes back.
    world.others_have(2..3);
    world.clock.advance(AGAIN_MAX);
    work(&mut repair);
    assert_eq!((watch.progress().left, watch.progress().nobody_has), (0, 0));
    assert_eq!(watch.health(), [""; 0]);
}

#[test]
fn while_no_node_can_be_reached_none_is_pestered() {
    let world = World::new();
    world.name(0..500, |_| false);
    world.others_have(0..500);
    *world.others.away.lock() = true;
    let mut repair = with_others(&world);
    let watch = repair.watch();
    for _ in 0..1000 {
        work(&mut repair);
        world.clock.advance(Duration::from_secs(1));
    }
    let count = asked(&world.others);
    assert!((GROUP..=12 * GROUP).contains(&count), "{count}");
    let health = watch.health().join("\n");
    assert!(health.contains("wait for a node that cannot be reached"), "{health}");
    assert!(!health.contains("on no node"), "{health}");
    *world.others.away.lock() = false;
    for _ in 0..2 {
        world.clock.advance(AGAIN_MAX);
        work(&mut repair);
    }
    assert_eq!(watch.progress().left, 0);
}

#[test]
fn it_keeps_to_its_rate_and_waits_for_space() {
    let world = World::new();
    world.name(0..200, |_| false);
    world.others_have(0..200);
    let total: u64 = (0..200).map(|number| frame(number).len() as u64).sum();
    let options = Options { bytes_per_second: total / 10, at_once: 2 };
    let mut repair = repair(&world, world.others.clone(), options);
    repair.parts.space_left = Box::new(|| 0);
    work(&mut repair);
    assert_eq!(asked(&world.others), 0);
    repair.parts.space_left = Box::new(|| 1);
    let mut seconds = 0;
    while world.blocks.listed() > 0 {
        work(&mut repair);
        world.clock.advance(Duration::from_secs(1));
        seconds += 1;
    }
    assert!((8..=16).contains(&seconds), "{seconds} seconds instead of 10");
}

/// Answers only when so many are asking.
struct Together(Barrier);

impl Peers for Together {
    fn fetch(&self, block: BlockId, _: bool) -> Result<Option<Bytes>, FsError> {
        self.0.wait();
        Ok(Some(frame(block.number)))
    }
}

#[test]
fn several_are_fetched_at_once() {
    let world = World::new();
    world.name(0..8, |_| false);
    let options = Options { bytes_per_second: u64::MAX, at_once: 4 };
    let mut repair = repair(&world, Arc::new(Together(Barrier::new(4))), options);
    work(&mut repair);
    assert_eq!(world.blocks.listed(), 0);
}

#[test]
fn what_is_freed_while_it_is_fetched_is_not_kept() {
    struct Freeing(World, Mutex<bool>);
    impl Peers for Freeing {
        fn fetch(&self, block: BlockId, _: bool) -> Result<Option<Bytes>, FsError> {
            if !std::mem::replace(&mut *self.1.lock(), true) {
                self.0.write(|changes| self.0.blocks.freed(&[block], changes).unwrap());
            }
            Ok(Some(frame(block.number)))
        }
    }
    let world = World::new();
    world.name(0..1, |_| false);
    let (blocks, freeing) = (world.blocks.clone(), World { ..world });
    let peers = Arc::new(Freeing(freeing, Mutex::new(false)));
    let mut repair =
        repair(&peers.0, peers.clone(), Options { bytes_per_second: u64::MAX, at_once: 1 });
    work(&mut repair);
    assert_eq!((blocks.listed(), blocks.get(block(0))), (0, Err(FsError::Stale)));
    assert_eq!(repair.watch().progress().repaired, 0);
}
