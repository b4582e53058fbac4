//! New files and new names: `Create`, `Link`.

use crate::meta::apply::Apply;
use crate::meta::apply::check_name;
use crate::meta::apply::gain_entry;
use crate::meta::apply::past_of_entry;
use crate::meta::key;
use crate::meta::op::Op;
use crate::meta::record::Dirent;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::series::Past;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SYMLINK_BYTES_MAX;
use crate::types::Time;
use bytes::Bytes;

/// Most names of one file, and most subdirectories of one directory. Leaves room below what `stat` can tell.
pub(super) const LINKS_MAX: u32 = 1 << 30;

impl Apply<'_> {
    pub(super) fn create(&mut self, op: &Op) -> Result<(), FsError> {
        let Op::Create { dir, name, ino, kind, mode, uid, gid, rdev, target, time } = op else {
            unreachable!("called for creations only");
        };
        check_name(name)?;
        check_target(*kind, target)?;
        let mut parent = self.dir_to_fill(*dir)?;
        if self.dirent(*dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let is_dir = *kind == FileKind::Directory;
        if is_dir && parent.nlink >= LINKS_MAX {
            return Err(FsError::TooManyLinks);
        }
        self.use_ino(*ino)?;

        let inode = Inode {
            mode: mode & 0o7777,
            uid: *uid,
            gid: *gid,
            nlink: if is_dir { 2 } else { 1 },
            rdev: *rdev,
            parent: is_dir.then_some(*dir),
            size: target.len() as u64,
            no_history: is_dir && parent.no_history,
            transient: parent.no_history,
            target: target.clone(),
            ..Inode::new(*kind, *time)
        };
        self.present.put(&key::inode(*ino), inode.to_row(), Past::Fresh);
        let past = past_of_entry(&parent, inode.transient);
        self.put_dirent(*dir, name, Dirent { ino: *ino, kind: *kind }, past);
        gain_entry(&mut parent, is_dir, *time);
        self.put_inode(*dir, &parent);
        self.totals.files += 1;
        Ok(())
    }

    pub(super) fn link(
        &mut self,
        ino: Ino,
        dir: Ino,
        name: &[u8],
        time: Time,
    ) -> Result<(), FsError> {
        check_name(name)?;
        let mut parent = self.dir_to_fill(dir)?;
        let mut inode = self.inode(ino)?;
        if inode.is_dir() {
            return Err(FsError::NotPermitted("a directory has one name"));
        }
        if self.dirent(dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        match inode.nlink {
            0 => return Err(FsError::NotFound),
            LINKS_MAX.. => return Err(FsError::TooManyLinks),
            _ => {}
        }

        let past = past_of_entry(&parent, inode.transient);
        self.put_dirent(dir, name, Dirent { ino, kind: inode.kind }, past);
        inode.nlink += 1;
        inode.ctime = time;
        self.put_inode(ino, &inode);
        gain_entry(&mut parent, false, time);
        self.put_inode(dir, &parent);
        Ok(())
    }

    /// A replica gives a number away only once, whatever a client claims: only numbers that were granted to the
    /// session and in rising order.
    fn use_ino(&mut self, ino: Ino) -> Result<(), FsError> {
        let Some(member) = &mut self.member else { return Ok(()) };
        let raw = ino.get();
        member.inos.retain(|(_, end)| *end > raw);
        match member.inos.first_mut() {
            Some((first, _)) if *first <= raw => {
                *first = raw + 1;
                Ok(())
            }
            _ => Err(FsError::Invalid("the inode number was not granted to the session")),
        }
    }
}

fn check_target(kind: FileKind, target: &Bytes) -> Result<(), FsError> {
    match (kind, target.len()) {
        (FileKind::Symlink, 0) => Err(FsError::NotFound),
        (FileKind::Symlink, 1..=SYMLINK_BYTES_MAX) if !target.contains(&0) => Ok(()),
        (FileKind::Symlink, 1..=SYMLINK_BYTES_MAX) => {
            Err(FsError::Invalid("a link's target has no zero byte"))
        }
        (FileKind::Symlink, _) => Err(FsError::LinkTooLong),
        (_, 0) => Ok(()),
        _ => Err(FsError::Invalid("only symbolic links have a target")),
    }
}
