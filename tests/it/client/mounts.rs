//! Two mounts of one tree, with the kernel's caches between programs and both.

use super::leader::Leader;
use super::options;
use crate::support::Point;
use crate::support::scratch;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tsfs::env::SystemClock;
use tsfs::fuse::Tree;
use tsfs::fuse::mount::MountOptions;
use tsfs::fuse::mount::Mounted;
use tsfs::fuse::mount::mount;
use tsfs::tsdb_client::Client;
use tsfs::types::AsOf;

/// A mount in this process. Dropped, it is unmounted.
struct Side {
    at: PathBuf,
    mounted: Mounted,
    _point: Point,
}

impl Side {
    fn new(leader: &Arc<Leader>, at: PathBuf) -> Side {
        let client = Client::open(leader.seat(), SystemClock::shared(), options()).unwrap();
        let tree = Tree::new(client, jiff::tz::TimeZone::UTC, AsOf::Now, tsfs::types::Ino::ROOT);
        let point = Point::new(&at);
        let mounted = mount(Arc::new(tree), &at, &MountOptions::new("two".to_owned())).unwrap();
        Side { at, mounted, _point: point }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        drop(self.mounted.unmount(Duration::from_secs(10)));
    }
}

fn sides() -> (tempfile::TempDir, Side, Side) {
    let (dir, leader) = (scratch(), Leader::new());
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    (dir, Side::new(&leader, a), Side::new(&leader, b))
}

fn names(at: PathBuf) -> BTreeSet<String> {
    let entries = fs::read_dir(at).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn programs_on_two_mounts_see_what_each_other_did() {
    let (_dir, a, b) = sides();
    for round in 0..5 {
        for (one, other) in [(&a, &b), (&b, &a)] {
            let name = format!("f{round}");
            assert_eq!(fs::metadata(other.path(&name)).unwrap_err().kind(), ErrorKind::NotFound);
            fs::write(one.path(&name), b"one").unwrap();
            assert_eq!(fs::read(other.path(&name)).unwrap(), b"one");
            assert_eq!(fs::read(one.path(&name)).unwrap(), b"one");
            fs::write(other.path(&name), b"the other").unwrap();
            assert_eq!(fs::metadata(one.path(&name)).unwrap().len(), 9);
            assert_eq!(fs::read(one.path(&name)).unwrap(), b"the other");
            fs::create_dir(other.path("d")).unwrap();
            fs::rename(one.path(&name), one.path("d/moved")).unwrap();
            assert_eq!(names(other.path("d")), BTreeSet::from(["moved".to_owned()]));
            assert!(!fs::exists(other.path(&name)).unwrap());
            fs::remove_file(other.path("d/moved")).unwrap();
            assert!(names(one.path("d")).is_empty());
            fs::remove_dir(one.path("d")).unwrap();
            assert!(!fs::exists(other.path("d")).unwrap());
        }
    }
}

#[test]
fn an_open_file_shows_what_another_mount_writes() {
    let (_dir, a, b) = sides();
    let mut ours = File::create(a.path("f")).unwrap();
    ours.write_all(&[b'.'; 10_000]).unwrap();
    let theirs = OpenOptions::new().read(true).write(true).open(b.path("f")).unwrap();
    let mine = File::open(a.path("f")).unwrap();
    for n in 0..20_u8 {
        // The same size, and pages that both have read before.
        theirs.write_all_at(&[n; 100], 5000).unwrap();
        let mut found = [0; 100];
        mine.read_exact_at(&mut found, 5000).unwrap();
        assert_eq!(found, [n; 100]);
        ours.write_all_at(&[n + 100; 100], 5000).unwrap();
        theirs.read_exact_at(&mut found, 5000).unwrap();
        assert_eq!(found, [n + 100; 100]);
    }
    assert_eq!(mine.metadata().unwrap().size(), 10_000);
}

#[test]
fn appends_through_two_kernels_are_whole() {
    const RECORDS: usize = 200;
    let (_dir, a, b) = sides();
    fs::write(a.path("log"), b"").unwrap();
    assert_eq!(fs::read(b.path("log")).unwrap(), b"");
    std::thread::scope(|scope| {
        for (who, side) in [('a', &a), ('b', &b)] {
            scope.spawn(move || {
                let mut log = OpenOptions::new().append(true).open(side.path("log")).unwrap();
                for n in 0..RECORDS {
                    log.write_all(format!("{who}{n:05};").as_bytes()).unwrap();
                }
                log.sync_all().unwrap();
            });
        }
    });
    for side in [&a, &b] {
        let mut text = String::new();
        File::open(side.path("log")).unwrap().read_to_string(&mut text).unwrap();
        for who in ['a', 'b'] {
            let of_one: Vec<&str> =
                text.split_terminator(';').filter(|record| record.starts_with(who)).collect();
            let expected: Vec<String> = (0..RECORDS).map(|n| format!("{who}{n:05}")).collect();
            assert_eq!(of_one, expected);
        }
        assert_eq!(text.len(), 2 * RECORDS * 7);
    }
}

#[test]
fn many_that_wait_for_each_other_on_both_mounts_all_go_on() {
    const THREADS: usize = 12;
    const ROUNDS: usize = 30;
    let (_dir, a, b) = sides();
    fs::create_dir(a.path("shared")).unwrap();
    std::thread::scope(|scope| {
        for (who, side) in [('a', &a), ('b', &b)] {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    for n in 0..ROUNDS {
                        let name = format!("shared/{who}{thread}");
                        fs::write(side.path(&name), format!("{n}")).unwrap();
                        names(side.path("shared"));
                        assert_eq!(fs::read(side.path(&name)).unwrap(), format!("{n}").as_bytes());
                        fs::rename(side.path(&name), side.path(&format!("{name}.done"))).unwrap();
                    }
                });
            }
        }
    });
    assert_eq!(names(a.path("shared")).len(), 2 * THREADS);
    assert_eq!(names(a.path("shared")), names(b.path("shared")));
}

/// In a directory that one of them has just made, or has had to itself.
#[test]
fn of_those_who_make_a_name_on_both_mounts_one_has_made_it() {
    const THREADS: usize = 3;
    const NAMES: usize = 5;
    const ROUNDS: usize = 10;
    let (_dir, a, b) = sides();
    for round in 0..ROUNDS {
        let (dir, first) = (format!("d{round}"), if round % 2 == 0 { &a } else { &b });
        fs::create_dir(first.path(&dir)).unwrap();
        let claim = |side: &Side| -> Vec<bool> {
            let make = |n: usize| {
                let path = side.path(&format!("{dir}/name{n}"));
                match File::create_new(&path) {
                    Ok(_) => true,
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                    Err(error) => panic!("{}: {error}", path.display()),
                }
            };
            (0..NAMES).map(make).collect()
        };
        let all: Vec<Vec<bool>> = std::thread::scope(|scope| {
            let claim = &claim;
            let of = |side| (0..THREADS).map(move |_| scope.spawn(move || claim(side)));
            let workers: Vec<_> = of(&a).chain(of(&b)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        for n in 0..NAMES {
            let winners = all.iter().filter(|made| made[n]).count();
            assert_eq!(winners, 1, "{dir}/name{n}");
        }
    }
}
