//! The commands of a node and its cluster from outside, with real processes on the loopback: what each prints, what it
//! answers to bad input, and its exit code.
//!
//! Not here: what happens to several nodes and their mounts (`cluster`).

use crate::support::Running;
use crate::support::mounted;
use crate::support::run;
use crate::support::scratch;
use crate::support::sh;
use crate::support::tsfs;
use crate::support::unmount;
use crate::support::wait_until;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;

/// A process that takes longer to be ready, or to end, never will.
const LIMIT: Duration = Duration::from_secs(60);

/// Exit code, standard output, standard error.
fn told(arguments: &[&str]) -> (i32, String, String) {
    let mut command = tsfs();
    // Nothing of the user who runs the tests.
    command.args(arguments).env("HOME", "/nonexistent").env_remove("XDG_CONFIG_HOME");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn done(arguments: &[&str]) -> String {
    let (code, out, err) = told(arguments);
    assert_eq!(code, 0, "tsfs {arguments:?}:\n{out}{err}");
    out
}

fn refused(arguments: &[&str], sentence: &str) {
    let (code, out, err) = told(arguments);
    assert_eq!(code, 1, "tsfs {arguments:?}:\n{out}{err}");
    assert!(err.contains(sentence), "tsfs {arguments:?} said:\n{err}");
}

fn free_address() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("127.0.0.1:{port}")
}

/// A directory, and the nodes in it. They end with it.
struct World {
    // Ended before the directory goes.
    nodes: Vec<Running>,
    scratch: TempDir,
}

impl World {
    fn new() -> World {
        World { nodes: Vec::new(), scratch: scratch() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().canonicalize().unwrap().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A store that is a cluster of one: its directory and address.
    fn init(&self) -> (String, String) {
        let (store, address) = (self.text("one"), free_address());
        done(&["cluster", "init", "--create", &store, "--address", &address, "--listen", &address]);
        (store, address)
    }

    /// Starts a node, and waits until it can be asked.
    fn serve(&mut self, store: &str, arguments: &[&str]) {
        let mut command = tsfs();
        command.arg("node").arg(store).args(arguments);
        self.nodes.push(Running::start(command.stderr(Stdio::null())));
        let socket = Path::new(store).join("node.sock");
        let nodes = &mut self.nodes;
        wait_until(LIMIT, "the node's socket", || {
            let ended = nodes.last_mut().unwrap().0.try_wait().unwrap();
            assert!(ended.is_none(), "the node ended: {ended:?}");
            socket.exists()
        });
    }

    /// SIGTERM, and waits until the last node has ended in order.
    fn stop(&mut self) {
        let mut node = self.nodes.pop().unwrap();
        node.terminate();
        let ended = node.0.wait().unwrap();
        assert!(ended.success(), "the node ended with {ended}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        unmount(&self.path("mnt"));
    }
}

#[test]
fn a_store_with_a_history_becomes_a_cluster_in_place() {
    let mut world = World::new();
    let (store, mnt) = (world.text("one"), world.text("mnt"));
    fs::create_dir(&mnt).unwrap();
    done(&["mount", "--create", &store, &mnt]);
    sh(Path::new(&mnt), "echo first >note; mkdir dir; echo in >dir/file");
    done(&["mark", "then", &mnt]);
    let address = free_address();
    refused(&["cluster", "init", &store, "--address", &address], "is in use by process");
    done(&["umount", &mnt]);
    refused(&["node", &store], "is a store of no cluster yet: 'tsfs cluster init'");
    refused(&["cluster", "status", &store], "no node serves");
    let said = done(&["cluster", "init", &store, "--address", &address, "--listen", &address]);
    assert!(said.contains("is node 1 of a cluster"), "{said}");
    refused(&["cluster", "init", &store, "--address", &address], "is node 1 of a cluster already");
    let settings = fs::read_to_string(world.path("one/node.toml")).unwrap();
    assert!(settings.contains(&format!("listen = \"{address}\"")), "{settings}");
    for private in ["node.pem", "tsfs-node"] {
        let mode = fs::metadata(world.path("one").join(private)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{private} has mode {mode:o}");
    }

    world.serve(&store, &[]);
    refused(&["mount", &store, &mnt], "served as a node");
    let certificate = world.text("me.pem");
    let said = done(&["cluster", "client", "me", &store, "--out", &certificate]);
    assert!(said.contains("the certificate of client 'me'"), "{said}");
    refused(&["cluster", "client", "me", &store, "--out", &certificate], "is there already");
    let options = format!("cert={certificate},when-down=eio:30s");
    done(&["mount", &format!("{address}:/"), &mnt, "-o", &options]);
    assert_eq!(mounted(Path::new(&mnt)).as_deref(), Some("fuse.tsfs"));
    let here = Path::new(&mnt);
    assert_eq!(sh(here, "cat note .tsfs/marks/then/note dir/file"), "first\nfirst\nin\n");
    sh(here, "echo second >>note; sync note");
    let clients: Value = serde_json::from_str(&done(&["clients", "--json", &store])).unwrap();
    assert_eq!(clients["name"], mnt.as_str());
    assert!(done(&["locks", &store]).contains("client"));
    done(&["umount", &mnt]);
    assert!(done(&["clients", &store]).contains("nobody mounts it"));

    // A directory as the root; nothing leads out of it.
    done(&["mount", &format!("{address}:/dir"), &mnt, "-o", &options]);
    assert_eq!(sh(here, "ls; cat file; ls -id . | cut -d' ' -f1"), "file\nin\n1\n");
    sh(here, "echo more >new; mv new file; ls .tsfs >/dev/null; rm file; mkdir sub; rmdir sub");
    done(&["umount", &mnt]);
    refused(&["mount", &format!("{address}:/nowhere"), &mnt, "-o", &options], "no such directory");
    refused(&["mount", &format!("{address}:/note"), &mnt, "-o", &options], "it is no directory");
    refused(&["mount", &format!("{address}:/dir/.."), &mnt, "-o", &options], "no '..'");
    world.stop();
    // Without the node it is a store as before.
    done(&["mount", &store, &mnt, "-o", "dir=/dir"]);
    assert_eq!(sh(here, "ls -A"), "");
    done(&["umount", &mnt]);
    assert!(run(tsfs().args(["fsck", &store])).status.success());
}

#[test]
fn commands_that_ask_a_node_say_what_is_wrong() {
    let mut world = World::new();
    let (store, address) = world.init();
    let empty = world.text("empty");
    fs::create_dir(&empty).unwrap();
    refused(&["cluster", "status", &empty], "is not a store");
    refused(&["clients", &store], "start one with 'tsfs node");
    world.serve(&store, &[]);
    let (code, out, _) = told(&["cluster", "status", &store]);
    assert!(code == 0 && out.contains("node 1 leads") && out.contains(&address), "{out}");
    let overview: Value =
        serde_json::from_str(&done(&["cluster", "status", "--json", &store])).unwrap();
    assert_eq!((&overview["leader"], &overview["nodes"][0]["part"]), (&1.into(), &"leads".into()));

    refused(&["cluster", "remove", "1", &store], "no node would be left to decide");
    refused(&["cluster", "remove", "9", &store], "the cluster has no node 9; it has node 1");
    refused(&["cluster", "remove", "ghost", &store], "the cluster has no node 'ghost'; it has 1 (");
    refused(&["cluster", "drain", "1", &store], "only 0 of 1 nodes");
    refused(&["cluster", "replace", "1", "1", &store], "cannot take its own place");
    refused(&["cluster", "replace", "1", "7", &store], "no node 7");
    refused(&["clients", "evict", "77", &store], "there is no client 77");
    refused(
        &["cluster", "client", &"x".repeat(65), &store, "--out", &world.text("x.pem")],
        "64 bytes",
    );
    refused(&["cluster", "invite", "--for", "100y", &store], "ten years");
    let (code, _, err) = told(&["cluster", "invite", "--for", "soon", &store]);
    assert!(code == 2 && err.contains("soon"), "{err}");
    refused(&["node", &store], "served as a node");
    world.stop();
}

#[test]
fn tokens_that_are_not_good_are_refused_before_anything_is_made() {
    let mut world = World::new();
    let (store, _) = world.init();
    world.serve(&store, &[]);
    let two = world.text("two");
    let join = |token: &str, sentence: &str| {
        let address = free_address();
        refused(&["node", &two, "--join", token, "--address", &address], sentence);
        assert!(!Path::new(&two).join("tsfs-store").exists(), "it made a store");
    };
    let invite = |arguments: &[&str]| {
        done(&[&["cluster", "invite", &store], arguments].concat()).trim().to_owned()
    };
    join("tsfs-hello", "this is no token of tsfs");
    let token = invite(&[]);
    join(&token[..token.len() - 2], "a part is missing: copy all of it");
    join(&invite(&["--client", "laptop"]), "the token is for the client laptop");
    let short = invite(&["--for", "1s"]);
    wait_until(LIMIT, "the token to end", || {
        let (_, _, err) = told(&["cluster", "client", "--join", &short, "--out", "/nonexistent/x"]);
        err.contains("the token ended on")
    });
    join(&short, "the token ended on");
    // For a client: used once, and for no node.
    let (out, again) = (world.text("c.pem"), world.text("d.pem"));
    let of_client = invite(&["--client", "laptop"]);
    done(&["cluster", "client", "--join", &of_client, "--out", &out]);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    refused(&["cluster", "client", "--join", &of_client, "--out", &again], "used already");
    refused(&["cluster", "client", "--join", &token, "--out", &again], "the token is for a node");
    // A place that is taken.
    let busy = world.text("busy");
    fs::create_dir(&busy).unwrap();
    fs::write(Path::new(&busy).join("photo.jpg"), "x").unwrap();
    refused(&["node", &busy, "--join", &token, "--address", "h:1"], "it holds \"photo.jpg\"");
    refused(&["node", &store, "--join", &token], "served as a node");
    let embedded = world.text("embedded");
    let mnt = world.text("mnt");
    fs::create_dir(&mnt).unwrap();
    done(&["mount", "--create", &embedded, &mnt]);
    done(&["umount", &mnt]);
    refused(&["node", &embedded, "--join", &token], "is a store already");
    world.stop();
}

#[test]
fn mounts_of_a_cluster_say_what_is_wrong() {
    let world = World::new();
    let (store, address) = world.init();
    let mnt = world.text("mnt");
    fs::create_dir(&mnt).unwrap();
    let source = format!("{address}:/");
    let mount = |options: &str, sentence: &str| {
        refused(&["mount", &source, &mnt, "-o", options], sentence);
        assert_eq!(mounted(Path::new(&mnt)), None);
    };
    mount("ro", "this machine has no certificate");
    mount("cert=/nonexistent/c.pem", "there is no certificate at /nonexistent/c.pem");
    mount("when-down=block", "'block' is nothing to do while the cluster is away");
    mount("when-dwn=wait", "did you mean 'when-down'?");
    mount("create", "a cluster is not made by mounting it");
    mount("dir=/x", "leave out dir=");
    mount("node.listen=a:1", "there is no option 'node.listen=a:1'");
    let of_node = world.text("one/node.pem");
    mount(&format!("cert={of_node}"), "is the certificate of node 1");
    let loose = world.text("loose.pem");
    fs::write(&loose, "text").unwrap();
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o644)).unwrap();
    mount(&format!("cert={loose}"), "'chmod 600");
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o600)).unwrap();
    mount(&format!("cert={loose}"), "this is no certificate of tsfs");
    refused(&["mount", "n1,:/", &mnt], "'' is no name of a host");
    refused(&["mount", "n1,n2", &mnt], "a cluster is written as");
    refused(&["mount", &store, &mnt, "-o", "when-down=wait"], "are for mounts of a cluster");
}

#[test]
fn settings_of_a_node_are_checked_before_it_starts() {
    let world = World::new();
    let (store, _) = world.init();
    let file = world.path("one/node.toml");
    for (text, sentence) in [
        (
            "lisen = \"a:1\"",
            "line 1: there is no setting 'node.lisen'; did you mean 'node.listen'?",
        ),
        ("roles = [\"date\"]", "'date' is no role; there are ts, data, lock, monitor"),
        ("networks = \"10.0.0.0/99\"", "'10.0.0.0/99' is no network"),
        ("listen = \"192.0.2.1:7000\"\naddress = \"a:1\"", "listen on 192.0.2.1:7000"),
        ("listen = \"127.0.0.1:0\"", "say which port"),
    ] {
        fs::write(&file, text).unwrap();
        refused(&["node", &store], sentence);
    }
    fs::write(&file, "listen = \"127.0.0.1:0\"\naddress = \"a:1\"").unwrap();
    fs::write(world.path("one/tsfs-node"), "garbage").unwrap();
    refused(&["node", &store], "the node cannot tell which it is");
}

#[test]
fn metrics_and_health_are_served_over_http() {
    let mut world = World::new();
    let (store, _) = world.init();
    let address = free_address();
    world.serve(&store, &["--set", &format!("metrics.listen={address}")]);
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    wait_until(LIMIT, "the metrics", || TcpStream::connect(&address).is_ok());
    let metrics = get("/metrics");
    assert!(
        metrics.contains(" 200 ") && metrics.contains("text/plain; version=0.0.4"),
        "{metrics}"
    );
    assert!(metrics.contains("\ntsfs_leads 1\n") && metrics.contains("\ntsfs_log_syncs_total "));
    assert!(metrics.contains("tsfs_node_votes{node=\"1\"} 1"), "{metrics}");
    let health = get("/health");
    assert!(health.contains(" 200 ") && health.ends_with("good\n"), "{health}");
    assert!(get("/secrets").contains(" 404 "));
    world.stop();
    refused(&["node", &store, "--set", "metrics.listen=192.0.2.1:9"], "metrics.listen: listen on");
}

#[test]
fn a_node_outlives_sighup_and_kill() {
    let mut world = World::new();
    let (store, _) = world.init();
    world.serve(&store, &[]);
    let pid = world.nodes[0].0.id().to_string();
    sh(Path::new("/"), &format!("kill -HUP {pid}"));
    done(&["cluster", "status", &store]);
    world.nodes.pop().unwrap().kill();
    // What it left behind is in nobody's way.
    assert!(world.path("one/node.sock").exists());
    refused(&["cluster", "status", &store], "no node serves");
    fs::remove_file(world.path("one/node.sock")).unwrap();
    fs::write(world.path("one/node.sock"), "in the way").unwrap();
    let mut command = tsfs();
    world.nodes.push(Running::start(command.arg("node").arg(&store).stderr(Stdio::null())));
    wait_until(LIMIT, "the node", || told(&["cluster", "status", &store]).0 == 0);
    world.stop();
    assert!(!world.path("one/node.sock").exists());
}
