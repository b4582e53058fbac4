//! What the kernel was told and may believe for a while, where other mounts may change it: so that it can be told to forget,
//! and so that nothing is on its way to it meanwhile.
//!
//! Not here: what may be believed, and for how long (`tsdb_client`).

use crate::env::Clock;
use crate::fuse::vfs::Kernel;
use crate::tsdb_client::Invalidate;
use crate::types::Ino;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Names that are remembered, and inodes. What is told beyond them may not be believed at all.
const NAMES_MAX: usize = 1 << 18;
/// A name that was just made is believed for no longer than this. A program that makes files in a directory, one after the
/// other, has the kernel hold that directory nearly all the time; who wants it waits until thousands of names are
/// forgotten, between one call and the next. Most of them are not asked for again.
pub(super) const MADE_VALID: Duration = Duration::from_millis(100);
/// The kernel counts from when the program's thread has taken the answer: what it was told is remembered for so much longer.
const TAKEN_WITHIN: Duration = Duration::from_millis(100);
/// How often what is over is looked for, in each directory.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Directories that one answer looks through at most.
const SWEPT_AT_ONCE: usize = 64;
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
    /// What may be believed of the names in a directory.
    dirs: HashMap<Ino, Names>,
    /// Names in all of them.
    names: usize,
    /// When each of them is to be looked through next, in this order.
    sweeps: VecDeque<(Duration, Ino)>,
    /// Until when the names in a list that the kernel keeps may be believed, in about this order.
    lists: VecDeque<(Duration, Ino)>,
    /// Until when what was told of an inode may be believed.
    inos: HashMap<Ino, Duration>,
    /// When these are to be looked through next.
    sweep_inos: Duration,
    /// Names that are being moved: what is told of them now would be believed of what they become.
    moving: Vec<(Ino, Vec<u8>)>,
    /// Directories that files were moved out of, until when nothing is to be believed of files in them.
    moved_from: HashMap<Ino, Duration>,
}

#[derive(Default)]
struct Names {
    until: HashMap<Box<[u8]>, Until>,
    /// When they are looked through next.
    sweep: Duration,
    /// The kernel was given a list of them, which it keeps: until when they may be believed.
    listed: Option<Duration>,
}

#[derive(Clone, Copy, Default)]
struct Until {
    /// Whatever was told of the name.
    any: Duration,
    /// That something is there.
    there: Duration,
    /// How often it was told, or moved here.
    times: u32,
    /// The last time it was moved here.
    moved: bool,
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

    /// How long an answer that was begun may take to be with the kernel. Nothing is waited for meanwhile.
    pub(super) const SENT_WITHIN: Duration = Duration::from_secs(1);

    /// Has the kernel forget what it was told. It may wait for locks of a directory that is being changed.
    pub(super) fn forget(&self, what: &[Invalidate], kernel: &dyn Kernel) {
        // What is on its way would be believed after it was to be forgotten.
        self.drain(Told::SENT_WITHIN);
        let mut inos: Vec<Ino> = Vec::new();
        for what in what {
            match what {
                Invalidate::Inode(ino) => inos.push(*ino),
                Invalidate::Everything => inos.extend(self.all()),
                Invalidate::Entry { dir, name } => kernel.forget_entry(*dir, name),
            }
        }
        // First what needs no directory's lock.
        for ino in &inos {
            self.state.lock().inos.remove(ino);
            kernel.forget_inode(*ino, Some(0));
        }
        inos.iter().for_each(|dir| self.forget_names(*dir, kernel));
    }

    /// Each name is remembered until the kernel has forgotten it, for till then it may be moved, and what is believed of it with it:
    /// to another name here, which is forgotten then, or elsewhere.
    fn forget_names(&self, dir: Ino, kernel: &dyn Kernel) {
        let mut names = self.left(dir, false);
        while !names.is_empty() {
            for (name, times) in names {
                kernel.forget_entry(dir, &name);
                self.state.lock().forgot(dir, &name, times);
            }
            names = self.left(dir, true);
        }
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
        let is_moving = |(of, moving): &(Ino, Vec<u8>)| *of == dir && moving == name;
        let moves_on = what == Named::File && state.is_moved_from(dir, now);
        if moves_on || state.names >= NAMES_MAX || state.moving.iter().any(is_moving) {
            return Duration::ZERO;
        }
        let there = if what == Named::Nothing { Duration::ZERO } else { until };
        state.believed(dir, name, Until { any: until, there, ..Until::default() }, now);
        valid
    }

    /// The same of an inode.
    pub(super) fn inode(&self, ino: Ino, valid: Duration) -> Duration {
        if valid.is_zero() {
            return valid;
        }
        let now = self.clock.steady();
        let mut state = self.state.lock();
        state.sweep_inos(now);
        if state.inos.len() >= NAMES_MAX {
            return Duration::ZERO;
        }
        let until = state.inos.entry(ino).or_default();
        *until = (now + valid).max(*until);
        valid
    }

    /// The kernel is given a list of the names in a directory, which were told it to be believed for so long.
    pub(super) fn listed(&self, dir: Ino, valid: Duration) {
        let until = self.clock.steady() + valid;
        let mut state = self.state.lock();
        if let Some(names) = state.dirs.get_mut(&dir)
            && names.listed.replace(until).is_none()
        {
            state.lists.push_back((until, dir));
        }
    }

    /// Directories whose list the kernel keeps while the names in it are not to be believed any more. It would ask for each name by
    /// itself; without the list it asks for that, and is told of all of them at once. Each is said once.
    pub(super) fn worn_lists(&self) -> Vec<Ino> {
        let now = self.clock.steady();
        let mut state = self.state.lock();
        for _ in 0..SWEPT_AT_ONCE {
            if !state.sweep(now) {
                break;
            }
        }
        let mut worn = Vec::new();
        while worn.len() < SWEPT_AT_ONCE
            && let Some((due, dir)) = state.lists.front().copied().filter(|(due, _)| *due <= now)
        {
            state.lists.pop_front();
            let Some(names) = state.dirs.get_mut(&dir) else { continue };
            match names.listed {
                Some(until) if until > due => state.lists.push_back((until, dir)),
                Some(_) => {
                    names.listed = None;
                    worn.push(dir);
                }
                None => {}
            }
        }
        worn
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
        let (there, back) = (state.there_until(from), state.there_until(to));
        let mut until = there;
        state.carry(to, there, now);
        if exchange {
            state.carry(from, back, now);
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

    /// The names of a directory that the kernel may believe, and how often each was told; its list is dropped.
    fn left(&self, dir: Ino, only_moved: bool) -> Vec<(Box<[u8]>, u32)> {
        let now = self.clock.steady();
        let mut state = self.state.lock();
        let Some(names) = state.dirs.get_mut(&dir) else { return Vec::new() };
        names.listed = None;
        let is_left = |until: &Until| until.is_left(now) && (until.moved || !only_moved);
        let left = names.until.iter().filter(|(_, until)| is_left(until));
        left.map(|(name, until)| (name.clone(), until.times)).collect()
    }

    /// Directories and other inodes that the kernel may believe something of.
    pub(super) fn all(&self) -> Vec<Ino> {
        let state = self.state.lock();
        let mut all: Vec<Ino> = state.inos.keys().chain(state.dirs.keys()).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Until {
    fn is_left(&self, now: Duration) -> bool {
        self.any + TAKEN_WITHIN > now
    }
}

fn side(generation: u64) -> usize {
    (generation % 2) as usize
}

impl State {
    fn believed(&mut self, dir: Ino, name: &[u8], until: Until, now: Duration) {
        let names = self.dirs.entry(dir).or_insert_with(|| {
            let sweep = now + SWEEP_EVERY;
            self.sweeps.push_back((sweep, dir));
            Names { sweep, ..Names::default() }
        });
        match names.until.get_mut(name) {
            Some(known) => {
                known.any = known.any.max(until.any);
                known.there = known.there.max(until.there);
                known.times = known.times.wrapping_add(1);
                known.moved = until.moved;
            }
            None => {
                names.until.insert(name.into(), until);
                self.names += 1;
            }
        }
    }

    fn there_until(&self, (dir, name): (Ino, &[u8])) -> Duration {
        self.dirs
            .get(&dir)
            .and_then(|names| names.until.get(name))
            .map_or(Duration::ZERO, |until| until.there)
    }

    fn carry(&mut self, (dir, name): (Ino, &[u8]), until: Duration, now: Duration) {
        if until > now {
            let moved = Until { any: until, there: until, times: 0, moved: true };
            self.believed(dir, name, moved, now);
        }
    }

    fn is_moved_from(&mut self, dir: Ino, now: Duration) -> bool {
        self.moved_from.retain(|_, until| *until > now);
        self.moved_from.contains_key(&dir)
    }

    /// The kernel has forgotten what it was told of a name so often.
    fn forgot(&mut self, dir: Ino, name: &[u8], times: u32) {
        let Some(names) = self.dirs.get_mut(&dir) else { return };
        if names.until.get(name).is_some_and(|until| until.times == times) {
            names.until.remove(name);
            self.names -= 1;
        }
        if names.until.is_empty() && names.listed.is_none() {
            self.dirs.remove(&dir);
        }
    }

    /// Forgets what is over in the next directory that is due. False where none is.
    fn sweep(&mut self, now: Duration) -> bool {
        let Some((due, dir)) = self.sweeps.front().copied().filter(|(due, _)| *due <= now) else {
            return false;
        };
        self.sweeps.pop_front();
        // Of one whose names were taken there may be an older word.
        let Some(names) = self.dirs.get_mut(&dir).filter(|names| names.sweep == due) else {
            return true;
        };
        let before = names.until.len();
        names.until.retain(|_, until| until.is_left(now));
        names.sweep = now + SWEEP_EVERY;
        self.names -= before - names.until.len();
        if names.until.is_empty() && names.listed.is_none() {
            self.dirs.remove(&dir);
        } else {
            self.sweeps.push_back((names.sweep, dir));
        }
        true
    }

    fn sweep_inos(&mut self, now: Duration) {
        if self.sweep_inos <= now {
            self.inos.retain(|_, until| *until + TAKEN_WITHIN > now);
            self.sweep_inos = now + SWEEP_EVERY;
        }
    }
}

#[cfg(test)]
mod tests;
