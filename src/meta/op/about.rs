//! What an op is about: for those who tell of ops and do not apply them.
//!
//! Not here: what an op does, which rows it touches (`meta::apply`).

use crate::meta::op::Op;
use crate::types::Ino;
use crate::types::Time;

impl Op {
    /// The inodes that it names: the one it is mostly about first, then directories.
    pub fn inos(&self) -> Vec<Ino> {
        match self {
            Op::Create { ino, dir, .. } | Op::Link { ino, dir, .. } => vec![*ino, *dir],
            Op::Unlink { dir, .. } | Op::Rmdir { dir, .. } => vec![*dir],
            Op::Rename { dir, new_dir, .. } => vec![*dir, *new_dir],
            Op::Clone { ino, from, .. } => vec![*ino, *from],
            Op::SetAttr { ino, .. }
            | Op::Write { ino, .. }
            | Op::Zero { ino, .. }
            | Op::SetXattr { ino, .. }
            | Op::RemoveXattr { ino, .. }
            | Op::Version { ino }
            | Op::Release { ino }
            | Op::SetHistory { ino, .. }
            | Op::Accessed { ino, .. }
            | Op::SetLocks { ino, .. } => vec![*ino],
            Op::Yield { inos, .. } => inos.clone(),
            Op::Mark { .. }
            | Op::Unmark { .. }
            | Op::SetRetention { .. }
            | Op::Purge { .. }
            | Op::Forget { .. }
            | Op::OpenSession { .. }
            | Op::EndSession { .. }
            | Op::GrantInos { .. }
            | Op::Format { .. }
            | Op::GrantWhole { .. }
            | Op::Raise { .. }
            | Op::Cluster(_) => Vec::new(),
        }
    }

    /// When its client did it, by the client's clock.
    pub fn time(&self) -> Option<Time> {
        match self {
            Op::Create { time, .. }
            | Op::Link { time, .. }
            | Op::Unlink { time, .. }
            | Op::Rmdir { time, .. }
            | Op::Rename { time, .. }
            | Op::SetAttr { time, .. }
            | Op::Write { time, .. }
            | Op::Zero { time, .. }
            | Op::SetXattr { time, .. }
            | Op::RemoveXattr { time, .. }
            | Op::Clone { time, .. }
            | Op::SetHistory { time, .. }
            | Op::Format { time, .. }
            | Op::Accessed { time, .. } => Some(*time),
            _ => None,
        }
    }
}
