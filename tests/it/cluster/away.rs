//! Most of the nodes are gone: a mount does what it was told to do then, and goes on when they are back.
//!
//! Not here: one node that is gone (`failover`).

use super::load::HANG_LIMIT;
use super::net::Net;
use super::place::Cluster;
use crate::support;
use crate::support::Mount;
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

/// As an operator would.
fn tell_to_end(mount: &Mount) {
    let server = rustix::process::Pid::from_raw(mount.pid() as i32).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::TERM).unwrap();
}

/// All nodes come back, and what was synced before is there.
fn has_kept(mut cluster: Cluster) {
    cluster.start_all();
    cluster.settle();
    let late = cluster.mount();
    assert_eq!(fs::read_to_string(late.join("before")).unwrap(), "kept");
    late.close();
    cluster.close();
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
fn a_mount_that_cannot_end_can_be_killed() {
    let mut cluster = Cluster::three(Net::loopback());
    let mount = cluster.mount();
    write(&mount.join("before"), "kept").unwrap();
    lose_the_majority(&mut cluster);
    let path = mount.join("during");
    let waiting = std::thread::spawn(move || write(&path, "lost"));
    tell_to_end(&mount);
    // Another process asks for what it must not ask for itself, and waits.
    let tasks = format!("/proc/{}/task", mount.pid());
    let is_sync = |child: &str| {
        fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.trim() == "sync")
    };
    wait_until(HANG_LIMIT, "the mount to begin its end", || {
        let tasks = fs::read_dir(&tasks).unwrap().flatten();
        let of_each = tasks.map(|task| fs::read_to_string(task.path().join("children")));
        let children: String = of_each.map(Result::unwrap_or_default).collect();
        children.split_whitespace().any(is_sync)
    });
    assert!(Path::new(&tasks).exists(), "it has not ended by itself");
    let killed = std::thread::spawn(move || mount.kill());
    wait_until(HANG_LIMIT, "the killed mount to be gone", || killed.is_finished());
    wait_until(HANG_LIMIT, "its program to be told", || waiting.is_finished());
    assert!(waiting.join().unwrap().is_err());
    drop(killed.join().unwrap());
    has_kept(cluster);
}

#[test]
fn a_mount_that_may_fail_ends_without_a_majority() {
    let mut cluster = Cluster::three(Net::loopback());
    let mount = cluster.mount_with("when-down=eio:5s");
    write(&mount.join("before"), "kept").unwrap();
    lose_the_majority(&mut cluster);
    // Taken, as it is its own, and more than goes into the log.
    fs::write(mount.join("before"), vec![1; 4 << 20]).unwrap();
    tell_to_end(&mount);
    let stat = format!("/proc/{}/stat", mount.pid());
    wait_until(HANG_LIMIT * 2, "the mount to end by itself", || {
        fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "))
    });
    assert!(mount.logged().contains("no majority"), "{}", mount.logged());
    // It was taken, and is not lost.
    let saved: Vec<_> = fs::read_dir(cluster.refused()).unwrap().flatten().collect();
    let [file] = &saved[..] else { panic!("{saved:?}") };
    let out = cluster.dir().join("out");
    support::run(support::tsfs().arg("refused").arg(file.path()).arg("--extract").arg(&out));
    assert_eq!(fs::read(out.join("before")).unwrap(), vec![1; 4 << 20]);
    drop(mount);
    has_kept(cluster);
}

#[test]
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
    wait_until(HANG_LIMIT, "the lease to be over", || start.elapsed() > Duration::from_secs(12));
    assert_eq!(fs::read_to_string(mount.join("dir/file7")).unwrap(), "later");
    assert_eq!(fs::read_to_string(mount.join("dir/file8")).unwrap(), "contents 8");
    assert_eq!(fs::read_dir(mount.join("dir")).unwrap().count(), 50);
    assert!(write(&mount.join("dir/during"), "refused").is_err());
    cluster.start_all();
    cluster.settle();
    wait_until(HANG_LIMIT, "the mount to go on", || write(&mount.join("after"), "done").is_ok());
}
