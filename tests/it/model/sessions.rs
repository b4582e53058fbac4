//! Several sessions over one tree: who owns what, what comes of batches, whatever comes between.
//!
//! Goal: at most one session owns an inode; what a session decided by itself is applied as it decided it, however late it
//! arrives; a direct batch changes nothing that another session owns, and leaves nothing but its number where it is not
//! applied; sent again, each batch is answered alike; after a power cut all rows are as before. Method: up to three
//! sessions make batches that wait in their queues, while the leader hands out numbers and the whole, ends sessions and
//! replays; a few sets say beside the rows who owns what, and the tree in memory what a batch must have done.
//!
//! Proved with planted faults: see `docs/decisions/0007-the-model-test.md`.

use super::Run;
use super::world::View;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use tsfs::meta::key;
use tsfs::meta::key::Key;
use tsfs::meta::key::StateKey;
use tsfs::meta::op::Batch;
use tsfs::meta::op::By;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::meta::op::RenameHow;
use tsfs::meta::op::Seen;
use tsfs::meta::own;
use tsfs::meta::record::Grant;
use tsfs::meta::record::Record;
use tsfs::series::Read;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::types::AsOf;
use tsfs::types::BatchSeq;
use tsfs::types::FileKind;
use tsfs::types::Ino;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::wire::Whole;

/// Runs in `make test`; more with `TSFS_SEEDS`.
const SEEDS: u64 = 4;
const TURNS: u64 = 500;
const SESSIONS_MAX: usize = 3;

#[test]
fn nobody_changes_what_another_session_owns() {
    let seeds = super::seeds(SEEDS);
    let mut met: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in seeds.clone() {
        let run = AssertUnwindSafe(|| Several::new(seed).all());
        match std::panic::catch_unwind(run) {
            Ok(of_seed) => of_seed.iter().for_each(|(what, n)| *met.entry(what).or_default() += n),
            Err(panic) => {
                println!("FAILED seed {seed}: TSFS_SEED={seed} cargo test --test it sessions::");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{met:?}");
    let all = [
        "local", "applied", "held", "conflict", "refused", "whole", "late", "fenced", "kept",
        "released",
    ];
    assert!(seeds.count() == 1 || all.iter().all(|what| met.contains_key(what)), "{met:?}");
}

/// Who owns what, as simply as it can be said.
#[derive(Default)]
struct Owners {
    /// And below which number.
    whole: Option<(SessionId, u64)>,
    shared: BTreeSet<u64>,
    ranges: Vec<(Range<u64>, SessionId)>,
    open: BTreeSet<SessionId>,
}

impl Owners {
    fn of(&self, ino: u64) -> Option<SessionId> {
        if self.shared.contains(&ino) {
            return None;
        }
        let range = self.ranges.iter().find(|(range, _)| range.contains(&ino));
        let whole = self.whole.filter(|(_, below)| ino < *below);
        range.map(|(_, session)| *session).or(whole.map(|(session, _)| session))
    }

    /// Somebody else's.
    fn held(&self, ino: Ino, session: SessionId) -> bool {
        self.of(ino.get()).is_some_and(|owner| owner != session)
    }

    fn grant_whole(&mut self, session: SessionId, below: u64) {
        self.whole = Some((session, below));
        self.shared.clear();
    }

    fn end(&mut self, session: SessionId) {
        self.open.remove(&session);
        self.ranges.retain(|(_, owner)| *owner != session);
        self.whole = self.whole.filter(|(owner, _)| *owner != session);
    }
}

/// A direct batch that waits, and all inodes that its ops looked at when it was made.
struct Direct {
    touched: BTreeSet<Ino>,
    /// It says of all that it saw that it saw it.
    honest: bool,
}

/// A session as its client knows it.
struct Client {
    session: SessionId,
    made: u64,
    applied: u64,
    epoch: u64,
    /// Below which number.
    whole: Option<Ino>,
    yielded: BTreeMap<u64, u64>,
    yielded_whole: u64,
    ranges: Vec<Range<u64>>,
    fresh: VecDeque<u64>,
    /// Rows that batches changed which are not applied, by the last of them.
    overlay: BTreeMap<Vec<u8>, (u64, Option<Bytes>)>,
    queue: VecDeque<(Batch, Option<Direct>)>,
    /// What the leader has told and the client not heard.
    told: VecDeque<Whole>,
    /// Sent before, to be sent again, with what came of it.
    sent: Vec<(Batch, Outcome)>,
}

impl Client {
    fn new(session: SessionId, whole: Option<Whole>) -> Client {
        Client {
            session,
            made: 0,
            applied: 0,
            epoch: whole.map_or(0, |whole| whole.epoch),
            whole: whole.map(|whole| whole.below),
            yielded: BTreeMap::new(),
            yielded_whole: 0,
            ranges: Vec::new(),
            fresh: VecDeque::new(),
            overlay: BTreeMap::new(),
            queue: VecDeque::new(),
            told: VecDeque::new(),
            sent: Vec::new(),
        }
    }

    fn owns(&self, ino: Ino) -> bool {
        let made = self.ranges.iter().any(|range| range.contains(&ino.get()));
        let whole = self.whole.is_some_and(|below| ino < below);
        !self.yielded.contains_key(&ino.get()) && (made || whole)
    }

    fn hear(&mut self, told: Whole) {
        if told.epoch <= self.epoch {
            return;
        }
        self.epoch = told.epoch;
        self.yielded.retain(|_, batch| *batch > told.after.0);
        self.whole = (self.yielded_whole <= told.after.0).then_some(told.below);
    }

    /// Nothing direct may be begun while something is given back that has not arrived, nor before the last is answered.
    fn waits(&self) -> bool {
        let last = self.yielded.values().max().copied().unwrap_or(0).max(self.yielded_whole);
        last > self.applied || self.queue.iter().any(|(_, direct)| direct.is_some())
    }

    /// A direct batch that may change it is not answered yet: what comes of it, nobody knows.
    fn awaits(&self, ino: Ino) -> bool {
        let mut waiting = self.queue.iter().filter_map(|(_, direct)| direct.as_ref());
        waiting.any(|direct| !direct.honest || direct.touched.contains(&ino))
    }

    fn batch(&mut self, ops: Vec<Op>, direct: Option<Vec<Seen>>) -> Batch {
        self.made += 1;
        let by = vec![By { uid: 0, ops: ops.len() as u32 }];
        let (session, seq, epoch) = (self.session, BatchSeq(self.made), self.epoch);
        Batch { session, seq, epoch, by, ops, direct }
    }
}

/// Without what it writes.
fn short(batch: &Batch) -> String {
    let mut ops = batch.ops.clone();
    for op in &mut ops {
        if let Op::Write { pieces, .. } = op {
            pieces.clear();
        }
    }
    format!("{:?}", Batch { ops, ..batch.clone() })
}

/// As the rows have it.
fn grant(run: &Run) -> Grant {
    let key = StateKey::Grant.encode();
    let row = run.world.table.get(Family::State, &key).unwrap().unwrap();
    Grant::from_row(&key, &row).unwrap()
}

fn ino_of(key: &[u8]) -> Ino {
    Key::decode(key).expect("clients see rows of series only").ino()
}

struct Several {
    run: Run,
    owners: Owners,
    clients: Vec<Client>,
    next_session: u64,
    next_ino: u64,
    next_epoch: u64,
    /// Files without a name, with the sessions that may have them open.
    nameless: BTreeMap<Ino, BTreeSet<SessionId>>,
    /// What there was to see: a test in which nothing meets proves nothing.
    met: BTreeMap<&'static str, u64>,
}

impl Several {
    fn new(seed: u64) -> Several {
        let run = Run::new(seed * 3);
        let mut first = Client::new(run.world.session, Some(grant(&run).into()));
        let mut owners = Owners { whole: Some((first.session, 2)), ..Owners::default() };
        owners.open.insert(first.session);
        let range = 2..2 + (1 << 20);
        owners.ranges.push((range.clone(), first.session));
        first.ranges.push(range.clone());
        first.fresh.extend(range.clone().take(400));
        let (next_session, next_epoch) = (first.session.0 + 1, run.world.epoch + 1);
        Several {
            run,
            owners,
            clients: vec![first],
            next_session,
            next_ino: range.end,
            next_epoch,
            nameless: BTreeMap::new(),
            met: BTreeMap::new(),
        }
    }

    fn all(mut self) -> BTreeMap<&'static str, u64> {
        for turn in 0..TURNS {
            self.turn();
            if turn % 16 == 0 {
                self.run.compare_now();
            }
        }
        self.run.world.crash();
        self.run.compare_now();
        self.run.compare_past();
        self.met
    }

    fn turn(&mut self) {
        let who = self.run.chance.below(self.clients.len().max(1) as u64) as usize;
        match self.run.chance.below(100) {
            _ if self.clients.is_empty() => self.open(),
            0..=34 => self.deliver(who),
            35..=49 => self.make_local(who),
            50..=69 => self.make_direct(who),
            70..=71 => self.make_clone(who),
            72..=74 => self.make_release(who),
            75..=78 => self.give_back(who),
            79..=81 => self.open(),
            82..=83 => self.end(who),
            84..=87 => self.grant_inos(who),
            88..=91 => self.grant_whole(who),
            92..=94 => {
                if let Some(told) = self.clients[who].told.pop_front() {
                    self.clients[who].hear(told);
                }
            }
            95..=96 => self.send_again(who),
            97 => self.run.world.crash(),
            98 => self.run.world.purge(Stamp::ZERO, 1 + self.run.chance.below(5) as u32),
            _ => {
                let op = self.run.maker.mark();
                self.run.server(Some(op));
            }
        }
    }

    // What clients do.

    /// An op as the client would make it, run over what it sees; it and all that it looked at, if nothing refused it.
    fn op(&mut self, who: usize) -> Option<(Op, Looked)> {
        let mut op = self.run.maker.op(&self.run.model)?;
        self.run.world.segments.borrow_mut().extend(self.run.maker.made.drain(..));
        let client = &mut self.clients[who];
        match &mut op {
            Op::Create { ino, .. } => *ino = Ino::new(client.fresh.pop_front()?)?,
            Op::Unlink { keep_open, .. }
            | Op::Rmdir { keep_open, .. }
            | Op::Rename { keep_open, .. } => *keep_open = false,
            Op::Release { .. } => return None,
            _ => {}
        }
        let before: BTreeMap<_, _> =
            client.overlay.iter().map(|(key, (_, row))| (key.clone(), row.clone())).collect();
        let mut view = View::over(&self.run.world.table, before.clone());
        self.run.world.rules.apply(&mut view, client.session, &op).ok()?;
        let changed: BTreeMap<_, _> =
            view.rows.into_iter().filter(|(key, row)| before.get(key) != Some(row)).collect();
        Some((op, Looked { seen: view.seen, changed }))
    }

    /// A batch of ops on what the client believes to own, put behind what it has made.
    fn make_local(&mut self, who: usize) {
        let mut ops = Vec::new();
        for _ in 0..=self.run.chance.below(6) {
            let Some((op, looked)) = self.op(who) else { continue };
            let client = &mut self.clients[who];
            let free = |ino: &Ino| client.owns(*ino) && !client.awaits(*ino);
            if looked.inos().iter().all(free) {
                let seq = client.made + 1;
                client.overlay.extend(looked.changed.into_iter().map(|(k, row)| (k, (seq, row))));
                ops.push(op);
            }
        }
        if !ops.is_empty() {
            let batch = self.clients[who].batch(ops, None);
            self.clients[who].queue.push_back((batch, None));
        }
    }

    fn make_direct(&mut self, who: usize) {
        if self.clients[who].waits() {
            return;
        }
        if self.run.chance.one_in(6) {
            return self.make_blind(who);
        }
        let Some((op, looked)) = self.op(who) else { return };
        let honest = !self.run.chance.one_in(8);
        let all = self.run.chance.one_in(2);
        let client = &mut self.clients[who];
        // Of its own inodes there may be newer rows on their way.
        let mut seen: Vec<Seen> = looked
            .seen
            .iter()
            .filter(|(key, _)| all && client.overlay.is_empty() || !client.owns(ino_of(key)))
            .map(|(key, row)| Seen::new(Bytes::copy_from_slice(key), row.as_deref()))
            .collect();
        if !honest {
            seen.truncate(seen.len() / 2);
        }
        let direct = Direct { touched: looked.inos(), honest };
        let batch = client.batch(vec![op], Some(seen));
        client.queue.push_back((batch, Some(direct)));
    }

    /// An op that was tried on nothing.
    fn make_blind(&mut self, who: usize) {
        let Some(op) = self.run.maker.op(&self.run.model) else { return };
        self.run.world.segments.borrow_mut().extend(self.run.maker.made.drain(..));
        let of_view = matches!(op, Op::Create { .. } | Op::Release { .. });
        let keeps = matches!(
            op,
            Op::Unlink { keep_open: true, .. }
                | Op::Rmdir { keep_open: true, .. }
                | Op::Rename { keep_open: true, .. }
        );
        if of_view || keeps {
            return;
        }
        let direct = Direct { touched: BTreeSet::new(), honest: false };
        let client = &mut self.clients[who];
        let batch = client.batch(vec![op], Some(Vec::new()));
        client.queue.push_back((batch, Some(direct)));
    }

    /// What only the server can resolve.
    fn make_clone(&mut self, who: usize) {
        if self.clients[who].waits() {
            return;
        }
        let Some(op) = self.run.maker.clone_op(&self.run.model) else { return };
        let Op::Clone { ino, .. } = &op else { return };
        let key = key::inode(*ino);
        let row = self.run.world.read(Vec::new()).get(&key, AsOf::Now).unwrap();
        let seen = vec![Seen::new(Bytes::copy_from_slice(&key), row.as_deref())];
        let client = &mut self.clients[who];
        if client.overlay.keys().any(|key| ino_of(key) == *ino) {
            return;
        }
        let direct = Direct { touched: [*ino].into(), honest: false };
        let batch = client.batch(vec![op], Some(seen));
        client.queue.push_back((batch, Some(direct)));
    }

    /// A client finds out that it has not got a file open whose last name went through another.
    fn make_release(&mut self, who: usize) {
        let nameless: Vec<Ino> = self.nameless.keys().copied().collect();
        let Some(ino) = self.run.chance.pick(&nameless) else { return };
        if self.clients[who].waits() {
            return;
        }
        let direct = Direct { touched: [ino].into(), honest: false };
        let client = &mut self.clients[who];
        let batch = client.batch(vec![Op::Release { ino }], Some(Vec::new()));
        client.queue.push_back((batch, Some(direct)));
    }

    /// As after a recall: some of what it owns, some that it does not, or the whole.
    fn give_back(&mut self, who: usize) {
        let chance = &mut self.run.chance;
        let mut inos: Vec<Ino> = self.run.model.now.nodes.keys().copied().collect();
        inos.retain(|_| chance.one_in(5));
        let whole = chance.one_in(6);
        let client = &mut self.clients[who];
        let seq = client.made + 1;
        // Also of what it does not own, for all it knows: it may have been given the whole and not heard of it.
        client.yielded.extend(inos.iter().map(|ino| (ino.get(), seq)));
        if whole {
            (client.whole, client.yielded_whole) = (None, seq);
        }
        let batch = client.batch(vec![Op::Yield { inos, whole }], None);
        client.queue.push_back((batch, None));
    }

    // What the log brings.

    /// The next batch of a session comes to the log.
    fn deliver(&mut self, who: usize) {
        let Some((batch, direct)) = self.clients[who].queue.pop_front() else { return };
        let session = batch.session;
        let before = self.run.world.dump();
        let expected = direct.as_ref().map(|direct| self.expected(&batch, direct));
        let stamp = self.run.stamp();
        let (outcome, _) = self.run.world.append(stamp, &batch);
        match &expected {
            None => assert_eq!(outcome, Outcome::Applied, "{}", short(&batch)),
            Some(Expected::Exactly(expected)) => {
                assert_eq!(outcome, *expected, "{}", short(&batch))
            }
            Some(Expected::Held) => {
                let Outcome::Held(ino) = outcome else {
                    panic!("{outcome:?} of {}", short(&batch))
                };
                assert!(self.owners.held(ino, session), "{ino} is not held");
            }
            Some(Expected::Any) => {}
        }
        self.changed_nothing_of_others(&before, session, &batch);
        self.follow(stamp, &batch, &outcome, &before);
        let client = &mut self.clients[who];
        client.applied = batch.seq.0;
        client.overlay.retain(|_, (seq, _)| *seq > batch.seq.0);
        let told = if direct.is_some() { outcome } else { Outcome::Repeated };
        client.sent.push((batch, told));
        self.check();
    }

    /// What must come of a direct batch, going by the sets and the rows as they are.
    fn expected(&self, batch: &Batch, direct: &Direct) -> Expected {
        let held = |ino: &Ino| self.owners.held(*ino, batch.session);
        let seen = batch.direct.as_ref().expect("it is a direct one");
        if seen.iter().any(|row| held(&ino_of(&row.key))) {
            return Expected::Held;
        }
        let read = self.run.world.read(Vec::new());
        let is_so = |row: &Seen| {
            let now = read.get(&row.key, AsOf::Now).unwrap();
            now.map(|now| Seen::hash(&now)) == row.value
        };
        if !seen.iter().all(is_so) {
            return Expected::Exactly(Outcome::Conflict);
        }
        match direct.honest {
            true if direct.touched.iter().any(held) => Expected::Held,
            true => Expected::Exactly(Outcome::Applied),
            false => Expected::Any,
        }
    }

    fn changed_nothing_of_others(&self, before: &Dump, session: SessionId, batch: &Batch) {
        for ((family, key), row) in &self.run.world.dump() {
            if *family == Family::Current && before.get(&(*family, key.clone())) != Some(row) {
                let ino = ino_of(key);
                assert!(!self.owners.held(ino, session), "{ino} was changed by {}", short(batch));
            }
        }
    }

    /// The tree and the sets go along with what was applied; what was not has left nothing.
    fn follow(&mut self, stamp: Stamp, batch: &Batch, outcome: &Outcome, before: &Dump) {
        let mut kept = Vec::new();
        let ops: Vec<Op> =
            batch.ops.iter().filter_map(|op| self.as_told(batch, op, &mut kept)).collect();
        let segments = self.run.world.segments.borrow();
        let blocks = |block| segments[&block].clone();
        let model = &mut self.run.model;
        let (now, past) = (model.now.clone(), model.past.len());
        model.begin(stamp);
        let mut answers = ops.iter().map(|op| model.apply(op, &blocks));
        let refused = answers.find_map(Result::err);
        drop(answers);
        drop(segments);
        let met = match outcome {
            Outcome::Applied => {
                assert_eq!(refused, None, "{}", short(batch));
                model.end_step();
                if batch.direct.is_some() { "applied" } else { "local" }
            }
            Outcome::Refused { error, .. } => {
                assert_eq!(refused.as_ref(), Some(error), "{}", short(batch));
                "refused"
            }
            Outcome::Held(_) => "held",
            Outcome::Conflict => "conflict",
            Outcome::Repeated => panic!("{} was not applied before", short(batch)),
            Outcome::Early => panic!("{} is the next", short(batch)),
        };
        *self.met.entry(met).or_default() += 1;
        if *outcome != Outcome::Applied {
            assert_eq!(model.past.len(), past, "one op makes one step");
            model.now = now.clone();
            let mut after = self.run.world.dump();
            let mut before = before.clone();
            let session = StateKey::Session { session: batch.session }.encode();
            for rows in [&mut after, &mut before] {
                rows.remove(&(Family::State, session.clone()));
            }
            assert!(after == before, "{outcome:?} left something of {}", short(batch));
        }
        if *outcome == Outcome::Applied {
            self.note_nameless(batch, kept);
        }
        for op in &batch.ops {
            let Op::Yield { inos, whole } = op else { continue };
            for ino in inos {
                if self.owners.of(ino.get()) == Some(batch.session) {
                    self.owners.shared.insert(ino.get());
                }
            }
            if *whole {
                self.owners.whole = self.owners.whole.filter(|(owner, _)| *owner != batch.session);
            }
        }
        // A mark goes with its inode. Nobody makes that again; who made it owns the number for what that is worth.
        if batch.direct.is_some() {
            let nodes = &self.run.model.now.nodes;
            self.owners.shared.retain(|ino| {
                let ino = Ino::new(*ino).unwrap();
                nodes.contains_key(&ino) || !now.nodes.contains_key(&ino)
            });
        }
    }

    /// The op as the tree has to be told it, which knows of no sessions: a file whose last name goes stays where others may have
    /// it open; it is let go of by the last of those. None where nothing is to be done.
    fn as_told(
        &self,
        batch: &Batch,
        op: &Op,
        kept: &mut Vec<(Ino, BTreeSet<SessionId>)>,
    ) -> Option<Op> {
        let now = &self.run.model.now;
        let named = |dir: &Ino, name: &Bytes| now.nodes.get(dir)?.entries.get(name).copied();
        let (mut op, goes) = match op {
            Op::Release { ino } => {
                let others = self.nameless.get(ino).into_iter().flatten();
                let last = others.filter(|of| **of != batch.session).count() == 0;
                return last.then(|| op.clone());
            }
            Op::Unlink { dir, name, .. } => (op.clone(), named(dir, name)),
            Op::Rename { dir, name, new_dir, new_name, how: RenameHow::Replace, .. } => {
                let goes = named(new_dir, new_name);
                (op.clone(), goes.filter(|goes| Some(*goes) != named(dir, name)))
            }
            _ => return Some(op.clone()),
        };
        let node = goes.and_then(|goes| now.nodes.get(&goes).map(|node| (goes, node)));
        if let Some((goes, node)) = node
            && batch.direct.is_some()
            && node.kind == FileKind::File
            && node.nlink == 1
            && self.owners.of(goes.get()).is_none()
            && let Op::Unlink { keep_open, .. } | Op::Rename { keep_open, .. } = &mut op
        {
            *keep_open = true;
            kept.push((goes, self.owners.open.clone()));
        }
        Some(op)
    }

    fn note_nameless(&mut self, batch: &Batch, kept: Vec<(Ino, BTreeSet<SessionId>)>) {
        for op in &batch.ops {
            if let Op::Release { ino } = op
                && let Some(of) = self.nameless.get_mut(ino)
            {
                of.remove(&batch.session);
                *self.met.entry("released").or_default() += 1;
            }
        }
        self.nameless.retain(|_, of| !of.is_empty());
        *self.met.entry("kept").or_default() += kept.len() as u64;
        self.nameless.extend(kept);
    }

    /// Batches that came before come again: a client was not told what became of them.
    fn send_again(&mut self, who: usize) {
        let client = &self.clients[who];
        let Some(n) = client.sent.len().checked_sub(1 + self.run.chance.below(3) as usize) else {
            return;
        };
        let (batch, outcome) = &client.sent[n];
        let last = n + 1 == client.sent.len();
        let before = self.run.world.dump();
        let stamp = Stamp(self.run.world.last.0 + 1);
        let (told, _) = self.run.world.append(stamp, batch);
        assert_eq!(told, if last { outcome.clone() } else { Outcome::Repeated });
        assert!(self.run.world.dump() == before, "a replay left something");
    }

    // What the leader does.

    fn leader(&mut self, op: Op) -> Outcome {
        let stamp = self.run.stamp();
        let outcome = self.run.world.try_administer(stamp, op).0;
        self.check();
        outcome
    }

    fn open(&mut self) {
        if self.clients.len() == SESSIONS_MAX {
            return;
        }
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let client = "another".to_owned();
        let alone = self.owners.open.is_empty();
        self.owners.open.insert(session);
        if alone {
            self.owners.grant_whole(session, self.next_ino);
        }
        assert_eq!(self.leader(Op::OpenSession { session, client }), Outcome::Applied);
        self.next_epoch += u64::from(alone);
        let whole = alone.then(|| grant(&self.run).into());
        self.clients.push(Client::new(session, whole));
        let who = self.clients.len() - 1;
        self.grant_inos(who);
    }

    /// The leader gives up on a session. What it sends later has no effect.
    fn end(&mut self, who: usize) {
        let client = self.clients.remove(who);
        let session = client.session;
        self.owners.end(session);
        for (ino, of) in &mut self.nameless {
            of.remove(&session);
            if of.is_empty() {
                self.run.model.now.nodes.remove(ino);
                self.run.model.now.orphans.remove(ino);
            }
        }
        self.nameless.retain(|_, of| !of.is_empty());
        assert_eq!(self.leader(Op::EndSession { session }), Outcome::Applied);
        let before = self.run.world.dump();
        for (batch, _) in client.queue {
            let stamp = self.run.stamp();
            let (outcome, _) = self.run.world.append(stamp, &batch);
            assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
            *self.met.entry("fenced").or_default() += 1;
        }
        assert!(self.run.world.dump() == before, "something was changed");
    }

    fn grant_inos(&mut self, who: usize) {
        let (session, count) = (self.clients[who].session, 1 + self.run.chance.below(12));
        let range = self.next_ino..self.next_ino + count;
        self.next_ino = range.end;
        self.owners.ranges.push((range.clone(), session));
        assert_eq!(self.leader(Op::GrantInos { session, count }), Outcome::Applied);
        self.clients[who].fresh.extend(range.clone());
        self.clients[who].ranges.push(range);
    }

    fn grant_whole(&mut self, who: usize) {
        let session = self.clients[who].session;
        let alone = self.owners.open.len() == 1;
        if alone {
            self.owners.grant_whole(session, self.next_ino);
        }
        let before = self.run.world.dump();
        let outcome = self.leader(Op::GrantWhole { session });
        assert_eq!(outcome == Outcome::Applied, alone, "{outcome:?}");
        if !alone {
            assert!(self.run.world.dump() == before, "something was changed");
            return;
        }
        self.next_epoch += 1;
        let told = Whole::from(grant(&self.run));
        let whole = (self.next_epoch - 1, BatchSeq(self.clients[who].applied));
        assert_eq!((told.epoch, told.after), whole);
        self.clients[who].told.push_back(told);
        *self.met.entry("whole").or_default() += 1;
        if self.clients[who].made > self.clients[who].applied {
            *self.met.entry("late").or_default() += 1;
        }
    }

    /// The rows say of every inode what the sets say, and break no rule.
    fn check(&mut self) {
        if self.run.chance.one_in(6) {
            self.run.world.check();
        }
        let rows: &dyn Rows = &self.run.world.table;
        let ends = self.owners.ranges.iter().flat_map(|(range, _)| [range.start, range.end - 1]);
        let inos = self.run.model.now.nodes.keys().map(|ino| ino.get());
        for ino in inos.chain(ends).chain(self.owners.shared.iter().copied()) {
            let owner = own::owner(rows, Ino::new(ino).unwrap()).unwrap();
            assert_eq!(owner, self.owners.of(ino), "who owns {ino}");
            for client in self.clients.iter().filter(|client| client.queue.is_empty()) {
                // With nothing under way, what a client believes is true.
                let believed = client.owns(Ino::new(ino).unwrap());
                assert!(!believed || owner == Some(client.session), "{ino}");
            }
        }
    }
}

type Dump = BTreeMap<(Family, Vec<u8>), Bytes>;

enum Expected {
    Exactly(Outcome),
    Held,
    Any,
}

/// Rows that an op looked at and changed.
struct Looked {
    seen: BTreeMap<Vec<u8>, Option<Bytes>>,
    changed: BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl Looked {
    fn inos(&self) -> BTreeSet<Ino> {
        self.seen.keys().chain(self.changed.keys()).map(|key| ino_of(key)).collect()
    }
}
