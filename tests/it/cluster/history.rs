//! What was done, by whom, from when to when, and what came of it.
//!
//! Times are nanoseconds of the machine's steady clock, the same for every process. Not here: judging it (`judge`, `ledgers`).

use rustix::io::Errno;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// One operation. Without an answer nobody knows what came of it: it may yet happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Event<O, A> {
    pub who: usize,
    pub asked: u64,
    pub op: O,
    pub answer: Option<(A, u64)>,
}

/// The steady clock.
pub(super) fn clock() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Errors that leave it open whether the operation happened: its server or the way to it was lost.
pub(super) fn leaves_open(errno: Errno) -> bool {
    [Errno::IO, Errno::NOTCONN, Errno::CONNABORTED, Errno::TIMEDOUT, Errno::INTR].contains(&errno)
}

/// How long one thing took, and when it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    pub asked: u64,
    pub nanos: u64,
}

/// One worker's account of its time: what it has done, and since when it waits.
#[derive(Default)]
pub(super) struct Pulse {
    /// When it asked for what it waits for; 0 while it does not wait.
    since: AtomicU64,
    took: parking_lot::Mutex<Vec<Took>>,
}

impl Pulse {
    /// Times `run`.
    pub(super) fn time<T>(&self, run: impl FnOnce() -> T) -> (u64, T, u64) {
        let asked = clock();
        self.since.store(asked, SeqCst);
        let result = run();
        let answered = clock();
        self.since.store(0, SeqCst);
        self.took.lock().push(Took { asked, nanos: answered - asked });
        (asked, result, answered)
    }

    /// How long it has waited for one answer by now.
    pub(super) fn waiting(&self) -> Duration {
        match self.since.load(SeqCst) {
            0 => Duration::ZERO,
            since => Duration::from_nanos(clock().saturating_sub(since)),
        }
    }

    pub(super) fn took(&self) -> Vec<Took> {
        self.took.lock().clone()
    }
}

/// Stalls: for each fault, the longest that anybody waited who was under way then or asked soon after.
pub(super) fn stalls(took: &[Took], faults: &[u64]) -> Vec<Duration> {
    /// What began later has met the new order of things.
    const SOON: u64 = 3_000_000_000;
    let longest = |fault: &u64| {
        let met = |one: &&Took| one.asked < fault + SOON && one.asked + one.nanos > *fault;
        Duration::from_nanos(took.iter().filter(met).map(|one| one.nanos).max().unwrap_or(0))
    };
    faults.iter().map(longest).collect()
}

/// Median, 99th of a hundred, and longest, as a line of text.
pub(super) fn spread(mut times: Vec<Duration>) -> String {
    if times.is_empty() {
        return "none".to_owned();
    }
    times.sort();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    let count = times.len();
    format!("p50 {:.1?}, p99 {:.1?}, longest {:.1?} of {count}", at(50), at(99), at(100))
}

#[cfg(test)]
mod tests {
    use super::Took;
    use super::spread;
    use super::stalls;
    use std::time::Duration;

    #[test]
    fn a_stall_is_the_longest_wait_around_a_fault() {
        let second = 1_000_000_000;
        let took =
            |asked: u64, millis: u64| Took { asked: asked * second, nanos: millis * 1_000_000 };
        let all = [took(8, 5_000), took(1, 9), took(12, 700), took(30, 4_000)];
        let found = stalls(&all, &[10 * second, 20 * second]);
        assert_eq!(found, [Duration::from_secs(5), Duration::ZERO]);
        assert!(spread(found).starts_with("p50 5.0s, p99 5.0s, longest 5.0s of 2"));
    }
}
