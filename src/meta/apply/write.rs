//! Contents: `Write`, `Zero`, `Version`.

use crate::meta::apply::Apply;
use crate::meta::apply::OP_REGIONS_MAX;
use crate::meta::extents::Extents;
use crate::meta::extents::Place;
use crate::meta::extents::Source;
use crate::meta::key;
use crate::meta::key::KeyBytes;
use crate::meta::op::Piece;
use crate::meta::record::Inode;
use crate::series::Past;
use crate::types::BLOCK_BYTES_MAX;
use crate::types::FILE_BYTES_MAX;
use crate::types::FsError;
use crate::types::INLINE_BYTES_MAX;
use crate::types::Ino;
use crate::types::OP_PAYLOAD_BYTES_MAX;
use crate::types::Region;
use crate::types::Time;
use crate::types::frame;
use crate::types::regions;

/// One region of a file on its way to its next version.
pub(super) struct RegionRow {
    pub(super) region: Region,
    key: KeyBytes,
    before: Option<Extents>,
    pub(super) after: Extents,
    past: Past,
}

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;

/// The attribute that gives a program rights, which a write by somebody else takes away.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

impl Apply<'_> {
    pub(super) fn write(
        &mut self,
        ino: Ino,
        offset: u64,
        pieces: &[Piece],
        clear_suid: bool,
        time: Time,
    ) -> Result<(), FsError> {
        let mut inode = self.file(ino)?;
        let len = check_pieces(offset, pieces)?;
        let mut rows = self.load(ino, &inode, offset, len)?;
        self.keep_finished(ino)?;

        let (mut at, mut rest) = (offset, rows.as_mut_slice());
        let mut replaced = 0;
        for piece in pieces {
            let region = Region::of(at);
            while rest[0].region < region {
                rest = &mut rest[1..];
            }
            let source = self.source(piece);
            let start = (at - region.start()) as u32;
            replaced += u64::from(rest[0].after.put(start, piece.len(), source));
            at += u64::from(piece.len());
        }
        if clear_suid {
            self.clear_suid(ino, &mut inode);
        }
        self.put_rows(&inode, rows)?;
        inode.size = inode.size.max(at);
        self.put_changed(ino, inode, len, replaced, time);
        Ok(())
    }

    pub(super) fn zero(
        &mut self,
        ino: Ino,
        offset: u64,
        len: u64,
        extend: bool,
        time: Time,
    ) -> Result<(), FsError> {
        let mut inode = self.file(ino)?;
        let end = end_of(offset, len)?;
        // Beyond its size a file has nothing to be made zero.
        let held = end.min(inode.size).saturating_sub(offset);
        let mut rows = self.load_existing(ino, &inode, offset, held)?;
        self.keep_finished(ino)?;

        let mut removed = 0;
        for row in &mut rows {
            let start = offset.saturating_sub(row.region.start()) as u32;
            let end = (offset + held - row.region.start()).min(crate::types::REGION_BYTES) as u32;
            removed += u64::from(row.after.clear(start..end));
        }
        self.put_rows(&inode, rows)?;
        if extend {
            inode.size = inode.size.max(end);
        }
        self.put_changed(ino, inode, 0, removed, time);
        Ok(())
    }

    /// The contents are a version. Nothing that an instant shows changes: the row is marked in place.
    pub(super) fn version(&mut self, ino: Ino) -> Result<(), FsError> {
        let mut inode = self.file(ino)?;
        if !inode.unfinished {
            return Ok(());
        }
        inode.unfinished = false;
        inode.version += 1;
        self.present.put(
            &key::inode(ino),
            crate::meta::record::Record::to_row(&inode),
            Past::Forget,
        );
        if !inode.transient {
            self.totals.versions += 1;
            if self.is_replica() {
                self.step.finished.insert(ino);
            }
        }
        Ok(())
    }

    /// The rows of `offset..offset + len`, whether they are there or not.
    pub(super) fn load(
        &mut self,
        ino: Ino,
        inode: &Inode,
        offset: u64,
        len: u64,
    ) -> Result<Vec<RegionRow>, FsError> {
        let count = regions(offset, len).count();
        if count > OP_REGIONS_MAX {
            return Err(FsError::Invalid("one op changes at most 500 regions of a file"));
        }
        let mut rows = Vec::with_capacity(count);
        for (region, start, _) in regions(offset, len) {
            let key = key::extents(ino, inode.generation, region);
            let first = region.start() + u64::from(start);
            // Nothing of this generation was ever at or beyond `high`.
            let (before, past) = if region.start() >= inode.high {
                (None, Past::Fresh)
            } else {
                let row = self.present.get(&key)?;
                let before = row.map(|row| Extents::from_row(&key, &row)).transpose()?;
                (before, past_of_contents(inode, first))
            };
            let after = before.clone().unwrap_or_default();
            rows.push(RegionRow { region, key, before, after, past });
        }
        Ok(rows)
    }

    /// The rows of `offset..offset + len` that are there.
    pub(super) fn load_existing(
        &mut self,
        ino: Ino,
        inode: &Inode,
        offset: u64,
        len: u64,
    ) -> Result<Vec<RegionRow>, FsError> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut range = key::extents_from(ino, inode.generation, Region::of(offset));
        let last = Region::of(offset + len - 1);
        if let Some(next) = last.0.checked_add(1) {
            range.end = key::extents(ino, inode.generation, Region(next)).to_vec();
        }
        let (mut rows, mut fault) = (Vec::new(), None);
        self.present.scan(&range, crate::series::Direction::Forward, &mut |key, row| {
            match region_row(inode, key, row, offset) {
                Ok(row) => rows.push(row),
                Err(error) => fault = Some(error),
            }
            match fault.is_some() || rows.len() > OP_REGIONS_MAX {
                true => std::ops::ControlFlow::Break(()),
                false => std::ops::ControlFlow::Continue(()),
            }
        })?;
        match fault {
            Some(fault) => Err(fault),
            None if rows.len() > OP_REGIONS_MAX => {
                Err(FsError::Invalid("one op changes at most 500 regions of a file"))
            }
            None => Ok(rows),
        }
    }

    /// Puts the rows that changed.
    pub(super) fn put_rows(&mut self, inode: &Inode, rows: Vec<RegionRow>) -> Result<(), FsError> {
        for row in rows {
            let unchanged = match &row.before {
                Some(before) => *before == row.after,
                None => row.after.is_empty(),
            };
            if !unchanged {
                debug_assert!(!inode.is_dir());
                self.put_extents(&row.key, row.before.as_ref(), row.after, row.past)?;
            }
        }
        Ok(())
    }

    /// Puts the inode after a change of its contents: `added` bytes came, `replaced` bytes went. The size is set.
    pub(super) fn put_changed(
        &mut self,
        ino: Ino,
        mut inode: Inode,
        added: u64,
        replaced: u64,
        time: Time,
    ) {
        self.raise_high(ino, &mut inode);
        inode.allocated = (inode.allocated + added).saturating_sub(replaced);
        inode.unfinished = true;
        (inode.mtime, inode.ctime) = (time, time);
        self.totals.live_bytes += added as i64 - replaced as i64;
        if !inode.transient {
            self.totals.history_bytes += replaced as i64;
        }
        self.put_inode(ino, &inode);
    }

    fn source(&mut self, piece: &Piece) -> Source {
        let (block, place) = match piece {
            Piece::Inline(bytes) => return Source::Inline(bytes.clone()),
            Piece::Payload { block, .. } => (*block, Place::Payload),
            Piece::Block { block, .. } => (*block, Place::Segment),
        };
        if let Some(replica) = self.present.replica() {
            if let Piece::Payload { frame, .. } = piece {
                replica.payload_put(block, frame.clone());
            }
            self.lives.bring(block, place);
        }
        Source::Block { block, place, offset: 0 }
    }

    /// A write by somebody without the right to keep them takes the rights that the file gives.
    pub(super) fn clear_suid(&mut self, ino: Ino, inode: &mut Inode) {
        if inode.is_dir() {
            return;
        }
        inode.mode &= !S_ISUID;
        if inode.mode & S_IXGRP != 0 {
            inode.mode &= !S_ISGID;
        }
        if inode.has_xattrs {
            let key = key::xattr(ino, CAPABILITY);
            self.present.remove(&key, super::past_of(inode));
        }
    }
}

/// What becomes of the former value of an extent row whose first changed byte is `first`.
fn past_of_contents(inode: &Inode, first: u64) -> Past {
    // At and beyond `high` no instant has shown anything: the row grows in place.
    if inode.transient || first >= inode.high { Past::Forget } else { Past::Keep }
}

fn region_row(inode: &Inode, key: &[u8], row: &[u8], offset: u64) -> Result<RegionRow, FsError> {
    let Some(key::Key::Extents { ino, generation, region }) = key::Key::decode(key) else {
        return Err(FsError::Damaged(format!("{} is no extent row", key::describe(key))));
    };
    let before = Extents::from_row(key, &bytes::Bytes::copy_from_slice(row))?;
    let past = past_of_contents(inode, offset.max(region.start()));
    let key = key::extents(ino, generation, region);
    Ok(RegionRow { region, key, after: before.clone(), before: Some(before), past })
}

/// Where a range ends, which must be in a file.
pub(super) fn end_of(offset: u64, len: u64) -> Result<u64, FsError> {
    offset.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX).ok_or(FsError::FileTooBig)
}

/// How many bytes the pieces cover, once each is known to be one.
fn check_pieces(offset: u64, pieces: &[Piece]) -> Result<u64, FsError> {
    let mut at = offset;
    for piece in pieces {
        let len = u64::from(piece.len());
        let end = end_of(at, len)?;
        let fits = match piece {
            Piece::Inline(bytes) => bytes.len() <= INLINE_BYTES_MAX,
            Piece::Payload { frame, .. } => {
                frame.len() <= OP_PAYLOAD_BYTES_MAX + frame::HEADER_BYTES
                    && len <= BLOCK_BYTES_MAX as u64
            }
            Piece::Block { .. } => len <= BLOCK_BYTES_MAX as u64,
        };
        if len == 0 || !fits || Region::of(at) != Region::of(end - 1) {
            return Err(FsError::Invalid(
                "a piece of a write is empty, too large or not in one region",
            ));
        }
        at = end;
    }
    if at == offset {
        return Err(FsError::Invalid("a write has no piece"));
    }
    Ok(at - offset)
}
