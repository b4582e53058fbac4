//! How RocksDB is set up: memory, compression, compaction, checks. Each setting with its reason.
//!
//! Not here: opening, reading, writing.

use crate::series::table::Family;
use crate::store::table::rocks::Options;
use crate::store::table::rocks::RocksTable;
use crate::types::FsError;
use rocksdb::BlockBasedIndexType;
use rocksdb::BlockBasedOptions;
use rocksdb::Cache;
use rocksdb::DBCompressionType;
use rocksdb::InfoLogger;
use rocksdb::LogLevel;
use rocksdb::ReadOptions;
use rocksdb::WriteBufferManager;

/// Size of a table file, in bytes: a store of a hundred million files stays under a few hundred of them open.
const TABLE_FILE_BYTES: u64 = 64 << 20;
/// Size of a file of payload frames, in bytes. Its space comes back when enough of it is garbage.
const PAYLOAD_FILE_BYTES: u64 = 64 << 20;
/// Frames below this many bytes stay in the table file: a reference to one would be as long.
const PAYLOAD_MIN_BYTES: u64 = 128;
/// Size of a table file of references to payload, in bytes: the unit in which space is given back, some ten thousand frames.
const REFERENCE_FILE_BYTES: u64 = 1 << 20;
/// A file in which this many of so many consecutive rows are deletions is compacted: a spool's dead names must not
/// slow down who lists the living.
const DELETIONS: usize = 2_000;
const DELETIONS_OF: usize = 4_000;
/// A scan that steps over this many dead rows not yet flushed has them flushed, which drops them.
const DEAD_ROWS_PER_SCAN: u32 = 20_000;
/// Options of the whole database.
pub(super) fn database(options: &Options) -> rocksdb::Options {
    let mut db = rocksdb::Options::default();
    db.create_if_missing(options.create);
    db.create_missing_column_families(options.create);
    // Without a log of its own, families that were flushed apart could not be told apart after a power cut.
    db.set_atomic_flush(true);
    db.set_paranoid_checks(true);
    db.set_max_open_files(i32::try_from(options.open_files_max).unwrap_or(i32::MAX));
    db.set_max_background_jobs(2);
    // One thread writes: the locks of concurrent writers are not needed.
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);
    // Data reaches the disk while it is written, not in one burst at the end of a file.
    db.set_bytes_per_sync(1 << 20);
    db.set_max_manifest_file_size(16 << 20);
    db.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(
        options.write_buffer_bytes,
        false,
    ));
    db.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, |level, message| {
        let message = message.trim_end();
        match level {
            LogLevel::Debug | LogLevel::Info | LogLevel::Header => {
                tracing::debug!(message, "rocksdb");
            }
            LogLevel::Warn => tracing::warn!(message, "rocksdb"),
            LogLevel::Error | LogLevel::Fatal => tracing::error!(message, "rocksdb"),
        }
    }));
    db
}

/// Every family with its options. They share one cache.
pub(super) fn families(options: &Options) -> impl Iterator<Item = (Family, rocksdb::Options)> {
    let cache = Cache::new_lru_cache(options.cache_bytes);
    let write_buffer_bytes = options.write_buffer_bytes;
    Family::ALL.into_iter().map(move |family| {
        let mut options = common(&cache, block_bytes(family));
        // The write buffer manager bounds the sum; no family alone shall flush all others early.
        options.set_write_buffer_size(write_buffer_bytes);
        // Memory is taken in pieces that each family has at least one of: of a small buffer they must not be all.
        options.set_arena_block_size(write_buffer_bytes / 64);
        if family == Family::Payload {
            payload(&mut options, &cache);
        }
        (family, options)
    })
}

/// Options of the family that we keep nothing in. After the disk was full, RocksDB goes on once as much is free as the largest
/// write buffer of all families, this one's included.
pub(super) fn unused() -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.set_write_buffer_size(64 << 10);
    options
}

/// Options of every read.
pub(super) fn reads() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options
}

/// Settings that the binding can only change on an open database.
///
/// # Errors
/// `Io`.
pub(super) fn after_open(table: &RocksTable) -> Result<(), FsError> {
    let dead_rows = DEAD_ROWS_PER_SCAN.to_string();
    // The families with rows that come, go, and are listed from their start.
    for family in [Family::Current, Family::Changes, Family::State] {
        table
            .db
            .set_options_cf(table.family(family), &[("memtable_op_scan_flush_trigger", &dead_rows)])
            .map_err(|error| table.fault("set up", &error))?;
    }
    Ok(())
}

/// Rows that are read one by one lie in small blocks; rows that are kept long compress better in large ones.
fn block_bytes(family: Family) -> usize {
    match family {
        Family::Current | Family::State | Family::Local => 8 << 10,
        Family::History | Family::Payload | Family::Changes => 16 << 10,
    }
}

fn common(cache: &Cache, block_bytes: usize) -> rocksdb::Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(block_bytes);
    blocks.set_format_version(6);
    // Indexes and filters of a large store do not fit in memory whole: they are cached in parts, as rows are.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_top_level_index_and_filter(true);
    // Most lookups of a new name find nothing: a filter answers them without reading.
    blocks.set_bloom_filter(10.0, false);
    blocks.set_optimize_filters_for_memory(true);

    let mut options = rocksdb::Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_memtable_prefix_bloom_ratio(0.05);
    options.set_memtable_whole_key_filtering(true);
    options.set_compression_type(DBCompressionType::Zstd);
    options.set_compression_options(-14, 1, 0, 0);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_bottommost_compression_options(-14, 3, 0, 0, true);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_target_file_size_base(TABLE_FILE_BYTES);
    options.set_max_bytes_for_level_base(4 * TABLE_FILE_BYTES);
    options.add_compact_on_deletion_collector_factory(DELETIONS_OF, DELETIONS, 0.5);
    options
}

/// Frames are compressed and checksummed by their writer. They lie in files of their own, so that compaction moves
/// references and not contents.
fn payload(options: &mut rocksdb::Options, cache: &Cache) {
    options.set_enable_blob_files(true);
    options.set_min_blob_size(PAYLOAD_MIN_BYTES);
    options.set_blob_file_size(PAYLOAD_FILE_BYTES);
    options.set_blob_compression_type(DBCompressionType::None);
    options.set_blob_cache(cache);
    options.set_target_file_size_base(REFERENCE_FILE_BYTES);
    // Off but for a sweep (`reclaim`), which then minds all files.
    options.set_enable_blob_gc(false);
    options.set_blob_gc_age_cutoff(1.0);
}
