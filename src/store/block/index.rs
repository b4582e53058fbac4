//! Where blocks lie, as rows of `Family::Local`, and how the replica driver's calls write them.
//!
//! | key | value | one for each |
//! |---|---|---|
//! | `B` block 16 | version, segment, unit, frame bytes | named block |
//! | `P` block 16 | the same | pending block that was synced when a batch was applied |
//! | `L` block 16 | version | named block that is listed for repair: it is not here, or, with `B`, damaged |
//! | `E` block 16 | version | named block that is not here and is not to be |
//! | `G` segment 8 | version, rowed, live, retired | segment |
//! | `scrubbed` | version, how far scrubbing in the background is | store |
//! | `placed` | version, number of the placement that `B`, `L` and `E` are of | store |

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::store::block::BlockStore;
use crate::store::block::Fate;
use crate::store::block::Pending;
use crate::store::block::Scrubbed;
use crate::store::block::State;
use crate::store::segment::Place;
use crate::store::segment::SegmentId;
use crate::telemetry::counter;
use crate::types::BlockId;
use crate::types::FsError;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

const VERSION: u8 = 1;

/// The kinds of rows, by the first byte of their keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Named = b'B',
    Pending = b'P',
    Listed = b'L',
    Elsewhere = b'E',
    Segment = b'G',
}

pub(super) fn block_key(kind: Kind, block: BlockId) -> Vec<u8> {
    [&[kind as u8][..], &block.to_bytes()].concat()
}

pub(super) fn segment_key(segment: SegmentId) -> Vec<u8> {
    [&[Kind::Segment as u8][..], &segment.0.to_be_bytes()].concat()
}

/// What a block's row holds.
#[derive(Serialize, Deserialize)]
struct PlaceRow {
    segment: u64,
    unit: u32,
    frame_bytes: u32,
}

/// What a segment's row holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct SegmentRow {
    /// Rows say everything about the units below.
    pub rowed: u32,
    /// Units of records that have rows.
    pub live: u32,
    /// Nothing is live, and the file goes.
    pub retired: bool,
}

impl SegmentRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

/// The segment that a row is about, if it is one's.
pub(super) fn segment_of(key: &[u8]) -> Option<SegmentId> {
    key[1..].try_into().map(|id| SegmentId(u64::from_be_bytes(id))).ok()
}

pub(super) fn decode_segment(row: &[u8]) -> Option<SegmentRow> {
    decode(row, "a segment").ok()
}

fn encode(row: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(row, vec![VERSION]).expect("writing to memory does not fail")
}

fn decode<'a, T: Deserialize<'a>>(value: &'a [u8], what: &str) -> Result<T, FsError> {
    let damaged = || FsError::Damaged(format!("the row of {what} in the table cannot be read"));
    match value.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| damaged()),
        _ => Err(damaged()),
    }
}

pub(super) fn encode_place(place: Place) -> Vec<u8> {
    let Place { segment, unit, frame_bytes } = place;
    encode(&PlaceRow { segment: segment.0, unit, frame_bytes })
}

pub(super) fn decode_place(value: &[u8], block: BlockId) -> Result<Place, FsError> {
    let PlaceRow { segment, unit, frame_bytes } = decode(value, &format!("block {block}"))?;
    Ok(Place { segment: SegmentId(segment), unit, frame_bytes })
}

/// The rows of blocks of one kind, in order of the blocks.
pub(super) fn each_block(
    rows: &dyn Rows,
    kind: Kind,
    mut visit: impl FnMut(BlockId, Place) -> Result<(), FsError>,
) -> Result<(), FsError> {
    let mut failed = Ok(());
    rows.scan(
        Family::Local,
        &KeyRange::prefix(&[kind as u8]),
        Direction::Forward,
        &mut |key, value| {
            // The table's own rows may share the first byte, but not the length.
            let Some(block) = BlockId::from_bytes(&key[1..]) else {
                return ControlFlow::Continue(());
            };
            match decode_place(value, block).and_then(|place| visit(block, place)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Err(error);
                    ControlFlow::Break(())
                }
            }
        },
    )?;
    failed
}

/// What the row of a block holds that is listed, or elsewhere.
pub(super) fn listed_row() -> Vec<u8> {
    vec![VERSION]
}

/// Visits the blocks that have rows of a kind, in order, from behind `after`. What the rows hold is not looked at.
pub(super) fn each_key(
    rows: &dyn Rows,
    kind: Kind,
    after: Option<BlockId>,
    mut visit: impl FnMut(BlockId) -> ControlFlow<()>,
) -> Result<(), FsError> {
    let mut range = KeyRange::prefix(&[kind as u8]);
    if let Some(after) = after {
        range.start = [&block_key(kind, after)[..], &[0]].concat();
    }
    rows.scan(Family::Local, &range, Direction::Forward, &mut |key, _| {
        // The table's own rows may share the first byte, but not the length.
        BlockId::from_bytes(&key[1..]).map_or(ControlFlow::Continue(()), &mut visit)
    })
}

/// How far scrubbing in the background is.
const SCRUBBED_KEY: &[u8] = b"scrubbed";

pub(super) fn scrubbed(rows: &dyn Rows) -> Result<Option<Scrubbed>, FsError> {
    let row = rows.get(Family::Local, SCRUBBED_KEY)?;
    row.map(|row| decode(&row, "what is scrubbed")).transpose()
}

pub(super) fn put_scrubbed(scrubbed: &Scrubbed, changes: &mut Changes) {
    changes.put(Family::Local, SCRUBBED_KEY, encode(scrubbed));
}

/// The placement that rows of blocks are of.
const PLACED_KEY: &[u8] = b"placed";

/// `None` before the first, and where the row cannot be read: then rows are looked through once more.
pub(super) fn placed(rows: &dyn Rows) -> Result<Option<u64>, FsError> {
    let row = rows.get(Family::Local, PLACED_KEY)?;
    Ok(row.and_then(|row| decode(&row, "what is placed").ok()))
}

pub(super) fn put_placed(number: u64, changes: &mut Changes) {
    changes.put(Family::Local, PLACED_KEY, encode(&number));
}

/// The rows of segments.
pub(super) fn segments(rows: &dyn Rows) -> Result<Vec<(SegmentId, SegmentRow)>, FsError> {
    let (mut found, mut failed) = (Vec::new(), Ok(()));
    let range = KeyRange::prefix(&[Kind::Segment as u8]);
    rows.scan(Family::Local, &range, Direction::Forward, &mut |key, value| {
        let Some(id) = segment_of(key) else { return ControlFlow::Continue(()) };
        match decode(value, &format!("segment {id}")) {
            Ok(row) => {
                found.push((id, row));
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Err(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map(|()| found)
}

/// Rows on their way into [`Changes`], and the segments whose rows have to follow.
pub(super) struct Writing<'a> {
    pub state: &'a mut State,
    pub changes: &'a mut Changes,
    touched: BTreeSet<SegmentId>,
}

impl<'a> Writing<'a> {
    pub(super) fn new(state: &'a mut State, changes: &'a mut Changes) -> Writing<'a> {
        Writing { state, changes, touched: BTreeSet::new() }
    }

    pub(super) fn put(&mut self, kind: Kind, block: BlockId, place: Place) {
        self.changes.put(Family::Local, block_key(kind, block), encode_place(place));
    }

    pub(super) fn delete(&mut self, kind: Kind, block: BlockId) {
        self.changes.delete(Family::Local, block_key(kind, block));
    }

    /// A record that had no row has one.
    pub(super) fn lives(&mut self, place: Place) {
        self.state.segment(place.segment).live += place.units();
        self.touched.insert(place.segment);
    }

    /// A record that had a row has none.
    pub(super) fn dies(&mut self, place: Place) {
        // Where damage was found at opening, the segment may be unknown, or its row's number too small.
        if let Some(segment) = self.state.segments.get_mut(&place.segment) {
            segment.live = segment.live.saturating_sub(place.units());
            self.touched.insert(place.segment);
            self.state.perhaps_dead.insert(place.segment);
        }
    }

    /// Ops name this block, whose bytes are durable here: it is pending no more.
    pub(super) fn name(&mut self, block: BlockId, pending: Pending) {
        self.state.pending.remove(&block);
        if pending.rowed {
            self.delete(Kind::Pending, block);
        } else {
            self.lives(pending.place);
        }
        self.put(Kind::Named, block, pending.place);
        self.state.unsaved.insert(block, Some(pending.place));
        if self.state.arrived.remove(&block) {
            self.unlist(block);
        }
        if self.state.placing.found.contains(&block) {
            self.not_elsewhere(block);
        }
    }

    /// A block that nothing names, nor will.
    pub(super) fn drop_pending(&mut self, block: BlockId) {
        if let Some(pending) = self.state.pending.remove(&block) {
            if pending.rowed {
                self.delete(Kind::Pending, block);
                self.dies(pending.place);
            }
            self.state.unsaved.insert(block, None);
        }
    }

    /// The log names a block that is not here.
    pub(super) fn miss(&mut self, block: BlockId, shared: bool) {
        if shared {
            counter::BLOCKS_MISSED.add(1);
        } else {
            counter::DAMAGE_FOUND.add(1);
            tracing::error!(%block, "the log names a block that is not in the store");
        }
        self.expect(block);
    }

    /// A block that is not here is to be: it is listed, and what is being put of it counts.
    pub(super) fn expect(&mut self, block: BlockId) {
        self.list(block);
        if let Some(putting) = self.state.putting.get_mut(&block)
            && putting.fate == Fate::Pending
        {
            putting.fate = Fate::Arrives;
        }
    }

    /// The block is to be repaired. It is not listed yet.
    pub(super) fn list(&mut self, block: BlockId) {
        if self.state.unsaved_list.insert(block, true) != Some(true) {
            self.state.listed += 1;
            self.state.complete.listed(block);
            self.changes.put(Family::Local, block_key(Kind::Listed, block), listed_row());
        }
    }

    /// The block is listed, and not to be repaired any more.
    pub(super) fn unlist(&mut self, block: BlockId) {
        if self.state.unsaved_list.insert(block, false) != Some(false) {
            self.state.listed -= 1;
            self.state.complete.unlisted(block);
            self.delete(Kind::Listed, block);
        }
    }

    /// Gives all synced blocks rows, and writes the rows of the segments that were touched.
    pub(super) fn finish(mut self) {
        let (arrived, pending) = (&self.state.arrived, &self.state.pending);
        let ready: Vec<_> = arrived
            .iter()
            .chain(&self.state.placing.found)
            .filter_map(|block| pending.get(block).map(|pending| (*block, *pending)))
            .filter(|(_, pending)| self.state.is_synced(pending.place))
            .collect();
        for (block, pending) in ready {
            self.name(block, pending);
        }
        for block in std::mem::take(&mut self.state.unrowed) {
            let Some(pending) = self.state.pending.get(&block).copied() else { continue };
            if pending.rowed {
                continue;
            }
            if !self.state.is_synced(pending.place) {
                self.state.unrowed.push(block);
                continue;
            }
            self.put(Kind::Pending, block, pending.place);
            self.lives(pending.place);
            self.state.pending.entry(block).and_modify(|pending| pending.rowed = true);
        }
        for id in std::mem::take(&mut self.state.rowed_behind) {
            let Some(segment) = self.state.segments.get_mut(&id) else { continue };
            segment.rowed = segment.rowed.max(segment.synced);
            self.touched.insert(id);
            self.state.perhaps_dead.insert(id);
        }
        for id in &self.touched {
            if let Some(segment) = self.state.segments.get(id) {
                let row = SegmentRow { rowed: segment.rowed, live: segment.live, retired: false };
                self.changes.put(Family::Local, segment_key(*id), row.encode());
            }
        }
    }
}

impl BlockStore {
    /// Where a block lies: pending, or as its row says. `None` where it is not known.
    pub(super) fn locate(&self, block: BlockId) -> Result<Option<Place>, FsError> {
        {
            let state = self.state.lock();
            if let Some(pending) = state.pending.get(&block) {
                return Ok(Some(pending.place));
            }
        }
        self.row_of(block)
    }

    /// Where a block lies as its row says, in the table or on its way there.
    pub(super) fn row_of(&self, block: BlockId) -> Result<Option<Place>, FsError> {
        if let Some(unsaved) = self.state.lock().unsaved.get(&block) {
            return Ok(*unsaved);
        }
        let row = self.table.get(Family::Local, &block_key(Kind::Named, block))?;
        row.map(|row| decode_place(&row, block)).transpose()
    }
}
