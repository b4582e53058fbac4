//! `tsfs status`: space, history and health of a mount or of a store.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::control::Place;
use crate::cli::mount::store;
use crate::cli::output::count;
use crate::cli::when;
use crate::fuse::mount;
use crate::fuse::mount::table;
use crate::store::holder;
use crate::tsdb_config::Settings;
use crate::tsdb_config::unit::show_size;
use crate::types::Stamp;
use crate::wire::Server as _;
use crate::wire::Status;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use anyhow::Context as _;
use std::path::Path;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs status                      of the mount you are in
  tsfs status /srv/store           of a store, mounted or not
  tsfs status --json | jq .counters";

/// Show space, history and health
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A path in a mount, or the directory of a store
    #[arg(value_name = "MNT|STORE", default_value = ".")]
    path: PathBuf,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let status = match store::is_store(&args.path) {
        true => of_store(&args.path, context)?,
        false => ask(&args.path, context)?,
    };
    context.out.object(&status)?;
    show(&status, context)?;
    Ok(if status.health.is_empty() { Exit::Done } else { Exit::NotDone })
}

fn ask(path: &Path, context: &Context) -> anyhow::Result<Status> {
    let mut status = None;
    Place::find(path)?.ask(Ask::Status, &context.out, |answer| {
        if let Answer::Status(answer) = answer {
            status = Some(*answer);
        }
        Ok(())
    })?;
    status.context("the mount did not say how it is")
}

/// A store that is in use is asked through its mount; one that is not is opened for a moment.
fn of_store(given: &Path, context: &Context) -> anyhow::Result<Status> {
    let store = store::find(given, false)?;
    store::check_owner(&store)?;
    store::keep_private();
    if holder::who(&store).is_some()
        && let Some(row) = table::all()?
            .into_iter()
            .find(|row| row.kind == mount::KIND && Path::new(&row.source) == store)
    {
        return ask(&row.at, context);
    }
    let settings = Settings::load(&context.sources_for(&store)).map_err(anyhow::Error::msg)?;
    let node =
        crate::cli::mount::store::open(&store, "showing its status".to_owned(), &settings, false)?;
    let status = node.status()?;
    node.close()?;
    Ok(status)
}

fn show(status: &Status, context: &Context) -> anyhow::Result<()> {
    let out = &context.out;
    let line = |name: &str, text: String| out.say(format_args!("{name:9} {text}"));
    let on_disk = status.block_bytes + status.table_bytes + status.log_bytes;
    // A small store is mostly space taken ahead: then there is nothing to say.
    let saved = match status.saved_bytes {
        0 => String::new(),
        saved => format!("; compression and sharing save {}", show_size(saved)),
    };
    line("store", format!("{} at {}", status.store, status.path))?;
    line(
        "disk",
        format!(
            "{}, of which {} free ({} kept for deleting and purging)",
            show_size(status.disk_total),
            show_size(status.disk_free),
            show_size(status.reserved)
        ),
    )?;
    let files = format!("{} and directories", count(status.files, "file"));
    line("live", format!("{} in {files}", show_size(status.live_bytes)))?;
    line(
        "history",
        format!(
            "{}; {}, the present ones included",
            show_size(status.history_bytes),
            count(status.versions, "finished version")
        ),
    )?;
    line("oldest", oldest(status.oldest, context))?;
    line(
        "on disk",
        format!(
            "{} (contents {}, tables {}, log {}){saved}",
            show_size(on_disk),
            show_size(status.block_bytes),
            show_size(status.table_bytes),
            show_size(status.log_bytes),
        ),
    )?;
    if status.health.is_empty() {
        line("health", "good".to_owned())?;
    }
    for fault in &status.health {
        line("health", fault.clone())?;
    }
    Ok(())
}

fn oldest(oldest: u64, context: &Context) -> String {
    match oldest {
        0 => "everything since the store was made".to_owned(),
        _ => when::show(Stamp(oldest), &context.zone),
    }
}
