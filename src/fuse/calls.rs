//! Calling a file system for a transport: a panic costs one request and not the mount, and a call that would have to
//! wait is repeated on a worker thread.
//!
//! Not here: what a request says (`adapter.rs`), how an answer is sent (`reply.rs`).

use crate::fuse::convert::ino;
use crate::fuse::linger::Linger;
use crate::fuse::parked;
use crate::fuse::parked::Looks;
use crate::fuse::parked::Lot;
use crate::fuse::parked::Parking;
use crate::fuse::parked::Waiting;
use crate::fuse::reply::Listing;
use crate::fuse::reply::Reply;
use crate::fuse::syscall;
use crate::fuse::vfs::Answer;
use crate::fuse::vfs::Handle;
use crate::fuse::vfs::Place;
use crate::fuse::vfs::Request;
use crate::fuse::vfs::Stop;
use crate::fuse::vfs::Vfs;
use crate::fuse::workers::Workers;
use crate::telemetry::counter::FUSE_PANICS;
use crate::telemetry::counter::FUSE_REQUESTS;
use crate::telemetry::counter::FUSE_WAITED;
use crate::tsdb_client::FileLock;
use crate::tsdb_client::Locking;
use crate::tsdb_client::Wait;
use crate::tsdb_client::patience::at_once;
use crate::types::FsError;
use crate::types::NAME_BYTES_MAX;
use fuser::FileHandle;
use fuser::INodeNo;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;

pub(super) struct Calls<V: Vfs> {
    vfs: Arc<V>,
    workers: Arc<Workers>,
    parking: Parking,
    linger: Linger,
}

impl<V: Vfs> Calls<V> {
    pub(super) fn new(vfs: Arc<V>, linger: Linger) -> io::Result<Calls<V>> {
        let workers = Arc::new(Workers::start()?);
        let looks = Looks {
            signals: parked::signals,
            as_process: syscall::locks_as_process,
            as_open_file: syscall::locks_as_open_file,
        };
        let of = Arc::clone(&vfs);
        let tell = Box::new(move |after, waits| settled(guarded(|| of.waits(after, waits))));
        let parking = Parking::start(Arc::clone(&workers), looks, tell)?;
        let lot = Arc::downgrade(parking.lot());
        vfs.on_unlock(Box::new(move |ino| {
            if let Some(lot) = lot.upgrade() {
                lot.unlocked(ino);
            }
        }));
        Ok(Calls { vfs, workers, parking, linger })
    }

    /// Calls, and replies; where the call would wait, from a worker thread.
    pub(super) fn answer<T: 'static>(
        &self,
        from: &fuser::Request,
        reply: impl Reply<T>,
        call: impl Fn(&V, &Request) -> Answer<T> + Send + 'static,
    ) {
        self.linger.came();
        FUSE_REQUESTS.add(1);
        let mut request = request(from);
        match promptly(|| call(&self.vfs, &request)) {
            Ok(answer) => reply.send(Ok(answer)),
            Err(Stop::Error(error)) => reply.send(Err(error)),
            Err(Stop::Waits) => {
                request.wait = Wait::Allowed;
                let vfs = Arc::clone(&self.vfs);
                self.later(move || {
                    reply.send(settled(guarded(|| call(&vfs, &request))));
                    vfs.answered();
                });
            }
        }
        self.vfs.answered();
        self.linger.answered();
    }

    pub(super) fn is_far(&self) -> bool {
        self.vfs.is_far()
    }

    /// On a worker thread.
    fn later(&self, job: impl FnOnce() + Send + 'static) {
        FUSE_WAITED.add(1);
        self.workers.run(Box::new(job));
    }

    pub(super) fn list(
        &self,
        from: &fuser::Request,
        dir: INodeNo,
        after: u64,
        mut listing: Listing,
    ) {
        self.linger.came();
        FUSE_REQUESTS.add(1);
        let mut request = request(from);
        let plus = listing.has_attributes();
        let call = move |vfs: &V, request: &Request, listing: &mut Listing| {
            vfs.readdir(request, ino(dir)?, after, plus, listing)
        };
        match promptly(|| call(&self.vfs, &request, &mut listing)) {
            Ok(()) => listing.send(Ok(())),
            Err(Stop::Error(error)) => listing.send(Err(error)),
            Err(Stop::Waits) => {
                request.wait = Wait::Allowed;
                let vfs = Arc::clone(&self.vfs);
                self.later(move || {
                    let answer = guarded(|| call(&vfs, &request, &mut listing));
                    listing.send(settled(answer));
                    vfs.answered();
                });
            }
        }
        self.vfs.answered();
        self.linger.answered();
    }

    pub(super) fn sync(&self, at: INodeNo, handle: FileHandle, reply: fuser::ReplyEmpty) {
        self.linger.came();
        FUSE_REQUESTS.add(1);
        let vfs = Arc::clone(&self.vfs);
        let sync = move || {
            let outcome = guarded(|| {
                let at = ino(at)?;
                vfs.fsync(at, Handle(handle.0), Box::new(move |outcome| reply.send(outcome)));
                Ok(())
            });
            // The reply went along with the call, and answers EIO where it is dropped.
            drop(outcome);
        };
        // What is to be durable may have to be sent first.
        if self.vfs.is_far() {
            self.later(sync)
        } else {
            sync()
        }
        self.linger.answered();
    }

    /// Sets a lock; where it cannot be had and `waits`, the request is put aside until it can.
    pub(super) fn lock(
        &self,
        from: &fuser::Request,
        at: Result<Place, FsError>,
        lock: FileLock,
        waits: bool,
        reply: fuser::ReplyEmpty,
    ) {
        self.linger.came();
        FUSE_REQUESTS.add(1);
        let at = match at {
            Ok(at) => at,
            Err(error) => return reply.send(Err(error)),
        };
        let (mut request, lot) = (request(from), Arc::clone(self.parking.lot()));
        let attempt = lot.begin(at.ino);
        match promptly(|| self.vfs.lock(&request, at, lock)) {
            // Refused, or one of this mount's is in the way.
            Ok(Locking::Done) => reply.send(Ok(())),
            Err(Stop::Error(error)) => reply.send(Err(error)),
            Ok(Locking::Held(_)) if !waits && !lock.is_flock() => reply.send(Err(FsError::Locked)),
            Ok(Locking::Held(by)) if !lock.is_flock() => {
                request.wait = Wait::Allowed;
                let vfs = Arc::clone(&self.vfs);
                let waiting = waiting(vfs, request, at, lock, reply, lot.number());
                lot.attempted(waiting, attempt, Ok(Locking::Held(by)));
            }
            Ok(Locking::Held(_)) | Err(Stop::Waits) => {
                request.wait = Wait::Allowed;
                let vfs = Arc::clone(&self.vfs);
                self.later(move || try_lock(vfs, request, at, lock, waits, reply, &lot));
            }
        }
        self.linger.answered();
    }

    /// As [`Calls::answer`], for bytes that lie in the loop thread's buffer: copied only where they have to leave it.
    pub(super) fn write(
        &self,
        from: &fuser::Request,
        data: &[u8],
        reply: fuser::ReplyWrite,
        call: impl Fn(&V, &Request, &[u8]) -> Answer<u32> + Send + 'static,
    ) {
        self.linger.came();
        FUSE_REQUESTS.add(1);
        let mut request = request(from);
        match promptly(|| call(&self.vfs, &request, data)) {
            Err(Stop::Waits) => {
                request.wait = Wait::Allowed;
                let (vfs, data) = (Arc::clone(&self.vfs), data.to_vec());
                self.later(move || reply.send(settled(guarded(|| call(&vfs, &request, &data)))));
            }
            answer => reply.send(settled(answer)),
        }
        self.linger.answered();
    }

    /// For the kernel's word that it dropped something, which nobody answers.
    pub(super) fn forget(&self, at: INodeNo, lookups: u64) {
        // A panic has been counted.
        let _ = guarded(|| {
            self.vfs.forget(ino(at)?, lookups);
            Ok(())
        });
    }

    /// The end: everything that was taken on is answered first.
    pub(super) fn finish(&mut self) -> Result<(), FsError> {
        self.parking.finish();
        self.workers.finish();
        settled(guarded(|| Ok(self.vfs.destroy()?)))
    }
}

/// On a thread that may wait.
fn try_lock<V: Vfs>(
    vfs: Arc<V>,
    request: Request,
    at: Place,
    lock: FileLock,
    waits: bool,
    reply: fuser::ReplyEmpty,
    lot: &Arc<Lot>,
) {
    let attempt = lot.begin(at.ino);
    let mut came = settled(guarded(|| vfs.lock(&request, at, lock)));
    if lock.is_flock() && matches!(came, Ok(Locking::Held(_))) {
        // Whoever has it in the other way lets go of that first (flock(2)): two who both share it would else wait for each other.
        let bytes = (lock.first, lock.last);
        let dropped = settled(guarded(|| vfs.unlock(&request, at.ino, lock.owner, bytes)));
        came = dropped.and(came);
    }
    match came {
        Ok(Locking::Held(_)) if !waits => reply.send(Err(FsError::Locked)),
        came => {
            lot.attempted(waiting(vfs, request, at, lock, reply, lot.number()), attempt, came);
        }
    }
}

fn waiting<V: Vfs>(
    vfs: Arc<V>,
    request: Request,
    at: Place,
    lock: FileLock,
    reply: fuser::ReplyEmpty,
    number: u64,
) -> Waiting {
    Waiting {
        number,
        ino: at.ino,
        lock,
        tid: request.pid,
        as_process: false,
        as_open_file: None,
        attempt: Box::new(move || settled(guarded(|| vfs.lock(&request, at, lock)))),
        reply: Box::new(move |answer| reply.send(answer)),
    }
}

/// On a loop thread: says that it would wait where the client says so for the thread.
fn promptly<T>(call: impl FnOnce() -> Answer<T>) -> Answer<T> {
    at_once(|| guarded(call)).unwrap_or(Err(Stop::Waits))
}

fn request(from: &fuser::Request) -> Request {
    Request { uid: from.uid(), gid: from.gid(), pid: from.pid(), wait: Wait::Never }
}

/// A panic in a handler is our fault and costs one request, not the mount.
fn guarded<T>(call: impl FnOnce() -> Answer<T>) -> Answer<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        FUSE_PANICS.add(1);
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(Stop::Error(FsError::Io(format!(
            "a request panicked, which is a bug: {}",
            said.unwrap_or("it did not say why")
        ))))
    })
}

fn settled<T>(answer: Answer<T>) -> Result<T, FsError> {
    answer.map_err(|stop| match stop {
        Stop::Error(error) => error,
        Stop::Waits => FsError::Io("a request that may wait said it would wait".to_owned()),
    })
}

/// A name of a directory entry or attribute, owned so that a call can be repeated elsewhere. In place, because most
/// calls are not.
#[derive(Clone, Copy)]
pub(super) struct Name {
    len: usize,
    bytes: [u8; NAME_BYTES_MAX],
}

impl Name {
    /// A name that is too long keeps its length alone, which `get` refuses.
    pub(super) fn new(name: &OsStr) -> Name {
        let name = name.as_bytes();
        let mut bytes = [0; NAME_BYTES_MAX];
        if let Some(room) = bytes.get_mut(..name.len()) {
            room.copy_from_slice(name);
        }
        Name { len: name.len(), bytes }
    }

    pub(super) fn get(&self) -> Result<&[u8], FsError> {
        self.bytes.get(..self.len).ok_or(FsError::NameTooLong)
    }
}
