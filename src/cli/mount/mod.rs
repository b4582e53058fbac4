//! `tsfs mount`: serves a store at a directory, in the background or in the foreground.
//!
//! `options.rs` reads what follows `-o`, `background.rs` has the process that stays, `guard.rs` the one that sees to its end, `store.rs`
//! the store, and `serve.rs` puts the parts together.

mod background;
pub(super) mod guard;
mod options;
pub(super) mod remote;
mod serve;
pub(super) mod source;
pub(super) mod store;

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::mount::source::Source;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs mount --create /srv/store /mnt/data      make the store first, if there is none
  tsfs mount /srv/store /mnt/data -o noatime,write.window=20ms
  tsfs mount /srv/store /mnt/past -o at=2026-11-22T09:00    the past, read-only
  tsfs mount --foreground /srv/store /mnt/data  for supervisors; tells systemd when it is ready
  tsfs mount n1,n2,n3:/ /mnt/data               of a cluster: any of its nodes, with ports that are not 7000
  tsfs mount n1,n2,n3:/home /home -o when-down=eio:30s,cert=/etc/tsfs/client.pem

It returns when the mount can be used. In /etc/fstab:
  /srv/store   /mnt/data  tsfs  defaults,nofail  0 0
  n1,n2,n3:/   /mnt/data  tsfs  _netdev,nofail   0 0

-o takes ro, nosuid, nodev, noexec, noatime, nonempty, allow_other and the like; create; at=TIME; dir=/PATH, which is shown as
the root; and every setting, as write.window=20ms. Of a cluster: cert=FILE (else ~/.config/tsfs/client.pem, then
/etc/tsfs/client.pem), and when-down=wait, eio:30s or stale, for while no node answers. SIGTERM unmounts and loses nothing,
unless no node answers and when-down= is not wait.";

/// Mount a store, or a cluster, at a directory
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The directory of the store, or nodes of a cluster and a directory of it, as n1,n2:7000,n3:/DIR
    #[arg(value_name = "STORE|HOSTS:/DIR")]
    source: PathBuf,
    /// The directory to mount at
    #[arg(value_name = "MNT")]
    at: PathBuf,
    /// Make the store if there is none
    #[arg(long)]
    create: bool,
    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,
    /// Options, separated by commas
    #[arg(short, value_name = "OPTIONS", value_delimiter = ',')]
    options: Vec<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    // Read before anything is started, so that a mistake is told by whoever was called.
    let mut options = options::read(args, context)?;
    let source = Source::read(&args.source)?;
    options.fit(&source)?;
    let settings = options.settings(&source, context)?;
    if args.foreground || context.background {
        return serve::run(args, &source, options, &settings, context);
    }
    background::start()
}
