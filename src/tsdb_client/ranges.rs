//! Ranges of files: where data is, holes to be made, copies that share blocks.

use crate::meta::apply::OP_REGIONS_MAX;
use crate::meta::op::Op;
use crate::meta::op::SetAttr;
use crate::meta::read;
use crate::meta::read::Seek;
use crate::tsdb_client::Allocate;
use crate::tsdb_client::Client;
use crate::tsdb_client::Handle;
use crate::tsdb_client::SeekFor;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::contents::check_file;
use crate::types::AsOf;
use crate::types::FILE_BYTES_MAX;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::REGION_BYTES;
use std::ops::Range;

/// Most bytes that one op zeroes or copies: a range may begin and end inside a region.
const OP_RANGE_BYTES: u64 = (OP_REGIONS_MAX as u64 - 1) * REGION_BYTES;
/// What room the rows of a copy need.
const COPY_ROOM_BYTES: u64 = 64 << 10;

impl Client {
    /// The first offset at or after `offset` that is data, or a hole.
    ///
    /// # Errors
    /// `NoData` at or after the file's end; `Stale`, `IsDirectory`.
    pub fn seek(&self, ino: Ino, at: AsOf, offset: u64, what: SeekFor) -> Result<u64, FsError> {
        if at == AsOf::Now {
            // Dirty bytes are data, once they are sealed.
            self.core.change(|change| change.seal(ino))?;
        }
        let inode = self.core.inode(ino, at)?;
        check_file(&inode)?;
        let seek = match what {
            SeekFor::Data => Seek::Data,
            SeekFor::Hole => Seek::Hole,
        };
        read::seek(&*self.core, ino, &inode, offset, seek, at)
    }

    /// # Errors
    /// `BadHandle`, `FileTooBig`, `NoSpace`.
    pub fn fallocate(
        &self,
        handle: Handle,
        how: Allocate,
        offset: u64,
        len: u64,
    ) -> Result<(), FsError> {
        let end = offset.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(FsError::FileTooBig)?;
        let (zero, extend) = match how {
            Allocate::Extend => (false, true),
            Allocate::KeepSize => (false, false),
            Allocate::PunchHole => (true, false),
            Allocate::ZeroRange { keep_size } => (true, !keep_size),
        };
        if zero {
            self.zero(handle, offset, end)?;
        }
        let time = self.core.now();
        self.core.change(|change| {
            let ino = change.writer(handle)?;
            let size = change.size(ino)?;
            if !zero {
                change.need(len)?;
            }
            if extend && end > size {
                change.seal(ino)?;
                let set = SetAttr { size: Some(end), ..SetAttr::default() };
                change.run(Op::SetAttr { ino, set, time })?;
                change.note_written(ino);
            }
            Ok(())
        })
    }

    fn zero(&self, handle: Handle, offset: u64, end: u64) -> Result<(), FsError> {
        let time = self.core.now();
        for (offset, len) in steps(offset..end) {
            self.core.change(|change| {
                let ino = change.writer(handle)?;
                change.size(ino)?;
                change.seal(ino)?;
                change.run(Op::Zero { ino, offset, len, extend: false, time })?;
                change.note_written(ino);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Copies, by sharing blocks; how many bytes, fewer only at the end of `from`.
    ///
    /// # Errors
    /// `BadHandle`, `FileTooBig`, `Invalid` where both ranges of one file overlap.
    pub fn copy_range(
        &self,
        from: Handle,
        from_offset: u64,
        to: Handle,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, FsError> {
        let (source, target, size) = self.core.look(|change| {
            let source = change.local.handle(from)?.ino;
            let target = change.local.writer(to)?.ino;
            change.size(target)?;
            Ok((source, target, change.size(source)?))
        })?;
        let first = from_offset;
        let len = len.min(size.saturating_sub(first));
        if to_offset.checked_add(len).is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(FsError::FileTooBig);
        }
        let apart = from_offset + len <= to_offset || to_offset + len <= from_offset;
        if source == target && !apart {
            return Err(FsError::Invalid("the ranges overlap"));
        }
        let time = self.core.now();
        for (from_offset, len) in steps(from_offset..from_offset + len) {
            let offset = to_offset + (from_offset - first);
            self.core.change(|change| {
                let ino = change.writer(to)?;
                change.need(COPY_ROOM_BYTES)?;
                change.seal(source)?;
                change.seal(ino)?;
                let (from, as_of) = (source, AsOf::Now);
                change.run(Op::Clone { from, as_of, from_offset, ino, offset, len, time })?;
                change.note_written(ino);
                Ok(())
            })?;
        }
        Ok(len)
    }
}

/// `range` in parts that one op may change.
fn steps(range: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let len = OP_RANGE_BYTES.min(range.end.checked_sub(at)?);
        let step = (at, len);
        at += len;
        (len > 0).then_some(step)
    })
}

impl Change<'_> {
    /// Notes that contents of a file changed.
    pub(super) fn note_written(&mut self, ino: Ino) {
        let now = self.core.clock.steady();
        self.after(move |local| local.note_written(ino, now));
    }
}
