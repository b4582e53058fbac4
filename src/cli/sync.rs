//! `tsfs sync`: everything done on a mount so far is on disk.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::control::Place;
use crate::cli::when;
use crate::wire::control::Ask;
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs sync               the mount you are in
  tsfs sync /mnt/data && umount /mnt/data

Linux does not tell a FUSE file system of sync(1) and syncfs(2); fsync(2) of any file works, and this does.";

/// Wait until everything done on a mount is on disk
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Any path in the mount
    #[arg(default_value = ".")]
    path: PathBuf,
}

#[derive(Serialize)]
struct Row {
    /// Everything up to this instant is on disk.
    at: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let done = Place::find(&args.path)?.ask(Ask::Sync, &context.out, |_| Ok(()))?;
    context.out.object(&Row { at: done.stamp.map(|stamp| when::show(stamp, &context.zone)) })?;
    Ok(Exit::Done)
}
