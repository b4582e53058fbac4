//! Locks that programs of a mount take, wait for and drop, as `tsdb_client::locks` has it: kept here where the mount owns the inode,
//! else put as a row by a direct batch; what is given back is told with the batch that gives it back.
//!
//! Whoever is refused is put aside and tried again: when a lock of this mount goes, when the member that leads says so, and at the
//! latest after a while. Not here: handles, closes, circles of waiting.

use super::Around;
use super::Mount;
use super::Report;
use super::calls::Call;
use super::calls::Kind;
use crate::chance::Chance;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use tsfs::meta::key;
use tsfs::meta::lock::FileLock;
use tsfs::meta::lock::FileLocks;
use tsfs::meta::op::Op;
use tsfs::tsdb_client::own::Own;
use tsfs::tsdb_client::own::Right;
use tsfs::types::Ino;

/// Whoever waits tries again by himself after so long. Longer than the real one's second: who is woken is woken before.
const AGAIN_MS: u64 = 3000;
/// Files that were touched lately: those are locked.
const FILES_MAX: usize = 2;
const WAITING_MAX: usize = 4;
const OWNERS: u64 = 2;
const BYTES: u64 = 3;

/// What is locked of a file.
#[derive(Clone, Default)]
struct Held {
    locks: FileLocks,
    /// A row of this session may say something else.
    told: bool,
}

/// What a program wants: a lock, or an end of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    ino: Ino,
    lock: FileLock,
    drops: bool,
}

struct Waiting {
    wanted: Wanted,
    again: u64,
}

#[derive(Default)]
pub(crate) struct Locks {
    held: BTreeMap<Ino, Held>,
    /// What a direct batch is to change: the owner's locks in these bytes are not certain.
    relocking: Option<Wanted>,
    /// Of these the row is to be told with what is given back.
    telling: BTreeSet<Ino>,
    waiting: Vec<Waiting>,
    files: VecDeque<Ino>,
}

/// What becomes of a file's locks; the owner that is in the way, if one is.
fn edit(held: &mut Held, wanted: &Wanted) -> Result<(), u64> {
    let lock = wanted.lock;
    if wanted.drops {
        held.locks.clear(lock.owner, lock.first, lock.last);
        return Ok(());
    }
    match held.locks.barring(&lock) {
        Some(barring) => Err(barring.owner),
        None => {
            held.locks.set(lock);
            Ok(())
        }
    }
}

impl Locks {
    /// What programs believe to have locked of a file, for certain.
    pub(crate) fn believed(&self) -> impl Iterator<Item = (Ino, &FileLock)> {
        let certain = |ino: Ino, lock: &FileLock| {
            self.relocking.is_none_or(|wanted| {
                wanted.ino != ino || wanted.lock.owner != lock.owner || !wanted.lock.meets(lock)
            })
        };
        let all = self.held.iter();
        let all = all.flat_map(|(ino, held)| held.locks.all().iter().map(|lock| (*ino, lock)));
        all.filter(move |(ino, lock)| certain(*ino, lock))
    }

    /// Nobody has or waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.held.values().all(|held| held.locks.is_empty())
    }

    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn note_files(&mut self, inos: &BTreeSet<Ino>) {
        for ino in inos.iter().filter(|ino| **ino != Ino::ROOT) {
            self.files.retain(|file| file != ino);
            self.files.push_back(*ino);
        }
        while self.files.len() > FILES_MAX {
            self.files.pop_front();
        }
    }

    /// Before inodes are asked back: those whose locks were kept here and nowhere else are told.
    pub(super) fn asked_back(&mut self, own: &Own) -> BTreeSet<Ino> {
        let busy = self.relocking.map(|wanted| wanted.ino);
        let kept = |ino: &&Ino| own.keeps(**ino) && busy != Some(**ino);
        self.held.keys().filter(kept).copied().collect()
    }

    /// `kept` of before: those of them that are leaving now.
    pub(super) fn leave(&mut self, kept: BTreeSet<Ino>, own: &Own) {
        self.telling.extend(kept.into_iter().filter(|ino| own.right(*ino) == Right::Leaving));
    }

    /// What goes into the batch that gives back.
    pub(super) fn tell(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        for ino in std::mem::take(&mut self.telling) {
            let Some(held) = self.held.get_mut(&ino) else { continue };
            let locks = held.locks.all().to_vec();
            if locks.is_empty() && !held.told {
                continue;
            }
            held.told = !locks.is_empty();
            ops.push(Op::SetLocks { ino, locks });
        }
        ops
    }

    /// A lock has gone: whoever waits for one on the file is tried again.
    pub(super) fn gone(&mut self, ino: Ino) {
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.wanted.ino == ino) {
            waiting.again = 0;
        }
    }

    /// Whether somebody waits for a lock on the file.
    pub(super) fn awaits(&self, ino: Ino) -> bool {
        self.waiting.iter().any(|waiting| waiting.wanted.ino == ino)
    }

    fn put(&mut self, ino: Ino, held: Held) {
        match held.locks.is_empty() && !held.told {
            true => drop(self.held.remove(&ino)),
            false => drop(self.held.insert(ino, held)),
        }
    }

    fn put_aside(&mut self, wanted: Wanted, now: u64) {
        let again = now + AGAIN_MS;
        if !wanted.drops && self.waiting.len() < WAITING_MAX {
            self.waiting.push(Waiting { wanted, again });
        }
    }

    /// What programs want next: first who waits and may try again; else a new one.
    fn next(&mut self, now: u64) -> Option<Wanted> {
        let at = self.waiting.iter().position(|waiting| waiting.again <= now)?;
        Some(self.waiting.remove(at).wanted)
    }

    fn new_wanted(&self, drops: bool, chance: &mut Chance) -> Option<Wanted> {
        let locked: Vec<(Ino, FileLock)> = self
            .held
            .iter()
            .flat_map(|(ino, held)| held.locks.all().iter().map(|lock| (*ino, *lock)))
            .collect();
        if drops {
            let (ino, lock) = *chance.pick(&locked)?;
            return Some(Wanted { ino, lock, drops });
        }
        let files: Vec<Ino> = self.files.iter().copied().collect();
        let ino = *chance.pick(&files)?;
        let (a, b) = (chance.below(BYTES), chance.below(BYTES));
        let (owner, exclusive) = (1 + chance.below(OWNERS), !chance.once_in(3));
        let lock = FileLock { owner, first: a.min(b), last: a.max(b), exclusive, pid: 0 };
        Some(Wanted { ino, lock, drops })
    }

    /// In the end programs drop what they have, one lock after the other.
    fn last_wanted(&self) -> Option<Wanted> {
        let (ino, held) = self.held.iter().find(|(_, held)| !held.locks.is_empty())?;
        let lock = *held.locks.all().first()?;
        Some(Wanted { ino: *ino, lock, drops: true })
    }
}

impl Mount {
    /// What a program locks or drops, as a call; none where there is nothing to be locked.
    pub(super) fn lock_call(&mut self, call: Call, around: &mut Around<'_>) -> Option<Call> {
        let life = self.life.as_mut()?;
        let wanted = life.locks.new_wanted(call.kind == Kind::Unlock, around.chance)?;
        Some(Call { wanted: Some(wanted), ..call })
    }

    /// Whoever waits and may try again; where programs end, what they have locked goes.
    pub(super) fn lock_again(&mut self, around: &Around<'_>) -> Option<Call> {
        let life = self.life.as_mut()?;
        let wanted = life.locks.next(around.now);
        let wanted = wanted.or_else(|| life.locks.last_wanted().filter(|_| !around.more))?;
        let kind = if wanted.drops { Kind::Unlock } else { Kind::Lock };
        Some(Call { wanted: Some(wanted), ..Call::new(kind, around.now) })
    }

    /// Goes on with a call that locks.
    pub(super) fn relock(&mut self, mut call: Call, wanted: Wanted, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let ino = wanted.ino;
        let right = life.own.right(ino);
        if matches!(right, Right::Leaving | Right::Busy) {
            self.call = Some(call);
            return;
        }
        if right == Right::Nothing && std::mem::take(&mut call.held) {
            // Whoever owns it is asked for it.
            call.asked = true;
            let inode = Bytes::copy_from_slice(&key::inode(ino));
            self.call = Some(call);
            return self.ask_keys(Some(inode), around);
        }
        let mut held = life.locks.held.get(&ino).cloned().unwrap_or_default();
        let before = held.locks.clone();
        if edit(&mut held, &wanted).is_err() {
            return life.locks.put_aside(wanted, around.now);
        }
        if right == Right::Owned || held.locks == before {
            life.locks.put(ino, held);
            life.locks.gone(ino);
            self.reports.push(Report::Done(call.kind));
            return;
        }
        self.close_open(around);
        if self.is_direct_under_way() {
            self.call = Some(call);
            return;
        }
        let life = self.life.as_mut().expect("it is alive");
        life.locks.relocking = Some(wanted);
        let ops = vec![Op::SetLocks { ino, locks: held.locks.all().to_vec() }];
        self.send_direct(call, ops, Default::default(), BTreeSet::from([ino]), around);
    }

    /// What came of a direct batch that locks; none where it is to be tried again.
    pub(super) fn relocked(&mut self, wanted: Wanted, came: Option<Relocked>) {
        let now = self.now;
        let Some(life) = &mut self.life else { return };
        let locks = &mut life.locks;
        locks.relocking = None;
        match came {
            None => {}
            Some(Relocked::Applied) => {
                let mut held = locks.held.get(&wanted.ino).cloned().unwrap_or_default();
                edit(&mut held, &wanted).expect("nothing else changed them");
                held.told = !held.locks.is_empty();
                locks.put(wanted.ino, held);
                locks.gone(wanted.ino);
            }
            Some(Relocked::Barred) => locks.put_aside(wanted, now),
            Some(Relocked::Gone) if wanted.drops => drop(locks.held.remove(&wanted.ino)),
            Some(Relocked::Gone) => {}
        }
    }
}

/// See [`Mount::relocked`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Relocked {
    Applied,
    Barred,
    Gone,
}
