//! Verifying what is stored, segment by segment, for fsck and for the background.
//!
//! Not here: whether what the map names is what the index names; whoever reads the map compares with `each_named`.

use crate::store::block::BlockStore;
use crate::store::block::index;
use crate::store::block::index::Kind;
use crate::store::segment;
use crate::store::segment::Found;
use crate::store::segment::Place;
use crate::store::segment::SegmentId;
use crate::store::segment::UNIT_BYTES;
use crate::store::segment::Walk;
use crate::telemetry::counter;
use crate::types::BlockId;
use crate::types::FsError;
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
        let Some((before, rowed)) = self.live(id) else { return Ok(()) };
        let mut told = |block, what, is_of_index| {
            counter::DAMAGE_FOUND.add(1);
            if let Some(block) = block {
                self.met(block, &what);
            }
            fault(Fault { what, block, is_of_index });
        };
        let mut seen = BTreeSet::new();
        let mut live = 0;
        match self.file(id) {
            Ok(file) => {
                let header = segment::check_segment_header(&*file, id, &self.store);
                // Until it was first synced, which its row tells, a segment has promised nothing, its header neither.
                if let Err(error) = header
                    && rowed > 0
                {
                    told(None, error, false);
                }
                let mut walk = Walk::new(&*file, id, segment::FIRST_UNIT)?;
                while let Some((unit, found)) = walk.step()? {
                    let Found::Record(record) = found else { continue };
                    if self.locate(record.block)? != Some(record.place) {
                        continue;
                    }
                    seen.insert(unit);
                    // Beyond, records are known, but have no rows to be counted by.
                    if unit < rowed {
                        live += record.place.units();
                    } else if !self.state.lock().pending.contains_key(&record.block) {
                        let block = record.block;
                        let what = format!("segment {id}: its row does not know of block {block}");
                        told(None, FsError::Damaged(what), true);
                    }
                    if let Err(error) = segment::read_frame(&*file, record.place, record.block) {
                        told(Some(record.block), error, false);
                    }
                }
            }
            Err(error) => told(None, error, false),
        }
        // A store in use may have changed meanwhile; then the sum proves nothing.
        if self.live(id) != Some((before, rowed)) || live == before {
            return Ok(());
        }
        let mut lost = |block: BlockId, place: Place| {
            if place.segment == id && !seen.contains(&place.unit) {
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
        if live != before {
            let what = format!("segment {id}: {live} units are live, its row says {before}");
            told(None, FsError::Damaged(what), true);
        }
        Ok(())
    }

    /// Units of a segment whose records have rows, and up to where there are rows.
    fn live(&self, id: SegmentId) -> Option<(u32, u32)> {
        self.state.lock().segments.get(&id).map(|segment| (segment.live, segment.rowed))
    }
}
