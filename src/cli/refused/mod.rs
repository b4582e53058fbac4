//! `tsfs refused`: what mounts had done and the store did not take, from the files in which they saved it.
//!
//! Not here: saving it (`tsdb_client`), the bytes of such a file (`wire::refused`).

mod extract;
mod show;

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::output;
use crate::cli::refused::show::Names;
use crate::cli::when;
use crate::tsdb_client::REFUSED_ENDING;
use crate::tsdb_config::RefusedTo;
use crate::tsdb_config::Settings;
use crate::tsdb_config::unit::show_size;
use crate::types::FsError;
use crate::wire::refused::Found;
use crate::wire::refused::Head;
use crate::wire::refused::Reader;
use crate::wire::refused::Source;
use anyhow::Context as _;
use anyhow::bail;
use bytes::Bytes;
use serde::Serialize;
use std::env;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

/// Where root's mounts save it.
const SYSTEM_DIR: &str = "/var/lib/tsfs/refused";
/// Where others' do, below what is their state.
const USER_DIR: &str = "tsfs/refused";

const EXAMPLES: &str = "\
Examples:
  tsfs refused                              the files that there are, of mounts of this user
  tsfs refused FILE                         each change that is in one, oldest first
  tsfs refused FILE --json | jq .path
  tsfs refused FILE --extract again         the contents, as files in a new directory

A mount of a cluster whose session was ended (it slept, was cut off or evicted) saves what its programs had
done and the store had not taken. Nothing puts that back by itself: others may have changed the same files
since. Extract it, compare, and copy what is to be kept.";

/// Show what a mount had done and its cluster did not take
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A file of refused work; without one, list those that there are
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Write the contents that are in it into this directory, which must be new or empty
    #[arg(long, value_name = "DIR", requires = "file")]
    extract: Option<PathBuf>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    match (&args.file, &args.extract) {
        (None, _) => list(context),
        (Some(file), None) => print(&OnDisk::open(file)?, context),
        (Some(file), Some(dir)) => extract::run(&OnDisk::open(file)?, dir, context),
    }
}

/// The directory that mounts of this user save refused work in; `None` for nowhere.
pub(super) fn dir(settings: &Settings) -> anyhow::Result<Option<PathBuf>> {
    let dir = match &settings.mount_refused {
        RefusedTo::Nowhere => return Ok(None),
        RefusedTo::Dir(dir) => dir.clone(),
        RefusedTo::Auto if rustix::process::geteuid().is_root() => PathBuf::from(SYSTEM_DIR),
        RefusedTo::Auto => {
            let set = |name| env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
            let state = set("XDG_STATE_HOME");
            let state = state.or_else(|| Some(set("HOME")?.join(".local/state")));
            match state {
                Some(state) => state.join(USER_DIR),
                None => return Ok(None),
            }
        }
    };
    let absolute = std::path::absolute(&dir);
    Ok(Some(absolute.with_context(|| format!("where is {}?", dir.display()))?))
}

/// A file of refused work.
struct OnDisk {
    path: PathBuf,
    file: File,
    len: u64,
}

impl OnDisk {
    fn open(path: &Path) -> anyhow::Result<OnDisk> {
        let cannot = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(cannot)?;
        let len = file.metadata().with_context(cannot)?.len();
        Ok(OnDisk { path: path.to_owned(), file, len })
    }

    fn reader(&self) -> anyhow::Result<Reader<'_>> {
        Reader::open(self).with_context(|| self.path.display().to_string())
    }
}

impl Source for OnDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes, FsError> {
        let mut bytes = vec![0; len];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(|error| FsError::io(format_args!("read {}", self.path.display()), &error))?;
        Ok(bytes.into())
    }
}

/// What JSON has of a file.
#[derive(Serialize)]
struct Row<'a> {
    file: &'a Path,
    bytes: u64,
    store: &'a str,
    session: u64,
    client: &'a str,
    source: &'a str,
    opened: String,
    saved: String,
    why: &'a str,
    /// The last batch that is known to be applied.
    applied: u64,
}

impl OnDisk {
    fn row<'a>(&'a self, head: &'a Head, context: &Context) -> Row<'a> {
        Row {
            file: &self.path,
            bytes: self.len,
            store: &head.store,
            session: head.session.0,
            client: &head.client,
            source: &head.source,
            opened: when::show(head.opened, &context.zone),
            saved: when::show(head.saved, &context.zone),
            why: &head.why,
            applied: head.applied.0,
        }
    }
}

fn list(context: &Context) -> anyhow::Result<Exit> {
    let settings = Settings::load(&context.sources).map_err(anyhow::Error::msg)?;
    let Some(dir) = dir(&settings)? else {
        bail!("refused work is saved nowhere: mount.refused is off, or this user has no HOME");
    };
    let mut paths = Vec::new();
    match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", dir.display())),
        Ok(entries) => {
            for entry in entries {
                paths.push(entry?.path());
            }
        }
    }
    paths.retain(|path| path.as_os_str().as_encoded_bytes().ends_with(REFUSED_ENDING.as_bytes()));
    paths.sort();
    let mut exit = Exit::Done;
    for path in &paths {
        if let Err(error) = show_file(path, context) {
            context.out.note(format_args!("{error:#}"));
            exit = Exit::NotDone;
        }
    }
    if paths.is_empty() {
        context.out.say(format_args!("nothing was refused: {} has no such file", dir.display()))?;
    }
    Ok(exit)
}

fn show_file(path: &Path, context: &Context) -> anyhow::Result<()> {
    let file = OnDisk::open(path)?;
    let mut reader = file.reader()?;
    while let Some(found) = reader.next_found()? {
        let Found::Head(head) = found else { continue };
        context.out.object(&file.row(&head, context))?;
        context.out.say(format_args!(
            "{}  {:>10}  {} at {}\n    {}",
            when::show(head.saved, &context.zone),
            show_size(file.len),
            head.source,
            head.client,
            path.display()
        ))?;
        return Ok(());
    }
    bail!("{} does not say whose it is; 'tsfs refused FILE' shows what there is", path.display());
}

fn print(file: &OnDisk, context: &Context) -> anyhow::Result<Exit> {
    let mut reader = file.reader()?;
    let (mut names, mut exit) = (Names::default(), Exit::Done);
    while let Some(found) = reader.next_found()? {
        match found {
            Found::Head(head) => {
                context.out.object(&file.row(&head, context))?;
                for line in show::head(&head, &context.zone) {
                    context.out.say(line)?;
                }
            }
            Found::Names(some) => names.add(some),
            Found::Batch { sent, batch } => {
                context.out.say(show::batch(sent, &batch))?;
                for op in show::ops(sent, &batch, &mut names, &context.zone) {
                    context.out.object(&op)?;
                    context.out.say(op.line())?;
                }
            }
            Found::Block { .. } => {}
            Found::Damage(damage) => {
                exit = Exit::NotDone;
                tell(&show::damage(&damage), context)?;
            }
        }
    }
    Ok(exit)
}

/// Says what is damaged, to programs as well.
fn tell(damage: &str, context: &Context) -> anyhow::Result<()> {
    context.out.object(&serde_json::json!({ "damage": damage }))?;
    context.out.note(output::name(damage.as_bytes()));
    Ok(())
}
