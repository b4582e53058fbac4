//! What rows of a member name is there, as it was written and durable, or is listed for repair; and nothing else is kept. So no
//! block is freed while it is named, and none stays that is not.

use super::book::Book;
use crate::member::Member;
use tsfs::types::BlockId;

/// `cut`: as it would be after the power went now. `rotten`: its copy here was damaged on purpose, and that is not found yet.
pub(crate) fn check(book: &Book, member: &Member, cut: Option<u64>, rotten: Option<BlockId>) {
    let image = member.image(cut);
    let (named, node) = (image.named(), member.node.0);
    for block in &named {
        if image.is_listed(*block) || rotten == Some(*block) {
            continue;
        }
        let frame = image.get(*block);
        let frame = frame.unwrap_or_else(|| panic!("node {node}: block {block} is named and gone"));
        assert!(book.frames.get(block) == Some(&frame), "node {node}: block {block} is another");
    }
    for block in image.kept() {
        assert!(named.contains(&block), "node {node} keeps block {block}, which nothing names");
    }
}

/// In the end every member has every block that is named.
pub(crate) fn check_end(book: &Book, member: &Member) {
    check(book, member, None, None);
    let (image, node) = (member.image(None), member.node.0);
    for block in image.named() {
        assert!(!image.is_listed(block), "node {node} lacks block {block} in the end");
    }
}
