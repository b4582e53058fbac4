//! What would be found in a member's blocks, were it opened at this moment: of copies, so that nobody notices.

use super::BLOCKS;
use super::BLOCKS_DIR;
use super::Member;
use super::STORE;
use crate::monitor::placed;
use crate::monitor::placement_in;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tsfs::meta::check;
use tsfs::store::block::BlockStore;
use tsfs::store::disk::Access;
use tsfs::store::disk::Disk;
use tsfs::store::table::MemoryTable;
use tsfs::types::BlockId;
use tsfs::types::FsError;
use tsfs::types::NodeId;
use tsfs::types::placement::Placement;

pub(crate) struct Image {
    node: NodeId,
    placement: Placement,
    table: Arc<MemoryTable>,
    blocks: BlockStore,
}

impl Member {
    /// After the power went now, with what of the unsynced `cut` leaves; without one, after the end of the process.
    pub(crate) fn image(&self, cut: Option<u64>) -> Image {
        let disk = self.disk.copy_of(Path::new(BLOCKS_DIR));
        if let Some(seed) = cut {
            disk.crash(seed);
        }
        let table = Arc::new(self.table.copy(cut.is_some()));
        let (dir, disk): (_, Arc<dyn Disk>) = (Path::new(BLOCKS_DIR), Arc::new(disk));
        let opened = BlockStore::open(disk, dir, STORE, table.clone(), BLOCKS, Access::Read);
        let (blocks, faults) = opened.unwrap();
        assert_eq!(faults, [], "node {}", self.node.0);
        let (node, placement) = (self.node, placement_in(&table));
        blocks.keep_by(node, placed(&placement));
        Image { node, placement, table, blocks }
    }
}

impl Image {
    /// A block's frame, if a whole one is here.
    pub(crate) fn get(&self, block: BlockId) -> Option<Bytes> {
        match self.blocks.get(block) {
            Ok(frame) => Some(frame),
            Err(FsError::Stale | FsError::Damaged(_)) => None,
            Err(other) => panic!("{other}"),
        }
    }

    /// Whether a block is listed for repair.
    pub(crate) fn is_listed(&self, block: BlockId) -> bool {
        self.blocks.is_listed(block).unwrap()
    }

    /// Which nodes keep which blocks, as its rows say.
    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Whether a block is to be here.
    pub(crate) fn is_to_have(&self, block: BlockId) -> bool {
        placed(&self.placement).keeps(self.node, block)
    }

    /// Whether rows are of another placement than the one that holds.
    pub(crate) fn is_placing(&self) -> bool {
        self.blocks.is_placing()
    }

    /// Blocks that are named, and are not here and not to be.
    pub(crate) fn elsewhere(&self) -> BTreeSet<BlockId> {
        let mut elsewhere = BTreeSet::new();
        self.blocks
            .each_elsewhere(|block| {
                elsewhere.insert(block);
            })
            .unwrap();
        elsewhere
    }

    /// Blocks that rows of the tree name, present or past.
    pub(crate) fn named(&self) -> BTreeSet<BlockId> {
        let mut named = BTreeSet::new();
        let mut name = |block| {
            named.insert(block);
        };
        check::segment_blocks(&*self.table, &mut name).unwrap();
        named
    }

    /// Blocks that rows of the block store say are here and named.
    pub(crate) fn kept(&self) -> BTreeSet<BlockId> {
        let mut kept = BTreeSet::new();
        self.blocks
            .each_named(|block| {
                kept.insert(block);
                Ok(())
            })
            .unwrap();
        kept
    }
}
