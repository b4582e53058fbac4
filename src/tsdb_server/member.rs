//! A node of a cluster, put together: store, way to the others, rights of sessions, and the door they come in by.
//!
//! The order of taking apart is the order of dropping: first nobody comes in any more, then nothing is done for those who
//! waited, then the store closes. Not here: which nodes there are (the caller reads it from the store and says so).

use crate::env;
use crate::env::Clock;
use crate::net::Bounds;
use crate::net::Credentials;
use crate::net::Listen;
use crate::net::ListenSecurity;
use crate::net::Listener;
use crate::net::Net;
use crate::net::Networks;
use crate::store::disk::Disk;
use crate::tsdb_server::door::Door;
use crate::tsdb_server::door::Porter;
use crate::tsdb_server::lock_node::LockNode;
use crate::tsdb_server::node::Among;
use crate::tsdb_server::node::Node;
use crate::tsdb_server::open;
use crate::tsdb_server::peers::Peers;
use crate::types::FsError;
use crate::types::NodeId;
use crate::wire::message::Hello;
use crate::wire::message::NodeAt;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Connections that a node has at most: two for each client and each other node.
const CONNECTIONS_MAX: usize = 4096;
/// Another node has so long to take over when this one stops in order.
const HAND_OVER: Duration = Duration::from_secs(2);

/// How a node takes part.
pub struct Options {
    pub dir: PathBuf,
    pub node: NodeId,
    /// Address and port, as `0.0.0.0:7000`.
    pub listen: String,
    pub networks: Networks,
    pub credentials: Arc<Credentials>,
    /// The nodes that are known at the start, this one included.
    pub nodes: Vec<NodeAt>,
    pub store: open::Options,
}

/// A running node. Dropping it stops it; [`Member::stop`] hands over before.
pub struct Member {
    listener: Option<Listener>,
    locks: Arc<LockNode>,
    peers: Arc<Peers>,
    node: Arc<Node>,
    leads: Arc<Leads>,
}

/// Whether this node leads, for who waits until it does not.
#[derive(Default)]
struct Leads {
    here: Mutex<bool>,
    changed: Condvar,
}

impl Leads {
    fn set(&self, here: bool) {
        *self.here.lock() = here;
        self.changed.notify_all();
    }

    fn wait_for_end(&self, at_most: Duration) {
        let mut here = self.here.lock();
        self.changed.wait_while_for(&mut here, |here| *here, at_most);
    }
}

impl Member {
    /// Opens the store and lets others in.
    ///
    /// # Errors
    /// As for [`Node::open`]; `Io` where the address cannot be used.
    pub fn start(
        options: Options,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<Member, FsError> {
        let Options { dir, node: id, listen, networks, credentials, nodes, store } = options;
        let net = Net::start(clock.clone(), Bounds::default())?;
        let hello = Hello {
            store: credentials.current().store().0,
            node: Some(id),
            boot: u64::from_le_bytes(env::random()),
            features: crate::meta::apply::FEATURES,
        };
        let peers = Peers::new(net.clone(), credentials.clone(), hello.clone());
        let node = Node::open_among(
            &dir,
            disk,
            clock.clone(),
            &store,
            Among { node: id, peers: peers.clone() },
        )?;
        node.set_nodes(nodes.clone());
        let leads = Arc::new(Leads::default());
        let told = leads.clone();
        node.on_leader_change(move |leadership| told.set(leadership.here));
        leads.set(node.leadership().here);
        let locks = LockNode::start(&node, clock)?;
        let broken = Arc::downgrade(&node);
        peers.on_broken(move |other| {
            if let Some(node) = broken.upgrade() {
                node.unreachable(other);
            }
        });
        peers.meet(&nodes)?;
        let door = Door::new(node.clone(), locks.clone(), hello);
        let listener = Listener::bind(
            &net,
            Listen {
                address: listen,
                security: ListenSecurity::Tls { credentials, strangers: true },
                networks,
                connections_max: CONNECTIONS_MAX,
                handler: Arc::new(Porter(door)),
            },
        )?;
        Ok(Member { listener: Some(listener), locks, peers, node, leads })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(Listener::address)
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub fn locks(&self) -> &Arc<LockNode> {
        &self.locks
    }

    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// The nodes are these from now on.
    ///
    /// # Errors
    /// `Io` where there can be no more threads.
    pub fn meet(&self, nodes: &[NodeAt]) -> Result<(), FsError> {
        self.node.set_nodes(nodes.to_vec());
        self.peers.meet(nodes)
    }

    /// Stops in order: another node leads first, where there is one that can.
    ///
    /// # Errors
    /// What the store says at closing; it is closed all the same.
    pub fn stop(mut self) -> Result<(), FsError> {
        self.hand_over();
        drop(self.listener.take());
        self.locks.stop();
        self.node.close()
    }

    fn hand_over(&self) {
        if !self.node.leadership().here {
            return;
        }
        let voters = self.node.members().voters;
        let followers = self.node.followers();
        let able = followers.iter().filter(|other| voters.contains(&other.node) && other.active);
        let Some(next) = able.max_by_key(|other| other.matched) else { return };
        if let Err(error) = self.node.transfer_leader(next.node) {
            return tracing::warn!(%error, "the node stops while it leads");
        }
        self.leads.wait_for_end(HAND_OVER);
    }
}
