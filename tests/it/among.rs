//! Three nodes and their clients in the test's own process, over TLS on the loopback: no kernel, no mount.
//!
//! Not here: processes that are killed, machines that are cut off (`cluster`).

use crate::embedded;
use crate::embedded::Open;
use bytes::Bytes;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use tsfs::env::Clock;
use tsfs::env::SystemClock;
use tsfs::net::Authority;
use tsfs::net::Credentials;
use tsfs::net::Identity;
use tsfs::net::Material;
use tsfs::net::Networks;
use tsfs::net::StoreId;
use tsfs::store::disk::RealDisk;
use tsfs::store::label::Label;
use tsfs::tsdb_client::Caller;
use tsfs::tsdb_client::Client;
use tsfs::tsdb_client::New;
use tsfs::tsdb_client::Wait;
use tsfs::tsdb_client::remote;
use tsfs::tsdb_client::remote::Remote;
use tsfs::tsdb_client::remote::WhenDown;
use tsfs::tsdb_server::member;
use tsfs::tsdb_server::member::Member;
use tsfs::types::AsOf;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::NodeId;
use tsfs::wire::message::NodeAt;

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };
/// Nothing here takes so long unless it never ends.
const LONG: Duration = Duration::from_secs(60);

struct Cluster {
    dir: TempDir,
    authority: Authority,
    at: Vec<NodeAt>,
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

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Cluster {
    /// Three nodes, of which the first was a store by itself before.
    fn new() -> Cluster {
        let dir = TempDir::new().unwrap();
        let path = |n: usize| dir.path().join(format!("{n}"));
        let first = Open::new(&path(1), true).unwrap();
        first.client.close().unwrap();
        first.node.close().unwrap();
        drop(first);
        copy(&path(1), &path(2));
        copy(&path(1), &path(3));
        let store = Label::read(&RealDisk, &path(1)).unwrap().unwrap().store;
        let authority = Authority::make(StoreId(store), SystemClock.wall()).unwrap();
        let at = (1..=3).map(|n| {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            NodeAt { node: NodeId(n), address: format!("127.0.0.1:{port}") }
        });
        let mut cluster =
            Cluster { at: at.collect(), dir, authority, nodes: vec![None, None, None] };
        for n in 1..=3 {
            cluster.start(n);
        }
        let leader = cluster.nodes[0].as_ref().unwrap().node().clone();
        let (one, others) = (NodeId(1), vec![NodeId(2), NodeId(3)]);
        leader.change_members(vec![one], others).unwrap();
        until("the others have the log", || {
            let followers = leader.followers();
            followers.len() == 2
                && followers.iter().all(|other| other.matched.0 > 0)
                && leader.members().learners.len() == 2
        });
        let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
        leader.change_members(voters.clone(), Vec::new()).unwrap();
        until("all three vote", || leader.members().voters == voters);
        cluster
    }

    fn path(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("{n}"))
    }

    fn credentials(&self, identity: Identity) -> Arc<Credentials> {
        let year = Duration::from_secs(365 * 86_400);
        let clock = SystemClock::shared();
        let text = self.authority.issue(&identity, clock.wall(), year).unwrap();
        Credentials::new(clock, Material::from_pem(text.as_bytes()).unwrap())
    }

    fn start(&mut self, n: usize) {
        let node = NodeId(n as u64);
        let store = self.authority.store();
        let options = member::Options {
            dir: self.path(n),
            node,
            listen: self.at[n - 1].address.clone(),
            networks: Networks::everywhere(),
            credentials: self.credentials(Identity::Node { node, store }),
            nodes: self.at.clone(),
            store: embedded::options(false),
        };
        let member = Member::start(options, RealDisk::shared(), SystemClock::shared()).unwrap();
        self.nodes[n - 1] = Some(member);
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
        let store = self.authority.store();
        let options = remote::Options {
            addresses: self.at.iter().map(|at| at.address.clone()).collect(),
            when_down: WhenDown::Eio(LONG),
            credentials: self.credentials(Identity::Client { name: name.to_owned(), store }),
        };
        let remote = Remote::connect(options, SystemClock::shared()).unwrap();
        let options = tsfs::tsdb_client::Options { name: name.to_owned(), ..Default::default() };
        Client::open(remote, SystemClock::shared(), options).unwrap()
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
    let mut cluster = Cluster::new();
    let client = cluster.client("one");
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
