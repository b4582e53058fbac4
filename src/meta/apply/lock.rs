//! What a session's programs have locked of an inode that others may use.
//!
//! `docs/decisions/0015-file-locks.md` has the table of outcomes. Not here: which locks go together on one mount (`meta::lock`).

use crate::meta::apply::Apply;
use crate::meta::key::StateKey;
use crate::meta::lock::FileLock;
use crate::meta::lock::FileLocks;
use crate::meta::record::Locks;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Stamp;
use std::ops::ControlFlow;

/// Most locks that one session has on one inode which others may use.
pub const LOCKS_MAX: usize = 1000;

impl Apply<'_> {
    /// From now on these are the session's locks on the inode, and no others.
    pub(super) fn set_locks(&mut self, ino: Ino, locks: &[FileLock]) -> Result<(), FsError> {
        let Some(stamp) = self.present.stamp() else { return Ok(()) };
        if self.session == SessionId(0) {
            return Err(FsError::Invalid("locks are a session's"));
        }
        if locks.len() > LOCKS_MAX {
            return Err(FsError::NoLocks);
        }
        if FileLocks::of(locks).is_none_or(|sound| sound.all() != locks) {
            return Err(FsError::Invalid("no mount can have these locks together"));
        }
        let is_gone = self.find_inode(ino)?.is_none();
        if is_gone && self.direct && !locks.is_empty() {
            return Err(FsError::Stale);
        }
        // Whoever gives a file back that has gone meanwhile has nothing locked any more.
        let locks = if is_gone { &[] } else { locks };
        let (session, key) = (self.session, StateKey::Locks { ino, session: self.session });
        let Locks(former) = self.state(&key)?.unwrap_or_default();
        let new = |lock: &&FileLock| !former.iter().any(|(had, _)| had == *lock);
        let new: Vec<FileLock> = locks.iter().filter(new).copied().collect();
        if self.is_barred(ino, &new)? {
            return Err(FsError::Locked);
        }
        let token = |lock: &FileLock| {
            let covers = |(had, _): &&(FileLock, Stamp)| {
                had.owner == lock.owner
                    && had.exclusive == lock.exclusive
                    && had.first <= lock.first
                    && lock.last <= had.last
            };
            (*lock, former.iter().find(covers).map_or(stamp, |(_, token)| *token))
        };
        match locks.is_empty() {
            true => self.remove_locks(session, ino),
            false => {
                self.put_state(&key, &Locks(locks.iter().map(token).collect()));
                self.put_sign(&StateKey::LocksOf { session, ino });
            }
        }
        Ok(())
    }

    /// Whether another session has a lock that is in the way of one of these.
    fn is_barred(&mut self, ino: Ino, wanted: &[FileLock]) -> Result<bool, FsError> {
        if wanted.is_empty() {
            return Ok(false);
        }
        let (session, mut barred) = (self.session, Ok(false));
        self.present.state_scan(&StateKey::locks_on(ino), &mut |key, row| {
            barred = bars(key, row, session, wanted);
            match barred {
                Ok(false) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        barred
    }

    fn remove_locks(&mut self, session: SessionId, ino: Ino) {
        self.remove_state(&StateKey::Locks { ino, session });
        self.remove_state(&StateKey::LocksOf { session, ino });
    }

    /// Takes the locks of a session on at most `limit` inodes; how many that were, and whether there are more.
    pub(super) fn drop_locks(
        &mut self,
        session: SessionId,
        limit: usize,
    ) -> Result<(usize, bool), FsError> {
        let mut inos = Vec::new();
        self.present.state_scan(&StateKey::locks_of(session), &mut |key, _| {
            if let Some(StateKey::LocksOf { ino, .. }) = StateKey::decode(key) {
                inos.push(ino);
            }
            match inos.len() > limit {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        let more = inos.len() > limit;
        inos.truncate(limit);
        for ino in &inos {
            self.remove_locks(session, *ino);
        }
        Ok((inos.len(), more))
    }
}

/// Whether a row of locks, if it is another session's, is in the way of what `session` wants.
///
/// # Errors
/// `Damaged`.
pub fn bars(
    key: &[u8],
    row: &[u8],
    session: SessionId,
    wanted: &[FileLock],
) -> Result<bool, FsError> {
    use crate::meta::record::Record;
    let others =
        matches!(StateKey::decode(key), Some(StateKey::Locks { session: of, .. }) if of != session);
    if !others {
        return Ok(false);
    }
    let Locks(held) = Locks::from_row(key, row)?;
    Ok(held.iter().any(|(held, _)| wanted.iter().any(|wanted| held.bars(wanted))))
}
