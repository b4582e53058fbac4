//! Who owns what, kept in memory while nothing is applied that bears on it.
//!
//! What was given back is not here, as it may be much: those rows are looked up, and only for what somebody else would own.

use crate::lease::Through;
use crate::meta::key::StateKey;
use crate::meta::record::Grant;
use crate::meta::record::Next;
use crate::meta::record::Range;
use crate::meta::record::Record;
use crate::meta::record::Session;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::wire::Whole;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// What the rows say, as of a turn.
#[derive(Default)]
pub(super) struct Rights {
    /// How many turns there were before the rows were read; none where they were not.
    pub(super) turn: Option<u64>,
    pub(super) grant: Option<Grant>,
    pub(super) sessions: BTreeMap<SessionId, Member>,
    /// By the last number of each.
    ranges: BTreeMap<Ino, Range>,
    next: Option<Next>,
}

/// A session.
pub(super) struct Member {
    pub(super) open: bool,
}

/// Who owns an inode, and the end of the range that it is owned by. None where it is of the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub(super) session: SessionId,
    pub(super) last: Option<Ino>,
}

impl Rights {
    /// `turn` was asked for before.
    pub(super) fn read(rows: &dyn Rows, turn: u64) -> Result<Rights, FsError> {
        let mut sessions = BTreeMap::new();
        each(rows, &StateKey::sessions(), &mut |key, row| {
            let Some(StateKey::Session { session }) = StateKey::decode(key) else { return Ok(()) };
            sessions.insert(session, Member { open: Session::from_row(key, row)?.is_open() });
            Ok(())
        })?;
        let mut ranges = BTreeMap::new();
        each(rows, &StateKey::ranges(), &mut |key, row| {
            if let Some(StateKey::Range { last }) = StateKey::decode(key) {
                ranges.insert(last, Range::from_row(key, row)?);
            }
            Ok(())
        })?;
        let grant = record(rows, &StateKey::Grant)?;
        let turn = Some(turn);
        Ok(Rights { turn, grant, sessions, ranges, next: record(rows, &StateKey::Next)? })
    }

    /// Who owns an inode if it was not given back.
    fn unmarked_owner(&self, ino: Ino) -> Option<Owner> {
        let range = self.ranges.range(ino..).next().filter(|(_, range)| range.first <= ino);
        if let Some((last, Range { session, .. })) = range
            && self.sessions.get(session).is_some_and(|member| member.open)
        {
            return Some(Owner { session: *session, last: Some(*last) });
        }
        let grant = self.grant.as_ref().filter(|grant| ino < grant.below)?;
        Some(Owner { session: grant.session, last: None })
    }

    /// Who owns an inode.
    pub(super) fn owner(&self, rows: &dyn Rows, ino: Ino) -> Result<Option<Owner>, FsError> {
        let Some(owner) = self.unmarked_owner(ino) else { return Ok(None) };
        let shared = StateKey::Shared { epoch: self.epoch(), ino }.encode();
        Ok(rows.get(Family::State, &shared)?.is_none().then_some(owner))
    }

    /// Whether the number was ever given to somebody.
    pub(super) fn is_made(&self, ino: Ino) -> bool {
        self.next.as_ref().is_some_and(|next| ino.get() < next.ino)
    }

    /// Another session's inode, if it is that.
    pub(super) fn held(
        &self,
        rows: &dyn Rows,
        ino: Ino,
        session: SessionId,
    ) -> Result<Option<Owner>, FsError> {
        match self.unmarked_owner(ino) {
            Some(owner) if owner.session != session => self.owner(rows, ino),
            _ => Ok(None),
        }
    }

    /// The grant of the whole, if this session has it.
    pub(super) fn whole_of(&self, session: SessionId) -> Option<Whole> {
        self.grant.clone().filter(|grant| grant.session == session).map(Whole::from)
    }

    /// The first session that was ended and has left something.
    pub(super) fn ending(&self) -> Option<SessionId> {
        self.sessions.iter().find(|(_, member)| !member.open).map(|(session, _)| *session)
    }

    fn epoch(&self) -> u64 {
        self.next.as_ref().map_or(0, |next| next.epoch)
    }

    /// Inodes that were given back and may count.
    pub(super) fn shared(&self, rows: &dyn Rows, limit: usize) -> Result<usize, FsError> {
        let mut range = StateKey::shared();
        range.start = StateKey::void(self.epoch()).end;
        let mut count = 0;
        rows.scan(Family::State, &range, Direction::Forward, &mut |_, _| {
            count += 1;
            if count < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(count)
    }

    /// There are inodes that this session, which is the only one, does not own.
    pub(super) fn lacks(&self, rows: &dyn Rows, session: SessionId) -> Result<bool, FsError> {
        let Some(grant) = self.grant.as_ref().filter(|grant| grant.session == session) else {
            return Ok(true);
        };
        let own = self.ranges.iter().filter(|(_, range)| range.session == session);
        let own = own.map(|(last, range)| {
            (last.get() + 1).saturating_sub(range.first.get().max(grant.below.get()))
        });
        let given = self.next.as_ref().map_or(0, |next| next.ino).saturating_sub(grant.below.get());
        Ok(own.sum::<u64>() < given || self.shared(rows, 1)? > 0)
    }
}

/// Through what the owner of `ino` owns it. What it has not made yet of a range, nobody can want.
pub(super) fn through(rows: &dyn Rows, ino: Ino, owner: Owner) -> Result<Through, FsError> {
    let Owner { session, last: Some(last) } = owner else { return Ok(Through::Whole) };
    let member = record::<Session>(rows, &StateKey::Session { session })?;
    let unused = member.and_then(|member| member.inos.first().copied());
    let made = unused.and_then(|(first, _)| Ino::new(first - 1)).unwrap_or(last);
    Ok(Through::Range { last: made.min(last).max(ino) })
}

fn record<T: Record>(rows: &dyn Rows, key: &StateKey) -> Result<Option<T>, FsError> {
    let key = key.encode();
    rows.get(Family::State, &key)?.map(|row| T::from_row(&key, &row)).transpose()
}

/// What is shown each row.
type Row<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), FsError>;

fn each(rows: &dyn Rows, range: &KeyRange, visit: Row<'_>) -> Result<(), FsError> {
    let mut result = Ok(());
    rows.scan(Family::State, range, Direction::Forward, &mut |key, row| {
        result = visit(key, row);
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    result
}
