//! `tsfs cluster invite`, `add` and `replace`: one more node.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::cluster::duration;
use crate::cli::cluster::find;
use crate::cli::cluster::overview;
use crate::cli::local;
use crate::cli::local::Local;
use crate::cli::when;
use crate::meta::record::Invited;
use crate::tsdb_server::cluster::work::Pause;
use crate::types::NodeId;
use crate::types::Role;
use crate::types::Roles;
use crate::types::Stamp;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::cluster::NodeState;
use crate::wire::cluster::Part;
use crate::wire::control;
use std::path::PathBuf;
use std::time::Duration;

/// How often somebody who waits for a new node looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const INVITE_EXAMPLES: &str = "\
Examples:
  tsfs cluster invite /srv/store
  tsfs cluster invite --for 24h /srv/store
  tsfs cluster invite --client laptop /srv/store     then, on the laptop: tsfs cluster client --join TOKEN

Whoever has the token may join once while it is good: give it to nobody else.";

/// Make a token that lets one node, or one client, in
#[derive(clap::Args)]
#[command(after_help = INVITE_EXAMPLES)]
pub(super) struct Invite {
    /// The directory that a node on this machine serves
    #[arg(default_value = ".")]
    store: PathBuf,
    /// How long it is good
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = duration)]
    valid: Duration,
    /// For a client, which is to be called so
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
}

const ADD_EXAMPLES: &str = "\
Examples:
  tsfs cluster add /srv/store     prints what to run on the new machine, then waits until the node there votes

Ending it changes nothing: the node votes by itself when it has everything.";

/// Let one more node in, and watch it until it votes
#[derive(clap::Args)]
#[command(after_help = ADD_EXAMPLES)]
pub(super) struct Add {
    /// The directory that a node on this machine serves
    #[arg(default_value = ".")]
    store: PathBuf,
    /// How long the token is good
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = duration)]
    valid: Duration,
}

const REPLACE_EXAMPLES: &str = "\
Examples:
  tsfs cluster add /srv/store               first, for the new node
  tsfs cluster replace 3 4 /srv/store       node 4 decides in place of node 3, which may be gone already
  tsfs cluster replace h3 h4 /srv/store     the same by their names";

/// Have a node take the place of another in one step
#[derive(clap::Args)]
#[command(after_help = REPLACE_EXAMPLES)]
pub(super) struct Replace {
    /// The number or name of the node that goes
    node: String,
    /// The number or name of the one that takes its place
    by: String,
    /// The directory that a node on this machine serves
    #[arg(default_value = ".")]
    store: PathBuf,
}

pub(super) fn invite(args: &Invite, context: &Context) -> anyhow::Result<Exit> {
    let local = Local::open(&args.store)?;
    let to = match &args.client {
        Some(name) => Invited::Client { name: name.clone() },
        None => Invited::Node,
    };
    let (text, expires) = token(&local, to, args.valid, context)?;
    context.out.object(&serde_json::json!({ "token": text, "expires": expires }))?;
    // Alone on standard output, so that a script can take it.
    context.out.say(&text)?;
    if !context.out.json {
        let on = match &args.client {
            Some(_) => "tsfs cluster client --join TOKEN".to_owned(),
            None => "tsfs node STORE --join TOKEN --address HOST:7000".to_owned(),
        };
        let until = when::show(expires, &context.zone);
        context.out.note(format_args!("good once, until {until}; on the new machine: {on}"));
    }
    Ok(Exit::Done)
}

fn token(
    local: &Local,
    to: Invited,
    valid: Duration,
    context: &Context,
) -> anyhow::Result<(String, Stamp)> {
    match local.ask(&Ask::Invite { to, valid_s: valid.as_secs() }, context)? {
        Answer::Token { text, expires } => Ok((text, expires)),
        _ => local::other(),
    }
}

pub(super) fn add(args: &Add, context: &Context) -> anyhow::Result<Exit> {
    let local = Local::open(&args.store)?;
    let before = overview(&local, context)?;
    let (text, expires) = token(&local, Invited::Node, args.valid, context)?;
    let out = &context.out;
    out.object(&serde_json::json!({ "token": text, "expires": expires }))?;
    out.say(format_args!(
        "on the new machine (until {}):\n  tsfs node STORE --join {text} --address HOST:7000",
        when::show(expires, &context.zone)
    ))?;
    let pause = Pause::default();
    loop {
        let now = overview(&local, context)?;
        let new =
            now.nodes.iter().find(|node| before.nodes.iter().all(|old| old.node != node.node));
        if let Some(node) = new
            && let Some(done) = done(node)
        {
            out.clear();
            out.object(node)?;
            out.say(format_args!("node {} ({}) {done}", node.node, node.name))?;
            return Ok(Exit::Done);
        }
        out.progress(&progress(new));
        pause.rest(LOOK_EVERY)?;
    }
}

/// What a new node does, when it does all that it is to do.
fn done(node: &NodeState) -> Option<&'static str> {
    let decides = node.roles.parse().is_ok_and(|roles: Roles| roles.has(Role::Ts));
    match node.part {
        Part::Votes | Part::Leads => Some("votes"),
        Part::Learns if !decides && node.lag == Some(0) && node.lacks == Some(0) => {
            Some("takes part, and does not vote")
        }
        Part::Learns | Part::Outside => None,
    }
}

/// What a new node is waited for.
fn progress(new: Option<&NodeState>) -> control::Progress {
    let (doing, done, unit) = match new {
        None => ("waiting for the new node".to_owned(), 0, "nodes"),
        Some(NodeState { node, lag: Some(lag), .. }) if *lag > 0 => {
            (format!("node {node} gets the log, left"), *lag, "entries")
        }
        Some(NodeState { node, lacks, .. }) => {
            (format!("node {node} fetches blocks, left"), lacks.unwrap_or(0), "blocks")
        }
    };
    control::Progress { doing, done, total: None, unit: unit.to_owned() }
}

pub(super) fn replace(args: &Replace, context: &Context) -> anyhow::Result<Exit> {
    let local = Local::open(&args.store)?;
    let overview = overview(&local, context)?;
    let (node, by): (NodeId, NodeId) = (find(&overview, &args.node)?, find(&overview, &args.by)?);
    local.have_done(&Ask::Replace { node, by }, context)
}
