//! What commands ask a node about its cluster, and what a program that joins says first.
//!
//! A question is answered by any number of [`Answer::Progress`] and one other answer. They travel in
//! [`Request::Cluster`](crate::wire::message::Request) over the socket in the node's directory; a node that does not lead passes a
//! question on to the one that does. Not here: what a question means (`tsdb_server::cluster`).

use crate::meta::record::Incarnation;
use crate::meta::record::Invited;
use crate::types::NodeId;
use crate::types::Roles;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::wire::message::NodeAt;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

/// The socket of a node, in its store's directory.
pub const SOCKET: &str = "node.sock";

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// [`Answer::Overview`].
    Overview,
    /// A token that works once and for so long: [`Answer::Token`].
    Invite { to: Invited, valid_s: u64 },
    /// A certificate with its key, for a client: [`Answer::Certificate`].
    Certificate { name: String, valid_s: u64 },
    /// Takes a node out, which may be gone already: [`Answer::Done`].
    Remove { node: NodeId },
    /// The same, in one step with `by` coming in.
    Replace { node: NodeId, by: NodeId },
    /// Has a node lead nothing and be nobody's last copy, so that it may be stopped: [`Answer::Done`].
    Drain { node: NodeId },
    /// [`Answer::Clients`].
    Clients,
    /// Ends a client's session; what it has not sent is lost: [`Answer::Done`].
    Evict { session: SessionId },
    /// At most so many: [`Answer::Locks`].
    Locks { limit: u32 },
    /// What a node says of itself when it has started: [`Answer::Done`]. Only of the node itself.
    Announce(Box<Announced>),
    /// Which nodes keep how much: [`Answer::Placement`].
    Placement,
    /// So many copies of each block are wanted: [`Answer::Done`].
    Copies { copies: u8 },
}

/// A node that has started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Announced {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// How often it was started on this disk, and what it drew when it did.
    pub starts: u64,
    pub boot: u64,
    pub name: String,
    pub address: String,
    pub roles: Roles,
}

/// What is answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Answer {
    Progress(Progress),
    Overview(Box<Overview>),
    Token {
        text: String,
        expires: Stamp,
    },
    /// The text of a file.
    Certificate {
        text: String,
        expires: Stamp,
    },
    Clients(Vec<Client>),
    Locks {
        locks: Vec<Lock>,
        more: bool,
    },
    /// What was done, in a sentence.
    Done(String),
    Placement(PlacementState),
}

/// How far something long is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// As "node 4 fetches blocks".
    pub doing: String,
    pub done: u64,
    /// `None`: nobody knows.
    pub total: Option<u64>,
    /// As "blocks".
    pub unit: String,
}

/// The cluster as the node that leads sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Overview {
    pub store: String,
    /// Which node answered.
    pub here: u64,
    pub leader: Option<u64>,
    pub term: u64,
    pub nodes: Vec<NodeState>,
    pub clients: u64,
    /// A sentence for each thing that is not as it should be.
    pub health: Vec<String>,
}

/// What a node is to the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Leads,
    Votes,
    /// It gets everything and does not decide yet.
    Learns,
    /// It is known and takes no part.
    Outside,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeState {
    pub node: u64,
    pub name: String,
    pub address: String,
    pub roles: String,
    pub part: Part,
    /// Whether it answers; of those that the leader does not watch nobody knows.
    pub answers: Option<bool>,
    /// Entries of the log that it has not confirmed.
    pub lag: Option<u64>,
    /// Blocks that it has yet to fetch.
    pub lacks: Option<u64>,
}

/// Where blocks are kept.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PlacementState {
    /// Copies of each block that are wanted.
    pub copies: u8,
    /// Every node keeps every block.
    pub everywhere: bool,
    /// Nodes that are home to blocks by name, or are going to be.
    pub homes: Vec<HomeState>,
    /// Blocks are on their way.
    pub moving: bool,
}

/// How much of everything a node keeps, in thousandths of all blocks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HomeState {
    pub node: u64,
    pub now: u16,
    /// When all is where it is to be.
    pub then: u16,
}

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Client {
    pub session: u64,
    /// What it calls itself, as "host:/mnt/data".
    pub name: String,
    pub opened: Stamp,
    /// How long its rights last, where it is known.
    pub lease_ms: Option<u64>,
    /// It owns everything that nobody else does.
    pub whole: bool,
}

/// Something that somebody holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lock {
    pub session: u64,
    pub client: String,
    /// As "everything that no other client owns", or a file with a range.
    pub what: String,
    /// As "exclusive", "shared".
    pub how: String,
    /// Of a lock on a file: the stamp with which it was taken. Whoever takes one later has a greater one.
    pub token: Option<Stamp>,
}

/// What a program says that wants to join.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Join {
    /// Of the token.
    pub secret: [u8; 32],
    /// The public key that it wants a certificate for, with a proof that it has the private one.
    pub key: Bytes,
    pub who: Joiner,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Joiner {
    Node {
        incarnation: Incarnation,
        name: String,
        address: String,
        roles: Roles,
    },
    /// A client, whose name stands in the invitation.
    Client,
}

/// What it gets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Joined {
    pub store: [u8; 16],
    /// For its key, with the authority's behind it.
    pub certificate: String,
    /// Where the cluster can be reached.
    pub nodes: Vec<NodeAt>,
    /// Its number, if it is a node now.
    pub node: Option<NodeId>,
}
