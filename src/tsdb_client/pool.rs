//! Threads that take what they are given one after the other: the workers, that compress, and those that read ahead.
//!
//! What they are given is bounded by who gives it: contents to pack by the bound on dirty bytes, reading ahead by
//! [`Pool::is_busy`].

use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

/// With more than this waiting, reading ahead would only come too late.
const BUSY_JOBS: usize = 16;
/// With more than this waiting, what is written comes faster than it is compressed: some mebibytes.
const BEHIND_JOBS: usize = 32;

/// Is told whether the workers are behind.
type Job = Box<dyn FnOnce(bool) + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Queue {
    fn is_behind(&self) -> bool {
        self.jobs.len() > BEHIND_JOBS
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

/// Stops, after what was given, when dropped.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// # Errors
    /// Where a thread cannot be started.
    pub(super) fn start(name: &str, threads: usize) -> std::io::Result<Pool> {
        let mut pool = Pool { shared: Arc::default(), threads: Vec::new() };
        for n in 0..threads.max(1) {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name(format!("{name}-{n}"));
            pool.threads.push(thread.spawn(move || work(&shared))?);
        }
        Ok(pool)
    }

    pub(super) fn give(&self, job: impl FnOnce(bool) + Send + 'static) {
        self.shared.queue.lock().jobs.push_back(Box::new(job));
        self.shared.more.notify_one();
    }

    pub(super) fn is_busy(&self) -> bool {
        self.shared.queue.lock().jobs.len() > BUSY_JOBS
    }

    pub(super) fn is_behind(&self) -> bool {
        self.shared.queue.lock().is_behind()
    }
}

fn work(shared: &Shared) {
    loop {
        let mut queue = shared.queue.lock();
        let job = loop {
            match queue.jobs.pop_front() {
                Some(job) => break job,
                None if queue.closed => return,
                None => shared.more.wait(&mut queue),
            }
        };
        let behind = queue.is_behind();
        drop(queue);
        job(behind);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            // What a thread of ours was given may be the last that holds whoever has the pool; and it ends behind this.
            if thread.thread().id() != std::thread::current().id() {
                // One that panicked has said so; there is nothing left to wait for.
                let _ = thread.join();
            }
        }
    }
}
