//! What one lock guards: uncommitted rows, the open batch, open and dirty files, handles.
//!
//! Plain state with its small rules. Not here: running ops on it (`change`), sending it (`lane`).

use crate::meta::op::By;
use crate::meta::op::Op;
use crate::meta::op::Seen;
use crate::tsdb_client::Handle;
use crate::tsdb_client::copies::Copies;
use crate::tsdb_client::crowd::Crowded;
use crate::tsdb_client::direct::Sent;
use crate::tsdb_client::dirty::Dirty;
use crate::tsdb_client::hints::Hints;
use crate::tsdb_client::journal::Told;
use crate::tsdb_client::locks::Held;
use crate::tsdb_client::overlay::Overlay;
use crate::tsdb_client::own::Own;
use crate::tsdb_client::pending::Pending;
use crate::types::Attr;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Time;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What an op counts against the bound on dirty bytes, besides its contents: its rows and its place in the batch.
pub(super) const OP_BYTES: u64 = 512;
/// A batch with this many ops is closed: it is applied as one, and nothing else is meanwhile.
const BATCH_OPS_MAX: usize = 8192;

pub(super) struct Local {
    pub(super) own: Own,
    pub(super) copies: Copies,
    pub(super) hints: Hints,
    /// Uncommitted rows with a history.
    pub(super) series: Overlay,
    /// Uncommitted rows without one.
    pub(super) state: Overlay,
    /// Rows of batches up to this one were demoted to clean ones.
    pub(super) demoted: BatchSeq,
    /// Raised whenever the server's rows may have overtaken what somebody fetched without the lock.
    pub(super) turn: u64,
    /// A direct change of which nobody knows what came of it, while nobody is to wait for that.
    pub(super) left: Option<Sent>,
    /// Counts the direct changes whose outcome is known.
    pub(super) directs: u64,
    pub(super) open: OpenBatch,
    /// Closed and not yet proposed, in order.
    pub(super) closed: VecDeque<ClosedBatch>,
    /// Contents of batches not yet applied, by their number in the session.
    pub(super) pending: HashMap<u64, Arc<Pending>>,
    /// Which of them each batch named.
    pub(super) named: VecDeque<(BatchSeq, Vec<u64>)>,
    pub(super) next_block: u64,
    /// Files that are open or dirty. Nothing else has an entry.
    pub(super) files: HashMap<Ino, File>,
    /// Those with dirty bytes. An inode that is no longer dirty may still stand here.
    pub(super) dirty: Vec<Ino>,
    /// Those written since their last version.
    pub(super) unfinished: BTreeSet<Ino>,
    /// Regions to be written anew.
    pub(super) crowded: Vec<Crowded>,
    /// The file whose locks the direct change is about that is on its way.
    pub(super) relocking: Option<Ino>,
    /// Files that it lets go of: they are not to be opened any more.
    pub(super) releasing: HashSet<Ino>,
    pub(super) gone_links: GoneLinks,
    /// What is locked of which files.
    pub(super) locks: HashMap<Ino, Held>,
    pub(super) handles: HashMap<u64, OpenHandle>,
    next_handle: u64,
    /// Inode numbers to be given out, in order.
    pub(super) inos: VecDeque<Range<u64>>,
    /// What may be stored besides what is held, as the server last said.
    pub(super) space: u64,
    /// When the oldest change came that no closed batch holds.
    pub(super) began: Option<Duration>,
    /// Somebody asked for the open batch to be closed as soon as the lane is free.
    pub(super) asked: bool,
    /// The flusher is to drive the lane.
    pub(super) flusher_asked: bool,
    /// When the flusher wakes by itself.
    pub(super) flusher_wakes: Duration,
    /// Somebody has ops applied that cannot be run here: changes wait.
    pub(super) frozen: bool,
    /// Closing or closed: changes fail.
    pub(super) ended: bool,
    /// The flusher ends.
    pub(super) stopped: bool,
}

/// Where symbolic links led that were removed lately: a program may have looked one up before, and be about to read it.
#[derive(Default)]
pub(super) struct GoneLinks(VecDeque<(Ino, Bytes)>);

impl GoneLinks {
    const MOST: usize = 256;

    pub(super) fn note(&mut self, ino: Ino, target: Bytes) {
        self.0.truncate(GoneLinks::MOST - 1);
        self.0.push_front((ino, target));
    }

    pub(super) fn get(&self, ino: Ino) -> Option<Bytes> {
        self.0.iter().find(|(gone, _)| *gone == ino).map(|(_, target)| target.clone())
    }
}

/// The batch that ops enter.
pub(super) struct OpenBatch {
    pub(super) seq: BatchSeq,
    pub(super) ops: Vec<Op>,
    pub(super) by: Vec<By>,
    /// What it counts against the bound on dirty bytes.
    pub(super) bytes: u64,
    pub(super) pending: Vec<Arc<Pending>>,
}

impl OpenBatch {
    pub(super) fn new(seq: BatchSeq) -> OpenBatch {
        OpenBatch { seq, ops: Vec::new(), by: Vec::new(), bytes: 0, pending: Vec::new() }
    }

    /// Adds an op of a user.
    pub(super) fn push(&mut self, op: Op, uid: u32) {
        match self.by.last_mut() {
            Some(last) if last.uid == uid => last.ops += 1,
            _ => self.by.push(By { uid, ops: 1 }),
        }
        self.ops.push(op);
    }

    pub(super) fn is_full(&self, bytes_max: u64) -> bool {
        self.bytes >= bytes_max || self.ops.len() >= BATCH_OPS_MAX
    }
}

pub(super) struct ClosedBatch {
    pub(super) seq: BatchSeq,
    pub(super) ops: Vec<Op>,
    pub(super) by: Vec<By>,
    pub(super) bytes: u64,
    pub(super) pending: Vec<Arc<Pending>>,
    /// Of a direct batch: the rows it rests on.
    pub(super) direct: Option<Vec<Seen>>,
}

/// An inode that is open or dirty.
#[derive(Default)]
pub(super) struct File {
    pub(super) handles: u32,
    pub(super) dirty: Dirty,
    /// What the inode row does not say yet. There while `dirty` is not empty.
    pub(super) written: Option<Written>,
    /// Since when it has contents that no version holds.
    pub(super) unfinished: Option<Duration>,
    /// Bytes were written to it since its last version. Where it was only made or emptied, the close of a descriptor that
    /// others share (a shell's, before the program starts) is not the end of anything.
    pub(super) wrote: bool,
    /// The user who wrote to it last, or has it open for that.
    pub(super) by: u32,
    /// Its last name is gone: the last handle releases it.
    pub(super) orphan: bool,
    /// It has neither set-id bits nor security.capability to clear.
    pub(super) plain: bool,
    /// Written bytes that could not be put into a batch; told to the next flush or sync of each handle.
    pub(super) failed: Option<FsError>,
}

/// Size and time of an inode with its dirty bytes.
#[derive(Clone, Copy)]
pub(super) struct Written {
    pub(super) size: u64,
    pub(super) time: Time,
}

impl File {
    /// It needs no entry.
    fn is_idle(&self) -> bool {
        self.handles == 0 && self.dirty.is_empty() && self.unfinished.is_none()
    }

    /// What `stat` tells once the dirty bytes count.
    pub(super) fn adjust(&self, attr: &mut Attr) {
        if let Some(written) = &self.written {
            attr.size = written.size;
            attr.mtime = written.time;
            attr.ctime = written.time;
            attr.allocated = (attr.allocated + self.dirty.bytes()).min(attr.size);
        }
    }
}

pub(super) struct OpenHandle {
    pub(super) ino: Ino,
    pub(super) write: bool,
    /// The user who opened it.
    pub(super) by: u32,
    pub(super) told: Told,
}

impl Local {
    pub(super) fn new(own: Own, copies: Copies) -> Local {
        Local {
            own,
            copies,
            hints: Hints::default(),
            series: Overlay::default(),
            state: Overlay::default(),
            demoted: BatchSeq(0),
            turn: 0,
            left: None,
            directs: 0,
            open: OpenBatch::new(BatchSeq(1)),
            closed: VecDeque::new(),
            pending: HashMap::new(),
            named: VecDeque::new(),
            next_block: 1,
            files: HashMap::new(),
            dirty: Vec::new(),
            unfinished: BTreeSet::new(),
            crowded: Vec::new(),
            relocking: None,
            releasing: HashSet::new(),
            gone_links: GoneLinks::default(),
            locks: HashMap::new(),
            handles: HashMap::new(),
            next_handle: 1,
            inos: VecDeque::new(),
            space: 0,
            began: None,
            asked: false,
            flusher_asked: false,
            flusher_wakes: Duration::ZERO,
            frozen: false,
            ended: false,
            stopped: false,
        }
    }

    pub(super) fn open_handle(&mut self, ino: Ino, write: bool, by: u32) -> Handle {
        let handle = Handle::new(self.next_handle).expect("handles count from one");
        self.next_handle += 1;
        self.handles.insert(handle.get(), OpenHandle { ino, write, by, told: Told::default() });
        let file = self.files.entry(ino).or_default();
        file.handles += 1;
        if write {
            file.by = by;
        }
        handle
    }

    /// Forgets a handle, and the file's entry if that was all.
    pub(super) fn close_handle(&mut self, handle: Handle) {
        let Some(open) = self.handles.remove(&handle.get()) else { return };
        if let Some(file) = self.files.get_mut(&open.ino) {
            file.handles -= 1;
        }
        self.tidy(open.ino);
    }

    /// # Errors
    /// `BadHandle`.
    pub(super) fn handle(&self, handle: Handle) -> Result<&OpenHandle, FsError> {
        self.handles.get(&handle.get()).ok_or(FsError::BadHandle)
    }

    /// # Errors
    /// `BadHandle` where it is unknown or not open for writing.
    pub(super) fn writer(&self, handle: Handle) -> Result<&OpenHandle, FsError> {
        self.handle(handle)?.write.then_some(()).ok_or(FsError::BadHandle)?;
        self.handle(handle)
    }

    pub(super) fn is_open(&self, ino: Ino) -> bool {
        self.files.get(&ino).is_some_and(|file| file.handles > 0)
    }

    /// Notes that contents of a file changed, at `now`.
    pub(super) fn note_written(&mut self, ino: Ino, now: Duration) {
        let file = self.files.entry(ino).or_default();
        if file.unfinished.is_none() {
            file.unfinished = Some(now);
            self.unfinished.insert(ino);
        }
    }

    /// Its contents are a version, or will not become one.
    pub(super) fn note_finished(&mut self, ino: Ino) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.unfinished = None;
            file.wrote = false;
        }
        self.unfinished.remove(&ino);
    }

    /// Drops the entry of a file that is neither open nor dirty.
    pub(super) fn tidy(&mut self, ino: Ino) {
        if self.files.get(&ino).is_some_and(File::is_idle) {
            self.files.remove(&ino);
        }
    }

    /// The number that the next new inode gets.
    pub(super) fn next_ino(&self) -> Option<Ino> {
        self.inos.front().and_then(|range| Ino::new(range.start))
    }

    /// It was used.
    pub(super) fn ino_used(&mut self) {
        if let Some(range) = self.inos.front_mut() {
            range.start += 1;
            if range.is_empty() {
                self.inos.pop_front();
            }
        }
    }

    pub(super) fn inos_left(&self) -> u64 {
        self.inos.iter().map(|range| range.end - range.start).sum()
    }
}
