//! What has to be on disk before it returns: write + fsync, and a database's commits.

use crate::Plan;
use crate::place::Measured;
use crate::place::Place;
use crate::support;
use crate::support::Random;
use crate::table::Bar;
use crate::table::Row;
use crate::table::median;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

const PAGE: u64 = 4096;
/// Pages of the files that are overwritten: 16 MiB.
const PAGES: u64 = 4096;

/// A file whose every page has been written and synced: overwriting one allocates nothing.
fn prewritten(path: &Path, random: &mut Random) -> File {
    let file =
        File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
    for n in 0..16 {
        file.write_all_at(&random.text(1 << 20), n << 20).unwrap();
    }
    file.sync_all().unwrap();
    file
}

/// Seconds that each of `count` overwrites of a random page takes, with its sync.
fn overwrite(file: &File, random: &mut Random, count: u64, sync: impl Fn(&File)) -> Vec<f64> {
    let page = random.text(PAGE as usize);
    let each = |_| {
        let start = support::now();
        file.write_all_at(&page, random.below(PAGES) * PAGE).unwrap();
        sync(file);
        start.elapsed().as_secs_f64()
    };
    (0..count).map(each).collect()
}

/// The median of raw overwrites with fdatasync: of one file, or of three by as many threads at once, the second fastest's.
fn raw_each(files: &[File], random: &mut Random, count: u64) -> f64 {
    let seeds: Vec<u64> = files.iter().map(|_| random.next()).collect();
    let run = |file: &File, seed: u64| {
        median(&overwrite(file, &mut Random::new(seed), count, |file| file.sync_data().unwrap()))
    };
    let mut medians: Vec<f64> = std::thread::scope(|scope| {
        let spawn = |(file, seed)| scope.spawn(move || run(file, seed));
        let threads: Vec<_> = files.iter().zip(seeds).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    medians.sort_by(f64::total_cmp);
    medians[files.len() / 2]
}

/// 4 KiB write + fsync against a raw overwrite + fdatasync on the same disk; and against that with what FUSE alone takes
/// for the two calls, below which no server comes.
pub(crate) fn sync(plan: &Plan) -> Vec<Row> {
    let mut random = Random::new(3);
    let places = [Place::disk(plan.dir()), plan.ours(), Place::nofuse(plan.dir())];
    let raw: Vec<File> = (0..plan.bar(1, 3))
        .map(|n| prewritten(&places[0].join(format!("raw{n}")), &mut random))
        .collect();
    let ours = prewritten(&places[1].join("file"), &mut random);
    let bare = prewritten(&places[2].join("file"), &mut random);
    let fsync = |file: &File| file.sync_all().unwrap();
    let (mut raw_us, mut our_us, mut our_p99) = (Vec::new(), Vec::new(), Vec::new());
    let mut least_us = Vec::new();
    places[1].settle();
    let (mut server, mut operations) = (Duration::ZERO, 0.0);
    let each = 100;
    for _ in plan.rounds(21) {
        raw_us.push(1e6 * raw_each(&raw, &mut random, each));
        let before = places[1].server_time();
        let mut seconds = overwrite(&ours, &mut random, each, fsync);
        server += places[1].server_time() - before;
        operations += each as f64;
        seconds.sort_by(f64::total_cmp);
        our_p99.push(1e6 * seconds[each as usize * 99 / 100]);
        our_us.push(1e6 * median(&seconds));
        let calls = 1e6 * median(&overwrite(&bare, &mut random, each, fsync));
        least_us.push(calls + raw_us[raw_us.len() - 1]);
    }
    let server = Some(server.as_secs_f64() * 1e6 / operations);
    let row = |name: &str, ours: &[f64], base, bar| Row {
        name: name.to_owned(),
        unit: "us",
        ours: ours.to_vec(),
        base: Some(base),
        bar,
        server,
    };
    vec![
        row(
            "4 KiB write + fsync, p50",
            &our_us,
            ("us sync", raw_us.clone()),
            Bar::AtMost(plan.bar(1.6, 2.0)),
        ),
        row("4 KiB write + fsync, p50", &our_us, ("sync+nofuse", least_us), Bar::None),
        row("4 KiB write + fsync, p99", &our_p99, ("us sync", raw_us), Bar::None),
    ]
}

/// Writes + fsyncs a second by so many threads at once, each with its own file.
fn syncs(files: &[File], threads: usize, time: Duration) -> f64 {
    let start = support::now();
    let run = |n: usize, file: &File| {
        let mut random = Random::new(100 + n as u64);
        let mut count = 0;
        while start.elapsed() < time {
            count += overwrite(file, &mut random, 10, |file| file.sync_all().unwrap()).len();
        }
        count
    };
    let total: usize = std::thread::scope(|scope| {
        let spawn = |(n, file)| scope.spawn(move || run(n, file));
        let threads: Vec<_> = files.iter().enumerate().take(threads).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    total as f64 / start.elapsed().as_secs_f64()
}

/// The same by sixteen threads against one.
pub(crate) fn sync_threads(plan: &Plan) -> Vec<Row> {
    let mut random = Random::new(4);
    let places = [Place::disk(plan.dir()), plan.ours()];
    let open = |place: &Place, random: &mut Random| -> Vec<File> {
        (0..16).map(|n| prewritten(&place.join(format!("file{n}")), random)).collect()
    };
    let (disk, ours) = (open(&places[0], &mut random), open(&places[1], &mut random));
    let time = Duration::from_millis(plan.count(1500, 500));
    let (mut one, mut many, mut disk_many) = (Vec::new(), Vec::new(), Vec::new());
    let (mut server, mut operations) = (Duration::ZERO, 0.0);
    for _ in plan.rounds(5) {
        one.push(syncs(&ours, 1, time));
        let before = places[1].server_time();
        many.push(syncs(&ours, 16, time));
        server += places[1].server_time() - before;
        operations += many.last().unwrap() * time.as_secs_f64();
        disk_many.push(syncs(&disk, 16, time));
    }
    let server = Some(server.as_secs_f64() * 1e6 / operations);
    let row = |base, bar| Row {
        name: "4 KiB write + fsync, 16 threads".to_owned(),
        unit: "/s",
        ours: many.clone(),
        base: Some(base),
        bar,
        server,
    };
    vec![
        row(("one thread", one), Bar::AtLeast(plan.bar(6.0, 5.0))),
        row(("ext4", disk_many), Bar::None),
    ]
}

/// Commits of SQLite, a row each.
pub(crate) fn sqlite(plan: &Plan) -> Vec<Row> {
    let commits = plan.count(400, 100);
    let places = [Place::disk(plan.dir()), plan.ours()];
    let mut rows = Vec::new();
    for journal in ["DELETE", "WAL"] {
        let mut measured = Measured::new(places.len());
        for round in plan.rounds(7) {
            for (index, place) in places.iter().enumerate() {
                let path = place.join(format!("{journal}{round}.db"));
                let setup = format!(
                    "PRAGMA journal_mode={journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);"
                );
                support::run(Command::new("sqlite3").arg(&path).arg(setup).stdout(Stdio::null()));
                let insert =
                    "INSERT INTO t(v) VALUES (hex(randomblob(100)));\n".repeat(commits as usize);
                let script = plan.dir().join("commits.sql");
                std::fs::write(&script, format!("PRAGMA synchronous=FULL;\n{insert}")).unwrap();
                measured.time(index, place, || {
                    let input = File::open(&script).unwrap();
                    support::run(Command::new("sqlite3").arg(&path).stdin(input));
                });
            }
        }
        rows.push(Row {
            name: format!("SQLite commits, journal {journal}"),
            unit: "/s",
            ours: measured.rates(1, commits as f64),
            base: Some(("ext4", measured.rates(0, commits as f64))),
            bar: Bar::AtLeast(plan.bar(0.5, 0.3)),
            server: Some(measured.server_each(commits as f64)),
        });
    }
    rows
}
