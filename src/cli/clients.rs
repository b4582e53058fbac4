//! `tsfs clients`: the mounts of a cluster, and ending one whose machine is gone.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::local;
use crate::cli::local::Local;
use crate::cli::when;
use crate::types::SessionId;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::cluster::Client;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs clients /srv/store            who mounts the cluster that this machine's node belongs to
  tsfs clients --watch 2 /srv/store
  tsfs clients evict 17 /srv/store   end it: returns when its lease, of some seconds, is over

A client that is evicted and lives gets errors from then on, and what it had not sent is lost.";

/// Show who mounts the cluster, or end a mount from here
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The directory that a node on this machine serves
    #[arg(default_value = ".")]
    store: PathBuf,
    /// Show it again after so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    watch: Option<u64>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// End a client's session; what it has not sent is lost
    Evict {
        /// Its number, as 'tsfs clients' shows it
        client: u64,
        /// The directory that a node on this machine serves
        #[arg(default_value = ".")]
        store: PathBuf,
    },
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    if let Some(Command::Evict { client, store }) = &args.command {
        let ask = Ask::Evict { session: SessionId(*client) };
        return Local::open(store)?.have_done(&ask, context);
    }
    let node = Local::open(&args.store)?;
    local::watch(args.watch, || {
        let Answer::Clients(clients) = node.ask(&Ask::Clients, context)? else {
            return local::other();
        };
        show(&clients, context)?;
        Ok(Exit::Done)
    })
}

fn show(clients: &[Client], context: &Context) -> anyhow::Result<()> {
    for client in clients {
        context.out.object(client)?;
    }
    if clients.is_empty() {
        context.out.say("nobody mounts it")?;
        return Ok(());
    }
    let title = ["client", "since", "lease", "owns the rest", "name"].map(str::to_owned).to_vec();
    let row = |client: &Client| {
        vec![
            client.session.to_string(),
            when::show(client.opened, &context.zone),
            client.lease_ms.map_or("-".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0)),
            if client.whole { "yes" } else { "no" }.to_owned(),
            client.name.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = [title].into_iter().chain(clients.iter().map(row)).collect();
    for line in local::table(&rows) {
        context.out.say(line)?;
    }
    Ok(())
}
