//! Regions of many small extents are written anew, whole: reading and changing a row costs by the extent.
//!
//! Done by the flusher, and given up where somebody wrote to the region meanwhile: the next seal notes it again.

use crate::meta::extents::Extents;
use crate::meta::key;
use crate::meta::op::Op;
use crate::meta::op::SetAttr;
use crate::tsdb_client::Wait;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::dirty::Part;
use crate::tsdb_client::own::Right;
use crate::types::AsOf;
use crate::types::FsError;
use crate::types::Generation;
use crate::types::Ino;
use crate::types::Region;
use bytes::Bytes;

/// A row below this is not looked into: an extent takes eight bytes and more.
const ROW_BYTES_MIN: usize = 8 << 10;

/// A region to be written anew.
pub(super) struct Crowded {
    ino: Ino,
    generation: Generation,
    region: Region,
    /// As it was found.
    row: Bytes,
}

impl Change<'_> {
    /// Notes a region that has just been written to, if it is crowded.
    pub(super) fn note_crowded(&mut self, ino: Ino, generation: Generation, region: Region) {
        let key = key::extents(ino, generation, region);
        let Some(Some(row)) = self.local.series.get(&key) else { return };
        if row.len() < ROW_BYTES_MIN {
            return;
        }
        if Extents::from_row(&key, &row).is_ok_and(|extents| extents.is_crowded()) {
            let crowded = &mut self.local.crowded;
            crowded.retain(|known| (known.ino, known.region) != (ino, region));
            crowded.push(Crowded { ino, generation, region, row });
            self.local.flusher_asked = true;
            self.core.work.notify_one();
        }
    }

    /// False where the region is not what it was any more.
    fn rewrite(&mut self, crowded: &Crowded, part: &Part) -> Result<bool, FsError> {
        let Crowded { ino, generation, region, ref row } = *crowded;
        if self.local.own.right(ino) != Right::Owned {
            return Ok(false);
        }
        let inode = self.inode(ino)?;
        let now = self.row(&key::extents(ino, generation, region))?;
        let dirty = self.local.files.get(&ino).is_some_and(|file| !file.dirty.is_empty());
        if inode.generation != generation || now.as_ref() != Some(row) || dirty {
            return Ok(false);
        }
        self.need(part.bytes.len() as u64)?;
        // Bytes that are sealed count as held.
        self.core.journal.hold(part.bytes.len() as u64);
        let sealed = self.seal_run(ino, std::slice::from_ref(part), inode.ctime);
        if let Err(error) = sealed {
            self.core.journal.let_go(part.bytes.len() as u64);
            return Err(error);
        }
        // Nothing that a program did changed the file.
        let set = SetAttr { mtime: Some(inode.mtime), ..SetAttr::default() };
        self.run(Op::SetAttr { ino, set, time: inode.ctime })?;
        if !inode.unfinished {
            self.run(Op::Version { ino })?;
        }
        Ok(true)
    }
}

impl Core {
    /// Writes the noted regions anew.
    pub(super) fn rewrite_crowded(&self) {
        // Apart from the loop, which would hold the lock.
        let noted = std::mem::take(&mut self.enter().crowded);
        for crowded in noted {
            let (ino, region) = (crowded.ino, crowded.region.0);
            match self.rewrite(&crowded) {
                Ok(done) => tracing::debug!(%ino, region, done, "wrote a crowded region anew"),
                Err(error) => tracing::debug!(%ino, region, %error, "a region stays crowded"),
            }
        }
    }

    fn rewrite(&self, crowded: &Crowded) -> Result<bool, FsError> {
        let key = key::extents(crowded.ino, crowded.generation, crowded.region);
        let extents = Extents::from_row(&key, &crowded.row)?;
        let (Some(first), Some(last)) = (extents.iter().next(), extents.iter().last()) else {
            return Ok(false);
        };
        let start = crowded.region.start() + u64::from(first.start);
        let len = last.end() - first.start;
        let plan = self.plan(crowded.ino, AsOf::Now, start, len)?;
        let Some(bytes) = self.carry_out(&plan, Wait::Allowed)? else { return Ok(false) };
        if bytes.is_empty() {
            return Ok(false);
        }
        let part = Part { start, bytes };
        self.change(|change| change.rewrite(crowded, &part))
    }
}
