//! A server over a table in memory. One thread makes proposals durable and applies them, at its own pace.

use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use tsfs::env::Clock;
use tsfs::env::SystemClock;
use tsfs::meta::apply::Rules;
use tsfs::meta::key::GROUPS;
use tsfs::meta::key::StateKey;
use tsfs::meta::op::Batch;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::meta::record::Grant;
use tsfs::meta::record::Next;
use tsfs::meta::record::Record;
use tsfs::meta::record::Session;
use tsfs::series;
use tsfs::series::Direction;
use tsfs::series::KeyRange;
use tsfs::series::Read;
use tsfs::series::Readable;
use tsfs::series::Series;
use tsfs::series::Version;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::series::table::Table;
use tsfs::store::table::MemoryTable;
use tsfs::types::AsOf;
use tsfs::types::BatchSeq;
use tsfs::types::BlockId;
use tsfs::types::FsError;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::types::frame::Frame;
use tsfs::wire::Applied;
use tsfs::wire::Durable;
use tsfs::wire::Listener;
use tsfs::wire::Page;
use tsfs::wire::Proposal;
use tsfs::wire::Server;
use tsfs::wire::Status;
use tsfs::wire::Welcome;

const HASH_KEY: [u8; 16] = [7; 16];

struct Work {
    proposal: Proposal,
    durable: Durable,
    applied: Applied,
}

#[derive(Default)]
struct State {
    proposed: VecDeque<Work>,
    /// In the log, not in the table.
    logged: VecDeque<(Stamp, Proposal, Option<Applied>)>,
    last: Stamp,
    /// Not synced, and synced.
    put: BTreeMap<BlockId, Bytes>,
    blocks: BTreeMap<BlockId, Bytes>,
    space: u64,
    held: bool,
    /// Gone: nothing more becomes durable.
    lost: bool,
}

pub(super) struct Memory {
    table: MemoryTable,
    rules: Rules,
    state: Mutex<State>,
    more: Condvar,
}

impl Memory {
    pub(super) fn new() -> Arc<Memory> {
        let server =
            Memory::over(MemoryTable::default(), State { space: u64::MAX, ..State::default() });
        let time = SystemClock.time();
        let (uuid, hash_key) = ([1; 16], HASH_KEY);
        server
            .administer(Op::Format { uuid, hash_key, mode: 0o755, uid: 0, gid: 0, time })
            .unwrap();
        server
    }

    fn over(table: MemoryTable, state: State) -> Arc<Memory> {
        let (state, more) = (Mutex::new(state), Condvar::new());
        let server = Arc::new(Memory { table, rules: Rules::new(HASH_KEY), state, more });
        let weak = Arc::downgrade(&server);
        std::thread::spawn(move || {
            while let Some(server) = weak.upgrade() {
                if !server.work() {
                    return;
                }
            }
        });
        server
    }

    /// The machine stops: what is not durable fails.
    pub(super) fn lose(&self) {
        let mut state = self.state.lock();
        state.lost = true;
        let failed = std::mem::take(&mut state.proposed);
        let waiting: Vec<_> =
            state.logged.iter_mut().filter_map(|logged| logged.2.take()).collect();
        state.put.clear();
        drop(state);
        self.more.notify_all();
        for applied in waiting {
            applied(Err(FsError::Closing));
        }
        for work in failed {
            (work.durable)(Err(FsError::Closing));
        }
    }

    /// The machine starts again: what is in its log is applied.
    pub(super) fn restarted(&self) -> Arc<Memory> {
        let mut state = self.state.lock();
        assert!(state.lost, "it must have stopped");
        for (stamp, proposal, _) in std::mem::take(&mut state.logged) {
            self.apply(stamp, &proposal).unwrap();
        }
        let fresh = State {
            last: state.last,
            blocks: std::mem::take(&mut state.blocks),
            space: u64::MAX,
            ..State::default()
        };
        let table = MemoryTable::default();
        let mut changes = series::table::Changes::default();
        for family in Family::ALL {
            let all = KeyRange::prefix(b"");
            self.table
                .scan(family, &all, Direction::Forward, &mut |key, row| {
                    changes.put(family, key, Bytes::copy_from_slice(row));
                    ControlFlow::Continue(())
                })
                .unwrap();
        }
        table.write(&changes).unwrap();
        Memory::over(table, fresh)
    }

    /// Blocks that lie apart from their ops.
    pub(super) fn blocks(&self) -> usize {
        self.state.lock().blocks.len()
    }

    pub(super) fn set_space(&self, bytes: u64) {
        self.state.lock().space = bytes;
    }

    /// Nothing becomes durable meanwhile.
    pub(super) fn hold(&self, held: bool) {
        self.state.lock().held = held;
        self.more.notify_all();
    }

    /// One step: something becomes durable, or what is durable is applied. False at the end.
    fn work(&self) -> bool {
        let mut state = self.state.lock();
        if state.lost {
            return false;
        }
        let log = !state.held && !state.proposed.is_empty();
        // Sometimes the log runs ahead of the table.
        if log && (state.logged.is_empty() || state.last.0.is_multiple_of(3)) {
            let Work { proposal, durable, applied } = state.proposed.pop_front().unwrap();
            let first = Stamp::next(state.last, SystemClock.wall());
            state.last = Stamp(first.0 + u64::from(proposal.ops) - 1);
            state.logged.push_back((first, proposal, Some(applied)));
            drop(state);
            durable(Ok(first));
        } else if let Some((stamp, proposal, applied)) = state.logged.pop_front() {
            let result = self.apply(stamp, &proposal);
            drop(state);
            applied.expect("nobody else takes it")(result);
        } else {
            self.more.wait_for(&mut state, std::time::Duration::from_millis(20));
        }
        true
    }

    fn apply(&self, stamp: Stamp, proposal: &Proposal) -> Result<(Outcome, Stamp), FsError> {
        let batch = Batch::decode(&proposal.batch)?;
        let origin = series::Origin { stamp, session: batch.session, seq: batch.seq };
        let mut present = series::Batch::new(&self.table, GROUPS, origin);
        let outcome = self.rules.apply_batch(&mut present, &batch)?;
        let finished = present.finish()?;
        self.table.write(&finished.changes)?;
        Ok((outcome, finished.last))
    }

    fn series(&self) -> Series<'_> {
        Series::new(&self.table, GROUPS, Readable::default())
    }

    fn record<R: Record>(&self, key: &StateKey) -> Result<Option<R>, FsError> {
        let key = key.encode();
        self.table.get(Family::State, &key)?.map(|row| R::from_row(&key, &row)).transpose()
    }

    fn page(&self, family: Family, range: &KeyRange, limit: usize) -> Result<Page, FsError> {
        let mut page = Page::default();
        self.table.scan(family, range, Direction::Forward, &mut |key, row| {
            collect(&mut page, limit, key, row)
        })?;
        Ok(page)
    }
}

fn collect(page: &mut Page, limit: usize, key: &[u8], row: &[u8]) -> ControlFlow<()> {
    if page.rows.len() == limit {
        page.more = true;
        return ControlFlow::Break(());
    }
    page.rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(row)));
    ControlFlow::Continue(())
}

impl Server for Memory {
    fn open_session(&self, client: &str, _: Arc<dyn Listener>) -> Result<Welcome, FsError> {
        while let Some((key, _)) = self.page(Family::State, &StateKey::sessions(), 1)?.rows.pop() {
            let Some(StateKey::Session { session }) = StateKey::decode(&key) else { panic!() };
            self.administer(Op::EndSession { session })?;
        }
        let session = self.record::<Next>(&StateKey::Next)?.unwrap().session;
        self.administer(Op::OpenSession { session, client: client.to_owned() })?;
        let grant = self.record::<Grant>(&StateKey::Grant)?.unwrap();
        let (epoch, whole) = (grant.epoch, Some(grant.into()));
        Ok(Welcome { session, epoch, whole, hash_key: HASH_KEY, store: "memory".to_owned() })
    }

    fn grant_inos(&self, session: SessionId, count: u64) -> Result<u64, FsError> {
        self.administer(Op::GrantInos { session, count })?;
        let member: Session = self.record(&StateKey::Session { session })?.unwrap();
        Ok(member.inos.last().unwrap().1 - count)
    }

    fn propose(&self, proposal: Proposal, durable: Durable, applied: Applied) {
        let mut state = self.state.lock();
        if state.lost {
            drop(state);
            return durable(Err(FsError::Closing));
        }
        for op in Batch::decode(&proposal.batch).unwrap().ops {
            let Op::Write { pieces, .. } = op else { continue };
            for piece in pieces {
                if let tsfs::meta::op::Piece::Block { block, .. } = piece {
                    assert!(
                        state.blocks.contains_key(&block),
                        "{block} is named before it is synced"
                    );
                }
            }
        }
        state.proposed.push_back(Work { proposal, durable, applied });
        drop(state);
        self.more.notify_all();
    }

    fn get(&self, key: &[u8], at: AsOf) -> Result<Option<Bytes>, FsError> {
        // Not while a batch is half written.
        let _state = self.state.lock();
        self.series().get(key, at)
    }

    fn scan(
        &self,
        range: &KeyRange,
        at: AsOf,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, FsError> {
        let _state = self.state.lock();
        let mut page = Page::default();
        self.series()
            .scan(range, at, direction, &mut |key, row| collect(&mut page, limit, key, row))?;
        Ok(page)
    }

    fn versions(
        &self,
        key: &[u8],
        since: Stamp,
        until: Stamp,
        limit: usize,
    ) -> Result<Vec<Version>, FsError> {
        let _state = self.state.lock();
        let mut found = Vec::new();
        self.series().versions(key, since, until, &mut |version| {
            found.push(version);
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
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
        let _state = self.state.lock();
        let mut found = Vec::new();
        self.series().ended(range, since, until, &mut |key, version| {
            found.push((Bytes::copy_from_slice(key), version));
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(found)
    }

    fn state(&self, range: &KeyRange, limit: usize) -> Result<Page, FsError> {
        self.page(Family::State, range, limit)
    }

    fn changes(&self, since: Stamp, until: Stamp, limit: usize) -> Result<Page, FsError> {
        let end = until.0.checked_add(1).map_or(Vec::new(), |end| end.to_be_bytes().to_vec());
        self.page(Family::Changes, &KeyRange { start: since.0.to_be_bytes().to_vec(), end }, limit)
    }

    fn barrier(&self) -> Result<Stamp, FsError> {
        let mut state = self.state.lock();
        state.last = Stamp::next(state.last, SystemClock.wall());
        Ok(state.last)
    }

    fn put_block(&self, block: BlockId, frame: Frame) -> Result<(), FsError> {
        assert!(
            self.state.lock().put.insert(block, frame.to_bytes()).is_none(),
            "{block} was put before"
        );
        Ok(())
    }

    fn sync_blocks(&self) -> Result<(), FsError> {
        let mut state = self.state.lock();
        if state.lost {
            return Err(FsError::Closing);
        }
        let put = std::mem::take(&mut state.put);
        state.blocks.extend(put);
        Ok(())
    }

    fn block(&self, block: BlockId) -> Result<Bytes, FsError> {
        if let Some(frame) = self.table.get(Family::Payload, &block.to_bytes())? {
            return Ok(frame);
        }
        self.state.lock().blocks.get(&block).cloned().ok_or(FsError::Stale)
    }

    fn space_left(&self) -> u64 {
        self.state.lock().space
    }

    fn status(&self) -> Result<Status, FsError> {
        Ok(Status::default())
    }

    fn administer_all(&self, _: Option<u32>, ops: Vec<Op>) -> Result<Stamp, FsError> {
        let (session, seq, count) = (SessionId(0), BatchSeq(0), ops.len() as u32);
        let batch = Batch { session, seq, epoch: 0, by: Vec::new(), ops, direct: None }.encode();
        let (tell, told) = sync_channel(2);
        let failed = tell.clone();
        self.propose(
            Proposal { session, seq, ops: count, batch },
            Box::new(move |result| {
                if let Err(error) = result {
                    drop(failed.send(Err(error)))
                }
            }),
            Box::new(move |result| drop(tell.send(result))),
        );
        match told.recv().unwrap_or(Err(FsError::Closing))? {
            (Outcome::Refused { error, .. }, _) => Err(FsError::Refused(error.to_string())),
            (_, stamp) => Ok(stamp),
        }
    }
}
