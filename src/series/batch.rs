//! One batch being applied: reads see its changes, and at the end it says which rows the table is to write.
//!
//! Nothing is written here. What a key held and holds is kept as a time line until the batch is done; only then are
//! its past versions told as deltas of what followed them. Not here: which changes an op makes.

use crate::series::Direction;
use crate::series::Dropped;
use crate::series::Groups;
use crate::series::KeyRange;
use crate::series::Past;
use crate::series::Present;
use crate::series::Read;
use crate::series::Readable;
use crate::series::Replica;
use crate::series::Series;
use crate::series::Visit;
use crate::series::chain;
use crate::series::changes::Record;
use crate::series::overlay;
use crate::series::read;
use crate::series::table;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::BatchSeq;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::SessionId;
use crate::types::Stamp;
use bytes::Bytes;
use std::collections::BTreeMap;

mod forget;
mod settle;
mod timeline;

use timeline::Former;
use timeline::Timeline;

/// Whose batch it is, and when.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Of the first step. After every stamp given before.
    pub stamp: Stamp,
    pub session: SessionId,
    pub seq: BatchSeq,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Finished {
    /// To be written as one, with the applied index.
    pub changes: table::Changes,
    /// Stamp of the last step.
    pub last: Stamp,
    /// Blocks that rows name since this batch, and blocks that none names any more.
    pub named: Vec<BlockId>,
    pub freed: Vec<BlockId>,
}

/// A batch over the table as it was before. Drop it to refuse the batch.
pub struct Batch<'a> {
    rows: &'a dyn Rows,
    before: Series<'a>,
    groups: Groups,
    origin: Origin,
    /// Of the present step.
    stamp: Stamp,
    series: BTreeMap<Vec<u8>, Timeline>,
    state: BTreeMap<Vec<u8>, StateRow>,
    payload: BTreeMap<BlockId, Option<Bytes>>,
    /// Changes of history that `forget` made.
    history: BTreeMap<Vec<u8>, Option<Bytes>>,
    records: Vec<(Stamp, Option<Vec<u8>>)>,
    named: Vec<BlockId>,
    freed: Vec<BlockId>,
    /// Who makes the changes, from which step on.
    by: Vec<(Stamp, u32)>,
    /// The first read that failed where nothing could be returned. Everything after it fails alike.
    fault: Option<FsError>,
}

struct StateRow {
    value: Option<Bytes>,
    changed: bool,
}

impl<'a> Batch<'a> {
    /// `rows` does not change while the batch lives: one thread applies, and writes what a batch gave before it makes the next.
    pub fn new(rows: &'a dyn Rows, groups: Groups, origin: Origin) -> Batch<'a> {
        Batch {
            rows,
            before: Series::new(rows, groups, Readable::default()),
            groups,
            origin,
            stamp: origin.stamp,
            series: BTreeMap::new(),
            state: BTreeMap::new(),
            payload: BTreeMap::new(),
            history: BTreeMap::new(),
            records: Vec::new(),
            named: Vec::new(),
            freed: Vec::new(),
            by: Vec::new(),
            fault: None,
        }
    }

    /// The rows to write.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn finish(mut self) -> Result<Finished, FsError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mut changes = table::Changes::default();
        self.settle(&mut changes)?;
        for (key, row) in self.history {
            changes.rows.push((Family::History, key, row));
        }
        for (key, row) in self.state {
            if row.changed {
                changes.rows.push((Family::State, key, row.value));
            }
        }
        for (block, frame) in self.payload {
            changes.rows.push((Family::Payload, block.to_bytes().to_vec(), frame));
        }
        for (stamp, record) in self.records {
            changes.rows.push((
                Family::Changes,
                Record::key(stamp).to_vec(),
                record.map(Bytes::from),
            ));
        }
        Ok(Finished { changes, last: self.stamp, named: self.named, freed: self.freed })
    }

    fn check(&self) -> Result<(), FsError> {
        match &self.fault {
            None => Ok(()),
            Some(fault) => Err(fault.clone()),
        }
    }

    /// The time line of `key`, begun from the table at the first touch: every change needs to know what was before.
    fn timeline(&mut self, key: &[u8]) -> Result<&mut Timeline, FsError> {
        // A second lookup on a miss is cheaper than an owned key on every hit.
        if !self.series.contains_key(key) {
            let former = chain::present(self.rows, key)?.map(|(from, run, value)| Former {
                from,
                run,
                value,
            });
            self.series.insert(key.to_vec(), Timeline::new(former));
        }
        Ok(self.series.get_mut(key).expect("inserted above"))
    }

    fn change(&mut self, key: &[u8], value: Option<Bytes>, past: Past) {
        let stamp = self.stamp;
        if past == Past::Fresh && !self.series.contains_key(key) {
            debug_assert_eq!(self.rows.get(Family::Current, key), Ok(None), "used: {key:?}");
            self.series.insert(key.to_vec(), Timeline::new(None));
        }
        match self.timeline(key) {
            Ok(timeline) => timeline.change(stamp, value, past),
            Err(fault) => {
                self.fault.get_or_insert(fault);
            }
        }
    }
}

impl Present for Batch<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        self.check()?;
        Ok(self.timeline(key)?.now().cloned())
    }

    fn scan(
        &mut self,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        self.check()?;
        let changes = overlay::part(&self.series, range, direction)
            .map(|(key, timeline)| (key, timeline.now().map(|value| &value[..])));
        let rows = |visit: Visit<'_>| read::scan_present(self.rows, range, direction, visit);
        overlay::scan(rows, changes, direction, visit)
    }

    fn put(&mut self, key: &[u8], value: Bytes, past: Past) {
        self.change(key, Some(value), past);
    }

    fn remove(&mut self, key: &[u8], past: Past) {
        self.change(key, None, past);
    }

    fn cut(&mut self) {
        self.stamp.0 += 1;
    }

    fn state(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        self.check()?;
        if let Some(row) = self.state.get(key) {
            return Ok(row.value.clone());
        }
        let value = self.rows.get(Family::State, key)?;
        self.state.insert(key.to_vec(), StateRow { value: value.clone(), changed: false });
        Ok(value)
    }

    fn state_put(&mut self, key: &[u8], value: Option<Bytes>) {
        match self.state.get_mut(key) {
            Some(row) => *row = StateRow { value, changed: true },
            None => {
                self.state.insert(key.to_vec(), StateRow { value, changed: true });
            }
        }
    }

    fn state_scan(&mut self, range: &KeyRange, visit: Visit<'_>) -> Result<(), FsError> {
        self.check()?;
        let direction = Direction::Forward;
        let changes = overlay::part(&self.state, range, direction)
            .map(|(key, row)| (key, row.value.as_deref()));
        let rows = |visit: Visit<'_>| self.rows.scan(Family::State, range, direction, visit);
        overlay::scan(rows, changes, direction, visit)
    }

    fn stamp(&self) -> Option<Stamp> {
        Some(self.stamp)
    }

    fn replica(&mut self) -> Option<&mut dyn Replica> {
        Some(self)
    }
}

impl Replica for Batch<'_> {
    fn take_back(&mut self) {
        let fault = self.fault.take();
        *self = Batch { fault, ..Batch::new(self.rows, self.groups, self.origin) };
    }

    fn made_by(&mut self, uid: u32) {
        self.by.push((self.stamp, uid));
    }

    fn payload_put(&mut self, block: BlockId, frame: Bytes) {
        self.payload.insert(block, Some(frame));
    }

    fn payload(&mut self, block: BlockId) -> Result<Option<Bytes>, FsError> {
        match self.payload.get(&block) {
            Some(frame) => Ok(frame.clone()),
            None => self.rows.get(Family::Payload, &block.to_bytes()),
        }
    }

    fn payload_remove(&mut self, block: BlockId) {
        self.payload.insert(block, None);
    }

    fn block_named(&mut self, block: BlockId) {
        self.named.push(block);
    }

    fn block_freed(&mut self, block: BlockId) {
        self.freed.push(block);
    }

    fn before(&self) -> &dyn Read {
        &self.before
    }

    fn rows(&self, family: Family, range: &KeyRange, visit: Visit<'_>) -> Result<(), FsError> {
        self.rows.scan(family, range, Direction::Forward, visit)
    }

    fn forget(&mut self, key: &[u8], from: Stamp, dropped: Dropped<'_>) -> Result<bool, FsError> {
        self.check()?;
        self.forget_version(key, from, dropped)
    }

    fn changes_remove(&mut self, stamp: Stamp) {
        self.records.push((stamp, None));
    }

    fn changes_keep(&mut self, rest: &Record) {
        self.records.push((rest.stamp, Some(rest.encode())));
    }
}
