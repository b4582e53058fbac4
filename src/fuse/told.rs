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
/// After a file was moved out of a directory to where others may move it on, nothing is to be believed of a name in that
/// directory for so long: the next file that is moved out of it need not wait.
const MOVED_FROM: Duration = Duration::from_secs(60);
/// Directories that are remembered for that.
const MOVED_FROM_MAX: usize = 1 << 10;

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
    names: HashMap<Ino, HashMap<Vec<u8>, Until>>,
    /// When which of them may run out, in about this order.
    order: VecDeque<(Duration, Ino, Vec<u8>)>,
    /// Names that are being moved: what is told of them now would be believed of what they become.
    moving: Vec<(Ino, Vec<u8>)>,
    /// Directories that files were moved out of, until when nothing is to be believed of files in them.
    moved_from: HashMap<Ino, Duration>,
}

#[derive(Clone, Copy, Default)]
struct Until {
    /// Whatever was told of the name.
    any: Duration,
    /// That something is there.
    there: Duration,
}

/// What the kernel was told a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Named {
    Nothing,
    Directory,
    /// Anything but a directory.
    File,
}

/// A name under way to another place; dropped when the kernel is about to hear that it is there.
pub(super) struct Moving<'a> {
    told: &'a Told,
    names: Vec<(Ino, Vec<u8>)>,
    /// What the kernel believes of it goes where it goes, and holds until then.
    pub(super) until: Duration,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        let mut state = self.told.state.lock();
        for name in &self.names {
            if let Some(at) = state.moving.iter().position(|moving| moving == name) {
                state.moving.swap_remove(at);
            }
        }
    }
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
    pub(super) fn name(&self, dir: Ino, name: &[u8], what: Named, valid: Duration) -> Duration {
        if valid.is_zero() {
            return valid;
        }
        let now = self.clock.steady();
        let until = now + valid;
        let mut state = self.state.lock();
        state.expire(now);
        let is_moving = |(of, moving): &(Ino, Vec<u8>)| *of == dir && moving == name;
        let moves_on = what == Named::File && state.moved_from.contains_key(&dir);
        if moves_on || state.order.len() >= NAMES_MAX || state.moving.iter().any(is_moving) {
            return Duration::ZERO;
        }
        let there = if what == Named::Nothing { Duration::ZERO } else { until };
        state.believed(dir, name, Until { any: until, there });
        valid
    }

    /// A rename begins. In the kernel a name takes with it for how long it is believed: from here on what is believed of the one
    /// counts for the other as well, and the other way round if they change places.
    pub(super) fn moving(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        exchange: bool,
    ) -> Moving<'_> {
        let now = self.clock.steady();
        let mut state = self.state.lock();
        state.expire(now);
        let (there, back) = (state.there_until(from), state.there_until(to));
        let mut until = there;
        state.carry(to, there);
        if exchange {
            state.carry(from, back);
            until = until.max(back);
        }
        let names = vec![(from.0, from.1.to_vec()), (to.0, to.1.to_vec())];
        state.moving.extend(names.iter().cloned());
        Moving { told: self, names, until }
    }

    /// Something is moved out of these directories to where nothing may be believed.
    pub(super) fn moves_out(&self, dirs: &[Ino]) {
        let now = self.clock.steady();
        let mut state = self.state.lock();
        if state.moved_from.len() >= MOVED_FROM_MAX {
            state.moved_from.retain(|_, until| *until > now);
        }
        for dir in dirs {
            if state.moved_from.len() < MOVED_FROM_MAX {
                state.moved_from.insert(*dir, now + MOVED_FROM);
            }
        }
    }

    /// Whether it is over what was believed until then.
    pub(super) fn is_over(&self, until: Duration) -> bool {
        until <= self.clock.steady()
    }

    /// Returns when it is.
    pub(super) fn outlast(&self, until: Duration) {
        let mut state = self.state.lock();
        while let Some(left) = until.checked_sub(self.clock.steady()).filter(|left| !left.is_zero())
        {
            self.sent.wait_for(&mut state, left);
        }
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
    fn believed(&mut self, dir: Ino, name: &[u8], until: Until) {
        let known = self.names.entry(dir).or_default().entry(name.to_vec()).or_default();
        known.any = known.any.max(until.any);
        known.there = known.there.max(until.there);
        self.order.push_back((until.any, dir, name.to_vec()));
    }

    fn there_until(&self, (dir, name): (Ino, &[u8])) -> Duration {
        self.names
            .get(&dir)
            .and_then(|names| names.get(name))
            .map_or(Duration::ZERO, |until| until.there)
    }

    fn carry(&mut self, (dir, name): (Ino, &[u8]), until: Duration) {
        if !until.is_zero() {
            self.believed(dir, name, Until { any: until, there: until });
        }
    }

    fn expire(&mut self, now: Duration) {
        if !self.moved_from.is_empty() {
            self.moved_from.retain(|_, until| *until > now);
        }
        while let Some((until, ..)) = self.order.front()
            && *until <= now
        {
            let (_, dir, name) = self.order.pop_front().expect("it has a front");
            let Some(names) = self.names.get_mut(&dir) else { continue };
            if names.get(&name).is_some_and(|until| until.any <= now) {
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
        assert_eq!(told.name(DIR, b"a", Named::Nothing, second), second);
        assert_eq!(told.name(DIR, b"no", Named::Nothing, Duration::ZERO), Duration::ZERO);
        clock.0.store(1, Relaxed);
        told.name(DIR, b"b", Named::Nothing, second);
        assert_eq!(told.take_names(DIR), [b"b"]);
        assert!(told.take_names(DIR).is_empty());
        for n in 0..NAMES_MAX {
            told.name(DIR, &n.to_be_bytes(), Named::Nothing, second * 9);
        }
        let one_more = || told.name(DIR, b"one more", Named::Nothing, second);
        assert_eq!(one_more(), Duration::ZERO, "it is not remembered");
        clock.0.store(20, Relaxed);
        assert_eq!(one_more(), second);
        assert_eq!(told.state.lock().names[&DIR].len(), 1);
    }

    #[test]
    fn what_is_believed_of_a_name_moves_with_it() {
        let clock = Arc::new(Still::default());
        let told = Told::new(clock.clone());
        let second = Duration::from_secs(1);
        let other = Ino::new(7).unwrap();
        told.name(DIR, b"dir", Named::Directory, second);
        told.name(DIR, b"nothing", Named::Nothing, second);
        let moving = told.moving((DIR, b"dir"), (other, b"there"), false);
        assert_eq!(moving.until, second);
        assert!(!told.is_over(moving.until));
        for (dir, name) in [(DIR, &b"dir"[..]), (other, b"there")] {
            assert_eq!(told.name(dir, name, Named::Directory, second), Duration::ZERO, "it moves");
        }
        drop(moving);
        assert_eq!(told.take_names(other), [b"there"]);
        assert_eq!(told.name(DIR, b"dir", Named::Directory, second), second);
        // What is nowhere does not move; what takes its place does.
        assert_eq!(told.moving((DIR, b"nothing"), (other, b"there"), false).until, Duration::ZERO);
        assert!(told.take_names(other).is_empty());
        let moving = told.moving((other, b"file"), (DIR, b"dir"), true);
        assert_eq!(moving.until, second);
        clock.0.store(1, Relaxed);
        assert!(told.is_over(moving.until));
        told.outlast(moving.until);
        assert_eq!(told.take_names(other), [b"file"]);
    }

    #[test]
    fn where_files_are_moved_out_of_the_next_is_not_believed_to_be() {
        let clock = Arc::new(Still::default());
        let told = Told::new(clock.clone());
        let second = Duration::from_secs(1);
        let other = Ino::new(7).unwrap();
        assert_eq!(told.name(DIR, b"first", Named::File, second), second);
        let moving = told.moving((DIR, b"first"), (other, b"there"), false);
        assert_eq!(moving.until, second);
        told.moves_out(&[DIR]);
        drop(moving);
        for (dir, what, valid) in [
            (DIR, Named::File, Duration::ZERO),
            (DIR, Named::Directory, second),
            (DIR, Named::Nothing, second),
            (other, Named::File, second),
        ] {
            assert_eq!(told.name(dir, format!("{what:?}").as_bytes(), what, second), valid);
        }
        let moving = told.moving((DIR, b"File"), (other, b"there"), false);
        assert_eq!(moving.until, Duration::ZERO, "nobody waits for it");
        drop(moving);
        clock.0.store(MOVED_FROM.as_secs(), Relaxed);
        assert_eq!(told.name(DIR, b"File", Named::File, second), second);
        for n in 0..2 * MOVED_FROM_MAX as u64 {
            told.moves_out(&[Ino::new(n + 1).unwrap()]);
        }
        assert_eq!(told.state.lock().moved_from.len(), MOVED_FROM_MAX);
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
