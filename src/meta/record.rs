//! What rows hold: inodes, directory entries, extents, sessions, marks. Each begins with a version byte.

use crate::types::Stamp;
use serde::Deserialize;
use serde::Serialize;

/// How long versions are kept before purge may take them. Marks are kept as long as they exist.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Retention {
    /// Nanoseconds that a version is kept after it was replaced; `None`: for ever.
    pub age_ns: Option<u64>,
    /// The share of the disk, in percent, above which the oldest history goes even before its age; `None`: no such limit.
    pub disk_percent: Option<u8>,
}

/// A named instant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    pub stamp: Stamp,
    pub uid: u32,
    pub note: String,
}
