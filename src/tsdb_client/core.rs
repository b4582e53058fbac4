//! What the calls and the threads of a client share, and how they get at it.
//!
//! Not here: what a change does (`change`), how changes leave (`lane`).

use crate::env::Clock;
use crate::meta::apply::Rules;
use crate::tsdb_client::Caller;
use crate::tsdb_client::OnInvalidate;
use crate::tsdb_client::Options;
use crate::tsdb_client::ahead::Ahead;
use crate::tsdb_client::belief::Belief;
use crate::tsdb_client::blocks::Blocks;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::copies::Copies;
use crate::tsdb_client::fresh::Fresh;
use crate::tsdb_client::journal::Journal;
use crate::tsdb_client::local::ClosedBatch;
use crate::tsdb_client::local::Local;
use crate::tsdb_client::locks;
use crate::tsdb_client::locks::OnUnlock;
use crate::tsdb_client::own::Own;
use crate::tsdb_client::own::Right;
use crate::tsdb_client::pages::Pages;
use crate::tsdb_client::paths::Paths;
use crate::tsdb_client::patience::may_wait;
use crate::tsdb_client::pool::Pool;
use crate::tsdb_client::refused::Saved;
use crate::tsdb_client::rows::Rows;
use crate::tsdb_client::view::Fetch;
use crate::tsdb_client::view::Missed;
use crate::tsdb_client::view::Mode;
use crate::types::BatchSeq;
use crate::types::Era;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::Time;
use crate::wire::Server;
use crate::wire::Welcome;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use parking_lot::MutexGuard;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// The share of copies of what is nobody's in the bytes that rows may take besides.
const COPIES_SHARE: u64 = 2;
/// And that pages of what is owned may take.
const PAGES_SHARE: u64 = 4;

/// How often somebody who waits for changes to go on looks whether he is to wait.
const FROZEN_LOOK_EVERY: Duration = Duration::from_millis(200);

/// How often somebody looks whether the lease is renewed who has reached the server meanwhile.
const LEASE_LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Core {
    pub(super) server: Arc<dyn Server>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: Options,
    /// The server is in this process: it answers at once, and everything is owned for ever.
    pub(super) near: bool,
    pub(super) session: SessionId,
    pub(super) epoch: u64,
    pub(super) store: String,
    /// When the session began, by this machine's clock.
    pub(super) opened: Stamp,
    pub(super) rules: Rules,
    pub(super) rows: Rows,
    pub(super) pages: Pages,
    pub(super) blocks: Arc<Blocks>,
    pub(super) pool: Pool,
    pub(super) ahead: Ahead,
    pub(super) journal: Arc<Journal>,
    local: Mutex<Local>,
    /// The flusher waits here.
    pub(super) work: Condvar,
    /// Changes wait here while they are frozen.
    thawed: Condvar,
    /// Those wait here who need an inode that is being given back.
    pub(super) given: Condvar,
    /// Held by whoever makes a direct change.
    pub(super) one_direct: Mutex<()>,
    pub(super) on_invalidate: OnceLock<OnInvalidate>,
    pub(super) on_unlock: OnceLock<OnUnlock>,
    /// What could not be said yet of locks that have gone.
    pub(super) late_unlocks: Mutex<BTreeSet<(Ino, locks::Drop)>>,
    /// Held by whoever says one of them.
    pub(super) late_turn: Mutex<()>,
    /// Held by whoever proposes.
    pub(super) lane: Mutex<()>,
    /// What the lane's holder is at; where something was lost, also what it gave up. Locked inside `local`, and outside `progress`.
    pub(super) leaving: Mutex<VecDeque<ClosedBatch>>,
    /// Names for a file of refused work.
    pub(super) paths: Paths,
    /// What became of the work that was refused.
    pub(super) saved: OnceLock<Saved>,
    /// The last direct batch that was proposed. Read and written with the lane held.
    pub(super) last_direct: AtomicU64,
    /// The latest instant that nothing can be stamped before any more, as far as is known.
    pub(super) readable: AtomicU64,
    pub(super) belief: Belief,
}

impl Core {
    /// # Errors
    /// Where a thread cannot be started.
    pub(super) fn new(
        server: Arc<dyn Server>,
        clock: Arc<dyn Clock>,
        options: Options,
        welcome: Welcome,
    ) -> Result<Core, FsError> {
        let no_thread = |error| FsError::io("start a worker thread", &error);
        let pool = Pool::start("tsfs-work", options.workers).map_err(no_thread)?;
        let ahead = Ahead::start(options.block_cache_bytes).map_err(no_thread)?;
        let near = server.lease() == Duration::MAX;
        // A server in this process is asked again.
        let for_pages = if near { 0 } else { options.row_cache_bytes / PAGES_SHARE };
        let own = Own::new(near, welcome.whole);
        let copies = Copies::new(options.row_cache_bytes / COPIES_SHARE);
        Ok(Core {
            near,
            session: welcome.session,
            epoch: welcome.epoch,
            store: welcome.store,
            opened: clock.wall(),
            rules: Rules::new(welcome.hash_key),
            rows: Rows::new(options.row_cache_bytes - for_pages),
            pages: Pages::new(for_pages),
            blocks: Arc::new(Blocks::new(options.block_cache_bytes, server.clone())),
            pool,
            ahead,
            journal: Arc::default(),
            local: Mutex::new(Local::new(own, copies)),
            work: Condvar::new(),
            thawed: Condvar::new(),
            given: Condvar::new(),
            one_direct: Mutex::new(()),
            on_invalidate: OnceLock::new(),
            on_unlock: OnceLock::new(),
            late_unlocks: Mutex::default(),
            late_turn: Mutex::new(()),
            lane: Mutex::new(()),
            leaving: Mutex::default(),
            paths: Paths::new(options.refused.is_some()),
            saved: OnceLock::new(),
            last_direct: AtomicU64::new(0),
            readable: AtomicU64::new(0),
            belief: Belief::default(),
            server,
            clock,
            options,
        })
    }

    pub(super) fn now(&self) -> Time {
        self.clock.time()
    }

    /// Whether the caller may do what needs the owner of the mount.
    pub(super) fn is_owner(&self, caller: Caller) -> bool {
        caller.uid == 0 || caller.uid == self.options.owner
    }

    /// The lock, whatever has come since: not for looking at rows.
    pub(super) fn lock(&self) -> MutexGuard<'_, Local> {
        self.local.lock()
    }

    /// The lock, with rows demoted as far as the server has come.
    pub(super) fn enter(&self) -> MutexGuard<'_, Local> {
        let mut local = self.local.lock();
        self.demote(&mut local);
        self.follow(&mut local);
        local
    }

    /// In which era copies count, and until when: never past the lease, for an ended session is asked for none.
    pub(super) fn copying(&self, used: bool) -> (Era, Duration) {
        let (era, until) = self.server.copying(used);
        (era, until.min(self.server.lease()))
    }

    /// Uses no copy that does not count any more.
    fn follow(&self, local: &mut Local) {
        if !local.copies.is_empty() {
            let used = local.copies.take_used();
            local.copies.follow(self.copying(used), self.clock.steady());
        }
    }

    /// The same, for a change.
    ///
    /// # Errors
    /// `Lost`, `Closing`.
    pub(super) fn enter_change(&self) -> Result<MutexGuard<'_, Local>, FsError> {
        let mut local = self.local.lock();
        while local.frozen && !local.ended {
            if self.near {
                self.thawed.wait(&mut local);
                continue;
            }
            may_wait()?;
            self.journal.may_wait()?;
            self.thawed.wait_for(&mut local, FROZEN_LOOK_EVERY);
        }
        self.journal.check()?;
        if local.ended {
            return Err(FsError::Closing);
        }
        self.demote(&mut local);
        self.follow(&mut local);
        Ok(local)
    }

    fn demote(&self, local: &mut Local) {
        let applied = self.journal.applied();
        if applied <= local.demoted {
            return;
        }
        local.series.demote(applied, |key, value| self.rows.put(key, value));
        // Rows of state are asked of the server when they are needed, which is seldom.
        local.state.demote(applied, |_, _| {});
        while let Some((batch, _)) = local.named.front()
            && *batch <= applied
        {
            let (_, blocks) = local.named.pop_front().expect("it has a front");
            for block in blocks {
                local.pending.remove(&block);
            }
        }
        local.own.applied(applied);
        local.demoted = applied;
        local.turn += 1;
    }

    /// Runs a change inside one hold of the lock. Where a row is missing, the attempt fails, the row is fetched without
    /// the lock, and the change runs again: what it does before its last op must bear repeating.
    ///
    /// # Errors
    /// Those of the change; `Lost`, `Closing`, `Io`.
    pub(super) fn change<T>(
        &self,
        run: impl FnMut(&mut Change<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.change_by(self.options.owner, run)
    }

    /// The same, for a user of the mount.
    ///
    /// # Errors
    /// As for [`Core::change`].
    pub(super) fn change_by<T>(
        &self,
        uid: u32,
        run: impl FnMut(&mut Change<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.change_on(Fresh::default(), uid, run)
    }

    /// The same, first tried on hints, which are not of one moment: for what looks at one row of an inode at most, and at what is behind
    /// it not at all.
    ///
    /// # Errors
    /// As for [`Core::change`].
    pub(super) fn change_on_hints<T>(
        &self,
        uid: u32,
        run: impl FnMut(&mut Change<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.change_on(Fresh::guessing(), uid, run)
    }

    fn change_on<T>(
        &self,
        mut fresh: Fresh,
        uid: u32,
        mut run: impl FnMut(&mut Change<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let mut round = 0;
        loop {
            let mut local = self.enter_change()?;
            let fetch = Fetch::after(round, self.near);
            let mut change = Change::new(self, &mut local, fetch, Mode::Local(&mut fresh));
            change.by = uid;
            let result = run(&mut change);
            match (result, change.missed()) {
                (Err(_), Some(missed @ (Missed::Fresh(_) | Missed::Direct))) => {
                    let now = self.clock.steady();
                    let guesses = fresh.guesses();
                    let guessed = |key: &Bytes| guesses && local.hints.get(key, now).is_some();
                    let at_hand = match &missed {
                        Missed::Fresh(keys) => keys.iter().all(guessed),
                        _ => true,
                    };
                    drop(local);
                    if !at_hand {
                        self.obtain(missed, 0, &mut fresh)?;
                    }
                    return self.direct(uid, fresh, run);
                }
                (Err(_), Some(missed)) => {
                    let turn = local.turn;
                    drop(local);
                    self.obtain(missed, turn, &mut fresh)?;
                }
                (result, _) => {
                    self.close_if_full(&mut local);
                    return result;
                }
            }
            round += 1;
        }
    }

    /// The server, for a question that may have to wait for it.
    ///
    /// # Errors
    /// Where this thread may not wait.
    pub(super) fn ask(&self) -> Result<&dyn Server, FsError> {
        if !self.near {
            may_wait()?;
        }
        Ok(&*self.server)
    }

    /// Whether nothing may be answered from what is owned, because the server may have given it to others.
    pub(super) fn is_lapsed(&self) -> bool {
        !self.near && self.clock.steady() >= self.server.lease()
    }

    /// How long the kernel may believe what it is told of an inode: at most half of what is left of the lease, for it counts from later.
    pub(super) fn valid(&self, ino: Ino) -> Duration {
        let now = self.clock.steady();
        let local = self.local.lock();
        match local.own.right(ino) {
            Right::Owned if !local.own.fades(ino) => {
                self.belief.owned(now, self.server.lease().saturating_sub(now) / 2)
            }
            Right::Nothing if local.copies.gained(ino).is_some() => {
                self.belief.shared(now, self.copying(true).1.saturating_sub(now) / 2)
            }
            _ => self.belief.shared(now, Duration::ZERO),
        }
    }

    /// How long the kernel may believe what it is told of names in a directory: only of one that is owned.
    pub(super) fn names_valid(&self, dir: Ino) -> Duration {
        let now = self.clock.steady();
        let local = self.local.lock();
        match local.own.right(dir) {
            Right::Owned if !local.own.fades(dir) => {
                self.belief.owned(now, self.server.lease().saturating_sub(now) / 2)
            }
            _ => self.belief.shared(now, Duration::ZERO),
        }
    }

    /// Waits until the lease is renewed, for as long as the server lets those wait who ask it.
    pub(super) fn await_lease(&self) -> Result<(), FsError> {
        while self.is_lapsed() && self.journal.check().is_ok() {
            self.server.barrier()?;
            if self.is_lapsed() {
                self.pause(LEASE_LOOK_EVERY);
            }
            if self.local.lock().ended {
                return Err(FsError::Closing);
            }
        }
        Ok(())
    }

    /// Waits until what rests on having owned an inode is applied: from then on it is as the server says.
    pub(super) fn await_given(&self, ino: Ino) -> Result<(), FsError> {
        let mut local = self.enter();
        while local.own.right(ino) == Right::Leaving {
            if let Some(seq) = local.own.given_by(ino) {
                drop(local);
                return self.journal.wait_applied(seq);
            }
            self.journal.check()?;
            self.given.wait(&mut local);
        }
        Ok(())
    }

    /// No change is taken any more; the number of the last batch.
    pub(super) fn end(&self) -> BatchSeq {
        let mut local = self.enter();
        local.ended = true;
        local.copies.leave_all();
        let last = self.close_open(&mut local);
        self.thawed.notify_all();
        last
    }

    /// The flusher ends.
    pub(super) fn stop(&self) {
        self.local.lock().stopped = true;
        self.work.notify_all();
        self.thawed.notify_all();
        self.given.notify_all();
    }

    /// Waits, less where the client ends.
    pub(super) fn pause(&self, time: Duration) {
        let mut local = self.local.lock();
        let until = self.clock.steady() + time;
        while !local.ended {
            let left = until.saturating_sub(self.clock.steady());
            if left.is_zero() || self.thawed.wait_for(&mut local, left).timed_out() {
                return;
            }
        }
    }

    /// Keeps changes out until it is dropped.
    pub(super) fn freeze(&self) -> Result<Frozen<'_>, FsError> {
        let mut local = self.enter_change()?;
        local.frozen = true;
        Ok(Frozen { core: self })
    }
}

/// Changes wait while it lives.
pub(super) struct Frozen<'a> {
    core: &'a Core,
}

impl Frozen<'_> {
    /// Closes the open batch; the number of the last closed one.
    pub(super) fn close(&self) -> BatchSeq {
        let mut local = self.core.enter();
        self.core.close_open(&mut local)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.core.local.lock().frozen = false;
        self.core.thawed.notify_all();
    }
}
