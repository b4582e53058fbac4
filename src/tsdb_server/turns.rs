//! Counts what was applied that bears on who owns what, for those who wait for it.
//!
//! Not here: what that is (the applier tells), and what is looked at then (`lock_node`).

use parking_lot::Condvar;
use parking_lot::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

/// See the module's text. Shared by the one that applies and those that wait.
#[derive(Default)]
pub struct Turns {
    count: AtomicU64,
    lock: Mutex<()>,
    turned: Condvar,
}

impl Turns {
    /// How many there were. To be asked before rows are looked at: what changes them meanwhile is a further one.
    pub fn now(&self) -> u64 {
        self.count.load(Acquire)
    }

    /// Rows have changed, and can be read.
    pub fn turn(&self) {
        let _told_under_lock = self.lock.lock();
        self.count.fetch_add(1, Release);
        self.turned.notify_all();
    }

    /// Waits until there was one after the first `seen`, or for so long.
    pub fn wait_beyond(&self, seen: u64, time: Duration) {
        let mut lock = self.lock.lock();
        let mut waits = true;
        while waits && self.now() <= seen {
            waits = !self.turned.wait_for(&mut lock, time).timed_out();
        }
    }
}
