//! The present: what the kernel asks, put to the client.
//!
//! A mount of a store in its own process holds the right to all of it, so whatever it says stays true until the kernel
//! itself asks for a change: the kernel may believe it for a long time, names that are not there included. What changes
//! behind its back (a restore) is told to it. Where other mounts are, it may believe what is owned for a moment, and has to
//! ask about the rest each time.

use crate::fuse::told::MADE_VALID;
use crate::fuse::told::Named;
use crate::fuse::told::Told;
use crate::fuse::vfs::Answer;
use crate::fuse::vfs::Cache;
use crate::fuse::vfs::DirEntry;
use crate::fuse::vfs::DirSink;
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
use crate::fuse::vfs::SetTime;
use crate::fuse::vfs::Stat;
use crate::fuse::vfs::Stop;
use crate::fuse::vfs::WriteHow;
use crate::tsdb_client;
use crate::tsdb_client::Allocate;
use crate::tsdb_client::Caller;
use crate::tsdb_client::Client;
use crate::tsdb_client::New;
use crate::tsdb_client::RenameHow;
use crate::tsdb_client::Wait;
use crate::tsdb_client::patience::waiting;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

/// How long the kernel may believe what it is told.
const VALID: Duration = Duration::from_secs(24 * 3600);

/// Cookies of `.` and `..`; those of entries are above.
pub(super) const DOT: u64 = 1;
pub(super) const DOT_DOT: u64 = 2;
const _: () = assert!(DOT_DOT < tsdb_client::DirEntry::COOKIES_BELOW_ARE_FREE);

pub(super) struct Present {
    client: Arc<Client>,
    told: Arc<Told>,
    kernel: OnceLock<Arc<dyn Kernel>>,
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid, gid: request.gid, pid: request.pid }
}

/// The client's cookie for a listing that goes on after `after`.
pub(super) fn behind_dots(after: u64) -> u64 {
    if after <= DOT_DOT { 0 } else { after }
}

fn handle(handle: Handle) -> Result<tsdb_client::Handle, FsError> {
    tsdb_client::Handle::new(handle.0).ok_or(FsError::BadHandle)
}

impl Present {
    pub(super) fn new(client: Arc<Client>) -> Present {
        let told = Arc::new(Told::new(Arc::clone(client.clock())));
        Present { client, told, kernel: OnceLock::new() }
    }

    pub(super) fn mounted(&self, kernel: Arc<dyn Kernel>) {
        let told = Arc::clone(&self.told);
        let for_client = Arc::clone(&kernel);
        self.client.on_invalidate(Box::new(move |what| told.forget(what, &*for_client)));
        let _ = self.kernel.set(kernel);
    }

    pub(super) fn told(&self) -> &Arc<Told> {
        &self.told
    }

    /// How long the kernel may believe what it is told of an inode. Asked last, when nothing is waited for any more.
    fn valid(&self, ino: Ino) -> Duration {
        if !self.client.is_far() {
            return VALID;
        }
        self.told.begin();
        self.told.inode(ino, self.client.valid(ino))
    }

    /// And what it is told of names in a directory. Less than of the directory: to have it forget a name, the directory must not be locked
    /// by somebody who waits.
    fn names_valid(&self, dir: Ino) -> Duration {
        self.told.begin();
        self.client.names_valid(dir)
    }

    fn stat(&self, attr: Attr) -> Stat {
        Stat { valid: self.valid(attr.ino), attr }
    }

    fn entry(&self, dir: Ino, name: &[u8], attr: Attr) -> Entry {
        self.entry_for(dir, name, attr, VALID)
    }

    /// What was just made.
    fn made_entry(&self, dir: Ino, name: &[u8], attr: Attr) -> Entry {
        self.entry_for(dir, name, attr, MADE_VALID)
    }

    /// `most`: of the name.
    fn entry_for(&self, dir: Ino, name: &[u8], attr: Attr, most: Duration) -> Entry {
        let valid = match attr.kind {
            FileKind::Directory => self.name_valid(dir, name, Named::Directory, most),
            _ => self.name_valid(dir, name, Named::File, most),
        };
        Entry { valid, stat: self.stat(attr) }
    }

    fn name_valid(&self, dir: Ino, name: &[u8], what: Named, most: Duration) -> Duration {
        match self.client.is_far() {
            true => self.told.name(dir, name, what, self.names_valid(dir).min(most)),
            false => VALID,
        }
    }

    /// The kernel asks for each name that it may not believe any more, unless it has no list of them.
    fn drop_worn_lists(&self) {
        if let Some(kernel) = self.kernel.get().filter(|_| self.client.is_far()) {
            for dir in self.told.worn_lists() {
                kernel.forget_inode(dir, Some(0));
            }
        }
    }

    pub(super) fn lookup(&self, dir: Ino, name: &[u8]) -> Answer<Lookup> {
        let found = match name {
            b"." => self.client.getattr(dir, AsOf::Now),
            b".." => {
                let parent = self.client.parent(dir, AsOf::Now)?;
                self.client.getattr(parent, AsOf::Now)
            }
            _ => self.client.lookup(dir, name, AsOf::Now),
        };
        self.drop_worn_lists();
        match found {
            Ok(attr) => Ok(Lookup::Found(self.entry(dir, name, attr))),
            Err(FsError::NotFound) => {
                let valid = self.name_valid(dir, name, Named::Nothing, VALID);
                Ok(Lookup::Missing { valid })
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn getattr(&self, ino: Ino) -> Answer<Stat> {
        Ok(self.stat(self.client.getattr(ino, AsOf::Now)?))
    }

    pub(super) fn setattr(&self, request: &Request, ino: Ino, set: &SetAttr) -> Answer<Stat> {
        let time = |time: SetTime| match time {
            SetTime::Now => self.client.clock().time(),
            SetTime::At(time) => time,
        };
        // By somebody who may not keep set-user-id. fuser passes the kernel's word on that on for writes only; here whoever
        // is not root may not. A change of owner takes it off by itself.
        let clear_suid = set.size.is_some() && request.uid != 0;
        let set = tsdb_client::SetAttr {
            mode: set.mode,
            uid: set.uid,
            gid: set.gid,
            size: set.size,
            atime: set.atime.map(time),
            mtime: set.mtime.map(time),
            clear_suid,
        };
        Ok(self.stat(self.client.setattr(caller(request), ino, set)?))
    }

    pub(super) fn readlink(&self, ino: Ino) -> Answer<Bytes> {
        Ok(self.client.readlink(ino, AsOf::Now)?)
    }

    pub(super) fn make(
        &self,
        request: &Request,
        dir: Ino,
        name: &[u8],
        make: &Make,
    ) -> Answer<Entry> {
        let attr = self.made(request, dir, name, make)?;
        Ok(self.made_entry(dir, name, attr))
    }

    fn made(&self, request: &Request, dir: Ino, name: &[u8], make: &Make) -> Result<Attr, FsError> {
        let new = New {
            kind: make.kind,
            mode: make.mode,
            uid: request.uid,
            gid: request.gid,
            rdev: make.rdev,
            target: make.target.clone(),
        };
        self.client.create(caller(request), dir, name, new)
    }

    pub(super) fn create(
        &self,
        request: &Request,
        dir: Ino,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
    ) -> Answer<(Entry, Opened)> {
        let make = Make { kind: FileKind::File, mode, rdev: 0, target: Bytes::new() };
        let (attr, flags) = match self.made(request, dir, name, &make) {
            // The kernel believed that it is not there; something that changed behind its back has not reached it yet.
            Err(FsError::Exists) if !flags.exclusive() => {
                (self.client.lookup(dir, name, AsOf::Now)?, flags)
            }
            // There is nothing to truncate.
            attr => (attr?, OpenFlags(flags.0 & !libc::O_TRUNC)),
        };
        // It has been made: that cannot be done again elsewhere.
        let opened = waiting(|| self.open(request, attr.ino, flags))?;
        Ok((self.made_entry(dir, name, attr), opened))
    }

    pub(super) fn link(&self, request: &Request, ino: Ino, dir: Ino, name: &[u8]) -> Answer<Entry> {
        Ok(self.made_entry(dir, name, self.client.link(caller(request), ino, dir, name)?))
    }

    /// The kernel moves what it knows of a name along with it, and for how long it believes that: into a directory that others
    /// may use, where nothing may be believed. It cannot be told to forget it meanwhile, as it has both directories locked. So that
    /// is waited for, at most as long as anything is believed; of files only of the first that is moved out of a directory (`Told::moves_out`).
    pub(super) fn rename(
        &self,
        request: &Request,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        how: RenameHow,
    ) -> Answer<()> {
        let exchange = how == RenameHow::Exchange;
        let moving = self.client.is_far().then(|| self.told.moving(from, to, exchange));
        if let Some(moving) = &moving
            && !self.told.is_over(moving.until)
        {
            let shared = |dir: Ino| self.client.names_valid(dir).is_zero();
            // What is asked back and not given is still its own: a name that moves within it is forgotten with the others there, which waits for
            // this call.
            let stays = from.0 == to.0 && self.client.owns(to.0);
            if !stays && (shared(to.0) || (exchange && shared(from.0))) {
                let from_both = [from.0, to.0];
                self.told.moves_out(if exchange { &from_both } else { &from_both[..1] });
                if request.wait == Wait::Never {
                    return Err(Stop::Waits);
                }
                // What was told of it before is with the kernel when its time begins.
                self.told.drain(Told::SENT_WITHIN);
                self.told.outlast(moving.until);
            }
        }
        Ok(self.client.rename(caller(request), from.0, from.1, to.0, to.1, how)?)
    }

    pub(super) fn open(&self, request: &Request, ino: Ino, flags: OpenFlags) -> Answer<Opened> {
        let handle = self.client.open_file(caller(request), ino, flags.writes())?;
        let handle = Handle(handle.get());
        if flags.truncates() {
            // Of the open file, so that being empty is not a version by itself: contents are about to come.
            let empty = SetAttr { size: Some(0), ..SetAttr::default() };
            if let Err(stop) = self.setattr(request, ino, &empty) {
                waiting(|| self.release(handle));
                return Err(stop);
            }
        }
        let cache = self.cache(ino, flags);
        // Closing what was only read changes nothing, so the kernel need not tell, unless there are locks that go with it.
        Ok(Opened { handle, cache, flush: flags.writes() || self.client.is_far() })
    }

    /// The kernel changes its pages before it hands a write on, and shows them to others until it is answered: too early where
    /// more than one mount has a say in what comes first. And of what others may change it cannot tell whether its pages are
    /// still so (they may have put the time of change back).
    fn cache(&self, ino: Ino, flags: OpenFlags) -> Cache {
        let owned = !self.valid(ino).is_zero();
        let pages = !self.client.is_far() || (owned && !flags.writes());
        if pages { Cache::Keep } else { Cache::Through }
    }

    pub(super) fn read(&self, request: &Request, ino: Ino, offset: u64, len: u32) -> Answer<Bytes> {
        let read = self.client.read(ino, AsOf::Now, offset, len, request.wait)?;
        read.ok_or(Stop::Waits)
    }

    pub(super) fn write(
        &self,
        request: &Request,
        at: Handle,
        offset: u64,
        data: &[u8],
        how: WriteHow,
    ) -> Answer<u32> {
        let (at, wait) = (handle(at)?, request.wait);
        let written = self.client.write(at, offset, data, how.append, how.clear_suid, wait)?;
        written.ok_or(Stop::Waits)
    }

    pub(super) fn flush(&self, at: Handle) -> Answer<()> {
        Ok(self.client.flush(handle(at)?)?)
    }

    pub(super) fn release(&self, at: Handle) {
        if let Ok(at) = handle(at) {
            self.client.release(at);
        }
    }

    pub(super) fn fallocate(
        &self,
        request: &Request,
        at: Place,
        len: u64,
        how: Allocate,
    ) -> Answer<()> {
        self.client.fallocate(handle(at.handle)?, how, at.offset, len)?;
        self.clear_suid(request, at.ino)
    }

    pub(super) fn copy_range(
        &self,
        request: &Request,
        from: Place,
        to: Place,
        len: u64,
    ) -> Answer<u64> {
        // What is shared is found where it is applied, which may have to be waited for.
        if request.wait == Wait::Never {
            return Err(Stop::Waits);
        }
        let (source, target) = (handle(from.handle)?, handle(to.handle)?);
        let copied = self.client.copy_range(source, from.offset, target, to.offset, len)?;
        self.clear_suid(request, to.ino)?;
        Ok(copied)
    }

    /// After a change of contents by somebody who is not root, other than by a write, which carries its own word.
    fn clear_suid(&self, request: &Request, ino: Ino) -> Answer<()> {
        const SUID_OR_SGID: u32 = libc::S_ISUID | libc::S_ISGID;
        if request.uid == 0 {
            return Ok(());
        }
        let privileged = self.client.getattr(ino, AsOf::Now)?.mode & SUID_OR_SGID != 0
            || self.client.getxattr(ino, b"security.capability", AsOf::Now).is_ok();
        if privileged {
            let set = tsdb_client::SetAttr { clear_suid: true, ..Default::default() };
            self.client.setattr(caller(request), ino, set)?;
        }
        Ok(())
    }

    pub(super) fn readdir(
        &self,
        dir: Ino,
        after: u64,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Answer<()> {
        let kind = FileKind::Directory;
        let dot = DirEntry { name: b".", ino: dir, kind, cookie: DOT, entry: None };
        if after < DOT && !sink.add(&dot) {
            return Ok(());
        }
        if after < DOT_DOT {
            // A directory that was removed is its own parent: there is no other any more.
            let ino = self.client.parent(dir, AsOf::Now).unwrap_or(dir);
            let dot_dot = DirEntry { name: b"..", ino, cookie: DOT_DOT, ..dot };
            if !sink.add(&dot_dot) {
                return Ok(());
            }
        }
        let listed = self.client.readdir(dir, AsOf::Now, behind_dots(after), plus, &mut |found| {
            let (name, ino, kind, cookie) = (found.name, found.ino, found.kind, found.cookie);
            let entry = found.attr.map(|attr| self.entry(dir, name, attr));
            match sink.add(&DirEntry { name, ino, kind, cookie, entry }) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        if plus && self.client.is_far() {
            self.told.listed(dir, self.names_valid(dir));
        }
        match listed {
            // Removed while it was open: it has no entries.
            Err(FsError::Stale | FsError::NotFound) => Ok(()),
            listed => Ok(listed?),
        }
    }
}
