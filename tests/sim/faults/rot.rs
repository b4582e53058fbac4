//! A block rots on a disk: a bit of what was durable turns over, and whoever reads it finds out.
//!
//! One copy at a time, and never the last whole one: what nobody has any more nobody brings back.

use super::Harm;
use crate::chance::Chance;
use crate::member::Member;
use std::path::Path;
use tsfs::store::disk::Access;
use tsfs::store::disk::Disk;
use tsfs::types::BlockId;
use tsfs::types::NodeId;

const UNIT_BYTES: u64 = 4096;
/// How often it is looked whether the copy was replaced.
const LOOK_MS: u64 = 40;
/// Where a record's header has the block.
const BLOCK_AT: u64 = 8;
const HEADER_BYTES: u64 = 48;

/// A damaged copy.
pub(super) struct Rot {
    who: usize,
    node: NodeId,
    block: BlockId,
}

impl Harm {
    /// Turns a bit of some block over, where that may be; until when that lasts.
    pub(super) fn rot(
        &mut self,
        who: usize,
        now: u64,
        members: &[Member],
        chance: &mut Chance,
    ) -> u64 {
        if self.rot.is_some() {
            return now;
        }
        let kept: Vec<BlockId> = members[who].image(Some(now)).kept().into_iter().collect();
        let Some(block) = chance.pick(&kept).copied() else { return now };
        let others = members.iter().enumerate().filter(|(other, _)| *other != who);
        let mut copies = others.map(|(_, other)| other.image(Some(now)).get(block));
        if !copies.any(|copy| copy.is_some()) {
            return now;
        }
        let member = &members[who];
        if !damage(member, block, chance) {
            return now;
        }
        self.rot = Some(Rot { who, node: member.node, block });
        now + 1000
    }

    /// The copy that is damaged, and on which node.
    pub(crate) fn rotten(&self) -> Option<(NodeId, BlockId)> {
        self.rot.as_ref().map(|rot| (rot.node, rot.block))
    }

    /// Whether the damaged copy is gone, or there is a whole one in its place.
    pub(super) fn look_at_rot(&mut self, now: u64, members: &[Member]) {
        let Some(Rot { who, block, .. }) = &self.rot else { return };
        if !now.is_multiple_of(LOOK_MS) {
            return;
        }
        // Also after a power cut: before that is so, it may come back.
        let is_over = |cut| {
            let image = members[*who].image(cut);
            image.get(*block).is_some() || !image.kept().contains(block)
        };
        if is_over(None) && is_over(Some(now)) {
            self.replaced += 1;
            self.rot = None;
        }
    }
}

/// Turns a bit of the block's record, where its row says; false where it is not found or was damaged already.
fn damage(member: &Member, block: BlockId, chance: &mut Chance) -> bool {
    let dir = Path::new("/blocks");
    for name in member.disk.list(dir).unwrap_or_default() {
        let path = dir.join(name);
        let Ok(file) = member.disk.open(&path, Access::Read) else { continue };
        for unit in 1..file.len().unwrap_or(0).div_ceil(UNIT_BYTES) {
            let at = unit * UNIT_BYTES;
            let found = file.read_at(at + BLOCK_AT, 16).unwrap_or_default();
            if BlockId::from_bytes(&found) != Some(block) {
                continue;
            }
            let before = member.image(None).get(block);
            // In the header, which says what it is, or in what was written.
            let len = before.as_ref().map_or(12, |frame| frame.len() as u64);
            let within =
                if chance.once_in(2) { 0..HEADER_BYTES } else { HEADER_BYTES..HEADER_BYTES + len };
            let at = at + within.start + chance.below(within.end - within.start);
            let bit = chance.below(8) as u8;
            if member.disk.flip_bit(&path, at, bit).is_err() {
                continue;
            }
            // Whether it is found out is not looked at: it may be given out as it is.
            if member.image(None).get(block) != before {
                return true;
            }
            // An older copy, or a byte that means nothing.
            member.disk.flip_bit(&path, at, bit).unwrap();
        }
    }
    false
}
