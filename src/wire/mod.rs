//! What clients and servers say to each other.
//!
//! `tsdb_client` and `tsdb_server` do not know each other; they share this seam. Embedded, a server is called in
//! process; in a cluster, `net` implements the same trait with messages.

pub mod cluster;
pub mod control;
pub mod greeting;
pub mod message;
pub mod packet;
pub mod quorum;
pub mod refused;

use crate::meta::lock::FileLock;
use crate::meta::op::Op;
use crate::meta::op::Outcome;
use crate::meta::record::Grant;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Version;
use crate::types::AsOf;
use crate::types::BatchSeq;
use crate::types::BlockId;
use crate::types::Era;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::Term;
use crate::types::frame::Frame;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a client is told when its session begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    pub session: SessionId,
    /// Of its grant of the whole, or of the next one to be given.
    pub epoch: u64,
    /// Whether it owns every inode that there is. An embedded mount always does.
    pub whole: Option<Whole>,
    /// Key of the hash that orders directory entries (SipHash-1-3).
    pub hash_key: [u8; 16],
    /// The store's identity, for people and logs.
    pub store: String,
}

/// A grant of the whole: the session owns every inode that there was, but for what it gives back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Whole {
    /// Rises with every such grant.
    pub epoch: u64,
    /// The session's last batch when it was given. What it gave back in this one or before it owns again; what it gave back
    /// later it gave back of this grant, even if it did not know of it yet. (So what is asked back is given back by an op, and
    /// noted with that op's batch, also where the session believes that it does not own it.)
    pub after: BatchSeq,
    /// Only inodes with a number below this: what is made later is owned by who was given its number, as long as that is there.
    pub below: Ino,
}

impl From<Grant> for Whole {
    fn from(grant: Grant) -> Whole {
        Whole { epoch: grant.epoch, after: grant.after, below: grant.below }
    }
}

/// What a session is to give back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Recall {
    /// These, where it owns them.
    Inodes(Vec<Ino>),
    /// Every inode that it did not make itself.
    Whole,
}

/// What a session may answer from copies of rows that are nobody's.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Copying {
    /// What it was given in an earlier one counts no more.
    pub era: Era,
    /// How long everything that it was given in this era counts from when it asked for this, in milliseconds.
    pub lease_ms: u64,
    /// The inodes of which the rows in this answer may be kept, and all others that are asked for from now on.
    pub inos: Vec<Ino>,
}

/// What a server tells a client unasked, on any thread. None of it may wait, nor call the server.
pub trait Listener: Send + Sync {
    /// Somebody else wants what this session owns: it flushes, tells the kernel, and puts `Op::Yield` behind all that rested on
    /// it. Told again while the op has not been applied.
    fn recall(&self, what: Recall);

    /// Somebody reads an instant that may not have reached the server yet: `done` is called once everything that programs did
    /// up to now is applied, or lost.
    fn flush(&self, done: Box<dyn FnOnce() + Send>);

    /// The session owns every inode that there is. What it knows of them may be old. May be told late, and more
    /// than once.
    fn whole(&self, whole: Whole);

    /// Something that is nobody's is about to be changed: these inodes, or any. The session answers from no copy of them any more,
    /// has the kernel forget them, and then calls `done`. May be told more than once.
    fn take_back(&self, _inos: Option<Vec<Ino>>, done: Box<dyn FnOnce() + Send>) {
        done();
    }

    /// A lock has gone that was in the way of one which this session wanted on the inode. May not be told.
    fn unlocked(&self, _ino: Ino) {}

    /// The session is over on the server's side: it owns nothing any more, and what it has not sent is lost.
    fn ended(&self, why: &str);

    /// The server has been away for as long as calls are to wait for it: why. None when it is back. Nothing is lost by it.
    fn away(&self, _why: Option<&str>) {}
}

/// A batch on its way into the log: encoded once, by the client.
#[derive(Clone, Debug)]
pub struct Proposal {
    pub session: SessionId,
    pub seq: BatchSeq,
    /// How many ops it holds: as many stamps are set aside for it.
    pub ops: u32,
    /// `meta::op::Batch`, encoded.
    pub batch: Bytes,
}

/// Called once when the batch is on a majority's disks, with its first stamp; then `Applied` once.
pub type Durable = Box<dyn FnOnce(Result<Stamp, FsError>) + Send>;
/// Called once when the batch is applied, with what came of it and the stamp of its last step.
pub type Applied = Box<dyn FnOnce(Result<(Outcome, Stamp), FsError>) + Send>;

/// A program waits for a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Waiting {
    /// The session's own, higher with each wait that begins.
    pub number: u64,
    pub ino: Ino,
    pub lock: FileLock,
    /// The owner on the same mount who is in the way; none where it is another session.
    pub by: Option<u64>,
}

/// When a leader was told something. A later one of the same term has a higher number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Moment {
    pub term: Term,
    pub number: u64,
}

/// What comes of saying who waits.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Circled {
    pub now: Moment,
    /// Of the session's waits those that would never end.
    pub refused: Vec<u64>,
    /// It is to say so again at once.
    pub soon: bool,
}

/// Rows of one answer to a scan.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Page {
    pub rows: Vec<(Bytes, Bytes)>,
    /// More rows follow in the range, after the last one here.
    pub more: bool,
}

/// Space and health, as `statfs` and `tsfs status` show them. Sizes in bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    pub store: String,
    pub path: String,
    /// Of the file system under the store.
    pub disk_total: u64,
    pub disk_free: u64,
    /// Set aside, so that deleting and purging still work.
    pub reserved: u64,
    /// Files taken by blocks, payload, tables and log.
    pub block_bytes: u64,
    pub table_bytes: u64,
    pub log_bytes: u64,
    /// Estimates from counters kept by apply: contents of the present and of history, before compression.
    pub live_bytes: u64,
    pub history_bytes: u64,
    /// What compression saves of both.
    pub saved_bytes: u64,
    pub files: u64,
    pub versions: u64,
    /// Nothing before this instant can be read; zero where nothing was forgotten yet.
    pub oldest: u64,
    /// Of the last applied batch.
    pub newest: u64,
    pub applied: u64,
    /// Empty where all is well; else a sentence for each thing that is not.
    pub health: Vec<String>,
    /// Every counter of `telemetry`, by name.
    pub counters: BTreeMap<String, u64>,
}

/// A server as its clients see it. Calls that wait for a disk or a majority say so; all others answer at once.
pub trait Server: Send + Sync {
    /// Begins a session. Waits until it is in the log.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `Closing`.
    fn open_session(&self, client: &str, listener: Arc<dyn Listener>) -> Result<Welcome, FsError>;

    /// Until when, by the steady clock, the session may answer from what it owns. `Duration::MAX` where the server is in this
    /// process. Cheap: asked for every call.
    fn lease(&self) -> Duration {
        Duration::MAX
    }

    /// A fresh range of `count` inode numbers: its first. Waits until it is in the log.
    ///
    /// # Errors
    /// `Fenced`, `Io`, `Closing`.
    fn grant_inos(&self, session: SessionId, count: u64) -> Result<u64, FsError>;

    /// Puts a batch into the log. Batches of a session are proposed in order of their numbers. The calling thread may be
    /// used to write the log, for itself and for others, and waits where too much is not yet applied. Both callbacks
    /// run on any thread, before this returns or later; they must not wait, nor call the server.
    fn propose(&self, proposal: Proposal, durable: Durable, applied: Applied);

    /// What `propose` proposes on this thread may go as one. It must not wait for what comes of any of it.
    fn together(&self, propose: &mut dyn FnMut()) {
        propose();
    }

    /// A row, as applied so far.
    ///
    /// # Errors
    /// `BeforeHorizon`, `Damaged`, `Io`.
    fn get(&self, key: &[u8], at: AsOf) -> Result<Option<Bytes>, FsError>;

    /// Rows of the present, as [`Server::get`] would tell them one by one, of one moment.
    ///
    /// # Errors
    /// As for `get`.
    fn get_all(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, FsError> {
        keys.iter().map(|key| self.get(key, AsOf::Now)).collect()
    }

    /// As [`Server::get_all`], and which inodes of theirs the session may keep.
    ///
    /// # Errors
    /// As for `get`.
    fn copy_all(&self, keys: &[Bytes]) -> Result<(Vec<Option<Bytes>>, Copying), FsError> {
        Ok((self.get_all(keys)?, Copying::default()))
    }

    /// As [`Server::scan`] of the present, likewise.
    ///
    /// # Errors
    /// As for `get`.
    fn copy_page(
        &self,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<(Page, Copying), FsError> {
        Ok((self.scan(range, AsOf::Now, direction, limit)?, Copying::default()))
    }

    /// In which era the session is, and until when, by the steady clock, it may answer from what it was given in it. Cheap: asked for
    /// every call. `used`: somebody has since it was last asked, so it is worth keeping.
    fn copying(&self, _used: bool) -> (Era, Duration) {
        (Era::default(), Duration::ZERO)
    }

    /// For what this client's programs wait that others have locked, all of it, as it was once `after` had been told: what comes of
    /// it. Waits for the server.
    ///
    /// # Errors
    /// `Unreachable`, `Closing`, `Damaged`, `Io`.
    fn waits(&self, _after: Moment, _waits: Vec<Waiting>) -> Result<Circled, FsError> {
        Ok(Circled::default())
    }

    /// At most `limit` rows of a range, as applied so far.
    ///
    /// # Errors
    /// As for `get`.
    fn scan(
        &self,
        range: &KeyRange,
        at: AsOf,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, FsError>;

    /// At most `limit` versions of a key, newest first, whose interval meets `[since, until]`.
    ///
    /// # Errors
    /// As for `get`.
    fn versions(
        &self,
        key: &[u8],
        since: Stamp,
        until: Stamp,
        limit: usize,
    ) -> Result<Vec<Version>, FsError>;

    /// The last versions of at most `limit` keys of a range that are not there now and ended in `[since, until]`, in key
    /// order. Where there are `limit` of them, more may follow after the last key.
    ///
    /// # Errors
    /// As for `get`.
    fn ended(
        &self,
        range: &KeyRange,
        since: Stamp,
        until: Stamp,
        limit: usize,
    ) -> Result<Vec<(Bytes, Version)>, FsError>;

    /// Nobody waits for it any more: what has not reached it is lost. For a client that ends.
    fn abandon(&self) {}

    /// Whether what is known, perhaps old, is better than waiting for a leader or failing. Only to look at.
    fn prefers_old(&self) -> bool {
        false
    }

    /// Rows of the present as somebody knows them: all of one moment, which may be long ago.
    ///
    /// # Errors
    /// `Unreachable` where nobody is there, or where [`Server::prefers_old`] says no.
    fn old_rows(&self, _keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, FsError> {
        Err(none_old())
    }

    /// At most `limit` rows of a range, likewise.
    ///
    /// # Errors
    /// As for [`Server::old_rows`].
    fn old_page(&self, _: &KeyRange, _: Direction, _limit: usize) -> Result<Page, FsError> {
        Err(none_old())
    }

    /// Rows without a history (`Family::State`).
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    fn state(&self, range: &KeyRange, limit: usize) -> Result<Page, FsError>;

    /// Rows that batches left about themselves (`Family::Changes`) in `[since, until]`, oldest first.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    fn changes(&self, since: Stamp, until: Stamp, limit: usize) -> Result<Page, FsError>;

    /// Commits something stamped now or later, so that everything up to the present can be read. Waits.
    ///
    /// # Errors
    /// `Io`, `Closing`.
    fn barrier(&self) -> Result<Stamp, FsError>;

    /// Stores a block's frame. Durable only after [`Server::sync_blocks`]. May wait for the disk.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn put_block(&self, block: BlockId, frame: Frame) -> Result<(), FsError>;

    /// Makes every block put before durable. Waits for the disk.
    ///
    /// # Errors
    /// `Io`, after which no block of this call may be named.
    fn sync_blocks(&self) -> Result<(), FsError>;

    /// A block's frame, verified, from wherever it lies (payload rows or segments). May wait for the disk.
    ///
    /// # Errors
    /// `Damaged`, `Io`; `Stale` where no such block is known.
    fn block(&self, block: BlockId) -> Result<Bytes, FsError>;

    /// Bytes that may still be written: free space less the reserve. Cheap; called for every batch.
    fn space_left(&self) -> u64;

    /// # Errors
    /// `Io`.
    fn status(&self) -> Result<Status, FsError>;

    /// A batch of the server's own, without a session's number: purge, forget, retention, marks, what only a server can
    /// resolve. Waits until it is applied; the stamp of its last step. `by` is the user whose changes they are.
    ///
    /// # Errors
    /// `Refused` with the reason: nothing was changed. `Io`, `NoSpace`, `Closing`.
    fn administer_all(&self, by: Option<u32>, ops: Vec<Op>) -> Result<Stamp, FsError>;

    /// The same, of one op.
    ///
    /// # Errors
    /// As for `administer_all`.
    fn administer(&self, op: Op) -> Result<Stamp, FsError> {
        self.administer_all(None, vec![op])
    }
}

fn none_old() -> FsError {
    FsError::Unreachable("only what is so now is told here".to_owned())
}
