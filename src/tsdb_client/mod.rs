//! The client: answers a mount locally and streams the changes behind it.
//!
//! Reads go to what this client has not committed yet, then to its cache, then to the server. Changes run the rules of
//! `meta` over the same view, so a local success cannot fail later, and enter the journal, which sends them in order.
//! `docs/decisions/0006-client-journal.md` says what holds.
//!
//! Not here: the kernel's protocol and the `.tsfs` names (`fuse`), permission bits of ordinary calls (the kernel checks
//! them), where a server is (`wire::Server`).

mod ahead;
mod apart;
mod api;
mod belief;
mod blocks;
mod change;
mod contents;
mod control;
mod copies;
mod core;
mod crowd;
mod direct;
mod dirty;
mod ear;
mod files;
mod fresh;
mod hints;
mod journal;
mod lane;
mod listing;
mod local;
mod locks;
mod merge;
mod names;
mod obtain;
mod orphans;
mod overlay;
pub mod own;
mod pages;
mod past;
mod paths;
pub mod patience;
mod pending;
pub mod permission;
mod pool;
mod ranges;
mod reader;
mod recall;
mod refused;
pub mod remote;
mod rows;
mod seal;
mod view;

pub use api::Allocate;
pub use api::Caller;
pub use api::Compression;
pub use api::Deleted;
pub use api::DirEntry;
pub use api::FileVersion;
pub use api::Handle;
pub use api::Invalidate;
pub use api::Marked;
pub use api::New;
pub use api::OnInvalidate;
pub use api::Options;
pub use api::SeekFor;
pub use api::Space;
pub use api::Synced;
pub use api::Wait;
pub use locks::Locking;
pub use locks::OnUnlock;
pub use refused::ENDING as REFUSED_ENDING;
pub use refused::SaveTo;

pub use crate::meta::lock::FileLock;
pub use crate::meta::op::RenameHow;
pub use crate::meta::op::SetAttr;
pub use crate::meta::op::XattrHow;

use crate::env::Clock;
use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::series::KeyRange;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::ear::Ear;
use crate::tsdb_client::lane::Driver;
use crate::types::FsError;
use crate::types::Ino;
use crate::wire::Server;
use crate::wire::control::Answer;
use crate::wire::control::Request;
use parking_lot::Mutex;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

/// What the kernel must forget and was not told yet. A restore of a large tree waits for the kernel beyond this.
const INVALIDATIONS_MAX: usize = 1024;

/// One session of one mount. All calls may come from any thread. Closes itself when dropped.
pub struct Client {
    core: Arc<Core>,
    ear: Arc<Ear>,
    listener: Mutex<Option<JoinHandle<()>>>,
    flusher: Mutex<Option<JoinHandle<()>>>,
    /// Where others may remove files that are open here.
    orphans: Mutex<Option<JoinHandle<()>>>,
    /// Where refused work is to be saved.
    saver: Mutex<Option<JoinHandle<()>>>,
    forget: Mutex<Option<Forget>>,
    /// What closing came to; held while it is under way.
    closed: Mutex<Option<Result<(), FsError>>>,
}

/// The thread that tells the kernel what to forget.
struct Forget {
    queue: SyncSender<Tell>,
    thread: JoinHandle<()>,
}

enum Tell {
    Forget(Vec<Invalidate>),
    /// Everything before it was told: said by letting go of this.
    Reached(SyncSender<()>),
}

/// Opening and closing.
impl Client {
    /// Begins a session. Waits until it is in the log.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `Closing`.
    pub fn open(
        server: Arc<dyn Server>,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<Arc<Client>, FsError> {
        let ear = Arc::new(Ear::default());
        let welcome = server.open_session(&options.name, ear.clone())?;
        let core = Arc::new(Core::new(server, clock, options, welcome)?);
        ear.attach(core.journal.clone());
        core.refill_inos()?;
        let for_flusher = core.clone();
        let flusher = start("tsfs-flush", move || for_flusher.flush_until_stopped())?;
        let (queue, told) = sync_channel(INVALIDATIONS_MAX);
        let for_forget = core.clone();
        let thread = start("tsfs-forget", move || {
            for what in told {
                match (what, for_forget.on_invalidate.get()) {
                    (Tell::Forget(what), Some(tell)) => tell(&what),
                    (Tell::Forget(_), None) => {}
                    (Tell::Reached(waiting), _) => drop(waiting),
                }
            }
        })?;
        let (for_listener, heard, kernel) = (core.clone(), ear.clone(), queue.clone());
        let listener = start("tsfs-listen", move || for_listener.listen(&heard, &kernel))?;
        let for_orphans = core.clone();
        let orphans = (!core.near)
            .then(|| start("tsfs-orphans", move || for_orphans.look_after_orphans()))
            .transpose()?;
        let for_saver = core.clone();
        let saver = core
            .saves()
            .then(|| start("tsfs-refused", move || for_saver.save_when_lost()))
            .transpose()?;
        let saver = Mutex::new(saver);
        let (listener, flusher) = (Mutex::new(Some(listener)), Mutex::new(Some(flusher)));
        let orphans = Mutex::new(orphans);
        let forget = Mutex::new(Some(Forget { queue, thread }));
        let closed = Mutex::default();
        Ok(Arc::new(Client { core, ear, listener, flusher, orphans, saver, forget, closed }))
    }

    /// Sends everything, waits until it is durable, ends the session. Every later change answers `Closing`. A second
    /// call waits for the first, and answers the same.
    ///
    /// # Errors
    /// `Lost` where something that programs saw succeed was lost.
    pub fn close(&self) -> Result<(), FsError> {
        let mut closed = self.closed.lock();
        if let Some(outcome) = &*closed {
            return outcome.clone();
        }
        let outcome = self.close_once();
        *closed = Some(outcome.clone());
        outcome
    }

    fn close_once(&self) -> Result<(), FsError> {
        let Some(flusher) = self.flusher.lock().take() else { return Ok(()) };
        let last = self.core.end();
        if self.core.near {
            self.core.drive(Driver::Flusher);
        } else {
            // Which may be waiting for nodes that are away: how long that is waited for, is said below.
            self.core.ask_flusher(&mut self.core.enter());
        }
        let sent = self.core.await_applied(last);
        // That the session is over is no news from here on.
        self.ear.close();
        let ended = sent.and_then(|()| self.end_session());
        if ended.is_err() {
            // The flusher may be waiting for nodes that are away.
            self.core.server.abandon();
        }
        if let Err(error) = &ended
            && self.core.journal.applied() < last
        {
            self.core.journal.lose(&error.to_string());
        }
        self.core.stop();
        if flusher.join().is_err() {
            tracing::error!("the flusher panicked");
        }
        self.core.journal.finish();
        if let Some(saver) = self.saver.lock().take() {
            let _ = saver.join();
        }
        if let Some(orphans) = self.orphans.lock().take() {
            // A thread that panicked said so itself.
            let _ = orphans.join();
        }
        if let Some(listener) = self.listener.lock().take() {
            let _ = listener.join();
        }
        if let Some(Forget { queue, thread }) = self.forget.lock().take() {
            drop(queue);
            let _ = thread.join();
        }
        ended
    }

    /// One op takes a bounded number of files that were open without a name.
    fn end_session(&self) -> Result<(), FsError> {
        let (server, session) = (&*self.core.server, self.core.session);
        let row = KeyRange::prefix(&StateKey::Session { session }.encode());
        loop {
            server.administer(Op::EndSession { session })?;
            if server.state(&row, 1)?.rows.is_empty() {
                return Ok(());
            }
        }
    }

    /// Has `f` called with what the kernel must forget: after a restore or an undelete, or because another mount wants it.
    /// The first call counts.
    pub fn on_invalidate(&self, f: OnInvalidate) {
        let _ = self.core.on_invalidate.set(f);
    }

    /// The server is not in this process: calls may have to wait for a network, and other mounts may change the tree.
    pub fn is_far(&self) -> bool {
        !self.core.near
    }

    /// How long the kernel may believe what it is told of an inode, where other mounts may change the tree.
    pub fn valid(&self, ino: Ino) -> Duration {
        self.core.valid(ino)
    }

    /// And what it is told of the names in a directory.
    pub fn names_valid(&self, dir: Ino) -> Duration {
        self.core.names_valid(dir)
    }

    /// Whether the session owns an inode, also one that is asked back of it and not given yet.
    pub fn owns(&self, ino: Ino) -> bool {
        self.core.lock().own.right(ino) == own::Right::Owned
    }

    /// The clock that gives files their times.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.core.clock
    }

    /// The store's identity, for people and logs.
    pub fn store(&self) -> &str {
        &self.core.store
    }
}

/// Commands.
impl Client {
    /// Does what a command asks, paths relative to `dir`. Every line goes to `send`; the last is `Done` or `Error`. Where
    /// `send` breaks, the work stops at the next safe place. Waits; never call it on a thread that answers the kernel,
    /// which may have to answer for it.
    pub fn control(
        &self,
        caller: Caller,
        dir: Ino,
        request: &Request,
        send: &mut dyn FnMut(Answer) -> ControlFlow<()>,
    ) {
        control::answer(self, caller, dir, request, send);
    }
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, FsError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| FsError::io(format_args!("start the thread {name}"), &error))
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closed with a loss");
        }
    }
}
