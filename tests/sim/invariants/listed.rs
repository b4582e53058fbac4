//! What rows of a member name is there, as it was written and durable, or is listed for repair, or is elsewhere: that only where it
//! need not be here. And nothing else is kept. So no block is freed while it is named, and none stays that is not.

use super::book::Book;
use crate::member::Member;
use tsfs::types::BlockId;

/// `cut`: as it would be after the power went now. `rotten`: its copy here was damaged on purpose, and that is not found yet.
pub(crate) fn check(book: &Book, member: &Member, cut: Option<u64>, rotten: Option<BlockId>) {
    let image = member.image(cut);
    let (named, kept, elsewhere) = (image.named(), image.kept(), image.elsewhere());
    let node = member.node.0;
    for block in &named {
        let listed = image.is_listed(*block);
        if elsewhere.contains(block) {
            let here = listed || kept.contains(block);
            assert!(!here, "node {node}: block {block} is both elsewhere and here");
            let wanted = !image.is_placing() && image.is_to_have(*block);
            assert!(!wanted, "node {node}: block {block} is to be here and is not looked for");
            continue;
        }
        if listed || rotten == Some(*block) {
            continue;
        }
        let frame = image.get(*block);
        let frame = frame.unwrap_or_else(|| panic!("node {node}: block {block} is named and gone"));
        assert!(book.frames.get(block) == Some(&frame), "node {node}: block {block} is another");
    }
    for block in kept {
        assert!(named.contains(&block), "node {node} keeps block {block}, which nothing names");
    }
    for block in elsewhere {
        let of = "has others keep";
        assert!(named.contains(&block), "node {node} {of} block {block}, which nothing names");
    }
}

/// In the end every member has every block that it is to have, and no other.
pub(crate) fn check_end(book: &Book, member: &Member) {
    check(book, member, None, None);
    let (image, node) = (member.image(None), member.node.0);
    assert!(!image.is_placing(), "node {node} has rows of another placement in the end");
    let kept = image.kept();
    for block in image.named() {
        assert!(!image.is_listed(block), "node {node} lacks block {block} in the end");
        let (is, to_be) = (kept.contains(&block), image.is_to_have(block));
        assert_eq!(is, to_be, "node {node} has block {block} in the end, or is to have it");
    }
}
