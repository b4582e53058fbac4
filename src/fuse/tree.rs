//! The file system of a mount: the present, and in every directory the hidden `.tsfs` with its past.
//!
//! Here it is decided which of the two is meant, by the half of the number space, and what may not cross. Not here:
//! how either answers (`present.rs`, `history/`).

use crate::fuse::history;
use crate::fuse::history::History;
use crate::fuse::present::Present;
use crate::fuse::present::caller;
use crate::fuse::vfs::Answer;
use crate::fuse::vfs::DirSink;
use crate::fuse::vfs::Done;
use crate::fuse::vfs::Entry;
use crate::fuse::vfs::Handle;
use crate::fuse::vfs::Kernel;
use crate::fuse::vfs::Lookup;
use crate::fuse::vfs::Make;
use crate::fuse::vfs::OpenFlags;
use crate::fuse::vfs::Opened;
use crate::fuse::vfs::Place;
use crate::fuse::vfs::Request;
use crate::fuse::vfs::SetAttr;
use crate::fuse::vfs::Stat;
use crate::fuse::vfs::Stop;
use crate::fuse::vfs::Vfs;
use crate::fuse::vfs::WriteHow;
use crate::tsdb_client;
use crate::tsdb_client::Allocate;
use crate::tsdb_client::Client;
use crate::tsdb_client::FileLock;
use crate::tsdb_client::Locking;
use crate::tsdb_client::OnUnlock;
use crate::tsdb_client::RenameHow;
use crate::tsdb_client::SeekFor;
use crate::tsdb_client::Space;
use crate::tsdb_client::Wait;
use crate::tsdb_client::XattrHow;
use crate::tsdb_client::patience::would_wait;
use crate::types::AsOf;
use crate::types::FsError;
use crate::types::Ino;
use crate::wire::Circled;
use crate::wire::Moment;
use crate::wire::Waiting;
use bytes::Bytes;
use jiff::tz::TimeZone;
use std::sync::Arc;

const RESERVED: FsError = FsError::NotPermitted("the name .tsfs is the past's");

pub struct Tree {
    client: Arc<Client>,
    present: Present,
    history: History,
}

impl Tree {
    /// `zone`: in which dates without an offset are meant. `at`: the root; an instant of the past makes the whole mount
    /// that instant, which must be readable. `root`: the directory that is mounted; see [`crate::fuse::Rooted`].
    pub fn new(client: Arc<Client>, zone: TimeZone, at: AsOf, root: Ino) -> Tree {
        let root = match at {
            AsOf::Now => None,
            AsOf::At(stamp) => Some((root, stamp)),
        };
        Tree {
            present: Present::new(Arc::clone(&client)),
            history: History::new(Arc::clone(&client), zone, root),
            client,
        }
    }

    /// # Errors
    /// `ReadOnly` for what is under `.tsfs`.
    fn present(&self, inos: &[Ino]) -> Result<&Present, FsError> {
        if inos.iter().any(|ino| self.history.has(*ino)) {
            return Err(FsError::ReadOnly);
        }
        Ok(&self.present)
    }
}

/// # Errors
/// `NotPermitted` for the hidden name.
fn ordinary(name: &[u8]) -> Result<&[u8], FsError> {
    if name == history::NAME { Err(RESERVED) } else { Ok(name) }
}

/// Without ACLs of its own, the file system refuses them rather than keep some that nobody heeds.
fn attribute(name: &[u8]) -> Result<&[u8], FsError> {
    if name.starts_with(b"system.") {
        return Err(FsError::NotSupported("attributes of the system, such as ACLs"));
    }
    Ok(name)
}

impl Vfs for Tree {
    fn mounted(&self, kernel: Arc<dyn Kernel>) {
        self.history.mounted(Arc::clone(&kernel));
        self.present.mounted(kernel);
    }

    fn is_far(&self) -> bool {
        self.client.is_far()
    }

    fn answered(&self) {
        self.present.told().sent();
    }

    fn destroy(&self) -> Result<(), FsError> {
        self.client.close()
    }

    fn lookup(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<Lookup> {
        if self.history.has(dir) {
            return self.history.lookup(request, dir, name);
        }
        if name == history::NAME {
            return Ok(Lookup::Found(self.history.hub(dir)?));
        }
        self.present.lookup(dir, name)
    }

    fn forget(&self, ino: Ino, lookups: u64) {
        if self.history.has(ino) {
            self.history.forget(ino, lookups);
        }
    }

    fn getattr(&self, _: &Request, ino: Ino) -> Answer<Stat> {
        if self.history.has(ino) {
            return self.history.getattr(ino);
        }
        self.present.getattr(ino)
    }

    fn setattr(&self, request: &Request, ino: Ino, set: &SetAttr) -> Answer<Stat> {
        if self.history.has(ino) {
            return self.history.setattr(ino);
        }
        self.present.setattr(request, ino, set)
    }

    fn readlink(&self, _: &Request, ino: Ino) -> Answer<Bytes> {
        if self.history.has(ino) {
            return self.history.readlink(ino);
        }
        self.present.readlink(ino)
    }

    fn make(&self, request: &Request, dir: Ino, name: &[u8], make: &Make) -> Answer<Entry> {
        if self.history.has(dir) {
            return self.history.make(request, dir, name, make);
        }
        self.present.make(request, dir, ordinary(name)?, make)
    }

    fn create(
        &self,
        request: &Request,
        dir: Ino,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
    ) -> Answer<(Entry, Opened)> {
        self.present(&[dir])?.create(request, dir, ordinary(name)?, mode, flags)
    }

    fn link(&self, request: &Request, ino: Ino, dir: Ino, name: &[u8]) -> Answer<Entry> {
        self.present(&[ino, dir])?.link(request, ino, dir, ordinary(name)?)
    }

    fn unlink(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<()> {
        self.present(&[dir])?;
        Ok(self.client.unlink(caller(request), dir, ordinary(name)?)?)
    }

    fn rmdir(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<()> {
        if self.history.has(dir) {
            return self.history.rmdir(request, dir, name);
        }
        Ok(self.client.rmdir(caller(request), dir, ordinary(name)?)?)
    }

    fn rename(
        &self,
        request: &Request,
        (dir, name): (Ino, &[u8]),
        (new_dir, new_name): (Ino, &[u8]),
        how: RenameHow,
    ) -> Answer<()> {
        self.present(&[dir, new_dir])?;
        let (from, to) = ((dir, ordinary(name)?), (new_dir, ordinary(new_name)?));
        self.present.rename(request, from, to, how)
    }

    fn open(&self, request: &Request, ino: Ino, flags: OpenFlags) -> Answer<Opened> {
        if self.history.has(ino) {
            return self.history.open(request, ino, flags);
        }
        self.present.open(request, ino, flags)
    }

    fn read(
        &self,
        request: &Request,
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u32,
    ) -> Answer<Bytes> {
        if self.history.has(ino) {
            return self.history.read(request, Place { ino, handle, offset }, len);
        }
        self.present.read(request, ino, offset, len)
    }

    fn write(
        &self,
        request: &Request,
        ino: Ino,
        handle: Handle,
        offset: u64,
        data: &[u8],
        how: WriteHow,
    ) -> Answer<u32> {
        if self.history.has(ino) {
            return self.history.write(handle, data);
        }
        self.present.write(request, handle, offset, data, how)
    }

    fn flush(&self, _: &Request, ino: Ino, handle: Handle, owner: u64) -> Answer<()> {
        let flushed = match self.history.has(ino) {
            true => Ok(()),
            false => self.present.flush(handle),
        };
        // Not before what was written under the lock.
        if self.client.is_far() && !would_wait() {
            self.client.unlock_owner(ino, owner);
        }
        flushed
    }

    fn release(&self, ino: Ino, handle: Handle) {
        if self.client.is_far()
            && let Some(handle) = tsdb_client::Handle::new(handle.0)
        {
            self.client.unlock_handle(ino, handle);
        }
        if self.history.has(ino) {
            self.history.release(handle);
        } else {
            self.present.release(handle);
        }
    }

    fn fsync(&self, ino: Ino, handle: Handle, done: Done<()>) {
        if self.history.has(ino) {
            return done(Ok(()));
        }
        // A directory has no handle; what was done in it was done earlier on this mount, which is all it takes.
        self.client.fsync(tsdb_client::Handle::new(handle.0), done);
    }

    fn on_unlock(&self, told: OnUnlock) {
        self.client.on_unlock(told);
    }

    // The past does not change: whoever looks at it is in nobody's way.
    fn lock(&self, _: &Request, at: Place, lock: FileLock) -> Answer<Locking> {
        if self.history.has(at.ino) {
            return Ok(Locking::Done);
        }
        let handle = tsdb_client::Handle::new(at.handle.0).ok_or(FsError::BadHandle)?;
        Ok(self.client.lock(at.ino, handle, lock)?)
    }

    fn waits(&self, after: Moment, waits: Vec<Waiting>) -> Answer<Circled> {
        Ok(self.client.waits(after, waits)?)
    }

    fn has_flock(&self, ino: Ino, owner: u64) -> bool {
        self.client.has_flock(ino, owner)
    }

    fn unlock(&self, _: &Request, ino: Ino, owner: u64, (first, last): (u64, u64)) -> Answer<()> {
        if self.history.has(ino) {
            return Ok(());
        }
        Ok(self.client.unlock(ino, owner, first, last)?)
    }

    fn barring(&self, _: &Request, ino: Ino, wanted: FileLock) -> Answer<Option<FileLock>> {
        if self.history.has(ino) {
            return Ok(None);
        }
        Ok(self.client.barring(ino, &wanted)?)
    }

    fn fallocate(&self, request: &Request, at: Place, len: u64, how: Allocate) -> Answer<()> {
        self.present(&[at.ino])?.fallocate(request, at, len, how)
    }

    fn seek(&self, _: &Request, at: Place, what: SeekFor) -> Answer<u64> {
        if self.history.has(at.ino) {
            return self.history.seek(at, what);
        }
        Ok(self.client.seek(at.ino, AsOf::Now, at.offset, what)?)
    }

    fn copy_range(&self, request: &Request, from: Place, to: Place, len: u64) -> Answer<u64> {
        self.present(&[to.ino])?;
        if self.history.has(from.ino) {
            // The kernel then copies through its pages.
            return Err(FsError::NotSupported("copying from the past without reading it").into());
        }
        self.present.copy_range(request, from, to, len)
    }

    fn readdir(
        &self,
        request: &Request,
        dir: Ino,
        after: u64,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Answer<()> {
        if request.wait == Wait::Never && self.client.is_far() {
            // Rows of a listing are the server's, and nothing may be added before it is known whether they are at hand.
            return Err(Stop::Waits);
        }
        if self.history.has(dir) {
            return self.history.readdir(request, dir, after, plus, sink);
        }
        self.present.readdir(dir, after, plus, sink)
    }

    fn statfs(&self, _: &Request, _: Ino) -> Answer<Space> {
        Ok(self.client.statfs()?)
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        how: XattrHow,
    ) -> Answer<()> {
        self.present(&[ino])?;
        Ok(self.client.setxattr(caller(request), ino, attribute(name)?, value, how)?)
    }

    fn getxattr(&self, _: &Request, ino: Ino, name: &[u8]) -> Answer<Bytes> {
        let name = attribute(name)?;
        if self.history.has(ino) {
            return self.history.getxattr(ino, name);
        }
        Ok(self.client.getxattr(ino, name, AsOf::Now)?)
    }

    fn listxattr(&self, _: &Request, ino: Ino) -> Answer<Bytes> {
        let names = if self.history.has(ino) {
            self.history.xattr_names(ino)?
        } else {
            self.client.listxattr(ino, AsOf::Now)?
        };
        let ended = names.iter().flat_map(|name| [&name[..], b"\0"]);
        Ok(ended.collect::<Vec<_>>().concat().into())
    }

    fn removexattr(&self, request: &Request, ino: Ino, name: &[u8]) -> Answer<()> {
        self.present(&[ino])?;
        Ok(self.client.removexattr(caller(request), ino, attribute(name)?)?)
    }
}
