//! What a mount's account says is durable is on the disks of a majority, whatever the power going now would take.

use super::book::Book;
use crate::member::Member;
use tsfs::types::BlockId;
use tsfs::types::NodeId;

/// When a mount may name a block from now on. `nodes` are those of which a majority counts.
pub(crate) fn check(
    book: &Book,
    members: &[Member],
    (block, nodes): (BlockId, &[NodeId]),
    rotten: Option<(NodeId, BlockId)>,
    seed: u64,
) {
    // What it did not name is dropped with its session.
    if book.sessions.get(&block.session).is_some_and(|session| session.ended) {
        return;
    }
    let counts = |member: &&Member| nodes.contains(&member.node);
    let has = |member: &&Member| {
        let frame = member.image(Some(seed)).get(block);
        rotten == Some((member.node, block)) || frame == book.frames.get(&block).cloned()
    };
    let holders = members.iter().filter(counts).filter(has).count();
    assert!(
        holders > nodes.len() / 2,
        "block {block} counts as durable, and is on {holders} of {} nodes",
        nodes.len()
    );
}
