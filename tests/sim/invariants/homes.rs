//! Other nodes count as homes when they have what they are to have, and nobody lets go of what not all homes have.

use super::book;
use super::book::Book;
use crate::member::Image;
use crate::member::Member;
use crate::monitor::placed;
use std::collections::BTreeSet;
use tsfs::meta::op::ClusterOp;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::tsdb_log::entry::Entry;
use tsfs::types::BlockId;
use tsfs::types::NodeId;
use tsfs::types::placement::Placement;

/// What was said last of homes that are to be.
#[derive(Default)]
pub(crate) struct Homes {
    /// The placement that said so, and the blocks that were named by then.
    moving: Option<(Placement, BTreeSet<BlockId>)>,
    /// How often other nodes came to count.
    pub(crate) moved: u64,
}

/// Whole copies of what is named, and those that were damaged on purpose.
struct Copies<'a> {
    book: &'a Book,
    images: Vec<(NodeId, Image)>,
    rotten: Option<(NodeId, BlockId)>,
}

impl Copies<'_> {
    fn has(&self, node: NodeId, block: BlockId) -> bool {
        let Some((_, image)) = self.images.iter().find(|(of, _)| *of == node) else { return false };
        self.rotten == Some((node, block))
            || image.get(block) == self.book.frames.get(&block).cloned()
    }
}

fn copies<'a>(
    book: &'a Book,
    members: &[Member],
    rotten: Option<(NodeId, BlockId)>,
    seed: u64,
) -> Copies<'a> {
    let images = members.iter().map(|member| (member.node, member.image(Some(seed)))).collect();
    Copies { book, images, rotten }
}

impl Homes {
    /// After the furthest member has applied an entry; whether other nodes count from it on.
    pub(crate) fn applied(
        &mut self,
        book: &Book,
        (members, member): (&[Member], &Member),
        (entry, outcome): (&Entry, &Outcome),
        rotten: Option<(NodeId, BlockId)>,
        seed: u64,
    ) -> bool {
        if *outcome != Outcome::Applied {
            return false;
        }
        let Some((_, batch)) = book::batch(entry) else { return false };
        let [Op::Cluster(ClusterOp::Place { placement })] = &batch.ops[..] else { return false };
        let named = member.image(None).named();
        let moving = self.moving.take();
        if placement.next.is_some() {
            self.moving = Some((placement.clone(), named));
            return false;
        }
        let Some((before, named_before)) = moving else { return false };
        // Else it was to be so, and is not to be any more.
        if before.next != placement.now {
            return false;
        }
        let (copies, placed) = (copies(book, members, rotten, seed), placed(placement));
        for block in named_before.intersection(&named) {
            for home in placed.homes(*block).unwrap_or_default() {
                let (home, has) = (*home, copies.has(*home, *block));
                assert!(has, "node {} counts for block {block} and does not have it", home.0);
            }
        }
        self.moved += 1;
        true
    }
}

/// When a member has let go of blocks.
pub(crate) fn check_let_go(
    book: &Book,
    (members, member): (&[Member], &Member),
    blocks: &BTreeSet<BlockId>,
    rotten: Option<(NodeId, BlockId)>,
    seed: u64,
) {
    let copies = copies(book, members, rotten, seed);
    let now: Vec<Image> = members.iter().map(|member| member.image(None)).collect();
    let index = |node: NodeId| members[node.0 as usize - 1].progress().index;
    let at = |node: NodeId| &now[node.0 as usize - 1];
    let placement = at(member.node).placement();
    let placed = placed(placement);
    for block in blocks {
        for home in placed.homes(*block).unwrap_or_default().iter().copied() {
            // Where it is further, it may know that others are homes now, or that the block was freed.
            if at(home).placement().number > placement.number || copies.has(home, *block) {
                continue;
            }
            let further = index(home) >= index(member.node);
            let (freed, node) = (further && !at(home).named().contains(block), member.node.0);
            assert!(freed, "node {node} lets go of block {block}, which node {} lacks", home.0);
        }
    }
}
