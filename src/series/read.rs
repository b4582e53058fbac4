//! Reading the map as of an instant, from the rows of a table.
//!
//! Now: `current` alone. At t: `current` if it holds from t or before, else one seek in `history` and at most
//! `CHAIN_MAX` deltas. Listing at t: see `listing`. Not here: writing, and which instants
//! are kept, which the caller says.

use crate::series::Direction;
use crate::series::Ended;
use crate::series::Groups;
use crate::series::KeyRange;
use crate::series::Read;
use crate::series::Version;
use crate::series::Visit;
use crate::series::chain;
use crate::series::chain::Found;
use crate::series::delta::Form;
use crate::series::listing;
use crate::series::row::Present;
use crate::series::row::split_past_key;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::AsOf;
use crate::types::FsError;
use crate::types::Stamp;
use bytes::Bytes;
use std::ops::ControlFlow;

/// Which instants can be read.
#[derive(Clone, Default, Debug)]
pub struct Readable {
    /// The horizon.
    pub oldest: Stamp,
    /// Older instants that are kept none the less: marks. Sorted.
    pub marks: Vec<Stamp>,
}

impl Readable {
    /// # Errors
    /// `BeforeHorizon`.
    pub fn check(&self, asked: Stamp) -> Result<(), FsError> {
        if asked >= self.oldest || self.marks.binary_search(&asked).is_ok() {
            return Ok(());
        }
        Err(FsError::BeforeHorizon { asked, oldest: self.oldest })
    }

    /// An instant in `[from, to)` that can be read: the first one, or where that is gone, the oldest or a mark's.
    pub fn within(&self, from: Stamp, to: Stamp) -> Option<Stamp> {
        let mark = self.marks.partition_point(|mark| *mark < from);
        let marked = || self.marks.get(mark).copied();
        let oldest = from.max(self.oldest);
        Some(oldest).filter(|at| *at < to).or_else(|| marked().filter(|at| *at < to))
    }

    /// Some instant in `[from, to)` can be read. What cannot may be there still, until purge comes to it.
    fn shows(&self, from: Stamp, to: Stamp) -> bool {
        self.within(from, to).is_some()
    }
}

/// The map as a table holds it. Reads that are to agree need a snapshot of the table; one read of the past by itself does,
/// too, where another thread writes.
pub struct Series<'a> {
    rows: &'a dyn Rows,
    groups: Groups,
    readable: Readable,
}

impl<'a> Series<'a> {
    pub fn new(rows: &'a dyn Rows, groups: Groups, readable: Readable) -> Series<'a> {
        Series { rows, groups, readable }
    }

    /// The first past row in a range of keys: key, from, row.
    fn first_past(&self, range: &KeyRange) -> Result<Option<(Vec<u8>, Stamp, Bytes)>, FsError> {
        let (mut first, mut fault) = (None, None);
        self.rows.scan(Family::History, range, Direction::Forward, &mut |row_key, row| {
            match split_past_key(row_key) {
                Ok((key, from)) => first = Some((key.to_vec(), from, Bytes::copy_from_slice(row))),
                Err(error) => fault = Some(error),
            }
            ControlFlow::Break(())
        })?;
        fault.map_or(Ok(first), Err)
    }

    /// The keys in `range` that have a version, present or past, each once and in order.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn keys(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let mut range = range.clone();
        let mut past = self.first_past(&range)?.map(|(key, ..)| key);
        loop {
            let mut key = None;
            self.rows.scan(Family::Current, &range, Direction::Forward, &mut |present, _| {
                key = Some(present.to_vec());
                ControlFlow::Break(())
            })?;
            let key = match (key, &past) {
                (Some(key), Some(past)) => key.min(past.clone()),
                (Some(key), None) => key,
                (None, Some(past)) => past.clone(),
                (None, None) => return Ok(()),
            };
            if visit(&key).is_break() {
                return Ok(());
            }
            range.start = KeyRange::prefix(&key).end;
            if past.as_ref() == Some(&key) {
                past = self.first_past(&range)?.map(|(key, ..)| key);
            }
        }
    }

    fn get_at(&self, key: &[u8], at: Stamp) -> Result<Option<Bytes>, FsError> {
        if let Some((from, _, value)) = chain::present(self.rows, key)?
            && from <= at
        {
            return Ok(Some(value));
        }
        match chain::newest(self.rows, key, at)? {
            Some(found) if at < found.to => chain::value(self.rows, key, &found).map(Some),
            _ => Ok(None),
        }
    }
}

impl Read for Series<'_> {
    fn get(&self, key: &[u8], at: AsOf) -> Result<Option<Bytes>, FsError> {
        match at {
            AsOf::Now => Ok(chain::present(self.rows, key)?.map(|(_, _, value)| value)),
            AsOf::At(at) => {
                self.readable.check(at)?;
                self.get_at(key, at)
            }
        }
    }

    fn scan(
        &self,
        range: &KeyRange,
        at: AsOf,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        match at {
            AsOf::Now => scan_present(self.rows, range, direction, visit),
            AsOf::At(at) => {
                self.readable.check(at)?;
                listing::scan(self.rows, self.groups, range, at, direction, visit)
            }
        }
    }

    fn versions(
        &self,
        key: &[u8],
        since: Stamp,
        until: Stamp,
        visit: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        if let Some((from, _, value)) = chain::present(self.rows, key)?
            && from <= until
            && visit(Version { from, to: Stamp::MAX, value }).is_break()
        {
            return Ok(());
        }
        // Only the newest of them is looked up; each older one is told from its predecessor.
        let Some(newest) = chain::newest(self.rows, key, until)? else { return Ok(()) };
        let mut newer = match newest.form {
            Form::Image => Bytes::new(),
            Form::Edits | Form::Patch => {
                chain::newer(self.rows, key, newest.from)?.map_or(Bytes::new(), |newer| newer.value)
            }
        };
        let mut fault = None;
        let past = chain::at_or_before(key, newest.from);
        self.rows.scan(Family::History, &past, Direction::Forward, &mut |row_key, row| {
            let version = split_past_key(row_key)
                .and_then(|(_, from)| Found::decode(key, from, row))
                .and_then(|found| {
                    let value = found.told_from(key, &newer)?;
                    Ok(Version { from: found.from, to: found.to, value })
                });
            match version {
                Ok(Version { to, .. }) if to <= since => ControlFlow::Break(()),
                Ok(version) => {
                    newer = version.value.clone();
                    match self.readable.shows(version.from, version.to) {
                        true => visit(version),
                        false => ControlFlow::Continue(()),
                    }
                }
                Err(error) => {
                    fault = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        fault.map_or(Ok(()), Err)
    }

    fn ended(
        &self,
        range: &KeyRange,
        since: Stamp,
        until: Stamp,
        visit: Ended<'_>,
    ) -> Result<(), FsError> {
        let mut range = range.clone();
        // One seek for each key: its newest row stands first, and the next key after all of its rows.
        while let Some((key, from, row)) = self.first_past(&range)? {
            let newest = Found::decode(&key, from, &row)?;
            if (since..=until).contains(&newest.to)
                && self.readable.shows(from, newest.to)
                && self.rows.get(Family::Current, &key)?.is_none()
            {
                let value = chain::value(self.rows, &key, &newest)?;
                if visit(&key, Version { from, to: newest.to, value }).is_break() {
                    break;
                }
            }
            range.start = KeyRange::prefix(&key).end;
        }
        Ok(())
    }
}

/// The present values in a range.
pub(crate) fn scan_present(
    rows: &dyn Rows,
    range: &KeyRange,
    direction: Direction,
    visit: Visit<'_>,
) -> Result<(), FsError> {
    let mut fault = None;
    rows.scan(
        Family::Current,
        range,
        direction,
        &mut |key, row| match Present::decode(key, row) {
            Ok(present) => visit(key, present.value),
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    fault.map_or(Ok(()), Err)
}
