//! Who owns an inode: the one place that says.
//!
//! `docs/decisions/0012-who-owns-an-inode.md` has the rule and its reasons. The rules ask it of a batch being applied, the
//! leader and `check` of a table. Not here: how rights are given and given back (`meta::apply`).

use crate::meta::key::StateKey;
use crate::meta::record::Grant;
use crate::meta::record::Next;
use crate::meta::record::Range;
use crate::meta::record::Record;
use crate::meta::record::Session;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Present;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use bytes::Bytes;
use std::ops::ControlFlow;

/// Rows of state, wherever they are.
pub trait State {
    /// # Errors
    /// `Damaged`, `Io`.
    fn row(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError>;

    /// The first row of a range.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    fn first(&mut self, range: &KeyRange) -> Result<Option<(Vec<u8>, Bytes)>, FsError>;
}

/// As a table has them.
impl State for &dyn Rows {
    fn row(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        self.get(Family::State, key)
    }

    fn first(&mut self, range: &KeyRange) -> Result<Option<(Vec<u8>, Bytes)>, FsError> {
        let mut first = None;
        self.scan(Family::State, range, Direction::Forward, &mut |key, row| {
            first = Some((key.to_vec(), Bytes::copy_from_slice(row)));
            ControlFlow::Break(())
        })?;
        Ok(first)
    }
}

/// As a batch sees and changes them.
impl State for &mut (dyn Present + '_) {
    fn row(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        self.state(key)
    }

    fn first(&mut self, range: &KeyRange) -> Result<Option<(Vec<u8>, Bytes)>, FsError> {
        let mut first = None;
        self.state_scan(range, &mut |key, row| {
            first = Some((key.to_vec(), Bytes::copy_from_slice(row)));
            ControlFlow::Break(())
        })?;
        Ok(first)
    }
}

/// The session that owns the inode; none where it is shared.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn owner(mut state: impl State, ino: Ino) -> Result<Option<SessionId>, FsError> {
    let owner = unmarked_owner(&mut state, ino)?;
    if owner.is_none() {
        return Ok(None);
    }
    let next = record::<Next>(&mut state, &StateKey::Next)?;
    let shared = StateKey::Shared { epoch: next.map_or(0, |next| next.epoch), ino };
    Ok(if state.row(&shared.encode())?.is_some() { None } else { owner })
}

/// Who would own the inode if nobody had given it back.
fn unmarked_owner(state: &mut impl State, ino: Ino) -> Result<Option<SessionId>, FsError> {
    if let Some((_, range)) = range_of(state, ino)?
        && record::<Session>(state, &StateKey::Session { session: range.session })?
            .is_some_and(|session| session.is_open())
    {
        return Ok(Some(range.session));
    }
    let grant = record::<Grant>(state, &StateKey::Grant)?;
    Ok(grant.filter(|grant| ino < grant.below).map(|grant| grant.session))
}

/// The range of numbers that holds this one, with its last number.
fn range_of(state: &mut impl State, ino: Ino) -> Result<Option<(Ino, Range)>, FsError> {
    let Some((key, row)) = state.first(&StateKey::ranges_from(ino))? else { return Ok(None) };
    let Some(StateKey::Range { last }) = StateKey::decode(&key) else {
        return Err(FsError::Damaged(format!("row {} of ranges", key.escape_ascii())));
    };
    let range = Range::from_row(&key, &row)?;
    Ok((range.first <= ino).then_some((last, range)))
}

fn record<T: Record>(state: &mut impl State, key: &StateKey) -> Result<Option<T>, FsError> {
    let key = key.encode();
    state.row(&key)?.map(|row| T::from_row(&key, &row)).transpose()
}
