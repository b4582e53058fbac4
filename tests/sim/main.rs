//! The replicated log with several members in a simulated world: clocks, network, disks and processes are decided by a seed.
//!
//! The same seed gives the same run, to the last byte. A failure prints its seed; `make sim SEED=N` runs that one alone,
//! `make sim SEEDS=N` as many as asked for. Not here: clients' caches, blocks, the transport.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a run tells its figures and its seed")]

/// Chance from a seed.
mod chance;
/// Somebody who changes things, and remembers what was promised.
mod client;
/// What goes wrong, and when.
mod faults;
/// What must hold after every step.
mod invariants;
/// One member: its clock, its disk, and the process while it runs.
mod member;
/// Messages on their way.
mod network;
/// All of it together, a millisecond at a time.
mod world;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;
use world::Tally;
use world::World;

/// Seeds of an ordinary run.
const SEEDS: u64 = 40;

#[expect(clippy::disallowed_methods, reason = "the settings of a test, not of the program")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn run(seed: u64) -> Tally {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed);
        world.run();
        world.heal();
        world.tally()
    }));
    result.unwrap_or_else(|panic| {
        println!("again: make sim SEED={seed}");
        resume_unwind(panic)
    })
}

#[test]
fn nothing_acknowledged_is_lost_whatever_happens() {
    if let Some(seed) = number("TSFS_SIM_SEED") {
        println!("{:#?}", run(seed));
        return;
    }
    let mut all = Tally::default();
    for seed in 0..number("TSFS_SIM_SEEDS").unwrap_or(SEEDS) {
        all.add(&run(seed));
    }
    println!("{all:#?}");
    all.covers();
}

#[test]
fn a_seed_is_a_whole_run() {
    assert_eq!(run(7), run(7));
}
