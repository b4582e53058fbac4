//! Mounts that die, alone or with all nodes, and power cuts that take what was not synced.
//!
//! Of what a dead mount's programs did, all that they synced is there, and the rest is a beginning of it. Not here: nodes that
//! die by themselves (`failover`).

use super::failover::FAULTS;
use super::failover::endure;
use super::failover::seed;
use super::load::Load;
use super::net::Net;
use super::place::Cluster;
use crate::crash::Writer;
use crate::crashfs::CrashFs;
use crate::support;
use crate::support::Mount;
use crate::support::Random;

/// Mounts that are killed in one test.
const DEATHS: usize = 4;

#[test]
fn a_mount_dies_and_what_is_left_is_a_beginning() {
    let seed = seed();
    println!("REPLAY TSFS_TEST_CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let mut cluster = Cluster::three(Net::loopback());
    let other = cluster.mount();
    for index in 0..DEATHS {
        let one = cluster.mount();
        // Made by one or the other: the dead one owns the directory, or shares it.
        let maker = if index % 2 == 0 { &one } else { &other };
        std::fs::create_dir(maker.join(format!("w{index}"))).unwrap();
        let mut writer = Writer::start(cluster.dir(), &one, index, random.next());
        let goal = 1 + random.below(1500);
        support::wait_until(super::load::HANG_LIMIT, "the writer to be under way", || {
            writer.progress() >= goal
        });
        let dead = one.kill();
        let done = writer.compare(&other.join(format!("w{index}")), true);
        println!("{} changes had returned", done.unwrap_or_else(|fault| panic!("{fault}")));
        drop(dead);
    }
    other.close();
    cluster.close();
}

/// Three disks that lose what was not synced, and a cluster on them.
fn on_lossy_disks(scratch: &tempfile::TempDir) -> (Vec<CrashFs>, Cluster) {
    let disks: Vec<CrashFs> =
        (1..=3).map(|n| CrashFs::mount(&scratch.path().join(format!("disk{n}")))).collect();
    let stores = disks.iter().map(|disk| disk.dir().join("store")).collect();
    let cluster = Cluster::on(Net::loopback(), stores, scratch.path());
    (disks, cluster)
}

/// All nodes die at once, and their disks lose what was not synced.
fn cut_power(cluster: &mut Cluster, disks: &[CrashFs], random: &mut Random) -> u64 {
    cluster.kill_all();
    disks.iter().map(|disk| disk.crash(random).pages).sum()
}

#[test]
fn the_power_of_all_nodes_fails_and_programs_go_on() {
    let scratch = support::scratch();
    let (disks, mut cluster) = on_lossy_disks(&scratch);
    let mut lost = 0;
    endure(&mut cluster, "power of all nodes cut", FAULTS, |cluster, random, stage| {
        stage.fault();
        lost += cut_power(cluster, &disks, random);
        cluster.start_all();
        cluster.settle();
    });
    assert!(lost > 0, "nothing was lost, so nothing was shown");
    cluster.close();
}

#[test]
fn the_power_of_everything_fails_and_what_was_synced_is_there() {
    let seed = seed();
    println!("REPLAY TSFS_TEST_CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let scratch = support::scratch();
    let (disks, mut cluster) = on_lossy_disks(&scratch);
    let mut lost = 0;
    for round in 0..DEATHS {
        let (one, other) = (cluster.mount(), cluster.mount());
        let name = format!("load{round}");
        let load = Load::start(&[&one, &other], &name, random.next());
        std::fs::create_dir(one.join(format!("w{round}"))).unwrap();
        let mut writer = Writer::start(cluster.dir(), &one, round, random.next());
        load.work(1 + random.below(800));
        let dead: Vec<_> = [one, other].map(Mount::kill).into_iter().collect();
        lost += cut_power(&mut cluster, &disks, &mut random);
        let report = load.finish();
        cluster.start_all();
        cluster.settle();
        let late = cluster.mount();
        report.judge_synced(&late, &name);
        let done = writer.compare(&late.join(format!("w{round}")), true);
        println!("{} changes had returned", done.unwrap_or_else(|fault| panic!("{fault}")));
        late.close();
        drop(dead);
    }
    assert!(lost > 0, "nothing was lost, so nothing was shown");
    cluster.close();
}
