//! What keeping every version costs: bytes for each, time to read one, and the present with many of them around.

use crate::Plan;
use crate::place::Measured;
use crate::place::Place;
use crate::support;
use crate::support::Random;
use crate::table::Bar;
use crate::table::Row;
use crate::table::median;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How many instants are remembered over a long series of changes, to be read later.
const INSTANTS: u64 = 400;

/// Nanoseconds since 1970, by the clock that stamps follow.
fn wall() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn at(place: &Place, instant: u64) -> std::path::PathBuf {
    let time = format!("@{}.{:09}", instant / 1_000_000_000, instant % 1_000_000_000);
    place.join(".tsfs/at").join(time)
}

/// A small edit in the middle of a large file, each closed: what a version of it takes on disk.
pub(crate) fn edits(plan: &Plan) -> Vec<Row> {
    let edits = plan.count(4000, 1000);
    let mut place = Place::tsfs(plan.dir());
    let mut random = Random::new(6);
    let path = place.join("large");
    let len = 10 << 20;
    std::fs::write(&path, random.text(len)).unwrap();
    let before = place.finish();
    place.resume();
    for _ in 0..edits {
        let file = File::options().write(true).open(&path).unwrap();
        // Of noise, so that nothing is won back by compressing the edit itself.
        file.write_all_at(&random.noise(1024), random.below(len as u64 - 1024)).unwrap();
    }
    let grown = place.finish().since(before);
    let kib = |bytes: u64| bytes as f64 / 1024.0 / edits as f64;
    let row = |name: &str, bytes, bar| Row {
        name: name.to_owned(),
        unit: "KiB",
        ours: vec![kib(bytes)],
        base: None,
        bar,
        server: None,
    };
    vec![
        row("1 KiB edit inside 10 MiB: stored", grown.rows + grown.contents, Bar::AtMost(1.6)),
        row("  of it rows", grown.rows, Bar::None),
    ]
}

/// Appends to a file `count` times and remembers instants on the way.
fn append(path: &Path, count: u64, close_each: bool) -> Vec<u64> {
    let mut random = Random::new(7);
    let open = || File::options().append(true).create(true).open(path).unwrap();
    let (mut file, mut instants) = (open(), Vec::new());
    // What is not synced belongs to the instant at which it is sent: from here on each instant has the file.
    file.sync_all().unwrap();
    let records: Vec<Vec<u8>> = (0..1000).map(|_| random.text(64)).collect();
    for n in 0..count {
        if close_each {
            file = open();
        }
        file.write_all(&records[n as usize % 1000]).unwrap();
        if n == 0 {
            // A change belongs to the instant at which it is sent, which may be a little later than its call.
            file.sync_all().unwrap();
        }
        if n % (count / INSTANTS).max(1) == 0 {
            instants.push(wall());
        }
    }
    instants
}

/// A million appends of 64 bytes: rows kept for each, with the file closed each time and kept open.
pub(crate) fn appends(plan: &Plan) -> Vec<Row> {
    let count = plan.count(1_000_000, 50_000);
    let mut rows = Vec::new();
    for (how, close_each) in [("closed each time", true), ("kept open", false)] {
        let mut place = Place::tsfs_named(plan.dir(), if close_each { "closed" } else { "open" });
        let before = place.finish();
        place.resume();
        let mut measured = Measured::new(1);
        measured.time(0, &place, || drop(append(&place.join("log"), count, close_each)));
        let grown = place.finish().since(before);
        rows.push(Row {
            name: format!("64 B append, {how}: rows"),
            unit: "B",
            ours: vec![grown.rows as f64 / count as f64],
            base: None,
            bar: Bar::AtMost(64.0),
            server: Some(measured.server_each(count as f64)),
        });
        rows.push(Row {
            name: format!("64 B append, {how}"),
            unit: "/s",
            ours: measured.rates(0, count as f64),
            base: None,
            bar: Bar::None,
            server: None,
        });
    }
    rows
}

/// Seconds to open a file and read its first 4 KiB.
fn open_and_read(path: &Path) -> f64 {
    let mut buffer = [0; 4096];
    let start = support::now();
    let mut file = File::open(path).unwrap();
    let _ = file.read(&mut buffer).unwrap();
    start.elapsed().as_secs_f64()
}

/// Opens and reads a file of many versions at many instants, against as many files of the present that have one
/// version. Each path is new to the kernel in both cases, so both are looked up.
pub(crate) fn past(plan: &Plan) -> Vec<Row> {
    let mut rows = Vec::new();
    for versions in [1_000, plan.count(1_000_000, 50_000)] {
        let mut place =
            Place::tsfs_named(plan.dir(), if versions == 1000 { "few" } else { "many" });
        let names: Vec<String> = (0..INSTANTS).map(|n| format!("now/file{n}")).collect();
        place.make("now");
        for name in &names {
            std::fs::write(place.join(name), Random::new(8).text(8192)).unwrap();
        }
        let instants = append(&place.join("log"), versions, true);
        let (mut now, mut then) = (Vec::new(), Vec::new());
        for round in plan.rounds(5) {
            // A round uses a fifth of the names and instants, spread evenly, after both sorts were touched once.
            place.cool();
            let fifth = |n: &usize| n % 5 == round as usize % 5;
            let (mut now_us, mut then_us) = (Vec::new(), Vec::new());
            let dirs: Vec<_> = instants.iter().map(|instant| at(&place, *instant)).collect();
            for (n, dir) in dirs.iter().enumerate() {
                // The directory of the instant is there in both cases: `now` is the other one.
                std::fs::metadata(dir).unwrap();
                if !fifth(&n) {
                    open_and_read(&dir.join("log"));
                    open_and_read(&place.join(&names[n % names.len()]));
                }
            }
            for (n, dir) in dirs.iter().enumerate().filter(|(n, _)| fifth(n)) {
                now_us.push(1e6 * open_and_read(&place.join(&names[n % names.len()])));
                then_us.push(1e6 * open_and_read(&dir.join("log")));
            }
            now.push(median(&now_us));
            then.push(median(&then_us));
        }
        rows.push(Row {
            name: format!("open + read at t, {versions} versions"),
            unit: "us",
            ours: then,
            base: Some(("us now", now)),
            bar: Bar::AtMost(2.0),
            server: None,
        });
    }
    rows
}

/// Makes and removes `count` files of a spool that holds `alive` of them at any time; says when it was in mid-stream.
fn churn(dir: &Path, count: u64, alive: u64) -> u64 {
    let mut middle = 0;
    for n in 0..count + alive {
        if n < count {
            std::fs::write(dir.join(format!("job{n}")), b"x").unwrap();
        }
        if n >= alive {
            std::fs::remove_file(dir.join(format!("job{}", n - alive))).unwrap();
        }
        if n == count / 2 {
            middle = wall();
        }
    }
    middle
}

fn list(dir: &Path) -> (f64, usize) {
    let start = support::now();
    let count = std::fs::read_dir(dir).unwrap().map(Result::unwrap).count();
    (start.elapsed().as_secs_f64(), count)
}

/// Listing a spool as it was when it held a thousand files, with many more dead ones before and after.
pub(crate) fn spool(plan: &Plan) -> Vec<Row> {
    let (count, alive) = (plan.count(300_000, 20_000), 1000);
    let mut place = Place::tsfs(plan.dir());
    let (spool, beside) = (place.make("spool"), place.make("beside"));
    let middle = churn(&spool, count, alive);
    for n in 0..alive {
        std::fs::write(beside.join(format!("job{n}")), b"x").unwrap();
    }
    let (mut now, mut then, mut emptied) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..5 {
        place.cool();
        // A few nanoseconds apart: the same state, another path, so that the kernel has not listed it before.
        let dir = at(&place, middle + round).join("spool");
        let warm = at(&place, middle + 100 + round).join("spool");
        list(&warm);
        list(&place.join("spool"));
        now.push(1e3 * list(&place.join("beside")).0);
        let (seconds, found) = list(&dir);
        assert!(found.abs_diff(alive as usize) <= 1, "{found} entries at t, not {alive}");
        then.push(1e3 * seconds);
        emptied.push(1e3 * list(&place.join("spool")).0);
    }
    let row = |name: &str, ours, base, bar| Row {
        name: name.to_owned(),
        unit: "ms",
        ours,
        base,
        bar,
        server: None,
    };
    vec![
        row(
            &format!("readdir at t, {count} dead entries"),
            then,
            Some(("ms now", now)),
            Bar::AtMost(5.0),
        ),
        row("  the same spool, now empty", emptied, None, Bar::None),
    ]
}

/// One round of ordinary work in a directory of its own: files made, changed, read, listed, removed.
fn ordinary_work(dir: &Path, files: u64) {
    std::fs::create_dir(dir).unwrap();
    let mut random = Random::new(9);
    let data = random.text(4096);
    let name = |n: u64| dir.join(format!("file{n}"));
    for n in 0..files {
        std::fs::write(name(n), &data).unwrap();
    }
    for n in 0..files {
        let file = File::options().write(true).open(name(n)).unwrap();
        file.write_all_at(&data[..512], 1024).unwrap();
    }
    list(dir);
    for n in 0..files {
        std::fs::rename(name(n), dir.join(format!("renamed{n}"))).unwrap();
    }
    std::fs::remove_dir_all(dir).unwrap();
}

/// Present-time work in a store full of history, against a fresh one.
pub(crate) fn around(plan: &Plan) -> Vec<Row> {
    let (versions, files) = (plan.count(1_000_000, 50_000), plan.count(4000, 1500));
    let places = [Place::tsfs_named(plan.dir(), "fresh"), Place::tsfs_named(plan.dir(), "full")];
    append(&places[1].join("log"), versions / 2, true);
    churn(&places[1].make("spool"), versions / 4, 1000);
    let mut measured = Measured::new(places.len());
    for round in plan.rounds(9) {
        for (index, place) in places.iter().enumerate() {
            let dir = place.join(format!("work{round}"));
            measured.time(index, place, || ordinary_work(&dir, files));
        }
    }
    let files = files as f64;
    vec![Row {
        name: format!("present, {versions} versions around"),
        unit: "files/s",
        ours: measured.rates(1, files),
        base: Some(("fresh store", measured.rates(0, files))),
        bar: Bar::AtLeast(0.95),
        server: Some(measured.server_each(files)),
    }]
}
