//! Checking a store that nobody uses: every checksum and every rule, each fault as a sentence.
//!
//! Goes on behind damage, so that one run tells all of it, and says of each fault whether there is a remedy. Nothing is changed
//! unless repair is asked for (`mend`): then remedies are carried out and the store is checked again, until nothing more
//! can be done; a fault counts as repaired when it is not found any more. Contents that are damaged cannot be repaired with
//! one copy of them; they are told by name.

mod mend;

use crate::env::Clock;
use crate::meta::check;
use crate::meta::check::Owner;
use crate::meta::op::Batch;
use crate::series;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::store::block::BlockStore;
use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::holder::Holder;
use crate::store::label::Label;
use crate::store::log::Log;
use crate::store::table::RocksTable;
use crate::tsdb_log::header::Body;
use crate::tsdb_log::header::Header;
use crate::tsdb_server::open;
use crate::tsdb_server::open::Options;
use crate::tsdb_server::replica::GROUPS;
use crate::tsdb_server::replica::Progress as Applied;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::frame;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Repairing goes on while it finds something new to do, but not for ever.
const ROUNDS_MAX: usize = 8;

/// Where a fault was found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Part {
    Log,
    Table,
    History,
    Tree,
    Blocks,
}

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Part::Log => "log",
            Part::Table => "table",
            Part::History => "history",
            Part::Tree => "tree",
            Part::Blocks => "blocks",
        }
    }
}

/// What has become of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing can be done about it here.
    Left,
    /// There is a remedy, which was not tried. It may not help: what an index has lost may be nowhere else.
    Repairable,
    Repaired,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub part: Part,
    /// A sentence that names the file, row or block.
    pub what: String,
    pub state: State,
}

/// What was read, and how much of it was wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    pub faults: u64,
    pub repaired: u64,
    /// Faults that are left, and for which there is a remedy.
    pub repairable: u64,
    /// Files whose contents are in damaged blocks, by path.
    pub owners: Vec<Owner>,
    /// Log entries, rows of the table, blocks in segments.
    pub entries: u64,
    pub rows: u64,
    pub blocks: u64,
}

impl Summary {
    fn count(&mut self, state: State) {
        self.faults += 1;
        self.repaired += u64::from(state == State::Repaired);
        self.repairable += u64::from(state == State::Repairable);
    }
}

/// Told how far the check is: what is being done, how much, of how much where that is known, and in what unit.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, Option<u64>, &str);

/// Told each fault; when it is found, unless it may yet be repaired.
pub type Tell<'a> = &'a mut dyn FnMut(Finding);

/// What is to be done about a fault.
#[derive(Debug)]
enum Remedy {
    None,
    /// Its own, in the tree or in state.
    Rule(check::Fault),
    /// A row of the index of history as it has to be.
    Listed((Vec<u8>, Option<bytes::Bytes>)),
    /// The index of blocks is made anew.
    Index,
    /// The log is made anew of what can be read of it.
    Log,
}

/// Where the store is and how it is opened.
struct Store<'a> {
    dir: &'a Path,
    disk: &'a Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: &'a Options,
    label: Label,
}

/// Checks the store in `dir`, and repairs it.
///
/// # Errors
/// What keeps it from being checked at all: no store, in use, a newer format, no permission.
pub fn check(
    dir: &Path,
    disk: &Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: &Options,
    repair: bool,
    progress: Progress<'_>,
    tell: Tell<'_>,
) -> Result<Summary, FsError> {
    let Some(label) = Label::read(&**disk, dir)? else {
        return Err(FsError::Io(format!(
            "{} is no store: give the directory of one",
            dir.display()
        )));
    };
    let store = Store { dir, disk, clock, options, label };
    if repair {
        return mend::check(&store, progress, tell);
    }
    let _holder = store.hold()?;
    let mut summary = Summary::default();
    let mut told = |part, what, remedy: Remedy| {
        let state = match remedy {
            Remedy::None => State::Left,
            _ => State::Repairable,
        };
        summary.count(state);
        tell(Finding { part, what, state });
    };
    let read = store.pass(progress, &mut told)?;
    let Summary { faults, repaired, repairable, .. } = summary;
    Ok(Summary { faults, repaired, repairable, ..read })
}

/// Told each fault of one pass over the store.
type Met<'a> = &'a mut dyn FnMut(Part, String, Remedy);

impl Store<'_> {
    fn hold(&self) -> Result<Holder, FsError> {
        Holder::take(self.dir, "checked by 'tsfs fsck'")
    }

    /// Reads everything. Only what was read is counted in what is returned.
    fn pass(&self, progress: Progress<'_>, met: Met<'_>) -> Result<Summary, FsError> {
        let summary = Summary::default();
        let mut pass = Pass { store: self, summary, progress, met };
        let last = pass.log()?;
        pass.table(last)?;
        Ok(pass.summary)
    }
}

/// A check under way.
struct Pass<'a> {
    store: &'a Store<'a>,
    summary: Summary,
    progress: Progress<'a>,
    met: Met<'a>,
}

impl Pass<'_> {
    fn fault(&mut self, part: Part, what: impl ToString, remedy: Remedy) {
        (self.met)(part, what.to_string(), remedy);
    }

    /// Every record and every entry. The last entry, where the log can be read.
    fn log(&mut self) -> Result<Option<LogIndex>, FsError> {
        let Store { disk, dir, label, .. } = self.store;
        let progress = &mut *self.progress;
        let mut told = |done, total| progress("reading the log", done, Some(total), "bytes");
        let checked = Log::check(&***disk, &dir.join(open::LOG), label.store, &mut told);
        let contents = match checked {
            Ok(contents) => contents,
            Err(error @ FsError::Damaged(_)) => {
                self.fault(Part::Log, error, Remedy::Log);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (mut at, last) = (contents.first, contents.last);
        while at <= last {
            match contents.reader.entries(at, LogIndex(last.0 + 1), LOG_PAGE_BYTES) {
                Ok(entries) if entries.is_empty() => break,
                Ok(entries) => {
                    for entry in entries {
                        at = LogIndex(entry.index.0 + 1);
                        self.summary.entries += 1;
                        if let Err(error) = entry_can_be_applied(&entry) {
                            self.fault(Part::Log, error, Remedy::None);
                        }
                    }
                }
                Err(error @ FsError::Damaged(_)) => {
                    self.fault(Part::Log, error, Remedy::None);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(last))
    }

    /// Every file of the table, every rule of its rows, and the blocks that they name.
    fn table(&mut self, last: Option<LogIndex>) -> Result<(), FsError> {
        let dir = self.store.dir.join(open::TABLE);
        let table = match RocksTable::open(&dir, &self.store.options.table) {
            Ok(table) => Arc::new(table),
            Err(error @ FsError::Damaged(_)) => {
                self.fault(Part::Table, error, Remedy::None);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let progress = &mut *self.progress;
        let damage = table.verify_checksums(&mut |family, bytes| {
            progress(&format!("reading {family:?}"), bytes, None, "bytes");
        })?;
        let readable = damage.is_empty();
        let payload_alone = damage.iter().all(|(family, _)| *family == Family::Payload);
        for (_, what) in damage {
            self.fault(Part::Table, what, Remedy::None);
        }
        match (Applied::read(&*table), last) {
            (Ok(applied), Some(last)) if applied.index > last => {
                self.fault(Part::Log, ends_before(applied.index, last), Remedy::Log);
            }
            (Err(error), _) => self.fault(Part::Table, error, Remedy::None),
            _ => {}
        }
        if !readable {
            // Rules would only repeat what is missing, row by row.
            return if payload_alone { self.payload(&table) } else { Ok(()) };
        }
        self.rules(&table)?;
        self.blocks(&table)
    }

    /// The files whose contents are in payload that cannot be read, one block at a time.
    fn payload(&mut self, table: &Arc<RocksTable>) -> Result<(), FsError> {
        let mut damaged = HashSet::new();
        check::payload_blocks(&**table, &mut |block| {
            let row = table.get(Family::Payload, &block.to_bytes());
            if !matches!(row, Ok(Some(row)) if frame::verify(&row).is_ok()) {
                damaged.insert(block);
            }
        })?;
        self.summary.owners = check::owners(&**table, &damaged)?;
        Ok(())
    }

    fn rules(&mut self, table: &Arc<RocksTable>) -> Result<(), FsError> {
        let Pass { summary, progress, met, .. } = self;
        let mut counted = [0; Family::ALL.len()];
        let checked = series::check::check(
            &**table,
            GROUPS,
            &mut |family, rows| {
                counted[family as usize] = rows;
                progress(&format!("checking {family:?}"), rows, None, "rows");
            },
            &mut |fault| {
                let remedy = fault.remedy.clone().map_or(Remedy::None, Remedy::Listed);
                met(Part::History, fault.to_string(), remedy);
            },
        );
        summary.rows = counted.iter().sum();
        let checked = checked.and_then(|()| {
            check::check(
                &**table,
                &mut |what, rows| progress(&format!("checking {what}"), rows, None, "rows"),
                &mut |fault| {
                    let what = fault.to_string();
                    let remedy =
                        if fault.remedy.is_some() { Remedy::Rule(fault) } else { Remedy::None };
                    met(Part::Tree, what, remedy);
                },
            )
        });
        match checked {
            Err(error @ FsError::Damaged(_)) => {
                self.fault(Part::Table, error, Remedy::None);
                Ok(())
            }
            other => other,
        }
    }

    /// Reads every block, and holds what the rows name against what the segments hold.
    fn blocks(&mut self, table: &Arc<RocksTable>) -> Result<(), FsError> {
        let Store { disk, dir, label, options, .. } = self.store;
        let opened = BlockStore::open(
            Arc::clone(disk),
            &dir.join(open::BLOCKS),
            label.store,
            table.clone(),
            options.blocks.clone(),
            Access::Read,
        );
        let (blocks, faults) = match opened {
            Ok(opened) => opened,
            Err(error @ FsError::Damaged(_)) => {
                self.fault(Part::Blocks, error, Remedy::Index);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for fault in faults {
            self.fault(Part::Blocks, fault, Remedy::None);
        }
        let Some(mut damaged) = self.scrub(&blocks)? else { return Ok(()) };
        let mut held: HashSet<BlockId> = HashSet::new();
        blocks.each_named(|block| {
            held.insert(block);
            Ok(())
        })?;
        self.summary.blocks = held.len() as u64;
        let mut elsewhere: HashSet<BlockId> = HashSet::new();
        blocks.each_elsewhere(|block| {
            elsewhere.insert(block);
        })?;
        let mut missing = Vec::new();
        let counted = check::segment_blocks(&**table, &mut |block| {
            if !held.remove(&block) & !elsewhere.remove(&block) {
                missing.push(block);
            }
        });
        match counted {
            // Told where the rules were checked. What the rows name that cannot be read is not known.
            Err(FsError::Damaged(_)) => return Ok(()),
            other => other?,
        }
        for block in missing {
            let what = format!("block {block} is named, but no segment holds it");
            self.fault(Part::Blocks, what, Remedy::Index);
            damaged.insert(block);
        }
        if !damaged.is_empty() {
            match check::owners(&**table, &damaged) {
                // Rows that cannot be read were told where the rules were checked.
                Err(FsError::Damaged(_)) => {}
                owners => self.summary.owners = owners?,
            }
        }
        for block in elsewhere {
            let what = format!("block {block} is said to be on other nodes, but nothing names it");
            self.fault(Part::Blocks, what, Remedy::Index);
        }
        // Space, not data, is lost by these.
        let mut leaked: Vec<_> = held.into_iter().collect();
        leaked.sort_unstable();
        for block in leaked {
            let what = format!("block {block} takes space, but nothing names it");
            self.fault(Part::Blocks, what, Remedy::Index);
        }
        Ok(())
    }

    /// Reads every segment: the blocks that cannot be read; `None` where it is not known where they lie.
    fn scrub(&mut self, blocks: &BlockStore) -> Result<Option<HashSet<BlockId>>, FsError> {
        let segments = blocks.segments();
        let total = segments.iter().map(|(_, bytes)| bytes).sum();
        let (mut done, mut damaged) = (0, HashSet::new());
        for (segment, bytes) in segments {
            let met = &mut *self.met;
            let scrubbed = blocks.scrub(segment, &mut |fault| {
                damaged.extend(fault.block);
                let remedy = if fault.is_of_index { Remedy::Index } else { Remedy::None };
                met(Part::Blocks, fault.what.to_string(), remedy);
            });
            match scrubbed {
                // A row that cannot be read.
                Err(error @ FsError::Damaged(_)) => {
                    self.fault(Part::Blocks, error, Remedy::Index);
                    return Ok(None);
                }
                other => other?,
            }
            done += bytes;
            (self.progress)("reading blocks", done, Some(total), "bytes");
        }
        Ok(Some(damaged))
    }
}

fn ends_before(applied: LogIndex, last: LogIndex) -> String {
    format!(
        "the table is at entry {}, but the log ends at {}: its newest part is missing",
        applied.0, last.0
    )
}

/// Bytes of entries read at a time.
const LOG_PAGE_BYTES: u64 = 8 << 20;

fn entry_can_be_applied(entry: &crate::tsdb_log::entry::Entry) -> Result<(), FsError> {
    if entry.header.is_empty() {
        return Ok(());
    }
    match Header::decode(entry.index, &entry.header)?.body {
        Body::Empty => Ok(()),
        Body::Batch => Batch::decode(&entry.body).map(|_| ()),
    }
}
