//! `tsfs purge`: forgets history before its time.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::TIME_HELP;
use crate::cli::control::Place;
use crate::cli::output::count;
use crate::cli::when;
use crate::tsdb_config::unit;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use crate::wire::control::Freed;
use anyhow::Context as _;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs purge --before -90d --dry-run           what would be freed
  tsfs purge --before -90d /mnt/data           forget what was replaced before then, in the whole store
  tsfs purge --before now secret.txt           forget every earlier version of one file or tree

What is purged cannot be brought back. The present is never touched, nor what a mark shows.";

/// Forget versions that were replaced before an instant
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{TIME_HELP}"))]
pub(super) struct Args {
    /// A mount, for everything in its store; or a path in one, for that file or tree
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Forget what was replaced or deleted before this instant
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    before: String,
    /// Print what would be freed, and free nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let before = when::moment(&args.before, context)?;
    let given = args.path.clone().unwrap_or_else(|| PathBuf::from("."));
    let mut place = Place::find(&given)?;
    // Without a path, the mount is only looked for by the directory one happens to be in.
    let path =
        Some(place.path.clone()).filter(|path| args.path.is_some() && !path.as_bytes().is_empty());
    let purge = |dry_run| Ask::Purge { before: before.clone(), path: path.clone(), dry_run };
    let expected = ask(&mut place, purge(true), context)?;
    if args.dry_run || expected.versions == 0 {
        report(&expected, "to forget", context)?;
        return Ok(Exit::Done);
    }
    if !context.out.json {
        report(&expected, "to forget", context)?;
    }
    let freed = ask(&mut Place::find(&given)?, purge(false), context)?;
    report(&freed, "forgotten", context)?;
    Ok(Exit::Done)
}

fn ask(place: &mut Place, ask: Ask, context: &Context) -> anyhow::Result<Freed> {
    let mut freed = None;
    place.ask(ask, &context.out, |answer| {
        if let Answer::Freed(answer) = answer {
            freed = Some(answer);
        }
        Ok(())
    })?;
    freed.context("the mount did not say what was freed")
}

fn report(freed: &Freed, what: &str, context: &Context) -> anyhow::Result<()> {
    context.out.object(freed)?;
    let more = if freed.at_least { "at least " } else { "" };
    let kept = match freed.kept_by_marks {
        0 => String::new(),
        kept => format!("; {} stay because a mark shows them", count(kept, "version")),
    };
    let versions = count(freed.versions, "version");
    let bytes = unit::show_size(freed.bytes);
    context
        .out
        .say(format_args!("{more}{versions} {what}, about {bytes} before compression{kept}"))?;
    Ok(())
}
