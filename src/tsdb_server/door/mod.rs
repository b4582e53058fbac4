//! Where clients and other nodes come in: their requests, answered by this node.
//!
//! `serve` takes requests off a connection and decides what may be answered on the thread that reads it; `answer` answers. Not
//! here: who may connect at all (`net`), what an answer is made of (`node`, `lock_node`).

mod answer;
mod push;
mod serve;

use crate::meta::op::ClusterOp;
use crate::meta::op::Op;
use crate::meta::record;
use crate::meta::record::Incarnation;
use crate::net::Handler;
use crate::net::Identity;
use crate::net::Peer;
use crate::net::Pool;
use crate::net::Service;
use crate::tsdb_server::cluster::rows;
use crate::tsdb_server::cluster::socket::Asked;
use crate::tsdb_server::lock_node::LockNode;
use crate::tsdb_server::member::greeting::Greeting;
use crate::tsdb_server::node::Node;
use crate::types::NodeId;
use crate::wire::Server;
use crate::wire::greeting::Purpose;
use crate::wire::greeting::Refusal;
use crate::wire::greeting::Why;
use crate::wire::message;
use crate::wire::message::Hello;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::OnceLock;

/// Threads for requests that wait: for somebody to give an inode back, for the disk, for a majority. Beyond it they queue.
const WAITING_MAX: usize = 128;
/// And for those that only wait for the log.
const OFFICE_MAX: usize = 16;
/// Requests that may queue for them. Each connection has few unanswered, so this is not reached but by very many clients.
const QUEUE_MAX: usize = 16_384;

pub struct Door {
    node: Arc<Node>,
    locks: Arc<LockNode>,
    pool: Pool,
    /// For what must not queue behind those who wait for others.
    office: Pool,
    /// What commands ask, which other nodes pass on.
    asked: Arc<Asked>,
    greeting: Arc<Greeting>,
    on_behind: OnceLock<OnBehind>,
}

/// Called where another node says that the log cannot bring this one up to date. It must not wait.
type OnBehind = Box<dyn Fn(NodeId) + Send + Sync>;

impl Door {
    pub(super) fn new(
        node: Arc<Node>,
        locks: Arc<LockNode>,
        asked: Arc<Asked>,
        greeting: Arc<Greeting>,
    ) -> Arc<Door> {
        let pool = Pool::new("door", WAITING_MAX, QUEUE_MAX);
        let office = Pool::new("door-office", OFFICE_MAX, QUEUE_MAX);
        Arc::new(Door { node, locks, pool, office, asked, greeting, on_behind: OnceLock::new() })
    }

    /// The first call counts.
    pub fn on_behind(&self, call: impl Fn(NodeId) + Send + Sync + 'static) {
        let _ = self.on_behind.set(Box::new(call));
    }

    fn told_behind(&self, by: NodeId) {
        if let Some(call) = self.on_behind.get() {
            call(by);
        }
    }

    /// Whether somebody may come in with this greeting.
    fn check(&self, peer: &Peer, hello: &Hello) -> Result<(), Refusal> {
        if hello.store != self.greeting.store() {
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
            Identity::Node { node, .. } => self.check_node(*node, hello),
            _ => Ok(()),
        }
    }

    /// Whether a node is what it says: one of the cluster's, with all that it ever confirmed.
    fn check_node(&self, node: NodeId, hello: &Hello) -> Result<(), Refusal> {
        let refused = |sentence: String| Refusal::new(Why::Other, sentence);
        let rows = rows::nodes(&*self.node)
            .map_err(|error| refused(format!("this node's store: {error}")))?;
        // A node that has just joined knows nobody yet; those that let it in do.
        if rows.is_empty() {
            return Ok(());
        }
        let row = rows.iter().find(|(known, _)| *known == node).map(|(_, row)| row);
        self.greeting.admit(hello, row).map_err(refused)?;
        self.note_start(node, hello, row);
        Ok(())
    }

    /// The leader writes down that a node was started, so that an older copy of its disk is known.
    fn note_start(&self, node: NodeId, hello: &Hello, row: Option<&record::Node>) {
        let (Some(life), Some(row)) = (hello.life, row) else { return };
        if (row.starts, row.boot) == (life.starts, hello.boot) || !self.node.leadership().here {
            return;
        }
        let started = ClusterOp::NodeStarted {
            node,
            incarnation: Incarnation(life.incarnation),
            starts: life.starts,
            boot: hello.boot,
        };
        let server = Arc::clone(&self.node);
        // Where it is not done now it is when the node connects again.
        let _ = self.pool.run(move || {
            if let Err(error) = server.administer(Op::Cluster(started)) {
                tracing::debug!(node = node.0, %error, "the start of a node was not noted");
            }
        });
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
        Ok((Arc::new(service), self.0.greeting.bytes()))
    }
}
