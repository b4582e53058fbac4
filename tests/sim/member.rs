//! One member: its clocks, which go a little wrong, its disk and table, and the process while it runs.

mod image;

pub(crate) use image::Image;

use crate::chance::Chance;
use crate::data::Side;
use crate::door::Door;
use crate::monitor::Monitor;
use crate::monitor::placed;
use crate::monitor::placement_in;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tsfs::env::Clock;
use tsfs::meta::key::StateKey;
use tsfs::meta::record::Horizon;
use tsfs::meta::record::Record;
use tsfs::meta::record::Session;
use tsfs::series::Direction;
use tsfs::series::KeyRange;
use tsfs::series::table::Changes;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::series::table::Table;
use tsfs::store::block;
use tsfs::store::block::BlockStore;
use tsfs::store::block::Keeping;
use tsfs::store::disk::Access;
use tsfs::store::disk::Disk;
use tsfs::store::disk::SimulatedDisk;
use tsfs::store::log;
use tsfs::store::log::Log;
use tsfs::store::space::Reserve;
use tsfs::store::table::MemoryTable;
use tsfs::tsdb_log::entry::Entry;
use tsfs::tsdb_log::entry::Members;
use tsfs::tsdb_log::entry::Message;
use tsfs::tsdb_server::replica::Options;
use tsfs::tsdb_server::replica::Outbound;
use tsfs::tsdb_server::replica::Parts;
use tsfs::tsdb_server::replica::Progress;
use tsfs::tsdb_server::replica::stepped::Stepped;
use tsfs::tsdb_server::room::Room;
use tsfs::types::FsError;
use tsfs::types::LogIndex;
use tsfs::types::NodeId;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::types::Term;

pub(crate) const STORE: [u8; 16] = *b"the simulation's";
pub(crate) const SESSION: SessionId = SessionId(1);
const BLOCKS_DIR: &str = "/blocks";
/// Small, so that many are sealed, rewritten and removed within a run.
const BLOCKS: block::Options = block::Options {
    segment_bytes: 64 << 10,
    allocate_bytes: 16 << 10,
    open_files_max: 8,
    rows_per_step: 10,
};
/// The rows of `Family::Local` that are as true at the borrower of a table as at its lender.
const KEPT_ROWS: [&[u8]; 2] = [b"applied", b"members"];
const LOG: log::Options = log::Options { segment_bytes: 32 << 10, spares_max: 2 };
/// Disks are alike at first.
pub(crate) const SAYS_DISK: u64 = 1 << 40;
pub(crate) const TICK_MS: u64 = 20;

/// The clocks of one machine. Rates differ by less than members, and mounts, are to count with.
pub(crate) struct Clocks {
    now_ms: Arc<AtomicU64>,
    /// Parts of a hundred thousand that it is fast.
    fast: u64,
    /// By how much the wall clock is wrong. It may be set.
    ahead_ms: AtomicI64,
}

impl Clocks {
    /// Rates differ by up to this many parts of a hundred thousand.
    pub(crate) fn new(now_ms: Arc<AtomicU64>, differ: u64, chance: &mut Chance) -> Clocks {
        let fast = match chance.below(4) {
            0 => 0,
            1 => differ,
            _ => chance.below(differ + 1),
        };
        Clocks { now_ms, fast, ahead_ms: AtomicI64::new(chance.below(400) as i64) }
    }

    /// Somebody sets the wall clock.
    pub(crate) fn set_ahead(&self, ahead_ms: i64) {
        self.ahead_ms.store(ahead_ms, SeqCst);
    }
}

impl Clock for Clocks {
    fn wall(&self) -> Stamp {
        let ahead_ns = self.ahead_ms.load(SeqCst) * 1_000_000;
        let now_ns = 1_700_000_000_000_000_000 + self.steady().as_nanos() as i64;
        Stamp((now_ns + ahead_ns) as u64)
    }

    fn steady(&self) -> Duration {
        let ms = self.now_ms.load(SeqCst);
        Duration::from_millis(ms) + Duration::from_micros(ms * self.fast / 100)
    }
}

/// What a member sends, until the world takes it.
#[derive(Default)]
struct Outbox {
    messages: Mutex<Vec<Message>>,
    behind: Mutex<Vec<NodeId>>,
}

impl Outbound for Outbox {
    fn send(&self, messages: Vec<Message>) {
        self.messages.lock().extend(messages);
    }

    fn is_behind(&self, node: NodeId) {
        self.behind.lock().push(node);
    }
}

pub(crate) struct Member {
    pub(crate) node: NodeId,
    pub(crate) disk: SimulatedDisk,
    pub(crate) table: Arc<MemoryTable>,
    pub(crate) clock: Arc<Clocks>,
    outbox: Arc<Outbox>,
    pub(crate) running: Option<Stepped>,
    /// What it answers to mounts, while it runs.
    pub(crate) door: Option<Door>,
    /// Its blocks, while it runs.
    pub(crate) side: Option<Side>,
    /// What it does about where blocks are kept, while it runs.
    pub(crate) monitor: Option<Monitor>,
    /// Bytes of its disk, as it says of itself.
    pub(crate) says_disk: u64,
    /// How often it was started.
    pub(crate) starts: u64,
    /// A sync fails, or has failed.
    pub(crate) doubtful: bool,
    /// Nothing can be read from its disk.
    pub(crate) cannot_read: bool,
    /// How long its disk takes for what it writes.
    pub(crate) slow_ms: u64,
    /// When it ticks next, by its own clock.
    next_tick: Duration,
    /// Until when it does nothing at all, or is off.
    pub(crate) asleep_until: u64,
}

impl Member {
    pub(crate) fn new(node: NodeId, founders: &Members, clock: Arc<Clocks>) -> Member {
        let disk = SimulatedDisk::new(256 << 20);
        for dir in ["/log", BLOCKS_DIR] {
            disk.make_dir(Path::new(dir)).unwrap();
        }
        Log::create(&disk, Path::new("/log"), STORE, founders).unwrap();
        let mut member = Member {
            node,
            disk,
            table: Arc::default(),
            clock,
            outbox: Arc::default(),
            running: None,
            door: None,
            side: None,
            monitor: None,
            says_disk: SAYS_DISK,
            starts: 0,
            doubtful: false,
            cannot_read: false,
            slow_ms: 0,
            next_tick: Duration::ZERO,
            asleep_until: 0,
        };
        member.start().unwrap();
        member
    }

    pub(crate) fn start(&mut self) -> Result<(), FsError> {
        let disk = self.disk.shared();
        let (blocks, faults) = BlockStore::open(
            disk.clone(),
            Path::new(BLOCKS_DIR),
            STORE,
            self.table.clone(),
            BLOCKS,
            Access::ReadWrite,
        )?;
        // What cannot be read is taken for damaged until the next start.
        assert!(self.cannot_read || faults.is_empty(), "{faults:?}");
        let blocks = Arc::new(blocks);
        blocks.share(true);
        let log = Log::open(disk.clone(), Path::new("/log"), STORE, &LOG)?;
        let reserve = Reserve::open(disk, Path::new("/"), 0, self.clock.steady())?;
        let room = Arc::new(Room::new(Arc::new(reserve), self.clock.clone()));
        self.outbox = Arc::default();
        self.starts += 1;
        let parts = Parts {
            table: self.table.clone(),
            log,
            blocks: blocks.clone(),
            clock: self.clock.clone(),
            room,
            outbound: Some(self.outbox.clone()),
        };
        let options = Options {
            node: self.node,
            tick: Duration::from_millis(TICK_MS),
            batch_bytes_max: 8 << 10,
            seed: self.node.0 * 1000 + self.starts,
            ..Options::default()
        };
        let mut running = Stepped::open(parts, options)?;
        running.sweep()?;
        let boot = self.node.0 << 32 | self.starts;
        self.door = Some(Door::new(&running, self.table.clone(), self.clock.clone(), boot));
        let side = Side::new(blocks.clone(), self.table.clone(), self.clock.clone());
        let (table, clock) = (self.table.clone(), self.clock.clone());
        self.monitor = Some(Monitor::new(self.node, blocks, table, clock, side.upkeep()));
        self.side = Some(side);
        self.running = Some(running);
        self.next_tick = self.clock.steady();
        Ok(())
    }

    /// The process is gone, and what the table had in memory. After a failed sync a machine shows what is not on its disk, so
    /// there it is the whole machine that goes.
    pub(crate) fn kill(&mut self) {
        (self.running, self.door) = (None, None);
        (self.side, self.monitor) = (None, None);
        self.table.lose_power();
        if self.doubtful {
            self.disk.crash(self.starts);
        }
    }

    /// The power is gone.
    pub(crate) fn cut_power(&mut self, seed: u64) {
        self.kill();
        self.disk.crash(seed);
    }

    /// One tick if it is time, and no more than one.
    pub(crate) fn count_time(&mut self) {
        let now = self.clock.steady();
        if let Some(running) = self.running.as_mut().filter(|_| now >= self.next_tick) {
            running.tick();
            self.next_tick = now + Duration::from_millis(TICK_MS);
        }
    }

    pub(crate) fn take_messages(&self) -> Vec<Message> {
        std::mem::take(&mut *self.outbox.messages.lock())
    }

    pub(crate) fn take_behind(&self) -> Vec<NodeId> {
        std::mem::take(&mut *self.outbox.behind.lock())
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress::read(&*self.table).unwrap()
    }

    /// The last batch of the session that was applied; `None` where the session is not open here.
    pub(crate) fn last_applied(&self) -> Option<u64> {
        Some(self.session(SESSION)?.last.0)
    }

    /// A session's row.
    pub(crate) fn session(&self, session: SessionId) -> Option<Session> {
        let key = StateKey::Session { session }.encode();
        let row = self.table.get(Family::State, &key).unwrap()?;
        Some(Session::from_row(&key, &row).unwrap())
    }

    /// The oldest instant that can be read.
    pub(crate) fn horizon(&self) -> Stamp {
        let key = StateKey::Horizon.encode();
        let row = self.table.get(Family::State, &key).unwrap();
        row.map_or(Stamp::ZERO, |row| Horizon::from_row(&key, &row).unwrap().0)
    }

    /// A number that stands for all rows that members have in common.
    pub(crate) fn digest(&self) -> u64 {
        let mut digest = 0xcbf2_9ce4_8422_2325;
        let mut take = |bytes: &[u8]| {
            for byte in bytes.iter().chain(&[0xff]) {
                digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        for (family, key, value) in self.rows() {
            if family != Family::Local {
                take(&key);
                take(&value);
            }
        }
        digest
    }

    fn rows(&self) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
        let everything = KeyRange { start: Vec::new(), end: Vec::new() };
        let mut rows = Vec::new();
        for family in Family::ALL {
            self.table
                .scan(family, &everything, Direction::Forward, &mut |key, value| {
                    rows.push((family, key.to_vec(), value.to_vec()));
                    std::ops::ControlFlow::Continue(())
                })
                .unwrap();
        }
        rows
    }

    /// Who takes part as of the applied entry. The row is there once that was ever changed.
    pub(crate) fn applied_members(&self) -> Members {
        let row = self.table.get(Family::Local, b"members").unwrap();
        Members::decode(&row.unwrap()).unwrap()
    }

    /// Takes up the table of another member, which is as of its applied entry. The process is not running.
    pub(crate) fn install(&mut self, from: &Member, members: &Members) -> Result<(), FsError> {
        assert!(self.running.is_none());
        let Progress { index, term, .. } = from.progress();
        let mut changes = Changes::default();
        for (family, key, value) in from.rows() {
            changes.put(family, key, value);
        }
        let table = MemoryTable::default();
        table.write(&changes)?;
        let (disk, old) = (self.disk.shared(), self.table.clone());
        let keeping = Keeping::new(self.node, placed(&placement_in(&table)));
        let dir = Path::new(BLOCKS_DIR);
        block::adopt(&disk, dir, STORE, &table, Some(old), &KEPT_ROWS, &keeping)?;
        Log::install(&self.disk, Path::new("/log"), STORE, index, term, members)?;
        self.table = Arc::new(table);
        Ok(())
    }

    /// Everything in the log on its disk.
    pub(crate) fn log(&self) -> Vec<Entry> {
        let found = Log::check(&self.disk, Path::new("/log"), STORE, &mut |_, _| {}).unwrap();
        let (mut entries, end) = (Vec::new(), LogIndex(found.last.0 + 1));
        let mut next = found.first;
        while next < end {
            entries.extend(found.reader.entries(next, end, 1 << 20).unwrap());
            next = LogIndex(entries.last().map_or(end.0, |entry: &Entry| entry.index.0 + 1));
        }
        entries
    }

    /// Whom it takes for the leader.
    pub(crate) fn leads(&self) -> Option<Term> {
        let leadership = self.running.as_ref()?.leadership();
        leadership.here.then_some(leadership.term)
    }
}
