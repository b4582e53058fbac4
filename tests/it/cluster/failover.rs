//! Nodes that die, freeze and come back under load: programs notice at most a stall, and nothing that they saw succeed is lost.
//!
//! `make test` does a dozen of them; TSFS_TEST_CHAOS_SECONDS=N goes on for so long (`make chaos`). Stalls are printed, not judged, except
//! that nobody hangs. Not here: lines that are cut (`cut`), mounts that die (`crashes`).

use super::history::Took;
use super::history::clock;
use super::history::spread;
use super::history::stalls;
use super::load::Load;
use super::net::Net;
use super::place::Cluster;
use super::place::SETTLE_LIMIT;
use crate::crash::Writer;
use crate::support;
use crate::support::Mount;
use crate::support::Random;
use std::time::Duration;

/// Steps of the load between two faults.
const STEPS: u64 = 300;
/// How often the leader is killed in `make test`.
const KILLS: u64 = 12;
/// How often anything else happens there.
pub(super) const FAULTS: u64 = 4;

/// A number to begin with: from the environment for who looks for a failure again, else another each time.
pub(super) fn seed() -> u64 {
    support::setting("TSFS_TEST_CHAOS_SEED").unwrap_or_else(clock)
}

/// Two mounts and their load, and writers beside it whose every change is known.
pub(super) struct Stage<'a> {
    mounts: [&'a Mount; 2],
    writers: Vec<Writer>,
    pub(super) load: Load,
    name: String,
    pub(super) faults: Vec<u64>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        cluster: &Cluster,
        mounts: [&'a Mount; 2],
        round: u64,
        seed: u64,
    ) -> Stage<'a> {
        let name = format!("load{round}");
        let load = Load::start(&mounts, &name, seed);
        let writer = |n: usize| {
            let index = round as usize * 2 + n;
            std::fs::create_dir(mounts[n].join(format!("w{index}"))).unwrap();
            Writer::start(cluster.dir(), mounts[n], index, seed.wrapping_add(n as u64))
        };
        let writers = (0..2).map(writer).collect();
        Stage { mounts, writers, load, name, faults: Vec::new() }
    }

    /// Notes that something happens to the nodes now.
    pub(super) fn fault(&mut self) {
        self.faults.push(clock());
    }

    /// Ends and judges it; returns how long everything took, and when the faults were.
    ///
    /// # Panics
    /// With the first fault, and if any program was told of an error.
    pub(super) fn judge(mut self, round: u64) -> (Vec<Took>, Vec<u64>) {
        let report = self.load.finish();
        println!("stalls so far: {}", spread(stalls(&report.took, &self.faults)));
        assert_eq!(report.errors(), Vec::<&str>::new());
        report.judge(&self.mounts, &self.name);
        let mut changes = 0;
        for (n, writer) in self.writers.iter_mut().enumerate() {
            let index = round as usize * 2 + n;
            // The other mount shows what this one's writer did.
            let dir = self.mounts[1 - n].join(format!("w{index}"));
            let done = writer.compare(&dir, false);
            changes += done.unwrap_or_else(|fault| panic!("writer {index}: {fault}"));
        }
        println!("and {changes} changes of {} writers", self.writers.len());
        (report.took, self.faults)
    }
}

/// Lets `fault` happen so often, or for as long as is asked for, under load that is judged and begun anew after so many.
pub(super) fn endure(
    cluster: &mut Cluster,
    what: &str,
    faults: u64,
    mut fault: impl FnMut(&mut Cluster, &mut Random, &mut Stage<'_>),
) {
    let seed = seed();
    println!("REPLAY TSFS_TEST_CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let (one, other) = (cluster.mount(), cluster.mount());
    let time = Duration::from_secs(support::setting("TSFS_TEST_CHAOS_SECONDS").unwrap_or(0));
    let start = support::now();
    let (mut count, mut longest, mut calls) = (0, Vec::new(), Vec::new());
    for round in 0.. {
        let mut stage = Stage::new(cluster, [&one, &other], round, random.next());
        for _ in 0..faults {
            stage.load.work(1 + random.below(STEPS));
            fault(cluster, &mut random, &mut stage);
            count += 1;
        }
        stage.load.work(STEPS);
        let (took, faults) = stage.judge(round);
        longest.extend(stalls(&took, &faults));
        calls.extend(took.iter().map(|took| Duration::from_nanos(took.nanos)));
        cluster.settle();
        if start.elapsed() >= time {
            break;
        }
    }
    println!("{what}, {count} times: stalls {}; each call {}", spread(longest), spread(calls));
    other.close();
    one.close();
}

#[test]
fn the_leader_is_killed_under_load() {
    let mut cluster = Cluster::three(Net::loopback());
    endure(&mut cluster, "leader killed", KILLS, |cluster, _, stage| {
        let leader = cluster.settle();
        stage.fault();
        cluster.kill(leader);
        stage.load.work(STEPS);
        cluster.start(leader);
        cluster.settle();
    });
    cluster.close();
}

#[test]
fn a_follower_is_killed_and_catches_up() {
    let mut cluster = Cluster::three(Net::loopback());
    endure(&mut cluster, "follower killed", FAULTS, |cluster, random, stage| {
        let follower = cluster.follower();
        stage.fault();
        cluster.kill(follower);
        stage.load.work(1 + random.below(3 * STEPS));
        cluster.start(follower);
        // Until it has all of it: the next may need it for the majority.
        cluster.settle();
    });
    cluster.close();
}

#[test]
fn the_leader_is_frozen_and_wakes_up_to_another() {
    let mut cluster = Cluster::three(Net::loopback());
    endure(&mut cluster, "leader frozen", FAULTS, |cluster, _, stage| {
        let leader = cluster.settle();
        stage.fault();
        cluster.freeze(leader);
        let others = cluster.nodes.len();
        support::wait_until(SETTLE_LIMIT, "another leader", || {
            (0..others)
                .filter(|n| *n != leader)
                .any(|n| cluster.leader_says(n).is_some_and(|now| now != leader))
        });
        stage.load.work(STEPS);
        cluster.thaw(leader);
        cluster.settle();
    });
    cluster.close();
}

#[test]
fn all_die_at_once_and_come_back() {
    let mut cluster = Cluster::three(Net::loopback());
    endure(&mut cluster, "all killed", FAULTS, |cluster, _, stage| {
        stage.fault();
        cluster.kill_all();
        cluster.start_all();
        cluster.settle();
    });
    cluster.close();
}

#[test]
fn a_rolling_restart_is_not_noticed() {
    let mut next = 0;
    let mut cluster = Cluster::three(Net::loopback());
    endure(&mut cluster, "restarted", FAULTS, |cluster, _, stage| {
        let node = next % cluster.nodes.len();
        next += 1;
        stage.fault();
        cluster.end(node);
        cluster.start(node);
        cluster.settle();
    });
    cluster.close();
}
