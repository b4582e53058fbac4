//! Two clients on one tree: what one has done the other sees, whoever owns what.

use super::CALLER;
use super::OWNER;
use super::fsync;
use super::leader::Leader;
use super::leader::Seat;
use super::options;
use super::read;
use super::world::Random;
use super::write;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::time::Duration;
use tsfs::env::Clock;
use tsfs::env::SystemClock;
use tsfs::tsdb_client::Client;
use tsfs::tsdb_client::Handle;
use tsfs::tsdb_client::New;
use tsfs::tsdb_client::Options;
use tsfs::tsdb_client::RenameHow;
use tsfs::tsdb_client::SetAttr;
use tsfs::tsdb_client::Wait;
use tsfs::tsdb_client::XattrHow;
use tsfs::tsdb_client::patience::at_once;
use tsfs::types::AsOf;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;

const ROOT: Ino = Ino::ROOT;
const NOW: AsOf = AsOf::Now;

fn join(leader: &Arc<Leader>) -> (Arc<Client>, Arc<Seat>) {
    let seat = leader.seat();
    (Client::open(seat.clone(), SystemClock::shared(), options()).unwrap(), seat)
}

fn two() -> (Arc<Leader>, Arc<Client>, Arc<Client>) {
    let leader = Leader::new();
    let (a, b) = (join(&leader).0, join(&leader).0);
    (leader, a, b)
}

fn new(kind: FileKind) -> New {
    New { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, target: Bytes::new() }
}

fn make(client: &Client, dir: Ino, name: &str, kind: FileKind) -> Result<Ino, FsError> {
    client.create(CALLER, dir, name.as_bytes(), new(kind)).map(|attr| attr.ino)
}

fn file(client: &Client, dir: Ino, name: &str) -> Ino {
    make(client, dir, name, FileKind::File).unwrap()
}

fn open(client: &Client, ino: Ino) -> Handle {
    client.open_file(CALLER, ino, true).unwrap()
}

fn put(client: &Client, ino: Ino, offset: u64, data: &[u8]) {
    let handle = open(client, ino);
    write(client, handle, offset, data);
    client.flush(handle).unwrap();
    client.release(handle);
}

fn names(client: &Client, dir: Ino, attrs: bool) -> BTreeMap<Vec<u8>, (Ino, Option<u64>)> {
    let mut found = BTreeMap::new();
    client
        .readdir(dir, NOW, 0, attrs, &mut |entry| {
            let size = entry.attr.map(|attr| attr.size);
            found.insert(entry.name.to_vec(), (entry.ino, size));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

#[test]
fn what_one_did_the_other_sees_at_once() {
    let (leader, a, b) = two();
    let ino = file(&a, ROOT, "f");
    put(&a, ino, 0, b"of a");
    assert_eq!(b.lookup(ROOT, b"f", NOW).unwrap().size, 4);
    assert_eq!(read(&b, ino, NOW, 0, 100), b"of a");
    put(&b, ino, 4, b" and of b");
    assert_eq!(read(&a, ino, NOW, 0, 100), b"of a and of b");
    assert_eq!(make(&b, ROOT, "f", FileKind::File), Err(FsError::Exists));
    b.rename(CALLER, ROOT, b"f", ROOT, b"g", RenameHow::Replace).unwrap();
    assert_eq!(a.lookup(ROOT, b"f", NOW), Err(FsError::NotFound));
    assert_eq!(a.lookup(ROOT, b"g", NOW).unwrap().ino, ino);
    let set = SetAttr { size: Some(2), mode: Some(0o600), ..SetAttr::default() };
    a.setattr(CALLER, ino, set).unwrap();
    assert_eq!(read(&b, ino, NOW, 0, 100), b"of");
    assert_eq!(b.getattr(ino, NOW).unwrap().mode, 0o600);
    b.setxattr(CALLER, ino, b"user.k", b"v", XattrHow::Create).unwrap();
    assert_eq!(&a.getxattr(ino, b"user.k", NOW).unwrap()[..], b"v");
    a.unlink(CALLER, ROOT, b"g").unwrap();
    // Until it is known that nobody has it open.
    assert_eq!(b.getattr(ino, NOW).map(|attr| attr.nlink), Ok(0));
    let dir = make(&a, ROOT, "d", FileKind::Directory).unwrap();
    file(&b, dir, "x");
    assert_eq!(a.rmdir(CALLER, ROOT, b"d"), Err(FsError::NotEmpty));
    assert_eq!(names(&a, dir, true).len(), 1);
    assert_eq!(leader.outcomes("refused"), 0);
}

#[test]
fn what_both_look_at_is_asked_for_once_and_again_after_a_change() {
    let (leader, a, b) = two();
    let dir = make(&a, ROOT, "d", FileKind::Directory).unwrap();
    let ino = file(&a, dir, "f");
    let look = |client: &Client| {
        let found = client.lookup(ROOT, b"d", NOW).unwrap().ino;
        assert_eq!(client.lookup(found, b"missing", NOW), Err(FsError::NotFound));
        let attr = client.lookup(found, b"f", NOW).unwrap();
        (attr.ino, attr.mode)
    };
    let asked = || leader.asked("get") + leader.asked("scan");
    // The first time takes it from its owner; what was taken back at once rests for a while.
    let settle = || {
        let until = SystemClock.steady() + Duration::from_secs(60);
        let mut before = 0;
        while asked() != before {
            assert!(SystemClock.steady() < until, "it is asked for each time");
            before = asked();
            assert_eq!(look(&a), look(&b));
        }
    };
    assert_eq!((look(&b), look(&a)), ((ino, 0o644), (ino, 0o644)));
    for mode in [0o600, 0o640] {
        settle();
        let before = asked();
        for _ in 0..100 {
            look(&a);
            look(&b);
        }
        assert_eq!(asked(), before, "nothing has changed");
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        b.setattr(CALLER, ino, set).unwrap();
        assert_eq!((look(&a), look(&b)), ((ino, mode), (ino, mode)));
    }
    // Who changes something by himself knows what he has made of it.
    settle();
    make(&a, dir, "first", FileKind::File).unwrap();
    let before = asked();
    for n in 0..50 {
        make(&a, dir, &format!("g{n}"), FileKind::File).unwrap();
        assert!(a.lookup(dir, format!("g{n}").as_bytes(), NOW).is_ok());
    }
    assert!(asked() - before <= 55, "{}", asked() - before);
    assert_eq!(names(&b, dir, true).len(), 52);
    assert!(leader.asked("take back") > 0);
}

#[test]
fn whoever_reads_on_finds_the_next_rows_and_blocks_at_hand() {
    const STEP: u32 = 128 << 10;
    let (_leader, a, b) = two();
    let ino = file(&a, ROOT, "large");
    let data = Random(9).bytes(6 << 20);
    let handle = open(&a, ino);
    data.chunks(1 << 20)
        .enumerate()
        .for_each(|(n, part)| write(&a, handle, (n << 20) as u64, part));
    fsync(&a, Some(handle)).unwrap();
    a.release(handle);
    // What was taken from its owner rests for a while before it is anybody's to keep.
    wait_for("the file to be kept", || {
        b.getattr(ino, NOW).unwrap();
        at_once(|| b.getattr(ino, NOW)).is_some()
    });
    let mut found = read(&b, ino, NOW, 0, STEP);
    while found.len() < data.len() {
        let offset = found.len() as u64;
        // Other regions of the file, which have rows of their own.
        wait_for("what comes next to be at hand", || {
            match at_once(|| b.read(ino, NOW, offset, STEP, Wait::Never)) {
                Some(Ok(Some(bytes))) => found.extend_from_slice(&bytes),
                Some(Ok(None)) | None => return false,
                Some(Err(error)) => panic!("{error}"),
            }
            true
        });
    }
    assert!(found == data);
}

#[test]
fn what_is_owned_and_not_changed_is_listed_without_asking() {
    let (leader, a, b) = two();
    let dir = make(&a, ROOT, "dir", FileKind::Directory).unwrap();
    for n in 0..101 {
        file(&a, dir, &format!("{n}"));
    }
    fsync(&a, None).unwrap();
    let listed = || (0..3).map(|_| names(&a, dir, true).len()).collect::<Vec<_>>();
    assert_eq!(listed(), [101; 3]);
    let before = leader.asked("scan");
    assert_eq!(listed(), [101; 3]);
    assert_eq!(leader.asked("scan"), before);
    // On its way, and applied.
    a.unlink(CALLER, dir, b"7").unwrap();
    assert_eq!(listed(), [100; 3]);
    fsync(&a, None).unwrap();
    assert_eq!(listed(), [100; 3]);
    assert!(leader.asked("scan") > before);
    file(&b, dir, "of b");
    assert_eq!(listed(), [101; 3]);
    b.unlink(CALLER, dir, b"8").unwrap();
    assert_eq!(listed(), [100; 3]);
}

#[test]
fn copies_count_no_longer_than_the_lease() {
    let leader = Leader::new();
    let ((a, _), (b, seat)) = (join(&leader), join(&leader));
    let ino = file(&a, ROOT, "f");
    b.getattr(ino, NOW).unwrap();
    let before = leader.asked("get");
    b.getattr(ino, NOW).unwrap();
    assert_eq!(leader.asked("get"), before);
    // Whoever ends it asks for no copies back.
    seat.set_lease(SystemClock.steady());
    b.getattr(ino, NOW).unwrap();
    assert_eq!(leader.asked("get"), before + 1);
}

#[test]
fn what_is_still_being_written_is_seen_as_well() {
    let (_leader, a, b) = two();
    let ino = file(&a, ROOT, "f");
    assert_eq!(b.getattr(ROOT, NOW).unwrap().size, 1);
    let handle = open(&a, ino);
    write(&a, handle, 0, b"not closed");
    assert_eq!(read(&b, ino, NOW, 0, 100), b"not closed");
    write(&a, handle, 4, b"yet");
    assert_eq!(read(&b, ino, NOW, 0, 100), b"not yetsed");
    a.release(handle);
    assert_eq!(a.file_versions(ROOT, b"f").unwrap().len(), 1);
}

#[test]
fn what_nobody_else_wants_is_done_without_asking() {
    let (leader, a, b) = two();
    let mine = make(&b, ROOT, "mine", FileKind::Directory).unwrap();
    let asked = leader.asked("get");
    for n in 0..100 {
        let ino = file(&b, mine, &format!("{n}"));
        put(&b, ino, 0, b"x");
        assert_eq!(read(&b, ino, NOW, 0, 9), b"x");
    }
    // A name that is not known is asked for once.
    let asked = leader.asked("get") - asked;
    assert!(asked < 110, "{asked}");
    assert_eq!(names(&a, mine, true).len(), 100);
    drop(a);
    // Alone again, everything is its own.
    let session = leader.owner(ROOT);
    assert!(session.is_some());
    let waited = b.clock().steady();
    loop {
        let before = leader.outcomes("applied");
        file(&b, ROOT, &format!("{before}"));
        if leader.owner(ROOT) == session && leader.asked("recall") > 0 {
            break;
        }
        assert!(b.clock().steady() - waited < Duration::from_secs(20));
    }
}

#[test]
fn appends_of_two_never_tear_and_none_is_lost() {
    const RECORDS: usize = 1000;
    let (leader, a, b) = two();
    let ino = file(&a, ROOT, "log");
    // From here on it is nobody's.
    assert_eq!(b.getattr(ino, NOW).unwrap().size, 0);
    std::thread::scope(|scope| {
        for (who, client) in [(b'a', &a), (b'b', &b)] {
            scope.spawn(move || {
                let handle = open(client, ino);
                for n in 0..RECORDS {
                    let record = format!("<{}{n:04}{}>", char::from(who), "-".repeat(n % 50));
                    let data = record.as_bytes();
                    let done = client.write(handle, 0, data, true, false, Wait::Allowed);
                    assert_eq!(done.unwrap(), Some(data.len() as u32));
                }
                client.flush(handle).unwrap();
                client.release(handle);
            });
        }
    });
    let size = a.getattr(ino, NOW).unwrap().size;
    let data = read(&b, ino, NOW, 0, size as u32);
    let text = String::from_utf8(data).unwrap();
    let mut next = BTreeMap::from([('a', 0), ('b', 0)]);
    for record in text.split_terminator('>') {
        let record = record.strip_prefix('<').expect("records are whole");
        let who = record.chars().next().unwrap();
        let n: usize = record[1..5].parse().unwrap();
        assert_eq!(record.len(), 5 + n % 50, "{record}");
        assert_eq!(next.insert(who, n + 1), Some(n), "in order, none lost");
    }
    assert_eq!(next, BTreeMap::from([('a', RECORDS), ('b', RECORDS)]));
    assert!(leader.outcomes("conflict") > 0, "they met");
}

#[test]
fn of_two_that_create_the_same_name_one_does() {
    const NAMES: usize = 100;
    let (_leader, a, b) = two();
    let met = Barrier::new(2);
    let mut won: Vec<BTreeMap<usize, Ino>> = Vec::new();
    std::thread::scope(|scope| {
        let threads = [&a, &b].map(|client| {
            let met = &met;
            scope.spawn(move || {
                let mut won = BTreeMap::new();
                for n in 0..NAMES {
                    met.wait();
                    match make(client, ROOT, &format!("lock{n}"), FileKind::File) {
                        Ok(ino) => drop(won.insert(n, ino)),
                        Err(error) => assert_eq!(error, FsError::Exists),
                    }
                }
                won
            })
        });
        won = threads.map(|thread| thread.join().unwrap()).into();
    });
    for n in 0..NAMES {
        let winners: Vec<Ino> = won.iter().filter_map(|won| won.get(&n).copied()).collect();
        let [winner] = winners[..] else { panic!("{n}: {winners:?}") };
        for client in [&a, &b] {
            let name = format!("lock{n}");
            assert_eq!(client.lookup(ROOT, name.as_bytes(), NOW).unwrap().ino, winner);
        }
    }
}

#[test]
fn ten_thousand_changes_are_given_back_with_what_rests_on_them() {
    const FILES: usize = 10_000;
    let leader = Leader::new();
    let seat = leader.seat();
    let window = Duration::from_secs(3600);
    let a = Client::open(seat, SystemClock::shared(), Options { window, ..options() }).unwrap();
    let (b, _) = join(&leader);
    let dir = make(&a, ROOT, "many", FileKind::Directory).unwrap();
    for n in 0..FILES {
        let ino = file(&a, dir, &format!("{n}"));
        if n % 100 == 0 {
            let handle = open(&a, ino);
            write(&a, handle, 0, b"still dirty");
        }
    }
    let found = names(&b, dir, true);
    assert_eq!(found.len(), FILES);
    assert_eq!(found[&b"500"[..]].1, Some(11), "what was written came along");
    assert_eq!(read(&b, found[&b"500"[..]].0, NOW, 6, 100), b"dirty");
}

#[test]
fn two_that_want_what_the_other_has_do_not_wait_for_each_other() {
    let (_leader, a, b) = two();
    let (of_a, of_b) = (
        make(&a, ROOT, "a", FileKind::Directory).unwrap(),
        make(&b, ROOT, "b", FileKind::Directory).unwrap(),
    );
    // Neither kernel forgets anything before the test is over.
    let (over, waits) = channel::<()>();
    let waits = Arc::new(parking_lot::Mutex::new(waits));
    for client in [&a, &b] {
        let waits = waits.clone();
        client.on_invalidate(Box::new(move |_| {
            let _ = waits.lock().recv();
        }));
    }
    std::thread::scope(|scope| {
        for (client, own, other) in [(&a, of_a, of_b), (&b, of_b, of_a)] {
            scope.spawn(move || {
                for n in 0..3 {
                    file(client, own, &format!("own{n}"));
                    file(client, other, &format!("other{n}"));
                }
            });
        }
    });
    for dir in [of_a, of_b] {
        assert_eq!(names(&a, dir, false), names(&b, dir, false));
        assert_eq!(names(&a, dir, false).len(), 6);
    }
    drop(over);
}

#[test]
fn calls_go_on_with_what_is_asked_back_until_the_kernel_has_forgotten_it() {
    let (leader, a, b) = two();
    let dir = make(&a, ROOT, "dir", FileKind::Directory).unwrap();
    let early = file(&a, dir, "early");
    // The kernel holds the directory for a call while it is to forget names of it, and forgets them when that is answered.
    let (tell, answered) = channel();
    let inner = Arc::downgrade(&a);
    let asked = leader.clone();
    a.on_invalidate(Box::new(move |_| {
        let a = inner.upgrade().unwrap();
        assert!(a.valid(dir).is_zero() && a.names_valid(dir).is_zero(), "it is over soon");
        file(&a, dir, "meanwhile");
        let _ = tell.send(asked.owner(dir));
    }));
    assert!(!a.valid(dir).is_zero() && !a.names_valid(dir).is_zero());
    let found = names(&b, dir, false);
    assert_eq!(answered.recv().unwrap(), leader.owner(early), "it was still its own");
    assert!(found.contains_key(&b"meanwhile"[..]), "it was before: {found:?}");
    assert_eq!(found[&b"early"[..]].0, early);
    assert_eq!(leader.owner(dir), None);
}

#[test]
fn a_client_whose_lease_has_run_out_answers_nothing_from_memory() {
    let leader = Leader::new();
    let (a, seat) = join(&leader);
    let ino = file(&a, ROOT, "f");
    fsync(&a, None).unwrap();
    seat.set_lease(Duration::ZERO);
    let (tell, told) = channel();
    let reader = {
        let a = a.clone();
        std::thread::spawn(move || tell.send(a.getattr(ino, NOW).map(|attr| attr.size)))
    };
    assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "it waits");
    assert!(leader.asked("barrier") > 0, "and asks");
    seat.set_lease(a.clock().steady() + Duration::from_secs(60));
    assert_eq!(told.recv_timeout(Duration::from_secs(20)).unwrap(), Ok(0));
    reader.join().unwrap().unwrap();
    seat.set_lease(Duration::from_secs(1 << 40));
}

#[test]
fn a_session_that_is_ended_loses_what_it_had_not_sent_and_says_so() {
    let leader = Leader::new();
    let seat = leader.seat();
    let window = Duration::from_secs(3600);
    let slow = Options { window, ..options() };
    let a = Client::open(seat.clone(), SystemClock::shared(), slow).unwrap();
    let (b, _) = join(&leader);
    let ino = file(&a, ROOT, "f");
    put(&a, ino, 0, b"kept");
    fsync(&a, None).unwrap();
    file(&a, ROOT, "not sent");
    leader.end(seat.session());
    // What it owned is anybody's.
    put(&b, ino, 0, b"of b");
    let handle = a.open_file(CALLER, ino, true);
    let lost = handle.and_then(|handle| {
        a.write(handle, 0, b"late", false, false, Wait::Allowed).and_then(|_| fsync(&a, None))
    });
    assert!(matches!(lost, Err(FsError::Lost(_))), "{lost:?}");
    assert_eq!(read(&b, ino, NOW, 0, 10), b"of b");
    assert_eq!(read(&a, ino, NOW, 0, 10), b"of b", "it reads what others do");
    assert!(a.close().is_err());
}

/// The tree as it should be, whoever changed it.
#[derive(Default)]
struct Model {
    dirs: BTreeMap<Ino, BTreeMap<Vec<u8>, Ino>>,
    files: BTreeMap<Ino, Vec<u8>>,
}

struct Pair {
    seed: u64,
    random: Random,
    clients: [Arc<Client>; 2],
    model: Model,
    log: Vec<String>,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let (_, a, b) = two();
        let mut model = Model::default();
        model.dirs.insert(ROOT, BTreeMap::new());
        Pair { seed, random: Random(seed), clients: [a, b], model, log: Vec::new() }
    }

    fn client(&mut self) -> Arc<Client> {
        self.clients[self.random.below(2)].clone()
    }

    fn dir(&mut self) -> Ino {
        let n = self.random.below(self.model.dirs.len());
        *self.model.dirs.keys().nth(n).unwrap()
    }

    fn file(&mut self) -> Option<Ino> {
        let n = self.model.files.len();
        if n == 0 { None } else { self.model.files.keys().nth(self.random.below(n)).copied() }
    }

    fn name(&mut self) -> Vec<u8> {
        vec![b'a' + self.random.below(6) as u8]
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: String, got: T, expected: T) {
        let right = got == expected;
        self.log.push(format!("{what}: {got:?}"));
        if !right {
            let tail = &self.log[self.log.len().saturating_sub(40)..];
            panic!(
                "seed {}: {what} should be {expected:?}; the last:\n{}",
                self.seed,
                tail.join("\n")
            );
        }
    }

    fn step(&mut self) {
        let client = self.client();
        match self.random.below(12) {
            0..=2 => self.create(&client),
            3 => self.remove(&client),
            4 => self.rename(&client),
            5..=7 => self.write(&client),
            8 => self.truncate(&client),
            9 if self.random.below(3) == 0 => fsync(&client, None).unwrap(),
            _ => {}
        }
        let other = self.client();
        self.look(&other);
    }

    fn create(&mut self, client: &Client) {
        let (dir, name) = (self.dir(), self.name());
        let is_dir = self.random.below(3) == 0;
        let kind = if is_dir { FileKind::Directory } else { FileKind::File };
        let free = !self.model.dirs[&dir].contains_key(&name);
        let made = client.create(CALLER, dir, &name, new(kind));
        self.same(format!("create {dir}/{name:?}"), made.is_ok(), free);
        let Ok(attr) = made else { return };
        self.model.dirs.get_mut(&dir).unwrap().insert(name, attr.ino);
        if is_dir {
            self.model.dirs.insert(attr.ino, BTreeMap::new());
        } else {
            self.model.files.insert(attr.ino, Vec::new());
        }
    }

    fn remove(&mut self, client: &Client) {
        let (dir, name) = (self.dir(), self.name());
        let found = self.model.dirs[&dir].get(&name).copied();
        let sub = found.and_then(|ino| self.model.dirs.get(&ino));
        let (is_dir, empty) = (sub.is_some(), sub.is_none_or(BTreeMap::is_empty));
        let done = match is_dir {
            true => client.rmdir(CALLER, dir, &name),
            false => client.unlink(CALLER, dir, &name),
        };
        self.same(format!("remove {dir}/{name:?}"), done.is_ok(), found.is_some() && empty);
        if done.is_ok() {
            let ino = found.unwrap();
            self.model.dirs.get_mut(&dir).unwrap().remove(&name);
            self.model.dirs.remove(&ino);
            self.model.files.remove(&ino);
        }
    }

    /// Of a file, over another or to a free name.
    fn rename(&mut self, client: &Client) {
        let (dir, name, to, new_name) = (self.dir(), self.name(), self.dir(), self.name());
        let Some(ino) = self.model.dirs[&dir].get(&name).copied() else { return };
        let target = self.model.dirs[&to].get(&new_name).copied();
        let is_file = |ino: &Ino| self.model.files.contains_key(ino);
        if !is_file(&ino) || target.as_ref().is_some_and(|target| !is_file(target)) {
            return;
        }
        let done = client.rename(CALLER, dir, &name, to, &new_name, RenameHow::Replace);
        self.same(format!("rename {dir}/{name:?} {to}/{new_name:?}"), done, Ok(()));
        if target == Some(ino) {
            return;
        }
        self.model.dirs.get_mut(&dir).unwrap().remove(&name);
        self.model.dirs.get_mut(&to).unwrap().insert(new_name, ino);
        if let Some(target) = target {
            self.model.files.remove(&target);
        }
    }

    fn write(&mut self, client: &Client) {
        let Some(ino) = self.file() else { return };
        let len = 1 + [10, 3000, 100_000][self.random.below(3)] * self.random.below(3);
        let data = self.random.bytes(len);
        let append = self.random.below(2) == 0;
        let contents = self.model.files.get_mut(&ino).unwrap();
        let offset = if append { contents.len() } else { self.random.below(200_000) };
        if contents.len() < offset + len {
            contents.resize(offset + len, 0);
        }
        contents[offset..offset + len].copy_from_slice(&data);
        let handle = open(client, ino);
        let done = client.write(handle, offset as u64, &data, append, false, Wait::Allowed);
        self.same(format!("write {ino} {offset}+{len}"), done, Ok(Some(len as u32)));
        if self.random.below(4) > 0 {
            client.flush(handle).unwrap();
        }
        if self.random.below(8) == 0 {
            fsync(client, Some(handle)).unwrap();
        }
        client.release(handle);
    }

    fn truncate(&mut self, client: &Client) {
        let Some(ino) = self.file() else { return };
        let size = self.random.below(120_000);
        let set = SetAttr { size: Some(size as u64), ..SetAttr::default() };
        let done = client.setattr(OWNER, ino, set).map(|attr| attr.size);
        self.same(format!("truncate {ino} {size}"), done, Ok(size as u64));
        self.model.files.get_mut(&ino).unwrap().resize(size, 0);
    }

    fn look(&mut self, client: &Client) {
        let dir = self.dir();
        let expected: BTreeSet<(Vec<u8>, Ino)> =
            self.model.dirs[&dir].iter().map(|(name, ino)| (name.clone(), *ino)).collect();
        let found = names(client, dir, self.random.below(2) == 0);
        let found: BTreeSet<_> = found.into_iter().map(|(name, (ino, _))| (name, ino)).collect();
        self.same(format!("list {dir}"), found, expected);
        let name = self.name();
        let found = client.lookup(dir, &name, NOW).map(|attr| attr.ino).ok();
        let expected = self.model.dirs[&dir].get(&name).copied();
        self.same(format!("lookup {dir}/{name:?}"), found, expected);
        if let Some(ino) = self.file() {
            let contents = self.model.files[&ino].clone();
            let size = client.getattr(ino, NOW).map(|attr| attr.size);
            self.same(format!("size of {ino}"), size, Ok(contents.len() as u64));
            let found = read(client, ino, NOW, 0, 1 << 20);
            self.same(format!("contents of {ino}"), found == contents, true);
        }
    }
}

/// Everything under a directory, as one client sees it.
fn tree(client: &Client, dir: Ino, path: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for (name, (ino, size)) in names(client, dir, true) {
        let path = format!("{path}/{}", String::from_utf8(name).unwrap());
        if client.getattr(ino, NOW).unwrap().kind == FileKind::Directory {
            tree(client, ino, &path, found);
            continue;
        }
        let contents = read(client, ino, NOW, 0, 1 << 20);
        assert_eq!(contents.len() as u64, size.unwrap());
        found.insert(path, contents);
    }
}

#[test]
fn calls_of_both_at_a_time_leave_one_tree_that_is_whole() {
    let (leader, a, b) = two();
    let dirs: Vec<Ino> =
        (0..3).map(|n| make(&a, ROOT, &format!("d{n}"), FileKind::Directory).unwrap()).collect();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (client, dirs) = (if seed % 2 == 0 { &a } else { &b }, &dirs);
            scope.spawn(move || {
                let mut random = Random(seed + 100);
                for _ in 0..150 {
                    let (dir, to) = (dirs[random.below(3)], dirs[random.below(3)]);
                    let name = vec![b'a' + random.below(4) as u8];
                    let new_name = vec![b'a' + random.below(4) as u8];
                    // Whatever comes of them: the others are at it, too.
                    match random.below(7) {
                        0 | 1 => drop(client.create(CALLER, dir, &name, new(FileKind::File))),
                        2 => drop(client.unlink(CALLER, dir, &name)),
                        3 => {
                            let how = RenameHow::Replace;
                            drop(client.rename(CALLER, dir, &name, to, &new_name, how));
                        }
                        4 | 5 => {
                            let Ok(attr) = client.lookup(dir, &name, NOW) else { continue };
                            let Ok(handle) = client.open_file(CALLER, attr.ino, true) else {
                                continue;
                            };
                            let len = 1 + random.below(40_000);
                            let data = random.bytes(len);
                            let at = random.below(50_000) as u64;
                            let wait = Wait::Allowed;
                            drop(client.write(handle, at, &data, seed == 0, false, wait));
                            drop(client.flush(handle));
                            client.release(handle);
                        }
                        _ => drop(names(client, dir, true)),
                    }
                }
            });
        }
    });
    let [mut of_a, mut of_b] = [BTreeMap::new(), BTreeMap::new()];
    tree(&a, ROOT, "", &mut of_a);
    tree(&b, ROOT, "", &mut of_b);
    assert_eq!(of_a, of_b);
    for client in [&a, &b] {
        fsync(client, None).unwrap();
    }
    assert_eq!(leader.faults(), [] as [String; 0]);
}

#[test]
fn random_calls_of_two_are_those_of_one() {
    for seed in 1..=6 {
        let mut pair = Pair::new(seed);
        for _ in 0..200 {
            pair.step();
        }
    }
}

/// Until all who may have it open say that they have not.
#[test]
fn a_file_that_another_removes_lives_while_it_is_open() {
    let (leader, a, b) = two();
    for over in [false, true] {
        let ino = file(&a, ROOT, "f");
        put(&a, ino, 0, b"contents");
        let handle = open(&b, ino);
        match over {
            false => a.unlink(CALLER, ROOT, b"f").unwrap(),
            true => {
                file(&a, ROOT, "new");
                a.rename(CALLER, ROOT, b"new", ROOT, b"f", RenameHow::Replace).unwrap();
            }
        }
        assert_eq!(read(&b, ino, NOW, 0, 100), b"contents");
        write(&b, handle, 0, b"CON");
        assert_eq!(read(&b, ino, NOW, 0, 100), b"CONtents");
        assert_eq!(b.getattr(ino, NOW).unwrap().nlink, 0);
        b.flush(handle).unwrap();
        b.release(handle);
        wait_for("it to go with its last handle", || a.getattr(ino, NOW) == Err(FsError::Stale));
        if over {
            a.unlink(CALLER, ROOT, b"f").unwrap();
        }
    }
    // What nobody has open goes by itself.
    let inos: Vec<Ino> = (0..700).map(|n| file(&a, ROOT, &format!("{n}"))).collect();
    for n in 0..inos.len() {
        b.unlink(CALLER, ROOT, format!("{n}").as_bytes()).unwrap();
    }
    wait_for("them to go", || inos.iter().all(|ino| b.getattr(*ino, NOW) == Err(FsError::Stale)));
    assert_eq!(leader.faults(), Vec::<String>::new());
}

fn wait_for(what: &str, mut met: impl FnMut() -> bool) {
    let clock = SystemClock::shared();
    let start = clock.steady();
    while !met() {
        assert!(clock.steady() - start < Duration::from_secs(30), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_link_that_is_gone_still_says_where_it_led() {
    let (_leader, a, b) = two();
    let link = |name: &[u8], target: &'static str| {
        let target = Bytes::from_static(target.as_bytes());
        let new = New { kind: FileKind::Symlink, target, ..new(FileKind::Symlink) };
        a.create(CALLER, ROOT, name, new).unwrap().ino
    };
    let (first, second) = (link(b"f", "there"), link(b"g", "elsewhere"));
    assert_eq!(b.lookup(ROOT, b"g", NOW).unwrap().ino, second);
    a.unlink(CALLER, ROOT, b"f").unwrap();
    assert_eq!(&a.readlink(first, NOW).unwrap()[..], b"there");
    // Also to the one who did not take it.
    b.unlink(CALLER, ROOT, b"g").unwrap();
    for client in [&a, &b] {
        assert_eq!(&client.readlink(second, NOW).unwrap()[..], b"elsewhere");
    }
    let never = Ino::new(1 << 40).unwrap();
    assert_eq!(a.readlink(never, NOW), Err(FsError::Stale));
}
