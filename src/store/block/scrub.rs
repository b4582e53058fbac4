//! Verifying what is stored, segment by segment, for fsck and for the background.
//!
//! Not here: whether what the map names is what the index names; whoever reads the map compares with `each_named`.

use crate::store::block::BlockStore;
use crate::store::block::index;
use crate::store::block::index::Kind;
use crate::store::disk::File;
use crate::store::segment;
use crate::store::segment::Found;
use crate::store::segment::Place;
use crate::store::segment::Record;
use crate::store::segment::SegmentId;
use crate::store::segment::UNIT_BYTES;
use crate::store::segment::Walk;
use crate::telemetry::counter;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::Stamp;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeSet;

/// Something that does not hold.
#[derive(Debug)]
pub struct Fault {
    /// A sentence that names it.
    pub what: FsError,
    /// Which block cannot be read for it.
    pub block: Option<BlockId>,
    /// The index says what is not so; contents need not be damaged for that.
    pub is_of_index: bool,
}

/// How far the scrub of one segment is.
#[derive(Debug)]
pub struct Scrub {
    segment: SegmentId,
    /// Where it goes on.
    unit: u32,
    /// What the segment's row said when it began: units that are live, and up to where there are rows.
    before: Option<(u32, u32)>,
    /// Units of the live records that were met, and where they begin.
    live: u32,
    seen: BTreeSet<u32>,
    done: bool,
}

impl Scrub {
    pub fn new(segment: SegmentId) -> Scrub {
        let (unit, seen) = (segment::FIRST_UNIT, BTreeSet::new());
        Scrub { segment, unit, before: None, live: 0, seen, done: false }
    }

    pub fn is_done(&self) -> bool {
        self.done
    }
}

/// How far the rounds over all segments are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scrubbed {
    /// The number of the last segment that is done; none where a round has not begun or is over.
    pub segment: Option<u64>,
    /// When the last round began, by the wall clock.
    pub begun: Stamp,
}

impl BlockStore {
    /// The segments with the bytes they take, oldest first: what there is to scrub.
    pub fn segments(&self) -> Vec<(SegmentId, u64)> {
        let state = self.state.lock();
        let bytes = |units: u32| u64::from(units) * UNIT_BYTES;
        state.segments.iter().map(|(id, segment)| (*id, bytes(segment.allocated))).collect()
    }

    /// Bytes of segments that something names or may yet name.
    pub fn live_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.segments.values().map(|segment| u64::from(segment.live) * UNIT_BYTES).sum()
    }

    /// Where a block's record begins: its segment, and the offset in there.
    #[cfg(test)]
    pub(crate) fn place(&self, block: BlockId) -> Option<(SegmentId, u64)> {
        let place = self.locate(block).expect("the index can be read")?;
        Some((place.segment, place.offset()))
    }

    /// Every named block, in order.
    ///
    /// # Errors
    /// `Damaged`, `Io`, and what `visit` returns.
    pub fn each_named(
        &self,
        mut visit: impl FnMut(BlockId) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        index::each_block(&*self.table, Kind::Named, |block, _| visit(block))
    }

    /// How many blocks were found damaged by reading them, since the store was opened.
    pub fn damage_met(&self) -> usize {
        self.state.lock().met.len()
    }

    /// Reads all that is live in a segment and verifies it. `fault` is told each thing that does not hold.
    ///
    /// # Errors
    /// `Damaged` where the index cannot be read; `Io` where the disk fails otherwise than for a part of a file.
    pub fn scrub(&self, id: SegmentId, fault: &mut dyn FnMut(Fault)) -> Result<(), FsError> {
        let mut scrub = Scrub::new(id);
        while !scrub.is_done() {
            self.scrub_on(&mut scrub, u64::MAX, fault)?;
        }
        Ok(())
    }

    /// Goes on with the scrub of a segment until about `bytes_max` bytes are read: how many were. Others may use the store
    /// meanwhile.
    ///
    /// # Errors
    /// As for [`BlockStore::scrub`].
    pub fn scrub_on(
        &self,
        scrub: &mut Scrub,
        bytes_max: u64,
        fault: &mut dyn FnMut(Fault),
    ) -> Result<u64, FsError> {
        let mut told = |block, what, is_of_index| {
            counter::DAMAGE_FOUND.add(1);
            if let Some(block) = block {
                self.met(block, &what);
            }
            fault(Fault { what, block, is_of_index });
        };
        let Some(now) = self.live(scrub.segment) else {
            // It went: what was live in it was moved.
            scrub.done = true;
            return Ok(0);
        };
        let begins = scrub.before.is_none();
        let before = *scrub.before.get_or_insert(now);
        let file = match self.file(scrub.segment) {
            Ok(file) => file,
            Err(error) => {
                if self.live(scrub.segment).is_some() {
                    told(None, error, false);
                }
                self.end_scrub(scrub, before, &mut told)?;
                return Ok(0);
            }
        };
        // Until it was first synced, which its row tells, a segment has promised nothing, its header neither.
        if begins && before.1 > 0 {
            let header = segment::check_segment_header(&*file, scrub.segment, &self.store);
            header.unwrap_or_else(|error| told(None, error, false));
        }
        let mut read = 0;
        let mut walk = Walk::new(&*file, scrub.segment, scrub.unit)?;
        while read < bytes_max {
            let Some((_, found)) = walk.step()? else {
                self.end_scrub(scrub, before, &mut told)?;
                break;
            };
            scrub.unit = walk.unit;
            read += match found {
                Found::Record(record) => self.scrub_record(scrub, &*file, record, &mut told)?,
                Found::Empty | Found::Junk => UNIT_BYTES,
            };
        }
        Ok(read)
    }

    /// Verifies a record if it is live: how many bytes were read.
    fn scrub_record(
        &self,
        scrub: &mut Scrub,
        file: &dyn File,
        record: Record,
        told: &mut dyn FnMut(Option<BlockId>, FsError, bool),
    ) -> Result<u64, FsError> {
        let Record { block, place, .. } = record;
        if self.locate(block)? != Some(place) {
            return Ok(0);
        }
        scrub.seen.insert(place.unit);
        // Beyond, records are known, but have no rows to be counted by.
        if scrub.before.is_some_and(|(_, rowed)| place.unit < rowed) {
            scrub.live += place.units();
        } else if self.lacks_row(block, place) {
            let segment = place.segment;
            let what = format!("segment {segment}: its row does not know of block {block}");
            told(None, FsError::Damaged(what), true);
        }
        // Others may have moved it meanwhile, and its segment may be gone.
        if let Err(error) = segment::read_frame(file, place, block)
            && self.locate(block)? == Some(place)
        {
            told(Some(block), error, false);
        }
        Ok(u64::from(place.units()) * UNIT_BYTES)
    }

    /// Whether a named block lies where the row of its segment says that there is nothing yet.
    fn lacks_row(&self, block: BlockId, place: Place) -> bool {
        let state = self.state.lock();
        let rowed = state.segments.get(&place.segment).map_or(u32::MAX, |segment| segment.rowed);
        place.unit >= rowed && !state.pending.contains_key(&block)
    }

    /// All records were met: whether those are all that there are to be.
    fn end_scrub(
        &self,
        scrub: &mut Scrub,
        before: (u32, u32),
        told: &mut dyn FnMut(Option<BlockId>, FsError, bool),
    ) -> Result<(), FsError> {
        scrub.done = true;
        let id = scrub.segment;
        // A store in use may have changed meanwhile; then the sum proves nothing.
        if self.live(id) != Some(before) || scrub.live == before.0 {
            return Ok(());
        }
        let mut live = scrub.live;
        let mut lost = |block: BlockId, place: Place| {
            if place.segment == id && !scrub.seen.contains(&place.unit) {
                let at = place.offset();
                let what =
                    format!("block {block} at byte {at} of segment {id}: no record is there");
                live += place.units();
                told(Some(block), FsError::Damaged(what), true);
            }
            Ok(())
        };
        index::each_block(&*self.table, Kind::Named, &mut lost)?;
        index::each_block(&*self.table, Kind::Pending, &mut lost)?;
        if live != before.0 {
            let what = format!("segment {id}: {live} units are live, its row says {}", before.0);
            told(None, FsError::Damaged(what), true);
        }
        Ok(())
    }

    /// Units of a segment whose records have rows, and up to where there are rows.
    fn live(&self, id: SegmentId) -> Option<(u32, u32)> {
        self.state.lock().segments.get(&id).map(|segment| (segment.live, segment.rowed))
    }

    /// The last segment that was scrubbed in the background, and when that round began; none before the first.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn scrubbed(&self) -> Result<Option<Scrubbed>, FsError> {
        if let Some(noted) = self.state.lock().scrubbed {
            return Ok(Some(noted));
        }
        index::scrubbed(&*self.table)
    }

    /// Notes how far the background is; the next upkeep writes it.
    pub fn note_scrubbed(&self, scrubbed: Scrubbed) {
        let state = &mut *self.state.lock();
        state.scrubbed = Some(scrubbed);
        state.scrubbed_unsaved = true;
    }
}
