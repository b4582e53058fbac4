//! Locks on parts of files that programs of this mount hold.
//!
//! Where the inode is owned they are kept here and nowhere else; where it is not, they stand in a row of this session, which is
//! put by a direct batch. `docs/decisions/0015-file-locks.md` has the states. Not here: waiting for one that is refused (the
//! transport puts that aside), which locks go together (`meta::lock`).

use crate::meta::apply::LOCKS_MAX;
use crate::meta::key;
use crate::meta::key::StateKey;
use crate::meta::lock::FileLock;
use crate::meta::lock::FileLocks;
use crate::meta::op::Op;
use crate::meta::record::Locks;
use crate::meta::record::Record;
use crate::tsdb_client::Client;
use crate::tsdb_client::Handle;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::direct::BackOff;
use crate::tsdb_client::direct::Came;
use crate::tsdb_client::direct::Direct;
use crate::tsdb_client::fresh::Fresh;
use crate::tsdb_client::local::Local;
use crate::tsdb_client::local::OP_BYTES;
use crate::tsdb_client::own::Right;
use crate::tsdb_client::patience::may_wait;
use crate::types::FsError;
use crate::types::Ino;
use crate::wire::Circled;
use crate::wire::Moment;
use crate::wire::Waiting;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What was kept back while no node was there is tried again so often.
const LATE_EVERY: Duration = Duration::from_secs(1);
/// Sessions with locks on one file that are looked through for one that is in the way.
const HOLDERS_MAX: usize = 1000;

/// What came of asking for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Locking {
    Done,
    /// Somebody has one that is in the way: this owner on this mount, or one of another mount.
    Held(Option<u64>),
}

/// Called when a lock on the file has gone that may have been in somebody's way. It must not wait.
pub type OnUnlock = Box<dyn Fn(Ino) + Send + Sync>;

/// What programs of this mount have locked of one file.
#[derive(Clone, Default)]
pub(super) struct Held {
    locks: FileLocks,
    /// Who locked something through which handle, since he last closed one: with the handle go those locks.
    through: BTreeSet<(Handle, u64)>,
    /// A row of this session may say something else.
    told: bool,
}

impl Held {
    fn is_idle(&self) -> bool {
        self.locks.is_empty() && self.through.is_empty() && !self.told
    }

    /// Whoever asks for the inode is to be told of all of them, in one op.
    ///
    /// # Errors
    /// `NoLocks` where there are more than before, and too many.
    fn check_count(&self, before: usize) -> Result<(), FsError> {
        let now = self.locks.all().len();
        if now > LOCKS_MAX && now > before { Err(FsError::NoLocks) } else { Ok(()) }
    }

    /// Everything that an owner has.
    fn drop_owner(&mut self, owner: u64) {
        self.locks.clear(owner, 0, u64::MAX);
        self.through.retain(|(_, of)| *of != owner);
    }

    /// Everything that was locked through a handle.
    fn drop_handle(&mut self, handle: Handle) {
        let of = |through: &&(Handle, u64)| through.0 == handle;
        let owners: Vec<u64> = self.through.iter().filter(of).map(|(_, owner)| *owner).collect();
        for owner in owners {
            self.locks.clear(owner, 0, u64::MAX);
        }
        self.through.retain(|(through, _)| *through != handle);
    }
}

/// What of the locks of a file is to go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Drop {
    Owner(u64),
    Handle(Handle),
}

impl Drop {
    fn from(self, held: &mut Held) {
        match self {
            Drop::Owner(owner) => held.drop_owner(owner),
            Drop::Handle(handle) => held.drop_handle(handle),
        }
    }

    fn has(self, held: &Held) -> bool {
        match self {
            Drop::Owner(owner) => held.locks.all().iter().any(|lock| lock.owner == owner),
            Drop::Handle(handle) => held.through.iter().any(|(through, _)| *through == handle),
        }
    }
}

/// Locks on files.
impl Client {
    /// Has `f` called when a lock goes that somebody may wait for. The first call counts.
    pub fn on_unlock(&self, f: OnUnlock) {
        let _ = self.core.on_unlock.set(f);
    }

    /// A lock of the other mounts' has gone, as the server says.
    pub(super) fn unlocked(core: &Core, ino: Ino) {
        if let Some(tell) = core.on_unlock.get() {
            tell(ino);
        }
    }

    /// Says for what programs here wait that other mounts have locked; which waits would never end.
    ///
    /// # Errors
    /// As for [`Server::waits`](crate::wire::Server::waits).
    pub fn waits(&self, after: Moment, waits: Vec<Waiting>) -> Result<Circled, FsError> {
        // What programs here gave back and no node knows of yet would be taken for theirs: until then nobody is said to wait.
        let is_told = self.core.late_unlocks.lock().is_empty();
        self.core.server.waits(after, if is_told { waits } else { Vec::new() })
    }

    /// Sets a lock, in place of what its owner had there, if nothing is in its way.
    ///
    /// # Errors
    /// `NoLocks`, `Stale`, `Lost`, `Unreachable`.
    pub fn lock(&self, ino: Ino, handle: Handle, lock: FileLock) -> Result<Locking, FsError> {
        // The kernel gives an owner's number to another when he is gone: what he had goes first.
        self.core.finish_late(ino)?;
        let locked = self.core.relock(ino, &|held| {
            if let Some(barring) = held.locks.barring(&lock) {
                return Err(barring.owner);
            }
            held.locks.set(lock);
            held.through.insert((handle, lock.owner));
            Ok(())
        })?;
        // In place of an exclusive lock there may be a shared one now.
        if locked == Locking::Done && !lock.exclusive {
            Client::unlocked(&self.core, ino);
        }
        Ok(locked)
    }

    /// Whether an owner on this mount has the file by flock(2).
    pub fn has_flock(&self, ino: Ino, owner: u64) -> bool {
        let has = |lock: &FileLock| lock.owner == owner && lock.is_flock();
        self.core.holds(ino, |held| held.locks.all().iter().any(has))
    }

    /// Drops what an owner has locked in these bytes.
    ///
    /// # Errors
    /// As for [`Client::lock`].
    pub fn unlock(&self, ino: Ino, owner: u64, first: u64, last: u64) -> Result<(), FsError> {
        let has = |lock: &FileLock| lock.owner == owner && lock.first <= last && first <= lock.last;
        if !self.core.holds(ino, |held| held.locks.all().iter().any(has)) {
            return Ok(());
        }
        self.core.relock(ino, &|held| {
            held.locks.clear(owner, first, last);
            Ok(())
        })?;
        Client::unlocked(&self.core, ino);
        Ok(())
    }

    /// An owner has closed a descriptor of the file: whatever it has locked of it goes. At the latest when nodes are there again.
    pub fn unlock_owner(&self, ino: Ino, owner: u64) {
        self.drop_locks(ino, Drop::Owner(owner));
    }

    /// The last descriptor of a handle is closed: what was locked through it goes, likewise.
    pub fn unlock_handle(&self, ino: Ino, handle: Handle) {
        self.drop_locks(ino, Drop::Handle(handle));
    }

    fn drop_locks(&self, ino: Ino, what: Drop) {
        if !self.core.holds(ino, |held| what.has(held)) {
            return;
        }
        let dropped = self.core.drop_now(ino, what);
        if let Err(error) = dropped
            && !crate::tsdb_client::patience::would_wait()
        {
            tracing::debug!(%ino, %error, "locks are dropped later");
            drop_later(&self.core, ino, what);
        }
    }

    /// A lock that is in the way of this one, if there is one. Of one of another mount, only what it covers and how is told.
    ///
    /// # Errors
    /// `Unreachable`, `Damaged`, `Io`.
    pub fn barring(&self, ino: Ino, wanted: &FileLock) -> Result<Option<FileLock>, FsError> {
        self.core.barring(ino, wanted)
    }
}

impl Core {
    fn holds(&self, ino: Ino, what: impl FnOnce(&Held) -> bool) -> bool {
        let local = self.enter();
        // What came of a change of them may not be known yet.
        local.relocking == Some(ino) || local.locks.get(&ino).is_some_and(what)
    }

    /// Changes what is locked of a file. `edit` fails with the owner of a lock that is in the way, and bears repeating.
    fn relock(
        &self,
        ino: Ino,
        edit: &dyn Fn(&mut Held) -> Result<(), u64>,
    ) -> Result<Locking, FsError> {
        let mut back_off = BackOff::new(self);
        loop {
            let mut local = self.enter_change()?;
            let right = right(&local, ino);
            if right == Right::Owned && !self.is_lapsed() {
                let mut held = local.locks.get(&ino).cloned().unwrap_or_default();
                let before = held.locks.all().len();
                if let Err(owner) = edit(&mut held) {
                    return Ok(Locking::Held(Some(owner)));
                }
                held.check_count(before)?;
                local.put_locks(ino, held);
                return Ok(Locking::Done);
            }
            drop(local);
            if !self.near {
                may_wait()?;
            }
            match right {
                Right::Owned => self.await_lease()?,
                Right::Leaving => self.await_given(ino)?,
                Right::Busy => drop(self.one_direct()?),
                Right::Nothing => {
                    if let Some(locking) = self.relock_shared(ino, edit, &mut back_off)? {
                        return Ok(locking);
                    }
                }
            }
        }
    }

    /// The same of a file that others may use. None where it is to be tried again.
    fn relock_shared(
        &self,
        ino: Ino,
        edit: &dyn Fn(&mut Held) -> Result<(), u64>,
        back_off: &mut BackOff<'_>,
    ) -> Result<Option<Locking>, FsError> {
        let turn = self.one_direct()?;
        let mut local = self.enter_change()?;
        if local.own.right(ino) != Right::Nothing {
            return Ok(None);
        }
        let mut held = local.locks.get(&ino).cloned().unwrap_or_default();
        let before = held.locks.clone();
        if let Err(owner) = edit(&mut held) {
            return Ok(Some(Locking::Held(Some(owner))));
        }
        held.check_count(before.all().len())?;
        if held.locks == before {
            local.put_locks(ino, held);
            return Ok(Some(Locking::Done));
        }
        self.close_open(&mut local);
        let mut direct = Direct::new();
        let locks = held.locks.all().to_vec();
        held.told = !locks.is_empty();
        direct.batch.push(Op::SetLocks { ino, locks }, self.options.owner);
        direct.batch.bytes = OP_BYTES;
        direct.touched.insert(ino);
        direct.after.push(Box::new(move |local| local.put_locks(ino, held)));
        local.relocking = Some(ino);
        let sent = self.send_direct(local, direct);
        drop(turn);
        match sent {
            Ok(Came::Applied(_)) => Ok(Some(Locking::Done)),
            Ok(Came::Again(more)) => {
                back_off.wait()?;
                // Whoever owns it is asked for it.
                self.renew(&mut Fresh::default(), more)?;
                Ok(None)
            }
            Err(FsError::Locked) => Ok(Some(Locking::Held(None))),
            Err(error) => Err(error),
        }
    }

    fn drop_now(&self, ino: Ino, what: Drop) -> Result<(), FsError> {
        self.relock(ino, &|held| {
            what.from(held);
            Ok(())
        })?;
        Client::unlocked(self, ino);
        Ok(())
    }

    fn barring(&self, ino: Ino, wanted: &FileLock) -> Result<Option<FileLock>, FsError> {
        let local = self.enter();
        let held = local.locks.get(&ino).and_then(|held| held.locks.barring(wanted)).copied();
        if held.is_some() || (right(&local, ino) == Right::Owned && !self.is_lapsed()) {
            return Ok(held);
        }
        drop(local);
        // Whoever owns it has to say what its programs have locked.
        let key = Bytes::copy_from_slice(&key::inode(ino));
        self.renew(&mut Fresh::default(), Some(key))?;
        let page = self.server.state(&StateKey::locks_on(ino), HOLDERS_MAX)?;
        for (key, row) in &page.rows {
            let Some(StateKey::Locks { session, .. }) = StateKey::decode(key) else { continue };
            let Locks(others) = Locks::from_row(key, row)?;
            let other =
                others.iter().find(|(other, _)| session != self.session && other.bars(wanted));
            if let Some((other, _)) = other {
                return Ok(Some(FileLock { owner: 0, pid: 0, ..*other }));
            }
        }
        Ok(None)
    }
}

/// What is past is nobody's to change: locks on it are of one mount.
fn right(local: &Local, ino: Ino) -> Right {
    if ino >= Ino::END { Right::Owned } else { local.own.right(ino) }
}

impl Change<'_> {
    /// What is locked of the inodes that are being given back goes into the batch that gives them back. `kept`: whose locks this
    /// client kept by itself before. Of all others the rows are newer, or will be.
    ///
    /// # Errors
    /// None: the op has no rules here.
    pub(super) fn tell_locks(&mut self, kept: &[Ino]) -> Result<(), FsError> {
        for ino in kept.iter().copied() {
            if self.local.own.right(ino) != Right::Leaving {
                continue;
            }
            let Some(held) = self.local.locks.get_mut(&ino) else { continue };
            let locks = held.locks.all().to_vec();
            if locks.is_empty() && !held.told {
                continue;
            }
            held.told = !locks.is_empty();
            self.run(Op::SetLocks { ino, locks })?;
        }
        Ok(())
    }
}

impl Local {
    /// The files whose locks are kept here and nowhere else.
    pub(super) fn own_locks(&self) -> Vec<Ino> {
        let own = |ino: &&Ino| self.own.keeps(**ino) && self.relocking != Some(**ino);
        self.locks.keys().filter(own).copied().collect()
    }

    fn put_locks(&mut self, ino: Ino, held: Held) {
        match held.is_idle() {
            true => drop(self.locks.remove(&ino)),
            false => drop(self.locks.insert(ino, held)),
        }
    }
}

/// For what cannot be said now. One thread does it for all.
fn drop_later(core: &Arc<Core>, ino: Ino, what: Drop) {
    let mut late = core.late_unlocks.lock();
    late.insert((ino, what));
    if late.len() > 1 {
        return;
    }
    let of = core.clone();
    let work = move || while of.drop_late() {};
    if let Err(error) = std::thread::Builder::new().name("tsfs-unlock".to_owned()).spawn(work) {
        // Tried again with the next.
        late.clear();
        tracing::warn!(%error, %ino, "locks stay until the mount ends");
    }
}

impl Core {
    /// Whether there is more to do.
    fn drop_late(&self) -> bool {
        self.pause(LATE_EVERY);
        let late: Vec<_> = self.late_unlocks.lock().iter().copied().collect();
        for (ino, what) in late {
            // Once the session is over, its locks are as well.
            let over = self.journal.check().is_err() || self.enter().ended;
            if over {
                self.late_unlocks.lock().remove(&(ino, what));
            } else if let Err(error) = self.drop_one_late(ino, what) {
                tracing::debug!(%ino, %error, "locks are dropped later still");
            }
        }
        !self.late_unlocks.lock().is_empty()
    }

    /// Drops what was to be dropped of a file's locks before, and could not be.
    fn finish_late(&self, ino: Ino) -> Result<(), FsError> {
        let of = |late: &&(Ino, Drop)| late.0 == ino;
        let late: Vec<_> = self.late_unlocks.lock().iter().filter(of).copied().collect();
        late.into_iter().try_for_each(|(ino, what)| self.drop_one_late(ino, what))
    }

    /// One at a time, and each once: behind it the owner's number may be another's.
    fn drop_one_late(&self, ino: Ino, what: Drop) -> Result<(), FsError> {
        if !self.near {
            may_wait()?;
        }
        let _turn = self.late_turn.lock();
        if self.late_unlocks.lock().contains(&(ino, what)) {
            self.drop_now(ino, what)?;
            self.late_unlocks.lock().remove(&(ino, what));
        }
        Ok(())
    }
}
