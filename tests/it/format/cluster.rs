//! A store of a cluster, as it was left when its node and its mounts were killed: it has a row of every kind that came with
//! clusters, and a past of every form.
//!
//! Not here: what all fixtures have in common (`format`).

use super::fixture;
use super::pack;
use super::sums;
use crate::cluster::net::Net;
use crate::cluster::place::Cluster;
use crate::embedded::Contents;
use crate::embedded::Open;
use crate::embedded::fsck;
use crate::embedded::options;
use crate::support::Random;
use crate::support::run;
use crate::support::scratch;
use crate::support::tsfs;
use crate::support::wait_until;
use rustix::fs::FlockOperation;
use rustix::fs::fcntl_lock;
use serde_json::Value;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tsfs::env::SystemClock;
use tsfs::meta::key::StateKey;
use tsfs::meta::record::Retention;
use tsfs::series::Direction;
use tsfs::series::KeyRange;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::store::disk::RealDisk;
use tsfs::store::table;
use tsfs::store::table::RocksTable;
use tsfs::tsdb_server::node::Fresh;
use tsfs::tsdb_server::node::Node;
use tsfs::types::AsOf;
use tsfs::types::Ino;
use tsfs::wire::Server;

/// It is of the same format as the first; other rows are in it.
const FIXTURE: u32 = 2;
/// Small changes of one file, each a version.
const EDITS: usize = 40;
const SOON: Duration = Duration::from_secs(30);

/// The rows of these keys, by what they are.
fn kinds() -> Vec<(&'static str, KeyRange)> {
    let one = |key: StateKey| KeyRange::prefix(&key.encode());
    vec![
        ("nodes", KeyRange::prefix(b"cn")),
        ("authority", KeyRange::prefix(b"ca")),
        ("invitations", KeyRange::prefix(b"ci")),
        ("sessions", StateKey::sessions()),
        ("the whole", one(StateKey::Grant)),
        ("inodes given back", StateKey::shared()),
        ("ranges", StateKey::ranges()),
        ("ranges by session", StateKey::all_ranges_of()),
        ("orphans", StateKey::all_orphans()),
        ("locks", StateKey::locks()),
        ("locks by session", StateKey::all_locks_of()),
        ("marks", StateKey::marks()),
    ]
}

/// Past versions in a table that are kept as what differs from the next newer one.
fn deltas(table: &Path) -> usize {
    let table = RocksTable::open(table, &table::Options::default()).unwrap();
    let (mut found, all) = (0, KeyRange::prefix(b""));
    let scanned = table.scan(Family::History, &all, Direction::Forward, &mut |key, row| {
        // A key that begins with zero is of the index.
        found += usize::from(key[0] != 0 && [1, 2].contains(&(row[0] & 0x1f)));
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    found
}

#[test]
fn a_store_of_a_cluster_opens_and_reads_as_it_did() {
    let scratch = scratch();
    let path = scratch.path();
    run(Command::new("tar").arg("-xzf").arg(fixture(FIXTURE)).arg("-C").arg(path));
    let store = path.join("store");
    assert_eq!(fsck(&store), Vec::<String>::new(), "as it was left");
    assert!(deltas(&store.join("table")) > EDITS / 4, "the table has a past of changes");
    {
        let retention = Retention { age_ns: None, disk_percent: None };
        let fresh = Fresh { mode: 0o755, uid: 0, gid: 0, retention };
        let clock = SystemClock::shared();
        let node = Node::open(&store, RealDisk::shared(), clock, &options(false), &fresh).unwrap();
        for (what, range) in kinds() {
            assert!(!node.state(&range, 1).unwrap().rows.is_empty(), "no row of {what}");
        }
        node.close().unwrap();
    }
    let open = Open::new(&store, false).unwrap();
    // Whoever mounts it is alone, and what was theirs went with the others.
    for (what, range) in [("orphans", StateKey::all_orphans()), ("locks", StateKey::locks())] {
        assert_eq!(open.node.state(&range, 1).unwrap().rows, [], "{what}");
    }
    let deleted = open.client.deleted(Ino::ROOT).unwrap();
    let names: Vec<&[u8]> = deleted.iter().map(|deleted| &deleted.name[..]).collect();
    assert!(names.contains(&&b"deleted"[..]), "{names:?}");
    let last = AsOf::At(deleted.iter().find(|gone| *gone.name == *b"deleted").unwrap().last);
    assert_eq!(&open.read("deleted", last, 100).unwrap()[..], b"deleted, and kept");
    let marks = open.client.marks().unwrap();
    assert_eq!(marks.iter().map(|mark| &mark.name[..]).collect::<Vec<_>>(), [b"before"]);
    let versions = open.client.file_versions(Ino::ROOT, b"edited").unwrap();
    assert!(versions.len() > 2 * EDITS, "{}", versions.len());
    let mut edited = open.read("edited", AsOf::At(marks[0].stamp), 1 << 20).unwrap().to_vec();
    // Newest first, the first one that of the mark; each is the one before with one edit.
    for version in versions.iter().rev().filter(|version| version.stamp > marks[0].stamp) {
        let now = open.read("edited", AsOf::At(version.stamp), 1 << 20).unwrap();
        let other = now.iter().zip(&edited).filter(|(a, b)| a != b).count();
        assert!(other <= 8 && now.len() == edited.len(), "{other} bytes are others");
        edited = now.to_vec();
    }
    open.close().unwrap();
    assert_eq!(fsck(&store), Vec::<String>::new(), "as it is left now");
}

/// A file for each way in which contents are kept.
fn contents(random: &mut Random, round: u8) -> Contents {
    [
        ("empty", Vec::new()),
        ("short", vec![round; 20]),
        ("inline", random.text(450)),
        ("payload", random.text(20_000)),
        ("plain", random.noise(5000)),
        ("blocks", if round == 1 { random.noise(70_000) } else { random.text(40_000) }),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

fn write(dir: &Path, contents: &Contents) {
    contents.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
    run(tsfs().arg("sync").arg(dir));
}

/// Small changes, each synced: of the map of the file's extents the past keeps what changed.
fn edit(path: &Path, contents: &mut [u8], first: usize) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    for n in 0..EDITS {
        let at = n * 1009 % (contents.len() - 8);
        contents[at..at + 8].fill((first + n) as u8);
        file.write_all_at(&contents[at..at + 8], at as u64).unwrap();
        file.sync_all().unwrap();
    }
}

#[test]
#[ignore = "writes into the tree; `make fixture` runs it when the format has changed"]
fn make_the_fixture_of_a_cluster() {
    let to = fixture(FIXTURE);
    if to.exists() {
        return println!("{} is there, and never made again", to.display());
    }
    let scratch = scratch();
    let path = scratch.path();
    let mut random = Random::new(u64::from(FIXTURE));
    let mut cluster = Cluster::one(Net::loopback());
    // Nobody ever uses it.
    cluster.invite();
    let (one, other) = (cluster.mount(), cluster.mount());
    // It is to be read in years.
    let forever = ["--age", "forever", "--disk", "none"];
    run(tsfs().arg("retention").arg(one.dir()).args(forever));
    let mut then = contents(&mut random, 1);
    let mut edited = random.noise(12_000);
    then.insert("edited".to_owned(), edited.clone());
    write(one.dir(), &then);
    edit(&one.join("edited"), &mut edited, 0);
    then.insert("edited".to_owned(), edited.clone());
    fs::write(one.join("deleted"), "deleted, and kept").unwrap();
    fs::hard_link(one.join("short"), one.join("linked")).unwrap();
    std::os::unix::fs::symlink("short", one.join("symlink")).unwrap();
    run(tsfs().args(["mark", "before"]).arg(one.dir()));
    let marks = run(tsfs().args(["marks", "--json"]).arg(one.dir()));
    let mark: Value = serde_json::from_slice(&marks.stdout).unwrap();
    let at = mark["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    // Everything so far is in the table, everything after it only in the log.
    cluster.end(0);
    cluster.start(0);
    cluster.settle();
    fs::remove_file(one.join("deleted")).unwrap();
    edit(&one.join("edited"), &mut edited, EDITS);
    let mut now = contents(&mut random, 2);
    write(other.dir(), &now);
    now.insert("edited".to_owned(), edited);
    // Open on one mount, and removed through the other.
    fs::write(one.join("orphan"), "nameless").unwrap();
    let orphan = File::open(one.join("orphan")).unwrap();
    fs::remove_file(other.join("orphan")).unwrap();
    wait_until(SOON, "its name to go", || orphan.metadata().unwrap().nlink() == 0);
    // Of a file that both use.
    let locked = OpenOptions::new().read(true).write(true).open(one.join("short")).unwrap();
    assert_eq!(fs::read(other.join("short")).unwrap().len(), 20);
    fcntl_lock(&locked, FlockOperation::NonBlockingLockExclusive).unwrap();
    for mount in [&one, &other] {
        run(tsfs().arg("sync").arg(mount.dir()));
    }
    // All at once, so that no session ends.
    cluster.kill(0);
    run(Command::new("cp").args(["-a"]).arg(cluster.store(0)).arg(path.join("store")));
    drop([one.kill(), other.kill()]);
    fs::write(path.join("stamp"), format!("{}\n", at.as_nanosecond())).unwrap();
    fs::write(path.join("then"), sums(&then)).unwrap();
    fs::write(path.join("now"), sums(&now)).unwrap();
    pack(path, &to);
}
