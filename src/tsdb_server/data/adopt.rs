//! A node takes over the table that it received: for a store that nobody uses, before it is opened.
//!
//! | step | on disk |
//! |---|---|
//! | received | `table.incoming/complete` |
//! | its rows made ours (`store::block::adopt`) | `table.incoming/adopted` |
//! | the old table removed, the new one in its place | `table/adopted` |
//! | done | `table/` |
//!
//! Each step may be cut off and is then done again by [`resume`]. Not here: how the files came (`stream`), and the log, which
//! is to begin where the table is.

use crate::series::table::Rows;
use crate::series::table::Table;
use crate::store::block;
use crate::store::block::Adopted;
use crate::store::block::Keeping;
use crate::store::disk::Disk;
use crate::store::table;
use crate::store::table::RocksTable;
use crate::tsdb_server::data::stream;
use crate::tsdb_server::open::BLOCKS;
use crate::tsdb_server::open::TABLE;
use crate::tsdb_server::replica;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::placement::Placed;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a table is received.
pub const INCOMING: &str = "table.incoming";
pub(super) const ADOPTED: &str = "adopted";
/// The rows of `Family::Local` that are as true here as there: of the table itself, and how far the log is in it.
const KEEP: [&[u8]; 3] = [b"format", b"applied", b"members"];

/// The directory in which the store in `dir` receives a table.
pub fn incoming(dir: &Path) -> PathBuf {
    dir.join(INCOMING)
}

/// Takes over a table that was received completely, or goes on where that was cut off; `None` where there is none, or what
/// is there is not complete. `store` is the store's identity, `here` this node.
///
/// # Errors
/// `Damaged` where the received table cannot be read: remove `table.incoming` and let it be received anew. `NoSpace`, `Io`.
pub fn resume(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    store: [u8; 16],
    here: NodeId,
    options: &table::Options,
) -> Result<Option<Adopted>, FsError> {
    let (incoming, table) = (incoming(dir), dir.join(TABLE));
    let mut adopted = None;
    if disk.exists(&incoming.join(stream::COMPLETE))? {
        adopted = Some(make_ours(disk, dir, store, here, options)?);
        disk.rename(&incoming.join(stream::COMPLETE), &incoming.join(ADOPTED))?;
        disk.sync_dir(&incoming)?;
    }
    if disk.exists(&incoming.join(ADOPTED))? {
        RocksTable::destroy(&table)?;
        disk.rename(&incoming, &table)?;
        disk.sync_dir(dir)?;
    }
    if disk.exists(&table.join(ADOPTED))? {
        disk.remove(&table.join(ADOPTED))?;
        disk.sync_dir(&table)?;
    }
    Ok(adopted)
}

fn make_ours(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    store: [u8; 16],
    here: NodeId,
    options: &table::Options,
) -> Result<Adopted, FsError> {
    let options = table::Options { create: false, ..options.clone() };
    // It is needed for what is durable here and not yet named. A node that never had one has no such blocks.
    let old = match RocksTable::open(&dir.join(TABLE), &options) {
        Ok(old) => Some(Arc::new(old) as Arc<dyn Table>),
        Err(error) => {
            tracing::warn!(%error, "the node's own table cannot be read; all blocks in its segments are kept for now");
            None
        }
    };
    let table = RocksTable::open(&incoming(dir), &options)?;
    let keeping = keeping(here, &table)?;
    let adopted = block::adopt(disk, &dir.join(BLOCKS), store, &table, old, &KEEP, &keeping)?;
    let Adopted { here, listed, elsewhere } = adopted;
    tracing::info!(
        here,
        listed,
        elsewhere,
        "another node's table is ours; blocks that are listed are fetched"
    );
    Ok(adopted)
}

/// Which blocks a node is to keep, as the table of a store that nobody uses says.
///
/// # Errors
/// `Damaged` where the table cannot be read; `Io`.
pub(in crate::tsdb_server) fn keeping(here: NodeId, table: &dyn Rows) -> Result<Keeping, FsError> {
    Ok(Keeping::new(here, Arc::new(Placed::new(&replica::placement(table)?))))
}

#[cfg(test)]
mod tests;
