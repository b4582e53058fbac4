<<<<<<< HEAD
//! A copy of the table as it is now, made of links to its files: for another node.
=======
//! A copy of the table as it is now, made of links to the same files: for another member of the log.
//!
//! The rows `applied` and `members` of `Local` in it say of which entry it is the state. Not here: sending it.
>>>>>>> h1

use crate::series::table::Table;
use crate::store::table::RocksTable;
use crate::types::FsError;
use rocksdb::checkpoint::Checkpoint;
use std::path::Path;

impl RocksTable {
<<<<<<< HEAD
    /// Makes the table durable and links its files into `dir`, which is not there yet and lies in the same file system. What
    /// is written meanwhile is in it up to some write. It takes space only as the table itself moves on.
=======
    /// Makes the copy in `dir`, which does not exist and lies in the same file system. Everything in it is on disk then. May
    /// be called while the table is written: what is in the copy is the state after some write.
>>>>>>> h1
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), FsError> {
<<<<<<< HEAD
        // First by ourselves: a full disk is then told as such.
        self.flush()?;
        let checkpoint = Checkpoint::new(&self.db);
        let done = checkpoint.and_then(|checkpoint| checkpoint.create_checkpoint(dir));
        done.map_err(|error| self.fault("make a checkpoint of", &error))
=======
        // All families at once; the copy finds nothing left to flush but what is written meanwhile.
        self.flush()?;
        let checkpoint = Checkpoint::new(&self.db).map_err(|error| self.fault("copy", &error))?;
        checkpoint.create_checkpoint(dir).map_err(|error| self.fault("copy", &error))
>>>>>>> h1
    }
}
