//! Which nodes keep a block: the blocks in groups, the groups on nodes.
//!
//! A block's name says its group. Which nodes are home to a group is computed from a short list of nodes with weights, by
//! rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998): each node draws as many
//! numbers for the group as it has weight, and those with the greatest keep it. So a node that comes or goes changes as little as it
//! can, and everybody who knows the list agrees. Integers only: all nodes must compute the same. Not here: who decides
//! on the list, and how blocks get where it says.

use crate::types::BlockId;
use crate::types::NodeId;
use serde::Deserialize;
use serde::Serialize;
use std::hash::Hash;
use std::hash::Hasher;

/// Groups. Named in stored rows by nobody; but a change would move every block.
pub const GROUPS: u16 = 1024;
/// Copies of a block, at most.
pub const COPIES_MAX: u8 = 9;
/// A node's weight, at most; at least one.
pub const WEIGHT_MAX: u8 = 64;

/// A node and how much of everything it keeps, beside the others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Share {
    pub node: NodeId,
    pub weight: u8,
}

/// Where blocks are at home: so many copies, on these nodes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Layout {
    copies: u8,
    /// By number, each once.
    shares: Vec<Share>,
}

/// Where blocks are at home, and where they are going.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Placement {
    /// Raised with each change.
    pub number: u64,
    /// Copies of a block that are wanted, where there are as many nodes that keep blocks.
    pub copies: u8,
    /// `None`: every node keeps every block.
    pub now: Option<Layout>,
    /// What is to be: its nodes fetch what they lack, and when they have it, it takes the place of `now`.
    pub next: Option<Layout>,
}

impl Default for Placement {
    /// As it is where nobody has said anything: three copies, and every node keeps every block.
    fn default() -> Placement {
        Placement { number: 0, copies: 3, now: None, next: None }
    }
}

impl Placement {
    /// Whether this is one, where it came from elsewhere.
    pub fn is_sound(&self) -> bool {
        (1..=COPIES_MAX).contains(&self.copies)
            && self.now.iter().chain(&self.next).all(Layout::is_sound)
    }

    /// Whether every node has to have every block, and nothing is to change.
    pub fn is_everywhere(&self) -> bool {
        self.now.is_none() && self.next.is_none()
    }

    /// Whether a node is, or is going to be, home to some blocks by name.
    pub fn names(&self, node: NodeId) -> bool {
        self.now.iter().chain(&self.next).any(|layout| layout.has(node))
    }
}

/// The homes of all groups, computed.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Homes {
    copies: usize,
    /// So many for each group, in order of the groups.
    nodes: Vec<NodeId>,
}

/// A placement, ready to be asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Placed {
    number: u64,
    now: Option<Homes>,
    next: Option<Homes>,
}

/// The finalizer of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn mixed(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The group of a block. Blocks that one session puts one after the other are in groups one after the other, so that a
/// big file is spread evenly.
pub fn group_of(block: BlockId) -> u16 {
    (mixed(block.session.0).wrapping_add(block.number) % u64::from(GROUPS)) as u16
}

/// The greatest of the numbers that a node draws for a group.
fn drawn(group: u16, share: Share) -> u64 {
    let node = mixed(share.node.0);
    let one = |ticket: u8| mixed(node ^ mixed(u64::from(group) << 8 | u64::from(ticket)));
    (0..share.weight).map(one).max().unwrap_or(0)
}

impl Layout {
    /// `None` where that is no layout: no node, one twice, no copy or more than [`COPIES_MAX`], a weight of nothing or of more than
    /// [`WEIGHT_MAX`].
    pub fn new(copies: u8, mut shares: Vec<Share>) -> Option<Layout> {
        shares.sort_by_key(|share| share.node);
        let layout = Layout { copies, shares };
        layout.is_sound().then_some(layout)
    }

    /// Whether this is a layout, where it came from elsewhere.
    pub fn is_sound(&self) -> bool {
        let weights = self.shares.iter().all(|share| (1..=WEIGHT_MAX).contains(&share.weight));
        let ordered = self.shares.is_sorted_by(|one, other| one.node < other.node);
        (1..=COPIES_MAX).contains(&self.copies) && !self.shares.is_empty() && weights && ordered
    }

    pub fn copies(&self) -> u8 {
        self.copies
    }

    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.shares.iter().map(|share| share.node)
    }

    pub fn has(&self, node: NodeId) -> bool {
        self.nodes().any(|known| known == node)
    }

    /// The nodes that are home to a group: as many as there are copies, or all where there are fewer.
    pub fn homes(&self, group: u16) -> Vec<NodeId> {
        let mut drawn: Vec<(u64, NodeId)> =
            self.shares.iter().map(|share| (drawn(group, *share), share.node)).collect();
        drawn.sort_unstable_by(|one, other| other.cmp(one));
        drawn.truncate(usize::from(self.copies));
        drawn.into_iter().map(|(_, node)| node).collect()
    }

    /// Of all groups, how many a node is home to.
    pub fn groups_of(&self, node: NodeId) -> u16 {
        (0..GROUPS).filter(|group| self.homes(*group).contains(&node)).count() as u16
    }
}

impl Homes {
    fn of(layout: &Layout) -> Homes {
        let copies = usize::from(layout.copies).min(layout.shares.len());
        let nodes = (0..GROUPS).flat_map(|group| layout.homes(group)).collect();
        Homes { copies, nodes }
    }

    fn group(&self, group: u16) -> &[NodeId] {
        let from = usize::from(group) * self.copies;
        &self.nodes[from..from + self.copies]
    }
}

impl Placed {
    pub fn new(placement: &Placement) -> Placed {
        let homes = |layout: &Option<Layout>| layout.as_ref().map(Homes::of);
        Placed {
            number: placement.number,
            now: homes(&placement.now),
            next: homes(&placement.next),
        }
    }

    /// Of the placement that this is of.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The nodes whose disks count for a block; `None`: all nodes'.
    pub fn homes(&self, block: BlockId) -> Option<&[NodeId]> {
        self.now.as_ref().map(|homes| homes.group(group_of(block)))
    }

    /// The nodes that are going to be a block's homes, where that is to change.
    pub fn next_homes(&self, block: BlockId) -> &[NodeId] {
        self.next.as_ref().map_or(&[], |homes| homes.group(group_of(block)))
    }

    /// Whether a node has to have a block.
    pub fn keeps(&self, node: NodeId, block: BlockId) -> bool {
        self.homes(block).is_none_or(|homes| homes.contains(&node))
            || self.next_homes(block).contains(&node)
    }

    /// Whether every node has to have every block.
    pub fn is_everywhere(&self) -> bool {
        self.now.is_none()
    }

    /// In which order nodes are asked for a block: its homes first, then those that are going to be, then the others.
    pub fn rank(&self, node: NodeId, block: BlockId) -> u8 {
        match self.homes(block) {
            None => 0,
            Some(homes) if homes.contains(&node) => 0,
            Some(_) if self.next_homes(block).contains(&node) => 1,
            Some(_) => 2,
        }
    }
}

/// By its number, which is another one with each change: the homes themselves are many.
impl Hash for Placed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

#[cfg(test)]
mod tests;
