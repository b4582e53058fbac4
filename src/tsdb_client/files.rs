//! Open files: handles, writes, versions, syncs.
//!
//! Written bytes stay dirty here until they are sealed into the open batch: at a close, a sync, the batch's end, or once a
//! region of the file is complete. Not here: reading, ranges that are zeroed or copied (`ranges`).

use crate::meta::key;
use crate::meta::op::Op;
use crate::meta::op::SetAttr;
use crate::telemetry::counter::CLIENT_FSYNCS;
use crate::telemetry::counter::CLIENT_WAITS;
use crate::telemetry::counter::CLIENT_WRITTEN;
use crate::tsdb_client::Caller;
use crate::tsdb_client::Client;
use crate::tsdb_client::Handle;
use crate::tsdb_client::Synced;
use crate::tsdb_client::Wait;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::contents::check_file;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::dirty::Data;
use crate::tsdb_client::dirty::OWN_PART_BYTES;
use crate::tsdb_client::dirty::Part;
use crate::tsdb_client::journal::Told;
use crate::tsdb_client::journal::Waiter;
use crate::tsdb_client::journal::loss;
use crate::tsdb_client::lane::Driver;
use crate::tsdb_client::local::Written;
use crate::tsdb_client::patience::would_wait;
use crate::types::BatchSeq;
use crate::types::FILE_BYTES_MAX;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::REGION_BYTES;
use crate::types::Region;
use crate::types::Time;
use crate::types::regions;
use bytes::Bytes;
use std::time::Duration;

/// What room rows need beside the bytes of a write.
const WRITE_ROOM_BYTES: u64 = 4096;
const S_ISUID_ISGID: u32 = 0o6000;
const CAPABILITY: &[u8] = b"security.capability";

/// A write, before it is known where it goes.
struct Write {
    offset: u64,
    append: bool,
    clear_suid: bool,
    time: Time,
}

/// What a sync waits for.
struct Target {
    seq: BatchSeq,
    /// The open batch is to be closed for it.
    drive: bool,
}

/// How often somebody looks who waits for a while only.
const SETTLE_LOOK_EVERY: Duration = Duration::from_millis(5);

/// Open files and their contents.
impl Client {
    /// A handle of the present, whose changes are the caller's. While it is open, the inode stays readable after its last name is gone. Directories may be
    /// opened too.
    ///
    /// # Errors
    /// `Stale`, `Closing`.
    pub fn open_file(&self, caller: Caller, ino: Ino, write: bool) -> Result<Handle, FsError> {
        self.core.look(|change| {
            let inode = change.inode(ino)?;
            if change.local.releasing.contains(&ino) {
                return Err(FsError::Stale);
            }
            if change.local.ended {
                return Err(FsError::Closing);
            }
            let handle = change.local.open_handle(ino, write, caller.uid);
            if write && inode.kind == FileKind::File && inode.unfinished {
                // Created a moment ago: what it is at its close is its first version.
                let now = change.core.clock.steady();
                change.local.note_written(ino, now);
            }
            Ok(handle)
        })
    }

    /// Closes a handle. An unknown one is ignored.
    pub fn release(&self, handle: Handle) {
        let released = self.core.change(|change| change.release(handle));
        if let Err(error) = released
            && !would_wait()
        {
            tracing::debug!(%handle, %error, "released without a trace in the store");
            self.core.enter().close_handle(handle);
        }
    }

    /// Writes all of `data`. `append`: at the end, whatever `offset` says. `clear_suid`: set-user-id, set-group-id and
    /// security.capability go. `None` where `Wait::Never` was asked and too much is dirty.
    ///
    /// # Errors
    /// `BadHandle`, `FileTooBig`, `NoSpace`, `Lost`.
    pub fn write(
        &self,
        handle: Handle,
        offset: u64,
        data: &[u8],
        append: bool,
        clear_suid: bool,
        wait: Wait,
    ) -> Result<Option<u32>, FsError> {
        let len = u32::try_from(data.len())
            .map_err(|_| FsError::Invalid("one write has at most 4 GiB"))?;
        if !self.core.has_room(u64::from(len), wait)? {
            return Ok(None);
        }
        let write = Write { offset, append, clear_suid, time: self.core.now() };
        // A large write is copied before the lock is taken.
        let own = (data.len() >= OWN_PART_BYTES).then(|| Bytes::copy_from_slice(data));
        let (ino, full) = self.core.change(|change| {
            let data = match &own {
                Some(bytes) => Data::Owned(bytes.clone()),
                None => Data::Borrowed(data),
            };
            change.write(handle, &write, data)
        })?;
        CLIENT_WRITTEN.add(u64::from(len));
        if let Some((start, end)) = full {
            // Complete regions are packed and sent while the rest is still being written.
            self.core.change(|change| change.seal_range(ino, start, end))?;
        }
        Ok(Some(len))
    }

    /// A descriptor of this handle is closed: what was written is a version now. What was only made or emptied becomes one
    /// with the last descriptor.
    ///
    /// # Errors
    /// `BadHandle`; `Lost`, or why written bytes could not be kept.
    pub fn flush(&self, handle: Handle) -> Result<(), FsError> {
        let told = {
            let local = self.core.enter();
            let open = local.handle(handle)?;
            let file = local.files.get(&open.ino);
            if !open.write || file.is_none_or(|file| !file.wrote && file.failed.is_none()) {
                return Ok(());
            }
            open.told.clone()
        };
        let flushed = self.core.change(|change| {
            let ino = change.local.handle(handle)?.ino;
            change.finish(ino)?;
            change.failure(ino)
        });
        flushed.map_err(|error| tell(Some(&told), error))
    }

    /// Calls `then` once everything done earlier on this mount is durable, or lost. The contents of `handle` become a
    /// version. Where nothing is in its way the work is done on the calling thread and `then` is called by the
    /// thread that made it durable.
    pub fn fsync(&self, handle: Option<Handle>, then: Synced) {
        CLIENT_FSYNCS.add(1);
        let told = match handle
            .map(|handle| self.core.enter().handle(handle).map(|open| open.told.clone()))
        {
            Some(Err(error)) => return then(Err(error)),
            Some(Ok(told)) => Some(told),
            None => None,
        };
        match self.core.change(|change| change.sync(handle)) {
            Err(error) => then(Err(tell(told.as_ref(), error))),
            Ok(target) => {
                self.core.journal.when_durable(target.seq, Waiter { told, then });
                if target.drive {
                    self.core.drive(Driver::Call);
                }
            }
        }
    }
}

/// An error for an open file: a loss is told as one only once.
fn tell(told: Option<&Told>, error: FsError) -> FsError {
    match error {
        FsError::Lost(why) => loss(told, &why),
        error => error,
    }
}

impl Core {
    /// Whether `len` more bytes may become dirty; waits for it where that is allowed.
    ///
    /// # Errors
    /// `Unreachable` where nobody is to wait for it any longer.
    pub(super) fn has_room(&self, len: u64, wait: Wait) -> Result<bool, FsError> {
        let bytes_max = self.options.dirty_bytes_max.saturating_sub(len);
        if self.journal.held() <= bytes_max {
            return Ok(true);
        }
        CLIENT_WAITS.add(1);
        if wait == Wait::Never {
            return Ok(false);
        }
        self.journal.wait_room(bytes_max)?;
        Ok(true)
    }

    /// Returns once everything done so far on this mount is applied, unless that takes longer.
    pub(super) fn settle_within(&self, limit: Duration) {
        let Ok(target) = self.change(|change| change.sync(None)) else { return };
        // Left to the flusher: sending may have to wait as well.
        self.enter().flusher_asked = true;
        self.work.notify_one();
        let until = self.clock.steady() + limit;
        while self.journal.applied() < target.seq
            && self.journal.check().is_ok()
            && self.clock.steady() < until
        {
            self.pause(SETTLE_LOOK_EVERY);
        }
    }

    /// Everything done so far on this mount is in a batch that is on its way, or will be soon.
    ///
    /// # Errors
    /// `Lost`, `Closing`.
    pub(super) fn send_all(&self) -> Result<BatchSeq, FsError> {
        let target = self.change(|change| change.sync(None))?;
        if target.drive {
            // What is heavy, or stands behind a direct batch that is not answered, is left to the flusher, which waits without a
            // bound: how long this call waits for it is said where it waits.
            self.drive(if self.near { Driver::Flusher } else { Driver::Call });
        }
        Ok(target.seq)
    }
}

impl Change<'_> {
    /// Puts bytes among the dirty ones of a file. Which file, and the complete regions that the write ended.
    fn write(
        &mut self,
        handle: Handle,
        write: &Write,
        data: Data<'_>,
    ) -> Result<(Ino, Option<(u64, u64)>), FsError> {
        let ino = self.writer(handle)?;
        let len = data.len() as u64;
        if len == 0 {
            return Ok((ino, None));
        }
        let size = self.size(ino)?;
        let offset = if write.append { size } else { write.offset };
        let end = offset.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(FsError::FileTooBig)?;
        self.need(len + WRITE_ROOM_BYTES)?;
        if !self.core.near && self.owns(ino)? {
            self.have_extents(ino, offset, len)?;
        } else if !self.core.near {
            return self.write_through(ino, offset, write, data);
        }
        if write.clear_suid {
            self.clear_suid(ino, write.time)?;
        }
        // From here on nothing fails.
        self.begin();
        let local = &mut *self.local;
        local.note_written(ino, self.core.clock.steady());
        let file = local.files.entry(ino).or_default();
        if file.dirty.is_empty() {
            local.dirty.push(ino);
        }
        file.wrote = true;
        file.by = self.by;
        let before = file.dirty.bytes();
        file.dirty.write(offset, data);
        // What lies under it is counted already.
        self.core.journal.hold(file.dirty.bytes() - before);
        file.written = Some(Written { size: size.max(end), time: write.time });
        let full = complete(offset, end).filter(|&(start, end)| file.dirty.covers(start, end));
        Ok((ino, full))
    }

    /// A write to a file that others may use: it is sent with this call.
    fn write_through(
        &mut self,
        ino: Ino,
        offset: u64,
        write: &Write,
        data: Data<'_>,
    ) -> Result<(Ino, Option<(u64, u64)>), FsError> {
        if write.clear_suid {
            self.clear_suid(ino, write.time)?;
        }
        let by = self.by;
        let file = self.local.files.entry(ino).or_default();
        file.by = by;
        let unfinished = file.unfinished;
        let part = Part { start: offset, bytes: data.into_bytes() };
        self.seal_run(ino, &[part], write.time)?;
        self.note_written(ino);
        self.after(move |local| local.files.entry(ino).or_default().wrote = true);
        let now = self.core.clock.steady();
        let every = self.core.options.version_every;
        if unfinished.is_some_and(|since| now.saturating_sub(since) >= every) {
            self.run(Op::Version { ino })?;
            self.after(move |local| local.note_finished(ino));
        }
        Ok((ino, None))
    }

    /// Sealing reads the rows of what is written over, and must not wait for them.
    fn have_extents(&mut self, ino: Ino, offset: u64, len: u64) -> Result<(), FsError> {
        let inode = self.inode(ino)?;
        for (region, ..) in regions(offset, len) {
            if region.start() < inode.high {
                self.row(&key::extents(ino, inode.generation, region))?;
            }
        }
        Ok(())
    }

    /// A file's size with what was written to it.
    pub(super) fn size(&mut self, ino: Ino) -> Result<u64, FsError> {
        if let Some(written) = self.local.files.get(&ino).and_then(|file| file.written) {
            return Ok(written.size);
        }
        let inode = self.inode(ino)?;
        check_file(&inode)?;
        Ok(inode.size)
    }

    /// Takes the rights away that the file gives, if it gives any.
    fn clear_suid(&mut self, ino: Ino, time: Time) -> Result<(), FsError> {
        let plain = self.local.files.get(&ino).is_some_and(|file| file.plain);
        if plain && self.owns(ino)? {
            return Ok(());
        }
        let inode = self.inode(ino)?;
        let capable = inode.has_xattrs && self.row(&key::xattr(ino, CAPABILITY))?.is_some();
        if inode.mode & S_ISUID_ISGID != 0 || capable {
            self.seal(ino)?;
            let set = SetAttr { clear_suid: true, ..SetAttr::default() };
            self.run(Op::SetAttr { ino, set, time })?;
        }
        if let Some(file) = self.local.files.get_mut(&ino) {
            file.plain = true;
        }
        Ok(())
    }

    /// # Errors
    /// Why bytes written to a file could not be kept; once.
    fn failure(&mut self, ino: Ino) -> Result<(), FsError> {
        let failed = self.local.files.get_mut(&ino).and_then(|file| file.failed.take());
        failed.map_or(Ok(()), Err)
    }

    /// Seals everything written; the batch that must be durable for all of it.
    fn sync(&mut self, handle: Option<Handle>) -> Result<Target, FsError> {
        if let Some(handle) = handle {
            let ino = self.local.handle(handle)?.ino;
            self.finish(ino)?;
            self.failure(ino)?;
        }
        while let Some(&ino) = self.local.dirty.last() {
            self.seal(ino)?;
            self.local.dirty.pop();
        }
        let seq = self.local.open.seq;
        let drive = !self.local.open.ops.is_empty();
        if drive {
            self.local.asked = true;
        }
        Ok(Target { seq: if drive { seq } else { BatchSeq(seq.0 - 1) }, drive })
    }

    fn release(&mut self, handle: Handle) -> Result<(), FsError> {
        let Some(ino) = self.local.handles.get(&handle.get()).map(|open| open.ino) else {
            return Ok(());
        };
        let file = self.local.files.entry(ino).or_default();
        if file.handles == 1 && file.orphan {
            // Nobody can read it any more.
            self.cut_dirty(ino, 0, u64::MAX);
            self.run(Op::Release { ino })?;
            self.after(move |local| drop(local.files.remove(&ino)));
        } else if file.handles == 1 {
            self.finish(ino)?;
        }
        self.after(move |local| local.close_handle(handle));
        Ok(())
    }
}

/// The regions that lie in a write or end in it, from the first one's start to the last one's end.
fn complete(offset: u64, end: u64) -> Option<(u64, u64)> {
    let first = Region::of(offset).start();
    let last = end / REGION_BYTES * REGION_BYTES;
    (first < last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_completes_the_regions_whose_end_it_reaches() {
        const MIB: u64 = REGION_BYTES;
        assert_eq!(complete(0, 4096), None);
        assert_eq!(complete(MIB - 5, MIB), Some((0, MIB)));
        assert_eq!(complete(MIB - 5, MIB + 5), Some((0, MIB)));
        assert_eq!(complete(MIB + 5, 4 * MIB - 1), Some((MIB, 3 * MIB)));
    }
}
