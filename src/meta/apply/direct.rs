//! Direct batches: of a session that need not own what it changes.
//!
//! The order of the answers is that of the table in `docs/decisions/0012-who-owns-an-inode.md`, and this is the one place that
//! decides it. An answer that is not `Applied` takes everything back that was put, and leaves the number and the answer.

use crate::meta::apply::Apply;
use crate::meta::apply::Rules;
use crate::meta::key::Key;
use crate::meta::key::StateKey;
use crate::meta::op::Batch;
use crate::meta::op::Outcome;
use crate::meta::op::Seen;
use crate::meta::own;
use crate::meta::record::Record;
use crate::meta::record::Session;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Past;
use crate::series::Present;
use crate::series::Replica;
use crate::series::Visit;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Stamp;
use bytes::Bytes;
use std::collections::BTreeSet;

impl Rules {
    /// Applies a direct batch that is the next of its session.
    pub(super) fn direct(
        &self,
        present: &mut dyn Present,
        batch: &Batch,
        seen: &[Seen],
        mut member: Session,
    ) -> Result<Outcome, FsError> {
        let outcome = self.try_direct(present, batch, seen, member.clone())?;
        if outcome != Outcome::Applied {
            if let Some(replica) = present.replica() {
                replica.take_back();
            }
            (member.last, member.told) = (batch.seq, Some(outcome.clone()));
            let key = StateKey::Session { session: batch.session }.encode();
            present.state_put(&key, Some(member.to_row()));
        }
        Ok(outcome)
    }

    /// What comes of it. Only if that is `Applied`, what was put may stay.
    fn try_direct(
        &self,
        present: &mut dyn Present,
        batch: &Batch,
        seen: &[Seen],
        member: Session,
    ) -> Result<Outcome, FsError> {
        let mut inos = BTreeSet::new();
        for row in seen {
            let Some(key) = Key::decode(&row.key) else {
                let error = FsError::Invalid("what a direct batch saw is no row of the tree");
                return Ok(Outcome::Refused { op: 0, error });
            };
            inos.insert(key.ino());
        }
        if let Some(ino) = held(present, batch.session, &inos)? {
            return Ok(Outcome::Held(ino));
        }
        for row in seen {
            let value = present.get(&row.key)?;
            if value.map(|value| Seen::hash(&value)) != row.value {
                return Ok(Outcome::Conflict);
            }
        }
        let mut watched = Watched { present, inos: BTreeSet::new() };
        let mut apply = Apply::new(&self.names, &mut watched, batch.session);
        apply.member = Some(member);
        apply.direct = true;
        let mut outcome = apply.ops(batch)?;
        if outcome == Outcome::Applied {
            apply.leave(batch.seq, Some(Outcome::Applied))?;
        }
        let Watched { present, inos: touched } = watched;
        if let Some(ino) = held(present, batch.session, &(&touched - &inos))? {
            outcome = Outcome::Held(ino);
        }
        Ok(outcome)
    }
}

/// The first of these inodes that another session owns.
fn held(
    present: &mut dyn Present,
    session: SessionId,
    inos: &BTreeSet<Ino>,
) -> Result<Option<Ino>, FsError> {
    for ino in inos {
        if own::owner(&mut *present, *ino)?.is_some_and(|owner| owner != session) {
            return Ok(Some(*ino));
        }
    }
    Ok(None)
}

/// The present, with a note of the inodes whose rows were looked at or changed: also of those that a client forgot to say it
/// had seen.
struct Watched<'a> {
    present: &'a mut dyn Present,
    inos: BTreeSet<Ino>,
}

impl Watched<'_> {
    fn note(&mut self, key: &[u8]) {
        if let Some(key) = Key::decode(key) {
            self.inos.insert(key.ino());
        }
    }
}

impl Present for Watched<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        self.note(key);
        self.present.get(key)
    }

    /// The rules scan rows of one inode only, and look at its own row first.
    fn scan(
        &mut self,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        let inos = &mut self.inos;
        self.present.scan(range, direction, &mut |key, row| {
            if let Some(key) = Key::decode(key) {
                inos.insert(key.ino());
            }
            visit(key, row)
        })
    }

    fn put(&mut self, key: &[u8], value: Bytes, past: Past) {
        self.note(key);
        self.present.put(key, value, past);
    }

    fn remove(&mut self, key: &[u8], past: Past) {
        self.note(key);
        self.present.remove(key, past);
    }

    fn cut(&mut self) {
        self.present.cut();
    }

    fn state(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        self.present.state(key)
    }

    fn state_put(&mut self, key: &[u8], value: Option<Bytes>) {
        self.present.state_put(key, value);
    }

    fn state_scan(&mut self, range: &KeyRange, visit: Visit<'_>) -> Result<(), FsError> {
        self.present.state_scan(range, visit)
    }

    fn stamp(&self) -> Option<Stamp> {
        self.present.stamp()
    }

    fn replica(&mut self) -> Option<&mut dyn Replica> {
        self.present.replica()
    }
}
