//! The past: instants that can be read, the versions of a name, what was deleted, marks.
//!
//! Not here: reading at an instant, which every reading call does; commands (`control`).

use crate::meta::apply::check_name;
use crate::meta::key;
use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::meta::read;
use crate::meta::record::Horizon;
use crate::meta::record::Mark;
use crate::meta::record::Record;
use crate::series::KeyRange;
use crate::series::Readable;
use crate::tsdb_client::Caller;
use crate::tsdb_client::Client;
use crate::tsdb_client::Deleted;
use crate::tsdb_client::FileVersion;
use crate::tsdb_client::Marked;
use crate::tsdb_client::core::Core;
use crate::types::AsOf;
use crate::types::BatchSeq;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use crate::types::instant;
use bytes::Bytes;
use std::sync::atomic::Ordering::Relaxed;

/// Rows asked of the server at a time.
const PAGE_ROWS: usize = 512;
/// How far a user's clock may be ahead of the leader's before an instant counts as the future.
const AHEAD_NS: u64 = 1_000_000_000;

/// Removals that follow each other by no more than this are one: `rm -r` empties a directory before it removes it.
const TOGETHER_NS: u64 = 2_000_000_000;
/// Most removals that are looked at to find where one began.
const TOGETHER_MAX: usize = 100_000;

/// What is shown rows of state: key, value.
pub(super) type VisitState<'a> = &'a mut dyn FnMut(&[u8], &Bytes) -> Result<(), FsError>;

impl Core {
    /// Returns once everything done before this call on this mount is applied.
    ///
    /// # Errors
    /// `Lost`, `Closing`.
    pub(super) fn settle(&self) -> Result<(), FsError> {
        let seq = self.send_all()?;
        self.await_applied(seq)
    }

    /// Waits until a batch that was sent is applied. A server is in no hurry with that unless it is asked for something
    /// that comes after.
    pub(super) fn await_applied(&self, seq: BatchSeq) -> Result<(), FsError> {
        if self.journal.applied() < seq
            && let Err(error) = self.ask()?.barrier()
        {
            self.journal.check()?;
            return Err(error);
        }
        self.journal.wait_applied(seq)
    }

    /// The rows of state in a range.
    pub(super) fn each_state(
        &self,
        range: &KeyRange,
        visit: VisitState<'_>,
    ) -> Result<(), FsError> {
        let mut range = range.clone();
        loop {
            let page = self.ask()?.state(&range, PAGE_ROWS)?;
            for (key, row) in &page.rows {
                visit(key, row)?;
            }
            match page.rows.last().filter(|_| page.more) {
                Some((last, _)) => range.start = [last, &[0][..]].concat(),
                None => return Ok(()),
            }
        }
    }
}

/// The past.
impl Client {
    /// The present as an instant: everything done before on this mount is in it.
    ///
    /// # Errors
    /// `Lost`, `Closing`.
    pub fn present(&self) -> Result<Stamp, FsError> {
        let core = &self.core;
        core.settle()?;
        // Nothing is ever stamped at or before this any more.
        let barrier = core.ask()?.barrier()?;
        core.readable.fetch_max(barrier.0, Relaxed);
        Ok(barrier)
    }

    /// Returns once the instant can be read: what was done up to it has been applied.
    ///
    /// # Errors
    /// `BeforeHorizon`; `BadInstant` for the future.
    pub fn now_readable(&self, at: Stamp) -> Result<(), FsError> {
        let core = &self.core;
        if at.0 > core.readable.load(Relaxed) {
            let now = core.clock.wall();
            if at.0 > now.0 + AHEAD_NS {
                return Err(FsError::BadInstant(format!("{} is in the future", instant::utc(at))));
            }
            match self.present() {
                // Whoever is asked below says whether it has come so far.
                Err(FsError::Unreachable(_)) if core.server.prefers_old() => {}
                Err(error) => return Err(error),
                Ok(present) if at > present => {
                    let why = format!("{} is in the future", instant::utc(at));
                    return Err(FsError::BadInstant(why));
                }
                Ok(_) => {}
            }
        }
        // The root was there at every instant, so only the horizon can be in the way.
        core.ask()?.get(&key::inode(Ino::ROOT), AsOf::At(at)).map(|_| ())
    }

    /// Which instants can be read.
    ///
    /// # Errors
    /// As for reading.
    pub fn readable(&self) -> Result<Readable, FsError> {
        let mut oldest = Stamp::ZERO;
        let horizon = KeyRange::prefix(&StateKey::Horizon.encode());
        self.core.each_state(&horizon, &mut |key, row| {
            oldest = Horizon::from_row(key, row)?.0;
            Ok(())
        })?;
        let marks = self.marks()?.iter().map(|mark| mark.stamp).collect();
        Ok(Readable { oldest, marks })
    }

    /// What the name was, newest first, over all inodes that had it. Waits until this client's own changes have stamps.
    ///
    /// # Errors
    /// `NotFound` where the name never was.
    pub fn file_versions(&self, dir: Ino, name: &[u8]) -> Result<Vec<FileVersion>, FsError> {
        let core = &*self.core;
        core.settle()?;
        let names = core.rules.names();
        let versions = read::file_versions(core, names, dir, name, Stamp::ZERO, Stamp::MAX)?;
        if versions.is_empty() {
            return Err(FsError::NotFound);
        }
        let versions = versions.into_iter().map(|version| {
            let read::FileVersion { ino, stamp, until, inode, named } = version;
            FileVersion { stamp, until, attr: inode.attr(ino), named }
        });
        Ok(versions.collect())
    }

    /// The names of a directory that are no more, newest deletion first.
    ///
    /// # Errors
    /// As for reading.
    pub fn deleted(&self, dir: Ino) -> Result<Vec<Deleted>, FsError> {
        let core = &*self.core;
        core.settle()?;
        let mut found: Vec<Deleted> = read::deleted(core, dir, Stamp::ZERO, Stamp::MAX)?
            .into_iter()
            .map(|read::Deleted { name, ino, kind, when }| {
                let last = Stamp(when.0 - 1);
                Deleted { name: name.into(), when, last, ino, kind }
            })
            .collect();
        found.sort_by_key(|deleted| std::cmp::Reverse(deleted.when));
        Ok(found)
    }

    /// The last instant at which something deleted was whole: for a directory, before what was in it was removed with it.
    ///
    /// # Errors
    /// As for reading.
    pub fn last_whole(&self, gone: &Deleted) -> Result<Stamp, FsError> {
        let began = match gone.kind {
            FileKind::Directory => {
                self.removal_began(gone.ino, gone.when, &mut { TOGETHER_MAX })?
            }
            _ => gone.when,
        };
        Ok(Stamp(began.0 - 1))
    }

    /// When the removal began that ended with a directory's: back over removals of what was in it, each shortly before
    /// the next.
    fn removal_began(&self, dir: Ino, ended: Stamp, left: &mut usize) -> Result<Stamp, FsError> {
        let mut began = ended;
        loop {
            let since = Stamp(began.0.saturating_sub(TOGETHER_NS));
            let mut earlier = began;
            // What went with one batch went at one instant: a directory, and one that was in it, whose files went before.
            for entry in read::deleted(&*self.core, dir, since, began)? {
                *left = left.saturating_sub(1);
                let when = match entry.kind {
                    FileKind::Directory => self.removal_began(entry.ino, entry.when, left)?,
                    _ => entry.when,
                };
                earlier = earlier.min(when);
            }
            if earlier == began || *left == 0 {
                return Ok(earlier);
            }
            began = earlier;
        }
    }

    /// All marks, oldest first.
    ///
    /// # Errors
    /// As for reading.
    pub fn marks(&self) -> Result<Vec<Marked>, FsError> {
        let mut found = Vec::new();
        self.core.each_state(&StateKey::marks(), &mut |key, row| {
            if let Some(StateKey::Mark { name }) = StateKey::decode(key) {
                let Mark { stamp, uid, note } = Mark::from_row(key, row)?;
                found.push(Marked { name: name.into(), stamp, uid, note });
            }
            Ok(())
        })?;
        found.sort_by_key(|mark| mark.stamp);
        Ok(found)
    }

    /// Names the present; everything done before on this mount is in it, and durable. Its instant.
    ///
    /// # Errors
    /// `Exists`, `Invalid` name, `Lost`.
    pub fn mark(&self, caller: Caller, name: &[u8], note: &str) -> Result<Stamp, FsError> {
        // Said here rather than by the log, whose refusals only speak of broken rules.
        check_name(name)?;
        if self.find_mark(name)?.is_some() {
            return Err(FsError::Exists);
        }
        self.core.settle()?;
        let op =
            Op::Mark { name: Bytes::copy_from_slice(name), note: note.to_owned(), uid: caller.uid };
        match self.core.ask()?.administer(op) {
            // Asked twice, as the first answer was lost with whoever gave it: it was not there before.
            Err(FsError::Refused(why)) if !self.core.near => match self.find_mark(name)? {
                Some(mark) if mark.uid == caller.uid && mark.note == note => Ok(mark.stamp),
                _ => Err(FsError::Refused(why)),
            },
            marked => marked,
        }
    }

    /// Removes a mark. What only it kept may then be purged.
    ///
    /// # Errors
    /// `NotFound`; `Denied` unless the caller made it, mounted, or is root.
    pub fn unmark(&self, caller: Caller, name: &[u8]) -> Result<(), FsError> {
        let mark = self.find_mark(name)?.ok_or(FsError::NotFound)?;
        if caller.uid != mark.uid && !self.core.is_owner(caller) {
            return Err(FsError::Denied);
        }
        let name = Bytes::copy_from_slice(name);
        self.core.ask()?.administer(Op::Unmark { name }).map(|_| ())
    }

    pub(super) fn find_mark(&self, name: &[u8]) -> Result<Option<Marked>, FsError> {
        Ok(self.marks()?.into_iter().find(|mark| *mark.name == *name))
    }
}
