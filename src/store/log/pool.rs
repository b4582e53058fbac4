//! Segment files that wait for their use: made once, filled with zeros and synced, so that appending never
//! changes a file's size or takes new space, and recycled when the log does not need them any more.
//!
//! `GENERATION.log` belongs to the log or is about to; `GENERATION.spare` waits. A file is given a new generation with
//! each use. Each renaming is made durable before the next one, so that what a power cut leaves is the log without
//! some of its first segments, never with a gap.
//!
//! Not here: when to do the background part. Whoever owns the node calls [`Keeper::work`] now and then; where it is late,
//! the writer does the work itself.

use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::disk::File;
use crate::store::log::record;
use crate::store::log::record::Identity;
use crate::types::FsError;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// Zeros written at once.
const ZEROS_BYTES: usize = 1 << 20;

/// What a file in the log's directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Log,
    Spare,
}

pub(super) fn path(dir: &Path, generation: u64, kind: Kind) -> PathBuf {
    let extension = match kind {
        Kind::Log => "log",
        Kind::Spare => "spare",
    };
    dir.join(format!("{generation:012}.{extension}"))
}

/// `None` for a name that is none of ours.
pub(super) fn parse(name: &str) -> Option<(u64, Kind)> {
    let (number, extension) = name.split_once('.')?;
    let kind = match extension {
        "log" => Kind::Log,
        "spare" => Kind::Spare,
        _ => return None,
    };
    Some((number.parse().ok()?, kind))
}

/// A segment ready to be written: its header is on disk under its name.
pub(super) struct Fresh {
    pub(super) identity: Identity,
    pub(super) file: Arc<dyn File>,
    /// What the first record goes on from.
    pub(super) checksum: u32,
}

struct Waiting {
    next_generation: u64,
    spares: Vec<u64>,
    ready: Option<Fresh>,
}

/// The files of a log that are not in use.
pub(super) struct Pool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store: [u8; 16],
    segment_bytes: u64,
    spares_max: usize,
    /// Generations of `.log` files that the log does not need any more, oldest first.
    retired: Mutex<VecDeque<u64>>,
    /// Files that are not in use; and whether none of them is ready. Beside the mutex, which is held for long.
    files: AtomicUsize,
    behind: AtomicBool,
    /// Names could not be made durable. What the directory holds is unknown then, and it is not touched any more.
    failed: AtomicBool,
    /// Held while files are renamed or filled: one at a time, in order.
    waiting: Mutex<Waiting>,
}

impl Pool {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        store: [u8; 16],
        options: &super::Options,
        next_generation: u64,
        retired: VecDeque<u64>,
        spares: Vec<u64>,
    ) -> Pool {
        let files = retired.len() + spares.len();
        Pool {
            files: AtomicUsize::new(files),
            behind: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            disk,
            dir: dir.to_path_buf(),
            store,
            segment_bytes: options.segment_bytes,
            spares_max: options.spares_max,
            retired: Mutex::new(retired),
            waiting: Mutex::new(Waiting { next_generation, spares, ready: None }),
        }
    }

    /// The next segment; made now if none is ready.
    pub(super) fn take(&self) -> Result<Fresh, FsError> {
        let mut waiting = self.waiting.lock();
        let fresh = match waiting.ready.take() {
            Some(fresh) => fresh,
            None => self.prepare(&mut waiting)?,
        };
        self.files.fetch_sub(1, Relaxed);
        self.behind.store(true, Relaxed);
        Ok(fresh)
    }

    /// A segment that the log does not need any more. Segments are given back in the order they were written.
    pub(super) fn retire(&self, generation: u64) {
        self.retired.lock().push_back(generation);
        self.files.fetch_add(1, Relaxed);
        self.behind.store(true, Relaxed);
    }

    /// Bytes of files that are not in use.
    pub(super) fn bytes(&self) -> u64 {
        self.files.load(Relaxed) as u64 * self.segment_bytes
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind.load(Relaxed)
    }

    /// Has a segment ready.
    pub(super) fn be_ready(&self) -> Result<(), FsError> {
        let mut waiting = self.waiting.lock();
        if waiting.ready.is_none() {
            waiting.ready = Some(self.prepare(&mut waiting)?);
        }
        Ok(())
    }

    fn work(&self) -> Result<(), FsError> {
        self.recycle(&mut self.waiting.lock())?;
        self.be_ready()?;
        self.behind.store(false, Relaxed);
        Ok(())
    }

    /// Makes the names durable. A failure is final: a later change that lasts, before one that does not, would leave a gap.
    fn sync_names(&self) -> Result<(), FsError> {
        let synced = self.disk.sync_dir(&self.dir);
        self.failed.fetch_or(synced.is_err(), Relaxed);
        synced
    }

    fn fine(&self) -> Result<(), FsError> {
        match self.failed.load(Relaxed) {
            true => Err(FsError::Io(format!(
                "the names in {} could not be made durable; nothing there is changed any more",
                self.dir.display()
            ))),
            false => Ok(()),
        }
    }

    fn oldest_retired(&self) -> Option<u64> {
        self.retired.lock().front().copied()
    }

    fn recycle(&self, waiting: &mut Waiting) -> Result<(), FsError> {
        self.fine()?;
        while let Some(generation) = self.oldest_retired() {
            let log = path(&self.dir, generation, Kind::Log);
            let whole = self.disk.open(&log, Access::Read)?.len()? == self.segment_bytes;
            if whole && waiting.spares.len() < self.spares_max {
                self.disk.rename(&log, &path(&self.dir, generation, Kind::Spare))?;
                waiting.spares.push(generation);
            } else {
                self.disk.remove(&log)?;
                self.files.fetch_sub(1, Relaxed);
            }
            self.retired.lock().pop_front();
            self.sync_names()?;
        }
        Ok(())
    }

    /// Gives a spare file, or a new one, its next generation.
    fn prepare(&self, waiting: &mut Waiting) -> Result<Fresh, FsError> {
        self.fine()?;
        if waiting.spares.is_empty() {
            self.recycle(waiting)?;
        }
        if waiting.spares.is_empty() {
            self.make(waiting)?;
        }
        let generation = waiting.next_generation;
        let spare = *waiting.spares.last().expect("one was made if there was none");
        let from = path(&self.dir, spare, Kind::Spare);
        let file = self.disk.open(&from, Access::ReadWrite)?;
        let identity = Identity { store: self.store, generation };
        let (header, checksum) = record::encode_header(identity);
        file.write_at(0, &[IoSlice::new(&header)])?;
        file.sync_data()?;
        waiting.spares.pop();
        waiting.next_generation += 1;
        self.disk.rename(&from, &path(&self.dir, generation, Kind::Log))?;
        self.sync_names()?;
        Ok(Fresh { identity, file, checksum })
    }

    /// A new spare, all zeros and on disk: blocks are written once here, so that a sync of the log finds nothing to do but
    /// the log's own bytes.
    fn make(&self, waiting: &mut Waiting) -> Result<(), FsError> {
        let generation = waiting.next_generation;
        let path = path(&self.dir, generation, Kind::Spare);
        waiting.next_generation += 1;
        let filled = self.disk.create(&path).and_then(|file| {
            fill(&*file, self.segment_bytes)?;
            file.sync_all()
        });
        if let Err(error) = filled {
            // Half a spare is no use to anybody, and the space may be what is missing.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        self.sync_names()?;
        waiting.spares.push(generation);
        self.files.fetch_add(1, Relaxed);
        Ok(())
    }
}

fn fill(file: &dyn File, bytes: u64) -> Result<(), FsError> {
    let zeros = vec![0; ZEROS_BYTES];
    file.allocate(0, bytes)?;
    let mut at = 0;
    while at < bytes {
        let part = zeros.len().min((bytes - at) as usize);
        file.write_at(at, &[IoSlice::new(&zeros[..part])])?;
        at += part as u64;
    }
    Ok(())
}

/// Does a log's slow work off its writer's path: recycles files, and has the next segment ready.
#[derive(Clone)]
pub struct Keeper(pub(super) Arc<Pool>);

impl Keeper {
    /// Recycles files and has the next segment ready. Waits for the disk. Harmless to call when there is nothing to do.
    ///
    /// # Errors
    /// `NoSpace`, `Io`. The log goes on without; its writer will try again when it needs a segment.
    pub fn work(&self) -> Result<(), FsError> {
        self.0.work()
    }

    /// Gives back the files that the log does not need any more. Waits for the disk.
    ///
    /// # Errors
    /// As for [`Keeper::work`].
    pub fn recycle(&self) -> Result<(), FsError> {
        self.0.recycle(&mut self.0.waiting.lock())
    }
}
