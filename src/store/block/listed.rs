//! Blocks that are listed for repair: the log names them, and they are not here, or what is here is damaged.
//!
//! The list is rows (`L`), written by the driver like all others; a block comes off it when its bytes are durable here, or
//! when it is freed. In a store with one copy of everything, it says what is lost. Not here: where the bytes come from.

use crate::series::table::Family;
use crate::store::block::BlockStore;
use crate::store::block::State;
use crate::store::block::index;
use crate::store::block::index::Kind;
use crate::store::block::index::block_key;
use crate::store::segment::Origin;
use crate::telemetry::counter;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::frame;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

/// So many damaged blocks are noted between two times that the list is written. What is beyond is met again.
const MET_MAX: usize = 10_000;

/// What became of a frame that another node sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Supplied {
    /// It is written. When it is synced, the next upkeep takes the block off the list.
    Written,
    /// The block is here already, or not wanted any more.
    Unneeded,
}

impl State {
    /// Whether the list is to be written.
    pub(super) fn list_is_due(&self) -> bool {
        let durable = |block| self.pending.get(block).is_some_and(|at| self.is_synced(at.place));
        !self.to_list.is_empty() || self.arrived.iter().any(durable)
    }
}

impl BlockStore {
    /// Whether other nodes have the blocks too. Where they have, a block that the log names and that is not durable here is
    /// fetched; alone (as a store is opened), it is damage.
    pub fn share(&self, shared: bool) {
        self.shared.store(shared, Ordering::Relaxed);
    }

    pub(super) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    /// Whether a block is listed for repair.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn is_listed(&self, block: BlockId) -> Result<bool, FsError> {
        {
            let state = self.state.lock();
            if let Some(listed) = state.unsaved_list.get(&block) {
                return Ok(*listed);
            }
            if state.listed == 0 {
                return Ok(false);
            }
        }
        Ok(self.table.get(Family::Local, &block_key(Kind::Listed, block))?.is_some())
    }

    /// How many blocks are listed for repair.
    pub fn listed(&self) -> u64 {
        self.state.lock().listed
    }

    /// Whether something that is to come off the list is written and not yet durable.
    pub fn arrivals_unsynced(&self) -> bool {
        let state = self.state.lock();
        let unsynced =
            |block| state.pending.get(block).is_some_and(|at| !state.is_synced(at.place));
        state.arrived.iter().any(unsynced)
            || state.moves.iter().any(|moved| !state.is_synced(moved.to))
    }

    /// At most `limit` blocks that are to be fetched, in order, from behind `after`.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn missing(&self, after: Option<BlockId>, limit: usize) -> Result<Vec<BlockId>, FsError> {
        let (mut found, mut last) = (Vec::new(), after);
        while found.len() < limit {
            // A page without the lock, for the table may have to read; then less what is on its way.
            let mut page = Vec::new();
            index::each_key(&*self.table, Kind::Listed, last, |block| {
                page.push(block);
                if page.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            let Some(end) = page.last() else { break };
            last = Some(*end);
            let state = self.state.lock();
            let replaced: BTreeSet<_> = state.moves.iter().map(|moved| moved.block).collect();
            page.retain(|block| {
                state.unsaved_list.get(block) != Some(&false)
                    && !state.arrived.contains(block)
                    && !replaced.contains(block)
            });
            found.append(&mut page);
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Takes a listed block's frame from another node. It counts after the next [`BlockStore::sync`] and
    /// [`BlockStore::upkeep`]: supply several, then sync once.
    ///
    /// # Errors
    /// `Damaged` where the frame does not verify; `NoSpace`, `Io`.
    pub fn supply(&self, block: BlockId, frame: &Bytes) -> Result<Supplied, FsError> {
        let checksum = frame::verify(frame)?.checksum;
        if !self.is_listed(block)? && !self.state.lock().to_list.contains(&block) {
            return Ok(Supplied::Unneeded);
        }
        let parts: [&[u8]; 2] = [frame, &[]];
        let written = match self.locate(block)? {
            None => self.write_new(block, parts, checksum)?,
            // It arrived meanwhile, from its client or from another node.
            Some(_) if self.state.lock().pending.contains_key(&block) => false,
            // A row says where it lies, and there it is damaged. No copy: where the row is lost, a scan is to find this.
            Some(from) => {
                self.append(Origin::Put, block, parts, checksum, Some(from))?;
                true
            }
        };
        if !written {
            return Ok(Supplied::Unneeded);
        }
        counter::BLOCKS_REPAIRED.add(1);
        counter::BLOCKS_REPAIRED_BYTES.add(frame.len() as u64);
        Ok(Supplied::Written)
    }

    /// Notes that a block cannot be read. Where others have it, it is listed by the next upkeep.
    pub(super) fn met(&self, block: BlockId, error: &FsError) {
        let damaged = matches!(error, FsError::Damaged(_));
        let state = &mut *self.state.lock();
        // A disk that does not answer may answer tomorrow; alone, there is nothing else to be done about it.
        if (damaged || self.is_shared()) && state.met.len() < MET_MAX {
            state.met.insert(block);
        }
        if self.is_shared() && state.to_list.len() < MET_MAX {
            state.to_list.insert(block);
        }
    }

    /// Those that a row names and that are not listed yet.
    pub(super) fn damaged_unlisted(
        &self,
        met: BTreeSet<BlockId>,
    ) -> Result<BTreeSet<BlockId>, FsError> {
        let mut found = BTreeSet::new();
        for block in met {
            let named =
                self.locate(block)?.is_some() && !self.state.lock().pending.contains_key(&block);
            if named && !self.is_listed(block)? {
                found.insert(block);
            }
        }
        Ok(found)
    }

    /// What is to be said of a listed block that is not here.
    pub(super) fn absent(&self, block: BlockId) -> FsError {
        FsError::Damaged(match self.is_shared() {
            true => format!("block {block} is not here yet: it is fetched from another node"),
            false => format!("block {block} was not in the store when the log named it"),
        })
    }
}

/// What is to be said of a block that need not be here, where nobody else has it either.
pub(super) fn kept_elsewhere(block: BlockId) -> FsError {
    FsError::Damaged(format!("block {block} is not kept on this node but on others"))
}
