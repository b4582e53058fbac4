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
use crate::meta::own;
use crate::meta::record::Inode;
use crate::meta::record::Session;
use crate::series::Past;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Time;
use std::ops::ControlFlow;

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
        self.drop_link(dirent.ino, inode, keep_open, time)?;
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
        self.drop_link(dirent.ino, inode, keep_open, time)?;
        lose_entry(&mut parent, true, time);
        self.put_inode(dir, &parent);
        Ok(())
    }

    /// The last handle of an orphan is closed: it goes, unless another session may have it open.
    pub(super) fn release(&mut self, ino: Ino) -> Result<(), FsError> {
        let inode = self.inode(ino)?;
        if inode.nlink > 0 {
            return Err(FsError::Invalid("the file still has a name"));
        }
        self.keep_finished(ino)?;
        self.disown(self.session, ino, &inode)
    }

    /// An orphan is not the session's any more. It goes with the last session that it was one of.
    pub(super) fn disown(
        &mut self,
        session: SessionId,
        ino: Ino,
        inode: &Inode,
    ) -> Result<(), FsError> {
        self.remove_state(&StateKey::Orphan { session, ino });
        for other in self.sessions_besides(session)? {
            let key = StateKey::Orphan { session: other, ino }.encode();
            if self.present.state(&key)?.is_some() {
                return Ok(());
            }
        }
        self.remove_inode(ino, inode);
        Ok(())
    }

    /// All sessions but one, those included that were ended and have left something. A client knows of none.
    fn sessions_besides(&mut self, session: SessionId) -> Result<Vec<SessionId>, FsError> {
        let mut sessions = Vec::new();
        if !self.is_replica() {
            return Ok(sessions);
        }
        self.present.state_scan(&StateKey::sessions(), &mut |key, _| {
            match StateKey::decode(key) {
                Some(StateKey::Session { session: other }) if other != session => {
                    sessions.push(other);
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        Ok(sessions)
    }

    /// Who may have a file open that the session removes: everybody where it is nobody's, the session too, where a program may be
    /// about to open it; and nobody where somebody owns it. See `docs/decisions/0016-files-open-elsewhere.md`.
    fn may_have_open(&mut self, ino: Ino, inode: &Inode) -> Result<Vec<SessionId>, FsError> {
        let nobodys = self.direct
            && inode.kind == FileKind::File
            && own::owner(&mut *self.present, ino)?.is_none();
        if !nobodys {
            return Ok(Vec::new());
        }
        let others = self.sessions_besides(self.session)?;
        let mut open = vec![self.session];
        for session in others {
            let member = self.state::<Session>(&StateKey::Session { session })?;
            if member.is_some_and(|member| member.is_open()) {
                open.push(session);
            }
        }
        Ok(open)
    }

    /// The inode that an entry names: without it, the tree is damaged.
    pub(super) fn named(&mut self, ino: Ino) -> Result<Inode, FsError> {
        let damaged =
            || FsError::Damaged(format!("an entry names inode {ino}, which is not there"));
        self.find_inode(ino)?.ok_or_else(damaged)
    }

    /// Takes one name from `ino`; a directory has no more than one. The caller took care of the entry.
    pub(super) fn drop_link(
        &mut self,
        ino: Ino,
        mut inode: Inode,
        keep_open: bool,
        time: Time,
    ) -> Result<(), FsError> {
        inode.nlink = if inode.is_dir() { 0 } else { inode.nlink.saturating_sub(1) };
        inode.ctime = time;
        if inode.nlink > 0 {
            self.put_inode(ino, &inode);
            return Ok(());
        }
        let others = self.may_have_open(ino, &inode)?;
        let keepers = others.into_iter().chain(keep_open.then_some(self.session));
        let keepers: Vec<SessionId> = keepers.collect();
        if keepers.is_empty() {
            self.remove_inode(ino, &inode);
            return Ok(());
        }
        self.put_inode(ino, &inode);
        for session in keepers {
            self.put_sign(&StateKey::Orphan { session, ino });
        }
        Ok(())
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
