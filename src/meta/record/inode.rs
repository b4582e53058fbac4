//! The inode record, and its compact row.
//!
//! Rows are kept as differences from the next newer one (a splice between common ends), so what changes
//! together stands together, and what follows from something else is stored as the difference from it: most are zero.

use crate::types::Attr;
use crate::types::FileKind;
use crate::types::Generation;
use crate::types::Ino;
use crate::types::Time;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

/// The last generation. A file that reaches it is emptied by trimming its rows instead.
pub const GENERATION_MAX: Generation = Generation(u32::MAX - 1);

/// Everything about a file but its names and contents.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "Row", try_from = "Row")]
pub struct Inode {
    pub kind: FileKind,
    /// The lower twelve bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Names; for a directory, two and its subdirectories.
    pub nlink: u32,
    pub rdev: u32,
    /// A directory's; the root is its own.
    pub parent: Option<Ino>,
    /// Bytes of a file or link target; entries of a directory.
    pub size: u64,
    /// The largest size that this generation of the contents ever had: see `docs/decisions/0002-growth-in-place.md`.
    pub high: u64,
    /// Bytes of a file that are not holes.
    pub allocated: u64,
    pub generation: Generation,
    /// How many versions were finished: closed after a write, or synced.
    pub version: u64,
    /// The contents have changed since the last finished version.
    pub unfinished: bool,
    /// A directory whose entries keep no history, and which hands this on to what is created in it.
    pub no_history: bool,
    /// Created without a history: no row of it is ever kept, nor any entry that names it.
    pub transient: bool,
    /// It may have extended attributes; without this nobody looks for them.
    pub has_xattrs: bool,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
    /// Of a symbolic link.
    pub target: Bytes,
}

impl Inode {
    /// An empty file of a kind, born at `time`, owned by root, without a name.
    pub fn new(kind: FileKind, time: Time) -> Inode {
        Inode {
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 0,
            rdev: 0,
            parent: None,
            size: 0,
            high: 0,
            allocated: 0,
            generation: Generation(0),
            version: 0,
            unfinished: kind == FileKind::File,
            no_history: false,
            transient: false,
            has_xattrs: false,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            target: Bytes::new(),
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// What `stat` tells.
    pub fn attr(&self, ino: Ino) -> Attr {
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size: self.size,
            allocated: self.allocated,
            rdev: self.rdev,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
        }
    }
}

const UNFINISHED: u8 = 1;
const NO_HISTORY: u8 = 2;
const TRANSIENT: u8 = 4;
const HAS_XATTRS: u8 = 8;

/// The record as stored, after the version byte. An append changes `size`, `version` and `mtime` only, which
/// are neighbours.
#[derive(Serialize, Deserialize)]
struct Row {
    kind: FileKind,
    mode: u16,
    flags: u8,
    uid: u32,
    gid: u32,
    nlink: u32,
    rdev: u32,
    /// Zero for none.
    parent: u64,
    /// Nanoseconds since 1970, as are the others.
    btime: i128,
    atime_since_btime: i128,
    target: Bytes,
    generation: u32,
    size: u64,
    version: u64,
    mtime: i128,
    ctime_since_mtime: i128,
    /// Of a regular file: `size` less `allocated`.
    holes: u64,
    /// Of a regular file: `high` less `size`.
    above: u64,
}

const NANOS: i128 = 1_000_000_000;

fn nanos(time: Time) -> i128 {
    i128::from(time.secs) * NANOS + i128::from(time.nanos)
}

fn time(nanos: i128) -> Result<Time, &'static str> {
    let secs = i64::try_from(nanos.div_euclid(NANOS)).map_err(|_| "a time is out of range")?;
    Ok(Time { secs, nanos: nanos.rem_euclid(NANOS) as u32 })
}

impl From<Inode> for Row {
    fn from(inode: Inode) -> Row {
        let file = inode.kind == FileKind::File;
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let (btime, mtime) = (nanos(inode.btime), nanos(inode.mtime));
        Row {
            kind: inode.kind,
            mode: inode.mode as u16,
            flags: flag(inode.unfinished, UNFINISHED)
                | flag(inode.no_history, NO_HISTORY)
                | flag(inode.transient, TRANSIENT)
                | flag(inode.has_xattrs, HAS_XATTRS),
            uid: inode.uid,
            gid: inode.gid,
            nlink: inode.nlink,
            rdev: inode.rdev,
            parent: inode.parent.map_or(0, Ino::get),
            btime,
            atime_since_btime: nanos(inode.atime) - btime,
            target: inode.target,
            generation: inode.generation.0,
            size: inode.size,
            version: inode.version,
            mtime,
            ctime_since_mtime: nanos(inode.ctime) - mtime,
            holes: if file { inode.size.wrapping_sub(inode.allocated) } else { 0 },
            above: if file { inode.high.wrapping_sub(inode.size) } else { 0 },
        }
    }
}

impl TryFrom<Row> for Inode {
    type Error = &'static str;

    fn try_from(row: Row) -> Result<Inode, &'static str> {
        let file = row.kind == FileKind::File;
        let later = |base: i128, by: i128| base.checked_add(by).ok_or("a time is out of range");
        Ok(Inode {
            kind: row.kind,
            mode: u32::from(row.mode),
            uid: row.uid,
            gid: row.gid,
            nlink: row.nlink,
            rdev: row.rdev,
            parent: Ino::new(row.parent),
            size: row.size,
            high: if file { row.size.wrapping_add(row.above) } else { 0 },
            allocated: if file { row.size.wrapping_sub(row.holes) } else { 0 },
            generation: Generation(row.generation),
            version: row.version,
            unfinished: row.flags & UNFINISHED != 0,
            no_history: row.flags & NO_HISTORY != 0,
            transient: row.flags & TRANSIENT != 0,
            has_xattrs: row.flags & HAS_XATTRS != 0,
            atime: time(later(row.btime, row.atime_since_btime)?)?,
            mtime: time(row.mtime)?,
            ctime: time(later(row.mtime, row.ctime_since_mtime)?)?,
            btime: time(row.btime)?,
            target: row.target,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::key;
    use crate::meta::record::Record;

    #[test]
    fn inodes_come_back() {
        let far = Time { secs: i64::MIN, nanos: 999_999_999 };
        let mut inode = Inode::new(FileKind::File, Time { secs: 1_700_000_000, nanos: 5 });
        inode.mode = 0o7777;
        (inode.size, inode.high, inode.allocated) = (70, 90, 60);
        (inode.atime, inode.ctime) = (far, Time { secs: i64::MAX, nanos: 0 });
        (inode.transient, inode.has_xattrs, inode.version) = (true, true, 9);
        let mut dir = Inode::new(FileKind::Directory, far);
        (dir.size, dir.nlink, dir.parent, dir.no_history) = (3, 4, Some(Ino::ROOT), true);
        let mut link = Inode::new(FileKind::Symlink, Time::default());
        link.target = Bytes::from(vec![b'x'; 4095]);
        for inode in [inode, dir, link] {
            let row = inode.to_row();
            assert_eq!(Inode::from_row(&key::inode(Ino::ROOT), &row), Ok(inode));
        }
    }

    #[test]
    fn an_append_changes_few_bytes_in_one_place() {
        let at = |secs| Time { secs, nanos: 123_456_789 };
        let mut inode = Inode::new(FileKind::File, at(1_700_000_000));
        (inode.size, inode.high, inode.allocated) = (64_000, 64_000, 64_000);
        (inode.mtime, inode.ctime, inode.version) = (at(1_700_000_100), at(1_700_000_100), 1000);
        let before = inode.to_row();
        (inode.size, inode.high, inode.allocated) = (64_064, 64_064, 64_064);
        (inode.mtime, inode.ctime, inode.version) = (at(1_700_000_101), at(1_700_000_101), 1001);
        let after = inode.to_row();
        let front = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
        let back = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
        assert!(before.len() <= 48, "a row has {} bytes", before.len());
        assert!(before.len() - front - back <= 12, "{front} and {back} of {}", before.len());
    }
}
