//! A store opened by a command: settings → options → node.
//!
//! Not here: what is in a store, and whose it is (`tsdb_server`).

use crate::cli::control;
use crate::env::SystemClock;
use crate::meta::record::Retention;
use crate::store::disk::RealDisk;
use crate::store::label;
use crate::store::table;
use crate::tsdb_config::Settings;
use crate::tsdb_server::node::Fresh;
use crate::tsdb_server::node::Node;
use crate::tsdb_server::open;
use crate::types::FsError;
use anyhow::bail;
use rustix::fs::Mode;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// The root directory of a fresh store: as a home directory is made.
const ROOT_MODE: u32 = 0o755;

/// What this process makes from now on is its user's alone. A store holds the contents of every file, whatever the modes of
/// the files say, so nobody else may look into its segments and tables.
pub(in crate::cli) fn keep_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Root must not work on another user's store: what it makes there would lock that user out.
///
/// # Errors
/// A sentence with how to do it.
pub(in crate::cli) fn check_owner(dir: &Path) -> anyhow::Result<()> {
    let owner = fs::metadata(dir.join(label::FILE))?.uid();
    if rustix::process::geteuid().is_root() && owner != 0 {
        bail!(
            "{} belongs to user {owner}, who could not mount it any more; run this as that user: 'sudo -u \\#{owner} tsfs …'",
            dir.display()
        );
    }
    Ok(())
}

/// Whether a directory is a store, of whatever format.
pub(in crate::cli) fn is_store(dir: &Path) -> bool {
    dir.join(label::FILE).exists()
}

/// The directory of a store, absolute. With `create` it need not be a store yet, nor exist.
///
/// # Errors
/// A sentence for what is no store and may not become one.
pub(in crate::cli) fn find(given: &Path, create: bool) -> anyhow::Result<PathBuf> {
    if given.exists() && !given.is_dir() {
        bail!("{} is not a directory; give the directory of a store", given.display());
    }
    open::check(given, &RealDisk, create)?;
    control::canonical(given)
}

/// Opens the store at `dir`, which [`find`] gave.
pub(in crate::cli) fn open(
    dir: &Path,
    purpose: String,
    settings: &Settings,
    create: bool,
) -> Result<Arc<Node>, FsError> {
    let fresh = Fresh {
        mode: ROOT_MODE,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        retention: Retention {
            age_ns: settings.history_age.map(|age| age.as_nanos() as u64),
            disk_percent: settings.history_disk,
        },
    };
    let options = open::Options { create, ..options(purpose, settings) };
    Node::open(dir, Arc::new(RealDisk), SystemClock::shared(), &options, &fresh)
}

/// How a store that is there is opened.
pub(in crate::cli) fn options(purpose: String, settings: &Settings) -> open::Options {
    open::Options {
        purpose,
        table: table::Options {
            cache_bytes: settings.cache_table as usize,
            ..table::Options::default()
        },
        reserve_bytes: settings.store_reserve,
        ..open::Options::default()
    }
}
