//! What time brings: sessions that end, and one that is left alone.
//!
//! Not here: when that is (`lease`).

use crate::lease::Action;
use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::meta::record::Session;
use crate::tsdb_server::lock_node::LockNode;
use crate::tsdb_server::lock_node::office::Call;
use crate::tsdb_server::task::Task;
use crate::tsdb_server::task::Worked;
use crate::types::FsError;
use crate::types::SessionId;
use std::sync::Weak;
use std::time::Duration;

/// How often leases are looked at.
const TICK_EVERY: Duration = Duration::from_secs(1);

impl LockNode {
    /// Does what is due. Waits for what it proposes.
    ///
    /// # Errors
    /// `NotLeader`, `Io`, `Closing`: it is due again with the next tick.
    pub fn tick(&self) -> Result<(), FsError> {
        let (due, ending) = self.in_office(|office, rights, now| {
            let actions = office.leases.tick(now);
            office.copies.tend(now);
            Ok((office.act(actions), rights.ending()))
        })?;
        self.told.notify_all();
        if let Some(session) = ending {
            self.end(session, "its session was ended")?;
        }
        for action in due {
            match action {
                Action::End { session, why } => self.end(session, &why)?,
                Action::GrantWhole { session } => self.grant_whole(session)?,
                Action::Recall { .. } | Action::Flush { .. } => {}
            }
        }
        Ok(())
    }

    /// Ends a session, with all that it leaves.
    fn end(&self, session: SessionId, why: &str) -> Result<(), FsError> {
        tracing::warn!(session = session.0, why, "a mount's session ends");
        self.in_office(|office, _, _| {
            office.call(session, Call::Ended(why.to_owned()));
            office.listeners.remove(&session);
            Ok(())
        })?;
        while self.record::<Session>(&StateKey::Session { session })?.is_some() {
            self.log()?.propose(Op::EndSession { session })?;
        }
        Ok(())
    }

    fn grant_whole(&self, session: SessionId) -> Result<(), FsError> {
        match self.log()?.propose(Op::GrantWhole { session }) {
            // Another was opened meanwhile.
            Err(FsError::Refused(_)) => return Ok(()),
            other => other?,
        };
        self.in_office(|office, rights, _| {
            if let Some(whole) = rights.whole_of(session) {
                office.call(session, Call::Whole(whole));
            }
            Ok(())
        })
    }
}

/// Looks at leases for as long as the role is there.
pub(super) struct Ticker {
    pub(super) locks: Weak<LockNode>,
}

impl Task for Ticker {
    fn name(&self) -> &'static str {
        "leases"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        let locks = self.locks.upgrade().ok_or(FsError::Closing)?;
        match locks.tick() {
            Ok(()) | Err(FsError::NotLeader { .. }) => {}
            Err(FsError::Closing) => return Err(FsError::Closing),
            // Not for the task to rest: leases go on.
            Err(error) => {
                tracing::warn!(%error, "a session could not be ended, or given the whole")
            }
        }
        Ok(Worked::Idle(TICK_EVERY))
    }
}
