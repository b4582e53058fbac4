//! `tsfs undelete`: brings back what was deleted, or lists it.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::TIME_HELP;
use crate::cli::control::Place;
use crate::cli::diff;
use crate::cli::output;
use crate::cli::output::count;
use crate::cli::when;
use crate::tsdb_config::unit;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use crate::wire::control::DeletedRow;
use crate::wire::control::Raw;
use anyhow::bail;
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs undelete --list .                   what was deleted in this directory, newest first
  tsfs undelete report.txt                 as it last was
  tsfs undelete src --at -2h               a directory with everything in it, as of two hours ago
  tsfs undelete report.txt --to old.txt    beside a newer file of that name";

/// Bring back what was deleted
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{TIME_HELP}"))]
pub(super) struct Args {
    /// The path that is gone; with --list, a directory
    path: PathBuf,
    /// Only list what was deleted in the directory
    #[arg(long, conflicts_with_all = ["at", "to", "dry_run"])]
    list: bool,
    /// An instant at which it still existed; otherwise its last state
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    /// The name to give it, in the same directory
    #[arg(long, value_name = "NAME")]
    to: Option<PathBuf>,
    /// Print what would be brought back, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    deleted: String,
    /// An instant at which it can be read.
    last: String,
    kind: &'static str,
    size: u64,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let at = args.at.as_deref().map(|text| when::moment(text, context)).transpose()?;
    let mut place = Place::find(&args.path)?;
    let path = place.path.clone();
    if args.list {
        place.ask(Ask::Deleted { path }, &context.out, |answer| match answer {
            Answer::Deleted(row) => show(&row, context),
            _ => Ok(()),
        })?;
        return Ok(Exit::Done);
    }
    let to = match &args.to {
        Some(name) if name.components().count() != 1 || name.as_os_str() == ".." => {
            bail!("--to takes a name, not a path: it comes back in its own directory");
        }
        Some(name) => Some(Raw(name.as_os_str().as_bytes().to_vec())),
        None => None,
    };
    let top = args.to.as_ref().map_or_else(|| args.path.clone(), |to| args.path.with_file_name(to));
    let ask = Ask::Undelete { path, at, to, dry_run: args.dry_run };
    let done = place.ask(ask, &context.out, |answer| match answer {
        Answer::Change(change) => diff::show(&change, &top, context),
        _ => Ok(()),
    })?;
    let what = count(done.changed, "file");
    context.out.say(if args.dry_run {
        format!("{what} to bring back; nothing was changed")
    } else {
        format!("{what} brought back")
    })?;
    Ok(Exit::Done)
}

fn show(row: &DeletedRow, context: &Context) -> anyhow::Result<()> {
    let name = output::name(row.name.as_bytes());
    let deleted = when::show(row.when, &context.zone);
    let kind = output::kind(row.kind);
    context
        .out
        .say(format_args!("{deleted}  {:>10}  {kind:9}  {name}", unit::show_size(row.size)))?;
    let last = when::show(row.last, &context.zone);
    context.out.object(&Row { name, deleted, last, kind, size: row.size })?;
    Ok(())
}
