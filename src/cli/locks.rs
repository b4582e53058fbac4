//! `tsfs locks`: what the mounts of a cluster hold. Not here: locks that a mount has to itself, on files that nobody else uses.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::local;
use crate::cli::local::Local;
use crate::types::instant;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::cluster::Lock;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs locks /srv/store
  tsfs locks --limit 10 --watch 2 /srv/store
  tsfs locks --json /srv/store | jq .token";

/// Show what mounts of the cluster hold
///
/// Locks on files are shown where more than one mount uses the file; the number of the inode is that of 'ls -i'. What a mount has
/// to itself it locks by itself.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The directory that a node on this machine serves
    #[arg(default_value = ".")]
    store: PathBuf,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Show it again after so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    watch: Option<u64>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let node = Local::open(&args.store)?;
    local::watch(args.watch, || {
        let ask = Ask::Locks { limit: args.limit };
        let Answer::Locks { locks, more } = node.ask(&ask, context)? else { return local::other() };
        show(&locks, more, context)?;
        Ok(Exit::Done)
    })
}

fn show(locks: &[Lock], more: bool, context: &Context) -> anyhow::Result<()> {
    for lock in locks {
        context.out.object(lock)?;
    }
    if locks.is_empty() && !more {
        context.out.say("nobody holds anything")?;
        return Ok(());
    }
    let title = ["client", "how", "what", "since", "name"].map(str::to_owned).to_vec();
    let row = |lock: &Lock| {
        let since = lock.token.map(instant::utc).unwrap_or_default();
        let (how, what) = (lock.how.clone(), lock.what.clone());
        vec![lock.session.to_string(), how, what, since, lock.client.clone()]
    };
    let rows: Vec<Vec<String>> = [title].into_iter().chain(locks.iter().map(row)).collect();
    for line in local::table(&rows) {
        context.out.say(line)?;
    }
    if more {
        context.out.note("there are more; --limit shows them");
    }
    Ok(())
}
