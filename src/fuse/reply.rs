//! Answers on their way back to the kernel: one trait over fuser's many reply types. Each may move to another thread.

use crate::fuse::convert::bare_attr;
use crate::fuse::convert::file_attr;
use crate::fuse::convert::file_type;
use crate::fuse::convert::number;
use crate::fuse::vfs::Cache;
use crate::fuse::vfs::DirEntry;
use crate::fuse::vfs::DirSink;
use crate::fuse::vfs::Entry;
use crate::fuse::vfs::Lookup;
use crate::fuse::vfs::Opened;
use crate::fuse::vfs::Stat;
use crate::tsdb_client::FileLock;
use crate::tsdb_client::Space;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Kind;
use bytes::Bytes;
use fuser::FopenFlags;
use fuser::INodeNo;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Inode numbers are never used twice, so there is one generation of each.
const GENERATION: fuser::Generation = fuser::Generation(0);
/// What statfs counts in, in bytes.
const SPACE_UNIT: u32 = 4096;
/// Files that may still be made: as many as there are numbers, which says "no limit" to whoever asks.
const FILES_FREE: u64 = 1 << 40;

/// Takes the answer to one request.
pub(super) trait Reply<T>: Send + 'static {
    fn send(self, answer: Result<T, FsError>);
}

/// Ends an error: damage is logged here and nowhere else, an ordinary answer only for whoever debugs. A full disk is told
/// of once, by whoever looks after its space: programs may try again a thousand times a second.
fn ended(error: &FsError) -> fuser::Errno {
    match error.kind() {
        _ if *error == FsError::NoSpace => tracing::debug!(%error, "a request failed"),
        Kind::Damage => tracing::error!(%error, "a request failed"),
        Kind::Retry => tracing::warn!(%error, "a request failed"),
        Kind::Answer => tracing::trace!(%error, "a request was refused"),
    }
    number(error)
}

impl Reply<Lookup> for fuser::ReplyEntry {
    fn send(self, answer: Result<Lookup, FsError>) {
        match answer {
            Ok(Lookup::Found(entry)) => Reply::<Entry>::send(self, Ok(entry)),
            // Number zero is the protocol's way to say "nothing, and you may believe it that long".
            Ok(Lookup::Missing { valid }) if !valid.is_zero() => {
                let nothing = bare_attr(0, FileKind::File);
                self.entry_with_ttls(&Duration::ZERO, &valid, &nothing, GENERATION);
            }
            Ok(Lookup::Missing { .. }) => self.error(number(&FsError::NotFound)),
            Err(error) => self.error(ended(&error)),
        }
    }
}

impl Reply<Entry> for fuser::ReplyEntry {
    fn send(self, answer: Result<Entry, FsError>) {
        match answer {
            Ok(Entry { stat, valid }) => {
                self.entry_with_ttls(&stat.valid, &valid, &file_attr(&stat.attr), GENERATION);
            }
            Err(error) => self.error(ended(&error)),
        }
    }
}

impl Reply<Stat> for fuser::ReplyAttr {
    fn send(self, answer: Result<Stat, FsError>) {
        match answer {
            Ok(stat) => self.attr(&stat.valid, &file_attr(&stat.attr)),
            Err(error) => self.error(ended(&error)),
        }
    }
}

impl Reply<Bytes> for fuser::ReplyData {
    fn send(self, answer: Result<Bytes, FsError>) {
        match answer {
            Ok(bytes) => self.data(&bytes),
            Err(error) => self.error(ended(&error)),
        }
    }
}

impl Reply<()> for fuser::ReplyEmpty {
    fn send(self, answer: Result<(), FsError>) {
        match answer {
            Ok(()) => self.ok(),
            Err(error) => self.error(ended(&error)),
        }
    }
}

impl Reply<Option<FileLock>> for fuser::ReplyLock {
    fn send(self, answer: Result<Option<FileLock>, FsError>) {
        match answer {
            Ok(None) => self.locked(0, 0, libc::F_UNLCK, 0),
            Ok(Some(lock)) => {
                let kind = if lock.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
                self.locked(lock.first, lock.last, kind, lock.pid);
            }
            Err(error) => self.error(ended(&error)),
        }
    }
}

impl Reply<u32> for fuser::ReplyWrite {
    fn send(self, answer: Result<u32, FsError>) {
        match answer {
            Ok(written) => self.written(written),
            Err(error) => self.error(ended(&error)),
        }
    }
}

impl Reply<u64> for fuser::ReplyLseek {
    fn send(self, answer: Result<u64, FsError>) {
        match answer {
            Ok(offset) => self.offset(offset as i64),
            Err(error) => self.error(ended(&error)),
        }
    }
}

impl Reply<Space> for fuser::ReplyStatfs {
    fn send(self, answer: Result<Space, FsError>) {
        let unit = u64::from(SPACE_UNIT);
        match answer {
            Ok(space) => self.statfs(
                space.total / unit,
                space.free / unit,
                space.available / unit,
                space.files + FILES_FREE,
                FILES_FREE,
                SPACE_UNIT,
                crate::types::NAME_BYTES_MAX as u32,
                SPACE_UNIT,
            ),
            Err(error) => self.error(ended(&error)),
        }
    }
}

fn file_flags(opened: &Opened) -> FopenFlags {
    let cache = match opened.cache {
        Cache::Keep => FopenFlags::FOPEN_KEEP_CACHE,
        Cache::Renew => FopenFlags::empty(),
        Cache::Through | Cache::Bypass => FopenFlags::FOPEN_DIRECT_IO,
    };
    if opened.flush { cache } else { cache | FopenFlags::FOPEN_NOFLUSH }
}

impl Reply<Opened> for fuser::ReplyOpen {
    fn send(self, answer: Result<Opened, FsError>) {
        match answer {
            Ok(opened) => {
                self.opened(fuser::FileHandle(opened.handle.0), file_flags(&opened));
            }
            Err(error) => self.error(ended(&error)),
        }
    }
}

impl Reply<(Entry, Opened)> for fuser::ReplyCreate {
    fn send(self, answer: Result<(Entry, Opened), FsError>) {
        match answer {
            Ok((entry, opened)) => self.created(
                // fuser has one time for both here; the shorter one holds for either.
                &entry.valid.min(entry.stat.valid),
                &file_attr(&entry.stat.attr),
                GENERATION,
                fuser::FileHandle(opened.handle.0),
                file_flags(&opened),
            ),
            Err(error) => self.error(ended(&error)),
        }
    }
}

/// The value or names that getxattr(2) or listxattr(2) asks for, or their size where it has no room.
pub(super) struct ReplySized {
    pub(super) reply: fuser::ReplyXattr,
    pub(super) room: u32,
}

impl Reply<Bytes> for ReplySized {
    fn send(self, answer: Result<Bytes, FsError>) {
        match answer {
            Ok(bytes) if self.room == 0 => self.reply.size(bytes.len() as u32),
            Ok(bytes) if bytes.len() <= self.room as usize => self.reply.data(&bytes),
            Ok(_) => self.reply.error(number(&FsError::BufferTooSmall)),
            Err(error) => self.reply.error(ended(&error)),
        }
    }
}

/// A listing that fills up, with attributes or without.
pub(super) struct Listing {
    buffer: Buffer,
    added: bool,
}

enum Buffer {
    Names(fuser::ReplyDirectory),
    Attributes(fuser::ReplyDirectoryPlus),
}

impl Listing {
    pub(super) fn names(reply: fuser::ReplyDirectory) -> Listing {
        Listing { buffer: Buffer::Names(reply), added: false }
    }

    pub(super) fn attributes(reply: fuser::ReplyDirectoryPlus) -> Listing {
        Listing { buffer: Buffer::Attributes(reply), added: false }
    }

    pub(super) fn has_attributes(&self) -> bool {
        matches!(self.buffer, Buffer::Attributes(_))
    }
}

impl DirSink for Listing {
    fn add(&mut self, entry: &DirEntry<'_>) -> bool {
        let name = OsStr::from_bytes(entry.name);
        let ino = INodeNo(entry.ino.get());
        let full = match &mut self.buffer {
            Buffer::Names(reply) => reply.add(ino, entry.cookie, file_type(entry.kind), name),
            Buffer::Attributes(reply) => {
                let (valid, attr) = match &entry.entry {
                    Some(Entry { stat, valid }) => {
                        ((*valid).min(stat.valid), file_attr(&stat.attr))
                    }
                    None => (Duration::ZERO, bare_attr(ino.0, entry.kind)),
                };
                reply.add(ino, entry.cookie, name, &valid, &attr, GENERATION)
            }
        };
        self.added |= !full;
        !full
    }
}

impl Reply<()> for Listing {
    fn send(self, answer: Result<(), FsError>) {
        match answer {
            // What was added counts as looked up, so it must arrive; an error will come again with the next call.
            Err(error) if !self.added => {
                let number = ended(&error);
                match self.buffer {
                    Buffer::Names(reply) => reply.error(number),
                    Buffer::Attributes(reply) => reply.error(number),
                }
            }
            _ => match self.buffer {
                Buffer::Names(reply) => reply.ok(),
                Buffer::Attributes(reply) => reply.ok(),
            },
        }
    }
}
