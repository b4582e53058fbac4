//! What a member does in a millisecond for mounts, and about its blocks.

use super::World;
use crate::data::Around;
use crate::data::Did;
use crate::door::Stands;
use crate::monitor::Cluster;
use crate::monitor::placed;
use crate::mount::Kind;
use std::collections::BTreeSet;
use tsfs::store::block::BlockStore;
use tsfs::types::BlockId;
use tsfs::types::NodeId;

/// Once in so many milliseconds a member flushes its table by itself.
const FLUSH_EVERY: u64 = 4000;
/// Blocks that every member is asked for in the end.
const READ_AT_LAST: usize = 4;

/// Blocks that rows say are here.
fn kept(blocks: &BlockStore) -> BTreeSet<BlockId> {
    let mut kept = BTreeSet::new();
    let mut keep = |block| {
        kept.insert(block);
        Ok(())
    };
    blocks.each_named(&mut keep).unwrap();
    kept
}

impl World {
    /// False where the member has to stop.
    pub(super) fn serve(&mut self, n: usize) -> bool {
        let World { now, members, lines, network, chance, harm, tally, .. } = self;
        let count = members.len();
        let member = &mut members[n];
        let (running, door) = (&mut member.running, &mut member.door);
        let (running, door) = running.as_mut().zip(door.as_mut()).expect("it was started");
        let (side, monitor) = (&mut member.side, &mut member.monitor);
        let (side, monitor) = side.as_mut().zip(monitor.as_mut()).expect("it was started");
        let placement = running.placement();
        if side.placed.number() != placement.number {
            side.placed = placed(&placement);
        }
        door.work(running);
        door.work_bulk(side, &Stands { monitor, running, disk: member.says_disk });
        let around = &mut Around { now: *now, who: n, members: count, lines, network, chance };
        side.work(around);
        let cluster = Cluster { leaving: &harm.leaving, disk: member.says_disk };
        monitor.work(around, running, &cluster);
        for did in side.did.drain(..) {
            match did {
                Did::Repaired => {
                    tally.repaired += 1;
                    tally.cover.done(Kind::Repair, &harm.active(*now));
                }
                Did::Collected => {
                    tally.collected += 1;
                    tally.cover.done(Kind::Collect, &harm.active(*now));
                }
                Did::Scrubbed => {}
            }
        }
        let upkeep = side.takes_upkeep(*now, chance);
        let may_go = upkeep && !side.placed.is_everywhere();
        let before = if may_go { kept(&side.blocks) } else { BTreeSet::new() };
        if upkeep && running.upkeep().is_err() {
            return false;
        }
        if chance.once_in(FLUSH_EVERY) {
            // A disk without power says so at the next write too.
            let _ = running.flush();
        }
        if may_go {
            self.has_let_go(n, &before);
        }
        true
    }

    fn has_let_go(&mut self, n: usize, before: &BTreeSet<BlockId>) {
        let side = self.members[n].side.as_ref().expect("it was started");
        let gone: BTreeSet<BlockId> = before.difference(&kept(&side.blocks)).copied().collect();
        if gone.is_empty() {
            return;
        }
        self.tally.let_go += gone.len() as u64;
        self.tally.cover.done(Kind::LetGo, &self.harm.active(self.now));
        self.invariants.let_go(&self.members, n, &gone);
    }

    /// Those that take part have every block that they are to have, none that is damaged, and no other.
    pub(super) fn has_all_blocks(&self, part: &BTreeSet<NodeId>) -> bool {
        let rotten = self.harm.rotten().is_some_and(|(node, _)| part.contains(&node));
        let content = |node: &NodeId| {
            let member = &self.members[node.0 as usize - 1];
            let leads = member.leads().is_some();
            !leads || member.monitor.as_ref().is_some_and(|monitor| monitor.content)
        };
        let whole = |node: &NodeId| {
            let member = &self.members[node.0 as usize - 1];
            member
                .side
                .as_ref()
                .is_some_and(|side| side.blocks.listed() == 0 && !side.blocks.upkeep_due())
        };
        let beside = |node: &NodeId| {
            let member = &self.members[node.0 as usize - 1];
            let side = member.side.as_ref().expect("it was started");
            kept(&side.blocks).into_iter().any(|block| !side.placed.keeps(*node, block))
        };
        !rotten && part.iter().all(content) && part.iter().all(whole) && !part.iter().any(beside)
    }

    /// Whoever takes part is asked for some blocks that are named, wherever they are.
    pub(super) fn read_at_last(&mut self, part: &[NodeId]) {
        let named = self.members[part[0].0 as usize - 1].image(None).named();
        let named: Vec<BlockId> = named.into_iter().collect();
        for node in part {
            for _ in 0..READ_AT_LAST {
                let Some(block) = self.chance.pick(&named).copied() else { return };
                let frame = self.read_from(node.0 as usize - 1, block);
                self.invariants.read_at_last(block, &frame);
            }
        }
    }

    fn read_from(&mut self, n: usize, block: BlockId) -> bytes::Bytes {
        let end = self.now + 5000;
        loop {
            assert!(self.now < end, "node {} does not answer what block {block} is", n + 1);
            let side = self.members[n].side.as_mut();
            match side.and_then(|side| side.read(block)) {
                Some(read) => return read.unwrap_or_else(|why| panic!("block {block}: {why}")),
                None => self.step(false),
            }
        }
    }
}
