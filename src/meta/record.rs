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
use crate::meta::lock::FileLock;
use crate::meta::op::Outcome;
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

/// A row's value. A record whose fields became more has a higher version, and reads the former one.
pub trait Record: Serialize + DeserializeOwned {
    const VERSION: u8 = 1;

    /// Reads the version before this one, where there was one; what it has no field for gets the value that it had before
    /// there was a choice.
    fn from_former(_: &[u8]) -> Option<postcard::Result<(Self, &[u8])>> {
        None
    }

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
        let (version, rest) =
            row.split_first().ok_or_else(|| damaged("the row is empty".to_owned()))?;
        let read = match *version {
            version if version == Self::VERSION => Some(postcard::take_from_bytes(rest)),
            version if version + 1 == Self::VERSION => Self::from_former(rest),
            _ => None,
        };
        match read {
            Some(Ok((record, []))) => Ok(record),
            Some(Ok((_, tail))) => Err(damaged(format!("{} bytes follow the record", tail.len()))),
            Some(Err(error)) => Err(damaged(error.to_string())),
            None => Err(damaged(format!("unknown version {version} of the record"))),
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
    /// The session's last batch when it was given. What later ones give back is given back of this grant.
    pub after: BatchSeq,
    /// The number that was to be given out next. From there on, what an inode belongs to is a range: else a session would
    /// take for its own what another has made since.
    pub below: Ino,
}

/// Inode numbers that were given to a session: from `first` to the one that the row's key ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Range {
    pub first: Ino,
    pub session: SessionId,
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
    /// It was ended, and something that it left is still to go: it owns nothing and changes nothing.
    pub ended: bool,
    /// What came of its last batch, if that was a direct one: who sends it again is told the same.
    pub told: Option<Outcome>,
}

impl Session {
    pub fn is_open(&self) -> bool {
        !self.ended
    }
}

/// What a session has locked of an inode that others may use, each lock with its token: the stamp with which it was taken.
///
/// See `docs/decisions/0015-file-locks.md`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Locks(pub Vec<(FileLock, Stamp)>);

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
impl Record for Range {}
impl Record for Lives {}
impl Record for Locks {}
impl Record for Mark {}
impl Record for Retention {}
impl Record for Horizon {}
impl Record for Totals {}

impl Record for Grant {
    const VERSION: u8 = 2;

    fn from_former(row: &[u8]) -> Option<postcard::Result<(Grant, &[u8])>> {
        Some(postcard::take_from_bytes(row).map(|((session, epoch), tail)| {
            (Grant { session, epoch, after: BatchSeq(0), below: Ino::END }, tail)
        }))
    }
}

impl Record for Session {
    const VERSION: u8 = 2;

    fn from_former(row: &[u8]) -> Option<postcard::Result<(Session, &[u8])>> {
        Some(postcard::take_from_bytes(row).map(|((client, opened, last, inos), tail)| {
            (Session { client, opened, last, inos, ended: false, told: None }, tail)
        }))
    }
}

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

    #[test]
    fn rows_of_a_former_version_read_as_they_meant() {
        let session = Session {
            client: "host".to_owned(),
            opened: Stamp(77),
            last: BatchSeq(3),
            inos: vec![(5, 9)],
            ended: false,
            told: None,
        };
        let former = (1_u8, (&session.client, session.opened, session.last, &session.inos));
        let former = postcard::to_stdvec(&former).expect("it fits");
        assert_eq!(Session::from_row(b"S", &former), Ok(session.clone()));
        assert_eq!(Session::from_row(b"S", &session.to_row()), Ok(session));
        let (session, epoch, after, below) = (SessionId(4), 2, BatchSeq(0), Ino::END);
        let grant = Grant { session, epoch, after, below };
        let former = postcard::to_stdvec(&(1_u8, grant.session, grant.epoch)).expect("it fits");
        assert_eq!(Grant::from_row(b"g", &former), Ok(grant.clone()));
        assert_eq!(Grant::from_row(b"g", &grant.to_row()), Ok(grant));
        assert!(Session::from_row(b"S", &[0]).is_err() && Session::from_row(b"S", &[3]).is_err());
    }
}
