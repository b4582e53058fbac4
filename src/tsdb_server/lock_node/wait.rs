//! Waiting for what other sessions have: inodes that they own, changes that they have not sent.
//!
//! Not here: when they are given up on (`tick`).

use crate::tsdb_server::lock_node::LockNode;
use crate::tsdb_server::lock_node::rights;
use crate::tsdb_server::lock_node::rights::Rights;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Stamp;
use std::time::Duration;

/// Whoever waits looks again after so long, although nothing was told: what may not come is the end of this reign.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl LockNode {
    /// Whether [`LockNode::touch`] would wait. Cheap where nobody else owns anything.
    pub fn would_wait(&self, session: SessionId, inos: &[Ino]) -> bool {
        // What went wrong, touching tells.
        self.rights()
            .and_then(|rights| self.first_held(&rights, session, inos))
            .is_ok_and(|held| held.is_some())
    }

    fn first_held(
        &self,
        rights: &Rights,
        session: SessionId,
        inos: &[Ino],
    ) -> Result<Option<Ino>, FsError> {
        for ino in inos {
            if rights.held(&*self.rows, *ino, session)?.is_some() {
                return Ok(Some(*ino));
            }
        }
        Ok(None)
    }

    /// Returns once no other session owns any of these inodes: it is asked to give them back, or ends. What it did before can be read
    /// then, and no other will own them as long as `session` is open.
    ///
    /// # Errors
    /// `Unreachable` after `patience`; `NotLeader` where the reign ends; `Damaged`, `Io`, `Closing`.
    pub fn touch(
        &self,
        session: SessionId,
        inos: &[Ino],
        patience: Duration,
    ) -> Result<(), FsError> {
        let deadline = self.clock.steady().saturating_add(patience);
        loop {
            let rights = self.rights()?;
            let Some(first) = self.first_held(&rights, session, inos)? else { return Ok(()) };
            self.recall(session, inos)?;
            let now = self.clock.steady();
            if now >= deadline {
                return Err(FsError::Unreachable(format!(
                    "another mount uses inode {first} and has not let go of it; try again"
                )));
            }
            let seen = rights.turn.unwrap_or_default();
            self.turns.wait_beyond(seen, LOOK_EVERY.min(deadline - now));
        }
    }

    /// Asks those who own any of these for them.
    fn recall(&self, session: SessionId, inos: &[Ino]) -> Result<(), FsError> {
        self.in_office(|office, rights, now| {
            let mut actions = Vec::new();
            for ino in inos {
                if let Some(owner) = rights.held(&*self.rows, *ino, session)? {
                    let through = rights::through(&*self.rows, *ino, owner)?;
                    actions.extend(office.leases.want(owner.session, *ino, through, now));
                }
            }
            office.act(actions);
            Ok(())
        })
    }

    /// Returns once all that programs did until now, at any mount, can be read as of the stamp that is returned. What a mount has
    /// that does not answer is not waited for longer than a lease.
    ///
    /// # Errors
    /// `NotLeader`, `Io`, `Closing`.
    pub fn settle(&self, session: SessionId) -> Result<Stamp, FsError> {
        let (term, round) = self.in_office(|office, _, now| {
            let (round, actions) = office.leases.flush(session, now);
            office.act(actions);
            Ok((office.term, round))
        })?;
        let mut office = self.office.lock();
        loop {
            let leads = self.log()?.reign() == Some(term);
            let reign = office.as_ref().filter(|office| leads && office.term == term);
            let reign = reign.ok_or(FsError::NotLeader { leader: None })?;
            if reign.leases.is_flushed(round, self.clock.steady()) {
                break;
            }
            self.told.wait_for(&mut office, LOOK_EVERY);
        }
        drop(office);
        self.log()?.barrier()
    }

    pub(super) fn flushed(&self, session: SessionId, round: u64) {
        if let Some(office) = self.office.lock().as_mut() {
            office.leases.flushed(session, round);
        }
        self.told.notify_all();
    }
}
