//! A leader of several sessions over a table in memory: owners, recalls, direct batches, grants of the whole. The rules are
//! the real ones; one thread applies what is proposed, in order.

use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use parking_lot::MutexGuard;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use tsfs::env::Clock;
use tsfs::env::SystemClock;
use tsfs::lease::copies;
use tsfs::lease::copies::Ask;
use tsfs::lease::copies::Changed;
use tsfs::lease::copies::Copies;
use tsfs::lease::copies::Standing;
use tsfs::meta::apply::Rules;
use tsfs::meta::check::check;
use tsfs::meta::key::GROUPS;
use tsfs::meta::key::Key;
use tsfs::meta::key::StateKey;
use tsfs::meta::op::Batch;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::meta::own;
use tsfs::meta::record::Grant;
use tsfs::meta::record::Next;
use tsfs::meta::record::Record;
use tsfs::meta::record::Session;
use tsfs::series;
use tsfs::series::Direction;
use tsfs::series::KeyRange;
use tsfs::series::Read;
use tsfs::series::Readable;
use tsfs::series::Series;
use tsfs::series::Version;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::series::table::Table;
use tsfs::store::table::MemoryTable;
use tsfs::types::AsOf;
use tsfs::types::BatchSeq;
use tsfs::types::BlockId;
use tsfs::types::Era;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::types::Term;
use tsfs::types::frame::Frame;
use tsfs::wire::Applied;
use tsfs::wire::Circled;
use tsfs::wire::Copying;
use tsfs::wire::Durable;
use tsfs::wire::Listener;
use tsfs::wire::Moment;
use tsfs::wire::Page;
use tsfs::wire::Proposal;
use tsfs::wire::Recall;
use tsfs::wire::Server;
use tsfs::wire::Status;
use tsfs::wire::Waiting;
use tsfs::wire::Welcome;
use tsfs::wire::Whole;

const HASH_KEY: [u8; 16] = [7; 16];
/// How often somebody who waits tells the owner again.
const TELL_EVERY: Duration = Duration::from_millis(500);

type Work = (Proposal, Durable, Applied);

#[derive(Default)]
struct State {
    work: VecDeque<Work>,
    last: Stamp,
    blocks: BTreeMap<BlockId, Bytes>,
    listeners: HashMap<SessionId, Arc<dyn Listener>>,
    /// What was asked of the leader, by kind.
    asked: BTreeMap<&'static str, u64>,
    outcomes: BTreeMap<&'static str, u64>,
    stopped: bool,
    /// Nothing is applied, as where no majority answers.
    held: bool,
    /// No block is taken.
    stuck: bool,
    copies: Option<Copies>,
    /// Direct changes that wait for copies to be taken back.
    parked: Vec<(u64, Work)>,
    /// What is proposed of them, by session and number.
    changing: HashMap<(SessionId, BatchSeq), u64>,
    /// Until when what each session has copies of counts.
    standing: HashMap<SessionId, (Era, Duration)>,
}

impl State {
    /// By the real rules, in the only reign there is.
    fn copies(&mut self) -> &mut Copies {
        let options = copies::Options { inodes_max: 100, ..copies::Options::default() };
        let fresh = || Copies::new(options, Term(1), [], SystemClock.steady());
        self.copies.get_or_insert_with(fresh)
    }
}

pub(super) struct Leader {
    table: MemoryTable,
    rules: Rules,
    state: Mutex<State>,
    more: Condvar,
    applied: Condvar,
}

/// The leader as one client sees it.
pub(super) struct Seat {
    leader: Arc<Leader>,
    session: OnceLock<SessionId>,
    lease: Mutex<Duration>,
}

impl Leader {
    pub(super) fn new() -> Arc<Leader> {
        let leader = Arc::new(Leader {
            table: MemoryTable::default(),
            rules: Rules::new(HASH_KEY),
            state: Mutex::default(),
            more: Condvar::new(),
            applied: Condvar::new(),
        });
        let weak = Arc::downgrade(&leader);
        std::thread::spawn(move || {
            while let Some(leader) = weak.upgrade() {
                // Clients would wait for it for ever.
                if catch_unwind(AssertUnwindSafe(|| leader.work())).is_err() {
                    std::process::abort();
                }
            }
        });
        let time = SystemClock.time();
        let (uuid, hash_key) = ([1; 16], HASH_KEY);
        let format = Op::Format { uuid, hash_key, mode: 0o777, uid: 0, gid: 0, time };
        leader.administer_all(None, vec![format]).unwrap();
        leader
    }

    pub(super) fn seat(self: &Arc<Leader>) -> Arc<Seat> {
        // Not the end of time, which stands for a server of the same process.
        let lease = Mutex::new(Duration::from_secs(1 << 40));
        Arc::new(Seat { leader: self.clone(), session: OnceLock::new(), lease })
    }

    pub(super) fn asked(&self, what: &'static str) -> u64 {
        self.state.lock().asked.get(what).copied().unwrap_or(0)
    }

    pub(super) fn outcomes(&self, what: &'static str) -> u64 {
        self.state.lock().outcomes.get(what).copied().unwrap_or(0)
    }

    /// Takes a session's rights.
    pub(super) fn end(self: &Arc<Leader>, session: SessionId) {
        self.administer_all(None, vec![Op::EndSession { session }]).unwrap();
        let listener = self.state.lock().listeners.remove(&session);
        listener.unwrap().ended("it did not answer");
    }

    /// A mount is told that its session is over, which the leader may not know yet.
    pub(super) fn cut_off(&self, session: SessionId) {
        let listener = self.state.lock().listeners.remove(&session);
        listener.unwrap().ended("it was not heard of");
    }

    /// What is on its way gets nowhere; the last batch of a session that was applied.
    pub(super) fn drop_work(self: &Arc<Leader>, session: SessionId) -> BatchSeq {
        let mut state = self.state.lock();
        let work = std::mem::take(&mut state.work);
        state.held = false;
        drop(state);
        drop(work);
        self.record::<Session>(&StateKey::Session { session }).unwrap().unwrap().last
    }

    /// Applies a session's batch, whoever brings it.
    pub(super) fn bring(self: &Arc<Leader>, batch: &Batch) -> Outcome {
        let (session, seq, ops) = (batch.session, batch.seq, batch.ops.len() as u32);
        let (tell, told) = sync_channel(1);
        self.propose((
            Proposal { session, seq, ops, batch: batch.encode() },
            Box::new(|_| {}),
            Box::new(move |result| drop(tell.send(result))),
        ));
        told.recv().unwrap().unwrap().0
    }

    /// Has a block, wherever it came from.
    pub(super) fn bring_block(self: &Arc<Leader>, block: BlockId, frame: Bytes) {
        self.state.lock().blocks.insert(block, frame);
    }

    /// Ends a session of which nothing is heard any more.
    pub(super) fn forget(self: &Arc<Leader>, session: SessionId) {
        self.administer_all(None, vec![Op::EndSession { session }]).unwrap();
    }

    /// From now on blocks are not taken, or again.
    pub(super) fn stick(self: &Arc<Leader>, stuck: bool) {
        self.state.lock().stuck = stuck;
        self.more.notify_all();
    }

    /// From now on nothing is applied, or everything again.
    pub(super) fn hold(&self, held: bool) {
        self.state.lock().held = held;
    }

    /// Batches that wait to be applied.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().work.len()
    }

    /// A mount is told that nobody answers, or that somebody does again.
    pub(super) fn away(&self, session: SessionId, why: Option<&str>) {
        let listener = self.state.lock().listeners[&session].clone();
        listener.away(why);
    }

    pub(super) fn owner(&self, ino: Ino) -> Option<SessionId> {
        let _state = self.state.lock();
        own::owner(&self.table as &dyn Rows, ino).unwrap()
    }

    /// What `fsck` would find.
    pub(super) fn faults(&self) -> Vec<String> {
        let _state = self.state.lock();
        let mut faults = Vec::new();
        check(&self.table, &mut |_, _| {}, &mut |fault| faults.push(fault.to_string())).unwrap();
        faults
    }

    fn work(&self) {
        let mut state = self.state.lock();
        self.unpark(&mut state);
        let next = if state.held { None } else { state.work.pop_front() };
        let Some((proposal, durable, applied)) = next else {
            self.more.wait_for(&mut state, Duration::from_millis(20));
            return;
        };
        let stamp = Stamp::next(state.last, SystemClock.wall());
        state.last = Stamp(stamp.0 + u64::from(proposal.ops));
        drop(state);
        durable(Ok(stamp));
        // Nobody sees half of a batch.
        let mut state = self.state.lock();
        let result = self.apply(stamp, &proposal);
        if let Some(number) = state.changing.remove(&(proposal.session, proposal.seq)) {
            state.copies().over(number);
        }
        if let Ok((outcome, _)) = &result {
            let name = match outcome {
                Outcome::Applied => "applied",
                Outcome::Repeated => "repeated",
                Outcome::Refused { .. } => "refused",
                Outcome::Held(_) => "held",
                Outcome::Conflict => "conflict",
                Outcome::Early => "early",
            };
            *state.outcomes.entry(name).or_default() += 1;
        }
        drop(state);
        applied(result);
        self.applied.notify_all();
    }

    fn apply(&self, stamp: Stamp, proposal: &Proposal) -> Result<(Outcome, Stamp), FsError> {
        let batch = Batch::decode(&proposal.batch)?;
        self.check_rights(&batch);
        let origin = series::Origin { stamp, session: batch.session, seq: batch.seq };
        let mut present = series::Batch::new(&self.table, GROUPS, origin);
        let outcome = self.rules.apply_batch(&mut present, &batch)?;
        let finished = present.finish()?;
        self.table.write(&finished.changes)?;
        Ok((outcome, finished.last))
    }

    /// The invariant of decision 12: a batch that is not direct touches only what its session owns.
    fn check_rights(&self, batch: &Batch) {
        if batch.session == SessionId(0) || batch.direct.is_some() {
            return;
        }
        let mut yielded = HashSet::new();
        for op in &batch.ops {
            let inos: Vec<Ino> = match op {
                Op::Yield { inos, .. } => {
                    yielded.extend(inos.iter().copied());
                    continue;
                }
                Op::Create { dir, ino, .. } | Op::Link { dir, ino, .. } => vec![*dir, *ino],
                Op::Unlink { dir, .. } | Op::Rmdir { dir, .. } => vec![*dir],
                Op::Rename { dir, new_dir, .. } => vec![*dir, *new_dir],
                Op::SetAttr { ino, .. }
                | Op::Write { ino, .. }
                | Op::Zero { ino, .. }
                | Op::SetXattr { ino, .. }
                | Op::RemoveXattr { ino, .. }
                | Op::Version { ino }
                | Op::SetLocks { ino, .. }
                | Op::Release { ino } => vec![*ino],
                op => panic!("{op:?} is not a client's"),
            };
            for ino in inos {
                let owner = own::owner(&self.table as &dyn Rows, ino).unwrap();
                let open = self.record::<Session>(&StateKey::Session { session: batch.session });
                if open.unwrap().is_some_and(|session| session.is_open()) {
                    assert_eq!(owner, Some(batch.session), "{op:?} rests on inode {ino}");
                }
                assert!(!yielded.contains(&ino), "{op:?} comes after inode {ino} was given back");
            }
        }
    }

    fn record<R: Record>(&self, key: &StateKey) -> Result<Option<R>, FsError> {
        let key = key.encode();
        self.table.get(Family::State, &key)?.map(|row| R::from_row(&key, &row)).transpose()
    }

    fn series(&self) -> Series<'_> {
        Series::new(&self.table, GROUPS, Readable::default())
    }

    fn page(&self, family: Family, range: &KeyRange, limit: usize) -> Result<Page, FsError> {
        let mut page = Page::default();
        self.table.scan(family, range, Direction::Forward, &mut |key, row| {
            collect(&mut page, limit, key, row)
        })?;
        Ok(page)
    }

    fn propose(self: &Arc<Leader>, work: Work) {
        let mut state = self.state.lock();
        if state.stopped {
            drop(state);
            return (work.1)(Err(FsError::Closing));
        }
        for op in Batch::decode(&work.0.batch).unwrap().ops {
            let Op::Write { pieces, .. } = op else { continue };
            for piece in pieces {
                if let tsfs::meta::op::Piece::Block { block, .. } = piece {
                    assert!(state.blocks.contains_key(&block), "{block} is named and not put");
                }
            }
        }
        let batch = Batch::decode(&work.0.batch).unwrap();
        if batch.direct.is_none() {
            state.work.push_back(work);
            drop(state);
            self.more.notify_all();
            return;
        }
        let changed = batch.may_change().map_or(Changed::Anything, Changed::Inodes);
        let (number, asks) = state.copies().begin(batch.session, changed, SystemClock.steady());
        state.changing.insert((batch.session, batch.seq), number);
        *state.asked.entry("take back").or_default() += asks.len() as u64;
        state.parked.push((number, work));
        let asks = self.to_tell(&state, asks);
        drop(state);
        tell(asks);
        self.more.notify_all();
    }

    fn to_tell(
        self: &Arc<Leader>,
        state: &State,
        asks: impl IntoIterator<Item = Ask>,
    ) -> Vec<Telling> {
        let with = |ask: Ask| {
            let listener = state.listeners.get(&ask.session)?.clone();
            Some((listener, ask, Arc::downgrade(self)))
        };
        asks.into_iter().filter_map(with).collect()
    }

    /// Lets those into the log whose copies were taken back.
    fn unpark(&self, state: &mut State) {
        let now = SystemClock.steady();
        for (number, work) in std::mem::take(&mut state.parked) {
            match state.copies().waits_until(number, now) {
                None => state.work.push_back(work),
                Some(_) => state.parked.push((number, work)),
            }
        }
    }

    /// What of these rows the session may keep.
    fn give(
        self: &Arc<Leader>,
        state: &mut State,
        session: SessionId,
        inos: &[Ino],
    ) -> (Copying, Vec<Telling>) {
        let nobodys: Vec<Ino> = inos
            .iter()
            .copied()
            .filter(|ino| own::owner(&self.table as &dyn Rows, *ino).unwrap().is_none())
            .collect();
        let now = SystemClock.steady();
        let given = state.copies().give(session, &nobodys, now);
        let Standing { era, lease } = given.standing;
        let until = state.standing.entry(session).or_default();
        if until.0 == era {
            until.1 = until.1.max(now + lease)
        } else {
            *until = (era, now + lease)
        }
        let told = self.to_tell(state, given.ask);
        let lease_ms = lease.as_millis() as u64;
        (Copying { era, lease_ms, inos: given.inos }, told)
    }

    fn administer_all(self: &Arc<Leader>, by: Option<u32>, ops: Vec<Op>) -> Result<Stamp, FsError> {
        assert!(by.is_none(), "several mounts change nothing past each other");
        let (session, seq, count) = (SessionId(0), BatchSeq(0), ops.len() as u32);
        let batch = Batch { session, seq, epoch: 0, by: Vec::new(), ops, direct: None }.encode();
        let (tell, told) = sync_channel(1);
        self.propose((
            Proposal { session, seq, ops: count, batch },
            Box::new(|_| {}),
            Box::new(move |result| drop(tell.send(result))),
        ));
        match told.recv().unwrap_or(Err(FsError::Closing))? {
            (Outcome::Refused { error, .. }, _) => Err(FsError::Refused(error.to_string())),
            (_, stamp) => Ok(stamp),
        }
    }

    /// The state, once nobody but `session` owns any of these.
    fn shared(
        &self,
        session: SessionId,
        inos: &[Ino],
        what: &'static str,
    ) -> Result<MutexGuard<'_, State>, FsError> {
        let mut state = self.state.lock();
        *state.asked.entry(what).or_default() += 1;
        loop {
            let mut owners: HashMap<SessionId, Vec<Ino>> = HashMap::new();
            for ino in inos {
                let owner = own::owner(&self.table as &dyn Rows, *ino)?;
                if let Some(owner) = owner.filter(|owner| *owner != session) {
                    owners.entry(owner).or_default().push(*ino);
                }
            }
            if owners.is_empty() {
                return Ok(state);
            }
            for (owner, inos) in owners {
                *state.asked.entry("recall").or_default() += 1;
                if let Some(listener) = state.listeners.get(&owner) {
                    listener.recall(Recall::Inodes(inos));
                }
            }
            self.applied.wait_for(&mut state, TELL_EVERY);
        }
    }

    /// Everything to the only session, if there is one.
    fn grant_whole(self: &Arc<Leader>) -> Result<(), FsError> {
        let rows = self.page(Family::State, &StateKey::sessions(), 2)?.rows;
        let [(key, _)] = &rows[..] else { return Ok(()) };
        let Some(StateKey::Session { session }) = StateKey::decode(key) else { panic!() };
        self.administer_all(None, vec![Op::GrantWhole { session }])?;
        let grant: Grant = self.record(&StateKey::Grant)?.unwrap();
        let state = self.state.lock();
        if let Some(listener) = state.listeners.get(&session) {
            listener.whole(grant.into());
        }
        Ok(())
    }
}

fn collect(page: &mut Page, limit: usize, key: &[u8], row: &[u8]) -> ControlFlow<()> {
    if page.rows.len() == limit {
        page.more = true;
        return ControlFlow::Break(());
    }
    page.rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(row)));
    ControlFlow::Continue(())
}

/// Somebody to be asked for copies.
type Telling = (Arc<dyn Listener>, Ask, Weak<Leader>);

fn tell(all: Vec<Telling>) {
    for (listener, Ask { session, number, inos }, leader) in all {
        let done = move || {
            let Some(leader) = leader.upgrade() else { return };
            leader.state.lock().copies().given_back(session, number);
            leader.more.notify_all();
        };
        listener.take_back(inos, Box::new(done));
    }
}

impl Seat {
    pub(super) fn session(&self) -> SessionId {
        *self.session.get().expect("it was opened")
    }

    pub(super) fn set_lease(&self, until: Duration) {
        *self.lease.lock() = until;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.state.lock().stopped = true;
    }
}

impl Server for Seat {
    fn open_session(&self, client: &str, listener: Arc<dyn Listener>) -> Result<Welcome, FsError> {
        let leader = &self.leader;
        let mut state = leader.state.lock();
        let session = leader.record::<Next>(&StateKey::Next)?.unwrap().session;
        state.listeners.insert(session, listener);
        state.copies().attend(session, SystemClock.steady());
        drop(state);
        leader
            .administer_all(None, vec![Op::OpenSession { session, client: client.to_owned() }])?;
        self.session.set(session).expect("one seat has one session");
        let grant = leader.record::<Grant>(&StateKey::Grant)?;
        let whole = grant.filter(|grant| grant.session == session).map(Whole::from);
        let epoch = leader.record::<Next>(&StateKey::Next)?.unwrap().epoch;
        Ok(Welcome { session, epoch, whole, hash_key: HASH_KEY, store: "leader".to_owned() })
    }

    fn lease(&self) -> Duration {
        *self.lease.lock()
    }

    fn grant_inos(&self, session: SessionId, count: u64) -> Result<u64, FsError> {
        self.leader.administer_all(None, vec![Op::GrantInos { session, count }])?;
        let member: Session = self.leader.record(&StateKey::Session { session })?.unwrap();
        Ok(member.inos.last().unwrap().1 - count)
    }

    fn propose(&self, proposal: Proposal, durable: Durable, applied: Applied) {
        self.leader.propose((proposal, durable, applied));
    }

    fn get(&self, key: &[u8], at: AsOf) -> Result<Option<Bytes>, FsError> {
        if at != AsOf::Now {
            let _state = self.leader.state.lock();
            return self.leader.series().get(key, at);
        }
        Ok(self.get_all(&[Bytes::copy_from_slice(key)])?.remove(0))
    }

    fn get_all(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, FsError> {
        let inos: Vec<Ino> = keys.iter().map(|key| Key::decode(key).unwrap().ino()).collect();
        let _state = self.leader.shared(self.session(), &inos, "get")?;
        keys.iter().map(|key| self.leader.series().get(key, AsOf::Now)).collect()
    }

    fn copy_all(&self, keys: &[Bytes]) -> Result<(Vec<Option<Bytes>>, Copying), FsError> {
        let inos: Vec<Ino> = keys.iter().map(|key| Key::decode(key).unwrap().ino()).collect();
        let mut state = self.leader.shared(self.session(), &inos, "get")?;
        let (copying, told) = self.leader.give(&mut state, self.session(), &inos);
        let rows = keys.iter().map(|key| self.leader.series().get(key, AsOf::Now));
        let rows = rows.collect::<Result<_, _>>()?;
        drop(state);
        tell(told);
        Ok((rows, copying))
    }

    fn copy_page(
        &self,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<(Page, Copying), FsError> {
        let number: [u8; 8] = range.start[1..9].try_into().unwrap();
        let inos = [Ino::new(u64::from_be_bytes(number)).unwrap()];
        let mut state = self.leader.shared(self.session(), &inos, "scan")?;
        let (copying, told) = self.leader.give(&mut state, self.session(), &inos);
        let mut page = Page::default();
        self.leader.series().scan(range, AsOf::Now, direction, &mut |key, row| {
            collect(&mut page, limit, key, row)
        })?;
        drop(state);
        tell(told);
        Ok((page, copying))
    }

    fn copying(&self, _: bool) -> (Era, Duration) {
        let state = self.leader.state.lock();
        state.standing.get(&self.session()).copied().unwrap_or_default()
    }

    fn scan(
        &self,
        range: &KeyRange,
        at: AsOf,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, FsError> {
        let number: [u8; 8] = range.start[1..9].try_into().unwrap();
        let ino = Ino::new(u64::from_be_bytes(number)).unwrap();
        let inos: &[Ino] = if at == AsOf::Now { &[ino] } else { &[] };
        let _state = self.leader.shared(self.session(), inos, "scan")?;
        let mut page = Page::default();
        self.leader
            .series()
            .scan(range, at, direction, &mut |key, row| collect(&mut page, limit, key, row))?;
        Ok(page)
    }

    fn versions(
        &self,
        key: &[u8],
        since: Stamp,
        until: Stamp,
        limit: usize,
    ) -> Result<Vec<Version>, FsError> {
        let _state = self.leader.state.lock();
        let mut found = Vec::new();
        self.leader.series().versions(key, since, until, &mut |version| {
            found.push(version);
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(found)
    }

    fn ended(
        &self,
        _: &KeyRange,
        _: Stamp,
        _: Stamp,
        _: usize,
    ) -> Result<Vec<(Bytes, Version)>, FsError> {
        Ok(Vec::new())
    }

    fn waits(&self, _: Moment, waits: Vec<Waiting>) -> Result<Circled, FsError> {
        *self.leader.state.lock().asked.entry("waits").or_default() += waits.len() as u64;
        Ok(Circled::default())
    }

    fn state(&self, range: &KeyRange, limit: usize) -> Result<Page, FsError> {
        self.leader.page(Family::State, range, limit)
    }

    fn changes(&self, _: Stamp, _: Stamp, _: usize) -> Result<Page, FsError> {
        Ok(Page::default())
    }

    fn barrier(&self) -> Result<Stamp, FsError> {
        let mut state = self.leader.state.lock();
        *state.asked.entry("barrier").or_default() += 1;
        state.last = Stamp::next(state.last, SystemClock.wall());
        Ok(state.last)
    }

    fn put_block(&self, block: BlockId, frame: Frame) -> Result<(), FsError> {
        let mut state = self.leader.state.lock();
        while state.stuck {
            self.leader.more.wait(&mut state);
        }
        let before = state.blocks.insert(block, frame.to_bytes());
        assert!(before.is_none(), "{block} was put before");
        Ok(())
    }

    fn sync_blocks(&self) -> Result<(), FsError> {
        Ok(())
    }

    fn block(&self, block: BlockId) -> Result<Bytes, FsError> {
        if let Some(frame) = self.leader.table.get(Family::Payload, &block.to_bytes())? {
            return Ok(frame);
        }
        self.leader.state.lock().blocks.get(&block).cloned().ok_or(FsError::Stale)
    }

    fn space_left(&self) -> u64 {
        u64::MAX
    }

    fn status(&self) -> Result<Status, FsError> {
        Ok(Status::default())
    }

    fn administer_all(&self, by: Option<u32>, ops: Vec<Op>) -> Result<Stamp, FsError> {
        let ends = matches!(&ops[..], [Op::EndSession { .. }]);
        let stamp = self.leader.administer_all(by, ops)?;
        if ends {
            self.leader.state.lock().listeners.remove(&self.session());
            self.leader.grant_whole()?;
        }
        Ok(stamp)
    }
}
