//! The index made anew where blocks are shared out.

use super::elsewhere::HERE;
use super::elsewhere::half;
use super::elsewhere::keep_by;
use super::elsewhere::put;
use super::elsewhere::settle;
use super::listed::name;
use super::listed::rows;
use super::*;
use crate::series::table::Family;
use crate::types::placement::Placed;
use std::collections::HashSet;

#[test]
fn rebuilt_rows_say_what_is_here_and_what_is_elsewhere() {
    let world = World::new();
    let store = world.open();
    store.share(true);
    let placement = half();
    keep_by(&store, &placement);
    settle(&world, &store);
    put(&store, 0..20);
    store.sync().unwrap();
    name(&world, &store, 0..40);
    let before: Vec<_> = (0..40).map(|number| rows(&world, number)).collect();
    drop(store);
    let keeping = Keeping::new(HERE, Arc::new(Placed::new(&placement)));
    let rebuilt = |named: &HashSet<BlockId>, keeping: &Keeping| {
        let disk = world.disk.shared();
        let changes = rebuild(&*disk, Path::new("/blocks"), &*world.table, named, keeping);
        world.table.write(&changes.unwrap()).unwrap();
    };
    let named: HashSet<_> = (0..40).map(block).collect();
    let now = || (0..40).map(|number| rows(&world, number)).collect::<Vec<_>>();
    // Rows that are right stay so, whether the placement can be read or not.
    rebuilt(&named, &Keeping::new(HERE, Arc::default()));
    assert_eq!(now(), before);
    rebuilt(&named, &keeping);
    assert_eq!(now(), before);
    // All rows are lost; one says that a block is elsewhere which is here, one is of a block that nothing names.
    let mut changes = Changes::default();
    for number in 0..40 {
        for kind in [index::Kind::Named, index::Kind::Listed, index::Kind::Elsewhere] {
            changes.delete(Family::Local, index::block_key(kind, block(number)));
        }
    }
    for number in [3, 99] {
        let key = index::block_key(index::Kind::Elsewhere, block(number));
        changes.put(Family::Local, key, index::listed_row());
    }
    world.table.write(&changes).unwrap();
    rebuilt(&named, &keeping);
    assert_eq!((now(), rows(&world, 99)), (before, String::new()));
}
