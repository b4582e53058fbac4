//! The one error that crosses module boundaries: a variant per answer a program can get.
//!
//! Modules below may have errors of their own; they become one of these where they leave the module.
//! The number a program sees (`errno`) is chosen in `fuse/errno.rs`, nowhere else.

mod told;

use crate::types::NodeId;
use crate::types::Stamp;
use crate::types::instant;

/// What the caller may do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The question has an answer, and this is it.
    Answer,
    /// The same call may succeed later.
    Retry,
    /// Something stored is not what was written, or cannot be read or written: a human must look.
    Damage,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FsError {
    #[error("no such file or directory")]
    NotFound,
    #[error("it exists already")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("it is a directory")]
    IsDirectory,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("a name has at most 255 bytes")]
    NameTooLong,
    #[error("a symbolic link's target has at most 4095 bytes")]
    LinkTooLong,
    #[error("the file has as many links as it can have")]
    TooManyLinks,
    #[error("a file has at most 2^50 bytes")]
    FileTooBig,
    #[error("{0}")]
    Invalid(&'static str),
    #[error("operation not permitted: {0}")]
    NotPermitted(&'static str),
    #[error("permission denied")]
    Denied,
    #[error("the past is read-only")]
    ReadOnly,
    #[error("no such attribute")]
    NoAttribute,
    #[error("the attribute's value does not fit: {0}")]
    AttributeTooBig(&'static str),
    #[error("the buffer is too small")]
    BufferTooSmall,
    #[error("no space left in the store; delete files or run 'tsfs purge'")]
    NoSpace,
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    #[error("the file handle is not open")]
    BadHandle,
    #[error("the file is gone")]
    Stale,
    #[error("no data at or after that offset")]
    NoData,
    #[error("it is locked")]
    Locked,
    #[error("one mount has at most 1000 locks on a file")]
    NoLocks,
    #[error("each would wait for the other's lock")]
    Deadlock,
    #[error("a signal came")]
    Interrupted,
    #[error("{} is before the oldest instant kept, {}", instant::utc(*asked), instant::utc(*oldest))]
    BeforeHorizon { asked: Stamp, oldest: Stamp },
    #[error("{0}")]
    BadInstant(String),
    /// The log refused it; says which rule it broke.
    #[error("refused: {0}")]
    Refused(String),
    #[error("another client holds the right to change this")]
    Fenced,
    /// The node that was asked cannot take changes. Of what it had taken before, it does not know what becomes: whoever asks
    /// the next leader the same again, with the same number, learns it.
    #[error("this node does not lead{}", leader.map_or(String::new(), |node| format!("; node {} does", node.0)))]
    NotLeader { leader: Option<NodeId> },
    /// No majority of the nodes, or none at all, answered in time.
    #[error("{0}")]
    Unreachable(String),
    #[error("the store is closing")]
    Closing,
    /// An earlier write that this call covers was lost. Told once per open file.
    #[error("an earlier write was lost: {0}")]
    Lost(String),
    /// A checksum or a rule does not hold. Never answered with the damaged bytes.
    #[error("damaged: {0}")]
    Damaged(String),
    #[error("{0}")]
    Io(String),
}

impl FsError {
    pub fn kind(&self) -> Kind {
        match self {
            FsError::Lost(_) | FsError::Damaged(_) | FsError::Io(_) => Kind::Damage,
            FsError::Closing
            | FsError::NoSpace
            | FsError::NotLeader { .. }
            | FsError::Unreachable(_) => Kind::Retry,
            _ => Kind::Answer,
        }
    }

    /// An input/output error with what was being done, as "open segment /x/y: permission denied".
    pub fn io(doing: impl std::fmt::Display, error: &std::io::Error) -> FsError {
        if error.raw_os_error() == Some(28) {
            return FsError::NoSpace;
        }
        FsError::Io(format!("{doing}: {error}"))
    }
}
