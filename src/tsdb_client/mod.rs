//! The client: answers a mount locally and streams the changes behind it.
//!
//! Reads go to what this client has not committed yet, then to its cache, then to the server. Changes run the rules of
//! `meta` over the same view, so a local success cannot fail later, and enter the journal, which sends them in order.
//!
//! Not here: the kernel's protocol and the `.tsfs` names (`fuse`), permission bits of ordinary calls (the kernel checks
//! them), where a server is (`wire::Server`).

mod api;

pub use api::Allocate;
pub use api::Caller;
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

pub use crate::meta::op::RenameHow;
pub use crate::meta::op::SetAttr;
pub use crate::meta::op::XattrHow;

use crate::env::Clock;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use crate::wire::Server;
use crate::wire::control::Answer;
use crate::wire::control::Request;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;

/// One session of one mount. All calls may come from any thread.
pub struct Client {
    _server: Arc<dyn Server>,
    clock: Arc<dyn Clock>,
}

const LATER: FsError = FsError::NotSupported("the client answers this when its journal has landed");

/// Opening and closing.
impl Client {
    /// Begins a session. Waits until it is in the log.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `Closing`.
    pub fn open(
        server: Arc<dyn Server>,
        clock: Arc<dyn Clock>,
        _options: Options,
    ) -> Result<Arc<Client>, FsError> {
        Ok(Arc::new(Client { _server: server, clock }))
    }

    /// Sends everything, waits until it is durable, ends the session. Every later call answers `Closing`. A second
    /// call does nothing.
    ///
    /// # Errors
    /// `Lost` where something that programs saw succeed was lost.
    pub fn close(&self) -> Result<(), FsError> {
        Err(LATER)
    }

    /// Has `f` called with what the kernel must forget after a restore or an undelete.
    pub fn on_invalidate(&self, _f: OnInvalidate) {}

    /// The clock that gives files their times.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
}

/// Reading, now or at an instant. Now includes this client's own changes from the moment their calls returned.
impl Client {
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NameTooLong`; every reading call: `BeforeHorizon`, `Damaged`, `Io`.
    pub fn lookup(&self, _dir: Ino, _name: &[u8], _at: AsOf) -> Result<Attr, FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `Stale` where there is no such inode.
    pub fn getattr(&self, _ino: Ino, _at: AsOf) -> Result<Attr, FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `Stale`; `Invalid` where it is no symbolic link.
    pub fn readlink(&self, _ino: Ino, _at: AsOf) -> Result<Bytes, FsError> {
        Err(LATER)
    }

    /// Visits the entries of a directory after the one with cookie `after` (zero: from the beginning), without `.` and
    /// `..`, until the visitor breaks. No lock is held while it visits.
    ///
    /// # Errors
    /// `Stale`, `NotDirectory`.
    pub fn readdir(
        &self,
        _dir: Ino,
        _at: AsOf,
        _after: u64,
        _with_attrs: bool,
        _visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        Err(LATER)
    }

    /// The directory that a directory is in; the root's is the root.
    ///
    /// # Errors
    /// `Stale`, `NotDirectory`.
    pub fn parent(&self, _dir: Ino, _at: AsOf) -> Result<Ino, FsError> {
        Err(LATER)
    }

    /// Contents from `offset`, fewer than `len` bytes only at the file's end. `None` where `Wait::Never` was asked and
    /// a block would have to be fetched.
    ///
    /// # Errors
    /// `Stale`, `IsDirectory`, `Invalid` for what has no contents.
    pub fn read(
        &self,
        _ino: Ino,
        _at: AsOf,
        _offset: u64,
        _len: u32,
        _wait: Wait,
    ) -> Result<Option<Bytes>, FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `NoAttribute`, `Stale`.
    pub fn getxattr(&self, _ino: Ino, _name: &[u8], _at: AsOf) -> Result<Bytes, FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `Stale`.
    pub fn listxattr(&self, _ino: Ino, _at: AsOf) -> Result<Vec<Bytes>, FsError> {
        Err(LATER)
    }

    /// The first offset at or after `offset` that is data, or a hole.
    ///
    /// # Errors
    /// `NoData` at or after the file's end; `Stale`, `IsDirectory`.
    pub fn seek(&self, _ino: Ino, _at: AsOf, _offset: u64, _what: SeekFor) -> Result<u64, FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `Io`.
    pub fn statfs(&self) -> Result<Space, FsError> {
        Err(LATER)
    }
}

/// Changing names and attributes. Every changing call may also answer `NoSpace` (not those that only remove), `Lost` and
/// `Closing`.
impl Client {
    /// # Errors
    /// `Exists`, `NotFound` where the directory was removed, `NotDirectory`, `NameTooLong`, `LinkTooLong`, `Invalid`.
    pub fn create(&self, _dir: Ino, _name: &[u8], _new: New) -> Result<Attr, FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `Exists`, `Stale`, `NotDirectory`, `NotPermitted` for a directory, `TooManyLinks`.
    pub fn link(&self, _ino: Ino, _dir: Ino, _name: &[u8]) -> Result<Attr, FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `NotFound`, `IsDirectory`.
    pub fn unlink(&self, _dir: Ino, _name: &[u8]) -> Result<(), FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `NotFound`, `NotDirectory`, `NotEmpty`.
    pub fn rmdir(&self, _dir: Ino, _name: &[u8]) -> Result<(), FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `NotFound`, `Exists`, `NotEmpty`, `IsDirectory`, `NotDirectory`, `Invalid` for a directory into itself.
    pub fn rename(
        &self,
        _dir: Ino,
        _name: &[u8],
        _new_dir: Ino,
        _new_name: &[u8],
        _how: RenameHow,
    ) -> Result<(), FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `Stale`, `FileTooBig`, `IsDirectory` for a size.
    pub fn setattr(&self, _ino: Ino, _set: SetAttr) -> Result<Attr, FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `Exists`, `NoAttribute`, `AttributeTooBig`, `Stale`.
    pub fn setxattr(
        &self,
        _ino: Ino,
        _name: &[u8],
        _value: &[u8],
        _how: XattrHow,
    ) -> Result<(), FsError> {
        Err(LATER)
    }

    /// # Errors
    /// `NoAttribute`, `Stale`.
    pub fn removexattr(&self, _ino: Ino, _name: &[u8]) -> Result<(), FsError> {
        Err(LATER)
    }
}

/// Open files and their contents.
impl Client {
    /// A handle of the present. While it is open, the inode stays readable after its last name is gone. Directories may be
    /// opened too.
    ///
    /// # Errors
    /// `Stale`, `Closing`.
    pub fn open_file(&self, _ino: Ino, _write: bool) -> Result<Handle, FsError> {
        Err(LATER)
    }

    /// Closes a handle. An unknown one is ignored.
    pub fn release(&self, _handle: Handle) {}

    /// Writes all of `data`. `append`: at the end, whatever `offset` says. `clear_suid`: set-user-id, set-group-id and
    /// security.capability go. `None` where `Wait::Never` was asked and too much is dirty.
    ///
    /// # Errors
    /// `BadHandle`, `FileTooBig`, `NoSpace`, `Lost`.
    pub fn write(
        &self,
        _handle: Handle,
        _offset: u64,
        _data: &[u8],
        _append: bool,
        _clear_suid: bool,
        _wait: Wait,
    ) -> Result<Option<u32>, FsError> {
        Err(LATER)
    }

    /// A descriptor of this handle is closed: what was written is a version now.
    ///
    /// # Errors
    /// `BadHandle`, `Lost`.
    pub fn flush(&self, _handle: Handle) -> Result<(), FsError> {
        Err(LATER)
    }

    /// Calls `then` once everything done earlier on this mount is durable, or lost. The contents of `handle` become a
    /// version. Where nothing is in its way the work is done on the calling thread and `then` is called by the
    /// thread that made it durable.
    pub fn fsync(&self, _handle: Option<Handle>, then: Synced) {
        then(Err(LATER));
    }

    /// # Errors
    /// `BadHandle`, `FileTooBig`, `NoSpace`.
    pub fn fallocate(
        &self,
        _handle: Handle,
        _how: Allocate,
        _offset: u64,
        _len: u64,
    ) -> Result<(), FsError> {
        Err(LATER)
    }

    /// Copies by sharing blocks; how many bytes, fewer only at the end of `from`.
    ///
    /// # Errors
    /// `BadHandle`, `FileTooBig`, `Invalid` where both ranges of one file overlap.
    pub fn copy_range(
        &self,
        _from: Handle,
        _from_offset: u64,
        _to: Handle,
        _to_offset: u64,
        _len: u64,
    ) -> Result<u64, FsError> {
        Err(LATER)
    }
}

/// The past.
impl Client {
    /// Returns once the instant can be read: what was done up to it has been applied.
    ///
    /// # Errors
    /// `BeforeHorizon`; `BadInstant` for the future.
    pub fn now_readable(&self, _at: Stamp) -> Result<(), FsError> {
        Err(LATER)
    }

    /// What the name was, newest first, over all inodes that had it. Waits until this client's own changes have stamps.
    ///
    /// # Errors
    /// `NotFound` where the name never was.
    pub fn file_versions(&self, _dir: Ino, _name: &[u8]) -> Result<Vec<FileVersion>, FsError> {
        Err(LATER)
    }

    /// The names of a directory that are no more, newest deletion first.
    ///
    /// # Errors
    /// As for reading.
    pub fn deleted(&self, _dir: Ino) -> Result<Vec<Deleted>, FsError> {
        Err(LATER)
    }

    /// All marks, oldest first.
    ///
    /// # Errors
    /// As for reading.
    pub fn marks(&self) -> Result<Vec<Marked>, FsError> {
        Err(LATER)
    }

    /// Names the present; everything done before on this mount is in it, and durable. Its instant.
    ///
    /// # Errors
    /// `Exists`, `Invalid` name, `Lost`.
    pub fn mark(&self, _caller: Caller, _name: &[u8], _note: &str) -> Result<Stamp, FsError> {
        Err(LATER)
    }

    /// Removes a mark. What only it kept may then be purged.
    ///
    /// # Errors
    /// `NotFound`, `Denied`.
    pub fn unmark(&self, _caller: Caller, _name: &[u8]) -> Result<(), FsError> {
        Err(LATER)
    }

    /// Does what a command asks, paths relative to `dir`. Every line goes to `send`; the last is `Done` or `Error`. Where
    /// `send` breaks, the work stops at the next safe place. Waits; never call it on a thread that answers the kernel,
    /// which may have to answer for it.
    pub fn control(
        &self,
        _caller: Caller,
        _dir: Ino,
        _request: &Request,
        send: &mut dyn FnMut(Answer) -> ControlFlow<()>,
    ) {
        let _ = send(Answer::Error((&LATER).into()));
    }
}
