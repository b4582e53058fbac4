//! Threads for what may wait, so that the threads that read connections do not: as many as there is work for, within a
//! bound.
//!
//! Not here: work that never ends. Every thread does many jobs.

use super::error::NetError;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

thread_local! {
    /// The pool that this thread works for.
    static WORKS_FOR: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
}

/// A thread without work ends after this.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// Does jobs in the order in which they come, several at a time. When it is dropped it first does all it took.
pub struct Pool(Arc<Shared>);

struct Shared {
    name: &'static str,
    threads_max: usize,
    /// Jobs that may stand in line.
    jobs_max: usize,
    state: Mutex<State>,
    /// A job came, or the end.
    came: Condvar,
    /// A job was taken, or a thread ended.
    went: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Pool {
    /// At most `threads_max` threads, whose names begin with `name`, and `jobs_max` jobs in line. Starts none yet.
    pub fn new(name: &'static str, threads_max: usize, jobs_max: usize) -> Pool {
        let (state, came, went) = (Mutex::default(), Condvar::new(), Condvar::new());
        Pool(Arc::new(Shared { name, threads_max, jobs_max, state, came, went }))
    }

    /// Has it done. Waits where the line is full: so whoever sends the work is slowed down.
    ///
    /// # Errors
    /// `Local` where there is no thread to do it and can be none. The job is dropped.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<(), NetError> {
        let pool = &*self.0;
        let mut state = pool.state.lock();
        pool.went.wait_while(&mut state, |state| state.jobs.len() >= pool.jobs_max);
        // Every idle thread may have a job in line already.
        let spare = state.idle > state.jobs.len();
        if !spare
            && state.threads < pool.threads_max
            && let Err(error) = self.start_thread(&mut state)
            && state.threads == 0
        {
            return Err(NetError::Local(format!("start a thread of {}: {error}", pool.name)));
        }
        state.jobs.push_back(Box::new(job));
        drop(state);
        pool.came.notify_one();
        Ok(())
    }

    fn start_thread(&self, state: &mut State) -> std::io::Result<()> {
        let pool = Arc::clone(&self.0);
        let name = format!("{}-{}", pool.name, state.threads);
        thread::Builder::new().name(name).spawn(move || pool.work())?;
        state.threads += 1;
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        self.0.came.notify_all();
        // The last job may be what drops it: that one cannot wait for itself.
        let own = usize::from(WORKS_FOR.get() == Arc::as_ptr(&self.0));
        self.0.went.wait_while(&mut state, |state| state.threads > own);
    }
}

impl Shared {
    fn work(&self) {
        WORKS_FOR.set(self);
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                self.went.notify_one();
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!(pool = self.name, "a request panicked; it is not answered");
                }
                state = self.state.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let late = self.came.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if late && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        drop(state);
        self.went.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn every_job_taken_is_done_before_the_end() {
        let done = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new("pool", 4, 8);
        for _ in 0..200 {
            let done = Arc::clone(&done);
            pool.run(move || {
                done.fetch_add(1, Relaxed);
            })
            .unwrap();
        }
        drop(pool);
        assert_eq!(done.load(Relaxed), 200);
    }

    #[test]
    fn there_are_as_many_threads_as_work_needs_at_once_and_no_more() {
        let pool = Pool::new("pool", 3, 8);
        // Each waits for the two others: that takes three threads at once.
        let together = Arc::new(Barrier::new(3));
        for _ in 0..6 {
            let together = Arc::clone(&together);
            pool.run(move || {
                together.wait();
            })
            .unwrap();
        }
        assert!(pool.0.state.lock().threads <= 3);
    }

    #[test]
    fn a_job_that_panics_takes_no_thread_with_it() {
        let done = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new("pool", 1, 8);
        pool.run(|| panic!("as it happens")).unwrap();
        let counted = Arc::clone(&done);
        pool.run(move || {
            counted.fetch_add(1, Relaxed);
        })
        .unwrap();
        drop(pool);
        assert_eq!(done.load(Relaxed), 1);
    }
}
