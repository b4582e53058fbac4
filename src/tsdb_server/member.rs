//! A node of a cluster, put together: store, way to the others, rights of sessions, and the door they come in by.
//!
//! The order of taking apart is the order of dropping: first nobody comes in any more, then nothing is done for those who
//! waited, then the store closes. Not here: which nodes there are (the caller reads it from the store and says so).

pub(in crate::tsdb_server) mod greeting;
mod hands;
mod roster;

use crate::env;
use crate::env::Clock;
use crate::net::Bounds;
use crate::net::Credentials;
use crate::net::Listen;
use crate::net::ListenSecurity;
use crate::net::Listener;
use crate::net::Material;
use crate::net::Net;
use crate::net::Networks;
use crate::store::disk::Disk;
use crate::tsdb_server::catch_up;
use crate::tsdb_server::cluster;
use crate::tsdb_server::cluster::Cluster;
use crate::tsdb_server::cluster::announce::Announcer;
use crate::tsdb_server::cluster::clients::ByLeases;
use crate::tsdb_server::cluster::clients::ByRows;
use crate::tsdb_server::cluster::disk::Identity;
use crate::tsdb_server::cluster::init::Described;
use crate::tsdb_server::cluster::monitor::Monitor;
use crate::tsdb_server::cluster::renew::Renewer;
use crate::tsdb_server::cluster::rows;
use crate::tsdb_server::cluster::socket::Asked;
use crate::tsdb_server::cluster::socket::Entrance;
use crate::tsdb_server::cluster::socket::Local;
use crate::tsdb_server::cluster::work::Pause;
use crate::tsdb_server::data;
use crate::tsdb_server::door::Door;
use crate::tsdb_server::door::Porter;
use crate::tsdb_server::lock_node::LockNode;
use crate::tsdb_server::member::greeting::Greeting;
use crate::tsdb_server::member::hands::Hands;
use crate::tsdb_server::member::roster::Roster;
use crate::tsdb_server::node::Among;
use crate::tsdb_server::node::Node;
use crate::tsdb_server::open;
use crate::tsdb_server::peers::Peers;
use crate::tsdb_server::task::Tasks;
use crate::types::FsError;
use crate::types::NodeId;
use crate::wire::cluster::Announced;
use crate::wire::message::NodeAt;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Connections that a node has at most: two for each client and each other node.
const CONNECTIONS_MAX: usize = 4096;
/// Another node has so long to take over when this one stops in order.
const HAND_OVER: Duration = Duration::from_secs(2);

/// How a node takes part.
#[derive(Clone)]
pub struct Options {
    pub dir: PathBuf,
    /// Address and port, as `0.0.0.0:7000`.
    pub listen: String,
    pub networks: Networks,
    /// The nodes that are known at the start, this one included, where the store's rows do not say it yet.
    pub nodes: Vec<NodeAt>,
    pub store: open::Options,
    pub rates: Rates,
}

/// How fast a node works in the background, and how patient it is.
#[derive(Clone, Debug)]
pub struct Rates {
    /// A node that has not answered for so long is done without.
    pub gone: Duration,
    /// Blocks that are missing are fetched no faster, in bytes a second.
    pub repair: u64,
    /// All blocks are read no faster to find damage, in bytes a second.
    pub scrub: u64,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates {
            gone: cluster::place::GONE,
            repair: data::repair::Options::default().bytes_per_second,
            scrub: data::scrub::Options::default().bytes_per_second,
        }
    }
}

/// Why a node is to be stopped by whoever runs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The log does not reach back to what it has: it is to take over this node's table ([`Member::catch_up`]) and start again.
    Behind(NodeId),
}

/// A running node. Dropping it stops it; [`Member::stop`] hands over before.
pub struct Member {
    // In this order: nobody comes in any more, then nothing is begun, then what waits ends.
    local: Option<Local>,
    listener: Option<Listener>,
    tasks: Mutex<Tasks>,
    pause: Arc<Pause>,
    locks: Arc<LockNode>,
    peers: Arc<Peers>,
    node: Arc<Node>,
    credentials: Arc<Credentials>,
    cluster: Arc<Cluster>,
    /// Which life of which disk this is.
    identity: Identity,
    boot: u64,
    leads: Arc<Leads>,
    ended: Arc<Mutex<Option<Ended>>>,
}

/// Whether this node leads, for who waits until it does not.
#[derive(Default)]
struct Leads {
    here: Mutex<bool>,
    changed: Condvar,
}

impl Leads {
    fn of(node: &Node) -> Arc<Leads> {
        let leads = Arc::new(Leads::default());
        let told = leads.clone();
        node.on_leader_change(move |leadership| told.set(leadership.here));
        leads.set(node.leadership().here);
        leads
    }

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
    /// Opens the store and lets others in. `on_end` is called, perhaps more than once, where [`Member::ended`] has something
    /// to say.
    ///
    /// # Errors
    /// `Refused` where the store is no node's; as for [`Node::open_among`]; `Io` where the address cannot be used.
    pub fn start(
        options: Options,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        on_end: impl Fn() + Send + Sync + 'static,
    ) -> Result<Member, FsError> {
        let Options { dir, listen, networks, nodes, store, rates } = options;
        let (here, identity) = identify(&*disk, &dir)?;
        catch_up::take_over(&disk, &dir, &store.table)?;
        let identity = identity.start(&*disk, &dir)?;
        let credentials = Credentials::load(clock.clone(), &dir.join(cluster::disk::CERTIFICATE))?;
        let net = Net::start(clock.clone(), Bounds::default())?;
        let (id, boot) = (credentials.current().store(), u64::from_le_bytes(env::random()));
        let claim = Greeting::new(here, identity, boot, id);
        let peers = Peers::new(net.clone(), credentials.clone(), here, claim.clone());
        let among = Among { node: here, peers: peers.clone(), rates: rates.clone() };
        let node = Node::open_among(&dir, disk, clock.clone(), &store, among)?;
        claim.of(&node);
        let nodes = match rows::addresses(&*node)? {
            none if none.is_empty() => nodes,
            known => known,
        };
        node.set_nodes(nodes.clone());
        let leads = Leads::of(&node);
        let locks = LockNode::start(&node, clock.clone())?;
        let pause = Arc::new(Pause::default());
        let cluster = cluster_of(&node, &peers, &locks, &clock, (here, rates.gone), &pause);
        let asked = Asked::new(cluster.clone());
        let door = Door::new(node.clone(), locks.clone(), asked.clone(), claim);
        let ended = Arc::new(Mutex::new(None));
        watch(&door, &peers, &node, &ended, on_end);
        peers.meet(&nodes)?;
        let mut tasks = Tasks::new(clock);
        let (weak_node, weak_peers) = (Arc::downgrade(&node), Arc::downgrade(&peers));
        tasks.start(Roster { node: weak_node, peers: weak_peers, known: nodes, placed: 0 })?;
        tasks.start(Monitor(Arc::downgrade(&cluster)))?;
        tasks.start(node.letting_go(hands::is_at_home(&peers, &cluster)))?;
        let renewed = Arc::downgrade(&cluster);
        tasks.start(Renewer {
            cluster: renewed,
            credentials: credentials.clone(),
            dir: dir.clone(),
        })?;
        let local = Local::bind(&net, &dir, asked.clone(), id)?;
        let listener = Listener::bind(
            &net,
            Listen {
                address: listen,
                security: ListenSecurity::Tls { credentials: credentials.clone(), strangers: true },
                networks,
                connections_max: CONNECTIONS_MAX,
                handler: Arc::new(Entrance { asked, door: Arc::new(Porter(door)) }),
            },
        )?;
        Ok(Member {
            local: Some(local),
            listener: Some(listener),
            tasks: Mutex::new(tasks),
            pause,
            locks,
            peers,
            node,
            credentials,
            cluster,
            identity,
            boot,
            leads,
            ended,
        })
    }

    /// Says to the node that leads, as soon as there is one, that this one has started, and where it is now.
    ///
    /// # Errors
    /// `Io` where there can be no more threads.
    pub fn announce(&self, described: Described) -> Result<(), FsError> {
        let Described { name, address, roles } = described;
        let Identity { incarnation, starts, .. } = self.identity;
        let (node, boot) = (self.cluster.here, self.boot);
        let announced = Announced { node, incarnation, starts, boot, name, address, roles };
        let cluster = Arc::downgrade(&self.cluster);
        self.tasks.lock().start(Announcer { cluster, announced })
    }

    /// What is asked about the cluster, answered from here.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// Why this node is to be stopped, if it is.
    pub fn ended(&self) -> Option<Ended> {
        *self.ended.lock()
    }

    /// Reads the certificate anew. New connections use it.
    ///
    /// # Errors
    /// `Io`, and what is wrong with it: the one before stays in use.
    pub fn reload(&self) -> Result<(), FsError> {
        self.credentials
            .replace(Material::load(&self.node.dir().join(cluster::disk::CERTIFICATE))?);
        Ok(())
    }

    /// Stops this node and receives the table of another; then it is to be started again.
    ///
    /// # Errors
    /// As for [`catch_up::receive`]; where it is cut off, another call goes on.
    pub fn catch_up(mut self, disk: &Arc<dyn Disk>, from: NodeId) -> Result<(), FsError> {
        let dir = self.node.dir().to_path_buf();
        let pair = self.peers.pair(from);
        self.leave();
        // What arrives lies apart until the next start, so the store may still be open: who is asked is not refused for what
        // a closed one would say of itself.
        let pair =
            pair.ok_or_else(|| FsError::Unreachable(format!("node {} is not reached", from.0)))?;
        let received = catch_up::receive(disk, &dir, &pair.bulk);
        self.peers.close();
        self.node.close()?;
        received
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

    /// Stops in order: another node leads first, where there is one that can.
    ///
    /// # Errors
    /// What the store says at closing; it is closed all the same.
    pub fn stop(mut self) -> Result<(), FsError> {
        self.hand_over();
        self.close()
    }

    fn close(&mut self) -> Result<(), FsError> {
        self.leave();
        self.peers.close();
        self.node.close()
    }

    /// Nobody comes in any more, and nothing is begun.
    fn leave(&mut self) {
        self.pause.close();
        drop(self.local.take());
        drop(self.listener.take());
        self.tasks.lock().stop();
        self.locks.stop();
    }

    fn hand_over(&self) {
        if !self.node.leadership().here {
            return;
        }
        let Some(next) = self.node.successor() else { return };
        if let Err(error) = self.node.transfer_leader(next) {
            return tracing::warn!(%error, "the node stops while it leads");
        }
        self.leads.wait_for_end(HAND_OVER);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the node was not stopped cleanly");
        }
    }
}

/// Which node the store in `dir` is.
fn identify(disk: &dyn Disk, dir: &Path) -> Result<(NodeId, Identity), FsError> {
    let known = Identity::read(disk, dir)?.and_then(|known| Some((known.node?, known)));
    known.ok_or_else(|| {
        FsError::Refused(format!(
            "{} is no node of a cluster: 'tsfs cluster init' makes it the first, 'tsfs node --join' one more",
            dir.display()
        ))
    })
}

/// The cluster as this node sees it, and its hands.
fn cluster_of(
    node: &Arc<Node>,
    peers: &Arc<Peers>,
    locks: &Arc<LockNode>,
    clock: &Arc<dyn Clock>,
    (here, gone): (NodeId, Duration),
    pause: &Arc<Pause>,
) -> Arc<Cluster> {
    let clients = ByLeases {
        rows: ByRows(node.clone()),
        locks: locks.clone(),
        clock: clock.clone(),
        pause: pause.clone(),
    };
    let hands = Arc::new(Hands { here, node: node.clone(), peers: peers.clone() });
    Arc::new(Cluster::new(cluster::Parts {
        here,
        server: node.clone(),
        members: hands.clone(),
        copies: hands.clone(),
        clients: Arc::new(clients),
        others: hands,
        clock: clock.clone(),
        pause: pause.clone(),
        gone,
    }))
}

/// What the parts tell each other.
fn watch(
    door: &Door,
    peers: &Arc<Peers>,
    node: &Arc<Node>,
    ended: &Arc<Mutex<Option<Ended>>>,
    on_end: impl Fn() + Send + Sync + 'static,
) {
    let broken = Arc::downgrade(node);
    peers.on_broken(move |other| {
        if let Some(node) = broken.upgrade() {
            node.unreachable(other);
        }
    });
    let ended = ended.clone();
    door.on_behind(move |by| {
        *ended.lock() = Some(Ended::Behind(by));
        on_end();
    });
}
