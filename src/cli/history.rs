//! `tsfs history`: directories that keep no history.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::control::Place;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs history off build/target    what is made in it from now on leaves no versions
  tsfs history on build/target
  tsfs history show build/target

It holds for what is created in the directory afterwards; what was there before keeps its past.";

/// Turn the history of a directory on or off, or show which it is
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    what: What,
    /// A directory in a mount
    #[arg(value_name = "DIR")]
    path: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    On,
    Off,
    Show,
}

#[derive(Serialize)]
struct Row {
    history: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let keep = match args.what {
        What::On => Some(true),
        What::Off => Some(false),
        What::Show => None,
    };
    let mut place = Place::find(&args.path)?;
    let mut kept = keep;
    let ask = Ask::History { path: place.path.clone(), keep };
    place.ask(ask, &context.out, |answer| {
        if let Answer::History { keep } = answer {
            kept = Some(keep);
        }
        Ok(())
    })?;
    let history = kept.context("the mount did not say whether the directory keeps history")?;
    let word = if history { "on" } else { "off" };
    context.out.say(format_args!("history of {} is {word}", args.path.display()))?;
    context.out.object(&Row { history })?;
    Ok(Exit::Done)
}
