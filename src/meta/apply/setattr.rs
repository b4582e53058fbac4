//! Attributes: `SetAttr`, `Accessed`, `SetHistory`.

use crate::meta::apply::Apply;
use crate::meta::apply::OP_REGIONS_MAX;
use crate::meta::apply::generation_after;
use crate::meta::key;
use crate::meta::op::SetAttr;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::series::Past;
use crate::types::FILE_BYTES_MAX;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::REGION_BYTES;
use crate::types::Time;

/// The sizes that a client sets one after the other to shorten a file from `size` to `to` bytes: one op shortens by a
/// bounded number of regions. Emptying takes one op, however large the file is.
pub fn truncate_steps(size: u64, to: u64) -> impl Iterator<Item = u64> {
    let step = (OP_REGIONS_MAX as u64 - 1) * REGION_BYTES;
    let mut at = size;
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        at = if to == 0 { 0 } else { at.saturating_sub(step).max(to) };
        // A file that grows, or keeps its size, takes one op too.
        at = if size <= to { to } else { at };
        done = at == to;
        Some(at)
    })
}

impl Apply<'_> {
    pub(super) fn set_attr(&mut self, ino: Ino, set: &SetAttr, time: Time) -> Result<(), FsError> {
        let mut inode = self.inode(ino)?;
        let rows = match set.size {
            None => Vec::new(),
            Some(size) => self.plan_resize(ino, &inode, size)?,
        };
        if set.size.is_some() {
            self.keep_finished(ino)?;
        }

        let owner_changes = set.uid.is_some() || set.gid.is_some();
        if set.clear_suid || owner_changes && set.mode.is_none() {
            self.clear_suid(ino, &mut inode);
        }
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        inode.mode = set.mode.map_or(inode.mode, |mode| mode & 0o7777);
        if let Some(size) = set.size {
            self.resize(ino, &mut inode, size, rows)?;
            inode.mtime = time;
        }
        inode.atime = set.atime.unwrap_or(inode.atime);
        inode.mtime = set.mtime.unwrap_or(inode.mtime);
        inode.ctime = time;
        self.put_inode(ino, &inode);
        Ok(())
    }

    pub(super) fn accessed(&mut self, ino: Ino, time: Time) -> Result<(), FsError> {
        let mut inode = self.inode(ino)?;
        inode.atime = time;
        self.present.put(&key::inode(ino), inode.to_row(), Past::Forget);
        Ok(())
    }

    pub(super) fn set_history(&mut self, ino: Ino, keep: bool, time: Time) -> Result<(), FsError> {
        let mut inode = self.dir(ino)?;
        if inode.no_history == keep {
            inode.no_history = !keep;
            inode.ctime = time;
            // As it was told before is how this change itself is remembered.
            let past = if inode.transient { Past::Forget } else { Past::Keep };
            self.present.put(&key::inode(ino), inode.to_row(), past);
        }
        Ok(())
    }

    /// The rows that a new size takes something from.
    fn plan_resize(
        &mut self,
        ino: Ino,
        inode: &Inode,
        size: u64,
    ) -> Result<Vec<super::write::RegionRow>, FsError> {
        match inode.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid("only regular files have a size to set")),
        }
        if size > FILE_BYTES_MAX {
            return Err(FsError::FileTooBig);
        }
        if size == 0 && generation_after(inode.generation).is_some() {
            return Ok(Vec::new());
        }
        self.load_existing(ino, inode, size, inode.size.saturating_sub(size))
    }

    fn resize(
        &mut self,
        ino: Ino,
        inode: &mut Inode,
        size: u64,
        mut rows: Vec<super::write::RegionRow>,
    ) -> Result<(), FsError> {
        let removed = match generation_after(inode.generation) {
            Some(next) if size == 0 => {
                let removed = inode.allocated;
                if inode.high > 0 {
                    self.empty(ino, inode);
                    inode.generation = next;
                    inode.high = 0;
                }
                removed
            }
            _ => {
                let mut removed = 0;
                for row in &mut rows {
                    let start = size.saturating_sub(row.region.start()) as u32;
                    removed += u64::from(row.after.clear(start..REGION_BYTES as u32));
                }
                self.put_rows(inode, rows)?;
                removed
            }
        };
        inode.size = size;
        self.raise_high(ino, inode);
        inode.allocated = inode.allocated.saturating_sub(removed);
        inode.unfinished = true;
        self.totals.live_bytes -= removed as i64;
        // What is left behind under a generation counts until it is swept, history or not.
        if !inode.transient || size == 0 {
            self.totals.history_bytes += removed as i64;
        }
        Ok(())
    }

    /// The contents of now are left behind under their generation, for the instants that show them. Where no stored
    /// version has them, they are to be swept.
    fn empty(&mut self, ino: Ino, inode: &Inode) {
        if self.step.contents.remove(&ino) || inode.transient {
            self.sweep_contents(ino, inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_shortened_in_steps() {
        let mib = REGION_BYTES;
        let steps = |size, to| truncate_steps(size, to).collect::<Vec<_>>();
        assert_eq!(steps(5, 3), [3]);
        assert_eq!(steps(3, 5), [5]);
        assert_eq!(steps(0, 0), [0]);
        assert_eq!(steps(FILE_BYTES_MAX, 0), [0]);
        assert_eq!(steps(1200 * mib, 7), [701 * mib, 202 * mib, 7]);
        for window in steps(5000 * mib + 3, mib + 1).windows(2) {
            assert!(window[0] - window[1] <= (OP_REGIONS_MAX as u64 - 1) * mib);
        }
    }
}
