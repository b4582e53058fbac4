//! The rules one by one, by name: what `docs/semantics.md` promises. Each on a store in memory.

use super::world::World;
use bytes::Bytes;
use std::ops::ControlFlow;
use tsfs::meta::key;
use tsfs::meta::key::StateKey;
use tsfs::meta::op::Batch;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::meta::op::Piece;
use tsfs::meta::op::RenameHow;
use tsfs::meta::op::SetAttr;
use tsfs::meta::op::XattrHow;
use tsfs::meta::own;
use tsfs::meta::read;
use tsfs::meta::record::Dirent;
use tsfs::meta::record::Inode;
use tsfs::meta::record::Record;
use tsfs::series;
use tsfs::series::Past;
use tsfs::series::Present;
use tsfs::series::Read;
use tsfs::series::Readable;
use tsfs::series::Series;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::series::table::Table;
use tsfs::types::AsOf;
use tsfs::types::Attr;
use tsfs::types::BatchSeq;
use tsfs::types::FILE_BYTES_MAX;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Generation;
use tsfs::types::INLINE_BYTES_MAX;
use tsfs::types::Ino;
use tsfs::types::Region;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::types::Time;

const ROOT: Ino = Ino::ROOT;

/// A store, and a client that sends each op as a batch of its own.
struct Fs {
    world: World,
    next: u64,
    clock: i64,
}

fn name(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

impl Fs {
    fn new() -> Fs {
        Fs { world: World::new(Time { secs: 100, nanos: 0 }), next: 2, clock: 1000 }
    }

    fn time(&mut self) -> Time {
        self.clock += 1;
        Time { secs: self.clock, nanos: 0 }
    }

    fn now(&self) -> Time {
        Time { secs: self.clock, nanos: 0 }
    }

    /// The ops as one batch; the stamp of its last step.
    fn batch(&mut self, ops: Vec<Op>) -> Stamp {
        let (outcome, last) = self.try_batch(ops);
        assert_eq!(outcome, Outcome::Applied);
        last
    }

    fn try_batch(&mut self, ops: Vec<Op>) -> (Outcome, Stamp) {
        let stamp = Stamp(self.world.last.0 + 100);
        let told = self.world.submit(stamp, ops);
        self.world.check();
        told
    }

    /// Tries the op as a client does before it sends it.
    fn op(&mut self, op: Op) -> Result<Stamp, FsError> {
        let mut view = super::world::View::new(&self.world.table);
        self.world.rules.apply(&mut view, self.world.session, &op)?;
        Ok(self.batch(vec![op]))
    }

    fn make(&mut self, dir: Ino, as_name: &str, kind: FileKind) -> Ino {
        self.next += 1;
        let ino = Ino::new(self.next).unwrap();
        let target = if kind == FileKind::Symlink { name("there") } else { Bytes::new() };
        let op = Op::Create {
            dir,
            name: name(as_name),
            ino,
            kind,
            mode: 0o644,
            uid: 1,
            gid: 1,
            rdev: 0,
            target,
            time: self.time(),
        };
        self.op(op).unwrap();
        ino
    }

    fn file(&mut self, dir: Ino, name: &str) -> Ino {
        self.make(dir, name, FileKind::File)
    }

    fn dir(&mut self, dir: Ino, name: &str) -> Ino {
        self.make(dir, name, FileKind::Directory)
    }

    fn write_op(&mut self, ino: Ino, offset: u64, text: &str) -> Op {
        let pieces = vec![Piece::Inline(name(text))];
        Op::Write { ino, offset, pieces, clear_suid: false, time: self.time() }
    }

    fn unlink(&mut self, dir: Ino, as_name: &str) -> Result<Stamp, FsError> {
        let op = Op::Unlink { dir, name: name(as_name), keep_open: false, time: self.time() };
        self.op(op)
    }

    fn rmdir(&mut self, dir: Ino, as_name: &str) -> Result<Stamp, FsError> {
        let op = Op::Rmdir { dir, name: name(as_name), keep_open: false, time: self.time() };
        self.op(op)
    }

    fn rename_op(&mut self, from: (Ino, &str), to: (Ino, &str), how: RenameHow) -> Op {
        Op::Rename {
            dir: from.0,
            name: name(from.1),
            new_dir: to.0,
            new_name: name(to.1),
            how,
            keep_open: false,
            time: self.time(),
        }
    }

    fn rename(&mut self, from: (Ino, &str), to: (Ino, &str)) -> Result<Stamp, FsError> {
        let op = self.rename_op(from, to, RenameHow::Replace);
        self.op(op)
    }

    fn lookup(&self, dir: Ino, as_name: &str) -> Result<Ino, FsError> {
        self.lookup_at(dir, as_name, AsOf::Now)
    }

    fn lookup_at(&self, dir: Ino, as_name: &str, at: AsOf) -> Result<Ino, FsError> {
        let read = self.world.read(Vec::new());
        read::lookup(&read, self.world.rules.names(), dir, as_name.as_bytes(), at)
            .map(|(ino, _)| ino)
    }

    fn inode(&self, ino: Ino) -> Inode {
        read::existing_inode(&self.world.read(Vec::new()), ino, AsOf::Now).unwrap()
    }

    fn attr(&self, ino: Ino) -> Attr {
        self.inode(ino).attr(ino)
    }

    fn text(&self, ino: Ino, at: AsOf) -> String {
        let read = self.world.read(Vec::new());
        let contents = self.world.contents(&read, ino, at);
        let inode = read::existing_inode(&read, ino, at).unwrap();
        let byte = |at| if contents.get(at) > 255 { b'.' } else { contents.get(at) as u8 };
        String::from_utf8((0..inode.size).map(byte).collect()).unwrap()
    }

    fn versions(&self, dir: Ino, as_name: &str) -> Vec<read::FileVersion> {
        let read = self.world.read(Vec::new());
        let names = self.world.rules.names();
        read::file_versions(&read, names, dir, as_name.as_bytes(), Stamp::ZERO, Stamp::MAX).unwrap()
    }

    /// How many past versions a key has.
    fn past_of(&self, key: &[u8]) -> usize {
        let mut count = 0;
        // Whatever the horizon is: what is kept, not what may be read.
        let read = Series::new(&self.world.table, key::GROUPS, Readable::default());
        read.versions(key, Stamp::ZERO, Stamp::MAX, &mut |version| {
            count += usize::from(version.to < Stamp::MAX);
            ControlFlow::Continue(())
        })
        .unwrap();
        count
    }
}

#[test]
fn names_are_any_bytes_but_few() {
    let mut fs = Fs::new();
    let file = fs.file(ROOT, "a");
    let time = fs.time();
    let long = "x".repeat(256);
    for (bad, why) in [
        ("", FsError::NotFound),
        (".", FsError::Invalid("\".\" and \"..\" name no entry")),
        ("..", FsError::Invalid("\".\" and \"..\" name no entry")),
        ("a/b", FsError::Invalid("a name has no zero byte and no slash")),
        ("a\0", FsError::Invalid("a name has no zero byte and no slash")),
        (long.as_str(), FsError::NameTooLong),
        ("a", FsError::Exists),
    ] {
        let op = Op::Link { ino: file, dir: ROOT, name: name(bad), time };
        assert_eq!(fs.op(op), Err(why), "{bad:?}");
    }
    for good in [&b"\xff\xfe\n"[..], b" ", &[b'y'; 255]] {
        let op = Op::Link { ino: file, dir: ROOT, name: Bytes::copy_from_slice(good), time };
        fs.op(op).unwrap();
    }
    assert_eq!(fs.attr(file).nlink, 4);
}

#[test]
fn what_is_removed_must_be_of_the_right_kind_and_empty() {
    let mut fs = Fs::new();
    let dir = fs.dir(ROOT, "d");
    fs.file(dir, "f");
    assert_eq!(fs.unlink(ROOT, "d"), Err(FsError::IsDirectory));
    assert_eq!(fs.rmdir(dir, "f"), Err(FsError::NotDirectory));
    assert_eq!(fs.rmdir(ROOT, "d"), Err(FsError::NotEmpty));
    assert_eq!(fs.unlink(ROOT, "x"), Err(FsError::NotFound));
    fs.unlink(dir, "f").unwrap();
    fs.rmdir(ROOT, "d").unwrap();
    assert_eq!(fs.lookup(ROOT, "d"), Err(FsError::NotFound));
}

#[test]
fn a_directory_counts_its_subdirectories_as_links() {
    let mut fs = Fs::new();
    let (a, b) = (fs.dir(ROOT, "a"), fs.dir(ROOT, "b"));
    let sub = fs.dir(a, "sub");
    fs.file(a, "file");
    assert_eq!((fs.attr(ROOT).nlink, fs.attr(a).nlink, fs.attr(b).nlink), (4, 3, 2));
    fs.rename((a, "sub"), (b, "sub")).unwrap();
    assert_eq!((fs.attr(a).nlink, fs.attr(b).nlink), (2, 3));
    assert_eq!(fs.inode(sub).parent, Some(b));
    let swap = fs.rename_op((a, "file"), (b, "sub"), RenameHow::Exchange);
    fs.op(swap).unwrap();
    assert_eq!((fs.attr(a).nlink, fs.attr(b).nlink), (3, 2));
    assert_eq!((fs.attr(a).size, fs.attr(b).size), (1, 1), "entries");
}

#[test]
fn renaming_one_name_of_a_file_to_another_does_nothing() {
    let mut fs = Fs::new();
    let file = fs.file(ROOT, "a");
    let link = Op::Link { ino: file, dir: ROOT, name: name("b"), time: fs.time() };
    fs.op(link).unwrap();
    let before = fs.attr(ROOT);
    fs.rename((ROOT, "a"), (ROOT, "b")).unwrap();
    assert_eq!((fs.lookup(ROOT, "a"), fs.lookup(ROOT, "b")), (Ok(file), Ok(file)));
    assert_eq!(fs.attr(ROOT), before);
    let strict = fs.rename_op((ROOT, "a"), (ROOT, "b"), RenameHow::NoReplace);
    assert_eq!(fs.op(strict), Err(FsError::Exists));
}

#[test]
fn a_directory_cannot_move_into_itself() {
    let mut fs = Fs::new();
    let a = fs.dir(ROOT, "a");
    let b = fs.dir(a, "b");
    let c = fs.dir(b, "c");
    let wrong = FsError::Invalid("a directory cannot move into itself");
    assert_eq!(fs.rename((ROOT, "a"), (a, "x")), Err(wrong.clone()));
    assert_eq!(fs.rename((ROOT, "a"), (c, "x")), Err(wrong.clone()));
    let swap = fs.rename_op((b, "c"), (ROOT, "a"), RenameHow::Exchange);
    assert_eq!(fs.op(swap), Err(wrong));
    assert_eq!(fs.rename((b, "c"), (ROOT, "a")), Err(FsError::NotEmpty), "over its own ancestor");
    fs.rename((b, "c"), (ROOT, "c")).unwrap();
    assert_eq!(fs.inode(c).parent, Some(ROOT));
}

#[test]
fn a_rename_replaces_only_what_is_alike() {
    let mut fs = Fs::new();
    let (file, dir) = (fs.file(ROOT, "f"), fs.dir(ROOT, "d"));
    let (other, full) = (fs.file(ROOT, "g"), fs.dir(ROOT, "full"));
    fs.file(full, "x");
    assert_eq!(fs.rename((ROOT, "f"), (ROOT, "d")), Err(FsError::IsDirectory));
    assert_eq!(fs.rename((ROOT, "d"), (ROOT, "f")), Err(FsError::NotDirectory));
    assert_eq!(fs.rename((ROOT, "d"), (ROOT, "full")), Err(FsError::NotEmpty));
    assert_eq!(fs.rename((ROOT, "none"), (ROOT, "f")), Err(FsError::NotFound));
    let exchange = fs.rename_op((ROOT, "f"), (ROOT, "none"), RenameHow::Exchange);
    assert_eq!(fs.op(exchange), Err(FsError::NotFound));
    fs.rename((ROOT, "f"), (ROOT, "g")).unwrap();
    assert_eq!(fs.lookup(ROOT, "g"), Ok(file));
    let read = fs.world.read(Vec::new());
    assert_eq!(read::inode(&read, other, AsOf::Now), Ok(None));
    fs.rename((ROOT, "d"), (full, "d")).unwrap();
    assert_eq!(fs.lookup(full, "d"), Ok(dir));
}

#[test]
fn times_move_as_posix_says() {
    let mut fs = Fs::new();
    let dir = fs.dir(ROOT, "d");
    let file = fs.file(dir, "f");
    let times = |attr: Attr| (attr.mtime, attr.ctime);
    assert_eq!(times(fs.attr(dir)), (fs.now(), fs.now()), "a new entry");
    let born = fs.now();
    let link = Op::Link { ino: file, dir: ROOT, name: name("l"), time: fs.time() };
    fs.op(link).unwrap();
    assert_eq!(times(fs.attr(file)), (born, fs.now()), "a link");
    let write = fs.write_op(file, 0, "text");
    fs.op(write).unwrap();
    assert_eq!(times(fs.attr(file)), (fs.now(), fs.now()), "a write");
    let written = fs.now();
    fs.rename((dir, "f"), (dir, "g")).unwrap();
    assert_eq!(times(fs.attr(file)), (written, fs.now()), "a rename");
    assert_eq!(times(fs.attr(dir)), (fs.now(), fs.now()), "a rename in it");
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let chmod = Op::SetAttr { ino: file, set, time: fs.time() };
    fs.op(chmod).unwrap();
    assert_eq!(times(fs.attr(file)), (written, fs.now()), "a change of mode");
    let before = fs.attr(file);
    let accessed = Op::Accessed { ino: file, time: fs.time() };
    fs.op(accessed).unwrap();
    assert_eq!(fs.attr(file), Attr { atime: fs.now(), ..before });
    assert_eq!(fs.attr(file).btime, born);
}

#[test]
fn a_write_or_a_new_owner_takes_set_user_id() {
    let mut fs = Fs::new();
    let file = fs.file(ROOT, "f");
    let mut mode_after = |set: SetAttr| {
        let suid = SetAttr { mode: Some(0o6755), ..SetAttr::default() };
        let time = fs.time();
        fs.op(Op::SetAttr { ino: file, set: suid, time }).unwrap();
        let capability = Op::SetXattr {
            ino: file,
            name: name("security.capability"),
            value: name("rights"),
            how: XattrHow::Set,
            time,
        };
        fs.op(capability).unwrap();
        fs.op(Op::SetAttr { ino: file, set, time }).unwrap();
        let read = fs.world.read(Vec::new());
        let rights = read::xattr(&read, file, b"security.capability", AsOf::Now).is_ok();
        (fs.attr(file).mode, rights)
    };
    assert_eq!(mode_after(SetAttr { uid: Some(7), ..SetAttr::default() }), (0o755, false));
    let clear = SetAttr { size: Some(0), clear_suid: true, ..SetAttr::default() };
    assert_eq!(mode_after(clear), (0o755, false));
    let keep = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(mode_after(keep), (0o6755, true));
    let both = SetAttr { uid: Some(7), mode: Some(0o4755), ..SetAttr::default() };
    assert_eq!(mode_after(both), (0o4755, true));
}

#[test]
fn an_open_file_outlives_its_name() {
    let mut fs = Fs::new();
    let (file, dir) = (fs.file(ROOT, "f"), fs.dir(ROOT, "d"));
    let time = fs.time();
    let unlink = Op::Unlink { dir: ROOT, name: name("f"), keep_open: true, time };
    fs.op(unlink).unwrap();
    let rmdir = Op::Rmdir { dir: ROOT, name: name("d"), keep_open: true, time };
    fs.op(rmdir).unwrap();
    let write = fs.write_op(file, 0, "still here");
    fs.op(write).unwrap();
    assert_eq!((fs.attr(file).nlink, fs.text(file, AsOf::Now).as_str()), (0, "still here"));
    let link = Op::Link { ino: file, dir: ROOT, name: name("back"), time };
    assert_eq!(fs.op(link), Err(FsError::NotFound), "a name that is gone stays gone");
    let into = Op::Link { ino: file, dir, name: name("x"), time };
    assert_eq!(fs.op(into), Err(FsError::NotFound), "a removed directory takes no entry");
    fs.op(Op::Release { ino: file }).unwrap();
    assert_eq!(fs.op(Op::Release { ino: file }), Err(FsError::Stale));
    // The other goes with its session.
    let (session, stamp) = (fs.world.session, Stamp(fs.world.last.0 + 1));
    fs.world.administer(stamp, Op::EndSession { session });
    fs.world.check();
    let read = fs.world.read(Vec::new());
    assert_eq!(read::inode(&read, dir, AsOf::Now), Ok(None));
}

#[test]
fn sizes_have_a_limit_and_shrinking_loses_what_lay_beyond() {
    let mut fs = Fs::new();
    let file = fs.file(ROOT, "f");
    let resize = |fs: &mut Fs, size| {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        let time = fs.time();
        fs.op(Op::SetAttr { ino: file, set, time })
    };
    let write = fs.write_op(file, 0, "abcdef");
    fs.op(write).unwrap();
    resize(&mut fs, 3).unwrap();
    resize(&mut fs, 5).unwrap();
    assert_eq!(fs.text(file, AsOf::Now), "abc..");
    let write = fs.write_op(file, 4, "X");
    fs.op(write).unwrap();
    assert_eq!(fs.text(file, AsOf::Now), "abc.X");
    assert_eq!(fs.attr(file).allocated, 4);
    assert_eq!(resize(&mut fs, FILE_BYTES_MAX + 1), Err(FsError::FileTooBig));
    let beyond = fs.write_op(file, FILE_BYTES_MAX, "x");
    assert_eq!(fs.op(beyond), Err(FsError::FileTooBig));
    resize(&mut fs, FILE_BYTES_MAX).unwrap();
    let last = fs.write_op(file, FILE_BYTES_MAX - 1, "x");
    fs.op(last).unwrap();
    resize(&mut fs, 0).unwrap();
    assert_eq!(fs.text(file, AsOf::Now), "");
    let dir = SetAttr { size: Some(0), ..SetAttr::default() };
    let time = fs.time();
    assert_eq!(fs.op(Op::SetAttr { ino: ROOT, set: dir, time }), Err(FsError::IsDirectory));
}

#[test]
fn no_finished_version_is_lost_inside_a_batch() {
    let mut fs = Fs::new();
    let file = fs.file(ROOT, "f");
    let mut ops = Vec::new();
    for text in ["one", "two", "six"] {
        ops.push(fs.write_op(file, 0, text));
        ops.push(Op::Version { ino: file });
    }
    // What is written and not finished is a state on the way.
    ops.push(fs.write_op(file, 0, "tmp"));
    ops.push(fs.write_op(file, 0, "ten"));
    ops.push(Op::Version { ino: file });
    ops.push(Op::Unlink { dir: ROOT, name: name("f"), keep_open: false, time: fs.time() });
    fs.batch(ops);
    let versions = fs.versions(ROOT, "f");
    let texts: Vec<String> =
        versions.iter().map(|version| fs.text(file, AsOf::At(version.stamp))).collect();
    assert_eq!(texts, ["ten", "six", "two", "one"]);
    for pair in versions.windows(2) {
        assert_eq!(pair[1].until, pair[0].stamp);
    }
}

#[test]
fn a_name_keeps_its_versions_when_its_file_is_replaced() {
    let mut fs = Fs::new();
    let old = fs.file(ROOT, "f");
    let ops = vec![fs.write_op(old, 0, "old"), Op::Version { ino: old }];
    let then = fs.batch(ops);
    // As editors save: written under another name, then moved over.
    let new = fs.file(ROOT, "f.tmp");
    let ops = vec![fs.write_op(new, 0, "new"), Op::Version { ino: new }];
    fs.batch(ops);
    fs.rename((ROOT, "f.tmp"), (ROOT, "f")).unwrap();
    let versions = fs.versions(ROOT, "f");
    assert_eq!(versions.iter().map(|version| version.ino).collect::<Vec<_>>(), [new, old]);
    assert_eq!((versions[0].until, versions[1].until), (Stamp::MAX, versions[0].stamp));
    assert_eq!(fs.lookup_at(ROOT, "f", AsOf::At(then)), Ok(old));
    assert_eq!(fs.text(old, AsOf::At(then)), "old");
}

#[test]
fn a_directory_tells_what_was_deleted_in_it() {
    let mut fs = Fs::new();
    fs.file(ROOT, "stays");
    let gone = fs.file(ROOT, "gone");
    let back = fs.file(ROOT, "back");
    let when = fs.unlink(ROOT, "gone").unwrap();
    fs.unlink(ROOT, "back").unwrap();
    fs.make(ROOT, "back", FileKind::Fifo);
    let read = fs.world.read(Vec::new());
    let deleted = read::deleted(&read, ROOT, Stamp::ZERO, Stamp::MAX).unwrap();
    let entry = read::Deleted { name: b"gone".to_vec(), ino: gone, kind: FileKind::File, when };
    assert_eq!(deleted, [entry]);
    assert_eq!(read::deleted(&read, ROOT, Stamp(when.0 + 1), Stamp::MAX), Ok(Vec::new()));
    assert_ne!(fs.lookup(ROOT, "back"), Ok(back));
}

#[test]
fn an_append_leaves_no_version_of_its_extents() {
    let mut fs = Fs::new();
    let file = fs.file(ROOT, "log");
    let line = "x".repeat(64);
    for n in 0..200 {
        let ops = vec![fs.write_op(file, n * 64, &line), Op::Version { ino: file }];
        fs.batch(ops);
    }
    let extents = key::extents(file, Generation(0), Region(0));
    assert_eq!(fs.past_of(&extents), 0);
    assert_eq!(fs.past_of(&key::inode(file)), 200);
    assert_eq!(fs.text(file, AsOf::Now).len(), 200 * 64);
    // An overwrite makes one.
    let over = fs.write_op(file, 10, "y");
    fs.op(over).unwrap();
    assert_eq!(fs.past_of(&extents), 1);
}

#[test]
fn a_batch_is_applied_once_and_only_in_its_turn() {
    let mut fs = Fs::new();
    fs.file(ROOT, "a");
    let (session, seq) = (fs.world.session, fs.world.seq);
    let append = |fs: &mut Fs, seq| {
        let ops =
            vec![Op::Unlink { dir: ROOT, name: name("a"), keep_open: false, time: fs.time() }];
        let (seq, by) = (BatchSeq(seq), Vec::new());
        let batch = Batch { session, seq, epoch: 1, by, ops, direct: None };
        let stamp = Stamp(fs.world.last.0 + 1);
        fs.world.append(stamp, &batch).0
    };
    let refused = |outcome| matches!(outcome, Outcome::Refused { op: 0, .. });
    assert_eq!(append(&mut fs, seq.0), Outcome::Repeated);
    assert_eq!(append(&mut fs, seq.0 + 2), Outcome::Early, "a gap");
    assert!(refused(append(&mut fs, 0)), "a session without a number");
    assert_eq!(append(&mut fs, seq.0 + 1), Outcome::Applied);
    let next = Stamp(fs.world.last.0 + 1);
    fs.world.administer(next, Op::EndSession { session });
    assert!(refused(append(&mut fs, seq.0 + 2)), "fenced by its end");
}

#[test]
fn a_session_that_ends_owns_nothing_even_if_much_is_left_of_it() {
    let mut fs = Fs::new();
    let session = fs.world.session;
    let admin = |fs: &mut Fs, op| {
        let stamp = Stamp(fs.world.last.0 + 1);
        fs.world.administer(stamp, op);
    };
    let other = SessionId(session.0 + 1);
    admin(&mut fs, Op::OpenSession { session: other, client: "other".to_owned() });
    // Ranges that do not lie one behind the other, more than one op takes.
    for _ in 0..600 {
        admin(&mut fs, Op::GrantInos { session, count: 1 });
        admin(&mut fs, Op::GrantInos { session: other, count: 1 });
    }
    fs.world.check();
    let owner = |fs: &Fs, raw| {
        let rows: &dyn Rows = &fs.world.table;
        own::owner(rows, Ino::new(raw).unwrap()).unwrap()
    };
    // The first was given behind what the session had: one range.
    let last = 2 + (1 << 20) + 2 * 599;
    assert_eq!((owner(&fs, last), owner(&fs, last + 1)), (Some(session), Some(other)));
    assert_eq!(owner(&fs, 1), Some(session), "the whole");
    admin(&mut fs, Op::EndSession { session });
    fs.world.check();
    let key = StateKey::Session { session }.encode();
    assert!(fs.world.table.get(Family::State, &key).unwrap().is_some(), "something is left");
    for raw in [1, 5, last] {
        assert_eq!(owner(&fs, raw), None);
    }
    let time = fs.time();
    let late = fs.try_batch(vec![Op::Accessed { ino: ROOT, time }]);
    assert!(matches!(late.0, Outcome::Refused { .. }), "fenced at once");
    let stamp = Stamp(fs.world.last.0 + 1);
    let refused = fs.world.try_administer(stamp, Op::GrantWhole { session: other });
    assert!(matches!(refused.0, Outcome::Refused { .. }), "it is not alone yet");
    admin(&mut fs, Op::EndSession { session });
    assert!(fs.world.table.get(Family::State, &key).unwrap().is_none());
    admin(&mut fs, Op::GrantWhole { session: other });
    assert_eq!((owner(&fs, 1), owner(&fs, last)), (Some(other), Some(other)));
    fs.world.check();
}

#[test]
fn a_batch_with_a_refused_op_leaves_nothing() {
    let mut fs = Fs::new();
    let file = fs.file(ROOT, "a");
    let before = fs.world.dump();
    let time = fs.time();
    let ops = vec![
        Op::Link { ino: file, dir: ROOT, name: name("b"), time },
        Op::Rmdir { dir: ROOT, name: name("a"), keep_open: false, time },
    ];
    let (outcome, _) = fs.try_batch(ops);
    assert_eq!(outcome, Outcome::Refused { op: 1, error: FsError::NotDirectory });
    assert_eq!(fs.world.dump(), before);
    // Nor does anything after it, for it would build on what is not there.
    let link = Op::Link { ino: file, dir: ROOT, name: name("b"), time };
    assert_eq!(fs.try_batch(vec![link]).0, Outcome::Early);
}

#[test]
fn an_inode_number_is_used_once() {
    let mut fs = Fs::new();
    let file = fs.file(ROOT, "a");
    for number in [file, Ino::ROOT, Ino::new(1 << 40).unwrap()] {
        let mut fs = Fs::new();
        fs.file(ROOT, "a");
        let create = Op::Create {
            dir: ROOT,
            name: name("b"),
            ino: number,
            kind: FileKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Bytes::new(),
            time: Time::default(),
        };
        assert!(matches!(fs.try_batch(vec![create]).0, Outcome::Refused { .. }), "{number}");
    }
}

#[test]
fn a_mark_keeps_what_purge_would_take() {
    let mut fs = Fs::new();
    let file = fs.file(ROOT, "f");
    let rewrite = |fs: &mut Fs, text: &str| {
        let ops = vec![fs.write_op(file, 0, text), Op::Version { ino: file }];
        fs.batch(ops)
    };
    let first = rewrite(&mut fs, "first");
    let stamp = Stamp(fs.world.last.0 + 1);
    let mark = Op::Mark { name: name("m"), note: String::new(), uid: 0 };
    fs.world.administer(stamp, mark);
    let second = rewrite(&mut fs, "other");
    let last = rewrite(&mut fs, "third");
    fs.world.purge(last, 10);
    fs.world.check();
    let marked = fs.world.read(vec![stamp]);
    let at = |read: &dyn Read, at| read::inode(read, file, AsOf::At(at)).map(|i| i.is_some());
    assert_eq!(at(&marked, stamp), Ok(true));
    assert!(matches!(at(&marked, second), Err(FsError::BeforeHorizon { .. })));
    let contents = fs.world.contents(&marked, file, AsOf::At(stamp));
    assert_eq!(contents.get(0), u16::from(b'f'));
    assert_eq!(fs.past_of(&key::inode(file)), 1, "{first} is kept, {second} is not");
    let unmark = Stamp(fs.world.last.0 + 1);
    fs.world.administer(unmark, Op::Unmark { name: name("m") });
    fs.world.purge(last, 10);
    fs.world.check();
    assert_eq!(fs.past_of(&key::inode(file)), 0);
}

#[test]
fn contents_are_forgotten_only_where_no_version_shows_them() {
    let mut fs = Fs::new();
    let file = fs.file(ROOT, "f");
    for text in ["one", "two", "six"] {
        let ops = vec![fs.write_op(file, 0, text), Op::Version { ino: file }];
        fs.batch(ops);
    }
    let (inode, extents) = (key::inode(file), key::extents(file, Generation(0), Region(0)));
    let forget = |fs: &mut Fs, key: &[u8]| {
        let stamp = Stamp(fs.world.last.0 + 1);
        let keys = vec![Bytes::copy_from_slice(key)];
        fs.world.administer(stamp, Op::Forget { keys, before: Stamp::MAX });
        fs.world.check();
    };
    forget(&mut fs, &extents);
    assert_eq!(fs.past_of(&extents), 2, "instants still show them");
    forget(&mut fs, &inode);
    assert_eq!(fs.past_of(&inode), 0);
    forget(&mut fs, &extents);
    assert_eq!(fs.past_of(&extents), 0);
    assert_eq!(fs.text(file, AsOf::Now), "six");
}

#[test]
fn a_directory_without_history_forgets_at_once() {
    let mut fs = Fs::new();
    let dir = fs.dir(ROOT, "spool");
    let time = fs.time();
    fs.op(Op::SetHistory { ino: dir, keep: false, time }).unwrap();
    let file = fs.file(dir, "f");
    let text = "x".repeat(INLINE_BYTES_MAX);
    for _ in 0..12 {
        let size = fs.attr(file).size;
        let ops = vec![fs.write_op(file, size, &text), Op::Version { ino: file }];
        fs.batch(ops);
    }
    let over = fs.write_op(file, 0, "over");
    let then = fs.op(over).unwrap();
    assert_eq!(fs.past_of(&key::inode(file)), 0);
    fs.unlink(dir, "f").unwrap();
    assert_eq!(fs.lookup_at(dir, "f", AsOf::At(then)), Err(FsError::NotFound));
    fs.world.purge(Stamp::ZERO, 10);
    fs.world.check();
    let left = fs.world.dump().into_keys().filter(|(family, key)| {
        *family == tsfs::series::table::Family::Payload || key.first() == Some(&b'E')
    });
    assert_eq!(left.collect::<Vec<_>>(), [], "its contents are swept whatever the horizon is");
}

#[test]
fn entries_with_one_hash_are_all_listed_wherever_a_listing_goes_on() {
    let mut fs = Fs::new();
    let file = fs.file(ROOT, "real");
    // Nobody finds two such names, so the rows are put as they would be.
    let origin = series::Origin {
        stamp: Stamp(fs.world.last.0 + 1),
        session: SessionId(0),
        seq: BatchSeq(0),
    };
    let mut batch = series::Batch::new(&fs.world.table, key::GROUPS, origin);
    let dirent = Dirent { ino: file, kind: FileKind::File };
    for (hash, name) in [(100, "a"), (101, "b"), (101, "c"), (101, "d"), (102, "e")] {
        batch.put(&key::dirent(ROOT, hash, name.as_bytes()), dirent.to_row(), Past::Keep);
    }
    let changes = batch.finish().unwrap().changes;
    fs.world.table.write(&changes).unwrap();
    let read = fs.world.read(Vec::new());
    let list = |after, limit: usize| {
        let mut entries = Vec::new();
        read::readdir(&read, ROOT, after, AsOf::Now, &mut |entry| {
            entries.push((String::from_utf8_lossy(entry.name).into_owned(), entry.cookie));
            match entries.len() < limit {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })
        .unwrap();
        entries
    };
    let all: Vec<String> = list(0, usize::MAX).into_iter().map(|(name, _)| name).collect();
    assert_eq!(all, ["a", "b", "c", "d", "e", "real"]);
    for cut in 1..=all.len() {
        let first = list(0, cut);
        let (_, cookie) = first.last().unwrap();
        let rest = list(*cookie, usize::MAX);
        let mut seen: Vec<&String> = first.iter().chain(&rest).map(|(name, _)| name).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all.len(), "going on after {cut} entries left one out");
    }
}
