//! One member of the replicated log: input in, actions out.
//!
//! The order that a driver keeps, and why:
//!
//! 1. [`Core::tick`], then [`Core::step`], then [`Core::propose`]: as much input as there is. A member that stands for
//!    election must have everything on disk that it speaks of, so the tick comes first.
//! 2. [`Core::ready`], until it has nothing more; for each:
//!    `send` at once (a leader's followers write while it does), `persist` with one sync, [`Core::persisted`],
//!    then `send_after` (a promise to others stands on one's own disk first), then `committed` to whoever applies.
//! 3. [`Core::applied`], once applied: only then does the log forget its copy in memory.
//!
//! An entry is committed only when it is on this member's disk too, even where others would be enough.

use crate::tsdb_log::core::rounds::Rounds;
use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::EntryKind;
use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::entry::Message;
use crate::tsdb_log::entry::MessageKind;
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
use std::collections::BTreeSet;
use std::sync::Arc;

mod convert;
mod members;
mod rounds;
#[cfg(test)]
mod tests;

pub use members::Follower;

/// Most bytes of entries handed out as committed at once, and read ahead when the log is replayed.
const PAGE_BYTES: u64 = 8 << 20;
/// Most bytes of entries in one message to a follower.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Messages with entries that a follower may have unanswered.
const MESSAGES_IN_FLIGHT: usize = 256;

/// Ticks between voters that stand for election as the way to the leader is broken: more than an election takes.
const STAND_APART: usize = 2;

/// How a member counts time, in ticks of its driver.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub node: NodeId,
    /// Whoever heard of a leader votes for nobody else for so long. The same on all members: leases rest on it.
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    /// What a member draws its patience from. Differs among members, so that two seldom stand for election at once.
    pub seed: u64,
}

impl Options {
    /// For the embedded store, whose one voter elects itself when told to.
    pub fn alone(node: NodeId) -> Options {
        Options { node, election_ticks: 10, heartbeat_ticks: 2, seed: node.0 }
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
    /// Durable on a majority, and here: to be applied, in order.
    pub committed: Vec<Entry>,
    /// Who takes part from each of those entries on that change it.
    pub members: Vec<(LogIndex, Members)>,
    /// The heartbeats among what is to be sent ask for answers to this round.
    pub round: Option<u64>,
}

/// Why a proposal was not taken: only the leader takes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotLeader {
    /// Who leads, as far as this member knows.
    pub leader: Option<NodeId>,
}

pub struct Core {
    engine: RawNode<Shelf>,
    options: Options,
    /// The last committed entry handed out.
    handed: LogIndex,
    /// What the log store was last told.
    stored: HardState,
    members: Members,
    rounds: Rounds,
    /// Chance, from the seed.
    chance: u64,
    /// Ticks without a sign of a leader after which it stands for election.
    patience: usize,
    /// The way to the leader is broken: how long it had not been heard of when that was last looked at.
    hurry: Option<usize>,
    /// Ticks in which it votes for nobody. It cannot know whom it heard of before it was started.
    abstains: usize,
}

impl Core {
    /// A member as its disk remembers it: `members` as of entry `applied`. Entries up to that are not handed out again.
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
            // The engine draws a number between these; ours is put in its place before it counts.
            min_election_tick: options.election_ticks,
            max_election_tick: options.election_ticks * 2,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: MESSAGES_IN_FLIGHT,
            max_committed_size_per_ready: PAGE_BYTES,
            check_quorum: true,
            pre_vote: true,
            // See `Core::propose`.
            batch_append: false,
            skip_bcast_commit: true,
            ..raft::Config::default()
        };
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let engine = RawNode::new(&config, shelf, &silent)
            .map_err(|error| FsError::Damaged(format!("the log cannot be taken up: {error}")))?;
        let alone = members.decides_alone(options.node);
        let mut core = Core {
            engine,
            options,
            handed: applied,
            stored: hard,
            members: members.clone(),
            rounds: Rounds::default(),
            chance: options.seed,
            patience: 0,
            hurry: None,
            abstains: if alone { 0 } else { options.election_ticks },
        };
        core.draw_patience();
        Ok(core)
    }

    /// Between one and two election timeouts.
    fn draw_patience(&mut self) {
        // SplitMix64: the same on every machine.
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.chance;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let ticks = self.options.election_ticks as u64;
        self.patience = (ticks + (drawn ^ (drawn >> 31)) % ticks) as usize;
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

    /// Who leads, as far as this member knows.
    pub fn leader(&self) -> Option<NodeId> {
        let leader = self.engine.raft.leader_id;
        (leader != 0).then_some(NodeId(leader))
    }

    pub fn term(&self) -> Term {
        Term(self.engine.raft.term)
    }

    /// Up to here the log is committed, as far as this member knows.
    pub fn commit(&self) -> LogIndex {
        LogIndex(self.engine.raft.raft_log.committed)
    }

    /// The last committed entry that was handed out.
    pub fn handed(&self) -> LogIndex {
        self.handed
    }

    /// The log's last entry, on disk or on its way.
    pub fn last(&self) -> LogIndex {
        LogIndex(self.engine.raft.raft_log.last_index())
    }

    /// Whether this leader has committed something of its own: only then does it know everything that is committed.
    pub fn is_settled(&self) -> bool {
        self.is_leader() && self.engine.raft.commit_to_current_term()
    }

    /// Puts an entry at the log's end and says where. Both parts are kept as they are, without a copy.
    ///
    /// # Errors
    /// [`NotLeader`].
    pub fn propose(&mut self, header: Bytes, body: Bytes) -> Result<LogIndex, NotLeader> {
        // The engine can add entries to a message that is not sent yet, but adds them without looking to one that has none, and
        // was made for another place in the log. So only where all such messages are of proposals.
        if self.engine.raft.msgs.is_empty() {
            self.engine.set_batch_append(true);
        }
        let entry = eraftpb::Entry { context: header, data: body, ..eraftpb::Entry::default() };
        let message = eraftpb::Message {
            msg_type: eraftpb::MessageType::MsgPropose,
            from: self.engine.raft.id,
            entries: vec![entry].into(),
            ..eraftpb::Message::default()
        };
        if !self.is_leader() || self.engine.step(message).is_err() {
            // A leader that hands over takes nothing more, and is not the one to turn to.
            let leader = self.leader().filter(|leader| *leader != self.options.node);
            return Err(NotLeader { leader });
        }
        Ok(self.last())
    }

    /// Takes a message from another member. One that makes no sense here is dropped, as if the network had lost it.
    ///
    /// # Errors
    /// `Damaged` where this member once acknowledged what its log has not: its disk is an old copy, or has lost something.
    /// It must stop.
    pub fn step(&mut self, message: Message) -> Result<(), FsError> {
        if message.to != self.options.node || message.from == self.options.node {
            return Ok(());
        }
        let last = self.last();
        match message.kind {
            MessageKind::RequestVote | MessageKind::RequestPreVote if self.abstains > 0 => {
                return Ok(());
            }
            // A lone voter would lead at once, with entries that are not on its disk.
            MessageKind::TimeoutNow if self.engine.raft.raft_log.persisted < last.0 => {
                return Ok(());
            }
            // A leader speaks of no more than what it was told is on this disk.
            MessageKind::Heartbeat if message.term >= self.term() && message.commit > last => {
                return Err(FsError::Damaged(format!(
                    "the log ends with entry {}, but this node has told the leader that it has entry {}: its disk is an \
                     old copy or has lost what was synced; remove the node and add it as a new one",
                    last.0, message.commit.0
                )));
            }
            MessageKind::HeartbeatResponse if message.term == self.term() && self.is_leader() => {
                self.rounds.answered(self.term(), message.from, &message.context);
            }
            _ => {}
        }
        self.engine.set_batch_append(false);
        let message = convert::message_to_engine(message);
        if let Err(error) = self.engine.step(message) {
            tracing::debug!(%error, "dropped a message");
        }
        Ok(())
    }

    /// A tick of the driver's clock has passed. Ticks that were missed are not made up for: whoever slept has not listened.
    pub fn tick(&mut self) {
        debug_assert_eq!(self.engine.raft.raft_log.persisted, self.last().0, "ticks come first");
        self.abstains = self.abstains.saturating_sub(1);
        self.engine.set_batch_append(false);
        let unheard = self.engine.raft.election_elapsed;
        if self.hurry.is_some_and(|before| unheard < before) {
            // It was heard of again.
            self.hurry = None;
            self.draw_patience();
        }
        self.engine.raft.set_randomized_election_timeout(self.patience);
        self.engine.tick();
        let unheard = self.engine.raft.election_elapsed;
        self.hurry = self.hurry.filter(|_| !self.is_leader()).map(|_| unheard);
        if !self.is_leader() && self.engine.raft.election_elapsed == 0 {
            // It has just stood for election. Next time it waits for another while.
            self.draw_patience();
        }
    }

    /// The member could not be reached: what is under way to it is probably lost.
    pub fn unreachable(&mut self, node: NodeId) {
        self.engine.report_unreachable(node.0);
        if self.leader() == Some(node) && !self.is_leader() {
            self.hurry_without(node);
        }
    }

    /// The way to the leader is broken, as when its process has died. It is waited for no longer than has to be, which others rely
    /// on; and by their numbers the voters stand one after the other, so that no two stand at once.
    fn hurry_without(&mut self, leader: NodeId) {
        let others = self.members.voters.iter().filter(|voter| **voter != leader);
        let mut others = others.enumerate();
        let Some((rank, _)) = others.find(|(_, voter)| **voter == self.options.node) else {
            return;
        };
        self.patience = self.patience.min(self.options.election_ticks + rank * STAND_APART);
        self.hurry = Some(self.engine.raft.election_elapsed);
    }

    /// Who needs a table, as the log does not reach back to what they have; since this was last asked.
    pub fn take_behind(&mut self) -> BTreeSet<NodeId> {
        let behind = self.engine.mut_store().take_behind();
        // Once it has a table it knows more than it said. Asked about the newest entry, it says again what it has.
        let next = self.last().0 + 1;
        for node in &behind {
            if let Some(progress) = self.engine.raft.mut_prs().get_mut(node.0) {
                progress.become_probe();
                progress.next_idx = next;
            }
        }
        behind
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
        let mut send = convert::messages(ready.take_messages());
        let mut send_after = convert::messages(ready.take_persisted_messages());
        let committed: Vec<Entry> = ready.committed_entries().iter().map(from_engine).collect();
        let hard = self.hard_to_store(!ready.entries().is_empty());
        if hard.is_some_and(|hard| self.is_leader() && hard.term != self.stored.term) {
            // A lone voter leads before its vote is on disk; nobody else may hear of its reign before.
            send_after.splice(..0, send.drain(..));
        }
        self.stored = hard.unwrap_or(self.stored);
        self.engine.mut_store().append(ready.entries());
        let persist = Group { hard, entries: ready.entries().iter().map(from_engine).collect() };
        let number = ready.number();
        self.engine.advance_append_async(ready);
        self.engine.set_batch_append(false);
        let members = self.hand_out(&committed)?;
        let round = self.rounds.mark(self.term(), send.iter_mut().chain(&mut send_after));
        Ok(Some(Ready { number, send, persist, send_after, committed, members, round }))
    }

    /// Where commit stands is not worth a sync, but it goes along with entries: a member that has an entry behind a change
    /// of members must know that the change is committed, or it might stand for election among the former ones.
    fn hard_to_store(&self, with_entries: bool) -> Option<HardState> {
        let hard = convert::hard_state(&self.engine.raft.hard_state());
        let voted = (hard.term, hard.vote) != (self.stored.term, self.stored.vote);
        (voted || (with_entries && hard.commit > self.stored.commit)).then_some(hard)
    }

    /// Takes up the changes of members among committed entries, in order.
    fn hand_out(&mut self, committed: &[Entry]) -> Result<Vec<(LogIndex, Members)>, FsError> {
        let mut changed = Vec::new();
        for entry in committed {
            self.handed = entry.index;
            if entry.kind == EntryKind::Members {
                self.take_up(entry)?;
                changed.push((entry.index, self.members.clone()));
            }
        }
        Ok(changed)
    }

    /// What [`Ready`] `number` and all before it had to persist is durable.
    pub fn persisted(&mut self, number: u64) {
        self.engine.set_batch_append(false);
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
