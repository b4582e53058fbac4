//! What the cluster asks of the parts that it is made of.

use crate::tsdb_log::entry::Members;
use crate::tsdb_server::cluster::headroom::Headroom;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::cluster::Client;
use crate::wire::cluster::Lock;
use crate::wire::cluster::Progress;
use crate::wire::message::Standing;
use std::ops::ControlFlow;

/// Another member, as the one that leads sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Follower {
    pub node: NodeId,
    /// It answered a moment ago.
    pub answers: bool,
    /// Entries of the log that it has not confirmed.
    pub lag: u64,
}

/// The log's members.
pub trait Membership: Send + Sync {
    fn members(&self) -> Members;

    /// Who leads, as far as this node knows.
    fn leader(&self) -> Option<NodeId>;

    fn term(&self) -> u64;

    /// The last entry of the log that is there for good, as far as this node knows.
    fn committed(&self) -> LogIndex;

    /// Empty where this node does not lead.
    fn followers(&self) -> Vec<Follower>;

    /// Has these be all voters and all learners, where the members are still those of `from`. [`Membership::members`] says
    /// when it holds.
    ///
    /// # Errors
    /// `NotLeader`; `Refused` with the reason; `Closing`.
    fn change(
        &self,
        from: Members,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
    ) -> Result<(), FsError>;

    /// Has another voter lead. [`Membership::leader`] says when it does.
    ///
    /// # Errors
    /// As for `change`.
    fn hand_over(&self, to: NodeId) -> Result<(), FsError>;
}

/// Where blocks are.
pub trait Copies: Send + Sync {
    /// How a node stands; `None` where it does not say.
    fn standing(&self, node: NodeId) -> Option<Standing>;

    /// For how much more there is room on all of them, which clients are told; `None` where this node does not know any more.
    fn heard_of_headroom(&self, headroom: Option<Headroom>);
}

/// Who uses the file system.
pub trait Clients: Send + Sync {
    /// # Errors
    /// `Damaged`, `Io`.
    fn clients(&self) -> Result<Vec<Client>, FsError>;

    /// At most `limit` of them; whether there are more.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    fn locks(&self, limit: usize) -> Result<(Vec<Lock>, bool), FsError>;

    /// Ends a session.
    ///
    /// # Errors
    /// `NotFound`, `NotLeader`, `Io`.
    fn evict(&self, session: SessionId) -> Result<(), FsError>;
}

/// The way to the other nodes.
pub trait Others: Send + Sync {
    /// Whether the node's process is there, however long it takes to say anything more.
    fn reaches(&self, node: NodeId) -> bool;

    /// Passes a question on, and what the node says to it.
    ///
    /// # Errors
    /// What the node said; `Unreachable`.
    fn ask(
        &self,
        node: NodeId,
        ask: &Ask,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Answer, FsError>;
}

/// A log with one member, this node: it leads, and has nobody to hand over to.
pub struct Alone(pub NodeId);

impl Membership for Alone {
    fn members(&self) -> Members {
        Members::alone(self.0)
    }

    fn leader(&self) -> Option<NodeId> {
        Some(self.0)
    }

    fn term(&self) -> u64 {
        1
    }

    fn committed(&self) -> LogIndex {
        LogIndex(0)
    }

    fn followers(&self) -> Vec<Follower> {
        Vec::new()
    }

    fn change(&self, _: Members, _: Vec<NodeId>, _: Vec<NodeId>) -> Result<(), FsError> {
        Err(FsError::Refused("this log has one member, and can have no other".to_owned()))
    }

    fn hand_over(&self, to: NodeId) -> Result<(), FsError> {
        Err(FsError::Refused(format!("node {} is no other voter", to.0)))
    }
}

impl Copies for Alone {
    fn standing(&self, _: NodeId) -> Option<Standing> {
        None
    }

    fn heard_of_headroom(&self, _: Option<Headroom>) {}
}

impl Others for Alone {
    fn reaches(&self, _: NodeId) -> bool {
        false
    }

    fn ask(
        &self,
        node: NodeId,
        _: &Ask,
        _: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Answer, FsError> {
        Err(FsError::Unreachable(format!("there is no way to node {}", node.0)))
    }
}
