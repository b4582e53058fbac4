//! Two nodes on real directories: one falls behind and takes over the other's table. `store::block` has what becomes of
//! each row, and every power cut on the way there.

use super::*;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::store::block::BlockStore;
use crate::store::disk::Access;
use crate::store::disk::RealDisk;
use crate::tsdb_server::data::stream::Plan;
use crate::tsdb_server::data::stream::Receiver;
use crate::tsdb_server::data::stream::Source;
use crate::tsdb_server::data::tests::STORE;
use crate::tsdb_server::data::tests::block;
use crate::tsdb_server::data::tests::frame;
use crate::tsdb_server::data::tests::packed;
use bytes::Bytes;

/// A node's directory, with table and blocks open.
struct Node {
    dir: tempfile::TempDir,
    table: Arc<RocksTable>,
    blocks: BlockStore,
}

fn parts(dir: &Path) -> (Arc<RocksTable>, BlockStore) {
    let options = table::Options { create: true, ..table::Options::default() };
    let table = Arc::new(RocksTable::open(&dir.join(TABLE), &options).unwrap());
    let (rows, path): (Arc<dyn Table>, _) = (table.clone(), dir.join(BLOCKS));
    let (disk, options) = (RealDisk::shared(), block::Options::default());
    let opened = BlockStore::open(disk, &path, STORE, rows, options, Access::ReadWrite);
    let (blocks, faults) = opened.unwrap();
    assert_eq!(faults, []);
    blocks.share(true);
    (table, blocks)
}

impl Node {
    fn new() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let (table, blocks) = parts(dir.path());
        Node { dir, table, blocks }
    }

    fn write(&self, run: impl FnOnce(&mut Changes)) {
        let mut changes = Changes::default();
        run(&mut changes);
        self.table.write(&changes).unwrap();
        self.blocks.written();
    }

    fn put(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.blocks.put(block(number), &packed(block(number))).unwrap();
        }
        self.blocks.sync().unwrap();
    }

    fn name(&self, numbers: std::ops::Range<u64>) {
        let blocks: Vec<_> = numbers.map(block).collect();
        self.write(|changes| {
            self.blocks.named(&blocks, changes).unwrap();
            changes.put(Family::Local, "applied", vec![9]);
            changes.put(Family::Local, "members", vec![8]);
        });
    }
}

struct Files<'a>(&'a Path, Plan);

impl Source for Files<'_> {
    fn read(&self, chunk: stream::Chunk) -> Result<Bytes, FsError> {
        let path = self.0.join(&self.1.files[chunk.file as usize].name);
        let file = RealDisk.open(&path, Access::Read)?;
        Ok(file.read_at(chunk.offset, chunk.bytes as usize)?.into())
    }
}

fn send(from: &Node, to: &Path) {
    let checkpoint = from.dir.path().join("checkpoint");
    from.table.checkpoint(&checkpoint).unwrap();
    let plan = Plan::of(&RealDisk, &checkpoint).unwrap();
    let mut receiver = Receiver::open(RealDisk::shared(), &incoming(to), plan.clone()).unwrap();
    receiver.run(&Files(&checkpoint, plan), &mut |_, _| ()).unwrap();
    receiver.finish().unwrap();
}

fn resume_in(dir: &Path) -> Option<Adopted> {
    resume(&RealDisk::shared(), dir, STORE, NodeId(1), &table::Options::default()).unwrap()
}

#[test]
fn a_node_that_fell_behind_takes_over_the_table_and_keeps_its_blocks() {
    let (ahead, behind) = (Node::new(), Node::new());
    for node in [&ahead, &behind] {
        node.put(0..20);
        node.name(0..10);
    }
    // 10 to 19 are durable here, and named only there; 30 is durable here alone, and a client relies on it.
    ahead.put(20..25);
    ahead.name(10..25);
    behind.put(30..31);
    let Node { dir, table, blocks } = behind;
    blocks.close().unwrap();
    drop((blocks, table));
    assert_eq!(resume_in(dir.path()), None);
    send(&ahead, dir.path());
    assert_eq!(resume_in(dir.path()), Some(Adopted { here: 20, listed: 5, elsewhere: 0 }));
    assert_eq!(resume_in(dir.path()), None, "once");
    assert!(!dir.path().join(INCOMING).exists());
    let (table, blocks) = parts(dir.path());
    let local = |key: &str| table.get(Family::Local, key.as_bytes()).unwrap();
    assert_eq!((local("applied"), local("members")), (Some(vec![9].into()), Some(vec![8].into())));
    for number in (0..20).chain(30..31) {
        assert_eq!(blocks.get(block(number)), Ok(frame(number)), "{number}");
    }
    assert_eq!(blocks.missing(None, 9), Ok((20..25).map(block).collect()));
    assert_eq!(blocks.pending_sessions().len(), 1);
}

#[test]
fn every_step_may_be_cut_off() {
    let (ahead, behind) = (Node::new(), Node::new());
    ahead.put(0..5);
    ahead.name(0..5);
    behind.put(0..2);
    let Node { dir, table, blocks } = behind;
    drop((blocks, table));
    send(&ahead, dir.path());
    let (incoming, table) = (incoming(dir.path()), dir.path().join(TABLE));
    // The rows are ours, and the directory does not say so yet.
    let disk = RealDisk::shared();
    let adopted =
        make_ours(&disk, dir.path(), STORE, NodeId(1), &table::Options::default()).unwrap();
    assert_eq!(adopted, Adopted { here: 2, listed: 3, elsewhere: 0 });
    assert_eq!(
        make_ours(&disk, dir.path(), STORE, NodeId(1), &table::Options::default()),
        Ok(adopted)
    );
    // It says so; the old table is half gone.
    std::fs::rename(incoming.join(stream::COMPLETE), incoming.join(ADOPTED)).unwrap();
    std::fs::remove_file(table.join("CURRENT")).unwrap();
    assert_eq!(resume_in(dir.path()), None);
    let (_, blocks) = parts(dir.path());
    assert_eq!(blocks.missing(None, 9), Ok((2..5).map(block).collect()));
    drop(blocks);
    // Moved, and still marked.
    std::fs::write(table.join(ADOPTED), "").unwrap();
    assert_eq!(resume_in(dir.path()), None);
    assert!(!table.join(ADOPTED).exists());
}

#[test]
fn a_node_without_a_table_takes_one_over() {
    let ahead = Node::new();
    ahead.put(0..5);
    ahead.name(0..5);
    let dir = tempfile::tempdir().unwrap();
    send(&ahead, dir.path());
    assert_eq!(resume_in(dir.path()), Some(Adopted { here: 0, listed: 5, elsewhere: 0 }));
    let (_, blocks) = parts(dir.path());
    assert_eq!(blocks.listed(), 5);
    // What is not complete is left where it is.
    std::fs::create_dir(incoming(dir.path())).unwrap();
    assert_eq!(resume_in(dir.path()), None);
}
