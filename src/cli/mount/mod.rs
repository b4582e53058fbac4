//! `tsfs mount`: serves a store at a directory, in the background or in the foreground.
//!
//! `options.rs` reads what follows `-o`, `background.rs` has the process that stays, `store.rs` the store, and
//! `serve.rs` puts the parts together.

mod background;
mod options;
mod serve;
pub(super) mod store;

use crate::cli::Context;
use crate::cli::Exit;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs mount --create /srv/store /mnt/data      make the store first, if there is none
  tsfs mount /srv/store /mnt/data -o noatime,write.window=20ms
  tsfs mount /srv/store /mnt/past -o at=2026-11-22T09:00    the past, read-only
  tsfs mount --foreground /srv/store /mnt/data  for supervisors; tells systemd when it is ready

It returns when the mount can be used. In /etc/fstab:
  /srv/store  /mnt/data  tsfs  defaults,nofail  0 0

-o takes ro, nosuid, nodev, noexec, noatime, nonempty, allow_other and the like; create; at=TIME; and every setting,
as write.window=20ms. SIGTERM unmounts and loses nothing.";

/// Mount a store at a directory
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The directory of the store
    store: PathBuf,
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
    let options = options::read(args, context)?;
    let settings = options.settings(&args.store, context)?;
    if args.foreground || context.background {
        return serve::run(args, options, &settings, context);
    }
    background::start()
}
