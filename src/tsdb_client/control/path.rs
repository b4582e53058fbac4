//! Paths of requests, and what their caller may do there.
//!
//! The kernel checks permissions of ordinary calls; a request arrives as one write to the control file, so the
//! directories on its way are checked here.

use crate::tsdb_client::control::End;
use crate::tsdb_client::control::Job;
use crate::tsdb_client::control::refuse;
use crate::tsdb_client::permission::SEARCH;
use crate::tsdb_client::permission::WRITE;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::wire::control::FailureKind;
use crate::wire::control::Raw;
use bytes::Bytes;

/// The path of a request in a message. The empty one is the directory of the control file, which only the top of a mount needs.
pub(super) fn shown(path: &Raw) -> String {
    if path.0.is_empty() { "the top of the mount".to_owned() } else { format!("\"{path}\"") }
}

impl Job<'_> {
    /// # Errors
    /// A refusal that names `what`.
    pub(super) fn need(&self, attr: &Attr, want: u32, what: &Raw) -> Result<(), End> {
        if self.caller.may(attr, want) {
            return Ok(());
        }
        let verb = match want {
            want if want & WRITE != 0 => "change",
            SEARCH => "enter",
            _ => "read",
        };
        let what = if what.0.is_empty() { "it".to_owned() } else { format!("\"{what}\"") };
        refuse(FailureKind::Denied, format!("you may not {verb} {what}"))
    }

    /// Reading the past needs the permission of then and, of what is still there, of now.
    pub(super) fn need_then_and_now(
        &self,
        attr: &Attr,
        as_of: AsOf,
        want: u32,
        what: &Raw,
    ) -> Result<(), End> {
        self.need(attr, want, what)?;
        match (as_of, self.caller.uid) {
            (AsOf::Now, _) | (_, 0) => Ok(()),
            (AsOf::At(_), _) => match self.client.getattr(attr.ino, AsOf::Now) {
                Ok(now) => self.need(&now, want, what),
                Err(FsError::NotFound | FsError::Stale) => Ok(()),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// The directory that holds the last part of `path`, and that part.
    pub(super) fn named(&self, path: &Raw) -> Result<(Ino, Bytes), End> {
        let (parents, name) = match path.0.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&path.0[..at], &path.0[at + 1..]),
            None => (&[][..], &path.0[..]),
        };
        if path.0.is_empty() {
            return refuse(
                FailureKind::Invalid,
                "the top of the mount has no name, so it has no versions and was never deleted; name something in it",
            );
        }
        if name.is_empty() || name == b"." || name == b".." {
            return refuse(
                FailureKind::Invalid,
                format!("\"{path}\" names no file in a directory"),
            );
        }
        Ok((self.walk(parents)?, Bytes::copy_from_slice(name)))
    }

    /// The directory at `path`.
    pub(super) fn directory(&self, path: &Raw) -> Result<Ino, End> {
        self.walk(&path.0)
    }

    /// The directory at `path`, or the one that holds the file there.
    pub(super) fn nearest(&self, path: &Raw) -> Result<Ino, End> {
        if path.0.is_empty() {
            return Ok(self.dir);
        }
        let (dir, name) = self.named(path)?;
        let attr = self.client.lookup(dir, &name, AsOf::Now)?;
        Ok(if attr.kind == FileKind::Directory { attr.ino } else { dir })
    }

    /// Follows directories only, never a symbolic link: the command resolved those.
    fn walk(&self, path: &[u8]) -> Result<Ino, End> {
        let mut at = self.client.getattr(self.dir, AsOf::Now)?;
        for name in path.split(|&byte| byte == b'/') {
            self.need(&at, SEARCH, &Raw::from(path))?;
            match name {
                b"" | b"." => continue,
                b".." => {
                    let parent = self.client.parent(at.ino, AsOf::Now)?;
                    at = self.client.getattr(parent, AsOf::Now)?;
                }
                _ => match self.client.lookup(at.ino, name, AsOf::Now) {
                    Err(FsError::NotFound) => {
                        let name = Raw::from(name);
                        return refuse(
                            FailureKind::NotFound,
                            format!(
                                "there is no directory \"{name}\" now; if there was one, restore or undelete it first"
                            ),
                        );
                    }
                    found => at = found?,
                },
            }
        }
        if at.kind != FileKind::Directory {
            return refuse(
                FailureKind::Invalid,
                format!("\"{}\" is not a directory", path.escape_ascii()),
            );
        }
        // For what is looked up in it.
        self.need(&at, SEARCH, &Raw::from(path))?;
        Ok(at.ino)
    }
}
