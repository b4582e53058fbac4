//! Three nodes and a client that counts: nodes crash, lag, rot, take over each other's tables and repair; a block that the
//! log names is whole on a majority at every moment, and in the end on all.
//!
//! The log is a list that is never lost, applied by each node at its own pace. Not here: sessions, connections.

use super::*;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::table::Rows;
use crate::store::block::Keeping;
use crate::store::block::adopt;
use crate::types::NodeId;
use crate::wire::quorum::Boot;
use crate::wire::quorum::PutNo;
use crate::wire::quorum::Quorum;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

const APPLIED: &[u8] = b"applied";

struct Entry {
    named: Vec<u64>,
    freed: Vec<u64>,
}

struct Node {
    disk: SimulatedDisk,
    table: Arc<MemoryTable>,
    store: BlockStore,
    boot: u64,
}

struct Cluster {
    nodes: Vec<Node>,
    log: Vec<Entry>,
    quorum: Quorum,
    chance: u64,
    last: u64,
    /// Up to where the puts are named.
    named_through: u64,
    named: BTreeSet<u64>,
}

fn open(disk: &SimulatedDisk, table: &Arc<MemoryTable>) -> BlockStore {
    let (rows, dir): (Arc<dyn Table>, _) = (table.clone(), Path::new("/blocks"));
    let options = Options {
        segment_bytes: 2 << 20,
        allocate_bytes: 64 << 10,
        open_files_max: 8,
        rows_per_step: 10,
    };
    let opened = BlockStore::open(disk.shared(), dir, STORE, rows, options, Access::ReadWrite);
    let (store, faults) = opened.unwrap();
    assert_eq!(faults, []);
    store.share(true);
    store
}

fn id(n: usize) -> NodeId {
    NodeId(n as u64 + 1)
}

impl Node {
    fn new() -> Node {
        let (disk, table) = (SimulatedDisk::new(64 << 20), Arc::new(MemoryTable::default()));
        let store = open(&disk, &table);
        Node { disk, table, store, boot: 0 }
    }

    fn applied(&self) -> usize {
        let row = self.table.get(Family::Local, APPLIED).unwrap();
        row.map_or(0, |row| usize::from(row[0]) * 256 + usize::from(row[1]))
    }

    fn apply(&self, index: usize, entry: &Entry) {
        let blocks = |numbers: &[u64]| numbers.iter().copied().map(block).collect::<Vec<_>>();
        write(&self.table, &self.store, |changes| {
            self.store.named(&blocks(&entry.named), changes).unwrap();
            self.store.freed(&blocks(&entry.freed), changes).unwrap();
            let applied = index + 1;
            changes.put(Family::Local, APPLIED, vec![(applied >> 8) as u8, applied as u8]);
        });
    }

    fn upkeep(&self) {
        write(&self.table, &self.store, |changes| self.store.upkeep(changes).unwrap());
    }

    fn whole(&self, number: u64) -> bool {
        self.store.get(block(number)).is_ok_and(|read| read == frame(number))
    }
}

/// What a checkpoint of a table is, received.
fn copied(table: &MemoryTable) -> Arc<MemoryTable> {
    let copy = Arc::new(MemoryTable::default());
    let mut changes = Changes::default();
    for family in Family::ALL {
        let all = KeyRange { start: Vec::new(), end: Vec::new() };
        table
            .scan(family, &all, Direction::Forward, &mut |key, row| {
                changes.put(family, key, row.to_vec());
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    copy.write(&changes).unwrap();
    copy.flush().unwrap();
    copy
}

impl Cluster {
    fn new(seed: u64) -> Cluster {
        let nodes: Vec<_> = (0..3).map(|_| Node::new()).collect();
        let mut quorum = Quorum::new(&[0, 1, 2].map(id), 20_000);
        (0..3).for_each(|n| quorum.connected(id(n), Boot(0)));
        let (log, named) = (Vec::new(), BTreeSet::new());
        Cluster { nodes, log, quorum, chance: seed, last: 0, named_through: 0, named }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.chance >> 33) % bound
    }

    fn step(&mut self) {
        let n = self.below(3) as usize;
        match self.below(24) {
            0..4 => {
                self.last += 1;
                let no = self.quorum.put(block(self.last), frame(self.last).len() as u64);
                assert_eq!(no, PutNo(self.last));
            }
            4..12 => {
                let Some((no, block)) = self.quorum.next_for(id(n)) else { return };
                self.nodes[n].store.put(block, &packed(block)).unwrap();
                self.quorum.written(id(n), Boot(self.nodes[n].boot), no);
            }
            12..14 => {
                let Some(mark) = self.quorum.begin_sync(id(n)) else { return };
                self.nodes[n].store.sync().unwrap();
                self.quorum.synced(mark);
            }
            14..16 => self.name(),
            16..19 => {
                let applied = self.nodes[n].applied();
                if let Some(entry) = self.log.get(applied) {
                    self.nodes[n].apply(applied, entry);
                }
            }
            19 => {
                let node = &self.nodes[n];
                let retired = node.store.retired();
                node.table.flush().unwrap();
                node.store.remove(retired).unwrap();
            }
            20 => {
                let few = 1 + self.below(4) as usize;
                self.repair(n, few);
            }
            21 => self.restart(n),
            22 => self.rot(n),
            _ => {
                let from = (n + 1 + self.below(2) as usize) % 3;
                if self.nodes[from].applied() > self.nodes[n].applied() + 2 {
                    self.take_over(n, from);
                } else if let Some(plan) = self.nodes[n].store.plan_reclaim() {
                    // A damaged one stays where it is.
                    let _ = self.nodes[n].store.reclaim(&plan, &mut |_| ControlFlow::Continue(()));
                    self.nodes[n].upkeep();
                }
            }
        }
    }

    /// The client names what is durable; some of what was named is freed.
    fn name(&mut self) {
        let through = self.quorum.durable_through().0;
        let named: Vec<u64> = (self.named_through + 1..=through).collect();
        self.named_through = through;
        let mut freed: Vec<u64> = self.named.iter().copied().collect();
        freed.retain(|_| self.below(6) == 0);
        self.named.extend(&named);
        self.named.retain(|number| !freed.contains(number));
        self.log.push(Entry { named, freed });
    }

    fn repair(&mut self, n: usize, blocks_max: usize) {
        for missing in self.nodes[n].store.missing(None, blocks_max).unwrap() {
            let others = (0..3).filter(|other| *other != n);
            let got = others.filter_map(|other| self.nodes[other].store.get(missing).ok()).next();
            if let Some(got) = got {
                self.nodes[n].store.supply(missing, &got).unwrap();
            }
        }
        self.nodes[n].store.sync().unwrap();
        self.nodes[n].upkeep();
    }

    /// The power of a node is cut; it comes back, and its client notices.
    fn restart(&mut self, n: usize) {
        let seed = self.below(1 << 30);
        let node = &mut self.nodes[n];
        node.disk.crash(seed);
        node.table.lose_power();
        node.store = open(&node.disk, &node.table);
        node.boot += 1;
        self.quorum.connected(id(n), Boot(node.boot));
    }

    /// A block rots on one node, if all have it.
    fn rot(&mut self, n: usize) {
        let pick = self.below(1 << 20) as usize;
        let Some(&number) = self.named.iter().nth(pick % self.named.len().max(1)) else { return };
        if !self.nodes.iter().all(|node| node.whole(number)) {
            return;
        }
        // What is not durable would be another loss at the same time.
        self.nodes.iter().for_each(|node| node.store.sync().unwrap());
        let node = &self.nodes[n];
        let (segment, offset) = node.store.place(block(number)).unwrap();
        node.disk.flip_bit(&segment.path(Path::new("/blocks")), offset + 90, 2).unwrap();
        assert!(!node.whole(number));
    }

    fn take_over(&mut self, n: usize, from: usize) {
        let seed = self.below(1 << 30);
        let table = copied(&self.nodes[from].table);
        let node = &mut self.nodes[n];
        // The node is stopped for it; a sync that was answered counts, nothing else.
        node.disk.crash(seed);
        node.table.lose_power();
        let dir = Path::new("/blocks");
        let old = Some(node.table.clone() as Arc<dyn Table>);
        let keeping = Keeping::new(NodeId(1), Arc::default());
        adopt(&node.disk.shared(), dir, STORE, &*table, old, &[APPLIED], &keeping).unwrap();
        table.lose_power();
        node.table = table;
        node.store = open(&node.disk, &node.table);
        node.boot += 1;
        self.quorum.connected(id(n), Boot(node.boot));
    }

    /// Of what is named, a majority has a whole copy; or two nodes less the one where it rots.
    fn check(&self, seed: u64) {
        for number in &self.named {
            let whole = self.nodes.iter().filter(|node| node.whole(*number)).count();
            assert!(whole >= 2, "seed {seed}: block {number} is whole on {whole} nodes");
        }
    }

    fn end(&mut self, seed: u64) {
        for n in 0..3 {
            while let Some(entry) = self.log.get(self.nodes[n].applied()) {
                self.nodes[n].apply(self.nodes[n].applied(), entry);
            }
            for (segment, _) in self.nodes[n].store.segments() {
                self.nodes[n].store.scrub(segment, &mut |_| ()).unwrap();
            }
            self.nodes[n].upkeep();
        }
        for n in 0..3 {
            self.repair(n, usize::MAX);
            assert_eq!(self.nodes[n].store.listed(), 0, "seed {seed}");
            for (segment, _) in self.nodes[n].store.segments() {
                let tell = &mut |fault: crate::store::block::Fault| panic!("{}", fault.what);
                self.nodes[n].store.scrub(segment, tell).unwrap();
            }
            for number in &self.named {
                assert!(self.nodes[n].whole(*number), "seed {seed}: block {number}");
            }
        }
    }
}

#[test]
fn what_the_log_names_is_whole_on_a_majority_at_every_moment_and_in_the_end_on_all() {
    for seed in 0..40 {
        let mut cluster = Cluster::new(seed);
        for step in 0..400 {
            cluster.step();
            if step % 10 == 0 {
                cluster.check(seed);
            }
        }
        cluster.check(seed);
        cluster.end(seed);
    }
}
