//! Pages of what is owned, as the server gave them: listing a directory again asks nobody, as long as nothing of this mount's is applied.
//!
//! Not here: what was changed since (`overlay`), rows by themselves (`rows`).

use crate::series::Direction;
use crate::series::KeyRange;
use crate::wire::Page;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// What a row takes besides its bytes: two handles, and its share of the page.
const ROW_OVERHEAD_BYTES: u64 = 96;
const PAGE_OVERHEAD_BYTES: u64 = 256;

#[derive(PartialEq, Eq, Hash)]
struct Asked {
    range: KeyRange,
    backward: bool,
    limit: usize,
}

/// Pages of one turn of the client (`Local::turn`), with which the server's rows of what is owned are as they were.
pub(super) struct Pages {
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    turn: u64,
    bytes: u64,
    pages: HashMap<Asked, Arc<Page>>,
}

impl Pages {
    pub(super) fn new(bytes_max: u64) -> Pages {
        Pages { bytes_max, state: Mutex::default() }
    }

    pub(super) fn get(
        &self,
        turn: u64,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Option<Arc<Page>> {
        let state = self.state.lock();
        if state.turn != turn || state.pages.is_empty() {
            return None;
        }
        state.pages.get(&asked(range, direction, limit)).cloned()
    }

    /// `turn`: before it was asked for and since.
    pub(super) fn put(
        &self,
        turn: u64,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
        page: &Arc<Page>,
    ) {
        let row = |(key, value): &(_, _)| len(key) + len(value) + ROW_OVERHEAD_BYTES;
        let bytes = PAGE_OVERHEAD_BYTES + page.rows.iter().map(row).sum::<u64>();
        let mut state = self.state.lock();
        if state.turn > turn {
            return;
        }
        // Whoever walks through more than fits begins anew with each walk, and nothing is gained by keeping some of it.
        if state.turn < turn || state.bytes + bytes > self.bytes_max {
            *state = State { turn, ..State::default() };
        }
        if bytes <= self.bytes_max
            && state.pages.insert(asked(range, direction, limit), page.clone()).is_none()
        {
            state.bytes += bytes;
        }
    }
}

fn asked(range: &KeyRange, direction: Direction, limit: usize) -> Asked {
    Asked { range: range.clone(), backward: direction == Direction::Backward, limit }
}

fn len(bytes: &bytes::Bytes) -> u64 {
    bytes.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn pages_are_of_one_turn_and_take_no_more_than_they_may() {
        let range = |n: u8| KeyRange { start: vec![n], end: vec![n + 1] };
        let page =
            Arc::new(Page { rows: vec![(Bytes::from_static(b"k"), Bytes::new())], more: true });
        let pages = Pages::new(2 * (PAGE_OVERHEAD_BYTES + ROW_OVERHEAD_BYTES + 1));
        let there = |turn, n| pages.get(turn, &range(n), Direction::Forward, 64).is_some();
        let put = |turn, n| pages.put(turn, &range(n), Direction::Forward, 64, &page);
        assert!(!there(0, 1));
        put(1, 1);
        put(1, 1);
        put(1, 2);
        assert!(there(1, 1) && there(1, 2) && !there(2, 1) && !there(0, 1));
        assert!(pages.get(1, &range(1), Direction::Backward, 64).is_none());
        assert!(pages.get(1, &range(1), Direction::Forward, 512).is_none());
        put(0, 3);
        assert!(!there(1, 3) && there(1, 1), "it came late");
        put(1, 3);
        assert!(there(1, 3) && !there(1, 1) && !there(1, 2));
        put(2, 1);
        assert!(there(2, 1) && !there(2, 3));
        let large =
            Arc::new(Page { rows: vec![(Bytes::from(vec![0; 9999]), Bytes::new())], more: false });
        pages.put(2, &range(9), Direction::Forward, 64, &large);
        assert!(!there(2, 9));
    }
}
