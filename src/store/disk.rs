//! The file operations the store uses, as a small trait: real, and simulated with power cuts and faults.
//!
//! Everything of ours that must survive a power cut (segments of blocks, segments of the log, the ballast) goes
//! through here, so that a test can cut the power between any two operations. RocksDB does its own I/O and does not.
//! Not here: what the bytes mean, and any retry. A failed sync is final: the kernel may have dropped the data.

mod real;
mod simulated;

pub use real::RealDisk;
pub use simulated::SimulatedDisk;

use crate::types::FsError;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

/// What an opened file may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    ReadWrite,
}

/// A file system's space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    pub total: u64,
    /// What this process may still take.
    pub free: u64,
}

/// Files by path. A name is durable only after [`Disk::sync_dir`] of its directory, contents only after a sync of the
/// file: neither implies the other.
pub trait Disk: Send + Sync {
    /// Makes a directory; its parent exists. Fine where it is there already.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn make_dir(&self, path: &Path) -> Result<(), FsError>;

    /// A new empty file, which must not exist.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError>;

    /// # Errors
    /// `Io`, also where there is no such file.
    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>, FsError>;

    /// The names in a directory, sorted. Names that are not UTF-8 are none of ours and left out.
    ///
    /// # Errors
    /// `Io`.
    fn list(&self, dir: &Path) -> Result<Vec<String>, FsError>;

    /// # Errors
    /// `Io`.
    fn exists(&self, path: &Path) -> Result<bool, FsError>;

    /// Gives a file another name in the same directory, taking the place of what had it.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError>;

    /// # Errors
    /// `Io`.
    fn remove(&self, path: &Path) -> Result<(), FsError>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// `Io`.
    fn sync_dir(&self, dir: &Path) -> Result<(), FsError>;

    /// Space of the file system that holds `path`.
    ///
    /// # Errors
    /// `Io`.
    fn space(&self, path: &Path) -> Result<Space, FsError>;
}

/// An open file. Any number of threads may use it at once; overlapping writes are the caller's to avoid.
pub trait File: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// `Io`.
    fn len(&self) -> Result<u64, FsError>;

    /// # Errors
    /// `Io`.
    fn is_empty(&self) -> Result<bool, FsError> {
        Ok(self.len()? == 0)
    }

    /// `len` bytes from `offset`; fewer only where the file ends before.
    ///
    /// # Errors
    /// `Io`.
    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, FsError>;

    /// Writes all parts, one behind the other, from `offset`.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; what was written is then unknown.
    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> Result<(), FsError>;

    /// Makes the contents durable, and of the attributes what reading them needs (the length).
    ///
    /// # Errors
    /// `Io`. Never to be tried again: what was not durable before may be lost.
    fn sync_data(&self) -> Result<(), FsError>;

    /// Makes contents and attributes durable.
    ///
    /// # Errors
    /// As for [`File::sync_data`].
    fn sync_all(&self) -> Result<(), FsError>;

    /// Cuts or extends with zeros.
    ///
    /// # Errors
    /// `Io`.
    fn set_len(&self, len: u64) -> Result<(), FsError>;

    /// Takes space for `offset..offset + len`, extending the file where it is shorter: a later write there cannot fail
    /// for want of space. Reads as zeros where nothing was written.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn allocate(&self, offset: u64, len: u64) -> Result<(), FsError>;

    /// Gives back the space of `offset..offset + len`, which then reads as zeros. The length stays.
    ///
    /// # Errors
    /// `Io`.
    fn punch(&self, offset: u64, len: u64) -> Result<(), FsError>;
}
