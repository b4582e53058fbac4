//! A mount is killed while one of its threads has the kernel forget a name: that thread waits for a directory that a program has locked,
//! and the program waits for the mount. Both are let go of.
//!
//! Not here: mounts that die while nothing of that is under way (`crashes`).

use super::net::Net;
use super::place::Cluster;
use crate::support::Mount;
use crate::support::Point;
use crate::support::wait_until;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::thread::gettid;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

/// The kernel and three mounts have come to their states within this: less than what is left of a lease that was renewed when it
/// had to be.
const STATE_LIMIT: Duration = Duration::from_secs(5);
/// Whoever waited for the mount is told within this, and its process is gone.
const TOLD_LIMIT: Duration = Duration::from_secs(5);
/// The thread that has the kernel forget.
const FORGETS: &str = "tsfs-forget";
/// What the kernel is in while it waits for an answer.
const ASKS: &str = "request_wait_answer";
/// What it is in while it looks for a name in a directory that it has locked: of several kernels.
const LOOKS_LOCKED: &[&str] = &["lookup_one_qstr", "__lookup_hash"];

/// Three mounts of one cluster, of which the first waits for the kernel, which waits for a program, which waits for the mount.
struct Stuck {
    /// Dropped first: whatever waits for the mount is let go of, should it hang.
    _point: Point,
    /// Renames a file in a directory that it has locked for that.
    program: JoinHandle<io::Result<()>>,
    /// Looks at that directory through the other mount.
    _looker: JoinHandle<()>,
    dying: Mount,
    _owner: Mount,
    _other: Mount,
    _cluster: Cluster,
}

fn signal(mount: &Mount, signal: Signal) {
    let server = Pid::from_raw(mount.pid() as i32).unwrap();
    rustix::process::kill_process(server, signal).unwrap();
}

/// Renames from a thread of its own, and returns once that waits for an answer with both directories locked.
fn rename(from: PathBuf, to: PathBuf) -> JoinHandle<io::Result<()>> {
    let (tell, told) = channel();
    let program = std::thread::spawn(move || {
        tell.send(gettid()).unwrap();
        fs::rename(from, to)
    });
    let stack = format!("/proc/self/task/{}/stack", told.recv().unwrap());
    wait_until(STATE_LIMIT, "the program to wait for the mount", || {
        let stack = fs::read_to_string(&stack).unwrap_or_default();
        LOOKS_LOCKED.iter().any(|function| stack.contains(function)) && stack.contains(ASKS)
    });
    program
}

/// Whether the thread that has the kernel forget sleeps there where no signal wakes it.
fn is_stuck(mount: &Mount) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap().flatten();
    let stats = tasks.flat_map(|task| fs::read_to_string(task.path().join("stat")));
    stats.into_iter().any(|stat| stat.contains(&format!("({FORGETS}) D ")))
}

impl Stuck {
    fn new() -> Stuck {
        let mut cluster = Cluster::one(Net::loopback());
        let (dying, owner, other) = (cluster.mount(), cluster.mount(), cluster.mount());
        fs::create_dir(dying.join("dir")).unwrap();
        fs::create_dir(owner.join("there")).unwrap();
        // Nobody's from now on; what is made in it is its maker's.
        for mount in [&dying, &other] {
            assert_eq!(fs::read_dir(mount.join("there")).unwrap().count(), 0);
        }
        fs::write(owner.join("there/file"), "").unwrap();
        signal(&owner, Signal::STOP);
        // The kernel is told this name, in a directory that the mount owns, and is to forget it.
        fs::write(dying.join("dir/file"), "").unwrap();
        let point = Point::new(dying.dir());
        // Locks both directories before it looks for what it is about to replace, which waits for the owner.
        let program = rename(dying.join("dir/file"), dying.join("there/file"));
        let dir = other.join("dir");
        // Whoever looks at it has it asked back; what he sees of it then is no matter.
        let looker = std::thread::spawn(move || drop(fs::metadata(dir)));
        let stuck = Stuck {
            _point: point,
            program,
            _looker: looker,
            dying,
            _owner: owner,
            _other: other,
            _cluster: cluster,
        };
        wait_until(STATE_LIMIT, "the mount to wait for the program", || is_stuck(&stuck.dying));
        assert!(!stuck.program.is_finished(), "it waits for the mount");
        stuck
    }

    /// The mount is about to be gone: its program is told, with an error.
    fn ends(mut self) {
        wait_until(TOLD_LIMIT, "the program to be told", || self.program.is_finished());
        let program = std::mem::replace(&mut self.program, std::thread::spawn(|| Ok(())));
        let error = program.join().unwrap().unwrap_err();
        println!("the program was told: {error}");
        let told = [Some(libc::ECONNABORTED), Some(libc::ENOTCONN)];
        assert!(told.contains(&error.raw_os_error()), "{error}");
        // Of a process that is gone the first thread is left, for whoever started it.
        let process = PathBuf::from(format!("/proc/{}", self.dying.pid()));
        wait_until(TOLD_LIMIT, "the process of the mount to be gone", || {
            fs::read_to_string(process.join("stat")).unwrap().contains(") Z ")
                && fs::read_dir(process.join("task")).unwrap().count() == 1
        });
    }
}

#[test]
fn programs_of_a_mount_that_is_killed_inside_the_kernel_are_told() {
    let stuck = Stuck::new();
    signal(&stuck.dying, Signal::KILL);
    stuck.ends();
}

#[test]
fn programs_of_a_mount_that_crashes_inside_the_kernel_are_told() {
    let stuck = Stuck::new();
    // All its threads have to stop before the first ends.
    signal(&stuck.dying, Signal::ABORT);
    stuck.ends();
}
