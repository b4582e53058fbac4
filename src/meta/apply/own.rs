//! Who owns an inode: giving back, and being given the whole.
//!
//! `docs/decisions/0012-who-owns-an-inode.md` has the rule and its states. Not here: when something is asked back or given,
//! which the leader decides.

use crate::meta::apply::Apply;
use crate::meta::key::StateKey;
use crate::meta::record::Grant;
use crate::meta::record::Session;
use crate::meta::record::Shared;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use std::ops::ControlFlow;

impl Apply<'_> {
    /// The session shares these inodes from now on.
    pub(super) fn yield_back(&mut self, inos: &[Ino], whole: bool) -> Result<(), FsError> {
        if !self.is_replica() {
            return Ok(());
        }
        let epoch = self.next()?.epoch;
        for ino in inos {
            self.put_state(&StateKey::Shared { ino: *ino }, &Shared { epoch });
        }
        let grant = self.state::<Grant>(&StateKey::Grant)?;
        if whole && grant.is_some_and(|grant| grant.session == self.session) {
            self.remove_state(&StateKey::Grant);
        }
        Ok(())
    }

    /// Everything is a session's that is the only one. What was shared before is not any more: the epoch is new.
    pub(super) fn grant_whole(&mut self, session: SessionId) -> Result<(), FsError> {
        if self.state::<Session>(&StateKey::Session { session })?.is_none() {
            return Err(FsError::Invalid("the session is not open"));
        }
        let mut others = false;
        self.present.state_scan(&StateKey::sessions(), &mut |key, _| {
            others = StateKey::decode(key) != Some(StateKey::Session { session });
            if others { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if others {
            return Err(FsError::Invalid("another session is open"));
        }
        let next = self.next()?;
        let epoch = next.epoch;
        next.epoch += 1;
        self.put_state(&StateKey::Grant, &Grant { session, epoch });
        Ok(())
    }
}
