//! The process that guards a mount: it is there for as long as the mount, whatever it is told, and the mount does not need it.
//!
//! Not here: what it is for (`cluster::dying`).

use crate::support::Mount;
use crate::support::scratch;
use crate::support::wait_until;
use rustix::process::Pid;
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// A guard, as the kernel shows it.
struct Guard(PathBuf);

impl Guard {
    fn of(mount: &Mount) -> Guard {
        let tasks = fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap().flatten();
        let of_each = tasks.map(|task| fs::read_to_string(task.path().join("children")));
        let children: String = of_each.map(Result::unwrap_or_default).collect();
        let guards = |child: &&str| {
            let words = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            words.split('\0').nth(1) == Some("--guard")
        };
        let found = children.split_whitespace().find(guards);
        Guard(Path::new("/proc").join(found.expect("a mount has a guard")))
    }

    fn signal(&self, signal: Signal) {
        let number = self.0.file_name().unwrap().to_str().unwrap().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(number).unwrap(), signal).unwrap();
    }

    /// A line of its state, unless it has ended.
    fn says(&self, line: &str) -> bool {
        let status = fs::read_to_string(self.0.join("status")).unwrap_or_default();
        !status.contains("Z (zombie)") && status.contains(line)
    }
}

/// A mount that is ready, and not only served.
fn mount(scratch: &tempfile::TempDir) -> Mount {
    let mount = Mount::create(&scratch.path().join("store"), &scratch.path().join("mnt"));
    wait_until(LIMIT, "the mount to be ready", || mount.logged().contains(": mounted source="));
    mount
}

#[test]
fn a_guard_is_there_for_as_long_as_its_mount() {
    let scratch = scratch();
    let mount = mount(&scratch);
    let guard = Guard::of(&mount);
    assert_eq!(fs::read_link(guard.0.join("cwd")).unwrap(), Path::new("/"));
    assert_eq!(fs::read(guard.0.join("environ")).unwrap(), b"");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        guard.signal(signal);
        wait_until(LIMIT, "the guard to be told", || {
            guard.says("ShdPnd:\t0000000000000000") || !guard.says("State:")
        });
        assert!(guard.says("State:"), "{signal:?} ended it");
    }
    let log = mount.logged();
    mount.close();
    assert!(!guard.0.exists(), "it has ended before its mount has, and was waited for");
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn a_guard_ends_with_a_mount_that_is_killed() {
    let scratch = scratch();
    let mount = mount(&scratch);
    let guard = Guard::of(&mount);
    let _point = mount.kill();
    wait_until(LIMIT, "the guard to end", || !guard.says("State:"));
}

#[test]
fn a_mount_whose_guard_is_killed_goes_on_and_says_so() {
    let scratch = scratch();
    let mount = mount(&scratch);
    Guard::of(&mount).signal(Signal::KILL);
    wait_until(LIMIT, "the mount to say so", || mount.logged().contains("has no guard"));
    fs::write(mount.join("file"), "kept").unwrap();
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"kept");
    mount.close();
}
