//! Sets of numbers that lie close together: a bit each, so that a check of millions of files fits in memory.

use std::collections::HashMap;

const WORDS: usize = 64;
const BITS: u64 = WORDS as u64 * 64;

/// A set of pairs of a number and what it belongs to. Dense in the second, sparse in the first.
#[derive(Default)]
pub(super) struct Bits {
    chunks: HashMap<(u64, u64), Box<[u64; WORDS]>>,
}

impl Bits {
    /// False where it was there before.
    pub(super) fn insert(&mut self, of: u64, number: u64) -> bool {
        let chunk = self.chunks.entry((of, number / BITS)).or_insert_with(|| Box::new([0; WORDS]));
        let (word, bit) = ((number % BITS / 64) as usize, 1 << (number % 64));
        let new = chunk[word] & bit == 0;
        chunk[word] |= bit;
        new
    }

    pub(super) fn contains(&self, of: u64, number: u64) -> bool {
        let (word, bit) = ((number % BITS / 64) as usize, 1u64 << (number % 64));
        self.chunks.get(&(of, number / BITS)).is_some_and(|chunk| chunk[word] & bit != 0)
    }

    /// All pairs, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.chunks.iter().flat_map(|((of, chunk), words)| {
            (0..BITS)
                .filter(|n| words[(n / 64) as usize] & 1 << (n % 64) != 0)
                .map(move |n| (*of, chunk * BITS + n))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        let mut bits = Bits::default();
        let pairs = [(0, 0), (0, 63), (0, 64), (0, BITS - 1), (0, BITS), (7, 0), (7, u64::MAX)];
        for (of, number) in pairs {
            assert!(!bits.contains(of, number));
            assert!(bits.insert(of, number));
            assert!(!bits.insert(of, number));
            assert!(bits.contains(of, number));
        }
        let mut all: Vec<_> = bits.iter().collect();
        all.sort_unstable();
        assert_eq!(all, pairs);
    }
}
