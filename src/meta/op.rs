//! What the log carries: ops, and batches of them.
//!
//! An op is complete: it names inode numbers, owners and times, so that applying it needs neither a clock nor a
//! choice. Variants are only ever added at the end (postcard numbers them); `docs/format.md` lists them.

mod about;
mod cluster;
mod touch;

pub use cluster::ClusterOp;
pub use touch::may_change;

use crate::meta::lock::FileLock;
use crate::meta::record::Retention;
use crate::types::AsOf;
use crate::types::BatchSeq;
use crate::types::BlockId;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::Time;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use siphasher::sip::SipHasher13;
use std::borrow::Cow;

/// A name in a directory: any bytes but `/` and NUL, 1 to [`crate::types::NAME_BYTES_MAX`] of them.
pub type Name = Bytes;

/// One change to the tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Op {
    /// A new file of any kind, with its first link. `ino` is fresh: from the ranges that the session was given, and
    /// greater than any it used before.
    Create {
        dir: Ino,
        name: Name,
        ino: Ino,
        kind: FileKind,
        mode: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        /// The target of a symbolic link; empty for everything else.
        target: Bytes,
        time: Time,
    },
    Link {
        ino: Ino,
        dir: Ino,
        name: Name,
        time: Time,
    },
    /// Removes a name that is not a directory's. With `keep_open`, an inode without further links stays as an orphan
    /// of the session until `Release`.
    Unlink {
        dir: Ino,
        name: Name,
        keep_open: bool,
        time: Time,
    },
    Rmdir {
        dir: Ino,
        name: Name,
        keep_open: bool,
        time: Time,
    },
    Rename {
        dir: Ino,
        name: Name,
        new_dir: Ino,
        new_name: Name,
        how: RenameHow,
        /// As in `Unlink`, for what the new name named before.
        keep_open: bool,
        time: Time,
    },
    SetAttr {
        ino: Ino,
        set: SetAttr,
        time: Time,
    },
    /// New contents for `offset..offset + len`, from one or more pieces that lie in it one behind the other.
    /// `clear_suid`: set-user-id, set-group-id and security.capability go, as after a write by an unprivileged user.
    Write {
        ino: Ino,
        offset: u64,
        pieces: Vec<Piece>,
        clear_suid: bool,
        time: Time,
    },
    /// Makes `offset..offset + len` read as zeros, without changing the size unless `extend`.
    Zero {
        ino: Ino,
        offset: u64,
        len: u64,
        extend: bool,
        time: Time,
    },
    SetXattr {
        ino: Ino,
        name: Name,
        value: Bytes,
        how: XattrHow,
        time: Time,
    },
    RemoveXattr {
        ino: Ino,
        name: Name,
        time: Time,
    },
    /// The contents of `ino` are a version now: closed after a write, or synced.
    Version {
        ino: Ino,
    },
    /// The last handle of an orphan is closed.
    Release {
        ino: Ino,
    },
    /// Copies `len` bytes of `from` as of an instant, by naming the same blocks; what lies beyond its size then is left
    /// out. At most 500 regions. Resolved where it is applied, which a client cannot do: it flushes what it has,
    /// has this applied as a batch of its own, then drops the rows of `ino` it keeps.
    Clone {
        from: Ino,
        as_of: AsOf,
        from_offset: u64,
        ino: Ino,
        offset: u64,
        len: u64,
        time: Time,
    },
    /// Names an instant: the batch that carries it.
    Mark {
        name: Name,
        note: String,
        uid: u32,
    },
    Unmark {
        name: Name,
    },
    /// How long history is kept; replicated so that every node forgets alike.
    SetRetention {
        retention: Retention,
    },
    /// Raises the horizon (never lowers it) and forgets at most `rows` versions that ended at or before it.
    Purge {
        horizon: Stamp,
        rows: u32,
    },
    /// Forgets past versions of these keys that ended at or before `before`, at most 1,000 of them; marks keep theirs.
    /// Contents and attributes go only where no version of their inode is left that could show them, so the keys
    /// of inodes come first.
    Forget {
        keys: Vec<Bytes>,
        before: Stamp,
    },
    /// Begins a session; the leader chooses its number.
    OpenSession {
        session: SessionId,
        client: String,
    },
    /// Ends a session: its orphans go (at most 500 with each op; repeated until none is left).
    EndSession {
        session: SessionId,
    },
    /// Gives the session `count` inode numbers beginning where the last range ended.
    GrantInos {
        session: SessionId,
        count: u64,
    },
    /// A directory that keeps no history: its entries, and what is created in it from now on.
    SetHistory {
        ino: Ino,
        keep: bool,
        time: Time,
    },
    /// Makes the store: its identity and its root directory. The first op of every log, and only there.
    Format {
        uuid: [u8; 16],
        hash_key: [u8; 16],
        mode: u32,
        uid: u32,
        gid: u32,
        time: Time,
    },
    /// The file was read: `atime` moves in place and nothing else does. It makes no version.
    Accessed {
        ino: Ino,
        time: Time,
    },
    /// The session gives back what it owns: these inodes are shared from now on; with `whole`, so is every inode that it
    /// did not make itself. Comes behind everything that rested on owning them.
    Yield {
        inos: Vec<Ino>,
        whole: bool,
    },
    /// The session owns every inode that no other session owns, as it is the only one. The leader proposes it.
    GrantWhole {
        session: SessionId,
    },
    /// From now on rows and ops may be what this feature level knows.
    Raise {
        features: u32,
    },
    /// A change of the cluster, which the store makes itself.
    Cluster(ClusterOp),
    /// What the session's programs have locked of the inode from now on: all of it. At most [`crate::meta::apply::LOCKS_MAX`] locks, as
    /// [`crate::meta::lock::FileLocks::all`] has them.
    SetLocks {
        ino: Ino,
        locks: Vec<FileLock>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RenameHow {
    Replace,
    NoReplace,
    Exchange,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum XattrHow {
    Set,
    Create,
    Replace,
}

/// Attributes to set; `None` leaves one as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Truncates or extends. Emptying goes at once, whatever the size; at most 500 regions go otherwise with one
    /// op: a client shortens a longer file in steps (`meta::apply::truncate_steps`).
    pub size: Option<u64>,
    pub atime: Option<Time>,
    pub mtime: Option<Time>,
    /// As in [`Op::Write`].
    pub clear_suid: bool,
}

/// A piece of new contents. It lies in one region.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Piece {
    /// Raw bytes, at most [`crate::types::INLINE_BYTES_MAX`], to stand in the extent row.
    Inline(Bytes),
    /// A whole block that travels here: its frame, at most [`crate::types::OP_PAYLOAD_BYTES_MAX`], and how many bytes it holds.
    Payload { block: BlockId, frame: Bytes, len: u32 },
    /// A whole block that is durable on the data nodes already.
    Block { block: BlockId, len: u32 },
}

impl Piece {
    /// Bytes of file it covers.
    pub fn len(&self) -> u32 {
        match self {
            Piece::Inline(bytes) => bytes.len() as u32,
            Piece::Payload { len, .. } | Piece::Block { len, .. } => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Ops that enter the log as one entry and are applied as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub session: SessionId,
    /// Applied only if it is the session's last number plus one. Zero for the server's own batches (purge,
    /// sessions, retention), which are idempotent and carry no number.
    pub seq: BatchSeq,
    /// Fencing number of the grant that the ops rest on.
    pub epoch: u64,
    /// Whose ops they are: the first so many are of the first user, and so on. None are anybody's where the store makes them.
    pub by: Vec<By>,
    pub ops: Vec<Op>,
    /// Of a *direct* batch, whose session need not own what it changes: the rows that its ops were decided on. It is applied
    /// only if they are still so and nobody owns them; else it leaves nothing but its number. See
    /// `docs/decisions/0012-who-owns-an-inode.md`.
    pub direct: Option<Vec<Seen>>,
}

/// A row as somebody saw it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    pub key: Bytes,
    /// [`Seen::hash`] of its value; none where there was no row.
    pub value: Option<u64>,
}

impl Seen {
    pub fn new(key: Bytes, value: Option<&[u8]>) -> Seen {
        Seen { key, value: value.map(Seen::hash) }
    }

    /// SipHash-1-3 under the key zero. Nobody gains by a collision: a batch is decided on what its own session reads.
    pub fn hash(value: &[u8]) -> u64 {
        SipHasher13::new().hash(value)
    }
}

/// Ops of one user, one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct By {
    pub uid: u32,
    pub ops: u32,
}

/// A batch as it was before there were direct ones, and as all others still are.
const BATCH_VERSION: u8 = 1;
/// A direct batch: what it saw follows.
const BATCH_VERSION_DIRECT: u8 = 2;

/// The bytes of version 1; those of version 2 are these and [`Batch::direct`] behind them.
#[derive(Serialize, Deserialize)]
struct Plain<'a> {
    session: SessionId,
    seq: BatchSeq,
    epoch: u64,
    by: Cow<'a, [By]>,
    ops: Cow<'a, [Op]>,
}

impl Batch {
    /// The bytes of a log entry: a version byte, then postcard.
    pub fn encode(&self) -> Bytes {
        let payload: usize = self.ops.iter().map(Op::payload_bytes).sum();
        let mut bytes = Vec::with_capacity(64 + self.ops.len() * 64 + payload);
        let Batch { session, seq, epoch, by, ops, direct } = self;
        let (session, seq, epoch) = (*session, *seq, *epoch);
        let plain = Plain { session, seq, epoch, by: Cow::from(by), ops: Cow::from(ops) };
        match direct {
            None => {
                bytes.push(BATCH_VERSION);
                postcard::to_extend(&plain, bytes)
            }
            Some(seen) => {
                bytes.push(BATCH_VERSION_DIRECT);
                postcard::to_extend(&(plain, seen), bytes)
            }
        }
        .expect("ops have nothing unserializable")
        .into()
    }

    /// Whether these bytes begin as a direct batch does.
    pub fn is_direct(bytes: &[u8]) -> bool {
        bytes.first() == Some(&BATCH_VERSION_DIRECT)
    }

    /// # Errors
    /// `Damaged` where the bytes are not a batch of a version that this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Batch, FsError> {
        let damaged = |why: String| FsError::Damaged(format!("batch in the log: {why}"));
        let (version, rest) =
            bytes.split_first().ok_or_else(|| damaged("it is empty".to_owned()))?;
        let read = match *version {
            BATCH_VERSION => postcard::take_from_bytes::<Plain<'_>>(rest)
                .map(|(plain, tail)| (plain, None, tail)),
            BATCH_VERSION_DIRECT => postcard::take_from_bytes::<(Plain<'_>, Vec<Seen>)>(rest)
                .map(|((plain, seen), tail)| (plain, Some(seen), tail)),
            version => return Err(damaged(format!("unknown version {version}"))),
        };
        let (plain, direct, tail) = read.map_err(|error| damaged(error.to_string()))?;
        if !tail.is_empty() {
            return Err(damaged(format!("{} bytes follow it", tail.len())));
        }
        let Plain { session, seq, epoch, by, ops } = plain;
        Ok(Batch { session, seq, epoch, by: by.into_owned(), ops: ops.into_owned(), direct })
    }
}

impl Op {
    /// Bytes of contents that travel inside it.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Op::Write { pieces, .. } => pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Inline(bytes) => bytes.len(),
                    Piece::Payload { frame, .. } => frame.len(),
                    Piece::Block { .. } => 0,
                })
                .sum(),
            Op::SetXattr { value, .. } => value.len(),
            _ => 0,
        }
    }
}

/// What applying a batch said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    Applied,
    /// Its number was applied before: a replay. Nothing was done.
    Repeated,
    /// Says which op and why. Unless the batch is a direct one, everything that follows from this session is refused with it.
    Refused {
        op: u32,
        error: FsError,
    },
    /// Of a direct batch: another session owns this inode. Its number is used up, nothing else was done.
    Held(Ino),
    /// Of a direct batch: a row is not as it was seen. Its number is used up, nothing else was done.
    Conflict,
    /// An earlier batch of its session was not applied. Nothing was done: behind that one it may be sent again.
    Early,
}

#[cfg(test)]
mod tests;
