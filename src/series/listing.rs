//! Listing a range as of an instant: what `current` holds since then or longer, and past versions that held then.
//!
//! Past versions of a group (the entries of a directory) are found through the index: at most 65 dyadic intervals
//! contain the instant, and their lists are merged. Elsewhere the keys of the range are walked one by one, at a seek
//! or two each. Memory stays bounded: lists are read in pieces.

use crate::series::Direction;
use crate::series::Groups;
use crate::series::KeyRange;
use crate::series::Visit;
use crate::series::chain;
use crate::series::row::INDEX;
use crate::series::row::LEVELS;
use crate::series::row::Listed;
use crate::series::row::NODE_BYTES;
use crate::series::row::Node;
use crate::series::row::Present;
use crate::series::row::damaged;
use crate::series::row::past_key;
use crate::series::row::split_past_key;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::FsError;
use crate::types::Stamp;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Rows in the first piece of a list, and in the largest: a short answer costs little, a long one few seeks. With 65
/// lists of entries below 400 bytes, under 30 MiB at worst.
const PIECE_MIN: usize = 16;
const PIECE_MAX: usize = 1024;

/// A past version that held at the instant asked for.
struct Entry {
    key: Vec<u8>,
    from: Stamp,
    /// `None`: to be looked up.
    value: Option<Bytes>,
}

/// Gives past versions in the order of the scan, one key after another.
trait Source {
    /// The next one, without taking it.
    fn peek(&mut self) -> Result<Option<&Entry>, FsError>;

    fn take(&mut self) -> Option<Entry>;
}

pub(crate) fn scan(
    rows: &dyn Rows,
    groups: Groups,
    range: &KeyRange,
    at: Stamp,
    direction: Direction,
    visit: Visit<'_>,
) -> Result<(), FsError> {
    let cut = Cut { rows, at, direction };
    match group_of(groups, range) {
        Some(group) => merge(&cut, range, &mut Merged::open(&cut, group, range)?, visit),
        None => merge(&cut, range, &mut Walk::new(&cut, range), visit),
    }
}

/// The group that the whole range lies in.
fn group_of(groups: Groups, range: &KeyRange) -> Option<&[u8]> {
    let group = groups.of(&range.start)?;
    let all = KeyRange::prefix(group);
    let inside = all.end.is_empty() || (!range.end.is_empty() && range.end <= all.end);
    inside.then_some(group)
}

/// What is asked for: the same in all that follows.
struct Cut<'a> {
    rows: &'a dyn Rows,
    at: Stamp,
    direction: Direction,
}

impl Cut<'_> {
    fn is_before(&self, left: &[u8], right: &[u8]) -> bool {
        match self.direction {
            Direction::Forward => left < right,
            Direction::Backward => left > right,
        }
    }

    fn show(&self, entry: Entry, visit: Visit<'_>) -> Result<ControlFlow<()>, FsError> {
        let Entry { key, from, value } = entry;
        let value = match value {
            Some(value) => value,
            None => match chain::newest(self.rows, &key, from)? {
                Some(found) if found.from == from => chain::value(self.rows, &key, &found)?,
                _ => return Err(damaged("the index lists a version that is not there", &key)),
            },
        };
        Ok(visit(&key, &value))
    }
}

/// Visits the present rows that hold since the instant or longer, and the past ones between them.
fn merge(
    cut: &Cut<'_>,
    range: &KeyRange,
    past: &mut dyn Source,
    visit: Visit<'_>,
) -> Result<(), FsError> {
    let mut outcome = Ok(ControlFlow::Continue(()));
    cut.rows.scan(Family::Current, range, cut.direction, &mut |key, row| {
        outcome = show_until(cut, past, Some(key), visit);
        if let Ok(ControlFlow::Continue(())) = outcome {
            outcome = Present::decode(key, row).map(|present| match present.from <= cut.at {
                true => visit(key, present.value),
                false => ControlFlow::Continue(()),
            });
        }
        match outcome {
            Ok(flow) => flow,
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    if let ControlFlow::Continue(()) = outcome? {
        let _ = show_until(cut, past, None, visit)?;
    }
    Ok(())
}

/// Shows the past versions whose keys come before `key`.
fn show_until(
    cut: &Cut<'_>,
    past: &mut dyn Source,
    key: Option<&[u8]>,
    visit: Visit<'_>,
) -> Result<ControlFlow<()>, FsError> {
    while let Some(entry) = past.peek()? {
        if key.is_some_and(|key| !cut.is_before(&entry.key, key)) {
            break;
        }
        let entry = past.take().expect("it was there a line ago");
        if cut.show(entry, visit)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The list of one dyadic interval, read in pieces.
struct List {
    /// What is left of it.
    rest: Option<KeyRange>,
    piece: VecDeque<Entry>,
    piece_rows: usize,
}

impl List {
    fn fill(&mut self, cut: &Cut<'_>, group: &[u8]) -> Result<(), FsError> {
        while self.piece.is_empty()
            && let Some(range) = self.rest.take()
        {
            let mut left = self.piece_rows;
            let mut last = Vec::new();
            let mut fault = None;
            cut.rows.scan(Family::History, &range, cut.direction, &mut |index_key, row| {
                match Listed::decode(index_key, row) {
                    Ok(listed) if listed.from <= cut.at && cut.at < listed.to => {
                        let key = [group, &index_key[group.len() + NODE_BYTES..]].concat();
                        let value = listed.value.map(Bytes::copy_from_slice);
                        self.piece.push_back(Entry { key, from: listed.from, value });
                    }
                    Ok(_) => {}
                    Err(error) => {
                        fault = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                left -= 1;
                if left > 0 {
                    return ControlFlow::Continue(());
                }
                last = index_key.to_vec();
                ControlFlow::Break(())
            })?;
            if let Some(fault) = fault {
                return Err(fault);
            }
            if left == 0 {
                self.rest = Some(beyond(range, last, cut.direction));
            }
            self.piece_rows = (self.piece_rows * 4).min(PIECE_MAX);
        }
        Ok(())
    }
}

/// What is left of `range` once a scan has met `key`.
fn beyond(range: KeyRange, mut key: Vec<u8>, direction: Direction) -> KeyRange {
    match direction {
        Direction::Forward => {
            key.push(0);
            KeyRange { start: key, end: range.end }
        }
        Direction::Backward => KeyRange { start: range.start, end: key },
    }
}

/// The lists of all dyadic intervals that contain the instant, as one.
struct Merged<'a> {
    cut: &'a Cut<'a>,
    group: &'a [u8],
    lists: Vec<List>,
    /// The list that [`Source::peek`] found to have the next entry.
    next: Option<usize>,
}

impl<'a> Merged<'a> {
    fn open(cut: &'a Cut<'a>, group: &'a [u8], range: &KeyRange) -> Result<Merged<'a>, FsError> {
        let mut lists = Vec::new();
        let mut level = 0;
        // Most levels list nothing: the next row that is there says which ones to pass over.
        while level < LEVELS
            && let Some(found) = first_row(cut.rows, group, Node::at(cut.at, level))?
        {
            let node = Node::at(cut.at, found.level);
            if node == found {
                let prefix = node.prefix(group);
                let own = |key: &[u8]| [&prefix, &key[group.len()..]].concat();
                let start = own(&range.start);
                let end = match range.end.strip_prefix(group) {
                    Some(_) => own(&range.end),
                    None => KeyRange::prefix(&prefix).end,
                };
                let rest = Some(KeyRange { start, end });
                lists.push(List { rest, piece: VecDeque::new(), piece_rows: PIECE_MIN });
            }
            level = if node.number <= found.number { found.level + 1 } else { found.level };
        }
        Ok(Merged { cut, group, lists, next: None })
    }
}

/// The interval of the first index row of the group at `node` or after.
fn first_row(rows: &dyn Rows, group: &[u8], node: Node) -> Result<Option<Node>, FsError> {
    let start = node.prefix(group);
    let end = KeyRange::prefix(&start[..1 + group.len()]).end;
    let mut found = None;
    rows.scan(Family::History, &KeyRange { start, end }, Direction::Forward, &mut |key, _| {
        let node = key[1 + group.len()..].split_first().and_then(|(level, rest)| {
            let number = u64::from_be_bytes(*rest.first_chunk()?);
            Some(Node { level: *level, number })
        });
        found = Some(node.ok_or_else(|| damaged("its key is too short", key)));
        ControlFlow::Break(())
    })?;
    found.transpose()
}

impl Source for Merged<'_> {
    fn peek(&mut self) -> Result<Option<&Entry>, FsError> {
        if self.next.is_none() {
            let (cut, group) = (self.cut, self.group);
            self.lists.iter_mut().try_for_each(|list| list.fill(cut, group))?;
            self.lists.retain(|list| !list.piece.is_empty());
            let mut best: Option<(usize, &Entry)> = None;
            for (n, list) in self.lists.iter().enumerate() {
                let entry = &list.piece[0];
                if best.is_none_or(|(_, best)| cut.is_before(&entry.key, &best.key)) {
                    best = Some((n, entry));
                }
            }
            self.next = best.map(|(n, _)| n);
        }
        Ok(self.next.and_then(|next| self.lists[next].piece.front()))
    }

    fn take(&mut self) -> Option<Entry> {
        self.next.take().and_then(|next| self.lists[next].piece.pop_front())
    }
}

/// Past versions of keys without a group: key by key through `history`.
struct Walk<'a> {
    cut: &'a Cut<'a>,
    range: KeyRange,
    /// What is left of the range, in keys of `history`; may hold a row of a key just outside.
    rest: Option<KeyRange>,
    next: Option<Entry>,
}

impl<'a> Walk<'a> {
    fn new(cut: &'a Cut<'a>, range: &KeyRange) -> Walk<'a> {
        let mut rest = range.clone();
        if rest.start.is_empty() {
            rest.start.push(INDEX + 1);
        }
        // An end of `key 00` lets `key` in; its rows in `history` sort after that.
        if let Some((0, key)) = rest.end.split_last() {
            rest.end = KeyRange::prefix(key).end;
        }
        Walk { cut, range: range.clone(), rest: Some(rest), next: None }
    }

    /// The key of the next series that has a past.
    fn next_key(&self, range: &KeyRange) -> Result<Option<Vec<u8>>, FsError> {
        let mut found = None;
        self.cut.rows.scan(Family::History, range, self.cut.direction, &mut |row_key, _| {
            found = Some(split_past_key(row_key).map(|(key, _)| key.to_vec()));
            ControlFlow::Break(())
        })?;
        found.transpose()
    }
}

impl Source for Walk<'_> {
    fn peek(&mut self) -> Result<Option<&Entry>, FsError> {
        while self.next.is_none()
            && let Some(range) = self.rest.take()
        {
            let Some(key) = self.next_key(&range)? else { break };
            let end = match self.cut.direction {
                Direction::Forward => past_key(&key, Stamp::ZERO),
                Direction::Backward => past_key(&key, Stamp::MAX),
            };
            self.rest = Some(beyond(range, end, self.cut.direction));
            if self.range.contains(&key)
                && let Some(found) = chain::newest(self.cut.rows, &key, self.cut.at)?
                && self.cut.at < found.to
            {
                self.next = Some(Entry { key, from: found.from, value: None });
            }
        }
        Ok(self.next.as_ref())
    }

    fn take(&mut self) -> Option<Entry> {
        self.next.take()
    }
}
