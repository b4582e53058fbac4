//! Who owns an inode: what is given with a session and its numbers, given back, and given later.
//!
//! `docs/decisions/0012-who-owns-an-inode.md` has the rule and its states, `meta::own` says who owns what. Not here: when
//! something is asked back or given, which the leader decides.

use crate::meta::apply::Apply;
use crate::meta::apply::OP_ROWS_MAX;
use crate::meta::key::StateKey;
use crate::meta::own;
use crate::meta::record::Grant;
use crate::meta::record::Next;
use crate::meta::record::Range;
use crate::meta::record::Session;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use std::ops::ControlFlow;

/// Most inodes that one op gives back.
pub const YIELD_INOS_MAX: usize = OP_ROWS_MAX;

impl Apply<'_> {
    /// The session shares these inodes from now on. What it does not own is nothing to it: a recall may be told twice.
    pub(super) fn yield_back(&mut self, inos: &[Ino], whole: bool) -> Result<(), FsError> {
        if !self.is_replica() {
            return Ok(());
        }
        if inos.len() > YIELD_INOS_MAX {
            return Err(FsError::Invalid("one op gives back at most 1000 inodes"));
        }
        let epoch = self.epoch()?;
        for ino in inos {
            if own::owner(&mut *self.present, *ino)? == Some(self.session) {
                self.put_sign(&StateKey::Shared { epoch, ino: *ino });
            }
        }
        let grant = self.state::<Grant>(&StateKey::Grant)?;
        if whole && grant.is_some_and(|grant| grant.session == self.session) {
            self.remove_state(&StateKey::Grant);
        }
        Ok(())
    }

    /// Everything is a session's that is the only one. What was shared before is not any more: the epoch is new.
    pub(super) fn grant_whole(&mut self, session: SessionId) -> Result<(), FsError> {
        let member = self.state::<Session>(&StateKey::Session { session })?;
        let Some(member) = member.filter(Session::is_open) else {
            return Err(FsError::Invalid("the session is not open"));
        };
        if self.is_another_session(session)? {
            return Err(FsError::Invalid("another session is open"));
        }
        self.put_whole(session, member.last)
    }

    /// The session, which is alone, owns every inode that there is.
    pub(super) fn put_whole(&mut self, session: SessionId, after: BatchSeq) -> Result<(), FsError> {
        let next = self.next()?;
        let epoch = next.epoch;
        next.epoch += 1;
        let below = Ino::new(next.ino).unwrap_or(Ino::END);
        self.put_state(&StateKey::Grant, &Grant { session, epoch, after, below });
        Ok(())
    }

    /// There is a session besides this one, or something is left of one.
    pub(super) fn is_another_session(&mut self, session: SessionId) -> Result<bool, FsError> {
        let mut others = false;
        self.present.state_scan(&StateKey::sessions(), &mut |key, _| {
            others = StateKey::decode(key) != Some(StateKey::Session { session });
            if others { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(others)
    }

    /// The session owns what it makes with these numbers. Ranges that lie one behind the other are one.
    pub(super) fn put_range(
        &mut self,
        session: SessionId,
        first: Ino,
        last: Ino,
    ) -> Result<(), FsError> {
        let mut range = Range { first, session };
        if let Some(before) = Ino::new(first.get() - 1) {
            let key = StateKey::Range { last: before };
            if let Some(former) =
                self.state::<Range>(&key)?.filter(|range| range.session == session)
            {
                range.first = former.first;
                self.remove_range(session, before);
            }
        }
        self.put_state(&StateKey::Range { last }, &range);
        self.put_sign(&StateKey::RangeOf { session, last });
        Ok(())
    }

    fn remove_range(&mut self, session: SessionId, last: Ino) {
        self.remove_state(&StateKey::Range { last });
        self.remove_state(&StateKey::RangeOf { session, last });
    }

    /// Takes at most `limit` ranges from a session; whether it has more.
    pub(super) fn remove_ranges(
        &mut self,
        session: SessionId,
        limit: usize,
    ) -> Result<bool, FsError> {
        let mut ranges = Vec::new();
        self.present.state_scan(&StateKey::ranges_of(session), &mut |key, _| {
            if let Some(StateKey::RangeOf { last, .. }) = StateKey::decode(key) {
                ranges.push(last);
            }
            match ranges.len() > limit {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        let more = ranges.len() > limit;
        for last in ranges.into_iter().take(limit) {
            self.remove_range(session, last);
        }
        Ok(more)
    }

    /// Removes at most `budget` marks of grants that are over. False where there were none.
    pub(super) fn sweep_void(&mut self, budget: &mut usize) -> Result<bool, FsError> {
        let mut void = Vec::new();
        let (limit, range) = (*budget, StateKey::void(self.epoch()?));
        self.present.state_scan(&range, &mut |key, _| {
            void.push(key.to_vec());
            match void.len() < limit {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        *budget -= void.len();
        for key in &void {
            self.present.state_put(key, None);
        }
        Ok(!void.is_empty())
    }

    /// Of the next grant of the whole. Does not take the row to be put back, as [`Apply::next`] does.
    fn epoch(&mut self) -> Result<u64, FsError> {
        match &self.next {
            Some(next) => Ok(next.epoch),
            None => Ok(self.state::<Next>(&StateKey::Next)?.map_or(0, |next| next.epoch)),
        }
    }
}
