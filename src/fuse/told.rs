//! What the kernel was told and may believe for a while, where other mounts may change it: so that it can be told to forget,
//! and so that nothing is on its way to it meanwhile.
//!
//! Not here: what may be believed, and for how long (`tsdb_client`).

use crate::env::Clock;
use crate::types::Ino;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Names that are remembered. What is told beyond them may not be believed at all.
const NAMES_MAX: usize = 1 << 16;

thread_local! {
    /// The answer that this thread is about to send has something in it that may be believed: since which generation.
    static BEGUN: Cell<Option<u64>> = const { Cell::new(None) };
}

pub(super) struct Told {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    sent: Condvar,
}

#[derive(Default)]
struct State {
    /// Raised by whoever waits for what is under way: what begins later is none of his.
    generation: u64,
    /// Answers that were begun and not sent, of the generation and the one before it.
    under_way: [u32; 2],
    /// Until when which names of a directory may be believed.
    names: HashMap<Ino, HashMap<Vec<u8>, Duration>>,
    /// When which of them may run out, in about this order.
    order: VecDeque<(Duration, Ino, Vec<u8>)>,
}

impl Told {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Told {
        Told { clock, state: Mutex::default(), sent: Condvar::new() }
    }

    /// From here until [`Told::sent`] this thread makes an answer that may be believed.
    pub(super) fn begin(&self) {
        if BEGUN.get().is_none() {
            let mut state = self.state.lock();
            let generation = state.generation;
            state.under_way[side(generation)] += 1;
            BEGUN.set(Some(generation));
        }
    }

    /// The answer is with the kernel.
    pub(super) fn sent(&self) {
        if let Some(generation) = BEGUN.take() {
            self.state.lock().under_way[side(generation)] -= 1;
            self.sent.notify_all();
        }
    }

    /// Waits until everything that was begun before is sent, at most so long.
    pub(super) fn drain(&self, limit: Duration) {
        let mut state = self.state.lock();
        // Of the generation before there may be some for whom somebody waited in vain.
        let old = state.generation;
        if state.under_way[side(old + 1)] == 0 {
            state.generation += 1;
        }
        self.sent.wait_while_for(&mut state, |state| state.under_way[side(old)] > 0, limit);
    }

    /// Remembers a name for as long as the kernel may believe what it names: how long that is.
    pub(super) fn name(&self, dir: Ino, name: &[u8], valid: Duration) -> Duration {
        if valid.is_zero() {
            return valid;
        }
        let now = self.clock.steady();
        let until = now + valid;
        let mut state = self.state.lock();
        state.expire(now);
        if state.order.len() >= NAMES_MAX {
            return Duration::ZERO;
        }
        state.names.entry(dir).or_default().insert(name.to_vec(), until);
        state.order.push_back((until, dir, name.to_vec()));
        valid
    }

    /// The names of a directory that the kernel may believe, from now on forgotten here.
    pub(super) fn take_names(&self, dir: Ino) -> Vec<Vec<u8>> {
        let names = self.state.lock().names.remove(&dir);
        names.unwrap_or_default().into_keys().collect()
    }
}

fn side(generation: u64) -> usize {
    (generation % 2) as usize
}

impl State {
    fn expire(&mut self, now: Duration) {
        while let Some((until, ..)) = self.order.front()
            && *until <= now
        {
            let (_, dir, name) = self.order.pop_front().expect("it has a front");
            let Some(names) = self.names.get_mut(&dir) else { continue };
            if names.get(&name).is_some_and(|until| *until <= now) {
                names.remove(&name);
            }
            if names.is_empty() {
                self.names.remove(&dir);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Stamp;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;
    use std::sync::mpsc::channel;

    #[derive(Default)]
    struct Still(AtomicU64);

    impl Clock for Still {
        fn wall(&self) -> Stamp {
            Stamp(self.0.load(Relaxed))
        }

        fn steady(&self) -> Duration {
            Duration::from_secs(self.0.load(Relaxed))
        }
    }

    const DIR: Ino = Ino::ROOT;

    #[test]
    fn names_are_remembered_while_they_may_be_believed() {
        let clock = Arc::new(Still::default());
        let told = Told::new(clock.clone());
        let second = Duration::from_secs(1);
        assert_eq!(told.name(DIR, b"a", second), second);
        assert_eq!(told.name(DIR, b"no", Duration::ZERO), Duration::ZERO);
        clock.0.store(1, Relaxed);
        told.name(DIR, b"b", second);
        assert_eq!(told.take_names(DIR), [b"b"]);
        assert!(told.take_names(DIR).is_empty());
        for n in 0..NAMES_MAX {
            told.name(DIR, &n.to_be_bytes(), second * 9);
        }
        assert_eq!(told.name(DIR, b"one more", second), Duration::ZERO, "it is not remembered");
        clock.0.store(20, Relaxed);
        assert_eq!(told.name(DIR, b"one more", second), second);
        assert_eq!(told.state.lock().names[&DIR].len(), 1);
    }

    #[test]
    fn who_waits_for_what_is_under_way_waits_for_nothing_later() {
        let told = Arc::new(Told::new(Arc::new(Still::default())));
        told.begin();
        told.begin();
        let (tell, drained) = channel();
        let drain = {
            let told = told.clone();
            std::thread::spawn(move || {
                told.drain(Duration::from_secs(60));
                tell.send(()).unwrap();
            })
        };
        while told.state.lock().generation == 0 {
            std::thread::yield_now();
        }
        assert!(drained.try_recv().is_err());
        let later = {
            let told = told.clone();
            std::thread::spawn(move || told.begin())
        };
        later.join().unwrap();
        told.sent();
        told.sent();
        drained.recv_timeout(Duration::from_secs(60)).unwrap();
        drain.join().unwrap();
        told.drain(Duration::from_millis(1));
    }
}
