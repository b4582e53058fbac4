//! Locks on files, of programs on two clients: who has one nobody else has, wherever it is kept.

use super::CALLER;
use super::leader::Leader;
use super::options;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::channel;
use std::time::Duration;
use tsfs::env::SystemClock;
use tsfs::tsdb_client::Client;
use tsfs::tsdb_client::FileLock;
use tsfs::tsdb_client::Handle;
use tsfs::tsdb_client::Locking;
use tsfs::tsdb_client::New;
use tsfs::types::AsOf;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;

const ROOT: Ino = Ino::ROOT;
const NOW: AsOf = AsOf::Now;

fn join(leader: &Arc<Leader>) -> Arc<Client> {
    Client::open(leader.seat(), SystemClock::shared(), options()).unwrap()
}

/// A program with the file open.
struct Program {
    client: Arc<Client>,
    handle: Handle,
    ino: Ino,
    owner: u64,
}

impl Program {
    fn new(client: &Arc<Client>, ino: Ino, owner: u64) -> Program {
        let handle = client.open_file(CALLER, ino, true).unwrap();
        Program { client: client.clone(), handle, ino, owner }
    }

    fn wanted(&self, first: u64, last: u64, exclusive: bool) -> FileLock {
        FileLock { owner: self.owner, first, last, exclusive, pid: 1 }
    }

    fn lock(&self, first: u64, last: u64, exclusive: bool) -> Result<Locking, FsError> {
        self.client.lock(self.ino, self.handle, self.wanted(first, last, exclusive))
    }

    /// All of it.
    fn take(&self) -> Locking {
        self.lock(0, FileLock::LAST, true).unwrap()
    }

    fn drop_all(&self) {
        self.client.unlock(self.ino, self.owner, 0, FileLock::LAST).unwrap();
    }
}

const DONE: Locking = Locking::Done;
const OF_ANOTHER_MOUNT: Locking = Locking::Held(None);

fn file(client: &Client, name: &str) -> Ino {
    let kind = FileKind::File;
    let new = New { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, target: Bytes::new() };
    client.create(CALLER, ROOT, name.as_bytes(), new).unwrap().ino
}

#[test]
fn who_has_a_file_to_himself_locks_it_without_asking_and_tells_when_another_comes() {
    let leader = Leader::new();
    let (a, b) = (join(&leader), join(&leader));
    let ino = file(&a, "f");
    let (one, two) = (Program::new(&a, ino, 1), Program::new(&a, ino, 2));
    let batches = leader.outcomes("applied");
    assert_eq!(one.take(), DONE);
    assert_eq!(two.take(), Locking::Held(Some(1)));
    assert_eq!(two.client.barring(ino, &two.wanted(5, 5, false)).unwrap().unwrap().owner, 1);
    one.drop_all();
    assert_eq!((two.take(), one.lock(3, 4, false).unwrap()), (DONE, Locking::Held(Some(2))));
    two.drop_all();
    assert_eq!((one.lock(0, 9, true).unwrap(), two.lock(10, 19, false).unwrap()), (DONE, DONE));
    assert_eq!(leader.outcomes("applied"), batches, "nobody was asked");
    let other = Program::new(&b, ino, 1);
    assert_eq!(other.take(), OF_ANOTHER_MOUNT);
    assert_eq!(other.lock(9, 9, false), Ok(OF_ANOTHER_MOUNT));
    let barring = other.client.barring(ino, &other.wanted(9, 12, false)).unwrap().unwrap();
    assert_eq!((barring.first, barring.last, barring.exclusive, barring.pid), (0, 9, true, 0));
    assert_eq!(other.lock(10, 12, false), Ok(DONE), "both only read");
    // What was kept at home stands in rows now, and goes from there.
    one.drop_all();
    assert_eq!(other.lock(0, 9, true), Ok(DONE));
    assert_eq!(two.lock(10, 19, true), Ok(OF_ANOTHER_MOUNT));
    assert_eq!(two.lock(13, 19, true), Ok(DONE), "of its own it makes more");
    assert_eq!(one.lock(13, 13, false), Ok(Locking::Held(Some(2))));
    assert_eq!(leader.faults(), Vec::<String>::new());
}

#[test]
fn with_a_close_go_the_locks_of_who_closes() {
    let leader = Leader::new();
    let (a, b) = (join(&leader), join(&leader));
    for shared in [false, true] {
        let ino = file(&a, if shared { "shared" } else { "own" });
        if shared {
            b.getattr(ino, NOW).unwrap();
        }
        // Two open files of one process, one of another, and a lock that belongs to its open file.
        let (one, again) = (Program::new(&a, ino, 1), Program::new(&a, ino, 1));
        let (two, open_file) = (Program::new(&a, ino, 2), Program::new(&a, ino, 77));
        assert_eq!(one.lock(0, 0, true), Ok(DONE));
        assert_eq!(again.lock(1, 1, true), Ok(DONE));
        assert_eq!(two.lock(2, 2, true), Ok(DONE));
        assert_eq!(open_file.lock(3, 3, true), Ok(DONE));
        let free = |byte| a.barring(ino, &two.wanted(byte, byte, true)).unwrap().is_none();
        // Any of its descriptors.
        a.unlock_owner(ino, 1);
        assert_eq!([0, 1, 2, 3].map(free), [true, true, true, false]);
        // What it locks through the other then stays when the first is gone for good.
        assert_eq!(again.lock(1, 1, true), Ok(DONE));
        a.unlock_handle(ino, one.handle);
        assert!(!free(1));
        a.unlock_owner(ino, 77);
        assert!(free(3));
        assert_eq!(open_file.lock(3, 3, true), Ok(DONE));
        a.unlock_handle(ino, open_file.handle);
        assert!(free(3));
        a.unlock_handle(ino, again.handle);
        assert!(free(1));
        let other = Program::new(&b, ino, 2);
        assert_eq!(other.take(), OF_ANOTHER_MOUNT, "one is left");
        a.unlock_owner(ino, 2);
        assert_eq!(other.take(), DONE);
    }
    assert_eq!(leader.faults(), Vec::<String>::new());
}

#[test]
fn locks_go_with_their_session_and_come_home_with_the_whole() {
    let leader = Leader::new();
    let seat = leader.seat();
    let a = Client::open(seat.clone(), SystemClock::shared(), options()).unwrap();
    let b = join(&leader);
    let ino = file(&a, "f");
    let (one, other) = (Program::new(&a, ino, 1), Program::new(&b, ino, 1));
    assert_eq!((one.take(), other.take()), (DONE, OF_ANOTHER_MOUNT));
    leader.end(seat.session());
    assert_eq!(other.take(), DONE);
    assert!(matches!(one.take_or_error(), Err(FsError::Lost(_) | FsError::Closing)));
    // Alone again, it asks nobody; whoever comes then is told what it has locked meanwhile.
    drop(one);
    drop(a);
    let c = join(&leader);
    drop(c);
    tell_whole(&leader, &b);
    let batches = leader.outcomes("applied");
    other.drop_all();
    assert_eq!(other.lock(0, 0, true), Ok(DONE));
    assert_eq!(leader.outcomes("applied"), batches, "nobody was asked");
    let d = join(&leader);
    let late = Program::new(&d, ino, 1);
    assert_eq!(late.lock(0, 0, true), Ok(OF_ANOTHER_MOUNT));
    assert_eq!(late.lock(1, 1, true), Ok(DONE), "what was dropped at home is no row any more");
    assert_eq!(leader.faults(), Vec::<String>::new());
}

impl Program {
    fn take_or_error(&self) -> Result<Locking, FsError> {
        self.lock(0, FileLock::LAST, true)
    }
}

/// Until the client knows that it owns everything.
fn tell_whole(leader: &Leader, client: &Client) {
    let start = client.clock().steady();
    while client.valid(ROOT).is_zero() {
        assert!(leader.owner(ROOT).is_some());
        assert!(client.clock().steady() - start < Duration::from_secs(20));
        std::thread::yield_now();
    }
}

#[test]
fn a_lock_that_goes_is_told_to_who_waits_on_its_mount() {
    let leader = Leader::new();
    let (a, b) = (join(&leader), join(&leader));
    let ino = file(&a, "f");
    for shared in [false, true] {
        if shared {
            b.getattr(ino, NOW).unwrap();
        }
        let (tell, told) = channel();
        let client = if shared { &b } else { &a };
        client.on_unlock(Box::new(move |ino| tell.send(ino).unwrap()));
        let one = Program::new(client, ino, 1);
        assert_eq!(one.take(), DONE);
        assert!(told.try_recv().is_err());
        one.drop_all();
        assert_eq!(told.try_recv(), Ok(ino));
        one.drop_all();
        assert!(told.try_recv().is_err(), "there was none");
        assert_eq!(one.take(), DONE);
        // Others may read now.
        assert_eq!(one.lock(0, 9, false), Ok(DONE));
        assert_eq!(told.try_recv(), Ok(ino));
        client.unlock_owner(ino, 1);
        assert_eq!(told.try_recv(), Ok(ino));
    }
}

/// They are told in one op when somebody else comes.
#[test]
fn a_mount_has_no_more_locks_on_a_file_than_it_can_tell_of() {
    const MOST: u64 = tsfs::meta::apply::LOCKS_MAX as u64;
    let leader = Leader::new();
    let (a, b) = (join(&leader), join(&leader));
    let ino = file(&a, "f");
    let one = Program::new(&a, ino, 1);
    for n in 0..MOST {
        assert_eq!(one.lock(2 * n, 2 * n, true), Ok(DONE));
    }
    assert_eq!(one.lock(2 * MOST, 2 * MOST, true), Err(FsError::NoLocks));
    let other = Program::new(&b, ino, 1);
    assert_eq!(other.lock(2 * MOST, 2 * MOST, true), Ok(DONE));
    assert_eq!(other.lock(0, 0, false), Ok(OF_ANOTHER_MOUNT));
    assert_eq!(one.lock(2 * MOST + 2, 2 * MOST + 2, true), Err(FsError::NoLocks));
    // As one they are few again.
    assert_eq!(one.lock(0, 2 * MOST - 2, true), Ok(DONE));
    assert_eq!(one.lock(2 * MOST + 2, 2 * MOST + 2, true), Ok(DONE));
    assert_eq!(leader.faults(), Vec::<String>::new());
}

/// Everybody counts one up under a lock, and owners come and go between.
#[test]
fn of_many_that_lock_one_at_a_time_has_it() {
    const ROUNDS: u64 = 150;
    let leader = Leader::new();
    let clients = [join(&leader), join(&leader)];
    let ino = file(&clients[0], "f");
    let (inside, count) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for owner in 1..=6 {
            let program = Program::new(&clients[owner as usize % 2], ino, owner);
            let (inside, count) = (&inside, &count);
            scope.spawn(move || {
                let mut won = 0;
                while won < ROUNDS {
                    if program.lock(owner % 2, 4, true).unwrap() != DONE {
                        std::thread::yield_now();
                        continue;
                    }
                    assert_eq!(inside.fetch_add(1, SeqCst), 0, "two are inside");
                    count.fetch_add(1, SeqCst);
                    assert_eq!(inside.fetch_sub(1, SeqCst), 1);
                    match won % 3 {
                        0 => program.drop_all(),
                        1 => program.client.unlock_owner(ino, owner),
                        _ => program.client.unlock_handle(ino, program.handle),
                    }
                    won += 1;
                }
            });
        }
    });
    assert_eq!(count.load(SeqCst), 6 * ROUNDS);
    assert!(leader.outcomes("refused") > 0, "they met");
    assert_eq!(leader.faults(), Vec::<String>::new());
}
