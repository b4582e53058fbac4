//! How long this member's disk takes of late to write what was appended to the log together, and to sync it.
//!
//! The member that leads writes before it hears what others have written, so everybody waits for its disk: whether another would
//! lead better is decided by this (`tsdb_server::cluster::plan`).

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;

/// Writes that are looked at: fewer could be one burst of somebody else's.
const LOOKED_AT: usize = 16;
/// What is longer ago says nothing of the disk as it is.
const FRESH: Duration = Duration::from_secs(60);

/// The last writes: when each was over, and what it took.
#[derive(Default)]
pub(super) struct Pace(Mutex<VecDeque<(Duration, Duration)>>);

impl Pace {
    /// `now`: of a steady clock.
    pub(super) fn note(&self, now: Duration, took: Duration) {
        let mut last = self.0.lock();
        if last.len() == LOOKED_AT {
            last.pop_front();
        }
        last.push_back((now, took));
    }

    /// What the middle one of the last writes took; `None` where there were too few in the last minute.
    pub(super) fn typical(&self, now: Duration) -> Option<Duration> {
        let last = self.0.lock();
        let fresh = last.iter().filter(|(then, _)| now.saturating_sub(*then) <= FRESH);
        let mut took: Vec<Duration> = fresh.map(|(_, took)| *took).collect();
        took.sort_unstable();
        (took.len() == LOOKED_AT).then(|| took[LOOKED_AT / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_most_of_the_last_writes_took() {
        let (pace, second) = (Pace::default(), Duration::from_secs(1));
        let millis = Duration::from_millis;
        for n in 0..15 {
            pace.note(second * n, millis(5));
            assert_eq!(pace.typical(second * n), None, "too few");
        }
        pace.note(second * 15, millis(900));
        assert_eq!(pace.typical(second * 15), Some(millis(5)), "one that was held up is no pace");
        (16..24).for_each(|n| pace.note(second * n, millis(900)));
        assert_eq!(pace.typical(second * 24), Some(millis(900)));
        assert_eq!(pace.typical(second * 100), None, "long ago");
    }
}
