//! The slow side of the log, off everybody's path: flushing the table so that the log can be let go of, having the next
//! segment ready, marking an idle log as synced.

use crate::tsdb_server::replica::Shared;
use crate::types::FsError;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::time::Duration;

/// How long nothing must have come before the log counts as idle; and how often it is looked after while it is not.
const IDLE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    /// Something was written since the thread last looked.
    written: bool,
    /// It is not to wait for the second to pass.
    due: bool,
    /// The thread sleeps until told.
    asleep: bool,
    closed: bool,
    /// What went wrong and is tried again.
    trouble: Option<String>,
}

/// How the thread is told.
#[derive(Default)]
pub(super) struct Signal {
    state: Mutex<State>,
    told: Condvar,
}

/// How a rest ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rest {
    Written,
    Quiet,
    Closed,
}

impl Signal {
    /// Something was written to the log. Wakes the thread from its long sleep only, unless something is due.
    pub(super) fn written(&self, due: bool) {
        let mut state = self.state.lock();
        state.written = true;
        if std::mem::take(&mut state.asleep) || (due && !state.due) {
            self.told.notify_one();
        }
        state.due |= due;
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.told.notify_one();
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.state.lock().trouble.clone()
    }

    /// Sleeps until something is written; false at the end.
    fn sleep(&self) -> bool {
        let mut state = self.state.lock();
        while !state.closed && !state.written {
            state.asleep = true;
            self.told.wait(&mut state);
        }
        state.asleep = false;
        !state.closed
    }

    /// Lets a second pass, or less if something is due.
    fn rest(&self) -> Rest {
        let mut state = self.state.lock();
        (state.written, state.due) = (false, false);
        let mut left = true;
        while left && !state.closed && !state.due {
            left = !self.told.wait_for(&mut state, IDLE).timed_out();
        }
        match (state.closed, state.written) {
            (true, _) => Rest::Closed,
            (false, true) => Rest::Written,
            (false, false) => Rest::Quiet,
        }
    }

    /// Says what went wrong, once, and in `tsfs status` for as long as it does.
    fn note(&self, result: Result<(), FsError>) {
        let trouble = result.err().map(|error| format!("the log cannot be kept short: {error}"));
        let mut state = self.state.lock();
        if let Some(line) = trouble.as_ref().filter(|_| state.trouble.is_none()) {
            tracing::warn!("{line}; it is tried again");
        }
        state.trouble = trouble;
    }
}

impl Shared {
    pub(super) fn keep(&self) {
        while self.keep.sleep() {
            loop {
                self.keep.note(self.keep_in_order());
                match self.keep.rest() {
                    Rest::Written => {}
                    Rest::Quiet => break self.settle(),
                    Rest::Closed => return,
                }
            }
        }
    }

    fn keep_in_order(&self) -> Result<(), FsError> {
        let (appended, keeper) = {
            let mut driver = self.driver.lock();
            (driver.appended, driver.log().keeper())
        };
        if appended >= self.options.log_bytes_max && self.stopped.lock().is_none() {
            self.flush()?;
        }
        keeper.work()
    }

    /// Nothing came for a second.
    fn settle(&self) {
        let Ok(mut driver) = self.driver() else { return };
        driver.applied(self.seen.progress.lock().index);
        // The mark may be the first thing in a segment; without room for one it can wait, and the log must not stop for it.
        if driver.log().make_room(0).is_err() {
            return;
        }
        if let Err(why) = driver.log().settle() {
            drop(driver);
            self.stop(&why);
        }
    }
}
