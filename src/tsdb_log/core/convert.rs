//! Between our messages and the engine's, field by field.

use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::entry::Message;
use crate::tsdb_log::entry::MessageKind;
use crate::tsdb_log::members::Step;
use crate::tsdb_log::shelf::from_engine;
use crate::tsdb_log::shelf::to_engine;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use raft::eraftpb;
use raft::eraftpb::ConfChangeTransition;
use raft::eraftpb::ConfChangeType;
use raft::eraftpb::MessageType;

/// Our kinds and the engine's, in pairs.
const KINDS: [(MessageKind, MessageType); 9] = [
    (MessageKind::Append, MessageType::MsgAppend),
    (MessageKind::AppendResponse, MessageType::MsgAppendResponse),
    (MessageKind::RequestVote, MessageType::MsgRequestVote),
    (MessageKind::RequestVoteResponse, MessageType::MsgRequestVoteResponse),
    (MessageKind::Heartbeat, MessageType::MsgHeartbeat),
    (MessageKind::HeartbeatResponse, MessageType::MsgHeartbeatResponse),
    (MessageKind::TimeoutNow, MessageType::MsgTimeoutNow),
    (MessageKind::RequestPreVote, MessageType::MsgRequestPreVote),
    (MessageKind::RequestPreVoteResponse, MessageType::MsgRequestPreVoteResponse),
];

pub(super) fn hard_state(hard: &eraftpb::HardState) -> HardState {
    HardState { term: Term(hard.term), vote: NodeId(hard.vote), commit: LogIndex(hard.commit) }
}

pub(super) fn members(state: &eraftpb::ConfState) -> Members {
    let nodes = |ids: &[u64]| {
        let mut nodes: Vec<_> = ids.iter().copied().map(NodeId).collect();
        nodes.sort_unstable();
        nodes
    };
    Members {
        voters: nodes(&state.voters),
        learners: nodes(&state.learners),
        outgoing: nodes(&state.voters_outgoing),
        demoted: nodes(&state.learners_next),
    }
}

/// One step alone takes effect at once; more of them go through a state in which both majorities count.
pub(super) fn change(steps: &[Step]) -> eraftpb::ConfChangeV2 {
    let single = |step: &Step| {
        let (node, kind) = match *step {
            Step::Voter(node) => (node, ConfChangeType::AddNode),
            Step::Learner(node) => (node, ConfChangeType::AddLearnerNode),
            Step::Gone(node) => (node, ConfChangeType::RemoveNode),
        };
        let mut single = eraftpb::ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = node.0;
        single
    };
    let changes = steps.iter().map(single).collect::<Vec<_>>().into();
    let mut change = eraftpb::ConfChangeV2 { changes, ..eraftpb::ConfChangeV2::default() };
    if steps.len() > 1 {
        change.set_transition(ConfChangeTransition::Explicit);
    }
    change
}

pub(super) fn messages(messages: Vec<eraftpb::Message>) -> Vec<Message> {
    messages.into_iter().filter_map(message_from_engine).collect()
}

/// `None` for a kind that does not travel.
fn message_from_engine(message: eraftpb::Message) -> Option<Message> {
    let (kind, _) = KINDS.iter().find(|(_, theirs)| *theirs == message.msg_type)?;
    Some(Message {
        kind: *kind,
        from: NodeId(message.from),
        to: NodeId(message.to),
        term: Term(message.term),
        index: LogIndex(message.index),
        log_term: Term(message.log_term),
        entries: message.entries.iter().map(from_engine).collect(),
        commit: LogIndex(message.commit),
        commit_term: Term(message.commit_term),
        reject: message.reject,
        reject_hint: LogIndex(message.reject_hint),
        request_snapshot: LogIndex(message.request_snapshot),
        priority: message.priority,
        context: message.context,
    })
}

pub(super) fn message_to_engine(message: Message) -> eraftpb::Message {
    let (_, kind) = KINDS
        .iter()
        .find(|(ours, _)| *ours == message.kind)
        .expect("the table above has a line for each kind");
    eraftpb::Message {
        msg_type: *kind,
        from: message.from.0,
        to: message.to.0,
        term: message.term.0,
        index: message.index.0,
        log_term: message.log_term.0,
        entries: message.entries.iter().map(to_engine).collect::<Vec<_>>().into(),
        commit: message.commit.0,
        commit_term: message.commit_term.0,
        reject: message.reject,
        reject_hint: message.reject_hint.0,
        request_snapshot: message.request_snapshot.0,
        priority: message.priority,
        context: message.context,
        ..eraftpb::Message::default()
    }
}
