//! What can still be had of a damaged log, and a log made of it: for a repair, when there is nobody to ask for what is missing.
//!
//! A record that is not whole is passed over: the next mark has a checksum of its own, and the records behind it go on from
//! the mark's. What the table has already is not needed. Of the rest, entries are kept up to the first that is missing: what
//! follows a gap cannot be applied. That is right where one member takes part: it never replaces an entry that it has. Where
//! there are more, what is missing could have replaced what is there; but then others have it. Not here: whether somebody
//! wants this.

use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::log::Log;
use crate::store::log::pool;
use crate::store::log::pool::Kind;
use crate::store::log::record;
use crate::store::log::record::Identity;
use crate::store::log::record::Link;
use crate::store::log::record::Mark;
use crate::store::log::record::Record;
use crate::store::log::record::Writer;
use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::Term;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;

/// The end of a new segment's name while it is written.
const MAKING: &str = "salvaged";
/// The end of the name of a segment that was set aside. No program reads it.
const SET_ASIDE: &str = "damaged";

/// What is left of a log behind an entry.
#[derive(Debug, Default)]
pub struct Salvage {
    after: LogIndex,
    after_term: Option<Term>,
    /// By index, all of them behind `after`; without gaps once the log was read.
    entries: BTreeMap<LogIndex, Entry>,
    hard: HardState,
    members: Members,
    /// The last entry, as the newest record that can be read has it.
    known: LogIndex,
    /// Records that can be read.
    records: u64,
}

impl Salvage {
    /// Nothing of the log can be read, not even how much there was.
    pub fn is_blank(&self) -> bool {
        self.records == 0
    }

    /// The last entry that the log will have.
    pub fn last(&self) -> LogIndex {
        self.entries.last_key_value().map_or(self.after, |(index, _)| *index)
    }

    /// The entries that were in the log and are gone: the first and the last of them.
    pub fn lost(&self) -> Option<(LogIndex, LogIndex)> {
        let first = LogIndex(self.last().0 + 1);
        (first <= self.known).then_some((first, self.known))
    }

    fn take(&mut self, record: Record) {
        self.records += 1;
        match record {
            Record::Entry(entry) => {
                self.known = entry.index;
                if entry.index == self.after {
                    self.after_term = Some(entry.term);
                }
                // It replaces what the log had from there on.
                self.entries.split_off(&entry.index);
                if entry.index > self.after {
                    self.entries.insert(entry.index, entry);
                }
            }
            Record::Hard(hard) => self.hard = hard,
            Record::Mark(mark) => self.known = mark.synced,
            Record::Link(link) => {
                self.known = link.before.0;
                (self.hard, self.members) = (link.hard, link.members);
            }
        }
    }

    /// Takes in every record of a segment that can be read.
    fn segment(&mut self, bytes: &Bytes, identity: Identity) {
        // The header holds nothing that is not known, and so may be damaged.
        let mut checksum = record::encode_header(identity).1;
        let mut offset = record::HEADER_BYTES;
        loop {
            match record::decode(bytes, 0, offset, checksum, identity) {
                Ok(Some(found)) => {
                    self.take(found.record);
                    (offset, checksum) = (found.end, found.checksum);
                }
                Ok(None) | Err(_) => match record::find_mark(bytes, offset + 1, identity, 0) {
                    Some((at, mark)) => {
                        self.take(Record::Mark(mark));
                        (offset, checksum) = record::behind_mark(bytes, at);
                    }
                    None => return,
                },
            }
        }
    }

    fn close(&mut self) {
        let mut next = self.after;
        let gap = self.entries.keys().find_map(|index| {
            next = LogIndex(next.0 + 1);
            (*index != next).then_some(*index)
        });
        if let Some(gap) = gap {
            self.entries.split_off(&gap);
        }
        let last = self.entries.last_key_value().map(|(_, entry)| entry.term);
        self.hard.term = self.hard.term.max(last.unwrap_or_default());
        self.hard.commit = self.hard.commit.clamp(self.after, self.last());
    }

    /// One segment with everything in it, to stand behind nothing.
    fn bytes(&self, identity: Identity) -> Vec<u8> {
        let (mut bytes, checksum) = record::encode_header(identity);
        let mut writer = Writer::new(Vec::new(), identity, record::HEADER_BYTES, checksum);
        let first = self.entries.first_key_value().map(|(_, entry)| entry.term);
        let term = self.after_term.or(first).unwrap_or(self.hard.term);
        let (hard, members) = (self.hard, self.members.clone());
        writer.link(&Link { previous: None, before: (self.after, term), hard, members });
        writer.mark(Mark { synced: self.after, nth: 0 });
        for entry in self.entries.values() {
            writer.entry(entry);
        }
        // It is in place only once it is synced.
        writer.mark(Mark { synced: self.last(), nth: 1 });
        bytes.extend_from_slice(writer.bytes());
        bytes
    }
}

impl Log {
    /// Reads what can be read of the log in `dir` behind entry `after`, up to which nothing is needed. `members` take part
    /// in it, unless it says otherwise.
    ///
    /// # Errors
    /// `NotSupported` where it has more members; `Io`.
    pub fn salvage(
        disk: &dyn Disk,
        dir: &Path,
        store: [u8; 16],
        after: LogIndex,
        members: Members,
    ) -> Result<Salvage, FsError> {
        let mut salvage = Salvage { after, members, ..Salvage::default() };
        for generation in generations(disk, dir)? {
            let file = disk.open(&pool::path(dir, generation, Kind::Log), Access::Read)?;
            let bytes = Bytes::from(file.read_at(0, file.len()? as usize)?);
            salvage.segment(&bytes, Identity { store, generation });
        }
        if salvage.members.voters.len() > 1 {
            return Err(FsError::NotSupported(
                "the log has members that have what is missing here",
            ));
        }
        salvage.close();
        Ok(salvage)
    }

    /// Puts a log made of what was salvaged in the place of the damaged one, whose segments are set aside. Where the power
    /// goes meanwhile, the log is as damaged as it was, and all that was salvaged can be salvaged again.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn replace(
        disk: &dyn Disk,
        dir: &Path,
        store: [u8; 16],
        salvage: &Salvage,
    ) -> Result<(), FsError> {
        let names = disk.list(dir)?;
        let used = names.iter().filter_map(|name| name.split('.').next()?.parse::<u64>().ok());
        let generation = used.max().unwrap_or(0) + 1;
        let old = generations(disk, dir)?;
        let log = pool::path(dir, generation, Kind::Log);
        let making = log.with_extension(MAKING);
        let file = disk.create(&making)?;
        file.write_at(0, &[IoSlice::new(&salvage.bytes(Identity { store, generation }))])?;
        file.sync_all()?;
        disk.rename(&making, &log)?;
        disk.sync_dir(dir)?;
        for generation in old {
            let path = pool::path(dir, generation, Kind::Log);
            disk.rename(&path, &path.with_extension(SET_ASIDE))?;
        }
        disk.sync_dir(dir)
    }
}

/// Of the segments that belong to the log, in order.
fn generations(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, FsError> {
    let names = disk.list(dir)?;
    let logs = names.iter().filter_map(|name| pool::parse(name));
    let mut logs: Vec<_> =
        logs.filter(|(_, kind)| *kind == Kind::Log).map(|(generation, _)| generation).collect();
    logs.sort_unstable();
    Ok(logs)
}
