//! Reading ahead: who reads a file from one end to the other finds the next blocks unpacked.

use crate::tsdb_client::contents::Plan;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::patience::at_once;
use crate::tsdb_client::pool::Pool;
use crate::types::AsOf;
use crate::types::Ino;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// How far ahead blocks are unpacked at first, in bytes of file, so that who wants only a file's head does not get all of it.
const AHEAD_LEAST: u64 = 1 << 20;
/// And at most: what is under way to a disk or over a network while the part before it is being used.
const AHEAD_MOST: u64 = 8 << 20;
/// The kernel asks for several pieces of at most 1 MiB at a time, which come in any order: so far apart they are still one reading.
const APART_MOST: u64 = 2 << 20;
/// Files that are read at the same time share the cache, and what was read ahead must still be there when it is its turn.
const CACHE_SHARE: u64 = 8;
/// Files read at the same time that are remembered.
const STREAMS_MAX: usize = 64;
/// They wait for a disk or a node most of the time, unlike the workers, of whom there are as many as processors.
const READERS: usize = 4;

struct Stream {
    ino: Ino,
    at: AsOf,
    /// Where reading on began.
    first: u64,
    /// Where the next read begins if it goes on.
    next: u64,
    /// Blocks up to here were asked for.
    asked: u64,
}

/// The files that are being read, least recently read first, and the threads that read ahead.
pub(super) struct Ahead {
    streams: Mutex<VecDeque<Stream>>,
    readers: Pool,
    most: u64,
}

impl Ahead {
    /// For a cache of so many bytes.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub(super) fn start(cache_bytes: u64) -> std::io::Result<Ahead> {
        let most = (cache_bytes / CACHE_SHARE).clamp(AHEAD_LEAST, AHEAD_MOST);
        Ok(Ahead { streams: Mutex::default(), readers: Pool::start("tsfs-ahead", READERS)?, most })
    }

    /// Notes a read of `start..end`; the part to read ahead now, if it goes on from the one before.
    fn note(&self, ino: Ino, at: AsOf, start: u64, end: u64) -> Option<(u64, u64)> {
        let mut streams = self.streams.lock();
        let place = streams.iter().rposition(|stream| stream.ino == ino && stream.at == at);
        let known = place.and_then(|place| streams.remove(place));
        let goes_on =
            known.as_ref().map_or(start == 0, |known| start.abs_diff(known.next) <= APART_MOST);
        let known = known.filter(|_| goes_on);
        let first = known.as_ref().map_or(start, |known| known.first);
        let asked = known.as_ref().map_or(end, |known| known.asked.max(end));
        // Twice what was read in one go: whoever has read much of a file is likely to read more of it.
        let ahead = (2 * end.saturating_sub(first)).clamp(AHEAD_LEAST, self.most);
        let to = end + ahead;
        let ask = goes_on && to.saturating_sub(asked) >= ahead / 4;
        let next = known.map_or(end, |known| known.next.max(end));
        if streams.len() >= STREAMS_MAX {
            streams.pop_front();
        }
        streams.push_back(Stream { ino, at, first, next, asked: if ask { to } else { asked } });
        ask.then_some((asked, to))
    }
}

impl Core {
    /// After a read of `start..end` of a longer file: has what comes next unpacked.
    pub(super) fn read_ahead(self: &Arc<Core>, ino: Ino, at: AsOf, start: u64, end: u64) {
        let Some((from, to)) = self.ahead.note(ino, at, start, end) else { return };
        if self.ahead.readers.is_busy() {
            return;
        }
        let len = (to - from) as u32;
        // What cannot be read will say so to whoever asks for it.
        match at_once(|| self.plan(ino, at, from, len)) {
            Some(Ok(plan)) => self.unpack_ahead(&plan),
            Some(Err(_)) => {}
            // The rows that say where its bytes are have to be asked for first, all of them together.
            None => {
                let core = Arc::downgrade(self);
                self.ahead.readers.give(move |_| {
                    if let Some(core) = core.upgrade()
                        && let Ok(plan) = core.plan(ino, at, from, len)
                    {
                        core.unpack_ahead(&plan);
                    }
                });
            }
        }
    }

    fn unpack_ahead(&self, plan: &Plan) {
        for block in plan.blocks().filter(|block| !self.blocks.has(*block)) {
            let blocks = self.blocks.clone();
            self.ahead.readers.give(move |_| drop(blocks.get(block)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 128 << 10;

    #[test]
    fn only_reading_on_asks_and_nothing_is_asked_twice() {
        let ahead = Ahead::start(u64::MAX).unwrap();
        let read = |start, end| ahead.note(Ino::ROOT, AsOf::Now, start, end);
        assert_eq!(read(0, STEP), Some((STEP, STEP + AHEAD_LEAST)));
        let asked: Vec<(u64, u64)> =
            (1..128).filter_map(|n| read(n * STEP, (n + 1) * STEP)).collect();
        let mut end = STEP + AHEAD_LEAST;
        for (from, to) in asked {
            assert_eq!(from, end, "no gap, no overlap");
            end = to;
        }
        assert!(end >= 128 * STEP + AHEAD_MOST / 2, "it grows with what was read: {end}");
        assert!(end <= 128 * STEP + AHEAD_MOST);
        // Two large pieces that change places.
        for start in [18, 17, 20, 19].map(|mib: u64| mib << 20) {
            end = read(start, start + (1 << 20)).map_or(end, |(from, to)| {
                assert_eq!(from, end);
                to
            });
        }
        assert!(end >= (21 << 20) + AHEAD_MOST / 2);
        assert_eq!(read(1 << 30, (1 << 30) + STEP), None, "a jump");
        assert_eq!(read(5 << 30, (5 << 30) + STEP), None, "another");
    }

    #[test]
    fn a_small_cache_is_not_filled_with_what_is_not_yet_wanted() {
        let cache = 16 << 20;
        let ahead = Ahead::start(cache).unwrap();
        for n in 0..1024 {
            if let Some((_, to)) = ahead.note(Ino::ROOT, AsOf::Now, n * STEP, (n + 1) * STEP) {
                assert!(to <= (n + 1) * STEP + cache / CACHE_SHARE);
            }
        }
    }
}
