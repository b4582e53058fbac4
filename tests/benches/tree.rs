//! A tree of small files, as of a program's source: unpacked, copied, looked at, removed.

use crate::Plan;
use crate::place::Measured;
use crate::place::Place;
use crate::support;
use crate::support::Random;
use crate::table::Bar;
use crate::table::Row;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Files in each directory of the tree, about as many as in real ones.
const FILES_A_DIRECTORY: u64 = 14;

/// Makes the tree and its archive; returns the archive and how many files it holds.
fn archive(under: &Path, files: u64) -> (PathBuf, f64) {
    let (top, tar) = (under.join("source"), under.join("source.tar"));
    let mut random = Random::new(1);
    for n in 0..files {
        // Eight directories of directories: depth 3, like most trees.
        let directory = n / FILES_A_DIRECTORY;
        let dir = top.join(format!("part{}/module{directory}", directory % 8));
        if n % FILES_A_DIRECTORY == 0 {
            std::fs::create_dir_all(&dir).unwrap();
        }
        // From a few hundred bytes to 40 KiB, half of them below 3 KiB.
        let len = 300 << random.below(8) | random.below(300) as usize;
        std::fs::write(dir.join(format!("source_file_{n}.rs")), random.text(len)).unwrap();
    }
    support::run(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(under).arg("source"));
    std::fs::remove_dir_all(&top).unwrap();
    (tar, files as f64)
}

fn tar_into(tar: &Path, dir: &Path) {
    support::run(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(dir));
}

/// untar, `cp -r`, `rm -rf`.
pub(crate) fn unpack(plan: &Plan) -> Vec<Row> {
    let (tar, files) = archive(plan.dir(), plan.count(20_000, 4_000));
    let places = [Place::disk(plan.dir()), Place::nofuse(plan.dir()), plan.ours()];
    let mut untar = Measured::new(places.len());
    let mut copy = Measured::new(places.len());
    let mut remove = Measured::new(places.len());
    for _ in plan.rounds(5) {
        for (index, place) in places.iter().enumerate() {
            let dir = place.make("tree");
            untar.time(index, place, || tar_into(&tar, &dir));
        }
        for (index, place) in places.iter().enumerate() {
            let (from, to) = (place.join("tree/source"), place.join("tree/copy"));
            copy.time(index, place, || {
                support::run(Command::new("cp").arg("-r").arg(from).arg(to));
            });
        }
        for (index, place) in places.iter().enumerate() {
            let dir = place.join("tree");
            remove.time(index, place, || {
                support::run(Command::new("rm").arg("-rf").arg(dir));
            });
        }
    }
    let row = |name: &str, measured: &Measured, base: usize, files: f64, bar| Row {
        name: name.to_owned(),
        unit: "files/s",
        ours: measured.rates(2, files),
        base: Some((places[base].name, measured.rates(base, files))),
        bar,
        server: Some(measured.server_each(files)),
    };
    vec![
        row("untar, small files", &untar, 1, files, Bar::AtLeast(plan.bar(0.5, 0.3))),
        row("untar, small files", &untar, 0, files, plan.bar(Bar::AtLeast(0.8), Bar::None)),
        row("rm -rf", &remove, 0, 2.0 * files, Bar::AtLeast(plan.bar(1.0, 0.5))),
        row("cp -r", &copy, 0, files, Bar::AtLeast(plan.bar(0.7, 0.3))),
    ]
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        }
        found.push(path);
    }
}

/// `stat` of everything, `du`, `git status`, with everything in the caches.
pub(crate) fn warm(plan: &Plan) -> Vec<Row> {
    let (tar, _) = archive(plan.dir(), plan.count(20_000, 4_000));
    let places = [Place::disk(plan.dir()), Place::nofuse(plan.dir()), plan.ours()];
    let git = "git -c user.name=b -c user.email=b@b -c gc.auto=0 -c maintenance.auto=false";
    let mut found: Vec<Vec<PathBuf>> = Vec::new();
    for place in &places {
        tar_into(&tar, place.dir());
        let commit = format!(
            "git init -q . && {git} add . && {git} commit -qm all && git status >/dev/null"
        );
        support::sh(&place.join("source"), &commit);
        let mut paths = Vec::new();
        walk(&place.join("source/part0"), &mut paths);
        found.push(paths);
    }
    let mut measured: Vec<Measured> = (0..3).map(|_| Measured::new(places.len())).collect();
    for _ in plan.rounds(9) {
        for (index, place) in places.iter().enumerate() {
            let (top, paths) = (place.join("source"), &found[index]);
            let stat = || {
                for path in paths.iter().cycle().take(200_000) {
                    std::fs::symlink_metadata(path).unwrap();
                }
            };
            let shell = |line: &str| drop(support::sh(&top, line));
            measured[0].time(index, place, stat);
            // The first after a pause of the other place's turn warms the processor's caches again.
            shell("du -s . >/dev/null");
            measured[1]
                .time(index, place, || shell("for i in 1 2 3 4 5; do du -s . >/dev/null; done"));
            shell("git status >/dev/null");
            measured[2]
                .time(index, place, || shell("for i in 1 2 3 4 5; do git status >/dev/null; done"));
        }
    }
    let names = [
        ("stat, warm", "stats/s", 200_000.0),
        ("du -s, warm", "/s", 5.0),
        ("git status, warm", "/s", 5.0),
    ];
    let bars = [(0, Bar::AtLeast(plan.bar(0.95, 0.9))), (1, Bar::None)];
    let rows = names.iter().zip(&measured).flat_map(|((name, unit, operations), measured)| {
        bars.map(|(base, bar)| Row {
            name: (*name).to_owned(),
            unit,
            ours: measured.rates(2, *operations),
            base: Some((places[base].name, measured.rates(base, *operations))),
            bar,
            server: Some(measured.server_each(*operations)),
        })
    });
    rows.collect()
}

/// create + write 4 KiB + close, one thread.
pub(crate) fn create(plan: &Plan) -> Vec<Row> {
    let files = plan.count(20_000, 5_000);
    let places = [Place::disk(plan.dir()), Place::nofuse(plan.dir()), plan.ours()];
    let mut measured = Measured::new(places.len());
    let data = Random::new(2).text(4096);
    for round in plan.rounds(5) {
        for (index, place) in places.iter().enumerate() {
            let top = place.make(&format!("round{round}"));
            measured.time(index, place, || {
                for n in 0..files {
                    if n % 1000 == 0 {
                        std::fs::create_dir(top.join(format!("{}", n / 1000))).unwrap();
                    }
                    std::fs::write(top.join(format!("{}/file{n}", n / 1000)), &data).unwrap();
                }
            });
        }
    }
    let files = files as f64;
    let row = |name: &str, base: Option<usize>, bar| Row {
        name: name.to_owned(),
        unit: "files/s",
        ours: measured.rates(2, files),
        base: base.map(|base| (places[base].name, measured.rates(base, files))),
        bar,
        server: Some(measured.server_each(files)),
    };
    vec![
        row("create + write 4 KiB + close", None, Bar::AtLeast(plan.bar(12_000.0, 7_000.0))),
        row("create + write 4 KiB + close", Some(1), Bar::None),
        row("create + write 4 KiB + close", Some(0), Bar::None),
    ]
}
