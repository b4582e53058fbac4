//! Looking at the tree, now or as of an instant: lookup, attributes, directories, the read map, attributes, versions.
//!
//! Over any [`series::Read`](crate::series::Read), so the same code answers from a replica's table and from a client's
//! cache. Not here: fetching the bytes of blocks, permissions, and what a program may have open.

use crate::meta::apply::XATTR_VERSION;
use crate::meta::extents::Extents;
use crate::meta::extents::Source;
use crate::meta::key;
use crate::meta::key::Key;
use crate::meta::key::NameHash;
use crate::meta::record::Dirent;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::series::Direction;
use crate::series::Read;
use crate::types::AsOf;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Region;
use crate::types::regions;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::ops::Range;

mod past;

pub use past::Deleted;
pub use past::FileVersion;
pub use past::deleted;

pub use past::file_versions;

/// # Errors
/// As [`Read::get`]; `Damaged`.
pub fn inode(read: &dyn Read, ino: Ino, at: AsOf) -> Result<Option<Inode>, FsError> {
    let key = key::inode(ino);
    read.get(&key, at)?.map(|row| Inode::from_row(&key, &row)).transpose()
}

/// The inode, which was there when its number was told: `Stale` if it is gone.
///
/// # Errors
/// As [`inode`]; `Stale`.
pub fn existing_inode(read: &dyn Read, ino: Ino, at: AsOf) -> Result<Inode, FsError> {
    inode(read, ino, at)?.ok_or(FsError::Stale)
}

/// What `name` stands for in a directory.
///
/// # Errors
/// As [`Read::get`]; `Damaged`.
pub fn dirent(
    read: &dyn Read,
    names: &NameHash,
    dir: Ino,
    name: &[u8],
    at: AsOf,
) -> Result<Option<Dirent>, FsError> {
    if name.len() > crate::types::NAME_BYTES_MAX {
        return Err(FsError::NameTooLong);
    }
    let key = key::dirent(dir, names.of(name), name);
    read.get(&key, at)?.map(|row| Dirent::from_row(&key, &row)).transpose()
}

/// The file that `name` stands for.
///
/// # Errors
/// `NotFound`, also where the entry's file kept no history; `NameTooLong`; as [`Read::get`].
pub fn lookup(
    read: &dyn Read,
    names: &NameHash,
    dir: Ino,
    name: &[u8],
    at: AsOf,
) -> Result<(Ino, Inode), FsError> {
    let dirent = dirent(read, names, dir, name, at)?.ok_or(FsError::NotFound)?;
    let inode = inode(read, dirent.ino, at)?.ok_or(FsError::NotFound)?;
    Ok((dirent.ino, inode))
}

/// An entry of a directory, and the cookie to go on after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub dirent: Dirent,
    pub cookie: u64,
}

/// The entries of a directory after `cookie`, without `.` and `..`, in the order of their hashes. Zero begins.
///
/// Names that share a hash cannot be told apart by it. All but the last of them carry the cookie before the hash: who goes
/// on from there is shown them again. Duplicates are allowed, omissions never.
///
/// # Errors
/// As [`Read::scan`]; `Damaged`.
pub fn readdir(
    read: &dyn Read,
    dir: Ino,
    cookie: u64,
    at: AsOf,
    visit: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> Result<(), FsError> {
    let mut held: Option<(u64, Vec<u8>, Dirent)> = None;
    let mut fault = None;
    let mut ended = false;
    read.scan(&key::dirents(dir, cookie), at, Direction::Forward, &mut |row_key, row| {
        let next = match entry_row(row_key, row) {
            Ok(next) => next,
            Err(error) => {
                fault = Some(error);
                return ControlFlow::Break(());
            }
        };
        let hash = next.0;
        let Some((last, name, dirent)) = held.replace(next) else {
            return ControlFlow::Continue(());
        };
        let cookie = if last == hash { hash - 1 } else { last };
        let flow = visit(Entry { name: &name, dirent, cookie });
        ended = flow.is_break();
        flow
    })?;
    match (fault, held) {
        (Some(fault), _) => Err(fault),
        (None, Some((cookie, name, dirent))) if !ended => {
            // The visitor may break here, too; nothing follows.
            let _ = visit(Entry { name: &name, dirent, cookie });
            Ok(())
        }
        _ => Ok(()),
    }
}

fn entry_row(key: &[u8], row: &[u8]) -> Result<(u64, Vec<u8>, Dirent), FsError> {
    match Key::decode(key) {
        Some(Key::Dirent { hash, name, .. }) => Ok((hash, name, Dirent::from_row(key, row)?)),
        _ => Err(FsError::Damaged(format!("{} is among entries", key::describe(key)))),
    }
}

/// The target of a symbolic link.
///
/// # Errors
/// `Invalid` for anything else; `Stale`; as [`Read::get`].
pub fn readlink(read: &dyn Read, ino: Ino, at: AsOf) -> Result<Bytes, FsError> {
    let inode = existing_inode(read, ino, at)?;
    match inode.kind {
        FileKind::Symlink => Ok(inode.target),
        _ => Err(FsError::Invalid("only symbolic links have a target")),
    }
}

/// The directory above.
///
/// # Errors
/// `NotDirectory`, `Stale`; as [`Read::get`].
pub fn parent(read: &dyn Read, dir: Ino, at: AsOf) -> Result<Ino, FsError> {
    existing_inode(read, dir, at)?.parent.ok_or(FsError::NotDirectory)
}

/// A part of a file: where its bytes are. It lies in one region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// In the file.
    pub start: u64,
    pub len: u64,
    /// `None` for a hole.
    pub source: Option<Source>,
}

impl Part {
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// What a file holds in `offset..offset + len`, one part behind the other, up to its end.
///
/// # Errors
/// As [`Read::get`]; `Damaged`.
pub fn parts(
    read: &dyn Read,
    ino: Ino,
    inode: &Inode,
    offset: u64,
    len: u64,
    at: AsOf,
) -> Result<Vec<Part>, FsError> {
    let end = offset.saturating_add(len).min(inode.size);
    let mut parts = Vec::new();
    for (region, _, _) in regions(offset, end.saturating_sub(offset)) {
        let extents = region_extents(read, ino, inode, region, at)?;
        parts_of_region(region, &extents, &(offset..end), &mut |part| parts.push(part));
    }
    Ok(parts)
}

fn region_extents(
    read: &dyn Read,
    ino: Ino,
    inode: &Inode,
    region: Region,
    at: AsOf,
) -> Result<Extents, FsError> {
    let key = key::extents(ino, inode.generation, region);
    match read.get(&key, at)? {
        Some(row) => Extents::from_row(&key, &row),
        None => Ok(Extents::default()),
    }
}

/// The parts of one region that lie in `range`, which is of the file and meets the region: extents and the holes between.
pub(crate) fn parts_of_region(
    region: Region,
    extents: &Extents,
    range: &Range<u64>,
    visit: &mut dyn FnMut(Part),
) {
    let base = region.start();
    let inside = |at: u64| at.saturating_sub(base).min(crate::types::REGION_BYTES) as u32;
    let (start, end) = (inside(range.start), inside(range.end));
    let mut hole_from = start;
    let hole = |from: u32, to: u32, visit: &mut dyn FnMut(Part)| {
        if from < to {
            let (start, len) = (base + u64::from(from), u64::from(to - from));
            visit(Part { start, len, source: None });
        }
    };
    for extent in extents.within(start..end) {
        hole(hole_from, extent.start, visit);
        hole_from = extent.end();
        visit(Part {
            start: base + u64::from(extent.start),
            len: u64::from(extent.len),
            source: Some(extent.source),
        });
    }
    hole(hole_from, end, visit);
}

/// Which end of a stretch is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    Data,
    /// The end of the file counts as a hole.
    Hole,
}

/// The first byte at or after `offset` that is data, or a hole.
///
/// # Errors
/// `NoData` at and beyond the end, and where no data follows; as [`Read::scan`].
pub fn seek(
    read: &dyn Read,
    ino: Ino,
    inode: &Inode,
    offset: u64,
    seek: Seek,
    at: AsOf,
) -> Result<u64, FsError> {
    if offset >= inode.size {
        return Err(FsError::NoData);
    }
    let mut range = key::extents_from(ino, inode.generation, Region::of(offset));
    let last = Region::of(inode.size - 1);
    if let Some(next) = last.0.checked_add(1) {
        range.end = key::extents(ino, inode.generation, Region(next)).to_vec();
    }
    // Up to here everything from `offset` on is data, where a hole is looked for.
    let mut reached = offset;
    let (mut found, mut fault) = (None, None);
    read.scan(&range, at, Direction::Forward, &mut |row_key, row| {
        let extents = match region_row(row_key, row) {
            Ok(extents) => extents,
            Err(error) => {
                fault = Some(error);
                return ControlFlow::Break(());
            }
        };
        for (start, end) in extents {
            if end <= offset {
                continue;
            }
            if seek == Seek::Data || start > reached {
                found = Some(if seek == Seek::Data { start.max(offset) } else { reached });
                return ControlFlow::Break(());
            }
            reached = end;
        }
        ControlFlow::Continue(())
    })?;
    match (fault, found, seek) {
        (Some(fault), ..) => Err(fault),
        (None, Some(found), _) if found < inode.size => Ok(found),
        (None, _, Seek::Data) => Err(FsError::NoData),
        (None, _, Seek::Hole) => Ok(reached.min(inode.size)),
    }
}

/// Where the data of a row lies in its file.
fn region_row(key: &[u8], row: &[u8]) -> Result<Vec<(u64, u64)>, FsError> {
    let Some(Key::Extents { region, .. }) = Key::decode(key) else {
        return Err(FsError::Damaged(format!("{} is no extent row", key::describe(key))));
    };
    let extents = Extents::from_row(key, &Bytes::copy_from_slice(row))?;
    let of_file = |at: u32| region.start() + u64::from(at);
    Ok(extents.iter().map(|extent| (of_file(extent.start), of_file(extent.end()))).collect())
}

/// The value of an extended attribute.
///
/// # Errors
/// `NoAttribute`; `Damaged`; as [`Read::get`].
pub fn xattr(read: &dyn Read, ino: Ino, name: &[u8], at: AsOf) -> Result<Bytes, FsError> {
    if name.is_empty() || name.len() > crate::types::NAME_BYTES_MAX {
        return Err(FsError::NoAttribute);
    }
    let key = key::xattr(ino, name);
    let row = read.get(&key, at)?.ok_or(FsError::NoAttribute)?;
    match row.first() {
        Some(&XATTR_VERSION) => Ok(row.slice(1..)),
        _ => Err(FsError::Damaged(format!("{}: unknown version", key::describe(&key)))),
    }
}

/// The names of the extended attributes, sorted.
///
/// # Errors
/// `Damaged`; as [`Read::scan`].
pub fn xattr_names(read: &dyn Read, ino: Ino, at: AsOf) -> Result<Vec<Vec<u8>>, FsError> {
    let (mut names, mut fault) = (Vec::new(), None);
    read.scan(&key::xattrs(ino), at, Direction::Forward, &mut |key, _| match Key::decode(key) {
        Some(Key::Xattr { name, .. }) => {
            names.push(name);
            ControlFlow::Continue(())
        }
        _ => {
            fault = Some(FsError::Damaged(format!("{} is among attributes", key::describe(key))));
            ControlFlow::Break(())
        }
    })?;
    fault.map_or(Ok(names), Err)
}
