//! Reading contents: dirty bytes over extents over holes.
//!
//! A read is planned inside one hold of the lock (or, for the past, from rows that do not change), then carried out
//! without it. Not here: reading ahead (`ahead`), blocks themselves (`blocks`, `pending`).

use crate::meta::extents::Extents;
use crate::meta::extents::Source;
use crate::meta::key;
use crate::meta::record::Inode;
use crate::tsdb_client::Client;
use crate::tsdb_client::Wait;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::dirty::Part;
use crate::tsdb_client::pending::Pending;
use crate::types::AsOf;
use crate::types::BlockId;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Generation;
use crate::types::Ino;
use crate::types::Region;
use crate::types::regions;
use bytes::Bytes;
use std::sync::Arc;

/// Where the bytes of a read come from, later ones over earlier ones. What none of them says is a hole.
pub(super) struct Plan {
    start: u64,
    /// Where the read ends: at the file's end at the latest.
    end: u64,
    size: u64,
    slices: Vec<Slice>,
}

struct Slice {
    /// In the file.
    start: u64,
    len: u64,
    from: From,
}

enum From {
    Bytes(Bytes),
    Pending { block: Arc<Pending>, offset: u32 },
    Block { block: BlockId, offset: u32 },
}

impl Plan {
    fn new(start: u64, len: u32, size: u64) -> Plan {
        let end = size.min(start + u64::from(len)).max(start);
        Plan { start, end, size, slices: Vec::new() }
    }

    fn add_region(&mut self, region_start: u64, from: u32, len: u32, extents: &Extents) {
        for extent in extents.within(from..from + len) {
            let from = match extent.source {
                Source::Inline(bytes) => From::Bytes(bytes),
                Source::Block { block, offset, .. } => From::Block { block, offset },
            };
            let start = region_start + u64::from(extent.start);
            self.slices.push(Slice { start, len: u64::from(extent.len), from });
        }
    }

    /// Finds the blocks that are still on their way to the server.
    fn find_pending(&mut self, change: &Change<'_>) {
        for slice in &mut self.slices {
            if let From::Block { block, offset } = slice.from
                && block.session == change.core.session
                && let Some(block) = change.local.pending.get(&block.number)
            {
                slice.from = From::Pending { block: block.clone(), offset };
            }
        }
    }

    fn add_dirty(&mut self, parts: Vec<Part>) {
        self.slices.extend(parts.into_iter().map(|part| Slice {
            start: part.start,
            len: part.bytes.len() as u64,
            from: From::Bytes(part.bytes),
        }));
    }

    /// The blocks that the server would have to be asked for.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockId> {
        self.slices.iter().filter_map(|slice| match slice.from {
            From::Block { block, .. } => Some(block),
            From::Bytes(_) | From::Pending { .. } => None,
        })
    }

    /// The bytes. Waits for blocks that are not at hand.
    fn carry_out(&self, core: &Core) -> Result<Bytes, FsError> {
        if let [slice] = &self.slices[..]
            && slice.start == self.start
            && slice.start + slice.len == self.end
        {
            match &slice.from {
                From::Bytes(bytes) => return Ok(bytes.clone()),
                From::Block { block, offset } => {
                    let bytes = core.block(*block)?;
                    return part_of(*block, &bytes, *offset, slice.len as usize);
                }
                From::Pending { .. } => {}
            }
        }
        let mut out = vec![0; (self.end - self.start) as usize];
        for slice in &self.slices {
            let at = (slice.start - self.start) as usize;
            let out = &mut out[at..at + slice.len as usize];
            match &slice.from {
                From::Bytes(bytes) => out.copy_from_slice(bytes),
                From::Pending { block, offset } => block.copy(*offset, out),
                From::Block { block, offset } => {
                    let bytes = core.block(*block)?;
                    out.copy_from_slice(&part_of(*block, &bytes, *offset, out.len())?);
                }
            }
        }
        Ok(out.into())
    }
}

/// # Errors
/// `Damaged` where the block is shorter than a row says.
fn part_of(block: BlockId, bytes: &Bytes, offset: u32, len: usize) -> Result<Bytes, FsError> {
    let (start, end) = (offset as usize, offset as usize + len);
    if end > bytes.len() {
        let has = bytes.len();
        return Err(FsError::Damaged(format!("block {block} has {has} bytes, a row names {end}")));
    }
    Ok(bytes.slice(start..end))
}

/// # Errors
/// `IsDirectory`, `Invalid`.
pub(super) fn check_file(inode: &Inode) -> Result<(), FsError> {
    match inode.kind {
        FileKind::File => Ok(()),
        FileKind::Directory => Err(FsError::IsDirectory),
        _ => Err(FsError::Invalid("only regular files have contents")),
    }
}

impl Core {
    fn block(&self, block: BlockId) -> Result<Bytes, FsError> {
        match self.blocks.cached(block) {
            Some(bytes) => Ok(bytes),
            None => self.blocks.get(block),
        }
    }

    pub(super) fn plan(&self, ino: Ino, at: AsOf, offset: u64, len: u32) -> Result<Plan, FsError> {
        if at == AsOf::Now {
            return self.look(|change| change.plan(ino, offset, len));
        }
        let inode = self.inode(ino, at)?;
        check_file(&inode)?;
        let mut plan = Plan::new(offset, len, inode.size);
        for (region, from, len) in regions(offset, plan.end - offset) {
            let key = key::extents(ino, inode.generation, region);
            if let Some(row) = self.row(&key, at)? {
                plan.add_region(region.start(), from, len, &Extents::from_row(&key, &row)?);
            }
        }
        Ok(plan)
    }

    /// The bytes that a plan names, or `None` where they are not at hand and waiting is not allowed.
    pub(super) fn carry_out(&self, plan: &Plan, wait: Wait) -> Result<Option<Bytes>, FsError> {
        if wait == Wait::Never && plan.blocks().any(|block| !self.blocks.has(block)) {
            return Ok(None);
        }
        plan.carry_out(self).map(Some)
    }
}

impl Change<'_> {
    fn plan(&mut self, ino: Ino, offset: u64, len: u32) -> Result<Plan, FsError> {
        let inode = self.inode(ino)?;
        check_file(&inode)?;
        let file = self.local.files.get(&ino);
        let size = file.and_then(|file| file.written).map_or(inode.size, |written| written.size);
        let mut plan = Plan::new(offset, len, size);
        let end = plan.end.min(inode.high).max(offset);
        let rows = regions(offset, end - offset)
            .map(|(region, ..)| key::extents(ino, inode.generation, region));
        self.ahead(rows)?;
        for (region, from, len) in regions(offset, end - offset) {
            if let Some(extents) = self.extents(ino, inode.generation, region)? {
                plan.add_region(region.start(), from, len, &extents);
            }
        }
        plan.find_pending(self);
        if let Some(file) = self.local.files.get(&ino) {
            plan.add_dirty(file.dirty.slices(offset, plan.end));
        }
        Ok(plan)
    }

    fn extents(
        &mut self,
        ino: Ino,
        generation: Generation,
        region: Region,
    ) -> Result<Option<Extents>, FsError> {
        let key = key::extents(ino, generation, region);
        self.row(&key)?.map(|row| Extents::from_row(&key, &row)).transpose()
    }
}

impl Client {
    /// Contents from `offset`, fewer than `len` bytes only at the file's end. `None` where `Wait::Never` was asked and
    /// a block would have to be fetched.
    ///
    /// # Errors
    /// `Stale`, `IsDirectory`, `Invalid` for what has no contents.
    pub fn read(
        &self,
        ino: Ino,
        at: AsOf,
        offset: u64,
        len: u32,
        wait: Wait,
    ) -> Result<Option<Bytes>, FsError> {
        let plan = self.core.plan(ino, at, offset, len)?;
        let bytes = self.core.carry_out(&plan, wait)?;
        if bytes.is_some() && plan.end < plan.size {
            self.core.read_ahead(ino, at, offset, plan.end);
        }
        Ok(bytes)
    }
}
