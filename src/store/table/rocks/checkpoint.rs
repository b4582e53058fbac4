//! A copy of the table as it is now, made of links to its files: for another node.

use crate::series::table::Table;
use crate::store::table::RocksTable;
use crate::types::FsError;
use rocksdb::checkpoint::Checkpoint;
use std::path::Path;

impl RocksTable {
    /// Makes the table durable and links its files into `dir`, which is not there yet and lies in the same file system. What
    /// is written meanwhile is in it up to some write. It takes space only as the table itself moves on.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), FsError> {
        // First by ourselves: a full disk is then told as such.
        self.flush()?;
        let checkpoint = Checkpoint::new(&self.db);
        let done = checkpoint.and_then(|checkpoint| checkpoint.create_checkpoint(dir));
        done.map_err(|error| self.fault("make a checkpoint of", &error))
    }
}
