//! Starts nodes from a process of its own.
//!
//! A program that is started closes what its starter had open, and closing what is open on a mount waits for the nodes. So a test,
//! whose programs work on the mounts, could not start a node while all of them are down. Not here: what is started (`place`).

use crate::support;
use rustix::process::Pid;
use rustix::process::Signal;
use std::ffi::OsStr;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;

/// What was killed is gone within this, whatever its disks do.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Runs each line that it is told.
const SHELL: &str = "while IFS= read -r line; do eval \"$line\"; done";

/// A shell that was started before there was anything to inherit. Dropped, it ends; what it started does not.
pub(super) struct Keeper {
    shell: Child,
    tell: Option<ChildStdin>,
    told: BufReader<ChildStdout>,
    dir: PathBuf,
    started: usize,
}

/// What it started. Dropped, it is killed.
pub(crate) struct Kept {
    pid: Pid,
    /// A file, which is there once it has ended and then says how.
    end: PathBuf,
}

impl Keeper {
    /// `dir` is for its notes.
    pub(super) fn start(dir: &Path) -> Keeper {
        let mut command = Command::new("sh");
        command.args(["-c", SHELL]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.stderr(Stdio::null()).spawn().unwrap();
        let (tell, told) = (shell.stdin.take(), shell.stdout.take().unwrap());
        Keeper { shell, tell, told: BufReader::new(told), dir: dir.to_owned(), started: 0 }
    }

    /// Starts a program that says everything to the end of `log`.
    pub(super) fn spawn(&mut self, command: &Command, log: &Path) -> Kept {
        self.started += 1;
        let end = self.dir.join(format!("end{}", self.started));
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<Vec<u8>> = words.map(quoted).collect();
        let (program, log, end_word) =
            (words.join(&b' '), quoted(log.as_os_str()), quoted(end.as_os_str()));
        let line = [
            b"( ",
            &program[..],
            b" </dev/null >>",
            &log,
            b" 2>&1 & pid=$!; echo $pid; exec >/dev/null; wait $pid; echo $? >",
            &end_word,
            b".new; mv ",
            &end_word,
            b".new ",
            &end_word,
            b" ) &\n",
        ]
        .concat();
        self.tell.as_mut().expect("it is told until it is dropped").write_all(&line).unwrap();
        let mut said = String::new();
        self.told.read_line(&mut said).unwrap();
        let pid = said.trim().parse().ok().and_then(Pid::from_raw);
        Kept { pid: pid.unwrap_or_else(|| panic!("the shell said {said:?}")), end }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.tell = None;
        // It reads the end of its orders.
        let _ = self.shell.wait();
    }
}

/// As one word for the shell.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

impl Kept {
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        let said = match std::fs::read_to_string(&self.end) {
            Ok(said) => said,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => panic!("{}: {error}", self.end.display()),
        };
        // A shell adds 128 to the number of a signal.
        let code: i32 = said.trim().parse().unwrap_or_else(|_| panic!("the shell said {said:?}"));
        Some(ExitStatus::from_raw(code << 8))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid, signal).unwrap();
    }

    /// kill -9, and waits until it is gone.
    pub(crate) fn kill(&self) {
        if self.ended().is_none() {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
            support::wait_until(END_LIMIT, "what was killed to be gone", || self.ended().is_some());
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Where the notes are gone so is whoever could wait for it.
        if self.end.parent().is_some_and(Path::exists) && !std::thread::panicking() {
            self.kill();
        } else {
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        }
    }
}
