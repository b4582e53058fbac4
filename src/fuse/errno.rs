//! The number a program sees for an error. The only place that chooses one.

use crate::types::FsError;

/// No wildcard: a new error must choose its number to compile.
pub fn errno(error: &FsError) -> i32 {
    match error {
        FsError::NotFound => libc::ENOENT,
        FsError::Exists => libc::EEXIST,
        FsError::NotDirectory => libc::ENOTDIR,
        FsError::IsDirectory => libc::EISDIR,
        FsError::NotEmpty => libc::ENOTEMPTY,
        FsError::NameTooLong | FsError::LinkTooLong => libc::ENAMETOOLONG,
        FsError::TooManyLinks => libc::EMLINK,
        FsError::FileTooBig => libc::EFBIG,
        FsError::Invalid(_) => libc::EINVAL,
        FsError::NotPermitted(_) => libc::EPERM,
        FsError::Denied => libc::EACCES,
        FsError::ReadOnly => libc::EROFS,
        FsError::NoAttribute => libc::ENODATA,
        FsError::AttributeTooBig(_) => libc::E2BIG,
        FsError::BufferTooSmall => libc::ERANGE,
        FsError::NoSpace => libc::ENOSPC,
        FsError::NotSupported(_) => libc::EOPNOTSUPP,
        FsError::BadHandle => libc::EBADF,
        FsError::Stale => libc::ESTALE,
        FsError::NoData => libc::ENXIO,
        FsError::Locked => libc::EAGAIN,
        FsError::NoLocks => libc::ENOLCK,
        FsError::Deadlock => libc::EDEADLK,
        // The kernel makes ERESTARTSYS of it for a lock: a signal decides.
        FsError::Interrupted => libc::EINTR,
        // "No data available": it may have been there, but its history is not kept any more.
        FsError::BeforeHorizon { .. } => libc::ENODATA,
        FsError::BadInstant(_) | FsError::Refused(_) => libc::EINVAL,
        FsError::Fenced | FsError::Closing => libc::EIO,
        FsError::NotLeader { .. } | FsError::Unreachable(_) => libc::EIO,
        FsError::Lost(_) | FsError::Damaged(_) | FsError::Io(_) => libc::EIO,
    }
}
