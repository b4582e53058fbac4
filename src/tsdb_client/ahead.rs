//! Reading ahead: who reads a file from one end to the other finds the next blocks unpacked.

use crate::tsdb_client::core::Core;
use crate::tsdb_client::patience::at_once;
use crate::types::AsOf;
use crate::types::Ino;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// How far ahead blocks are unpacked, in bytes of file.
const AHEAD_BYTES: u64 = 2 << 20;
/// Files read at the same time that are remembered.
const STREAMS_MAX: usize = 64;

struct Stream {
    ino: Ino,
    at: AsOf,
    /// Where the next read begins if it goes on.
    next: u64,
    /// Blocks up to here were asked for.
    asked: u64,
}

/// The files that are being read, least recently read first.
#[derive(Default)]
pub(super) struct Streams(Mutex<VecDeque<Stream>>);

impl Streams {
    /// Notes a read of `start..end`; the part to read ahead now, if it goes on from the one before.
    fn note(&self, ino: Ino, at: AsOf, start: u64, end: u64) -> Option<(u64, u64)> {
        let mut streams = self.0.lock();
        let place = streams.iter().rposition(|stream| stream.ino == ino && stream.at == at);
        let known = place.and_then(|place| streams.remove(place));
        // The kernel asks for several pieces at a time, which come in any order.
        let goes_on =
            known.as_ref().map_or(start == 0, |known| start.abs_diff(known.next) <= AHEAD_BYTES);
        let known = known.filter(|_| goes_on);
        let asked = known.as_ref().map_or(end, |known| known.asked.max(end));
        let to = end + AHEAD_BYTES;
        let ask = goes_on && to.saturating_sub(asked) >= AHEAD_BYTES / 4;
        let next = known.map_or(end, |known| known.next.max(end));
        if streams.len() >= STREAMS_MAX {
            streams.pop_front();
        }
        streams.push_back(Stream { ino, at, next, asked: if ask { to } else { asked } });
        ask.then_some((asked, to))
    }
}

impl Core {
    /// After a read of `start..end` of a longer file: has the workers unpack what comes next.
    pub(super) fn read_ahead(&self, ino: Ino, at: AsOf, start: u64, end: u64) {
        let Some((from, to)) = self.streams.note(ino, at, start, end) else { return };
        if self.pool.is_busy() {
            return;
        }
        // What cannot be read will say so to whoever asks for it, and what has to be asked for is not worth a second wait.
        let Some(Ok(plan)) = at_once(|| self.plan(ino, at, from, (to - from) as u32)) else {
            return;
        };
        for block in plan.blocks().filter(|block| !self.blocks.has(*block)) {
            let blocks = self.blocks.clone();
            self.pool.give(move |_| drop(blocks.get(block)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reading_on_asks_and_nothing_is_asked_twice() {
        let streams = Streams::default();
        let read = |start, end| streams.note(Ino::ROOT, AsOf::Now, start, end);
        const STEP: u64 = 128 << 10;
        assert_eq!(read(0, STEP), Some((STEP, STEP + AHEAD_BYTES)));
        let asked: Vec<(u64, u64)> =
            (1..32).filter_map(|n| read(n * STEP, (n + 1) * STEP)).collect();
        let mut end = STEP + AHEAD_BYTES;
        for (from, to) in asked {
            assert_eq!(from, end, "no gap, no overlap");
            end = to;
        }
        assert!(end >= 32 * STEP + AHEAD_BYTES / 2);
        assert_eq!(read(1 << 30, (1 << 30) + STEP), None, "a jump");
        assert_eq!(read(5 << 30, (5 << 30) + STEP), None, "another");
    }
}
