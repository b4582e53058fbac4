//! More nodes than copies: blocks are kept on some of the nodes, and moved when nodes come, go, or keep none.
//!
//! Not here: how that is decided (`cluster::place` in the source), and what a node's rows say (`store::block`).

use super::net::Net;
use super::place::Cluster;
use crate::support;
use crate::support::Random;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Every mount has to have heard of a placement before it counts; blocks are copied, and the others let go of.
const MOVED_LIMIT: Duration = Duration::from_secs(180);
/// Of one file: some dozens of blocks; much more than what nodes take from their disks ahead of use.
const FILE_BYTES: usize = 96 << 20;

/// Of a file that is one block of many.
const SMALL_BYTES: usize = 300_000;

/// Bytes that a node's segments take.
fn segments(cluster: &Cluster, node: usize) -> u64 {
    let entries = std::fs::read_dir(cluster.store(node).join("blocks")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().map_or(0, |file| file.len())).sum()
}

/// How many thousandths of all blocks each node keeps, once none is on its way; nothing while some are.
fn homes(status: &Value) -> Option<Vec<(u64, u64)>> {
    let placement = &status["placement"];
    if placement["moving"] != false || placement["everywhere"] != false {
        return None;
    }
    let home = |home: &Value| (home["node"].as_u64().unwrap(), home["now"].as_u64().unwrap());
    Some(placement["homes"].as_array()?.iter().map(home).collect())
}

/// Waits until these nodes and no others are home to blocks, and all blocks are there.
fn await_homes(cluster: &Cluster, nodes: &[u64]) {
    support::wait_until(MOVED_LIMIT, "blocks to be where they are to be", || {
        let Some(status) = cluster.status(0) else { return false };
        let lacks = |node: &Value| node["lacks"] != 0 && node["answers"] != false;
        let at_home = !status["nodes"].as_array().unwrap().iter().any(lacks);
        homes(&status).is_some_and(|homes| homes.iter().map(|home| home.0).eq(nodes.to_vec()))
            && at_home
    });
}

fn sum(dir: &Path) -> String {
    support::sh(dir, "find . -type f | sort | xargs sha256sum")
}

fn write(dir: &Path, name: &str, seed: u64) {
    std::fs::write(dir.join(name), Random::new(seed).noise(FILE_BYTES)).unwrap();
    std::fs::File::open(dir.join(name)).unwrap().sync_all().unwrap();
}

#[test]
fn more_nodes_than_copies_share_the_blocks() {
    let scratch = support::scratch();
    let stores: Vec<_> = (1..=4).map(|n| scratch.path().join(format!("store{n}"))).collect();
    let mut cluster = Cluster::on(Net::loopback(), stores, scratch.path());
    let mount = cluster.mount();
    write(mount.dir(), "early", 1);
    await_homes(&cluster, &[1, 2, 3, 4]);
    let all: u64 = homes(&cluster.status(0).unwrap()).unwrap().iter().map(|home| home.1).sum();
    assert!((2980..=3000).contains(&all), "three copies of everything: {all}");

    // What is written now is on three nodes each.
    let before: u64 = (0..4).map(|node| segments(&cluster, node)).sum();
    write(mount.dir(), "late", 2);
    let grown = (0..4).map(|node| segments(&cluster, node)).sum::<u64>() - before;
    let copies = grown as f64 / FILE_BYTES as f64;
    assert!((2.6..3.4).contains(&copies), "{copies:.2} copies were written");
    let expected = sum(mount.dir());

    // One dies: everything is there, and can be written.
    cluster.kill(1);
    let late = cluster.mount();
    assert_eq!(sum(late.dir()), expected);
    write(late.dir(), "later", 3);
    let expected = sum(mount.dir());
    cluster.start(1);
    cluster.settle();

    // One goes for good: the others have what it kept.
    support::run(cluster.tsfs(0).args(["cluster", "remove", "4"]).arg(cluster.store(0)));
    await_homes(&cluster, &[1, 2, 3]);
    cluster.kill(3);
    late.close();
    let last = cluster.mount();
    assert_eq!(sum(last.dir()), expected);
    last.close();
    mount.close();
    cluster.nodes.truncate(3);
    cluster.settle();
    cluster.close();
}

#[test]
fn a_node_does_what_its_roles_say() {
    let scratch = support::scratch();
    let store = |n: usize| scratch.path().join(format!("store{n}"));
    let mut cluster = Cluster::on(Net::loopback(), vec![store(1)], scratch.path());
    // Two that decide and keep nothing, and two that keep blocks and do not decide.
    for (n, roles) in [(1, "ts,lock,monitor"), (2, "ts,lock,monitor"), (3, "data"), (4, "data")] {
        cluster.add(store(n + 1));
        let token = cluster.invite();
        cluster.join_as(n, &token, roles);
        cluster.count(n + 1);
    }
    await_homes(&cluster, &[1, 4, 5]);
    let parts = || {
        let status = cluster.status(0)?;
        let part = |node: &Value| node["part"].as_str().unwrap().to_owned();
        Some(status["nodes"].as_array()?.iter().map(part).collect::<Vec<_>>())
    };
    support::wait_until(MOVED_LIMIT, "two to vote", || {
        parts().is_some_and(|parts| parts == ["leads", "votes", "votes", "learns", "learns"])
    });
    let mount = cluster.mount();
    let before = [0, 1, 2, 3, 4].map(|node| segments(&cluster, node));
    write(mount.dir(), "file", 1);
    let grown = [0, 1, 2, 3, 4].map(|node| segments(&cluster, node) - before[node]);
    let file = FILE_BYTES as u64;
    assert!(grown[1..3] == [0, 0] && [0, 3, 4].iter().all(|n| grown[*n] >= file), "{grown:?}");
    let expected = sum(mount.dir());
    mount.close();
    // One that keeps nothing leads, and reads what the others have.
    support::run(cluster.tsfs(0).args(["cluster", "drain", "1"]).arg(cluster.store(0)));
    let other = cluster.mount();
    assert_eq!(sum(other.dir()), expected);
    other.close();
    cluster.close();
}

/// Writes files, each synced before the next, until it is told to stop: how many.
fn write_files(dir: &Path, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    while !stop.load(SeqCst) {
        let mut file = std::fs::File::create(dir.join(format!("file{count}"))).unwrap();
        file.write_all(&Random::new(count).noise(SMALL_BYTES)).unwrap();
        file.sync_all().unwrap();
        count += 1;
    }
    count
}

/// Waits until every node answers the one that leads, while a program writes: who that is.
fn all_answer(cluster: &Cluster) -> usize {
    let mut leader = None;
    support::wait_until(MOVED_LIMIT, "every node to answer", || {
        let Some(status) = cluster.status(0) else { return false };
        leader = status["leader"].as_u64();
        let answers = |node: &Value| node["answers"] == true && node["part"] != "outside";
        leader.is_some() && status["nodes"].as_array().unwrap().iter().all(answers)
    });
    leader.unwrap() as usize - 1
}

#[test]
fn blocks_move_while_nodes_die() {
    let scratch = support::scratch();
    let stores: Vec<_> = (1..=4).map(|n| scratch.path().join(format!("store{n}"))).collect();
    let mut cluster = Cluster::on(Net::loopback(), stores, scratch.path());
    let mount = cluster.mount();
    let stop = AtomicBool::new(false);
    let count = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_files(mount.dir(), &stop));
        // While blocks are moved, and while they are let go of, one after the other dies, the leader too.
        for round in 0..6 {
            let node = (all_answer(&cluster) + round) % 4;
            cluster.kill(node);
            support::pause(Duration::from_millis(700));
            cluster.start(node);
        }
        all_answer(&cluster);
        // One is taken out, and another dies in the middle of that.
        let mut remove = cluster.tsfs(0);
        remove.args(["cluster", "remove", "4"]).arg(cluster.store(0));
        let mut remove = support::Running::start(remove.stderr(Stdio::null()));
        support::wait_until(MOVED_LIMIT, "blocks to be on their way", || {
            cluster.status(1).is_some_and(|status| status["placement"]["moving"] == true)
        });
        let other = if cluster.leader_says(1) == Some(1) { 2 } else { 1 };
        cluster.kill(other);
        support::pause(Duration::from_millis(700));
        cluster.start(other);
        let removed = remove.0.wait().unwrap();
        assert!(removed.success(), "{removed}");
        stop.store(true, SeqCst);
        writer.join().unwrap()
    });
    cluster.kill(3);
    cluster.nodes.truncate(3);
    cluster.settle();
    await_homes(&cluster, &[1, 2, 3]);
    mount.close();
    let late = cluster.mount();
    for n in 0..count {
        let read = std::fs::read(late.join(format!("file{n}"))).unwrap();
        assert!(read == Random::new(n).noise(SMALL_BYTES), "file {n} of {count}");
    }
    late.close();
    cluster.close();
}
