//! Where each entry lies: the log as its readers see it.
//!
//! Eight bytes of memory for each entry that is not purged; the entries themselves stay on disk.

use crate::store::disk::File;
use crate::store::log::record;
use crate::store::log::record::Identity;
use crate::store::log::record::Record;
use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::store::LogRead;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::Term;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::VecDeque;
use std::sync::Arc;

/// Where an entry's record begins, and the checksum that its own goes on from.
#[derive(Clone, Copy)]
pub(super) struct Position {
    pub(super) offset: u32,
    pub(super) checksum: u32,
}

/// A segment that belongs to the log.
pub(super) struct Segment {
    pub(super) identity: Identity,
    pub(super) file: Arc<dyn File>,
    /// Index and term of the last entry before it; term 0, which no entry has, where that is not known any more.
    before: (LogIndex, Term),
    /// The index of that entry when the segment was begun, as its link says.
    linked: LogIndex,
    /// The index of the first entry in it, where it has any.
    first: LogIndex,
    positions: Vec<Position>,
    /// Behind its last record.
    pub(super) end: u64,
}

impl Segment {
    pub(super) fn new(
        identity: Identity,
        file: Arc<dyn File>,
        before: (LogIndex, Term),
    ) -> Segment {
        let first = LogIndex(before.0.0 + 1);
        let (positions, end) = (Vec::new(), record::HEADER_BYTES);
        Segment { identity, file, before, linked: before.0, first, positions, end }
    }

    /// Behind the last entry in it.
    fn next(&self) -> LogIndex {
        LogIndex(self.first.0 + self.positions.len() as u64)
    }
}

#[derive(Default)]
pub(super) struct Segments {
    /// In the order they were written.
    pub(super) list: VecDeque<Segment>,
    /// The first entry of each run of entries with one term.
    terms: VecDeque<(LogIndex, Term)>,
}

impl Segments {
    pub(super) fn first(&self) -> LogIndex {
        let held = self.list.iter().find(|segment| !segment.positions.is_empty());
        held.map_or(LogIndex(self.last().0 + 1), |segment| segment.first)
    }

    pub(super) fn last(&self) -> LogIndex {
        match self.list.iter().rev().find(|segment| !segment.positions.is_empty()) {
            Some(segment) => LogIndex(segment.next().0 - 1),
            None => self.list.back().map_or(LogIndex(0), |segment| segment.before.0),
        }
    }

    pub(super) fn last_term(&self) -> Term {
        self.term(self.last()).unwrap_or_default()
    }

    pub(super) fn term(&self, index: LogIndex) -> Option<Term> {
        if index > self.last() {
            return None;
        }
        if index < self.first() {
            let before = self.list.iter().map(|segment| segment.before);
            return before.rev().find(|before| before.0 == index).map(|before| before.1);
        }
        let run = self.terms.partition_point(|run| run.0 <= index);
        run.checked_sub(1).map(|run| self.terms[run].1)
    }

    /// A new last segment.
    pub(super) fn push(&mut self, segment: Segment) {
        self.list.push_back(segment);
    }

    /// An entry in the last segment. It replaces what the log had at and after its index.
    ///
    /// # Errors
    /// `Damaged` where it does not follow what is there.
    pub(super) fn entry(
        &mut self,
        index: LogIndex,
        term: Term,
        position: Position,
    ) -> Result<(), FsError> {
        let last = self.last();
        // It may be before `first`: the entries that it once replaced may be purged.
        if index.0 > last.0 + 1 {
            return Err(FsError::Damaged(format!(
                "the log has entry {} behind entry {}",
                index.0, last.0
            )));
        }
        if index <= last {
            self.truncate(index);
        }
        let segment = self.list.back_mut().expect("the log has a segment that is written to");
        if segment.positions.is_empty() {
            segment.first = index;
        }
        segment.positions.push(position);
        if self.terms.back().is_none_or(|run| run.1 != term) {
            self.terms.push_back((index, term));
        }
        Ok(())
    }

    /// The last segment's records end at `end`.
    pub(super) fn written(&mut self, end: u64) {
        self.list.back_mut().expect("the log has a segment that is written to").end = end;
    }

    /// Takes out the entries at and after `from`.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        let before = LogIndex(from.0 - 1);
        let term = self.term(before).unwrap_or_default();
        for segment in &mut self.list {
            let keep = from.0.saturating_sub(segment.first.0) as usize;
            segment.positions.truncate(keep);
            if segment.before.0 > before {
                segment.before = (before, term);
                segment.first = from;
            }
        }
        while self.terms.back().is_some_and(|run| run.0 >= from) {
            self.terms.pop_back();
        }
    }

    /// Takes out the segments all of whose entries are at or before `upto`, and always were; never the last.
    pub(super) fn purge(&mut self, upto: LogIndex) -> Vec<Segment> {
        let mut purged = Vec::new();
        while self.list.get(1).is_some_and(|next| next.linked <= upto) {
            purged.extend(self.list.pop_front());
        }
        let first = self.first();
        while self.terms.len() > 1 && self.terms[1].0 <= first {
            self.terms.pop_front();
        }
        purged
    }
}

/// The readers' side of a log. Shared with its one writer.
pub(super) struct Index(pub(super) RwLock<Segments>);

/// Records of one segment that lie close together, to be read at once.
struct Span {
    file: Arc<dyn File>,
    identity: Identity,
    positions: Vec<Position>,
    end: u64,
}

impl Index {
    /// Adjacent entries from `from` on, in the segment that holds it.
    fn span(&self, from: LogIndex, to: LogIndex, bytes_max: u64) -> Option<Span> {
        let segments = self.0.read();
        let segment =
            segments.list.iter().find(|segment| segment.first <= from && from < segment.next())?;
        let start = (from.0 - segment.first.0) as usize;
        let count = (to.0.min(segment.next().0) - from.0) as usize;
        let offset = u64::from(segment.positions[start].offset);
        let begins = segment.positions[start..start + count].iter();
        let positions: Vec<_> = begins
            .enumerate()
            .take_while(|(n, position)| {
                *n == 0 || u64::from(position.offset) < offset.saturating_add(bytes_max)
            })
            .map(|(_, position)| *position)
            .collect();
        let behind = segment.positions.get(start + positions.len());
        let end = behind.map_or(segment.end, |position| u64::from(position.offset));
        Some(Span { file: segment.file.clone(), identity: segment.identity, positions, end })
    }
}

impl Span {
    fn read(&self, from: LogIndex) -> Result<Vec<Entry>, FsError> {
        let base = u64::from(self.positions[0].offset);
        let bytes = Bytes::from(self.file.read_at(base, (self.end - base) as usize)?);
        let mut entries = Vec::with_capacity(self.positions.len());
        for (index, position) in (from.0..).zip(&self.positions) {
            let offset = u64::from(position.offset);
            let found = record::decode(&bytes, base, offset, position.checksum, self.identity)?;
            match found.map(|found| found.record) {
                Some(Record::Entry(entry)) if entry.index.0 == index => entries.push(entry),
                _ => {
                    return Err(FsError::Damaged(format!(
                        "log segment {}, offset {offset}: entry {index} cannot be read back",
                        self.identity.generation
                    )));
                }
            }
        }
        Ok(entries)
    }
}

impl LogRead for Index {
    fn first(&self) -> LogIndex {
        self.0.read().first()
    }

    fn last(&self) -> LogIndex {
        self.0.read().last()
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        self.0.read().term(index)
    }

    fn entries(&self, from: LogIndex, to: LogIndex, bytes_max: u64) -> Result<Vec<Entry>, FsError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        while next < to && bytes < bytes_max {
            let span = self
                .span(next, to, bytes_max - bytes)
                .ok_or_else(|| FsError::Io(format!("log entry {} is not held", next.0)))?;
            let read = span.read(next)?;
            bytes += span.end - u64::from(span.positions[0].offset);
            next = LogIndex(next.0 + read.len() as u64);
            entries.extend(read);
        }
        Ok(entries)
    }
}
