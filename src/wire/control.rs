//! What a command asks of a running mount, through the mount's own control file, and the answers: a JSON value
//! a line, the last of them `done` or `error`. The file is `.tsfs/control` in any directory of the mount.
//!
//! Paths are relative to the directory whose control file was opened; the empty path is that directory itself.
//! A value of another [`VERSION`] is refused with a sentence, never guessed at.
//!
//! Not here: reading and writing the file (`cli`, `fuse`), doing what is asked (`tsdb_client`), words and dates as
//! people type them (`cli`).

use crate::meta::record::Retention;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use crate::wire::Status;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use std::fmt;

/// Raised when a request or an answer changes its meaning. New variants and optional fields do not raise it.
pub const VERSION: u32 = 1;

/// Most bytes of one request line.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;

/// Any bytes: a path, a name, a piece of a file. In JSON a string where they are UTF-8, else an array of numbers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Raw {
    fn from(bytes: &[u8]) -> Raw {
        Raw(bytes.to_vec())
    }
}

impl From<&str> for Raw {
    fn from(text: &str) -> Raw {
        Raw(text.as_bytes().to_vec())
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Numbers(Vec<u8>),
        }
        Ok(Raw(match Either::deserialize(deserializer)? {
            Either::Text(text) => text.into_bytes(),
            Either::Numbers(bytes) => bytes,
        }))
    }
}

/// An instant as a command names it. Dates were read, in the user's time zone, before they came here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    Now,
    At(Stamp),
    /// The instant that a mark names.
    Mark(Raw),
}

/// One line from a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    pub version: u32,
    pub ask: Ask,
}

impl Request {
    pub fn new(ask: Ask) -> Request {
        Request { version: VERSION, ask }
    }

    /// The line without its newline.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a request holds nothing that JSON cannot carry")
    }

    /// # Errors
    /// `Io` with a sentence that names the two versions, or says what is wrong with the line.
    pub fn decode(line: &[u8]) -> Result<Request, FsError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let garbled = |error| FsError::Io(format!("this is no request: {error}"));
        let Versioned { version } = serde_json::from_slice(line).map_err(garbled)?;
        if version != VERSION {
            return Err(FsError::Io(format!(
                "the command speaks version {version} and this mount {VERSION}: use the same tsfs for both"
            )));
        }
        serde_json::from_slice(line).map_err(garbled)
    }
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// The versions of the name, newest first: [`Answer::Version`].
    Log {
        path: Raw,
    },
    /// What changed under a directory ([`Answer::Change`]); for a file also its two contents ([`Answer::Contents`]),
    /// each at most `contents_bytes_max` bytes.
    Diff {
        path: Raw,
        from: Moment,
        to: Moment,
        contents_bytes_max: u64,
    },
    /// Makes a file or a tree what it was. What did not exist then stays, unless `remove`: [`Answer::Change`].
    Restore {
        path: Raw,
        at: Moment,
        remove: bool,
        dry_run: bool,
    },
    /// Brings back what was deleted under this name, as it last was (or was at an instant), under another name if
    /// `to` is given.
    Undelete {
        path: Raw,
        at: Option<Moment>,
        to: Option<Raw>,
        dry_run: bool,
    },
    /// What was deleted in a directory: [`Answer::Deleted`].
    Deleted {
        path: Raw,
    },
    /// Names the present, for whoever may write in the directory at `path`.
    Mark {
        name: Raw,
        note: String,
        #[serde(default)]
        path: Raw,
    },
    Unmark {
        name: Raw,
    },
    /// [`Answer::Mark`] for each, oldest first.
    Marks,
    /// Everything done before on this mount is on disk.
    Sync,
    /// Forgets versions that ended before an instant, everywhere or of one path: [`Answer::Freed`].
    Purge {
        before: Moment,
        path: Option<Raw>,
        dry_run: bool,
    },
    /// Whether a directory keeps history: asked without `keep`, else set. [`Answer::History`].
    History {
        path: Raw,
        keep: Option<bool>,
    },
    /// How long history is kept: asked without `set`, else set. [`Answer::Retention`].
    Retention {
        set: Option<Retention>,
    },
    /// [`Answer::Status`].
    Status,
}

/// One line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How far a long piece of work has come. At most a few a second.
    Progress(Progress),
    Version(VersionRow),
    Change(ChangeRow),
    /// A part of a file's contents, in order. `end` with the last part of each side.
    Contents {
        side: Side,
        bytes: Raw,
        end: bool,
    },
    Deleted(DeletedRow),
    Mark(MarkRow),
    Freed(Freed),
    History {
        keep: bool,
    },
    Retention(Retention),
    Status(Box<Status>),
    /// The last line where all went well.
    Done(Done),
    /// The last line where it did not.
    Error(Failure),
}

impl Answer {
    /// The line without its newline.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an answer holds nothing that JSON cannot carry")
    }

    /// # Errors
    /// `Io` with what is wrong with the line.
    pub fn decode(line: &[u8]) -> Result<Answer, FsError> {
        serde_json::from_slice(line)
            .map_err(|error| FsError::Io(format!("the mount's answer is garbled: {error}")))
    }

    /// No line follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Answer::Done(_) | Answer::Error(_))
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, as "restoring".
    pub doing: String,
    pub done: u64,
    /// `None` where it is not known.
    pub total: Option<u64>,
    /// What is counted, as "files".
    pub unit: String,
}

/// One version of a name: what it named during `[from, to)`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionRow {
    /// What the name was before this version is not kept any more.
    pub begins: bool,
    /// From when until when the name led to this inode: only between two such times it was gone.
    pub named: (Stamp, Stamp),
    pub from: Stamp,
    /// [`Stamp::MAX`] for what holds now.
    pub to: Stamp,
    pub ino: Ino,
    pub kind: FileKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// The user who made it so, while there are records of that.
    #[serde(default)]
    pub by: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    Added,
    Removed,
    /// Other contents, link target or device.
    Changed,
    /// Mode, owner or extended attributes only.
    Attributes,
    /// The same file under another name: see `before`.
    Renamed,
    /// Another kind of file.
    Replaced,
}

/// One path that differs between two instants, or that a restore changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangeRow {
    /// Relative to the path that was asked about; empty for that path itself.
    pub path: Raw,
    pub kind: ChangeKind,
    pub file: FileKind,
    /// Where it was before, for [`ChangeKind::Renamed`].
    pub before: Option<Raw>,
    /// Sizes in bytes, where it existed.
    pub size_before: Option<u64>,
    pub size_after: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    From,
    To,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeletedRow {
    pub name: Raw,
    pub when: Stamp,
    /// An instant at which it can be read.
    pub last: Stamp,
    pub kind: FileKind,
    pub size: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MarkRow {
    pub name: Raw,
    pub stamp: Stamp,
    pub uid: u32,
    pub note: String,
}

/// What a purge frees or, with a dry run, would free.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Freed {
    pub versions: u64,
    /// Contents before compression that nothing names any more. An estimate; blocks shared with what is kept are not counted.
    pub bytes: u64,
    /// Versions that stay because a mark needs them.
    pub kept_by_marks: u64,
    /// The count stopped here: there is more.
    pub at_least: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// How many things were changed, or would be.
    pub changed: u64,
    /// The instant of the change, for a mark; of everything before, for sync.
    pub stamp: Option<Stamp>,
    /// Things worth knowing that did not stop the work, a sentence each.
    pub notes: Vec<String>,
}

/// Why it was not done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// A sentence that says what to do.
    pub message: String,
    /// Where an instant is gone: it and the oldest one, so that the command can say both in the user's time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon: Option<(Stamp, Stamp)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    NotFound,
    Exists,
    /// The caller may not do this.
    Denied,
    /// The request itself: an instant in the future or before the horizon, a bad name.
    Invalid,
    NoSpace,
    /// The store: damage, an input or output error, closing.
    Store,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), horizon: None }
    }
}

impl From<&FsError> for Failure {
    fn from(error: &FsError) -> Failure {
        let kind = match error {
            FsError::NotFound | FsError::Stale => FailureKind::NotFound,
            FsError::Exists | FsError::NotEmpty => FailureKind::Exists,
            FsError::Denied | FsError::NotPermitted(_) | FsError::ReadOnly => FailureKind::Denied,
            FsError::NoSpace => FailureKind::NoSpace,
            FsError::Lost(_) | FsError::Damaged(_) | FsError::Io(_) | FsError::Closing => {
                FailureKind::Store
            }
            _ => FailureKind::Invalid,
        };
        let mut failure = Failure::new(kind, error.to_string());
        if let FsError::BeforeHorizon { asked, oldest } = *error {
            failure.horizon = Some((asked, oldest));
        }
        failure
    }
}

#[cfg(test)]
mod tests;
