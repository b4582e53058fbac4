//! The log on disk: segments of records, one write and one sync for each group of them.
//!
//! Segments are written in full before their first use, so a sync has no metadata to write, and are used again when the log
//! does not need them any more. `record` has the bytes, `recover` the reading back, `pool` the files that wait.
//! Every opening begins a new segment: what a cut write left in the old one can then never be taken for
//! something that followed.
//!
//! Not here: what an entry means, or when to purge. A failed write or sync is final: the store refuses from then on.

mod index;
mod install;
mod pool;
mod record;
mod recover;
mod salvage;
#[cfg(test)]
mod tests;

pub use pool::Keeper;
pub use salvage::Salvage;

use crate::store::disk::Disk;
use crate::store::disk::File;
use crate::store::log::index::Index;
use crate::store::log::index::Position;
use crate::store::log::index::Segment;
use crate::store::log::pool::Fresh;
use crate::store::log::pool::Kind;
use crate::store::log::pool::Pool;
use crate::store::log::record::Identity;
use crate::store::log::record::Link;
use crate::store::log::record::Mark;
use crate::store::log::record::Previous;
use crate::store::log::record::Writer;
use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::store::Group;
use crate::tsdb_log::store::LogRead;
use crate::tsdb_log::store::LogStore;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::Term;
use parking_lot::RwLock;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

/// Memory for a group that is kept for the next one.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of a segment file. An entry must fit in one; at most 4 GiB.
    pub segment_bytes: u64,
    /// Files kept for later use at most; more are removed.
    pub spares_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        // A log that is purged at every flush of the table has a handful of segments in turn.
        Options { segment_bytes: 32 << 20, spares_max: 8 }
    }
}

/// More than the header of an entry and what frames it take together.
const ENTRY_OVERHEAD_BYTES: u64 = 1024;

impl Options {
    /// What an entry may take in a segment: half of one, so that a segment is never left with most of it unused.
    fn entry_bytes_max(&self) -> u64 {
        self.segment_bytes / 2
    }
}

/// The segment being written.
struct Active {
    identity: Identity,
    file: Arc<dyn File>,
    end: u64,
    /// Of the last record.
    checksum: u32,
    /// Written so far.
    groups: u32,
}

/// A group on its way to the segment.
struct Batch {
    active: Active,
    writer: Writer,
    entries: Vec<(LogIndex, Term, Position)>,
}

/// What a check found in a log that is whole.
pub struct Contents {
    pub first: LogIndex,
    pub last: LogIndex,
    pub reader: Arc<dyn LogRead>,
}

pub struct Log {
    pool: Arc<Pool>,
    index: Arc<Index>,
    hard: HardState,
    members: Members,
    segment_bytes: u64,
    entry_bytes_max: u64,
    /// None until the first group after opening.
    active: Option<Active>,
    /// Where the log ends: in the active segment, or in the last one found at opening.
    end: Option<Previous>,
    buffer: Vec<u8>,
    /// Whether a mark stands behind everything that was written.
    settled: bool,
    failed: Option<FsError>,
}

impl Log {
    /// Makes an empty log in the directory `dir`, which exists and is empty.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn create(
        disk: &dyn Disk,
        dir: &Path,
        store: [u8; 16],
        members: &Members,
    ) -> Result<(), FsError> {
        let identity = Identity { store, generation: 1 };
        let (mut bytes, checksum) = record::encode_header(identity);
        let mut writer = Writer::new(Vec::new(), identity, record::HEADER_BYTES, checksum);
        writer.link(&Link {
            previous: None,
            before: (LogIndex(0), Term(0)),
            hard: HardState::default(),
            members: members.clone(),
        });
        bytes.extend_from_slice(writer.bytes());
        let file = disk.create(&pool::path(dir, identity.generation, Kind::Log))?;
        file.write_at(0, &[IoSlice::new(&bytes)])?;
        file.sync_all()?;
        disk.sync_dir(dir)
    }

    /// Takes up the log in `dir`. Writes nothing to it before the first group.
    ///
    /// # Errors
    /// `Damaged` where something is missing that was once on disk; `Io`.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        store: [u8; 16],
        options: &Options,
    ) -> Result<Log, FsError> {
        let found = recover::recover(&*disk, dir, store, &mut |_, _| {})?;
        // A segment made ready before the power went may hold parts of a write; its next use has a new generation.
        let pool = Pool::new(
            disk,
            dir,
            store,
            options,
            found.next_generation,
            found.unused.into(),
            found.spares,
        );
        Ok(Log {
            pool: Arc::new(pool),
            index: Arc::new(Index(RwLock::new(found.segments))),
            hard: found.hard,
            members: found.members,
            segment_bytes: options.segment_bytes,
            entry_bytes_max: options.entry_bytes_max(),
            active: None,
            end: Some(found.end),
            buffer: Vec::new(),
            settled: false,
            failed: None,
        })
    }

    /// Reads a log through without changing it: how many entries it holds, or what is wrong with it.
    /// `progress` is told bytes read and bytes in all.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn check(
        disk: &dyn Disk,
        dir: &Path,
        store: [u8; 16],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Contents, FsError> {
        let found = recover::recover(disk, dir, store, progress)?;
        let reader = Index(RwLock::new(found.segments));
        Ok(Contents { first: reader.first(), last: reader.last(), reader: Arc::new(reader) })
    }

    /// Does the slow work of the log's files, on another thread.
    pub fn keeper(&self) -> Keeper {
        Keeper(self.pool.clone())
    }

    /// Makes sure that groups with `bytes` of entries together can be written without taking space from the disk, where they
    /// are not larger than a segment takes. May wait for the disk.
    ///
    /// # Errors
    /// `NoSpace`, `Io`. Nothing is lost, and the log goes on: it is the disk that has no room.
    pub fn make_room(&mut self, bytes: u64) -> Result<(), FsError> {
        let fits = |active: &Active| active.end + bytes + bytes / 8 <= self.segment_bytes;
        if self.active.as_ref().is_some_and(fits) {
            return Ok(());
        }
        self.pool.be_ready()
    }

    /// Bytes of body that an entry may have.
    pub fn batch_bytes_max(&self) -> usize {
        (self.entry_bytes_max - ENTRY_OVERHEAD_BYTES) as usize
    }

    /// Whether its keeper has work that the next segment will otherwise wait for. Cheap.
    pub fn wants_keeping(&self) -> bool {
        self.pool.is_behind()
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.index.0.read().list.len() as u64 * self.segment_bytes + self.pool.bytes()
    }

    /// Marks everything written so far as synced, which it is: damage to it is then told from a torn tail even if nothing
    /// is ever written behind it. For idle moments and for closing.
    ///
    /// # Errors
    /// As for `append`.
    pub fn settle(&mut self) -> Result<(), FsError> {
        if self.settled {
            return Ok(());
        }
        self.write(&Group::default())?;
        self.settled = true;
        Ok(())
    }

    fn write(&mut self, group: &Group) -> Result<(), FsError> {
        if let Some(error) = &self.failed {
            return Err(FsError::Io(format!("the log takes nothing more after: {error}")));
        }
        if let Some(entry) =
            group.entries.iter().find(|e| record::entry_bytes(e) > self.entry_bytes_max)
        {
            return Err(FsError::Io(format!("log entry {} is too large", entry.index.0)));
        }
        let written = self.write_records(group);
        if let Err(error) = &written {
            self.failed = Some(error.clone());
        }
        written
    }

    fn write_records(&mut self, group: &Group) -> Result<(), FsError> {
        // A mark at the end of a segment with nothing behind it would take space that the segment has not.
        let first = group.entries.first().map_or(0, record::entry_bytes);
        let hard = group.hard.map_or(0, |_| record::HARD_RECORD_BYTES);
        let beginning = record::MARK_RECORD_BYTES + hard + first as usize;
        let fits = |active: &Active| active.end + beginning as u64 <= self.segment_bytes;
        let mut batch = match self.active.take().filter(fits) {
            Some(active) => self.begin(active),
            None => self.turn(group.entries.first().map(|entry| entry.index))?,
        };
        if let Some(hard) = group.hard {
            self.hard = hard;
            batch.writer.hard_state(hard);
        }
        for entry in &group.entries {
            if batch.writer.end() + record::entry_bytes(entry) > self.segment_bytes {
                self.flush(batch)?;
                batch = self.turn(Some(entry.index))?;
            }
            let (offset, checksum) = (batch.writer.end() as u32, batch.writer.checksum());
            batch.writer.entry(entry);
            batch.entries.push((entry.index, entry.term, Position { offset, checksum }));
        }
        self.flush(batch)
    }

    /// A group behind what the segment holds.
    fn begin(&mut self, active: Active) -> Batch {
        let buffer = std::mem::take(&mut self.buffer);
        let mut writer = Writer::new(buffer, active.identity, active.end, active.checksum);
        writer.mark(Mark { synced: self.index.last(), nth: active.groups });
        Batch { active, writer, entries: Vec::new() }
    }

    /// A group at the beginning of the next segment; its first entry is `next`.
    fn turn(&mut self, next: Option<LogIndex>) -> Result<Batch, FsError> {
        let Fresh { identity, file, checksum } = self.pool.take()?;
        let before = {
            let mut segments = self.index.0.write();
            // The link must not speak of entries that this segment replaces: once the former one is purged, nothing would
            // be known of those before them.
            if let Some(next) = next.filter(|next| *next <= segments.last()) {
                segments.truncate(next);
            }
            let before = (segments.last(), segments.last_term());
            segments.push(Segment::new(identity, file.clone(), before));
            before
        };
        let buffer = std::mem::take(&mut self.buffer);
        let mut writer = Writer::new(buffer, identity, record::HEADER_BYTES, checksum);
        writer.link(&Link {
            previous: self.end,
            before,
            hard: self.hard,
            members: self.members.clone(),
        });
        writer.mark(Mark { synced: before.0, nth: 0 });
        let active = Active { identity, file, end: record::HEADER_BYTES, checksum, groups: 0 };
        Ok(Batch { active, writer, entries: Vec::new() })
    }

    /// One write, one sync; then readers see the entries.
    fn flush(&mut self, batch: Batch) -> Result<(), FsError> {
        let Batch { mut active, writer, entries } = batch;
        active.file.write_at(active.end, &[IoSlice::new(writer.bytes())])?;
        active.file.sync_data()?;
        active.end = writer.end();
        active.checksum = writer.checksum();
        active.groups += 1;
        let mut segments = self.index.0.write();
        for (index, term, position) in entries {
            segments.entry(index, term, position)?;
        }
        segments.written(active.end);
        drop(segments);
        self.end = Some(Previous {
            generation: active.identity.generation,
            end: active.end,
            checksum: active.checksum,
        });
        self.active = Some(active);
        self.buffer = writer.into_bytes();
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        Ok(())
    }
}

impl LogStore for Log {
    fn hard_state(&self) -> HardState {
        self.hard
    }

    fn members(&self) -> Members {
        self.members.clone()
    }

    fn reader(&self) -> Arc<dyn LogRead> {
        self.index.clone()
    }

    fn append(&mut self, group: &Group) -> Result<(), FsError> {
        if group.is_empty() {
            return Ok(());
        }
        self.settled = false;
        self.write(group)
    }

    fn purge(&mut self, upto: LogIndex) {
        for segment in self.index.0.write().purge(upto) {
            self.pool.retire(segment.identity.generation);
        }
    }
}
