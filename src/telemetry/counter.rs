//! Every counter that tsfs keeps: the list from which `tsfs status` and `docs/operations.md` print them.
//!
//! A counter is a static, so that counting is one relaxed addition wherever it happens. Not here: rates, histograms,
//! history; whoever collects the numbers makes those.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// What a counter counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Count,
    Bytes,
    Microseconds,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Count => "count",
            Unit::Bytes => "bytes",
            Unit::Microseconds => "µs",
        }
    }
}

/// A number that only rises, from the start of the process.
pub struct Counter {
    name: &'static str,
    pub unit: Unit,
    pub help: &'static str,
    value: AtomicU64,
}

impl Counter {
    const fn new(name: &'static str, unit: Unit, help: &'static str) -> Counter {
        Counter { name, unit, help, value: AtomicU64::new(0) }
    }

    /// As in `tsfs status`: the static's own, in small letters.
    pub fn name(&self) -> String {
        self.name.to_lowercase()
    }

    /// Whether it counts what a mount does, by its name; the others count what a store does, which may be another process.
    pub fn is_of_mount(&self) -> bool {
        ["FUSE_", "CLIENT_"].iter().any(|part| self.name.starts_with(part))
    }

    pub fn add(&self, n: u64) {
        self.value.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.value.load(Relaxed)
    }
}

/// Every counter with its value, in the order of the list.
pub fn all() -> impl Iterator<Item = (&'static Counter, u64)> {
    ALL.iter().map(|counter| (*counter, counter.get()))
}

/// Declares the counters and the list of them in one go, so that none is missing from it.
macro_rules! counters {
    ($($name:ident: $unit:ident, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $name: Counter = Counter::new(stringify!($name), Unit::$unit, $help);
        )*
        /// The list, in reading order: from the kernel down to the disk.
        pub static ALL: &[&Counter] = &[$(&$name),*];
    };
}

counters! {
    FUSE_REQUESTS: Count, "Requests of the kernel that were answered.";
    FUSE_WAITED: Count, "Requests that had to wait and were answered off the loop threads.";
    FUSE_LINGERED: Count, "Requests that a loop thread was awake for because it had watched for them.";
    FUSE_PANICS: Count, "Requests whose handler panicked and that were answered with EIO.";
    CLIENT_OPS: Count, "Changes to the tree made through mounts.";
    CLIENT_BATCHES: Count, "Batches of changes proposed to the log.";
    CLIENT_ROW_MISSES: Count, "Rows the client had to ask the server for.";
    CLIENT_BLOCK_HITS: Count, "Blocks found in the client's cache.";
    CLIENT_BLOCK_MISSES: Count, "Blocks the client had to ask the server for.";
    CLIENT_WRITTEN: Bytes, "Contents written by programs.";
    CLIENT_STORED: Bytes, "The same after compression, as put into ops and blocks.";
    CLIENT_WAITS: Count, "Writes held back because too much was not yet committed.";
    CLIENT_FSYNCS: Count, "Syncs asked for by programs.";
    CLIENT_FAILOVERS: Count, "Times the leader of a cluster was found, the first included.";
    CLIENT_REPLAYS: Count, "Proposals sent again to the next leader.";
    CLIENT_DIRECT: Count, "Changes made together with other mounts, each sent by itself.";
    CLIENT_AGAIN: Count, "Such changes that another mount was faster than, and that were tried again.";
    CLIENT_RECALLED: Count, "Files and directories given back because another mount asked for them.";
    CLIENT_TAKEN_BACK: Count, "Files and directories of which copies were let go of because another mount was about to change them.";
    LOG_ENTRIES: Count, "Entries appended to the log.";
    LOG_BYTES: Bytes, "Bytes appended to the log.";
    LOG_SYNCS: Count, "Syncs of the log to disk; each covers everything queued.";
    LOG_SYNC_TIME: Microseconds, "Time spent in them.";
    APPLY_BATCHES: Count, "Batches applied.";
    APPLY_OPS: Count, "Changes in them.";
    APPLY_ROWS: Count, "Rows they wrote.";
    TABLE_FLUSHES: Count, "Times the table was made durable and the log behind it released.";
    BLOCKS_PUT: Count, "Blocks stored in segments.";
    BLOCKS_PUT_BYTES: Bytes, "Their size as stored.";
    BLOCKS_READ: Count, "Blocks read from segments or rows and verified.";
    BLOCKS_FREED: Count, "Blocks that nothing names any more.";
    BLOCKS_LET_GO: Count, "Blocks that this node let go of: others keep them.";
    BLOCKS_MISSED: Count, "Blocks that the log named before they were on this node: they are fetched from others.";
    BLOCKS_REPAIRED: Count, "Blocks written anew from other nodes: they were missing or damaged here.";
    BLOCKS_REPAIRED_BYTES: Bytes, "Their size as stored.";
    BLOCKS_BORROWED: Count, "Reads that were answered with another node's copy.";
    BLOCKS_SCRUBBED_BYTES: Bytes, "Segments read and verified in the background.";
    SEGMENTS_REWRITTEN: Count, "Segments emptied because less than half of them was live.";
    SEGMENTS_FREED_BYTES: Bytes, "Space of segments given back to the disk.";
    PURGED_VERSIONS: Count, "Versions forgotten by retention and purge.";
    DAMAGE_FOUND: Count, "Checksums and rules that did not hold. Anything but zero: run `tsfs fsck`.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn counters_count() {
        let before = PURGED_VERSIONS.get();
        PURGED_VERSIONS.add(2);
        assert!(PURGED_VERSIONS.get() >= before + 2);
        let names: BTreeSet<_> = ALL.iter().map(|counter| counter.name).collect();
        assert_eq!(names.len(), ALL.len(), "no name twice");
    }

    #[test]
    fn the_document_lists_every_counter() {
        let row = |counter: &&Counter| {
            format!("| `{}` | {} | {} |\n", counter.name(), counter.unit.name(), counter.help)
        };
        let table: String = ALL.iter().map(row).collect();
        let document = include_str!("../../docs/operations.md");
        assert!(document.contains(&table), "docs/operations.md should have:\n{table}");
    }
}
