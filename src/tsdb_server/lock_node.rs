//! The role lock: who may answer by itself, who is asked to give back, who waits for whom.
//!
//! Drives `lease` for as long as this node leads: carries out its actions, tells sessions, proposes. What is decided stands in
//! rows and is decided at apply; here are only waiting and reminding. Not here: connections, which attend sessions with a
//! [`Listener`], and which questions must ask first (`touch`).
//!
//! Locks, in order: `opened` → `office`. No listener is called, nothing is proposed and nobody waits for an entry under `office`.

mod circles;
pub(super) mod copies;
mod office;
mod rights;
mod status;
#[cfg(test)]
mod tests;
mod tick;
mod wait;
mod wishes;

pub use status::Grants;
pub use status::Standing;

use crate::env::Clock;
use crate::lease::Gone;
use crate::lease::Options;
use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::meta::record::Next;
use crate::meta::record::Record;
use crate::meta::record::Session;
use crate::meta::record::Store;
use crate::series::table::Family;
use crate::series::table::Table;
use crate::tsdb_server::lock_node::office::Call;
use crate::tsdb_server::lock_node::office::Office;
use crate::tsdb_server::lock_node::rights::Rights;
use crate::tsdb_server::lock_node::tick::Ticker;
use crate::tsdb_server::lock_node::wishes::Wishes;
use crate::tsdb_server::node::Node;
use crate::tsdb_server::task::Tasks;
use crate::tsdb_server::turns::Turns;
use crate::types::FsError;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::Term;
use crate::wire::Listener;
use crate::wire::Welcome;
use crate::wire::message::Renewed;
use parking_lot::Condvar;
use parking_lot::Mutex;
use parking_lot::RwLock;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::thread::JoinHandle;
use std::thread::current;
use std::time::Duration;

/// Sessions that were begun here of which is known what they were asked for with.
const OPENED_MAX: usize = 256;
/// A new leader is given so long to apply what was committed before it led.
const CATCH_UP: Duration = Duration::from_secs(3);

/// What the role needs of its node.
pub trait Log: Send + Sync {
    /// Waits until it is applied.
    ///
    /// # Errors
    /// `Refused` where nothing was changed; `NotLeader`, `Io`, `Closing`.
    fn propose(&self, op: Op) -> Result<Stamp, FsError>;

    /// As of [`wire::Server`](crate::wire::Server).
    ///
    /// # Errors
    /// As for `propose`.
    fn barrier(&self) -> Result<Stamp, FsError>;

    /// The term in which this node leads, as far as it knows.
    fn reign(&self) -> Option<Term>;

    /// Returns once everything that was committed when this was called is applied here, and this node surely leads.
    ///
    /// # Errors
    /// `NotLeader`; `Unreachable` after `patience`.
    fn catch_up(&self, patience: Duration) -> Result<(), FsError>;

    fn space_left(&self) -> u64;

    /// The store's identity, for people and logs.
    fn store(&self) -> String;
}

/// See the module's text.
pub struct LockNode {
    me: Weak<LockNode>,
    log: Weak<dyn Log>,
    rows: Arc<dyn Table>,
    turns: Arc<Turns>,
    /// Counts what may have taken locks on files away.
    locked: Arc<Turns>,
    wishes: Wishes,
    clock: Arc<dyn Clock>,
    options: Options,
    /// The last reign, which may be over: [`LockNode::in_office`] looks.
    office: Mutex<Option<Office>>,
    /// A session has flushed, time has passed, or the reign has ended.
    told: Condvar,
    rights: RwLock<Arc<Rights>>,
    /// Which openings began which sessions, oldest first. Locked while one is opened: the next number is read, then proposed.
    opened: Mutex<VecDeque<(u64, SessionId)>>,
    tasks: Mutex<Option<Tasks>>,
    stopped: AtomicBool,
    granter: Mutex<Option<JoinHandle<()>>>,
}

impl LockNode {
    /// The role of this node, with a thread that looks at leases.
    ///
    /// # Errors
    /// `Io` where there can be no more threads.
    pub fn start(node: &Arc<Node>, clock: Arc<dyn Clock>) -> Result<Arc<LockNode>, FsError> {
        let log: Weak<Node> = Arc::downgrade(node);
        let locks =
            LockNode::new(log, node.table(), node.turns(), clock.clone(), Options::default());
        let watching = Arc::downgrade(&locks);
        node.on_leader_change(move |_| {
            if let Some(locks) = watching.upgrade() {
                locks.wake();
            }
        });
        let mut tasks = Tasks::new(clock);
        tasks.start(Ticker { locks: Arc::downgrade(&locks) })?;
        *locks.tasks.lock() = Some(tasks);
        *locks.granter.lock() = Some(wishes::start(Arc::downgrade(&locks))?);
        Ok(locks)
    }

    /// Nobody is ended or given anything any more. Whoever waits is told.
    pub fn stop(&self) {
        let tasks = self.tasks.lock().take();
        drop(tasks);
        let former = self.office.lock().take();
        self.stopped.store(true, Release);
        self.locked.turn();
        self.wake();
        drop(former);
        let granter = self.granter.lock().take();
        if let Some(granter) = granter.filter(|thread| thread.thread().id() != current().id()) {
            // A thread that panicked said so itself.
            let _ = granter.join();
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Acquire)
    }

    /// Without a thread: whoever has it ticks.
    pub fn new(
        log: Weak<dyn Log>,
        rows: Arc<dyn Table>,
        (turns, locked): (Arc<Turns>, Arc<Turns>),
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Arc<LockNode> {
        Arc::new_cyclic(|me| LockNode {
            me: me.clone(),
            log,
            rows,
            turns,
            locked,
            wishes: Wishes::default(),
            clock,
            options,
            office: Mutex::new(None),
            told: Condvar::new(),
            rights: RwLock::default(),
            opened: Mutex::default(),
            tasks: Mutex::new(None),
            stopped: AtomicBool::new(false),
            granter: Mutex::new(None),
        })
    }

    /// Whoever waits looks anew: another node may lead.
    pub fn wake(&self) {
        self.told.notify_all();
        self.turns.turn();
    }

    fn log(&self) -> Result<Arc<dyn Log>, FsError> {
        self.log.upgrade().ok_or(FsError::Closing)
    }

    /// What the rows say now.
    fn rights(&self) -> Result<Arc<Rights>, FsError> {
        let turn = self.turns.now();
        let known = self.rights.read().clone();
        if known.turn >= Some(turn) {
            return Ok(known);
        }
        let read = Arc::new(Rights::read(&*self.rows.snapshot(), turn)?);
        let mut rights = self.rights.write();
        if rights.turn < read.turn {
            *rights = read.clone();
        }
        Ok(read)
    }

    /// Works on the reign as the rows are now, then tells sessions what is to be told.
    fn in_office<T>(
        &self,
        work: impl FnOnce(&mut Office, &Rights, Duration) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let log = self.log()?;
        let term = self.reign(&*log)?;
        let rights = self.rights()?;
        let (done, calls, former) = {
            let mut office = self.office.lock();
            // Under the lock, so that no call comes with an earlier time than the one before.
            let now = self.clock.steady();
            let is_new = office.as_ref().is_none_or(|office| office.term < term);
            let former = is_new
                .then(|| office.replace(Office::new(term, self.options, &rights, now)))
                .flatten();
            let office = office.as_mut().filter(|office| office.term == term);
            let office = office.ok_or(FsError::NotLeader { leader: None })?;
            let done =
                office.follow(&rights, &*self.rows, now).and_then(|()| work(office, &rights, now));
            (done, std::mem::take(&mut office.calls), former)
        };
        // A listener may be a connection, and go with its last reference: not under the lock.
        drop(former);
        for (listener, call) in calls {
            self.tell(&*listener, call);
        }
        done
    }

    /// The term in which this node leads. In a new one, everything that was committed before is applied first: only then the rows say
    /// which sessions there are.
    fn reign(&self, log: &dyn Log) -> Result<Term, FsError> {
        let not_leader = FsError::NotLeader { leader: None };
        let Some(term) = log.reign() else {
            // Connections are not kept for a reign that is over.
            let former = self.office.lock().take();
            drop(former);
            return Err(not_leader);
        };
        if self.office.lock().as_ref().is_some_and(|office| office.term >= term) {
            return Ok(term);
        }
        log.catch_up(CATCH_UP)?;
        // It may have lost and regained the lead meanwhile; what is applied then is no less.
        log.reign().ok_or(not_leader)
    }

    fn tell(&self, listener: &dyn Listener, call: Call) {
        match call {
            Call::Recall(what) => listener.recall(what),
            Call::Flush { session, round } => {
                let me = self.me.clone();
                listener.flush(Box::new(move || {
                    if let Some(me) = me.upgrade() {
                        me.flushed(session, round);
                    }
                }));
            }
            Call::Whole(whole) => listener.whole(whole),
            Call::TakeBack(ask) => self.take_back(listener, ask),
            Call::Ended(why) => {
                listener.ended(&why);
                self.told.notify_all();
            }
            Call::Unlocked(ino) => listener.unlocked(ino),
            Call::Replaced => {}
        }
    }

    // Sessions.

    /// Begins a session, with a lease. Waits until it is in the log. Who asks again with the same `opening`, as no answer reached him,
    /// is told of the session that he began, unless another node has come to lead in between: then that ends with its lease.
    ///
    /// # Errors
    /// `NotLeader`, `NoSpace`, `Io`, `Closing`.
    pub fn open_session(&self, client: &str, opening: u64) -> Result<(Welcome, Duration), FsError> {
        let log = self.log()?;
        let session = self.begin_session(&*log, client, opening)?;
        let whole = self.in_office(|_, rights, _| Ok(rights.whole_of(session)))?;
        let epoch = whole.map_or(self.must::<Next>(&StateKey::Next)?.epoch, |whole| whole.epoch);
        let hash_key = self.must::<Store>(&StateKey::Store)?.hash_key;
        let welcome = Welcome { session, epoch, whole, hash_key, store: log.store() };
        Ok((welcome, self.options.lease))
    }

    fn begin_session(
        &self,
        log: &dyn Log,
        client: &str,
        opening: u64,
    ) -> Result<SessionId, FsError> {
        let mut opened = self.opened.lock();
        if let Some((_, session)) = opened.iter().rev().find(|(of, _)| *of == opening) {
            let row = self.record::<Session>(&StateKey::Session { session: *session })?;
            if row.is_some_and(|row| row.is_open()) {
                return Ok(*session);
            }
        }
        let session = self.must::<Next>(&StateKey::Next)?.session;
        log.propose(Op::OpenSession { session, client: client.to_owned() })?;
        if opened.len() == OPENED_MAX {
            opened.pop_front();
        }
        opened.push_back((opening, session));
        Ok(session)
    }

    /// The session lives in this process: it needs no lease.
    ///
    /// # Errors
    /// `NotLeader`.
    pub fn keep(&self, session: SessionId) -> Result<(), FsError> {
        self.in_office(|office, _, _| {
            office.leases.keep(session);
            Ok(())
        })
    }

    /// The session is told things through `listener` from now on: at once what it was told before and may have missed.
    ///
    /// # Errors
    /// `Fenced` where it is not open; `NotLeader`.
    pub fn attend(
        &self,
        session: SessionId,
        listener: Arc<dyn Listener>,
    ) -> Result<Renewed, FsError> {
        let space = self.log()?.space_left();
        self.in_office(|office, rights, now| {
            let actions = office.leases.attend(session, now).map_err(|Gone| FsError::Fenced)?;
            let asks = office.copies.attend(session, now);
            if let Some(former) = office.listeners.insert(session, listener) {
                office.calls.push((former, Call::Replaced));
            }
            office.act(actions);
            office.take_back(asks);
            Ok(self.renewed(rights, session, space))
        })
    }

    /// The listener is deaf. Nothing happens where another has taken its place.
    pub fn unattend(&self, session: SessionId, listener: &Arc<dyn Listener>) {
        // Where this node does not lead, there is nothing to undo.
        let _ = self.in_office(|office, _, _| {
            let known = office.listeners.get(&session);
            if known
                .is_some_and(|known| std::ptr::addr_eq(Arc::as_ptr(known), Arc::as_ptr(listener)))
            {
                office.leases.unattend(session);
                office.copies.unattend(session);
                office.call(session, Call::Replaced);
                office.listeners.remove(&session);
            }
            Ok(())
        });
    }

    /// The session was heard of.
    ///
    /// # Errors
    /// `Fenced` where it is not open, or about to be ended; `NotLeader`.
    pub fn renew(&self, session: SessionId) -> Result<Renewed, FsError> {
        let space = self.log()?.space_left();
        self.in_office(|office, rights, now| {
            office.leases.renew(session, now).map_err(|Gone| FsError::Fenced)?;
            let actions = office.leases.repeat(session);
            office.act(actions);
            Ok(self.renewed(rights, session, space))
        })
    }

    fn renewed(&self, rights: &Rights, session: SessionId, space: u64) -> Renewed {
        let lease_ms = u64::try_from(self.options.lease.as_millis()).unwrap_or(u64::MAX);
        Renewed { lease_ms, whole: rights.whole_of(session), space }
    }

    /// The session is not renewed any more, and ends with its lease.
    ///
    /// # Errors
    /// `Fenced` where it is not open, or to be ended anyway; `NotLeader`.
    pub fn evict(&self, session: SessionId) -> Result<(), FsError> {
        self.in_office(|office, _, _| {
            let why = "an operator has ended it";
            office.leases.evict(session, why).map_err(|Gone| FsError::Fenced)
        })
    }

    fn record<R: Record>(&self, key: &StateKey) -> Result<Option<R>, FsError> {
        let key = key.encode();
        self.rows.get(Family::State, &key)?.map(|row| R::from_row(&key, &row)).transpose()
    }

    fn must<R: Record>(&self, key: &StateKey) -> Result<R, FsError> {
        let none = || FsError::Damaged(format!("the store has no row {key:?}"));
        self.record(key)?.ok_or_else(none)
    }
}
