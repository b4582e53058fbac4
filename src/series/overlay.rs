//! Rows with changes laid over them, in key order.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Visit;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::FsError;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::ops::ControlFlow;

/// The part of a map that lies in `range`, in the direction of a scan.
pub(crate) fn part<'m, V>(
    map: &'m BTreeMap<Vec<u8>, V>,
    range: &KeyRange,
    direction: Direction,
) -> Box<dyn Iterator<Item = (&'m [u8], &'m V)> + 'm> {
    let end = match range.end.as_slice() {
        [] => Bound::Unbounded,
        end if end <= range.start.as_slice() => return Box::new(std::iter::empty()),
        end => Bound::Excluded(end),
    };
    let part = map.range::<[u8], _>((Bound::Included(range.start.as_slice()), end));
    let part = part.map(|(key, value)| (key.as_slice(), value));
    match direction {
        Direction::Forward => Box::new(part),
        Direction::Backward => Box::new(part.rev()),
    }
}

/// Runs `scan`, with `changes` (in the same direction) in place of its rows where both have a key.
pub(crate) fn scan<'c>(
    scan: impl FnOnce(Visit<'_>) -> Result<(), FsError>,
    changes: impl Iterator<Item = (&'c [u8], Option<&'c [u8]>)>,
    direction: Direction,
    visit: Visit<'_>,
) -> Result<(), FsError> {
    let mut changes = changes.peekable();
    let mut flow = ControlFlow::Continue(());
    scan(&mut |key, value| {
        let is_before = |changed: &[u8]| match direction {
            Direction::Forward => changed < key,
            Direction::Backward => changed > key,
        };
        while let Some((changed, new)) = changes.next_if(|(changed, _)| is_before(changed)) {
            if let Some(new) = new {
                flow = visit(changed, new);
                if flow.is_break() {
                    return flow;
                }
            }
        }
        flow = match changes.next_if(|(changed, _)| *changed == key) {
            Some((_, None)) => ControlFlow::Continue(()),
            Some((_, Some(new))) => visit(key, new),
            None => visit(key, value),
        };
        flow
    })?;
    for (key, value) in changes {
        if flow.is_break() {
            break;
        }
        if let Some(value) = value {
            flow = visit(key, value);
        }
    }
    Ok(())
}

/// A table with changes of its history that are not written yet.
pub(crate) struct Edited<'a> {
    pub rows: &'a dyn Rows,
    pub history: &'a BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl Rows for Edited<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        match self.history.get(key) {
            Some(edited) if family == Family::History => Ok(edited.clone()),
            _ => self.rows.get(family, key),
        }
    }

    fn scan(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        if family != Family::History || self.history.is_empty() {
            return self.rows.scan(family, range, direction, visit);
        }
        let edits = part(self.history, range, direction).map(|(key, row)| (key, row.as_deref()));
        scan(|visit| self.rows.scan(family, range, direction, visit), edits, direction, visit)
    }
}
