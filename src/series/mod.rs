//! The versioned map: `(key, stamp) → value`. Everything with a history is a series.
//!
//! Time travel, delta coding and retention are written here, once, for bytes. Not here: what a key means,
//! disks, clocks. Two parts, as with system-versioned tables: `current` holds what is, with the stamp it holds
//! from; `history` holds what was, newest first, each row for an interval `[from, to)` that is never empty.
//!
//! **Keys are prefix-free**: no key is the beginning of another. History rows append the stamp to the key, and
//! only so does a seek for one key never land between the rows of another. No key begins with a zero byte: the
//! index of past versions does.

mod batch;
mod chain;
pub mod changes;
pub mod check;
mod delta;
mod listing;
mod overlay;
mod read;
mod row;
pub mod table;

pub use batch::Batch;
pub use batch::Finished;
pub use batch::Origin;
pub use read::Readable;
pub use read::Series;

use crate::types::AsOf;
use crate::types::FsError;
use crate::types::Stamp;
use bytes::Bytes;
use std::ops::ControlFlow;

/// Which way a scan goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Direction {
    Forward,
    Backward,
}

/// Keys from `start` (inclusive) to `end` (exclusive). An empty `end` means: no end.
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct KeyRange {
    pub start: Vec<u8>,
    pub end: Vec<u8>,
}

impl KeyRange {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> KeyRange {
        let mut end = prefix.to_vec();
        while let Some(last) = end.last_mut() {
            if *last < u8::MAX {
                *last += 1;
                break;
            }
            end.pop();
        }
        KeyRange { start: prefix.to_vec(), end }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && (self.end.is_empty() || key < self.end.as_slice())
    }
}

/// Which keys are listed together as of an instant: the entries of a directory. Only for them is there an index of the
/// past, which keeps such a listing as fast as one of the present.
#[derive(Clone, Copy)]
pub struct Groups {
    /// How many of the first bytes of a key, or of the beginning of one, name its group; `None` where it has none.
    pub prefix: fn(&[u8]) -> Option<usize>,
}

impl Groups {
    /// The group of a key, or of the beginning of one that is long enough to name it.
    fn of(self, key: &[u8]) -> Option<&[u8]> {
        key.get(..(self.prefix)(key)?)
    }
}

/// What a visitor is shown: key, value. It breaks to end the scan.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// One state of one key: `value` held during `[from, to)`; `to` is [`Stamp::MAX`] for what holds now.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Version {
    pub from: Stamp,
    pub to: Stamp,
    pub value: Bytes,
}

/// Reading the map, now or as of an instant. Implemented by a replica over its table, by a client over what it
/// caches and asks for.
pub trait Read {
    /// The value of `key`.
    ///
    /// # Errors
    /// `BeforeHorizon`, `Damaged`, `Io`.
    fn get(&self, key: &[u8], at: AsOf) -> Result<Option<Bytes>, FsError>;

    /// The rows in `range` in key order. Consistent: the scan sees one moment.
    ///
    /// # Errors
    /// As for `get`.
    fn scan(
        &self,
        range: &KeyRange,
        at: AsOf,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError>;

    /// The versions of `key` whose interval meets `[since, until]`, newest first, the present one included.
    ///
    /// # Errors
    /// As for `get`.
    fn versions(
        &self,
        key: &[u8],
        since: Stamp,
        until: Stamp,
        visit: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), FsError>;

    /// The newest past version of each key in `range` that is not there now, where it ended in `[since, until]`. In key
    /// order. Costs by the past keys in the range.
    ///
    /// # Errors
    /// As for `get`.
    fn ended(
        &self,
        range: &KeyRange,
        since: Stamp,
        until: Stamp,
        visit: Ended<'_>,
    ) -> Result<(), FsError>;
}

/// What [`Read::ended`] shows: a key and its last version. It breaks to end the scan.
pub type Ended<'a> = &'a mut dyn FnMut(&[u8], Version) -> ControlFlow<()>;

/// Whether a change of a row leaves its former value in history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Past {
    /// The former value becomes a version.
    Keep,
    /// The former value is forgotten and the row keeps the stamp it holds from: growth that no instant before now
    /// can see, things without a history (atime), directories that keep none.
    Forget,
    /// There is no former value, neither present nor past: this key was never used before, so nobody needs to look
    /// for one. For rows of new inodes and of files that grow.
    Fresh,
}

/// The present as one batch sees and changes it: what the rules of `meta` run on, in a replica and in a client.
pub trait Present {
    /// # Errors
    /// `Damaged`, `Io`.
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError>;

    /// The rows of the present in `range`, with this batch's changes.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    fn scan(
        &mut self,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError>;

    fn put(&mut self, key: &[u8], value: Bytes, past: Past);

    fn remove(&mut self, key: &[u8], past: Past);

    /// Ends a step: what was put so far becomes a state that can be read, whatever the batch changes after it.
    /// Each step has its own stamp, so every stamp reads as an exact prefix of the ops.
    fn cut(&mut self);

    /// An unversioned row (`table::Family::State`).
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    fn state(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError>;

    fn state_put(&mut self, key: &[u8], value: Option<Bytes>);

    /// The rows of state in `range`, with this batch's changes.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    fn state_scan(&mut self, range: &KeyRange, visit: Visit<'_>) -> Result<(), FsError>;

    /// The stamp of the present step; `None` at a client, which is not told.
    fn stamp(&self) -> Option<Stamp>;

    /// The replica's side of the rules: history and payload rows. `None` at a client, which keeps none of them.
    fn replica(&mut self) -> Option<&mut dyn Replica>;
}

/// What [`Replica::forget`] tells: the next older value, the removed one, the next newer one.
pub type Dropped<'a> = &'a mut dyn FnMut(Option<&[u8]>, &[u8], Option<&[u8]>);

/// What only a replica has: old rows, block payloads, and the queues of what is to be done outside the log.
pub trait Replica {
    /// Takes back everything that was put since the batch began: it is as if nothing had been done.
    fn take_back(&mut self);

    /// The stored frame of a block that travelled inside an op.
    fn payload_put(&mut self, block: crate::types::BlockId, frame: Bytes);

    /// # Errors
    /// `Damaged`, `Io`.
    fn payload(&mut self, block: crate::types::BlockId) -> Result<Option<Bytes>, FsError>;

    /// Forgets a payload.
    fn payload_remove(&mut self, block: crate::types::BlockId);

    /// Tells the data role that an applied op now names this block (its segment copy must be kept).
    fn block_named(&mut self, block: crate::types::BlockId);

    /// Tells the data role that no row names this block any more.
    fn block_freed(&mut self, block: crate::types::BlockId);

    /// The map with its history as it was before this batch.
    fn before(&self) -> &dyn Read;

    /// Rows of a family as they were before this batch, for purge and check: `changes` and `history`.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    fn rows(
        &self,
        family: table::Family,
        range: &KeyRange,
        visit: Visit<'_>,
    ) -> Result<(), FsError>;

    /// Removes the version of `key` that holds from `from`, which is a past one, keeping its neighbours readable.
    /// `dropped` is told the values of the next older version, the removed one and the next newer one (each where it
    /// exists), from which it knows what the key no longer names. False where there is no such version.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    fn forget(&mut self, key: &[u8], from: Stamp, dropped: Dropped<'_>) -> Result<bool, FsError>;

    /// This user makes the changes from this step on, until told otherwise. Where nobody is said to, the store does.
    fn made_by(&mut self, uid: u32);

    /// Removes a row of `changes` that has been worked off.
    fn changes_remove(&mut self, stamp: Stamp);

    /// Replaces a row of `changes` by what is left to work off in it.
    fn changes_keep(&mut self, rest: &changes::Record);
}
