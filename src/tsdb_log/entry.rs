//! What the log holds and what its members say to each other, in types of our own.
//!
//! Not here: the bytes on disk (`store::log`) and on the wire. Nothing that a network sent is ever parsed by the
//! engine's own codec.

use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EntryKind {
    /// Proposed by a driver: a header and a body that the log does not look into. Both empty: a new leader's first
    /// entry, which commits what its predecessors left.
    Command,
    /// Who takes part from here on: the body is a [`Change`](crate::tsdb_log::members::Change), without a header.
    Members,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub index: LogIndex,
    pub term: Term,
    pub kind: EntryKind,
    pub header: Bytes,
    pub body: Bytes,
}

/// What a member must not forget between two answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HardState {
    pub term: Term,
    /// Whom it voted for in this term; node 0 is nobody.
    pub vote: NodeId,
    /// A lower bound of what is committed; it may lag.
    pub commit: LogIndex,
}

/// Who takes part. A member learns it from its disk, not from its settings. Each list is sorted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Members {
    /// A majority of them makes what is in the log committed.
    pub voters: Vec<NodeId>,
    /// They get everything and decide nothing.
    pub learners: Vec<NodeId>,
    /// While a change is under way: the voters before it. A majority of them is needed too.
    pub outgoing: Vec<NodeId>,
    /// Those of `outgoing` that will be learners.
    pub demoted: Vec<NodeId>,
}

/// What a message between members is. What the engine says to itself, or would have a follower pass on to the leader,
/// never travels, so it is not here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MessageKind {
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    Heartbeat,
    HeartbeatResponse,
    TimeoutNow,
    RequestPreVote,
    RequestPreVoteResponse,
}

/// A message between members. Which fields mean something depends on the kind, as in the Raft paper.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Message {
    pub kind: MessageKind,
    pub from: NodeId,
    pub to: NodeId,
    pub term: Term,
    /// Index and term of the entry before `entries`.
    pub index: LogIndex,
    pub log_term: Term,
    pub entries: Vec<Entry>,
    pub commit: LogIndex,
    pub commit_term: Term,
    pub reject: bool,
    pub reject_hint: LogIndex,
    pub request_snapshot: LogIndex,
    pub priority: i64,
    pub context: Bytes,
}
