//! Repairing a store that nobody uses. `docs/decisions/0009-repairing-one-copy.md` has what is repaired and what is not.
//!
//! First the log, without which the store does not open; then the store is opened and closed as a mount does, which replays
//! the log and finishes what a power cut interrupted; then row by row what the check has a remedy for, until it finds nothing
//! that can be helped. Each write of the
//! table is whole by itself, and leaves fewer faults: whoever is interrupted begins again. Not here: finding faults.

use crate::meta::check;
use crate::meta::repair;
use crate::series;
use crate::series::Origin;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Table;
use crate::store::block;
use crate::store::log::Log;
use crate::store::log::Salvage;
use crate::store::table::RocksTable;
use crate::tsdb_log::entry::Members;
use crate::tsdb_server::cluster::disk::Identity;
use crate::tsdb_server::data::adopt;
use crate::tsdb_server::node::Fresh;
use crate::tsdb_server::node::Node;
use crate::tsdb_server::offline::Finding;
use crate::tsdb_server::offline::Part;
use crate::tsdb_server::offline::Progress;
use crate::tsdb_server::offline::ROUNDS_MAX;
use crate::tsdb_server::offline::Remedy;
use crate::tsdb_server::offline::State;
use crate::tsdb_server::offline::Store;
use crate::tsdb_server::offline::Summary;
use crate::tsdb_server::offline::Tell;
use crate::tsdb_server::offline::ends_before;
use crate::tsdb_server::open;
use crate::tsdb_server::open::Options;
use crate::tsdb_server::replica::GROUPS;
use crate::tsdb_server::replica::Progress as Applied;
use crate::tsdb_server::replica::received;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::SessionId;
use crate::types::Stamp;
use std::collections::HashSet;

/// Faults put right with one write: some rows each.
const FAULTS_PER_WRITE: usize = 200;

/// A fault, and what is to be done about it.
type Met = (Part, String, Remedy);

/// Checks and repairs.
pub(super) fn check(
    store: &Store<'_>,
    progress: Progress<'_>,
    tell: Tell<'_>,
) -> Result<Summary, FsError> {
    let holder = store.hold()?;
    let (mut left, mut read) = store.met(progress)?;
    if left.is_empty() {
        return Ok(read);
    }
    let mut summary = Summary::default();
    let mut told = |part, what, state| {
        summary.count(state);
        tell(Finding { part, what, state });
    };
    if let Some(what) = store.mend_log(progress)? {
        told(Part::Log, what, State::Repaired);
        left.retain(|met| !matches!(met.2, Remedy::Log));
    }
    drop(holder);
    let opens = store.settle();
    let holder = store.hold()?;
    let mut repaired: Vec<(Part, String)> = Vec::new();
    for round in 0..ROUNDS_MAX {
        let (now, again) = store.met(progress)?;
        let still: HashSet<_> = now.iter().map(|(part, what, _)| (*part, what.clone())).collect();
        let before = std::mem::replace(&mut left, now).into_iter();
        let before = before.map(|(part, what, _)| (part, what));
        repaired.extend(before.filter(|fault| !still.contains(fault)));
        read = again;
        // Once for the index: it then says all that can be said.
        let remedied = |remedy: &Remedy| match remedy {
            Remedy::None | Remedy::Log => false,
            Remedy::Rule(_) | Remedy::Listed(_) => true,
            Remedy::Index => round == 0,
        };
        left.iter_mut().filter(|met| !remedied(&met.2)).for_each(|met| met.2 = Remedy::None);
        let any = left.iter().any(|met| remedied(&met.2));
        if !any || round + 1 == ROUNDS_MAX || !store.mend(&left)? {
            break;
        }
    }
    drop(holder);
    if let Err(error) = opens {
        let what = format!("it cannot be opened as it is: {error}");
        let state = if store.settle().is_ok() { State::Repaired } else { State::Left };
        told(Part::Table, what, state);
    }
    for (part, what) in repaired {
        told(part, what, State::Repaired);
    }
    for (part, what, _) in left {
        told(part, what, State::Left);
    }
    let Summary { faults, repaired, repairable, .. } = summary;
    Ok(Summary { faults, repaired, repairable, ..read })
}

impl Store<'_> {
    /// Everything that a pass meets.
    fn met(&self, progress: Progress<'_>) -> Result<(Vec<Met>, Summary), FsError> {
        let mut met = Vec::new();
        let read = self.pass(progress, &mut |part, what, remedy| met.push((part, what, remedy)))?;
        Ok((met, read))
    }

    /// Opens and closes the store, as a mount does: everything that it can settle by itself is settled then.
    fn settle(&self) -> Result<(), FsError> {
        let options = Options { create: false, ..self.options.clone() };
        let (disk, clock) = (self.disk.clone(), self.clock.clone());
        Node::open(self.dir, disk, clock, &options, &Fresh::default())?.close()
    }

    /// Where the log cannot be taken up: makes one of what can be read. What was wrong and what is lost, if anything was.
    fn mend_log(&self, progress: Progress<'_>) -> Result<Option<String>, FsError> {
        let (disk, dir) = (&**self.disk, self.dir.join(open::LOG));
        let table = match RocksTable::open(&self.dir.join(open::TABLE), &self.options.table) {
            Ok(table) => table,
            // Told where the table is checked. What the log has to have is not known without it.
            Err(FsError::Damaged(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(Applied { index: applied, .. }) = Applied::read(&table) else { return Ok(None) };
        let node = Identity::read(disk, self.dir)?.and_then(|identity| identity.node);
        let node = node.unwrap_or(open::FIRST);
        let members = received(&table)?.map_or(Members::alone(node), |(_, members)| members);
        drop(table);
        let mut told = |done, total| progress("reading the log", done, Some(total), "bytes");
        let what = match Log::check(disk, &dir, self.label.store, &mut told) {
            Ok(contents) if contents.last >= applied => return Ok(None),
            Ok(contents) => ends_before(applied, contents.last),
            Err(FsError::Damaged(what)) => what,
            Err(error) => return Err(error),
        };
        if !members.decides_alone(node) {
            // What is missing here others have acknowledged on its word: it may not vote with less.
            return Err(FsError::Refused(format!(
                "{what}; the log of a node among others is not mended: empty the directory, join as a new node, \
                 and have it replace node {}",
                node.0
            )));
        }
        let alone = Members::alone(node);
        let salvage = Log::salvage(disk, &dir, self.label.store, applied, alone)?;
        Log::replace(disk, &dir, self.label.store, &salvage)?;
        let what = format!(
            "{what}; {}; its former files are kept as {}/*.damaged",
            lost(&salvage, applied),
            dir.display()
        );
        Ok(Some(what))
    }

    /// Carries out the remedies; false where nothing could be done.
    fn mend(&self, faults: &[Met]) -> Result<bool, FsError> {
        let table = RocksTable::open(&self.dir.join(open::TABLE), &self.options.table)?;
        let mut listed = Changes::default();
        let (mut rules, mut index) = (Vec::new(), false);
        for (_, _, remedy) in faults {
            match remedy {
                Remedy::None | Remedy::Log => {}
                Remedy::Rule(fault) => rules.push(fault.clone()),
                Remedy::Listed((key, row)) => {
                    listed.rows.push((Family::History, key.clone(), row.clone()));
                }
                Remedy::Index => index = true,
            }
        }
        let mut any = !listed.rows.is_empty();
        table.write(&listed)?;
        for faults in rules.chunks(FAULTS_PER_WRITE) {
            any |= self.mend_rules(&table, faults)?;
        }
        if index {
            let mut named = HashSet::new();
            check::segment_blocks(&table, &mut |block| {
                named.insert(block);
            })?;
            let blocks = self.dir.join(open::BLOCKS);
            let node = Identity::read(&**self.disk, self.dir)?.and_then(|identity| identity.node);
            let keeping = adopt::keeping(node.unwrap_or(open::FIRST), &table)?;
            table.write(&block::rebuild(&**self.disk, &blocks, &table, &named, &keeping)?)?;
            any = true;
        }
        table.flush()?;
        Ok(any)
    }

    fn mend_rules(&self, table: &RocksTable, faults: &[check::Fault]) -> Result<bool, FsError> {
        let applied = Applied::read(table)?;
        let stamp = Stamp::next(applied.stamp, self.clock.wall());
        let origin = Origin { stamp, session: SessionId(0), seq: BatchSeq(0) };
        let mut batch = series::Batch::new(table, GROUPS, origin);
        let done = repair::repair(&mut batch, faults, self.clock.time())?;
        let finished = batch.finish()?;
        let mut changes = finished.changes;
        Applied { stamp: finished.last, ..applied }.put(&mut changes);
        table.write(&changes)?;
        Ok(done > 0)
    }
}

/// What a log made of what was salvaged lacks, as a part of a sentence.
fn lost(salvage: &Salvage, applied: LogIndex) -> String {
    match salvage.lost() {
        _ if salvage.is_blank() => format!(
            "nothing of it can be read: what was changed after entry {}, which the table has, is lost",
            applied.0
        ),
        Some((first, last)) => format!(
            "what was changed by its entries {} to {} is lost, everything before is there",
            first.0, last.0
        ),
        None => "nothing is lost: the table, or what can be read, has all of it".to_owned(),
    }
}
