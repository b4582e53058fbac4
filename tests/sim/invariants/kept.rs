//! No block is lost that rows name: whole copies lie on as many nodes as a majority has of the fewest that ever count, which is two,
//! and the power going now would leave them there. One that was damaged on purpose counts until it is replaced.

use super::book::Book;
use crate::member::Image;
use crate::member::Member;
use tsfs::types::BlockId;
use tsfs::types::NodeId;

/// Whoever counts one has it on two disks at least.
const COPIES_MIN: usize = 2;

pub(crate) fn check(book: &Book, members: &[Member], rotten: Option<(NodeId, BlockId)>, seed: u64) {
    let furthest = members.iter().max_by_key(|member| member.progress().index);
    let Some(member) = furthest.filter(|member| member.progress().index == book.furthest) else {
        return;
    };
    let named = member.image(None).named();
    let images: Vec<(NodeId, Image)> =
        members.iter().map(|member| (member.node, member.image(Some(seed)))).collect();
    for block in named {
        let has = |(node, image): &&(NodeId, Image)| {
            rotten == Some((*node, block)) || image.get(block) == book.frames.get(&block).cloned()
        };
        let found = images.iter().filter(has).count();
        assert!(found >= COPIES_MIN, "block {block} is named and whole on {found} nodes");
    }
}
