//! The store and its clients: `Format`, sessions, inode numbers, marks, retention.
//!
//! These come from the server, alone in a batch without a session's number; a client does not apply them to its view.

use crate::meta::apply::Apply;
use crate::meta::apply::OP_REGIONS_MAX;
use crate::meta::apply::check_name;
use crate::meta::key;
use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::meta::record::Grant;
use crate::meta::record::Inode;
use crate::meta::record::Mark;
use crate::meta::record::Next;
use crate::meta::record::Retention;
use crate::meta::record::Session;
use crate::meta::record::Store;
use crate::series::Past;
use crate::types::BatchSeq;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Stamp;
use std::ops::ControlFlow;

/// What rows and ops may contain, as this program knows them.
///
/// 1: the first. 2: several sessions, direct batches. 3: placements.
pub const FEATURES: u32 = 3;
/// Longest name of a client and longest note of a mark, in bytes.
const TEXT_BYTES_MAX: usize = 1000;
/// Most inode numbers given out at once.
const GRANT_INOS_MAX: u64 = 1 << 32;

impl Apply<'_> {
    pub(super) fn format(&mut self, op: &Op) -> Result<(), FsError> {
        let Op::Format { uuid, hash_key, mode, uid, gid, time } = op else {
            unreachable!("called for formatting only");
        };
        if self.state::<Store>(&StateKey::Store)?.is_some() {
            return Err(FsError::Exists);
        }
        let Some(made) = self.present.stamp() else { return Ok(()) };
        let store = Store { uuid: *uuid, hash_key: *hash_key, features: FEATURES, made };
        self.put_state(&StateKey::Store, &store);
        let root = Inode {
            mode: mode & 0o7777,
            uid: *uid,
            gid: *gid,
            nlink: 2,
            parent: Some(Ino::ROOT),
            ..Inode::new(FileKind::Directory, *time)
        };
        let row = crate::meta::record::Record::to_row(&root);
        self.present.put(&key::inode(Ino::ROOT), row, Past::Fresh);
        self.totals.files += 1;
        self.next =
            Some(Next { ino: Ino::ROOT.get() + 1, session: SessionId(1), block: 1, epoch: 1 });
        Ok(())
    }

    /// A store that an older program made: from here on that program must not open it any more.
    pub(super) fn raise(&mut self, features: u32) -> Result<(), FsError> {
        if features > FEATURES {
            return Err(FsError::Damaged(format!(
                "a newer tsfs raised the store to feature level {features}, and this one knows up to {FEATURES}: use that version or a later one"
            )));
        }
        let Some(store) = self.state::<Store>(&StateKey::Store)? else {
            return Err(FsError::NotFound);
        };
        if store.features < features {
            self.put_state(&StateKey::Store, &Store { features, ..store });
        }
        Ok(())
    }

    /// Opens a session. Where it is alone, it owns the whole.
    pub(super) fn open_session(&mut self, session: SessionId, client: &str) -> Result<(), FsError> {
        let Some(opened) = self.present.stamp() else { return Ok(()) };
        check_text(client)?;
        let alone = !self.is_another_session(session)?;
        let next = self.next()?;
        if session < next.session {
            return Err(FsError::Invalid("a session's number is never used twice"));
        }
        next.session = SessionId(session.0 + 1);
        let member = Session {
            client: client.to_owned(),
            opened,
            last: BatchSeq(0),
            inos: Vec::new(),
            ended: false,
            told: None,
        };
        self.put_state(&StateKey::Session { session }, &member);
        if alone { self.put_whole(session, BatchSeq(0)) } else { Ok(()) }
    }

    /// Ends a session at once, as far as its rights go; what it leaves goes with this op and further ones of the same.
    pub(super) fn end_session(&mut self, session: SessionId) -> Result<(), FsError> {
        let key = StateKey::Session { session };
        if let Some(member) = self.state::<Session>(&key)?.filter(Session::is_open) {
            self.put_state(&key, &Session { ended: true, ..member });
        }
        let grant = self.state::<Grant>(&StateKey::Grant)?;
        if grant.is_some_and(|grant| grant.session == session) {
            self.remove_state(&StateKey::Grant);
        }
        let mut orphans = Vec::new();
        self.present.state_scan(&StateKey::orphans(session), &mut |key, _| {
            if let Some(StateKey::Orphan { ino, .. }) = StateKey::decode(key) {
                orphans.push(ino);
            }
            match orphans.len() > OP_REGIONS_MAX {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        let mut more = orphans.len() > OP_REGIONS_MAX;
        let left = OP_REGIONS_MAX.saturating_sub(orphans.len());
        for ino in orphans.into_iter().take(OP_REGIONS_MAX) {
            match self.find_inode(ino)? {
                Some(inode) => {
                    self.keep_finished(ino)?;
                    self.disown(session, ino, &inode)?;
                }
                None => self.remove_state(&StateKey::Orphan { session, ino }),
            }
        }
        let (locks, more_locks) = self.drop_locks(session, left)?;
        more = more || more_locks || self.remove_ranges(session, left - locks)?;
        if !more {
            self.remove_state(&key);
        }
        Ok(())
    }

    pub(super) fn grant_inos(&mut self, session: SessionId, count: u64) -> Result<(), FsError> {
        let key = StateKey::Session { session };
        let Some(mut member) = self.state::<Session>(&key)?.filter(Session::is_open) else {
            return Err(FsError::Invalid("the session is not open"));
        };
        if count == 0 || count > GRANT_INOS_MAX {
            return Err(FsError::Invalid("between 1 and 2^32 inode numbers are given out at once"));
        }
        let next = self.next()?;
        let first = next.ino;
        let end = first.checked_add(count).filter(|end| *end < 1 << 63);
        let end = end.ok_or(FsError::NoSpace)?;
        let (Some(first_ino), Some(last_ino)) = (Ino::new(first), Ino::new(end - 1)) else {
            return Err(FsError::Damaged("inode number 0 is next".to_owned()));
        };
        next.ino = end;
        match member.inos.last_mut() {
            Some((_, last)) if *last == first => *last = end,
            _ => member.inos.push((first, end)),
        }
        self.put_state(&key, &member);
        self.put_range(session, first_ino, last_ino)
    }

    /// Names the instant of this step, which ends with it.
    pub(super) fn mark(&mut self, name: &[u8], note: &str, uid: u32) -> Result<(), FsError> {
        check_name(name)?;
        check_text(note)?;
        let Some(stamp) = self.present.stamp() else { return Ok(()) };
        let key = StateKey::Mark { name: name.to_vec() };
        if self.state::<Mark>(&key)?.is_some() {
            return Err(FsError::Exists);
        }
        self.put_state(&key, &Mark { stamp, uid, note: note.to_owned() });
        self.put_sign(&StateKey::MarkAt { stamp, name: name.to_vec() });
        // Its instant may have been marked and unmarked before, with versions still in the queue.
        self.remove_state(&StateKey::Unmarked { mark: stamp });
        self.step.marked = true;
        Ok(())
    }

    pub(super) fn unmark(&mut self, name: &[u8]) -> Result<(), FsError> {
        if self.present.stamp().is_none() {
            return Ok(());
        }
        let key = StateKey::Mark { name: name.to_vec() };
        let Some(Mark { stamp, .. }) = self.state(&key)? else { return Err(FsError::NotFound) };
        self.remove_state(&key);
        self.remove_state(&StateKey::MarkAt { stamp, name: name.to_vec() });
        if self.mark_in(stamp, Stamp(stamp.0 + 1))?.is_none() {
            self.put_sign(&StateKey::Unmarked { mark: stamp });
        }
        Ok(())
    }

    pub(super) fn set_retention(&mut self, retention: &Retention) -> Result<(), FsError> {
        if retention.disk_percent.is_some_and(|percent| percent > 100) {
            return Err(FsError::Invalid("a share is at most 100 percent"));
        }
        self.put_state(&StateKey::Retention, retention);
        Ok(())
    }

    /// The oldest marked instant in `[from, to)`.
    pub(super) fn mark_in(&mut self, from: Stamp, to: Stamp) -> Result<Option<Stamp>, FsError> {
        let mut found = None;
        self.present.state_scan(&StateKey::marks_in(from, to), &mut |key, _| {
            if let Some(StateKey::MarkAt { stamp, .. }) = StateKey::decode(key) {
                found = Some(stamp);
            }
            ControlFlow::Break(())
        })?;
        Ok(found)
    }
}

pub(super) fn check_text(text: &str) -> Result<(), FsError> {
    match text.len() <= TEXT_BYTES_MAX {
        true => Ok(()),
        false => Err(FsError::Invalid("a name or a note has at most 1000 bytes")),
    }
}
