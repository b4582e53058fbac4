//! The process that stays when `tsfs mount` returns.
//!
//! It is this program once more, started before there are threads: its standard output is a pipe to the one that
//! waits, and its standard error the user's until the mount is ready. What it writes into the pipe is for the user;
//! the last line is [`READY`]. If it fails, it says why on standard error, and its exit code is passed on.

use crate::cli::Exit;
use anyhow::Context as _;
use anyhow::bail;
use rustix::process::setsid;
use std::env;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::process::Command;
use std::process::Stdio;

/// Tells the one that waits that the mount can be used.
const READY: &str = "ready";
/// The hidden flag of the process that stays.
const FLAG: &str = "--background";

/// Starts it with the same arguments, and returns when the mount is ready.
pub(super) fn start() -> anyhow::Result<Exit> {
    let program = env::current_exe().context("cannot tell where this program is")?;
    let mut child = Command::new(program)
        .arg(FLAG)
        .args(env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the process that stays")?;
    let pipe = child.stdout.take().expect("it was asked for");
    let mut ready = false;
    for line in BufReader::new(pipe).lines() {
        let line = line?;
        if line == READY {
            ready = true;
            break;
        }
        writeln!(io::stdout(), "{line}")?;
    }
    if ready {
        return Ok(Exit::Done);
    }
    let status = child.wait()?;
    match status.code() {
        Some(code) if code != 0 => Ok(Exit::Code(u8::try_from(code).unwrap_or(1))),
        Some(_) => bail!("the mount ended before it was ready"),
        None => bail!("the process that serves the mount was killed: {status}"),
    }
}

/// Called by the process that stays once the mount can be used: lets go of the terminal and of whoever waits.
pub(super) fn ready() -> io::Result<()> {
    // Not earlier: until now an interrupt of the terminal is meant for us too.
    setsid()?;
    env::set_current_dir("/")?;
    let told = writeln!(io::stdout(), "{READY}");
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    told
}
