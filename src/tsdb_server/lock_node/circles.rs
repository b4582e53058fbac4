//! Programs on several mounts that wait for each other's locks: each mount says for what its own wait, and who closes a circle is
//! told.
//!
//! Like wishes only in memory, and of one reign: what a new leader does not know it is told within a second. Not here: when a
//! circle is believed (`lease::circles`).

use crate::lease::circles::Circles;
use crate::lease::circles::Holder;
use crate::lease::circles::Said;
use crate::lease::circles::Wait;
use crate::meta::key::StateKey;
use crate::meta::record::Locks;
use crate::meta::record::Record;
use crate::series::Direction;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::tsdb_server::lock_node::CATCH_UP;
use crate::tsdb_server::lock_node::LockNode;
use crate::types::FsError;
use crate::types::SessionId;
use crate::wire::Circled;
use crate::wire::Moment;
use crate::wire::Waiting;
use std::ops::ControlFlow;

/// Waits of one session that are looked at.
const WAITS_MAX: usize = 1000;

pub(super) type LockCircles = Circles<Waiting>;

impl LockNode {
    /// The programs of a session wait for these, and for nothing else, as it said when it had been told of the moment `after`.
    ///
    /// # Errors
    /// `NotLeader`, `Unreachable`, `Damaged`, `Io`, `Closing`.
    pub fn waits(
        &self,
        session: SessionId,
        after: Moment,
        mut waits: Vec<Waiting>,
    ) -> Result<Circled, FsError> {
        // Nobody may be told of a lock that has gone with another leader.
        self.log()?.catch_up(CATCH_UP)?;
        waits.truncate(WAITS_MAX);
        let waits = waits.into_iter().map(|wants| Wait {
            number: wants.number,
            owner: wants.lock.owner,
            wants,
        });
        let waits = waits.collect();
        self.in_office(|office, _, _| {
            let term = office.term;
            let listeners = &office.listeners;
            office.circles.retain(|session| listeners.contains_key(&session));
            let after = if after.term == term { after.number } else { 0 };
            let rows = self.rows.snapshot();
            let barring = |session, wait: &Wait<Waiting>| barring(&*rows, session, &wait.wants);
            let Said { now, refused, soon } = office.circles.say(session, after, waits, barring)?;
            Ok(Circled { now: Moment { term, number: now }, refused, soon })
        })
    }
}

/// Who has what is in the way of a wait.
fn barring(rows: &dyn Rows, session: SessionId, waiting: &Waiting) -> Result<Vec<Holder>, FsError> {
    if let Some(owner) = waiting.by {
        return Ok(vec![(session, owner)]);
    }
    let (mut holders, mut failed) = (Vec::new(), Ok(()));
    let range = StateKey::locks_on(waiting.ino);
    rows.scan(Family::State, &range, Direction::Forward, &mut |key, row| {
        let Some(StateKey::Locks { session: of, .. }) = StateKey::decode(key) else {
            return ControlFlow::Continue(());
        };
        if of == session {
            return ControlFlow::Continue(());
        }
        match Locks::from_row(key, row) {
            Ok(Locks(held)) => {
                let bars = held.iter().filter(|(held, _)| held.bars(&waiting.lock));
                holders.extend(bars.map(|(held, _)| (of, held.owner)));
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Err(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map(|()| holders)
}
