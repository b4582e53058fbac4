//! fuser on one side, a [`Vfs`] on the other: decode, call, reply. The only file that a new fuser changes.
//!
//! What is not asked of the kernel, and why: `WRITEBACK_CACHE` merges writes and takes size and times from us;
//! `DONT_MASK`, because the kernel takes the umask off as well as we could; `POSIX_ACL`, because default ACLs would
//! have to be handed down by every mount alike, which no rule of `meta` does yet; `POSIX_LOCKS`, where there is one mount:
//! its locks are the kernel's; `FLOCK_LOCKS`, there too and where nobody can tell the two kinds apart; `AUTO_INVAL_DATA`,
//! where there is one mount: it would drop a file's pages after each write of our own, whose time is given here.

use crate::fuse::calls::Calls;
use crate::fuse::calls::Name;
use crate::fuse::convert::allocate;
use crate::fuse::convert::file_lock;
use crate::fuse::convert::flock;
use crate::fuse::convert::ino;
use crate::fuse::convert::node_kind;
use crate::fuse::convert::rename_how;
use crate::fuse::convert::set_time;
use crate::fuse::convert::xattr_how;
use crate::fuse::linger::Linger;
use crate::fuse::reply::Listing;
use crate::fuse::reply::ReplySized;
use crate::fuse::syscall;
use crate::fuse::vfs::Cache;
use crate::fuse::vfs::Handle;
use crate::fuse::vfs::Kernel;
use crate::fuse::vfs::Make;
use crate::fuse::vfs::OpenFlags;
use crate::fuse::vfs::Opened;
use crate::fuse::vfs::Place;
use crate::fuse::vfs::SetAttr;
use crate::fuse::vfs::Vfs;
use crate::fuse::vfs::WriteHow;
use crate::tsdb_client::FileLock;
use crate::tsdb_client::SeekFor;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use bytes::Bytes;
use fuser::FileHandle;
use fuser::INodeNo;
use fuser::InitFlags;
use fuser::LockOwner;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Largest read or write that the kernel sends, in bytes: as much as its default limit of pages allows.
pub(super) const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Reads ahead and asynchronous direct I/O that may be under way.
const BACKGROUND_MAX: u16 = 64;
/// Most bytes of one copy_file_range; the kernel comes back for the rest.
const COPY_BYTES_MAX: u64 = 1 << 30;

/// Asked for where the kernel has it; all work without. Not that an open truncates: the kernel hands that on before it looks whether
/// the file is a program that runs, and refuses the open when the file is empty already.
const WANTED: &[InitFlags] = &[
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_EXPORT_SUPPORT,
    // Without it every write is preceded by a getxattr of security.capability. fuser does not pass on for which
    // truncations and opens set-user-id must go, so here it goes whenever the caller is not root.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
];

/// Whose pages go when: only when it is said.
const PAGES: InitFlags = InitFlags::FUSE_EXPLICIT_INVAL_DATA;
/// Where other mounts may change files, the kernel looks at size and time before it believes its pages.
const PAGES_FAR: InitFlags = InitFlags::FUSE_AUTO_INVAL_DATA;

/// Where other mounts may have locks too.
const LOCKS_FAR: InitFlags = InitFlags::FUSE_POSIX_LOCKS;

/// Called with what `destroy` came to, once no request can come any more.
pub(super) type Ended = Box<dyn FnOnce(Result<(), FsError>) + Send + Sync>;

pub(super) struct Adapter<V: Vfs> {
    calls: Calls<V>,
    ended: Option<Ended>,
    /// Whether the kernel maps files whose reads and writes it passes on.
    maps: bool,
    /// Whether locks of flock(2) are asked for here.
    flocks: bool,
}

impl<V: Vfs> Adapter<V> {
    pub(super) fn new(vfs: Arc<V>, linger: Linger, ended: Ended) -> io::Result<Adapter<V>> {
        Ok(Adapter {
            calls: Calls::new(vfs, linger)?,
            ended: Some(ended),
            maps: false,
            flocks: false,
        })
    }
}

fn place(at: INodeNo, handle: FileHandle, offset: u64) -> Result<Place, FsError> {
    Ok(Place { ino: ino(at)?, handle: Handle(handle.0), offset })
}

/// Linux before 6.6 does not map a file whose reads and writes it passes on; databases rest on that.
fn mapped(opened: Opened, maps: bool) -> Opened {
    match opened.cache {
        Cache::Through if !maps => Opened { cache: Cache::Renew, ..opened },
        _ => opened,
    }
}

impl<V: Vfs> fuser::Filesystem for Adapter<V> {
    fn init(&mut self, _: &fuser::Request, config: &mut fuser::KernelConfig) -> io::Result<()> {
        let far = self.calls.is_far();
        let pages = if far { PAGES_FAR } else { PAGES };
        let locks = far.then_some(&LOCKS_FAR);
        for flag in WANTED.iter().chain([&pages]).chain(locks) {
            if config.add_capabilities(*flag).is_err() {
                tracing::debug!(?flag, "the kernel does not have it");
            }
        }
        self.flocks = far
            && syscall::can_be_told()
            && config.add_capabilities(InitFlags::FUSE_FLOCK_LOCKS).is_ok();
        self.maps = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).is_ok();
        let refused = |nearest| io::Error::other(format!("at most {nearest} is possible"));
        config.set_max_write(REQUEST_BYTES_MAX).map_err(refused)?;
        // The kernel offers what its device is set to; more is set on the device itself once it is mounted.
        if let Err(most) = config.set_max_readahead(REQUEST_BYTES_MAX) {
            config.set_max_readahead(most).map_err(refused)?;
        }
        let refused = |nearest| io::Error::other(format!("at least {nearest} is needed"));
        config.set_max_background(BACKGROUND_MAX).map_err(refused)?;
        Ok(())
    }

    fn destroy(&mut self) {
        let outcome = self.calls.finish();
        if let Some(ended) = self.ended.take() {
            ended(outcome);
        }
    }

    fn lookup(&self, from: &fuser::Request, dir: INodeNo, name: &OsStr, reply: fuser::ReplyEntry) {
        let name = Name::new(name);
        self.calls
            .answer(from, reply, move |vfs, request| vfs.lookup(request, ino(dir)?, name.get()?));
    }

    fn forget(&self, _: &fuser::Request, at: INodeNo, lookups: u64) {
        self.calls.forget(at, lookups);
    }

    fn getattr(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        _: Option<FileHandle>,
        reply: fuser::ReplyAttr,
    ) {
        self.calls.answer(from, reply, move |vfs, request| vfs.getattr(request, ino(at)?));
    }

    fn setattr(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<fuser::TimeOrNow>,
        mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: fuser::ReplyAttr,
    ) {
        let mode = mode.map(|mode| mode & 0o7777);
        let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
        let set = SetAttr { mode, uid, gid, size, atime, mtime };
        self.calls.answer(from, reply, move |vfs, request| vfs.setattr(request, ino(at)?, &set));
    }

    fn readlink(&self, from: &fuser::Request, at: INodeNo, reply: fuser::ReplyData) {
        self.calls.answer(from, reply, move |vfs, request| vfs.readlink(request, ino(at)?));
    }

    fn mknod(
        &self,
        from: &fuser::Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: fuser::ReplyEntry,
    ) {
        let name = Name::new(name);
        self.calls.answer(from, reply, move |vfs, request| {
            let kind = node_kind(mode)?;
            let make = Make { kind, mode: mode & 0o7777, rdev, target: Bytes::new() };
            vfs.make(request, ino(dir)?, name.get()?, &make)
        });
    }

    fn mkdir(
        &self,
        from: &fuser::Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: fuser::ReplyEntry,
    ) {
        let name = Name::new(name);
        let (kind, mode) = (FileKind::Directory, mode & 0o7777);
        self.calls.answer(from, reply, move |vfs, request| {
            let make = Make { kind, mode, rdev: 0, target: Bytes::new() };
            vfs.make(request, ino(dir)?, name.get()?, &make)
        });
    }

    fn symlink(
        &self,
        from: &fuser::Request,
        dir: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: fuser::ReplyEntry,
    ) {
        let name = Name::new(name);
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        self.calls.answer(from, reply, move |vfs, request| {
            let target = target.clone();
            let make = Make { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target };
            vfs.make(request, ino(dir)?, name.get()?, &make)
        });
    }

    fn create(
        &self,
        from: &fuser::Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: fuser::ReplyCreate,
    ) {
        let (name, flags, maps) = (Name::new(name), OpenFlags(flags), self.maps);
        self.calls.answer(from, reply, move |vfs, request| {
            let made = vfs.create(request, ino(dir)?, name.get()?, mode & 0o7777, flags);
            made.map(|(entry, opened)| (entry, mapped(opened, maps)))
        });
    }

    fn unlink(&self, from: &fuser::Request, dir: INodeNo, name: &OsStr, reply: fuser::ReplyEmpty) {
        let name = Name::new(name);
        self.calls
            .answer(from, reply, move |vfs, request| vfs.unlink(request, ino(dir)?, name.get()?));
    }

    fn rmdir(&self, from: &fuser::Request, dir: INodeNo, name: &OsStr, reply: fuser::ReplyEmpty) {
        let name = Name::new(name);
        self.calls
            .answer(from, reply, move |vfs, request| vfs.rmdir(request, ino(dir)?, name.get()?));
    }

    fn rename(
        &self,
        from: &fuser::Request,
        dir: INodeNo,
        name: &OsStr,
        new_dir: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: fuser::ReplyEmpty,
    ) {
        let (name, new_name) = (Name::new(name), Name::new(new_name));
        self.calls.answer(from, reply, move |vfs, request| {
            let (old, new) = ((ino(dir)?, name.get()?), (ino(new_dir)?, new_name.get()?));
            vfs.rename(request, old, new, rename_how(flags)?)
        });
    }

    fn link(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        dir: INodeNo,
        name: &OsStr,
        reply: fuser::ReplyEntry,
    ) {
        let name = Name::new(name);
        self.calls.answer(from, reply, move |vfs, request| {
            vfs.link(request, ino(at)?, ino(dir)?, name.get()?)
        });
    }

    fn open(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        flags: fuser::OpenFlags,
        reply: fuser::ReplyOpen,
    ) {
        let (flags, maps) = (OpenFlags(flags.0), self.maps);
        self.calls.answer(from, reply, move |vfs, request| {
            vfs.open(request, ino(at)?, flags).map(|opened| mapped(opened, maps))
        });
    }

    fn read(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _owner: Option<LockOwner>,
        reply: fuser::ReplyData,
    ) {
        let handle = Handle(handle.0);
        self.calls.answer(from, reply, move |vfs, request| {
            vfs.read(request, ino(at)?, handle, offset, size)
        });
    }

    fn write(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: fuser::WriteFlags,
        flags: fuser::OpenFlags,
        _owner: Option<LockOwner>,
        reply: fuser::ReplyWrite,
    ) {
        let how = WriteHow {
            // Pages that the kernel writes back know their place; they come without a program's flags.
            append: OpenFlags(flags.0).appends()
                && !write_flags.contains(fuser::WriteFlags::FUSE_WRITE_CACHE),
            clear_suid: write_flags.contains(fuser::WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        let handle = Handle(handle.0);
        self.calls.write(from, data, reply, move |vfs, request, data| {
            vfs.write(request, ino(at)?, handle, offset, data, how)
        });
    }

    fn flush(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        reply: fuser::ReplyEmpty,
    ) {
        let handle = Handle(handle.0);
        self.calls
            .answer(from, reply, move |vfs, request| vfs.flush(request, ino(at)?, handle, owner.0));
    }

    fn getlk(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        _: FileHandle,
        owner: LockOwner,
        first: u64,
        last: u64,
        kind: i32,
        pid: u32,
        reply: fuser::ReplyLock,
    ) {
        let wanted = file_lock(owner, (first, last), kind, pid);
        self.calls.answer(from, reply, move |vfs, request| vfs.barring(request, ino(at)?, wanted));
    }

    fn setlk(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        first: u64,
        last: u64,
        kind: i32,
        pid: u32,
        waits: bool,
        reply: fuser::ReplyEmpty,
    ) {
        // flock(2) takes all of a file, and so may fcntl(2).
        let whole = first == 0 && last >= FileLock::LAST;
        let (maybe_flock, tid) = (self.flocks && whole, from.pid());
        if kind == libc::F_UNLCK {
            return self.calls.answer(from, reply, move |vfs, request| {
                let ino = ino(at)?;
                // Few who let go of all of a file ever had it by flock(2); of the others nothing is looked up.
                let flocked = maybe_flock && vfs.has_flock(ino, owner.0);
                let bytes = match flocked && syscall::locks_by_flock(tid) {
                    true => (FileLock::FLOCK, FileLock::FLOCK),
                    false => (first, last),
                };
                vfs.unlock(request, ino, owner.0, bytes)
            });
        }
        let lock = match maybe_flock && syscall::locks_by_flock(tid) {
            true => flock(owner, kind, pid),
            false => file_lock(owner, (first, last), kind, pid),
        };
        self.calls.lock(from, place(at, handle, 0), lock, waits, reply);
    }

    fn release(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        handle: FileHandle,
        _flags: fuser::OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: fuser::ReplyEmpty,
    ) {
        let handle = Handle(handle.0);
        self.calls.answer(from, reply, move |vfs, _| {
            vfs.release(ino(at)?, handle);
            Ok(())
        });
    }

    fn fsync(
        &self,
        _: &fuser::Request,
        at: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: fuser::ReplyEmpty,
    ) {
        self.calls.sync(at, handle, reply);
    }

    fn fsyncdir(
        &self,
        _: &fuser::Request,
        at: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: fuser::ReplyEmpty,
    ) {
        self.calls.sync(at, handle, reply);
    }

    /// Says that directories need no opening, which the kernel then remembers: it neither opens nor releases any, and
    /// keeps what it lists. Without this, `du` and `git status` in a warm tree take twice as long as on a disk.
    fn opendir(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: fuser::OpenFlags,
        reply: fuser::ReplyOpen,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn readdir(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: fuser::ReplyDirectory,
    ) {
        self.calls.list(from, at, offset, Listing::names(reply));
    }

    fn readdirplus(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: fuser::ReplyDirectoryPlus,
    ) {
        self.calls.list(from, at, offset, Listing::attributes(reply));
    }

    fn statfs(&self, from: &fuser::Request, at: INodeNo, reply: fuser::ReplyStatfs) {
        self.calls.answer(from, reply, move |vfs, request| vfs.statfs(request, ino(at)?));
    }

    fn setxattr(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: fuser::ReplyEmpty,
    ) {
        let (name, value) = (Name::new(name), value.to_vec());
        self.calls.answer(from, reply, move |vfs, request| {
            vfs.setxattr(request, ino(at)?, name.get()?, &value, xattr_how(flags)?)
        });
    }

    fn getxattr(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        name: &OsStr,
        size: u32,
        reply: fuser::ReplyXattr,
    ) {
        let name = Name::new(name);
        self.calls.answer(from, ReplySized { reply, room: size }, move |vfs, request| {
            vfs.getxattr(request, ino(at)?, name.get()?)
        });
    }

    fn listxattr(&self, from: &fuser::Request, at: INodeNo, size: u32, reply: fuser::ReplyXattr) {
        self.calls.answer(from, ReplySized { reply, room: size }, move |vfs, request| {
            vfs.listxattr(request, ino(at)?)
        });
    }

    fn removexattr(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        name: &OsStr,
        reply: fuser::ReplyEmpty,
    ) {
        let name = Name::new(name);
        self.calls.answer(from, reply, move |vfs, request| {
            vfs.removexattr(request, ino(at)?, name.get()?)
        });
    }

    fn fallocate(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: fuser::ReplyEmpty,
    ) {
        self.calls.answer(from, reply, move |vfs, request| {
            vfs.fallocate(request, place(at, handle, offset)?, len, allocate(mode)?)
        });
    }

    fn lseek(
        &self,
        from: &fuser::Request,
        at: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: fuser::ReplyLseek,
    ) {
        self.calls.answer(from, reply, move |vfs, request| {
            let what = match whence {
                libc::SEEK_DATA => SeekFor::Data,
                libc::SEEK_HOLE => SeekFor::Hole,
                _ => return Err(FsError::Invalid("the kernel seeks by itself otherwise").into()),
            };
            let offset = u64::try_from(offset).map_err(|_| FsError::NoData)?;
            vfs.seek(request, place(at, handle, offset)?, what)
        });
    }

    fn copy_file_range(
        &self,
        from: &fuser::Request,
        source: INodeNo,
        source_handle: FileHandle,
        source_offset: u64,
        target: INodeNo,
        target_handle: FileHandle,
        target_offset: u64,
        len: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: fuser::ReplyWrite,
    ) {
        self.calls.answer(from, reply, move |vfs, request| {
            let source = place(source, source_handle, source_offset)?;
            let target = place(target, target_handle, target_offset)?;
            let copied = vfs.copy_range(request, source, target, len.min(COPY_BYTES_MAX))?;
            Ok(u32::try_from(copied).unwrap_or(u32::MAX))
        });
    }

    fn access(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: fuser::AccessFlags,
        reply: fuser::ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn bmap(&self, _: &fuser::Request, _: INodeNo, _: u32, _: u64, reply: fuser::ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: fuser::ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::PollNotifier,
        _: fuser::PollEvents,
        _: fuser::PollFlags,
        reply: fuser::ReplyPoll,
    ) {
        // The kernel takes it that files are always ready, and does not ask again.
        reply.error(fuser::Errno::ENOSYS);
    }
}

/// Corrections of the kernel's caches, over fuser's notifier. They are written to the device where they are made.
pub(super) struct Notifier(pub(super) fuser::Notifier);

impl Kernel for Notifier {
    fn forget_inode(&self, at: Ino, contents: Option<u64>) {
        let offset = contents.map_or(-1, |from| from as i64);
        if let Err(error) = self.0.inval_inode(INodeNo(at.get()), offset, 0) {
            tracing::debug!(ino = %at, %error, "the kernel kept an inode");
        }
    }

    fn forget_entry(&self, dir: Ino, name: &[u8]) {
        if let Err(error) = self.0.inval_entry(INodeNo(dir.get()), OsStr::from_bytes(name)) {
            tracing::debug!(%dir, %error, "the kernel kept an entry");
        }
    }
}
