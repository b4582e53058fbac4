//! The power goes at every operation of the disk, again and again, while a driver with a log lives on the store.
//!
//! After each cut: every block that the log names reads back right, what was synced for a living session is there, and
//! nothing is reported as damaged. At the end, with nearly everything freed, the space is back. Once more with other
//! nodes that have the blocks too: the log then names what was never put here or not synced, and each named block is
//! either right or on the list.

use super::*;
use crate::series::table::Family;
use crate::series::table::Rows;
use std::collections::BTreeSet;

const APPLIED: &[u8] = b"applied";

/// What the log holds; it is durable as soon as it is pushed.
#[derive(Clone, Debug)]
enum Entry {
    Batch { named: Vec<u64>, freed: Vec<u64> },
    EndSession(u64),
}

struct Life {
    world: World,
    /// Other nodes have the blocks too.
    shared: bool,
    store: Option<BlockStore>,
    log: Vec<Entry>,
    chance: u64,
    session: u64,
    next: u64,
    /// Put, not covered by a sync.
    unsynced: Vec<u64>,
    /// Covered, not named.
    synced: Vec<u64>,
    named: BTreeSet<u64>,
}

impl Life {
    fn new(seed: u64, shared: bool) -> Life {
        Life {
            world: World::new(),
            shared,
            store: None,
            log: Vec::new(),
            chance: seed,
            session: 1,
            next: 0,
            unsynced: Vec::new(),
            synced: Vec::new(),
            named: BTreeSet::new(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.chance >> 33) % bound
    }

    /// Opens and replays, as a node does.
    fn start(&mut self) -> Result<(), FsError> {
        let table: Arc<dyn Table> = self.world.table.clone();
        let (disk, dir) = (self.world.disk.shared(), Path::new("/blocks"));
        let opened = BlockStore::open(disk, dir, STORE, table, options(), Access::ReadWrite);
        let (store, faults) = opened?;
        assert_eq!(faults, [], "a power cut is no damage");
        store.share(self.shared);
        self.store = Some(store);
        let applied = self.world.table.get(Family::Local, APPLIED)?;
        let applied = applied.map_or(0, |bytes| bytes[0] as usize + 256 * bytes[1] as usize);
        for index in applied..self.log.len() {
            self.apply(index)?;
        }
        let store = self.store.as_ref().unwrap();
        for session in store.pending_sessions() {
            if session.0 != self.session {
                self.world.write(store, |changes| store.sweep_session(session, changes).unwrap());
            }
        }
        Ok(())
    }

    fn apply(&mut self, index: usize) -> Result<(), FsError> {
        let store = self.store.as_ref().unwrap();
        let mut changes = Changes::default();
        match &self.log[index] {
            Entry::Batch { named, freed } => {
                let ids = |numbers: &[u64]| numbers.iter().copied().map(block).collect::<Vec<_>>();
                store.named(&ids(named), &mut changes)?;
                store.freed(&ids(freed), &mut changes)?;
            }
            Entry::EndSession(session) => {
                store.sweep_session(SessionId(*session), &mut changes)?;
            }
        }
        let applied = index + 1;
        changes.put(Family::Local, APPLIED, vec![applied as u8, (applied >> 8) as u8]);
        self.world.table.write(&changes)?;
        store.written();
        Ok(())
    }

    /// A majority of the other nodes has them.
    fn name_what_is_not_durable(&mut self, named: &mut Vec<u64>) {
        let unsynced = self.below(self.unsynced.len() as u64 + 1) as usize;
        named.extend(self.unsynced.drain(..unsynced));
        for _ in 0..self.below(3) {
            named.push(self.session << 32 | self.next);
            self.next += 1;
        }
    }

    /// Another node sends a few of what is missing here, or their client does after all.
    fn supply(&mut self) -> Result<(), FsError> {
        let (from, late) = (self.below(3), self.below(2) == 0);
        let store = self.store.as_ref().unwrap();
        for missing in store.missing(None, 4)?.into_iter().skip(from as usize) {
            if late {
                store.put(missing, &packed(missing))?;
            } else {
                store.supply(missing, &frame(missing))?;
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), FsError> {
        if self.shared && self.below(6) == 0 {
            return self.supply();
        }
        match self.below(20) {
            0..8 => {
                let number = self.session << 32 | self.next;
                self.next += 1;
                self.store.as_ref().unwrap().put(block(number), &packed(block(number)))?;
                self.unsynced.push(number);
            }
            8..11 => {
                self.store.as_ref().unwrap().sync()?;
                self.synced.append(&mut self.unsynced);
            }
            11..15 => {
                let take = self.below(self.synced.len() as u64 + 1) as usize;
                let mut named: Vec<u64> = self.synced.drain(..take).collect();
                if self.shared {
                    self.name_what_is_not_durable(&mut named);
                }
                let every = 2 + self.below(3);
                let mut freed: Vec<u64> = self.named.iter().copied().collect();
                freed.retain(|_| self.below(every) == 0);
                // Sometimes a batch frees what it has just named.
                freed.extend(named.iter().filter(|_| every == 3).take(1));
                self.named.extend(&named);
                self.named.retain(|number| !freed.contains(number));
                self.log.push(Entry::Batch { named, freed });
                self.apply(self.log.len() - 1)?;
            }
            15 => self.world.table.flush()?,
            16 => {
                let store = self.store.as_ref().unwrap();
                let retired = store.retired();
                self.world.table.flush()?;
                store.remove(retired)?;
            }
            17 => {
                let copies = self.below(6);
                let store = self.store.as_ref().unwrap();
                if let Some(plan) = store.plan_reclaim() {
                    let mut left = copies;
                    store.reclaim(&plan, &mut |_| {
                        left = left.saturating_sub(1);
                        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    })?;
                }
            }
            18 => {
                let store = self.store.as_ref().unwrap();
                let mut changes = Changes::default();
                store.upkeep(&mut changes)?;
                self.world.table.write(&changes)?;
                store.written();
            }
            _ => {
                if self.below(4) == 0 {
                    self.unsynced.clear();
                    self.synced.clear();
                    self.log.push(Entry::EndSession(self.session));
                    self.session += 1;
                    self.apply(self.log.len() - 1)?;
                }
            }
        }
        Ok(())
    }

    /// The power is cut and the node starts again, through further cuts.
    fn restart(&mut self, seed: u64, cuts: u64) {
        for cut in 0..=cuts {
            self.store = None;
            self.world.disk.crash(seed + cut);
            self.world.table.lose_power();
            // What was not synced may or may not be there, and nobody names it.
            self.unsynced.clear();
            if cut < cuts {
                self.world.disk.power_off_after(cut);
            }
            match self.start() {
                Ok(()) => break,
                Err(error) => assert!(cut < cuts, "after the power is back: {error}"),
            }
        }
        self.check();
    }

    fn check(&self) {
        let store = self.store.as_ref().unwrap();
        for number in &self.named {
            let listed = store.is_listed(block(*number)).unwrap();
            match store.get(block(*number)) {
                Ok(read) => assert!(read == frame(block(*number)), "block {number}"),
                Err(error) => assert!(self.shared && listed, "block {number}: {error}"),
            }
        }
        check(store, self.synced.iter().copied());
        scrub(store);
        let missing = store.missing(None, usize::MAX).unwrap();
        assert!(missing.len() as u64 <= store.listed());
        assert!(missing.iter().all(|missing| self.named.contains(&missing.number)));
    }

    /// Other nodes send all that is missing.
    fn repair(&mut self) {
        let store = self.store.as_ref().unwrap();
        for missing in store.missing(None, usize::MAX).unwrap() {
            store.supply(missing, &frame(missing)).unwrap();
        }
        store.sync().unwrap();
        self.world.write(store, |changes| store.upkeep(changes).unwrap());
        assert_eq!(store.listed(), 0);
        check(store, self.named.iter().copied());
    }

    /// Frees all but two blocks: what the disk then holds is bounded, whatever happened before.
    fn end(&mut self) {
        self.repair();
        self.synced.clear();
        self.unsynced.clear();
        self.log.push(Entry::EndSession(self.session));
        let freed = self.named.iter().copied().skip(2).collect();
        self.named = self.named.iter().copied().take(2).collect();
        self.log.push(Entry::Batch { named: Vec::new(), freed });
        self.session += 1;
        self.apply(self.log.len() - 2).unwrap();
        self.apply(self.log.len() - 1).unwrap();
        let store = self.store.take().unwrap();
        for session in store.pending_sessions() {
            self.world.write(&store, |changes| store.sweep_session(session, changes).unwrap());
        }
        self.world.reclaim(&store);
        self.store = Some(store);
        self.check();
        // Two segments being filled, each given up from a MiB on, the space they took ahead, and the two blocks.
        let used = self.world.disk.used();
        assert!(used < (5 << 20) / 2, "{used} bytes for two blocks");
        let rows = index::segments(&*self.world.table).unwrap().len();
        assert!(rows <= 5, "{rows} segments for two blocks");
    }
}

/// Lives through `lives` power cuts, each after up to `operations` operations of the disk, then ends well.
fn live(seed: u64, shared: bool, lives: u64, operations: impl Fn(&mut Life) -> u64) {
    let mut life = Life::new(seed, shared);
    life.start().unwrap();
    for cut in 0..lives {
        let operations = operations(&mut life);
        life.world.disk.power_off_after(operations);
        let mut steps = 0;
        while life.step().is_ok() && steps < 400 {
            steps += 1;
        }
        let cuts = life.below(3);
        life.restart(seed * 1000 + cut, cuts);
    }
    life.end();
}

#[test]
fn cut_at_every_operation() {
    for operations in 0..160 {
        live(operations, false, 1, |_| operations);
    }
}

#[test]
fn cut_at_every_operation_among_others() {
    for operations in (0..160).step_by(2) {
        live(operations, true, 1, |_| operations);
    }
}

#[test]
fn cut_again_and_again() {
    for seed in 1000..1060 {
        live(seed, false, 6, |life| life.below(120));
    }
}

#[test]
fn cut_again_and_again_among_others() {
    for seed in 2000..2030 {
        live(seed, true, 6, |life| life.below(120));
    }
}
