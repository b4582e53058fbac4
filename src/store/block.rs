//! The blocks of the data role: immutable frames by [`BlockId`], in append-only segments.
//!
//! `docs/decisions/0005-blocks-in-segments.md` has the states of a block and every power cut. In short: `put` writes,
//! `sync` makes durable, `named` and `freed` write index rows into the same table write as the batch that causes them,
//! `reclaim` rewrites segments that are mostly dead. Not here: who names a block, threads, when to flush the table.
//!
//! Two kinds of callers. Any thread may `put`, `sync`, `get` and `reclaim`. One thread, the replica driver, calls what
//! takes [`Changes`], writes them to the table before its next such call, and then says [`BlockStore::written`].
//!
//! [`Changes`]: crate::series::table::Changes

mod adopt;
mod complete;
mod elsewhere;
mod index;
mod listed;
mod named;
mod open;
mod rebuild;
mod reclaim;
mod scrub;

pub use adopt::Adopted;
pub use adopt::adopt;
pub use elsewhere::Keeping;
pub use listed::Supplied;
pub use rebuild::rebuild;
pub use reclaim::Reclaim;
pub use reclaim::Retired;
pub use scrub::Fault;
pub use scrub::Scrub;
pub use scrub::Scrubbed;

use crate::series::table::Table;
use crate::store::block::listed::kept_elsewhere;
use crate::store::disk::Disk;
use crate::store::disk::File;
use crate::store::segment;
use crate::store::segment::Origin;
use crate::store::segment::Place;
use crate::store::segment::Record;
use crate::store::segment::SegmentId;
use crate::store::segment::UNIT_BYTES;
use crate::telemetry::counter;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::frame::Frame;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use parking_lot::MutexGuard;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What a block store may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// A segment ends before it would grow beyond this.
    pub segment_bytes: u64,
    /// Space is taken from the disk in steps of this.
    pub allocate_bytes: u64,
    /// Segments kept open for reading.
    pub open_files_max: usize,
    /// Rows that one call of [`BlockStore::upkeep`] looks at.
    pub rows_per_step: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            allocate_bytes: 8 << 20,
            open_files_max: 256,
            rows_per_step: 10_000,
        }
    }
}

/// Blocks by name. See the module's text for who may call what.
pub struct BlockStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The store's identity, in every segment's header.
    store: [u8; 16],
    table: Arc<dyn Table>,
    options: Options,
    /// Other nodes have the blocks too: what is not here can be fetched.
    shared: AtomicBool,
    state: Mutex<State>,
    turns: Turns,
    /// A write ended, or a sync.
    changed: Condvar,
    files: quick_cache::sync::Cache<SegmentId, Arc<dyn File>>,
}

#[derive(Default)]
struct State {
    /// Why nothing may change any more.
    failed: Option<FsError>,
    segments: BTreeMap<SegmentId, Segment>,
    /// Where puts and copies are appended.
    puts_to: Option<SegmentId>,
    copies_to: Option<SegmentId>,
    next_segment: u64,
    /// Written blocks that no op names yet.
    pending: BTreeMap<BlockId, Pending>,
    /// Those of them that may have no row, oldest first. May hold some that are no longer pending.
    unrowed: Vec<BlockId>,
    /// Puts that have not ended, and what their records will be.
    putting: HashMap<BlockId, Putting>,
    /// Blocks that are listed for repair: the log names them, and they are not here, or damaged.
    listed: u64,
    /// Those of them that were written after all, and whose rows follow when that is durable.
    arrived: BTreeSet<BlockId>,
    /// Blocks that were read since the store was opened and are not what was written.
    met: BTreeSet<BlockId>,
    /// Those of them that are to be listed.
    to_list: BTreeSet<BlockId>,
    /// What changes say of the list that is not yet in the table: whether a block is on it.
    unsaved_list: HashMap<BlockId, bool>,
    /// Which of them are to be here.
    placing: elsewhere::Placing,
    complete: complete::Complete,
    /// What changes say that are not yet in the table: where a block lies, or that it was freed.
    unsaved: HashMap<BlockId, Option<Place>>,
    /// Copies whose rows are to be moved when they are durable.
    moves: Vec<reclaim::Move>,
    /// Segments that may have nothing live any more.
    perhaps_dead: BTreeSet<SegmentId>,
    /// Segments with more synced than their row says.
    rowed_behind: BTreeSet<SegmentId>,
    /// How far scrubbing in the background is, once it was noted; and whether the row is behind.
    scrubbed: Option<Scrubbed>,
    scrubbed_unsaved: bool,
    retiring: Retiring,
    syncing: Syncing,
}

/// Whose turn it is to write to the segment that is appended to.
#[derive(Default)]
struct Turns {
    puts: Mutex<()>,
    copies: Mutex<()>,
}

impl Turns {
    fn of(&self, origin: Origin) -> &Mutex<()> {
        match origin {
            Origin::Put => &self.puts,
            Origin::Copied => &self.copies,
        }
    }
}

/// Segments on their way out, by step.
#[derive(Default)]
struct Retiring {
    /// Their rows say so in changes that are not yet in the table.
    unsaved: Vec<SegmentId>,
    /// Their rows say so in the table, which is not yet flushed.
    unflushed: Vec<SegmentId>,
    /// Their files are removed, their rows not.
    removed: Vec<SegmentId>,
}

/// Many callers, one sync of each file.
#[derive(Default)]
struct Syncing {
    running: bool,
    /// Writes ended so far, and how many of them were covered by syncs.
    written: u64,
    covered: u64,
    dirty: BTreeSet<SegmentId>,
    /// A segment was created since the directory was last synced.
    names: bool,
}

/// Puts of one block that have not ended.
#[derive(Clone, Copy)]
struct Putting {
    calls: u32,
    fate: Fate,
}

/// What the record of a put is when it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// A block that no op names yet.
    Pending,
    /// A block that is listed for repair.
    Arrives,
    /// Dead: another put was faster, or the block was freed meanwhile.
    Dead,
}

#[derive(Clone, Copy)]
struct Pending {
    place: Place,
    /// It has a row in the table, or in changes.
    rowed: bool,
}

/// A segment; positions and sizes in units.
#[derive(Default)]
struct Segment {
    /// Open for writing: for as long as it may be appended to or has to be synced.
    file: Option<Arc<dyn File>>,
    /// Where the next record goes.
    end: u32,
    /// Space taken from the disk.
    allocated: u32,
    /// Everything before it is durable.
    synced: u32,
    /// Rows say everything about what lies before it.
    rowed: u32,
    /// Of the records that have rows.
    live: u32,
    /// Where writes that have not ended begin.
    in_flight: BTreeSet<u32>,
    /// It was rewritten, and the rows are still to follow.
    copied: bool,
    /// Something in it cannot be read: it is kept as it is.
    damaged: bool,
}

impl State {
    fn working(&self) -> Result<(), FsError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// A write or sync failed: what is on the disk is not known any more. Nothing changes from now on.
    fn fail(&mut self, error: &FsError) -> FsError {
        let error = FsError::Io(format!("blocks can no longer be stored: {error}"));
        self.failed.get_or_insert(error).clone()
    }

    /// Of two puts of one block at once, the first counts; the other's record is dead.
    fn put_ended(&mut self, block: BlockId, place: Place) {
        let putting = self.putting.get_mut(&block).expect("a put is noted until it has ended");
        let fate = std::mem::replace(&mut putting.fate, Fate::Dead);
        if fate == Fate::Dead {
            return;
        }
        self.pending.insert(block, Pending { place, rowed: false });
        self.unrowed.push(block);
        if fate == Fate::Arrives {
            self.arrived.insert(block);
        }
    }

    fn segment(&mut self, id: SegmentId) -> &mut Segment {
        self.segments.get_mut(&id).expect("a segment is known while anything lies in it")
    }

    fn appended_to(&mut self, origin: Origin) -> &mut Option<SegmentId> {
        match origin {
            Origin::Put => &mut self.puts_to,
            Origin::Copied => &mut self.copies_to,
        }
    }

    fn is_synced(&self, place: Place) -> bool {
        self.segments.get(&place.segment).is_some_and(|segment| place.unit < segment.synced)
    }

    fn is_appended_to(&self, id: SegmentId) -> bool {
        self.puts_to == Some(id) || self.copies_to == Some(id)
    }
}

impl BlockStore {
    /// Stores a frame under a name that is never given to another. Returns when it is written, not when it is durable.
    /// Putting a block again does nothing. One that the log has named already comes off the list for repair.
    ///
    /// # Errors
    /// `NoSpace`, after which other puts may succeed; `Io`, after which none does.
    pub fn put(&self, block: BlockId, frame: &Frame) -> Result<(), FsError> {
        if self.write_new(block, frame.parts(), frame.checksum())? {
            counter::BLOCKS_PUT.add(1);
            counter::BLOCKS_PUT_BYTES.add(frame.len() as u64);
        }
        Ok(())
    }

    /// Writes a block that is not here; false where it is. What becomes of the record is decided when it is written: the
    /// driver may name or free the block meanwhile.
    fn write_new(&self, block: BlockId, parts: [&[u8]; 2], checksum: u32) -> Result<bool, FsError> {
        self.state
            .lock()
            .putting
            .entry(block)
            .and_modify(|putting| putting.calls += 1)
            .or_insert(Putting { calls: 1, fate: Fate::Pending });
        let written = self.write_noted(block, parts, checksum);
        let state = &mut *self.state.lock();
        if let Some(putting) = state.putting.get_mut(&block) {
            putting.calls -= 1;
            if putting.calls == 0 {
                state.putting.remove(&block);
            }
        }
        written
    }

    fn write_noted(
        &self,
        block: BlockId,
        parts: [&[u8]; 2],
        checksum: u32,
    ) -> Result<bool, FsError> {
        if self.locate(block)?.is_some() {
            return Ok(false);
        }
        // Its client did not wait for this node.
        if self.is_elsewhere(block)? && !self.state.lock().placing.keeps(block) {
            return Ok(false);
        }
        // Only now: had the driver listed it before the put was noted, the row would say so.
        if self.is_listed(block)?
            && let Some(putting) = self.state.lock().putting.get_mut(&block)
            && putting.fate == Fate::Pending
        {
            putting.fate = Fate::Arrives;
        }
        self.append(Origin::Put, block, parts, checksum, None)?;
        Ok(true)
    }

    /// Writes a record, its frame in two parts, where puts or copies go at present. One that takes the place of the record at
    /// `replaces` has its row moved, which is noted before the new one could be taken for dead.
    fn append(
        &self,
        origin: Origin,
        block: BlockId,
        [head, tail]: [&[u8]; 2],
        checksum: u32,
        replaces: Option<Place>,
    ) -> Result<(), FsError> {
        let (place, file) = self.reserve(origin, (head.len() + tail.len()) as u32)?;
        let record = Record { origin, block, place, checksum }.to_bytes();
        let parts = [&record, head, tail].map(IoSlice::new);
        // The kernel takes the writes to a file one by one, and its waiters spin: here they sleep.
        let turn = self.turns.of(origin).lock();
        let done = file.write_at(place.offset(), &parts);
        drop(turn);
        let state = &mut *self.state.lock();
        state.segment(place.segment).in_flight.remove(&place.unit);
        // A sync may wait for this one.
        self.changed.notify_all();
        if let Err(error) = done {
            return Err(state.fail(&error));
        }
        state.syncing.written += 1;
        match replaces {
            Some(from) => state.moves.push(reclaim::Move { block, from, to: place }),
            None => state.put_ended(block, place),
        }
        Ok(())
    }

    /// Sets a place aside, with space on the disk, so that writing there cannot fail for want of it.
    fn reserve(&self, origin: Origin, frame_bytes: u32) -> Result<(Place, Arc<dyn File>), FsError> {
        let units = segment::units(frame_bytes);
        let limit = u32::try_from(self.options.segment_bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        let state = &mut *self.state.lock();
        state.working()?;
        let present = *state.appended_to(origin);
        let id = match present {
            Some(id) if state.segment(id).end + units <= limit => id,
            Some(id) => {
                self.seal(state, id)?;
                self.create(state, origin)?
            }
            None => self.create(state, origin)?,
        };
        let step = u32::try_from(self.options.allocate_bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        let segment = state.segment(id);
        let end = segment.end + units;
        let file = segment.file.clone().expect("a segment that is appended to is open");
        if end > segment.allocated {
            // A step at a time, or on a disk that is almost full just what is needed.
            let stepped = limit.min(segment.end.saturating_add(step)).max(end);
            let from = u64::from(segment.allocated) * UNIT_BYTES;
            let take = |to: u32| file.allocate(from, u64::from(to) * UNIT_BYTES - from);
            segment.allocated = match take(stepped) {
                Err(FsError::NoSpace) => take(end).map(|()| end)?,
                other => other.map(|()| stepped)?,
            };
        }
        let place = Place { segment: id, unit: segment.end, frame_bytes };
        segment.end = end;
        segment.in_flight.insert(place.unit);
        state.syncing.dirty.insert(id);
        Ok((place, file))
    }

    /// Begins a segment. Where it cannot, nothing is left of it.
    fn create(&self, state: &mut State, origin: Origin) -> Result<SegmentId, FsError> {
        let id = SegmentId(state.next_segment);
        let path = id.path(&self.dir);
        let file = self.disk.create(&path)?;
        let header = segment::segment_header(id, &self.store);
        let begun = file.allocate(0, UNIT_BYTES);
        if let Err(error) = begun.and_then(|()| file.write_at(0, &[IoSlice::new(&header)])) {
            // The first error is the one to tell. A file that stays has no row and no record: opening removes it.
            let _ = self.disk.remove(&path);
            state.next_segment += 1;
            return Err(error);
        }
        let first = segment::FIRST_UNIT;
        let segment =
            Segment { file: Some(file), end: first, allocated: first, ..Segment::default() };
        state.segments.insert(id, segment);
        state.next_segment += 1;
        state.syncing.dirty.insert(id);
        state.syncing.names = true;
        *state.appended_to(origin) = Some(id);
        Ok(id)
    }

    /// Ends a segment: nothing is appended any more, and space it took but did not use goes back.
    fn seal(&self, state: &mut State, id: SegmentId) -> Result<(), FsError> {
        for appended in [&mut state.puts_to, &mut state.copies_to] {
            appended.take_if(|appended| *appended == id);
        }
        state.perhaps_dead.insert(id);
        let dirty = state.syncing.dirty.contains(&id);
        let segment = state.segment(id);
        if segment.allocated > segment.end
            && let Some(file) = &segment.file
        {
            file.set_len(u64::from(segment.end) * UNIT_BYTES)?;
            segment.allocated = segment.end;
        }
        if !dirty {
            segment.file = None;
        }
        Ok(())
    }

    /// Makes every block durable whose `put` has returned. Callers at the same time share one sync of each file.
    ///
    /// # Errors
    /// `Io`; final. Nothing is stored, named or freed after it, for what was not durable may be lost.
    pub fn sync(&self) -> Result<(), FsError> {
        let mut state = self.state.lock();
        let wanted = state.syncing.written;
        loop {
            state.working()?;
            if state.syncing.covered >= wanted {
                return Ok(());
            }
            if !state.syncing.running {
                state.syncing.running = true;
                let done = self.sync_all(&mut state);
                state.syncing.running = false;
                self.changed.notify_all();
                done.map_err(|error| state.fail(&error))?;
            } else {
                self.changed.wait(&mut state);
            }
        }
    }

    /// Syncs what is dirty now. Lets go of the state while it does.
    fn sync_all(&self, state: &mut MutexGuard<'_, State>) -> Result<(), FsError> {
        let covered = state.syncing.written;
        let names = std::mem::take(&mut state.syncing.names);
        let dirty = std::mem::take(&mut state.syncing.dirty);
        let mut targets = Vec::new();
        for id in dirty {
            let segment = state.segment(id);
            let file = segment.file.clone().expect("a dirty segment is open");
            targets.push((id, file, segment.end));
        }
        // What is synced of a segment is a beginning of it, so writes below the mark are waited for. Those that
        // begin now are above it.
        for (id, _, end) in &targets {
            while state.segment(*id).in_flight.first().is_some_and(|unit| unit < end) {
                self.changed.wait(state);
            }
        }
        state.working()?;
        MutexGuard::unlocked(state, || {
            targets.iter().try_for_each(|(_, file, _)| file.sync_data())?;
            if names { self.disk.sync_dir(&self.dir) } else { Ok(()) }
        })?;
        for (id, _, end) in targets {
            let finished = !state.is_appended_to(id) && !state.syncing.dirty.contains(&id);
            let segment = state.segment(id);
            segment.synced = segment.synced.max(end);
            if finished {
                segment.file = None;
            }
            state.rowed_behind.insert(id);
        }
        state.syncing.covered = state.syncing.covered.max(covered);
        Ok(())
    }

    /// A block's frame, verified.
    ///
    /// # Errors
    /// `Stale` where no such block is known; `Damaged`, naming block, segment and offset, or saying that other nodes keep it, which is
    /// no damage and is not noted as any; `Io`.
    pub fn get(&self, block: BlockId) -> Result<Bytes, FsError> {
        let mut place = self.located(block)?;
        loop {
            let read =
                self.file(place.segment).and_then(|file| segment::read_frame(&*file, place, block));
            let error = match read {
                Ok(frame) => {
                    counter::BLOCKS_READ.add(1);
                    return Ok(frame);
                }
                Err(error) => error,
            };
            // The segment may have been rewritten and removed since the block was located.
            let now = self.located(block)?;
            if now == place {
                counter::DAMAGE_FOUND.add(u64::from(matches!(error, FsError::Damaged(_))));
                self.met(block, &error);
                return Err(error);
            }
            place = now;
        }
    }

    fn located(&self, block: BlockId) -> Result<Place, FsError> {
        match self.locate(block)? {
            Some(place) => Ok(place),
            None if self.is_listed(block)? => Err(self.absent(block)),
            None if self.is_elsewhere(block)? => Err(kept_elsewhere(block)),
            None => Err(FsError::Stale),
        }
    }

    /// Whether a block is here, put or named.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn contains(&self, block: BlockId) -> Result<bool, FsError> {
        Ok(self.locate(block)?.is_some())
    }

    /// Bytes of disk that segments take.
    pub fn bytes(&self) -> u64 {
        let state = self.state.lock();
        state.segments.values().map(|segment| u64::from(segment.allocated) * UNIT_BYTES).sum()
    }

    /// Gives back space that was taken ahead of use. For a store that closes; everything durable stays so.
    ///
    /// # Errors
    /// `Io`.
    pub fn close(&self) -> Result<(), FsError> {
        self.sync()?;
        let state = &mut *self.state.lock();
        for id in [state.puts_to, state.copies_to].into_iter().flatten() {
            self.seal(state, id)?;
        }
        Ok(())
    }

    fn file(&self, id: SegmentId) -> Result<Arc<dyn File>, FsError> {
        self.files.get_or_insert_with(&id, || {
            self.disk.open(&id.path(&self.dir), crate::store::disk::Access::Read)
        })
    }
}

#[cfg(test)]
mod tests;
