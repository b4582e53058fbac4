//! A cluster of one real store, with the other nodes made up: becoming a cluster, joining over TLS, changes carried out,
//! commands through the socket.

mod joining;
mod monitor;

use super::*;
use crate::env::SystemClock;
use crate::meta::apply::FEATURES;
use crate::meta::op::ClusterOp;
use crate::meta::op::Op;
use crate::meta::record::Invited;
use crate::net;
use crate::net::Bounds;
use crate::net::Credentials;
use crate::net::Handler;
use crate::net::Listen;
use crate::net::ListenSecurity;
use crate::net::Listener;
use crate::net::Material;
use crate::net::Net;
use crate::net::Networks;
use crate::net::PendingKey;
use crate::net::Service;
use crate::net::Token;
use crate::store::disk::RealDisk;
use crate::store::label::Label;
use crate::tsdb_log::entry::Members;
use crate::tsdb_server::cluster::clients::ByRows;
use crate::tsdb_server::cluster::disk::Identity;
use crate::tsdb_server::cluster::headroom::Headroom;
use crate::tsdb_server::cluster::init::Described;
use crate::tsdb_server::cluster::plan::Step;
use crate::tsdb_server::cluster::seams::Follower;
use crate::tsdb_server::cluster::socket::Asked;
use crate::tsdb_server::cluster::socket::Entrance;
use crate::tsdb_server::cluster::socket::Local;
use crate::tsdb_server::cluster::socket::Way;
use crate::tsdb_server::cluster::work::Worked;
use crate::tsdb_server::node::Fresh;
use crate::tsdb_server::node::Node;
use crate::tsdb_server::open;
use crate::types::LogIndex;
use crate::types::Roles;
use crate::types::SessionId;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::cluster::Joined;
use crate::wire::cluster::Joiner;
use crate::wire::cluster::Part;
use crate::wire::cluster::Progress;
use crate::wire::greeting::Refusal;
use crate::wire::greeting::Why;
use crate::wire::message::Standing;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// The log's members, the blocks and the other nodes, as a test wants them.
#[derive(Default)]
struct Made {
    members: Mutex<Members>,
    leader: Mutex<Option<NodeId>>,
    followers: Mutex<Vec<Follower>>,
    /// What a node lacks; one block less each time it is asked.
    lacks: Mutex<BTreeMap<NodeId, u64>>,
    committed: Mutex<u64>,
    /// Up to where one that lacks nothing has everything, and which placement the rows of all are of.
    complete: Mutex<u64>,
    placed: Mutex<u64>,
    asked: Mutex<Vec<(NodeId, Ask)>>,
    /// Whom there is no way to.
    away: Mutex<Vec<NodeId>>,
}

impl Membership for Made {
    fn members(&self) -> Members {
        self.members.lock().clone()
    }

    fn leader(&self) -> Option<NodeId> {
        *self.leader.lock()
    }

    fn term(&self) -> u64 {
        7
    }

    fn committed(&self) -> LogIndex {
        LogIndex(*self.committed.lock())
    }

    fn followers(&self) -> Vec<Follower> {
        self.followers.lock().clone()
    }

    fn change(
        &self,
        from: Members,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
    ) -> Result<(), FsError> {
        let mut members = self.members.lock();
        assert_eq!(*members, from);
        (members.voters, members.learners) = (voters, learners);
        Ok(())
    }

    fn hand_over(&self, to: NodeId) -> Result<(), FsError> {
        *self.leader.lock() = Some(to);
        Ok(())
    }
}

impl Copies for Made {
    fn standing(&self, node: NodeId) -> Option<Standing> {
        let mut lacks = self.lacks.lock();
        let left = lacks.get_mut(&node)?;
        *left = left.saturating_sub(1);
        Some(Standing {
            features: FEATURES,
            complete: LogIndex(if *left == 0 { *self.complete.lock() } else { 0 }),
            placed: Some(*self.placed.lock()),
            lacks: *left,
            disk_total: 1 << 40,
            disk_free: 1 << 39,
            room: 1 << 38,
            sync_us: None,
        })
    }

    fn heard_of_headroom(&self, _: Option<Headroom>) {}
}

impl Others for Made {
    fn reaches(&self, node: NodeId) -> bool {
        !self.away.lock().contains(&node)
    }

    fn ask(
        &self,
        node: NodeId,
        ask: &Ask,
        _: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Answer, FsError> {
        self.asked.lock().push((node, ask.clone()));
        Ok(Answer::Done("passed on".to_owned()))
    }
}

/// A door that lets nobody in.
struct Shut;

impl Handler for Shut {
    fn greeted(&self, _: &net::Peer, _: &Bytes) -> Result<(Arc<dyn Service>, Bytes), Refusal> {
        Err(Refusal::new(Why::Other, "the door is shut"))
    }
}

/// A store that has become a cluster, and where it listens.
struct World {
    _scratch: tempfile::TempDir,
    dir: PathBuf,
    node: Arc<Node>,
    made: Arc<Made>,
    net: Arc<Net>,
    cluster: Arc<Cluster>,
    listener: Option<Listener>,
}

fn described(address: &str) -> Described {
    Described { name: "a host".to_owned(), address: address.to_owned(), roles: Roles::ALL }
}

fn open_store(dir: &Path) -> Arc<Node> {
    let options =
        open::Options { create: true, reserve_bytes: 16 << 20, ..open::Options::default() };
    Node::open(dir, Arc::new(RealDisk), SystemClock::shared(), &options, &Fresh::default()).unwrap()
}

fn init(node: &Node, dir: &Path, address: &str) -> Result<Identity, FsError> {
    let plan = init::plan(node, &RealDisk, dir)?;
    init::carry_out(&plan, &described(address), node, &SystemClock, (&RealDisk, dir))
}

impl World {
    fn new() -> World {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("store");
        let node = open_store(&dir);
        init(&node, &dir, "127.0.0.1:1").unwrap();
        let made = Arc::new(Made::default());
        *made.members.lock() = Members::alone(NodeId(1));
        *made.leader.lock() = Some(NodeId(1));
        made.lacks.lock().insert(NodeId(1), 0);
        let clock = SystemClock::shared();
        let cluster = Arc::new(Cluster::new(Parts {
            here: NodeId(1),
            server: node.clone(),
            members: made.clone(),
            copies: made.clone(),
            clients: Arc::new(ByRows(node.clone())),
            others: made.clone(),
            clock: clock.clone(),
            pause: Arc::default(),
            gone: place::GONE,
        }));
        let net = Net::start(clock, Bounds::default()).unwrap();
        let mut world = World { _scratch: scratch, dir, node, made, net, cluster, listener: None };
        world.listen();
        world
    }

    /// Listens, and says so in the node's row.
    fn listen(&mut self) {
        let path = self.dir.join(disk::CERTIFICATE);
        let credentials = Credentials::load(SystemClock::shared(), &path).unwrap();
        let asked = Asked::new(self.cluster.clone());
        let listen = Listen {
            address: "127.0.0.1:0".to_owned(),
            security: ListenSecurity::Tls { credentials, strangers: true },
            networks: Networks::everywhere(),
            connections_max: 16,
            handler: Arc::new(Entrance { asked, door: Arc::new(Shut) }),
        };
        let listener = Listener::bind(&self.net, listen).unwrap();
        let address = listener.address().to_string();
        let identity = Identity::read(&RealDisk, &self.dir).unwrap().unwrap();
        let here = init::set_node(identity.node, identity.incarnation, &described(&address));
        self.node.administer(Op::Cluster(here)).unwrap();
        self.listener = Some(listener);
    }

    fn store(&self) -> net::StoreId {
        net::StoreId(Label::read(&RealDisk, &self.dir).unwrap().unwrap().store)
    }

    fn ask(&self, ask: Ask) -> Result<Answer, FsError> {
        self.cluster.answer(&ask, &mut |_| ControlFlow::Continue(()))
    }

    fn invite(&self, to: Invited) -> Token {
        match self.ask(Ask::Invite { to, valid_s: 3600 }).unwrap() {
            Answer::Token { text, .. } => text.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn join(&self, token: &Token, who: Joiner) -> Result<(Joined, String), FsError> {
        let key = PendingKey::generate().unwrap();
        let joined = join::ask(&self.net, token, &key, &who, &Pause::default())?;
        let certificate = key.complete(&joined.certificate, token.authority)?;
        Ok((joined, certificate))
    }

    fn add(&self, node: u64) {
        let disk = crate::meta::record::Incarnation([node as u8; 16]);
        let address = format!("127.0.0.1:{node}");
        let op = init::set_node(None, disk, &described(&address));
        self.node.administer(Op::Cluster(op)).unwrap();
        self.made.members.lock().voters.push(NodeId(node));
        let follower = Follower { node: NodeId(node), answers: true, lag: 0 };
        self.made.followers.lock().push(follower);
        self.made.lacks.lock().insert(NodeId(node), 0);
    }
}

fn joiner(identity: Identity, address: &str) -> Joiner {
    let Described { name, address, roles } = described(address);
    Joiner::Node { incarnation: identity.incarnation, name, address, roles }
}

fn refused<T: std::fmt::Debug>(result: Result<T, FsError>, why: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
}

#[test]
fn a_store_becomes_a_cluster_in_place_and_once() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("store");
    let node = open_store(&dir);
    let identity = init(&node, &dir, "a:1").unwrap();
    assert_eq!(identity.node, Some(NodeId(1)));
    let material = Material::load(&dir.join(disk::CERTIFICATE)).unwrap();
    let label = Label::read(&RealDisk, &dir).unwrap().unwrap();
    assert_eq!(material.store().0, label.store);
    refused(init(&node, &dir, "a:1"), "node 1 of a cluster already");
    // It was cut off before the node knew its number.
    Identity { node: None, ..identity }.write(&RealDisk, &dir).unwrap();
    let plan = init::plan(&*node, &RealDisk, &dir).unwrap();
    assert!(!plan.make_authority && !plan.make_node, "{plan:?}");
    assert_eq!(init(&node, &dir, "a:1").unwrap(), identity);
    // Somebody removed the file, or copied the directory without it.
    std::fs::remove_file(dir.join(disk::FILE)).unwrap();
    refused(init(&node, &dir, "a:1"), "a copy of a node");
}

#[test]
fn a_change_is_carried_out_step_by_step() {
    let world = World::new();
    world.add(2);
    world.add(3);
    world.made.lacks.lock().insert(NodeId(2), 3);
    let mut said = Vec::new();
    let plan = vec![
        Step::AwaitBlocks(NodeId(2)),
        Step::Members { voters: vec![NodeId(1), NodeId(2)], learners: Vec::new() },
        Step::Forget(NodeId(3)),
    ];
    let worked = world.cluster.carry_out(&plan, &mut |progress| {
        said.push((progress.done, progress.total));
        ControlFlow::Continue(())
    });
    assert_eq!(worked, Ok(Worked::Done));
    assert_eq!(said, [(1, Some(2))]);
    assert_eq!(world.made.members.lock().voters, [NodeId(1), NodeId(2)]);
    assert_eq!(rows::nodes(&*world.node).unwrap().len(), 2);
    // Nobody wants it any more.
    world.made.lacks.lock().insert(NodeId(2), 9);
    let plan = vec![Step::AwaitBlocks(NodeId(2))];
    refused(world.cluster.carry_out(&plan, &mut |_| ControlFlow::Break(())), "nobody waits");
}

#[test]
fn who_voted_is_known_until_all_mounts_have_heard_that_he_does_not() {
    let world = World::new();
    world.add(2);
    let plan = vec![Step::AwaitMounts, Step::Forget(NodeId(2))];
    let session = world.node.open_session("a mount", Arc::new(Deaf)).unwrap().session;
    let mut said = None;
    let worked = world.cluster.carry_out(&plan, &mut |progress| {
        said = Some((progress.total, progress.unit));
        ControlFlow::Break(())
    });
    refused(worked, "nobody waits");
    assert_eq!(said, Some((Some(15), "seconds".to_owned())));
    assert_eq!(rows::nodes(&*world.node).unwrap().len(), 2);
    world.node.administer(Op::EndSession { session }).unwrap();
    // Nobody is left who could put a block.
    let worked = world.cluster.carry_out(&plan, &mut |_| ControlFlow::Break(()));
    assert_eq!(worked, Ok(Worked::Done));
    assert_eq!(rows::nodes(&*world.node).unwrap().len(), 1);
}

#[test]
fn who_leads_is_removed_by_its_successor() {
    let world = World::new();
    world.add(2);
    world.add(3);
    let ask = Ask::Remove { node: NodeId(1) };
    assert_eq!(world.ask(ask.clone()), Ok(Answer::Done("passed on".to_owned())));
    assert_eq!(*world.made.asked.lock(), [(NodeId(2), ask.clone())]);
    // It does not lead any more: what it is asked now it passes on, and what was passed on to it it leaves.
    assert_eq!(world.ask(ask.clone()), Ok(Answer::Done("passed on".to_owned())));
    let leader = Some(NodeId(2));
    let here = world.cluster.answer_here(&ask, &mut |_| ControlFlow::Continue(()));
    assert_eq!(here, Err(FsError::NotLeader { leader }));
    assert_eq!(rows::nodes(&*world.node).unwrap().len(), 3);
}

#[test]
fn commands_come_through_the_socket() {
    let world = World::new();
    world.add(2);
    let way = Way::open(&world.net, &world.dir);
    refused(way.map(|_| ()), "no node serves");
    let local =
        Local::bind(&world.net, &world.dir, Asked::new(world.cluster.clone()), world.store())
            .unwrap();
    let way = Way::open(&world.net, &world.dir).unwrap();
    let Answer::Overview(overview) = way.ask(&Ask::Overview, &mut |_| {}).unwrap() else {
        panic!("no overview");
    };
    assert_eq!((overview.here, overview.leader, overview.term), (1, Some(1), 7));
    let parts: Vec<Part> = overview.nodes.iter().map(|node| node.part).collect();
    assert_eq!(parts, [Part::Leads, Part::Votes]);
    assert!(overview.health.iter().any(|line| line.contains("add a third")), "{overview:?}");
    refused(way.ask(&Ask::Drain { node: NodeId(2) }, &mut |_| {}), "only 1 of 2");
    refused(way.ask(&Ask::Remove { node: NodeId(7) }, &mut |_| {}), "no node 7");
    refused(way.ask(&Ask::Evict { session: SessionId(99) }, &mut |_| {}), "no client 99");
    let session = world.node.open_session("a mount", Arc::new(Deaf)).unwrap().session;
    let Answer::Clients(clients) = way.ask(&Ask::Clients, &mut |_| {}).unwrap() else {
        panic!("no clients");
    };
    assert_eq!((clients.len(), &*clients[0].name, clients[0].whole), (1, "a mount", true));
    let locks = way.ask(&Ask::Locks { limit: 10 }, &mut |_| {}).unwrap();
    assert!(
        matches!(&locks, Answer::Locks { locks, more: false } if locks.len() == 1),
        "{locks:?}"
    );
    way.ask(&Ask::Evict { session }, &mut |_| {}).unwrap();
    assert_eq!(way.ask(&Ask::Clients, &mut |_| {}), Ok(Answer::Clients(Vec::new())));
    let mode = std::fs::metadata(world.dir.join(crate::wire::cluster::SOCKET)).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    drop(local);
    assert!(way.ask(&Ask::Clients, &mut |_| {}).is_err(), "the node is gone");
    refused(Way::open(&world.net, &world.dir).map(|_| ()), "no node serves");
}

#[test]
fn a_socket_may_lie_deep() {
    let world = World::new();
    let deep = world.dir.with_file_name("d".repeat(200));
    std::fs::create_dir(&deep).unwrap();
    let _local =
        Local::bind(&world.net, &deep, Asked::new(world.cluster.clone()), world.store()).unwrap();
    let way = Way::open(&world.net, &deep).unwrap();
    assert!(way.ask(&Ask::Clients, &mut |_| {}).is_ok());
}

/// A mount that hears nothing.
struct Deaf;

impl crate::wire::Listener for Deaf {
    fn recall(&self, _: crate::wire::Recall) {}
    fn flush(&self, done: Box<dyn FnOnce() + Send>) {
        done();
    }
    fn whole(&self, _: crate::wire::Whole) {}
    fn ended(&self, _: &str) {}
}
