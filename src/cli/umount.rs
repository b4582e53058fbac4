//! `tsfs umount`: unmounts, and waits until everything is on disk and the process behind the mount is gone.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::mount::remote;
use crate::cli::mount::source::Source;
use crate::fuse::mount;
use crate::fuse::mount::table;
use crate::store::holder;
use anyhow::anyhow;
use anyhow::bail;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

/// How many of the processes that use a mount are named.
const NAMED_MAX: usize = 5;

const EXAMPLES: &str = "\
Examples:
  tsfs umount /mnt/data
  tsfs umount --lazy /mnt/data     though programs use it: they get errors from now on

Returns when everything is on disk and the store is free for the next mount. umount(8) works too.";

/// Unmount, and wait until the process behind the mount is gone
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, visible_alias = "unmount")]
pub(super) struct Args {
    #[arg(value_name = "MNT")]
    at: PathBuf,
    /// Unmount even while programs use it
    #[arg(short = 'l', long)]
    lazy: bool,
    /// How long to wait for the process, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    wait: u64,
}

pub(super) fn run(args: &Args, _context: &Context) -> anyhow::Result<Exit> {
    let at = mount::resolve(&args.at)?;
    let Some(row) = table::top(&at)? else {
        bail!("nothing is mounted at {}; 'findmnt -t {}' lists what is", at.display(), mount::KIND);
    };
    if row.kind != mount::KIND {
        bail!("{} at {} is no tsfs mount; use umount(8)", row.kind, at.display());
    }
    match mount::unmount(&at, args.lazy) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            return Err(anyhow!("{}", busy(&at)));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("only root and the user who mounted {} may unmount it", at.display());
        }
        Err(error) => return Err(anyhow!("cannot unmount {}: {error}", at.display())),
    }
    let held = match Source::read(Path::new(&row.source)) {
        Ok(Source::Cluster(_)) => remote::held(&at),
        _ => PathBuf::from(row.source),
    };
    wait(held, Duration::from_secs(args.wait))?;
    Ok(Exit::Done)
}

/// Waits until nobody holds the store. Where we may not look into it, there is nothing to wait for.
fn wait(store: PathBuf, limit: Duration) -> anyhow::Result<()> {
    let (free, told) = mpsc::sync_channel(1);
    let shown = store.display().to_string();
    // The kernel has no lock with a deadline; the thread ends with the process.
    std::thread::Builder::new().spawn(move || {
        let _ = free.send(holder::wait_until_free(&store));
    })?;
    match told.recv_timeout(limit) {
        Ok(_) => Ok(()),
        Err(_) => bail!(
            "unmounted, but the process behind the mount, which holds {shown}, has not ended; programs may still \
             have files of it open"
        ),
    }
}

/// Who keeps a mount busy.
fn busy(at: &Path) -> String {
    let users = users(at);
    let named: Vec<String> = users.iter().take(NAMED_MAX).cloned().collect();
    let more = match users.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let who = match named.len() {
        0 => "a process of another user or a mount inside it".to_owned(),
        _ => named.join(", ") + &more,
    };
    format!("{} is in use by {who}; end that and try again, or use --lazy", at.display())
}

/// Processes that have a directory or file of the mount open, run from it or map it.
fn users(at: &Path) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let numbered = processes.flatten().filter(|process| {
        process.file_name().to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
    });
    let mut users = Vec::new();
    for process in numbered {
        let dir = process.path();
        let leads_there = |link: &Path| fs::read_link(link).is_ok_and(|to| to.starts_with(at));
        let open = |dir: &Path| {
            fs::read_dir(dir)
                .is_ok_and(|links| links.flatten().any(|link| leads_there(&link.path())))
        };
        let uses = ["cwd", "root", "exe"].iter().any(|link| leads_there(&dir.join(link)))
            || open(&dir.join("fd"))
            || open(&dir.join("map_files"));
        if uses {
            let name = fs::read_to_string(dir.join("comm")).unwrap_or_default();
            users.push(format!("{} (process {})", name.trim(), process.file_name().display()));
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_a_directory_busy_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        assert!(busy(&at).contains("another user"));
        let _open = fs::File::create(at.join("file")).unwrap();
        let me = format!("(process {})", std::process::id());
        assert!(busy(&at).contains(&me), "{}", busy(&at));
    }
}
