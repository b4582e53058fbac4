//! That lines between processes are cut when a test cuts them, and that nothing is left of them.
//!
//! Not here: the cluster on top of them (`cut`).

use super::net::Net;
use super::net::PORT;
use crate::support::Running;
use crate::support::wait_until;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

/// What says back what it is sent, in a place.
fn echo(net: &Net, place: usize) -> Running {
    let script = "import socket,sys
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind((sys.argv[1],int(sys.argv[2])))
while True:
 data,who=s.recvfrom(99); s.sendto(data,who)";
    let mut command = net.command(place, OsStr::new("python3"));
    command.args(["-c", script, &net.address(place).to_string(), &PORT.to_string()]);
    Running::start(command.stdin(Stdio::null()))
}

#[test]
fn lines_are_cut_in_one_direction_or_both_and_leave_nothing() {
    let net = Net::spaces(2);
    let names = [net.lines().space(0), net.lines().space(1)];
    let _there = echo(&net, 0);
    let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let to = SocketAddr::from((net.address(0), PORT));
    let mut count = 0_u32;
    let mut answers = || {
        count += 1;
        let sent = socket.send_to(&count.to_le_bytes(), to);
        let mut bytes = [0; 4];
        sent.is_ok() && socket.recv(&mut bytes).is_ok() && bytes == count.to_le_bytes()
    };
    let long = Duration::from_secs(20);
    wait_until(long, "an answer over the bridge", &mut answers);
    net.lines().link(0, false);
    assert!(!answers(), "the line is down");
    net.lines().link(0, true);
    wait_until(long, "an answer over the mended line", &mut answers);
    // The test itself has the address .254.
    net.lines().cut(0, 253);
    assert!(!answers(), "what it hears it cannot answer");
    net.lines().mend(0, 253);
    wait_until(long, "an answer after the cut", &mut answers);
    drop(net);
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let left = String::from_utf8(left.stdout).unwrap();
    assert!(!names.iter().any(|name| left.contains(name)), "{left}");
}

#[test]
fn two_networks_share_no_address() {
    let (one, other) = (Net::loopback(), Net::loopback());
    assert_ne!(one.address(0), other.address(0));
    std::net::TcpListener::bind((one.address(2), PORT)).unwrap();
}
