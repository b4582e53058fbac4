//! Two mounts show one tree, at once, and nothing is wrong with the nodes.
//!
//! Not here: what each call means (`mount`), and nodes that fail (`failover`, `cut`).

use super::history::spread;
use super::load::Load;
use super::net::Net;
use super::place::Cluster;
use crate::support;
use crate::support::Mount;
use rustix::io::Errno;
use serde_json::Value;
use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Sorted names of a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What one does, the other sees when the call has returned: one time through everything.
fn shown(one: &Path, other: &Path, n: usize) {
    let name = |dir: &Path, what: &str| dir.join(format!("{what}{n}"));
    let (here, there) = (name(one, "file"), name(other, "file"));
    assert!(!there.exists());
    fs::write(&here, "one").unwrap();
    assert_eq!(fs::read_to_string(&there).unwrap(), "one");
    // Open files see what others write, and where they write it.
    let held = File::options().read(true).write(true).open(&there).unwrap();
    fs::write(&here, "longer than before").unwrap();
    let mut bytes = [0; 100];
    let len = held.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..len], b"longer than before");
    held.write_all_at(b"LONGER", 0).unwrap();
    assert_eq!(fs::read_to_string(&here).unwrap(), "LONGER than before");
    held.set_len(6).unwrap();
    assert_eq!(fs::metadata(&here).unwrap().len(), 6);
    fs::set_permissions(&here, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(held.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(held.metadata().unwrap().ino(), fs::metadata(&here).unwrap().ino());
    fs::rename(&here, name(one, "moved")).unwrap();
    assert!(!there.exists() && name(other, "moved").exists());
    fs::hard_link(name(other, "moved"), &there).unwrap();
    assert_eq!(fs::metadata(&here).unwrap().nlink(), 2);
    fs::remove_file(name(one, "moved")).unwrap();
    assert_eq!(held.metadata().unwrap().nlink(), 1);
    fs::create_dir(name(other, "dir")).unwrap();
    fs::write(name(one, "dir").join("inside"), "").unwrap();
    assert_eq!(names(&name(other, "dir")), ["inside"]);
    let full = rustix::fs::rmdir(name(other, "dir"));
    assert_eq!(full, Err(Errno::NOTEMPTY));
    fs::remove_file(name(other, "dir").join("inside")).unwrap();
    fs::remove_dir(name(one, "dir")).unwrap();
    assert!(!name(other, "dir").exists());
    fs::remove_file(&there).unwrap();
    assert!(!here.exists());
    // Without a name it is there for who has it open.
    let len = held.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..len], b"LONGER");
    // Whoever took it.
    fs::write(&there, "of one").unwrap();
    let held = File::options().read(true).write(true).open(&there).unwrap();
    fs::remove_file(&here).unwrap();
    held.write_all_at(b"OF", 0).unwrap();
    let len = held.read_at(&mut bytes, 0).unwrap();
    assert_eq!((&bytes[..len], held.metadata().unwrap().nlink()), (&b"OF one"[..], 0));
}

#[test]
fn three_nodes_come_up_and_two_mounts_see_each_other_at_once() {
    let mut cluster = Cluster::three(Net::loopback());
    let (one, other) = (cluster.mount(), cluster.mount());
    for n in 0..20 {
        let (first, second) = if n % 2 == 0 { (&one, &other) } else { (&other, &one) };
        shown(first.dir(), second.dir(), n);
    }
    assert_eq!(names(one.dir()), Vec::<String>::new());
    // Its own figures, beside those of the node that leads.
    let status = support::run(support::tsfs().args(["status", "--json"]).arg(one.dir()));
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    for counter in ["fuse_requests", "client_direct", "log_syncs"] {
        assert!(status["counters"][counter].as_u64() > Some(0), "{counter}: {status}");
    }
    other.close();
    one.close();
    cluster.close();
}

#[test]
fn a_tree_that_one_makes_is_the_tree_that_the_other_reads() {
    let mut cluster = Cluster::three(Net::loopback());
    let (one, other) = (cluster.mount(), cluster.mount());
    let make = "mkdir -p a/b c; for i in $(seq 200); do echo $i >a/b/f$i; done; head -c 3000000 /dev/urandom >c/large;
        ln -s ../a c/soft; ln a/b/f7 c/hard; cp c/large a/copy; rm a/b/f9; mv a/b/f8 c/";
    support::sh(one.dir(), make);
    let sum = "find . -printf '%P %y %m %n %s %l\\n' | sort; find . -type f -exec sha256sum {} + | sort -k2";
    let seen = support::sh(one.dir(), sum);
    assert_eq!(support::sh(other.dir(), sum), seen);
    // Mounted later, and after everything was let go of.
    one.close();
    other.close();
    let late = cluster.mount();
    assert_eq!(support::sh(late.dir(), sum), seen);
    late.close();
    cluster.close();
}

#[test]
fn what_two_mounts_do_at_once_is_one_history() {
    let mut cluster = Cluster::three(Net::loopback());
    let (one, other) = (cluster.mount(), cluster.mount());
    let load = Load::start(&[&one, &other], "load", 1);
    load.work(6_000);
    let report = load.finish();
    assert_eq!(report.errors(), Vec::<&str>::new());
    report.judge(&[&one, &other], "load");
    let times = report.took.iter().map(|took| Duration::from_nanos(took.nanos)).collect();
    println!("each call: {}", spread(times));
    one.close();
    other.close();
    cluster.close();
}

/// The whole tree at an instant, as text.
fn at(mount: &Mount, instant: u64) -> String {
    let dir =
        mount.join(format!(".tsfs/at/@{}.{:09}", instant / 1_000_000_000, instant % 1_000_000_000));
    support::sh(&dir, "find . -type f | sort | xargs sha256sum")
}

#[test]
fn an_instant_is_the_same_for_all_and_stays() {
    let mut cluster = Cluster::three(Net::loopback());
    let (one, other) = (cluster.mount(), cluster.mount());
    let load = Load::start(&[&one, &other], "load", 2);
    let mut instants = Vec::new();
    for n in 0..4 {
        load.work(300);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let instant = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        let (first, second) = if n % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let seen = at(first, instant);
        assert_eq!(at(second, instant), seen, "at {instant}");
        instants.push((instant, seen));
    }
    let report = load.finish();
    assert_eq!(report.errors(), Vec::<&str>::new());
    let leader = cluster.settle();
    cluster.kill(leader);
    let late = cluster.mount();
    for (instant, seen) in &instants {
        for mount in [&one, &other, &late] {
            assert_eq!(&at(mount, *instant), seen, "at {instant}, after the leader died");
        }
    }
}

/// The harness itself: one mount of one store in one process is one tree, whoever judges it.
#[test]
fn the_judges_find_no_fault_with_a_store_that_is_one() {
    let scratch = support::scratch();
    let mount = Mount::create(&scratch.path().join("store"), &scratch.path().join("mnt"));
    let load = Load::start(&[&mount, &mount], "load", 3);
    load.work(4_000);
    let report = load.finish();
    assert_eq!(report.errors(), Vec::<&str>::new());
    report.judge(&[&mount], "load");
    mount.close();
}

/// What `tsfs clients --json` says of each.
fn clients(cluster: &Cluster) -> Vec<serde_json::Value> {
    let output =
        support::run(support::tsfs().args(["clients", "--json"]).arg(&cluster.nodes[0].store));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn who_is_evicted_ends_with_his_lease_and_others_go_on() {
    let mut cluster = Cluster::three(Net::loopback());
    let one = cluster.mount();
    let other = cluster.mount();
    fs::write(one.join("file"), "first").unwrap();
    support::run(support::tsfs().arg("sync").arg(one.dir()));
    let known = clients(&cluster);
    assert_eq!(known.len(), 2);
    for client in &known {
        let lease = client["lease_ms"].as_u64().expect("its lease is shown");
        assert!((1..=60_000).contains(&lease), "{client}");
    }
    let first = known[0]["session"].as_u64().unwrap();
    support::run(
        support::tsfs().args(["clients", "evict", &first.to_string()]).arg(&cluster.nodes[0].store),
    );
    // It returns when nothing rests on the lease any more.
    let left = clients(&cluster);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["session"], known[1]["session"]);
    assert!(fs::write(one.join("late"), "refused").is_err());
    assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "first");
    fs::write(other.join("file"), "second").unwrap();
    other.close();
    drop(one);
    cluster.close();
}
