//! What a mount's account says is durable is on the disks of a majority, whatever the power going now would take; and no op names
//! what is not.

use super::book::Book;
use crate::member::Member;
use tsfs::meta::op::Batch;
use tsfs::meta::op::Op;
use tsfs::meta::op::Piece;
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

/// When a mount has made a batch.
pub(crate) fn check_made(book: &Book, batch: &[u8]) {
    let batch = Batch::decode(batch).unwrap();
    for op in &batch.ops {
        let Op::Write { pieces, .. } = op else { continue };
        for piece in pieces {
            if let Piece::Block { block, .. } = piece {
                assert!(book.durable.contains(block), "block {block} is named before it may be");
            }
        }
    }
}
