//! The replica on a simulated disk and a table in memory: what is durable, applied, refused, and found again.

use crate::env::Clock;
use crate::env::SystemClock;
use crate::meta::key::StateKey;
use crate::meta::op::Batch;
use crate::meta::op::Op;
use crate::meta::op::Outcome;
use crate::meta::record::Record;
use crate::meta::record::Retention;
use crate::meta::record::Session;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::store::block;
use crate::store::block::BlockStore;
use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::disk::SimulatedDisk;
use crate::store::log;
use crate::store::log::Log;
use crate::store::space::Reserve;
use crate::tsdb_log::entry::Members;
use crate::tsdb_server::replica::Options;
use crate::tsdb_server::replica::Outbound;
use crate::tsdb_server::replica::Parts;
use crate::tsdb_server::replica::Replica;
use crate::tsdb_server::room::Room;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::Time;
use crate::wire::Proposal;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::time::Duration;

mod limited;
mod peers;
mod sweep;

use limited::Limited;

const STORE: [u8; 16] = *b"the test's store";
const LOG: log::Options = log::Options { segment_bytes: 64 << 10, spares_max: 2 };

/// A store whose parts outlive the replica.
struct World {
    disk: SimulatedDisk,
    table: Arc<Limited>,
    clock: Arc<dyn Clock>,
    options: Options,
}

impl World {
    fn new() -> World {
        let disk = SimulatedDisk::new(256 << 20);
        for dir in ["/log", "/blocks"] {
            disk.make_dir(Path::new(dir)).unwrap();
        }
        Log::create(&disk, Path::new("/log"), STORE, &Members::alone(NodeId(1))).unwrap();
        let options = Options { batch_bytes_max: 32 << 10, ..Options::default() };
        World { disk, table: Arc::default(), clock: SystemClock::shared(), options }
    }

    fn open(&self) -> Result<Replica, FsError> {
        self.open_among(None)
    }

    fn open_among(&self, outbound: Option<Arc<dyn Outbound>>) -> Result<Replica, FsError> {
        let (table, disk) = (self.table.clone(), self.disk.shared());
        let (dir, options) = (Path::new("/blocks"), block::Options::default());
        let access = Access::ReadWrite;
        let (blocks, faults) =
            BlockStore::open(disk.clone(), dir, STORE, table.clone(), options, access)?;
        assert_eq!(faults, []);
        let log = Log::open(disk.clone(), Path::new("/log"), STORE, &LOG)?;
        let reserve = Reserve::open(disk, Path::new("/"), 0, self.clock.steady())?;
        let clock = self.clock.clone();
        let room = Arc::new(Room::new(Arc::new(reserve), clock.clone()));
        let parts = Parts { table, log, blocks: Arc::new(blocks), clock, room, outbound };
        Replica::open(parts, self.options)
    }

    /// The power is cut and comes back: nothing is left of the table but what was flushed.
    fn crash(&self, seed: u64) {
        self.disk.crash(seed);
        self.table.lose_power();
    }

    fn made(&self) -> Replica {
        let replica = self.open().unwrap();
        let format = Op::Format {
            uuid: STORE,
            hash_key: [3; 16],
            mode: 0o755,
            uid: 0,
            gid: 0,
            time: Time::default(),
        };
        assert_eq!(replica.apply(own(format)).unwrap().0, Outcome::Applied);
        let open = Op::OpenSession { session: SessionId(1), client: "test".to_string() };
        assert_eq!(replica.apply(own(open)).unwrap().0, Outcome::Applied);
        replica
    }

    /// The number of the last batch that was applied.
    fn last(&self) -> u64 {
        let key = StateKey::Session { session: SessionId(1) }.encode();
        let row = self.table.get(Family::State, &key).unwrap().unwrap();
        Session::from_row(&key, &row).unwrap().last.0
    }
}

fn proposal(session: SessionId, seq: u64, op: Op) -> Proposal {
    let batch = Batch {
        session,
        seq: BatchSeq(seq),
        epoch: 1,
        by: Vec::new(),
        ops: vec![op],
        direct: None,
    };
    Proposal { session, seq: BatchSeq(seq), ops: 1, batch: batch.encode() }
}

fn own(op: Op) -> Proposal {
    proposal(SessionId(0), 0, op)
}

/// A batch that is applied whatever the tree looks like.
fn numbered(seq: u64) -> Proposal {
    let retention = Retention { age_ns: Some(seq), disk_percent: None };
    proposal(SessionId(1), seq, Op::SetRetention { retention })
}

fn mark(name: String) -> Op {
    Op::Mark { name: name.into(), note: String::new(), uid: 0 }
}

fn nothing<T>() -> Box<dyn FnOnce(T) + Send> {
    Box::new(|_| {})
}

/// Proposes, and passes on when it is durable.
fn durable(replica: &Replica, proposal: Proposal) -> Result<Stamp, FsError> {
    let (tell, told) = mpsc::channel();
    replica.propose(proposal, Box::new(move |result| tell.send(result).unwrap()), nothing());
    told.recv().unwrap()
}

#[test]
fn a_session_applies_its_batches_once_and_in_order() {
    let world = World::new();
    let replica = world.made();
    let marked = |seq| proposal(SessionId(1), seq, mark("once".to_owned()));
    let (outcome, stamp) = replica.apply(marked(1)).unwrap();
    assert_eq!(outcome, Outcome::Applied);
    assert_eq!(replica.apply(marked(1)).unwrap().0, Outcome::Repeated);
    let gap = replica.apply(numbered(3)).unwrap().0;
    assert_eq!(gap, Outcome::Early);
    let refused = replica.apply(marked(2)).unwrap().0;
    assert!(matches!(refused, Outcome::Refused { op: 0, .. }), "{refused:?}");
    let behind_it = replica.apply(numbered(3)).unwrap().0;
    assert_eq!(behind_it, Outcome::Early);
    assert_eq!(world.last(), 1);
    let barrier = replica.barrier().unwrap();
    assert!(barrier > stamp);
    assert!(replica.progress().stamp >= barrier);
    assert!(replica.readable().marks.contains(&stamp), "what can be read follows the marks");
}

#[test]
fn what_was_durable_is_applied_again_after_every_power_cut() {
    for seed in 0..60 {
        let world = World::new();
        let mut replica = world.made();
        let mut next = 1;
        for cut in 0..4 {
            world.disk.power_off_after(seed % 7 * 5 + cut);
            let mut acknowledged = next - 1;
            while durable(&replica, numbered(next)).is_ok() {
                acknowledged = next;
                next += 1;
                if next % 5 == seed % 5 && replica.flush().is_err() {
                    break;
                }
            }
            assert!(durable(&replica, numbered(next)).is_err(), "it takes nothing more");
            drop(replica);
            world.crash(seed * 100 + cut);
            replica = world.open().unwrap();
            let last = world.last();
            assert!(last == acknowledged || last == acknowledged + 1, "{acknowledged}, {last}");
            next = last + 1;
        }
    }
}

#[test]
fn what_comes_while_somebody_drives_shares_one_sync() {
    let world = World::new();
    let replica = Arc::new(world.made());
    replica.upkeep().unwrap();
    let (tell, told) = mpsc::channel();
    let before = world.disk.operations();
    let (inner, disk) = (replica.clone(), world.disk.clone());
    replica.propose(
        numbered(1),
        Box::new(move |first| {
            assert!(first.is_ok());
            assert!(disk.operations() >= before + 2, "one write, one sync");
            for seq in 2..=16 {
                let tell = tell.clone();
                let done = Box::new(move |result| tell.send(result).unwrap());
                inner.propose(numbered(seq), done, nothing());
            }
        }),
        nothing(),
    );
    let stamps: Vec<Stamp> = told.iter().map(Result::unwrap).collect();
    assert_eq!(stamps.len(), 15);
    assert!(stamps.is_sorted());
    // A write and a sync for the first, a write and a sync for all others; beside them, a thread has the next segment ready.
    let operations = world.disk.operations() - before;
    assert!((4..4 + 15).contains(&operations), "{operations} for sixteen that came at two times");
}

#[test]
fn a_failed_sync_stops_it_and_everybody_is_told() {
    let world = World::new();
    let replica = world.made();
    assert_eq!(replica.stopped(), None);
    // Not only the next: a thread that has a further segment ready may come first.
    (0..8).for_each(|_| world.disk.fail_sync("/log"));
    let lost = replica.apply(numbered(1));
    assert!(matches!(lost, Err(FsError::Io(_))), "{lost:?}");
    assert!(durable(&replica, numbered(1)).is_err());
    assert!(replica.barrier().is_err());
    assert!(replica.upkeep().is_err());
    assert!(replica.health().iter().any(|line| line.contains("takes no more changes")));
    assert!(replica.close().is_err());
}

#[test]
fn a_flushed_table_lets_the_log_go() {
    let world = World::new();
    let replica = world.made();
    for seq in 1..=6000 {
        durable(&replica, numbered(seq)).unwrap();
    }
    let grown = replica.log_bytes();
    replica.barrier().unwrap();
    replica.flush().unwrap();
    replica.close().unwrap();
    drop(replica);
    let replica = world.open().unwrap();
    assert_eq!(world.last(), 6000);
    // What stays are spares, the segment in use and the one before it.
    let shrunk = replica.log_bytes();
    assert!(shrunk * 2 < grown, "{grown} bytes became {shrunk}");
    let large = Proposal { batch: Bytes::from(vec![0; 33 << 10]), ..numbered(6001) };
    assert!(matches!(durable(&replica, large), Err(FsError::Invalid(_))));
    // A table older than what the log still has is a table that lost something.
    drop(replica);
    let older = World { table: Arc::default(), ..world };
    assert!(matches!(older.open().err(), Some(FsError::Damaged(_))));
}

#[test]
fn a_panic_while_driving_leaves_nobody_waiting() {
    let world = World::new();
    let replica = world.made();
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        replica.propose(numbered(1), Box::new(|_| panic!("on purpose")), nothing());
    }));
    assert!(broken.is_err());
    assert!(durable(&replica, numbered(2)).is_err());
    assert!(replica.barrier().is_err());
    assert!(replica.close().is_err());
    drop(replica);
    drop(world.open().unwrap());
    assert_eq!(world.last(), 1, "it was durable");
}

#[test]
fn a_batch_that_lies_about_itself_is_refused() {
    let world = World::new();
    let replica = world.made();
    let lies = [
        Proposal { seq: BatchSeq(2), ..numbered(1) },
        Proposal { session: SessionId(2), ..numbered(1) },
        Proposal { ops: 0, ..numbered(1) },
    ];
    for lie in lies {
        let outcome = replica.apply(lie).unwrap().0;
        assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
    }
    assert_eq!(replica.apply(numbered(1)).unwrap().0, Outcome::Applied);
}

#[test]
fn many_threads_propose_and_nothing_is_forgotten() {
    let world = World::new();
    let replica = world.made();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let replica = &replica;
            scope.spawn(move || {
                for n in 0..200 {
                    durable(replica, own(mark(format!("{thread}.{n}")))).unwrap();
                }
            });
        }
    });
    replica.close().unwrap();
    assert_eq!(replica.readable().marks.len(), 8 * 200);
}

#[test]
fn on_a_full_disk_the_log_goes_on_in_the_segments_it_has() {
    let world = World::new();
    let replica = world.made();
    let mut seq = 0;
    let mut write = |count| {
        for _ in 0..count {
            seq += 1;
            durable(&replica, numbered(seq)).unwrap();
        }
    };
    write(2000);
    world.disk.set_capacity(world.disk.used());
    write(3000);
    replica.close().unwrap();
    assert_eq!(world.last(), 5000);
}

#[test]
fn a_table_without_room_holds_things_up_and_stops_nothing() {
    let world = World::new();
    let replica = Arc::new(world.made());
    let (refused, refusals) = mpsc::channel();
    *world.table.tell.lock() = Some(refused);
    world.table.full.store(true, SeqCst);
    // What is durable stays so, and more becomes it, while nothing can be applied.
    for seq in 1..=50 {
        durable(&replica, numbered(seq)).unwrap();
    }
    let (tell, applied) = mpsc::channel();
    let done = Box::new(move |result| tell.send(result).unwrap());
    replica.propose(numbered(51), nothing(), done);
    for _ in 0..2 {
        refusals.recv_timeout(Duration::from_secs(20)).expect("it is tried again");
    }
    assert_eq!(replica.stopped(), None);
    assert!(replica.health().iter().any(|line| line.contains("the disk is full")));
    assert_eq!(world.last(), 0);
    world.table.full.store(false, SeqCst);
    assert_eq!(applied.recv().unwrap().unwrap().0, Outcome::Applied);
    assert_eq!(world.last(), 51);
    assert_eq!(replica.health(), [""; 0]);
}

#[test]
fn a_store_without_any_room_is_closed_and_taken_up_again() {
    let world = World::new();
    let replica = world.made();
    world.table.full.store(true, SeqCst);
    // The log is full as well in the end: whoever comes then waits.
    let (tell, told) = mpsc::channel();
    world.disk.set_capacity(world.disk.used());
    let mut sent = 0;
    std::thread::scope(|scope| {
        let (replica, tell) = (&replica, tell.clone());
        let proposing = scope.spawn(move || {
            for seq in 1.. {
                let tell = tell.clone();
                let done = Box::new(move |result: Result<Stamp, FsError>| {
                    tell.send(result.is_ok()).unwrap();
                });
                replica.propose(numbered(seq), done, nothing());
                if replica.stopped().is_some() {
                    return;
                }
            }
        });
        let (refused, refusals) = mpsc::channel();
        *world.table.tell.lock() = Some(refused);
        // The applier, then whoever needs room in the log.
        while !replica.health().iter().any(|line| line.contains("the disk is full")) {
            refusals.recv().unwrap();
        }
        sent += told.recv().map(u64::from).unwrap();
        assert!(matches!(replica.close(), Err(FsError::NoSpace)));
        proposing.join().unwrap();
    });
    drop(tell);
    sent += told.iter().map(u64::from).sum::<u64>();
    drop(replica);
    let full = world.open().err();
    assert!(matches!(&full, Some(FsError::Io(what)) if what.contains("too full")), "{full:?}");
    world.table.full.store(false, SeqCst);
    world.disk.set_capacity(256 << 20);
    let replica = world.open().unwrap();
    assert_eq!(world.last(), sent, "all that was durable is applied");
    replica.close().unwrap();
}

#[test]
fn what_is_proposed_together_is_synced_together() {
    let world = World::new();
    let replica = world.made();
    let (tell, told) = mpsc::channel();
    let propose = |seq| {
        let tell = tell.clone();
        let applied = move |result: Result<(Outcome, Stamp), FsError>| {
            tell.send((seq, result.map(|(outcome, _)| outcome))).unwrap();
        };
        replica.propose_awaited(numbered(seq), Box::new(applied));
    };
    let before = world.disk.operations();
    (1..=8).for_each(propose);
    assert!(told.try_recv().is_err() && world.disk.operations() == before, "nothing yet");
    replica.nudge();
    for seq in 1..=8 {
        assert_eq!(told.recv().unwrap(), (seq, Ok(Outcome::Applied)));
    }
    // Others may drive for it as well, and whoever closes does.
    propose(9);
    replica.barrier().unwrap();
    assert_eq!(told.recv().unwrap(), (9, Ok(Outcome::Applied)));
    propose(10);
    replica.close().unwrap();
    assert_eq!(told.recv().unwrap(), (10, Ok(Outcome::Applied)));
}
