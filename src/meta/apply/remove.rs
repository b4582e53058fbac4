//! Names and files that go: `Unlink`, `Rmdir`, `Release`.
//!
//! Of a file that goes, the inode's row alone is removed. Its extents and attributes stay: instants before show
//! them. They are swept once no version of the inode leads to them.

use crate::meta::apply::Apply;
use crate::meta::apply::check_name;
use crate::meta::apply::lose_entry;
use crate::meta::apply::past_of_entry;
use crate::meta::key;
use crate::meta::key::StateKey;
use crate::meta::key::Sweep;
use crate::meta::record::Inode;
use crate::series::Past;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Time;

impl Apply<'_> {
    pub(super) fn unlink(
        &mut self,
        dir: Ino,
        name: &[u8],
        keep_open: bool,
        time: Time,
    ) -> Result<(), FsError> {
        check_name(name)?;
        let mut parent = self.dir(dir)?;
        let dirent = self.dirent(dir, name)?.ok_or(FsError::NotFound)?;
        if dirent.kind == FileKind::Directory {
            return Err(FsError::IsDirectory);
        }
        let inode = self.named(dirent.ino)?;
        self.keep_finished(dirent.ino)?;

        self.remove_dirent(dir, name, past_of_entry(&parent, inode.transient));
        self.drop_link(dirent.ino, inode, keep_open, time);
        lose_entry(&mut parent, false, time);
        self.put_inode(dir, &parent);
        Ok(())
    }

    pub(super) fn rmdir(
        &mut self,
        dir: Ino,
        name: &[u8],
        keep_open: bool,
        time: Time,
    ) -> Result<(), FsError> {
        check_name(name)?;
        let mut parent = self.dir(dir)?;
        let dirent = self.dirent(dir, name)?.ok_or(FsError::NotFound)?;
        if dirent.kind != FileKind::Directory {
            return Err(FsError::NotDirectory);
        }
        let inode = self.named(dirent.ino)?;
        if inode.size > 0 {
            return Err(FsError::NotEmpty);
        }

        self.remove_dirent(dir, name, past_of_entry(&parent, inode.transient));
        self.drop_link(dirent.ino, inode, keep_open, time);
        lose_entry(&mut parent, true, time);
        self.put_inode(dir, &parent);
        Ok(())
    }

    /// The last handle of an orphan is closed.
    pub(super) fn release(&mut self, ino: Ino) -> Result<(), FsError> {
        let inode = self.inode(ino)?;
        if inode.nlink > 0 {
            return Err(FsError::Invalid("the file still has a name"));
        }
        self.keep_finished(ino)?;
        self.remove_state(&StateKey::Orphan { session: self.session, ino });
        self.remove_inode(ino, &inode);
        Ok(())
    }

    /// The inode that an entry names: without it, the tree is damaged.
    pub(super) fn named(&mut self, ino: Ino) -> Result<Inode, FsError> {
        let damaged =
            || FsError::Damaged(format!("an entry names inode {ino}, which is not there"));
        self.find_inode(ino)?.ok_or_else(damaged)
    }

    /// Takes one name from `ino`; a directory has no more than one. The caller took care of the entry.
    pub(super) fn drop_link(&mut self, ino: Ino, mut inode: Inode, keep_open: bool, time: Time) {
        inode.nlink = if inode.is_dir() { 0 } else { inode.nlink.saturating_sub(1) };
        inode.ctime = time;
        if inode.nlink > 0 {
            self.put_inode(ino, &inode);
        } else if keep_open {
            self.put_inode(ino, &inode);
            self.put_sign(&StateKey::Orphan { session: self.session, ino });
        } else {
            self.remove_inode(ino, &inode);
        }
    }

    /// Removes an inode that has neither names nor handles.
    pub(super) fn remove_inode(&mut self, ino: Ino, inode: &Inode) {
        // A directory that was told to keep no history had one before, and entries of then still name it.
        let past = if inode.transient { Past::Forget } else { Past::Keep };
        self.present.remove(&key::inode(ino), past);
        self.totals.files -= 1;
        self.totals.live_bytes -= inode.allocated as i64;
        self.totals.history_bytes += inode.allocated as i64;
        if self.step.contents.remove(&ino) || inode.transient {
            self.sweep_contents(ino, inode);
        }
        if self.step.attributes.remove(&ino) || inode.transient && inode.has_xattrs {
            self.sweep(Sweep::Xattrs { ino });
        }
    }

    /// The present contents of `ino` are in no version that is kept: their rows may go.
    pub(super) fn sweep_contents(&mut self, ino: Ino, inode: &Inode) {
        if inode.high > 0 {
            self.sweep(Sweep::Extents { ino, generation: inode.generation });
        }
    }
}
