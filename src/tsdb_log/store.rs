//! The seam to the disk: a log that is appended to, read, and shortened from its beginning.
//!
//! `store::log` implements it on files; the same code on a simulated disk is its double.

use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::Term;
use std::sync::Arc;

/// What must be on disk before anything that follows from it is said: one write and one sync.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// Term or vote changed.
    pub hard: Option<HardState>,
    /// Indices rise by one. The first may be at or before the log's last: what it had from there on is replaced.
    pub entries: Vec<Entry>,
}

impl Group {
    pub fn is_empty(&self) -> bool {
        self.hard.is_none() && self.entries.is_empty()
    }
}

/// Reading the log, from any thread.
pub trait LogRead: Send + Sync {
    /// The first entry held; one more than `last` where none is.
    fn first(&self) -> LogIndex;

    /// The last entry held, or the one before `first`.
    fn last(&self) -> LogIndex;

    /// The term of the entry at `index`, which lies between `first` − 1 and `last`; else `None`.
    fn term(&self, index: LogIndex) -> Option<Term>;

    /// Entries from `from` to before `to`, which are held: as many as have `bytes_max` bytes together, but at least one.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    fn entries(&self, from: LogIndex, to: LogIndex, bytes_max: u64) -> Result<Vec<Entry>, FsError>;
}

/// A log on disk. After an error of `append` the store refuses everything: what is on disk is unknown then, and a sync is
/// never retried.
pub trait LogStore: Send {
    /// What was found at opening, with all changes since.
    fn hard_state(&self) -> HardState;

    fn members(&self) -> Members;

    fn reader(&self) -> Arc<dyn LogRead>;

    /// Writes the group and makes it durable. Waits for the disk.
    ///
    /// # Errors
    /// `NoSpace`, `Io`. The node must stop.
    fn append(&mut self, group: &Group) -> Result<(), FsError>;

    /// Entries up to and including `upto` are not needed any more: their effects are durable elsewhere. Frees whole segments, so
    /// some of them may stay. Does not wait for the disk.
    fn purge(&mut self, upto: LogIndex);
}
