//! Naming and freeing: what the replica driver calls with the batches that do it.
//!
//! Not here: rows and how they are kept together (`index`), and what upkeep writes (`reclaim`).

use crate::series::table::Changes;
use crate::store::block::BlockStore;
use crate::store::block::Fate;
use crate::store::block::State;
use crate::store::block::index::Kind;
use crate::store::block::index::Writing;
use crate::telemetry::counter;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::SessionId;
use std::collections::BTreeSet;

impl State {
    /// Whether the log names a pending block: it has arrived for the list, or was found though rows say that it is elsewhere.
    fn is_named(&self, pending: BlockId) -> bool {
        self.arrived.contains(&pending) || self.placing.found.contains(&pending)
    }
}

impl BlockStore {
    /// Applied ops name these blocks from now on. One that is not durable here is listed for repair, or is elsewhere if it need
    /// not be here, and the rest goes on: where other nodes have the blocks too, its client did not wait for this one; alone, it
    /// has been lost. The driver's.
    ///
    /// # Errors
    /// `Damaged` where a block that nobody else has was never synced, or the index cannot be read; `Io`.
    pub fn named(&self, blocks: &[BlockId], changes: &mut Changes) -> Result<(), FsError> {
        // Known by a row or listed already, or elsewhere: only the driver changes that.
        let mut known = Vec::with_capacity(blocks.len());
        for block in blocks {
            let settled = self.row_of(*block)?.is_some() || self.is_listed(*block)?;
            known.push((settled, !settled && self.is_elsewhere(*block)?));
        }
        let shared = self.is_shared();
        let state = &mut *self.state.lock();
        state.working()?;
        let mut writing = Writing::new(state, changes);
        for (block, (settled, elsewhere)) in blocks.iter().zip(known) {
            let keeps = writing.state.placing.keeps(*block);
            let pending = writing.state.pending.get(block).copied();
            if let Some(pending) = pending.filter(|at| writing.state.is_synced(at.place)) {
                // Also where it need not be here: its client may count on it.
                if elsewhere {
                    writing.not_elsewhere(*block);
                }
                writing.name(*block, pending);
            } else if elsewhere {
                // As it was. If it is to be here now, upkeep is on its way to this row.
            } else if !keeps && !settled {
                writing.leave_elsewhere(*block);
            } else if pending.is_none() {
                if !settled {
                    writing.miss(*block, shared);
                }
            } else if shared {
                if !settled {
                    writing.list(*block);
                }
                writing.state.arrived.insert(*block);
            } else {
                let what = "is named by the log but was never synced";
                return Err(FsError::Damaged(format!("block {block} {what}")));
            }
        }
        writing.finish();
        Ok(())
    }

    /// No row of the map names these blocks any more. Those that are not here travelled inside ops, and are passed
    /// over. The driver's.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn freed(&self, blocks: &[BlockId], changes: &mut Changes) -> Result<(), FsError> {
        let mut known = Vec::with_capacity(blocks.len());
        for block in blocks {
            let (place, listed) = (self.locate(*block)?, self.is_listed(*block)?);
            let unnamed = place.is_none() || self.state.lock().pending.contains_key(block);
            let elsewhere = unnamed && !listed && self.is_elsewhere(*block)?;
            known.push((place, listed, elsewhere));
        }
        let state = &mut *self.state.lock();
        state.working()?;
        let mut writing = Writing::new(state, changes);
        for (block, (place, listed, elsewhere)) in blocks.iter().zip(known) {
            if listed {
                writing.unlist(*block);
                writing.comes_too_late(*block);
            }
            if elsewhere {
                writing.not_elsewhere(*block);
                writing.comes_too_late(*block);
            }
            if writing.state.arrived.remove(block) || elsewhere {
                writing.drop_pending(*block);
            } else if let Some(place) = place
                // A pending block was never named; its session's end takes it.
                && !writing.state.pending.contains_key(block)
            {
                writing.delete(Kind::Named, *block);
                writing.dies(place);
                writing.state.unsaved.insert(*block, None);
                counter::BLOCKS_FREED.add(1);
            }
        }
        writing.finish();
        Ok(())
    }

    /// Drops the blocks of a session that has ended and that no op named. The driver's.
    ///
    /// # Errors
    /// `Io`.
    pub fn sweep_session(&self, session: SessionId, changes: &mut Changes) -> Result<(), FsError> {
        let state = &mut *self.state.lock();
        state.working()?;
        let all = BlockId { session, number: 0 }..=BlockId { session, number: u64::MAX };
        let unnamed = |block: &BlockId| !state.is_named(*block);
        let swept: Vec<_> =
            state.pending.range(all).map(|(block, _)| *block).filter(unnamed).collect();
        for (_, putting) in state.putting.iter_mut().filter(|(block, _)| block.session == session) {
            if putting.fate == Fate::Pending {
                putting.fate = Fate::Dead;
            }
        }
        let mut writing = Writing::new(state, changes);
        for block in swept {
            writing.drop_pending(block);
        }
        writing.finish();
        Ok(())
    }

    /// The sessions that have blocks no op named. After a restart, those among them that have ended are to be swept.
    pub fn pending_sessions(&self) -> BTreeSet<SessionId> {
        let state = self.state.lock();
        let unnamed = state.pending.keys().filter(|block| !state.is_named(**block));
        unnamed.map(|block| block.session).collect()
    }

    /// The changes that were asked for so far are in the table. The driver's, after each write.
    pub fn written(&self) {
        let state = &mut *self.state.lock();
        state.unsaved.clear();
        state.unsaved_list.clear();
        state.placing.written();
        state.retiring.unflushed.append(&mut state.retiring.unsaved);
    }
}
