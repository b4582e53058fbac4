//! A few threads for requests that have to wait, so that the loop threads keep answering the others.
//!
//! Not here: anything that waits without end (for a lock: `parked`). What waits for a disk or a server does so within the bounds set there.

use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Threads at the start. They wait rather than compute, so there are more of them than processors.
const THREADS: usize = 16;
/// Threads at most. More are started where all wait: for a network, and for other mounts whose turn it is.
const THREADS_MAX: usize = 256;
/// Jobs that may stand in line. The kernel has at most `max_background` reads ahead under way, and every other request is
/// a process that waits for it; beyond this the loop threads wait too, which is all that is left to do.
const QUEUE_MAX: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Workers {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// A job came, or the end.
    came: Condvar,
    /// A job was taken.
    taken: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job.
    idle: usize,
    closed: bool,
}

impl Workers {
    pub(super) fn start() -> io::Result<Workers> {
        let workers = Workers { queue: Arc::default(), threads: Mutex::default() };
        for _ in 0..THREADS {
            workers.add(&mut workers.threads.lock())?;
        }
        Ok(workers)
    }

    fn add(&self, threads: &mut Vec<JoinHandle<()>>) -> io::Result<()> {
        let queue = Arc::clone(&self.queue);
        let thread = std::thread::Builder::new().name(format!("fuse-wait-{}", threads.len()));
        threads.push(thread.spawn(move || queue.work())?);
        Ok(())
    }

    /// Has it done on one of the threads. It must not panic.
    pub(super) fn run(&self, job: Job) {
        let mut state = self.queue.state.lock();
        while state.jobs.len() >= QUEUE_MAX && !state.closed {
            self.queue.taken.wait(&mut state);
        }
        if state.closed {
            return;
        }
        state.jobs.push_back(job);
        let all_wait = state.jobs.len() > state.idle;
        drop(state);
        self.queue.came.notify_one();
        if all_wait {
            self.grow();
        }
    }

    fn grow(&self) {
        let mut threads = self.threads.lock();
        if threads.len() < THREADS_MAX
            && let Err(error) = self.add(&mut threads)
        {
            tracing::warn!(%error, "no further thread for requests that wait");
        }
    }

    /// Every job that was taken on is done first: each holds a reply that somebody waits for. Those that come later are
    /// dropped, which answers EIO.
    pub(super) fn finish(&self) {
        self.queue.state.lock().closed = true;
        self.queue.came.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A thread that panicked said so itself, and its job's reply was sent by being dropped.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Queue {
    fn work(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                self.taken.notify_one();
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            self.came.wait(&mut state);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn every_job_taken_on_is_done_before_the_end() {
        let done = Arc::new(AtomicUsize::new(0));
        let workers = Workers::start().unwrap();
        for _ in 0..4 * QUEUE_MAX {
            let done = Arc::clone(&done);
            workers.run(Box::new(move || {
                done.fetch_add(1, Relaxed);
            }));
        }
        drop(workers);
        assert_eq!(done.load(Relaxed), 4 * QUEUE_MAX);
    }

    #[test]
    fn jobs_that_wait_for_each_other_get_threads() {
        let workers = Workers::start().unwrap();
        let met = Arc::new(std::sync::Barrier::new(3 * THREADS + 1));
        for _ in 0..3 * THREADS {
            let met = Arc::clone(&met);
            workers.run(Box::new(move || {
                met.wait();
            }));
        }
        met.wait();
        assert!(workers.threads.lock().len() <= THREADS_MAX);
    }
}
