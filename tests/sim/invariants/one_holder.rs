//! While its lease lasts, a mount owns what it believes to own: no other mount believes the same, and the rows say so.

use super::book::Book;
use crate::member::Member;
use crate::mount::Mount;
use tsfs::meta::own;
use tsfs::series::table::Rows;
use tsfs::types::Ino;

/// `among`: which inodes are looked at.
pub(crate) fn check<'a>(
    book: &Book,
    members: &[Member],
    mounts: &[Mount],
    among: impl Iterator<Item = &'a Ino>,
) {
    let furthest = members.iter().max_by_key(|member| member.progress().index);
    let furthest = furthest.filter(|member| member.progress().index == book.furthest);
    for ino in among {
        let keeps = |mount: &&Mount| {
            mount.has_lease() && mount.life.as_ref().is_some_and(|life| life.own.keeps(*ino))
        };
        let holders: Vec<&Mount> = mounts.iter().filter(keeps).collect();
        assert!(holders.len() <= 1, "{} mounts believe to own inode {ino}", holders.len());
        if let (Some(mount), Some(member)) = (holders.first(), furthest) {
            let rows: &dyn Rows = &*member.table;
            let owner = own::owner(rows, *ino).unwrap();
            let session = mount.life.as_ref().map(|life| life.session);
            assert_eq!(owner, session, "mount {} believes to own inode {ino}", mount.n);
        }
    }
}
