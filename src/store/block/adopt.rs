//! Another node's table made this node's own: what it says of where blocks lie is true of that node's segments, not of
//! ours.
//!
//! Every block that is named there goes on the list for repair; those that lie whole in our segments come off it at once,
//! so nothing is fetched twice. What clients had made durable here and the log has not named yet stays, for they rely on it.
//! Interrupted anywhere, it is begun again. For a store that nobody uses. Not here: how the table came.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Table;
use crate::store::block::BlockStore;
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
use crate::types::NodeId;
use crate::types::placement::Placed;
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
}

/// Makes `table`, which came from another node, the table of the node whose segments are in `dir`. Of the rows of
/// `Family::Local`, `keep` stay as they are. `old` is the node's own last table, if it can be read: it knows which blocks are
/// durable and not yet named; without it, all that were ever put and that `table` does not name are taken for such. By the
/// placement in `table`, node `here` is to have what `keeps` says.
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
    (here, placed): (NodeId, &Placed),
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
        disown(table, keep, (here, placed))?;
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
    if placed.number() > 0 {
        index::put_placed(placed.number(), &mut changes);
    }
    table.write(&changes)?;
    table.flush()?;
    count(table)
}

/// Whether the row is about a block of this kind.
fn block_of(kind: Kind, key: &[u8]) -> Option<BlockId> {
    let (first, block) = key.split_first()?;
    (*first == kind as u8).then(|| BlockId::from_bytes(block)).flatten()
}

/// Lists all named blocks that are to be here, and drops what else is the other node's own.
fn disown(
    table: &dyn Table,
    keep: &[&[u8]],
    (here, placed): (NodeId, &Placed),
) -> Result<(), FsError> {
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
            let named = [Kind::Named, Kind::Listed, Kind::Elsewhere]
                .into_iter()
                .find_map(|kind| block_of(kind, key));
            if keep.contains(&key) {
                return ControlFlow::Continue(());
            }
            // First, for what is put may be the same row.
            changes.delete(Family::Local, key);
            if let Some(block) = named {
                let (kind, row) = match placed.keeps(here, block) {
                    true => (Kind::Listed, index::listed_row()),
                    false => (Kind::Elsewhere, index::elsewhere_row()),
                };
                changes.put(Family::Local, block_key(kind, block), row);
            }
            ControlFlow::Continue(())
        })?;
        table.write(&changes)?;
        let Some(last) = last.filter(|_| more) else { return Ok(()) };
        range.start = [&last[..], &[0]].concat();
    }
}

fn count(table: &dyn Table) -> Result<Adopted, FsError> {
    let mut adopted = Adopted { here: 0, listed: 0 };
    index::each_block(table, Kind::Named, |_, _| {
        adopted.here += 1;
        Ok(())
    })?;
    index::each_listed(table, None, |_| {
        adopted.listed += 1;
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
    /// Takes what lies whole in a segment off the list: all rows of it in one write.
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
        // One that need not be here is one more copy: it is let go of when all others are known to be there.
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
