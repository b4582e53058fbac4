//! Sealing: dirty bytes become ops of the open batch and pending blocks.
//!
//! Pieces end at multiples of [`CELL_BYTES`], so that a file written twice in different ways has the same pieces, and so
//! that reading a little of a large file unpacks little. Not here: when to seal.

use crate::meta::key;
use crate::meta::op::Op;
use crate::meta::op::Piece;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::dirty::Data;
use crate::tsdb_client::dirty::Part;
use crate::tsdb_client::pending::Pending;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::INLINE_BYTES_MAX;
use crate::types::Ino;
use crate::types::OP_PAYLOAD_BYTES_MAX;
use crate::types::REGION_BYTES;
use crate::types::Region;
use crate::types::SessionId;
use crate::types::Time;
use bytes::Bytes;
use std::sync::Arc;

/// A piece of contents lies in one cell of this size.
pub(super) const CELL_BYTES: u64 = 256 << 10;
/// Most bytes of one op: it touches a row for each region.
const RUN_BYTES_MAX: u64 = 64 << 20;

const _: () = assert!(REGION_BYTES.is_multiple_of(CELL_BYTES), "a piece lies in one region");

impl Change<'_> {
    /// Seals everything written to an inode, so that an op on it comes after.
    ///
    /// # Errors
    /// Only what is missing: bytes that cannot be sealed are noted as the file's failure.
    pub(super) fn seal(&mut self, ino: Ino) -> Result<(), FsError> {
        self.seal_range(ino, 0, u64::MAX)
    }

    /// Seals what was written to `start..end`.
    pub(super) fn seal_range(&mut self, ino: Ino, start: u64, end: u64) -> Result<(), FsError> {
        let Some(file) = self.local.files.get_mut(&ino) else { return Ok(()) };
        let Some(written) = file.written.filter(|_| !file.dirty.is_empty()) else { return Ok(()) };
        let mut runs = runs(file.dirty.take(start, end)).into_iter();
        while let Some(run) = runs.next() {
            let Err(error) = self.seal_run(ino, &run, written.time) else {
                self.note_crowd(ino, &run);
                continue;
            };
            let rest = run.into_iter().chain(runs.flatten());
            if self.is_short() {
                self.put_back(ino, rest);
                return Err(error);
            }
            self.drop_failed(ino, rest, error);
            break;
        }
        if let Some(file) = self.local.files.get_mut(&ino)
            && file.dirty.is_empty()
        {
            file.written = None;
        }
        Ok(())
    }

    /// A small write may have been one too many for its region.
    fn note_crowd(&mut self, ino: Ino, run: &[Part]) {
        let start = run[0].start;
        let end = run[run.len() - 1].end();
        let key = key::inode(ino);
        // The write has put the row.
        let Some(Some(row)) = self.local.series.get(&key) else { return };
        if end - start < CELL_BYTES
            && let Ok(inode) = Inode::from_row(&key, &row)
        {
            self.note_crowded(ino, inode.generation, Region::of(start));
        }
    }

    fn put_back(&mut self, ino: Ino, parts: impl Iterator<Item = Part>) {
        let file = self.local.files.entry(ino).or_default();
        for part in parts {
            file.dirty.write(part.start, Data::Owned(part.bytes));
        }
    }

    /// Bytes that the rules refuse: what they replace is damaged, say. The calls that wrote them have returned, so a later
    /// flush or sync tells.
    fn drop_failed(&mut self, ino: Ino, parts: impl Iterator<Item = Part>, error: FsError) {
        let bytes = parts.map(|part| part.bytes.len() as u64).sum();
        tracing::error!(%ino, bytes, %error, "written bytes could not be kept");
        self.core.journal.let_go(bytes);
        self.local.files.entry(ino).or_default().failed = Some(error);
    }

    /// One op for bytes without a gap. They count as held already.
    pub(super) fn seal_run(&mut self, ino: Ino, run: &[Part], time: Time) -> Result<(), FsError> {
        let offset = run.first().expect("a run has parts").start;
        let (pieces, blocks) = pieces(self.core.session, self.local.next_block, run);
        let write = Op::Write { ino, offset, pieces, clear_suid: false, time };
        self.run_for_writer(ino, write)?;
        self.batch().bytes += run.iter().map(|part| part.bytes.len() as u64).sum::<u64>();
        self.local.next_block += blocks.len() as u64;
        for block in blocks {
            self.add_pending(block);
        }
        Ok(())
    }

    fn add_pending(&mut self, block: Arc<Pending>) {
        self.batch().pending.push(block.clone());
        if !self.is_direct() {
            // Of a direct batch nothing shows before it is applied.
            self.local.pending.insert(block.id.number, block.clone());
        }
        if block.len() as usize > OP_PAYLOAD_BYTES_MAX {
            let (server, compression) = (self.core.server.clone(), self.core.options.compression);
            // A failure stays with the block, for the lane to find.
            self.core.pool.give(move |behind| {
                drop(block.pack(&*server, compression.level(behind)));
            });
        }
    }
}

/// What a run is in an op, and the contents of it that are blocks: numbered in the session from `next` on.
pub(super) fn pieces(
    session: SessionId,
    next: u64,
    run: &[Part],
) -> (Vec<Piece>, Vec<Arc<Pending>>) {
    let (mut pieces, mut blocks) = (Vec::new(), Vec::new());
    for cell in cells(run) {
        let len: usize = cell.iter().map(Bytes::len).sum();
        if len <= INLINE_BYTES_MAX {
            let bytes = if cell.len() == 1 { cell[0].clone() } else { cell.concat().into() };
            pieces.push(Piece::Inline(bytes));
            continue;
        }
        let block = BlockId { session, number: next + blocks.len() as u64 };
        pieces.push(Piece::Block { block, len: len as u32 });
        blocks.push(Arc::new(Pending::new(block, cell)));
    }
    (pieces, blocks)
}

/// Groups parts that follow each other without a gap, none longer than one op may be.
pub(super) fn runs(parts: Vec<Part>) -> Vec<Vec<Part>> {
    let mut runs: Vec<Vec<Part>> = Vec::new();
    for part in parts {
        match runs.last_mut() {
            Some(run)
                if run.last().is_some_and(|last| last.end() == part.start)
                    && part.end() - run[0].start <= RUN_BYTES_MAX =>
            {
                run.push(part);
            }
            _ => runs.push(vec![part]),
        }
    }
    runs
}

/// The bytes of a run by cell.
fn cells(run: &[Part]) -> Vec<Vec<Bytes>> {
    let mut cells: Vec<Vec<Bytes>> = Vec::new();
    let mut last = None;
    for part in run {
        let mut at = part.start;
        while at < part.end() {
            let cell = at / CELL_BYTES;
            let end = part.end().min((cell + 1) * CELL_BYTES);
            let bytes = part.clip(at, end).bytes;
            match cells.last_mut() {
                Some(bytes_of_cell) if last == Some(cell) => bytes_of_cell.push(bytes),
                _ => cells.push(vec![bytes]),
            }
            last = Some(cell);
            at = end;
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, len: u64) -> Part {
        Part { start, bytes: Bytes::from(vec![7; len as usize]) }
    }

    #[test]
    fn parts_become_runs_and_runs_fall_into_cells() {
        let found = runs(vec![part(0, 10), part(10, 5), part(20, 1)]);
        let lens: Vec<usize> = found.iter().map(Vec::len).collect();
        assert_eq!(lens, [2, 1]);
        let run = [part(CELL_BYTES - 10, 4), part(CELL_BYTES - 6, CELL_BYTES + 8)];
        let lens: Vec<Vec<usize>> =
            cells(&run).iter().map(|cell| cell.iter().map(Bytes::len).collect()).collect();
        assert_eq!(lens, [vec![4, 6], vec![CELL_BYTES as usize], vec![2]]);
    }
}
