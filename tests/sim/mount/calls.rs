//! What programs on a mount do: calls by name, which become ops once the mount knows the rows that their rules read.
//!
//! Few names, so that mounts meet. One call at a time, as if there were one program; beside it fsyncs, reads of the past, marks
//! and purges. A call that touches only what the mount owns is done at once, any other goes as a direct batch.

use super::Around;
use super::Asked;
use super::Life;
use super::Mount;
use super::NUMBERS;
use super::Rows;
use super::may;
use super::view::Miss;
use super::view::View;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use tsfs::meta::apply::Rules;
use tsfs::meta::key;
use tsfs::meta::op::Op;
use tsfs::meta::op::Piece;
use tsfs::meta::op::RenameHow;
use tsfs::meta::op::Seen;
use tsfs::meta::op::SetAttr;
use tsfs::meta::op::XattrHow;
use tsfs::meta::record::Dirent;
use tsfs::meta::record::Record;
use tsfs::series::Direction;
use tsfs::series::Present;
use tsfs::tsdb_client::own::Right;
use tsfs::types::AsOf;
use tsfs::types::BlockId;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::types::Time;
use tsfs::types::frame::Frame;
use tsfs::wire::message::Request;

/// A call that has not come to an end after so long is given up.
const GIVEN_UP_MS: u64 = 8000;
const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
const DIRS: [&[u8]; 2] = [b"p", b"q"];

/// What is done, as the table of coverage lists it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Open,
    Renew,
    Numbers,
    Whole,
    Yield,
    End,
    Local,
    Direct,
    Make,
    Write,
    Cut,
    Remove,
    Move,
    Link,
    Attributes,
    Xattr,
    Version,
    Release,
    Look,
    Sync,
    Past,
    Mark,
    Purge,
}

/// A call that has begun.
pub(crate) struct Call {
    pub(super) kind: Kind,
    /// In the root where it is none, or no directory.
    dir: Option<&'static [u8]>,
    name: &'static [u8],
    to: (Option<&'static [u8]>, &'static [u8]),
    seed: u64,
    since: u64,
    /// Of inodes that the mount does not own: as they were for this call.
    pub(super) fresh: Rows,
    pub(super) asked: bool,
    /// The file whose name goes.
    pub(super) goes: Option<Ino>,
}

impl Call {
    /// To be tried again on rows that are read again.
    pub(super) fn anew(self) -> Call {
        Call { fresh: Rows::default(), asked: false, goes: None, ..self }
    }
}

impl Mount {
    /// Programs begin calls, and calls go on.
    pub(super) fn go_on(&mut self, around: &mut Around<'_>) {
        if !around.more {
            (self.call, self.again) = (None, None);
        }
        if !self.has_lease() {
            return;
        }
        if let Some(call) = &self.call {
            if around.now > call.since + GIVEN_UP_MS {
                self.call = None;
            } else if !call.asked {
                self.attempt(around);
            }
            return;
        }
        if self.again.is_some() && !self.is_direct_under_way() {
            self.call = self.again.take();
            return;
        }
        if around.more && around.chance.once_in(12) {
            self.begin_call(around);
        }
    }

    fn begin_call(&mut self, around: &mut Around<'_>) {
        let Around { chance, now, .. } = around;
        let kind = match chance.below(100) {
            0..=21 => Kind::Make,
            22..=43 => Kind::Write,
            44..=47 => Kind::Cut,
            48..=57 => Kind::Remove,
            58..=64 => Kind::Move,
            65..=67 => Kind::Link,
            68..=72 => Kind::Attributes,
            73..=76 => Kind::Xattr,
            77..=79 => Kind::Version,
            80..=87 => Kind::Look,
            88..=94 => Kind::Sync,
            95..=96 => Kind::Past,
            97 => Kind::Mark,
            98 => Kind::Purge,
            _ => Kind::Release,
        };
        let dir = |chance: &mut crate::chance::Chance| match chance.once_in(2) {
            true => None,
            false => chance.pick(&DIRS).copied(),
        };
        let name = *chance.pick(&NAMES).unwrap();
        let call = Call {
            kind,
            dir: dir(chance),
            name,
            to: (dir(chance), chance.pick(&NAMES).unwrap()),
            seed: chance.next(),
            since: *now,
            fresh: Rows::default(),
            asked: false,
            goes: None,
        };
        match kind {
            Kind::Sync => {
                let life = self.life.as_mut().expect("it is alive");
                life.syncs.push_back(life.made + u64::from(!life.open.is_empty()));
            }
            Kind::Past => self.read_past(around),
            Kind::Mark | Kind::Purge => self.have_done(kind, call.seed, around),
            _ => self.call = Some(call),
        }
    }

    fn read_past(&mut self, around: &mut Around<'_>) {
        let life = self.life.as_ref().expect("it is alive");
        let (session, from) = (life.session, life.stamps.len().saturating_sub(40));
        let Some(at) = around.chance.pick(&life.stamps[from..]).copied() else { return };
        let key = match around.chance.pick(&DIRS).copied().filter(|_| around.chance.once_in(2)) {
            Some(name) => key::dirent(Ino::ROOT, life.rules.names().of(name), name),
            None => key::inode(Ino::ROOT),
        };
        let key = Bytes::copy_from_slice(&key);
        let request = Request::Get { session, keys: vec![key.clone()], at: AsOf::At(at) };
        self.ask(&request, Bytes::new(), Asked::Past(at, key), around);
    }

    /// What the store does itself for whoever asks.
    fn have_done(&mut self, kind: Kind, seed: u64, around: &mut Around<'_>) {
        let life = self.life.as_ref().expect("it is alive");
        let op = match kind {
            Kind::Mark => {
                let name = format!("mark {}", seed % 40).into_bytes().into();
                Op::Mark { name, note: String::new(), uid: 0 }
            }
            _ => {
                let at = life.stamps.len() / 2;
                let Some(horizon) = life.stamps.get(at).copied() else { return };
                Op::Purge { horizon: Stamp(horizon.0), rows: 1 + (seed % 200) as u32 }
            }
        };
        let request = Request::Administer { by: Some(0), ops: vec![op] };
        self.ask(&request, Bytes::new(), Asked::Store(kind), around);
    }

    /// Runs the rules of the call over what is known. What is not known is asked for.
    fn attempt(&mut self, around: &mut Around<'_>) {
        let mut call = self.call.take().expect("there is one");
        let life = self.life.as_mut().expect("it is alive");
        if call.kind == Kind::Make && life.numbers.len() < 4 {
            self.call = Some(call);
            return self.ask_numbers(around);
        }
        let Life { own, overlay, cache, rules, session, .. } = &*life;
        let owns = |ino: Ino| own.right(ino) != Right::Nothing;
        let (changed, seen, touched, missed) = Default::default();
        let fresh = &call.fresh;
        let mut view = View { overlay, cache, fresh, owns: &owns, changed, seen, touched, missed };
        let numbers = (life.numbers.front().copied(), life.next_block);
        let release = life.release.first().copied();
        let made = Maker { call: &call, session: *session, rules, numbers, release }.run(&mut view);
        let View { changed, seen, touched, missed, .. } = view;
        let may = may(own, &touched);
        if matches!(may, Right::Leaving | Right::Busy) {
            self.call = Some(call);
            return;
        }
        if let Some(miss) = missed {
            call.asked = true;
            self.call = Some(call);
            return self.ask_rows(miss, around);
        }
        let Ok(Made { ops, goes }) = made else {
            if call.kind == Kind::Release {
                self.use_numbers(&[Op::Release { ino: Ino::ROOT }]);
            }
            return;
        };
        if ops.is_empty() {
            self.reports.push(super::Report::Done(call.kind));
            return;
        }
        call.goes = goes;
        if may == Right::Owned {
            return self.do_now(call.kind, ops, changed, touched, around);
        }
        self.close_open(around);
        if self.is_direct_under_way() {
            self.call = Some(call);
            return;
        }
        self.use_numbers(&ops);
        let as_seen = |(key, row): (&Vec<u8>, &Option<Bytes>)| {
            Seen::new(Bytes::copy_from_slice(key), row.as_deref())
        };
        let seen = seen.iter().map(as_seen).collect();
        self.send_direct(call, ops, (seen, changed), touched, around);
    }

    /// The mount owns all that the ops touch: it is done, and on its way.
    fn do_now(
        &mut self,
        kind: Kind,
        ops: Vec<Op>,
        changed: BTreeMap<Vec<u8>, Option<Bytes>>,
        touched: BTreeSet<Ino>,
        around: &mut Around<'_>,
    ) {
        self.use_numbers(&ops);
        let life = self.life.as_mut().expect("it is alive");
        if life.open.is_empty() {
            life.open_since = around.now;
        }
        let seq = life.made + 1;
        life.overlay.extend(changed.into_iter().map(|(key, row)| (key, (seq, row))));
        life.open.extend(ops.into_iter().map(|op| (kind, op)));
        life.open_touched.extend(touched);
    }

    /// Numbers are used in rising order, those of ops that come to nothing too.
    fn use_numbers(&mut self, ops: &[Op]) {
        let life = self.life.as_mut().expect("it is alive");
        for op in ops {
            match op {
                Op::Create { .. } => drop(life.numbers.pop_front()),
                Op::Write { .. } => life.next_block += 1,
                Op::Release { .. } if !life.release.is_empty() => drop(life.release.remove(0)),
                _ => {}
            }
        }
    }

    fn ask_numbers(&mut self, around: &mut Around<'_>) {
        let life = self.life.as_mut().expect("it is alive");
        if std::mem::replace(&mut life.asks_numbers, true) {
            return;
        }
        let request = Request::GrantInos { session: life.session, count: NUMBERS };
        self.ask(&request, Bytes::new(), Asked::Numbers, around);
    }

    fn ask_rows(&mut self, miss: Miss, around: &mut Around<'_>) {
        let life = self.life.as_ref().expect("it is alive");
        let (session, turn, at) = (life.session, life.turn, AsOf::Now);
        let (request, asked) = match miss {
            Miss::Key(key) => {
                let keys = vec![key];
                (Request::Get { session, keys: keys.clone(), at }, Asked::Rows(turn, keys))
            }
            Miss::Range(range) => {
                let direction = Direction::Forward;
                let asked = Asked::Page(turn, range.clone());
                (Request::Scan { session, range, at, direction, limit: 4096 }, asked)
            }
        };
        self.ask(&request, Bytes::new(), asked, around);
    }
}

/// What a call becomes.
struct Made {
    ops: Vec<Op>,
    goes: Option<Ino>,
}

/// Makes a call's ops out of what the view shows, and runs the rules for them.
struct Maker<'a> {
    call: &'a Call,
    session: SessionId,
    rules: &'a Rules,
    /// The next inode, and the next block.
    numbers: (Option<u64>, u64),
    release: Option<Ino>,
}

impl Maker<'_> {
    fn run(&self, view: &mut View<'_>) -> Result<Made, FsError> {
        let (op, goes) = self.op(view)?;
        let ops: Vec<Op> = op.into_iter().collect();
        for op in &ops {
            self.rules.apply(view, self.session, op)?;
        }
        Ok(Made { ops, goes })
    }

    fn find(&self, view: &mut View<'_>, dir: Ino, name: &[u8]) -> Result<Option<Dirent>, FsError> {
        let key = key::dirent(dir, self.rules.names().of(name), name);
        view.get(&key)?.map(|row| Dirent::from_row(&key, &row)).transpose()
    }

    fn dir(&self, view: &mut View<'_>, name: Option<&[u8]>) -> Result<Ino, FsError> {
        let Some(name) = name else { return Ok(Ino::ROOT) };
        let found = self.find(view, Ino::ROOT, name)?;
        let found = found.filter(|entry| entry.kind == FileKind::Directory);
        Ok(found.map_or(Ino::ROOT, |entry| entry.ino))
    }

    fn op(&self, view: &mut View<'_>) -> Result<(Option<Op>, Option<Ino>), FsError> {
        let Call { kind, seed, since, .. } = *self.call;
        let time = Time { secs: since as i64, nanos: 0 };
        if kind == Kind::Release {
            return Ok((self.release.map(|ino| Op::Release { ino }), None));
        }
        let makes_dir = kind == Kind::Make && (self.call.dir.is_none() && seed.is_multiple_of(3));
        let name = match makes_dir || kind == Kind::Remove && seed.is_multiple_of(16) {
            true => DIRS[(seed / 16 % 2) as usize],
            false => self.call.name,
        };
        let dir = if makes_dir { Ino::ROOT } else { self.dir(view, self.call.dir)? };
        let found = self.find(view, dir, name)?;
        let name = Bytes::from_static(name);
        if kind == Kind::Make {
            let ino = self.numbers.0.and_then(Ino::new).expect("there are some");
            let kind = if makes_dir { FileKind::Directory } else { FileKind::File };
            let (mode, uid, gid, rdev, target) = (0o755, 0, 0, 0, Bytes::new());
            let op = Op::Create { dir, name, ino, kind, mode, uid, gid, rdev, target, time };
            return Ok((Some(op), None));
        }
        let Dirent { ino, kind: of } = found.ok_or(FsError::NotFound)?;
        let mut goes = None;
        let op = match kind {
            Kind::Write => self.write(ino, time),
            Kind::Cut => {
                let set = SetAttr { size: Some(seed % 700), ..SetAttr::default() };
                Op::SetAttr { ino, set, time }
            }
            Kind::Remove if of == FileKind::Directory => {
                Op::Rmdir { dir, name, keep_open: false, time }
            }
            Kind::Remove => {
                goes = Some(ino);
                Op::Unlink { dir, name, keep_open: false, time }
            }
            Kind::Move | Kind::Link => {
                let new_dir = self.dir(view, self.call.to.0)?;
                let there = self.find(view, new_dir, self.call.to.1)?;
                goes = there.map(|entry| entry.ino);
                let new_name = Bytes::from_static(self.call.to.1);
                match kind {
                    Kind::Link => Op::Link { ino, dir: new_dir, name: new_name, time },
                    _ => {
                        let how = match seed % 4 {
                            0 => RenameHow::Exchange,
                            1 => RenameHow::NoReplace,
                            _ => RenameHow::Replace,
                        };
                        Op::Rename { dir, name, new_dir, new_name, how, keep_open: false, time }
                    }
                }
            }
            Kind::Attributes => {
                let set = SetAttr { mode: Some((seed % 512) as u32), ..SetAttr::default() };
                Op::SetAttr { ino, set, time }
            }
            Kind::Xattr => {
                let (name, value) = (Bytes::from_static(b"user.a"), seed.to_be_bytes().to_vec());
                Op::SetXattr { ino, name, value: value.into(), how: XattrHow::Set, time }
            }
            Kind::Version => Op::Version { ino },
            _ => return Ok((None, None)),
        };
        Ok((Some(op), goes))
    }

    fn write(&self, ino: Ino, time: Time) -> Op {
        let seed = self.call.seed;
        let (offset, len) = (seed / 7 % 500, 1 + seed % 90);
        let bytes: Bytes = (0..len).map(|n| (seed.rotate_left(n as u32) ^ n) as u8).collect();
        let piece = match seed.is_multiple_of(3) {
            true => {
                let block = BlockId { session: self.session, number: self.numbers.1 };
                Piece::Payload { block, frame: Frame::pack(&bytes, 1).to_bytes(), len: len as u32 }
            }
            false => Piece::Inline(bytes),
        };
        Op::Write { ino, offset, pieces: vec![piece], clear_suid: false, time }
    }
}
