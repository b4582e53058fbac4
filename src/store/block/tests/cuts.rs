//! One node whose blocks are named, placed, fetched, let go of and freed: its table is flushed after any step and the power cut
//! after any later one, or at any operation of the disk.
//!
//! Whatever was cut off: each block that the log names has the row that it is to have, what a client was told to be durable is there
//! unless it was let go of, and the node ends with everything in order.

use super::elsewhere::HERE;
use super::elsewhere::all_on;
use super::elsewhere::changed;
use super::elsewhere::layout;
use super::elsewhere::settle;
use super::listed::rows;
use super::node::Entry;
use super::node::Node;
use super::node::check_rows;
use super::*;
use crate::types::placement::Placement;

const STEPS: usize = 26;
const BLOCKS: u64 = 28;

struct Life {
    node: Node,
    log: Vec<Entry>,
    /// Durable here, as a client was told before they were named.
    told: BTreeSet<u64>,
    let_go: BTreeSet<u64>,
}

fn named(numbers: std::ops::Range<u64>) -> Entry {
    Entry::Batch { named: numbers.collect(), freed: Vec::new() }
}

fn log() -> Vec<Entry> {
    let nowhere = all_on(2, &Placement::default());
    let half = changed(&nowhere, Some(layout(1, 1..=2)), None);
    let here = all_on(HERE.0, &half);
    let freed = (0..24).step_by(3).collect();
    vec![
        named(0..8),
        Entry::Place(nowhere),
        named(8..24),
        Entry::Place(half),
        Entry::Place(here),
        Entry::Batch { named: (24..BLOCKS).collect(), freed },
    ]
}

impl Life {
    fn new() -> Life {
        let (told, let_go) = (BTreeSet::new(), BTreeSet::new());
        Life { node: Node::new(0), log: log(), told, let_go }
    }

    fn put(&self, numbers: std::ops::Range<u64>) -> Result<(), FsError> {
        numbers.map(block).try_for_each(|block| self.node.store.put(block, &packed(block)))
    }

    fn step(&mut self, step: usize) -> Result<(), FsError> {
        match step {
            0 => self.put(0..12),
            1 => {
                self.node.store.sync()?;
                self.told.extend(0..12);
                Ok(())
            }
            // Of these, 12 to 15 are not durable when they are named.
            5 => self.put(12..16),
            2 | 3 | 6 | 9 | 18 | 23 => self.node.apply(&self.log),
            7 | 14 => self.node.store.sync(),
            13 => self.fetch(),
            16 => {
                let (surplus, _) = self.node.store.surplus(None, usize::MAX)?;
                self.let_go.extend(surplus.iter().map(|block| block.number));
                self.node.store.let_go(&surplus);
                Ok(())
            }
            24 => {
                let Some(plan) = self.node.store.plan_reclaim() else { return Ok(()) };
                self.node.store.reclaim(&plan, &mut |_| ControlFlow::Continue(()))
            }
            _ => self.node.upkeep(),
        }
    }

    fn fetch(&self) -> Result<(), FsError> {
        for missing in self.node.store.missing(None, usize::MAX)? {
            self.node.store.supply(missing, &frame(missing))?;
        }
        Ok(())
    }

    fn check(&self) {
        check_rows(&self.node, &self.log, BLOCKS);
        let freed = |number: &u64| self.node.applied == self.log.len() && number.is_multiple_of(3);
        for number in self.told.difference(&self.let_go).filter(|number| !freed(number)) {
            assert!(self.node.has(*number), "block {number}");
        }
        scrub(&self.node.store);
    }

    fn restart(&mut self, seed: u64) {
        self.node.restart(seed, &self.log);
        self.check();
    }

    /// All else happens after all.
    fn end(&mut self) {
        while self.node.applied < self.log.len() {
            self.node.apply(&self.log).unwrap();
            self.check();
        }
        settle(&self.node.world, &self.node.store);
        self.fetch().unwrap();
        self.node.store.sync().unwrap();
        settle(&self.node.world, &self.node.store);
        self.check();
        assert_eq!((self.node.store.placed(), self.node.store.listed()), (Some(3), 0));
        for number in 0..BLOCKS {
            let freed = number < 24 && number % 3 == 0;
            assert_eq!(rows(&self.node.world, number), if freed { "" } else { "B" }, "{number}");
        }
        check(&self.node.store, (0..BLOCKS).filter(|number| *number >= 24 || number % 3 != 0));
    }
}

#[test]
fn flushed_after_any_step_and_cut_after_any_other() {
    for flushed in 0..STEPS {
        for cut in (flushed..STEPS).step_by(3) {
            let mut life = Life::new();
            for step in 0..=cut {
                life.step(step).unwrap();
                life.check();
                if step == flushed {
                    life.node.flush().unwrap();
                }
            }
            life.restart((flushed * STEPS + cut) as u64);
            life.end();
        }
    }
}

#[test]
fn cut_at_every_operation_of_the_disk() {
    for operations in (0..90).step_by(2) {
        let mut life = Life::new();
        life.node.world.disk.power_off_after(operations);
        for step in 0..STEPS {
            if life.step(step).is_err() {
                break;
            }
            if step as u64 % 5 == operations % 5 && life.node.flush().is_err() {
                break;
            }
        }
        life.restart(operations);
        life.end();
    }
}
