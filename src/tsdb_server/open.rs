//! The directory of a store: made, or opened piece by piece.
//!
//! | name | what it is |
//! |---|---|
//! | `tsfs-store` | the label: format and identity; written last |
//! | `holder` | who uses the store |
//! | `log/` | segments of the replicated log |
//! | `table/` | the versioned map, in RocksDB |
//! | `table.incoming/` | one that comes from another node |
//! | `blocks/` | segments of blocks |
//! | `ballast` | space set aside |
//!
//! Not here: what the pieces do once they are open.

use crate::env;
use crate::series::table::Table;
use crate::store::block;
use crate::store::block::BlockStore;
use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::disk::Space;
use crate::store::holder::Holder;
use crate::store::label;
use crate::store::label::Label;
use crate::store::log;
use crate::store::log::Log;
use crate::store::space;
use crate::store::space::BALLAST;
use crate::store::table;
use crate::store::table::RocksTable;
use crate::tsdb_log::entry::Members;
use crate::tsdb_server::cluster::disk;
use crate::types::FsError;
use crate::types::NodeId;
use crate::wire::cluster::SOCKET;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// Below this, the table would do little but write small files and merge them.
const WRITE_BUFFER_BYTES_MIN: usize = 8 << 20;
pub(super) const LOG: &str = "log";
pub(super) const TABLE: &str = "table";
pub(super) const BLOCKS: &str = "blocks";
/// What the directory of a store that is yet to be made may hold: what a new file system has, who is about to make it,
/// and what commands put there before.
const HARMLESS: [&str; 8] = [
    "lost+found",
    "holder",
    "tsfs.toml",
    "tsfs.log",
    disk::FILE,
    disk::WRITING,
    disk::SETTINGS,
    SOCKET,
];

/// Every store was made by one node, alone, and this is its number.
pub(super) const FIRST: NodeId = NodeId(1);

/// How a store is opened. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Make the store where there is none.
    pub create: bool,
    /// What for, as "mounted at /mnt/data": told to whoever comes second.
    pub purpose: String,
    pub table: table::Options,
    pub log: log::Options,
    pub blocks: block::Options,
    /// Set aside, so that deleting and purging work on a full disk.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            create: false,
            purpose: "in use".to_owned(),
            table: table::Options::default(),
            log: log::Options::default(),
            blocks: block::Options::default(),
            reserve_bytes: 256 << 20,
        }
    }
}

/// The open pieces of a store. The store is free for others when they are dropped.
pub struct Parts {
    pub dir: PathBuf,
    pub label: Label,
    /// Made by this opening: nothing is in it.
    pub fresh: bool,
    pub disk: Arc<dyn Disk>,
    pub table: Arc<RocksTable>,
    pub log: Log,
    pub blocks: BlockStore,
    /// What is damaged; the rest can be used.
    pub faults: Vec<FsError>,
    pub holder: Holder,
}

/// Whether `dir` is a store, or with `create` may become one. Changes nothing.
///
/// # Errors
/// As for [`open`].
pub fn check(dir: &Path, disk: &dyn Disk, create: bool) -> Result<(), FsError> {
    let known = if disk.exists(dir)? { Label::read(disk, dir)? } else { None };
    known.map_or_else(|| may_be_made(dir, disk, create), |_| Ok(()))
}

/// Opens the store in `dir`, or makes it there. A store that was made is complete only after [`finish`].
///
/// # Errors
/// `Io` with a sentence where `dir` is no store, cannot be one, or is in use; `NotSupported` for a newer format;
/// `Damaged`; `NoSpace`.
pub fn open(dir: &Path, disk: Arc<dyn Disk>, options: &Options) -> Result<Parts, FsError> {
    let known = if disk.exists(dir)? { Label::read(&*disk, dir)? } else { None };
    if known.is_none() {
        may_be_made(dir, &*disk, options.create)?;
        disk.make_dir(dir)?;
    }
    let holder = Holder::take(dir, &options.purpose)?;
    // Whoever held it before may have made it meanwhile.
    let known = Label::read(&*disk, dir)?;
    let label = match known {
        Some(label) => label,
        None => make(dir, &*disk, env::random())?,
    };
    let table_options = table::Options {
        create: known.is_none(),
        write_buffer_bytes: write_buffer_bytes(options, disk.space(dir)?),
        ..options.table.clone()
    };
    let table = Arc::new(RocksTable::open(&dir.join(TABLE), &table_options)?);
    let log = Log::open(disk.clone(), &dir.join(LOG), label.store, &options.log)?;
    let (blocks, faults) = BlockStore::open(
        disk.clone(),
        &dir.join(BLOCKS),
        label.store,
        table.clone(),
        options.blocks.clone(),
        Access::ReadWrite,
    )?;
    let dir = dir.to_path_buf();
    Ok(Parts { dir, label, fresh: known.is_none(), disk, table, log, blocks, faults, holder })
}

/// What the table may hold in memory: it must be able to write that out into the reserve of a full disk, with half of
/// the reserve gone and some of it needed for tidying up.
fn write_buffer_bytes(options: &Options, space: Space) -> usize {
    let quarter = space::reserved(options.reserve_bytes, space) / 4;
    let fits = usize::try_from(quarter).unwrap_or(usize::MAX);
    options.table.write_buffer_bytes.min(fits.max(WRITE_BUFFER_BYTES_MIN))
}

/// The store that was made is complete: everything in it is on disk.
///
/// # Errors
/// `NoSpace`, `Io`.
pub fn finish(dir: &Path, disk: &dyn Disk) -> Result<(), FsError> {
    Label::finish(disk, dir)
}

/// Makes the store of a node that is new in its cluster: it has the cluster's identity, and nothing in it yet. What the
/// other members have comes over the log.
///
/// # Errors
/// As for [`open`]; `Exists` where there is a store.
pub fn receive(dir: &Path, disk: &dyn Disk, store: [u8; 16]) -> Result<(), FsError> {
    disk.make_dir(dir)?;
    let _holder = Holder::take(dir, "joining a cluster")?;
    if Label::read(disk, dir)?.is_some() {
        return Err(FsError::Exists);
    }
    may_be_made(dir, disk, true)?;
    make(dir, disk, store)?;
    let options = table::Options { create: true, ..table::Options::default() };
    RocksTable::open(&dir.join(TABLE), &options)?.flush()?;
    disk.make_dir(&dir.join(BLOCKS))?;
    finish(dir, disk)
}

fn may_be_made(dir: &Path, disk: &dyn Disk, create: bool) -> Result<(), FsError> {
    let shown = dir.display();
    if !disk.exists(dir)? {
        return match create {
            true => Ok(()),
            false => Err(FsError::Io(format!(
                "there is no store at {shown}: give the directory of one, or make it with --create"
            ))),
        };
    }
    let names = disk.list(dir)?;
    if names.iter().any(|name| name == label::MAKING) {
        return match create {
            true => Ok(()),
            false => Err(FsError::Io(format!(
                "the making of the store at {shown} was cut short and nothing is in it; make it anew with --create"
            ))),
        };
    }
    let foreign = names.iter().find(|name| !HARMLESS.contains(&name.as_str()));
    match (foreign, create) {
        (Some(name), _) => Err(FsError::Io(format!(
            "{shown} is no store: it holds \"{name}\" and no file \"{}\"; give the directory of a store, or an empty one with --create",
            label::FILE
        ))),
        (None, true) => Ok(()),
        (None, false) => Err(FsError::Io(format!(
            "{shown} is empty, not a store; make a store in it with --create"
        ))),
    }
}

/// Makes the pieces that are made before they are opened. What an earlier making left has no label, so nothing was ever
/// kept in it.
fn make(dir: &Path, disk: &dyn Disk, store: [u8; 16]) -> Result<Label, FsError> {
    for left in [LOG, BLOCKS] {
        let left = dir.join(left);
        if disk.exists(&left)? {
            for name in disk.list(&left)? {
                disk.remove(&left.join(name))?;
            }
        }
    }
    if disk.exists(&dir.join(BALLAST))? {
        disk.remove(&dir.join(BALLAST))?;
    }
    RocksTable::destroy(&dir.join(TABLE))?;
    let label = Label { store };
    label.begin(disk, dir)?;
    disk.make_dir(&dir.join(LOG))?;
    // With whom every log begins, not who takes part by now: that the log tells, or a table that is lent.
    let members = Members::alone(FIRST);
    Log::create(disk, &dir.join(LOG), label.store, &members)?;
    Ok(label)
}
