//! Which files have contents in certain blocks: damage is found in blocks, but people know files.
//!
//! Reads every extent row and every entry, so it is asked only where there is damage. Not here: which blocks are damaged.

use crate::meta::extents::Extents;
use crate::meta::key;
use crate::meta::key::Key;
use crate::meta::read;
use crate::meta::record::Dirent;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Read;
use crate::series::Readable;
use crate::series::Series;
use crate::series::table::Rows;
use crate::types::AsOf;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::Generation;
use crate::types::Ino;
use crate::types::Stamp;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::ops::ControlFlow;

/// A directory is not deeper than this; more is a ring, which the rules tell of.
const DEPTH_MAX: usize = 4096;

/// A file that shows, or showed, contents of one of the blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// From the top of the store, as it last was; what has lost its name is `inode N`.
    pub path: Vec<u8>,
    /// When it showed them. `until` is [`Stamp::MAX`] where it does now.
    pub from: Stamp,
    pub until: Stamp,
}

impl Owner {
    pub fn is_present(&self) -> bool {
        self.until == Stamp::MAX
    }
}

/// The files with contents in `blocks`, present or past, by path.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn owners(rows: &dyn Rows, blocks: &HashSet<BlockId>) -> Result<Vec<Owner>, FsError> {
    let series = Series::new(rows, key::GROUPS, Readable::default());
    let shown = shown(&series, blocks)?;
    let names = names(&series, &shown)?;
    let mut dirs = HashMap::new();
    let mut owners = Vec::new();
    for (ino, (from, until)) in shown {
        let at = last(until);
        let path = match names.get(&ino) {
            Some((dir, name)) => above(&series, *dir, at, &mut dirs)?.map(|mut path| {
                path.extend(name);
                path
            }),
            None => None,
        };
        let path = path.unwrap_or_else(|| format!("inode {ino}").into_bytes());
        owners.push(Owner { path, from, until });
    }
    owners.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(owners)
}

/// The last instant of an interval.
fn last(until: Stamp) -> AsOf {
    if until == Stamp::MAX { AsOf::Now } else { AsOf::At(Stamp(until.0 - 1)) }
}

/// The inodes that show a block, and from when until when. What lies between two such times is not told apart.
fn shown(
    series: &Series<'_>,
    blocks: &HashSet<BlockId>,
) -> Result<BTreeMap<Ino, (Stamp, Stamp)>, FsError> {
    let mut shown = BTreeMap::new();
    each_key(series, &key::all_extents(), &mut |found| {
        let Some(Key::Extents { ino, generation, .. }) = Key::decode(found) else { return Ok(()) };
        each_version(series, found, Stamp::ZERO, Stamp::MAX, &mut |from, to, value| {
            let extents = Extents::from_row(found, value)?;
            if !extents.blocks().any(|(block, _)| blocks.contains(&block)) {
                return Ok(());
            }
            // Rows outlive the inode that led to them; what nobody can see is nobody's loss.
            each_life(series, ino, generation, (from, to), &mut |from, to| {
                let all = shown.entry(ino).or_insert((from, to));
                *all = (from.min(all.0), to.max(all.1));
            })
        })
    })?;
    Ok(shown)
}

/// The parts of an interval in which an inode showed a generation of its contents.
fn each_life(
    series: &Series<'_>,
    ino: Ino,
    generation: Generation,
    (from, to): (Stamp, Stamp),
    visit: &mut dyn FnMut(Stamp, Stamp),
) -> Result<(), FsError> {
    let key = key::inode(ino);
    each_version(series, &key, from, Stamp(to.0 - 1), &mut |began, ended, value| {
        if Inode::from_row(&key, value)?.generation == generation {
            visit(from.max(began), to.min(ended));
        }
        Ok(())
    })
}

/// The name under which each inode was last seen, and its directory.
fn names(
    series: &Series<'_>,
    wanted: &BTreeMap<Ino, (Stamp, Stamp)>,
) -> Result<HashMap<Ino, (Ino, Vec<u8>)>, FsError> {
    let mut names: HashMap<Ino, (Stamp, Ino, Vec<u8>)> = HashMap::new();
    each_key(series, &key::all_dirents(), &mut |found| {
        let Some(Key::Dirent { dir, name, .. }) = Key::decode(found) else { return Ok(()) };
        each_version(series, found, Stamp::ZERO, Stamp::MAX, &mut |_, to, value| {
            let ino = Dirent::from_row(found, value)?.ino;
            let newer = names.get(&ino).is_none_or(|(known, ..)| *known < to);
            if wanted.contains_key(&ino) && newer {
                names.insert(ino, (to, dir, name.clone()));
            }
            Ok(())
        })
    })?;
    Ok(names.into_iter().map(|(ino, (_, dir, name))| (ino, (dir, name))).collect())
}

/// The path of a directory with a slash behind each name; `None` where it cannot be followed to the top.
fn above(
    series: &Series<'_>,
    dir: Ino,
    at: AsOf,
    known: &mut HashMap<(Ino, AsOf), Option<Vec<u8>>>,
) -> Result<Option<Vec<u8>>, FsError> {
    if let Some(path) = known.get(&(dir, at)) {
        return Ok(path.clone());
    }
    let (mut names, mut child) = (Vec::new(), dir);
    while child != Ino::ROOT && names.len() < DEPTH_MAX {
        let Some(name) = name_of(series, child, at)? else { break };
        let Some(parent) = read::inode(series, child, at)?.and_then(|inode| inode.parent) else {
            break;
        };
        names.push(name);
        child = parent;
    }
    let path = (child == Ino::ROOT).then(|| {
        names.iter().rev().flat_map(|name| [name.as_slice(), b"/"].concat()).collect::<Vec<u8>>()
    });
    known.insert((dir, at), path.clone());
    Ok(path)
}

fn name_of(series: &Series<'_>, dir: Ino, at: AsOf) -> Result<Option<Vec<u8>>, FsError> {
    let Some(parent) = read::inode(series, dir, at)?.and_then(|inode| inode.parent) else {
        return Ok(None);
    };
    let (mut found, mut fault) = (None, None);
    series.scan(&key::dirents(parent, 0), at, Direction::Forward, &mut |row, value| {
        match Dirent::from_row(row, value) {
            Ok(entry) if entry.ino != dir => return ControlFlow::Continue(()),
            Ok(_) => {
                if let Some(Key::Dirent { name, .. }) = Key::decode(row) {
                    found = Some(name);
                }
            }
            Err(error) => fault = Some(error),
        }
        ControlFlow::Break(())
    })?;
    fault.map_or(Ok(found), Err)
}

fn each_key(
    series: &Series<'_>,
    range: &KeyRange,
    visit: &mut dyn FnMut(&[u8]) -> Result<(), FsError>,
) -> Result<(), FsError> {
    let mut fault = Ok(());
    series.keys(range, &mut |key| {
        fault = visit(key);
        if fault.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    fault
}

fn each_version(
    series: &Series<'_>,
    key: &[u8],
    since: Stamp,
    until: Stamp,
    visit: &mut dyn FnMut(Stamp, Stamp, &Bytes) -> Result<(), FsError>,
) -> Result<(), FsError> {
    let mut fault = Ok(());
    series.versions(key, since, until, &mut |version| {
        fault = visit(version.from, version.to, &version.value);
        if fault.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    fault
}
