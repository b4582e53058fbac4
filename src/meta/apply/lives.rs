//! Counting the lives of blocks: which are named, by how much, and which are free.
//!
//! A life of a block in a series is a maximal run of adjacent stored versions that name it
//! (`docs/decisions/0003-counting-lives.md`). What a step does to an extent row between its beginning and its end
//! is stored nowhere, so the count is taken once a step, from the row as it was and the row as it became. A replica's
//! work only.

use crate::meta::apply::Apply;
use crate::meta::extents::Extent;
use crate::meta::extents::Extents;
use crate::meta::extents::INLINE_ROW_BYTES;
use crate::meta::extents::Place;
use crate::meta::extents::Source;
use crate::meta::key::StateKey;
use crate::meta::record;
use crate::series::Past;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::frame;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// The blocks that one version of a row names, in the order of its extents.
type Blocks = Vec<(BlockId, Place)>;

/// Looking for so many blocks one by one is faster than sorting what they are looked for in.
const FEW: usize = 8;

/// What a batch did to the lives of blocks so far.
#[derive(Default)]
pub(super) struct Lives {
    rows: HashMap<Vec<u8>, Row>,
    /// Blocks that this batch brought, with their lives so far.
    fresh: HashMap<BlockId, (Place, i64)>,
    /// Older blocks, with how many lives they gained or lost.
    changed: HashMap<BlockId, (Place, i64)>,
}

/// An extent row that this batch changed.
struct Row {
    /// Changed in the present step.
    touched: bool,
    /// The row was there when the step began.
    existed: bool,
    /// What it named when the step began.
    start: Blocks,
    /// What the version named that this step moved to history.
    base: Option<Blocks>,
    /// What the newest stored version before the present one names, where this batch made it.
    older: Option<Blocks>,
}

fn blocks(extents: &Extents) -> Blocks {
    extents.blocks().collect()
}

/// What `of` names and `not_in` does not, sorted, each once. Most edits leave most of a row as it was, so what both begin and end
/// with is passed over: the rest is short.
fn difference(of: &Blocks, not_in: &Blocks) -> Blocks {
    let same = |(a, b): &(&(BlockId, Place), &(BlockId, Place))| a == b;
    let head = of.iter().zip(not_in).take_while(same).count();
    let tail = of[head..].iter().rev().zip(not_in[head..].iter().rev()).take_while(same).count();
    let mut rest = of[head..of.len() - tail].to_vec();
    rest.sort_unstable();
    rest.dedup();
    if rest.len() <= FEW {
        rest.retain(|block| !not_in.contains(block));
    } else {
        let mut sorted = not_in.clone();
        sorted.sort_unstable();
        rest.retain(|block| sorted.binary_search(block).is_err());
    }
    rest
}

impl Lives {
    /// A block that came with this batch, before a row names it.
    pub(super) fn bring(&mut self, block: BlockId, place: Place) {
        self.fresh.entry(block).or_insert((place, 0));
    }

    /// Notes that a row is about to change from `before`, which is empty where there is no row.
    pub(super) fn touch(&mut self, key: &[u8], before: Option<&Extents>, past: Past) {
        let new =
            || Row { touched: false, existed: false, start: Vec::new(), base: None, older: None };
        if !self.rows.contains_key(key) {
            self.rows.insert(key.to_vec(), new());
        }
        let row = self.rows.get_mut(key).expect("it was inserted just now");
        if !row.touched {
            row.touched = true;
            row.existed = before.is_some();
            row.start = before.map(blocks).unwrap_or_default();
        }
        if past == Past::Keep && row.existed && row.base.is_none() {
            row.base = Some(before.map(blocks).unwrap_or_default());
        }
    }

    fn add(&mut self, (block, place): (BlockId, Place), lives: i64) {
        match self.fresh.get_mut(&block) {
            Some((_, count)) => *count += lives,
            None => self.changed.entry(block).or_insert((place, 0)).1 += lives,
        }
    }

    /// A stored version with `removed` went from between `older` and `newer`. Returns the bytes that no longer have
    /// a version, as far as `removed` tells.
    pub(super) fn drop_version(
        &mut self,
        older_row: &Extents,
        removed: &Extents,
        newer_row: &Extents,
    ) -> u64 {
        let (older, newer, gone) = (blocks(older_row), blocks(newer_row), blocks(removed));
        let alone = difference(&difference(&gone, &older), &newer);
        for block in &alone {
            self.add(*block, -1);
        }
        let passed_over = difference(&older, &gone);
        let ended = difference(&passed_over, &newer);
        // Two lives become one.
        for block in difference(&passed_over, &ended) {
            self.add(block, -1);
        }
        let kept = |extent: &&Extent| match extent.source {
            Source::Inline(_) => {
                older_row.iter().chain(newer_row.iter()).any(|other| *extent == other)
            }
            Source::Block { block, place, .. } => alone.binary_search(&(block, place)).is_err(),
        };
        removed.iter().filter(|extent| !kept(extent)).map(|extent| u64::from(extent.len)).sum()
    }
}

impl Apply<'_> {
    /// Puts an extent row, or removes it where nothing is left in it.
    pub(super) fn put_extents(
        &mut self,
        key: &[u8],
        before: Option<&Extents>,
        mut after: Extents,
        past: Past,
    ) -> Result<(), FsError> {
        if self.is_replica() {
            self.lives.touch(key, before, past);
            if after.inline_bytes() >= INLINE_ROW_BYTES {
                self.seal(&mut after)?;
            }
        }
        if !after.is_empty() {
            self.present.put(key, after.to_row(), past);
        } else if before.is_some() {
            self.present.remove(key, past);
        }
        Ok(())
    }

    /// Moves bytes that stand in a row into a block of the store's own. Every replica makes the same one.
    fn seal(&mut self, extents: &mut Extents) -> Result<(), FsError> {
        let next = self.next()?;
        let block = BlockId { session: SessionId(0), number: next.block };
        next.block += 1;
        let sealed = extents.seal(block);
        self.lives.bring(block, Place::Payload);
        if let Some(replica) = self.present.replica() {
            replica.payload_put(block, frame::plain(&sealed));
        }
        Ok(())
    }

    fn extents_row(&mut self, key: &[u8]) -> Result<Extents, FsError> {
        match self.present.get(key)? {
            Some(row) => Extents::from_row(key, &row),
            None => Ok(Extents::default()),
        }
    }

    /// Counts what the step did, at its end.
    pub(super) fn settle_lives(&mut self) -> Result<(), FsError> {
        let mut rows = std::mem::take(&mut self.lives.rows);
        for (key, row) in rows.iter_mut().filter(|(_, row)| row.touched) {
            let end = blocks(&self.extents_row(key)?);
            let in_place = row.base.as_ref().unwrap_or(&end);
            self.settle_in_place(key, row, in_place)?;
            if let Some(base) = row.base.take() {
                for block in difference(&end, &base) {
                    self.lives.add(block, 1);
                }
                row.older = Some(base);
            }
            row.touched = false;
        }
        self.lives.rows = rows;
        Ok(())
    }

    /// The version that was present when the step began now names `end`, under the same stamp.
    fn settle_in_place(&mut self, key: &[u8], row: &Row, end: &Blocks) -> Result<(), FsError> {
        let came = difference(end, &row.start);
        let went = difference(&row.start, end);
        if came.is_empty() && went.is_empty() {
            return Ok(());
        }
        // Only a block older than the batch can have a life in the version before.
        let old = |block: &(BlockId, Place)| !self.lives.fresh.contains_key(&block.0);
        let asks = came.iter().chain(&went).any(old);
        let older = match (&row.older, asks) {
            (Some(older), _) => older.clone(),
            (None, true) => self.older_version(key)?,
            (None, false) => Vec::new(),
        };
        for block in difference(&came, &older) {
            self.lives.add(block, 1);
        }
        for block in difference(&went, &older) {
            self.lives.add(block, -1);
        }
        Ok(())
    }

    /// What the newest past version of a row names, as it was before this batch.
    fn older_version(&mut self, key: &[u8]) -> Result<Blocks, FsError> {
        let Some(replica) = self.present.replica() else { return Ok(Vec::new()) };
        let mut newest = None;
        replica.before().versions(key, Stamp::ZERO, Stamp::MAX, &mut |version| {
            if version.to == Stamp::MAX {
                return ControlFlow::Continue(());
            }
            newest = Some(version.value);
            ControlFlow::Break(())
        })?;
        match newest {
            Some(row) => Ok(blocks(&Extents::from_row(key, &row)?)),
            None => Ok(Vec::new()),
        }
    }

    /// Writes the counts at the end of the batch and lets go of blocks without a life.
    pub(super) fn put_lives(&mut self) -> Result<(), FsError> {
        for (block, (place, lives)) in std::mem::take(&mut self.lives.fresh) {
            if place == Place::Segment
                && lives > 0
                && let Some(replica) = self.present.replica()
            {
                replica.block_named(block);
            }
            self.put_count(block, place, 0, lives)?;
        }
        for (block, (place, gained)) in std::mem::take(&mut self.lives.changed) {
            if gained != 0 {
                let stored = self.state::<record::Lives>(&StateKey::Lives { block })?;
                let before = stored.map_or(1, |lives| lives.0 as i64);
                self.put_count(block, place, before, before + gained)?;
            }
        }
        Ok(())
    }

    /// One is not stored: the block is there, so it is named.
    fn put_count(
        &mut self,
        block: BlockId,
        place: Place,
        before: i64,
        after: i64,
    ) -> Result<(), FsError> {
        let key = StateKey::Lives { block };
        match after {
            ..0 => return Err(FsError::Damaged(format!("block {block} has {after} lives"))),
            0 => self.free(block, place),
            1 => {}
            _ => self.put_state(&key, &record::Lives(after as u64)),
        }
        if before > 1 && after < 2 {
            self.remove_state(&key);
        }
        Ok(())
    }

    fn free(&mut self, block: BlockId, place: Place) {
        let Some(replica) = self.present.replica() else { return };
        match place {
            Place::Payload => replica.payload_remove(block),
            Place::Segment => replica.block_freed(block),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::prop;
    use proptest::prop_assert_eq;
    use proptest::proptest;
    use std::collections::BTreeSet;

    proptest! {
        /// Few numbers in long lists: the same block often, and long parts that both have.
        #[test]
        fn a_difference_is_one_of_sets(
            head in prop::collection::vec(0..20_u64, 0..20),
            of in prop::collection::vec(0..30_u64, 0..30),
            not_in in prop::collection::vec(0..30_u64, 0..30),
            tail in prop::collection::vec(0..20_u64, 0..20),
        ) {
            let names = |middle: &[u64]| -> Blocks {
                let all = head.iter().chain(middle).chain(&tail);
                all.map(|n| (BlockId { session: SessionId(1), number: *n }, Place::Payload)).collect()
            };
            let (of, not_in) = (names(&of), names(&not_in));
            let sets: Vec<BTreeSet<_>> =
                [&of, &not_in].map(|list| list.iter().copied().collect()).into();
            let expected: Blocks = sets[0].difference(&sets[1]).copied().collect();
            prop_assert_eq!(difference(&of, &not_in), expected);
        }
    }
}
