//! What mounts said and what was applied, kept beside the rows: what the other invariants are held against.

use crate::mount::Report;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use tsfs::meta::op::Batch;
use tsfs::meta::op::Op;
use tsfs::tsdb_log::entry::Entry;
use tsfs::tsdb_log::header::Body;
use tsfs::tsdb_log::header::Header;
use tsfs::types::BlockId;
use tsfs::types::Ino;
use tsfs::types::LogIndex;
use tsfs::types::SessionId;
use tsfs::types::Stamp;

/// A batch as its mount closed it.
pub(crate) struct Made {
    pub(crate) direct: bool,
    pub(crate) touched: BTreeSet<Ino>,
    pub(crate) bytes: Bytes,
}

#[derive(Default)]
pub(crate) struct Session {
    pub(crate) made: BTreeMap<u64, Made>,
    /// What programs were told is durable.
    pub(crate) promised: u64,
    /// The last number that was used up.
    pub(crate) last: u64,
    pub(crate) open: bool,
    pub(crate) ended: bool,
}

#[derive(Default)]
pub(crate) struct Book {
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// The furthest that anybody has applied.
    pub(crate) furthest: LogIndex,
    pub(crate) inos: BTreeSet<Ino>,
    /// Blocks that were put.
    pub(crate) frames: BTreeMap<BlockId, Bytes>,
    /// Those that a majority has on disk, as mounts believe.
    pub(crate) durable: BTreeSet<BlockId>,
    /// What was read of the past.
    pub(crate) read: Vec<(Stamp, Bytes, Option<Bytes>)>,
}

impl Book {
    pub(crate) fn note(&mut self, report: Report) {
        match report {
            Report::Made { session, seq, direct, touched, bytes } => {
                self.inos.extend(touched.iter().copied());
                let session = self.sessions.entry(session).or_default();
                let made = Made { direct, touched, bytes };
                assert!(session.made.insert(seq, made).is_none(), "batch {seq} is made once");
            }
            Report::Promised { session, seq } => {
                let session = self.sessions.entry(session).or_default();
                session.promised = session.promised.max(seq);
            }
            Report::Past { at, key, row } => self.read.push((at, key, row)),
            Report::Put { block, frame } => {
                assert!(self.frames.insert(block, frame).is_none(), "block {block} is put once");
            }
            Report::Durable { block, .. } => {
                self.durable.insert(block);
            }
            Report::Got { .. } | Report::Done(_) => {}
        }
    }
}

/// The batch of an entry, where it has one.
pub(crate) fn batch(entry: &Entry) -> Option<(Header, Batch)> {
    if entry.header.is_empty() {
        return None;
    }
    let header = Header::decode(entry.index, &entry.header).unwrap();
    let is_batch = matches!(header.body, Body::Batch);
    is_batch.then(|| (header, Batch::decode(&entry.body).unwrap()))
}

/// The ops of the store's own that bear on sessions.
pub(crate) fn opens_and_ends(batch: &Batch) -> impl Iterator<Item = (SessionId, bool)> + '_ {
    batch.ops.iter().filter_map(|op| match op {
        Op::OpenSession { session, .. } => Some((*session, true)),
        Op::EndSession { session } => Some((*session, false)),
        _ => None,
    })
}
