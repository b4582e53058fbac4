//! Copies of rows that are nobody's: giving them, and taking them back before a direct change enters the log.
//!
//! Not here: who has which (`lease::copies`), what a direct change may change (`meta::op::may_change`).

use crate::lease::copies::Ask;
use crate::lease::copies::Changed;
use crate::lease::copies::Given;
use crate::lease::copies::Standing;
use crate::meta::op::Batch;
use crate::tsdb_server::lock_node::LockNode;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Term;
use crate::wire::Copying;
use crate::wire::Listener;
use std::sync::Weak;
use std::time::Duration;

/// Whoever waits looks again after so long: what may not come is the end of this reign.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A direct change that is about to enter the log, or is in it. Until it is dropped nobody is given copies of what it may change.
pub struct Changing {
    locks: Weak<LockNode>,
    term: Term,
    number: u64,
    /// Nobody has a copy of what it may change.
    pub is_free: bool,
}

impl Drop for Changing {
    fn drop(&mut self) {
        let Some(locks) = self.locks.upgrade() else { return };
        if let Some(office) = locks.office.lock().as_mut().filter(|it| it.term == self.term) {
            office.copies.over(self.number);
        }
    }
}

impl LockNode {
    /// The session is about to be told rows of these inodes: which of them it may keep. To be asked before the rows are read, once no
    /// other session owns them.
    ///
    /// # Errors
    /// `NotLeader`, `Damaged`, `Io`.
    pub fn give_copies(&self, session: SessionId, inos: &[Ino]) -> Result<Copying, FsError> {
        self.in_office(|office, rights, now| {
            let mut nobodys = Vec::with_capacity(inos.len());
            for ino in inos {
                if rights.is_made(*ino) && rights.owner(&*self.rows, *ino)?.is_none() {
                    nobodys.push(*ino);
                }
            }
            let Given { standing, inos, ask } = office.copies.give(session, &nobodys, now);
            office.take_back(ask);
            Ok(copying(standing, inos))
        })
    }

    /// What the session has copies of counts for longer. What it was asked for and may have missed it is asked for again.
    ///
    /// # Errors
    /// `NotLeader`.
    pub fn keep_copies(&self, session: SessionId) -> Result<Copying, FsError> {
        self.in_office(|office, _, now| {
            let standing = office.copies.renew(session, now);
            let owed = office.copies.owed(session);
            office.take_back(owed);
            Ok(copying(standing, Vec::new()))
        })
    }

    /// A direct change of the session is about to enter the log: takes back what others have copies of.
    ///
    /// # Errors
    /// `NotLeader`; `Damaged` where it is no batch.
    pub fn begin_change(&self, session: SessionId, batch: &[u8]) -> Result<Changing, FsError> {
        let changed = match Batch::decode(batch)?.may_change() {
            Some(inos) => Changed::Inodes(inos),
            None => Changed::Anything,
        };
        self.in_office(|office, _, now| {
            let (number, asks) = office.copies.begin(session, changed, now);
            office.take_back(asks);
            let is_free = office.copies.waits_until(number, now).is_none();
            Ok(Changing { locks: self.me.clone(), term: office.term, number, is_free })
        })
    }

    /// Returns once it may enter the log: at the latest when the time is over of those who do not give back.
    ///
    /// # Errors
    /// `NotLeader` where the reign ends.
    pub fn await_free(&self, change: &Changing) -> Result<(), FsError> {
        let mut office = self.office.lock();
        loop {
            let leads = self.log()?.reign() == Some(change.term);
            let reign = office.as_mut().filter(|office| leads && office.term == change.term);
            let reign = reign.ok_or(FsError::NotLeader { leader: None })?;
            let now = self.clock.steady();
            let Some(until) = reign.copies.waits_until(change.number, now) else { return Ok(()) };
            self.told.wait_for(&mut office, LOOK_EVERY.min(until.saturating_sub(now)));
        }
    }

    /// Has a session let go of copies.
    pub(super) fn take_back(&self, listener: &dyn Listener, ask: Ask) {
        let (me, Ask { session, number, inos }) = (self.me.clone(), ask);
        let done = move || {
            if let Some(me) = me.upgrade() {
                me.given_back(session, number);
            }
        };
        listener.take_back(inos, Box::new(done));
    }

    fn given_back(&self, session: SessionId, number: u64) {
        if let Some(office) = self.office.lock().as_mut() {
            office.copies.given_back(session, number);
        }
        self.told.notify_all();
    }
}

fn copying(Standing { era, lease }: Standing, inos: Vec<Ino>) -> Copying {
    Copying { era, lease_ms: lease.as_millis() as u64, inos }
}
