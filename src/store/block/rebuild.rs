//! The index made anew from what lies in the segments, for a store that nobody uses.
//!
//! Who names which block is known from the map, and a record says which block it holds, under a checksum: so every row of the
//! index can be told again. Not here: whether there is a reason to.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::store::block::Keeping;
use crate::store::block::elsewhere;
use crate::store::block::index;
use crate::store::block::index::Kind;
use crate::store::block::index::SegmentRow;
use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::segment;
use crate::store::segment::Found;
use crate::store::segment::Place;
use crate::store::segment::SegmentId;
use crate::store::segment::Walk;
use crate::types::BlockId;
use crate::types::FsError;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

/// The rows that make the index say where the `named` blocks lie, and nothing else. A block is taken from where its row
/// says, if it is there, else from any record that verifies; of those that lie nowhere, the row stays as it is. One that has none
/// and that other nodes may have is elsewhere or to be fetched, as `keeping` says.
///
/// # Errors
/// `Io`; `Damaged` where the table cannot be read.
pub fn rebuild(
    disk: &dyn Disk,
    dir: &Path,
    rows: &dyn Rows,
    named: &HashSet<BlockId>,
    keeping: &Keeping,
) -> Result<Changes, FsError> {
    let mut found: HashMap<BlockId, Place> = HashMap::new();
    let mut segments: BTreeMap<SegmentId, SegmentRow> = BTreeMap::new();
    for id in disk.list(dir)?.iter().filter_map(|name| SegmentId::from_name(name)) {
        let file = disk.open(&id.path(dir), Access::Read)?;
        let mut walk = Walk::new(&*file, id, segment::FIRST_UNIT)?;
        segments.insert(id, SegmentRow { rowed: walk.end, live: 0, retired: false });
        while let Some((_, met)) = walk.step()? {
            let Found::Record(record) = met else { continue };
            if !named.contains(&record.block) {
                continue;
            }
            match segment::read_frame(&*file, record.place, record.block) {
                Ok(_) => {
                    let rowed = place_of(rows, record.block)?;
                    if rowed == Some(record.place) || !found.contains_key(&record.block) {
                        found.insert(record.block, record.place);
                    }
                }
                Err(FsError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let mut changes = Changes::default();
    drop_others(rows, named, &segments, &mut changes)?;
    for block in named {
        // What is damaged where its row says stays known there: reading it says what is wrong.
        let place = match found.get(block) {
            Some(place) => Some(*place),
            None => place_of(rows, *block)?,
        };
        let Some(place) = place else {
            settle_absent(rows, *block, keeping, &mut changes)?;
            continue;
        };
        if let Some(segment) = segments.get_mut(&place.segment) {
            segment.live += place.units();
        }
        let row = index::encode_place(place);
        changes.put(Family::Local, index::block_key(Kind::Named, *block), row);
        if found.contains_key(block) {
            changes.delete(Family::Local, index::block_key(Kind::Listed, *block));
        }
        changes.delete(Family::Local, index::block_key(Kind::Elsewhere, *block));
    }
    for (id, row) in segments {
        changes.put(Family::Local, index::segment_key(id), row.encode());
    }
    Ok(changes)
}

/// Where other nodes keep blocks too, one that lies nowhere here has a row that says so.
fn settle_absent(
    rows: &dyn Rows,
    block: BlockId,
    keeping: &Keeping,
    changes: &mut Changes,
) -> Result<(), FsError> {
    for kind in [Kind::Listed, Kind::Elsewhere] {
        if rows.get(Family::Local, &index::block_key(kind, block))?.is_some() {
            return Ok(());
        }
    }
    if !keeping.keeps(block) {
        elsewhere::put_row(block, changes);
    } else if !keeping.is_everywhere() {
        changes.put(Family::Local, index::block_key(Kind::Listed, block), index::listed_row());
    }
    Ok(())
}

/// A row that cannot be read says nothing.
fn place_of(rows: &dyn Rows, block: BlockId) -> Result<Option<Place>, FsError> {
    let row = rows.get(Family::Local, &index::block_key(Kind::Named, block))?;
    Ok(row.and_then(|row| index::decode_place(&row, block).ok()))
}

/// Rows of blocks that nothing names, of pending ones, which nothing will name any more, and of segments that cannot be
/// read. A segment that is gone keeps its row while that can be read: it is missed.
fn drop_others(
    rows: &dyn Rows,
    named: &HashSet<BlockId>,
    segments: &BTreeMap<SegmentId, SegmentRow>,
    changes: &mut Changes,
) -> Result<(), FsError> {
    for kind in [Kind::Named, Kind::Listed, Kind::Elsewhere, Kind::Pending, Kind::Segment] {
        let range = KeyRange::prefix(&[kind as u8]);
        rows.scan(Family::Local, &range, Direction::Forward, &mut |key, row| {
            let keeps = match (kind, BlockId::from_bytes(&key[1..])) {
                (Kind::Named | Kind::Listed | Kind::Elsewhere, Some(block)) => {
                    named.contains(&block)
                }
                (Kind::Pending, Some(_)) => false,
                (Kind::Segment, _) => {
                    index::segment_of(key).is_none_or(|id| segments.contains_key(&id))
                        || index::decode_segment(row).is_some()
                }
                // The table's own rows may share the first byte, but not the length.
                _ => true,
            };
            if !keeps {
                changes.delete(Family::Local, key);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(())
}
