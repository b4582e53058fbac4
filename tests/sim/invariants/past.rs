//! The past does not change: an instant that was looked at once reads the same on every member, however late, for as long as it
//! is kept.

use super::book::Book;
use crate::chance::Chance;
use crate::member::Member;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use tsfs::meta::extents::Place;
use tsfs::meta::extents::Source;
use tsfs::meta::key;
use tsfs::meta::read;
use tsfs::meta::record::Inode;
use tsfs::meta::record::Record;
use tsfs::series::Direction;
use tsfs::series::KeyRange;
use tsfs::series::Read;
use tsfs::series::Readable;
use tsfs::series::Series;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::types::AsOf;
use tsfs::types::Attr;
use tsfs::types::FileKind;
use tsfs::types::Ino;
use tsfs::types::LogIndex;
use tsfs::types::Stamp;
use tsfs::types::Time;
use tsfs::types::frame;

/// Instants that are looked at again.
const KEPT: usize = 24;

#[derive(Default)]
pub(crate) struct Past {
    /// The digest of the tree, and the entry by which it is complete.
    seen: BTreeMap<Stamp, (LogIndex, u64)>,
    rows: BTreeMap<(Stamp, Bytes), Option<Bytes>>,
    /// How often an instant was looked at again.
    pub(crate) again: u64,
}

/// A number that stands for the tree as of an instant: what a program would read, for rows may grow where no instant shows it.
fn digest(book: &Book, member: &Member, at: Stamp) -> u64 {
    let series = Series::new(&*member.table, key::GROUPS, Readable::default());
    let at = AsOf::At(at);
    let mut digest = Digest(0xcbf2_9ce4_8422_2325);
    let mut inodes = BTreeMap::new();
    each(&series, &key::inodes(), at, &mut |key, row| {
        inodes.insert(key::inode_of(key).unwrap(), Inode::from_row(key, row).unwrap());
    });
    for (ino, inode) in &inodes {
        let attr = Attr { atime: Time::default(), ..inode.attr(*ino) };
        digest.take(format!("{attr:?} {:?} {:?}", inode.parent, inode.target).as_bytes());
        if inode.kind == FileKind::File {
            take_contents(&mut digest, (book, member), &series, (*ino, inode), at);
        }
    }
    each(&series, &key::all_dirents(), at, &mut |key, row| {
        digest.take(key);
        digest.take(row);
    });
    each(&series, &key::all_xattrs(), at, &mut |key, row| {
        // Those of a file that is gone wait to be swept.
        if inodes.contains_key(&key::inode_of(key).unwrap()) {
            digest.take(key);
            digest.take(row);
        }
    });
    digest.0
}

/// FNV-1a.
struct Digest(u64);

impl Digest {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

fn each(series: &Series<'_>, range: &KeyRange, at: AsOf, visit: &mut dyn FnMut(&[u8], &[u8])) {
    series
        .scan(range, at, Direction::Forward, &mut |key, row| {
            visit(key, row);
            ControlFlow::Continue(())
        })
        .unwrap();
}

fn take_contents(
    digest: &mut Digest,
    (book, member): (&Book, &Member),
    series: &Series<'_>,
    (ino, inode): (Ino, &Inode),
    at: AsOf,
) {
    for part in read::parts(series, ino, inode, 0, u64::MAX, at).unwrap() {
        digest.take(&part.start.to_be_bytes());
        match part.source {
            None => digest.take(&part.len.to_be_bytes()),
            Some(Source::Inline(bytes)) => digest.take(&bytes),
            Some(Source::Block { block, place, offset }) => {
                let row = match place {
                    Place::Payload => member.table.get(Family::Payload, &block.to_bytes()).unwrap(),
                    Place::Segment => book.frames.get(&block).cloned(),
                };
                let row = row.unwrap_or_else(|| panic!("block {block} is named and gone"));
                let (offset, len) = (offset as usize, part.len as usize);
                digest.take(&frame::unpack(&row).unwrap()[offset..offset + len]);
            }
        }
    }
}

impl Past {
    /// Looks at the present of a member, which will be an instant of the past.
    pub(crate) fn look(&mut self, book: &Book, member: &Member, chance: &mut Chance) {
        let progress = member.progress();
        if progress.stamp == Stamp::ZERO || progress.stamp < member.horizon() {
            return;
        }
        let digest = digest(book, member, progress.stamp);
        let known = self.seen.entry(progress.stamp).or_insert((progress.index, digest));
        assert_eq!(known.1, digest, "node {}: the instant {}", member.node.0, progress.stamp.0);
        if self.seen.len() > KEPT {
            let nth = chance.below(KEPT as u64) as usize;
            let drop = self.seen.keys().nth(nth).copied().expect("there are more");
            self.seen.remove(&drop);
        }
    }

    /// Looks again at one of those that were looked at.
    pub(crate) fn look_again(&mut self, book: &Book, member: &Member, chance: &mut Chance) {
        let all: Vec<(Stamp, LogIndex, u64)> =
            self.seen.iter().map(|(at, (index, digest))| (*at, *index, *digest)).collect();
        if let Some(one) = chance.pick(&all) {
            self.compare(book, member, *one);
        }
    }

    fn compare(&mut self, book: &Book, member: &Member, (at, index, seen): (Stamp, LogIndex, u64)) {
        if member.progress().index < index || at < member.horizon() {
            return;
        }
        self.again += 1;
        assert_eq!(
            digest(book, member, at),
            seen,
            "node {} at entry {}: the instant {} of entry {} reads otherwise",
            member.node.0,
            member.progress().index.0,
            at.0,
            index.0
        );
    }

    /// What mounts were told of the past is the same each time.
    pub(crate) fn read(&mut self, at: Stamp, key: Bytes, row: Option<Bytes>) {
        let first = self.rows.entry((at, key)).or_insert_with(|| row.clone());
        assert!(*first == row, "the instant {} was read otherwise before", at.0);
    }

    pub(crate) fn check_end(&mut self, book: &Book, members: &[&Member]) {
        for (at, (index, digest)) in self.seen.clone() {
            for member in members {
                self.compare(book, member, (at, index, digest));
            }
        }
    }
}
