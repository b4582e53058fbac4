//! Blocks that are not to be here: the log names them, and other nodes keep them.
//!
//! Where nodes share the blocks between them, each named block has exactly one of three rows: it is here (`B`), it is to be here
//! and is not (`L`, and with `B` where it is damaged), or it is elsewhere (`E`). So when another placement comes, a node
//! looks through its own rows and needs nobody else's. `docs/decisions/0020-which-nodes-keep-a-block.md` has the states. Not
//! here: who decides where blocks are kept, and where the bytes of a listed block come from.

use crate::series::table::Family;
use crate::store::block::BlockStore;
use crate::store::block::Fate;
use crate::store::block::index;
use crate::store::block::index::Kind;
use crate::store::block::index::Writing;
use crate::store::block::index::block_key;
use crate::store::segment::Place;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::placement::Placed;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Rows that one step of the driver looks at.
const STEP_ROWS: usize = 10_000;
/// So many blocks wait to be let go of. What is beyond is found again.
const LET_GO_MAX: usize = 100_000;

/// Which blocks are to be here.
#[derive(Clone)]
pub(super) struct Keeping {
    here: NodeId,
    placed: Arc<Placed>,
}

impl Keeping {
    fn keeps(&self, block: BlockId) -> bool {
        self.placed.keeps(self.here, block)
    }
}

/// How far rows are made to say what a placement does.
#[derive(Default)]
pub(super) struct Placing {
    /// Of the placement that holds.
    number: u64,
    /// `None`: every block is to be here.
    keeping: Option<Keeping>,
    /// The placement that rows are of, as the table says; and as changes say that are not yet in it.
    pub(super) rows_of: Option<u64>,
    unsaved: Option<u64>,
    /// What is still to be looked at, where rows are of another placement.
    left: Option<Left>,
    /// Blocks that may be let go of.
    let_go: BTreeSet<BlockId>,
}

/// Rows of this kind from behind this block on, and what comes after that kind.
#[derive(Clone, Copy)]
struct Left {
    kind: Kind,
    after: Option<BlockId>,
}

impl Placing {
    pub(super) fn is_due(&self) -> bool {
        self.left.is_some() || !self.let_go.is_empty()
    }

    pub(super) fn keeps(&self, block: BlockId) -> bool {
        self.keeping.as_ref().is_none_or(|keeping| keeping.keeps(block))
    }

    /// Whether rows may say that something is elsewhere.
    pub(super) fn is_shared_out(&self) -> bool {
        self.keeping.is_some() || self.rows_of.is_some()
    }

    /// The changes that were asked for so far are in the table.
    pub(super) fn written(&mut self) {
        self.rows_of = self.unsaved.take().or(self.rows_of);
    }
}

impl BlockStore {
    /// Which node this is, and which nodes are to keep which blocks from now on. What is named from here on follows it; rows of
    /// before are brought into line by the next calls of [`BlockStore::upkeep`]. The driver's, in the order of the log, and
    /// once when the store is opened.
    pub fn keep_by(&self, here: NodeId, placed: Arc<Placed>) {
        let placing = &mut self.state.lock().placing;
        let number = placed.number();
        placing.number = number;
        placing.keeping = (!placed.is_everywhere()).then_some(Keeping { here, placed });
        // Before the first placement there is nothing to be said.
        let stands = placing.unsaved.or(placing.rows_of).unwrap_or(0) == number;
        placing.left = (!stands).then_some(Left { kind: Kind::Elsewhere, after: None });
    }

    /// The placement that the table's rows are of: `None` before there was one.
    pub fn placed(&self) -> Option<u64> {
        self.state.lock().placing.rows_of
    }

    /// Whether rows are still to be brought into line with the placement.
    pub fn is_placing(&self) -> bool {
        self.state.lock().placing.left.is_some()
    }

    /// Visits the named blocks that are not here because other nodes keep them.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn each_elsewhere(&self, mut visit: impl FnMut(BlockId)) -> Result<(), FsError> {
        index::each_key(&*self.table, Kind::Elsewhere, None, |block| {
            visit(block);
            ControlFlow::Continue(())
        })
    }

    /// At most `limit` blocks that are here and need not be, in order, from behind `after`; and where to go on, if there is more to
    /// be looked at.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn surplus(
        &self,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<(Vec<BlockId>, Option<BlockId>), FsError> {
        let Some(keeping) = self.state.lock().placing.keeping.clone() else {
            return Ok((Vec::new(), None));
        };
        let (mut found, mut looked_at, mut last) = (Vec::new(), 0, None);
        index::each_key(&*self.table, Kind::Named, after, |block| {
            if looked_at == STEP_ROWS || found.len() == limit {
                return ControlFlow::Break(());
            }
            looked_at += 1;
            last = Some(block);
            if !keeping.keeps(block) {
                found.push(block);
            }
            ControlFlow::Continue(())
        })?;
        let more = looked_at == STEP_ROWS || found.len() == limit;
        Ok((found, last.filter(|_| more)))
    }

    /// Every home of these blocks has them: the next upkeep lets go of those that are named and still need not be here.
    pub fn let_go(&self, blocks: &[BlockId]) {
        let placing = &mut self.state.lock().placing;
        let room = LET_GO_MAX.saturating_sub(placing.let_go.len());
        placing.let_go.extend(blocks.iter().take(room));
    }

    /// Whether the log names the block, and it is not to be here.
    pub(super) fn is_elsewhere(&self, block: BlockId) -> Result<bool, FsError> {
        if !self.state.lock().placing.is_shared_out() {
            return Ok(false);
        }
        Ok(self.table.get(Family::Local, &block_key(Kind::Elsewhere, block))?.is_some())
    }

    /// What the next step looks at.
    pub(super) fn placing_step(&self) -> Result<Step, FsError> {
        let (left, let_go) = {
            let state = self.state.lock();
            (state.placing.left, state.placing.let_go.clone())
        };
        let mut step = Step::default();
        for block in let_go {
            // What is pending was never named.
            let named = !self.state.lock().pending.contains_key(&block);
            if let Some(place) = self.row_of(block)?.filter(|_| named) {
                step.surplus.push((block, place, self.is_listed(block)?));
            }
        }
        if let Some(Left { kind, after }) = left {
            index::each_key(&*self.table, kind, after, |block| {
                step.rows.push(block);
                if step.rows.len() < STEP_ROWS {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            if kind == Kind::Listed {
                for block in &step.rows {
                    step.damaged.push(self.row_of(*block)?.is_some());
                }
            }
        }
        Ok(step)
    }
}

/// What one step of the driver does: found without the lock, for the table may have to read. Only the driver changes these
/// rows, so it still holds when it is done.
#[derive(Default)]
pub(super) struct Step {
    /// Rows of the kind that is looked at, and of listed blocks whether there is a damaged copy.
    rows: Vec<BlockId>,
    damaged: Vec<bool>,
    /// Blocks that may be let go of, where they lie, and whether they are listed.
    surplus: Vec<(BlockId, Place, bool)>,
}

impl Step {
    /// Writes what follows. `moving` are blocks whose rows change in this call already.
    pub(super) fn write(&self, writing: &mut Writing<'_>, moving: impl Fn(&BlockId) -> bool) {
        writing.state.placing.let_go.clear();
        for (block, place, listed) in &self.surplus {
            if writing.state.placing.keeps(*block) || moving(block) {
                continue;
            }
            writing.let_go(*block, *place, *listed);
        }
        let Some(Left { kind, .. }) = writing.state.placing.left else { return };
        match kind {
            Kind::Elsewhere => self.rows.iter().for_each(|block| writing.wanted_here(*block)),
            _ => {
                let rows = self.rows.iter().zip(&self.damaged);
                // A damaged copy is repaired all the same, and then let go of as a whole one.
                rows.filter(|(_, damaged)| !**damaged)
                    .for_each(|(block, _)| writing.not_wanted_here(*block));
            }
        }
        let done = self.rows.len() < STEP_ROWS;
        let next = match (kind, done) {
            (kind, false) => Some(Left { kind, after: self.rows.last().copied() }),
            (Kind::Elsewhere, true) => Some(Left { kind: Kind::Listed, after: None }),
            (_, true) => None,
        };
        let number = writing.state.placing.number;
        if next.is_none() {
            index::put_placed(number, writing.changes);
            writing.state.placing.unsaved = Some(number);
        }
        writing.state.placing.left = next;
    }
}

impl Writing<'_> {
    /// A named block that is elsewhere is to be here, unless it is not: then its row stays.
    fn wanted_here(&mut self, block: BlockId) {
        if !self.state.placing.keeps(block) {
            return;
        }
        self.delete(Kind::Elsewhere, block);
        match self.state.pending.get(&block).copied() {
            // Its client put it here all the same.
            Some(pending) if self.state.is_synced(pending.place) => self.name(block, pending),
            Some(_) => {
                self.list(block);
                self.state.arrived.insert(block);
            }
            None => self.expect(block),
        }
    }

    /// A named block that is listed for repair need not be here: what has come of it is dropped, unless it is durable.
    fn not_wanted_here(&mut self, block: BlockId) {
        if self.state.placing.keeps(block) {
            return;
        }
        self.unlist(block);
        self.state.arrived.remove(&block);
        self.leave_elsewhere(block);
    }

    /// The log names a block that is not to be here. If it is durable here, somebody may count on that.
    pub(super) fn leave_elsewhere(&mut self, block: BlockId) {
        match self.state.pending.get(&block).copied() {
            Some(pending) if self.state.is_synced(pending.place) => {
                self.name(block, pending);
                return;
            }
            // Nobody was told that it is durable.
            Some(_) => self.drop_pending(block),
            None => {}
        }
        // A put that ends later is too late.
        if let Some(putting) = self.state.putting.get_mut(&block) {
            putting.fate = Fate::Dead;
        }
        self.changes.put(Family::Local, block_key(Kind::Elsewhere, block), index::elsewhere_row());
    }

    fn let_go(&mut self, block: BlockId, place: Place, listed: bool) {
        self.delete(Kind::Named, block);
        self.dies(place);
        self.state.unsaved.insert(block, None);
        if listed {
            self.unlist(block);
        }
        self.changes.put(Family::Local, block_key(Kind::Elsewhere, block), index::elsewhere_row());
    }
}
