//! Somebody who changes things: keeps what it proposed until it is applied, turns to the next leader with all of it, in order,
//! and remembers what was promised.

use crate::chance::Chance;
use crate::member::Member;
use crate::member::SESSION;
use crate::member::STORE;
use crate::world::NODES;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tsfs::meta::op::Batch;
use tsfs::meta::op::ClusterOp;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::meta::record::Incarnation;
use tsfs::meta::record::Retention;
use tsfs::types::BatchSeq;
use tsfs::types::FsError;
use tsfs::types::Roles;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::types::Time;
use tsfs::wire::Proposal;

/// Proposals under way.
const WINDOW: usize = 12;
/// Without a word for so long, another member is asked.
const PATIENCE_MS: u64 = 700;

enum Event {
    Durable(u64, Result<Stamp, FsError>),
    Applied(u64, Result<Outcome, FsError>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Format,
    Open,
    Ready,
}

pub(crate) struct Client {
    events: Arc<Mutex<Vec<(u64, Event)>>>,
    stage: Stage,
    /// It opens no session, and says which nodes there are.
    only_format: bool,
    /// Whom it talks to, and how often that member was started then.
    with: usize,
    starts: u64,
    /// Raised whenever everything is sent again: answers to what was sent before mean nothing for the order.
    stream: u64,
    broken: bool,
    heard: u64,
    /// Numbers that are not known to be applied, oldest first.
    waiting: VecDeque<u64>,
    next: u64,
    /// The last number that was said to be durable.
    pub(crate) promised: u64,
    /// Of the last batch that was said to be durable: stamps rise with numbers.
    stamp: (u64, Stamp),
    pub(crate) turned: u64,
}

impl Client {
    pub(crate) fn new() -> Client {
        Client {
            events: Arc::default(),
            stage: Stage::Format,
            only_format: false,
            with: 0,
            starts: 0,
            stream: 0,
            broken: true,
            heard: 0,
            waiting: VecDeque::new(),
            next: 1,
            promised: 0,
            stamp: (0, Stamp::ZERO),
            turned: 0,
        }
    }

    /// Somebody who makes the store and nothing else.
    pub(crate) fn founder() -> Client {
        Client { only_format: true, ..Client::new() }
    }

    /// All that it proposed is applied.
    pub(crate) fn is_done(&self) -> bool {
        self.stage == Stage::Ready && self.waiting.is_empty()
    }

    fn listen(&mut self, now: u64) {
        for (stream, event) in std::mem::take(&mut *self.events.lock()) {
            self.heard = now;
            match event {
                Event::Durable(0, _) => {}
                Event::Durable(number, Ok(stamp)) => {
                    self.promised = self.promised.max(number);
                    if number > self.stamp.0 {
                        assert!(stamp > self.stamp.1, "stamps rise: {number}");
                        self.stamp = (number, stamp);
                    }
                }
                Event::Applied(0, Ok(_)) => {
                    let opens = self.stage == Stage::Format && !self.only_format;
                    self.stage = if opens { Stage::Open } else { Stage::Ready };
                    self.broken = true;
                }
                Event::Applied(number, Ok(Outcome::Applied | Outcome::Repeated)) => {
                    while self.waiting.front().is_some_and(|first| *first <= number) {
                        self.waiting.pop_front();
                    }
                }
                Event::Applied(number, Ok(other)) => panic!("batch {number} is answered {other:?}"),
                Event::Durable(_, Err(_)) | Event::Applied(_, Err(_)) => {
                    self.broken |= stream == self.stream;
                }
            }
        }
    }

    pub(crate) fn act(
        &mut self,
        now: u64,
        members: &mut [Member],
        more: bool,
        chance: &mut Chance,
    ) {
        self.listen(now);
        let late = now > self.heard + PATIENCE_MS && (!self.waiting.is_empty() || !self.is_done());
        self.broken |= members[self.with].starts != self.starts || late;
        if self.broken {
            self.turn(now, members, chance);
        }
        if self.broken || self.stage != Stage::Ready || !more || self.only_format {
            return;
        }
        while self.waiting.len() < WINDOW && chance.once_in(3) {
            self.waiting.push_back(self.next);
            self.send(self.next, &mut members[self.with]);
            self.next += 1;
        }
    }

    /// Sends everything again, to another member.
    fn turn(&mut self, now: u64, members: &mut [Member], chance: &mut Chance) {
        if !chance.once_in(10) {
            return;
        }
        let leading = members.iter().position(|m| m.asleep_until <= now && m.leads().is_some());
        self.with = match leading {
            Some(leading) if !chance.once_in(4) => leading,
            _ => chance.below(members.len() as u64) as usize,
        };
        let member = &mut members[self.with];
        if member.running.is_none() || member.asleep_until > now {
            return;
        }
        self.turned += 1;
        self.stream += 1;
        (self.broken, self.starts, self.heard) = (false, member.starts, now);
        if self.stage != Stage::Ready {
            return self.send(0, member);
        }
        for number in self.waiting.clone() {
            self.send(number, member);
        }
    }

    fn send(&self, number: u64, to: &mut Member) {
        let Some(running) = to.running.as_mut() else { return };
        let (events, stream) = (self.events.clone(), self.stream);
        let (told, applied) = (events.clone(), events);
        running.propose(
            self.proposal(number),
            Box::new(move |result| told.lock().push((stream, Event::Durable(number, result)))),
            Box::new(move |result| {
                let outcome = result.map(|(outcome, _)| outcome);
                applied.lock().push((stream, Event::Applied(number, outcome)));
            }),
        );
    }

    fn proposal(&self, number: u64) -> Proposal {
        let (session, op) = match (number, self.stage) {
            (0, Stage::Format) if self.only_format => {
                let nodes = (1..=NODES).map(node);
                return Client::batch_of(
                    SessionId(0),
                    0,
                    [format()].into_iter().chain(nodes).collect(),
                );
            }
            (0, Stage::Format) => (SessionId(0), format()),
            (0, _) => {
                (SessionId(0), Op::OpenSession { session: SESSION, client: "sim".to_owned() })
            }
            (n, _) if n % 4 == 0 => {
                let name = format!("{n}").into_bytes().into();
                (SESSION, Op::Mark { name, note: String::new(), uid: 0 })
            }
            (n, _) => {
                let retention = Retention { age_ns: Some(n), disk_percent: None };
                (SESSION, Op::SetRetention { retention })
            }
        };
        Client::batch_of(session, number, vec![op])
    }

    fn batch_of(session: SessionId, number: u64, ops: Vec<Op>) -> Proposal {
        let (seq, count) = (BatchSeq(number), ops.len() as u32);
        let batch = Batch { session, seq, epoch: 1, by: Vec::new(), ops, direct: None };
        Proposal { session, seq, ops: count, batch: batch.encode() }
    }
}

/// A node that belongs to the cluster. They get their numbers in order.
fn node(number: u64) -> Op {
    Op::Cluster(ClusterOp::SetNode {
        node: None,
        incarnation: Incarnation([number as u8; 16]),
        name: format!("node {number}"),
        address: format!("node:{number}"),
        roles: Roles::ALL,
    })
}

fn format() -> Op {
    Op::Format {
        uuid: STORE,
        hash_key: [3; 16],
        mode: 0o755,
        uid: 0,
        gid: 0,
        time: Time::default(),
    }
}
