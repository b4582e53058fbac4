//! What the cluster's plans ask of this node: its log, its blocks, the way to others.
//!
//! Not here: the plans (`cluster`).

use crate::net::NetError;
use crate::net::Wait;
use crate::tsdb_log::entry::Members;
use crate::tsdb_server::cluster::Cluster;
use crate::tsdb_server::cluster::headroom::Headroom;
use crate::tsdb_server::cluster::seams::Copies;
use crate::tsdb_server::cluster::seams::Follower;
use crate::tsdb_server::cluster::seams::Membership;
use crate::tsdb_server::cluster::seams::Others;
use crate::tsdb_server::node::Node;
use crate::tsdb_server::peers::Peers;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::cluster::Progress;
use crate::wire::message;
use crate::wire::message::Request;
use crate::wire::message::Response;
use crate::wire::message::Standing;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// A node that says nothing for so long, not even how far it is, is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// For a number that a node has at hand.
const AT_ONCE: Duration = Duration::from_secs(2);

pub(super) struct Hands {
    pub(super) here: NodeId,
    pub(super) node: Arc<Node>,
    pub(super) peers: Arc<Peers>,
}

impl Membership for Hands {
    fn members(&self) -> Members {
        self.node.members()
    }

    fn leader(&self) -> Option<NodeId> {
        self.node.leadership().leader
    }

    fn term(&self) -> u64 {
        self.node.leadership().term.0
    }

    fn committed(&self) -> LogIndex {
        self.node.commit()
    }

    fn followers(&self) -> Vec<Follower> {
        let commit = self.node.commit();
        let follower = |other: crate::tsdb_log::core::Follower| Follower {
            node: other.node,
            answers: other.active,
            lag: commit.0.saturating_sub(other.matched.0),
        };
        self.node.followers().into_iter().map(follower).collect()
    }

    fn change(
        &self,
        from: Members,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
    ) -> Result<(), FsError> {
        self.node.change_members(from, voters, learners)
    }

    fn hand_over(&self, to: NodeId) -> Result<(), FsError> {
        self.node.transfer_leader(to)
    }
}

impl Copies for Hands {
    fn standing(&self, node: NodeId) -> Option<Standing> {
        if node == self.here {
            return Some(self.node.standing());
        }
        let pair = self.peers.pair(node)?;
        let request = message::encode(&Request::Standing);
        let answer = pair.control.call(message::REQUEST, request, Bytes::new(), AT_ONCE).ok()?;
        match message::decode(&answer.meta).ok()? {
            Response::Standing(standing) => Some(standing),
            _ => None,
        }
    }

    fn heard_of_headroom(&self, headroom: Option<Headroom>) {
        self.node.heard_of_headroom(headroom);
    }
}

impl Others for Hands {
    fn reaches(&self, node: NodeId) -> bool {
        self.peers.pair(node).is_some()
    }

    fn ask(
        &self,
        node: NodeId,
        ask: &Ask,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Answer, FsError> {
        let gone = |error: NetError| FsError::Unreachable(format!("node {}: {error}", node.0));
        let pair = self.peers.pair(node).ok_or_else(|| {
            FsError::Unreachable(format!("node {} cannot be reached from here", node.0))
        })?;
        let (tell, told) = mpsc::channel();
        let on_answer = Box::new(move |answer| {
            // Whoever asks waits for the last of them, or has given up.
            let _ = tell.send(answer);
        });
        let meta = message::encode(&Request::Cluster(ask.clone()));
        let (kind, tail, wait) = (message::REQUEST, Bytes::new(), Wait::UpTo(AT_ONCE));
        pair.control.ask(kind, meta, tail, PATIENCE, wait, on_answer).map_err(gone)?;
        loop {
            let answer = told.recv().map_err(|_| FsError::Closing)?.map_err(gone)?;
            match message::decode(&answer.meta)? {
                Response::Cluster(Answer::Progress(far)) => {
                    if progress(far).is_break() {
                        return Err(FsError::Closing);
                    }
                }
                Response::Cluster(answer) => return Ok(answer),
                Response::Failed(error) => return Err(error),
                other => return Err(FsError::Io(format!("another answer: {other:?}"))),
            }
        }
    }
}

/// Asks the node that leads whether blocks that this one need not have are where they are to be.
pub(super) fn is_at_home(
    peers: &Arc<Peers>,
    cluster: &Arc<Cluster>,
) -> impl Fn(u64, LogIndex) -> Result<bool, FsError> + Send + use<> {
    let (peers, cluster) = (Arc::downgrade(peers), Arc::downgrade(cluster));
    move |number, named| {
        let cluster = cluster.upgrade().ok_or(FsError::Closing)?;
        let leader = match cluster.is_at_home(number, named) {
            Err(FsError::NotLeader { leader: Some(leader) }) => leader,
            Err(FsError::NotLeader { leader: None }) => return Ok(false),
            here => return here,
        };
        let pair = peers.upgrade().ok_or(FsError::Closing)?.pair(leader);
        let request = message::encode(&Request::MayLetGo { number, named });
        // Whoever does not answer does not say yes.
        let answer = pair.and_then(|pair| {
            pair.control.call(message::REQUEST, request, Bytes::new(), AT_ONCE).ok()
        });
        let answer = answer.and_then(|answer| message::decode(&answer.meta).ok());
        Ok(matches!(answer, Some(Response::MayLetGo(true))))
    }
}
