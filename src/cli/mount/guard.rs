//! The guard of a mount: a small process that ends the mount's connection when the process that serves it is dying.
//!
//! The kernel does so by itself once that process has closed the device. But a thread of it may be inside the kernel, waiting for what a
//! program has locked that waits for the mount: then neither ends, killed or not. `docs/decisions/0019-the-end-of-a-killed-mount.md` has
//! what else was tried. Not here: what ending a connection is (`fuse::mount`).

use crate::fuse::mount::Mounted;
use anyhow::Context as _;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use std::env;
use std::ffi::CStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

/// The first argument of the process that guards. The second is for people who look at processes.
const FLAG: &str = "--guard";
/// What the kernel calls it. Whoever kills all processes of this program by name is not to kill those that see to their end.
const NAME: &CStr = c"mount-guard";
/// How often it looks.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// What the thread that it looks at says of itself. Once that thread is gone it cannot be read.
const STATUS: &str = "/proc/thread-self/status";
/// A line of it while the memory of a crashed process is written down: none of its threads is gone before all have stopped.
const DUMPING: &str = "CoreDumping:\t1";
/// How long its beginning is waited for, and its end.
const PATIENCE: Duration = Duration::from_secs(2);

/// A guard that is there. Dropped, it ends the connection, if that is still there, and itself, and is waited for: a mount drops it last.
pub(super) struct Guard {
    /// Where it ends, so does the guard.
    line: Option<UnixStream>,
    /// Nothing comes; it is let go of once the guard has ended.
    ended: Receiver<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.line = None;
        // One that does not end is not worth waiting for.
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

/// Has a mount guarded, and returns when it is. Where that cannot be had it is served all the same.
pub(super) fn start(mounted: &Mounted) -> Option<Guard> {
    match try_start(mounted) {
        Ok(guard) => Some(guard),
        Err(error) => {
            note_unguarded(&format!("{error:#}"));
            None
        }
    }
}

fn note_unguarded(why: &str) {
    tracing::warn!(
        why,
        "the mount has no guard: should this process be killed, programs may wait for it until 'umount -f'"
    );
}

fn try_start(mounted: &Mounted) -> anyhow::Result<Guard> {
    let switch = mounted.switch().context("cannot open the switch of its connection")?;
    let (mut line, its_end) = UnixStream::pair()?;
    let at = mounted.at().to_owned();
    let (last, ended) = sync_channel::<()>(0);
    thread::Builder::new().name("guard".to_owned()).spawn(move || {
        keep(&at, its_end, switch);
        drop(last);
    })?;
    line.set_read_timeout(Some(PATIENCE))?;
    // It says that it guards. If it does not, the thread says why.
    let _ = line.read(&mut [0]);
    Ok(Guard { line: Some(line), ended })
}

/// Starts the process, and waits until it ends. The thread does nothing else, so that it is gone as soon as this process is killed, and
/// not before.
fn keep(at: &Path, line: UnixStream, switch: File) {
    let ended = spawn(at, line, switch).and_then(|mut child| Ok(child.wait()?));
    match ended {
        Ok(status) if status.success() => {}
        Ok(status) => note_unguarded(&format!("it ended with {status}")),
        Err(error) => note_unguarded(&format!("{error:#}")),
    }
}

fn spawn(at: &Path, line: UnixStream, switch: File) -> anyhow::Result<Child> {
    let program = env::current_exe().context("cannot tell where this program is")?;
    let status = File::open(STATUS).with_context(|| format!("cannot open {STATUS}"))?;
    let mut command = Command::new(program);
    command.arg(FLAG).arg(at).env_clear().current_dir("/");
    // Not of the terminal's group, whose interrupt has the mount end in good order.
    command.process_group(0).stdin(OwnedFd::from(line)).stdout(switch).stderr(status);
    command.spawn().context("cannot start it")
}

/// Guards, if that is what this process was started for. Its standard input is the line, its output the switch, and its error what it
/// looks at.
pub(in crate::cli) fn run(arguments: &[OsString]) -> Option<ExitCode> {
    let flag = arguments.get(1)?;
    (flag == FLAG).then(|| match watch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn watch() -> io::Result<()> {
    rustix::thread::set_name(NAME)?;
    // A whole group may be told to end, as by systemd: it guards for as long as the mount takes for that.
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::default())?;
    }
    let mut line = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    let mut switch = File::from(rustix::stdio::stdout().try_clone_to_owned()?);
    let mut status = File::from(rustix::stdio::stderr().try_clone_to_owned()?);
    line.write_all(b"1")?;
    loop {
        match rustix::event::poll(&mut [PollFd::new(&line, PollFlags::IN)], Some(&LOOK_EVERY)) {
            Ok(0) | Err(Errno::INTR) if is_dying(&mut status)? => break,
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => return Err(error.into()),
        }
    }
    // Mostly it is gone already. If it is not, nobody answers on it any more.
    switch.write_all(b"1")
}

fn is_dying(status: &mut File) -> io::Result<bool> {
    let mut text = String::new();
    match status.rewind().and_then(|()| status.read_to_string(&mut text)) {
        Ok(_) => Ok(text.contains(DUMPING)),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(true),
        Err(error) => Err(error),
    }
}
