//! What only several machines have: a leader that dies, a directory that changes hands, a mount that has seen nothing yet.
//!
//! All nodes and mounts are on this machine. Not here: what one mount does by itself, which is measured as for one process.

use crate::Plan;
use crate::place::Measured;
use crate::place::Place;
use crate::place::drop_caches;
use crate::support;
use crate::support::Mount;
use crate::support::Random;
use crate::table::Bar;
use crate::table::Row;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

fn row(name: String, unit: &'static str, ours: Vec<f64>, bar: Bar) -> Row {
    Row { name, unit, ours, base: None, bar, server: None }
}

/// The longest that one program waited for a call while it made files, each written and synced, until it is told to stop.
fn longest_wait(dir: &Path, stop: &AtomicBool) -> f64 {
    let (mut longest, mut n) = (Duration::ZERO, 0);
    while !stop.load(SeqCst) {
        let start = support::now();
        let file = std::fs::File::create(dir.join(format!("file{}", n % 500))).unwrap();
        rustix::io::pwrite(&file, b"some bytes", 0).unwrap();
        file.sync_all().unwrap();
        longest = longest.max(start.elapsed());
        n += 1;
    }
    longest.as_secs_f64()
}

/// kill -9 of the leader, again and again: the longest wait of a program around each.
pub(crate) fn failover(plan: &Plan) -> Vec<Row> {
    let mut place = Place::three(plan.dir());
    let dir = place.make("load");
    let mut seconds = Vec::new();
    for _ in plan.rounds(100) {
        let stop = AtomicBool::new(false);
        let waited = std::thread::scope(|scope| {
            let program = scope.spawn(|| longest_wait(&dir, &stop));
            let cluster = place.cluster();
            let leader = cluster.settle();
            cluster.kill(leader);
            // The dead one comes back only when the others have a leader without it.
            cluster.settle();
            let made = std::fs::write(dir.join("after"), "goes on");
            stop.store(true, SeqCst);
            made.unwrap();
            let waited = program.join().unwrap();
            cluster.start(leader);
            cluster.settle();
            waited
        });
        seconds.push(waited);
    }
    seconds.sort_by(f64::total_cmp);
    let at = |part: usize| vec![seconds[(seconds.len() * part / 100).min(seconds.len() - 1)]];
    let name = |which: &str| format!("leader killed {} times: stall, {which}", seconds.len());
    vec![
        row(name("p50"), "s", at(50), Bar::None),
        row(name("p99"), "s", at(99), Bar::AtMost(1.0)),
        row(name("longest"), "s", at(100), Bar::AtMost(2.0)),
    ]
}

/// Another mount comes to a directory in which one has just made 10,000 files: how long its first look takes.
pub(crate) fn recall(plan: &Plan) -> Vec<Row> {
    let mut place = Place::three(plan.dir());
    let other = place.cluster().mount();
    let count = plan.count(10_000, 2_000);
    let (mut first, mut create) = (Vec::new(), Vec::new());
    for round in plan.rounds(7) {
        // A directory that nobody but the mount that makes it has ever looked at.
        let dir = place.make(&format!("round{round}"));
        (0..count).for_each(|n| std::fs::write(dir.join(format!("file{n}")), "").unwrap());
        let theirs = other.join(format!("round{round}"));
        let time = |run: &dyn Fn()| {
            let start = support::now();
            run();
            1e3 * start.elapsed().as_secs_f64()
        };
        let last = theirs.join(format!("file{}", count - 1));
        first.push(time(&|| assert!(last.metadata().is_ok(), "it was made before")));
        create.push(time(&|| std::fs::write(theirs.join("another"), "").unwrap()));
        let names = std::fs::read_dir(&theirs).unwrap().count() as u64;
        assert_eq!(names, count + 1);
    }
    let (look, wait) = busy(plan, &place, other.dir());
    vec![
        row(format!("recall, {count} files just made"), "ms", first, Bar::AtMost(100.0)),
        row("  then a create there".to_owned(), "ms", create, Bar::None),
        row("recall, files being made there".to_owned(), "ms", look, Bar::AtMost(100.0)),
        row("  the longest wait of who makes them".to_owned(), "ms", wait, Bar::None),
    ]
}

/// Another mount looks into a directory in which a program goes on making files: how long its first look takes, and how long that
/// program waits for a call, in milliseconds.
fn busy(plan: &Plan, place: &Place, other: &Path) -> (Vec<f64>, Vec<f64>) {
    let count = plan.count(4_000, 1_000);
    let (mut look, mut wait) = (Vec::new(), Vec::new());
    for round in plan.rounds(9) {
        let dir = place.make(&format!("busy{round}"));
        let theirs = other.join(format!("busy{round}/file0"));
        let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
        let makes = || {
            let mut longest = Duration::ZERO;
            for n in 0.. {
                let start = support::now();
                std::fs::write(dir.join(format!("file{n}")), "").unwrap();
                longest = longest.max(start.elapsed());
                if made.fetch_add(1, SeqCst) >= count && stop.load(SeqCst) {
                    break;
                }
            }
            longest
        };
        std::thread::scope(|scope| {
            let program = scope.spawn(makes);
            while made.load(SeqCst) < count {
                std::thread::yield_now();
            }
            let start = support::now();
            let found = theirs.metadata();
            look.push(1e3 * start.elapsed().as_secs_f64());
            stop.store(true, SeqCst);
            found.unwrap();
            wait.push(1e3 * program.join().unwrap().as_secs_f64());
        });
    }
    (look, wait)
}

/// Two mounts take turns in one directory, and both go at once.
pub(crate) fn ping_pong(plan: &Plan) -> Vec<Row> {
    let mut place = Place::three(plan.dir());
    let other = place.cluster().mount();
    let count = plan.count(2_000, 500);
    let dir = |mount: &Path, round: u64| mount.join(format!("round{round}"));
    let make =
        |dir: &Path, n: u64| drop(std::fs::File::create_new(dir.join(format!("file{n}"))).unwrap());
    let (mut turns, mut at_once) = (Measured::new(1), Measured::new(1));
    for round in plan.rounds(5) {
        place.make(&format!("round{round}"));
        let dirs = [dir(place.dir(), round), dir(other.dir(), round)];
        turns.time(0, &place, || {
            for n in 0..count {
                make(&dirs[(n % 2) as usize], n);
            }
        });
        at_once.time(0, &place, || {
            std::thread::scope(|scope| {
                for (which, dir) in dirs.iter().enumerate() {
                    let from = count + which as u64 * count / 2;
                    scope.spawn(move || (from..from + count / 2).for_each(|n| make(dir, n)));
                }
            });
        });
    }
    let count = count as f64;
    let row = |name: &str, measured: &Measured| Row {
        name: name.to_owned(),
        unit: "/s",
        ours: measured.rates(0, count),
        base: None,
        bar: Bar::AtLeast(2_000.0),
        server: Some(measured.server_each(count)),
    };
    vec![
        row("creates by two mounts, in turns", &turns),
        row("creates by two mounts, at once", &at_once),
    ]
}

fn stat_all(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let kind = entry.metadata().unwrap();
            if kind.is_dir() { stat_all(&entry.path()) } else { 1 }
        })
        .sum()
}

/// A mount that has just been made lists and looks at a large tree, against a cold ext4.
pub(crate) fn cold_scan(plan: &Plan) -> Vec<Row> {
    let files = plan.count(100_000, 10_000);
    let mut places = [Place::disk(plan.dir()), Place::three(plan.dir())];
    let data = Random::new(6).text(500);
    for place in &places {
        for n in 0..files {
            let dir = place.join(format!("tree/dir{}", n / 500));
            if n % 500 == 0 {
                std::fs::create_dir_all(&dir).unwrap();
            }
            std::fs::write(dir.join(format!("file{n}")), &data).unwrap();
        }
        place.settle();
    }
    let mut measured = Measured::new(places.len());
    for _ in plan.rounds(3) {
        drop_caches();
        measured.time(0, &places[0], || assert_eq!(stat_all(&places[0].join("tree")), files));
        // Its processor time is another process's: that of the nodes alone is counted.
        let fresh = places[1].cluster().mount();
        drop_caches();
        measured.time(1, &places[1], || assert_eq!(stat_all(&fresh.join("tree")), files));
        Mount::close(fresh);
    }
    let files = files as f64;
    vec![Row {
        name: format!("a fresh mount looks at {files} files"),
        unit: "files/s",
        ours: measured.rates(1, files),
        base: Some(("ext4, cold", measured.rates(0, files))),
        bar: Bar::None,
        server: Some(measured.server_each(files)),
    }]
}
