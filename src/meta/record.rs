//! What rows hold: inodes, directory entries, sessions, marks, counters. Each begins with a version byte.
//!
//! Not here: extent rows, which have an encoding of their own (`meta::extents`), and keys. After the version byte
//! comes postcard; `docs/format.md` has the fields. A row that does not decode is damage and is named in the error.

mod cluster;
mod inode;

pub use cluster::Authority;
pub use cluster::Incarnation;
pub use cluster::Invite;
pub use cluster::Invited;
pub use cluster::NextNode;
pub use cluster::Node;
pub use cluster::Used;
pub use inode::GENERATION_MAX;
pub use inode::Inode;

use crate::meta::key;
use crate::types::BatchSeq;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Stamp;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A row's value. All records are at version 1.
pub trait Record: Serialize + DeserializeOwned {
    const VERSION: u8 = 1;

    fn to_row(&self) -> Bytes {
        // Nearly every record fits on the stack, so that a row costs one allocation of its exact length.
        let mut short = [0; 128];
        let row = (Self::VERSION, self);
        match postcard::to_slice(&row, &mut short) {
            Ok(bytes) => Bytes::copy_from_slice(bytes),
            Err(_) => {
                postcard::to_stdvec(&row).expect("records have nothing unserializable").into()
            }
        }
    }

    /// # Errors
    /// `Damaged`, naming the row.
    fn from_row(key: &[u8], row: &[u8]) -> Result<Self, FsError> {
        let damaged = |what: String| FsError::Damaged(format!("{}: {what}", key::describe(key)));
        match row.split_first() {
            None => Err(damaged("the row is empty".to_owned())),
            Some((&version, rest)) if version == Self::VERSION => {
                match postcard::take_from_bytes(rest) {
                    Ok((record, [])) => Ok(record),
                    Ok((_, tail)) => {
                        Err(damaged(format!("{} bytes follow the record", tail.len())))
                    }
                    Err(error) => Err(damaged(error.to_string())),
                }
            }
            Some((version, _)) => Err(damaged(format!("unknown version {version} of the record"))),
        }
    }
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dirent {
    pub ino: Ino,
    pub kind: FileKind,
}

/// The store's identity, made with it and never changed but for its feature level.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Store {
    pub uuid: [u8; 16],
    /// Key of the hash that orders directory entries.
    pub hash_key: [u8; 16],
    /// What rows and ops may contain. A program that knows less must not open the store.
    pub features: u32,
    pub made: Stamp,
}

/// The numbers to be given out next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Next {
    pub ino: u64,
    pub session: SessionId,
    /// Of blocks that `apply` makes, in session 0.
    pub block: u64,
    pub epoch: u64,
}

/// Who owns every inode that nobody else does.
///
/// See `docs/decisions/0012-who-owns-an-inode.md`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    pub session: SessionId,
    pub epoch: u64,
}

/// An inode that its owner gave back. It counts only while no grant of the whole came after it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shared {
    /// Of the next grant of the whole, when it was given back.
    pub epoch: u64,
}

/// A client's membership.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Who it is, for people.
    pub client: String,
    pub opened: Stamp,
    /// The number of its last applied batch.
    pub last: BatchSeq,
    /// Inode numbers it may still use, as `[first, end)`, rising. It uses them in order.
    pub inos: Vec<(u64, u64)>,
}

/// How many lives a block has, where there is more than one: see `docs/decisions/0003-counting-lives.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lives(pub u64);

/// A named instant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    pub stamp: Stamp,
    pub uid: u32,
    pub note: String,
}

/// How long versions are kept before purge may take them. Marks are kept as long as they exist.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Retention {
    /// Nanoseconds that a version is kept after it was replaced; `None`: for ever.
    pub age_ns: Option<u64>,
    /// The share, in percent, of the disk space that nothing else takes, above which the oldest history goes even before
    /// its age; `None`: no such limit.
    pub disk_percent: Option<u8>,
}

/// The oldest instant that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Horizon(pub Stamp);

/// Sums that apply keeps, so that nobody has to count. `meta::check` recounts all but `history_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Inodes of the present, directories and orphans included.
    pub files: u64,
    /// Bytes of file contents of the present, before compression; without holes.
    pub live_bytes: u64,
    /// Bytes that only the past shows, before compression. An estimate: a block is counted by the extents that
    /// left the present, and leaves the sum by those of its last version.
    pub history_bytes: u64,
    /// Finished versions of files that can be read, those of the present included.
    pub versions: u64,
}

impl Record for Inode {}
impl Record for Dirent {}
impl Record for Store {}
impl Record for Next {}
impl Record for Grant {}
impl Record for Shared {}
impl Record for Session {}
impl Record for Lives {}
impl Record for Mark {}
impl Record for Retention {}
impl Record for Horizon {}
impl Record for Totals {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Time;

    #[test]
    fn a_damaged_row_is_named() {
        let key = key::inode(Ino::ROOT);
        let row = Inode::new(FileKind::File, Time { secs: 1, nanos: 2 }).to_row();
        assert!(Inode::from_row(&key, &row).is_ok());
        let newer = [&[9], &row[1..]].concat();
        let longer = [&row[..], &[0]].concat();
        for (bad, why) in [
            (&newer[..], "unknown version 9"),
            (&longer[..], "1 bytes follow"),
            (&row[..row.len() - 1], "inode 1"),
            (&[][..], "empty"),
        ] {
            let error = Inode::from_row(&key, bad).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("inode 1"), "{error}");
        }
    }
}
