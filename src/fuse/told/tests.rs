//! What the kernel was told, by a clock that stands until it is set.

use super::*;
use crate::types::Stamp;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;

#[derive(Default)]
struct Still(AtomicU64);

impl Clock for Still {
    fn wall(&self) -> Stamp {
        Stamp(self.0.load(Relaxed))
    }

    fn steady(&self) -> Duration {
        Duration::from_secs(self.0.load(Relaxed))
    }
}

const DIR: Ino = Ino::ROOT;

/// What the kernel is to forget.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Kernel for Heard {
    fn forget_inode(&self, ino: Ino, contents: Option<u64>) {
        assert_eq!(contents, Some(0));
        self.0.lock().push(format!("inode {ino}"));
    }

    fn forget_entry(&self, dir: Ino, name: &[u8]) {
        self.0.lock().push(format!("{} in {dir}", String::from_utf8_lossy(name)));
    }
}

fn forgotten(told: &Told, what: Invalidate) -> Vec<String> {
    let kernel = Heard::default();
    told.forget(&[what], &kernel);
    let mut heard = kernel.0.into_inner();
    // First come the inodes.
    let inos = heard.iter().take_while(|what| what.starts_with("inode ")).count();
    heard[inos..].sort();
    heard
}

/// The names of a directory.
fn taken(told: &Told, dir: Ino) -> Vec<String> {
    let heard = forgotten(told, Invalidate::Inode(dir));
    heard.iter().filter_map(|what| Some(what.split_once(" in ")?.0.to_owned())).collect()
}

#[test]
fn names_are_remembered_while_they_may_be_believed() {
    let clock = Arc::new(Still::default());
    let told = Told::new(clock.clone());
    let second = Duration::from_secs(1);
    assert_eq!(told.name(DIR, b"a", Named::Nothing, second), second);
    assert_eq!(told.name(DIR, b"no", Named::Nothing, Duration::ZERO), Duration::ZERO);
    clock.0.store(1, Relaxed);
    told.name(DIR, b"b", Named::Nothing, second);
    assert_eq!(taken(&told, DIR), ["a", "b"], "an answer may be taken late");
    told.name(DIR, b"c", Named::Nothing, second);
    clock.0.store(3, Relaxed);
    assert!(taken(&told, DIR).is_empty(), "it is over");
    for n in 0..NAMES_MAX {
        told.name(DIR, &n.to_be_bytes(), Named::Nothing, second * 9);
    }
    let one_more = || told.name(DIR, b"one more", Named::Nothing, second);
    assert_eq!(one_more(), Duration::ZERO, "it is not remembered");
    clock.0.store(20, Relaxed);
    assert!(told.worn_lists().is_empty());
    assert_eq!(one_more(), second);
    let state = told.state.lock();
    assert_eq!((state.names, state.dirs[&DIR].until.len(), state.sweeps.len()), (1, 1, 1));
}

#[test]
fn a_list_is_worn_when_the_names_in_it_are_over() {
    let clock = Arc::new(Still::default());
    let told = Told::new(clock.clone());
    let (dirs, second) = ([2, 3, 4].map(|n| Ino::new(n).unwrap()), Duration::from_secs(1));
    for dir in dirs {
        told.name(dir, b"file", Named::File, 5 * second);
        told.listed(dir, 5 * second);
    }
    assert!(told.worn_lists().is_empty());
    clock.0.store(3, Relaxed);
    // One is listed again, of one everything is forgotten, which drops its list.
    told.listed(dirs[1], 5 * second);
    assert_eq!(taken(&told, dirs[2]), ["file"]);
    clock.0.store(5, Relaxed);
    assert_eq!(told.worn_lists(), [dirs[0]]);
    assert!(told.worn_lists().is_empty(), "it is said once");
    clock.0.store(8, Relaxed);
    assert_eq!(told.worn_lists(), [dirs[1]]);
    clock.0.store(20, Relaxed);
    assert!(told.worn_lists().is_empty());
    let state = told.state.lock();
    assert!(state.dirs.is_empty() && state.sweeps.is_empty() && state.lists.is_empty());
}

#[test]
fn everything_that_is_believed_can_be_forgotten() {
    let clock = Arc::new(Still::default());
    let told = Told::new(clock.clone());
    let second = Duration::from_secs(1);
    let (file, other) = (Ino::new(7).unwrap(), Ino::new(8).unwrap());
    assert_eq!(told.inode(other, Duration::ZERO), Duration::ZERO);
    told.inode(other, second);
    clock.0.store(2, Relaxed);
    told.name(DIR, b"name", Named::File, second);
    told.inode(file, second);
    let heard = forgotten(&told, Invalidate::Everything);
    assert_eq!(heard, ["inode 1", "inode 7", "name in 1"]);
    assert!(forgotten(&told, Invalidate::Everything).is_empty());
}

#[test]
fn what_is_believed_of_a_name_moves_with_it() {
    let clock = Arc::new(Still::default());
    let told = Told::new(clock.clone());
    let second = Duration::from_secs(1);
    let other = Ino::new(7).unwrap();
    told.name(DIR, b"dir", Named::Directory, second);
    told.name(DIR, b"nothing", Named::Nothing, second);
    let moving = told.moving((DIR, b"dir"), (other, b"there"), false);
    assert_eq!(moving.until, second);
    assert!(!told.is_over(moving.until));
    for (dir, name) in [(DIR, &b"dir"[..]), (other, b"there")] {
        assert_eq!(told.name(dir, name, Named::Directory, second), Duration::ZERO, "it moves");
    }
    drop(moving);
    assert_eq!(taken(&told, other), ["there"]);
    assert_eq!(told.name(DIR, b"dir", Named::Directory, second), second);
    // What is nowhere does not move; what takes its place does.
    assert_eq!(told.moving((DIR, b"nothing"), (other, b"there"), false).until, Duration::ZERO);
    assert!(taken(&told, other).is_empty());
    let moving = told.moving((other, b"file"), (DIR, b"dir"), true);
    assert_eq!(moving.until, second);
    clock.0.store(1, Relaxed);
    assert!(told.is_over(moving.until));
    told.outlast(moving.until);
    assert_eq!(taken(&told, other), ["file"]);
}

#[test]
fn what_moves_while_it_is_to_be_forgotten_is_forgotten_where_it_went() {
    /// Names are moved just before the kernel comes to them: by who holds the directory that it needs.
    struct Moves<'a>(&'a Told, Mutex<Vec<&'static [u8]>>, Heard);
    impl Kernel for Moves<'_> {
        fn forget_inode(&self, ino: Ino, contents: Option<u64>) {
            self.2.forget_inode(ino, contents);
        }
        fn forget_entry(&self, dir: Ino, name: &[u8]) {
            if let Some(to) = self.1.lock().pop() {
                let until = self.0.moving((dir, name), (dir, to), false).until;
                assert!(!until.is_zero(), "the kernel believes it still");
            }
            self.2.forget_entry(dir, name);
        }
    }
    let told = Told::new(Arc::new(Still::default()));
    told.name(DIR, b"first", Named::File, Duration::from_secs(1));
    let kernel = Moves(&told, Mutex::new(vec![b"third", b"second"]), Heard::default());
    told.forget(&[Invalidate::Inode(DIR)], &kernel);
    let heard = kernel.2.0.into_inner();
    assert_eq!(heard, ["inode 1", "first in 1", "second in 1", "third in 1"]);
    assert!(told.all().is_empty() && told.state.lock().names == 0);
}

#[test]
fn where_files_are_moved_out_of_the_next_is_not_believed_to_be() {
    let clock = Arc::new(Still::default());
    let told = Told::new(clock.clone());
    let second = Duration::from_secs(1);
    let other = Ino::new(7).unwrap();
    assert_eq!(told.name(DIR, b"first", Named::File, second), second);
    let moving = told.moving((DIR, b"first"), (other, b"there"), false);
    assert_eq!(moving.until, second);
    told.moves_out(&[DIR]);
    drop(moving);
    for (dir, what, valid) in [
        (DIR, Named::File, Duration::ZERO),
        (DIR, Named::Directory, second),
        (DIR, Named::Nothing, second),
        (other, Named::File, second),
    ] {
        assert_eq!(told.name(dir, format!("{what:?}").as_bytes(), what, second), valid);
    }
    let moving = told.moving((DIR, b"File"), (other, b"there"), false);
    assert_eq!(moving.until, Duration::ZERO, "nobody waits for it");
    drop(moving);
    clock.0.store(MOVED_FROM.as_secs(), Relaxed);
    assert_eq!(told.name(DIR, b"File", Named::File, second), second);
    for n in 0..2 * MOVED_FROM_MAX as u64 {
        told.moves_out(&[Ino::new(n + 1).unwrap()]);
    }
    assert_eq!(told.state.lock().moved_from.len(), MOVED_FROM_MAX);
}

#[test]
fn who_waits_for_what_is_under_way_waits_for_nothing_later() {
    let told = Arc::new(Told::new(Arc::new(Still::default())));
    told.begin();
    told.begin();
    let (tell, drained) = channel();
    let drain = {
        let told = told.clone();
        std::thread::spawn(move || {
            told.drain(Duration::from_secs(60));
            tell.send(()).unwrap();
        })
    };
    while told.state.lock().generation == 0 {
        std::thread::yield_now();
    }
    assert!(drained.try_recv().is_err());
    let later = {
        let told = told.clone();
        std::thread::spawn(move || told.begin())
    };
    later.join().unwrap();
    told.sent();
    told.sent();
    drained.recv_timeout(Duration::from_secs(60)).unwrap();
    drain.join().unwrap();
    told.drain(Duration::from_millis(1));
}
