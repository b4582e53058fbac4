//! Another node's table made this node's own: what it says of where blocks lie is true of that node's segments, not of
//! ours.
//!
//! Every block that is named there goes on the list for repair, or is elsewhere if it need not be here; those that lie whole in our
//! segments count at once, so nothing is fetched twice and no copy is given up. What clients had made durable here and the log has not named yet stays, for they rely on it.
//! Interrupted anywhere, it is begun again. For a store that nobody uses. Not here: how the table came.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Table;
use crate::store::block::BlockStore;
use crate::store::block::Keeping;
use crate::store::block::Options;
use crate::store::block::index;
use crate::store::block::index::Kind;
use crate::store::block::index::SegmentRow;
use crate::store::block::index::block_key;
use crate::store::block::index::segment_key;
use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::segment;
use crate::store::segment::Found;
use crate::store::segment::Origin;
use crate::store::segment::Place;
use crate::store::segment::SegmentId;
use crate::store::segment::UNIT_BYTES;
use crate::store::segment::Walk;
use crate::types::BlockId;
use crate::types::FsError;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::IoSlice;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// The row of `Family::Local` that is there while a table is made our own: version, and from when on the rows of named
/// blocks are ours.
const ADOPTING_KEY: &[u8] = b"adopting";
const OURS: [u8; 2] = [1, 2];
/// Rows of one write.
const ROWS_MAX: usize = 10_000;

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adopted {
    /// Named blocks that lie here.
    pub here: u64,
    /// Named blocks that are to be fetched.
    pub listed: u64,
    /// Named blocks that only other nodes keep.
    pub elsewhere: u64,
}

/// Makes `table`, which came from another node, the table of the node whose segments are in `dir`. Of the rows of
/// `Family::Local`, `keep` stay as they are. `old` is the node's own last table, if it can be read: it knows which blocks are
/// durable and not yet named; without it, all that were ever put and that `table` does not name are taken for such. `keeping` is of the
/// placement in `table`.
///
/// # Errors
/// `Damaged` where a table cannot be read; `NoSpace`, `Io`. Begin again then.
pub fn adopt(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    store: [u8; 16],
    table: &dyn Table,
    old: Option<Arc<dyn Table>>,
    keep: &[&[u8]],
    keeping: &Keeping,
) -> Result<Adopted, FsError> {
    disk.make_dir(dir)?;
    let pending = match old {
        None => None,
        Some(old) => {
            let (disk, options) = (disk.clone(), Options::default());
            let (store, _) = BlockStore::open(disk, dir, store, old, options, Access::Read)?;
            let state = store.state.lock();
            Some(state.pending.iter().map(|(block, at)| (*block, at.place)).collect())
        }
    };
    let ours = table.get(Family::Local, ADOPTING_KEY)?.is_some_and(|row| *row == OURS);
    if !ours {
        disown(table, keep, keeping)?;
        let mut changes = Changes::default();
        changes.put(Family::Local, ADOPTING_KEY, OURS.to_vec());
        table.write(&changes)?;
    }
    let adoption = Adoption { disk: &**disk, dir, store, table, pending };
    for id in disk.list(dir)?.iter().filter_map(|name| SegmentId::from_name(name)) {
        if table.get(Family::Local, &segment_key(id))?.is_none() {
            adoption.segment(id)?;
        }
    }
    let mut changes = Changes::default();
    changes.delete(Family::Local, ADOPTING_KEY);
    if keeping.number() > 0 {
        index::put_placed(keeping.number(), &mut changes);
    }
    table.write(&changes)?;
    table.flush()?;
    count(table)
}

/// The named block that a row is about, and what the row says of it.
fn named_by(key: &[u8]) -> Option<(Kind, BlockId)> {
    let (first, block) = key.split_first()?;
    let kinds = [Kind::Named, Kind::Listed, Kind::Elsewhere];
    let kind = kinds.into_iter().find(|kind| *kind as u8 == *first)?;
    Some((kind, BlockId::from_bytes(block)?))
}

/// Lists all named blocks that are to be here, and drops what else is the other node's own.
fn disown(table: &dyn Table, keep: &[&[u8]], keeping: &Keeping) -> Result<(), FsError> {
    let mut range = KeyRange { start: Vec::new(), end: Vec::new() };
    loop {
        let mut changes = Changes::default();
        let (mut last, mut more) = (None, false);
        table.scan(Family::Local, &range, Direction::Forward, &mut |key, _| {
            if changes.rows.len() >= ROWS_MAX {
                more = true;
                return ControlFlow::Break(());
            }
            last = Some(key.to_vec());
            if keep.contains(&key) {
                return ControlFlow::Continue(());
            }
            if let Some((kind, block)) = named_by(key) {
                let wanted = if keeping.keeps(block) { Kind::Listed } else { Kind::Elsewhere };
                if kind == wanted {
                    return ControlFlow::Continue(());
                }
                changes.put(Family::Local, block_key(wanted, block), index::listed_row());
            }
            changes.delete(Family::Local, key);
            ControlFlow::Continue(())
        })?;
        table.write(&changes)?;
        let Some(last) = last.filter(|_| more) else { return Ok(()) };
        range.start = [&last[..], &[0]].concat();
    }
}

fn count(table: &dyn Table) -> Result<Adopted, FsError> {
    let mut adopted = Adopted { here: 0, listed: 0, elsewhere: 0 };
    index::each_block(table, Kind::Named, |_, _| {
        adopted.here += 1;
        Ok(())
    })?;
    index::each_key(table, Kind::Listed, None, |_| {
        adopted.listed += 1;
        ControlFlow::Continue(())
    })?;
    index::each_key(table, Kind::Elsewhere, None, |_| {
        adopted.elsewhere += 1;
        ControlFlow::Continue(())
    })?;
    Ok(adopted)
}

struct Adoption<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    store: [u8; 16],
    table: &'a dyn Table,
    /// Durable here and not named, as far as this node's own table knows.
    pending: Option<BTreeMap<BlockId, Place>>,
}

impl Adoption<'_> {
    /// What lies whole in a segment is here, whether it is to be or not: all rows of it in one write.
    fn segment(&self, id: SegmentId) -> Result<(), FsError> {
        let path = id.path(self.dir);
        let file = self.disk.open(&path, Access::ReadWrite)?;
        let mut walk = Walk::new(&*file, id, segment::FIRST_UNIT)?;
        let (mut changes, mut seen) = (Changes::default(), BTreeSet::new());
        let (mut live, mut end) = (0, segment::FIRST_UNIT);
        while let Some((unit, found)) = walk.step()? {
            let record = match found {
                Found::Empty => continue,
                Found::Junk => {
                    end = unit + 1;
                    continue;
                }
                Found::Record(record) => record,
            };
            end = walk.unit;
            let (block, place) = (record.block, record.place);
            let Some(kind) = self.wanted(block, place, record.origin)? else { continue };
            match segment::read_frame(&*file, place, block) {
                Err(FsError::Damaged(_)) => continue,
                read => read?,
            };
            if seen.insert(block) {
                live += place.units();
                changes.put(Family::Local, block_key(kind, block), index::encode_place(place));
                changes.delete(Family::Local, block_key(Kind::Listed, block));
                changes.delete(Family::Local, block_key(Kind::Elsewhere, block));
            }
        }
        if segment::check_segment_header(&*file, id, &self.store).is_err() {
            // Opening removes a segment that never was one; else it is as good as its records.
            if seen.is_empty() {
                return Ok(());
            }
            file.write_at(0, &[IoSlice::new(&segment::segment_header(id, &self.store))])?;
        }
        if file.len()? != u64::from(end) * UNIT_BYTES {
            file.set_len(u64::from(end) * UNIT_BYTES)?;
        }
        // Read back does not mean durable.
        file.sync_data()?;
        self.disk.sync_dir(self.dir)?;
        let row = SegmentRow { rowed: end, live, retired: false };
        changes.put(Family::Local, segment_key(id), row.encode());
        self.table.write(&changes)
    }

    /// Which row a record's block gets, if any.
    fn wanted(
        &self,
        block: BlockId,
        place: Place,
        origin: Origin,
    ) -> Result<Option<Kind>, FsError> {
        let has = |kind| -> Result<bool, FsError> {
            Ok(self.table.get(Family::Local, &block_key(kind, block))?.is_some())
        };
        if has(Kind::Listed)? || has(Kind::Elsewhere)? {
            return Ok(Some(Kind::Named));
        }
        // It lies in a segment before as well.
        if has(Kind::Named)? || has(Kind::Pending)? {
            return Ok(None);
        }
        let pending = match &self.pending {
            Some(pending) => pending.get(&block) == Some(&place),
            None => origin == Origin::Put,
        };
        Ok(pending.then_some(Kind::Pending))
    }
}
