//! The table on RocksDB, without its write-ahead log: the replicated log is ours, and is replayed at the start.
//!
//! Each family is a column family. They are flushed as one (`atomic_flush`), so whatever a power cut leaves is the
//! state after some batch, and the applied index in it says after which. Not here: when to flush, what to replay.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Visit;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::series::table::Table;
use crate::types::FsError;
use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::ColumnFamily;
use rocksdb::ColumnFamilyDescriptor;
use rocksdb::DB;
use rocksdb::DBPinnableSlice;
use rocksdb::DBRawIterator;
use rocksdb::FlushOptions;
use rocksdb::ReadOptions;
use rocksdb::Snapshot;
use rocksdb::WriteBatch;
use rocksdb::WriteOptions;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

mod checkpoint;
mod reclaim;
mod tuning;

/// The row of [`Family::Local`] that says how the table is laid out. No other row there may have this name.
const FORMAT_KEY: &[u8] = b"format";
/// A row of [`Family::Local`] that is never there.
const PROBE_KEY: &[u8] = b"probe";
/// The layout this program writes and reads.
const FORMAT: u8 = 1;
/// RocksDB's own column family, which must exist; we keep nothing in it.
const DEFAULT_FAMILY: &str = "default";

/// What a table may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// Make the table where there is none.
    pub create: bool,
    /// Blocks, indexes and filters kept in memory, in bytes, all families together.
    pub cache_bytes: usize,
    /// Rows not yet flushed, in bytes, all families together. Beyond it RocksDB flushes by itself.
    pub write_buffer_bytes: usize,
    /// Files kept open.
    pub open_files_max: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            create: false,
            cache_bytes: 64 << 20,
            write_buffer_bytes: 64 << 20,
            open_files_max: 512,
        }
    }
}

/// A table in a directory of its own, locked while it is open.
pub struct RocksTable {
    db: DB,
    dir: PathBuf,
    point_reads: ReadOptions,
    unlogged: WriteOptions,
    sweep: Mutex<reclaim::Sweep>,
    /// A flush found the disk full, and RocksDB has not gone on since.
    full: AtomicBool,
}

impl RocksTable {
    /// Opens the table in `dir`, which is created if the options say so.
    ///
    /// # Errors
    /// `Io` where there is no table, where another process has it open, or where it is of another format; `Damaged`.
    pub fn open(dir: &Path, options: &Options) -> Result<RocksTable, FsError> {
        let db_options = tuning::database(options);
        let fail = |error| open_fault(dir, &error);
        let exists = dir.join("CURRENT").exists();
        if exists {
            refuse_unknown_families(dir, &DB::list_cf(&db_options, dir).map_err(fail)?)?;
        } else if options.create {
            std::fs::create_dir_all(dir)
                .map_err(|error| FsError::io(format_args!("create {}", dir.display()), &error))?;
        } else {
            return Err(FsError::Io(format!(
                "{} holds no table; give the directory of a store, or create one",
                dir.display()
            )));
        }
        let unused = ColumnFamilyDescriptor::new(DEFAULT_FAMILY, tuning::unused());
        let families = tuning::families(options)
            .map(|(family, options)| ColumnFamilyDescriptor::new(name(family), options))
            .chain([unused]);
        let db = DB::open_cf_descriptors(&db_options, dir, families).map_err(fail)?;
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        let table = RocksTable {
            db,
            dir: dir.to_path_buf(),
            point_reads: tuning::reads(),
            unlogged,
            sweep: Mutex::default(),
            full: AtomicBool::new(false),
        };
        tuning::after_open(&table)?;
        table.check_format()?;
        Ok(table)
    }

    /// Removes the table in `dir` with all that is in it, if there is one. It is not open.
    ///
    /// # Errors
    /// `Io`.
    pub fn destroy(dir: &Path) -> Result<(), FsError> {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => {
                other.map_err(|error| FsError::io(format_args!("remove {}", dir.display()), &error))
            }
        }
    }

    /// Bytes that each family takes, roughly, of which some are still in memory and only on disk in the log.
    ///
    /// # Errors
    /// `Io`.
    pub fn approximate_bytes(&self) -> Result<[(Family, u64); Family::ALL.len()], FsError> {
        let mut sizes = Family::ALL.map(|family| (family, 0));
        for (family, bytes) in &mut sizes {
            for property in [
                "rocksdb.total-sst-files-size",
                "rocksdb.total-blob-file-size",
                "rocksdb.size-all-mem-tables",
            ] {
                let size = self
                    .db
                    .property_int_value_cf(self.family(*family), property)
                    .map_err(|error| self.fault("measure", &error))?;
                *bytes += size.unwrap_or(0);
            }
        }
        Ok(sizes)
    }

    /// Reads every row of every family, with the checksums of the files that hold them. `progress` is told the family
    /// and how many bytes of rows have been read so far. Goes on after damage, so that one run tells all of it: at most
    /// one sentence for each family, which names the file or the family.
    ///
    /// # Errors
    /// `Io`.
    pub fn verify_checksums(
        &self,
        progress: &mut dyn FnMut(Family, u64),
    ) -> Result<Vec<(Family, String)>, FsError> {
        let mut damage = Vec::new();
        let mut bytes = 0;
        for family in Family::ALL {
            let mut rows: u64 = 0;
            let mut options = tuning::reads();
            options.fill_cache(false);
            let mut iterator = self.db.raw_iterator_cf_opt(self.family(family), options);
            iterator.seek_to_first();
            while let Some((key, value)) = iterator.item() {
                bytes += (key.len() + value.len()) as u64;
                rows += 1;
                if rows.is_multiple_of(1024) {
                    progress(family, bytes);
                }
                iterator.next();
            }
            progress(family, bytes);
            match iterator.status().map_err(|error| self.fault(reading(family), &error)) {
                Ok(()) => {}
                Err(FsError::Damaged(what)) => damage.push((family, what)),
                Err(other) => return Err(other),
            }
        }
        Ok(damage)
    }

    fn check_format(&self) -> Result<(), FsError> {
        match self.get(Family::Local, FORMAT_KEY)?.as_deref() {
            Some([FORMAT]) => Ok(()),
            Some(other) => Err(FsError::Io(format!(
                "the table in {} has format {other:?}, this program reads {FORMAT}; use a newer tsfs",
                self.dir.display()
            ))),
            // Created, but never flushed: nothing was ever promised of it.
            None if self.is_empty()? => {
                let mut changes = Changes::default();
                changes.put(Family::Local, FORMAT_KEY, vec![FORMAT]);
                self.write(&changes)?;
                self.flush()
            }
            None => Err(FsError::Damaged(format!(
                "the table in {} does not say its format",
                self.dir.display()
            ))),
        }
    }

    fn is_empty(&self) -> Result<bool, FsError> {
        let everything = KeyRange { start: Vec::new(), end: Vec::new() };
        let mut empty = true;
        for family in Family::ALL {
            self.scan(family, &everything, Direction::Forward, &mut |_, _| {
                empty = false;
                ControlFlow::Break(())
            })?;
        }
        Ok(empty)
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(name(family)).expect("open names every family")
    }

    fn fault(&self, doing: &str, error: &rocksdb::Error) -> FsError {
        fault(&self.dir, doing, error)
    }
}

impl Rows for RocksTable {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        let row = self.db.get_pinned_cf_opt(self.family(family), key, &self.point_reads);
        row.map(copied).map_err(|error| self.fault(reading(family), &error))
    }

    fn scan(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        let Some(options) = bounded(range) else { return Ok(()) };
        let iterator = self.db.raw_iterator_cf_opt(self.family(family), options);
        walk(iterator, direction, visit).map_err(|error| self.fault(reading(family), &error))
    }
}

impl Table for RocksTable {
    fn snapshot(&self) -> Box<dyn Rows + '_> {
        Box::new(RocksSnapshot { table: self, snapshot: self.db.snapshot() })
    }

    fn write(&self, changes: &Changes) -> Result<(), FsError> {
        let handles = Family::ALL.map(|family| self.family(family));
        let size: usize =
            changes.rows.iter().map(|(_, key, value)| row_size(key, value.as_ref())).sum();
        let mut batch = WriteBatch::with_capacity_bytes(size);
        for (family, key, value) in &changes.rows {
            let handle = handles[*family as usize];
            match value {
                Some(value) => batch.put_cf(handle, key, value),
                None => batch.delete_cf(handle, key),
            }
        }
        self.db.write_opt(batch, &self.unlogged).map_err(|error| self.fault("write", &error))
    }

    fn flush(&self) -> Result<(), FsError> {
        // RocksDB looks for space by itself and then goes on, but only once no flush is asked for: whoever keeps asking
        // keeps it from it. A write says how things are without asking for anything.
        if self.full.load(Ordering::Relaxed) {
            let mut probe = Changes::default();
            probe.delete(Family::Local, PROBE_KEY);
            self.write(&probe)?;
            self.full.store(false, Ordering::Relaxed);
        }
        let handles = Family::ALL.map(|family| self.family(family));
        let flushed = self.db.flush_cfs_opt(&handles, &FlushOptions::default());
        flushed.map_err(|error| {
            let fault = self.fault("flush", &error);
            self.full.store(fault == FsError::NoSpace, Ordering::Relaxed);
            fault
        })
    }
}

/// What the table held when the snapshot was taken. Dropping it lets compaction forget.
struct RocksSnapshot<'a> {
    table: &'a RocksTable,
    snapshot: Snapshot<'a>,
}

impl Rows for RocksSnapshot<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        let handle = self.table.family(family);
        let row = self.snapshot.get_pinned_cf_opt(handle, key, tuning::reads());
        row.map(copied).map_err(|error| self.table.fault(reading(family), &error))
    }

    fn scan(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        let Some(options) = bounded(range) else { return Ok(()) };
        let iterator = self.snapshot.raw_iterator_cf_opt(self.table.family(family), options);
        walk(iterator, direction, visit).map_err(|error| self.table.fault(reading(family), &error))
    }
}

/// The name of a family on disk.
fn name(family: Family) -> &'static str {
    match family {
        Family::Current => "current",
        Family::History => "history",
        Family::Payload => "payload",
        Family::Changes => "changes",
        Family::State => "state",
        Family::Local => "local",
    }
}

/// What an error says was being done. RocksDB names the damaged file, but for files of payload (`*.blob`).
fn reading(family: Family) -> &'static str {
    match family {
        Family::Current => "read 'current' of",
        Family::History => "read 'history' of",
        Family::Payload => "read 'payload' (*.blob) of",
        Family::Changes => "read 'changes' of",
        Family::State => "read 'state' of",
        Family::Local => "read 'local' of",
    }
}

/// What a row takes in a write batch: its bytes, and a tag, a family and two lengths before them.
fn row_size(key: &[u8], value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len) + 12
}

fn copied(row: Option<DBPinnableSlice<'_>>) -> Option<Bytes> {
    row.map(|row| Bytes::copy_from_slice(&row))
}

/// Options of a scan over `range`; `None` where no key can lie in it.
fn bounded(range: &KeyRange) -> Option<ReadOptions> {
    let mut options = tuning::reads();
    options.set_iterate_lower_bound(range.start.as_slice());
    if !range.end.is_empty() {
        if range.end <= range.start {
            return None;
        }
        options.set_iterate_upper_bound(range.end.as_slice());
    }
    Some(options)
}

/// Visits what the iterator's bounds let it see.
fn walk(
    mut rows: DBRawIterator<'_>,
    direction: Direction,
    visit: Visit<'_>,
) -> Result<(), rocksdb::Error> {
    match direction {
        Direction::Forward => rows.seek_to_first(),
        Direction::Backward => rows.seek_to_last(),
    }
    while let Some((key, value)) = rows.item() {
        if visit(key, value).is_break() {
            return Ok(());
        }
        match direction {
            Direction::Forward => rows.next(),
            Direction::Backward => rows.prev(),
        }
    }
    rows.status()
}

fn refuse_unknown_families(dir: &Path, found: &[String]) -> Result<(), FsError> {
    let known = |found: &str| {
        found == DEFAULT_FAMILY || Family::ALL.iter().any(|family| name(*family) == found)
    };
    match found.iter().find(|found| !known(found)) {
        None => Ok(()),
        Some(unknown) => Err(FsError::Io(format!(
            "the table in {} has a part '{unknown}' that this program does not know: it is of a newer tsfs, or no \
             table of tsfs at all",
            dir.display()
        ))),
    }
}

fn open_fault(dir: &Path, error: &rocksdb::Error) -> FsError {
    let message = error.as_ref();
    if message.contains("LOCK: ") || message.contains("lock hold by current process") {
        return FsError::Io(format!(
            "the table in {} is open already; unmount it there first ({message})",
            dir.display()
        ));
    }
    fault(dir, "open", error)
}

fn fault(dir: &Path, doing: &str, error: &rocksdb::Error) -> FsError {
    let message = error.as_ref();
    if message.contains("No space left on device") || message.contains("Disk quota exceeded") {
        return FsError::NoSpace;
    }
    let said = format!("{doing} the table in {}: {message}", dir.display());
    match error.kind() {
        rocksdb::ErrorKind::Corruption => FsError::Damaged(said),
        _ => FsError::Io(said),
    }
}
