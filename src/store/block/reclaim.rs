//! Space of freed blocks, back to the disk: segments below half live are rewritten, dead ones go.
//!
//! A rewriting thread plans, copies and syncs; the driver moves the rows (`upkeep`); whoever flushes the table removes
//! the files that a flush has let go of. Not here: when, and how fast: the caller's `pace` is asked before each copy.

use crate::series::table::Changes;
use crate::series::table::Family;
use crate::store::block::BlockStore;
use crate::store::block::Segment;
use crate::store::block::State;
use crate::store::block::index;
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
use std::collections::HashSet;
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

/// A copy, whose row is to be moved when it is durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub block: BlockId,
    pub from: Place,
    pub to: Place,
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

impl Writing<'_> {
    /// The row of a copied block follows the copy, if the block still lies where it was copied from.
    fn moved(&mut self, moved: &Move, holds: bool, listed: bool, repairs: bool) {
        if let Some(segment) = self.state.segments.get_mut(&moved.from.segment) {
            segment.copied = false;
            // What was damaged there may have been this; whether there is more, the next rewriting tells. A segment without
            // a file has nothing to rewrite.
            segment.damaged &= segment.allocated == 0 || !repairs;
        }
        if !holds {
            return;
        }
        match self.state.pending.get_mut(&moved.block) {
            Some(pending) => {
                pending.place = moved.to;
                self.put(Kind::Pending, moved.block, moved.to);
            }
            None => {
                self.put(Kind::Named, moved.block, moved.to);
                self.state.unsaved.insert(moved.block, Some(moved.to));
                self.state.met.remove(&moved.block);
                // What was copied was verified.
                if listed {
                    self.unlist(moved.block);
                }
            }
        }
        self.dies(moved.from);
        self.lives(moved.to);
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
        let copied = self.copy_live(id, pace);
        let synced = self.sync();
        let state = &mut *self.state.lock();
        let unmoved = state.moves.iter().any(|moved| moved.from.segment == id);
        if let Some(segment) = state.segments.get_mut(&id) {
            segment.copied = unmoved;
            segment.damaged |= matches!(copied, Err(FsError::Damaged(_)));
        }
        synced?;
        counter::SEGMENTS_REWRITTEN.add(u64::from(copied.is_ok()));
        copied
    }

    /// Copies the live records of a segment. Goes on behind damage, which is told at the end.
    fn copy_live(
        &self,
        id: SegmentId,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
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
                Err(error @ FsError::Damaged(_)) => {
                    counter::DAMAGE_FOUND.add(1);
                    self.met(block, &error);
                    damage = Err(error);
                    continue;
                }
                read => read?,
            };
            let checksum = frame::header(&frame)?.checksum;
            self.append(Origin::Copied, block, [&frame, &[]], checksum, Some(from))?;
        }
        damage
    }

    /// Whether [`BlockStore::upkeep`] has anything to write.
    pub fn upkeep_due(&self) -> bool {
        let state = self.state.lock();
        let dead = state.perhaps_dead.iter().any(|id| state.is_dead(*id));
        let moved = state.moves.iter().any(|moved| state.is_synced(moved.to));
        let rows = state.list_is_due() || state.placing.is_due();
        dead || moved || rows || state.scrubbed_unsaved || !state.retiring.removed.is_empty()
    }

    /// Moves the rows of copied blocks, keeps the list for repair, brings rows into line with the placement, retires dead
    /// segments and forgets removed ones. The driver's.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn upkeep(&self, changes: &mut Changes) -> Result<(), FsError> {
        let (moves, met) = {
            let state = &mut *self.state.lock();
            let moves = std::mem::take(&mut state.moves);
            let (ready, early) = moves.into_iter().partition(|moved| state.is_synced(moved.to));
            state.moves = early;
            (ready, std::mem::take(&mut state.to_list))
        };
        // Only the driver changes where a block lies and what is listed, so what is found here still holds below.
        let moves = self.moves_that_hold(moves)?;
        let noted = self.damaged_unlisted(met)?;
        let step = self.next_step()?;
        let moving: HashSet<_> =
            moves.iter().filter(|(_, holds, _)| *holds).map(|(moved, ..)| moved.block).collect();
        let state = &mut *self.state.lock();
        state.working()?;
        if !noted.is_empty() {
            // They were named long ago: what was said of how far everything is here is not true any more.
            state.complete.begin_anew();
        }
        let mut writing = Writing::new(state, changes);
        for block in noted.iter().filter(|block| !moving.contains(block)) {
            writing.list(*block);
        }
        let mut done = HashSet::new();
        for (moved, holds, listed) in moves {
            // Of two records that are to replace one, the first does.
            let holds = holds && done.insert(moved.block);
            writing.moved(&moved, holds, listed, listed || noted.contains(&moved.block));
        }
        step.write(&mut writing, |block| moving.contains(block) || noted.contains(block));
        writing.finish();
        if std::mem::take(&mut state.scrubbed_unsaved)
            && let Some(scrubbed) = &state.scrubbed
        {
            index::put_scrubbed(scrubbed, changes);
        }
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

    /// Which moves still hold, and which of their blocks are listed for repair.
    fn moves_that_hold(&self, moves: Vec<Move>) -> Result<Vec<(Move, bool, bool)>, FsError> {
        let holds = |moved: Move| {
            let holds = self.locate(moved.block)? == Some(moved.from);
            Ok((moved, holds, self.is_listed(moved.block)?))
        };
        moves.into_iter().map(holds).collect()
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
            // It was missing when the store was opened; what lay in it was fetched from other nodes since.
            if !self.disk.exists(&path)? {
                continue;
            }
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
