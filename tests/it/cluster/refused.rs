//! Who may not enter, and is told why: certificates and tokens that are not good, nodes and mounts of another cluster.
//!
//! Not here: what one does who may enter.

use super::load::HANG_LIMIT;
use super::net::Net;
use super::place::Cluster;
use crate::support;
use crate::support::Point;
use crate::support::Running;
use crate::support::wait_until;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

/// Runs a command that has to fail in time, and returns what it said.
fn refused(command: &mut Command, log: &Path) -> String {
    let file = std::fs::File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let mut running = Running::start(command);
    let mut status = None;
    wait_until(HANG_LIMIT * 2, "a refusal", || {
        status = running.0.try_wait().unwrap();
        status.is_some()
    });
    let said = std::fs::read_to_string(log).unwrap();
    assert!(!status.unwrap().success(), "it was let in:\n{said}");
    assert!(!said.contains("panicked"), "{said}");
    println!("refused: {said}");
    said
}

#[test]
fn a_token_works_once() {
    let cluster = Cluster::three(Net::loopback());
    let token = cluster.invite();
    let (store, log) = (cluster.dir().join("fourth"), cluster.dir().join("fourth.log"));
    let mut command = support::tsfs();
    command.arg("node").arg(&store).args(["--join", &token]).args(cluster.known_as(3));
    let file = std::fs::File::create(&log).unwrap();
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let fourth = Running::start(&mut command);
    cluster.count(4);
    let (store, log) = (cluster.dir().join("fifth"), cluster.dir().join("fifth.log"));
    let mut command = support::tsfs();
    command.arg("node").arg(store).args(["--join", &token]).args(cluster.known_as(4));
    let said = refused(&mut command, &log);
    assert!(said.contains("used"), "it says that the token was used: {said}");
    let mut command = support::tsfs();
    let changed: String = token.chars().rev().collect();
    command.arg("node").arg(cluster.dir().join("sixth"));
    command.args(["--join", &changed]).args(cluster.known_as(4));
    refused(&mut command, &log);
    drop(fourth);
}

#[test]
fn another_clusters_certificates_open_nothing() {
    let mut cluster = Cluster::three(Net::loopback());
    let mut foreign = Cluster::one(Net::loopback());
    let mount = cluster.mount();
    std::fs::write(mount.join("file"), "kept").unwrap();
    let point = Point::new(&cluster.dir().join("foreign"));
    let log = cluster.dir().join("foreign.log");
    let mut command = support::tsfs();
    command.args(["mount", "--foreground"]).arg(cluster.source()).arg(point.dir());
    command.arg("-o").arg(format!("cert={},when-down=eio:5s", foreign.cert().display()));
    let said = refused(&mut command, &log);
    assert!(said.contains("certificate") || said.contains("another cluster"), "{said}");
    let mut command = support::tsfs();
    command.args(["mount", "--foreground"]).arg(cluster.source()).arg(point.dir());
    command.arg("-o").arg(format!("cert={},when-down=eio:5s", log.display()));
    refused(&mut command, &log);
    // A store that belongs to one cluster does not become another's.
    foreign.end(0);
    let token = cluster.invite();
    let mut command = support::tsfs();
    command.arg("node").arg(&foreign.nodes[0].store);
    refused(command.args(["--join", &token]).args(cluster.known_as(4)), &log);
    assert_eq!(std::fs::read_to_string(mount.join("file")).unwrap(), "kept");
    mount.close();
    cluster.close();
}
