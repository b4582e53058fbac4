//! A mount: a session, what it owns, how long its lease lasts, and the member that it talks to.
//!
//! In the place of the production client, which runs on threads: its rules are the production's (`meta::apply`, over what the
//! mount knows), so is what it owns (`tsdb_client::own`) and every byte that it says (`wire`). When things are done is decided
//! here, one millisecond after the other. Not here: the kernel.

mod bulk;
mod calls;
mod heard;
mod locks;
mod make;
mod stream;
mod view;

pub(crate) use calls::Kind;

use crate::chance::Chance;
use crate::lines::LineId;
use crate::lines::Lines;
use crate::lines::Side;
use crate::member::Clocks;
use crate::network::Network;
use bulk::Bulk;
use bytes::Bytes;
use calls::Call;
use locks::Locks;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use stream::Sent;
use tsfs::env::Clock;
use tsfs::meta::apply::Rules;
use tsfs::meta::op::Op;
use tsfs::series::KeyRange;
use tsfs::tsdb_client::own::Given;
use tsfs::tsdb_client::own::Own;
use tsfs::tsdb_client::own::Right;
use tsfs::types::BatchSeq;
use tsfs::types::BlockId;
use tsfs::types::Ino;
use tsfs::types::NodeId;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::wire::Recall;
use tsfs::wire::Whole;
use tsfs::wire::message;
use tsfs::wire::message::Request;
use tsfs::wire::packet::Form;
use tsfs::wire::packet::Packet;

/// Without a word for so long, another member is asked.
const PATIENCE_MS: u64 = 900;
/// A batch is closed after so long.
const OPEN_MS: u64 = 40;
/// Numbers that are asked for at once.
const NUMBERS: u64 = 24;

/// What a mount says to those who watch.
pub(crate) enum Report {
    /// A batch was closed. `direct`: it need not own what it touches.
    Made { session: SessionId, seq: u64, direct: bool, touched: BTreeSet<Ino>, bytes: Bytes },
    /// Programs were told, or may have been, that everything up to this batch is applied.
    Promised { session: SessionId, seq: u64 },
    /// Something was done, as far as programs can tell.
    Done(Kind),
    /// A block was put, and will never be another.
    Put { block: BlockId, frame: Bytes },
    /// It may be named: a majority of these have it on disk.
    Durable { block: BlockId, nodes: Vec<NodeId> },
    /// A block was read.
    Got { block: BlockId, frame: Bytes },
    /// The past was read.
    Past { at: Stamp, key: Bytes, row: Option<Bytes> },
}

/// Rows that are known, of one moment or of what nobody else changes.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) rows: BTreeMap<Vec<u8>, Option<Bytes>>,
    /// Every row in these ranges is known.
    pub(crate) ranges: BTreeSet<(Vec<u8>, Vec<u8>)>,
}

impl Rows {
    fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let within = |range: &(Vec<u8>, Vec<u8>)| {
            KeyRange { start: range.0.clone(), end: range.1.clone() }.contains(key)
        };
        let absent = || self.ranges.iter().any(within).then_some(None);
        self.rows.get(key).cloned().or_else(absent)
    }

    fn forget(&mut self, key: &[u8]) {
        self.rows.remove(key);
        self.ranges.retain(|(start, end)| {
            !KeyRange { start: start.clone(), end: end.clone() }.contains(key)
        });
    }
}

/// What an answer belongs to.
enum Asked {
    Open(Duration),
    Lease(Duration),
    Numbers,
    /// Rows for the call; the turn when they were asked for.
    Rows(u64, Vec<Bytes>),
    Page(u64, KeyRange),
    Past(Stamp, Bytes),
    Batch(u64),
    Store(Kind),
    View,
}

/// A session, as its client knows it.
pub(crate) struct Life {
    pub(crate) session: SessionId,
    rules: Rules,
    pub(crate) own: Own,
    /// Until when, on the mount's own clock, it may answer from what it owns.
    lease: Duration,
    renew_at: Duration,
    renewing: Option<u64>,
    /// The grant of the whole that was last heard of.
    whole: Option<Whole>,
    /// A member knows it and takes its batches.
    attended: bool,
    numbers: VecDeque<u64>,
    asks_numbers: bool,
    next_block: u64,
    pub(crate) bulk: Bulk,
    pub(crate) locks: Locks,
    /// Who takes part is to be asked.
    asks_view: bool,
    /// Batches that were closed.
    made: u64,
    open: Vec<(Kind, Op)>,
    open_touched: BTreeSet<Ino>,
    open_since: u64,
    stream: VecDeque<Sent>,
    applied: u64,
    /// Up to which batch programs wait for everything to be durable.
    syncs: VecDeque<u64>,
    pub(crate) overlay: BTreeMap<Vec<u8>, (u64, Option<Bytes>)>,
    pub(crate) cache: Rows,
    /// Raised when something known may be old: answers under way are not kept then.
    turn: u64,
    /// What was asked back, and when the kernel has forgotten it: then it is given back.
    fading: Option<(u64, Vec<Recall>)>,
    /// Files that may be kept for this session to be let go of.
    release: Vec<Ino>,
    stamps: Vec<Stamp>,
}

pub(crate) struct Mount {
    pub(crate) n: usize,
    clock: Arc<Clocks>,
    /// Until when it does nothing at all, or is gone.
    pub(crate) asleep_until: u64,
    pub(crate) life: Option<Life>,
    line: Option<LineId>,
    next_try: u64,
    asks: BTreeMap<u64, Asked>,
    next_id: u64,
    heard: u64,
    call: Option<Call>,
    again: Option<Call>,
    pub(crate) reports: Vec<Report>,
    /// Sessions that ended under it.
    pub(crate) fenced: u64,
    pub(crate) replayed: u64,
    /// Told of a lock that somebody waited for.
    pub(crate) woken: u64,
    now: u64,
}

/// What a mount acts on.
pub(crate) struct Around<'a> {
    pub(crate) now: u64,
    pub(crate) lines: &'a mut Lines,
    pub(crate) network: &'a Network,
    pub(crate) chance: &'a mut Chance,
    pub(crate) leader: Option<usize>,
    pub(crate) members: usize,
    /// Programs go on.
    pub(crate) more: bool,
}

impl Mount {
    pub(crate) fn new(n: usize, clock: Arc<Clocks>) -> Mount {
        Mount {
            n,
            clock,
            asleep_until: 0,
            life: None,
            line: None,
            next_try: 0,
            asks: BTreeMap::new(),
            next_id: 0,
            heard: 0,
            call: None,
            again: None,
            reports: Vec::new(),
            fenced: 0,
            replayed: 0,
            woken: 0,
            now: 0,
        }
    }

    /// It may answer from what it owns, for all it knows.
    pub(crate) fn has_lease(&self) -> bool {
        self.life.as_ref().is_some_and(|life| self.clock.steady() < life.lease)
    }

    /// Everything that was done is applied, or was lost.
    pub(crate) fn is_done(&self) -> bool {
        self.life.as_ref().is_none_or(|life| {
            life.attended
                && life.stream.is_empty()
                && life.open.is_empty()
                && life.fading.is_none()
                && life.syncs.is_empty()
                && !life.bulk.is_under_way()
                && life.locks.is_idle()
        })
    }

    /// The process is gone with all that it had.
    pub(crate) fn crash(&mut self) {
        (self.life, self.call, self.again) = (None, None, None);
        self.let_go();
    }

    /// What is not answered yet.
    pub(crate) fn under_way(&self) -> BTreeSet<Kind> {
        let mut kinds: BTreeSet<Kind> = BTreeSet::new();
        kinds.extend(self.call.iter().chain(&self.again).map(|call| call.kind));
        for asked in self.asks.values() {
            kinds.extend(match asked {
                Asked::Open(_) => Some(Kind::Open),
                Asked::Lease(_) => Some(Kind::Renew),
                Asked::Numbers => Some(Kind::Numbers),
                Asked::Past(..) => Some(Kind::Past),
                Asked::Store(kind) => Some(*kind),
                Asked::Rows(..) | Asked::Page(..) | Asked::Batch(_) | Asked::View => None,
            });
        }
        if let Some(life) = &self.life {
            kinds.extend(life.stream.iter().flat_map(|sent| sent.kinds.iter().copied()));
            kinds.extend(life.open.iter().map(|(kind, _)| *kind));
            kinds.extend((!life.syncs.is_empty()).then_some(Kind::Sync));
            kinds.extend(life.bulk.is_under_way().then_some(Kind::Put));
            kinds.extend(life.locks.waits().then_some(Kind::Lock));
            kinds.extend(life.bulk.reads().then_some(Kind::Fetch));
            kinds.extend(life.fading.as_ref().map(|_| Kind::Yield));
        }
        kinds
    }

    /// The line is gone, or no use any more.
    fn let_go(&mut self) -> Option<LineId> {
        self.asks.clear();
        if let Some(call) = &mut self.call {
            call.asked = false;
        }
        if let Some(life) = &mut self.life {
            (life.attended, life.renewing, life.asks_numbers) = (false, None, false);
        }
        self.line.take()
    }

    fn hang_up(&mut self, around: &mut Around<'_>) {
        if let Some(line) = self.let_go() {
            around.lines.close(line, Side::Mount, around.chance);
        }
        self.next_try = around.now + around.chance.between(5, 60);
    }

    fn ask(
        &mut self,
        request: &Request,
        tail: Bytes,
        asked: Asked,
        around: &mut Around<'_>,
    ) -> u64 {
        self.next_id += 1;
        let (form, kind, id) = (Form::Ask, message::REQUEST, self.next_id);
        let packet = Packet { form, kind, id, meta: message::encode(request), tail };
        if let Some(line) = self.line {
            let Around { now, lines, network, chance, .. } = around;
            lines.send(*now, (line, Side::Member), &packet, network, chance);
            self.asks.insert(id, asked);
        }
        id
    }

    /// One millisecond.
    pub(crate) fn act(&mut self, around: &mut Around<'_>) {
        self.now = around.now;
        self.work_bulk(around);
        if self.line.is_none() {
            return self.dial(around);
        }
        let patience = around.now > self.heard + PATIENCE_MS && !self.asks.is_empty();
        if patience {
            return self.hang_up(around);
        }
        if self.life.as_ref().is_none_or(|life| !life.attended) {
            return;
        }
        self.renew(around);
        self.ask_view(around);
        self.give_back(around);
        self.close_in_time(around);
        self.settle_syncs();
        self.go_on(around);
    }

    /// Another member is tried: mostly the one that leads, for a real client asks all of them who does.
    fn dial(&mut self, around: &mut Around<'_>) {
        if around.now < self.next_try || !around.more && self.life.is_none() {
            return;
        }
        let any = around.chance.below(around.members as u64) as usize;
        let member = around.leader.filter(|_| !around.chance.once_in(5)).unwrap_or(any);
        self.line = Some(around.lines.open(self.n, member));
        self.heard = around.now;
        let asked = self.clock.steady();
        match &self.life {
            Some(life) => {
                let request = Request::Attend { session: life.session };
                self.ask(&request, Bytes::new(), Asked::Lease(asked), around);
            }
            None => {
                // What it began and was not told of ends with its lease: the door here remembers nothing.
                let client = format!("mount {}", self.n);
                let request = Request::OpenSession { client, opening: 0 };
                self.ask(&request, Bytes::new(), Asked::Open(asked), around);
            }
        }
    }

    fn renew(&mut self, around: &mut Around<'_>) {
        let now = self.clock.steady();
        let Some(life) = &mut self.life else { return };
        if life.renewing.is_some() || now < life.renew_at {
            return;
        }
        let request = Request::Renew { session: life.session };
        let id = self.ask(&request, Bytes::new(), Asked::Lease(now), around);
        self.life.as_mut().expect("it is there").renewing = Some(id);
    }

    /// Who takes part: asked where the lease was renewed, so that the one tells that leads.
    fn ask_view(&mut self, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let asked = self.asks.values().any(|asked| matches!(asked, Asked::View));
        if std::mem::take(&mut life.asks_view) && !asked {
            self.ask(&Request::View, Bytes::new(), Asked::View, around);
        }
    }

    /// What was asked back goes, once the kernel has forgotten it.
    fn give_back(&mut self, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let Some((_, recalls)) = life.fading.take_if(|(at, _)| *at <= around.now) else { return };
        // From here on no call rests on owning these.
        let kept = life.locks.asked_back(&life.own);
        let mut given = Given::default();
        for what in &recalls {
            let Given { inos, whole } = life.own.recall(what);
            given.inos.extend(inos);
            given.whole |= whole;
        }
        life.locks.leave(kept, &life.own);
        life.turn += 1;
        life.cache = Rows::default();
        let op = Op::Yield { inos: given.inos.clone(), whole: given.whole };
        for told in life.locks.tell() {
            life.open_touched.extend(locked_by(&told));
            life.open.push((Kind::Unlock, told));
        }
        life.open.push((Kind::Yield, op));
        life.own.note_yield(BatchSeq(life.made + 1), &given);
        life.open_since = 0;
        self.close_open(around);
    }

    fn close_in_time(&mut self, around: &mut Around<'_>) {
        let Some(life) = &self.life else { return };
        let awaited = life.syncs.back().is_some_and(|seq| *seq > life.made);
        let due = life.open.len() >= 6 || around.now > life.open_since + OPEN_MS || awaited;
        if !life.open.is_empty() && due {
            self.close_open(around);
        }
    }

    fn settle_syncs(&mut self) {
        let Some(life) = &mut self.life else { return };
        while life.syncs.front().is_some_and(|seq| *seq <= life.applied) {
            life.syncs.pop_front();
            self.reports.push(Report::Done(Kind::Sync));
        }
    }
}

/// What a mount may do with an inode, as far as calls go.
fn may(own: &Own, inos: &BTreeSet<Ino>) -> Right {
    let rights: Vec<Right> = inos.iter().map(|ino| own.right(*ino)).collect();
    let first = |wanted| rights.iter().find(|right| **right == wanted).copied();
    first(Right::Leaving).or(first(Right::Busy)).or(first(Right::Nothing)).unwrap_or(Right::Owned)
}

/// The inode whose locks an op sets.
fn locked_by(op: &Op) -> Option<Ino> {
    if let Op::SetLocks { ino, .. } = op { Some(*ino) } else { None }
}
