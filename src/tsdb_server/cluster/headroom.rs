//! For how much more all nodes together have room: what clients may take from programs, decided from what each node says of its disk.
//!
//! What a client has taken can no longer be refused to the program, so it must fit where it counts: on a majority of the voters
//! for each entry of the log and each row, and on a majority of the homes of each block. The node that leads hears once a second
//! what each has room for, and counts what its own disk lost since then against all of them. Not here: the reserve, which
//! covers what several clients write in between (`store::space`).

use crate::tsdb_server::cluster::plan;
use crate::tsdb_server::cluster::plan::Facts;
use crate::types::NodeId;
use crate::types::placement::Layout;
use crate::types::placement::Share;
use parking_lot::Mutex;

/// With less than this programs are refused what they want to write, or soon will be.
const LOW_BYTES: u64 = 16 << 20;

/// For how much there is room.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Headroom {
    /// In bytes, as clients write them: once.
    pub bytes: u64,
    /// Nodes that have hardly any.
    pub full: Vec<NodeId>,
}

/// What is left where so many `copies` are kept, each on another of these nodes, and a majority of them has to be written: as
/// much as the fullest node has that cannot be done without. Nodes that do not say are those that are done without, as far as
/// there may be any; where there are more, nothing can be written at all now, and that is not for want of room.
fn of_majority(copies: usize, rooms: Vec<Option<u64>>) -> u64 {
    let silent = rooms.iter().filter(|room| room.is_none()).count();
    let mut known: Vec<u64> = rooms.into_iter().flatten().collect();
    known.sort_unstable();
    let spare = copies.saturating_sub(copies / 2 + 1);
    known.get(spare.saturating_sub(silent)).copied().unwrap_or(u64::MAX)
}

/// What is left for blocks that are at home by this layout. Which nodes share a group is not looked at: any may.
fn of_homes(layout: &Layout, room_of: impl Fn(NodeId) -> Option<u64>) -> u64 {
    let shares = layout.shares();
    let copies = usize::from(layout.copies()).min(shares.len());
    let sum: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
    // A node gets its part of all copies, at most one of each block.
    let whole = |share: &Share| {
        let part = (copies as u64 * u64::from(share.weight)).clamp(1, sum);
        let room = u128::from(room_of(share.node)?) * u128::from(sum) / u128::from(part);
        Some(u64::try_from(room).unwrap_or(u64::MAX))
    };
    of_majority(copies, shares.iter().map(whole).collect())
}

/// For how much there is room, as far as nodes say.
pub fn headroom(facts: &Facts) -> Headroom {
    let room_of = |node: NodeId| facts.standings.get(&node).map(|standing| standing.room);
    let voters = &facts.members.voters;
    let of_voters = of_majority(voters.len(), voters.iter().map(|node| room_of(*node)).collect());
    let layouts = facts.placement.now.iter().chain(&facts.placement.next);
    let bytes = layouts.map(|layout| of_homes(layout, room_of)).fold(of_voters, u64::min);
    let full = facts.standings.iter().filter(|(_, standing)| standing.room < LOW_BYTES);
    Headroom { bytes, full: full.map(|(node, _)| *node).collect() }
}

/// What was heard last, and what this node had left itself then.
struct Heard {
    room: Headroom,
    own: u64,
}

/// For how much there was room on all nodes when that was last heard of.
#[derive(Default)]
pub struct Together(Mutex<Option<Heard>>);

impl Together {
    /// `own`: for how much there is room here.
    pub fn heard(&self, room: Option<Headroom>, own: u64) {
        let before = self.trouble();
        *self.0.lock() = room.map(|room| Heard { room, own });
        match (before, self.trouble()) {
            (None, Some(trouble)) => tracing::warn!("{trouble}"),
            (Some(_), None) => tracing::info!("enough nodes have room again"),
            _ => {}
        }
    }

    /// For how much there is room now, if there is for `own` here.
    pub fn least(&self, own: u64) -> u64 {
        let since = |heard: &Heard| heard.room.bytes.saturating_sub(heard.own.saturating_sub(own));
        self.0.lock().as_ref().map_or(own, since).min(own)
    }

    /// A sentence where there is hardly room for anything.
    pub fn trouble(&self) -> Option<String> {
        let heard = self.0.lock();
        let room = &heard.as_ref().filter(|heard| heard.room.bytes < LOW_BYTES)?.room;
        Some(format!(
            "there is no room left on {}, and the others are no majority: programs are told that the disk is full; delete files, purge history with \
             'tsfs purge', or make room there",
            plan::list(&room.full)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_full_or_silent_is_done_without_and_more_are_not() {
        let three = |rooms: [Option<u64>; 3]| of_majority(3, rooms.to_vec());
        assert_eq!(three([Some(5), Some(0), Some(7)]), 5);
        assert_eq!(three([Some(0), Some(0), Some(7)]), 0);
        assert_eq!(three([Some(5), None, Some(7)]), 5, "both are needed");
        assert_eq!(three([Some(5), None, None]), 5);
        assert_eq!(three([None, None, None]), u64::MAX, "they are away, not full");
        assert_eq!(of_majority(1, vec![Some(3)]), 3);
        assert_eq!(of_majority(2, vec![Some(3), Some(2)]), 2);
        assert_eq!(of_majority(5, (1..=5).map(Some).collect()), 3);
        assert_eq!(of_majority(0, Vec::new()), u64::MAX);
    }

    #[test]
    fn a_node_that_keeps_part_of_all_lasts_as_much_longer() {
        let share = |(node, weight)| Share { node: NodeId(node), weight };
        let layout = |copies, shares: &[(u64, u8)]| {
            Layout::new(copies, shares.iter().copied().map(share).collect()).unwrap()
        };
        let alike = layout(3, &[(1, 8), (2, 8), (3, 8), (4, 8), (5, 8), (6, 8)]);
        assert_eq!(of_homes(&alike, |_| Some(100)), 200);
        assert_eq!(of_homes(&alike, |node| Some(if node.0 < 3 { 0 } else { 100 })), 0);
        assert_eq!(of_homes(&alike, |node| Some(if node.0 < 2 { 0 } else { 100 })), 200);
        assert_eq!(of_homes(&alike, |node| (node.0 != 6).then_some(node.0)), 2);
        // The large one has a copy of each, which is all that there is.
        let uneven = layout(3, &[(1, 64), (2, 8), (3, 8), (4, 8)]);
        let room = |node: NodeId| Some(if node.0 == 1 { 1000 } else { 100 });
        assert_eq!(of_homes(&uneven, room), 100 * 88 / 24);
        assert_eq!(of_homes(&layout(3, &[(1, 1), (2, 1)]), |node| Some(node.0)), 1);
        assert_eq!(of_homes(&alike, |_| Some(u64::MAX)), u64::MAX);
    }

    #[test]
    fn what_was_written_since_is_gone_on_every_node() {
        let among = Together::default();
        assert_eq!(among.least(50), 50);
        among.heard(Some(Headroom { bytes: 30 << 20, full: Vec::new() }), 50 << 20);
        assert_eq!(among.least(50 << 20), 30 << 20);
        assert_eq!(among.least(45 << 20), 25 << 20);
        assert_eq!(among.least(60 << 20), 30 << 20, "what came back here came back nowhere else");
        assert_eq!((among.least(10 << 20), among.trouble()), (0, None));
        among.heard(Some(Headroom { bytes: 0, full: vec![NodeId(2), NodeId(3)] }), 50);
        assert!(among.trouble().unwrap().starts_with("there is no room left on nodes 2 and 3,"));
        assert_eq!(among.least(50), 0);
        among.heard(None, 50);
        assert_eq!((among.least(50), among.trouble()), (50, None));
    }
}
