//! Stores that released versions wrote, kept for ever: each opens, and its present and past read as they did.
//!
//! Each is the store of a format, or of the same with rows that were not there before. A fixture is an archive of a store, of the sums of the files it held then and now, and of the stamp between. It is made once, by
//! `make fixture`, when the format changes, and never edited: what reads it must change instead.

/// A store that mounts on several machines used.
mod cluster;
/// What programs of a cluster say to each other.
mod wire;

use crate::embedded::Contents;
use crate::embedded::Open;
use crate::support::Random;
use crate::support::run;
use crate::support::scratch;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use tsfs::store::label;
use tsfs::types::AsOf;
use tsfs::types::Stamp;
use tsfs::wire::Server;

/// The fixtures, by their numbers. The first is of the format with its number; they go on from there.
const FIXTURES: std::ops::RangeInclusive<u32> = 1..=2;

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/store-{version}.tar.gz"))
}

/// A line for each file: name, length, CRC-32C.
fn sums(contents: &Contents) -> String {
    let line = |(name, bytes): (&String, &Vec<u8>)| {
        format!("{name} {} {:08x}\n", bytes.len(), crc32c::crc32c(bytes))
    };
    contents.iter().map(line).collect()
}

#[test]
fn stores_of_every_format_open_and_read_as_they_did() {
    for version in FIXTURES {
        let scratch = scratch();
        let path = scratch.path();
        run(Command::new("tar").arg("-xzf").arg(fixture(version)).arg("-C").arg(path));
        let stamp: u64 = fs::read_to_string(path.join("stamp")).unwrap().trim().parse().unwrap();
        // Twice: the first opening replays a log, and what it leaves must open too.
        for _ in 0..2 {
            let open = Open::new(&path.join("store"), false).unwrap();
            for (at, file) in [(AsOf::At(Stamp(stamp)), "then"), (AsOf::Now, "now")] {
                let wanted = fs::read_to_string(path.join(file)).unwrap();
                let read = wanted.lines().map(|line| {
                    let name = line.split(' ').next().unwrap();
                    (name.to_owned(), open.read(name, at, 1 << 20).unwrap().to_vec())
                });
                assert_eq!(sums(&read.collect()), wanted, "fixture {version} at {at:?}");
                assert!(wanted.lines().count() >= 6, "the fixture is whole");
            }
            open.close().unwrap();
        }
    }
}

#[test]
#[ignore = "writes into the tree; `make fixture` runs it when the format has changed"]
fn make_the_fixture_of_the_present_format() {
    let to = fixture(label::FORMAT);
    if to.exists() {
        return println!("{} is there, and never made again", to.display());
    }
    let scratch = scratch();
    let path = scratch.path();
    let mut random = Random::new(u64::from(label::FORMAT));
    let mut contents = |round: u8| -> Contents {
        [
            ("empty", Vec::new()),
            ("short", vec![round; 20]),
            ("inline", random.text(450)),
            ("payload", random.text(20_000)),
            ("plain", random.noise(5000)),
            // Large enough to lie in a segment. Once is enough: it does not shrink.
            ("blocks", if round == 1 { random.noise(70_000) } else { random.text(70_000) }),
        ]
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .into()
    };
    let (then, now) = (contents(1), contents(2));
    let open = Open::new(&path.join("made"), true).unwrap();
    open.write(&then);
    // Everything so far is in the table, everything after it only in the log.
    open.close().unwrap();
    let open = Open::new(&path.join("made"), false).unwrap();
    let stamp = open.node.barrier().unwrap();
    open.write(&now);
    run(Command::new("cp").args(["-a"]).arg(path.join("made")).arg(path.join("store")));
    open.close().unwrap();
    fs::write(path.join("stamp"), format!("{}\n", stamp.0)).unwrap();
    fs::write(path.join("then"), sums(&then)).unwrap();
    fs::write(path.join("now"), sums(&now)).unwrap();
    pack(path, &to);
}

/// Makes a fixture of what is in `path`.
fn pack(path: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let owner = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name"];
    let exclude =
        ["--exclude=LOG*", "--exclude=OPTIONS-*", "--exclude=ballast", "--exclude=*.spare"];
    let mut tar = Command::new("tar");
    tar.args(["--sparse", "--hole-detection=raw"])
        .arg("-czf")
        .arg(to)
        .args(owner)
        .args(exclude)
        .arg("-C")
        .arg(path);
    run(tar.args(["store", "then", "now", "stamp"]));
}
