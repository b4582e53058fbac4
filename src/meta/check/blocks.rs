//! Blocks: their lives recounted, and that their bytes are there.

use crate::meta::check::Check;
use crate::meta::check::Fault;
use crate::meta::check::bits::Bits;
use crate::meta::extents::Extents;
use crate::meta::extents::Place;
use crate::meta::key;
use crate::meta::key::StateKey;
use crate::meta::record::Lives;
use crate::meta::record::Record;
use crate::meta::repair::Remedy;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Read;
use crate::series::Readable;
use crate::series::Series;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::frame;
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Lives counted so far.
#[derive(Default)]
struct Tally {
    payload: Bits,
    segment: Bits,
    /// How many, where more than one.
    more: HashMap<BlockId, u64>,
}

impl Tally {
    fn add(&mut self, block: BlockId, place: Place) {
        let once = match place {
            Place::Payload => &mut self.payload,
            Place::Segment => &mut self.segment,
        };
        if !once.insert(block.session.0, block.number) {
            *self.more.entry(block).or_insert(1) += 1;
        }
    }
}

/// Tells each block of a segment that some row names, present or past, once. The data role must hold them all.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn segment_blocks(rows: &dyn Rows, visit: &mut dyn FnMut(BlockId)) -> Result<(), FsError> {
    let series = Series::new(rows, key::GROUPS, Readable::default());
    let tally = count(&series, &mut |fault| Err(FsError::Damaged(fault.to_string())), &mut || {})?;
    for (session, number) in tally.segment.iter() {
        visit(BlockId { session: SessionId(session), number });
    }
    Ok(())
}

/// Tells each block that travelled inside an op and that some row names, present or past, once.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn payload_blocks(rows: &dyn Rows, visit: &mut dyn FnMut(BlockId)) -> Result<(), FsError> {
    let series = Series::new(rows, key::GROUPS, Readable::default());
    let tally = count(&series, &mut |fault| Err(FsError::Damaged(fault.to_string())), &mut || {})?;
    for (session, number) in tally.payload.iter() {
        visit(BlockId { session: SessionId(session), number });
    }
    Ok(())
}

/// Counts the lives of all blocks: the runs of adjacent versions of a row that name them.
fn count(
    series: &Series<'_>,
    fault: &mut dyn FnMut(Fault) -> Result<(), FsError>,
    step: &mut dyn FnMut(),
) -> Result<Tally, FsError> {
    let mut tally = Tally::default();
    let mut failed = None;
    series.keys(&key::all_extents(), &mut |key| {
        step();
        match count_row(series, key, &mut tally) {
            Err(FsError::Damaged(what)) => {
                let told =
                    fault(Fault { family: Family::History, key: key.to_vec(), what, remedy: None });
                failed = told.err();
            }
            other => failed = other.err(),
        }
        if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failed.map_or(Ok(tally), Err)
}

fn count_row(series: &Series<'_>, key: &[u8], tally: &mut Tally) -> Result<(), FsError> {
    let mut newer: Vec<(BlockId, Place)> = Vec::new();
    let mut fault = None;
    series.versions(key, Stamp::ZERO, Stamp::MAX, &mut |version| {
        let extents = match Extents::from_row(key, &version.value) {
            Ok(extents) => extents,
            Err(error) => {
                fault = Some(error);
                return ControlFlow::Break(());
            }
        };
        let mut blocks: Vec<_> = extents.blocks().collect();
        blocks.sort_unstable();
        blocks.dedup();
        for (block, place) in &blocks {
            if newer.binary_search(&(*block, *place)).is_err() {
                tally.add(*block, *place);
            }
        }
        newer = blocks;
        ControlFlow::Continue(())
    })?;
    fault.map_or(Ok(()), Err)
}

impl Check<'_> {
    pub(super) fn blocks(&mut self) -> Result<(), FsError> {
        self.begin("lives of blocks");
        let mut seen = 0;
        let mut faults = Vec::new();
        let tally = count(
            &self.series,
            &mut |fault| {
                faults.push(fault);
                Ok(())
            },
            &mut || seen += 1,
        )?;
        (self.progress)("lives of blocks", seen);
        // Rows that cannot be read were told where extents were looked at.
        self.uncounted = !faults.is_empty();
        self.counts(&tally)?;
        self.payload(&tally)
    }

    fn counts(&mut self, tally: &Tally) -> Result<(), FsError> {
        let stored = self.state_rows(&StateKey::lives())?;
        let mut found = 0;
        for (key, row) in stored {
            let Some(StateKey::Lives { block }) = StateKey::decode(&key) else { continue };
            let lives = Lives::from_row(&key, &row);
            let Some(Lives(lives)) = self.read(Family::State, &key, lives)? else { continue };
            match tally.more.get(&block) {
                Some(counted) if *counted == lives => found += 1,
                counted => {
                    found += usize::from(counted.is_some());
                    let remedy = match counted {
                        Some(counted) => Remedy::Value(Lives(*counted).to_row()),
                        // One, or none, is not counted in a row.
                        None => Remedy::Drop,
                    };
                    let counted = counted.copied().unwrap_or(1);
                    let what = format!("block {block} has {counted} lives, counted as {lives}");
                    self.remedied(Family::State, &key, what, remedy);
                }
            }
        }
        if found < tally.more.len() {
            for (block, lives) in &tally.more {
                let key = StateKey::Lives { block: *block }.encode();
                if self.rows.get(Family::State, &key)?.is_none() {
                    let what = format!("block {block} has {lives} lives and no count");
                    let remedy = Remedy::Value(Lives(*lives).to_row());
                    self.remedied(Family::State, &key, what, remedy);
                }
            }
        }
        Ok(())
    }

    fn payload(&mut self, tally: &Tally) -> Result<(), FsError> {
        self.begin("payload");
        let mut stored = Bits::default();
        let all = KeyRange::prefix(&[]);
        let mut faults = Vec::new();
        let mut seen = 0;
        let uncounted = self.uncounted;
        let progress = &mut self.progress;
        self.rows.scan(Family::Payload, &all, Direction::Forward, &mut |key, row| {
            seen += 1;
            if seen % 4096 == 0 {
                progress("payload", seen);
            }
            let mut fault = |what: String, remedy| {
                faults.push(Fault { family: Family::Payload, key: key.to_vec(), what, remedy });
            };
            let Some(block) = BlockId::from_bytes(key) else {
                fault("its key is no block".to_owned(), None);
                return ControlFlow::Continue(());
            };
            stored.insert(block.session.0, block.number);
            if !tally.payload.contains(block.session.0, block.number) {
                let what = format!("no version of a file names block {block}");
                fault(what, Some(Remedy::Drop).filter(|_| !uncounted));
            }
            if let Err(error) = frame::verify(row) {
                fault(format!("block {block}: {error}"), None);
            }
            ControlFlow::Continue(())
        })?;
        for (session, number) in tally.payload.iter() {
            if !stored.contains(session, number) {
                let block = BlockId { session: SessionId(session), number };
                let what = format!("block {block} is named and not there");
                faults.push(Fault {
                    family: Family::Payload,
                    key: block.to_bytes().to_vec(),
                    what,
                    remedy: None,
                });
            }
        }
        for fault in faults {
            (self.faults)(fault);
        }
        Ok(())
    }

    /// Rows of state in a range, which are few.
    pub(super) fn state_rows(
        &mut self,
        range: &KeyRange,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, FsError> {
        let mut rows = Vec::new();
        self.rows.scan(Family::State, range, Direction::Forward, &mut |key, row| {
            rows.push((key.to_vec(), Bytes::copy_from_slice(row)));
            ControlFlow::Continue(())
        })?;
        Ok(rows)
    }
}
