//! `tsfs mark`: names the present, so that it is kept and can be found.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::control::Place;
use crate::cli::when;
use crate::wire::control::Ask;
use crate::wire::control::Raw;
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs mark before-upgrade                     name this instant of the mount you are in
  tsfs mark release-1.2 /mnt/data --note 'as shipped'
  ls /mnt/data/.tsfs/marks/release-1.2/        the tree as it was then
  tsfs restore src --at mark:before-upgrade
  tsfs mark --remove before-upgrade            let retention have it

What a mark shows is kept as long as the mark exists, whatever retention says.";

/// Name the present instant
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The name
    name: String,
    /// A path in the mount; making a mark needs the right to write there
    #[arg(default_value = ".")]
    path: PathBuf,
    /// A sentence to find it by
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Remove the mark instead
    #[arg(long, conflicts_with = "note")]
    remove: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    at: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut place = Place::find(&args.path)?;
    let name = Raw::from(args.name.as_str());
    let ask = if args.remove {
        Ask::Unmark { name }
    } else {
        Ask::Mark { name, note: args.note.clone(), path: place.path.clone() }
    };
    let done = place.ask(ask, &context.out, |_| Ok(()))?;
    let at = done.stamp.map(|stamp| when::show(stamp, &context.zone));
    context.out.say(match &at {
        Some(at) => format!("{} is {at}", args.name),
        None => format!("{} is no mark any more", args.name),
    })?;
    context.out.object(&Row { name: &args.name, at })?;
    Ok(Exit::Done)
}
