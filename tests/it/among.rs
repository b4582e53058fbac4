//! Three nodes and their clients in the test's own process, over TLS on the loopback: no kernel, no mount.
//!
//! Not here: processes that are killed, machines that are cut off (`cluster`).

use crate::embedded;
use crate::embedded::Contents;
use crate::embedded::Open;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use tsfs::env::Clock;
use tsfs::env::SystemClock;
use tsfs::meta::apply::FEATURES;
use tsfs::meta::key;
use tsfs::meta::op::ClusterOp;
use tsfs::meta::op::Op;
use tsfs::meta::record::Invited;
use tsfs::net::Bounds;
use tsfs::net::Credentials;
use tsfs::net::Material;
use tsfs::net::Net;
use tsfs::net::Networks;
use tsfs::net::PendingKey;
use tsfs::net::StoreId;
use tsfs::net::Token;
use tsfs::store::disk::Disk;
use tsfs::store::disk::RealDisk;
use tsfs::store::label::Label;
use tsfs::tsdb_client::Caller;
use tsfs::tsdb_client::Client;
use tsfs::tsdb_client::New;
use tsfs::tsdb_client::Wait;
use tsfs::tsdb_client::remote;
use tsfs::tsdb_client::remote::Remote;
use tsfs::tsdb_client::remote::WhenDown;
use tsfs::tsdb_server::cluster::disk::Identity;
use tsfs::tsdb_server::cluster::init;
use tsfs::tsdb_server::cluster::join;
use tsfs::tsdb_server::cluster::socket::Way;
use tsfs::tsdb_server::cluster::work::Pause;
use tsfs::tsdb_server::member;
use tsfs::tsdb_server::member::Ended;
use tsfs::tsdb_server::member::Member;
use tsfs::types::AsOf;
use tsfs::types::BlockId;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::NodeId;
use tsfs::types::Roles;
use tsfs::types::frame::Frame;
use tsfs::types::placement::Placed;
use tsfs::types::placement::Placement;
use tsfs::wire::Listener;
use tsfs::wire::Recall;
use tsfs::wire::Server;
use tsfs::wire::Whole;
use tsfs::wire::cluster::Answer;
use tsfs::wire::cluster::Ask;
use tsfs::wire::cluster::Joiner;
use tsfs::wire::message::NodeAt;

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };
/// Nothing here takes so long unless it never ends.
const LONG: Duration = Duration::from_secs(60);
/// How often the node that leads dies while names are made.
const DEATHS: u64 = 4;

struct Cluster {
    dir: TempDir,
    store: StoreId,
    addresses: Vec<String>,
    nodes: Vec<Option<Member>>,
}

/// Looks until it holds; the test fails where it never does.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = SystemClock::shared();
    let end = clock.steady() + LONG;
    while !holds() {
        assert!(clock.steady() < end, "it never came to be: {what}");
        std::thread::yield_now();
    }
}

impl Cluster {
    /// Three nodes, of which the first was a store by itself before, with this in it.
    fn new(before: &Contents) -> Cluster {
        let dir = TempDir::new().unwrap();
        let addresses = (1..=3).map(|_| {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            format!("127.0.0.1:{port}")
        });
        let addresses = addresses.collect();
        let nodes = vec![None, None, None];
        let mut cluster = Cluster { dir, store: StoreId([0; 16]), addresses, nodes };
        let first = Open::new(&cluster.path(1), true).unwrap();
        first.write(before);
        first.client.close().unwrap();
        let path = cluster.path(1);
        let plan = init::plan(&*first.node, &RealDisk, &path).unwrap();
        let (clock, here) = (SystemClock, (&RealDisk as &dyn Disk, &*path));
        init::carry_out(&plan, &cluster.described(1), &*first.node, &clock, here).unwrap();
        first.node.close().unwrap();
        drop(first);
        cluster.store = StoreId(Label::read(&RealDisk, &path).unwrap().unwrap().store);
        cluster.start(1);
        for n in 2..=3 {
            cluster.join(n);
        }
        let leader = cluster.nodes[0].as_ref().unwrap().node().clone();
        until("all three vote", || leader.members().voters.len() == 3);
        cluster
    }

    fn path(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("{n}"))
    }

    fn described(&self, n: usize) -> init::Described {
        let (name, address) = (format!("n{n}"), self.addresses[n - 1].clone());
        init::Described { name, address, roles: Roles::ALL }
    }

    /// Asks a node as a command does.
    fn ask(&self, n: usize, ask: &Ask) -> Answer {
        let net = Net::start(SystemClock::shared(), Bounds::default()).unwrap();
        let way = Way::open(&net, &self.path(n)).unwrap();
        way.ask(ask, &mut |_| {}).unwrap()
    }

    fn join(&mut self, n: usize) {
        let invite = Ask::Invite { to: Invited::Node, valid_s: 600 };
        let Answer::Token { text, .. } = self.ask(1, &invite) else { panic!("no token") };
        let token: Token = text.parse().unwrap();
        let net = Net::start(SystemClock::shared(), Bounds::default()).unwrap();
        let (key, identity) = (PendingKey::generate().unwrap(), Identity::fresh());
        let init::Described { name, address, roles } = self.described(n);
        let who = Joiner::Node { incarnation: identity.incarnation, name, address, roles };
        let joined = join::ask(&net, &token, &key, &who, &Pause::default()).unwrap();
        let text = key.complete(&joined.certificate, token.authority).unwrap();
        let path = self.path(n);
        let here = (&RealDisk as &dyn Disk, &*path);
        join::settle_in(identity, &joined, &text, here).unwrap();
        self.start_with(n, joined.nodes);
    }

    fn start(&mut self, n: usize) {
        self.start_with(n, Vec::new());
    }

    fn start_with(&mut self, n: usize, nodes: Vec<NodeAt>) {
        let options = member::Options {
            dir: self.path(n),
            listen: self.addresses[n - 1].clone(),
            networks: Networks::everywhere(),
            nodes,
            store: embedded::options(false),
            rates: member::Rates::default(),
        };
        loop {
            let (behind, told) = mpsc::channel();
            let on_end = move || {
                // Told again after the test looked.
                let _ = behind.send(());
            };
            let mut member = None;
            until("its former run to have let go of the store", || {
                let (disk, clock) = (RealDisk::shared(), SystemClock::shared());
                member = Member::start(options.clone(), disk, clock, on_end.clone()).ok();
                member.is_some()
            });
            let member = member.expect("it runs");
            // A node that joins late is told so with the first message that does not reach it.
            let wait = if options.nodes.is_empty() { Duration::ZERO } else { LONG };
            let caught_up = || !member.node().members().learners.is_empty();
            let mut behind = false;
            if !wait.is_zero() {
                until("it hears from the leader", || {
                    behind = told.try_recv().is_ok();
                    behind || caught_up()
                });
            }
            match member.ended().filter(|_| behind) {
                Some(Ended::Behind(from)) => {
                    member.catch_up(&RealDisk::shared(), from).unwrap();
                }
                None => {
                    self.nodes[n - 1] = Some(member);
                    return;
                }
            }
        }
    }

    /// Ends a node without a word.
    fn kill(&mut self, n: usize) {
        drop(self.nodes[n - 1].take());
    }

    fn leader(&self) -> usize {
        let mut leader = 0;
        until("somebody leads", || {
            let leads = |node: &Option<Member>| {
                node.as_ref().is_some_and(|member| member.node().is_read_ready())
            };
            leader = self.nodes.iter().position(leads).map_or(0, |n| n + 1);
            leader != 0
        });
        leader
    }

    fn client(&self, name: &str) -> Arc<Client> {
        let options = tsfs::tsdb_client::Options { name: name.to_owned(), ..Default::default() };
        Client::open(self.remote(name), SystemClock::shared(), options).unwrap()
    }

    fn remote(&self, name: &str) -> Arc<Remote> {
        let ask = Ask::Certificate { name: name.to_owned(), valid_s: 3600 };
        let Answer::Certificate { text, .. } = self.ask(self.leader(), &ask) else {
            panic!("no certificate")
        };
        let material = Material::from_pem(text.as_bytes()).unwrap();
        let options = remote::Options {
            addresses: self.addresses.clone(),
            when_down: WhenDown::Eio(LONG),
            credentials: Credentials::new(SystemClock::shared(), material),
        };
        Remote::connect(options, SystemClock::shared()).unwrap()
    }
}

fn create(client: &Client, name: &str) -> Result<Ino, FsError> {
    let (kind, target) = (FileKind::File, Bytes::new());
    let new = New { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, target };
    Ok(client.create(CALLER, Ino::ROOT, name.as_bytes(), new)?.ino)
}

fn write(client: &Client, ino: Ino, bytes: &[u8]) {
    let handle = client.open_file(CALLER, ino, true).unwrap();
    let mut at = 0;
    for part in bytes.chunks(1 << 20) {
        client.write(handle, at, part, false, false, Wait::Allowed).unwrap();
        at += part.len() as u64;
    }
    client.flush(handle).unwrap();
    client.release(handle);
}

fn read(client: &Client, name: &str) -> Vec<u8> {
    let attr = client.lookup(Ino::ROOT, name.as_bytes(), AsOf::Now).unwrap();
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < attr.size {
        let part = client
            .read(attr.ino, AsOf::Now, bytes.len() as u64, 1 << 20, Wait::Allowed)
            .unwrap()
            .unwrap();
        bytes.extend_from_slice(&part);
    }
    bytes
}

fn sync(client: &Client) {
    let (done, told) = mpsc::channel();
    client.fsync(None, Box::new(move |result| done.send(result).unwrap()));
    told.recv_timeout(LONG).unwrap().unwrap();
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn what_was_synced_outlives_any_node() {
    let before = Contents::from([("old".to_owned(), b"from before".to_vec())]);
    let mut cluster = Cluster::new(&before);
    let client = cluster.client("one");
    assert_eq!(read(&client, "old"), b"from before");
    for round in 0..3_u64 {
        let name = format!("small-{round}");
        let ino = create(&client, &name).unwrap();
        write(&client, ino, format!("round {round}").as_bytes());
        let large = create(&client, &format!("large-{round}")).unwrap();
        write(&client, large, &noise(round + 7, 3 << 20));
        sync(&client);
        let leader = cluster.leader();
        cluster.kill(leader);
        // Without it, and with changes that nobody has confirmed yet.
        let unsynced = create(&client, &format!("after-{round}")).unwrap();
        write(&client, unsynced, b"unsynced");
        assert_eq!(read(&client, &name), format!("round {round}").into_bytes());
        sync(&client);
        cluster.start(leader);
    }
    client.close().unwrap();
    // Another client has none of it in its caches.
    let other = cluster.client("two");
    for round in 0..3_u64 {
        assert_eq!(read(&other, &format!("small-{round}")), format!("round {round}").as_bytes());
        assert_eq!(read(&other, &format!("large-{round}")), noise(round + 7, 3 << 20));
        assert_eq!(read(&other, &format!("after-{round}")), b"unsynced");
    }
    other.close().unwrap();
}

/// Makes names, one after the other, as others do: what came of each. As the kernel does, it looks at the directory and at the name before.
fn claim(client: &Client, dir: Ino, tried: &AtomicU64, stop: &AtomicBool) -> Vec<(u64, bool)> {
    let new = || {
        let (kind, target) = (FileKind::File, Bytes::new());
        New { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, target }
    };
    let mut won = Vec::new();
    while !stop.load(SeqCst) {
        // Everybody is at about the same.
        let number = tried.load(SeqCst) / 4;
        let name = format!("name{number}");
        let found = client.lookup(Ino::ROOT, b"d", AsOf::Now).map(|attr| attr.ino);
        assert_eq!(found, Ok(dir), "it was there all the time");
        let looked = client.lookup(dir, name.as_bytes(), AsOf::Now).map(|_| ());
        assert!(matches!(looked, Ok(()) | Err(FsError::NotFound)), "{looked:?}");
        let created = match looked {
            Ok(()) => Err(FsError::Exists),
            Err(_) => client.create(CALLER, dir, name.as_bytes(), new()).map(|_| ()),
        };
        assert!(matches!(created, Ok(()) | Err(FsError::Exists)), "{name}: {created:?}");
        won.push((number, created.is_ok()));
        tried.fetch_add(1, SeqCst);
    }
    won
}

/// Has those who work stop, also where the test has failed.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn of_those_who_make_a_name_at_once_one_has_made_it_whoever_leads() {
    let mut cluster = Cluster::new(&Contents::new());
    let clients = ["one", "two"].map(|name| cluster.client(name));
    let (kind, target) = (FileKind::Directory, Bytes::new());
    let new = New { kind, mode: 0o755, uid: 0, gid: 0, rdev: 0, target };
    let dir = clients[0].create(CALLER, Ino::ROOT, b"d", new).unwrap().ino;
    let (tried, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let all: Vec<Vec<(u64, bool)>> = std::thread::scope(|scope| {
        let work = |client: &Arc<Client>| {
            let (client, tried, stop) = (client.clone(), &tried, &stop);
            scope.spawn(move || claim(&client, dir, tried, stop))
        };
        let workers: Vec<_> =
            clients.iter().flat_map(|client| [work(client), work(client)]).collect();
        let _until = Until(&stop);
        let goes_on = || {
            let goal = tried.load(SeqCst) + 100;
            let ended = || workers.iter().any(|worker| worker.is_finished());
            until("names are made", || tried.load(SeqCst) >= goal || ended());
        };
        for _ in 0..DEATHS {
            goes_on();
            let leader = cluster.leader();
            cluster.kill(leader);
            goes_on();
            cluster.start(leader);
        }
        stop.store(true, SeqCst);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mut winners = BTreeMap::<u64, u64>::new();
    for (number, won) in all.into_iter().flatten() {
        *winners.entry(number).or_default() += u64::from(won);
    }
    let wrong = winners.iter().find(|(_, winners)| **winners != 1);
    assert_eq!(wrong, None, "a name and how many have made it");
    clients.iter().for_each(|client| client.close().unwrap());
}

/// A mount that keeps what it is asked for until the test answers.
struct Slow(Mutex<mpsc::Sender<TakenBack>>);

type TakenBack = (Option<Vec<Ino>>, Box<dyn FnOnce() + Send>);

impl Listener for Slow {
    fn recall(&self, _: Recall) {}

    fn flush(&self, done: Box<dyn FnOnce() + Send>) {
        done();
    }

    fn whole(&self, _: Whole) {}

    fn take_back(&self, inos: Option<Vec<Ino>>, done: Box<dyn FnOnce() + Send>) {
        // Said again where the test has heard enough.
        let _ = self.0.lock().unwrap().send((inos, done));
    }

    fn ended(&self, _: &str) {}
}

#[test]
fn nothing_is_changed_of_which_another_mount_may_still_answer() {
    let cluster = Cluster::new(&Contents::new());
    let (client, slow) = (cluster.client("one"), cluster.remote("slow"));
    let (tell, asked) = mpsc::channel();
    let session = slow.open_session("slow", Arc::new(Slow(Mutex::new(tell)))).unwrap().session;
    let key = Bytes::copy_from_slice(&key::inode(Ino::ROOT));
    let root = || slow.get(&key, AsOf::Now).unwrap();
    let copied = || {
        until("it may keep the root", || {
            // Who comes to a leader that is new is asked for everything first.
            asked.try_iter().for_each(|(_, done): TakenBack| done());
            slow.copy_all(std::slice::from_ref(&key)).unwrap().1.inos == [Ino::ROOT]
        });
        root()
    };
    let before = copied();
    std::thread::scope(|scope| {
        let made = scope.spawn(|| create(&client, "first").unwrap());
        let (inos, done) = asked.recv_timeout(LONG).unwrap();
        assert_eq!(inos.as_deref(), Some(&[Ino::ROOT][..]));
        // Whatever had entered the log is applied by now.
        slow.grant_inos(session, 1).unwrap();
        assert_eq!(root(), before);
        assert!(
            slow.copy_all(std::slice::from_ref(&key)).unwrap().1.inos.is_empty(),
            "it is about to change"
        );
        done();
        made.join().unwrap();
    });
    assert_ne!(root(), before);
    // One that does not answer is waited for until its time is over, as it knows itself.
    let before = copied();
    create(&client, "second").unwrap();
    assert!(slow.copying(false).1 <= SystemClock.steady());
    assert_ne!(root(), before);
    client.close().unwrap();
}

#[test]
fn blocks_are_put_to_their_homes_alone_once_a_client_has_heard_of_them() {
    let cluster = Cluster::new(&Contents::new());
    let leader = cluster.nodes[cluster.leader() - 1].as_ref().unwrap().node();
    let remote = cluster.remote("one");
    let (tell, _told) = mpsc::channel();
    let session = remote.open_session("one", Arc::new(Slow(Mutex::new(tell)))).unwrap().session;
    let block = |number| BlockId { session, number };
    let frame = |number| Frame::pack(&Bytes::from(noise(number, 10_000)), 1);
    let put = |number| {
        remote.put_block(block(number), frame(number)).unwrap();
        remote.sync_blocks().unwrap();
    };
    let kept = |number| {
        let nodes = cluster.nodes.iter().flatten().map(Member::node);
        let has = nodes.map(|node| node.own_block(block(number)).is_ok());
        (1..).map(NodeId).zip(has).filter(|(_, has)| *has).map(|(node, _)| node).collect::<Vec<_>>()
    };
    put(0);
    until("it is put to all", || kept(0).len() == 3);
    until("all know of placements", || leader.features().unwrap() == FEATURES);
    let placement = Placement { number: 1, copies: 1, now: None, next: None };
    leader.administer(Op::Cluster(ClusterOp::Place { placement })).unwrap();
    until("each node has a share", || leader.placement().now.is_some());
    let placed = Placed::new(&leader.placement());
    let mut number = 0;
    until("it counts by the homes", || {
        number += 1;
        put(number);
        kept(number) == placed.homes(block(number)).unwrap()
    });
    for more in number + 1..number + 20 {
        put(more);
        assert_eq!(kept(more), placed.homes(block(more)).unwrap(), "block {more}");
    }
    for number in [0, 1, number, number + 19] {
        assert_eq!(remote.block(block(number)).unwrap(), frame(number).to_bytes(), "{number}");
    }
    remote.abandon();
}
