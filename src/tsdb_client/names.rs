//! Names and attributes: reading and changing them.
//!
//! Every change answers from the rules run over this client's view; what is written to the same inode before is sealed
//! first. Not here: contents, the past beyond reading at an instant.

use crate::meta::apply::truncate_steps;
use crate::meta::key;
use crate::meta::op::Op;
use crate::meta::op::RenameHow;
use crate::meta::op::SetAttr;
use crate::meta::op::XattrHow;
use crate::meta::read;
use crate::meta::read::Entry;
use crate::meta::record::Dirent;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::tsdb_client::Caller;
use crate::tsdb_client::Client;
use crate::tsdb_client::DirEntry;
use crate::tsdb_client::New;
use crate::tsdb_client::Space;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::core::Core;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::NAME_BYTES_MAX;
use crate::types::Stamp;
use crate::types::Time;
use bytes::Bytes;
use std::ops::ControlFlow;

/// What room a new name may take in the store, all its rows together.
const NAME_ROOM_BYTES: u64 = 4096;

impl Core {
    /// An inode.
    ///
    /// # Errors
    /// `Stale` where there is none.
    pub(super) fn inode(&self, ino: Ino, at: AsOf) -> Result<Inode, FsError> {
        read::existing_inode(self, ino, at)
    }

    /// What `stat` tells, with what was written and is not sealed. Now, both are read in one hold of the lock: between
    /// two, what was written could be sealed, and be missing from the inode and from the bytes.
    ///
    /// # Errors
    /// `Stale` where there is no such inode.
    fn attr(&self, ino: Ino, at: AsOf) -> Result<Attr, FsError> {
        match at {
            AsOf::Now => self.look(|change| change.attr(ino)),
            AsOf::At(_) => Ok(self.inode(ino, at)?.attr(ino)),
        }
    }

    /// A directory.
    ///
    /// # Errors
    /// `Stale`, `NotDirectory`.
    pub(super) fn dir(&self, ino: Ino, at: AsOf) -> Result<Inode, FsError> {
        let inode = self.inode(ino, at)?;
        if inode.is_dir() { Ok(inode) } else { Err(FsError::NotDirectory) }
    }
}

impl Change<'_> {
    /// An attribute of an inode, as a program is told of it.
    pub(super) fn attr(&mut self, ino: Ino) -> Result<Attr, FsError> {
        let mut attr = self.inode(ino)?.attr(ino);
        if let Some(file) = self.local.files.get(&ino) {
            file.adjust(&mut attr);
        }
        Ok(attr)
    }

    fn dirent(&mut self, dir: Ino, name: &[u8]) -> Result<Option<Dirent>, FsError> {
        if name.len() > NAME_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        let key = key::dirent(dir, self.core.rules.names().of(name), name);
        self.row(&key)?.map(|row| Dirent::from_row(&key, &row)).transpose()
    }

    /// Whether what a name names must outlive it. What was written to it is sealed.
    fn keep_open(&mut self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, FsError> {
        let Some(dirent) = self.dirent(dir, name)? else { return Ok(None) };
        self.seal(dirent.ino)?;
        if dirent.kind == FileKind::Symlink {
            let (ino, target) = (dirent.ino, self.inode(dirent.ino)?.target);
            self.after(move |local| local.gone_links.note(ino, target));
        }
        Ok(self.local.is_open(dirent.ino).then_some(dirent.ino))
    }

    /// After a name went: an inode that is open and has no name left is released by its last handle. Fails for nothing
    /// that a repetition could mend, for the op holds already.
    fn note_orphan(&mut self, ino: Option<Ino>) -> Result<(), FsError> {
        let Some(ino) = ino else { return Ok(()) };
        let key = key::inode(ino);
        // A row that the op did not put still has its names.
        let Some(Some(row)) = self.put(&key) else { return Ok(()) };
        if Inode::from_row(&key, &row)?.nlink == 0 {
            self.after(move |local| {
                if let Some(file) = local.files.get_mut(&ino) {
                    file.orphan = true;
                }
            });
        }
        Ok(())
    }
}

/// Reading, now or at an instant. Now includes this client's own changes from the moment their calls returned. Every
/// reading call may also answer `BeforeHorizon`, `Damaged`, `Io`.
impl Client {
    /// # Errors
    /// `NotFound`, `NameTooLong`.
    pub fn lookup(&self, dir: Ino, name: &[u8], at: AsOf) -> Result<Attr, FsError> {
        if let AsOf::At(_) = at {
            let (ino, inode) = read::lookup(&*self.core, self.core.rules.names(), dir, name, at)?;
            return Ok(inode.attr(ino));
        }
        // In one hold of the lock: whatever moves meanwhile, a name has its inode.
        self.core.look(|change| {
            let dirent = change.dirent(dir, name)?.ok_or(FsError::NotFound)?;
            change.core.paths.note(dir, name, dirent.ino);
            change.attr(dirent.ino).map_err(|error| match error {
                FsError::Stale if !change.is_short() => {
                    let ino = dirent.ino;
                    FsError::Damaged(format!("a name leads to inode {ino}, which is not there"))
                }
                error => error,
            })
        })
    }

    /// # Errors
    /// `Stale` where there is no such inode.
    pub fn getattr(&self, ino: Ino, at: AsOf) -> Result<Attr, FsError> {
        self.core.attr(ino, at)
    }

    /// # Errors
    /// `Stale`; `Invalid` where it is no symbolic link.
    pub fn readlink(&self, ino: Ino, at: AsOf) -> Result<Bytes, FsError> {
        match read::readlink(&*self.core, ino, at) {
            // Whoever looked it up while it had its name is told where it led, like anybody who has a file open.
            Err(FsError::Stale) if at == AsOf::Now => self.former_target(ino),
            target => target,
        }
    }

    fn former_target(&self, ino: Ino) -> Result<Bytes, FsError> {
        if let Some(target) = self.core.enter().gone_links.get(ino) {
            return Ok(target);
        }
        let key = key::inode(ino);
        let versions = self.core.ask()?.versions(&key, Stamp::ZERO, Stamp::MAX, 1)?;
        let row = versions.into_iter().next().ok_or(FsError::Stale)?.value;
        let inode = Inode::from_row(&key, &row)?;
        if inode.kind == FileKind::Symlink { Ok(inode.target) } else { Err(FsError::Stale) }
    }

    /// Visits the entries of a directory after the one with cookie `after` (zero: from the beginning), without `.` and
    /// `..`, until the visitor breaks. No lock is held while it visits.
    ///
    /// # Errors
    /// `Stale`, `NotDirectory`.
    pub fn readdir(
        &self,
        dir: Ino,
        at: AsOf,
        after: u64,
        with_attrs: bool,
        visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        self.core.dir(dir, at)?;
        if with_attrs && at == AsOf::Now && !self.core.near {
            return self.readdir_far(dir, after, visit);
        }
        let mut fault = None;
        read::readdir(&*self.core, dir, after, at, &mut |entry| {
            let Entry { name, dirent: Dirent { ino, kind }, cookie } = entry;
            let attr = match with_attrs.then(|| self.getattr(ino, at)).transpose() {
                Ok(attr) => attr,
                // Removed since the entry was read; or of those that keep no past.
                Err(FsError::Stale) => return ControlFlow::Continue(()),
                Err(error) => {
                    fault = Some(error);
                    return ControlFlow::Break(());
                }
            };
            visit(DirEntry { name, ino, kind, cookie, attr })
        })?;
        fault.map_or(Ok(()), Err)
    }

    /// The directory that a directory is in; the root's is the root.
    ///
    /// # Errors
    /// `Stale`, `NotDirectory`.
    pub fn parent(&self, dir: Ino, at: AsOf) -> Result<Ino, FsError> {
        read::parent(&*self.core, dir, at)
    }

    /// # Errors
    /// `NoAttribute`, `Stale`.
    pub fn getxattr(&self, ino: Ino, name: &[u8], at: AsOf) -> Result<Bytes, FsError> {
        if !self.core.inode(ino, at)?.has_xattrs {
            return Err(FsError::NoAttribute);
        }
        read::xattr(&*self.core, ino, name, at)
    }

    /// The names.
    ///
    /// # Errors
    /// `Stale`.
    pub fn listxattr(&self, ino: Ino, at: AsOf) -> Result<Vec<Bytes>, FsError> {
        if !self.core.inode(ino, at)?.has_xattrs {
            return Ok(Vec::new());
        }
        let names = read::xattr_names(&*self.core, ino, at)?;
        Ok(names.into_iter().map(Bytes::from).collect())
    }

    /// # Errors
    /// `Io`.
    pub fn statfs(&self) -> Result<Space, FsError> {
        let status = self.core.ask()?.status()?;
        let held = self.core.journal.held();
        Ok(Space {
            total: status.disk_total,
            free: status.disk_free.saturating_sub(held),
            available: self.core.server.space_left().saturating_sub(held),
            files: status.files,
        })
    }
}

/// Changing names and attributes. Every changing call may also answer `NoSpace` (not those that only remove), `Lost` and
/// `Closing`. What is done is the caller's in the record of changes; whether he may is for the kernel to know.
impl Client {
    /// # Errors
    /// `Exists`, `NotFound` where the directory was removed, `NotDirectory`, `NameTooLong`, `LinkTooLong`, `Invalid`.
    pub fn create(&self, caller: Caller, dir: Ino, name: &[u8], new: New) -> Result<Attr, FsError> {
        let name = Bytes::copy_from_slice(name);
        let time = self.core.now();
        self.core.change_on_hints(caller.uid, |change| {
            change.need(NAME_ROOM_BYTES)?;
            let ino = change.fresh_ino()?;
            let (mode, gid) = inherited(&change.inode(dir)?, &new);
            let New { kind, uid, rdev, ref target, .. } = new;
            let (name, target) = (name.clone(), target.clone());
            change.run(Op::Create { dir, name, ino, kind, mode, uid, gid, rdev, target, time })?;
            change.local.ino_used();
            change.attr(ino)
        })
    }

    /// # Errors
    /// `Exists`, `Stale`, `NotDirectory`, `NotPermitted` for a directory, `TooManyLinks`.
    pub fn link(&self, caller: Caller, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr, FsError> {
        let name = Bytes::copy_from_slice(name);
        let time = self.core.now();
        self.core.change_by(caller.uid, |change| {
            change.need(NAME_ROOM_BYTES)?;
            change.run(Op::Link { ino, dir, name: name.clone(), time })?;
            change.attr(ino)
        })
    }

    /// # Errors
    /// `NotFound`, `IsDirectory`.
    pub fn unlink(&self, caller: Caller, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        let name = Bytes::copy_from_slice(name);
        let time = self.core.now();
        self.core.change_by(caller.uid, |change| {
            let open = change.keep_open(dir, &name)?;
            let keep_open = open.is_some();
            change.run(Op::Unlink { dir, name: name.clone(), keep_open, time })?;
            change.note_orphan(open)
        })
    }

    /// # Errors
    /// `NotFound`, `NotDirectory`, `NotEmpty`.
    pub fn rmdir(&self, caller: Caller, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        let name = Bytes::copy_from_slice(name);
        let time = self.core.now();
        self.core.change_by(caller.uid, |change| {
            let open = change.keep_open(dir, &name)?;
            let keep_open = open.is_some();
            change.run(Op::Rmdir { dir, name: name.clone(), keep_open, time })?;
            change.note_orphan(open)
        })
    }

    /// # Errors
    /// `NotFound`, `Exists`, `NotEmpty`, `IsDirectory`, `NotDirectory`, `Invalid` for a directory into itself.
    pub fn rename(
        &self,
        caller: Caller,
        dir: Ino,
        name: &[u8],
        new_dir: Ino,
        new_name: &[u8],
        how: RenameHow,
    ) -> Result<(), FsError> {
        let (name, new_name) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(new_name));
        let time = self.core.now();
        self.core.change_by(caller.uid, |change| {
            // What a program wrote before it renamed is there when the new name is.
            change.keep_open(dir, &name)?;
            let open = match how {
                RenameHow::Replace => change.keep_open(new_dir, &new_name)?,
                RenameHow::NoReplace | RenameHow::Exchange => None,
            };
            let keep_open = open.is_some();
            let (name, new_name) = (name.clone(), new_name.clone());
            change.run(Op::Rename { dir, name, new_dir, new_name, how, keep_open, time })?;
            change.note_orphan(open)
        })
    }

    /// # Errors
    /// `Stale`, `FileTooBig`, `IsDirectory` for a size.
    pub fn setattr(&self, caller: Caller, ino: Ino, set: SetAttr) -> Result<Attr, FsError> {
        let time = self.core.now();
        if let Some(to) = set.size {
            let size = self.core.look(|change| change.attr(ino))?.size;
            for step in truncate_steps(size, to).take_while(|step| *step != to) {
                let set = SetAttr { size: Some(step), ..SetAttr::default() };
                self.core.change_by(caller.uid, |change| change.set(ino, set.clone(), time))?;
            }
        }
        self.core.change_by(caller.uid, |change| {
            if set.size.is_some() {
                change.need(NAME_ROOM_BYTES)?;
            }
            change.set(ino, set.clone(), time)?;
            if set.size.is_some() && !change.local.is_open(ino) {
                // Nobody will close it.
                change.run(Op::Version { ino })?;
            }
            change.attr(ino)
        })
    }

    /// # Errors
    /// `Exists`, `NoAttribute`, `AttributeTooBig`, `Stale`.
    pub fn setxattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        how: XattrHow,
    ) -> Result<(), FsError> {
        let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        let time = self.core.now();
        self.core.change_by(caller.uid, |change| {
            change.need(NAME_ROOM_BYTES + value.len() as u64)?;
            change.seal(ino)?;
            change.run(Op::SetXattr {
                ino,
                name: name.clone(),
                value: value.clone(),
                how,
                time,
            })?;
            change.forget_plain(ino);
            Ok(())
        })
    }

    /// # Errors
    /// `NoAttribute`, `Stale`.
    pub fn removexattr(&self, caller: Caller, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        let name = Bytes::copy_from_slice(name);
        let time = self.core.now();
        self.core.change_by(caller.uid, |change| {
            change.seal(ino)?;
            change.run(Op::RemoveXattr { ino, name: name.clone(), time })
        })
    }
}

impl Change<'_> {
    /// Sets attributes behind what was written. A new size is new contents.
    fn set(&mut self, ino: Ino, set: SetAttr, time: Time) -> Result<(), FsError> {
        let resizes = set.size.is_some();
        if let Some(size) = set.size {
            self.cut_dirty(ino, size, u64::MAX);
        }
        self.seal(ino)?;
        self.run(Op::SetAttr { ino, set, time })?;
        self.forget_plain(ino);
        if resizes && self.local.is_open(ino) {
            self.note_written(ino);
        }
        Ok(())
    }

    /// Forgets dirty bytes that nobody will read. Where none is left, the file has the size it had before them.
    pub(super) fn cut_dirty(&mut self, ino: Ino, start: u64, end: u64) {
        let Some(file) = self.local.files.get_mut(&ino) else { return };
        let before = file.dirty.bytes();
        file.dirty.cut(start, end);
        self.core.journal.let_go(before - file.dirty.bytes());
        if file.dirty.is_empty() {
            file.written = None;
        }
    }

    /// The next write looks again whether there is something to clear.
    fn forget_plain(&mut self, ino: Ino) {
        if let Some(file) = self.local.files.get_mut(&ino) {
            file.plain = false;
        }
    }
}

const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;

/// Mode and group of a new file: a directory with the set-group-id bit hands its group down, and the bit to directories.
fn inherited(dir: &Inode, new: &New) -> (u32, u32) {
    if dir.mode & S_ISGID == 0 {
        return (new.mode, new.gid);
    }
    let is_dir = new.kind == FileKind::Directory;
    let mut mode = if is_dir { new.mode | S_ISGID } else { new.mode };
    // As the kernel does: a program of a group may not be made by somebody outside of it.
    let outside = new.uid != 0 && new.gid != dir.gid;
    if !is_dir && outside && mode & S_ISGID != 0 && mode & S_IXGRP != 0 {
        mode &= !S_ISGID;
    }
    (mode, dir.gid)
}
