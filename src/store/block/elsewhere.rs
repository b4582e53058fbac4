//! Blocks that are not to be here: the log names them, and other nodes keep them.
//!
//! Where nodes share the blocks between them, each named block has exactly one of three rows: it is here (`B`), it is to be here
//! and is not (`L`, with `B` as well: it is damaged), or it is elsewhere (`E`). So when another placement comes, a node looks
//! through its own rows and needs nobody else's. `docs/decisions/0020-which-nodes-keep-a-block.md` has the states and every power
//! cut. Not here: who decides where blocks are kept, and where the bytes of a listed block come from.
//!
//! A put that the driver names before it is synced is dropped where the block need not be here. Whoever syncs hears that it is
//! durable only after it is noted, under the same lock: so nobody was told before the naming, and an op that is named has
//! been counted on other disks. What is told afterwards nobody counts any more.

use crate::series::table::Changes;
use crate::series::table::Family;
use crate::store::block::BlockStore;
use crate::store::block::Fate;
use crate::store::block::index;
use crate::store::block::index::Kind;
use crate::store::block::index::Writing;
use crate::store::block::index::block_key;
use crate::store::segment::Place;
use crate::telemetry::counter;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::placement::Placed;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// So many blocks wait to be let go of. What is beyond is found again.
const LET_GO_MAX: usize = 100_000;

/// Which node this is, and which nodes keep which blocks.
#[derive(Clone, Debug)]
pub struct Keeping {
    here: NodeId,
    placed: Arc<Placed>,
}

impl Keeping {
    pub fn new(here: NodeId, placed: Arc<Placed>) -> Keeping {
        Keeping { here, placed }
    }

    /// Whether a block is to be here.
    pub(super) fn keeps(&self, block: BlockId) -> bool {
        self.placed.keeps(self.here, block)
    }

    pub(super) fn number(&self) -> u64 {
        self.placed.number()
    }

    pub(super) fn is_everywhere(&self) -> bool {
        self.placed.is_everywhere()
    }
}

/// How far rows say what the placement does.
#[derive(Default)]
pub(super) struct Placing {
    /// `None`: nothing was said, so every block is to be here.
    keeping: Option<Keeping>,
    /// The placement that rows are of, as the table says; and as changes say that are not yet in it.
    rows_of: Option<u64>,
    unsaved_rows_of: Option<u64>,
    /// Where rows of another placement are looked at next.
    left: Option<Left>,
    /// What changes say that are not yet in the table: whether a block is elsewhere.
    unsaved: HashMap<BlockId, bool>,
    /// Blocks that may be let go of.
    let_go: BTreeSet<BlockId>,
    /// Blocks that are elsewhere as rows say, and of which opening found a record that no row knows of. The row that named them
    /// was lost with the power: others may have let go of them since, so the next write of rows makes them durable here again.
    pub(super) found: BTreeSet<BlockId>,
}

/// Rows of a kind, from behind a block on; those of [`Kind::Elsewhere`] come first, those of [`Kind::Listed`] last.
#[derive(Clone, Copy)]
struct Left {
    kind: Kind,
    after: Option<BlockId>,
}

impl Placing {
    /// As the table says when a store is opened.
    pub(super) fn of(rows_of: Option<u64>) -> Placing {
        Placing { rows_of, ..Placing::default() }
    }

    pub(super) fn keeps(&self, block: BlockId) -> bool {
        self.keeping.as_ref().is_none_or(|keeping| keeping.keeps(block))
    }

    /// Whether rows, in the table, are of the placement that holds.
    pub(super) fn stands(&self) -> bool {
        self.left.is_none() && self.unsaved_rows_of.is_none()
    }

    pub(super) fn is_due(&self) -> bool {
        self.left.is_some() || !self.let_go.is_empty() || !self.found.is_empty()
    }

    /// Whether there may be rows that say that something is elsewhere. Where not, nobody looks for them.
    fn is_shared_out(&self) -> bool {
        self.rows_of.is_some() || self.keeping.as_ref().is_some_and(|known| !known.is_everywhere())
    }

    /// The changes that were asked for so far are in the table.
    pub(super) fn written(&mut self) {
        self.unsaved.clear();
        self.rows_of = self.unsaved_rows_of.take().or(self.rows_of);
    }
}

impl BlockStore {
    /// Says which node this is, and which nodes keep which blocks from now on. What is named from here on follows it; rows
    /// of before are brought into line by the next calls of [`BlockStore::upkeep`]. Where it is never said, every block is to be
    /// here. The driver's, in the order of the log, and once when the store was opened, before anything is applied.
    pub fn keep_by(&self, here: NodeId, placed: Arc<Placed>) {
        let state = &mut *self.state.lock();
        state.complete.begin_anew();
        let placing = &mut state.placing;
        let number = placed.number();
        placing.keeping = Some(Keeping::new(here, placed));
        // Before the first placement there is nothing to be said.
        let stands = placing.rows_of.unwrap_or(0) == number;
        placing.left = (!stands).then_some(Left { kind: Kind::Elsewhere, after: None });
        // Whoever allowed it did so under the placement before.
        placing.let_go.clear();
    }

    /// The placement that rows are of, in the table; `None` before the first, and while they are brought into line with
    /// another.
    pub fn placed(&self) -> Option<u64> {
        let placing = &self.state.lock().placing;
        placing.rows_of.filter(|_| placing.stands())
    }

    /// Whether rows are still to be brought into line with the placement, which calls of [`BlockStore::upkeep`] do.
    pub fn is_placing(&self) -> bool {
        self.state.lock().placing.left.is_some()
    }

    /// At most `limit` blocks that are here and need not be, in order, from behind `after`; and from where to go on, unless the
    /// end was reached. It looks at so many rows as a step of upkeep does: there may be more where nothing was found.
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
        if keeping.is_everywhere() {
            return Ok((Vec::new(), None));
        }
        let (mut found, mut rows, mut go_on) = (Vec::new(), 0, None);
        index::each_key(&*self.table, Kind::Named, after, |block| {
            rows += 1;
            if !keeping.keeps(block) {
                found.push(block);
            }
            if rows < self.options.rows_per_step && found.len() < limit {
                return ControlFlow::Continue(());
            }
            go_on = Some(block);
            ControlFlow::Break(())
        })?;
        Ok((found, go_on))
    }

    /// All homes of these blocks have them: the next upkeep lets go of those that are still named and still need not be here.
    pub fn let_go(&self, blocks: &[BlockId]) {
        let let_go = &mut self.state.lock().placing.let_go;
        let room = LET_GO_MAX.saturating_sub(let_go.len());
        let_go.extend(blocks.iter().take(room));
    }

    /// Every named block that is elsewhere, in order.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn each_elsewhere(&self, mut visit: impl FnMut(BlockId)) -> Result<(), FsError> {
        index::each_key(&*self.table, Kind::Elsewhere, None, |block| {
            visit(block);
            ControlFlow::Continue(())
        })
    }

    /// Whether the log names the block, and it is neither here nor to be here, as far as rows say.
    pub(super) fn is_elsewhere(&self, block: BlockId) -> Result<bool, FsError> {
        {
            let placing = &self.state.lock().placing;
            if let Some(elsewhere) = placing.unsaved.get(&block) {
                return Ok(*elsewhere);
            }
            if !placing.is_shared_out() {
                return Ok(false);
            }
        }
        Ok(self.table.get(Family::Local, &block_key(Kind::Elsewhere, block))?.is_some())
    }

    /// What the next step has to look at. The driver's.
    pub(super) fn next_step(&self) -> Result<Step, FsError> {
        let rows_max = self.options.rows_per_step;
        let (left, let_go) = {
            let placing = &mut self.state.lock().placing;
            let let_go: Vec<_> =
                std::iter::from_fn(|| placing.let_go.pop_first()).take(rows_max).collect();
            (placing.left, let_go)
        };
        let (mut rows, mut surplus) = (Vec::new(), Vec::new());
        for block in let_go {
            if let Some(place) = self.row_of(block)? {
                surplus.push((block, place, self.is_listed(block)?));
            }
        }
        if let Some(Left { kind, after }) = left {
            let mut blocks = Vec::new();
            index::each_key(&*self.table, kind, after, |block| {
                blocks.push(block);
                let more = blocks.len() < rows_max;
                if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            for block in blocks {
                rows.push((block, kind == Kind::Listed && self.row_of(block)?.is_some()));
            }
        }
        Ok(Step { left, ends: rows.len() < rows_max, rows, surplus })
    }
}

/// What one call of upkeep does: found without the lock, for the table may have to read. Only the driver changes these rows, so
/// it still holds when it is written.
pub(super) struct Step {
    left: Option<Left>,
    /// Rows of the kind that is looked at, and whether a damaged copy is here.
    rows: Vec<(BlockId, bool)>,
    /// There are no more of that kind.
    ends: bool,
    /// Blocks that may be let go of, where they lie, and whether they are listed.
    surplus: Vec<(BlockId, Place, bool)>,
}

impl Step {
    /// Writes what follows, but for blocks whose rows change in these changes already: they are met again.
    pub(super) fn write(self, writing: &mut Writing<'_>, changing: impl Fn(&BlockId) -> bool) {
        for (block, place, listed) in self.surplus {
            if !writing.state.placing.keeps(block) && !changing(&block) {
                writing.let_go(block, place, listed);
            }
        }
        let Some(Left { kind, .. }) = self.left else { return };
        let last = self.rows.last().map(|(block, _)| *block);
        for (block, damaged) in self.rows {
            match (kind, writing.state.placing.keeps(block)) {
                (Kind::Elsewhere, true) => writing.want_here(block),
                // A damaged copy is repaired and let go of like a whole one: it may be whole yet, when it is read again.
                (Kind::Listed, false) if !damaged => writing.want_elsewhere(block),
                _ => {}
            }
        }
        let placing = &mut writing.state.placing;
        placing.left = match (kind, self.ends) {
            (kind, false) => Some(Left { kind, after: last }),
            (Kind::Elsewhere, true) => Some(Left { kind: Kind::Listed, after: None }),
            (_, true) => None,
        };
        if placing.left.is_none()
            && let Some(keeping) = &placing.keeping
        {
            placing.unsaved_rows_of = Some(keeping.number());
            index::put_placed(keeping.number(), writing.changes);
        }
    }
}

impl Writing<'_> {
    /// A named block that is elsewhere is to be here.
    fn want_here(&mut self, block: BlockId) {
        self.not_elsewhere(block);
        match self.state.pending.get(&block).copied() {
            // Its client put it here before.
            Some(pending) if self.state.is_synced(pending.place) => self.name(block, pending),
            Some(_) => {
                self.list(block);
                self.state.arrived.insert(block);
            }
            None => self.expect(block),
        }
    }

    /// A listed block of which nothing is here need not be here. What has arrived for it and is durable is kept.
    fn want_elsewhere(&mut self, block: BlockId) {
        match self.state.pending.get(&block).copied() {
            Some(pending) if self.state.is_synced(pending.place) => {
                self.state.arrived.insert(block);
                self.name(block, pending);
            }
            _ => {
                self.state.arrived.remove(&block);
                self.unlist(block);
                self.leave_elsewhere(block);
            }
        }
    }

    /// The log names a block that need not be here and is not durable here.
    pub(super) fn leave_elsewhere(&mut self, block: BlockId) {
        // Nobody was told that it is durable; see the module's text.
        self.drop_pending(block);
        self.comes_too_late(block);
        self.put_elsewhere(block);
    }

    /// What is being put of this block is dead.
    pub(super) fn comes_too_late(&mut self, block: BlockId) {
        if let Some(putting) = self.state.putting.get_mut(&block) {
            putting.fate = Fate::Dead;
        }
    }

    fn let_go(&mut self, block: BlockId, place: Place, listed: bool) {
        self.delete(Kind::Named, block);
        self.dies(place);
        self.state.unsaved.insert(block, None);
        // What was wrong with it is no more.
        self.state.met.remove(&block);
        if listed {
            self.unlist(block);
        }
        self.put_elsewhere(block);
        counter::BLOCKS_LET_GO.add(1);
    }

    fn put_elsewhere(&mut self, block: BlockId) {
        self.state.placing.unsaved.insert(block, true);
        put_row(block, self.changes);
    }

    /// Its row goes.
    pub(super) fn not_elsewhere(&mut self, block: BlockId) {
        self.state.placing.found.remove(&block);
        self.state.placing.unsaved.insert(block, false);
        self.delete(Kind::Elsewhere, block);
    }
}

/// The row of a block that is elsewhere.
pub(super) fn put_row(block: BlockId, changes: &mut Changes) {
    changes.put(Family::Local, block_key(Kind::Elsewhere, block), index::listed_row());
}
