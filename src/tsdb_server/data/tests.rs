//! A node's data role on a simulated disk, with other nodes that are a map: reading what is not here. The world of these
//! tests serves those of the tasks too.

use super::*;
use crate::env::Clock;
use crate::series::table::Changes;
use crate::store::block::Options;
use crate::store::disk::Access;
use crate::store::disk::SimulatedDisk;
use crate::store::table::MemoryTable;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::frame::Frame;
use crate::types::placement::Layout;
use crate::types::placement::Placed;
use crate::types::placement::Placement;
use crate::types::placement::Share;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

mod cluster;

pub(super) const STORE: [u8; 16] = *b"sixteen bytes id";

/// What other nodes have, and how often they were asked.
#[derive(Default)]
pub(super) struct Others {
    pub frames: Mutex<BTreeMap<BlockId, Bytes>>,
    pub away: Mutex<bool>,
    pub asked: Mutex<Vec<BlockId>>,
}

impl Peers for Others {
    fn fetch(&self, block: BlockId, _: bool) -> Result<Option<Bytes>, FsError> {
        self.asked.lock().push(block);
        if *self.away.lock() {
            return Err(FsError::Io("node 2 cannot be reached".to_owned()));
        }
        Ok(self.frames.lock().get(&block).cloned())
    }
}

/// A clock that tests set.
#[derive(Default)]
pub(super) struct Hands(Mutex<Duration>);

impl Hands {
    pub(super) fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

impl Clock for Hands {
    fn wall(&self) -> Stamp {
        Stamp(self.0.lock().as_nanos() as u64)
    }

    fn steady(&self) -> Duration {
        *self.0.lock()
    }
}

pub(super) struct World {
    pub disk: SimulatedDisk,
    pub table: Arc<MemoryTable>,
    pub blocks: Arc<BlockStore>,
    pub others: Arc<Others>,
    pub clock: Arc<Hands>,
}

pub(super) fn block(number: u64) -> BlockId {
    BlockId { session: SessionId(1), number }
}

/// A frame that only this block has.
pub(super) fn packed(block: BlockId) -> Frame {
    let mut state = block.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let raw = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    Frame::pack(&raw.take(5_000).collect::<Vec<u8>>().into(), 1)
}

pub(super) fn frame(number: u64) -> Bytes {
    packed(block(number)).to_bytes()
}

impl World {
    pub(super) fn new() -> World {
        let (disk, table) = (SimulatedDisk::new(64 << 20), Arc::new(MemoryTable::default()));
        let (rows, dir): (Arc<dyn Table>, _) = (table.clone(), Path::new("/blocks"));
        let options = Options {
            segment_bytes: 2 << 20,
            allocate_bytes: 1 << 20,
            open_files_max: 8,
            rows_per_step: 10,
        };
        let opened = BlockStore::open(disk.shared(), dir, STORE, rows, options, Access::ReadWrite);
        let (blocks, _) = opened.unwrap();
        blocks.share(true);
        let blocks = Arc::new(blocks);
        World { disk, table, blocks, others: Arc::default(), clock: Arc::default() }
    }

    pub(super) fn write(&self, run: impl FnOnce(&mut Changes)) {
        write(&self.table, &self.blocks, run);
    }

    /// The log names blocks, of which these are here.
    pub(super) fn name(&self, named: std::ops::Range<u64>, here: impl Fn(u64) -> bool) {
        for number in named.clone() {
            if here(number) {
                self.blocks.put(block(number), &packed(block(number))).unwrap();
            }
        }
        self.blocks.sync().unwrap();
        let named: Vec<_> = named.map(block).collect();
        self.write(|changes| self.blocks.named(&named, changes).unwrap());
    }

    pub(super) fn others_have(&self, numbers: std::ops::Range<u64>) {
        self.others.frames.lock().extend(numbers.map(|number| (block(number), frame(number))));
    }

    /// Turns a bit of a block's frame where it lies.
    pub(super) fn damage(&self, number: u64) {
        let error = |path: &Path, at: u64| self.disk.flip_bit(path, at, 3);
        let (segment, offset) = self.blocks.place(block(number)).unwrap();
        error(&segment.path(Path::new("/blocks")), offset + 200).unwrap();
    }

    pub(super) fn upkeep(&self) {
        self.write(|changes| self.blocks.upkeep(changes).unwrap());
    }

    fn data(&self) -> Data {
        Data::new(self.table.clone(), self.blocks.clone(), self.others.clone())
    }
}

/// What the replica's driver does.
pub(super) fn write(table: &MemoryTable, blocks: &BlockStore, run: impl FnOnce(&mut Changes)) {
    let mut changes = Changes::default();
    run(&mut changes);
    table.write(&changes).unwrap();
    blocks.written();
}

#[test]
fn what_is_not_here_is_read_from_others_and_kept() {
    let world = World::new();
    world.name(0..4, |number| number < 2);
    world.others_have(1..3);
    let data = world.data();
    assert_eq!(data.block(block(0)), Ok(frame(0)));
    assert_eq!(data.block(block(2)), Ok(frame(2)));
    world.damage(1);
    assert_eq!(data.block(block(1)), Ok(frame(1)));
    assert_eq!(*world.others.asked.lock(), [block(2), block(1)]);
    // Nobody has 3, and nobody ever heard of 9.
    assert!(matches!(data.block(block(3)), Err(FsError::Damaged(_))));
    assert_eq!(data.block(block(9)), Err(FsError::Stale));
    world.blocks.sync().unwrap();
    world.upkeep();
    assert_eq!(world.blocks.missing(None, 9), Ok(vec![block(3)]));
    world.others.asked.lock().clear();
    for number in 0..3 {
        assert_eq!(data.block(block(number)), Ok(frame(number)));
    }
    assert_eq!(*world.others.asked.lock(), [], "all three are here and whole");
}

#[test]
fn what_only_others_keep_is_read_from_them_and_not_kept() {
    let world = World::new();
    let shares = vec![Share { node: NodeId(2), weight: 8 }];
    let mut placement = Placement::default();
    (placement.number, placement.now) = (1, Layout::new(1, shares));
    world.blocks.keep_by(NodeId(1), Arc::new(Placed::new(&placement)));
    world.name(0..3, |number| number == 0);
    world.others_have(0..2);
    let data = world.data();
    for number in [0, 1, 1] {
        assert_eq!(data.block(block(number)), Ok(frame(number)));
    }
    assert_eq!(*world.others.asked.lock(), [block(1); 2], "it is asked for each time");
    assert_eq!(data.here(block(1), false), Ok(None));
    assert!(matches!(data.block(block(2)), Err(FsError::Damaged(_))));
    while world.blocks.upkeep_due() {
        world.upkeep();
    }
    assert_eq!(world.blocks.missing(None, 9), Ok(vec![]));
    assert_eq!((world.blocks.damage_met(), world.blocks.placed()), (0, Some(1)));
    assert!(!world.blocks.arrivals_unsynced());
}

#[test]
fn what_another_node_sends_is_not_believed() {
    let world = World::new();
    world.name(0..1, |_| false);
    let mut rotten = frame(0).to_vec();
    rotten[100] ^= 1;
    world.others.frames.lock().insert(block(0), rotten.into());
    let error = world.data().block(block(0)).unwrap_err();
    assert!(matches!(&error, FsError::Damaged(what) if what.contains("as another node sent it")));
    assert!(!world.blocks.arrivals_unsynced(), "nothing was kept");
    *world.others.away.lock() = true;
    let error = world.data().block(block(0)).unwrap_err();
    assert!(matches!(&error, FsError::Io(what) if what.contains("node 2 cannot be reached")));
}

#[test]
fn a_node_that_is_asked_answers_with_what_is_whole_here_and_asks_nobody() {
    let world = World::new();
    world.name(0..2, |_| true);
    world.damage(1);
    world.write(|changes| changes.put(Family::Payload, block(5).to_bytes(), frame(5)));
    let data = world.data();
    assert_eq!(data.here(block(0), false), Ok(Some(frame(0))));
    assert_eq!(data.here(block(1), false), Ok(None));
    assert_eq!(data.here(block(9), false), Ok(None));
    assert_eq!(data.here(block(5), true), Ok(Some(frame(5))));
    assert_eq!(data.here(block(0), true), Ok(None));
    assert_eq!(data.block(block(5)), Ok(frame(5)));
    assert_eq!(*world.others.asked.lock(), []);
    // What was met is repaired by and by.
    world.upkeep();
    assert_eq!(world.blocks.missing(None, 9), Ok(vec![block(1)]));
}
