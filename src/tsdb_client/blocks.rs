//! Decompressed blocks, bounded by bytes, and how one is got: once, however many ask at a time.
//!
//! Not here: contents that are still on their way to the server (`pending`).

use crate::telemetry::counter::CLIENT_BLOCK_HITS;
use crate::telemetry::counter::CLIENT_BLOCK_MISSES;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::frame;
use crate::wire::Server;
use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;

const BLOCK_OVERHEAD_BYTES: u64 = 128;
/// The cache sizes its tables by blocks of this size.
const BLOCK_BYTES_EXPECTED: u64 = 16 << 10;

#[derive(Clone)]
struct ByBytes;

impl Weighter<BlockId, Bytes> for ByBytes {
    fn weight(&self, _: &BlockId, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + BLOCK_OVERHEAD_BYTES
    }
}

pub(super) struct Blocks {
    cache: Cache<BlockId, Bytes, ByBytes>,
    server: Arc<dyn Server>,
}

impl Blocks {
    pub(super) fn new(bytes_max: u64, server: Arc<dyn Server>) -> Blocks {
        let expected = (bytes_max / BLOCK_BYTES_EXPECTED) as usize;
        Blocks { cache: Cache::with_weighter(expected, bytes_max, ByBytes), server }
    }

    /// The block's bytes if they are at hand.
    pub(super) fn cached(&self, block: BlockId) -> Option<Bytes> {
        let found = self.cache.get(&block);
        if found.is_some() {
            CLIENT_BLOCK_HITS.add(1);
        }
        found
    }

    pub(super) fn has(&self, block: BlockId) -> bool {
        self.cache.contains_key(&block)
    }

    /// The block's bytes, verified. May wait for a disk.
    ///
    /// # Errors
    /// `Damaged`, naming the block; `Stale`, `Io`.
    pub(super) fn get(&self, block: BlockId) -> Result<Bytes, FsError> {
        self.cache.get_or_insert_with(&block, || {
            CLIENT_BLOCK_MISSES.add(1);
            let frame = self.server.block(block)?;
            frame::unpack(&frame).map_err(|error| match error {
                FsError::Damaged(why) => FsError::Damaged(format!("block {block}: {why}")),
                error => error,
            })
        })
    }
}
