//! Rounds over all segments, on a clock that the test moves.

use super::*;
use crate::tsdb_server::data::tests::World;
use crate::tsdb_server::data::tests::block;
use crate::tsdb_server::data::tests::frame;
use crate::tsdb_server::data::tests::write;
use crate::types::Stamp;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

fn scrubber(world: &World) -> Scrubber {
    let (table, blocks) = (world.table.clone(), world.blocks.clone());
    let upkeep = move || {
        write(&table, &blocks, |changes| blocks.upkeep(changes).unwrap());
        Ok(())
    };
    let parts = Parts {
        blocks: world.blocks.clone(),
        clock: world.clock.clone(),
        upkeep: Box::new(upkeep),
    };
    Scrubber::new(parts, Options { bytes_per_second: 1 << 20, every: WEEK })
}

/// Works for so many seconds, or until the round is over; how many it took.
fn work(world: &World, scrubber: &mut Scrubber, seconds_max: u64) -> u64 {
    for second in 0..seconds_max {
        loop {
            match scrubber.work().unwrap() {
                Worked::More => {}
                Worked::Idle(LOOK_EVERY) => return second,
                Worked::Idle(_) => break,
            }
        }
        world.clock.advance(Duration::from_secs(1));
    }
    seconds_max
}

#[test]
fn rot_is_found_within_a_round_and_listed_for_repair() {
    let world = World::new();
    world.name(0..1000, |_| true);
    assert!(world.blocks.segments().len() > 2);
    for number in [3, 500, 999] {
        world.damage(number);
    }
    let mut scrubber = scrubber(&world);
    assert_eq!(work(&world, &mut scrubber, 100), 0, "the first round is not due");
    assert_eq!(world.blocks.listed(), 0);
    world.clock.advance(WEEK);
    let seconds = work(&world, &mut scrubber, 100);
    // Eight MiB at one a second.
    assert!((7..=12).contains(&seconds), "{seconds} seconds");
    world.upkeep();
    assert_eq!(world.blocks.missing(None, 9), Ok([3, 500, 999].map(block).to_vec()));
    assert_eq!(work(&world, &mut scrubber, 100), 0, "it is over");
    for number in [3, 500, 999] {
        world.blocks.supply(block(number), &frame(number)).unwrap();
    }
    world.blocks.sync().unwrap();
    world.upkeep();
    world.clock.advance(WEEK);
    work(&world, &mut scrubber, 100);
    world.upkeep();
    assert_eq!((world.blocks.listed(), world.blocks.damage_met()), (0, 0));
}

#[test]
fn a_round_goes_on_where_it_was_after_a_restart() {
    let world = World::new();
    world.name(0..1000, |_| true);
    let mut first = scrubber(&world);
    work(&world, &mut first, 100);
    world.clock.advance(WEEK);
    assert_eq!(work(&world, &mut first, 4), 4, "in the midst of it");
    drop(first);
    // What was scrubbed and rots now is not looked at again in this round.
    world.damage(3);
    world.damage(999);
    let seconds = work(&world, &mut scrubber(&world), 100);
    assert!((3..=8).contains(&seconds), "{seconds} seconds");
    world.upkeep();
    assert_eq!(world.blocks.missing(None, 9), Ok(vec![block(999)]));
    assert_eq!(work(&world, &mut scrubber(&world), 100), 0, "a new process knows that it is over");
    world.clock.advance(WEEK);
    work(&world, &mut scrubber(&world), 100);
    world.upkeep();
    assert_eq!(world.blocks.missing(None, 9), Ok(vec![block(3), block(999)]));
}

#[test]
fn a_clock_that_was_ahead_puts_no_round_off() {
    let world = World::new();
    world.name(0..100, |_| true);
    let ahead = Stamp(world.clock.wall().0 + 100 * WEEK.as_nanos() as u64);
    world.blocks.note_scrubbed(Scrubbed { segment: None, begun: ahead });
    world.upkeep();
    world.damage(3);
    let mut scrubber = scrubber(&world);
    assert_eq!(work(&world, &mut scrubber, 100), 0, "a week has to pass first");
    world.clock.advance(WEEK);
    work(&world, &mut scrubber, 100);
    world.upkeep();
    assert_eq!(world.blocks.missing(None, 9), Ok(vec![block(3)]));
}

#[test]
fn a_store_in_use_is_not_taken_for_damaged() {
    let world = World::new();
    world.name(0..400, |_| true);
    let mut scrubber = scrubber(&world);
    work(&world, &mut scrubber, 1);
    world.clock.advance(WEEK);
    for number in 0..40 {
        let _ = scrubber.work().unwrap();
        world.clock.advance(Duration::from_millis(700));
        let from = 1000 + number * 10;
        world.name(from..from + 10, |_| true);
        let freed: Vec<_> = (number * 10..number * 10 + 9).map(block).collect();
        world.write(|changes| world.blocks.freed(&freed, changes).unwrap());
        if let Some(plan) = world.blocks.plan_reclaim() {
            let go_on = &mut |_| std::ops::ControlFlow::Continue(());
            world.blocks.reclaim(&plan, go_on).unwrap();
            world.upkeep();
            let retired = world.blocks.retired();
            crate::series::table::Table::flush(&*world.table).unwrap();
            world.blocks.remove(retired).unwrap();
        }
    }
    world.upkeep();
    assert_eq!((world.blocks.listed(), world.blocks.damage_met()), (0, 0));
}
