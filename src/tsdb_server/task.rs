//! Work in the background: named, throttled, supervised, stopped together.
//!
//! A task does a small piece of work at a time and says whether there is more. After a piece it rests as long as the
//! piece took, so that it never takes more than half of one processor and half of the disk's time from programs. An
//! error or a panic ends a piece, never the task. Not here: what the pieces are.

use crate::env::Clock;
use crate::types::FsError;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long a task rests after a piece of work that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// What a piece of work says at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Worked {
    /// There is more to do.
    More,
    /// Nothing to do for so long, unless somebody wakes the task.
    Idle(Duration),
}

/// One kind of background work.
pub trait Task: Send {
    /// Names its thread and its lines in the log: at most 15 bytes.
    fn name(&self) -> &'static str;

    /// Does one piece: some milliseconds, not minutes.
    ///
    /// # Errors
    /// Whatever went wrong. It is logged here, and tried again later.
    fn work(&mut self) -> Result<Worked, FsError>;
}

#[derive(Default)]
struct Signal {
    stopped: bool,
    /// Raised by each wake-up, so that none is missed between two rests.
    woken: u64,
}

#[derive(Default)]
struct Shared {
    signal: Mutex<Signal>,
    changed: Condvar,
}

impl Shared {
    /// Rests until the time is over, somebody wakes or stops; true where it goes on.
    fn rest(&self, time: Duration, seen: &mut u64, wakes: bool) -> bool {
        let mut signal = self.signal.lock();
        let mut left = true;
        while left && !signal.stopped && !(wakes && signal.woken != *seen) {
            left = !self.changed.wait_for(&mut signal, time).timed_out();
        }
        *seen = signal.woken;
        !signal.stopped
    }
}

/// The running tasks of a node. Dropping it stops them and waits for the pieces that are under way.
pub struct Tasks {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Tasks {
    pub fn new(clock: Arc<dyn Clock>) -> Tasks {
        Tasks { shared: Arc::default(), clock, threads: Vec::new() }
    }

    /// # Errors
    /// `Io` where there can be no more threads.
    pub fn start(&mut self, task: impl Task + 'static) -> Result<(), FsError> {
        let (shared, clock) = (self.shared.clone(), self.clock.clone());
        let name = task.name();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(task, &shared, &*clock))
            .map_err(|error| FsError::io(format!("start background work {name}"), &error))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Has idle tasks look again.
    pub fn wake(&self) {
        self.shared.signal.lock().woken += 1;
        self.shared.changed.notify_all();
    }

    /// Stops all tasks and waits for them.
    pub fn stop(&mut self) {
        self.shared.signal.lock().stopped = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A task that held the last reference to its node stops itself: it ends when it returns.
            if thread.thread().id() == thread::current().id() {
                continue;
            }
            // A task catches its panics: a thread that ended otherwise has nothing left to tell.
            let _ = thread.join();
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(mut task: impl Task, shared: &Shared, clock: &dyn Clock) {
    let name = task.name();
    let mut seen = 0;
    loop {
        let begun = clock.steady();
        let worked = catch_unwind(AssertUnwindSafe(|| task.work()));
        let took = clock.steady().saturating_sub(begun);
        let goes_on = match worked {
            Ok(Ok(Worked::More)) => shared.rest(took, &mut seen, false),
            Ok(Ok(Worked::Idle(time))) => shared.rest(time, &mut seen, true),
            Ok(Err(FsError::Closing)) => return,
            Ok(Err(error)) => {
                tracing::warn!(task = name, %error, "background work failed; it is tried again");
                shared.rest(AFTER_FAILURE, &mut seen, false)
            }
            Err(_) => {
                tracing::error!(task = name, "background work panicked; it is tried again");
                shared.rest(AFTER_FAILURE, &mut seen, false)
            }
        };
        if !goes_on {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemClock;
    use std::sync::mpsc;

    /// Tells each piece, and fails, panics or idles as its script says.
    struct Scripted {
        pieces: Vec<fn() -> Result<Worked, FsError>>,
        told: mpsc::Sender<usize>,
    }

    impl Task for Scripted {
        fn name(&self) -> &'static str {
            "scripted"
        }

        fn work(&mut self) -> Result<Worked, FsError> {
            let left = self.pieces.len();
            self.told.send(left).unwrap();
            self.pieces.pop().map_or(Ok(Worked::Idle(Duration::from_secs(3600))), |piece| piece())
        }
    }

    #[test]
    fn pieces_follow_each_other_and_an_idle_task_is_woken_or_stopped() {
        let (told, pieces) = mpsc::channel();
        let more: fn() -> _ = || Ok(Worked::More);
        let mut tasks = Tasks::new(SystemClock::shared());
        tasks.start(Scripted { pieces: vec![more, more], told }).unwrap();
        assert_eq!([2, 1, 0], [0; 3].map(|_: i32| pieces.recv().unwrap()));
        // It idles for an hour now, or is about to: a wake-up is seen either way.
        tasks.wake();
        assert_eq!(pieces.recv(), Ok(0));
        tasks.stop();
        assert!(pieces.recv().is_err(), "the task is gone");
    }

    #[test]
    fn a_panic_does_not_keep_a_task_from_being_stopped() {
        let (told, pieces) = mpsc::channel();
        let mut tasks = Tasks::new(SystemClock::shared());
        tasks.start(Scripted { pieces: vec![|| panic!("planned")], told }).unwrap();
        assert_eq!(pieces.recv(), Ok(1));
        drop(tasks);
        assert!(pieces.recv().is_err());
    }
}
