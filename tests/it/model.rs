//! The file system's rules against a tree in memory: random ops, crashes and replays in between, every instant read back.
//!
//! Goal: what `meta` and `series` keep reads, at every instant that can be read, exactly as a simple tree that was
//! copied at that instant. Method: ops are drawn, tried on a client's view (which must answer as the tree does, and
//! change nothing when it refuses), collected into batches, applied as a replica does, and compared. After each batch
//! all rules between rows are checked. At the end history is purged to a random horizon and what must remain is compared
//! again; then everything is deleted and forgotten, and no row may be left.
//!
//! A failure prints its seed: run it with `TSFS_SEED=n cargo test --test it model::`.
//!
//! Proved with planted faults; how many seeds each took stands in `docs/decisions/0007-the-model-test.md`.

mod faults;
mod locks;
mod ops;
mod rules;
mod sessions;
mod tree;
mod world;

use ops::Chance;
use ops::Maker;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use tree::Model;
use tree::Node;
use tree::Tree;
use tsfs::meta::key;
use tsfs::meta::key::Key;
use tsfs::meta::op::By;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::meta::read;
use tsfs::meta::record::Inode;
use tsfs::series::Read;
use tsfs::types::AsOf;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::Stamp;
use tsfs::types::Time;
use world::View;
use world::World;

/// Runs in `make test`; more with `TSFS_SEEDS`.
const SEEDS: u64 = 12;
const BATCHES: u64 = 60;

#[test]
fn every_instant_reads_as_the_tree_that_was() {
    for seed in seeds(SEEDS) {
        let run = AssertUnwindSafe(|| Run::new(seed).all());
        if let Err(panic) = std::panic::catch_unwind(run) {
            println!("FAILED seed {seed}: TSFS_SEED={seed} cargo test --test it model::");
            std::panic::resume_unwind(panic);
        }
    }
}

/// One seed, or so many, or what is usual.
fn seeds(usual: u64) -> Range<u64> {
    let set = |name| {
        #[expect(clippy::disallowed_methods, reason = "a test is told its seed by who runs it")]
        std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"))
    };
    match (set("TSFS_SEED"), set("TSFS_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(usual),
    }
}

/// One seed.
struct Run {
    maker: Maker,
    world: World,
    model: Model,
    /// For everything that is not drawn as an op.
    chance: Chance,
}

impl Run {
    fn new(seed: u64) -> Run {
        let time = Time { secs: 1_600_000_000, nanos: 0 };
        let mut model = Model::new(Tree::new(time));
        model.begin(Stamp(2000));
        model.end_step();
        Run {
            // A third of the seeds tells directories to keep no history; they compare less.
            maker: Maker::new(seed, seed % 3 == 2),
            world: World::new(time),
            model,
            chance: Chance(seed ^ 0xabcd),
        }
    }

    fn all(mut self) {
        for _ in 0..BATCHES {
            match self.chance.below(20) {
                0 => self.world.crash(),
                1 => {
                    let stamp = self.stamp();
                    self.world.repeat(stamp);
                }
                2 => self.world.collect_segments(),
                3 | 4 => {
                    let op = self.maker.clone_op(&self.model);
                    self.server(op);
                }
                5 => {
                    let op = self.maker.mark();
                    self.server(Some(op));
                }
                6 => {
                    let names: Vec<_> = self.model.marks.keys().collect();
                    let name = self.chance.pick(&names).cloned();
                    self.server(name.map(|name| Op::Unmark { name }));
                }
                7 if self.chance.one_in(3) => self.purge_a_little(),
                8 if self.chance.one_in(4) => self.change_session(),
                _ => self.batch(),
            }
            self.world.check();
            self.compare_now();
        }
        self.world.crash();
        self.compare_past();
        self.purge();
        self.compare_past();
        self.end();
    }

    fn stamp(&mut self) -> Stamp {
        Stamp(self.world.last.0 + 1 + self.chance.below(1000))
    }

    /// A batch of a client's ops, each tried on its view first.
    fn batch(&mut self) {
        let stamp = self.stamp();
        let mut ops = Vec::new();
        let mut by: Vec<By> = vec![By { uid: 0, ops: 0 }];
        let mut view = View::new(&self.world.table);
        self.model.begin(stamp);
        for _ in 0..=self.chance.below(25) {
            let Some(op) = self.maker.op(&self.model) else { continue };
            self.world.segments.borrow_mut().extend(self.maker.made.drain(..));
            let before = view.rows.clone();
            let told = self.world.rules.apply(&mut view, self.world.session, &op);
            // Another user's ops begin another step.
            if told.is_ok() && self.chance.one_in(6) {
                if !ops.is_empty() {
                    self.model.cut();
                }
                by.push(By { uid: by.len() as u32, ops: 0 });
            }
            let segments = &self.world.segments;
            let expected = self.model.apply(&op, &|block| segments.borrow()[&block].clone());
            assert_eq!(told, expected, "{op:?}");
            match told {
                Ok(()) => {
                    by.last_mut().expect("it begins with one").ops += 1;
                    ops.push(op);
                }
                Err(_) => assert_eq!(view.rows, before, "a refused op changed rows: {op:?}"),
            }
        }
        let rows = view.rows;
        self.model.end_step();
        by.retain(|by| by.ops > 0);
        let (outcome, last) = self.world.submit_of(stamp, by, ops);
        assert_eq!(outcome, Outcome::Applied);
        assert_eq!(last, self.model.stamp, "steps");
        self.compare_view(rows);
    }

    /// What the client's rules reached is what the replica's did, but for inline bytes sealed into blocks.
    fn compare_view(&self, rows: BTreeMap<Vec<u8>, Option<bytes::Bytes>>) {
        let read = self.world.read(Vec::new());
        for (key, row) in rows {
            let committed = read.get(&key, AsOf::Now).unwrap();
            if matches!(Key::decode(&key), Some(Key::Extents { .. })) {
                // Rows of dead generations may be swept before they are compared.
                let (Some(row), Some(committed)) = (row, committed) else { continue };
                let bytes =
                    |row| tsfs::meta::extents::Extents::from_row(&key, row).unwrap().bytes();
                assert_eq!(bytes(&row), bytes(&committed));
            } else {
                assert_eq!(row, committed, "{}", key::describe(&key));
            }
        }
    }

    /// One op in a batch of the server's own.
    fn server(&mut self, op: Option<Op>) {
        let Some(op) = op else { return };
        let stamp = self.stamp();
        self.model.begin(stamp);
        let before = self.model.now.clone();
        let segments = &self.world.segments;
        let expected = self.model.apply(&op, &|block| segments.borrow()[&block].clone());
        let readable = match &op {
            // What cannot be read any more cannot be cloned: the model keeps everything.
            Op::Clone { as_of: AsOf::At(at), .. } => *at >= self.world.horizon(),
            _ => true,
        };
        let forgotten =
            matches!(&op, Op::Clone { from, .. } if self.model.forgetful.contains(from));
        if !readable || forgotten || expected.is_err() {
            self.model.now = before;
            return;
        }
        self.model.end_step();
        self.world.administer(stamp, op);
    }

    fn purge_a_little(&mut self) {
        let stamps: Vec<Stamp> = self.model.past.keys().copied().collect();
        let horizon = stamps[self.chance.below(stamps.len() as u64 / 2 + 1) as usize];
        self.world.purge(horizon, 1 + self.chance.below(50) as u32);
    }

    /// The client goes without a word, and another comes.
    fn change_session(&mut self) {
        let (session, stamp) = (self.world.session, self.stamp());
        self.model.begin(stamp);
        let op = Op::EndSession { session };
        self.model.apply(&op, &|_| unreachable!("no contents")).unwrap();
        self.model.end_step();
        self.world.administer(stamp, op);
        let next = self.stamp();
        self.world.open_session(next);
        self.maker.next_ino += (1 << 20) + 10;
    }

    fn purge(&mut self) {
        let stamps: Vec<Stamp> = self.model.past.keys().copied().collect();
        let horizon = stamps[self.chance.below(stamps.len() as u64) as usize];
        self.world.purge(horizon, 1 + self.chance.below(200) as u32);
        self.world.check();
        self.world.collect_segments();
    }

    /// Deletes everything and forgets it: nothing may be left behind.
    fn end(mut self) {
        let (session, stamp) = (self.world.session, self.stamp());
        self.world.administer(stamp, Op::EndSession { session });
        while let Some((dir, name, is_dir)) = leaf(&self.model.now) {
            let (time, keep_open) = (Time::default(), false);
            let op = match is_dir {
                true => Op::Rmdir { dir, name, keep_open, time },
                false => Op::Unlink { dir, name, keep_open, time },
            };
            self.model.begin(Stamp(self.world.last.0 + 1));
            self.model.apply(&op, &|_| unreachable!("no contents")).unwrap();
            let stamp = self.stamp();
            self.world.administer(stamp, op);
        }
        for name in self.model.marks.keys().cloned().collect::<Vec<_>>() {
            let stamp = self.stamp();
            self.world.administer(stamp, Op::Unmark { name });
        }
        let horizon = Stamp(self.world.last.0);
        self.world.purge(horizon, 500);
        self.world.purge(Stamp(self.world.last.0), 500);
        self.world.check();
        self.world.collect_segments();
        assert!(self.world.segments.borrow().is_empty(), "blocks are left in segments");
        let (root, attributes) = (key::inode(Ino::ROOT).to_vec(), key::xattrs(Ino::ROOT).start);
        for (family, key) in self.world.dump().into_keys() {
            use tsfs::series::table::Family;
            let stays = match family {
                Family::Current => key == root || key.starts_with(&attributes),
                Family::State => !matches!(key[0], b'C' | b'Q' | b'K' | b'U' | b'O' | b'M' | b'T'),
                // The purge itself, and what ended with the last batch.
                Family::Changes => true,
                Family::History => key.starts_with(&root),
                _ => false,
            };
            assert!(stays, "left over: {family:?} {}", key::describe(&key));
        }
    }

    fn compare_now(&self) {
        let read = self.world.read(Vec::new());
        self.compare(&read, &self.model.now, AsOf::Now);
        for ino in &self.model.now.orphans {
            let node = self.model.now.get(*ino).unwrap();
            self.compare_node(&read, *ino, node, AsOf::Now);
        }
    }

    /// Every instant of every step, just before the next one, and at each mark.
    fn compare_past(&self) {
        let horizon = self.world.horizon();
        let marks: Vec<Stamp> = {
            let mut marks: Vec<Stamp> = self.model.marks.values().copied().collect();
            marks.sort_unstable();
            marks
        };
        let read = self.world.read(marks.clone());
        let mut next = Stamp::MAX;
        for (stamp, tree) in self.model.past.iter().rev() {
            if *stamp >= horizon || marks.binary_search(stamp).is_ok() {
                self.compare(&read, tree, AsOf::At(*stamp));
            } else {
                let early = read.get(&key::inode(Ino::ROOT), AsOf::At(*stamp));
                assert!(matches!(early, Err(FsError::BeforeHorizon { .. })), "{early:?}");
            }
            let last = Stamp(next.0 - 1);
            if last != *stamp && last >= horizon && next != Stamp::MAX {
                self.compare(&read, tree, AsOf::At(last));
            }
            next = *stamp;
        }
    }

    fn compare(&self, read: &dyn Read, tree: &Tree, at: AsOf) {
        let mut dirs = vec![Ino::ROOT];
        while let Some(dir) = dirs.pop() {
            let node = tree.get(dir).unwrap();
            self.compare_node(read, dir, node, at);
            if at != AsOf::Now && self.model.forgetful.contains(&dir) {
                continue;
            }
            let mut entries = BTreeMap::new();
            let mut last = 0;
            read::readdir(read, dir, 0, at, &mut |entry| {
                assert!(entry.cookie > last && entry.cookie <= i64::MAX as u64);
                last = entry.cookie;
                entries.insert(bytes::Bytes::copy_from_slice(entry.name), entry.dirent.ino);
                ControlFlow::Continue(())
            })
            .unwrap();
            let hidden = |ino: &Ino| at != AsOf::Now && self.model.transient.contains(ino);
            let expected: BTreeMap<_, _> =
                node.entries.iter().filter(|(_, ino)| !hidden(ino)).collect();
            let found: BTreeMap<_, _> = entries.iter().filter(|(_, ino)| !hidden(ino)).collect();
            assert_eq!(found, expected, "entries of {dir} {at:?}");
            for (name, ino) in expected {
                let node = tree.get(*ino).unwrap();
                let (found, inode) =
                    read::lookup(read, self.world.rules.names(), dir, name, at).unwrap();
                assert_eq!(found, *ino);
                if node.is_dir() {
                    // Without a history of its own, it says of then where it is now.
                    if at == AsOf::Now || !self.model.forgetful.contains(ino) {
                        assert_eq!(inode.parent, Some(dir));
                    }
                    dirs.push(*ino);
                } else {
                    self.compare_node(read, *ino, node, at);
                }
            }
        }
    }

    fn compare_node(&self, read: &dyn Read, ino: Ino, node: &Node, at: AsOf) {
        if at != AsOf::Now && self.model.forgetful.contains(&ino) {
            return;
        }
        let inode = read::inode(read, ino, at).unwrap();
        let inode = inode.unwrap_or_else(|| panic!("inode {ino} is missing {at:?}"));
        let (mut found, mut expected) = (inode.attr(ino), node.attr(ino));
        if at != AsOf::Now && self.model.accessed.contains(&ino) {
            (found.atime, expected.atime) = Default::default();
        }
        assert_eq!(found, expected, "inode {ino} {at:?}");
        assert_eq!(inode.target, node.target);
        // A version is marked as finished in place, so an instant before may know of it already.
        if at == AsOf::Now {
            assert_eq!((inode.version, inode.unfinished), (node.version, node.unfinished));
        }
        let names = read::xattr_names(read, ino, at).unwrap();
        assert_eq!(names, node.xattrs.keys().cloned().collect::<Vec<_>>(), "inode {ino} {at:?}");
        for (name, value) in &node.xattrs {
            assert_eq!(read::xattr(read, ino, name, at).as_ref(), Ok(value));
        }
        if node.kind == tsfs::types::FileKind::File {
            let contents = self.world.contents(read, ino, at);
            assert!(contents == *node.contents, "contents of {ino} differ {at:?}");
            self.compare_seek(read, ino, &inode, node, at);
        }
    }

    /// Data and holes, from a few places on.
    fn compare_seek(&self, read: &dyn Read, ino: Ino, inode: &Inode, node: &Node, at: AsOf) {
        for from in [0, 1, 300, node.size.saturating_sub(1), node.size] {
            let page_of = |from: u64, hole: bool| {
                (from..node.size)
                    .take(10_000)
                    .find(|at| (node.contents.get(*at) == tree::HOLE) == hole)
            };
            if from >= node.size {
                let past_end = read::seek(read, ino, inode, from, read::Seek::Data, at);
                assert_eq!(past_end, Err(FsError::NoData));
                continue;
            }
            if node.size <= 10_000 {
                let data = read::seek(read, ino, inode, from, read::Seek::Data, at);
                assert_eq!(data, page_of(from, false).ok_or(FsError::NoData), "{from}");
                let hole = read::seek(read, ino, inode, from, read::Seek::Hole, at);
                assert_eq!(hole, Ok(page_of(from, true).unwrap_or(node.size)), "{from}");
            }
        }
    }
}

/// Something without anything below it.
fn leaf(tree: &Tree) -> Option<(Ino, bytes::Bytes, bool)> {
    let mut at = Ino::ROOT;
    loop {
        let (name, ino) = tree.get(at).ok()?.entries.iter().next()?;
        let node = tree.get(*ino).ok()?;
        if !node.is_dir() || node.entries.is_empty() {
            return Some((at, name.clone(), node.is_dir()));
        }
        at = *ino;
    }
}
