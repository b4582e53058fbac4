//! No block is lost that rows name: somewhere lies a whole copy, which the power going now would leave there.

use super::book::Book;
use crate::member::Image;
use crate::member::Member;

pub(crate) fn check(book: &Book, members: &[Member], seed: u64) {
    let furthest = members.iter().max_by_key(|member| member.progress().index);
    let Some(member) = furthest.filter(|member| member.progress().index == book.furthest) else {
        return;
    };
    let named = member.image(None).named();
    let images: Vec<Image> = members.iter().map(|member| member.image(Some(seed))).collect();
    for block in named {
        let found = images.iter().any(|image| image.get(block) == book.frames.get(&block).cloned());
        assert!(found, "block {block} is named and whole on no node");
    }
}
