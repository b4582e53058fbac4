//! Most of the nodes are gone: a mount does what it was told to do then, and goes on when they are back.
//!
//! Not here: one node that is gone (`failover`).

use super::load::HANG_LIMIT;
use super::net::Net;
use super::place::Cluster;
use crate::support;
use crate::support::wait_until;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Writes and syncs a file.
fn write(path: &Path, contents: &str) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(contents.as_bytes())?;
    file.sync_all()
}

/// The first node and one more; one is left.
fn lose_the_majority(cluster: &mut Cluster) {
    let leader = cluster.settle();
    cluster.kill(leader);
    cluster.kill((leader + 1) % 3);
}

#[test]
fn without_a_majority_a_mount_says_so_after_the_time_it_was_told() {
    let mut cluster = Cluster::three(Net::loopback());
    let mount = cluster.mount_with("when-down=eio:5s");
    write(&mount.join("before"), "kept").unwrap();
    lose_the_majority(&mut cluster);
    let start = support::now();
    let refused = write(&mount.join("during"), "refused").unwrap_err();
    println!("refused after {:.1?}: {refused}", start.elapsed());
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
    assert!(start.elapsed() > Duration::from_secs(4), "it waits first");
    assert!(start.elapsed() < HANG_LIMIT);
    cluster.start_all();
    cluster.settle();
    wait_until(HANG_LIMIT, "the mount to go on", || write(&mount.join("after"), "done").is_ok());
    assert_eq!(fs::read_to_string(mount.join("before")).unwrap(), "kept");
}

#[test]
fn without_a_majority_a_mount_waits_and_goes_on() {
    let mut cluster = Cluster::three(Net::loopback());
    let mount = cluster.mount();
    write(&mount.join("before"), "kept").unwrap();
    lose_the_majority(&mut cluster);
    let path = mount.join("during");
    let waiting = std::thread::spawn(move || write(&path, "waited for"));
    let start = support::now();
    // Longer than a lease: what it holds when nobody else could have taken it stays.
    wait_until(HANG_LIMIT, "a while", || start.elapsed() > Duration::from_secs(12));
    assert!(!waiting.is_finished(), "no majority has it");
    cluster.start_all();
    cluster.settle();
    wait_until(HANG_LIMIT, "the program to go on", || waiting.is_finished());
    waiting.join().unwrap().unwrap();
    let late = cluster.mount();
    assert_eq!(fs::read_to_string(late.join("during")).unwrap(), "waited for");
    assert_eq!(fs::read_to_string(late.join("before")).unwrap(), "kept");
    late.close();
    mount.close();
    cluster.close();
}

#[test]
#[ignore = "a mount that showed the present from its cache shows an error once its lease is over"]
fn without_a_majority_the_past_is_served_where_that_was_asked_for() {
    let mut cluster = Cluster::three(Net::loopback());
    let mount = cluster.mount_with("when-down=stale");
    fs::create_dir(mount.join("dir")).unwrap();
    for n in 0..50 {
        write(&mount.join(format!("dir/file{n}")), &format!("contents {n}")).unwrap();
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let past = mount.join(format!(".tsfs/at/@{}.{:09}/dir", now.tv_sec, now.tv_nsec));
    assert_eq!(fs::read_to_string(past.join("file7")).unwrap(), "contents 7");
    fs::write(mount.join("dir/file7"), "later").unwrap();
    support::run(support::tsfs().arg("sync").arg(mount.dir()));
    lose_the_majority(&mut cluster);
    let start = support::now();
    for n in 0..50 {
        let seen = fs::read_to_string(past.join(format!("file{n}"))).unwrap();
        assert_eq!(seen, format!("contents {n}"));
    }
    println!("the past was read in {:.1?}", start.elapsed());
    assert!(start.elapsed() < HANG_LIMIT * 2);
    // The present may be old, and is not changed.
    assert!(write(&mount.join("dir/during"), "refused").is_err());
    cluster.start_all();
    cluster.settle();
    wait_until(HANG_LIMIT, "the mount to go on", || write(&mount.join("after"), "done").is_ok());
}
