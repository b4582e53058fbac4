//! A node with all roles in one process: what an embedded mount talks to.
//!
//! Changes go to the replica, which drives the log; reads come from the table as applied so far; blocks from the data role.
//! Not here: rules, the log, what a client has not sent yet.

mod cluster;
mod upkeep;

use crate::env;
use crate::env::Clock;
use crate::meta::apply::FEATURES;
use crate::meta::key;
use crate::meta::key::StateKey;
use crate::meta::op::Batch;
use crate::meta::op::By;
use crate::meta::op::Op;
use crate::meta::op::Outcome;
use crate::meta::record::Grant;
use crate::meta::record::Inode;
use crate::meta::record::Next;
use crate::meta::record::Record;
use crate::meta::record::Retention;
use crate::meta::record::Session;
use crate::meta::record::Store;
use crate::meta::record::Totals;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Read;
use crate::series::Readable;
use crate::series::Series;
use crate::series::Version;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::series::table::Table;
use crate::store::block::BlockStore;
use crate::store::disk::Disk;
use crate::store::holder::Holder;
use crate::store::label::Label;
use crate::store::space::Reserve;
use crate::store::table::RocksTable;
use crate::telemetry::counter;
use crate::tsdb_server::cluster::disk::Identity;
use crate::tsdb_server::cluster::headroom::Together;
use crate::tsdb_server::data::Data;
use crate::tsdb_server::data::lend::Lender;
use crate::tsdb_server::data::repair;
use crate::tsdb_server::member::Rates;
use crate::tsdb_server::node::upkeep::Reclaimer;
use crate::tsdb_server::node::upkeep::Tend;
use crate::tsdb_server::open;
use crate::tsdb_server::open::Options;
use crate::tsdb_server::peers::Peers;
use crate::tsdb_server::replica;
use crate::tsdb_server::replica::GROUPS;
use crate::tsdb_server::replica::Outbound;
use crate::tsdb_server::replica::Replica;
use crate::tsdb_server::retention::Keeper;
use crate::tsdb_server::room::Room;
use crate::tsdb_server::task::Tasks;
use crate::types::AsOf;
use crate::types::BatchSeq;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::Time;
use crate::types::frame::Frame;
use crate::wire::Applied;
use crate::wire::Durable;
use crate::wire::Listener;
use crate::wire::Page;
use crate::wire::Proposal;
use crate::wire::Server;
use crate::wire::Status;
use crate::wire::Welcome;
use crate::wire::message::NodeAt;
use bytes::Bytes;
use parking_lot::Mutex;
use parking_lot::RwLock;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

/// A table that nobody reads any more is lent no longer.
const LENT_FOR: Duration = Duration::from_secs(120);

/// How a fresh store is made.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// Of the root directory.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub retention: Retention,
}

impl Default for Fresh {
    /// A root directory that everybody may read, and history for ever.
    fn default() -> Fresh {
        let retention = Retention { age_ns: None, disk_percent: None };
        Fresh { mode: 0o755, uid: 0, gid: 0, retention }
    }
}

/// What makes a node one among others.
pub struct Among {
    pub node: NodeId,
    pub peers: Arc<Peers>,
    pub rates: Rates,
}

impl Among {
    fn options(&self) -> replica::Options {
        let seed = u64::from_le_bytes(env::random());
        replica::Options { node: self.node, seed, ..replica::Options::default() }
    }
}

/// An open store and everything that runs on it. Dropping it closes the store.
pub struct Node {
    dir: PathBuf,
    label: Label,
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    table: Arc<RocksTable>,
    blocks: Arc<BlockStore>,
    replica: Replica,
    reserve: Arc<Reserve>,
    room: Arc<Room>,
    /// The blocks of a node among others.
    data: Option<Data>,
    /// How far fetching what is missing here is.
    repair: OnceLock<Arc<repair::Watch>>,
    /// Checkpoints for nodes that the log cannot bring up to date.
    lender: Option<Arc<Lender>>,
    /// Who the nodes are.
    nodes: RwLock<Vec<NodeAt>>,
    /// Held by whoever grants inode numbers.
    granting: Mutex<()>,
    /// When this node, whose disk was full, last had another lead.
    passed_on: Mutex<Option<Duration>>,
    /// What all nodes together have room for, where this one leads them.
    together: Together,
    /// What opening found damaged.
    faults: Vec<FsError>,
    tasks: Mutex<Tasks>,
    /// Given up last, when nothing touches the store any more.
    _holder: Holder,
}

impl Node {
    /// Opens the store in `dir`, or makes one as `fresh` says.
    ///
    /// # Errors
    /// As [`open::open`].
    pub fn open(
        dir: &Path,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        options: &Options,
        fresh: &Fresh,
    ) -> Result<Arc<Node>, FsError> {
        Node::open_as(dir, disk, clock, options, Some(fresh), None)
    }

    /// Opens the store in `dir`, which is there, as a node among others.
    ///
    /// # Errors
    /// As [`open::open`].
    pub fn open_among(
        dir: &Path,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        options: &Options,
        among: Among,
    ) -> Result<Arc<Node>, FsError> {
        Node::open_as(dir, disk, clock, options, None, Some(among))
    }

    fn open_as(
        dir: &Path,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        options: &Options,
        fresh: Option<&Fresh>,
        among: Option<Among>,
    ) -> Result<Arc<Node>, FsError> {
        let parts = open::open(dir, disk, options)?;
        let reserve =
            Reserve::open(parts.disk.clone(), dir, options.reserve_bytes, clock.steady())?;
        let reserve = Arc::new(reserve);
        let room = Arc::new(Room::new(reserve.clone(), clock.clone()));
        let blocks = Arc::new(parts.blocks);
        blocks.share(among.is_some());
        let replica = Replica::open(
            replica::Parts {
                table: parts.table.clone(),
                log: parts.log,
                blocks: blocks.clone(),
                clock: clock.clone(),
                room: room.clone(),
                outbound: among.as_ref().map(|among| among.peers.clone() as Arc<dyn Outbound>),
            },
            replica_options(among.as_ref(), &*parts.disk, dir)?,
        )?;
        replica.sweep()?;
        let lender = match among {
            Some(_) => Some(lender(&replica, &parts.disk, dir, &clock)?),
            None => None,
        };
        let (parts_table, shared_blocks) = (parts.table.clone(), blocks.clone());
        let node = Arc::new(Node {
            dir: parts.dir,
            label: parts.label,
            tasks: Mutex::new(Tasks::new(clock.clone())),
            clock,
            disk: parts.disk,
            table: parts.table,
            blocks,
            replica,
            reserve,
            room,
            data: among
                .as_ref()
                .map(|among| Data::new(parts_table, shared_blocks, among.peers.clone())),
            repair: OnceLock::new(),
            lender,
            nodes: RwLock::default(),
            granting: Mutex::default(),
            passed_on: Mutex::default(),
            together: Together::default(),
            faults: parts.faults,
            _holder: parts.holder,
        });
        for fault in &node.faults {
            tracing::error!(store = %dir.display(), %fault, "the store is damaged");
        }
        if parts.fresh
            && let Some(fresh) = fresh
        {
            node.make(fresh)?;
        }
        node.check_features(among.is_none())?;
        node.start_tasks()?;
        if let Some(among) = among {
            node.start_repair(among)?;
        }
        Ok(node)
    }

    /// The first entries of a store's log.
    fn make(&self, fresh: &Fresh) -> Result<(), FsError> {
        self.administer(Op::Format {
            uuid: self.label.store,
            hash_key: env::random(),
            mode: fresh.mode,
            uid: fresh.uid,
            gid: fresh.gid,
            time: self.clock.time(),
        })?;
        self.administer(Op::SetRetention { retention: fresh.retention.clone() })?;
        // Rules need the store's row before the log is replayed: it is on disk before the store is one.
        self.table.flush()?;
        open::finish(&self.dir, &*self.disk)
    }

    fn check_features(&self, alone: bool) -> Result<(), FsError> {
        let store: Store = match self.record(&StateKey::Store)? {
            // It has just joined: everything comes over the log.
            None if !alone => return Ok(()),
            Some(store) => store,
            None => self.must(&StateKey::Store)?,
        };
        if store.features > FEATURES {
            return Err(FsError::NotSupported(
                "a newer tsfs has used this store; use that version or a later one",
            ));
        }
        if store.uuid != self.label.store {
            return Err(FsError::Damaged(
                "the label and the table are of different stores: one was copied without the other"
                    .to_owned(),
            ));
        }
        // Among others, some of whom may be older, this waits for an operator.
        if alone && store.features < FEATURES {
            self.administer(Op::Raise { features: FEATURES })?;
            // An older program that replayed this would not know the op; from the row it learns what to say.
            self.replica.flush()?;
        }
        Ok(())
    }

    fn start_tasks(self: &Arc<Node>) -> Result<(), FsError> {
        let mut tasks = self.tasks.lock();
        tasks.start(Keeper::new(self, self.clock.clone()))?;
        tasks.start(Tend { node: Arc::downgrade(self), full: false })?;
        tasks.start(Reclaimer::new(self))
    }

    /// Stops everything and leaves the store as on disk as it can be. What is proposed later is refused.
    ///
    /// # Errors
    /// What failed first; the store is closed all the same.
    pub fn close(&self) -> Result<(), FsError> {
        self.tasks.lock().stop();
        self.replica.close()?;
        self.blocks.close()
    }

    /// A record of `Family::State`.
    pub(super) fn record<R: Record>(&self, key: &StateKey) -> Result<Option<R>, FsError> {
        let key = key.encode();
        self.table.get(Family::State, &key)?.map(|row| R::from_row(&key, &row)).transpose()
    }

    pub(super) fn must<R: Record>(&self, key: &StateKey) -> Result<R, FsError> {
        let none = || FsError::Damaged(format!("the store has no row {key:?}"));
        self.record(key)?.ok_or_else(none)
    }

    /// Reads the versioned map; `past` takes a snapshot, because two reads of the past must agree.
    fn read<T>(
        &self,
        past: bool,
        read: impl FnOnce(&Series<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        if !past {
            return read(&Series::new(&*self.table, GROUPS, Readable::default()));
        }
        let snapshot = self.table.snapshot();
        // Behind the snapshot: then nothing is shown that purge has begun to take.
        let readable = self.replica.readable();
        read(&Series::new(&*snapshot, GROUPS, (*readable).clone()))
    }

    fn page(&self, family: Family, range: &KeyRange, limit: usize) -> Result<Page, FsError> {
        let mut page = Page::default();
        self.table.scan(family, range, Direction::Forward, &mut |key, row| {
            if page.rows.len() == limit {
                page.more = true;
                return ControlFlow::Break(());
            }
            page.rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(row)));
            ControlFlow::Continue(())
        })?;
        Ok(page)
    }

    /// Ends the sessions of mounts that are gone: an embedded store has one client at a time.
    fn end_sessions(&self) -> Result<(), FsError> {
        loop {
            let page = self.page(Family::State, &StateKey::sessions(), 1)?;
            let Some((key, _)) = page.rows.first() else { return Ok(()) };
            let Some(StateKey::Session { session }) = StateKey::decode(key) else {
                return Err(FsError::Damaged(format!("row {} of sessions", key.escape_ascii())));
            };
            self.administer(Op::EndSession { session })?;
        }
    }

    /// The oldest instant that can be read; zero where nothing was forgotten yet. Retention by age raises the horizon of a
    /// young store too, to instants before there was anything.
    fn oldest(&self) -> Result<Stamp, FsError> {
        let oldest = self.replica.readable().oldest;
        let key = key::inode(Ino::ROOT);
        let made = match self.get(&key, AsOf::Now)? {
            Some(row) => Inode::from_row(&key, &row)?.btime,
            None => return Ok(oldest),
        };
        Ok(if Time::from(oldest) <= made { Stamp::ZERO } else { oldest })
    }

    fn health(&self) -> Vec<String> {
        let mut lines = self.replica.health();
        lines.extend(self.faults.iter().map(FsError::to_string));
        match self.blocks.damage_met() {
            0 => {}
            met => lines.push(format!(
                "damaged blocks were met, {met} so far: unmount and run 'tsfs fsck', which names the files"
            )),
        }
        lines.extend(self.repair.get().into_iter().flat_map(|watch| watch.health()));
        if self.space_left() == 0 {
            lines.push(
                "the disk is full: delete files, purge history with 'tsfs purge', or make room"
                    .to_owned(),
            );
        }
        lines.extend(self.together.trouble());
        lines
    }
}

/// A store that nobody else has a say in, and that is a node's, is opened as that node: whether it alone decides, its log says.
fn replica_options(
    among: Option<&Among>,
    disk: &dyn Disk,
    dir: &Path,
) -> Result<replica::Options, FsError> {
    if let Some(among) = among {
        return Ok(among.options());
    }
    let node = Identity::read(disk, dir)?.and_then(|identity| identity.node);
    let options = replica::Options::default();
    Ok(replica::Options { node: node.unwrap_or(options.node), ..options })
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(store = %self.dir.display(), %error, "the store was not closed cleanly");
        }
    }
}

impl Server for Node {
    /// The one client in this process never has to give anything back: it is alone.
    fn open_session(&self, client: &str, _: Arc<dyn Listener>) -> Result<Welcome, FsError> {
        self.end_sessions()?;
        let session = self.must::<Next>(&StateKey::Next)?.session;
        self.administer(Op::OpenSession { session, client: client.to_owned() })?;
        let grant: Grant = self.must(&StateKey::Grant)?;
        let store: Store = self.must(&StateKey::Store)?;
        if grant.session != session {
            return Err(FsError::Fenced);
        }
        Ok(Welcome {
            session,
            epoch: grant.epoch,
            whole: Some(grant.into()),
            hash_key: store.hash_key,
            store: self.label.to_string(),
        })
    }

    fn grant_inos(&self, session: SessionId, count: u64) -> Result<u64, FsError> {
        // Two at a time could both be told of the second range.
        let _one = self.granting.lock();
        self.administer(Op::GrantInos { session, count })?;
        // Granted behind what the session had: the end of its last range.
        let member: Session = self.must(&StateKey::Session { session })?;
        let end = member.inos.last().map(|(_, end)| *end).ok_or(FsError::Fenced)?;
        Ok(end - count)
    }

    fn propose(&self, proposal: Proposal, durable: Durable, applied: Applied) {
        self.reserve.spend(proposal.batch.len() as u64);
        self.replica.propose(proposal, durable, applied);
    }

    fn get(&self, key: &[u8], at: AsOf) -> Result<Option<Bytes>, FsError> {
        self.read(at != AsOf::Now, |series| series.get(key, at))
    }

    fn get_all(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, FsError> {
        // One moment for all of them: what is applied meanwhile is in none.
        let snapshot = self.table.snapshot();
        let series = Series::new(&*snapshot, GROUPS, Readable::default());
        keys.iter().map(|key| series.get(key, AsOf::Now)).collect()
    }

    fn scan(
        &self,
        range: &KeyRange,
        at: AsOf,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, FsError> {
        let mut page = Page::default();
        self.read(at != AsOf::Now, |series| {
            series.scan(range, at, direction, &mut |key, value| {
                if page.rows.len() == limit {
                    page.more = true;
                    return ControlFlow::Break(());
                }
                page.rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                ControlFlow::Continue(())
            })
        })?;
        Ok(page)
    }

    fn versions(
        &self,
        key: &[u8],
        since: Stamp,
        until: Stamp,
        limit: usize,
    ) -> Result<Vec<Version>, FsError> {
        let mut found = Vec::new();
        self.read(true, |series| {
            series.versions(key, since, until, &mut |version| {
                found.push(version);
                if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
        })?;
        Ok(found)
    }

    fn ended(
        &self,
        range: &KeyRange,
        since: Stamp,
        until: Stamp,
        limit: usize,
    ) -> Result<Vec<(Bytes, Version)>, FsError> {
        let mut found = Vec::new();
        self.read(true, |series| {
            series.ended(range, since, until, &mut |key, version| {
                found.push((Bytes::copy_from_slice(key), version));
                if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
        })?;
        Ok(found)
    }

    fn state(&self, range: &KeyRange, limit: usize) -> Result<Page, FsError> {
        self.page(Family::State, range, limit)
    }

    fn changes(&self, since: Stamp, until: Stamp, limit: usize) -> Result<Page, FsError> {
        let end = until.0.checked_add(1).map_or(Vec::new(), |end| end.to_be_bytes().to_vec());
        let range = KeyRange { start: since.0.to_be_bytes().to_vec(), end };
        self.page(Family::Changes, &range, limit)
    }

    fn barrier(&self) -> Result<Stamp, FsError> {
        self.replica.barrier()
    }

    fn put_block(&self, block: BlockId, frame: Frame) -> Result<(), FsError> {
        self.reserve.spend(frame.len() as u64);
        // The client was told that there is space, and has told programs that their contents are taken.
        self.room.until(|| self.blocks.put(block, &frame))
    }

    fn sync_blocks(&self) -> Result<(), FsError> {
        self.blocks.sync()
    }

    fn block(&self, block: BlockId) -> Result<Bytes, FsError> {
        if let Some(data) = &self.data {
            return data.block(block);
        }
        match self.table.get(Family::Payload, &block.to_bytes())? {
            Some(frame) => Ok(frame),
            None => self.blocks.get(block),
        }
    }

    fn space_left(&self) -> u64 {
        self.reserve.space_left(self.clock.steady())
    }

    fn status(&self) -> Result<Status, FsError> {
        let totals = self.record::<Totals>(&StateKey::Totals)?.unwrap_or_default();
        let space = self.reserve.space();
        let families = self.table.approximate_bytes()?;
        let table_bytes = families.iter().map(|(_, bytes)| bytes).sum();
        let payload_bytes = families[Family::Payload as usize].1;
        let block_bytes = self.blocks.bytes();
        let contents = totals.live_bytes + totals.history_bytes;
        let progress = self.replica.progress();
        Ok(Status {
            store: self.label.to_string(),
            path: self.dir.display().to_string(),
            disk_total: space.total,
            disk_free: space.free,
            reserved: self.reserve.reserved(),
            block_bytes,
            table_bytes,
            log_bytes: self.replica.log_bytes(),
            live_bytes: totals.live_bytes,
            history_bytes: totals.history_bytes,
            // Contents lie in blocks and payload; what is dead or taken ahead is not theirs.
            saved_bytes: contents.saturating_sub(self.blocks.live_bytes() + payload_bytes),
            files: totals.files,
            versions: totals.versions,
            oldest: self.oldest()?.0,
            newest: progress.stamp.0,
            applied: progress.index.0,
            health: self.health(),
            counters: counter::all().map(|(counter, value)| (counter.name(), value)).collect(),
        })
    }

    fn administer_all(&self, by: Option<u32>, ops: Vec<Op>) -> Result<Stamp, FsError> {
        let (session, seq, count) = (SessionId(0), BatchSeq(0), ops.len() as u32);
        let by = by.map(|uid| By { uid, ops: count }).into_iter().collect();
        let batch = Batch { session, seq, epoch: 0, by, ops, direct: None }.encode();
        let (outcome, stamp) = self.replica.apply(Proposal { session, seq, ops: count, batch })?;
        match outcome {
            Outcome::Applied | Outcome::Repeated => Ok(stamp),
            Outcome::Refused { error, .. } => Err(FsError::Refused(error.to_string())),
            Outcome::Held(_) | Outcome::Conflict | Outcome::Early => {
                unreachable!("only batches of sessions are answered so")
            }
        }
    }
}

/// What lends tables to other nodes, and keeps the log that those need behind them.
fn lender(
    replica: &Replica,
    disk: &Arc<dyn Disk>,
    dir: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<Lender>, FsError> {
    let lender = Arc::new(Lender::open(disk.clone(), dir, clock.clone(), LENT_FOR)?);
    let kept = lender.clone();
    replica.keep_log_behind(move |followers| {
        kept.tend();
        kept.needs_log_behind(followers)
    });
    Ok(lender)
}
