//! One member of the replicated log: input in, actions out.
//!
//! The order that a driver keeps, and why:
//!
//! 1. [`Core::propose`], [`Core::step`], [`Core::tick`]: as much input as there is.
//! 2. [`Core::ready`], until it has nothing more; for each:
//!    `send` at once (a leader's followers write while it does), `persist` with one sync, [`Core::persisted`],
//!    then `send_after` (a promise to others stands on one's own disk first), then `committed` to whoever applies.
//! 3. [`Core::applied`], once applied: only then does the log forget its copy in memory.
//!
//! An entry is committed only when it is on this member's disk too, even where others would be enough.

use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::entry::Message;
use crate::tsdb_log::shelf::Shelf;
use crate::tsdb_log::shelf::from_engine;
use crate::tsdb_log::store::Group;
use crate::tsdb_log::store::LogRead;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use bytes::Bytes;
use raft::RawNode;
use raft::StateRole;
use raft::eraftpb;
use std::sync::Arc;

mod convert;
#[cfg(test)]
mod tests;

/// Most bytes of entries handed out as committed at once, and read ahead when the log is replayed.
const PAGE_BYTES: u64 = 8 << 20;
/// Most bytes of entries in one message to a follower.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Messages with entries that a follower may have unanswered.
const MESSAGES_IN_FLIGHT: usize = 256;

/// How a member counts time, in ticks of its driver.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub node: NodeId,
    /// Without a sign of the leader for so long, a member stands for election. Differs among members, so that two
    /// seldom stand at once.
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
}

impl Options {
    /// For the embedded store, whose one voter elects itself when told to.
    pub fn alone(node: NodeId) -> Options {
        Options { node, election_ticks: 10, heartbeat_ticks: 2 }
    }
}

/// What the driver must do next, in the order of the fields. Then it calls [`Core::persisted`] with `number`.
#[derive(Debug)]
pub struct Ready {
    pub number: u64,
    pub send: Vec<Message>,
    pub persist: Group,
    /// Only once `persist` is durable.
    pub send_after: Vec<Message>,
    /// Durable on a majority, this member included: to be applied, in order.
    pub committed: Vec<Entry>,
}

/// Why a proposal was not taken: only the leader takes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotLeader {
    /// Who leads, as far as this member knows.
    pub leader: Option<NodeId>,
}

pub struct Core {
    engine: RawNode<Shelf>,
    /// The last committed entry handed out.
    handed: LogIndex,
    /// What the log store was last told.
    stored: HardState,
}

impl Core {
    /// A member as its disk remembers it. Entries up to `applied` are not handed out again.
    ///
    /// # Errors
    /// `Damaged` where the log does not reach from `applied` on: entries that the table needs, or knows, are missing.
    pub fn open(
        options: Options,
        hard: HardState,
        members: &Members,
        log: Arc<dyn LogRead>,
        applied: LogIndex,
    ) -> Result<Core, FsError> {
        let (first, last) = (log.first(), log.last());
        if applied > last || applied.0 + 1 < first.0 {
            return Err(FsError::Damaged(format!(
                "the log holds entries {} to {}, but the table is at entry {}: one of them is older than the other",
                first.0, last.0, applied.0
            )));
        }
        // What was applied was committed, whether or not the log was told so.
        let commit = LogIndex(hard.commit.0.max(applied.0).max(first.0 - 1).min(last.0));
        let shelf = Shelf::new(log, HardState { commit, ..hard }, members);
        let config = raft::Config {
            id: options.node.0,
            applied: applied.0,
            election_tick: options.election_ticks,
            heartbeat_tick: options.heartbeat_ticks,
            // The engine would draw its own random number between these; pinned, the same inputs give the same actions.
            min_election_tick: options.election_ticks,
            max_election_tick: options.election_ticks + 1,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: MESSAGES_IN_FLIGHT,
            max_committed_size_per_ready: PAGE_BYTES,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            skip_bcast_commit: true,
            ..raft::Config::default()
        };
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let engine = RawNode::new(&config, shelf, &silent)
            .map_err(|error| FsError::Damaged(format!("the log cannot be taken up: {error}")))?;
        Ok(Core { engine, handed: applied, stored: hard })
    }

    /// Stands for election. A lone voter leads as soon as its vote is on disk.
    ///
    /// # Errors
    /// `Io` where this member may not stand.
    pub fn campaign(&mut self) -> Result<(), FsError> {
        self.engine.campaign().map_err(|error| FsError::Io(format!("stand for election: {error}")))
    }

    pub fn is_leader(&self) -> bool {
        self.engine.raft.state == StateRole::Leader
    }

    pub fn term(&self) -> Term {
        Term(self.engine.raft.term)
    }

    /// Puts an entry at the log's end and says where. Both parts are kept as they are, without a copy.
    ///
    /// # Errors
    /// [`NotLeader`].
    pub fn propose(&mut self, header: Bytes, body: Bytes) -> Result<LogIndex, NotLeader> {
        let entry = eraftpb::Entry { context: header, data: body, ..eraftpb::Entry::default() };
        let message = eraftpb::Message {
            msg_type: eraftpb::MessageType::MsgPropose,
            from: self.engine.raft.id,
            entries: vec![entry].into(),
            ..eraftpb::Message::default()
        };
        if !self.is_leader() || self.engine.step(message).is_err() {
            let leader = self.engine.raft.leader_id;
            return Err(NotLeader { leader: (leader != 0).then_some(NodeId(leader)) });
        }
        Ok(LogIndex(self.engine.raft.raft_log.last_index()))
    }

    /// Takes a message from another member. One that makes no sense here is dropped, as if the network had lost it.
    pub fn step(&mut self, message: Message) {
        let message = convert::message_to_engine(message);
        if let Err(error) = self.engine.step(message) {
            tracing::debug!(%error, "dropped a message");
        }
    }

    /// A tick of the driver's clock has passed.
    pub fn tick(&mut self) {
        self.engine.tick();
    }

    /// What is to be done next, if anything.
    ///
    /// # Errors
    /// `Damaged`, `Io`: reading old entries for replay.
    pub fn ready(&mut self) -> Result<Option<Ready>, FsError> {
        let next = LogIndex(self.handed.0 + 1);
        self.engine.mut_store().read_ahead(next, PAGE_BYTES)?;
        if !self.engine.has_ready() {
            return Ok(None);
        }
        let mut ready = self.engine.ready();
        let send = convert::messages(ready.take_messages());
        let send_after = convert::messages(ready.take_persisted_messages());
        let committed: Vec<Entry> = ready.committed_entries().iter().map(from_engine).collect();
        if let Some(entry) = committed.last() {
            self.handed = entry.index;
        }
        let hard = ready.hs().map(convert::hard_state).filter(|hard| {
            // Where commit stands is found again after a restart; it is not worth a sync.
            (hard.term, hard.vote) != (self.stored.term, self.stored.vote)
        });
        self.stored = hard.unwrap_or(self.stored);
        self.engine.mut_store().append(ready.entries());
        let persist = Group { hard, entries: ready.entries().iter().map(from_engine).collect() };
        let number = ready.number();
        self.engine.advance_append_async(ready);
        Ok(Some(Ready { number, send, persist, send_after, committed }))
    }

    /// What [`Ready`] `number` and all before it had to persist is durable.
    pub fn persisted(&mut self, number: u64) {
        self.engine.on_persist_ready(number);
    }

    /// Entries up to `index`, which were handed out as committed, are applied. Says nothing new where a later one was
    /// said to be.
    pub fn applied(&mut self, index: LogIndex) {
        if index.0 <= self.engine.raft.raft_log.applied {
            return;
        }
        self.engine.advance_apply_to(index.0);
        self.engine.mut_store().trim(index);
    }
}
