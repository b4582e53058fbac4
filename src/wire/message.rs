//! The messages between clients and nodes, and among nodes: what the meta part of a packet holds, in postcard.
//!
//! Variants are only ever added at the end. Bytes that are long already travel in the packet's tail, untouched: batches and
//! frames. Not here: how packets are told apart in a stream (`packet`).

use crate::meta::op::Op;
use crate::meta::op::Outcome;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Version;
use crate::tsdb_log::entry::Message;
use crate::types::AsOf;
use crate::types::BatchSeq;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::Term;
use crate::types::placement::Placement;
use crate::wire::Circled;
use crate::wire::Copying;
use crate::wire::Moment;
use crate::wire::Page;
use crate::wire::Recall;
use crate::wire::Status;
use crate::wire::Waiting;
use crate::wire::Welcome;
use crate::wire::Whole;
use crate::wire::cluster;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The kinds of packets, by what their meta part holds: a [`Request`], a [`Response`], a [`Told`].
pub const REQUEST: u16 = 1;
pub const RESPONSE: u16 = 2;
pub const TOLD: u16 = 3;

/// What both sides say first, besides the version of the protocol.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The store that the caller belongs to.
    pub store: [u8; 16],
    /// Which node, where it is one.
    pub node: Option<NodeId>,
    /// Drawn when the process started: what it had not made durable is gone where this is another.
    pub boot: u64,
    /// What rows and ops the program knows.
    pub features: u32,
    /// Of a node: what it has on its disk.
    pub life: Option<Life>,
}

/// A node's process, and how far the log on its disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Life {
    /// Of the disk.
    pub incarnation: [u8; 16],
    /// How often it was started on that, this time included.
    pub starts: u64,
    /// The newest term that it knows of.
    pub term: Term,
    /// The last entry.
    pub last: LogIndex,
}

/// A node and where it listens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeAt {
    pub node: NodeId,
    /// `HOST:PORT`.
    pub address: String,
}

/// The cluster as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct View {
    pub leader: Option<NodeId>,
    pub term: u64,
    pub nodes: Vec<NodeAt>,
    /// Those that decide, while that changes the ones before as well. What a majority of them has on disk is durable.
    pub voters: Vec<NodeId>,
    /// Where there is one, whose disks count for which block.
    pub placement: Placement,
}

/// What a node says of itself to the one that leads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// The feature level that it knows.
    pub features: u32,
    /// It has applied the log up to here, or further, and of the blocks that are named up to here has all that it is to have.
    pub complete: LogIndex,
    /// Its rows are of this placement; `None` while they are made so.
    pub placed: Option<u64>,
    /// Blocks that it should have and has not.
    pub lacks: u64,
    /// Bytes of the disk that its store is on.
    pub disk_total: u64,
    pub disk_free: u64,
    /// Bytes that may still be written there: what is free less the reserve.
    pub room: u64,
    /// What its disk takes of late for a write to the log that is synced, in microseconds; `None` where there were few.
    pub sync_us: Option<u64>,
}

impl Standing {
    /// Blocks that the node should have by this placement and has not; `None` where it does not know yet.
    pub fn lacks_by(&self, placement: &Placement) -> Option<u64> {
        let knows = placement.is_everywhere() || self.placed == Some(placement.number);
        knows.then_some(self.lacks)
    }
}

/// How long a session's rights last from when they were asked for, and what it owns besides what it made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Renewed {
    pub lease_ms: u64,
    /// If it has it.
    pub whole: Option<Whole>,
    /// Bytes that may still be written.
    pub space: u64,
}

/// What is asked. A session's number goes along where the answer depends on who asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Between members of the log. Not answered.
    Log(Vec<Message>),
    View,
    OpenSession {
        client: String,
        /// Drawn by the client. Asked again with the same, it is the same session.
        opening: u64,
    },
    /// What the server has to tell this session comes over this connection from now on. Also a renewal.
    Attend {
        session: SessionId,
    },
    Renew {
        session: SessionId,
    },
    GrantInos {
        session: SessionId,
        count: u64,
    },
    /// The tail is the batch. Answered with `Applied`.
    Propose {
        session: SessionId,
        seq: BatchSeq,
        ops: u32,
    },
    Get {
        session: SessionId,
        keys: Vec<Bytes>,
        at: AsOf,
    },
    Scan {
        session: SessionId,
        range: KeyRange,
        at: AsOf,
        direction: Direction,
        limit: u32,
    },
    Versions {
        key: Bytes,
        since: Stamp,
        until: Stamp,
        limit: u32,
    },
    Ended {
        range: KeyRange,
        since: Stamp,
        until: Stamp,
        limit: u32,
    },
    State {
        range: KeyRange,
        limit: u32,
    },
    Changes {
        since: Stamp,
        until: Stamp,
        limit: u32,
    },
    Barrier {
        session: SessionId,
    },
    /// The tail is the frame.
    PutBlock {
        block: BlockId,
    },
    SyncBlocks,
    /// The answer's tail is the frame.
    Block {
        block: BlockId,
    },
    Status,
    Administer {
        by: Option<u32>,
        ops: Vec<Op>,
    },
    /// The answer to `Told::Flush`, with its number.
    Flushed {
        session: SessionId,
        number: u64,
    },
    /// Of a command, or of a node that passes it on. Answered once or more.
    Cluster(cluster::Ask),
    /// Of a program that has a token and no certificate.
    Join(Box<cluster::Join>),
    /// Of a node: a checkpoint of the table. Answered with `Table`.
    LendTable,
    /// A part of one of its files, in the tail of the answer.
    TableChunk {
        lent: u64,
        file: u32,
        offset: u64,
        bytes: u32,
    },
    /// It is not needed any more.
    TableDone {
        lent: u64,
    },
    /// Told to a node: the log does not reach back to what it has. It is to take over the table of whoever tells it.
    Behind,
    /// Of a node: how many blocks it should have and has not. Answered with `First`.
    Lacks,
    /// As whoever is asked knows it: perhaps old, while nobody leads.
    LastKnown(LastKnown),
    /// As `Get` of the present; what of it may be kept is told with it. Answered with `Copied`.
    Copy {
        session: SessionId,
        keys: Vec<Bytes>,
    },
    /// As `Scan` of the present, likewise. Answered with `CopiedPage`.
    CopyPage {
        session: SessionId,
        range: KeyRange,
        direction: Direction,
        limit: u32,
    },
    /// What the session has copies of is to count for longer. Answered with `Copying`.
    KeepCopies {
        session: SessionId,
    },
    /// The answer to `Told::TakeBack`, with its number.
    GivenBack {
        session: SessionId,
        number: u64,
    },
    /// Of a node. Answered with `Standing`.
    Standing,
    /// Of a node, which has blocks that it need not have: whether all that the log names up to this entry is at home. Answered
    /// with `MayLetGo`.
    MayLetGo {
        /// Of the placement that it knows.
        number: u64,
        named: LogIndex,
    },
    /// For what the session's programs wait that other mounts have locked, all of it. Answered with `Circled`.
    Waits {
        session: SessionId,
        /// The last one that it was told of when it said so.
        after: Moment,
        waits: Vec<Waiting>,
    },
}

/// What is asked of anybody.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LastKnown {
    /// As `Get` of the present.
    Rows { keys: Vec<Bytes> },
    /// As `Scan` of the present.
    Page { range: KeyRange, direction: Direction, limit: u32 },
    /// As `State`.
    State { range: KeyRange, limit: u32 },
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    Failed(FsError),
    Done,
    View(View),
    Opened {
        welcome: Welcome,
        lease_ms: u64,
    },
    Renewed(Renewed),
    First(u64),
    /// Not sent: what is committed may yet be refused when it is applied.
    Durable(Stamp),
    Applied {
        outcome: Outcome,
        stamp: Stamp,
    },
    Rows(Vec<Option<Bytes>>),
    Page(Page),
    Versions(Vec<Version>),
    Ended(Vec<(Bytes, Version)>),
    Stamp(Stamp),
    /// The frame is in the tail.
    Frame,
    Status(Box<Status>),
    Cluster(cluster::Answer),
    Joined(Box<cluster::Joined>),
    /// A checkpoint is lent: what is to be read of it (`tsdb_server::data::stream`).
    Table {
        lent: u64,
        plan: Bytes,
    },
    Copied {
        rows: Vec<Option<Bytes>>,
        copying: Copying,
    },
    CopiedPage {
        page: Page,
        copying: Copying,
    },
    Copying(Copying),
    Standing(Standing),
    MayLetGo(bool),
    Circled(Circled),
}

/// What a node tells a session unasked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Told {
    Recall(Recall),
    Flush {
        number: u64,
    },
    Whole(Whole),
    Ended {
        why: String,
    },
    /// A lock has gone that was in the way of one which the session wanted.
    Unlocked {
        ino: Ino,
    },
    /// No copy of these is to be kept any more, or none at all. Answered with `GivenBack`.
    TakeBack {
        number: u64,
        inos: Option<Vec<Ino>>,
    },
}

/// The kind of packets that carry a [`Request`] and its [`Response`]s.
pub const KIND: u16 = 1;

/// The meta part of a packet.
pub fn encode(message: &impl Serialize) -> Bytes {
    postcard::to_stdvec(message).expect("messages have nothing unserializable").into()
}

/// # Errors
/// `Io` where the bytes are no such message, which a program of the same protocol never sends.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FsError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(FsError::Io("a message has bytes behind its end".to_owned())),
        Err(error) => Err(FsError::Io(format!("a message cannot be read: {error}"))),
    }
}
