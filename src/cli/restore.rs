//! `tsfs restore`: makes a file or a tree what it was.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::TIME_HELP;
use crate::cli::control::Place;
use crate::cli::diff;
use crate::cli::output::count;
use crate::cli::when;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs restore report.txt --at -10m              the file as it was ten minutes ago
  tsfs restore src --at mark:release --dry-run   what it would change
  tsfs restore src --at yesterday --remove       exactly the tree of yesterday

Restoring is an ordinary change: the state before it stays a version, so it can be undone the same way. Contents are
shared with the past, not copied.";

/// Make a file or a tree what it was at an instant
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{TIME_HELP}"))]
pub(super) struct Args {
    /// A file or directory in a mount
    path: PathBuf,
    /// The instant to go back to
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: String,
    /// Remove what did not exist then; otherwise it stays
    #[arg(long)]
    remove: bool,
    /// Print what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let at = when::moment(&args.at, context)?;
    let mut place = Place::find(&args.path)?;
    let ask =
        Ask::Restore { path: place.path.clone(), at, remove: args.remove, dry_run: args.dry_run };
    let done = place.ask(ask, &context.out, |answer| match answer {
        Answer::Change(change) => diff::show(&change, &args.path, context),
        _ => Ok(()),
    })?;
    let what = count(done.changed, "change");
    context.out.say(match (done.changed, args.dry_run) {
        (0, _) => "nothing to change: it is as it was".to_owned(),
        (_, true) => format!("{what} to make; nothing was changed"),
        (_, false) => format!("{what} made"),
    })?;
    Ok(Exit::Done)
}
