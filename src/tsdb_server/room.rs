//! Waiting for room on a full disk, where giving up would lose what programs were told is done.
//!
//! New contents are refused before they are taken (`store::space`); what was taken, and whatever makes the store smaller, may
//! use the reserve. Where even that is gone, because something else fills the disk, work waits here and goes on by
//! itself once there is room: the log has what is not applied. Not here: what may be tried again after `NoSpace`.

use crate::env::Clock;
use crate::store::space::Reserve;
use crate::types::FsError;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Between two attempts. RocksDB looks for space every five seconds; the log and the blocks have it at once.
const AGAIN: Duration = Duration::from_millis(250);

#[derive(Default)]
struct State {
    /// Whether there is somebody to make room while others wait: not before the store is open, nor when it is closed.
    patient: bool,
    waiting: usize,
}

/// Where whoever needs space waits for it.
pub struct Room {
    reserve: Arc<Reserve>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Room {
    /// Nobody waits until [`Room::open`].
    pub fn new(reserve: Arc<Reserve>, clock: Arc<dyn Clock>) -> Room {
        Room { reserve, clock, state: Mutex::default(), changed: Condvar::new() }
    }

    /// From now on work waits.
    pub fn open(&self) {
        self.state.lock().patient = true;
    }

    /// Nobody waits any more: who does is told `NoSpace`.
    pub fn close(&self) {
        self.state.lock().patient = false;
        self.changed.notify_all();
    }

    /// Makes the attempt again until it does not fail for want of space.
    ///
    /// # Errors
    /// The attempt's; `NoSpace` only where nobody waits.
    pub fn until<T>(&self, mut attempt: impl FnMut() -> Result<T, FsError>) -> Result<T, FsError> {
        let mut waits = None;
        loop {
            match attempt() {
                Err(FsError::NoSpace) => waits = Some(waits.unwrap_or_else(|| self.begin())),
                other => return other,
            }
            if !self.rest() {
                return Err(FsError::NoSpace);
            }
        }
    }

    fn begin(&self) -> Waits<'_> {
        let waiting = &mut self.state.lock().waiting;
        *waiting += 1;
        if *waiting == 1 {
            tracing::warn!("the disk is full: changes wait for room on it");
        }
        Waits(self)
    }

    /// Lets a moment pass, with the ballast let go of; false where nobody waits any more.
    fn rest(&self) -> bool {
        // Whether that made room is for the next attempt to find out.
        let _ = self.reserve.tend(self.clock.steady());
        let mut state = self.state.lock();
        if state.patient {
            self.changed.wait_for(&mut state, AGAIN);
        }
        state.patient
    }

    /// What is to be said while somebody waits.
    pub fn trouble(&self) -> Option<String> {
        (self.state.lock().waiting > 0).then(|| {
            "the disk is full: changes wait until there is room on it, then go on; nothing is lost"
                .to_owned()
        })
    }
}

/// Somebody waits, as long as it lives.
struct Waits<'a>(&'a Room);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let waiting = &mut self.0.state.lock().waiting;
        *waiting -= 1;
        if *waiting == 0 {
            tracing::info!("nobody waits for room on the disk any more");
        }
    }
}
