//! Values as fuser has them, and as we do.

use crate::fuse::errno::errno;
use crate::fuse::vfs::SetTime;
use crate::tsdb_client::Allocate;
use crate::tsdb_client::FileLock;
use crate::tsdb_client::RenameHow;
use crate::tsdb_client::XattrHow;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Time;
use fuser::FileAttr;
use fuser::FileType;
use fuser::INodeNo;
use fuser::LockOwner;
use std::time::Duration;
use std::time::SystemTime;

/// What programs are told to read and write at a time (`st_blksize`), in bytes. The C library's streams obey, and
/// each of their writes is a request.
const PREFERRED_BYTES: u32 = 128 << 10;

pub(super) fn ino(raw: INodeNo) -> Result<Ino, FsError> {
    Ino::new(raw.0).ok_or(FsError::Stale)
}

/// A lock as fcntl(2) has it.
pub(super) fn file_lock(
    owner: LockOwner,
    (first, last): (u64, u64),
    kind: i32,
    pid: u32,
) -> FileLock {
    let (first, last) = (first.min(FileLock::LAST), last.min(FileLock::LAST));
    FileLock { owner: owner.0, first, last, exclusive: kind == libc::F_WRLCK, pid }
}

/// A lock as flock(2) has it.
pub(super) fn flock(owner: LockOwner, kind: i32, pid: u32) -> FileLock {
    let (first, last) = (FileLock::FLOCK, FileLock::FLOCK);
    FileLock { owner: owner.0, first, last, exclusive: kind == libc::F_WRLCK, pid }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind of file that mknod(2) is asked for.
pub(super) fn node_kind(mode: u32) -> Result<FileKind, FsError> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(FileKind::File),
        libc::S_IFIFO => Ok(FileKind::Fifo),
        libc::S_IFSOCK => Ok(FileKind::Socket),
        libc::S_IFCHR => Ok(FileKind::CharDevice),
        libc::S_IFBLK => Ok(FileKind::BlockDevice),
        _ => Err(FsError::Invalid("mknod makes no files of that kind")),
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.get()),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: PREFERRED_BYTES,
        flags: 0,
    }
}

/// Attributes of which the kernel uses the number and kind alone: those of `.` and `..` in a listing with
/// attributes, and (with number zero) of a name that is known to name nothing.
pub(super) fn bare_attr(ino: u64, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PREFERRED_BYTES,
        flags: 0,
    }
}

fn system_time(time: Time) -> SystemTime {
    let secs = Duration::from_secs(time.secs.unsigned_abs());
    let whole = if time.secs < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(secs)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(secs)
    };
    let nanos = Duration::new(0, time.nanos);
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// fuser 0.18 makes a time before 1970 of `-secs` and `nanos` by subtracting *both* from the epoch. Taking the
/// distance apart again gives back what the kernel said. (`times_before_1970_keep_their_fractions` will notice a
/// fuser that does it right.)
pub(super) fn set_time(time: fuser::TimeOrNow) -> SetTime {
    let time = match time {
        fuser::TimeOrNow::Now => return SetTime::Now,
        fuser::TimeOrNow::SpecificTime(time) => time,
    };
    SetTime::At(match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
        Err(before) => {
            let distance = before.duration();
            let secs = (distance.as_secs() as i64).wrapping_neg();
            Time { secs, nanos: distance.subsec_nanos() }
        }
    })
}

pub(super) fn number(error: &FsError) -> fuser::Errno {
    fuser::Errno::from_i32(errno(error))
}

pub(super) fn allocate(mode: i32) -> Result<Allocate, FsError> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Ok(Allocate::Extend),
        libc::FALLOC_FL_KEEP_SIZE => Ok(Allocate::KeepSize),
        PUNCH => Ok(Allocate::PunchHole),
        libc::FALLOC_FL_ZERO_RANGE => Ok(Allocate::ZeroRange { keep_size: false }),
        ZERO_KEEP => Ok(Allocate::ZeroRange { keep_size: true }),
        _ => Err(FsError::NotSupported("that mode of fallocate")),
    }
}

pub(super) fn rename_how(flags: fuser::RenameFlags) -> Result<RenameHow, FsError> {
    if flags.is_empty() {
        Ok(RenameHow::Replace)
    } else if flags == fuser::RenameFlags::RENAME_NOREPLACE {
        Ok(RenameHow::NoReplace)
    } else if flags == fuser::RenameFlags::RENAME_EXCHANGE {
        Ok(RenameHow::Exchange)
    } else {
        Err(FsError::Invalid("that combination of flags for rename"))
    }
}

pub(super) fn xattr_how(flags: i32) -> Result<XattrHow, FsError> {
    match flags {
        0 => Ok(XattrHow::Set),
        libc::XATTR_CREATE => Ok(XattrHow::Create),
        libc::XATTR_REPLACE => Ok(XattrHow::Replace),
        _ => Err(FsError::Invalid("that combination of flags for setxattr")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_to_fuser_and_come_back_as_its_decoder_gives_them() {
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(system_time(Time { secs: 3, nanos: 5 }), epoch + Duration::new(3, 5));
        let before = system_time(Time { secs: -2, nanos: 300_000_000 });
        assert_eq!(before, epoch - Duration::new(1, 700_000_000));
        // What fuser 0.18 makes of (-2, 0.3 s).
        let decoded = epoch - Duration::new(2, 300_000_000);
        let time = set_time(fuser::TimeOrNow::SpecificTime(decoded));
        assert_eq!(time, SetTime::At(Time { secs: -2, nanos: 300_000_000 }));
        assert_eq!(set_time(fuser::TimeOrNow::Now), SetTime::Now);
    }

    #[test]
    fn flags_that_do_not_exist_here_are_refused() {
        assert_eq!(allocate(PUNCH_AND_KEEP), Ok(Allocate::PunchHole));
        assert!(allocate(libc::FALLOC_FL_COLLAPSE_RANGE).is_err());
        assert!(rename_how(fuser::RenameFlags::RENAME_WHITEOUT).is_err());
        assert!(xattr_how(3).is_err());
        assert!(node_kind(libc::S_IFDIR | 0o755).is_err());
        assert_eq!(node_kind(libc::S_IFIFO | 0o600), Ok(FileKind::Fifo));
    }

    const PUNCH_AND_KEEP: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
}
