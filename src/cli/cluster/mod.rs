//! `tsfs cluster`: making a cluster, and who belongs to it.
//!
//! `init.rs` works on a store that nobody uses; everything else asks the node that serves a store on this machine. Not here:
//! what may be done (`tsdb_server::cluster`).

mod client;
mod grow;
pub(super) mod init;
mod show;

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::local;
use crate::cli::local::Local;
use crate::tsdb_config::unit;
use crate::types::NodeId;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::cluster::Overview;
use anyhow::bail;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples, on the first machine (h1), whose store may have years of history already:
  tsfs cluster init /srv/store --address h1:7000
  systemctl start tsfs-node@store                    or: tsfs node /srv/store
  tsfs cluster add /srv/store                        prints what to run on h2, and waits for it
  tsfs cluster client laptop /srv/store --out laptop.pem
On h2, then on h3:
  tsfs node /srv/store --join tsfs-… --address h2:7000
On the laptop, with laptop.pem as ~/.config/tsfs/client.pem:
  tsfs mount h1,h2,h3:/ /mnt/data
Later:
  tsfs cluster status --watch /srv/store
  tsfs cluster drain h2 /srv/store                   before h2 is stopped for a while
  tsfs cluster replace h3 h4 /srv/store              h3 is gone for good, h4 has joined";

/// Make a cluster of a store, and see to who belongs to it
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Init(init::Args),
    Invite(grow::Invite),
    Add(grow::Add),
    Client(client::Args),
    Status(show::Args),
    /// Take a node out, which may be gone already
    ///
    /// Refused where no majority of the others answers, or the last copy of something would go.
    Remove(One),
    Replace(grow::Replace),
    /// Make it so that a node may be stopped: it leads nothing, and the others can do without it
    Drain(One),
    Copies(Copies),
}

const COPIES_EXAMPLES: &str = "\
Examples:
  tsfs cluster copies 5 /srv/store     where there are five nodes or more, two may be lost at once

Blocks are copied in the background; 'tsfs cluster status' shows how far it is.";

/// Say how many copies of each block are kept
///
/// An odd number from 3. With no more nodes than that, every node keeps every block.
#[derive(clap::Args)]
#[command(after_help = COPIES_EXAMPLES)]
struct Copies {
    /// How many
    copies: u8,
    /// The directory that a node on this machine serves
    #[arg(default_value = ".")]
    store: PathBuf,
}

#[derive(clap::Args)]
struct One {
    /// Its number or its name
    node: String,
    /// The directory that a node on this machine serves
    #[arg(default_value = ".")]
    store: PathBuf,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Init(args) => init::run(args, context),
        Command::Invite(args) => grow::invite(args, context),
        Command::Add(args) => grow::add(args, context),
        Command::Client(args) => client::run(args, context),
        Command::Status(args) => show::run(args, context),
        Command::Remove(one) => on_one(one, context, |node| Ask::Remove { node }),
        Command::Replace(args) => grow::replace(args, context),
        Command::Drain(one) => on_one(one, context, |node| Ask::Drain { node }),
        Command::Copies(args) => {
            let ask = Ask::Copies { copies: args.copies };
            Local::open(&args.store)?.have_done(&ask, context)
        }
    }
}

fn on_one(one: &One, context: &Context, ask: impl FnOnce(NodeId) -> Ask) -> anyhow::Result<Exit> {
    let local = Local::open(&one.store)?;
    let node = find(&overview(&local, context)?, &one.node)?;
    local.have_done(&ask(node), context)
}

fn overview(local: &Local, context: &Context) -> anyhow::Result<Overview> {
    match local.ask(&Ask::Overview, context)? {
        Answer::Overview(overview) => Ok(*overview),
        _ => local::other(),
    }
}

/// A node by its number or its name.
fn find(overview: &Overview, given: &str) -> anyhow::Result<NodeId> {
    if let Ok(number) = given.parse() {
        // Whether there is such a one, the node that leads says.
        return Ok(NodeId(number));
    }
    let named: Vec<u64> =
        overview.nodes.iter().filter(|node| node.name == given).map(|node| node.node).collect();
    match named[..] {
        [node] => Ok(NodeId(node)),
        [] => {
            let known: Vec<String> = overview
                .nodes
                .iter()
                .map(|node| format!("{} ({})", node.node, node.name))
                .collect();
            bail!("the cluster has no node '{given}'; it has {}", known.join(", "))
        }
        _ => bail!(
            "several nodes are called '{given}'; give the number of one, as 'tsfs cluster status' shows it"
        ),
    }
}

/// A length of time, as 12h or 90d.
fn duration(text: &str) -> Result<Duration, String> {
    unit::duration(text)
}
