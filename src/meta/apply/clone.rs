//! `Clone`: contents of another file, or of another time, by naming the same blocks.
//!
//! The source is resolved here, where it is applied, and so nothing can purge it in between. A client cannot do that.
//! It flushes what it has, has the op applied in a batch of its own, and then drops its rows of the file.

use crate::meta::apply::Apply;
use crate::meta::apply::OP_REGIONS_MAX;
use crate::meta::apply::write::end_of;
use crate::meta::read;
use crate::meta::read::Part as ReadPart;
use crate::meta::record::Inode;
use crate::types::AsOf;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Time;
use crate::types::regions;

/// What is cloned.
pub(super) struct Part {
    pub(super) ino: Ino,
    pub(super) as_of: AsOf,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Apply<'_> {
    pub(super) fn clone_part(
        &mut self,
        from: Part,
        ino: Ino,
        offset: u64,
        time: Time,
    ) -> Result<(), FsError> {
        end_of(from.offset, from.len)?;
        end_of(offset, from.len)?;
        let mut inode = self.file(ino)?;
        let parts = self.resolve(&from)?;
        // What lies beyond the source's end is left out.
        let len = parts.last().map_or(0, |part| part.end() - from.offset);
        if len == 0 {
            return Ok(());
        }
        let mut rows = self.load(ino, &inode, offset, len)?;
        self.keep_finished(ino)?;

        let (mut added, mut replaced) = (0, 0);
        for row in &mut rows {
            let start = offset.saturating_sub(row.region.start()) as u32;
            let end = (offset + len - row.region.start()).min(crate::types::REGION_BYTES) as u32;
            replaced += u64::from(row.after.clear(start..end));
        }
        let first = rows[0].region;
        for part in parts {
            let Some(source) = part.source else { continue };
            // The part may fall into two regions here.
            let at = offset + (part.start - from.offset);
            let mut done = 0;
            for (region, start, len) in regions(at, part.len) {
                let row = &mut rows[(region.0 - first.0) as usize];
                row.after.put(start, len, source.part(done, len));
                done += len;
            }
            added += part.len;
        }
        self.put_rows(&inode, rows)?;
        inode.size = inode.size.max(offset + len);
        self.put_changed(ino, inode, added, replaced, time);
        Ok(())
    }

    /// What the source holds, up to its end.
    fn resolve(&mut self, from: &Part) -> Result<Vec<ReadPart>, FsError> {
        if regions(from.offset, from.len).count() > OP_REGIONS_MAX {
            return Err(FsError::Invalid("one op changes at most 500 regions of a file"));
        }
        let mut parts = Vec::new();
        match from.as_of {
            AsOf::Now => {
                let inode = self.file(from.ino)?;
                let end = (from.offset + from.len).min(inode.size);
                for row in
                    self.load(from.ino, &inode, from.offset, end.saturating_sub(from.offset))?
                {
                    let range = from.offset..end;
                    read::parts_of_region(row.region, &row.after, &range, &mut |part| {
                        parts.push(part);
                    });
                }
            }
            AsOf::At(_) => {
                let Some(replica) = self.present.replica() else {
                    return Err(FsError::NotSupported("a clone is resolved where it is applied"));
                };
                let before = replica.before();
                let inode: Inode =
                    read::inode(before, from.ino, from.as_of)?.ok_or(FsError::NotFound)?;
                parts = read::parts(before, from.ino, &inode, from.offset, from.len, from.as_of)?;
            }
        }
        Ok(parts)
    }
}
