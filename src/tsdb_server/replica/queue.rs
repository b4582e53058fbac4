//! What is committed and not yet applied, between the holder of the log and the applier.
//!
//! What was proposed here is bounded by the inbox. What others proposed is counted here, and whoever drives takes no more
//! of it from the leader while that is too much.

use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::Members;
use crate::wire::Applied;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long the applier lets entries gather while nobody waits for them. Waking it for each would take the processor
/// from those who wait for the disk.
const GATHER: Duration = Duration::from_millis(5);
/// Bytes of others' entries that may wait to be applied before no more are taken from the leader.
const FOREIGN_BYTES_MAX: usize = 64 << 20;

/// A committed entry.
pub(super) struct Committed {
    pub(super) entry: Entry,
    /// Who takes part from this entry on, where it changes that.
    pub(super) members: Option<Members>,
    /// Where it was proposed here, since the start.
    pub(super) proposed: Option<Proposed>,
}

impl Committed {
    /// What it counts where it was not proposed here.
    fn foreign_bytes(&self) -> usize {
        match self.proposed {
            Some(_) => 0,
            None => self.entry.header.len() + self.entry.body.len(),
        }
    }
}

/// Who waits for an entry.
pub(super) struct Proposed {
    pub(super) applied: Applied,
    /// What it counts towards the inbox's bound.
    pub(super) weight: usize,
    /// Somebody waits for it to be applied.
    pub(super) urgent: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Applier {
    Working,
    /// Looks again soon by itself.
    Gathering,
    /// Has to be told.
    Asleep,
}

struct State {
    committed: Vec<Committed>,
    applier: Applier,
    /// Somebody waits.
    urgent: bool,
    /// There is other work to do on the applier's thread, behind the entries that are here.
    errand: bool,
    /// These entries were taken: the errand is next.
    errand_next: bool,
    closed: bool,
    /// Nothing is applied any more.
    abandoned: bool,
}

pub(super) struct Queue {
    state: Mutex<State>,
    told: Condvar,
    /// Bytes of others' entries that are not applied yet.
    foreign: AtomicUsize,
}

/// What the applier is to do.
pub(super) enum Task {
    Apply(Vec<Committed>),
    Errand,
    End,
}

impl Queue {
    pub(super) fn new() -> Queue {
        let state = State {
            committed: Vec::new(),
            applier: Applier::Working,
            urgent: false,
            errand: false,
            errand_next: false,
            closed: false,
            abandoned: false,
        };
        Queue { state: Mutex::new(state), told: Condvar::new(), foreign: AtomicUsize::new(0) }
    }

    /// Behind everything put before. Gives back what will not be applied.
    #[must_use]
    pub(super) fn put(&self, committed: Vec<Committed>) -> Vec<Committed> {
        let mut state = self.state.lock();
        if state.abandoned {
            return committed;
        }
        let foreign: usize = committed.iter().map(Committed::foreign_bytes).sum();
        self.foreign.fetch_add(foreign, Relaxed);
        let urgent = |committed: &Committed| {
            committed.proposed.as_ref().is_some_and(|proposed| proposed.urgent)
        };
        state.urgent |= committed.iter().any(urgent);
        state.committed.extend(committed);
        self.wake(&state);
        Vec::new()
    }

    /// Whether so much of what others proposed waits here that no more is to be taken from them.
    pub(super) fn is_full(&self) -> bool {
        self.foreign.load(Relaxed) > FOREIGN_BYTES_MAX
    }

    /// This one is applied, or never will be.
    pub(super) fn done(&self, committed: &Committed) {
        self.foreign.fetch_sub(committed.foreign_bytes(), Relaxed);
    }

    /// Somebody waits for what is here.
    pub(super) fn hurry(&self) {
        let mut state = self.state.lock();
        state.urgent |= !state.committed.is_empty();
        self.wake(&state);
    }

    /// Nothing is applied any more: what waits is given back.
    #[must_use]
    pub(super) fn abandon(&self) -> Vec<Committed> {
        let mut state = self.state.lock();
        state.abandoned = true;
        std::mem::take(&mut state.committed)
    }

    /// Has the applier do something else once it has applied what is here. False where it has none to wake any more.
    pub(super) fn errand(&self) -> bool {
        let mut state = self.state.lock();
        state.errand = !state.closed;
        self.wake(&state);
        state.errand
    }

    fn wake(&self, state: &State) {
        let due = match state.applier {
            Applier::Working => false,
            Applier::Gathering => state.urgent || state.errand,
            Applier::Asleep => state.errand || !state.committed.is_empty(),
        };
        if due {
            self.told.notify_one();
        }
    }

    /// No more comes; the applier ends when it has applied what is there.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.told.notify_one();
    }

    /// Waits for the next task. For the applier.
    pub(super) fn next(&self) -> Task {
        let mut state = self.state.lock();
        let mut gathered = false;
        loop {
            let empty = state.committed.is_empty();
            if state.errand && (empty || state.errand_next) {
                (state.errand, state.errand_next) = (false, false);
                state.applier = Applier::Working;
                return Task::Errand;
            }
            if state.closed && empty {
                return Task::End;
            }
            if !empty && (gathered || state.urgent || state.errand || state.closed) {
                state.applier = Applier::Working;
                state.urgent = false;
                state.errand_next = state.errand;
                return Task::Apply(std::mem::take(&mut state.committed));
            }
            if empty {
                state.applier = Applier::Asleep;
                self.told.wait(&mut state);
            } else {
                state.applier = Applier::Gathering;
                gathered = self.told.wait_for(&mut state, GATHER).timed_out();
            }
        }
    }
}
