//! Finding one past version, and telling its value through the deltas that lead to it.
//!
//! Reverse deltas: a version that is not an image is told from the next newer one, and so on, up to an image or to the
//! present value, at most [`CHAIN_MAX`] steps away. Not here: scans over many keys.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::delta;
use crate::series::delta::Form;
use crate::series::row::CHAIN_MAX;
use crate::series::row::Past;
use crate::series::row::Present;
use crate::series::row::damaged;
use crate::series::row::past_key;
use crate::series::row::split_past_key;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::FsError;
use crate::types::Stamp;
use bytes::Bytes;
use std::ops::ControlFlow;

/// A past version as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub from: Stamp,
    pub to: Stamp,
    pub form: Form,
    pub body: Bytes,
}

impl Found {
    pub(crate) fn decode(key: &[u8], from: Stamp, row: &[u8]) -> Result<Found, FsError> {
        let Past { to, form, body } = Past::decode(key, from, row)?;
        Ok(Found { from, to, form, body: Bytes::copy_from_slice(body) })
    }

    /// The value, told from the next newer one. `newer` is not looked at for an image.
    pub(crate) fn told_from(&self, key: &[u8], newer: &[u8]) -> Result<Bytes, FsError> {
        if self.form == Form::Image {
            return Ok(self.body.clone());
        }
        match delta::decode(self.form, newer, &self.body) {
            Some(value) => Ok(value.into()),
            None => Err(damaged("its delta does not fit the next newer version", key)),
        }
    }
}

/// The past versions of `key` from `from` back, newest first.
pub(crate) fn at_or_before(key: &[u8], from: Stamp) -> KeyRange {
    let mut end = past_key(key, Stamp::ZERO);
    end.push(0);
    KeyRange { start: past_key(key, from), end }
}

/// The past versions of `key` that began after `from`.
pub(crate) fn after(key: &[u8], from: Stamp) -> KeyRange {
    KeyRange { start: past_key(key, Stamp::MAX), end: past_key(key, from) }
}

/// The newest past version of `key` that began at `at` or before.
pub(crate) fn newest(rows: &dyn Rows, key: &[u8], at: Stamp) -> Result<Option<Found>, FsError> {
    let mut found = None;
    let range = at_or_before(key, at);
    rows.scan(Family::History, &range, Direction::Forward, &mut |row_key, row| {
        let decoded = split_past_key(row_key).and_then(|(_, from)| Found::decode(key, from, row));
        found = Some(decoded);
        ControlFlow::Break(())
    })?;
    found.transpose()
}

/// The present value of `key` and the stamp it holds from, by the table.
pub(crate) fn present(rows: &dyn Rows, key: &[u8]) -> Result<Option<(Stamp, u8, Bytes)>, FsError> {
    let Some(row) = rows.get(Family::Current, key)? else { return Ok(None) };
    let Present { from, run, .. } = Present::decode(key, &row)?;
    Ok(Some((from, run, crate::series::row::present_value(&row))))
}

/// The value of a past version.
pub(crate) fn value(rows: &dyn Rows, key: &[u8], version: &Found) -> Result<Bytes, FsError> {
    if version.form == Form::Image {
        return Ok(version.body.clone());
    }
    let newer = newer(rows, key, version.from)?
        .ok_or_else(|| damaged("the version that it is told from is missing", key))?;
    version.told_from(key, &newer.value)
}

/// The version that follows a past one.
pub(crate) struct Newer {
    pub value: Bytes,
    /// It is the present one.
    pub is_present: bool,
}

/// The next version of `key` after the past one that began at `from`.
pub(crate) fn newer(rows: &dyn Rows, key: &[u8], from: Stamp) -> Result<Option<Newer>, FsError> {
    let mut deltas: Vec<Found> = Vec::new();
    let mut image = None;
    let mut fault = None;
    let range = after(key, from);
    rows.scan(Family::History, &range, Direction::Backward, &mut |row_key, row| {
        match split_past_key(row_key).and_then(|(_, from)| Found::decode(key, from, row)) {
            Ok(found) if found.form == Form::Image => image = Some(found.body),
            Ok(_) if deltas.len() >= usize::from(CHAIN_MAX) => {
                fault = Some(damaged("it is too far from a full value", key));
            }
            Ok(found) => {
                deltas.push(found);
                return ControlFlow::Continue(());
            }
            Err(error) => fault = Some(error),
        }
        ControlFlow::Break(())
    })?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    let is_present = image.is_none() && deltas.is_empty();
    let base = match image {
        Some(image) => image,
        None => match present(rows, key)? {
            Some((_, _, value)) => value,
            None if is_present => return Ok(None),
            None => return Err(damaged("the version that it is told from is missing", key)),
        },
    };
    let told = deltas.iter().rev().try_fold(base, |newer, delta| delta.told_from(key, &newer));
    told.map(|value| Some(Newer { value, is_present }))
}
