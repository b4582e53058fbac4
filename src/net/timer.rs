//! The thread that looks at every connection a few times a second: pings, and ends what takes too long.
//!
//! Not here: what too long is (`bounds`), what a look does (`connection`).

use super::error::NetError;
use super::link::Link;
use crate::env::Clock;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::Weak;
use std::thread;
use std::time::Duration;

pub(super) struct Timer {
    shared: Arc<Watch>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Watch {
    state: Mutex<State>,
    changed: Condvar,
    clock: Arc<dyn Clock>,
    tick: Duration,
}

#[derive(Default)]
struct State {
    connections: Vec<Weak<Link>>,
    stopped: bool,
}

impl Timer {
    pub(super) fn start(clock: Arc<dyn Clock>, tick: Duration) -> Result<Timer, NetError> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Watch { state, changed, clock, tick });
        let watch = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("net-timer".to_owned())
            .spawn(move || watch.run())
            .map_err(|error| NetError::Local(format!("start the thread net-timer: {error}")))?;
        Ok(Timer { shared, thread: Some(thread) })
    }

    /// Looks at this one too, from now on until it is dropped or closed.
    pub(super) fn add(&self, connection: &Arc<Link>) {
        self.shared.state.lock().connections.push(Arc::downgrade(connection));
        self.shared.changed.notify_one();
    }

    /// Looks at all of them now.
    #[cfg(test)]
    pub(super) fn look(&self) {
        self.shared.look();
    }
}

impl Watch {
    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            while state.connections.is_empty() && !state.stopped {
                self.changed.wait(&mut state);
            }
            // Woken by a new connection it sleeps on: what is new is not due.
            let stopped = |state: &mut State| !state.stopped;
            self.changed.wait_while_for(&mut state, stopped, self.tick);
            if state.stopped {
                return;
            }
            drop(state);
            self.look();
        }
    }

    fn look(&self) {
        let now = self.clock.steady();
        // What is called here may add connections.
        let all = self.state.lock().connections.clone();
        let mut gone = false;
        for connection in all {
            gone |= !connection.upgrade().is_some_and(|connection| connection.tick(now));
        }
        if gone {
            let open = |connection: &Weak<Link>| {
                connection.upgrade().is_some_and(|connection| !connection.is_closed())
            };
            self.state.lock().connections.retain(open);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.changed.notify_all();
        let Some(thread) = self.thread.take() else { return };
        // The last connection may be dropped by the look at it.
        if thread.thread().id() != thread::current().id() {
            // It caught nothing and waits for nothing else: if it panicked, that was said.
            let _ = thread.join();
        }
    }
}
