//! What a test on a real mount needs: scratch space, a mount that is always unmounted, processes that are always
//! ended, and waiting for a condition with a deadline.
//!
//! Not here: anything about what a test asserts. Benchmarks use this file too.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::File;
use std::fs::OpenOptions;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// How long a mount may take to appear, or to end after it was told to.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);

/// The program under test, built with the tests.
pub(crate) fn tsfs() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tsfs"))
}

/// A directory on the disk under the temporary directory (not in memory: stores are synced), removed at the end.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("tsfs-test-").tempdir().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test measures how long it has waited")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "waits for another process, which cannot signal a condvar"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A number from the environment, for `make` to ask for more rounds or for one seed.
#[expect(clippy::disallowed_methods, reason = "the settings of a test, not of the program")]
pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Waits until `met`.
///
/// # Panics
/// After `limit`, naming what was waited for.
pub(crate) fn wait_until(limit: Duration, what: &str, mut met: impl FnMut() -> bool) {
    let start = now();
    while !met() {
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        pause(Duration::from_millis(2));
    }
}

/// Runs a command to its end.
///
/// # Panics
/// Unless it succeeds, with what it printed.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

/// Runs a line of shell in a directory and returns what it printed, with a sign in place of bytes that are no UTF-8: names
/// may have any.
///
/// # Panics
/// Unless it succeeds; a failure in a pipe counts.
pub(crate) fn sh(dir: &Path, line: &str) -> String {
    let output = run(Command::new("bash").args(["-euo", "pipefail", "-c", line]).current_dir(dir));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A child process that does not outlive its test.
pub(crate) struct Running(pub Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        Running(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// kill -9, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // Both fail only if it has ended and been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What statfs(2) answers on any FUSE mount.
const FUSE_MAGIC: rustix::fs::FsWord = 0x6573_5546;

/// The file system type mounted exactly at `dir`, if one is.
pub(crate) fn mounted(dir: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = dir.to_str().unwrap();
    // The last line for a directory is the mount on top.
    table.lines().rev().find(|line| line.split(' ').nth(4) == Some(at)).map(|line| {
        line.split(" - ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .unwrap_or_default()
            .to_owned()
    })
}

/// Detaches whatever is mounted at `dir`, busy or not. Requests that nobody answers fail: a process that waits for one could not
/// even be killed.
pub(crate) fn unmount(dir: &Path) {
    let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::FORCE;
    while mounted(dir).is_some() {
        rustix::mount::unmount(dir, flags).unwrap();
    }
}

/// Where something may be mounted. Dropped, it is unmounted, whatever state it is in.
pub(crate) struct Point(PathBuf);

impl Point {
    /// A mount point to be, made where it is missing.
    pub(crate) fn new(dir: &Path) -> Point {
        std::fs::create_dir_all(dir).unwrap();
        Point(dir.canonicalize().unwrap())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// A mounted store, served by a process of its own. Dropped, it is killed and unmounted, whatever the test did.
pub(crate) struct Mount {
    // In this order: a server that waits for its own mount, as one that is ending may, dies only when that is gone.
    point: Point,
    server: Running,
    log: PathBuf,
}

impl Mount {
    /// Makes a store and mounts it.
    pub(crate) fn create(store: &Path, dir: &Path) -> Mount {
        Mount::with(&["--create"], store, Point::new(dir))
    }

    /// Mounts a store that is there.
    pub(crate) fn open(store: &Path, dir: &Path) -> Mount {
        Mount::with(&[], store, Point::new(dir))
    }

    /// Mounts with further arguments of `tsfs mount`. What the server logs is appended to `DIR.log`.
    ///
    /// # Panics
    /// With that log if the mount does not appear.
    pub(crate) fn with(arguments: &[&str], store: &Path, point: Point) -> Mount {
        let mut command = tsfs();
        command.args(["mount", "--foreground"]).args(arguments).arg(store).arg(&point.0);
        let log = point.0.with_extension("log");
        Mount::serve(&mut command, &log, point)
    }

    /// Starts any program that serves a mount until it is told to stop.
    pub(crate) fn serve(command: &mut Command, log: &Path, point: Point) -> Mount {
        let file: File = OpenOptions::new().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut mount = Mount { server: Running::start(command), point, log: log.to_owned() };
        wait_until(MOUNT_LIMIT, "the mount to appear", || {
            if let Some(status) = mount.server.0.try_wait().unwrap() {
                panic!("the mount ended with {status}:\n{}", mount.logged());
            }
            // The mount of a server that was killed is in the table too until the next one takes its place, and does not
            // answer; in between the bare directory does. This question is always asked of the server; attributes the
            // kernel would know by itself.
            rustix::fs::statfs(mount.dir()).is_ok_and(|fs| fs.f_type == FUSE_MAGIC)
        });
        mount
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.point.0
    }

    /// A path inside.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir().join(path)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.0.id()
    }

    /// Everything the server has logged, over all mounts of this store.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// kill -9 of the server. The mount is left as a crash leaves it, in place and dead, for whoever mounts next.
    #[must_use = "it is unmounted when this is dropped"]
    pub(crate) fn kill(self) -> Point {
        let Mount { mut server, point, .. } = self;
        server.kill();
        point
    }

    /// Ends it as an operator would, by SIGTERM, and waits.
    ///
    /// # Panics
    /// If it fails, does not end, stays mounted, or logged an error: nobody asked it to do something impossible.
    pub(crate) fn close(mut self) {
        self.server.terminate();
        let mut status = None;
        wait_until(MOUNT_LIMIT, "the mount to end", || {
            status = self.server.0.try_wait().unwrap();
            status.is_some()
        });
        let (status, log) = (status.unwrap(), self.logged());
        assert!(status.success(), "the mount ended with {status}:\n{log}");
        assert_eq!(mounted(self.dir()), None, "the mount ended but is still in place");
        let bad = log.lines().find(|line| line.contains("ERROR") || line.contains("panicked"));
        assert_eq!(bad, None, "the log has an error");
    }
}

/// A small generator of repeatable randomness (splitmix64): the same seed, the same test.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Bytes that do not compress.
    pub(crate) fn noise(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// Bytes that compress to about half, as program text does: words from a small vocabulary with noise between.
    pub(crate) fn text(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 32);
        while bytes.len() < len {
            let word = self.next();
            match word % 4 {
                0 => bytes.extend_from_slice(format!("{:x} ", word >> 24).as_bytes()),
                _ => {
                    let mut vocabulary = Random::new(word >> 8 & 0x3ff);
                    let letters = 3 + vocabulary.below(7);
                    bytes.extend((0..letters).map(|_| b'a' + vocabulary.below(26) as u8));
                    bytes.push(if word >> 20 & 7 == 0 { b'\n' } else { b' ' });
                }
            }
        }
        bytes.truncate(len);
        bytes
    }
}
