//! The log as the engine sees it: recent entries in memory, older ones read from the log store.
//!
//! Entries stand here from when the engine makes them until they are applied, so that neither committing nor
//! applying reads the disk. How many there can be is bounded by the driver, which stops proposing when applying lags.

use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::EntryKind;
use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::store::LogRead;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use parking_lot::Mutex;
use raft::GetEntriesContext;
use raft::RaftState;
use raft::Storage;
use raft::StorageError;
use raft::eraftpb;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

pub(crate) struct Shelf {
    log: Arc<dyn LogRead>,
    start: RaftState,
    /// Adjacent entries; the last of them is the log's last, unless none is here.
    recent: VecDeque<eraftpb::Entry>,
    /// Adjacent entries read back from the log for replay, before those in `recent`.
    page: Vec<eraftpb::Entry>,
    last: LogIndex,
    /// Members that the log does not reach back to any more.
    behind: Mutex<BTreeSet<NodeId>>,
}

impl Shelf {
    /// `hard.commit` lies between the entry before the log's first and its last.
    pub(crate) fn new(log: Arc<dyn LogRead>, hard: HardState, members: &Members) -> Shelf {
        let hard_state = eraftpb::HardState {
            term: hard.term.0,
            vote: hard.vote.0,
            commit: hard.commit.0,
            ..eraftpb::HardState::default()
        };
        let conf_state = conf_state(members);
        let last = log.last();
        Shelf {
            log,
            start: RaftState::new(hard_state, conf_state),
            recent: VecDeque::new(),
            page: Vec::new(),
            last,
            behind: Mutex::default(),
        }
    }

    /// Who was found to need entries that the log has let go of, since this was last asked.
    pub(crate) fn take_behind(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(self.behind.get_mut())
    }

    /// Entries that are about to be written; they replace whatever stood at and after the first of them.
    pub(crate) fn append(&mut self, entries: &[eraftpb::Entry]) {
        let Some(first) = entries.first() else { return };
        self.page.clear();
        match self.recent.front().map(|entry| entry.index) {
            Some(begin) if begin <= first.index => {
                self.recent.truncate((first.index - begin) as usize)
            }
            _ => self.recent.clear(),
        }
        self.recent.extend(entries.iter().cloned());
        self.last = LogIndex(first.index + entries.len() as u64 - 1);
    }

    /// Applied entries are read from the log store if ever again.
    pub(crate) fn trim(&mut self, applied: LogIndex) {
        while self.recent.front().is_some_and(|entry| entry.index <= applied.0) {
            self.recent.pop_front();
        }
        if self.page.last().is_some_and(|entry| entry.index <= applied.0) {
            self.page = Vec::new();
        }
    }

    /// Reads ahead, so that the engine finds `next` here: it cannot pass on an error of the disk.
    pub(crate) fn read_ahead(&mut self, next: LogIndex, bytes_max: u64) -> Result<(), FsError> {
        let recent = self.recent.front().map_or(self.last.0 + 1, |entry| entry.index);
        if next.0 >= recent || slice(self.page.iter(), next.0).is_some() {
            return Ok(());
        }
        let entries = self.log.entries(next, LogIndex(recent), bytes_max)?;
        self.page = entries.iter().map(to_engine).collect();
        Ok(())
    }
}

/// The entries from `low` on, if they are among `entries`, which are adjacent.
fn slice<'a, I>(mut entries: I, low: u64) -> Option<std::iter::Skip<I>>
where
    I: ExactSizeIterator<Item = &'a eraftpb::Entry> + Clone,
{
    let begin = entries.clone().next()?.index;
    let skip = low.checked_sub(begin)? as usize;
    (skip < entries.len()).then(|| entries.by_ref().clone().skip(skip))
}

fn take<'a>(
    entries: impl Iterator<Item = &'a eraftpb::Entry>,
    high: u64,
    bytes_max: u64,
) -> Vec<eraftpb::Entry> {
    let mut bytes = 0;
    let mut taken = Vec::new();
    for entry in entries.take_while(|entry| entry.index < high) {
        bytes += (entry.data.len() + entry.context.len()) as u64;
        if bytes > bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}

impl Storage for Shelf {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.start.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        if let Some(entries) = slice(self.recent.iter(), low) {
            return Ok(take(entries, high, bytes_max));
        }
        if let Some(entries) = slice(self.page.iter(), low) {
            return Ok(take(entries, high, bytes_max));
        }
        if low < self.log.first().0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let recent = self.recent.front().map_or(self.last.0 + 1, |entry| entry.index);
        let entries = self
            .log
            .entries(LogIndex(low), LogIndex(high.min(recent)), bytes_max)
            .map_err(|error| raft::Error::Store(StorageError::Other(Box::new(error))))?;
        Ok(entries.iter().map(to_engine).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let mut recent = slice(self.recent.iter(), index);
        if let Some(entry) = recent.as_mut().and_then(Iterator::next) {
            return Ok(entry.term);
        }
        match self.log.term(LogIndex(index)) {
            Some(term) => Ok(term.0),
            None if index < self.log.first().0 => Err(raft::Error::Store(StorageError::Compacted)),
            None => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.first().0)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.0)
    }

    /// The engine sends no table: who needs one is told to the driver, and gets it while its own log is not in use. Then
    /// the engine finds that entries are enough.
    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        self.behind.lock().insert(NodeId(to));
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

/// Members as the engine knows them.
fn conf_state(members: &Members) -> eraftpb::ConfState {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    let mut state = eraftpb::ConfState::from((ids(&members.voters), ids(&members.learners)));
    state.voters_outgoing = ids(&members.outgoing);
    state.learners_next = ids(&members.demoted);
    state
}

pub(crate) fn to_engine(entry: &Entry) -> eraftpb::Entry {
    let entry_type = match entry.kind {
        EntryKind::Command => eraftpb::EntryType::EntryNormal,
        // The engine asks for the type alone; the body stays ours.
        EntryKind::Members => eraftpb::EntryType::EntryConfChangeV2,
    };
    eraftpb::Entry {
        entry_type,
        index: entry.index.0,
        term: entry.term.0,
        context: entry.header.clone(),
        data: entry.body.clone(),
        ..eraftpb::Entry::default()
    }
}

pub(crate) fn from_engine(entry: &eraftpb::Entry) -> Entry {
    let kind = match entry.entry_type {
        eraftpb::EntryType::EntryNormal => EntryKind::Command,
        eraftpb::EntryType::EntryConfChangeV2 => EntryKind::Members,
        eraftpb::EntryType::EntryConfChange => {
            unreachable!("entries are made here, none of them with this type")
        }
    };
    Entry {
        index: LogIndex(entry.index),
        term: Term(entry.term),
        kind,
        header: entry.context.clone(),
        body: entry.data.clone(),
    }
}
