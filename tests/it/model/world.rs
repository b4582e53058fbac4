//! The real side: the rules over a table in memory, a log of batches, a store of blocks, and a client's view in front.

use super::tree::Contents;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use tsfs::meta::apply::Rules;
use tsfs::meta::apply::is_pending;
use tsfs::meta::check;
use tsfs::meta::extents::Source;
use tsfs::meta::key;
use tsfs::meta::key::StateKey;
use tsfs::meta::op::Batch;
use tsfs::meta::op::By;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::meta::read;
use tsfs::meta::record::Grant;
use tsfs::meta::record::Horizon;
use tsfs::meta::record::Record;
use tsfs::series;
use tsfs::series::Direction;
use tsfs::series::KeyRange;
use tsfs::series::Origin;
use tsfs::series::Past;
use tsfs::series::Present;
use tsfs::series::Read;
use tsfs::series::Readable;
use tsfs::series::Replica;
use tsfs::series::Series;
use tsfs::series::Visit;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::series::table::Table;
use tsfs::store::table::MemoryTable;
use tsfs::types::AsOf;
use tsfs::types::BatchSeq;
use tsfs::types::BlockId;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::types::Time;
use tsfs::types::frame;

/// Where the log stands that the table has applied.
const APPLIED: &[u8] = b"applied";

pub(super) struct World {
    pub(super) table: MemoryTable,
    pub(super) rules: Rules,
    /// Every batch ever applied, with its first stamp.
    log: Vec<(Stamp, Bytes)>,
    /// What the data role holds: blocks that are in no op.
    pub(super) segments: RefCell<BTreeMap<BlockId, Bytes>>,
    /// Blocks that the table named and freed, by their state then.
    named: BTreeSet<BlockId>,
    pub(super) session: SessionId,
    pub(super) seq: BatchSeq,
    pub(super) epoch: u64,
    pub(super) last: Stamp,
}

/// What applying told, and the stamp of the last step.
pub(super) type Told = (Outcome, Stamp);

impl World {
    pub(super) fn new(time: Time) -> World {
        let hash_key = *b"a key for a test";
        let mut world = World {
            table: MemoryTable::default(),
            rules: Rules::new(hash_key),
            log: Vec::new(),
            segments: RefCell::default(),
            named: BTreeSet::new(),
            session: SessionId(0),
            seq: BatchSeq(0),
            epoch: 0,
            last: Stamp(1000),
        };
        let format = Op::Format { uuid: [7; 16], hash_key, mode: 0o755, uid: 0, gid: 0, time };
        world.administer(Stamp(2000), format);
        world.open_session(Stamp(3000));
        world
    }

    pub(super) fn open_session(&mut self, stamp: Stamp) {
        self.session = SessionId(self.session.0 + 1);
        self.seq = BatchSeq(0);
        let session = self.session;
        self.administer(stamp, Op::OpenSession { session, client: "model".to_owned() });
        let later = Stamp(stamp.0 + 1);
        self.administer(later, Op::GrantInos { session, count: 1 << 20 });
        let grant = self.table.get(Family::State, &StateKey::Grant.encode()).unwrap().unwrap();
        self.epoch = Grant::from_row(&StateKey::Grant.encode(), &grant).unwrap().epoch;
    }

    /// A batch of the session, all of it root's.
    pub(super) fn submit(&mut self, stamp: Stamp, ops: Vec<Op>) -> Told {
        let by = vec![By { uid: 0, ops: ops.len() as u32 }];
        self.submit_of(stamp, by, ops)
    }

    /// A batch of the session, of these users.
    pub(super) fn submit_of(&mut self, stamp: Stamp, by: Vec<By>, ops: Vec<Op>) -> Told {
        self.seq.0 += 1;
        let (session, seq, epoch) = (self.session, self.seq, self.epoch);
        self.append(stamp, &Batch { session, seq, epoch, by, ops, direct: None })
    }

    /// A batch of the server's own.
    pub(super) fn administer(&mut self, stamp: Stamp, op: Op) -> Told {
        let shown = format!("{op:?}");
        let told = self.try_administer(stamp, op);
        assert_eq!(told.0, Outcome::Applied, "{shown}");
        told
    }

    /// The same, of one that may be refused.
    pub(super) fn try_administer(&mut self, stamp: Stamp, op: Op) -> Told {
        let (session, seq, by) = (SessionId(0), BatchSeq(0), Vec::new());
        self.append(stamp, &Batch { session, seq, epoch: 0, by, ops: vec![op], direct: None })
    }

    pub(super) fn append(&mut self, stamp: Stamp, batch: &Batch) -> Told {
        assert!(stamp > self.last, "stamps rise");
        self.log.push((stamp, batch.encode()));
        let told = self.apply(self.log.len() - 1);
        self.last = self.last.max(told.1);
        told
    }

    fn apply(&mut self, index: usize) -> Told {
        let (stamp, bytes) = &self.log[index];
        let batch = Batch::decode(bytes).unwrap();
        let origin = Origin { stamp: *stamp, session: batch.session, seq: batch.seq };
        let mut present = series::Batch::new(&self.table, key::GROUPS, origin);
        let outcome = self.rules.apply_batch(&mut present, &batch).unwrap();
        let applied = (index as u64 + 1).to_be_bytes().to_vec();
        let done = present.finish().unwrap();
        for block in done.named {
            assert!(self.segments.borrow().contains_key(&block), "{block} was never stored");
            self.named.insert(block);
        }
        for block in done.freed {
            self.named.remove(&block);
        }
        let mut changes = done.changes;
        changes.put(Family::Local, APPLIED, applied);
        self.table.write(&changes).unwrap();
        (outcome, done.last)
    }

    /// Blocks of segments that nothing names may go. Called where no replay can need them: after a flush.
    pub(super) fn collect_segments(&mut self) {
        self.table.flush().unwrap();
        let named = &self.named;
        self.segments.borrow_mut().retain(|block, _| named.contains(block));
    }

    /// Power loss: what was not flushed is gone, and the log brings it back. Every row must be as it was.
    pub(super) fn crash(&mut self) {
        let (before, named) = (self.dump(), self.named.clone());
        self.table.lose_power();
        let applied = self.table.get(Family::Local, APPLIED).unwrap();
        let from = applied.map_or(0, |row| u64::from_be_bytes(row[..].try_into().unwrap()));
        for index in from as usize..self.log.len() {
            self.apply(index);
        }
        assert_eq!(self.dump(), before, "replay reached other rows");
        assert!(self.named.is_superset(&named));
        self.named = named;
    }

    /// Proposes the newest numbered batch again, as a client does that was not told.
    pub(super) fn repeat(&mut self, stamp: Stamp) {
        let numbered = |bytes: &Bytes| Batch::decode(bytes).unwrap().seq == self.seq;
        let Some((_, bytes)) =
            self.log.iter().rev().find(|(_, bytes)| self.seq.0 > 0 && numbered(bytes))
        else {
            return;
        };
        let batch = Batch::decode(bytes).unwrap();
        let before = self.dump();
        assert_eq!(self.append(stamp, &batch).0, Outcome::Repeated);
        assert_eq!(self.dump(), before);
    }

    /// All replicated rows.
    pub(super) fn dump(&self) -> BTreeMap<(Family, Vec<u8>), Bytes> {
        let mut rows = BTreeMap::new();
        for family in Family::ALL.into_iter().filter(|family| *family != Family::Local) {
            let all = KeyRange::prefix(&[]);
            self.table
                .scan(family, &all, Direction::Forward, &mut |key, row| {
                    rows.insert((family, key.to_vec()), Bytes::copy_from_slice(row));
                    ControlFlow::Continue(())
                })
                .unwrap();
        }
        rows
    }

    pub(super) fn horizon(&self) -> Stamp {
        let key = StateKey::Horizon.encode();
        let row = self.table.get(Family::State, &key).unwrap();
        row.map_or(Stamp::ZERO, |row| Horizon::from_row(&key, &row).unwrap().0)
    }

    /// Purges until nothing is left to do.
    pub(super) fn purge(&mut self, horizon: Stamp, rows: u32) {
        for n in 0.. {
            assert!(n < 100_000, "purge does not end");
            let stamp = Stamp(self.last.0 + 1);
            self.administer(stamp, Op::Purge { horizon, rows });
            if !is_pending(&self.table, self.horizon()).unwrap() {
                return;
            }
        }
    }

    pub(super) fn read(&self, marks: Vec<Stamp>) -> Series<'_> {
        let readable = Readable { oldest: self.horizon(), marks };
        Series::new(&self.table, key::GROUPS, readable)
    }

    /// The raw bytes of a block, wherever it lies.
    pub(super) fn block(&self, block: BlockId) -> Bytes {
        if let Some(bytes) = self.segments.borrow().get(&block) {
            return bytes.clone();
        }
        let row = self.table.get(Family::Payload, &block.to_bytes()).unwrap();
        frame::unpack(&row.unwrap_or_else(|| panic!("block {block} is gone"))).unwrap()
    }

    /// What a file holds, byte by byte.
    pub(super) fn contents(&self, read: &dyn Read, ino: Ino, at: AsOf) -> Contents {
        let inode = read::inode(read, ino, at).unwrap().unwrap();
        let mut contents = Contents::default();
        let parts = read::parts(read, ino, &inode, 0, u64::MAX, at).unwrap();
        let mut end = 0;
        for part in parts {
            assert_eq!(part.start, end, "parts lie one behind the other");
            end = part.end();
            let bytes = match part.source {
                None => continue,
                Some(Source::Inline(bytes)) => bytes,
                Some(Source::Block { block, offset, .. }) => {
                    let offset = offset as usize;
                    self.block(block).slice(offset..offset + part.len as usize)
                }
            };
            for (n, byte) in bytes.iter().enumerate() {
                contents.set(part.start + n as u64, u16::from(*byte));
            }
        }
        assert_eq!(end, inode.size, "parts reach the end");
        contents
    }

    /// Every rule between rows.
    pub(super) fn check(&self) {
        let mut faults = Vec::new();
        series::check::check(&self.table, key::GROUPS, &mut |_, _| {}, &mut |fault| {
            faults.push(fault.to_string());
        })
        .unwrap();
        check::check(&self.table, &mut |_, _| {}, &mut |fault| faults.push(fault.to_string()))
            .unwrap();
        let mut named = BTreeSet::new();
        check::segment_blocks(&self.table, &mut |block| {
            named.insert(block);
        })
        .unwrap();
        if named != self.named {
            faults.push(format!("segments hold {:?}, rows name {named:?}", self.named));
        }
        assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    }
}

/// What a client sees while a batch is open: committed rows under its own.
pub(super) struct View<'a> {
    table: &'a MemoryTable,
    pub(super) rows: BTreeMap<Vec<u8>, Option<Bytes>>,
    /// Committed rows that were looked at.
    pub(super) seen: BTreeMap<Vec<u8>, Option<Bytes>>,
    state: BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl<'a> View<'a> {
    pub(super) fn new(table: &'a MemoryTable) -> View<'a> {
        View::over(table, BTreeMap::new())
    }

    /// With rows that the client changed before and that are not committed.
    pub(super) fn over(table: &'a MemoryTable, rows: BTreeMap<Vec<u8>, Option<Bytes>>) -> View<'a> {
        View { table, rows, seen: BTreeMap::new(), state: BTreeMap::new() }
    }

    fn committed(&self) -> Series<'a> {
        Series::new(self.table, key::GROUPS, Readable::default())
    }
}

impl Present for View<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        match self.rows.get(key) {
            Some(row) => Ok(row.clone()),
            None => {
                let row = self.committed().get(key, AsOf::Now)?;
                self.seen.insert(key.to_vec(), row.clone());
                Ok(row)
            }
        }
    }

    fn scan(
        &mut self,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        assert_eq!(direction, Direction::Forward);
        let mut rows = BTreeMap::new();
        self.committed().scan(range, AsOf::Now, direction, &mut |key, row| {
            rows.insert(key.to_vec(), Some(Bytes::copy_from_slice(row)));
            ControlFlow::Continue(())
        })?;
        self.seen.extend(rows.clone());
        let own = self.rows.iter().filter(|(key, _)| range.contains(key));
        rows.extend(own.map(|(key, row)| (key.clone(), row.clone())));
        for (key, row) in rows {
            if let Some(row) = row
                && visit(&key, &row).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: Bytes, _: Past) {
        self.rows.insert(key.to_vec(), Some(value));
    }

    fn remove(&mut self, key: &[u8], _: Past) {
        self.rows.insert(key.to_vec(), None);
    }

    fn cut(&mut self) {}

    fn state(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        match self.state.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.table.get(Family::State, key),
        }
    }

    fn state_put(&mut self, key: &[u8], value: Option<Bytes>) {
        self.state.insert(key.to_vec(), value);
    }

    fn state_scan(&mut self, _: &KeyRange, _: Visit<'_>) -> Result<(), FsError> {
        unreachable!("no op of a client scans state")
    }

    fn stamp(&self) -> Option<Stamp> {
        None
    }

    fn replica(&mut self) -> Option<&mut dyn Replica> {
        None
    }
}
