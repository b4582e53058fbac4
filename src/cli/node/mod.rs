//! `tsfs node`: serves a store as a node of a cluster.
//!
//! `enter.rs` has how it comes to be one: already is, joins, or begins a cluster. `serve.rs` puts the parts together.

mod enter;
mod serve;

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::cluster::init::Given;
use crate::cli::mount::store;
use crate::cli::process::raise_open_files;
use crate::cli::process::start_logs;
use anyhow::Context as _;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs node /srv/store                                       serve it, as node.toml in it says
  tsfs node --create /srv/store --address h1:7000            the first node of a new cluster, with a new store
  tsfs node /srv/store --join tsfs-… --address h2:7000       one more: /srv/store is empty, or not there

It stays in the foreground, for supervisors: 'systemctl enable --now tsfs-node@store'. It tells systemd when it is ready.
SIGTERM hands the lead to another node, writes everything, and ends; SIGHUP reads the certificate again.";

/// Serve a store as a node of a cluster
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The directory of the store
    store: PathBuf,
    /// Join the cluster that made this token
    #[arg(long, value_name = "TOKEN", conflicts_with = "create")]
    join: Option<String>,
    #[command(flatten)]
    given: Given,
    /// Make the store if there is none, and a cluster of it
    #[arg(long)]
    create: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    store::keep_private();
    let dir = enter::directory(args)?;
    let settings = args.given.settings(&dir, context)?;
    start_logs(&settings, &dir, context)?;
    raise_open_files();
    if let Some(token) = &args.join {
        enter::join(&dir, token, args, &settings, context)?;
    }
    enter::begin(&dir, args, &settings, context)?;
    // From here on a signal is waited for, and does not kill.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, serve::WAKE]);
    serve::run(&dir, &settings, signals.context("cannot wait for signals")?)?;
    Ok(Exit::Done)
}
