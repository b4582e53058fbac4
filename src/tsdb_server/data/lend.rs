//! Checkpoints of this node's table, lent to nodes that join or fell behind.
//!
//! One takes little space at first and more as the table moves on, so it is kept for a while after it was last read and
//! then removed; whoever comes back later begins with a new one. The log behind it is kept from before it is made until
//! the borrower has that log too: taking a table over may take longer than it takes others to write more than is kept
//! otherwise. Not here: how chunks travel.

use crate::env::Clock;
use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::disk::File;
use crate::store::table::RocksTable;
use crate::tsdb_log::core::Follower;
use crate::tsdb_server::data::stream::CHUNK_BYTES_MAX;
use crate::tsdb_server::data::stream::Chunk;
use crate::tsdb_server::data::stream::Plan;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use bytes::Bytes;
use parking_lot::Mutex;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Beside the table in a store's directory; a number follows.
const PREFIX: &str = "table.lent-";
/// So many are lent at a time.
const LENT_MAX: usize = 2;
/// Whoever has all of a table takes it over in this time, and then needs the log behind it.
const TAKE_OVER: Duration = Duration::from_secs(1800);

/// Which checkpoint. Numbers are not used twice by a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct LentId(pub u64);

struct Lent {
    id: LentId,
    to: NodeId,
    path: PathBuf,
    plan: Arc<Plan>,
    /// It has what was applied up to here, or more.
    applied: LogIndex,
    /// Removed then, unless it is read before.
    until: Duration,
    /// The file that was read last.
    open: Option<(u32, Arc<dyn File>)>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        // What stays is removed when the node starts.
        if let Err(error) = RocksTable::destroy(&self.path) {
            tracing::warn!(%error, "a checkpoint that is not needed any more could not be removed");
        }
    }
}

/// The checkpoints that are lent. Dropping it removes them.
pub struct Lender {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    hold: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lent: Vec<Lent>,
    last: u64,
    /// One is being made, of what was applied up to here at least.
    making: Option<LogIndex>,
    /// Those that have all of a table, and need the log behind it next.
    taking: Vec<Taking>,
}

/// A node that takes over a table.
struct Taking {
    node: NodeId,
    behind: LogIndex,
    until: Duration,
}

impl Taking {
    /// It was heard of with more than the table.
    fn is_over(&self, followers: &[Follower]) -> bool {
        followers.iter().any(|other| other.node == self.node && other.matched > self.behind)
    }
}

impl Lender {
    /// Of the store in `dir`. Each checkpoint is kept for `hold` after it was last read. Removes what an earlier process left.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        clock: Arc<dyn Clock>,
        hold: Duration,
    ) -> Result<Lender, FsError> {
        for left in disk.list(dir)?.iter().filter(|name| name.starts_with(PREFIX)) {
            RocksTable::destroy(&dir.join(left))?;
        }
        let (dir, state) = (dir.to_path_buf(), Mutex::default());
        Ok(Lender { disk, dir, clock, hold, state })
    }

    /// Makes a checkpoint of the table, which has what was `applied` at least, for a node. Waits for the disk: its files
    /// are read once.
    ///
    /// # Errors
    /// `Io` where too many are lent; `NoSpace`.
    pub fn lend(
        &self,
        table: &RocksTable,
        applied: LogIndex,
        to: NodeId,
    ) -> Result<(LentId, Arc<Plan>), FsError> {
        self.tend();
        let id = {
            let mut state = self.state.lock();
            if state.making.is_some() || state.lent.len() >= LENT_MAX {
                let what = "this node sends its table to others already: ask again later";
                return Err(FsError::Io(what.to_owned()));
            }
            state.making = Some(applied);
            state.taking.retain(|taking| taking.node != to);
            state.last += 1;
            LentId(state.last)
        };
        let made = self.make(table, applied, id, to);
        let mut state = self.state.lock();
        state.making = None;
        let lent = made?;
        let plan = lent.plan.clone();
        state.lent.push(lent);
        Ok((id, plan))
    }

    fn make(
        &self,
        table: &RocksTable,
        applied: LogIndex,
        id: LentId,
        to: NodeId,
    ) -> Result<Lent, FsError> {
        let path = self.dir.join(format!("{PREFIX}{}", id.0));
        let mut lent =
            Lent { id, to, path, plan: Arc::default(), applied, until: Duration::ZERO, open: None };
        table.checkpoint(&lent.path)?;
        lent.plan = Arc::new(Plan::of(&*self.disk, &lent.path)?);
        // Reading it all may have taken long.
        lent.until = self.clock.steady() + self.hold;
        Ok(lent)
    }

    /// The bytes of a chunk.
    ///
    /// # Errors
    /// `Stale` where the checkpoint is not kept any more; `Invalid` where no such chunk is in its plan; `Io`.
    pub fn read(&self, id: LentId, chunk: Chunk) -> Result<Bytes, FsError> {
        let file = {
            let state = &mut *self.state.lock();
            let lent = state.lent.iter_mut().find(|lent| lent.id == id).ok_or(FsError::Stale)?;
            lent.until = self.clock.steady() + self.hold;
            let planned = lent.plan.files.get(chunk.file as usize);
            let fits = planned.filter(|planned| {
                let end = chunk.offset.checked_add(u64::from(chunk.bytes));
                chunk.bytes <= CHUNK_BYTES_MAX && end.is_some_and(|end| end <= planned.bytes)
            });
            let planned = fits.ok_or(FsError::Invalid("no such part of the table's files"))?;
            match &lent.open {
                Some((open, file)) if *open == chunk.file => file.clone(),
                _ => {
                    let file = self.disk.open(&lent.path.join(&planned.name), Access::Read)?;
                    lent.open = Some((chunk.file, file.clone()));
                    file
                }
            }
        };
        Ok(file.read_at(chunk.offset, chunk.bytes as usize)?.into())
    }

    /// Whoever borrowed it has all of it, and takes it over.
    pub fn done(&self, id: LentId) {
        let until = self.clock.steady() + TAKE_OVER;
        let mut state = self.state.lock();
        let (done, lent) =
            std::mem::take(&mut state.lent).into_iter().partition(|lent: &Lent| lent.id == id);
        state.lent = lent;
        let done: Vec<Lent> = done;
        state.taking.extend(done.iter().map(|lent| Taking {
            node: lent.to,
            behind: lent.applied,
            until,
        }));
        drop(state);
        // Its files go, which may take a while.
        drop(done);
    }

    /// Removes what nobody has read for long. To be called now and then.
    pub fn tend(&self) {
        let now = self.clock.steady();
        self.state.lock().lent.retain(|lent| lent.until > now);
    }

    /// Whoever borrows needs the log from behind this entry: it is to be kept. `followers` are the other nodes, as far as this
    /// one knows.
    pub fn needs_log_behind(&self, followers: &[Follower]) -> Option<LogIndex> {
        let now = self.clock.steady();
        let mut state = self.state.lock();
        state.taking.retain(|taking| taking.until > now && !taking.is_over(followers));
        let lent = state.lent.iter().map(|lent| lent.applied);
        lent.chain(state.making).chain(state.taking.iter().map(|taking| taking.behind)).min()
    }
}

#[cfg(test)]
mod tests;
