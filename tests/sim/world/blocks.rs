//! What a member does in a millisecond for mounts, and about its blocks.

use super::World;
use crate::data::Around;
use crate::data::Did;
use crate::mount::Kind;
use tsfs::types::NodeId;

/// Once in so many milliseconds a member flushes its table by itself.
const FLUSH_EVERY: u64 = 4000;

impl World {
    /// False where the member has to stop.
    pub(super) fn serve(&mut self, n: usize) -> bool {
        let World { now, members, lines, network, chance, harm, tally, .. } = self;
        let count = members.len();
        let member = &mut members[n];
        let (running, door) = (&mut member.running, &mut member.door);
        let (running, door) = running.as_mut().zip(door.as_mut()).expect("it was started");
        let side = member.side.as_mut().expect("it was started");
        door.work(running);
        door.work_bulk(side);
        let around = &mut Around { now: *now, who: n, members: count, lines, network, chance };
        side.work(around);
        let active = harm.active(*now);
        for did in side.did.drain(..) {
            match did {
                Did::Repaired => {
                    tally.repaired += 1;
                    tally.cover.done(Kind::Repair, &active);
                }
                Did::Collected => {
                    tally.collected += 1;
                    tally.cover.done(Kind::Collect, &active);
                }
                Did::Scrubbed => {}
            }
        }
        if side.takes_upkeep() && running.upkeep().is_err() {
            return false;
        }
        if chance.once_in(FLUSH_EVERY) {
            // A disk without power says so at the next write too.
            let _ = running.flush();
        }
        true
    }

    /// Those that take part have every block that is named, and none that is damaged.
    pub(super) fn has_all_blocks(&self, part: &std::collections::BTreeSet<NodeId>) -> bool {
        let rotten = self.harm.rotten().is_some_and(|(node, _)| part.contains(&node));
        let whole = |node: &NodeId| {
            let member = &self.members[node.0 as usize - 1];
            member
                .side
                .as_ref()
                .is_some_and(|side| side.blocks.listed() == 0 && !side.blocks.upkeep_due())
        };
        !rotten && part.iter().all(whole)
    }
}
