//! Lines that are cut, in both directions or in one, with every process in a network namespace of its own.
//!
//! Not here: processes that die (`failover`, `crashes`).

use super::failover::FAULTS;
use super::failover::endure;
use super::load::HANG_LIMIT;
use super::net::Net;
use super::place::Cluster;
use super::place::SETTLE_LIMIT;
use crate::crash::Writer;
use crate::support;
use crate::support::wait_until;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

/// Three nodes and two mounts.
const PLACES: usize = 5;
/// Steps of the load while a line is cut.
const STEPS: u64 = 200;

impl Cluster {
    /// Waits until another node than `old` leads and says so.
    fn succeed(&self, old: usize) {
        wait_until(SETTLE_LIMIT, "another leader", || {
            let mut others = (0..self.nodes.len()).filter(|node| *node != old);
            others.any(|node| self.leader_says(node).is_some_and(|leader| leader != old))
        });
    }
}

#[test]
fn the_leader_is_cut_off() {
    let mut cluster = Cluster::three(Net::spaces(PLACES));
    endure(&mut cluster, "leader cut off", FAULTS, |cluster, _, stage| {
        let leader = cluster.settle();
        stage.fault();
        cluster.net().lines().link(leader, false);
        cluster.succeed(leader);
        stage.load.work(STEPS);
        cluster.net().lines().link(leader, true);
        cluster.settle();
    });
    cluster.close();
}

#[test]
fn a_line_between_two_nodes_works_in_one_direction() {
    let mut cluster = Cluster::three(Net::spaces(PLACES));
    endure(&mut cluster, "half a line cut", FAULTS, |cluster, random, stage| {
        let leader = cluster.settle();
        let follower = (leader + 1 + random.below(2) as usize) % 3;
        let (from, to) = if random.below(2) == 0 { (leader, follower) } else { (follower, leader) };
        stage.fault();
        cluster.net().lines().cut(from, to);
        // With the third, whoever leads has a majority.
        stage.load.work(STEPS);
        cluster.net().lines().mend(from, to);
        cluster.settle();
    });
    cluster.close();
}

#[test]
fn the_leader_hears_and_is_not_heard() {
    let mut cluster = Cluster::three(Net::spaces(PLACES));
    endure(&mut cluster, "leader not heard by nodes", FAULTS, |cluster, _, stage| {
        let leader = cluster.settle();
        let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
        stage.fault();
        // The mounts still reach it: it may not answer them from what it believes.
        others.iter().for_each(|to| cluster.net().lines().cut(leader, *to));
        cluster.succeed(leader);
        stage.load.work(STEPS);
        others.iter().for_each(|to| cluster.net().lines().mend(leader, *to));
        cluster.settle();
    });
    cluster.close();
}

#[test]
fn a_mount_that_is_cut_off_shortly_loses_nothing() {
    let mut cluster = Cluster::three(Net::spaces(PLACES));
    let (one, other) = (cluster.mount(), cluster.mount());
    std::fs::create_dir(one.join("w0")).unwrap();
    let mut writer = Writer::start(cluster.dir(), &one, 0, super::failover::seed());
    for _ in 0..3 {
        let goal = writer.progress() + 200;
        wait_until(HANG_LIMIT, "the writer to be under way", || writer.progress() >= goal);
        cluster.net().lines().link(3, false);
        // Less than the connection needs to be given up, and less than a lease.
        let start = support::now();
        wait_until(HANG_LIMIT, "a while", || start.elapsed() > Duration::from_secs(2));
        cluster.net().lines().link(3, true);
    }
    let goal = writer.progress() + 200;
    wait_until(HANG_LIMIT, "the writer to go on", || writer.progress() >= goal);
    writer.compare(&other.join("w0"), false).unwrap();
    other.close();
    one.close();
    cluster.close();
}

#[test]
fn a_mount_that_is_cut_off_for_long_is_not_waited_for_and_is_told() {
    let mut cluster = Cluster::three(Net::spaces(PLACES));
    let (one, other) = (cluster.mount(), cluster.mount());
    let mut file = File::create(one.join("file")).unwrap();
    file.write_all(b"synced ").unwrap();
    file.sync_all().unwrap();
    cluster.net().lines().link(3, false);
    file.write_all(b"and not").unwrap();
    let start = support::now();
    let seen = std::fs::read_to_string(other.join("file")).unwrap();
    println!("waited {:.1?} for a mount that does not answer", start.elapsed());
    assert!(start.elapsed() < HANG_LIMIT);
    assert!(seen == "synced " || seen == "synced and not", "{seen:?}");
    std::fs::write(other.join("file"), "another's").unwrap();
    cluster.net().lines().link(3, true);
    // What it took after the last sync never got there: it may not say that it did.
    let told = file.sync_all();
    assert!(told.is_err() || seen == "synced and not", "{told:?} of {seen:?}");
    assert_eq!(std::fs::read_to_string(other.join("file")).unwrap(), "another's");
}
