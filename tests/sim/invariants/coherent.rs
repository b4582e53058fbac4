//! What a mount would answer from is so: a row that it knows of what it owns is as the furthest member has it, but for what the
//! mount itself has changed since.

use super::book::Book;
use crate::member::Member;
use crate::mount::Mount;
use tsfs::meta::key;
use tsfs::series::Read;
use tsfs::series::Readable;
use tsfs::series::Series;
use tsfs::tsdb_client::own::Right;
use tsfs::types::AsOf;

pub(crate) fn check(book: &Book, members: &[Member], mount: &Mount) {
    let furthest = members.iter().max_by_key(|member| member.progress().index);
    let furthest = furthest.filter(|member| member.progress().index == book.furthest);
    let (Some(member), Some(life), true) = (furthest, &mount.life, mount.has_lease()) else {
        return;
    };
    let series = Series::new(&*member.table, key::GROUPS, Readable::default());
    for (key, known) in &life.cache.rows {
        let ino = key::inode_of(key).expect("a row of the tree");
        if life.own.right(ino) != Right::Owned || life.overlay.contains_key(key) {
            continue;
        }
        let row = series.get(key, AsOf::Now).unwrap();
        assert!(
            row == *known,
            "mount {} of session {} would answer an old row of inode {ino}: {}",
            mount.n,
            life.session.0,
            key::describe(key)
        );
    }
}
