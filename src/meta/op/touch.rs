//! Which inodes a direct batch may change, as far as that shows before it is applied.

use crate::meta::key;
use crate::meta::op::Batch;
use crate::meta::op::Op;
use crate::types::Ino;
use std::collections::BTreeSet;

impl Batch {
    /// As [`may_change`] says.
    pub fn may_change(&self) -> Option<BTreeSet<Ino>> {
        let seen = self.direct.as_deref().unwrap_or_default();
        may_change(&self.ops, seen.iter().map(|row| &row.key[..]))
    }
}

/// At least all inodes whose rows a direct batch changes, but for those that its session owns. None where nobody can say before it is
/// applied. (The rules look at a row of every inode that they change, and its client says of each such row that it saw it.)
pub fn may_change<'a>(ops: &[Op], seen: impl Iterator<Item = &'a [u8]>) -> Option<BTreeSet<Ino>> {
    let mut inos = BTreeSet::new();
    let only_locks = ops.iter().all(|op| matches!(op, Op::SetLocks { .. }));
    if !only_locks {
        inos.extend(seen.filter_map(key::inode_of));
    }
    let saw_nothing = inos.is_empty();
    for op in ops {
        if op.reaches_unnamed() && saw_nothing {
            return None;
        }
        inos.extend(op.named()?.into_iter().flatten());
    }
    Some(inos)
}

impl Op {
    /// Whether it changes an inode that it does not name by its number.
    fn reaches_unnamed(&self) -> bool {
        matches!(self, Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename { .. })
    }

    /// The inodes that it names and may change rows of. None where it is no change of a client's.
    fn named(&self) -> Option<[Option<Ino>; 2]> {
        match self {
            Op::Create { dir, ino, .. } | Op::Link { ino, dir, .. } => {
                Some([Some(*dir), Some(*ino)])
            }
            Op::Rename { dir, new_dir, .. } => Some([Some(*dir), Some(*new_dir)]),
            Op::Unlink { dir: ino, .. }
            | Op::Rmdir { dir: ino, .. }
            | Op::SetAttr { ino, .. }
            | Op::Write { ino, .. }
            | Op::Zero { ino, .. }
            | Op::SetXattr { ino, .. }
            | Op::RemoveXattr { ino, .. }
            | Op::Version { ino }
            | Op::Release { ino }
            | Op::Clone { ino, .. }
            | Op::SetHistory { ino, .. }
            | Op::Accessed { ino, .. } => Some([Some(*ino), None]),
            // They are rows of no tree.
            Op::SetLocks { .. } | Op::Yield { .. } => Some([None, None]),
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
            | Op::Cluster(_) => None,
        }
    }
}
