//! Forgetting: `Purge`, `Forget`.
//!
//! What is to be done stands in rows, so that each op does a bounded part and the next goes on where it ended. In this
//! order: what nothing leads to any more (`Sweep`), marks of inodes that say nothing any more (`Shared`), what removed marks kept (`Unmarked`), what ended at or before the
//! horizon (`changes`, the record of every batch). A version that a mark pins is noted under that mark.
//!
//! Sweeping changes present rows, forgetting takes past ones from between others; the lives of blocks are counted
//! from both, so one op does only one of the two, and is alone in its batch.

use crate::meta::apply::Apply;
use crate::meta::apply::OP_REGIONS_MAX;
use crate::meta::apply::OP_ROWS_MAX;
use crate::meta::extents::Extents;
use crate::meta::key;
use crate::meta::key::Key;
use crate::meta::key::StateKey;
use crate::meta::key::Sweep;
use crate::meta::record::Horizon;
use crate::meta::record::Inode;
use crate::meta::record::Next;
use crate::meta::record::Record;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Past;
use crate::series::Replica;
use crate::series::Version;
use crate::series::changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Region;
use crate::types::Stamp;
use bytes::Bytes;
use std::ops::ControlFlow;

/// Whether a purge with this horizon would find something to do. A few seeks.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn is_pending(rows: &dyn Rows, horizon: Stamp) -> Result<bool, FsError> {
    let next = StateKey::Next.encode();
    let next =
        rows.get(Family::State, &next)?.map(|row| Next::from_row(&next, &row)).transpose()?;
    for (family, queue) in [
        (Family::State, StateKey::void(next.map_or(0, |next| next.epoch))),
        (Family::State, StateKey::sweeps()),
        (Family::State, StateKey::unmarked()),
        (Family::Changes, batches_until(horizon)),
    ] {
        let mut any = false;
        rows.scan(family, &queue, Direction::Forward, &mut |_, _| {
            any = true;
            ControlFlow::Break(())
        })?;
        if any {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The records of batches whose first stamp is at or before `horizon`.
fn batches_until(horizon: Stamp) -> KeyRange {
    let end = horizon.0.checked_add(1).map_or(Vec::new(), |end| end.to_be_bytes().to_vec());
    KeyRange { start: Vec::new(), end }
}

impl Apply<'_> {
    pub(super) fn purge(&mut self, horizon: Stamp, rows: u32) -> Result<(), FsError> {
        let Some(now) = self.present.stamp() else { return Ok(()) };
        let before = self.state::<Horizon>(&StateKey::Horizon)?.unwrap_or_default();
        let after = Horizon(before.0.max(horizon.min(now)));
        if after != before {
            self.put_state(&StateKey::Horizon, &after);
        }
        // A version costs up to three rows: itself, its neighbour told anew, a count.
        let mut budget = (rows as usize).min(OP_REGIONS_MAX);
        if self.sweep_some(&mut budget)? || self.sweep_void(&mut budget)? {
            return Ok(());
        }
        self.free_unmarked(&mut budget)?;
        self.work_off(after.0, &mut budget)
    }

    /// Removes present rows that no version of an inode leads to. False where there were none.
    fn sweep_some(&mut self, budget: &mut usize) -> Result<bool, FsError> {
        let mut queue = Vec::new();
        self.present.state_scan(&StateKey::sweeps(), &mut |key, _| {
            if let Some(StateKey::Sweep(sweep)) = StateKey::decode(key) {
                queue.push(sweep);
            }
            match queue.len() < *budget {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        let any = !queue.is_empty();
        for sweep in queue {
            let range = match sweep {
                Sweep::Extents { ino, generation } => key::extents_from(ino, generation, Region(0)),
                Sweep::Xattrs { ino } => key::xattrs(ino),
            };
            let rows = self.present_rows(&range, *budget)?;
            let done = rows.len() < *budget;
            *budget = budget.saturating_sub(rows.len() + 1);
            for (key, row) in rows {
                if matches!(sweep, Sweep::Extents { .. }) {
                    let extents = Extents::from_row(&key, &row)?;
                    self.totals.history_bytes -= extents.bytes() as i64;
                    self.put_extents(&key, Some(&extents), Extents::default(), Past::Forget)?;
                } else {
                    self.present.remove(&key, Past::Forget);
                }
            }
            if done {
                self.remove_state(&StateKey::Sweep(sweep));
            }
            if *budget == 0 {
                break;
            }
        }
        Ok(any)
    }

    fn present_rows(
        &mut self,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, FsError> {
        let mut rows = Vec::new();
        self.present.scan(range, Direction::Forward, &mut |key, row| {
            rows.push((key.to_vec(), Bytes::copy_from_slice(row)));
            match rows.len() < limit {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(rows)
    }

    /// Looks again at versions whose mark was removed: another may pin them, else they go.
    fn free_unmarked(&mut self, budget: &mut usize) -> Result<(), FsError> {
        while *budget > 0 {
            let mut first = None;
            self.present.state_scan(&StateKey::unmarked(), &mut |key, _| {
                first = StateKey::decode(key);
                ControlFlow::Break(())
            })?;
            let Some(StateKey::Unmarked { mark }) = first else { return Ok(()) };
            let mut kept = Vec::new();
            self.present.state_scan(&StateKey::kept_by(mark), &mut |key, _| {
                if let Some(StateKey::Kept { from, key, .. }) = StateKey::decode(key) {
                    kept.push((from, key));
                }
                match kept.len() < *budget {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            let done = kept.len() < *budget;
            *budget = budget.saturating_sub(kept.len() + 1);
            for (from, key) in kept {
                if let Some(version) = self.version_at(&key, from)?
                    && version.from == from
                {
                    self.forget_unless_marked(&key, &version)?;
                }
                self.remove_state(&StateKey::Kept { mark, from, key });
            }
            if done {
                self.remove_state(&StateKey::Unmarked { mark });
            }
        }
        Ok(())
    }

    /// Works off the records of batches at or before the horizon, oldest first.
    fn work_off(&mut self, horizon: Stamp, budget: &mut usize) -> Result<(), FsError> {
        for (key, row) in self.changes_until(horizon, *budget)? {
            let mut record = changes::Record::decode(&key, &row)?;
            let mut left = Vec::new();
            for event in std::mem::take(&mut record.events) {
                if event.stamp > horizon || event.what.ended() && *budget == 0 {
                    left.push(event);
                } else if event.what.ended() {
                    *budget -= 1;
                    self.version_ended(&event.key, event.stamp)?;
                }
            }
            // What is left goes under its own first stamp: where the horizon divides a batch, nothing stays before it.
            let replica = self.replica()?;
            replica.changes_remove(record.stamp);
            if let Some(stamp) = left.iter().map(|event| event.stamp).min() {
                replica.changes_keep(&changes::Record { stamp, events: left, ..record });
                return Ok(());
            }
            *budget = budget.saturating_sub(1);
            if *budget == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The oldest rows of `changes` that begin at or before `horizon`.
    fn changes_until(
        &mut self,
        horizon: Stamp,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, FsError> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        if limit == 0 {
            return Ok(rows);
        }
        self.replica()?.rows(Family::Changes, &batches_until(horizon), &mut |key, row| {
            bytes += row.len();
            rows.push((key.to_vec(), Bytes::copy_from_slice(row)));
            // A record has several events in so many bytes; more would not be reached in this op.
            match rows.len() < limit && bytes < limit * 64 {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(rows)
    }

    /// The version of `key` that ended at `stamp`, at or before the horizon, goes or is noted under its mark.
    fn version_ended(&mut self, key: &[u8], stamp: Stamp) -> Result<(), FsError> {
        match self.version_at(key, Stamp(stamp.0 - 1))? {
            Some(version) if version.to == stamp => self.forget_unless_marked(key, &version),
            // It was forgotten before its time.
            _ => Ok(()),
        }
    }

    /// The version of `key` that held at `at`, as it was before this batch.
    fn version_at(&mut self, key: &[u8], at: Stamp) -> Result<Option<Version>, FsError> {
        let mut found = None;
        self.replica()?.before().versions(key, at, at, &mut |version| {
            found = Some(version);
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    fn forget_unless_marked(&mut self, key: &[u8], version: &Version) -> Result<(), FsError> {
        match self.mark_in(version.from, version.to)? {
            Some(mark) => {
                let key = key.to_vec();
                self.put_sign(&StateKey::Kept { mark, from: version.from, key });
                Ok(())
            }
            None => self.forget_version(key, version.from),
        }
    }

    /// Forgets a past version, and what it was the last to lead to.
    fn forget_version(&mut self, key: &[u8], from: Stamp) -> Result<(), FsError> {
        let decoded = Key::decode(key);
        let mut rows = None;
        self.replica()?.forget(key, from, &mut |older, removed, newer| {
            let copy = |row: Option<&[u8]>| row.map(Bytes::copy_from_slice);
            rows = Some((copy(older), Bytes::copy_from_slice(removed), copy(newer)));
        })?;
        let Some((older, removed, newer)) = rows else { return Ok(()) };
        match decoded {
            Some(Key::Inode { ino }) => {
                let read = |row: Bytes| Inode::from_row(key, &row);
                let older = older.map(read).transpose()?;
                let newer = newer.map(read).transpose()?;
                self.inode_forgotten(ino, older.as_ref(), &read(removed)?, newer.as_ref());
            }
            Some(Key::Extents { .. }) => {
                let read = |row: Option<Bytes>| match row {
                    Some(row) => Extents::from_row(key, &row),
                    None => Ok(Extents::default()),
                };
                let (older, newer) = (read(older)?, read(newer)?);
                let gone = self.lives.drop_version(&older, &read(Some(removed))?, &newer);
                self.totals.history_bytes -= gone as i64;
            }
            Some(Key::Dirent { .. } | Key::Xattr { .. }) | None => {}
        }
        Ok(())
    }

    /// Contents and attributes that only this version led to are to be swept. Versions of one generation are
    /// neighbours, for generations only rise; an older one that never had contents, or attributes, shows none.
    fn inode_forgotten(
        &mut self,
        ino: Ino,
        older: Option<&Inode>,
        removed: &Inode,
        newer: Option<&Inode>,
    ) {
        let neighbours = || older.into_iter().chain(newer);
        let generation = removed.generation;
        if !neighbours().any(|inode| inode.generation == generation && inode.high > 0) {
            self.sweep_contents(ino, removed);
        }
        // What is present of a dead inode's attributes is what its last versions show.
        if removed.has_xattrs && newer.is_none() && older.is_none_or(|older| !older.has_xattrs) {
            self.sweep(Sweep::Xattrs { ino });
        }
        let same = |inode: &Inode| !inode.unfinished && inode.version == removed.version;
        let is_version = !removed.unfinished && removed.version > 0 && !removed.transient;
        if is_version && !neighbours().any(same) {
            self.totals.versions -= 1;
        }
    }

    /// Forgets past versions of certain keys before their time.
    pub(super) fn forget(&mut self, keys: &[Bytes], before: Stamp) -> Result<(), FsError> {
        let Some(now) = self.present.stamp() else { return Ok(()) };
        if keys.len() > OP_ROWS_MAX {
            return Err(FsError::Invalid("at most 1000 keys are forgotten at once"));
        }
        let before = before.min(now);
        let mut budget = OP_ROWS_MAX;
        for key in keys {
            let mut ended = Vec::new();
            self.replica()?.before().versions(key, Stamp::ZERO, before, &mut |version| {
                if version.to <= before {
                    ended.push(version);
                }
                match ended.len() < budget {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            budget -= ended.len();
            for version in ended {
                let marked = self.mark_in(version.from, version.to)?.is_some();
                if !marked && !self.is_shown(key, &version)? {
                    self.forget_version(key, version.from)?;
                }
            }
            if budget == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Some stored version of the inode shows this version of its contents or attributes.
    fn is_shown(&mut self, key: &[u8], version: &Version) -> Result<bool, FsError> {
        let (ino, of) = match Key::decode(key) {
            Some(Key::Extents { ino, generation, .. }) => (ino, Some(generation)),
            Some(Key::Xattr { ino, .. }) => (ino, None),
            Some(Key::Inode { .. } | Key::Dirent { .. }) => return Ok(false),
            None => return Err(FsError::Invalid("only keys of series have versions to forget")),
        };
        let inode_key = key::inode(ino);
        let last = Stamp(version.to.0 - 1);
        let (mut shown, mut fault) = (false, None);
        self.replica()?.before().versions(&inode_key, version.from, last, &mut |found| {
            match Inode::from_row(&inode_key, &found.value) {
                Ok(inode) => shown = of.is_none_or(|generation| inode.generation == generation),
                Err(error) => fault = Some(error),
            }
            match shown || fault.is_some() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        fault.map_or(Ok(shown), Err)
    }

    /// A replica's side of the rules; what calls this knows the stamp, so it runs in one.
    fn replica(&mut self) -> Result<&mut dyn Replica, FsError> {
        self.present.replica().ok_or(FsError::Invalid("a client has no history to forget"))
    }
}
