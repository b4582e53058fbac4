//! What the calls of a [`Client`](crate::tsdb_client::Client) take and give.
//!
//! Not here: anything that changes something.

use crate::tsdb_client::SaveTo;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::Ino;
use crate::types::Stamp;
use bytes::Bytes;
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

/// How a client works. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the session calls itself in logs and in `tsfs status`.
    pub name: String,
    /// Cached rows: names, attributes, extent maps.
    pub row_cache_bytes: u64,
    /// Cached contents, decompressed.
    pub block_cache_bytes: u64,
    /// Written but not yet durable: beyond it, writers wait.
    pub dirty_bytes_max: u64,
    /// How long a change may wait before it is sent.
    pub window: Duration,
    /// A batch with more contents than this is sent before its time.
    pub batch_bytes_max: u64,
    /// A file written for longer than this without a close gets a version this often.
    pub version_every: Duration,
    /// How hard contents are compressed.
    pub compression: Compression,
    /// Threads that compress, decompress and read ahead.
    pub workers: usize,
    /// Who mounted: may do, besides root, what needs the owner of the mount.
    pub owner: u32,
    /// Where work is saved that programs saw succeed and the store does not take; nowhere where it is none.
    pub refused: Option<SaveTo>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            name: "embedded".to_owned(),
            row_cache_bytes: 64 << 20,
            block_cache_bytes: 64 << 20,
            dirty_bytes_max: 256 << 20,
            window: Duration::from_millis(50),
            batch_bytes_max: 8 << 20,
            version_every: Duration::from_secs(1),
            compression: Compression::Auto,
            workers: 2,
            owner: 0,
            refused: None,
        }
    }
}

/// How hard contents are compressed, as levels of zstd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Always the same.
    Level(i32),
    /// A good one, and a fast one for as long as contents come faster than the good one allows.
    Auto,
}

impl Compression {
    const GOOD: i32 = 3;
    const FAST: i32 = 1;

    /// `behind`: more waits to be compressed than is soon done.
    pub(super) fn level(self, behind: bool) -> i32 {
        match self {
            Compression::Level(level) => level,
            Compression::Auto if behind => Compression::FAST,
            Compression::Auto => Compression::GOOD,
        }
    }
}

/// Who calls. Permissions to files are the kernel's to check (`default_permissions`); this is for ownership of what is
/// made, and for what only the mount's owner may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// Zero where unknown.
    pub pid: u32,
}

impl Caller {
    /// The supplementary groups, which requests do not carry; `None` where the process is gone or unknown.
    pub fn groups(self) -> Option<Vec<u32>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:"))?;
        line.split_whitespace().map(|group| group.parse().ok()).collect()
    }
}

/// A file to be created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct New {
    pub kind: FileKind,
    /// Permission bits, umask taken off. A directory that hands its group down does so inside.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    /// Target of a symbolic link; empty for everything else.
    pub target: Bytes,
}

/// An open file. Valid until it is released.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle(NonZeroU64);

impl Handle {
    /// `None` for zero.
    pub fn new(raw: u64) -> Option<Handle> {
        NonZeroU64::new(raw).map(Handle)
    }

    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// Whether a call may wait for a disk, a server or room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    Allowed,
    /// Answer `None` instead: the caller comes back on a thread that may wait.
    Never,
}

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry<'a> {
    pub name: &'a [u8],
    pub ino: Ino,
    pub kind: FileKind,
    /// Where to go on after this entry. At least [`DirEntry::COOKIES_BELOW_ARE_FREE`], below 2^63, the same as long as
    /// the entry lives, whatever else changes.
    pub cookie: u64,
    /// Where attributes were asked for.
    pub attr: Option<Attr>,
}

impl DirEntry<'_> {
    /// No entry has a smaller cookie: room for `.`, `..` and what a view adds.
    pub const COOKIES_BELOW_ARE_FREE: u64 = 16;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekFor {
    Data,
    /// The end of the file counts as a hole.
    Hole,
}

/// What `fallocate` is asked for. Nothing is set aside: space is promised when contents come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// The file grows if it is shorter.
    Extend,
    /// The size stays.
    KeepSize,
    /// Becomes a hole; the size stays.
    PunchHole,
    /// Reads as zeros.
    ZeroRange { keep_size: bool },
}

/// What `statfs` tells. Sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    pub total: u64,
    pub free: u64,
    /// Less what is set aside so that deleting still works.
    pub available: u64,
    pub files: u64,
}

/// One state that a name was in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileVersion {
    /// The first instant at which it can be read.
    pub stamp: Stamp,
    /// The instant that ended it; [`Stamp::MAX`] for what is now.
    pub until: Stamp,
    pub attr: Attr,
    /// For how long the name led to this inode.
    pub named: (Stamp, Stamp),
}

/// A name that is no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deleted {
    pub name: Bytes,
    /// The instant that ended it.
    pub when: Stamp,
    /// An instant at which it can be read, with its last contents.
    pub last: Stamp,
    pub ino: Ino,
    pub kind: FileKind,
}

/// A named instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marked {
    pub name: Bytes,
    pub stamp: Stamp,
    pub uid: u32,
    pub note: String,
}

/// What the kernel must forget, because it changed without the kernel asking for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Invalidate {
    /// Attributes and pages of a file, what a directory names.
    Inode(Ino),
    /// A name in a directory.
    Entry { dir: Ino, name: Bytes },
    /// Whatever it was told that it may believe.
    Everything,
}

/// Called once with whether a sync holds, on any thread. It must not wait.
pub type Synced = Box<dyn FnOnce(Result<(), crate::types::FsError>) + Send>;

/// Called with what the kernel must forget, from a thread of its own that holds no lock.
pub type OnInvalidate = Box<dyn Fn(&[Invalidate]) + Send + Sync>;

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_this_process_are_found() {
        let caller = |pid| Caller { uid: 0, gid: 0, pid };
        let expected = rustix::process::getgroups().unwrap();
        let expected: Vec<_> = expected.iter().map(|gid| gid.as_raw()).collect();
        assert_eq!(caller(std::process::id()).groups(), Some(expected));
        assert_eq!(caller(0).groups(), None);
    }
}
