//! What is given out of a block is what was written, or nothing.

use super::book::Book;
use bytes::Bytes;
use tsfs::types::BlockId;

/// `to`: whom. Of a payload, which travelled in an op, nothing is known here.
pub(crate) fn check(book: &Book, block: BlockId, frame: &Bytes, to: &str) {
    if let Some(written) = book.frames.get(&block) {
        assert!(written == frame, "{to} is given something else for block {block}");
    }
}
