//! A copy of the table as it is now, made of links to the same files: for another member of the log.
//!
//! The rows `applied` and `members` of `Local` in it say of which entry it is the state. Not here: sending it.

use crate::series::table::Table;
use crate::store::table::RocksTable;
use crate::types::FsError;
use rocksdb::checkpoint::Checkpoint;
use std::path::Path;

impl RocksTable {
    /// Makes the copy in `dir`, which does not exist and lies in the same file system. Everything in it is on disk then. May
    /// be called while the table is written: what is in the copy is the state after some write.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), FsError> {
        // All families at once; the copy finds nothing left to flush but what is written meanwhile.
        self.flush()?;
        let checkpoint = Checkpoint::new(&self.db).map_err(|error| self.fault("copy", &error))?;
        checkpoint.create_checkpoint(dir).map_err(|error| self.fault("copy", &error))
    }
}
