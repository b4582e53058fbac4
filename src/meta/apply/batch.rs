//! A batch as a whole: whether it may be applied, whose ops are whose, and what is put once at its end.
//!
//! Not here: what its ops do.

use crate::meta::apply::Apply;
use crate::meta::key::StateKey;
use crate::meta::op::Batch;
use crate::meta::op::Op;
use crate::meta::op::Outcome;
use crate::meta::record::Session;
use crate::meta::record::Totals;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::SessionId;

/// Whether a batch may be applied.
pub(super) enum Entry {
    /// It may; its session as it is, where it is a session's.
    Next(Option<Session>),
    /// It was applied before, or comes too early: what to answer.
    Told(Outcome),
    Refused(&'static str),
}

impl Apply<'_> {
    pub(super) fn enter(&mut self, batch: &Batch) -> Result<Entry, FsError> {
        let alone = |op: &Op| matches!(op, Op::Purge { .. } | Op::Forget { .. });
        if batch.ops.len() > 1 && batch.ops.iter().any(alone) {
            return Ok(Entry::Refused("forgetting goes alone in a batch"));
        }
        if batch.seq == BatchSeq(0) {
            return Ok(match (batch.session, &batch.direct) {
                (SessionId(0), None) => Entry::Next(None),
                (SessionId(0), Some(_)) => Entry::Refused("a direct batch is a session's"),
                _ => Entry::Refused("batches of a session are numbered from 1"),
            });
        }
        let member = self.state::<Session>(&StateKey::Session { session: batch.session })?;
        let Some(member) = member.filter(Session::is_open) else {
            return Ok(Entry::Refused("the session is not open"));
        };
        if batch.seq <= member.last {
            let told = member.told.filter(|_| batch.seq == member.last);
            return Ok(Entry::Told(told.unwrap_or(Outcome::Repeated)));
        }
        if batch.seq.0 != member.last.0 + 1 {
            return Ok(Entry::Told(Outcome::Early));
        }
        // Whatever a session has a say in, it is not who else is there and what others own.
        let leaders = |op: &Op| {
            matches!(
                op,
                Op::OpenSession { .. }
                    | Op::EndSession { .. }
                    | Op::GrantInos { .. }
                    | Op::GrantWhole { .. }
                    | Op::Raise { .. }
            )
        };
        if batch.ops.iter().any(leaders) {
            return Ok(Entry::Refused("sessions and their rights are the leader's to change"));
        }
        Ok(Entry::Next(Some(member)))
    }

    /// The end of a batch that is applied. `told` is kept for who sends it again.
    pub(super) fn leave(&mut self, seq: BatchSeq, told: Option<Outcome>) -> Result<(), FsError> {
        self.settle_lives()?;
        self.put_lives()?;
        if let Some(mut member) = self.member.take() {
            (member.last, member.told) = (seq, told);
            self.put_state(&StateKey::Session { session: self.session }, &member);
        }
        if let Some(next) = self.next.take() {
            self.put_state(&StateKey::Next, &next);
        }
        let delta = std::mem::take(&mut self.totals);
        let mut totals = self.state::<Totals>(&StateKey::Totals)?.unwrap_or_default();
        let before = totals;
        totals.files = totals.files.saturating_add_signed(delta.files);
        totals.live_bytes = totals.live_bytes.saturating_add_signed(delta.live_bytes);
        totals.history_bytes = totals.history_bytes.saturating_add_signed(delta.history_bytes);
        totals.versions = totals.versions.saturating_add_signed(delta.versions);
        if totals != before {
            self.put_state(&StateKey::Totals, &totals);
        }
        Ok(())
    }

    /// The next ops, from the `n`th on, are this user's. A step is of one user, so that its stamp tells whose.
    pub(super) fn made_by(&mut self, n: usize, uid: u32) -> Result<(), FsError> {
        if n > 0 {
            self.cut()?;
        }
        if let Some(replica) = self.present.replica() {
            replica.made_by(uid);
        }
        Ok(())
    }
}
