//! The rules that rows keep between batches, checked: all of `current`, `history` and `changes`, for fsck and tests.
//!
//! Intervals are not empty and do not overlap; every delta's base is there and at most `CHAIN_MAX` steps from a
//! full value; the index lists exactly the past versions of groups; records of changes can be read. Not here: what values
//! mean (`meta::check`), checksums (the table), repair.

use crate::series::Direction;
use crate::series::Groups;
use crate::series::KeyRange;
use crate::series::chain;
use crate::series::chain::Found;
use crate::series::changes::Record;
use crate::series::delta::Form;
use crate::series::row;
use crate::series::row::CHAIN_MAX;
use crate::series::row::INDEX;
use crate::series::row::Listed;
use crate::series::row::NODE_BYTES;
use crate::series::row::Present;
use crate::series::row::split_past_key;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::FsError;
use crate::types::Stamp;
use bytes::Bytes;
use std::fmt;
use std::ops::ControlFlow;

/// A rule that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub family: Family,
    /// The row's key in its family.
    pub key: Vec<u8>,
    pub what: String,
    /// A row of the index in `Family::History` that puts it right, and what it has to be.
    pub remedy: Option<(Vec<u8>, Option<Bytes>)>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} row {}: {}", self.family, self.key.escape_ascii(), self.what)
    }
}

/// Who is told how far the check is: the family, and its rows seen so far.
pub type Progress<'a> = &'a mut dyn FnMut(Family, u64);

/// Rows between two reports of progress.
const PROGRESS_ROWS: u64 = 4096;

/// Checks a table that nobody writes, or a snapshot. Tells every fault.
///
/// # Errors
/// `Damaged` where a row cannot be read at all, `Io`.
pub fn check(
    rows: &dyn Rows,
    groups: Groups,
    progress: Progress<'_>,
    fault: &mut dyn FnMut(Fault),
) -> Result<(), FsError> {
    let mut index = Index { faults: 0, listed: 0 };
    check_current(rows, progress, fault)?;
    check_history(rows, groups, &mut index, progress, fault)?;
    check_index(rows, groups, &index, progress, fault)?;
    each(rows, Family::Changes, &everything(), progress, |key, row| {
        if let Err(error) = Record::decode(key, row) {
            let (key, what) = (key.to_vec(), error.to_string());
            fault(Fault { family: Family::Changes, key, what, remedy: None });
        }
        Ok(())
    })
}

fn everything() -> KeyRange {
    KeyRange { start: Vec::new(), end: Vec::new() }
}

/// Visits rows until one cannot be read, and tells how many it has seen.
fn each(
    rows: &dyn Rows,
    family: Family,
    range: &KeyRange,
    progress: Progress<'_>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), FsError>,
) -> Result<(), FsError> {
    let mut seen = 0;
    let mut outcome = Ok(());
    rows.scan(family, range, Direction::Forward, &mut |key, row| {
        seen += 1;
        if seen % PROGRESS_ROWS == 0 {
            progress(family, seen);
        }
        outcome = visit(key, row);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    progress(family, seen);
    outcome
}

fn check_current(
    rows: &dyn Rows,
    progress: Progress<'_>,
    fault: &mut dyn FnMut(Fault),
) -> Result<(), FsError> {
    each(rows, Family::Current, &everything(), progress, |key, row| {
        let what = match Present::decode(key, row) {
            Err(error) => error.to_string(),
            Ok(Present { run, .. }) if run > CHAIN_MAX => format!("a run of {run} deltas"),
            Ok(_) if key.first().is_none_or(|first| *first == INDEX) => "a reserved key".into(),
            Ok(_) => return Ok(()),
        };
        fault(Fault { family: Family::Current, key: key.to_vec(), what, remedy: None });
        Ok(())
    })
}

/// What the walk over history met of the index.
struct Index {
    faults: u64,
    listed: u64,
}

/// What is known of a series while its past is walked, newest first.
struct Walked {
    key: Vec<u8>,
    /// Where the next newer version begins, if there is one.
    newer_from: Option<Stamp>,
    /// Its value, if that could be told.
    newer: Option<Bytes>,
    /// How many deltas lie between it and a full value.
    deltas: u8,
    /// What the present row says of the newest deltas, while they are counted.
    run: Option<u8>,
}

impl Walked {
    fn begin(rows: &dyn Rows, key: &[u8]) -> Result<Walked, FsError> {
        // A present row that cannot be decoded has been told already.
        let present = chain::present(rows, key).or_else(|error| match error {
            FsError::Damaged(_) => Ok(None),
            other => Err(other),
        })?;
        let key = key.to_vec();
        Ok(match present {
            Some((from, run, value)) => Walked {
                key,
                newer_from: Some(from),
                newer: Some(value),
                deltas: 0,
                run: Some(run),
            },
            None => Walked { key, newer_from: None, newer: None, deltas: 0, run: None },
        })
    }

    /// The faults of the next older version, whose value it returns.
    fn step(&mut self, found: &Found, tell: &mut dyn FnMut(String)) -> Option<Bytes> {
        if found.from >= found.to {
            tell(format!("it holds from {} to {}, which is no time at all", found.from, found.to));
        }
        if self.newer_from.is_some_and(|newer| found.to > newer) {
            tell(format!("it ends at {}, after the next one began", found.to));
        }
        if found.form == Form::Image {
            (self.deltas, self.run) = (0, None);
        } else {
            self.deltas += 1;
            if self.newer_from.is_none() {
                tell("it is told from a next newer version, which is missing".into());
            } else if self.deltas > CHAIN_MAX {
                tell(format!("it is {} deltas from a full value", self.deltas));
                self.deltas = CHAIN_MAX;
            }
            if self.run.is_some_and(|run| self.deltas > run) {
                tell("the present row does not know that this delta rests on it".into());
                self.run = None;
            }
        }
        let value = match (&found.form, &self.newer) {
            (Form::Image, _) => Some(found.body.clone()),
            (Form::Edits | Form::Patch, None) => None,
            (Form::Edits | Form::Patch, Some(newer)) => match found.told_from(&self.key, newer) {
                Ok(value) => Some(value),
                Err(error) => {
                    tell(error.to_string());
                    None
                }
            },
        };
        self.newer_from = Some(found.from);
        self.newer.clone_from(&value);
        value
    }
}

fn check_history(
    rows: &dyn Rows,
    groups: Groups,
    index: &mut Index,
    progress: Progress<'_>,
    fault: &mut dyn FnMut(Fault),
) -> Result<(), FsError> {
    let mut walked: Option<Walked> = None;
    let all = KeyRange { start: vec![INDEX + 1], end: Vec::new() };
    each(rows, Family::History, &all, progress, |row_key, row| {
        let mut tell_with = |what, remedy| {
            fault(Fault { family: Family::History, key: row_key.to_vec(), what, remedy });
        };
        let mut tell = |what| tell_with(what, None);
        let found = split_past_key(row_key)
            .and_then(|(key, from)| Ok((key, Found::decode(key, from, row)?)));
        let (key, found) = match found {
            Ok(found) => found,
            Err(error) => {
                tell(error.to_string());
                walked = None;
                return Ok(());
            }
        };
        let series = match walked.take().filter(|walked| walked.key == key) {
            Some(series) => walked.insert(series),
            None => walked.insert(Walked::begin(rows, key)?),
        };
        let value = series.step(&found, &mut tell);
        let (Some(group), Some(value)) = (groups.of(key), value) else { return Ok(()) };
        if found.from < found.to {
            index.listed += 1;
            let expected = Listed::new(found.from, found.to, &value).encode();
            let listed = row::index_key(key, group, found.from, found.to);
            if rows.get(Family::History, &listed)?.as_deref() != Some(&expected[..]) {
                index.faults += 1;
                let remedy = Some((listed, Some(Bytes::from(expected))));
                tell_with("the index does not list it as it is".into(), remedy);
            }
        }
        Ok(())
    })
}

/// Looks for rows of the index that list nothing, if there is any sign of them.
fn check_index(
    rows: &dyn Rows,
    groups: Groups,
    index: &Index,
    progress: Progress<'_>,
    fault: &mut dyn FnMut(Fault),
) -> Result<(), FsError> {
    let all = KeyRange::prefix(&[INDEX]);
    let mut there = 0;
    each(rows, Family::History, &all, progress, |_, _| {
        there += 1;
        Ok(())
    })?;
    if there == index.listed && index.faults == 0 {
        return Ok(());
    }
    each(rows, Family::History, &all, progress, |index_key, row| {
        let lists = match Listed::decode(index_key, row) {
            Err(_) => false,
            Ok(listed) => match listed_key(groups, index_key) {
                None => false,
                Some(key) => {
                    let past = rows.get(Family::History, &row::past_key(&key, listed.from))?;
                    past.and_then(|past| Found::decode(&key, listed.from, &past).ok())
                        .is_some_and(|found| found.to == listed.to)
                }
            },
        };
        if !lists {
            let (key, what) =
                (index_key.to_vec(), "the index lists a version that is not there".into());
            let remedy = Some((key.clone(), None));
            fault(Fault { family: Family::History, key, what, remedy });
        }
        Ok(())
    })
}

/// The series that an index row lists.
fn listed_key(groups: Groups, index_key: &[u8]) -> Option<Vec<u8>> {
    let rest = index_key.get(1..)?;
    let group = groups.of(rest)?;
    let name = index_key.get(group.len() + NODE_BYTES..)?;
    Some([group, name].concat())
}
