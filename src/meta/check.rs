//! The rules between rows, checked: for fsck, for tests, and in part for debug builds.
//!
//! Everything present: entries and inodes name each other, links and entries are counted right, every directory leads
//! to the root, contents and attributes have an owner. Everything past: rows can be read, and what nothing leads to
//! waits to be swept. Blocks: their lives are recounted. Not here: how versions are stored (`series::check`), what lies
//! in segments (`segment_blocks` tells what should), carrying out the remedies that are named here (`meta::repair`).

mod bits;
mod blocks;
mod cluster;
mod locks;
mod owners;
mod rights;
mod state;
mod tree;

pub use blocks::payload_blocks;
pub use blocks::segment_blocks;
pub use owners::Owner;
pub use owners::owners;

use crate::meta::key;
use crate::meta::record::Inode;
use crate::meta::repair::Remedy;
use crate::series::Readable;
use crate::series::Series;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::FILE_BYTES_MAX;
use crate::types::FileKind;
use crate::types::FsError;
use std::fmt;

/// A rule that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub family: Family,
    /// The row's key in its family.
    pub key: Vec<u8>,
    pub what: String,
    /// What puts it right, if anything does.
    pub remedy: Option<Remedy>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family {
            Family::Payload => write!(f, "payload {}: {}", self.key.escape_ascii(), self.what),
            _ => write!(f, "{}: {}", key::describe(&self.key), self.what),
        }
    }
}

/// Who is told how far the check is: what is being looked at, and how many rows of it so far.
pub type Progress<'a> = &'a mut dyn FnMut(&'static str, u64);

/// Who is told each fault.
pub type Faults<'a> = &'a mut dyn FnMut(Fault);

/// Rows between two reports of progress.
const PROGRESS_ROWS: u64 = 4096;

/// Checks a table that nobody writes, or a snapshot. Tells every fault; a row that cannot be read is one of them.
///
/// # Errors
/// `Io`; `Damaged` where the table itself cannot be read.
pub fn check(rows: &dyn Rows, progress: Progress<'_>, faults: Faults<'_>) -> Result<(), FsError> {
    let mut check = Check {
        rows,
        series: Series::new(rows, key::GROUPS, Readable::default()),
        progress,
        faults,
        seen: 0,
        uncounted: false,
    };
    let counted = check.tree()?;
    check.state(&counted)?;
    check.blocks()
}

/// A check under way.
struct Check<'a> {
    rows: &'a dyn Rows,
    series: Series<'a>,
    progress: Progress<'a>,
    faults: Faults<'a>,
    seen: u64,
    /// Rows that name blocks could not be read: what nothing seems to name may be named there.
    uncounted: bool,
}

/// What counting the tree gave, to be held against what apply kept.
#[derive(Default)]
struct Counted {
    files: u64,
    live_bytes: u64,
    versions: u64,
    /// The largest inode number.
    ino: u64,
}

impl Check<'_> {
    fn fault(&mut self, family: Family, key: &[u8], what: impl Into<String>) {
        (self.faults)(Fault { family, key: key.to_vec(), what: what.into(), remedy: None });
    }

    fn remedied(&mut self, family: Family, key: &[u8], what: impl Into<String>, remedy: Remedy) {
        let (key, remedy) = (key.to_vec(), Some(remedy).filter(|_| !self.uncounted));
        (self.faults)(Fault { family, key, what: what.into(), remedy });
    }

    /// Makes a damaged row a fault; other errors end the check.
    fn read<T>(
        &mut self,
        family: Family,
        key: &[u8],
        read: Result<T, FsError>,
    ) -> Result<Option<T>, FsError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(FsError::Damaged(what)) => {
                self.fault(family, key, what);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn step(&mut self, what: &'static str) {
        self.seen += 1;
        if self.seen.is_multiple_of(PROGRESS_ROWS) {
            (self.progress)(what, self.seen);
        }
    }

    fn begin(&mut self, what: &'static str) {
        self.seen = 0;
        (self.progress)(what, 0);
    }
}

/// What is wrong with an inode by itself. Debug builds ask it of every inode that is put.
pub(crate) fn inode_fault(inode: &Inode) -> Option<String> {
    let Inode { kind, size, high, allocated, nlink, mode, .. } = inode;
    let fault = match kind {
        FileKind::File if allocated > size || size > high || *high > FILE_BYTES_MAX => {
            format!("{allocated} bytes allocated, size {size}, largest size {high}")
        }
        FileKind::Directory if *nlink == 1 => "a directory has one link".to_owned(),
        FileKind::Directory if *nlink == 0 && *size > 0 => {
            format!("it is removed and has {size} entries")
        }
        FileKind::Directory if inode.parent.is_none() => "a directory has no parent".to_owned(),
        FileKind::Symlink if *size != inode.target.len() as u64 => {
            format!("size {size}, and a target of {} bytes", inode.target.len())
        }
        _ if *kind != FileKind::Directory && inode.parent.is_some() => {
            "something that is no directory has a parent".to_owned()
        }
        _ if *kind != FileKind::File && *allocated > 0 => {
            format!("{allocated} bytes allocated to what is no regular file")
        }
        _ if *mode > 0o7777 => format!("mode {mode:o}"),
        _ => return None,
    };
    Some(fault)
}
