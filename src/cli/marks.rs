//! `tsfs marks`: the named instants.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::control::Place;
use crate::cli::output;
use crate::cli::when;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs marks              of the mount you are in, oldest first
  tsfs marks /mnt/data --json";

/// Print the named instants, oldest first
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Any path in the mount
    #[arg(default_value = ".")]
    path: PathBuf,
}

#[derive(Serialize)]
struct Row {
    name: String,
    at: String,
    uid: u32,
    note: String,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut place = Place::find(&args.path)?;
    place.ask(Ask::Marks, &context.out, |answer| {
        let Answer::Mark(mark) = answer else { return Ok(()) };
        let name = output::name(mark.name.as_bytes());
        let at = when::show(mark.stamp, &context.zone);
        let note = output::name(mark.note.as_bytes());
        context.out.say(format!("{at}  {name:20}  {note}").trim_end())?;
        context.out.object(&Row { name, at, uid: mark.uid, note })?;
        Ok(())
    })?;
    Ok(Exit::Done)
}
