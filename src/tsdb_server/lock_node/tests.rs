//! Sessions of one node, in process: what they are asked to give back, who waits for whom, what ends them.
//!
//! The node is a real one, on a disk; the clock is the test's, and so are the ticks that matter; clients are listeners that note
//! what they are told. Not here: what of a batch is applied (`tests/it/model/sessions.rs`), all interleavings (`lease::tests`).

mod copies;
mod opened;
use crate::env::Clock;
use crate::lease;
use crate::meta::key;
use crate::meta::op::Batch;
use crate::meta::op::By;
use crate::meta::op::Op;
use crate::meta::op::Outcome;
use crate::meta::op::Seen;
use crate::meta::op::SetAttr;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::store::disk::RealDisk;
use crate::tsdb_server::lock_node::LockNode;
use crate::tsdb_server::lock_node::Log;
use crate::tsdb_server::node::Fresh;
use crate::tsdb_server::node::Node;
use crate::tsdb_server::open::Options;
use crate::types::AsOf;
use crate::types::BatchSeq;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::Term;
use crate::types::Time;
use crate::wire::Listener;
use crate::wire::Proposal;
use crate::wire::Recall;
use crate::wire::Server;
use crate::wire::Whole;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A lease is ten seconds; what a client may take to give back is thirty.
const THIRD: Duration = Duration::from_secs(3);
/// For what must come; nothing is asserted of how long it took.
const LIMIT: Duration = Duration::from_secs(60);

/// Time passes when the test says so.
#[derive(Default)]
struct Clockwork(Mutex<Duration>);

impl Clock for Clockwork {
    fn wall(&self) -> Stamp {
        Stamp(1_700_000_000_000_000_000 + self.steady().as_nanos() as u64)
    }

    fn steady(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

enum Heard {
    Recall(Recall),
    Flush(Box<dyn FnOnce() + Send>),
    Whole(Whole),
    Ended(String),
}

struct Ear(Mutex<mpsc::Sender<Heard>>);

impl Ear {
    fn hear(&self, heard: Heard) {
        // Whoever listened may have heard enough.
        let _ = self.0.lock().unwrap().send(heard);
    }
}

impl Listener for Ear {
    fn recall(&self, what: Recall) {
        self.hear(Heard::Recall(what));
    }

    fn flush(&self, done: Box<dyn FnOnce() + Send>) {
        self.hear(Heard::Flush(done));
    }

    fn whole(&self, whole: Whole) {
        self.hear(Heard::Whole(whole));
    }

    fn ended(&self, why: &str) {
        self.hear(Heard::Ended(why.to_owned()));
    }
}

/// A mount, as far as the node can tell.
struct Mount {
    node: Arc<Node>,
    session: SessionId,
    seq: u64,
    ear: Arc<dyn Listener>,
    heard: mpsc::Receiver<Heard>,
    /// Told when the session began.
    whole: Option<Whole>,
}

fn ear() -> (Arc<dyn Listener>, mpsc::Receiver<Heard>) {
    let (tell, heard) = mpsc::channel();
    (Arc::new(Ear(Mutex::new(tell))), heard)
}

impl Mount {
    fn open(world: &World, name: &str) -> Mount {
        let (ear, heard) = ear();
        let (session, whole) = opened::begin(world, name);
        world.locks.attend(session, ear.clone()).unwrap();
        Mount { node: world.node.clone(), session, seq: 0, ear, heard, whole }
    }

    fn propose(&mut self, ops: Vec<Op>, direct: Option<Vec<Seen>>) -> (Outcome, Stamp) {
        self.seq += 1;
        self.propose_as(self.seq, ops, direct)
    }

    fn propose_as(&self, seq: u64, ops: Vec<Op>, direct: Option<Vec<Seen>>) -> (Outcome, Stamp) {
        let (session, seq, count) = (self.session, BatchSeq(seq), ops.len() as u32);
        let by = vec![By { uid: 0, ops: count }];
        let batch = Batch { session, seq, epoch: 0, by, ops, direct }.encode();
        let (tell, told) = mpsc::channel();
        Server::propose(
            &*self.node,
            Proposal { session, seq, ops: count, batch },
            Box::new(|_| {}),
            Box::new(move |result| tell.send(result).unwrap()),
        );
        told.recv().unwrap().unwrap()
    }

    fn give_back(&mut self, inos: Vec<Ino>, mode: u32) -> (Outcome, Stamp) {
        self.propose(vec![chmod(Ino::ROOT, mode), Op::Yield { inos, whole: false }], None)
    }

    fn hears(&self) -> Heard {
        self.heard.recv_timeout(LIMIT).unwrap()
    }

    fn hears_recall(&self) -> Recall {
        let Heard::Recall(what) = self.hears() else { panic!("it is told something else") };
        what
    }

    /// Until then, what it was asked for may be told again.
    fn hears_end(&self) -> String {
        let Heard::Ended(why) = self.hears() else { return self.hears_end() };
        why
    }
}

fn chmod(ino: Ino, mode: u32) -> Op {
    let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
    Op::SetAttr { ino, set, time: Time::default() }
}

/// The node's log, and whether it leads.
struct Reign {
    node: Arc<Node>,
    /// Zero where it does not.
    term: AtomicU64,
}

impl Log for Reign {
    fn propose(&self, op: Op) -> Result<Stamp, FsError> {
        self.node.administer(op)
    }

    fn barrier(&self) -> Result<Stamp, FsError> {
        Server::barrier(&*self.node)
    }

    fn reign(&self) -> Option<Term> {
        Some(Term(self.term.load(SeqCst))).filter(|term| term.0 > 0)
    }

    fn catch_up(&self, _: Duration) -> Result<(), FsError> {
        Ok(())
    }

    fn space_left(&self) -> u64 {
        0
    }

    fn store(&self) -> String {
        "a store".to_owned()
    }
}

struct World {
    node: Arc<Node>,
    reign: Arc<Reign>,
    locks: Arc<LockNode>,
    clock: Arc<Clockwork>,
    _scratch: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let scratch = tempfile::tempdir().unwrap();
        let clock = Arc::new(Clockwork::default());
        let (disk, fresh) = (RealDisk::shared(), Fresh::default());
        let mut store = Options { create: true, reserve_bytes: 1 << 20, ..Options::default() };
        store.log.segment_bytes = 4 << 20;
        store.blocks.allocate_bytes = 1 << 20;
        let dir = scratch.path().join("store");
        let node = Node::open(&dir, disk, clock.clone(), &store, &fresh).unwrap();
        let reign = Arc::new(Reign { node: node.clone(), term: AtomicU64::new(1) });
        let log: Weak<Reign> = Arc::downgrade(&reign);
        let leases = lease::Options::default();
        let locks = LockNode::new(log, node.table(), node.turns(), clock.clone(), leases);
        World { node, reign, locks, clock, _scratch: scratch }
    }

    /// A third of a lease passes; these are heard of.
    fn time_passes(&self, renewing: &[&Mount]) {
        *self.clock.0.lock().unwrap() += THIRD;
        for mount in renewing {
            self.locks.renew(mount.session).unwrap();
        }
        self.locks.tick().unwrap();
    }

    fn touch(&self, by: &Mount, ino: Ino) -> thread::JoinHandle<Result<(), FsError>> {
        let (locks, session) = (self.locks.clone(), by.session);
        thread::spawn(move || locks.touch(session, &[ino], Duration::MAX))
    }

    fn root(&self) -> (Bytes, Inode) {
        let key = key::inode(Ino::ROOT);
        let row = self.node.get(&key, AsOf::Now).unwrap().unwrap();
        let inode = Inode::from_row(&key, &row).unwrap();
        (row, inode)
    }

    fn root_seen(&self) -> Vec<Seen> {
        vec![Seen::new(Bytes::copy_from_slice(&key::inode(Ino::ROOT)), Some(&self.root().0))]
    }
}

#[test]
fn what_another_mount_needs_is_asked_back_and_read_as_it_was_left() {
    let world = World::new();
    let (mut a, mut b) = (Mount::open(&world, "a"), Mount::open(&world, "b"));
    assert!(a.whole.is_some() && b.whole.is_none());
    assert!(!world.locks.would_wait(a.session, &[Ino::ROOT]), "it is its own");
    assert!(world.locks.would_wait(b.session, &[Ino::ROOT]));
    let early = world.root_seen();
    let held = b.propose(vec![chmod(Ino::ROOT, 0o711)], Some(early.clone()));
    assert_eq!(held.0, Outcome::Held(Ino::ROOT));
    let waiting = world.touch(&b, Ino::ROOT);
    assert_eq!(a.hears_recall(), Recall::Inodes(vec![Ino::ROOT]));
    assert!(!waiting.is_finished());
    // On another connection it is asked again.
    (a.ear, a.heard) = ear();
    world.locks.attend(a.session, a.ear.clone()).unwrap();
    assert_eq!(a.hears_recall(), Recall::Inodes(vec![Ino::ROOT]));
    assert_eq!(a.give_back(vec![Ino::ROOT], 0o700).0, Outcome::Applied);
    assert_eq!(waiting.join().unwrap(), Ok(()));
    assert_eq!(world.root().1.mode, 0o700, "what came before it was given back");
    assert_eq!(world.locks.grants().unwrap().shared, 1);
    // From now on both change it directly, and neither what it has not seen.
    assert_eq!(b.propose(vec![chmod(Ino::ROOT, 0o711)], Some(early)).0, Outcome::Conflict);
    let seen = world.root_seen();
    let both = [&mut a, &mut b]
        .map(|mount| mount.propose(vec![chmod(Ino::ROOT, 0o755)], Some(seen.clone())).0);
    assert_eq!(both, [Outcome::Applied, Outcome::Conflict]);
    let again = b.propose_as(b.seq, vec![chmod(Ino::ROOT, 0o755)], Some(seen));
    assert_eq!(again.0, Outcome::Conflict, "sent again, it is answered alike");
    assert!(!world.locks.would_wait(b.session, &[Ino::ROOT]));
}

#[test]
fn what_a_mount_makes_is_its_own_until_another_needs_it() {
    let world = World::new();
    let (mut a, b) = (Mount::open(&world, "a"), Mount::open(&world, "b"));
    let first = world.node.grant_inos(a.session, 100).unwrap();
    let made: Vec<Ino> = (first..first + 40).map(|raw| Ino::new(raw).unwrap()).collect();
    let create = |ino: &Ino| Op::Create {
        dir: Ino::ROOT,
        name: format!("{ino}").into(),
        ino: *ino,
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: Bytes::new(),
        time: Time::default(),
    };
    assert_eq!(a.propose(made.iter().map(create).collect(), None).0, Outcome::Applied);
    let mut told = 0;
    for ino in &made {
        if !world.locks.would_wait(b.session, &[*ino]) {
            continue;
        }
        let waiting = world.touch(&b, *ino);
        let Recall::Inodes(inos) = a.hears_recall() else { panic!("it is asked for the whole") };
        assert!(inos.contains(ino) && inos.iter().all(|ino| made.contains(ino)), "{inos:?}");
        a.propose(vec![Op::Yield { inos, whole: false }], None);
        assert_eq!(waiting.join().unwrap(), Ok(()));
        told += 1;
    }
    assert!((17..40).contains(&told), "asked {told} times: many at once after some");
    let unused = Ino::new(first + 50).unwrap();
    assert!(world.locks.would_wait(b.session, &[unused]), "what is not made yet stays its own");
}

#[test]
fn a_mount_that_is_not_heard_of_holds_nothing_up_for_longer_than_its_lease() {
    let world = World::new();
    let (mut a, b) = (Mount::open(&world, "a"), Mount::open(&world, "b"));
    let waiting = world.touch(&b, Ino::ROOT);
    a.hears_recall();
    for _ in 0..3 {
        world.time_passes(&[&b]);
        assert!(!waiting.is_finished());
    }
    world.time_passes(&[&b]);
    assert_eq!(waiting.join().unwrap(), Ok(()));
    assert_eq!(a.hears_end(), "it was not heard of for a lease");
    // What it sends now comes too late: that is the fence.
    let late = a.propose(vec![chmod(Ino::ROOT, 0o700)], None);
    assert!(matches!(late.0, Outcome::Refused { .. }), "{late:?}");
    assert_eq!(world.root().1.mode, 0o755);
    assert_eq!(world.locks.renew(a.session), Err(FsError::Fenced));
    assert_eq!(world.locks.attend(a.session, a.ear.clone()), Err(FsError::Fenced));
    // Who is left alone gets the whole.
    world.time_passes(&[&b]);
    let Heard::Whole(whole) = b.hears() else { panic!("it is told something else") };
    assert_eq!(world.locks.renew(b.session).unwrap().whole, Some(whole));
    assert_eq!(world.locks.grants().unwrap().whole, Some((b.session, whole)));
}

#[test]
fn a_mount_that_gives_nothing_back_is_evicted_when_its_lease_is_over() {
    let world = World::new();
    let (a, b) = (Mount::open(&world, "a"), Mount::open(&world, "b"));
    let waiting = world.touch(&b, Ino::ROOT);
    for _ in 0..9 {
        a.hears_recall();
        world.time_passes(&[&a, &b]);
    }
    assert!(!waiting.is_finished());
    world.time_passes(&[&b]);
    assert_eq!(world.locks.renew(a.session), Err(FsError::Fenced), "too late to go on");
    assert!(!waiting.is_finished(), "until its lease is over it may go by what it owns");
    for _ in 0..4 {
        world.time_passes(&[&b]);
    }
    assert_eq!(waiting.join().unwrap(), Ok(()));
    assert_eq!(a.hears_end(), "it did not give back inode 1 in time");
    // An operator does the same by hand.
    let c = Mount::open(&world, "c");
    world.locks.evict(c.session).unwrap();
    assert_eq!(world.locks.evict(c.session), Err(FsError::Fenced));
    (0..4).for_each(|_| world.time_passes(&[&b]));
    assert_eq!(c.hears_end(), "an operator has ended it");
    let clients = world.locks.clients().unwrap();
    assert_eq!(clients.iter().map(|client| client.client.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn before_recent_instants_are_read_all_mounts_send_what_they_have() {
    let world = World::new();
    let (mut a, b) = (Mount::open(&world, "a"), Mount::open(&world, "b"));
    let settle = || {
        let (locks, session) = (world.locks.clone(), b.session);
        thread::spawn(move || locks.settle(session))
    };
    let waiting = settle();
    let Heard::Flush(done) = a.hears() else { panic!("it is told something else") };
    let (_, last) = a.propose(vec![chmod(Ino::ROOT, 0o700)], None);
    assert!(!waiting.is_finished());
    done();
    assert!(waiting.join().unwrap().unwrap() > last);
    // One that says nothing is waited for no longer than a lease.
    let waiting = settle();
    let Heard::Flush(_silent) = a.hears() else { panic!("it is told something else") };
    for _ in 0..3 {
        world.time_passes(&[&a, &b]);
    }
    assert!(!waiting.is_finished());
    world.time_passes(&[&a, &b]);
    assert!(waiting.join().unwrap().is_ok());
}

#[test]
fn who_waits_is_told_when_another_node_leads() {
    let world = World::new();
    let (mut a, b) = (Mount::open(&world, "a"), Mount::open(&world, "b"));
    let waiting = world.touch(&b, Ino::ROOT);
    a.hears_recall();
    world.reign.term.store(0, SeqCst);
    world.locks.wake();
    let not_leader = FsError::NotLeader { leader: None };
    assert_eq!(waiting.join().unwrap(), Err(not_leader.clone()));
    assert_eq!(world.locks.renew(b.session), Err(not_leader));
    // The next reign: everybody has a lease, and nobody was asked for anything.
    world.reign.term.store(2, SeqCst);
    for mount in [&a, &b] {
        world.locks.attend(mount.session, mount.ear.clone()).unwrap();
    }
    let waiting = world.touch(&b, Ino::ROOT);
    assert_eq!(a.hears_recall(), Recall::Inodes(vec![Ino::ROOT]));
    a.give_back(vec![Ino::ROOT], 0o700);
    assert_eq!(waiting.join().unwrap(), Ok(()));
    let late = world.locks.touch(a.session, &[Ino::ROOT], Duration::ZERO);
    assert_eq!(late, Ok(()), "nobody waits for what is shared");
}

#[test]
fn a_deadline_ends_the_wait_and_nothing_else() {
    let world = World::new();
    let (a, b) = (Mount::open(&world, "a"), Mount::open(&world, "b"));
    let late = world.locks.touch(b.session, &[Ino::ROOT], Duration::ZERO);
    assert!(matches!(late, Err(FsError::Unreachable(_))), "{late:?}");
    assert_eq!(a.hears_recall(), Recall::Inodes(vec![Ino::ROOT]), "it was asked all the same");
    world.locks.unattend(a.session, &b.ear);
    assert!(world.locks.clients().unwrap()[0].attended, "that was another's");
    world.locks.unattend(a.session, &a.ear);
    assert!(!world.locks.clients().unwrap()[0].attended);
    assert_eq!(world.locks.clients().unwrap()[0].recalls, 1);
}

#[test]
fn a_mount_in_the_nodes_own_process_has_no_lease() {
    let world = World::new();
    let own = Mount::open(&world, "own");
    world.locks.keep(own.session).unwrap();
    for _ in 0..40 {
        world.time_passes(&[]);
    }
    assert!(own.heard.try_recv().is_err(), "it is told nothing");
    let clients = world.locks.clients().unwrap();
    assert_eq!((clients.len(), clients[0].lease_left, clients[0].has_whole), (1, None, true));
}
