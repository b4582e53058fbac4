//! What a name was: its versions, and the names that a directory no longer has.

use crate::meta::key;
use crate::meta::key::Key;
use crate::meta::key::NameHash;
use crate::meta::record::Dirent;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::series::Read;
use crate::series::Version;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use std::ops::ControlFlow;

/// One distinct state of the contents that a name stood for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileVersion {
    pub ino: Ino,
    /// Reading at this stamp shows it.
    pub stamp: Stamp,
    /// The name showed it up to here; [`Stamp::MAX`] where it still does.
    pub until: Stamp,
    /// As of `stamp`.
    pub inode: Inode,
    /// For how long the name led to this inode. States that were never finished are no versions, so two versions may have
    /// a time between them in which the name was there all the same.
    pub named: (Stamp, Stamp),
}

/// The versions of a *name* that could be seen in `[since, until]`, newest first: what was finished (closed after a write,
/// or synced), and what the name showed last if that was never finished. States on the way between are left out.
///
/// # Errors
/// `Damaged`; as [`Read::versions`].
pub fn file_versions(
    read: &dyn Read,
    names: &NameHash,
    dir: Ino,
    name: &[u8],
    since: Stamp,
    until: Stamp,
) -> Result<Vec<FileVersion>, FsError> {
    if name.len() > crate::types::NAME_BYTES_MAX {
        return Err(FsError::NameTooLong);
    }
    let key = key::dirent(dir, names.of(name), name);
    let mut versions: Vec<FileVersion> = Vec::new();
    for entry in all_versions(read, &key, since, until)? {
        let dirent = Dirent::from_row(&key, &entry.value)?;
        let (first, last) = (since.max(entry.from), until.min(Stamp(entry.to.0 - 1)));
        let inode_key = key::inode(dirent.ino);
        let mut states = Vec::new();
        for state in all_versions(read, &inode_key, first, last)? {
            let inode = Inode::from_row(&inode_key, &state.value)?;
            let stamp = state.from.max(entry.from);
            states.push(FileVersion {
                ino: dirent.ino,
                stamp,
                until: state.to.min(entry.to),
                inode,
                named: (entry.from, entry.to),
            });
        }
        for version in finished(states) {
            match versions.last_mut() {
                // The same contents under the same name, around a change of the entry alone.
                Some(newer) if same_contents(newer, &version) && newer.stamp == version.until => {
                    let named = (version.named.0, newer.named.1);
                    *newer = FileVersion { until: newer.until, named, ..version };
                }
                _ => versions.push(version),
            }
        }
    }
    Ok(versions)
}

fn same_contents(a: &FileVersion, b: &FileVersion) -> bool {
    a.ino == b.ino
        && a.inode.version == b.inode.version
        && a.inode.unfinished == b.inode.unfinished
        && a.inode.generation == b.inode.generation
}

/// Of the states of an inode under one entry, newest first: one for each finished version, with the attributes it had
/// at first, and the newest state if it was never finished.
fn finished(states: Vec<FileVersion>) -> Vec<FileVersion> {
    let mut kept: Vec<FileVersion> = Vec::new();
    let newest = states.first().map(|state| state.stamp);
    for state in states {
        let shown = !state.inode.unfinished || Some(state.stamp) == newest;
        match kept.last_mut() {
            Some(newer) if same_contents(newer, &state) && !state.inode.unfinished => {
                let until = newer.until;
                *newer = FileVersion { until, ..state };
            }
            _ if shown => kept.push(state),
            _ => {}
        }
    }
    kept
}

fn all_versions(
    read: &dyn Read,
    key: &[u8],
    since: Stamp,
    until: Stamp,
) -> Result<Vec<Version>, FsError> {
    let mut versions = Vec::new();
    read.versions(key, since, until, &mut |version| {
        versions.push(version);
        ControlFlow::Continue(())
    })?;
    Ok(versions)
}

/// A name that a directory had and has not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deleted {
    pub name: Vec<u8>,
    pub ino: Ino,
    pub kind: FileKind,
    /// When it went: deleted, or renamed.
    pub when: Stamp,
}

/// The names that are no more in a directory and went in `[since, until]`, in the order of their hashes.
///
/// # Errors
/// `Damaged`; as [`Read::ended`].
pub fn deleted(
    read: &dyn Read,
    dir: Ino,
    since: Stamp,
    until: Stamp,
) -> Result<Vec<Deleted>, FsError> {
    let (mut deleted, mut fault) = (Vec::new(), None);
    read.ended(&key::dirents(dir, 0), since, until, &mut |key, last| {
        let dirent = Dirent::from_row(key, &last.value);
        match (Key::decode(key), dirent) {
            (Some(Key::Dirent { name, .. }), Ok(Dirent { ino, kind })) => {
                deleted.push(Deleted { name, ino, kind, when: last.to });
                ControlFlow::Continue(())
            }
            (_, dirent) => {
                let wrong = || FsError::Damaged(format!("{} is among entries", key::describe(key)));
                fault = Some(dirent.err().unwrap_or_else(wrong));
                ControlFlow::Break(())
            }
        }
    })?;
    fault.map_or(Ok(deleted), Err)
}
