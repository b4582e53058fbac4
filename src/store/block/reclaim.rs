//! Space of freed blocks, back to the disk: segments below half live are rewritten, dead ones go.
//!
//! A rewriting thread plans, copies and syncs; the driver moves the rows (`upkeep`); whoever flushes the table removes
//! the files that a flush has let go of. Not here: when, and how fast: the caller's `pace` is asked before each copy.

use crate::series::table::Changes;
use crate::series::table::Family;
use crate::store::block::BlockStore;
use crate::store::block::Segment;
use crate::store::block::State;
use crate::store::block::index::Kind;
use crate::store::block::index::SegmentRow;
use crate::store::block::index::Writing;
use crate::store::block::index::segment_key;
use crate::store::disk::Access;
use crate::store::segment;
use crate::store::segment::Found;
use crate::store::segment::Origin;
use crate::store::segment::Place;
use crate::store::segment::SegmentId;
use crate::store::segment::UNIT_BYTES;
use crate::store::segment::Walk;
use crate::telemetry::counter;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::frame;
use std::ops::ControlFlow;

/// A segment that still is appended to is given up for rewriting only beyond this many units.
const GIVEN_UP_FROM_UNITS: u32 = (1 << 20) / UNIT_BYTES as u32;

/// A segment worth rewriting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reclaim {
    pub segment: SegmentId,
    /// What has to be copied.
    pub live_bytes: u64,
    /// What comes back when it is gone.
    pub bytes: u64,
}

/// A durable copy, whose row is to be moved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    block: BlockId,
    from: Place,
    to: Place,
}

/// Segments that nothing in the table names. Their files may go once the table is flushed.
#[must_use = "flush the table, then give it to BlockStore::remove"]
#[derive(Debug)]
pub struct Retired(Vec<SegmentId>);

impl Segment {
    /// Rows say everything about it, and nobody writes into it.
    fn settled(&self) -> bool {
        self.rowed == self.end && self.in_flight.is_empty()
    }
}

impl State {
    fn is_dead(&self, id: SegmentId) -> bool {
        self.segments.get(&id).is_some_and(|segment| segment.live == 0 && segment.settled())
            && !self.is_appended_to(id)
    }
}

impl BlockStore {
    /// The segment whose rewriting gives most for the least copying, if any is below half live.
    pub fn plan_reclaim(&self) -> Option<Reclaim> {
        let state = self.state.lock();
        let worth = state.segments.iter().filter(|(id, segment)| {
            let large = !state.is_appended_to(**id) || segment.end >= GIVEN_UP_FROM_UNITS;
            // Nothing live and not appended to: it goes without being rewritten.
            let work = segment.live > 0 || state.is_appended_to(**id);
            segment.settled()
                && !segment.copied
                && !segment.damaged
                && large
                && work
                && u64::from(segment.live) * 2 < u64::from(segment.end)
        });
        let share = |segment: &Segment| u64::from(segment.live) * 1000 / u64::from(segment.end);
        let (id, segment) = worth.min_by_key(|(_, segment)| share(segment))?;
        Some(Reclaim {
            segment: *id,
            live_bytes: u64::from(segment.live) * UNIT_BYTES,
            bytes: u64::from(segment.allocated) * UNIT_BYTES,
        })
    }

    /// Copies what is live in a segment, and makes the copies durable. `pace` is told how many bytes come next: it may
    /// wait, or break to leave the rest for another time. The rows follow in the next [`BlockStore::upkeep`].
    ///
    /// # Errors
    /// `Damaged` where a live block cannot be read: the others are copied, and the segment stays; `NoSpace`; `Io`.
    pub fn reclaim(
        &self,
        plan: &Reclaim,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let id = plan.segment;
        {
            let state = &mut *self.state.lock();
            state.working()?;
            let Some(segment) = state.segments.get_mut(&id) else { return Ok(()) };
            segment.copied = true;
            if state.is_appended_to(id) {
                self.seal(state, id)?;
            }
        }
        let mut moves = Vec::new();
        let copied = self.copy_live(id, pace, &mut moves);
        let synced = self.sync();
        let state = &mut *self.state.lock();
        if let Some(segment) = state.segments.get_mut(&id) {
            segment.copied = !moves.is_empty();
            segment.damaged |= matches!(copied, Err(FsError::Damaged(_)));
        }
        synced?;
        state.moves.append(&mut moves);
        counter::SEGMENTS_REWRITTEN.add(u64::from(copied.is_ok()));
        copied
    }

    /// Copies the live records of a segment, noting each. Goes on behind damage, which is told at the end.
    fn copy_live(
        &self,
        id: SegmentId,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
        moves: &mut Vec<Move>,
    ) -> Result<(), FsError> {
        let file = self.file(id)?;
        let mut walk = Walk::new(&*file, id, segment::FIRST_UNIT)?;
        let mut damage = Ok(());
        while let Some((_, found)) = walk.step()? {
            let Found::Record(record) = found else { continue };
            let (block, from) = (record.block, record.place);
            if self.locate(block)? != Some(from) {
                continue;
            }
            if pace(u64::from(from.units()) * UNIT_BYTES).is_break() {
                break;
            }
            let frame = match segment::read_frame(&*file, from, block) {
                Err(FsError::Damaged(what)) => {
                    counter::DAMAGE_FOUND.add(1);
                    damage = Err(FsError::Damaged(what));
                    continue;
                }
                read => read?,
            };
            let checksum = frame::header(&frame)?.checksum;
            let to = self.append(Origin::Copied, block, [&frame, &[]], checksum)?;
            moves.push(Move { block, from, to });
        }
        damage
    }

    /// Whether [`BlockStore::upkeep`] has anything to write.
    pub fn upkeep_due(&self) -> bool {
        let state = self.state.lock();
        let dead = state.perhaps_dead.iter().any(|id| state.is_dead(*id));
        dead || !state.moves.is_empty() || !state.retiring.removed.is_empty()
    }

    /// Moves the rows of copied blocks, retires dead segments and forgets removed ones. The driver's.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn upkeep(&self, changes: &mut Changes) -> Result<(), FsError> {
        let moves = std::mem::take(&mut self.state.lock().moves);
        // Only the driver changes where a block lies, so what is found here still holds below.
        let places: Vec<_> =
            moves.iter().map(|moved| self.locate(moved.block)).collect::<Result<_, _>>()?;
        let state = &mut *self.state.lock();
        state.working()?;
        let mut writing = Writing::new(state, changes);
        for (moved, place) in moves.iter().zip(places) {
            if let Some(segment) = writing.state.segments.get_mut(&moved.from.segment) {
                segment.copied = false;
            }
            if place != Some(moved.from) {
                continue;
            }
            match writing.state.pending.get_mut(&moved.block) {
                Some(pending) => {
                    pending.place = moved.to;
                    writing.put(Kind::Pending, moved.block, moved.to);
                }
                None => {
                    writing.put(Kind::Named, moved.block, moved.to);
                    writing.state.unsaved.insert(moved.block, Some(moved.to));
                }
            }
            writing.dies(moved.from);
            writing.lives(moved.to);
        }
        writing.finish();
        for id in std::mem::take(&mut state.perhaps_dead) {
            if state.is_dead(id) {
                let segment = state.segments.remove(&id).expect("a dead segment is known");
                let row = SegmentRow { rowed: segment.rowed, live: 0, retired: true };
                changes.put(Family::Local, segment_key(id), row.encode());
                state.retiring.unsaved.push(id);
            }
        }
        for id in std::mem::take(&mut state.retiring.removed) {
            changes.delete(Family::Local, segment_key(id));
        }
        Ok(())
    }

    /// The segments that the next flush of the table lets go of. Ask before the flush, remove after it.
    pub fn retired(&self) -> Retired {
        Retired(std::mem::take(&mut self.state.lock().retiring.unflushed))
    }

    /// Removes the files of segments after a flush.
    ///
    /// # Errors
    /// `Io`; what was not removed is found at the next opening.
    pub fn remove(&self, retired: Retired) -> Result<(), FsError> {
        if retired.0.is_empty() {
            return Ok(());
        }
        for id in &retired.0 {
            let path = id.path(&self.dir);
            let bytes = self.disk.open(&path, Access::Read)?.len()?;
            self.disk.remove(&path)?;
            // A file that is kept open keeps its space.
            self.files.remove(id);
            counter::SEGMENTS_FREED_BYTES.add(bytes);
        }
        self.disk.sync_dir(&self.dir)?;
        // Only now: a row may go when its file cannot come back.
        self.state.lock().retiring.removed.extend(retired.0);
        Ok(())
    }
}
