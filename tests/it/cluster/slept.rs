//! A mount that sleeps for longer than its lease, as a laptop does: what it had not sent by then is in a file.
//!
//! Not here: lines that are cut (`cut`), what is in such a file and what is not (`client::refused`).

use super::load::HANG_LIMIT;
use super::net::Net;
use super::place::Cluster;
use crate::support;
use crate::support::Mount;
use crate::support::wait_until;
use rustix::process::Pid;
use rustix::process::Signal;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

fn signal(mount: &Mount, signal: Signal) {
    let server = Pid::from_raw(mount.pid() as i32).unwrap();
    rustix::process::kill_process(server, signal).unwrap();
}

#[test]
fn a_mount_that_slept_past_its_lease_saves_what_it_had_not_sent() {
    let mut cluster = Cluster::three(Net::loopback());
    // Nothing is sent by itself before it sleeps.
    let one = cluster.mount_with("when-down=wait,write.window=10s");
    let other = cluster.mount();
    fs::create_dir(one.join("dir")).unwrap();
    let mut file = File::create(one.join("dir/file")).unwrap();
    file.write_all(b"synced ").unwrap();
    file.sync_all().unwrap();
    file.write_all(b"and not").unwrap();
    signal(&one, Signal::STOP);
    // Until its lease is over.
    assert_eq!(fs::read_to_string(other.join("dir/file")).unwrap(), "synced ");
    fs::write(other.join("dir/file"), "another's").unwrap();
    let start = support::now();
    signal(&one, Signal::CONT);
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    println!("told after {:.1?}", start.elapsed());
    assert!(start.elapsed() < HANG_LIMIT);
    let saved = || -> Vec<PathBuf> {
        let entries = fs::read_dir(cluster.refused()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    wait_until(HANG_LIMIT, "the mount to say where it is", || {
        one.logged().contains("that the store did not take are saved in")
    });
    let [path] = &saved()[..] else { panic!("{:?}", saved()) };
    let out = cluster.dir().join("out");
    let shown = support::run(support::tsfs().arg("refused").arg(path));
    println!("{}", String::from_utf8_lossy(&shown.stdout));
    support::run(support::tsfs().arg("refused").arg(path).arg("--extract").arg(&out));
    assert_eq!(fs::read(out.join("dir/file")).unwrap(), b"\0\0\0\0\0\0\0and not");
    let status = support::tsfs().arg("status").arg(one.dir()).output().unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains("tsfs refused") && !status.status.success(), "{said}");
    // What others have done since is as they left it.
    assert_eq!(fs::read_to_string(other.join("dir/file")).unwrap(), "another's");
    // What is told again is no more of it.
    assert!(file.sync_all().is_err());
    drop(file);
    drop(one);
    assert_eq!(saved().len(), 1);
    other.close();
    cluster.close();
}
