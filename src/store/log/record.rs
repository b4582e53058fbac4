//! The bytes of a log segment: its header and its records. `docs/format.md` draws them.
//!
//! A record's checksum goes on from its predecessor's, the first one's from the segment header's, and every record
//! names its segment's generation: what an earlier use of the file left behind never passes for a record.
//! Not here: files, and what a bad record means.

use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::EntryKind;
use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

/// The format that is written, of the segment and all that is in it.
pub(super) const VERSION: u32 = 1;
/// Records begin here.
pub(super) const HEADER_BYTES: u64 = 4096;
/// Records begin at multiples of this.
const ALIGN: usize = 8;
/// Checksum, length, generation, kind.
const HEAD_BYTES: usize = 16;
/// Index, term, length of the header, kind.
const ENTRY_HEAD_BYTES: usize = 24;
const MARK_BYTES: usize = 32;
const HARD_BYTES: usize = 24;
/// A record that holds a mark, and one that holds a hard state, in full.
pub(super) const MARK_RECORD_BYTES: usize = HEAD_BYTES + MARK_BYTES;
pub(super) const HARD_RECORD_BYTES: usize = HEAD_BYTES + HARD_BYTES;

const MAGIC: [u8; 8] = *b"tsfslog\n";
const MARK_MAGIC: [u8; 8] = *b"tsfsmark";

const KIND_MARK: u8 = 1;
const KIND_LINK: u8 = 2;
const KIND_HARD: u8 = 3;
const KIND_ENTRY: u8 = 4;

const KIND_COMMAND: u8 = 0;
const KIND_MEMBERS: u8 = 1;

/// Whose record it is. Goes into every checksum or stands beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) store: [u8; 16],
    /// Which use of which file: rises with every segment, never used twice.
    pub(super) generation: u64,
}

/// First in every group. Nothing is written behind what is not synced, so a mark says: all before me is on disk. It has
/// a checksum of its own, and so is found even where records before it are unreadable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    /// The last entry that is known to be synced.
    pub(super) synced: LogIndex,
    /// Which group of its segment it begins, from zero.
    pub(super) nth: u32,
}

/// First in every segment: what came before it, so that earlier segments are not needed to take the log up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    /// None where the log begins, or begins anew: nothing before this segment belongs to it.
    pub(super) previous: Option<Previous>,
    /// Index and term of the log's last entry before this segment.
    pub(super) before: (LogIndex, Term),
    pub(super) hard: HardState,
    pub(super) members: Members,
}

/// Where the former segment ends. What lies behind that is no part of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Previous {
    pub(super) generation: u64,
    pub(super) end: u64,
    pub(super) checksum: u32,
}

#[derive(Serialize, Deserialize)]
struct StoredLink {
    previous: Option<Previous>,
    index: u64,
    index_term: u64,
    term: u64,
    vote: u64,
    commit: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    Mark(Mark),
    Link(Link),
    Hard(HardState),
    Entry(Entry),
}

/// The first bytes of a segment, and the checksum that its first record goes on from.
pub(super) fn encode_header(identity: Identity) -> (Vec<u8>, u32) {
    let mut bytes = vec![0; HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&identity.store);
    bytes[32..40].copy_from_slice(&identity.generation.to_le_bytes());
    let checksum = header_checksum(&bytes);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    (bytes, checksum)
}

fn header_checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..HEADER_BYTES as usize])
}

/// # Errors
/// What is wrong with it, as the end of a sentence.
pub(super) fn decode_header(bytes: &[u8]) -> Result<(Identity, u32), String> {
    if bytes.len() < HEADER_BYTES as usize {
        return Err("is shorter than its header".to_string());
    }
    if bytes[..8] != MAGIC {
        return Err("does not begin like a log segment".to_string());
    }
    let version = u32_at(bytes, 8);
    let checksum = u32_at(bytes, 12);
    if checksum != header_checksum(bytes) {
        return Err("has a damaged header".to_string());
    }
    if version != VERSION {
        return Err(format!("has format {version}, this program reads format {VERSION}"));
    }
    let store = bytes[16..32].try_into().expect("sixteen bytes");
    Ok((Identity { store, generation: u64_at(bytes, 32) }, checksum))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Records on their way to a segment, one behind the other.
pub(super) struct Writer {
    bytes: Vec<u8>,
    identity: Identity,
    /// Where `bytes` will begin in the segment.
    base: u64,
    /// Of the last record.
    checksum: u32,
}

impl Writer {
    /// To write at `base`, behind a record with this checksum.
    pub(super) fn new(bytes: Vec<u8>, identity: Identity, base: u64, checksum: u32) -> Writer {
        Writer { bytes, identity, base, checksum }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn checksum(&self) -> u32 {
        self.checksum
    }

    /// Where the next record will begin in the segment.
    pub(super) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Takes the memory back, for the next writer.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        let body = encode_mark(self.identity, self.end(), mark);
        self.push(KIND_MARK, &[&body]);
    }

    pub(super) fn link(&mut self, link: &Link) {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        let stored = StoredLink {
            previous: link.previous,
            index: link.before.0.0,
            index_term: link.before.1.0,
            term: link.hard.term.0,
            vote: link.hard.vote.0,
            commit: link.hard.commit.0,
            voters: ids(&link.members.voters),
            learners: ids(&link.members.learners),
        };
        let body = postcard::to_stdvec(&stored).expect("a vector grows as needed");
        self.push(KIND_LINK, &[&body]);
    }

    pub(super) fn hard_state(&mut self, hard: HardState) {
        let mut body = [0; HARD_BYTES];
        body[..8].copy_from_slice(&hard.term.0.to_le_bytes());
        body[8..16].copy_from_slice(&hard.vote.0.to_le_bytes());
        body[16..].copy_from_slice(&hard.commit.0.to_le_bytes());
        self.push(KIND_HARD, &[&body]);
    }

    pub(super) fn entry(&mut self, entry: &Entry) {
        let mut head = [0; ENTRY_HEAD_BYTES];
        head[..8].copy_from_slice(&entry.index.0.to_le_bytes());
        head[8..16].copy_from_slice(&entry.term.0.to_le_bytes());
        head[16..20].copy_from_slice(&(entry.header.len() as u32).to_le_bytes());
        head[20] = match entry.kind {
            EntryKind::Command => KIND_COMMAND,
            EntryKind::Members => KIND_MEMBERS,
        };
        self.push(KIND_ENTRY, &[&head, &entry.header, &entry.body]);
    }

    fn push(&mut self, kind: u8, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&(len as u32).to_le_bytes());
        self.bytes.extend_from_slice(&(self.identity.generation as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[kind, 0, 0, 0]);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.resize(start + record_bytes(len) as usize, 0);
        self.checksum = crc32c::crc32c_append(self.checksum, &self.bytes[start + 4..]);
        self.bytes[start..start + 4].copy_from_slice(&self.checksum.to_le_bytes());
    }
}

/// Bytes in the segment of a record with a body of `len` bytes.
fn record_bytes(len: usize) -> u64 {
    (HEAD_BYTES + len).next_multiple_of(ALIGN) as u64
}

/// Bytes in the segment of an entry.
pub(super) fn entry_bytes(entry: &Entry) -> u64 {
    record_bytes(ENTRY_HEAD_BYTES + entry.header.len() + entry.body.len())
}

fn encode_mark(identity: Identity, offset: u64, mark: Mark) -> [u8; MARK_BYTES] {
    let mut body = [0; MARK_BYTES];
    body[..8].copy_from_slice(&MARK_MAGIC);
    body[8..16].copy_from_slice(&offset.to_le_bytes());
    body[16..24].copy_from_slice(&mark.synced.0.to_le_bytes());
    body[24..28].copy_from_slice(&mark.nth.to_le_bytes());
    let checksum = mark_checksum(identity, &body);
    body[28..].copy_from_slice(&checksum.to_le_bytes());
    body
}

fn mark_checksum(identity: Identity, body: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&identity.store);
    let seed = crc32c::crc32c_append(seed, &identity.generation.to_le_bytes());
    crc32c::crc32c_append(seed, &body[..28])
}

fn decode_mark(identity: Identity, offset: u64, body: &[u8]) -> Option<Mark> {
    let whole = body.len() == MARK_BYTES
        && body[..8] == MARK_MAGIC
        && u64_at(body, 8) == offset
        && u32_at(body, 28) == mark_checksum(identity, body);
    whole.then(|| Mark { synced: LogIndex(u64_at(body, 16)), nth: u32_at(body, 24) })
}

/// The first mark at or after `from` that begins group `nth_min` or a later one, even where records before it are unreadable:
/// it proves that everything before it was on disk.
pub(super) fn find_mark(
    segment: &[u8],
    from: u64,
    identity: Identity,
    nth_min: u32,
) -> Option<(u64, Mark)> {
    let mut at = (from as usize).next_multiple_of(ALIGN);
    while at + MARK_RECORD_BYTES <= segment.len() {
        let body = &segment[at + HEAD_BYTES..at + MARK_RECORD_BYTES];
        if let Some(mark) = decode_mark(identity, at as u64, body)
            && mark.nth >= nth_min
        {
            return Some((at as u64, mark));
        }
        at += ALIGN;
    }
    None
}

/// Where the record behind a mark begins that was found at `at`, and the checksum that it goes on from.
pub(super) fn behind_mark(segment: &[u8], at: u64) -> (u64, u32) {
    (at + MARK_RECORD_BYTES as u64, u32_at(segment, at as usize))
}

/// A record that is whole, with what is needed to go on behind it.
pub(super) struct Found {
    pub(super) record: Record,
    pub(super) checksum: u32,
    /// Where the next one begins.
    pub(super) end: u64,
}

/// The record at `offset`, where `bytes` begins at `base` of the segment. `None` where it is not whole, or none is there.
///
/// # Errors
/// `Damaged` for a record that is whole but cannot be understood.
pub(super) fn decode(
    bytes: &Bytes,
    base: u64,
    offset: u64,
    checksum: u32,
    identity: Identity,
) -> Result<Option<Found>, FsError> {
    let at = (offset - base) as usize;
    if at + HEAD_BYTES > bytes.len() {
        return Ok(None);
    }
    let len = u32_at(bytes, at + 4) as usize;
    let end = at + record_bytes(len) as usize;
    if u32_at(bytes, at + 8) != identity.generation as u32 || end > bytes.len() {
        return Ok(None);
    }
    let expected = crc32c::crc32c_append(checksum, &bytes[at + 4..end]);
    if u32_at(bytes, at) != expected {
        return Ok(None);
    }
    let body = bytes.slice(at + HEAD_BYTES..at + HEAD_BYTES + len);
    let record = decode_body(bytes[at + 12], &body, offset, identity).ok_or_else(|| {
        FsError::Damaged(format!(
            "log segment {}, offset {offset}: a whole record that this program cannot read",
            identity.generation
        ))
    })?;
    Ok(Some(Found { record, checksum: expected, end: base + end as u64 }))
}

fn decode_body(kind: u8, body: &Bytes, offset: u64, identity: Identity) -> Option<Record> {
    match kind {
        KIND_MARK => decode_mark(identity, offset, body).map(Record::Mark),
        KIND_LINK => decode_link(body).map(Record::Link),
        KIND_HARD if body.len() == HARD_BYTES => Some(Record::Hard(HardState {
            term: Term(u64_at(body, 0)),
            vote: NodeId(u64_at(body, 8)),
            commit: LogIndex(u64_at(body, 16)),
        })),
        KIND_ENTRY if body.len() >= ENTRY_HEAD_BYTES => {
            let kind = match body[20] {
                KIND_COMMAND => EntryKind::Command,
                KIND_MEMBERS => EntryKind::Members,
                _ => return None,
            };
            let rest = body.slice(ENTRY_HEAD_BYTES..);
            let header = u32_at(body, 16) as usize;
            (header <= rest.len()).then(|| {
                Record::Entry(Entry {
                    index: LogIndex(u64_at(body, 0)),
                    term: Term(u64_at(body, 8)),
                    kind,
                    header: rest.slice(..header),
                    body: rest.slice(header..),
                })
            })
        }
        _ => None,
    }
}

fn decode_link(body: &[u8]) -> Option<Link> {
    let stored: StoredLink = postcard::from_bytes(body).ok()?;
    let nodes = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
    Some(Link {
        previous: stored.previous,
        before: (LogIndex(stored.index), Term(stored.index_term)),
        hard: HardState {
            term: Term(stored.term),
            vote: NodeId(stored.vote),
            commit: LogIndex(stored.commit),
        },
        members: Members {
            voters: nodes(stored.voters),
            learners: nodes(stored.learners),
            ..Members::default()
        },
    })
}
