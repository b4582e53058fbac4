//! Reading a log back: which segments belong to it, where it ends, and whether anything is missing.
//!
//! Changes nothing, so that a check of a stopped store runs the same code as its opening. The rules:
//!
//! - A segment whose first record is no link was never used, unless a mark stands in it.
//! - Each link names the segment before it and where that ends: up to there every record must be whole. A link that
//!   names none begins the log anew: what came before does not belong to it any more, whole or not.
//! - The last segment ends at the first record that is not whole. If a mark stands behind it, what is not whole was once
//!   on disk: that is damage, and the log is not taken up. Otherwise it is a torn tail: a write that the power cut.

use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::disk::File;
use crate::store::log::index::Position;
use crate::store::log::index::Segment;
use crate::store::log::index::Segments;
use crate::store::log::pool;
use crate::store::log::pool::Kind;
use crate::store::log::record;
use crate::store::log::record::Identity;
use crate::store::log::record::Link;
use crate::store::log::record::Previous;
use crate::store::log::record::Record;
use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::types::FsError;
use crate::types::LogIndex;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

/// A log as it was found.
pub(super) struct Recovered {
    pub(super) segments: Segments,
    pub(super) hard: HardState,
    pub(super) members: Members,
    /// Where the last segment ends.
    pub(super) end: Previous,
    /// Generations of `.log` files that hold nothing.
    pub(super) unused: Vec<u64>,
    pub(super) spares: Vec<u64>,
    pub(super) next_generation: u64,
}

/// A segment with a link, read into memory.
struct Used {
    identity: Identity,
    file: Arc<dyn File>,
    bytes: Bytes,
    header_checksum: u32,
    link: Link,
}

fn damaged(generation: u64, what: impl std::fmt::Display) -> FsError {
    FsError::Damaged(format!("log segment {generation} {what}"))
}

/// `progress` is told bytes read and bytes in all.
pub(super) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Recovered, FsError> {
    let names: Vec<_> = disk.list(dir)?.iter().filter_map(|name| pool::parse(name)).collect();
    let spares = of_kind(&names, Kind::Spare);
    let logs = of_kind(&names, Kind::Log);
    let next_generation = names.iter().map(|(generation, _)| generation + 1).max().unwrap_or(1);
    let (mut done, mut reading) = (0, None::<Result<Reading, FsError>>);
    let (mut unused, mut former) = (Vec::new(), Vec::new());
    for (nth, generation) in logs.iter().copied().enumerate() {
        let used = read(disk, dir, store, generation, &mut done);
        progress(done, done / (nth as u64 + 1) * logs.len() as u64);
        reading = match (reading, used) {
            (reading, Ok(None)) => {
                unused.push(generation);
                reading
            }
            (None, Ok(Some(used))) => Some(Ok(Reading::begin(used))),
            (Some(_), Ok(Some(used))) if used.link.previous.is_none() => {
                unused.append(&mut former);
                Some(Ok(Reading::begin(used)))
            }
            (Some(Ok(reading)), Ok(Some(used))) => Some(reading.next(used)),
            (Some(Err(error)), _) | (_, Err(error)) => Some(Err(error)),
        };
        former.push(generation);
    }
    unused.sort_unstable();
    unused.dedup();
    let reading = reading.ok_or_else(|| {
        FsError::Damaged(format!("{} holds no log: its segments are gone", dir.display()))
    })??;
    let (segments, hard, members, end) = reading.finish()?;
    Ok(Recovered { segments, hard, members, end, unused, spares, next_generation })
}

fn of_kind(names: &[(u64, Kind)], kind: Kind) -> Vec<u64> {
    let mut generations: Vec<_> =
        names.iter().filter(|name| name.1 == kind).map(|name| name.0).collect();
    generations.sort_unstable();
    generations
}

/// `None` for a segment that was made ready and never used.
fn read(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    generation: u64,
    done: &mut u64,
) -> Result<Option<Used>, FsError> {
    let file = disk.open(&pool::path(dir, generation, Kind::Log), Access::ReadWrite)?;
    let bytes = Bytes::from(file.read_at(0, file.len()? as usize)?);
    *done += bytes.len() as u64;
    let (identity, header_checksum) =
        record::decode_header(&bytes).map_err(|what| damaged(generation, what))?;
    if identity != (Identity { store, generation }) {
        return Err(damaged(generation, "belongs to another store or was renamed"));
    }
    let first = record::decode(&bytes, 0, record::HEADER_BYTES, header_checksum, identity)?;
    match first.map(|found| found.record) {
        Some(Record::Link(link)) => Ok(Some(Used { identity, file, bytes, header_checksum, link })),
        Some(_) => Err(damaged(generation, "does not begin with a link")),
        // The first group may have been cut while it was written; a second one says that it was not.
        None => match record::find_mark(&bytes, record::HEADER_BYTES, identity, 1) {
            Some(_) => Err(damaged(generation, "has lost its first record")),
            None => Ok(None),
        },
    }
}

/// The segments so far, and the last of them, of which it is not known yet where it ends.
struct Reading {
    segments: Segments,
    hard: HardState,
    members: Members,
    last: Used,
}

impl Reading {
    fn begin(used: Used) -> Reading {
        let mut segments = Segments::default();
        segments.push(Segment::new(used.identity, used.file.clone(), used.link.before));
        let (hard, members) = (used.link.hard, used.link.members.clone());
        Reading { segments, hard, members, last: used }
    }

    /// `used` follows: it says where the last one ends.
    fn next(mut self, used: Used) -> Result<Reading, FsError> {
        let generation = self.last.identity.generation;
        let Some(previous) = used.link.previous.filter(|p| p.generation == generation) else {
            return Err(damaged(
                used.identity.generation,
                format_args!("does not follow segment {generation}: one between them is missing"),
            ));
        };
        let found = self.records(Some(previous.end))?;
        if found != previous {
            return Err(damaged(
                generation,
                format_args!(
                    "is damaged at offset {}; it was once on disk up to offset {}",
                    found.end, previous.end
                ),
            ));
        }
        let before = used.link.before.0;
        if self.segments.last() < before {
            return Err(damaged(
                used.identity.generation,
                "begins behind entries that are missing",
            ));
        }
        if self.segments.last() > before {
            self.segments.truncate(LogIndex(before.0 + 1));
        }
        self.segments.push(Segment::new(used.identity, used.file.clone(), used.link.before));
        self.hard = used.link.hard;
        self.members = used.link.members.clone();
        Ok(Reading { last: used, ..self })
    }

    fn finish(mut self) -> Result<(Segments, HardState, Members, Previous), FsError> {
        let found = self.records(None)?;
        // A mark at the end itself says nothing: it may have come with the write that was cut.
        let Used { identity, bytes, .. } = &self.last;
        if let Some((offset, mark)) = record::find_mark(bytes, found.end + 1, *identity, 0) {
            return Err(damaged(
                identity.generation,
                format_args!(
                    "is damaged at offset {}; everything before offset {offset} was once on disk, up to entry {}",
                    found.end, mark.synced.0
                ),
            ));
        }
        Ok((self.segments, self.hard, self.members, found))
    }

    /// Takes in the last segment's whole records, up to `end` where it is known. Says where they end.
    fn records(&mut self, end: Option<u64>) -> Result<Previous, FsError> {
        let Used { identity, bytes, header_checksum, .. } = &self.last;
        let (mut offset, mut checksum) = (record::HEADER_BYTES, *header_checksum);
        while end.is_none_or(|end| offset < end) {
            let Some(found) = record::decode(bytes, 0, offset, checksum, *identity)? else { break };
            match found.record {
                Record::Entry(entry) => {
                    let position = Position { offset: offset as u32, checksum };
                    self.segments.entry(entry.index, entry.term, position)?;
                }
                Record::Hard(hard) => self.hard = hard,
                Record::Mark(_) => {}
                Record::Link(_) if offset == record::HEADER_BYTES => {}
                Record::Link(_) => return Err(damaged(identity.generation, "has a link inside")),
            }
            (offset, checksum) = (found.end, found.checksum);
        }
        self.segments.written(offset);
        Ok(Previous { generation: identity.generation, end: offset, checksum })
    }
}
