//! Opening a block store: what rows say, and what was written since the table was last flushed.
//!
//! A scan cannot tell torn bytes from rotten ones, so it does not judge: a record that does not verify is passed over
//! and stays where it is. What a row or the log names and is not there is reported by its name.

use crate::series::table::Family;
use crate::series::table::Rows;
use crate::series::table::Table;
use crate::store::block::BlockStore;
use crate::store::block::Options;
use crate::store::block::Pending;
use crate::store::block::Segment;
use crate::store::block::State;
use crate::store::block::Turns;
use crate::store::block::elsewhere::Placing;
use crate::store::block::index;
use crate::store::block::index::Kind;
use crate::store::block::index::SegmentRow;
use crate::store::block::reclaim::Move;
use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::disk::File;
use crate::store::segment;
use crate::store::segment::Found;
use crate::store::segment::Origin;
use crate::store::segment::Record;
use crate::store::segment::SegmentId;
use crate::store::segment::UNIT_BYTES;
use crate::store::segment::Walk;
use crate::types::FsError;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::IoSlice;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What a scan of a segment met from where its row ends.
struct Scan {
    /// What verifies.
    records: Vec<Record>,
    /// Behind the last unit that holds anything.
    end: u32,
}

/// Where things are while a store is opened.
struct Opening<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    store: [u8; 16],
    rows: &'a dyn Rows,
    access: Access,
    state: State,
    faults: Vec<FsError>,
}

impl BlockStore {
    /// Opens the segments in `dir`, making it where it is not there, with the index in `table`. Also says what is
    /// damaged; the rest can be used. `store` is the store's identity. With [`Access::Read`] nothing is written, not
    /// even what opening would tidy up, and every change fails.
    ///
    /// # Errors
    /// `Damaged` where the index cannot be read; `NoSpace`, `Io`.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        store: [u8; 16],
        table: Arc<dyn Table>,
        options: Options,
        access: Access,
    ) -> Result<(BlockStore, Vec<FsError>), FsError> {
        if access == Access::ReadWrite {
            disk.make_dir(dir)?;
        }
        let (state, faults) = {
            let (state, faults) = (State::default(), Vec::new());
            let mut opening =
                Opening { disk: &*disk, dir, store, rows: &*table, access, state, faults };
            opening.run(&options)?;
            (opening.state, opening.faults)
        };
        let files = quick_cache::sync::Cache::new(options.open_files_max);
        let dir = dir.to_path_buf();
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let turns = Turns::default();
        let shared = AtomicBool::new(false);
        let store =
            BlockStore { disk, dir, store, table, options, shared, state, turns, changed, files };
        Ok((store, faults))
    }
}

impl Opening<'_> {
    fn run(&mut self, options: &Options) -> Result<(), FsError> {
        let rows: BTreeMap<_, _> = index::segments(self.rows)?.into_iter().collect();
        let names =
            if self.disk.exists(self.dir)? { self.disk.list(self.dir)? } else { Vec::new() };
        let files: BTreeSet<_> =
            names.iter().filter_map(|name| SegmentId::from_name(name)).collect();
        self.state.placing = Placing::of(index::placed(self.rows)?);
        let newest = rows.keys().chain(&files).max();
        self.state.next_segment = newest.map_or(1, |id| id.0 + 1);
        index::each_block(self.rows, Kind::Pending, |block, place| {
            self.state.pending.insert(block, Pending { place, rowed: true });
            Ok(())
        })?;
        for (id, row) in &rows {
            self.row_without_file(*id, row, files.contains(id))?;
        }
        for id in files {
            if rows.get(&id).is_none_or(|row| !row.retired) {
                self.segment(id, rows.get(&id))?;
            }
        }
        self.listed()?;
        if self.access == Access::Read {
            let error = FsError::Io("the store was opened for reading only".to_string());
            self.state.failed = Some(error);
            return Ok(());
        }
        // What was found is used from now on as if it had just been synced.
        self.disk.sync_dir(self.dir)?;
        self.choose_appended(options);
        Ok(())
    }

    /// What is listed for repair; of that, what was written after all before the store was last closed.
    fn listed(&mut self) -> Result<(), FsError> {
        let State { listed, pending, arrived, .. } = &mut self.state;
        index::each_key(self.rows, Kind::Listed, None, |block| {
            *listed += 1;
            if pending.contains_key(&block) {
                arrived.insert(block);
            }
            ControlFlow::Continue(())
        })
    }

    /// Finishes the removal of a retired segment, and reports one that is missing.
    fn row_without_file(
        &mut self,
        id: SegmentId,
        row: &SegmentRow,
        exists: bool,
    ) -> Result<(), FsError> {
        if row.retired {
            if exists && self.access == Access::ReadWrite {
                self.disk.remove(&id.path(self.dir))?;
            }
            self.state.retiring.removed.push(id);
        } else if !exists {
            let path = id.path(self.dir);
            let what = format!("the segment {} is missing", path.display());
            self.faults.push(FsError::Damaged(what));
            let SegmentRow { rowed, live, .. } = *row;
            // It counts what is lost, and is never rewritten.
            let gone = Segment {
                end: rowed,
                synced: rowed,
                rowed,
                live,
                damaged: true,
                ..Segment::default()
            };
            self.state.segments.insert(id, gone);
        }
        Ok(())
    }

    /// Takes in a segment's file, from where its row ends.
    fn segment(&mut self, id: SegmentId, row: Option<&SegmentRow>) -> Result<(), FsError> {
        let path = id.path(self.dir);
        let file = self.disk.open(&path, self.access)?;
        let rowed = row.map_or(0, |row| row.rowed);
        let len = file.len()?;
        let scan = self.scan(&*file, id, rowed.max(segment::FIRST_UNIT))?;
        let header = segment::check_segment_header(&*file, id, &self.store);
        let mut damaged = false;
        match header {
            Ok(()) => {}
            // A power cut came before the first sync, so nothing in it was promised; but what verifies is kept.
            Err(_) if row.is_none() && self.access == Access::ReadWrite => {
                if !scan.records.iter().any(|record| record.origin == Origin::Put) {
                    return self.disk.remove(&path);
                }
                let header = segment::segment_header(id, &self.store);
                file.write_at(0, &[IoSlice::new(&header)])?;
            }
            Err(_) if row.is_none() => {}
            Err(error) => {
                self.faults.push(error);
                damaged = true;
            }
        }
        if len < u64::from(rowed) * UNIT_BYTES {
            let (path, wanted) = (path.display(), u64::from(rowed) * UNIT_BYTES);
            let what = format!("the segment {path} is cut: {len} bytes, not {wanted}");
            self.faults.push(FsError::Damaged(what));
            damaged = true;
        }
        let end = scan.end.max(rowed);
        if self.access == Access::ReadWrite {
            // Shorter where the last record ends inside its last unit and the length taken ahead was lost.
            if len != u64::from(end) * UNIT_BYTES && !damaged {
                file.set_len(u64::from(end) * UNIT_BYTES)?;
            }
            if end > rowed {
                // Read back does not mean durable: the process may have died without the machine.
                file.sync_data()?;
            }
        }
        let allocated = u32::try_from(len.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(end);
        let mut live = row.map_or(0, |row| row.live);
        for record in scan.records {
            live += self.found(record)?;
        }
        let file = Some(file);
        let synced = end;
        let segment =
            Segment { file, end, allocated, synced, rowed, live, damaged, ..Segment::default() };
        self.state.segments.insert(id, segment);
        if end > rowed {
            self.state.rowed_behind.insert(id);
        }
        self.state.perhaps_dead.insert(id);
        Ok(())
    }

    fn scan(&self, file: &dyn File, id: SegmentId, from: u32) -> Result<Scan, FsError> {
        let mut walk = Walk::new(file, id, from)?;
        let mut scan = Scan { records: Vec::new(), end: from };
        while let Some((unit, found)) = walk.step()? {
            match found {
                Found::Empty => {}
                Found::Junk => scan.end = unit + 1,
                Found::Record(record) => {
                    // As far as its header says, also where the file ends before: a later walk steps over all of it.
                    scan.end = walk.unit;
                    match segment::read_frame(file, record.place, record.block) {
                        Ok(_) => scan.records.push(record),
                        Err(FsError::Damaged(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(scan)
    }

    /// A put that no row says anything about is pending. One whose row leads elsewhere is a second copy: what replaced a
    /// damaged one, if that is listed. One whose row leads here is live, though the row of its segment was lost: its units are
    /// returned.
    fn found(&mut self, record: Record) -> Result<u32, FsError> {
        let Record { block, place, origin, .. } = record;
        let rows = self.rows;
        let row = |kind| rows.get(Family::Local, &index::block_key(kind, block));
        let rowed = match self.state.pending.get(&block) {
            Some(pending) => pending.rowed.then_some(pending.place),
            None => match row(Kind::Named)? {
                Some(named) => {
                    let from = index::decode_place(&named, block).ok();
                    if let Some(from) = from.filter(|from| origin == Origin::Put && *from != place)
                        && row(Kind::Listed)?.is_some()
                    {
                        self.state.moves.push(Move { block, from, to: place });
                    }
                    from
                }
                None if origin == Origin::Put => {
                    self.state.pending.insert(block, Pending { place, rowed: false });
                    self.state.unrowed.push(block);
                    if row(Kind::Elsewhere)?.is_some() {
                        self.state.placing.found.insert(block);
                    }
                    None
                }
                None => None,
            },
        };
        Ok(if rowed == Some(place) { place.units() } else { 0 })
    }

    /// The two newest segments with room go on being filled; the others are closed.
    fn choose_appended(&mut self, options: &Options) {
        let limit = u32::try_from(options.segment_bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        let State { segments, puts_to, copies_to, .. } = &mut self.state;
        for (id, segment) in segments.iter_mut().rev() {
            let room =
                !segment.damaged && segment.end.saturating_add(segment::RECORD_UNITS_MAX) <= limit;
            if room && puts_to.is_none() {
                *puts_to = Some(*id);
            } else if room && copies_to.is_none() {
                *copies_to = Some(*id);
            } else {
                segment.file = None;
            }
        }
    }
}
