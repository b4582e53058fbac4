//! Each rule of `meta::check` broken once: the check tells it, and nothing was told before.

use super::world::World;
use bytes::Bytes;
use tsfs::meta::check;
use tsfs::meta::extents::Extents;
use tsfs::meta::key;
use tsfs::meta::key::StateKey;
use tsfs::meta::key::Sweep;
use tsfs::meta::op::Op;
use tsfs::meta::op::Piece;
use tsfs::meta::op::SetAttr;
use tsfs::meta::op::XattrHow;
use tsfs::meta::record::Dirent;
use tsfs::meta::record::Grant;
use tsfs::meta::record::Inode;
use tsfs::meta::record::Lives;
use tsfs::meta::record::Mark;
use tsfs::meta::record::Next;
use tsfs::meta::record::Range;
use tsfs::meta::record::Record;
use tsfs::meta::record::Session;
use tsfs::meta::record::Totals;
use tsfs::meta::repair;
use tsfs::series;
use tsfs::series::Past;
use tsfs::series::Present;
use tsfs::series::Read;
use tsfs::series::table::Changes;
use tsfs::series::table::Family;
use tsfs::series::table::Table;
use tsfs::types::AsOf;
use tsfs::types::BatchSeq;
use tsfs::types::BlockId;
use tsfs::types::FileKind;
use tsfs::types::Generation;
use tsfs::types::Ino;
use tsfs::types::Region;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::types::Time;
use tsfs::types::frame;

const DIR: u64 = 3;
const SUB: u64 = 4;
const FILE: u64 = 5;
const ORPHAN: u64 = 6;

fn ino(raw: u64) -> Ino {
    Ino::new(raw).unwrap()
}

const BLOCK: BlockId = BlockId { session: SessionId(9), number: 1 };

/// `/dir/sub/`, `/dir/file` with a block, an attribute and a mark; and a file without a name.
fn store() -> World {
    let time = Time::default();
    let mut world = World::new(time);
    let create = |dir: u64, name: &'static str, number: u64, kind| Op::Create {
        dir: ino(dir),
        name: Bytes::from_static(name.as_bytes()),
        ino: ino(number),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: Bytes::new(),
        time,
    };
    let frame = frame::plain(&[b'x'; 1000]);
    let pieces = vec![Piece::Payload { block: BLOCK, frame, len: 1000 }];
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let name = Bytes::from_static(b"user.a");
    world.submit(
        Stamp(10_000),
        vec![
            create(1, "dir", DIR, FileKind::Directory),
            create(DIR, "sub", SUB, FileKind::Directory),
            create(DIR, "file", FILE, FileKind::File),
            create(1, "open", ORPHAN, FileKind::File),
            Op::Write { ino: ino(FILE), offset: 0, pieces, clear_suid: false, time },
            Op::Version { ino: ino(FILE) },
            Op::SetXattr { ino: ino(FILE), name, value: Bytes::new(), how: XattrHow::Set, time },
        ],
    );
    let unlink =
        Op::Unlink { dir: ino(1), name: Bytes::from_static(b"open"), keep_open: true, time };
    let chmod = Op::SetAttr { ino: ino(FILE), set: mode, time };
    world.submit(Stamp(20_000), vec![unlink, chmod]);
    let mark = Op::Mark { name: Bytes::from_static(b"m"), note: String::new(), uid: 0 };
    world.administer(Stamp(30_000), mark);
    world.check();
    world
}

fn found(world: &World) -> Vec<check::Fault> {
    let mut faults = Vec::new();
    check::check(&world.table, &mut |_, _| {}, &mut |fault| faults.push(fault)).unwrap();
    faults
}

fn faults(world: &World) -> String {
    let faults: Vec<_> = found(world).iter().map(check::Fault::to_string).collect();
    faults.join("\n")
}

/// Carries out remedies until there are none, or none helps.
fn repair(world: &World) {
    for round in 1..=8 {
        let faults = found(world);
        let stamp = Stamp(world.last.0 + 10 * round);
        let origin = series::Origin { stamp, session: SessionId(0), seq: BatchSeq(0) };
        let mut batch = series::Batch::new(&world.table, key::GROUPS, origin);
        if repair::repair(&mut batch, &faults, Time::default()).unwrap() == 0 {
            return;
        }
        world.table.write(&batch.finish().unwrap().changes).unwrap();
    }
}

/// Changes rows of series behind the rules' back.
fn change(world: &World, change: &dyn Fn(&mut dyn Present)) {
    let stamp = Stamp(world.last.0 + 1);
    let origin = series::Origin { stamp, session: SessionId(0), seq: BatchSeq(0) };
    let mut batch = series::Batch::new(&world.table, key::GROUPS, origin);
    change(&mut batch);
    let changes = batch.finish().unwrap().changes;
    world.table.write(&changes).unwrap();
}

fn change_inode(world: &World, number: u64, edit: &dyn Fn(&mut Inode)) {
    let key = key::inode(ino(number));
    let row = world.read(Vec::new()).get(&key, AsOf::Now).unwrap().unwrap();
    let mut inode = Inode::from_row(&key, &row).unwrap();
    edit(&mut inode);
    change(world, &|present| present.put(&key, inode.to_row(), Past::Forget));
}

fn put_state(world: &World, key: StateKey, row: Option<Bytes>) {
    let mut changes = Changes::default();
    changes.rows.push((Family::State, key.encode(), row));
    world.table.write(&changes).unwrap();
}

fn change_state<T: Record>(world: &World, key: StateKey, edit: &dyn Fn(&mut T)) {
    use tsfs::series::table::Rows;
    let bytes = key.encode();
    let row = world.table.get(Family::State, &bytes).unwrap().unwrap();
    let mut record = T::from_row(&bytes, &row).unwrap();
    edit(&mut record);
    put_state(world, key, Some(record.to_row()));
}

type Break = fn(&World);

/// Whether a repair leaves nothing to be told.
const REPAIRED: bool = true;
const LEFT: bool = false;

/// What is done to the store, part of what the check then says, and whether it can be put right.
const BROKEN: &[(&str, bool, Break)] = &[
    ("it names inode 77, which is not there", REPAIRED, |world| {
        let dirent = Dirent { ino: ino(77), kind: FileKind::File };
        let key = key::dirent(ino(DIR), world.rules.names().of(b"new"), b"new");
        change(world, &|present| present.put(&key, dirent.to_row(), Past::Keep));
    }),
    ("it says Fifo, inode 5 is File", REPAIRED, |world| {
        let dirent = Dirent { ino: ino(FILE), kind: FileKind::Fifo };
        let key = key::dirent(ino(DIR), world.rules.names().of(b"file"), b"file");
        change(world, &|present| present.put(&key, dirent.to_row(), Past::Forget));
    }),
    ("the hash is not that of the name", LEFT, |world| {
        let dirent = Dirent { ino: ino(FILE), kind: FileKind::File };
        let key = key::dirent(ino(DIR), 12345, b"file");
        change(world, &|present| present.put(&key, dirent.to_row(), Past::Keep));
    }),
    ("2 entries name it, and it says 1", REPAIRED, |world| {
        let dirent = Dirent { ino: ino(FILE), kind: FileKind::File };
        let key = key::dirent(ino(DIR), world.rules.names().of(b"more"), b"more");
        change(world, &|present| present.put(&key, dirent.to_row(), Past::Keep));
    }),
    ("0 entries name it, and it says 1", REPAIRED, |world| {
        let key = key::dirent(ino(DIR), world.rules.names().of(b"sub"), b"sub");
        change(world, &|present| present.remove(&key, Past::Keep));
    }),
    ("2 entries, counted as 9", REPAIRED, |world| change_inode(world, DIR, &|dir| dir.size = 9)),
    ("1 subdirectories, and 2 links", REPAIRED, |world| {
        change_inode(world, DIR, &|dir| dir.nlink = 2)
    }),
    ("no entries, counted as 1", REPAIRED, |world| change_inode(world, SUB, &|dir| dir.size = 1)),
    ("directory 4 says its parent is", REPAIRED, |world| {
        change_inode(world, SUB, &|dir| dir.parent = Some(Ino::ROOT));
    }),
    ("its parents go round in a circle", REPAIRED, |world| {
        change_inode(world, DIR, &|dir| dir.parent = Some(ino(SUB)));
    }),
    ("a directory has no parent", REPAIRED, |world| {
        change_inode(world, SUB, &|dir| dir.parent = None)
    }),
    ("neither a name nor a session", REPAIRED, |world| {
        let orphan = StateKey::Orphan { session: world.session, ino: ino(ORPHAN) };
        put_state(world, orphan, None);
    }),
    ("the orphan has a name", REPAIRED, |world| {
        let orphan = StateKey::Orphan { session: world.session, ino: ino(FILE) };
        put_state(world, orphan, Some(Bytes::from_static(&[1])));
    }),
    ("1000 bytes, counted as 999", REPAIRED, |world| {
        change_inode(world, FILE, &|file| file.allocated = 999);
    }),
    ("1000 bytes allocated, size 10", LEFT, |world| {
        change_inode(world, FILE, &|file| file.size = 10)
    }),
    ("no row holds them", LEFT, |world| {
        let key = key::extents(ino(FILE), Generation(0), Region(0));
        change(world, &|present| present.remove(&key, Past::Keep));
    }),
    ("contents up to 2000, beyond the size 1000", LEFT, |world| {
        let key = key::extents(ino(FILE), Generation(0), Region(0));
        let row = world.read(Vec::new()).get(&key, AsOf::Now).unwrap().unwrap();
        let extents = Extents::from_row(&key, &row).unwrap();
        let source = extents.iter().next().unwrap().source.clone();
        let mut longer = Extents::default();
        longer.put(1000, 1000, source);
        change(world, &|present| present.put(&key, longer.to_row(), Past::Forget));
    }),
    ("no version of its inode leads to it", REPAIRED, |world| {
        let key = key::extents(ino(FILE), Generation(8), Region(0));
        let mut extents = Extents::default();
        let bytes = Bytes::from_static(b"x");
        extents.put(0, 1, tsfs::meta::extents::Source::Inline(bytes));
        change(world, &|present| present.put(&key, extents.to_row(), Past::Keep));
    }),
    ("its inode says it has no attributes", REPAIRED, |world| {
        change_inode(world, FILE, &|file| file.has_xattrs = false);
    }),
    ("the root directory is missing", REPAIRED, |world| {
        change(world, &|present| present.remove(&key::inode(Ino::ROOT), Past::Keep));
    }),
    ("has 1 lives, counted as 5", REPAIRED, |world| {
        put_state(world, StateKey::Lives { block: BLOCK }, Some(Lives(5).to_row()));
    }),
    ("lives and no count", LEFT, |world| {
        let key = key::extents(ino(FILE), Generation(0), Region(0));
        let row = world.read(Vec::new()).get(&key, AsOf::Now).unwrap().unwrap();
        let other = key::extents(ino(FILE), Generation(0), Region(1));
        change(world, &|present| present.put(&other, row.clone(), Past::Keep));
    }),
    ("is named and not there", LEFT, |world| {
        let mut changes = Changes::default();
        changes.delete(Family::Payload, BLOCK.to_bytes());
        world.table.write(&changes).unwrap();
    }),
    ("no version of a file names block 9.8", REPAIRED, |world| {
        let block = BlockId { session: SessionId(9), number: 8 };
        let mut changes = Changes::default();
        changes.put(Family::Payload, block.to_bytes(), frame::plain(b"lost"));
        world.table.write(&changes).unwrap();
    }),
    ("block 9.1: damaged", LEFT, |world| {
        let mut frame = frame::plain(&[b'x'; 1000]).to_vec();
        frame[500] ^= 1;
        let mut changes = Changes::default();
        changes.put(Family::Payload, BLOCK.to_bytes(), frame);
        world.table.write(&changes).unwrap();
    }),
    ("inode 6 exists, and 2 is next", REPAIRED, |world| {
        change_state::<Next>(world, StateKey::Next, &|next| next.ino = 2);
    }),
    ("5 files, counted as 9", REPAIRED, |world| {
        change_state::<Totals>(world, StateKey::Totals, &|totals| totals.files = 9);
    }),
    ("1000 bytes of present contents, counted as 0", REPAIRED, |world| {
        change_state::<Totals>(world, StateKey::Totals, &|totals| totals.live_bytes = 0);
    }),
    ("1 finished versions, counted as 2", REPAIRED, |world| {
        change_state::<Totals>(world, StateKey::Totals, &|totals| totals.versions = 2);
    }),
    ("session 1 is not open", REPAIRED, |world| {
        put_state(world, StateKey::Session { session: world.session }, None);
    }),
    ("session 1 was ended and owns the whole", REPAIRED, |world| {
        change_state::<Session>(world, StateKey::Session { session: world.session }, &|session| {
            session.ended = true;
        });
    }),
    ("after batch 9, which is to come", LEFT, |world| {
        change_state::<Grant>(world, StateKey::Grant, &|grant| grant.after = BatchSeq(9));
    }),
    ("epoch 1 is given, and 1 is next", REPAIRED, |world| {
        change_state::<Next>(world, StateKey::Next, &|next| next.epoch = 1);
    }),
    ("numbers from 3 on are given twice", REPAIRED, |world| {
        let range = Range { first: ino(3), session: world.session };
        let last = ino((1 << 20) + 5);
        put_state(world, StateKey::Range { last }, Some(range.to_row()));
    }),
    ("the range is not listed with its session", REPAIRED, |world| {
        let last = ino((1 << 20) + 1);
        put_state(world, StateKey::RangeOf { session: world.session, last }, None);
    }),
    ("a range is listed that is not the session's", REPAIRED, |world| {
        let of = StateKey::RangeOf { session: world.session, last: ino(77) };
        put_state(world, of, Some(Bytes::from_static(&[1])));
    }),
    ("what was given back is yet to be given", REPAIRED, |world| {
        let shared = StateKey::Shared { epoch: 99, ino: ino(FILE) };
        put_state(world, shared, Some(Bytes::from_static(&[1])));
    }),
    ("the mark is not listed by its instant", REPAIRED, |world| {
        change_state::<Mark>(world, StateKey::Mark { name: b"m".to_vec() }, &|mark| {
            mark.stamp = Stamp(5);
        });
    }),
    ("listed for a mark that is not there", REPAIRED, |world| {
        put_state(world, StateKey::Mark { name: b"m".to_vec() }, None);
    }),
    ("kept by a mark that is not there", REPAIRED, |world| {
        let key = key::inode(ino(FILE)).to_vec();
        let kept = StateKey::Kept { mark: Stamp(4), from: Stamp(10_000), key };
        put_state(world, kept, Some(Bytes::from_static(&[1])));
    }),
    ("the version that a mark keeps is not there", REPAIRED, |world| {
        let key = key::inode(ino(FILE)).to_vec();
        let kept = StateKey::Kept { mark: Stamp(30_000), from: Stamp(123), key };
        put_state(world, kept, Some(Bytes::from_static(&[1])));
    }),
    ("the numbers to give out are missing", LEFT, |world| put_state(world, StateKey::Next, None)),
    ("the store's own record is missing", LEFT, |world| put_state(world, StateKey::Store, None)),
    ("nothing has this key", LEFT, |world| {
        let mut changes = Changes::default();
        changes.put(Family::State, b"?".to_vec(), Bytes::new());
        world.table.write(&changes).unwrap();
    }),
];

#[test]
fn each_broken_rule_is_told() {
    for (told, _, break_it) in BROKEN {
        let world = store();
        assert_eq!(faults(&world), "");
        break_it(&world);
        let faults = faults(&world);
        assert!(faults.contains(told), "wanted \"{told}\", told:\n{faults}");
    }
    // What waits to be swept has no owner and is no fault.
    let world = store();
    let (ino, generation) = (ino(FILE), Generation(8));
    BROKEN.iter().find(|(told, ..)| told.starts_with("no version of its inode")).unwrap().2(&world);
    let sweep = StateKey::Sweep(Sweep::Extents { ino, generation });
    put_state(&world, sweep, Some(Bytes::from_static(&[1])));
    assert_eq!(faults(&world), "");
}

#[test]
fn what_can_be_told_from_other_rows_is_repaired() {
    for (told, repaired, break_it) in BROKEN {
        let world = store();
        break_it(&world);
        repair(&world);
        let left = faults(&world);
        assert_eq!(left.is_empty(), *repaired, "after \"{told}\", left:\n{left}");
        let mut history = Vec::new();
        series::check::check(&world.table, key::GROUPS, &mut |_, _| {}, &mut |fault| {
            history.push(fault.to_string());
        })
        .unwrap();
        assert_eq!(history, [""; 0], "after \"{told}\"");
    }
}

#[test]
fn what_lost_its_name_is_found_again_and_the_past_stays() {
    let world = store();
    let read = |at| {
        let key = key::dirent(ino(DIR), world.rules.names().of(b"sub"), b"sub");
        world.read(Vec::new()).get(&key, at).unwrap()
    };
    let key = key::dirent(ino(DIR), world.rules.names().of(b"sub"), b"sub");
    change(&world, &|present| present.remove(&key, Past::Keep));
    let before = AsOf::At(world.last);
    let then = read(before);
    assert!(then.is_some() && read(AsOf::Now).is_none());
    repair(&world);
    let series = world.read(Vec::new());
    let names = world.rules.names();
    let entry = |dir: Ino, name: &[u8]| {
        let key = key::dirent(dir, names.of(name), name);
        let row = series.get(&key, AsOf::Now).unwrap().unwrap();
        Dirent::from_row(&key, &row).unwrap().ino
    };
    assert_eq!(entry(entry(Ino::ROOT, b"lost+found"), b"#4"), ino(SUB));
    assert_eq!(read(before), then);
}
