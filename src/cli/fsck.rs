//! `tsfs fsck`: checks a store that nobody uses, and repairs what can be repaired.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::mount::store;
use crate::cli::output;
use crate::cli::output::count;
use crate::cli::output::thousands;
use crate::cli::when;
use crate::env::SystemClock;
use crate::meta::check::Owner;
use crate::store::disk::Disk;
use crate::store::disk::RealDisk;
use crate::tsdb_server::offline;
use crate::tsdb_server::offline::Finding;
use crate::tsdb_server::offline::State;
use crate::tsdb_server::offline::Summary;
use crate::wire::control::Progress;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Exit codes of fsck(8).
const REPAIRED: Exit = Exit::Code(1);
const DAMAGED: Exit = Exit::Code(4);
pub(super) const OPERATIONAL: u8 = 8;
pub(super) const USAGE: u8 = 16;

const EXAMPLES: &str = "\
Examples:
  tsfs fsck /srv/store             reads everything, changes nothing, says what can be repaired
  tsfs fsck --repair /srv/store

What is repaired is checked again. Files that have lost their name are then in /lost+found.

Exit codes: 0 clean; 1 damage was found and repaired; 4 damage is left; 8 the check could not be done; 16 the command
line was not understood.";

/// Check a store that is not mounted
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The directory of the store
    #[arg(value_name = "STORE")]
    store: PathBuf,
    /// Put right what can be; what was lost before is named, and nothing more is
    #[arg(long)]
    repair: bool,
}

#[derive(Serialize)]
struct FindingRow<'a> {
    part: &'static str,
    what: &'a str,
    repaired: bool,
    /// There is a remedy, which was not tried.
    repairable: bool,
}

/// A file that damage has reached.
#[derive(Serialize)]
struct OwnerRow {
    damaged: String,
    /// Whether it is the file as it is now, or versions of it alone.
    now: bool,
    from: String,
    until: Option<String>,
}

#[derive(Serialize)]
struct SummaryRow {
    faults: u64,
    repaired: u64,
    repairable: u64,
    entries: u64,
    rows: u64,
    blocks: u64,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let dir = store::find(&args.store, false)?;
    store::check_owner(&dir)?;
    store::keep_private();
    let settings = context.settings(&dir)?;
    let options = store::options("checked by 'tsfs fsck'".to_owned(), &settings);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let clock = SystemClock::shared();
    let mut told = Ok(());
    let mut tell = |finding: Finding| {
        // What cannot be printed is told at the end; the check goes on.
        if told.is_ok() {
            told = show(&finding, context);
        }
    };
    let mut progress = |doing: &str, done: u64, total: Option<u64>, unit: &str| {
        context.out.progress(&Progress {
            doing: doing.to_owned(),
            done,
            total,
            unit: unit.to_owned(),
        });
    };
    let summary =
        offline::check(&dir, &disk, clock, &options, args.repair, &mut progress, &mut tell)?;
    context.out.clear();
    told?;
    for owner in &summary.owners {
        show_owner(owner, context)?;
    }
    conclude(&summary, args, context)
}

fn show(finding: &Finding, context: &Context) -> anyhow::Result<()> {
    let part = finding.part.name();
    let state = match finding.state {
        State::Left => "",
        State::Repairable => " (--repair may help)",
        State::Repaired => " (repaired)",
    };
    context.out.say(format_args!("{part}: {}{state}", finding.what))?;
    context.out.object(&FindingRow {
        part,
        what: &finding.what,
        repaired: finding.state == State::Repaired,
        repairable: finding.state == State::Repairable,
    })?;
    Ok(())
}

/// What to do about what cannot be repaired.
fn advice(summary: &Summary) -> &'static str {
    match summary.owners.iter().any(Owner::is_present) {
        true => "restore the files above from an earlier version ('tsfs log') or from a backup",
        false if !summary.owners.is_empty() => {
            "what is there now is whole, only versions are damaged"
        }
        false => "copy what can still be read, and put a backup in its place",
    }
}

fn show_owner(owner: &Owner, context: &Context) -> anyhow::Result<()> {
    let path = output::name(&owner.path);
    let (from, until) =
        (when::show(owner.from, &context.zone), when::show_end(owner.until, &context.zone));
    context.out.say(match &until {
        None => format!("damaged file: {path}"),
        Some(until) => format!("damaged version: {path}, as it was from {from} to {until}"),
    })?;
    let now = owner.is_present();
    context.out.object(&OwnerRow { damaged: path, now, from, until })?;
    Ok(())
}

fn conclude(summary: &Summary, args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let left = summary.faults - summary.repaired;
    let read = format!(
        "{}, {} and {} read",
        count(summary.entries, "log entry").replace("entrys", "entries"),
        count(summary.rows, "row"),
        count(summary.blocks, "block"),
    );
    context.out.say(match (summary.faults, left) {
        (0, _) => format!("clean: {read}"),
        (faults, 0) => format!("{} found and repaired; {read}", count(faults, "fault")),
        (_, left) if args.repair || summary.repairable == 0 => {
            format!("{} cannot be repaired; {}; {read}", count(left, "fault"), advice(summary))
        }
        (_, left) => format!(
            "{} found, nothing was changed; --repair may put {} right; {read}",
            count(left, "fault"),
            thousands(summary.repairable)
        ),
    })?;
    context.out.object(&SummaryRow {
        faults: summary.faults,
        repaired: summary.repaired,
        repairable: summary.repairable,
        entries: summary.entries,
        rows: summary.rows,
        blocks: summary.blocks,
    })?;
    Ok(match (summary.faults, left) {
        (0, _) => Exit::Done,
        (_, 0) => REPAIRED,
        _ => DAMAGED,
    })
}
