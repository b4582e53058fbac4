//! Whose blocks go when a store is opened.

use super::*;
use crate::types::BlockId;
use crate::types::frame::Frame;

fn blocks(world: &World) -> BlockStore {
    let (dir, options) = (Path::new("/blocks"), block::Options::default());
    let (table, disk) = (world.table.clone(), world.disk.shared());
    BlockStore::open(disk, dir, STORE, table, options, Access::ReadWrite).unwrap().0
}

#[test]
fn blocks_of_a_session_that_has_not_begun_here_are_kept() {
    let world = World::new();
    let replica = world.made();
    replica.apply(own(Op::EndSession { session: SessionId(1) })).unwrap();
    let open = Op::OpenSession { session: SessionId(2), client: "test".to_string() };
    replica.apply(own(open)).unwrap();
    replica.close().unwrap();
    drop(replica);
    let store = blocks(&world);
    for session in 1..=3 {
        let block = BlockId { session: SessionId(session), number: 1 };
        store.put(block, &Frame::pack(&vec![7; 5000].into(), 1)).unwrap();
    }
    store.sync().unwrap();
    drop(store);
    let replica = world.open().unwrap();
    replica.sweep().unwrap();
    replica.close().unwrap();
    drop(replica);
    // The first has ended; the third may be what the log tells next.
    assert_eq!(blocks(&world).pending_sessions(), [2, 3].map(SessionId).into());
}
