//! Where clients and other nodes come in: their requests, answered by this node.
//!
//! `serve` takes requests off a connection and decides what may be answered on the thread that reads it; `answer` answers. Not
//! here: who may connect at all (`net`), what an answer is made of (`node`, `lock_node`).

mod answer;
mod push;
mod serve;

use crate::net::Handler;
use crate::net::Identity;
use crate::net::Peer;
use crate::net::Pool;
use crate::net::Service;
use crate::tsdb_server::lock_node::LockNode;
use crate::tsdb_server::node::Node;
use crate::wire::greeting::Purpose;
use crate::wire::greeting::Refusal;
use crate::wire::greeting::Why;
use crate::wire::message;
use crate::wire::message::Hello;
use bytes::Bytes;
use std::sync::Arc;

/// Threads for requests that wait: for somebody to give an inode back, for the disk, for a majority. Beyond it they queue.
const WAITING_MAX: usize = 128;
/// Requests that may queue for them. Each connection has few unanswered, so this is not reached but by very many clients.
const QUEUE_MAX: usize = 16_384;

pub struct Door {
    node: Arc<Node>,
    locks: Arc<LockNode>,
    pool: Pool,
    /// What a node says of itself.
    hello: Hello,
}

impl Door {
    pub fn new(node: Arc<Node>, locks: Arc<LockNode>, hello: Hello) -> Arc<Door> {
        Arc::new(Door { node, locks, pool: Pool::new("door", WAITING_MAX, QUEUE_MAX), hello })
    }

    /// Whether somebody may come in with this greeting.
    fn check(&self, peer: &Peer, hello: &Hello) -> Result<(), Refusal> {
        if hello.store != self.hello.store {
            return Err(Refusal::new(
                Why::Other,
                "this node belongs to another cluster; look at the address, and at which certificate you use",
            ));
        }
        let features = self
            .node
            .features()
            .map_err(|error| Refusal::new(Why::Other, format!("this node's store: {error}")))?;
        if hello.features < features {
            let sentence = format!(
                "this store is used by a newer tsfs (features {features}, yours {}): bring this machine to that version",
                hello.features
            );
            return Err(Refusal::new(Why::Other, sentence));
        }
        match &peer.identity {
            Identity::Node { node, .. } if hello.node != Some(*node) => Err(Refusal::new(
                Why::Other,
                format!("the certificate is node {}'s, and the greeting is not", node.0),
            )),
            Identity::Client { .. } if hello.node.is_some() => Err(Refusal::new(
                Why::Other,
                "the certificate is a client's, and the greeting a node's",
            )),
            _ => Ok(()),
        }
    }
}

/// What lets connections in.
pub struct Porter(pub Arc<Door>);

impl Handler for Porter {
    fn greeted(&self, peer: &Peer, hello: &Bytes) -> Result<(Arc<dyn Service>, Bytes), Refusal> {
        if peer.purpose == Purpose::Join {
            return Err(Refusal::new(Why::Other, "this node does not take new ones in"));
        }
        let hello: Hello =
            message::decode(hello).map_err(|error| Refusal::new(Why::Other, error.to_string()))?;
        self.0.check(peer, &hello)?;
        let service = serve::Serve::new(Arc::clone(&self.0), peer.identity.clone());
        Ok((Arc::new(service), message::encode(&self.0.hello)))
    }
}
