//! Listing a directory with attributes where the server is far: many are asked for at a time.
//!
//! Not here: the order of entries (`meta::read`), listings of the past and without attributes (`names`).

use crate::meta::key;
use crate::meta::read;
use crate::meta::record::Dirent;
use crate::tsdb_client::Client;
use crate::tsdb_client::DirEntry;
use crate::tsdb_client::change::Change;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FsError;
use crate::types::Ino;
use std::ops::ControlFlow;

/// Entries whose attributes are asked for at a time.
const ATTRS_AT_A_TIME: usize = 64;

impl Client {
    /// As [`Client::readdir`] of the present, with attributes.
    pub(super) fn readdir_far(
        &self,
        dir: Ino,
        after: u64,
        visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let mut after = after;
        loop {
            let mut found: Vec<(Vec<u8>, Dirent, u64)> = Vec::with_capacity(ATTRS_AT_A_TIME);
            read::readdir(&*self.core, dir, after, AsOf::Now, &mut |entry| {
                found.push((entry.name.to_vec(), entry.dirent, entry.cookie));
                // Those that share a hash go together: there is no going on between them.
                match found.len() >= ATTRS_AT_A_TIME && entry.cookie > after {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
            let Some((_, _, last)) = found.last() else { return Ok(()) };
            let (full, last) = (found.len() >= ATTRS_AT_A_TIME, *last);
            let attrs = self.core.look(|change| {
                change.ahead(found.iter().map(|(_, dirent, _)| key::inode(dirent.ino)))?;
                found.iter().map(|(_, dirent, _)| change.attr_if_there(dirent.ino)).collect()
            });
            let attrs: Vec<Option<Attr>> = attrs?;
            for ((name, Dirent { ino, kind }, cookie), attr) in found.iter().zip(attrs) {
                // Removed since the entry was read.
                let Some(attr) = attr else { continue };
                self.core.paths.note(dir, name, *ino);
                let (ino, kind, cookie, attr) = (*ino, *kind, *cookie, Some(attr));
                if visit(DirEntry { name, ino, kind, cookie, attr }).is_break() {
                    return Ok(());
                }
            }
            if !full {
                return Ok(());
            }
            after = last;
        }
    }
}

impl Change<'_> {
    fn attr_if_there(&mut self, ino: Ino) -> Result<Option<Attr>, FsError> {
        match self.attr(ino) {
            Err(FsError::Stale) if !self.is_short() => Ok(None),
            attr => attr.map(Some),
        }
    }
}
