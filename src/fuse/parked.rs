//! Locks that programs wait for: put aside until they may be had, a signal comes, or waiting would never end.
//!
//! A wait takes no thread. It is tried again, on a worker, when a lock on its file goes and each second besides, as of what
//! another mount has nobody may tell. fuser does not pass the kernel's INTERRUPT on, so the signals that wait for a thread are
//! looked at (`docs/decisions/0015-file-locks.md`). Not here: what bars a lock, which the file system says.

use crate::fuse::workers::Workers;
use crate::tsdb_client::Locking;
use crate::types::FsError;
use crate::types::Ino;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How often signals are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A wait is tried again with every so manieth look.
const TRY_EVERY: u32 = 20;
/// So many looks in a row a signal of a process with several threads has to be there, before one of them is taken to be the
/// one that it waits for: another thread takes it sooner.
const STAYS: u32 = 4;

/// What a program waits for.
pub(super) struct Waiting {
    pub(super) ino: Ino,
    /// Who wants it.
    pub(super) owner: u64,
    /// The thread that waits; zero where it is none of ours.
    pub(super) tid: u32,
    pub(super) attempt: Box<dyn Fn() -> Result<Locking, FsError> + Send>,
    pub(super) reply: Box<dyn FnOnce(Result<(), FsError>) + Send>,
}

/// Which signals a thread has to take up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Signal {
    None,
    /// It does so when its request is answered.
    Own,
    /// Some thread of its process, this number, does.
    Shared(u32),
}

struct Parked {
    waiting: Waiting,
    number: u64,
    /// The owner on this mount who is in the way.
    by: Option<u64>,
    due: bool,
    looks: u32,
    stayed: u32,
}

#[derive(Default)]
struct State {
    parked: Vec<Parked>,
    next: u64,
    /// Attempts that are being made: which, on what file, and whether a lock on that has gone since.
    attempts: Vec<(u64, Ino, bool)>,
    closed: bool,
}

impl State {
    /// Whether somebody would wait for himself, were `owner` to wait for `by`.
    fn closes_circle(&self, owner: u64, by: u64) -> bool {
        let (mut open, mut seen) = (vec![by], HashSet::new());
        while let Some(waits) = open.pop() {
            if waits == owner {
                return true;
            }
            if seen.insert(waits) {
                // Of those that are to try again nobody knows who is in the way.
                let still = |parked: &&Parked| parked.waiting.owner == waits && !parked.due;
                let of = self.parked.iter().filter(still);
                open.extend(of.filter_map(|parked| parked.by));
            }
        }
        false
    }

    fn take(&mut self, numbers: &HashSet<u64>) -> Vec<Parked> {
        let (taken, left) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition(|parked| numbers.contains(&parked.number));
        self.parked = left;
        taken
    }
}

/// See the module's text.
pub(super) struct Parking {
    lot: Arc<Lot>,
    thread: Option<JoinHandle<()>>,
}

/// An attempt that is being made: what goes meanwhile may have been what is in its way.
pub(super) struct Attempt {
    lot: Arc<Lot>,
    number: u64,
}

impl Attempt {
    /// Whether a lock on the file has gone since it was begun.
    fn is_late(&self, state: &State) -> bool {
        state.attempts.iter().any(|(number, _, gone)| *number == self.number && *gone)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.lot.state.lock().attempts.retain(|(number, ..)| *number != self.number);
    }
}

/// What is shared with the threads.
pub(super) struct Lot {
    state: Mutex<State>,
    changed: Condvar,
    workers: Arc<Workers>,
    signals: fn(u32) -> Signal,
}

impl Parking {
    pub(super) fn start(workers: Arc<Workers>, signals: fn(u32) -> Signal) -> io::Result<Parking> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let lot = Arc::new(Lot { state, changed, workers, signals });
        let work = Arc::clone(&lot);
        let thread = std::thread::Builder::new().name("fuse-locks".to_owned());
        let thread = thread.spawn(move || while work.look() {})?;
        Ok(Parking { lot, thread: Some(thread) })
    }

    pub(super) fn lot(&self) -> &Arc<Lot> {
        &self.lot
    }

    /// Nobody waits any more. Those who do are answered by their reply's being dropped.
    pub(super) fn finish(&mut self) {
        self.lot.state.lock().closed = true;
        self.lot.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked said so itself.
            let _ = thread.join();
        }
        let left = std::mem::take(&mut self.lot.state.lock().parked);
        drop(left);
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Lot {
    /// To be called before an attempt is made.
    pub(super) fn begin(self: &Arc<Lot>, ino: Ino) -> Attempt {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.attempts.push((number, ino, false));
        Attempt { lot: Arc::clone(self), number }
    }

    /// A lock on the file has gone.
    pub(super) fn unlocked(&self, ino: Ino) {
        let mut state = self.state.lock();
        let attempts = state.attempts.iter_mut().filter(|(_, of, _)| *of == ino);
        attempts.for_each(|(.., gone)| *gone = true);
        let of = state.parked.iter_mut().filter(|parked| parked.waiting.ino == ino);
        of.for_each(|parked| parked.due = true);
        drop(state);
        self.changed.notify_all();
    }

    /// What came of an attempt.
    pub(super) fn attempted(
        &self,
        waiting: Waiting,
        attempt: Attempt,
        came: Result<Locking, FsError>,
    ) {
        let by = match came {
            Ok(Locking::Done) => return (waiting.reply)(Ok(())),
            Err(error) => return (waiting.reply)(Err(error)),
            Ok(Locking::Held(by)) => by,
        };
        let mut state = self.state.lock();
        if by.is_some_and(|by| state.closes_circle(waiting.owner, by)) {
            drop(state);
            return (waiting.reply)(Err(FsError::Deadlock));
        }
        if state.closed {
            return;
        }
        let (number, due) = (attempt.number, attempt.is_late(&state));
        state.parked.push(Parked { waiting, number, by, due, looks: 0, stayed: 0 });
        drop(state);
        self.changed.notify_all();
    }

    /// One look at all that wait; false at the end.
    fn look(self: &Arc<Lot>) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        if state.parked.is_empty() {
            self.changed.wait(&mut state);
        } else if !state.parked.iter().any(|parked| parked.due) {
            self.changed.wait_for(&mut state, LOOK_EVERY);
        }
        let threads: Vec<(u64, u32)> =
            state.parked.iter().map(|parked| (parked.number, parked.waiting.tid)).collect();
        drop(state);
        let signals: Vec<(u64, Signal)> =
            threads.into_iter().map(|(number, tid)| (number, (self.signals)(tid))).collect();
        let mut state = self.state.lock();
        let interrupted = interrupted(&mut state, &signals);
        let interrupted = state.take(&interrupted);
        let due = state.parked.iter().filter(|parked| parked.due).map(|parked| parked.number);
        let due = due.collect();
        let due = state.take(&due);
        drop(state);
        for Parked { waiting, .. } in interrupted {
            (waiting.reply)(Err(FsError::Interrupted));
        }
        for Parked { waiting, .. } in due {
            let lot = Arc::clone(self);
            self.workers.run(Box::new(move || {
                let attempt = lot.begin(waiting.ino);
                let came = (waiting.attempt)();
                lot.attempted(waiting, attempt, came);
            }));
        }
        true
    }
}

/// Whose wait a signal ends, of those that were looked at. What was looked at often enough is due.
fn interrupted(state: &mut State, signals: &[(u64, Signal)]) -> HashSet<u64> {
    let (mut ended, mut processes) = (HashSet::new(), HashSet::new());
    for (number, signal) in signals {
        let Some(parked) = state.parked.iter_mut().find(|parked| parked.number == *number) else {
            continue;
        };
        parked.looks += 1;
        parked.due |= parked.looks >= TRY_EVERY;
        match signal {
            Signal::None => parked.stayed = 0,
            Signal::Own => drop(ended.insert(*number)),
            Signal::Shared(process) => {
                parked.stayed += 1;
                if parked.stayed >= STAYS && processes.insert(*process) {
                    ended.insert(*number);
                }
            }
        }
    }
    ended
}

/// What the kernel says of a thread, in `/proc/TID/status` (proc(5)).
pub(super) fn signals(tid: u32) -> Signal {
    // Zero: a thread of a process that this one's numbers do not reach.
    if tid == 0 {
        return Signal::None;
    }
    // A thread in a request is there; one that is not shown is another user's.
    let status = std::fs::read_to_string(format!("/proc/{tid}/status"));
    status.map_or(Signal::None, |status| waits_in(&status))
}

fn waits_in(status: &str) -> Signal {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim)
    };
    let mask = |name| field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    let number = |name| field(name).and_then(|number| number.parse().ok()).unwrap_or(0);
    let open = !mask("SigBlk:");
    if mask("SigPnd:") & open != 0 {
        return Signal::Own;
    }
    match mask("ShdPnd:") & open {
        0 => Signal::None,
        _ if number("Threads:") <= 1 => Signal::Own,
        _ => Signal::Shared(number("Tgid:")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering::Relaxed;
    use std::sync::mpsc::Receiver;
    use std::sync::mpsc::channel;

    const FILE: u64 = 7;

    fn ino(number: u64) -> Ino {
        Ino::new(number).unwrap()
    }

    fn parking(signals: fn(u32) -> Signal) -> Parking {
        Parking::start(Arc::new(Workers::start().unwrap()), signals).unwrap()
    }

    /// Waits for a lock that `free` says may be had, and that this owner is in the way of.
    fn park(
        parking: &Parking,
        owner: u64,
        by: Option<u64>,
        free: &Arc<AtomicBool>,
    ) -> Receiver<Result<(), FsError>> {
        let (tell, told) = channel();
        let (free, lot) = (Arc::clone(free), parking.lot());
        let attempt = move || match free.load(Relaxed) {
            true => Ok(Locking::Done),
            false => Ok(Locking::Held(by)),
        };
        let (begun, came) = (lot.begin(ino(FILE)), attempt());
        let reply = Box::new(move |answer| tell.send(answer).unwrap());
        let waiting =
            Waiting { ino: ino(FILE), owner, tid: owner as u32, attempt: Box::new(attempt), reply };
        lot.attempted(waiting, begun, came);
        told
    }

    #[test]
    fn a_lock_that_goes_lets_those_in_who_wait_and_nobody_else_is_tried() {
        let parking = parking(|_| Signal::None);
        let free = Arc::new(AtomicBool::new(false));
        let waits = park(&parking, 1, Some(9), &free);
        parking.lot().unlocked(ino(FILE + 1));
        assert!(waits.try_recv().is_err());
        free.store(true, Relaxed);
        parking.lot().unlocked(ino(FILE));
        assert_eq!(waits.recv().unwrap(), Ok(()));
        // Nobody tells of what another mount drops.
        free.store(false, Relaxed);
        let waits = park(&parking, 1, None, &free);
        free.store(true, Relaxed);
        assert_eq!(waits.recv().unwrap(), Ok(()));
    }

    #[test]
    fn what_goes_during_an_attempt_is_not_missed() {
        let parking = parking(|_| Signal::None);
        let free = Arc::new(AtomicBool::new(false));
        let begun = parking.lot().begin(ino(FILE));
        let elsewhere = parking.lot().begin(ino(FILE + 1));
        free.store(true, Relaxed);
        parking.lot().unlocked(ino(FILE));
        let (tell, told) = channel();
        let waiting = Waiting {
            ino: ino(FILE),
            owner: 1,
            tid: 1,
            attempt: Box::new(|| Ok(Locking::Done)),
            reply: Box::new(move |answer| tell.send(answer).unwrap()),
        };
        assert!(!elsewhere.is_late(&parking.lot().state.lock()));
        parking.lot().attempted(waiting, begun, Ok(Locking::Held(Some(2))));
        assert_eq!(told.recv_timeout(LOOK_EVERY * (TRY_EVERY / 2)).unwrap(), Ok(()));
        drop(elsewhere);
        while !parking.lot().state.lock().attempts.is_empty() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_would_wait_for_himself_is_told() {
        let parking = parking(|_| Signal::None);
        let free = Arc::new(AtomicBool::new(false));
        let first = park(&parking, 1, Some(2), &free);
        let second = park(&parking, 2, Some(3), &free);
        let elsewhere = park(&parking, 3, None, &free);
        assert!(elsewhere.try_recv().is_err());
        let third = park(&parking, 3, Some(1), &free);
        assert_eq!(third.recv().unwrap(), Err(FsError::Deadlock));
        free.store(true, Relaxed);
        parking.lot().unlocked(ino(FILE));
        for waits in [first, second, elsewhere] {
            assert_eq!(waits.recv().unwrap(), Ok(()));
        }
    }

    #[test]
    fn a_signal_ends_a_wait() {
        let parking = parking(|tid| match tid {
            1 => Signal::Own,
            2 | 3 => Signal::Shared(2),
            _ => Signal::None,
        });
        let free = Arc::new(AtomicBool::new(false));
        let waits: Vec<_> = (1..=4).map(|owner| park(&parking, owner, None, &free)).collect();
        // Of those that share one, each in turn.
        for told in &waits[..3] {
            assert_eq!(told.recv().unwrap(), Err(FsError::Interrupted));
        }
        assert!(waits[3].try_recv().is_err());
        free.store(true, Relaxed);
        parking.lot().unlocked(ino(FILE));
        assert_eq!(waits[3].recv().unwrap(), Ok(()));
    }

    #[test]
    fn the_kernels_word_on_signals_is_understood() {
        let status = |own: &str, shared: &str, threads: u32| {
            format!(
                "Name:\tx\nTgid:\t77\nThreads:\t{threads}\nSigPnd:\t{own}\nShdPnd:\t{shared}\nSigBlk:\t0000000000000002\n"
            )
        };
        let (none, blocked, sent) = ("0000000000000000", "0000000000000002", "0000000000004000");
        assert_eq!(waits_in(&status(none, none, 1)), Signal::None);
        assert_eq!(waits_in(&status(blocked, blocked, 1)), Signal::None);
        assert_eq!(waits_in(&status(sent, none, 5)), Signal::Own);
        assert_eq!(waits_in(&status(none, sent, 1)), Signal::Own);
        assert_eq!(waits_in(&status(none, sent, 5)), Signal::Shared(77));
        assert_eq!(signals(0), Signal::None);
        assert_eq!(signals(std::process::id()), Signal::None);
    }
}
