//! The data role of a node among others: it keeps the blocks that it is to keep, and what it lacks it has from the others.
//!
//! A read of a block that is missing or damaged here is answered with another node's copy, which is kept. Not here: how
//! other nodes are asked ([`Peers`] is the seam), and what an op names.

pub mod adopt;
pub mod lend;
pub mod repair;
pub mod scrub;
pub mod stream;
pub mod surplus;

use crate::series::table::Family;
use crate::series::table::Table;
use crate::store::block::BlockStore;
use crate::telemetry::counter;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::frame;
use bytes::Bytes;
use std::sync::Arc;

/// The other nodes.
pub trait Peers: Send + Sync {
    /// A block's frame as another node has it, in the row of `Family::Payload` or in a segment. `None` where every other node
    /// said that it has no whole copy. They answer with [`Data::here`], so nobody asks on. Waits.
    ///
    /// # Errors
    /// `Io` where one that may have it could not be asked.
    fn fetch(&self, block: BlockId, payload_row: bool) -> Result<Option<Bytes>, FsError>;
}

/// Blocks as this node has them, and as the others do.
pub struct Data {
    table: Arc<dyn Table>,
    blocks: Arc<BlockStore>,
    peers: Arc<dyn Peers>,
}

impl Data {
    pub fn new(table: Arc<dyn Table>, blocks: Arc<BlockStore>, peers: Arc<dyn Peers>) -> Data {
        Data { table, blocks, peers }
    }

    /// What another node that asks is told: the frame, if there is a whole one here.
    ///
    /// # Errors
    /// `Io` where that cannot be said.
    pub fn here(&self, block: BlockId, payload_row: bool) -> Result<Option<Bytes>, FsError> {
        let found = match payload_row {
            true => self.table.get(Family::Payload, &block.to_bytes()),
            false => self.blocks.get(block).map(Some),
        };
        match found {
            // Whoever asks looks elsewhere; that it is damaged here was noted.
            Err(FsError::Stale | FsError::Damaged(_)) => Ok(None),
            other => other,
        }
    }

    /// A block's frame, verified, from here or, where it is missing or damaged here, from another node. That one is kept.
    ///
    /// # Errors
    /// `Stale` where no node knows the block; `Damaged`, `Io`.
    pub fn block(&self, block: BlockId) -> Result<Bytes, FsError> {
        let (error, payload_row) = match self.table.get(Family::Payload, &block.to_bytes()) {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => match self.blocks.get(block) {
                Ok(frame) => return Ok(frame),
                Err(error) => (error, false),
            },
            Err(error) => (error, true),
        };
        match self.peers.fetch(block, payload_row) {
            Ok(Some(frame)) => self.borrowed(block, payload_row, frame),
            Ok(None) => Err(error),
            Err(why) => Err(FsError::Io(format!("{error}; the other nodes: {why}"))),
        }
    }

    /// Verifies what another node sent, and keeps it if it is wanted here.
    fn borrowed(&self, block: BlockId, payload_row: bool, frame: Bytes) -> Result<Bytes, FsError> {
        frame::verify(&frame).map_err(|error| {
            FsError::Damaged(format!("block {block}, as another node sent it: {error}"))
        })?;
        counter::BLOCKS_BORROWED.add(1);
        // Whoever reads has it; where it cannot be kept now, repair tries again.
        if !payload_row && let Err(error) = self.blocks.supply(block, &frame) {
            tracing::warn!(%block, %error, "a block from another node could not be kept");
        }
        Ok(frame)
    }
}

#[cfg(test)]
mod tests;
