//! A node that is much slower than the others for a while: nobody waits for it, nobody keeps much for it, and it catches up while work goes on.
//!
//! Not here: nodes that are away (`failover`), disks that are full (`disks`).

use super::load::HANG_LIMIT;
use super::net::Net;
use super::place::Cluster;
use super::place::SETTLE_LIMIT;
use crate::crashfs::CrashFs;
use crate::support;
use crate::support::Random;
use crate::support::wait_until;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// What each write and each sync of a slow disk takes: a file that is synced could not be done in less.
const SLOW: Duration = Duration::from_millis(200);
/// What a slow line carries, each way: a tenth of what is written.
const RATE: &str = "4mbit burst 64kb latency 200ms";
/// Bytes that are written before a node is slow, and meanwhile: more than all that may wait for it.
const BEFORE: u64 = 16 << 20;
const MEANWHILE: u64 = 96 << 20;
/// What a process may take more than it did: of what waits for others, all bounds together, and what a store caches.
const GROWTH_MAX: u64 = 256 << 20;
/// Sizes of the files: what goes into the log as it is, and contents that become blocks.
const SIZES: [usize; 4] = [300, 4_000, 60_000, 300_000];

/// A program that writes files one after the other, each synced before the next.
#[derive(Default)]
struct Writer {
    stop: AtomicBool,
    files: AtomicU64,
    bytes: AtomicU64,
}

fn contents(n: u64) -> Vec<u8> {
    Random::new(n).noise(SIZES[n as usize % SIZES.len()])
}

impl Writer {
    /// Until it is told to stop: how long each file took.
    fn run(&self, dir: &Path) -> Vec<Duration> {
        let mut took = Vec::new();
        while !self.stop.load(SeqCst) {
            let n = self.files.load(SeqCst);
            let bytes = contents(n);
            let begun = support::now();
            let mut file = std::fs::File::create(dir.join(format!("file{n}"))).unwrap();
            file.write_all(&bytes).unwrap();
            file.sync_all().unwrap();
            took.push(begun.elapsed());
            self.bytes.fetch_add(bytes.len() as u64, SeqCst);
            self.files.fetch_add(1, SeqCst);
        }
        took
    }

    fn await_bytes(&self, more: u64) {
        let goal = self.bytes.load(SeqCst) + more;
        wait_until(SETTLE_LIMIT, "the writer to be under way", || self.bytes.load(SeqCst) >= goal);
    }
}

/// Memory that a process takes.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Has the writer stop, also where the test has failed.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

impl Cluster {
    /// What status says of a node: entries of the log and blocks that it lacks, and all that is not well.
    fn said_of(&self, node: usize) -> Option<(u64, u64, Vec<String>)> {
        let status = self.status((node + 1) % 3)?;
        let number = |what: &str| status["nodes"][node][what].as_u64();
        let health = status["health"].as_array()?.iter();
        let health = health.map(|line| line.as_str().unwrap_or_default().to_owned());
        // One that is slow to say how many blocks it lacks has said nothing of them.
        Some((number("lag")?, number("lacks").unwrap_or(0), health.collect()))
    }

    /// One of these nodes leads.
    fn have_lead(&mut self, nodes: &[usize]) {
        wait_until(SETTLE_LIMIT, "another to lead", || {
            let leader = self.settle();
            if nodes.contains(&leader) {
                return true;
            }
            let mut drain = self.tsfs(leader);
            drain.args(["cluster", "drain", &(leader + 1).to_string()]);
            support::run(drain.arg(self.store(leader)));
            false
        });
    }
}

fn middle(took: &[Duration]) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// While it is slow: status says so, and nobody keeps much for it.
fn look(cluster: &Cluster, writer: &Writer, node: usize, by_line: bool, processes: &[u32]) {
    let before: Vec<u64> = processes.iter().map(|pid| memory(*pid)).collect();
    let goal = writer.bytes.load(SeqCst) + MEANWHILE;
    let name = format!("node {} ", node + 1);
    let names_it = |health: &[String]| health.iter().any(|line| line.starts_with(&name));
    let mut lagged = None;
    wait_until(SETTLE_LIMIT, "the writer to go on", || {
        lagged = cluster.said_of(node).filter(|said| names_it(&said.2)).or(lagged.take());
        writer.bytes.load(SeqCst) >= goal
    });
    let grown: Vec<u64> = processes
        .iter()
        .zip(before)
        .map(|(pid, before)| memory(*pid).saturating_sub(before))
        .collect();
    let mib: Vec<u64> = grown.iter().map(|bytes| bytes >> 20).collect();
    println!("nodes and mount took {mib:?} MiB more; said of the slow node: {lagged:?}");
    assert!(grown.iter().all(|bytes| *bytes < GROWTH_MAX), "{mib:?}");
    let (lag, lacks, health) = lagged.expect("it lags");
    assert!(lag + lacks > 0);
    // A connection over which a ping takes too long, behind all that the kernel has taken before it, is given up and made anew.
    let away = health.iter().any(|line| line.contains("does not answer"));
    assert!(!away || by_line, "{health:?}");
}

/// A program works while `node` is slow, and while it catches up.
fn endure(cluster: &mut Cluster, node: usize, by_line: bool, slow: impl Fn(&Cluster, bool)) {
    let mount = cluster.mount();
    let others: Vec<usize> = (0..3).filter(|other| *other != node).collect();
    cluster.have_lead(&others);
    let processes: Vec<u32> = cluster.pids().chain([mount.pid()]).collect();
    let writer = Writer::default();
    let (took, from, to) = std::thread::scope(|scope| {
        let running = scope.spawn(|| writer.run(mount.dir()));
        let _until = Until(&writer.stop);
        writer.await_bytes(BEFORE);
        let from = writer.files.load(SeqCst) as usize;
        slow(cluster, true);
        look(cluster, &writer, node, by_line, &processes);
        let to = writer.files.load(SeqCst) as usize;
        slow(cluster, false);
        let begun = support::now();
        wait_until(SETTLE_LIMIT, "the node to catch up under load", || {
            cluster.assert_up();
            cluster.said_of(node).is_some_and(|(_, _, health)| health.is_empty())
        });
        println!("caught up after {:.1?}", begun.elapsed());
        writer.stop.store(true, SeqCst);
        (running.join().unwrap(), from, to)
    });
    let (usual, slowly) = (middle(&took[..from]), middle(&took[from..to]));
    let longest = took.iter().max().unwrap();
    println!(
        "{} files, each {usual:.1?}, {slowly:.1?} meanwhile, at most {longest:.1?}",
        took.len()
    );
    assert!(slowly < SLOW / 2, "at the pace of the slow one");
    assert!(*longest < HANG_LIMIT);
    mount.close();
    // The slow one has to have all of it: it decides with one more.
    cluster.settle();
    let other = (0..3).find(|other| *other != node).unwrap();
    cluster.kill(other);
    let late = cluster.mount();
    for n in 0..writer.files.load(SeqCst) {
        let read = std::fs::read(late.join(format!("file{n}"))).unwrap();
        assert!(read == contents(n), "file {n}");
    }
    late.close();
    cluster.start(other);
    cluster.settle();
}

#[test]
fn a_slow_disk_holds_nobody_up_and_catches_up_under_load() {
    let scratch = support::scratch();
    let disk = CrashFs::mount(&scratch.path().join("disk"));
    let mut stores: Vec<_> = (1..=2).map(|n| scratch.path().join(format!("store{n}"))).collect();
    stores.push(disk.dir().join("store"));
    let mut cluster = Cluster::on(Net::loopback(), stores, scratch.path());
    endure(&mut cluster, 2, false, |_, slow| disk.slow(if slow { SLOW } else { Duration::ZERO }));
    cluster.close();
}

#[test]
fn a_slow_line_holds_nobody_up_and_catches_up_under_load() {
    let mut cluster = Cluster::three(Net::spaces(4));
    endure(&mut cluster, 2, true, |cluster, slow| {
        cluster.net().lines().throttle(2, slow.then_some(RATE));
    });
    cluster.close();
}

/// Everybody waits for the disk of the node that leads: another one leads then, and programs notice no more of it.
#[test]
fn a_leader_with_a_slow_disk_hands_over() {
    let scratch = support::scratch();
    let disk = CrashFs::mount(&scratch.path().join("disk"));
    let mut stores = vec![disk.dir().join("store")];
    stores.extend((2..=3).map(|n| scratch.path().join(format!("store{n}"))));
    let mut cluster = Cluster::on(Net::loopback(), stores, scratch.path());
    let mount = cluster.mount();
    cluster.have_lead(&[0]);
    let writer = Writer::default();
    let took = std::thread::scope(|scope| {
        let running = scope.spawn(|| writer.run(mount.dir()));
        let _until = Until(&writer.stop);
        writer.await_bytes(1 << 20);
        disk.slow(SLOW);
        wait_until(SETTLE_LIMIT, "another to lead", || {
            let leader = (1..3).find_map(|node| cluster.leader_says(node));
            leader.is_some_and(|leader| leader != 0)
        });
        let from = writer.files.load(SeqCst) as usize;
        writer.await_bytes(8 << 20);
        wait_until(SETTLE_LIMIT, "the status to say so", || {
            cluster.said_of(0).is_some_and(|(_, _, health)| {
                health.iter().any(|line| line.starts_with("node 1 has a slow disk"))
            })
        });
        disk.slow(Duration::ZERO);
        writer.stop.store(true, SeqCst);
        running.join().unwrap().split_off(from)
    });
    println!("{} files since, each {:.1?}", took.len(), middle(&took));
    assert!(middle(&took) < SLOW / 2, "everybody still waits for it");
    mount.close();
    cluster.settle();
    cluster.close();
}
