//! A node with a log that it applies, for the tests that cut its power.

use super::listed::rows;
use super::*;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::types::NodeId;
use crate::types::placement::Placed;
use crate::types::placement::Placement;
use std::collections::BTreeMap;

pub(super) const APPLIED: &[u8] = b"applied";

#[derive(Clone, Debug)]
pub(super) enum Entry {
    Batch { named: Vec<u64>, freed: Vec<u64> },
    Place(Placement),
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) world: World,
    pub(super) store: BlockStore,
    pub(super) applied: usize,
    /// Put here and not yet synced, as its client knows.
    pub(super) written: Vec<u64>,
}

/// What entries say.
#[derive(Default)]
pub(super) struct Said {
    pub(super) placement: Placement,
    /// Whether it was freed.
    pub(super) blocks: BTreeMap<u64, bool>,
}

pub(super) fn said(log: &[Entry]) -> Said {
    let mut said = Said::default();
    for entry in log {
        match entry {
            Entry::Batch { named, freed } => {
                said.blocks.extend(named.iter().map(|number| (*number, false)));
                said.blocks.extend(freed.iter().map(|number| (*number, true)));
            }
            Entry::Place(placement) => said.placement = placement.clone(),
        }
    }
    said
}

fn opened(id: NodeId, world: &World, log: &[Entry]) -> Result<(BlockStore, usize), FsError> {
    let table: Arc<dyn Table> = world.table.clone();
    let (disk, dir) = (world.disk.shared(), Path::new("/blocks"));
    let (store, faults) = BlockStore::open(disk, dir, STORE, table, options(), Access::ReadWrite)?;
    assert_eq!(faults, [], "a power cut is no damage");
    store.share(true);
    let applied = world.table.get(Family::Local, APPLIED)?;
    let applied = applied.map_or(0, |row| usize::from(row[0]) + 256 * usize::from(row[1]));
    store.keep_by(id, Arc::new(Placed::new(&said(&log[..applied]).placement)));
    Ok((store, applied))
}

impl Node {
    pub(super) fn new(n: usize) -> Node {
        let (id, world) = (NodeId(n as u64 + 1), World::new());
        let (store, applied) = opened(id, &world, &[]).unwrap();
        Node { id, world, store, applied, written: Vec::new() }
    }

    /// The power is cut, and the node starts again.
    pub(super) fn restart(&mut self, seed: u64, log: &[Entry]) {
        self.world.disk.crash(seed);
        self.world.table.lose_power();
        self.written.clear();
        let started = opened(self.id, &self.world, log);
        (self.store, self.applied) = started.expect("the power is back");
    }

    pub(super) fn write(
        &self,
        run: impl FnOnce(&mut Changes) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let mut changes = Changes::default();
        run(&mut changes)?;
        self.world.table.write(&changes)?;
        self.store.written();
        Ok(())
    }

    pub(super) fn apply(&mut self, log: &[Entry]) -> Result<(), FsError> {
        let Some(entry) = log.get(self.applied) else { return Ok(()) };
        let applied = self.applied + 1;
        let ids = |numbers: &[u64]| numbers.iter().copied().map(block).collect::<Vec<_>>();
        self.write(|changes| {
            if let Entry::Batch { named, freed } = entry {
                self.store.named(&ids(named), changes)?;
                self.store.freed(&ids(freed), changes)?;
            }
            changes.put(Family::Local, APPLIED, vec![applied as u8, (applied >> 8) as u8]);
            Ok(())
        })?;
        if let Entry::Place(placement) = entry {
            self.store.keep_by(self.id, Arc::new(Placed::new(placement)));
        }
        self.applied = applied;
        Ok(())
    }

    pub(super) fn upkeep(&self) -> Result<(), FsError> {
        self.write(|changes| self.store.upkeep(changes))
    }

    pub(super) fn flush(&self) -> Result<(), FsError> {
        let retired = self.store.retired();
        self.world.table.flush()?;
        self.store.remove(retired)
    }

    /// Whether a block is here whatever happens to the power.
    pub(super) fn has(&self, number: u64) -> bool {
        let place = self.store.locate(block(number)).unwrap();
        place.is_some_and(|place| self.store.state.lock().is_synced(place))
    }

    /// It has applied the log up to there, rows are of this placement, and nothing is missing.
    pub(super) fn is_complete(&self, applied: usize, number: u64) -> bool {
        self.applied >= applied && self.store.placed() == Some(number) && self.store.listed() == 0
    }
}

/// The rows of these blocks say what they are to, and what the node says of them is true.
#[track_caller]
pub(super) fn check_rows(node: &Node, log: &[Entry], blocks_max: u64) {
    let Said { placement, blocks } = said(&log[..node.applied]);
    let (placed, stands) = (Placed::new(&placement), node.store.placed());
    assert!(stands.is_none_or(|number| number == placement.number));
    for number in 0..blocks_max {
        let rows = rows(&node.world, number);
        let keeps = placed.keeps(node.id, block(number));
        let freed = blocks.get(&number);
        let fits = match (freed, rows.as_str()) {
            // What comes late for a freed block goes with its session.
            (None | Some(true), "" | "P") => true,
            (Some(false), "B" | "BL") => true,
            (Some(false), "L" | "PL") => keeps || stands.is_none(),
            (Some(false), "E") => !keeps || stands.is_none(),
            _ => false,
        };
        let id = node.id.0;
        assert!(fits, "node {id}, block {number}: {rows:?} {freed:?} {keeps} {stands:?}");
    }
}
