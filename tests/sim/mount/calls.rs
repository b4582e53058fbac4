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
use super::bulk::Stocked;
use super::locks::Wanted;
use super::make::Made;
use super::make::Maker;
use super::may;
use super::view::Miss;
use super::view::View;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use tsfs::meta::key;
use tsfs::meta::op::Op;
use tsfs::meta::op::Piece;
use tsfs::meta::op::Seen;
use tsfs::series::Direction;
use tsfs::tsdb_client::own::Right;
use tsfs::types::AsOf;
use tsfs::types::Ino;
use tsfs::types::Stamp;
use tsfs::wire::message::Request;

/// A call that has not come to an end after so long is given up.
const GIVEN_UP_MS: u64 = 8000;
const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
pub(super) const DIRS: [&[u8]; 2] = [b"p", b"q"];

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
    /// Contents that are blocks.
    WriteBlock,
    Cut,
    Remove,
    Move,
    Link,
    Attributes,
    Xattr,
    Version,
    Release,
    Look,
    /// A block is made durable on a majority.
    Put,
    /// A block is read.
    Fetch,
    /// What members do about blocks.
    Repair,
    Collect,
    /// Other nodes are homes now; what need not be where it is goes.
    Place,
    LetGo,
    /// A lock is taken, or put aside.
    Lock,
    Unlock,
    Sync,
    Past,
    Mark,
    Purge,
}

/// A call that has begun.
pub(crate) struct Call {
    pub(super) kind: Kind,
    /// In the root where it is none, or no directory.
    pub(super) dir: Option<&'static [u8]>,
    pub(super) name: &'static [u8],
    pub(super) to: (Option<&'static [u8]>, &'static [u8]),
    pub(super) seed: u64,
    pub(super) since: u64,
    /// Of inodes that the mount does not own: as they were for this call.
    pub(super) fresh: Rows,
    pub(super) asked: bool,
    /// Whether what was asked for is of one moment is to be found out.
    pub(super) doubtful: bool,
    /// What it is to lock; another had the file when that was tried.
    pub(super) wanted: Option<Wanted>,
    pub(super) held: bool,
    /// What it is to name.
    pub(super) blocks: Vec<Stocked>,
    /// The file whose name goes.
    pub(super) goes: Option<Ino>,
}

impl Call {
    pub(super) fn new(kind: Kind, since: u64) -> Call {
        Call {
            kind,
            dir: None,
            name: NAMES[0],
            to: (None, NAMES[0]),
            seed: 0,
            since,
            fresh: Rows::default(),
            asked: false,
            doubtful: false,
            wanted: None,
            held: false,
            blocks: Vec::new(),
            goes: None,
        }
    }

    /// To be tried again on rows that are read again.
    pub(super) fn anew(self) -> Call {
        let held = self.wanted.is_some();
        Call { fresh: Rows::default(), asked: false, doubtful: false, held, goes: None, ..self }
    }
}

impl Mount {
    /// Programs begin calls, and calls go on.
    pub(super) fn go_on(&mut self, around: &mut Around<'_>) {
        if !around.more {
            let locks = |call: &mut Call| call.wanted.is_none();
            self.call.take_if(locks);
            self.again.take_if(locks);
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
        self.call = self.lock_again(around);
        if self.call.is_none() && around.more && around.chance.once_in(12) {
            self.begin_call(around);
        }
    }

    fn begin_call(&mut self, around: &mut Around<'_>) {
        let Around { chance, now, .. } = around;
        let kind = match chance.below(100) {
            0..=13 => Kind::Make,
            14..=17 => Kind::Unlock,
            18..=21 => Kind::Lock,
            22..=30 => Kind::Write,
            31..=44 => Kind::WriteBlock,
            45..=47 => Kind::Cut,
            48..=57 => Kind::Remove,
            58..=64 => Kind::Move,
            65..=67 => Kind::Link,
            68..=72 => Kind::Attributes,
            73..=76 => Kind::Xattr,
            77..=79 => Kind::Version,
            80 => Kind::Look,
            81..=83 => Kind::Fetch,
            84..=89 => Kind::Lock,
            90..=91 => Kind::Unlock,
            92..=94 => Kind::Sync,
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
            dir: dir(chance),
            name,
            to: (dir(chance), chance.pick(&NAMES).unwrap()),
            seed: chance.next(),
            ..Call::new(kind, *now)
        };
        match kind {
            Kind::Fetch => self.read_block(around),
            Kind::Lock | Kind::Unlock => self.call = self.lock_call(call, around),
            Kind::WriteBlock => {
                let life = self.life.as_mut().expect("it is alive");
                let blocks = life.bulk.take(1 + call.seed as usize / 8 % 3);
                self.call = (!blocks.is_empty()).then_some(Call { blocks, ..call });
            }
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
        if let Some(wanted) = call.wanted {
            return self.relock(call, wanted, around);
        }
        let life = self.life.as_mut().expect("it is alive");
        if call.kind == Kind::Make && life.numbers.len() < 4 {
            self.call = Some(call);
            return self.ask_numbers(around);
        }
        if !life.bulk.may_name(&call.blocks) {
            self.call = Some(call);
            return;
        }
        if std::mem::take(&mut call.doubtful) {
            call.asked = true;
            self.call = Some(call);
            return self.ask_keys(None, around);
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
            // Now and then one is never named.
            if !around.chance.once_in(4) {
                self.life.as_mut().expect("it is alive").bulk.give_back(call.blocks);
            }
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
                Op::Write { pieces, .. } if matches!(pieces[..], [Piece::Payload { .. }]) => {
                    life.next_block += 1;
                }
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
        match miss {
            Miss::Key(key) => self.ask_keys(Some(key), around),
            Miss::Range(range) => {
                let direction = Direction::Forward;
                let asked = Asked::Page(turn, range.clone());
                let request = Request::Scan { session, range, at, direction, limit: 4096 };
                self.ask(&request, Bytes::new(), asked, around);
            }
        }
    }

    /// What the call knows is asked for again along with what it lacks: it is to look at one moment.
    pub(super) fn ask_keys(&mut self, missing: Option<Bytes>, around: &mut Around<'_>) {
        let life = self.life.as_ref().expect("it is alive");
        let known = self.call.iter().flat_map(|call| call.fresh.rows.keys());
        let known = known.map(|key| Bytes::copy_from_slice(key));
        let keys: Vec<Bytes> = known.chain(missing).collect();
        let (session, at, asked) = (life.session, AsOf::Now, Asked::Rows(life.turn, keys.clone()));
        self.ask(&Request::Get { session, keys, at }, Bytes::new(), asked, around);
    }
}
