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

/// Who takes part. Stored with the log: a member learns it from its disk, not from its settings.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Members {
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
}

impl Members {
    /// One voter: the embedded store.
    pub fn alone(node: NodeId) -> Members {
        Members { voters: vec![node], learners: Vec::new() }
    }
}

/// What a message between members is. The engine's local messages never travel, so they are not here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MessageKind {
    Propose,
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    Heartbeat,
    HeartbeatResponse,
    TransferLeader,
    TimeoutNow,
    ReadIndex,
    ReadIndexResponse,
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
