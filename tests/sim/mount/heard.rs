//! What a mount is told: answers, and what a member tells it unasked.

use super::Around;
use super::Asked;
use super::Life;
use super::Mount;
use super::Report;
use super::Rows;
use super::bulk::Bulk;
use super::calls::Kind;
use super::locks::Locks;
use crate::lines::LineId;
use crate::lines::What;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::time::Duration;
use tsfs::meta::apply::Rules;
use tsfs::meta::key;
use tsfs::tsdb_client::own::Own;
use tsfs::tsdb_client::own::Right;
use tsfs::types::FsError;
use tsfs::wire::Recall;
use tsfs::wire::Welcome;
use tsfs::wire::message;
use tsfs::wire::message::Renewed;
use tsfs::wire::message::Response;
use tsfs::wire::message::Told;
use tsfs::wire::packet::Form;
use tsfs::wire::packet::Packet;

/// What clocks may drift apart within a lease: a hundredth of it, as in `tsdb_client`.
const DRIFT: u32 = 100;
/// A lease is renewed so many times before it would end.
const RENEWALS: u32 = 3;

impl Mount {
    pub(crate) fn hear(&mut self, line: LineId, what: What, around: &mut Around<'_>) {
        if self.hear_bulk(line, &what, around) || self.line != Some(line) {
            return;
        }
        self.heard = around.now;
        match what {
            What::End => self.hang_up(around),
            What::Packet(packet) if packet.form == Form::Tell => {
                self.told(message::decode(&packet.meta).expect("a whole packet"), around);
            }
            What::Packet(Packet { id, meta, .. }) => {
                let response = message::decode(&meta).expect("a whole packet");
                if let Some(asked) = self.asks.remove(&id) {
                    self.answer(asked, response, around);
                }
            }
        }
    }

    fn told(&mut self, told: Told, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        match told {
            Told::Recall(what) => self.recalled(&what, around),
            // What a renewal says counts.
            Told::Whole(_) => life.renew_at = Duration::ZERO,
            Told::Ended { .. } => self.over(around),
            // It asks for no copies.
            Told::Flush { .. } | Told::TakeBack { .. } => {}
            Told::Unlocked { ino } => {
                self.woken += u64::from(life.locks.awaits(ino));
                life.locks.gone(ino);
            }
        }
    }

    /// Calls go on with these until the kernel has forgotten them.
    fn recalled(&mut self, what: &Recall, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        if life.own.fade(what).is_empty() {
            return;
        }
        let forgotten = around.now + around.chance.between(0, 25);
        let (at, recalls) = life.fading.get_or_insert_with(|| (forgotten, Vec::new()));
        *at = forgotten.max(*at);
        recalls.push(what.clone());
    }

    fn answer(&mut self, asked: Asked, response: Response, around: &mut Around<'_>) {
        match (asked, response) {
            (Asked::Open(asked), Response::Opened { welcome, lease_ms }) => {
                self.begin(&welcome, asked, lease_ms, around.members);
                // It is to be attended: until then nothing reaches us that is told unasked.
                self.hang_up(around);
            }
            (Asked::Lease(asked), Response::Renewed(renewed)) => {
                self.renewed(asked, &renewed, around);
            }
            (Asked::Lease(_), Response::Failed(FsError::Fenced)) => self.over(around),
            (Asked::Batch(seq), Response::Applied { outcome, stamp }) => {
                self.answered(seq, outcome, stamp, around);
            }
            (Asked::Numbers, Response::First(first)) => {
                let Some(life) = &mut self.life else { return };
                life.asks_numbers = false;
                let range = first..first + super::NUMBERS;
                if life.own.add_range(range.clone()) {
                    life.numbers.extend(range);
                }
                self.reports.push(Report::Done(Kind::Numbers));
            }
            (Asked::Rows(turn, keys), Response::Rows(rows)) => self.learn(turn, keys, rows),
            (Asked::Page(turn, range), Response::Page(page)) => {
                let whole = (range.start, range.end);
                let (keys, rows): (Vec<Bytes>, Vec<Option<Bytes>>) =
                    page.rows.into_iter().map(|(key, row)| (key, Some(row))).unzip();
                self.learn(turn, keys, rows);
                self.learn_range(turn, whole);
            }
            (Asked::Past(at, key), Response::Rows(mut rows)) => {
                let row = rows.pop().flatten();
                self.reports.push(Report::Past { at, key, row });
                self.reports.push(Report::Done(Kind::Past));
            }
            (Asked::Past(..), Response::Failed(FsError::BeforeHorizon { .. })) => {}
            (Asked::View, Response::View(view)) => {
                if let Some(life) = &mut self.life {
                    life.bulk.meet(&view);
                }
            }
            (Asked::Store(kind), Response::Done) => self.reports.push(Report::Done(kind)),
            (Asked::Store(_), Response::Failed(FsError::Refused(_))) => {}
            (Asked::Numbers, Response::Failed(FsError::Refused(_))) => self.over(around),
            (Asked::Rows(..) | Asked::Page(..), Response::Failed(FsError::Unreachable(_))) => {
                if let Some(call) = &mut self.call {
                    call.asked = false;
                }
            }
            // It does not lead, or has trouble of its own.
            (_, Response::Failed(_)) => self.hang_up(around),
            (_, other) => panic!("another answer than was asked for: {other:?}"),
        }
    }

    fn begin(&mut self, welcome: &Welcome, asked: Duration, lease_ms: u64, members: usize) {
        let length = Duration::from_millis(lease_ms);
        self.life = Some(Life {
            session: welcome.session,
            rules: Rules::new(welcome.hash_key),
            own: Own::new(false, welcome.whole),
            lease: asked + length - length / DRIFT,
            renew_at: asked + length / RENEWALS,
            renewing: None,
            whole: welcome.whole,
            attended: false,
            numbers: VecDeque::new(),
            asks_numbers: false,
            next_block: 1,
            bulk: Bulk::new(members),
            locks: Locks::default(),
            asks_view: true,
            made: 0,
            open: Vec::new(),
            open_touched: BTreeSet::new(),
            open_since: 0,
            stream: VecDeque::new(),
            applied: 0,
            syncs: VecDeque::new(),
            overlay: BTreeMap::new(),
            cache: Rows::default(),
            turn: 0,
            fading: None,
            release: Vec::new(),
            stamps: Vec::new(),
        });
        self.reports.push(Report::Done(Kind::Open));
    }

    fn renewed(&mut self, asked: Duration, renewed: &Renewed, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let length = Duration::from_millis(renewed.lease_ms);
        life.lease = life.lease.max(asked + length - length / DRIFT);
        life.renew_at = asked + length / RENEWALS;
        life.renewing = None;
        life.asks_view = true;
        if life.whole != renewed.whole {
            life.whole = renewed.whole;
            if let Some(whole) = renewed.whole
                && life.own.grant_whole(whole)
            {
                life.turn += 1;
                life.cache = Rows::default();
                self.reports.push(Report::Done(Kind::Whole));
            }
        }
        self.reports.push(Report::Done(Kind::Renew));
        let life = self.life.as_mut().expect("it is alive");
        if !life.attended {
            life.attended = true;
            self.take_up(around);
        }
    }

    /// Rows for the call: kept beyond it where they are the mount's own.
    fn learn(&mut self, turn: u64, keys: Vec<Bytes>, rows: Vec<Option<Bytes>>) {
        let Some(call) = &mut self.call else { return };
        call.asked = false;
        let Some(life) = self.life.as_mut().filter(|life| life.turn == turn) else { return };
        for (key, row) in keys.into_iter().zip(rows) {
            let ino = key::inode_of(&key).expect("a row of the tree");
            match life.own.right(ino) {
                Right::Nothing => {
                    let known = call.fresh.rows.insert(key.to_vec(), row.clone());
                    if known.is_some_and(|known| known != row) {
                        // What was listed before is of another moment.
                        call.fresh.ranges.clear();
                    }
                }
                Right::Owned => drop(life.cache.rows.entry(key.to_vec()).or_insert(row)),
                Right::Leaving | Right::Busy => {}
            }
        }
    }

    fn learn_range(&mut self, turn: u64, range: (Vec<u8>, Vec<u8>)) {
        let Some(call) = &mut self.call else { return };
        let Some(life) = self.life.as_mut().filter(|life| life.turn == turn) else { return };
        let ino = key::inode_of(&range.0).expect("rows of one inode");
        match life.own.right(ino) {
            Right::Nothing => {
                call.fresh.ranges.insert(range);
                call.doubtful = true;
            }
            Right::Owned => drop(life.cache.ranges.insert(range)),
            Right::Leaving | Right::Busy => {}
        }
    }
}
