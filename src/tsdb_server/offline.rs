//! Checking a store that nobody uses: every checksum and every rule, each fault as a sentence.
//!
//! Goes on behind damage, so that one run tells all of it. Nothing is changed unless repair is asked for: then the
//! store is first opened as a mount does, which replays the log and finishes what a power cut interrupted, and blocks that
//! no row names are given back. Damage to contents cannot be repaired with one copy of them; it is told by name.

use crate::env::Clock;
use crate::meta::check;
use crate::meta::check::Owner;
use crate::meta::op::Batch;
use crate::series;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Table;
use crate::store::block::BlockStore;
use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::holder::Holder;
use crate::store::label::Label;
use crate::store::log::Log;
use crate::store::table::RocksTable;
use crate::tsdb_log::header::Body;
use crate::tsdb_log::header::Header;
use crate::tsdb_server::node::Fresh;
use crate::tsdb_server::node::Node;
use crate::tsdb_server::open;
use crate::tsdb_server::open::Options;
use crate::tsdb_server::replica::GROUPS;
use crate::tsdb_server::replica::Progress as Applied;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::LogIndex;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Where a fault was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub part: Part,
    /// A sentence that names the file, row or block.
    pub what: String,
    pub repaired: bool,
}

/// What was read, and how much of it was wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    pub faults: u64,
    pub repaired: u64,
    /// Faults that repair would put right.
    pub repairable: u64,
    /// Files whose contents are in damaged blocks, by path.
    pub owners: Vec<Owner>,
    /// Log entries, rows of the table, blocks in segments.
    pub entries: u64,
    pub rows: u64,
    pub blocks: u64,
}

/// Told how far the check is: what is being done, how much, of how much where that is known, and in what unit.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, Option<u64>, &str);

/// Told each fault when it is found.
pub type Tell<'a> = &'a mut dyn FnMut(Finding);

/// Checks the store in `dir`.
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
    let mut summary = Summary::default();
    if repair && let Err(error) = settle(dir, disk, clock, options) {
        found(
            &mut summary,
            tell,
            Part::Table,
            format!("it cannot be opened as it is: {error}"),
            false,
        );
    }
    let _holder = Holder::take(dir, "checked by 'tsfs fsck'")?;
    let mut run = Run { dir, disk, label, options, summary, progress, tell };
    let last = run.log()?;
    run.table(last, repair)?;
    Ok(run.summary)
}

/// Opens and closes the store, as a mount does: everything that it can settle by itself is settled then.
fn settle(
    dir: &Path,
    disk: &Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: &Options,
) -> Result<(), FsError> {
    let options = Options { create: false, ..options.clone() };
    let node = Node::open(dir, disk.clone(), clock, &options, &Fresh::default())?;
    node.close()
}

fn found(summary: &mut Summary, tell: Tell<'_>, part: Part, what: String, repaired: bool) {
    summary.faults += 1;
    summary.repaired += u64::from(repaired);
    tell(Finding { part, what, repaired });
}

/// A check under way.
struct Run<'a> {
    dir: &'a Path,
    disk: &'a Arc<dyn Disk>,
    label: Label,
    options: &'a Options,
    summary: Summary,
    progress: Progress<'a>,
    tell: Tell<'a>,
}

impl Run<'_> {
    fn fault(&mut self, part: Part, what: impl ToString) {
        found(&mut self.summary, self.tell, part, what.to_string(), false);
    }

    /// Every record and every entry. The last entry, where the log can be read.
    fn log(&mut self) -> Result<Option<LogIndex>, FsError> {
        let progress = &mut *self.progress;
        let mut told = |done, total| progress("reading the log", done, Some(total), "bytes");
        let checked =
            Log::check(&**self.disk, &self.dir.join(open::LOG), self.label.store, &mut told);
        let contents = match checked {
            Ok(contents) => contents,
            Err(error @ FsError::Damaged(_)) => {
                self.fault(Part::Log, error);
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
                            self.fault(Part::Log, error);
                        }
                    }
                }
                Err(error @ FsError::Damaged(_)) => {
                    self.fault(Part::Log, error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(last))
    }

    /// Every file of the table, every rule of its rows, and the blocks that they name.
    fn table(&mut self, last: Option<LogIndex>, repair: bool) -> Result<(), FsError> {
        let dir = self.dir.join(open::TABLE);
        let table = match RocksTable::open(&dir, &self.options.table) {
            Ok(table) => Arc::new(table),
            Err(error @ FsError::Damaged(_)) => {
                self.fault(Part::Table, error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let progress = &mut *self.progress;
        let damage = table.verify_checksums(&mut |family, bytes| {
            progress(&format!("reading {family:?}"), bytes, None, "bytes");
        })?;
        let readable = damage.is_empty();
        for what in damage {
            self.fault(Part::Table, what);
        }
        match (Applied::read(&*table), last) {
            (Ok(applied), Some(last)) if applied.index > last => self.fault(
                Part::Log,
                format!(
                    "the table is at entry {}, but the log ends at {}: its newest part is missing",
                    applied.index.0, last.0
                ),
            ),
            (Err(error), _) => self.fault(Part::Table, error),
            _ => {}
        }
        if !readable {
            // Rules would only repeat what is missing, row by row.
            return Ok(());
        }
        self.rules(&table)?;
        self.blocks(&table, repair)
    }

    fn rules(&mut self, table: &Arc<RocksTable>) -> Result<(), FsError> {
        let Run { summary, progress, tell, .. } = self;
        let mut counted = [0; Family::ALL.len()];
        let checked = series::check::check(
            &**table,
            GROUPS,
            &mut |family, rows| {
                counted[family as usize] = rows;
                progress(&format!("checking {family:?}"), rows, None, "rows");
            },
            &mut |fault| found(summary, *tell, Part::History, fault.to_string(), false),
        );
        summary.rows = counted.iter().sum();
        let checked = checked.and_then(|()| {
            check::check(
                &**table,
                &mut |what, rows| progress(&format!("checking {what}"), rows, None, "rows"),
                &mut |fault| found(summary, *tell, Part::Tree, fault.to_string(), false),
            )
        });
        match checked {
            Err(error @ FsError::Damaged(_)) => {
                self.fault(Part::Table, error);
                Ok(())
            }
            other => other,
        }
    }

    /// Reads every block, and holds what the rows name against what the segments hold.
    fn blocks(&mut self, table: &Arc<RocksTable>, repair: bool) -> Result<(), FsError> {
        let access = if repair { Access::ReadWrite } else { Access::Read };
        let (blocks, faults) = BlockStore::open(
            self.disk.clone(),
            &self.dir.join(open::BLOCKS),
            self.label.store,
            table.clone(),
            self.options.blocks.clone(),
            access,
        )?;
        for fault in faults {
            self.fault(Part::Blocks, fault);
        }
        let segments = blocks.segments();
        let total = segments.iter().map(|(_, bytes)| bytes).sum();
        let (mut done, mut damaged) = (0, HashSet::new());
        for (segment, bytes) in segments {
            let Run { summary, tell, .. } = self;
            blocks.scrub(segment, &mut |block, fault| {
                damaged.extend(block);
                found(summary, *tell, Part::Blocks, fault.to_string(), false);
            })?;
            done += bytes;
            (self.progress)("reading blocks", done, Some(total), "bytes");
        }
        let mut held: HashSet<BlockId> = HashSet::new();
        blocks.each_named(|block| {
            held.insert(block);
            Ok(())
        })?;
        self.summary.blocks = held.len() as u64;
        let mut missing = Vec::new();
        check::segment_blocks(&**table, &mut |block| {
            if !held.remove(&block) {
                missing.push(block);
            }
        })?;
        for block in missing {
            self.fault(Part::Blocks, format!("block {block} is named, but no segment holds it"));
            damaged.insert(block);
        }
        if !damaged.is_empty() {
            self.summary.owners = check::owners(&**table, &damaged)?;
        }
        self.leaked(table, &blocks, held, repair)
    }

    /// Blocks that the segments hold for nobody: space, not data, is lost. They are given back.
    fn leaked(
        &mut self,
        table: &Arc<RocksTable>,
        blocks: &BlockStore,
        held: HashSet<BlockId>,
        repair: bool,
    ) -> Result<(), FsError> {
        if held.is_empty() {
            return Ok(());
        }
        let mut held: Vec<_> = held.into_iter().collect();
        held.sort_unstable();
        if repair {
            let mut changes = Changes::default();
            blocks.freed(&held, &mut changes)?;
            table.write(&changes)?;
            blocks.written();
            table.flush()?;
        }
        for block in held {
            let what = format!("block {block} takes space, but nothing names it");
            self.summary.repairable += 1;
            found(&mut self.summary, self.tell, Part::Blocks, what, repair);
        }
        Ok(())
    }
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
