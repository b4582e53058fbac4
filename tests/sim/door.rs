//! What a member answers to mounts: the role lock as it is (`lock_node`), and questions that wait for it.
//!
//! In the place of `tsdb_server::door`, which waits on threads: the same checks in the same order, but whoever would wait is
//! asked again in the next millisecond. Not here: rounds of flushes before a mark, the cluster's commands.

mod bulk;
mod seams;

pub(crate) use bulk::Stands;
pub(crate) use bulk::hello;

use crate::lines::LineId;
use crate::lines::calling_member;
use crate::member::Clocks;
use bytes::Bytes;
use parking_lot::Mutex;
use seams::OwnLog;
use seams::Push;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;
use tsfs::env::Clock;
use tsfs::lease;
use tsfs::meta::key;
use tsfs::meta::key::StateKey;
use tsfs::meta::op::Batch;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::meta::record::Grant;
use tsfs::meta::record::Horizon;
use tsfs::meta::record::Next;
use tsfs::meta::record::Record;
use tsfs::meta::record::Session;
use tsfs::meta::record::Store;
use tsfs::series::Read;
use tsfs::series::Readable;
use tsfs::series::Series;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::store::table::MemoryTable;
use tsfs::tsdb_server::lock_node::LockNode;
use tsfs::tsdb_server::lock_node::Log as OfNode;
use tsfs::tsdb_server::replica::stepped::Stepped;
use tsfs::types::AsOf;
use tsfs::types::BatchSeq;
use tsfs::types::BlockId;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::wire::Listener;
use tsfs::wire::Page;
use tsfs::wire::Proposal;
use tsfs::wire::Welcome;
use tsfs::wire::Whole;
use tsfs::wire::message;
use tsfs::wire::message::NodeAt;
use tsfs::wire::message::Request;
use tsfs::wire::message::Response;
use tsfs::wire::message::View;
use tsfs::wire::packet::Form;
use tsfs::wire::packet::Packet;

/// Short, so that many end within a run.
pub(crate) const LEASES: lease::Options = lease::Options {
    lease: Duration::from_millis(1200),
    yield_within: Duration::from_millis(2500),
    inodes_max: 6,
};
/// For a leader to be sure that it leads, and for others to give something back.
const SURE: Duration = Duration::from_millis(1000);
const TOUCH: Duration = Duration::from_millis(4500);
/// How often leases are looked at.
const TICK: Duration = Duration::from_millis(100);

type Outgoing = Arc<Mutex<Vec<(LineId, Packet)>>>;
pub(crate) type Came = Arc<Mutex<Option<Result<Outcome, FsError>>>>;

/// A question that is not answered yet.
struct Waiting {
    line: LineId,
    id: u64,
    request: Request,
    since: Duration,
    /// What was proposed for it.
    came: Option<Came>,
    opens: Option<SessionId>,
}

pub(crate) struct Door {
    locks: Arc<LockNode>,
    log: Arc<OwnLog>,
    table: Arc<MemoryTable>,
    clock: Arc<Clocks>,
    waiting: Vec<Waiting>,
    attended: BTreeMap<LineId, (SessionId, Arc<dyn Listener>)>,
    out: Outgoing,
    next_tick: Duration,
    /// Ops of the store's own that were proposed.
    pub(crate) proposed: Vec<&'static str>,
    /// To whom rows of the present were shown, and of which inode.
    pub(crate) shown: Vec<(SessionId, Ino)>,
    /// Which process this is.
    boot: u64,
    bulk: Vec<bulk::Asked>,
    /// What was given out of blocks.
    pub(crate) given: Vec<(BlockId, Bytes)>,
}

fn not_leader(running: &Stepped) -> FsError {
    FsError::NotLeader { leader: running.leadership().leader }
}

impl Door {
    pub(crate) fn new(
        running: &Stepped,
        table: Arc<MemoryTable>,
        clock: Arc<Clocks>,
        boot: u64,
    ) -> Door {
        let log = Arc::new(OwnLog::default());
        let as_log: Arc<dyn OfNode> = log.clone();
        let weak: Weak<dyn OfNode> = Arc::downgrade(&as_log);
        let turns = (running.owned(), running.locked());
        let locks = LockNode::new(weak, table.clone(), turns, clock.clone(), LEASES);
        Door {
            locks,
            log,
            table,
            clock,
            waiting: Vec::new(),
            attended: BTreeMap::new(),
            out: Outgoing::default(),
            next_tick: Duration::ZERO,
            proposed: Vec::new(),
            shown: Vec::new(),
            boot,
            bulk: Vec::new(),
            given: Vec::new(),
        }
    }

    pub(crate) fn take_out(&self) -> Vec<(LineId, Packet)> {
        std::mem::take(&mut *self.out.lock())
    }

    /// A line has ended.
    pub(crate) fn ended(&mut self, line: LineId) {
        if let Some((session, push)) = self.attended.remove(&line) {
            self.locks.unattend(session, &push);
        }
    }

    /// `from` is the mount or the member that calls.
    pub(crate) fn hear(
        &mut self,
        line: LineId,
        from: usize,
        packet: Packet,
        running: &mut Stepped,
    ) {
        let from_node = calling_member(from).is_some();
        let Some(packet) = self.take_bulk(line, packet, from_node) else { return };
        let Packet { form, id, meta, tail, .. } = packet;
        let request: Request = message::decode(&meta).expect("a whole packet has a message");
        if form != Form::Ask {
            return;
        }
        if let Request::Propose { session, seq, ops } = request {
            assert!(Batch::is_of_client(&tail, session, seq), "a mount proposes its own");
            let out = self.out.clone();
            let answer = move |response: &Response| out.lock().push((line, answer(id, response)));
            let (locks, sent) = (self.locks.clone(), tail.clone());
            let proposal = Proposal { session, seq, ops, batch: tail };
            let applied = move |result: Result<(Outcome, Stamp), FsError>| {
                if matches!(result, Ok((Outcome::Refused { error: FsError::Locked, .. }, _))) {
                    locks.was_barred(session, &sent);
                }
                match result {
                    Ok((outcome, stamp)) => answer(&Response::Applied { outcome, stamp }),
                    Err(error) => answer(&Response::Failed(error)),
                }
            };
            return running.propose(proposal, Box::new(|_| {}), Box::new(applied));
        }
        let since = self.clock.steady();
        self.waiting.push(Waiting { line, id, request, since, came: None, opens: None });
    }

    /// One millisecond: what time brings, and what can be answered.
    pub(crate) fn work(&mut self, running: &mut Stepped) {
        let leadership = running.leadership();
        let ready = is_ready(running, &self.clock);
        *self.log.standing.lock() = (leadership.here.then_some(leadership.term), ready);
        if self.clock.steady() >= self.next_tick {
            self.next_tick = self.clock.steady() + TICK;
            // Whatever it proposes is still under way.
            let _ = self.locks.tick();
        }
        // Nobody is told by who does not lead.
        let _ = self.locks.grant_wishes();
        for op in std::mem::take(&mut *self.log.proposed.lock()) {
            self.proposed.push(if matches!(op, Op::GrantWhole { .. }) { "whole" } else { "end" });
            propose(running, vec![op]);
        }
        let mut left = Vec::new();
        let asked = !self.waiting.is_empty();
        for mut waiting in std::mem::take(&mut self.waiting) {
            match self.answer(&mut waiting, &left, running) {
                Some(response) => {
                    self.out.lock().push((waiting.line, answer(waiting.id, &response)));
                }
                None => left.push(waiting),
            }
        }
        self.waiting = left;
        if asked && leadership.here && !ready {
            running.ask_round();
        }
    }

    /// None where it has to wait.
    fn answer(
        &mut self,
        waiting: &mut Waiting,
        before: &[Waiting],
        running: &mut Stepped,
    ) -> Option<Response> {
        let done = self.try_answer(waiting, before, running);
        done.unwrap_or_else(|error| Some(Response::Failed(error)))
    }

    fn try_answer(
        &mut self,
        waiting: &mut Waiting,
        before: &[Waiting],
        running: &mut Stepped,
    ) -> Result<Option<Response>, FsError> {
        let waited = self.clock.steady().saturating_sub(waiting.since);
        if let Request::View = waiting.request {
            let leadership = running.leadership();
            let (leader, term) = (leadership.leader, leadership.term.0);
            let members = running.members();
            let at = |node| NodeAt { node, address: String::new() };
            let nodes = members.all().into_iter().map(at).collect();
            let mut voters = [members.voters, members.outgoing].concat();
            voters.sort_unstable();
            voters.dedup();
            let placement = (*running.placement()).clone();
            let view = View { leader, term, nodes, voters, placement };
            return Ok(Some(Response::View(view)));
        }
        if let Some(came) = &waiting.came {
            let Some(came) = came.lock().take() else { return Ok(None) };
            return self.after(waiting, came?).map(Some);
        }
        if let Request::Get { keys, at: AsOf::At(stamp), .. } = &waiting.request
            && running.progress().stamp >= *stamp
        {
            let oldest = self.find::<Horizon>(&StateKey::Horizon)?.unwrap_or_default().0;
            Readable { oldest, marks: Vec::new() }.check(*stamp)?;
            return Ok(Some(Response::Rows(self.rows(keys, AsOf::At(*stamp))?)));
        }
        if !running.leadership().here {
            return Err(not_leader(running));
        }
        let sure = match waiting.request {
            Request::Renew { .. } => running.has_lease(self.clock.steady()),
            _ => is_ready(running, &self.clock),
        };
        if !sure {
            let late = || FsError::Unreachable("it is not sure to lead".to_owned());
            return if waited > SURE { Err(late()) } else { Ok(None) };
        }
        match self.serve(waiting, before, running) {
            // Others have it, or something was proposed: it is tried again.
            Err(FsError::Unreachable(_)) if waited <= TOUCH => Ok(None),
            other => other,
        }
    }

    /// By a leader that is sure to be one, with everything applied.
    fn serve(
        &mut self,
        waiting: &mut Waiting,
        before: &[Waiting],
        running: &mut Stepped,
    ) -> Result<Option<Response>, FsError> {
        // One session is opened, and one range given, at a time.
        let alone = before.iter().all(|other| other.came.is_none());
        let response = match &waiting.request {
            Request::OpenSession { client, .. } => {
                if !alone {
                    return Ok(None);
                }
                let session = self.record::<Next>(&StateKey::Next)?.session;
                waiting.opens = Some(session);
                let op = Op::OpenSession { session, client: client.clone() };
                waiting.came = Some(propose(running, vec![op]));
                return Ok(None);
            }
            Request::GrantInos { session, count } => {
                if alone {
                    let op = Op::GrantInos { session: *session, count: *count };
                    waiting.came = Some(propose(running, vec![op]));
                }
                return Ok(None);
            }
            Request::Administer { ops, .. } => {
                assert!(ops.iter().all(Op::may_be_asked));
                waiting.came = Some(propose(running, ops.clone()));
                return Ok(None);
            }
            Request::Attend { session } => {
                let out = self.out.clone();
                let push: Arc<dyn Listener> = Arc::new(Push { line: waiting.line, out });
                self.attended.insert(waiting.line, (*session, push.clone()));
                Response::Renewed(self.locks.attend(*session, push)?)
            }
            Request::Renew { session } => Response::Renewed(self.locks.renew(*session)?),
            Request::Get { session, keys, at } => {
                let inos: Vec<Ino> = keys.iter().filter_map(|key| key::inode_of(key)).collect();
                self.locks.touch(*session, &inos, Duration::ZERO)?;
                self.shown.extend(inos.iter().map(|ino| (*session, *ino)));
                Response::Rows(self.rows(keys, *at)?)
            }
            Request::Scan { session, range, at, direction, .. } => {
                let inos: Vec<Ino> = key::inode_of(&range.start).into_iter().collect();
                self.locks.touch(*session, &inos, Duration::ZERO)?;
                self.shown.extend(inos.iter().map(|ino| (*session, *ino)));
                let mut page = Page::default();
                self.series().scan(range, *at, *direction, &mut |key, row| {
                    let row = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(row));
                    page.rows.push(row);
                    ControlFlow::Continue(())
                })?;
                Response::Page(page)
            }
            other => panic!("nobody asks {other:?} here"),
        };
        Ok(Some(response))
    }

    /// What was proposed for a question is applied.
    fn after(&self, waiting: &Waiting, came: Outcome) -> Result<Response, FsError> {
        if let Outcome::Refused { error, .. } = came {
            return Err(FsError::Refused(error.to_string()));
        }
        Ok(match &waiting.request {
            Request::OpenSession { .. } => {
                let session = waiting.opens.expect("one was proposed");
                let grant = self.find::<Grant>(&StateKey::Grant)?;
                let whole = grant.filter(|grant| grant.session == session).map(Whole::from);
                let next = self.record::<Next>(&StateKey::Next)?.epoch;
                let epoch = whole.map_or(next, |whole| whole.epoch);
                let hash_key = self.record::<Store>(&StateKey::Store)?.hash_key;
                let welcome = Welcome { session, epoch, whole, hash_key, store: self.log.store() };
                Response::Opened { welcome, lease_ms: LEASES.lease.as_millis() as u64 }
            }
            Request::GrantInos { session, count } => {
                let row = self.find::<Session>(&StateKey::Session { session: *session })?;
                let end = row.and_then(|row| row.inos.last().map(|(_, end)| *end));
                Response::First(end.ok_or(FsError::Fenced)? - count)
            }
            _ => Response::Done,
        })
    }

    fn series(&self) -> Series<'_> {
        Series::new(&*self.table, key::GROUPS, Readable::default())
    }

    fn rows(&self, keys: &[Bytes], at: AsOf) -> Result<Vec<Option<Bytes>>, FsError> {
        keys.iter().map(|key| self.series().get(key, at)).collect()
    }

    fn find<R: Record>(&self, key: &StateKey) -> Result<Option<R>, FsError> {
        let key = key.encode();
        self.table.get(Family::State, &key)?.map(|row| R::from_row(&key, &row)).transpose()
    }

    fn record<R: Record>(&self, key: &StateKey) -> Result<R, FsError> {
        self.find(key)?.ok_or_else(|| FsError::Unreachable("the store is not made yet".to_owned()))
    }
}

/// Whether a read of the present can be answered without waiting for other members.
fn is_ready(running: &Stepped, clock: &Clocks) -> bool {
    running.has_lease(clock.steady()) && running.progress().index >= running.commit()
}

fn answer(id: u64, response: &Response) -> Packet {
    let (form, kind, meta) = (Form::Answer, message::RESPONSE, message::encode(response));
    Packet { form, kind, id, meta, tail: Bytes::new() }
}

/// Proposes ops of the store's own.
pub(crate) fn propose(running: &mut Stepped, ops: Vec<Op>) -> Came {
    let came = Came::default();
    let (tell, count) = (came.clone(), ops.len() as u32);
    let (session, seq) = (SessionId(0), BatchSeq(0));
    let batch = Batch { session, seq, epoch: 0, by: Vec::new(), ops, direct: None }.encode();
    let applied = move |result: Result<(Outcome, Stamp), FsError>| {
        *tell.lock() = Some(result.map(|(outcome, _)| outcome));
    };
    let proposal = Proposal { session, seq, ops: count, batch };
    running.propose(proposal, Box::new(|_| {}), Box::new(applied));
    came
}
