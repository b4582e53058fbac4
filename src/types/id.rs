//! Identifiers: one type per kind of number, so that an index is never taken for a count.

use serde::Deserialize;
use serde::Serialize;
use std::fmt;
use std::num::NonZeroU64;

/// An inode number: unique in the store, never used twice. Below 2^63; the upper half belongs to the
/// numbers that the history view gives to objects of the past.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(NonZeroU64);

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(NonZeroU64::MIN);
    /// Above every number of an inode.
    pub const END: Ino = Ino(NonZeroU64::MIN.saturating_add((1 << 63) - 1));

    /// `None` for zero.
    pub fn new(raw: u64) -> Option<Ino> {
        NonZeroU64::new(raw).map(Ino)
    }

    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{}", self.0)
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which content an inode has: raised when a file is emptied, so that its old extent rows need no touching.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Generation(pub u32);

/// A client's membership, from its opening to its end. Given out by the leader, rising, never used twice.
/// Zero is the store itself: blocks that `apply` makes are numbered in it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct SessionId(pub u64);

/// The place of a batch in its session, counted from 1 without gaps.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct BatchSeq(pub u64);

/// The name of a block: who wrote it, and its number there. Never used twice.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct BlockId {
    pub session: SessionId,
    pub number: u64,
}

impl BlockId {
    pub const BYTES: usize = 16;

    /// Big-endian, so that the bytes sort as the ids do.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.session.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// `None` unless exactly [`BlockId::BYTES`] bytes are given.
    pub fn from_bytes(bytes: &[u8]) -> Option<BlockId> {
        let bytes: [u8; Self::BYTES] = bytes.try_into().ok()?;
        let (session, number) = bytes.split_at(8);
        Some(BlockId {
            session: SessionId(u64::from_be_bytes(session.try_into().ok()?)),
            number: u64::from_be_bytes(number.try_into().ok()?),
        })
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.session.0, self.number)
    }
}

/// The place of an entry in the replicated log, counted from 1.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct LogIndex(pub u64);

/// A leader's reign in the replicated log.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Term(pub u64);

/// Which of a session's copies count: those that it was given in this era. Eras rise, also from one leader to the next.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Era {
    pub term: Term,
    pub turn: u64,
}

/// A server process. The one voter of an embedded store is node 1.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct NodeId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_ids_come_back_and_sort_like_their_bytes() {
        let id = |session, number| BlockId { session: SessionId(session), number };
        let sorted = [id(0, 0), id(0, 1), id(0, 256), id(1, 0), id(256, 1)];
        for id in sorted {
            assert_eq!(BlockId::from_bytes(&id.to_bytes()), Some(id));
        }
        assert!(sorted.map(BlockId::to_bytes).is_sorted());
        assert_eq!(BlockId::from_bytes(&[0; 15]), None);
    }
}
