//! `tsfs cluster status`: the nodes, on one screen.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::cluster::overview;
use crate::cli::local;
use crate::cli::local::Local;
use crate::cli::output::count;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::cluster::NodeState;
use crate::wire::cluster::Overview;
use crate::wire::cluster::Part;
use crate::wire::cluster::PlacementState;
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
        let screen =
            Screen { overview: overview(&node, context)?, placement: placement(&node, context) };
        context.out.object(&screen)?;
        show(&screen, context)?;
        Ok(if screen.overview.health.is_empty() { Exit::Done } else { Exit::NotDone })
    })
}

/// What is shown, and how it is written for machines.
#[derive(serde::Serialize)]
struct Screen {
    #[serde(flatten)]
    overview: Overview,
    /// While nobody leads, nobody says.
    placement: Option<PlacementState>,
}

fn placement(node: &Local, context: &Context) -> Option<PlacementState> {
    match node.ask(&Ask::Placement, context) {
        Ok(Answer::Placement(placement)) => Some(placement),
        _ => None,
    }
}

fn show(screen: &Screen, context: &Context) -> anyhow::Result<()> {
    let Screen { overview, placement } = screen;
    let out = &context.out;
    let leader = match overview.leader {
        Some(leader) => format!("node {leader} leads, in term {}", overview.term),
        None => format!("no node leads, as node {} sees it; term {}", overview.here, overview.term),
    };
    let clients = count(overview.clients, "client");
    out.say(format_args!("cluster {}: {leader}; {clients}", overview.store))?;
    let title = ["node", "name", "address", "part", "keeps", "state", "roles"];
    let title = title.map(str::to_owned).to_vec();
    let row = |node| row(node, placement.as_ref());
    let rows: Vec<Vec<String>> =
        [title].into_iter().chain(overview.nodes.iter().map(row)).collect();
    for line in local::table(&rows) {
        out.say(line)?;
    }
    if let Some(placement) = placement {
        out.say(format_args!("blocks {}", kept(placement)))?;
    }
    if overview.health.is_empty() {
        out.say("health good")?;
    }
    for fault in &overview.health {
        out.say(format_args!("health {fault}"))?;
    }
    Ok(())
}

/// Where blocks are kept, in a few words.
fn kept(placement: &PlacementState) -> String {
    let copies = count(placement.copies.into(), "copy").replace("copys", "copies");
    match (placement.everywhere, placement.moving) {
        (true, _) => format!("on every node; {copies} where there are more nodes than that"),
        (false, false) => copies,
        (false, true) => format!("{copies}; some are on their way to other nodes"),
    }
}

/// How much of all blocks a node keeps.
fn keeps(node: u64, placement: &PlacementState) -> String {
    if placement.everywhere {
        return "all".to_owned();
    }
    let percent = |thousandths: u16| format!("{} %", (thousandths + 5) / 10);
    match placement.homes.iter().find(|home| home.node == node) {
        None => "none".to_owned(),
        Some(home) if home.now == home.then => percent(home.now),
        Some(home) => format!("{}, then {}", percent(home.now), percent(home.then)),
    }
}

fn row(node: &NodeState, placement: Option<&PlacementState>) -> Vec<String> {
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
        placement.map_or_else(|| "?".to_owned(), |placement| keeps(node.node, placement)),
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
    fn what_a_node_keeps_is_a_part_of_all() {
        use crate::wire::cluster::HomeState;
        let home = |node, now, then| HomeState { node, now, then };
        let placement = PlacementState {
            copies: 3,
            everywhere: false,
            homes: vec![home(1, 1000, 604), home(2, 600, 600)],
            moving: true,
        };
        let each = [1, 2, 3].map(|node| keeps(node, &placement));
        assert_eq!(each, ["100 %, then 60 %", "60 %", "none"]);
        assert_eq!(kept(&placement), "3 copies; some are on their way to other nodes");
        let everywhere =
            PlacementState { copies: 3, everywhere: true, ..PlacementState::default() };
        assert_eq!(keeps(1, &everywhere), "all");
    }

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
