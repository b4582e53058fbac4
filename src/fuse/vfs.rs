//! What a transport asks of a file system: the kernel's requests as typed calls.
//!
//! One side is a transport (today `adapter.rs` over fuser), the other a file system (`tree.rs`; the benches have one
//! in memory). Neither knows the other, so a transport over io_uring is one more file.
//!
//! Three ways to answer. Most calls answer at once. A call that would have to wait for a disk or a network, asked
//! with [`Wait::Never`], says [`Stop::Waits`] having done nothing, or lets the client say so for the thread
//! (`tsdb_client::patience`); the transport then repeats it on a worker thread with [`Wait::Allowed`]. `fsync` is told what to do [`Done`], because many of them wait for one sync together.
//!
//! Not here: permissions (the kernel checks them, `default_permissions`), waiting for a lock (the transport tries again),
//! `access`, `bmap`, `ioctl`, `poll` (a transport refuses them).

use crate::tsdb_client::Allocate;
use crate::tsdb_client::FileLock;
use crate::tsdb_client::Locking;
use crate::tsdb_client::OnUnlock;
use crate::tsdb_client::RenameHow;
use crate::tsdb_client::SeekFor;
use crate::tsdb_client::Space;
use crate::tsdb_client::Wait;
use crate::tsdb_client::XattrHow;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Time;
use crate::wire::Circled;
use crate::wire::Moment;
use crate::wire::Waiting;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Who asks. Only calls made by processes carry a caller: writeback does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub wait: Wait,
}

/// Why a call was not answered.
#[derive(Debug)]
pub enum Stop {
    Error(FsError),
    /// It would have to wait, and did nothing. Said only where [`Wait::Never`] was asked.
    Waits,
}

impl From<FsError> for Stop {
    fn from(error: FsError) -> Stop {
        Stop::Error(error)
    }
}

pub type Answer<T> = Result<T, Stop>;

/// Called once, on any thread, when what was asked is done.
pub type Done<T> = Box<dyn FnOnce(Result<T, FsError>) + Send>;

/// An open file, as its file system numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle(pub u64);

/// Attributes, and how long the kernel may believe them.
#[derive(Clone, Debug)]
pub struct Stat {
    pub attr: Attr,
    pub valid: Duration,
}

/// What a name names, and how long the kernel may believe that. Every one handed out is one more lookup of the
/// inode, until [`Vfs::forget`] takes it back.
#[derive(Clone, Debug)]
pub struct Entry {
    pub stat: Stat,
    pub valid: Duration,
}

#[derive(Clone, Debug)]
pub enum Lookup {
    Found(Entry),
    /// There is nothing of that name, and the kernel may believe it that long.
    Missing {
        valid: Duration,
    },
}

/// A file to be made. The mode has the caller's umask taken off already.
#[derive(Clone, Debug)]
pub struct Make {
    pub kind: FileKind,
    pub mode: u32,
    pub rdev: u32,
    /// The target of a symbolic link; empty for everything else.
    pub target: Bytes,
}

/// Flags of open(2), as the kernel passes them on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFlags(pub i32);

impl OpenFlags {
    pub fn writes(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_RDONLY
    }

    pub fn reads(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_WRONLY
    }

    pub fn truncates(self) -> bool {
        self.0 & libc::O_TRUNC != 0
    }

    pub fn exclusive(self) -> bool {
        self.0 & libc::O_EXCL != 0
    }

    pub fn appends(self) -> bool {
        self.0 & libc::O_APPEND != 0
    }
}

/// What the kernel may do with the contents of an open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cache {
    /// Keep what it has from before, and what it reads.
    Keep,
    /// Drop what it has from before, keep what it reads.
    Renew,
    /// Pass every read and write on, and map it all the same. A kernel that cannot map such a file is told `Renew`.
    Through,
    /// Pass every read and write on.
    Bypass,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    pub handle: Handle,
    pub cache: Cache,
    /// Whether closed descriptors are told with [`Vfs::flush`].
    pub flush: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    Now,
    At(Time),
}

/// Attributes to set; `None` leaves one as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// How bytes are to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteHow {
    /// At the end of the file, whatever the offset says.
    pub append: bool,
    /// By somebody without the right to keep set-user-id and set-group-id: both go, and security.capability.
    pub clear_suid: bool,
}

/// Where bytes are copied from or to: a file by its handle, and an offset in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub ino: Ino,
    pub handle: Handle,
    pub offset: u64,
}

/// An entry of a directory on its way to the kernel.
#[derive(Clone, Debug)]
pub struct DirEntry<'a> {
    pub name: &'a [u8],
    pub ino: Ino,
    pub kind: FileKind,
    /// Positive as an i64. Listing `after` it goes on behind this entry, whatever happened to the directory.
    pub cookie: u64,
    /// In a listing with attributes, of every entry but `.` and `..`.
    pub entry: Option<Entry>,
}

/// Where a listing goes: a buffer of the size the kernel asked for.
pub trait DirSink {
    /// False where there is no room for it: it was not added, and its lookup does not count.
    #[must_use]
    fn add(&mut self, entry: &DirEntry<'_>) -> bool;
}

/// The kernel's caches, as a file system corrects them. Never called from within a request, because the kernel may
/// hold locks for that very request that the correction needs. One exception: a directory's contents may be forgotten
/// while a name is looked up or listed, for which the kernel holds nothing that this needs.
pub trait Kernel: Send + Sync {
    /// Drops the attributes of `ino`, and its contents from `offset` on (`None`: keeps them).
    fn forget_inode(&self, ino: Ino, contents: Option<u64>);

    /// Drops what `name` named in `dir`, or that it named nothing.
    fn forget_entry(&self, dir: Ino, name: &[u8]);
}

/// Said where nobody asks.
const KERNELS: FsError = FsError::NotSupported("locks of one mount, which the kernel keeps");

/// A file system. Names are 1 to 255 bytes, any but `/` and NUL.
///
/// # Errors
/// Every call: as its namesake in section 2 of the manual, in the words of [`FsError`].
pub trait Vfs: Send + Sync + 'static {
    /// Called once, before the first request.
    fn mounted(&self, kernel: Arc<dyn Kernel>);

    /// Whether most calls may have to wait for a network, and others may change files behind the kernel's back.
    fn is_far(&self) -> bool;

    /// The answer to what was asked last on this thread is with the kernel.
    fn answered(&self);

    /// Called after the last request, or where no answer is wanted any more; then perhaps again. Everything not yet
    /// durable is made so.
    ///
    /// # Errors
    /// What could not be kept.
    fn destroy(&self) -> Result<(), FsError>;

    /// `.` and `..` are asked only for inodes that the kernel knows by number alone (NFS export).
    fn lookup(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<Lookup>;

    /// The kernel dropped so many lookups of `ino`.
    fn forget(&self, ino: Ino, lookups: u64);

    fn getattr(&self, request: &Request, ino: Ino) -> Answer<Stat>;

    fn setattr(&self, request: &Request, ino: Ino, set: &SetAttr) -> Answer<Stat>;

    fn readlink(&self, request: &Request, ino: Ino) -> Answer<Bytes>;

    /// A new file of any kind (mknod, mkdir, symlink).
    fn make(&self, request: &Request, dir: Ino, name: &[u8], make: &Make) -> Answer<Entry>;

    /// A new regular file, opened.
    fn create(
        &self,
        request: &Request,
        dir: Ino,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
    ) -> Answer<(Entry, Opened)>;

    fn link(&self, request: &Request, ino: Ino, dir: Ino, name: &[u8]) -> Answer<Entry>;

    fn unlink(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<()>;

    fn rmdir(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<()>;

    fn rename(
        &self,
        request: &Request,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        how: RenameHow,
    ) -> Answer<()>;

    /// A regular file. With O_TRUNC it is emptied as well.
    fn open(&self, request: &Request, ino: Ino, flags: OpenFlags) -> Answer<Opened>;

    /// At most `len` bytes; fewer only at the end of the file.
    fn read(
        &self,
        request: &Request,
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u32,
    ) -> Answer<Bytes>;

    /// How many bytes were written.
    fn write(
        &self,
        request: &Request,
        ino: Ino,
        handle: Handle,
        offset: u64,
        data: &[u8],
        how: WriteHow,
    ) -> Answer<u32>;

    /// A descriptor of the open file was closed; others may be open. What `owner` has locked of the file goes.
    fn flush(&self, request: &Request, ino: Ino, handle: Handle, owner: u64) -> Answer<()>;

    /// The last descriptor was closed. What was locked through it goes.
    fn release(&self, ino: Ino, handle: Handle);

    /// Makes the open file durable, or the directory. Does not wait itself.
    fn fsync(&self, ino: Ino, handle: Handle, done: Done<()>);

    /// Has `told` called with every file of which a lock has gone. The first call counts.
    fn on_unlock(&self, _told: OnUnlock) {}

    /// Sets a lock where none is in its way, in place of what its owner had there. Asked, like the next two, only where the
    /// file system is far: else the kernel keeps locks.
    fn lock(&self, _: &Request, _: Place, _: FileLock) -> Answer<Locking> {
        Err(KERNELS.into())
    }

    /// For what programs here wait that other mounts have locked, as it was once `after` had been told: which waits would never
    /// end. Waits for the nodes.
    fn waits(&self, _after: Moment, _waits: Vec<Waiting>) -> Answer<Circled> {
        Ok(Circled::default())
    }

    /// Whether an owner here has the file by flock(2). Waits for nothing.
    fn has_flock(&self, _: Ino, _owner: u64) -> bool {
        false
    }

    /// Drops what an owner has locked in these bytes, both included.
    fn unlock(&self, _: &Request, _: Ino, _owner: u64, _bytes: (u64, u64)) -> Answer<()> {
        Err(KERNELS.into())
    }

    /// A lock that would be in the way of this one.
    fn barring(&self, _: &Request, _: Ino, _wanted: FileLock) -> Answer<Option<FileLock>> {
        Err(KERNELS.into())
    }

    fn fallocate(&self, request: &Request, at: Place, len: u64, how: Allocate) -> Answer<()>;

    fn seek(&self, request: &Request, at: Place, seek: SeekFor) -> Answer<u64>;

    /// How many bytes were copied: at most `len`, fewer at the end of the source.
    fn copy_range(&self, request: &Request, from: Place, to: Place, len: u64) -> Answer<u64>;

    /// The entries behind the cookie `after` (0: from the start), `.` and `..` first, until the sink is full; `plus`:
    /// with attributes. Says [`Stop::Waits`] only before it adds the first. Directories are not opened, and the kernel
    /// keeps a listing that was read to its end; see [`Kernel::forget_inode`] for one that it should not keep.
    fn readdir(
        &self,
        request: &Request,
        dir: Ino,
        after: u64,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Answer<()>;

    fn statfs(&self, request: &Request, ino: Ino) -> Answer<Space>;

    fn setxattr(
        &self,
        request: &Request,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        how: XattrHow,
    ) -> Answer<()>;

    fn getxattr(&self, request: &Request, ino: Ino, name: &[u8]) -> Answer<Bytes>;

    /// The names, each followed by a NUL.
    fn listxattr(&self, request: &Request, ino: Ino) -> Answer<Bytes>;

    fn removexattr(&self, request: &Request, ino: Ino, name: &[u8]) -> Answer<()>;
}
