//! Locks that programs wait for: put aside until they may be had, a signal comes, or waiting would never end.
//!
//! Where waiting would never end is seen here among owners of this mount; for what other mounts have the nodes are told who
//! waits, and tell who closes a circle.
//!
//! A wait takes no thread. It is tried again, on a worker, when a lock on its file goes and each second besides, as of what
//! another mount has nobody may tell. fuser does not pass the kernel's INTERRUPT on, so the signals that wait for a thread are
//! looked at (`docs/decisions/0015-file-locks.md`). Not here: what bars a lock, which the file system says.

use crate::fuse::workers::Workers;
use crate::tsdb_client::FileLock;
use crate::tsdb_client::Locking;
use crate::types::FsError;
use crate::types::Ino;
use crate::wire;
use crate::wire::Circled;
use crate::wire::Moment;
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
/// What other mounts have in the way is told to the nodes with every so manieth look.
const TELL_EVERY: u32 = 20;
/// So many looks in a row a signal of a process with several threads has to be there, before one of them is taken to be the
/// one that it waits for: another thread takes it sooner.
const STAYS: u32 = 4;

/// What a program waits for.
pub(super) struct Waiting {
    /// The same for as long as it waits, and higher with each that begins.
    pub(super) number: u64,
    pub(super) ino: Ino,
    /// What is wanted, and by whom.
    pub(super) lock: FileLock,
    /// The thread that waits; zero where it is none of ours.
    pub(super) tid: u32,
    /// It was seen to wait as a process does. Begins as false.
    pub(super) as_process: bool,
    /// Whether it waits for an open file's lock. Begins as none; looked at once somebody of this mount is in its way.
    pub(super) as_open_file: Option<bool>,
    pub(super) attempt: Box<dyn Fn() -> Result<Locking, FsError> + Send>,
    pub(super) reply: Box<dyn FnOnce(Result<(), FsError>) + Send>,
}

impl Waiting {
    /// As in Linux, who waits by flock(2), or for an open file's lock, is told of no circle. Where it is not known how he waits, it is as
    /// a process.
    fn may_be_for_ever(&self) -> bool {
        !self.lock.is_flock() && self.as_open_file != Some(true)
    }
}

/// Tells the nodes who waits, and what they say to it.
pub(super) type Tell =
    Box<dyn Fn(Moment, Vec<wire::Waiting>) -> Result<Circled, FsError> + Send + Sync>;

/// What is looked at of a thread that waits.
#[derive(Clone, Copy)]
pub(super) struct Looks {
    pub(super) signals: fn(u32) -> Signal,
    /// Whether it waits as a process: an open file's lock may be let go of by any thread, so of that nobody can say that it
    /// never goes.
    pub(super) as_process: fn(u32) -> bool,
    /// Whether it waits for an open file's lock.
    pub(super) as_open_file: fn(u32) -> bool,
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
    telling: Telling,
}

/// What the nodes know.
#[derive(Default)]
struct Telling {
    /// The last moment that they told.
    now: Moment,
    /// Looks until they are told again.
    due_in: u32,
    under_way: bool,
    /// The last wait for another mount's that began.
    newest: u64,
    /// They were told of waits, and are to be told when there are none any more.
    any: bool,
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
                let of = self.parked.iter().filter(|parked| parked.waiting.lock.owner == waits);
                // Of those that are to try again nobody knows who is in the way; an open file's lock anybody may let go of.
                let still =
                    of.filter(|Parked { due, waiting, .. }| !due && waiting.may_be_for_ever());
                open.extend(still.filter_map(|parked| parked.by));
            }
        }
        false
    }

    /// Those who wait as processes, as the nodes are told of them; `seen`: these were found to be such now.
    fn waits(&mut self, seen: &HashSet<u64>) -> Vec<wire::Waiting> {
        let mut waits = Vec::new();
        for Parked { waiting, by, due, .. } in &mut self.parked {
            waiting.as_process |= seen.contains(&waiting.number);
            // As above: who is to try again may have nobody here in his way.
            if waiting.as_process && (by.is_none() || !*due) {
                let Waiting { number, ino, lock, .. } = *waiting;
                waits.push(wire::Waiting { number, ino, lock, by: *by });
            }
        }
        waits
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
    looks: Looks,
    tell: Tell,
}

impl Parking {
    pub(super) fn start(workers: Arc<Workers>, looks: Looks, tell: Tell) -> io::Result<Parking> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let lot = Arc::new(Lot { state, changed, workers, looks, tell });
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
    /// For a wait that begins.
    pub(super) fn number(&self) -> u64 {
        let mut state = self.state.lock();
        state.next += 1;
        state.next
    }

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
        mut waiting: Waiting,
        attempt: Attempt,
        came: Result<Locking, FsError>,
    ) {
        let by = match came {
            Ok(Locking::Done) => return (waiting.reply)(Ok(())),
            Err(error) => return (waiting.reply)(Err(error)),
            Ok(Locking::Held(by)) => by,
        };
        if by.is_some() && waiting.may_be_for_ever() {
            let look = self.looks.as_open_file;
            waiting.as_open_file.get_or_insert_with(|| look(waiting.tid));
        }
        let mut state = self.state.lock();
        let told = waiting.may_be_for_ever();
        if told && by.is_some_and(|by| state.closes_circle(waiting.lock.owner, by)) {
            drop(state);
            return (waiting.reply)(Err(FsError::Deadlock));
        }
        if state.closed {
            return;
        }
        let (number, due) = (attempt.number, attempt.is_late(&state));
        if told && by.is_none() && waiting.number > state.telling.newest {
            state.telling.newest = waiting.number;
            state.telling.due_in = 0;
        }
        state.parked.push(Parked { waiting, number, by, due, looks: 0, stayed: 0 });
        drop(state);
        self.changed.notify_all();
    }

    /// Has the nodes told who waits, where that is due; not on this thread, which looks at signals.
    fn tell_nodes(self: &Arc<Lot>) {
        let mut state = self.state.lock();
        state.telling.due_in = state.telling.due_in.saturating_sub(1);
        let is_far = |parked: &Parked| parked.by.is_none() && !parked.waiting.lock.is_flock();
        let far = state.telling.any || state.parked.iter().any(is_far);
        if state.telling.under_way || state.telling.due_in > 0 || !far {
            return;
        }
        let unknown = state.parked.iter().map(|parked| &parked.waiting);
        let unknown = unknown.filter(|waiting| !waiting.as_process);
        let unknown: Vec<(u64, u32)> =
            unknown.map(|waiting| (waiting.number, waiting.tid)).collect();
        drop(state);
        let seen = unknown.into_iter().filter(|(_, tid)| (self.looks.as_process)(*tid));
        let seen: HashSet<u64> = seen.map(|(number, _)| number).collect();
        let mut state = self.state.lock();
        let waits = state.waits(&seen);
        let telling = &mut state.telling;
        (telling.any, telling.under_way, telling.due_in) = (!waits.is_empty(), true, TELL_EVERY);
        let (now, lot) = (telling.now, Arc::clone(self));
        drop(state);
        self.workers.run(Box::new(move || {
            let came = (lot.tell)(now, waits);
            lot.told(came);
        }));
    }

    /// What the nodes say to it.
    fn told(&self, came: Result<Circled, FsError>) {
        let mut state = self.state.lock();
        state.telling.under_way = false;
        let Circled { now, refused, soon } = came.unwrap_or_else(|error| {
            tracing::debug!(%error, "no node was told who waits for locks");
            Circled::default()
        });
        state.telling.now = now;
        if soon {
            state.telling.due_in = 1;
        }
        let parked = state.parked.iter();
        let refused = parked.filter(|parked| refused.contains(&parked.waiting.number));
        let refused = refused.map(|parked| parked.number).collect();
        let refused = state.take(&refused);
        drop(state);
        for Parked { waiting, .. } in refused {
            (waiting.reply)(Err(FsError::Deadlock));
        }
    }

    /// One look at all that wait; false at the end.
    fn look(self: &Arc<Lot>) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        if state.parked.is_empty() && !state.telling.any {
            self.changed.wait(&mut state);
        } else if !state.parked.iter().any(|parked| parked.due) {
            self.changed.wait_for(&mut state, LOOK_EVERY);
        }
        let threads: Vec<(u64, u32)> =
            state.parked.iter().map(|parked| (parked.number, parked.waiting.tid)).collect();
        drop(state);
        let signals: Vec<(u64, Signal)> =
            threads.into_iter().map(|(number, tid)| (number, (self.looks.signals)(tid))).collect();
        self.tell_nodes();
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
mod tests;
