//! Which nodes there are, who of them decides, and which of them keep which blocks.
//!
//! The node that leads says it, when it is found and with each renewal. Not here: connections to them, what is counted by it
//! (`blocks`).

use crate::tsdb_client::remote::links::Links;
use crate::types::BlockId;
use crate::types::NodeId;
use crate::types::placement::Placed;
use crate::wire::message::View;
use std::mem;
use std::sync::Arc;

/// For who reads what is wrong with each node.
pub(super) const SENSELESS: &str =
    "the node that leads says of where blocks are kept what cannot be: it is not used";

/// What is said is another [`Arc`] where it is something else than before.
#[derive(PartialEq, Eq, Default)]
pub(in crate::tsdb_client::remote) struct Roll {
    /// Those that decide; none before one of them has said so.
    pub(in crate::tsdb_client::remote) members: Vec<NodeId>,
    /// Those that do not.
    pub(in crate::tsdb_client::remote) learners: Vec<NodeId>,
    pub(in crate::tsdb_client::remote) placed: Arc<Placed>,
}

impl Roll {
    /// As `view` says it. A placement of before, as a node says it that leads no more or has yet to apply the log, does not count.
    fn after(&self, view: &View) -> Roll {
        let others = view.nodes.iter().map(|at| at.node);
        Roll {
            members: view.voters.clone(),
            learners: others.filter(|node| !view.voters.contains(node)).collect(),
            placed: match view.placement.number > self.placed.number() {
                true => Arc::new(Placed::new(&view.placement)),
                false => self.placed.clone(),
            },
        }
    }

    /// Those that may have a block which nobody else has.
    pub(in crate::tsdb_client::remote) fn keepers(
        &self,
        block: BlockId,
    ) -> impl Iterator<Item = NodeId> {
        let homes = self.placed.homes(block).unwrap_or_default();
        let next = self.placed.next_homes(block);
        self.members.iter().chain(homes).chain(next).copied()
    }
}

impl Links {
    /// Which nodes there are.
    pub(in crate::tsdb_client::remote) fn roll(&self) -> Arc<Roll> {
        self.state.lock().roll.clone()
    }

    /// The nodes are these, as one of them said. False where blocks cannot be kept as it says: then nothing of it counts, and no
    /// block is put by a guess.
    pub(in crate::tsdb_client::remote) fn meet(self: &Arc<Links>, view: &View) -> bool {
        let mut state = self.state.lock();
        let was = mem::replace(&mut state.senseless, !view.placement.is_sound());
        if state.senseless {
            if !was {
                tracing::error!(leader = ?view.leader, "{SENSELESS}");
            }
            return false;
        }
        state.term = state.term.max(view.term);
        if !view.voters.is_empty() {
            let roll = state.roll.after(view);
            if roll != *state.roll {
                state.roll = Arc::new(roll);
            }
        }
        drop(state);
        self.hear_of(&view.nodes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SessionId;
    use crate::types::placement::Layout;
    use crate::types::placement::Placement;
    use crate::types::placement::Share;
    use crate::wire::message;
    use crate::wire::message::NodeAt;

    fn layout(copies: u8, nodes: &[u64]) -> Option<Layout> {
        let share = |node: &u64| Share { node: NodeId(*node), weight: 1 };
        Layout::new(copies, nodes.iter().map(share).collect())
    }

    fn view(number: u64, now: Option<Layout>, next: Option<Layout>) -> View {
        let at = |node| NodeAt { node: NodeId(node), address: format!("node{node}:7000") };
        View {
            leader: Some(NodeId(1)),
            term: 3,
            nodes: (1..=4).map(at).collect(),
            voters: [1, 2].map(NodeId).to_vec(),
            placement: Placement { number, copies: 3, now, next },
        }
    }

    #[test]
    fn what_a_node_says_that_is_behind_does_not_move_blocks_back() {
        let block = BlockId { session: SessionId(1), number: 1 };
        let first = Roll::default().after(&view(0, None, None));
        assert_eq!((first.members.len(), first.learners.len()), (2, 2));
        assert!(first.placed.is_everywhere());
        assert!(first.keepers(block).eq([1, 2].map(NodeId)));
        let second = first.after(&view(7, layout(1, &[3]), layout(1, &[4])));
        let rank = |roll: &Roll, node| roll.placed.rank(NodeId(node), block);
        assert_eq!([1, 3, 4].map(|node| rank(&second, node)), [2, 0, 1]);
        assert!(second.keepers(block).eq([1, 2, 3, 4].map(NodeId)));
        let behind = View { voters: vec![NodeId(2)], ..view(6, layout(1, &[1]), None) };
        let third = second.after(&behind);
        assert!(Arc::ptr_eq(&third.placed, &second.placed));
        assert_eq!(third.members, [NodeId(2)]);
        assert_eq!(rank(&third.after(&view(8, layout(1, &[4]), None)), 4), 0);
    }

    #[test]
    fn what_cannot_be_is_told_from_what_can() {
        let sound = view(5, layout(3, &[1, 2, 3]), None).placement;
        let bytes = message::encode(&sound);
        assert!(sound.is_sound() && Placement::default().is_sound());
        // A node has a weight of nothing, or is there twice.
        for (from, to) in [(&[2, 1][..], [2, 0]), (&[2, 1], [1, 1])] {
            let at = bytes.windows(2).rposition(|two| two == from).unwrap();
            let mut other = bytes.to_vec();
            other[at..at + 2].copy_from_slice(&to);
            let other: Placement = message::decode(&other).unwrap();
            assert!(!other.is_sound(), "{other:?}");
        }
    }
}
