//! `tsfs cluster status`: the nodes, on one screen.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::cluster::overview;
use crate::cli::local;
use crate::cli::local::Local;
use crate::cli::output::count;
use crate::wire::cluster::NodeState;
use crate::wire::cluster::Overview;
use crate::wire::cluster::Part;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs cluster status /srv/store
  tsfs cluster status --watch 2 /srv/store
  tsfs cluster status --json /srv/store | jq .health

It ends with 1 where something is not as it should be.";

/// Show the nodes: who leads, who votes, who lags, and what is wrong
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The directory that a node on this machine serves
    #[arg(default_value = ".")]
    store: PathBuf,
    /// Show it again after so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    watch: Option<u64>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let node = Local::open(&args.store)?;
    local::watch(args.watch, || {
        let overview = overview(&node, context)?;
        context.out.object(&overview)?;
        show(&overview, context)?;
        Ok(if overview.health.is_empty() { Exit::Done } else { Exit::NotDone })
    })
}

fn show(overview: &Overview, context: &Context) -> anyhow::Result<()> {
    let out = &context.out;
    let leader = match overview.leader {
        Some(leader) => format!("node {leader} leads, in term {}", overview.term),
        None => format!("no node leads, as node {} sees it; term {}", overview.here, overview.term),
    };
    let clients = count(overview.clients, "client");
    out.say(format_args!("cluster {}: {leader}; {clients}", overview.store))?;
    let title = ["node", "name", "address", "part", "state", "roles"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> =
        [title].into_iter().chain(overview.nodes.iter().map(row)).collect();
    for line in local::table(&rows) {
        out.say(line)?;
    }
    if overview.health.is_empty() {
        out.say("health good")?;
    }
    for fault in &overview.health {
        out.say(format_args!("health {fault}"))?;
    }
    Ok(())
}

fn row(node: &NodeState) -> Vec<String> {
    let part = match node.part {
        Part::Leads => "leads",
        Part::Votes => "votes",
        Part::Learns => "learns",
        Part::Outside => "outside",
    };
    vec![
        node.node.to_string(),
        node.name.clone(),
        node.address.clone(),
        part.to_owned(),
        state(node),
        node.roles.clone(),
    ]
}

/// What there is to say about how it is.
fn state(node: &NodeState) -> String {
    let mut words = Vec::new();
    match node.answers {
        Some(true) => words.push("up".to_owned()),
        Some(false) => words.push("does not answer".to_owned()),
        None => words.push("unknown".to_owned()),
    }
    if let Some(lag) = node.lag.filter(|lag| *lag > 0) {
        words.push(format!("{} behind", count(lag, "entry").replace("entrys", "entries")));
    }
    if let Some(lacks) = node.lacks.filter(|lacks| *lacks > 0) {
        words.push(format!("lacks {}", count(lacks, "block")));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_node_is_a_few_words() {
        let node = NodeState {
            node: 2,
            name: "b".to_owned(),
            address: "b:7000".to_owned(),
            roles: "ts".to_owned(),
            part: Part::Votes,
            answers: Some(true),
            lag: Some(1),
            lacks: Some(1500),
        };
        assert_eq!(state(&node), "up, 1 entry behind, lacks 1,500 blocks");
        assert_eq!(
            state(&NodeState { lag: Some(2), lacks: None, ..node.clone() }),
            "up, 2 entries behind"
        );
        assert_eq!(
            state(&NodeState { answers: None, lag: None, lacks: Some(0), ..node }),
            "unknown"
        );
    }
}
