//! What differs between two instants: a walk of both trees side by side, by name.
//!
//! A file that went from one name to another inside the tree is found by its inode and told as renamed.

use crate::tsdb_client::DirEntry;
use crate::tsdb_client::Wait;
use crate::tsdb_client::control::End;
use crate::tsdb_client::control::Job;
use crate::tsdb_client::control::content_size;
use crate::tsdb_client::control::path::shown;
use crate::tsdb_client::control::refuse;
use crate::tsdb_client::permission::READ;
use crate::tsdb_client::permission::SEARCH;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::wire::control::Answer;
use crate::wire::control::ChangeKind;
use crate::wire::control::ChangeRow;
use crate::wire::control::Done;
use crate::wire::control::FailureKind;
use crate::wire::control::Moment;
use crate::wire::control::Raw;
use crate::wire::control::Side;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::ops::ControlFlow;

/// Contents are compared and sent in parts of this many bytes.
const PART_BYTES: u32 = 256 << 10;

/// The entries of a directory by name.
pub(super) type Listing = BTreeMap<Vec<u8>, Attr>;

/// One path at two instants.
struct Pair {
    path: Vec<u8>,
    before: Option<Attr>,
    after: Option<Attr>,
}

impl Job<'_> {
    pub(super) fn diff(
        &mut self,
        path: &Raw,
        from: &Moment,
        to: &Moment,
        contents_bytes_max: u64,
    ) -> Result<Done, End> {
        let (from, to) = (self.instant(from)?, self.instant(to)?);
        let pair = if path.0.is_empty() || path.0 == b"." {
            let at = |as_of| optional(self.client.getattr(self.dir, as_of));
            Pair { path: Vec::new(), before: at(from)?, after: at(to)? }
        } else {
            let (dir, name) = self.named(path)?;
            let at = |as_of| optional(self.client.lookup(dir, &name, as_of));
            Pair { path: Vec::new(), before: at(from)?, after: at(to)? }
        };
        if pair.before.is_none() && pair.after.is_none() {
            return refuse(
                FailureKind::NotFound,
                format!("{} was there at neither instant", shown(path)),
            );
        }
        let files = [&pair.before, &pair.after]
            .into_iter()
            .flatten()
            .all(|attr| attr.kind == FileKind::File);
        let contents =
            [(Side::From, pair.before.clone(), from), (Side::To, pair.after.clone(), to)];
        let rows = self.compare(pair, from, to)?;
        let changed = rows.len() as u64;
        for row in rows {
            self.say(Answer::Change(row))?;
        }
        if files && changed > 0 {
            for (side, attr, as_of) in contents {
                if let Some(attr) = attr {
                    self.contents(side, &attr, as_of, contents_bytes_max)?;
                }
            }
        }
        Ok(Done { changed, ..Done::default() })
    }

    /// The changes from one instant to the other at and under a path, in the order of a walk; renames last.
    fn compare(&mut self, top: Pair, from: AsOf, to: AsOf) -> Result<Vec<ChangeRow>, End> {
        let (mut rows, mut seen) = (Vec::new(), 0);
        // Names that came and names that went, by inode, until both are known.
        let (mut came, mut went) = (Vec::new(), HashMap::new());
        let mut waiting = vec![top];
        while let Some(pair) = waiting.pop() {
            seen += 1;
            self.progress("comparing", seen, None, "files")?;
            match (&pair.before, &pair.after) {
                (Some(before), Some(after)) => {
                    if let Some(kind) = self.difference(before, after, from, to)? {
                        rows.push(row(&pair, kind));
                    }
                }
                (Some(before), None) => {
                    went.insert(before.ino, pair.path.clone());
                    rows.push(row(&pair, ChangeKind::Removed));
                }
                (None, Some(after)) => {
                    came.push((rows.len(), after.ino));
                    rows.push(row(&pair, ChangeKind::Added));
                }
                (None, None) => {}
            }
            waiting.extend(self.below(&pair, from, to)?);
        }
        let mut moved = HashSet::new();
        for (at, ino) in came {
            if let Some(before) = went.get(&ino) {
                rows[at].kind = ChangeKind::Renamed;
                rows[at].before = Some(Raw(before.clone()));
                moved.insert(before.clone());
            }
        }
        rows.retain(|row| row.kind != ChangeKind::Removed || !moved.contains(&row.path.0));
        Ok(rows)
    }

    /// The names in both sides' directories, last first: they are taken from the end.
    fn below(&self, pair: &Pair, from: AsOf, to: AsOf) -> Result<Vec<Pair>, End> {
        let list = |attr: &Option<Attr>, as_of| match attr {
            Some(attr) if attr.kind == FileKind::Directory => {
                let path = Raw(pair.path.clone());
                self.need_then_and_now(attr, as_of, READ | SEARCH, &path)?;
                self.list(attr.ino, as_of)
            }
            _ => Ok(Listing::new()),
        };
        let (mut before, mut after) = (list(&pair.before, from)?, list(&pair.after, to)?);
        let mut names: Vec<_> = before.keys().chain(after.keys()).cloned().collect();
        names.sort_unstable();
        names.dedup();
        let pairs = names.into_iter().rev().map(|name| Pair {
            path: join(&pair.path, &name),
            before: before.remove(&name),
            after: after.remove(&name),
        });
        Ok(pairs.collect())
    }

    /// A whole directory at an instant.
    pub(super) fn list(&self, dir: Ino, as_of: AsOf) -> Result<Listing, End> {
        let mut found = Listing::new();
        self.client.readdir(dir, as_of, 0, true, &mut |entry: DirEntry<'_>| {
            if let Some(attr) = entry.attr {
                found.insert(entry.name.to_vec(), attr);
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// How one path differs. Times alone are no difference, and a directory's entries are told by themselves.
    fn difference(
        &self,
        before: &Attr,
        after: &Attr,
        from: AsOf,
        to: AsOf,
    ) -> Result<Option<ChangeKind>, End> {
        if before.kind != after.kind {
            return Ok(Some(ChangeKind::Replaced));
        }
        let same_inode = before.ino == after.ino;
        if same_inode && before.ctime == after.ctime && before.mtime == after.mtime {
            return Ok(None);
        }
        let changed = match before.kind {
            FileKind::Directory => false,
            FileKind::File => {
                let untouched = same_inode && before.mtime == after.mtime;
                before.size != after.size
                    || (!untouched && !self.same_bytes(before, after, from, to)?)
            }
            FileKind::Symlink => {
                let target = |attr: &Attr, as_of| self.client.readlink(attr.ino, as_of);
                target(before, from)? != target(after, to)?
            }
            _ => before.rdev != after.rdev,
        };
        if changed {
            return Ok(Some(ChangeKind::Changed));
        }
        let owner = |attr: &Attr| (attr.mode, attr.uid, attr.gid);
        let attributes = owner(before) != owner(after)
            || self.xattrs(before.ino, from)? != self.xattrs(after.ino, to)?;
        Ok(attributes.then_some(ChangeKind::Attributes))
    }

    /// Whether two files of one size hold the same bytes.
    pub(super) fn same_bytes(
        &self,
        before: &Attr,
        after: &Attr,
        from: AsOf,
        to: AsOf,
    ) -> Result<bool, End> {
        let mut offset = 0;
        while offset < before.size {
            let part = |attr: &Attr, as_of| {
                self.client.read(attr.ino, as_of, offset, PART_BYTES, Wait::Allowed)
            };
            let (one, other) = (part(before, from)?, part(after, to)?);
            if one != other {
                return Ok(false);
            }
            match one {
                Some(bytes) if !bytes.is_empty() => offset += bytes.len() as u64,
                _ => break,
            }
        }
        Ok(true)
    }

    /// The extended attributes of a file at an instant, by name.
    pub(super) fn xattrs(
        &self,
        ino: Ino,
        as_of: AsOf,
    ) -> Result<BTreeMap<bytes::Bytes, bytes::Bytes>, End> {
        let mut found = BTreeMap::new();
        for name in self.client.listxattr(ino, as_of)? {
            let value = self.client.getxattr(ino, &name, as_of)?;
            found.insert(name, value);
        }
        Ok(found)
    }

    fn contents(&mut self, side: Side, attr: &Attr, as_of: AsOf, max: u64) -> Result<(), End> {
        self.need_then_and_now(attr, as_of, READ, &Raw::default())?;
        let until = attr.size.min(max);
        let mut offset = 0;
        loop {
            let len = u64::from(PART_BYTES).min(until - offset) as u32;
            let bytes = self.client.read(attr.ino, as_of, offset, len, Wait::Allowed)?;
            let bytes = bytes.unwrap_or_default();
            offset += bytes.len() as u64;
            let end = offset >= until || bytes.is_empty();
            self.say(Answer::Contents { side, bytes: Raw(bytes.to_vec()), end })?;
            if end {
                return Ok(());
            }
        }
    }
}

fn row(pair: &Pair, kind: ChangeKind) -> ChangeRow {
    let file = pair.after.as_ref().or(pair.before.as_ref()).map_or(FileKind::File, |a| a.kind);
    ChangeRow {
        path: Raw(pair.path.clone()),
        kind,
        file,
        before: None,
        size_before: pair.before.as_ref().map(content_size),
        size_after: pair.after.as_ref().map(content_size),
    }
}

pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, name].join(&b'/') }
}

/// What is not there is no error here.
pub(super) fn optional(attr: Result<Attr, FsError>) -> Result<Option<Attr>, FsError> {
    match attr {
        Ok(attr) => Ok(Some(attr)),
        Err(FsError::NotFound | FsError::Stale | FsError::NotDirectory) => Ok(None),
        Err(error) => Err(error),
    }
}
