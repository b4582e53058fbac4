//! A cluster of real processes: nodes on stores of their own, mounts that reach them, and waiting until all is well.
//!
//! Whatever a process says is in a file of the test's directory, and is shown when the test fails. The command line of a cluster is
//! spelled here and nowhere else in these tests. Not here: what befalls them (`faults`), what programs do (`load`).

#![allow(dead_code, reason = "each test binary uses a part of it")]

use super::keeper::Keeper;
use super::keeper::Kept;
use super::net::Net;
use super::net::PORT;
use crate::support;
use crate::support::Mount;
use crate::support::Point;
use crate::support::run;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

/// How long a cluster may take to be whole again after anything, on a slow machine.
pub(crate) const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Entries of the log that a node may lag behind while programs work.
const LAG_SMALL: u64 = 200;
/// The first and the last lines of each log that a failure shows.
const LINES_SHOWN: usize = 40;

/// Nodes, and what it takes to mount them. Dropped, all of it is ended; declare it before its mounts.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    keeper: Keeper,
    net: Net,
    cert: PathBuf,
    mounts: usize,
    dir: PathBuf,
    /// Removed at the end, where it is this cluster's own.
    _scratch: Option<tempfile::TempDir>,
}

/// One node. It may be down.
pub(crate) struct Node {
    pub(crate) store: PathBuf,
    log: PathBuf,
    pub(crate) server: Option<Kept>,
}

/// Nodes are numbered from one, in the order in which they joined.
fn leader_of(status: &Value) -> Option<usize> {
    status["leader"].as_u64().map(|number| number as usize - 1)
}

/// Whether a node votes, answers, and has nearly all that the others have.
fn takes_part(status: &Value, node: usize) -> bool {
    let known = status["nodes"].as_array().into_iter().flatten();
    let mut known = known.filter(|known| known["node"] == node + 1);
    known.next().is_some_and(|known| {
        ["leads", "votes"].contains(&known["part"].as_str().unwrap_or_default())
            && known["answers"] != false
            && known["lag"].as_u64().unwrap_or(0) <= LAG_SMALL
            && known["lacks"].as_u64().unwrap_or(0) == 0
    })
}

impl Cluster {
    /// Three nodes with stores on the disk under the temporary directory.
    pub(crate) fn three(net: Net) -> Cluster {
        let scratch = support::scratch();
        let stores = (1..=3).map(|n| scratch.path().join(format!("store{n}"))).collect();
        let mut cluster = Cluster::on(net, stores, scratch.path());
        cluster._scratch = Some(scratch);
        cluster
    }

    /// A cluster of one node.
    pub(crate) fn one(net: Net) -> Cluster {
        let scratch = support::scratch();
        let mut cluster = Cluster::on(net, vec![scratch.path().join("store1")], scratch.path());
        cluster._scratch = Some(scratch);
        cluster
    }

    /// Nodes on these stores, with logs and mounts in `dir`. A store that is there already, as the first may be, is taken with all
    /// that it holds.
    pub(crate) fn on(net: Net, stores: Vec<PathBuf>, dir: &Path) -> Cluster {
        let log = |n: usize| dir.join(format!("node{}.log", n + 1));
        let node = |(n, store)| Node { store, log: log(n), server: None };
        let nodes = stores.into_iter().enumerate().map(node).collect();
        let keeper = Keeper::start(dir);
        let (cert, dir) = (dir.join("client.pem"), dir.to_owned());
        let mut cluster = Cluster { nodes, keeper, net, cert, mounts: 0, dir, _scratch: None };
        cluster.begin();
        for node in 1..cluster.nodes.len() {
            let token = cluster.invite();
            cluster.join(node, &token);
            cluster.settle();
        }
        cluster
    }

    /// The first node, and a certificate for mounts.
    fn begin(&mut self) {
        let mut command = self.tsfs(0);
        command.args(["cluster", "init"]).arg(&self.nodes[0].store);
        command.args(self.known_as(0));
        if !self.nodes[0].store.exists() {
            command.arg("--create");
        }
        run(&mut command);
        self.start(0);
        self.settle();
        let mut command = self.tsfs(0);
        command.args(["cluster", "client", "tests"]).arg(&self.nodes[0].store);
        run(command.arg("--out").arg(&self.cert));
    }

    /// A token for one more node.
    pub(crate) fn invite(&self) -> String {
        let mut command = self.tsfs(0);
        let output = run(command.args(["cluster", "invite"]).arg(&self.nodes[0].store));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Starts a node that is not of the cluster yet.
    pub(crate) fn join(&mut self, node: usize, token: &str) {
        let known_as = self.known_as(node);
        let mut arguments = vec!["--join", token];
        arguments.extend(known_as.iter().map(String::as_str));
        self.spawn(node, &arguments);
    }

    /// The same, with roles of its own.
    pub(crate) fn join_as(&mut self, node: usize, token: &str, roles: &str) {
        let known_as = self.known_as(node);
        let mut arguments = vec!["--join", token, "--roles", roles];
        arguments.extend(known_as.iter().map(String::as_str));
        self.spawn(node, &arguments);
    }

    /// One more node, which is not started yet.
    pub(crate) fn add(&mut self, store: PathBuf) {
        let log = self.dir.join(format!("node{}.log", self.nodes.len() + 1));
        self.nodes.push(Node { store, log, server: None });
    }

    /// Starts a node that belongs to the cluster.
    pub(crate) fn start(&mut self, node: usize) {
        self.spawn(node, &[]);
    }

    fn spawn(&mut self, node: usize, arguments: &[&str]) {
        let mut command = self.tsfs(node);
        command.arg("node").arg(&self.nodes[node].store).args(arguments);
        let Node { log, server, .. } = &mut self.nodes[node];
        assert!(server.is_none(), "node {node} is up");
        *server = Some(self.keeper.spawn(&command, log));
    }

    /// The program, to be run where that node is.
    pub(crate) fn tsfs(&self, node: usize) -> Command {
        self.net.command(node, OsStr::new(env!("CARGO_BIN_EXE_tsfs")))
    }

    pub(crate) fn net(&self) -> &Net {
        &self.net
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn cert(&self) -> &Path {
        &self.cert
    }

    /// How a node is told who it is going to be.
    pub(crate) fn known_as(&self, node: usize) -> [String; 6] {
        let (address, name) = (self.address(node), format!("n{}", node + 1));
        ["--listen", &address, "--address", &address, "--name", &name].map(str::to_owned)
    }

    pub(crate) fn address(&self, node: usize) -> String {
        format!("{}:{PORT}", self.net.address(node))
    }

    /// What is mounted: all nodes, and the top of the tree.
    pub(crate) fn source(&self) -> String {
        let addresses: Vec<String> = (0..self.nodes.len()).map(|node| self.address(node)).collect();
        format!("{}:/", addresses.join(","))
    }

    /// A mount that waits for as long as it takes when the nodes are away.
    pub(crate) fn mount(&mut self) -> Mount {
        self.mount_with("when-down=wait")
    }

    /// A mount with options of its own, at a directory of its own. Namespaces behind those of the nodes are for mounts, one each.
    pub(crate) fn mount_with(&mut self, options: &str) -> Mount {
        let place = self.nodes.len() + self.mounts;
        self.mounts += 1;
        let point = Point::new(&self.dir().join(format!("mnt{}", self.mounts)));
        self.mount_at(point, place, options)
    }

    /// Where mounts save what was not taken of them.
    pub(crate) fn refused(&self) -> PathBuf {
        self.dir().join("refused")
    }

    /// A mount at a directory where one was.
    pub(crate) fn mount_again(&self, dir: &Path) -> Mount {
        self.mount_at(Point::new(dir), self.nodes.len(), "when-down=wait")
    }

    /// Of the nodes that are up.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().filter_map(|node| Some(node.server.as_ref()?.id()))
    }

    pub(crate) fn mount_at(&self, point: Point, place: usize, options: &str) -> Mount {
        let mut command = self.tsfs(place);
        command.args(["mount", "--foreground"]).arg(self.source()).arg(point.dir());
        let refused = self.refused();
        command.arg("-o").arg(format!(
            "cert={},mount.refused={},{options}",
            self.cert.display(),
            refused.display()
        ));
        let log = point.dir().with_extension("log");
        Mount::serve(&mut command, &log, point)
    }

    /// What `tsfs cluster status` says, asked of that node; nothing where it does not answer soon.
    pub(crate) fn status(&self, node: usize) -> Option<Value> {
        let mut command = self.net.command(node, OsStr::new("timeout"));
        command.args(["5", env!("CARGO_BIN_EXE_tsfs"), "cluster", "status", "--json"]);
        command.arg(&self.nodes[node].store).stderr(Stdio::null());
        // It fails where not all is well, and says what there is to say all the same.
        serde_json::from_slice(&command.output().unwrap().stdout).ok()
    }

    /// The directory that a node serves.
    pub(crate) fn store(&self, node: usize) -> &Path {
        &self.nodes[node].store
    }

    /// Who leads, as that node says.
    pub(crate) fn leader_says(&self, node: usize) -> Option<usize> {
        leader_of(&self.status(node)?)
    }

    /// Waits until the cluster knows so many nodes.
    pub(crate) fn count(&self, nodes: usize) {
        support::wait_until(SETTLE_LIMIT, "the nodes to be known", || {
            self.status(0).is_some_and(|status| {
                status["nodes"].as_array().is_some_and(|known| known.len() == nodes)
            })
        });
    }

    /// Who leads, if all nodes that are up say so, and each takes part and lags little.
    fn settled(&self) -> Option<usize> {
        let up: Vec<usize> =
            (0..self.nodes.len()).filter(|n| self.nodes[*n].server.is_some()).collect();
        let all: Option<Vec<Value>> = up.iter().map(|node| self.status(*node)).collect();
        let all = all?;
        let leader = leader_of(all.first()?)?;
        let fit = |status: &Value| {
            leader_of(status) == Some(leader) && up.iter().all(|node| takes_part(status, *node))
        };
        all.iter().all(fit).then_some(leader)
    }

    /// Waits until all that are up follow one leader, and returns it.
    ///
    /// # Panics
    /// After a while; if a node has ended by itself, at once.
    pub(crate) fn settle(&mut self) -> usize {
        let mut leader = None;
        support::wait_until(SETTLE_LIMIT, "the nodes to follow one leader", || {
            self.assert_up();
            leader = self.settled();
            leader.is_some()
        });
        leader.expect("it is settled")
    }

    /// No node has ended that was not told to.
    pub(crate) fn assert_up(&mut self) {
        for (n, node) in self.nodes.iter().enumerate() {
            if let Some(server) = &node.server {
                assert_eq!(server.ended(), None, "node {n} ended by itself");
            }
        }
    }

    /// Everything that a node has logged.
    pub(crate) fn logged(&self, node: usize) -> String {
        std::fs::read_to_string(&self.nodes[node].log).unwrap_or_default()
    }

    /// Ends all nodes as an operator would, and looks for faults in their stores.
    ///
    /// # Panics
    /// If one does not end, or has a fault.
    pub(crate) fn close(mut self) {
        for node in 0..self.nodes.len() {
            self.end(node);
        }
        for node in &self.nodes {
            run(support::tsfs().arg("fsck").arg(&node.store));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.server.take();
        }
        if std::thread::panicking() {
            show_logs(&self.dir);
        }
    }
}

/// Prints the ends of all logs of a directory.
fn show_logs(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut logs: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    logs.retain(|path| path.extension() == Some(OsStr::new("log")));
    logs.sort();
    for path in logs {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        println!("--- {}, {} lines", path.display(), lines.len());
        let left_out = LINES_SHOWN..lines.len().saturating_sub(LINES_SHOWN);
        for (_, line) in lines.iter().enumerate().filter(|(n, _)| !left_out.contains(n)) {
            println!("{line}");
        }
    }
}
