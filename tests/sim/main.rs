//! The cluster in a simulated world: clocks, network, disks, processes and mounts are decided by a seed.
//!
//! The same seed gives the same run, to the last byte. A failure prints its seed; `make sim SEED=N` runs that one alone,
//! `make sim SEEDS=N` as many as asked for. Two loads: one proposer that fills the log, and mounts with sessions. As in
//! production are the log and its driver, the disk's formats, applying, the rows, the role lock, what a mount owns, and all that
//! is said, as bytes; so are the blocks of members, where they are kept, and what is decided about those that are lacking. Not here: the
//! production client and its threads (`it/model` and `make chaos` have those), TLS. `docs/decisions/0018-the-simulated-cluster.md` has the
//! reasons and what was planted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a run tells its figures and its seed")]

/// Chance from a seed.
mod chance;
/// Somebody who changes things, and remembers what was promised.
mod client;
/// What was under way while what went wrong.
mod cover;
/// The blocks of a member, and what it does about those that it lacks.
mod data;
/// What a member answers to mounts.
mod door;
/// What goes wrong, and when.
mod faults;
/// What must hold after every step.
mod invariants;
/// Connections between mounts and members.
mod lines;
/// One member: its clock, its disk, and the process while it runs.
mod member;
/// Where blocks are kept.
mod monitor;
/// A mount: a session and what its programs do.
mod mount;
/// Messages on their way.
mod network;
/// What happened in a run.
mod tally;
/// All of it together, a millisecond at a time.
mod world;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;
use tally::Tally;
use world::Load;
use world::World;

/// Seeds of an ordinary run.
const SEEDS: u64 = 40;
const SEEDS_OF_MOUNTS: u64 = 20;

#[expect(clippy::disallowed_methods, reason = "the settings of a test, not of the program")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn run(seed: u64, load: Load) -> Tally {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, load);
        world.run();
        world.heal();
        world.tally()
    }));
    result.unwrap_or_else(|panic| {
        println!("{load:?} again: make sim SEED={seed}");
        resume_unwind(panic)
    })
}

fn run_all(load: Load, ordinary: u64) {
    if let Some(seed) = number("TSFS_SIM_SEED") {
        println!("{:#?}", run(seed, load));
        return;
    }
    let seeds = number("TSFS_SIM_SEEDS").unwrap_or(ordinary);
    let mut all = Tally::default();
    for seed in 0..seeds {
        all.add(&run(seed, load));
    }
    println!("{load:?}: {seeds} seeds, {:.1} simulated hours", all.simulated_ms as f64 / 3.6e6);
    println!("{all:#?}");
    all.covers(load);
}

#[test]
fn nothing_acknowledged_is_lost_whatever_happens() {
    run_all(Load::Log, SEEDS);
}

#[test]
fn mounts_see_one_tree_whatever_happens() {
    run_all(Load::Mounts, SEEDS_OF_MOUNTS);
}

#[test]
fn a_seed_is_a_whole_run() {
    assert_eq!(run(7, Load::Log), run(7, Load::Log));
    assert_eq!(run(6, Load::Mounts), run(6, Load::Mounts));
}
