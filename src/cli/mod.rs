//! The commands: one file each.
//!
//! A command decodes its arguments, asks a mount through its control file (`control.rs`) or opens a store, and
//! prints what comes back, for people or as JSON. Not here: what a command means inside a mount (`tsdb_client`).
//! Errors end here, as one sentence on standard error and a number; the numbers are in `Exit`.

mod control;
mod local;
mod output;
mod process;
mod when;

mod clients;
mod cluster;
mod completions;
mod diff;
mod fsck;
mod history;
mod locks;
mod log;
mod man;
mod mark;
mod marks;
mod mount;
mod node;
mod purge;
mod refused;
mod restore;
mod retention;
mod status;
mod sync;
mod umount;
mod undelete;

use crate::cli::output::Output;
use crate::env::Clock;
use crate::env::SystemClock;
use crate::tsdb_config::Settings;
use crate::tsdb_config::Sources;
use crate::types::Stamp;
use clap::Parser;
use clap::Subcommand;
use jiff::tz::TimeZone;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

/// The machine's settings, for every mount.
const SYSTEM_FILE: &str = "/etc/tsfs/tsfs.toml";
/// A store's own settings, in its directory.
const STORE_FILE: &str = "tsfs.toml";

/// Forms of TIME, shown wherever one may be given.
pub(crate) const TIME_HELP: &str = "\
TIME is one of:
  2026-11-22T17:30:00+01:00   RFC 3339; without an offset, in your time zone
  2026-11-22                  midnight at the start of that day
  -15m  -2h  -3d              so long ago
  now  today  yesterday       yesterday: 24 hours ago by the calendar
  @1795365000.5               seconds since 1970
  @GMT-2026.11.22-16.30.00    as Samba names previous versions
  mark:NAME                   an instant that 'tsfs mark' named";

const EXAMPLES: &str = "\
Examples:
  tsfs mount --create /srv/store /mnt/data   make a store and mount it
  ls /mnt/data/.tsfs/at/yesterday/           the whole tree as it was
  tsfs log /mnt/data/report.txt              each version of a file
  tsfs diff /mnt/data --from -2h             what changed in the last two hours
  tsfs restore /mnt/data/src --at 2026-11-22T09:00
  tsfs umount /mnt/data
  tsfs node --create --address h1:7000 /srv/store   a node of a cluster; see 'tsfs cluster --help'

Exit codes: 0 done; 1 not done, and the message says why; 2 the command line was not understood.
'tsfs fsck' has its own, as fsck(8).";

/// A file system that keeps every change as a version, and shows any file or tree as it was at any instant.
#[derive(Parser)]
#[command(name = "tsfs", version, after_help = EXAMPLES, max_term_width = 110)]
#[command(infer_subcommands = false, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// Settings to read besides /etc/tsfs/tsfs.toml and the store's tsfs.toml
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TSFS_CONFIG",
        help_heading = "For every command"
    )]
    config: Option<PathBuf>,
    /// One setting, as write.window=20ms; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value, help_heading = "For every command")]
    set: Vec<(String, String)>,
    /// Print JSON, an object a line
    #[arg(long, global = true, help_heading = "For every command")]
    json: bool,
    /// This is the process of a mount that stays (internal).
    #[arg(long, hide = true)]
    background: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Mount(mount::Args),
    Umount(umount::Args),
    Log(log::Args),
    Diff(diff::Args),
    Restore(restore::Args),
    Undelete(undelete::Args),
    Mark(mark::Args),
    Marks(marks::Args),
    Sync(sync::Args),
    Purge(purge::Args),
    Retention(retention::Args),
    History(history::Args),
    Status(status::Args),
    Node(node::Args),
    Cluster(cluster::Args),
    Clients(clients::Args),
    Locks(locks::Args),
    Refused(refused::Args),
    Fsck(fsck::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// What a command ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Exit {
    Done,
    NotDone,
    Usage,
    /// Any other number, of `fsck`.
    Code(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::NotDone => 1,
            Exit::Usage => 2,
            Exit::Code(code) => code,
        })
    }
}

/// What every command is given.
struct Context {
    out: Output,
    sources: Sources,
    /// The user's.
    zone: TimeZone,
    now: Stamp,
    /// This is the process of a mount that stays when the command returns.
    background: bool,
}

impl Context {
    /// Where settings come from for a store.
    fn sources_for(&self, store: &Path) -> Sources {
        let mut sources = self.sources.clone();
        sources.optional_files.push(store.join(STORE_FILE));
        sources
    }

    /// The settings as they hold for a store.
    fn settings(&self, store: &Path) -> anyhow::Result<Settings> {
        Settings::load(&self.sources_for(store)).map_err(anyhow::Error::msg)
    }
}

/// Runs the command that the arguments name, the program's own name first.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(exit) = mount::guard::run(&arguments) {
        return exit;
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Where standard error is gone there is nobody to tell.
            let _ = error.print();
            let usage = if arguments.get(1).is_some_and(|name| name == "fsck") {
                Exit::Code(fsck::USAGE)
            } else {
                Exit::Usage
            };
            return if error.use_stderr() { usage.into() } else { Exit::Done.into() };
        }
    };
    let fsck = matches!(cli.command, Command::Fsck(_));
    match dispatch(cli) {
        Ok(exit) => exit.into(),
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            output::complain(&error);
            if fsck { Exit::Code(fsck::OPERATIONAL).into() } else { Exit::NotDone.into() }
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let context = Context {
        out: Output::new(cli.json),
        sources: Sources {
            optional_files: vec![PathBuf::from(SYSTEM_FILE)],
            node_file: None,
            file: cli.config,
            environment: environment(),
            options: cli.set,
        },
        zone: TimeZone::system(),
        now: SystemClock.wall(),
        background: cli.background,
    };
    let context = &context;
    match cli.command {
        Command::Mount(args) => mount::run(&args, context),
        Command::Umount(args) => umount::run(&args, context),
        Command::Log(args) => log::run(&args, context),
        Command::Diff(args) => diff::run(&args, context),
        Command::Restore(args) => restore::run(&args, context),
        Command::Undelete(args) => undelete::run(&args, context),
        Command::Mark(args) => mark::run(&args, context),
        Command::Marks(args) => marks::run(&args, context),
        Command::Sync(args) => sync::run(&args, context),
        Command::Purge(args) => purge::run(&args, context),
        Command::Retention(args) => retention::run(&args, context),
        Command::History(args) => history::run(&args, context),
        Command::Status(args) => status::run(&args, context),
        Command::Node(args) => node::run(&args, context),
        Command::Cluster(args) => cluster::run(&args, context),
        Command::Clients(args) => clients::run(&args, context),
        Command::Locks(args) => locks::run(&args, context),
        Command::Refused(args) => refused::run(&args, context),
        Command::Fsck(args) => fsck::run(&args, context),
        Command::Completions(args) => completions::run(&args, context),
        Command::Man(args) => man::run(&args, context),
    }
}

/// The environment as text; a variable that is not text is none of ours.
fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "write it as KEY=VALUE".to_owned())?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(is)
}
