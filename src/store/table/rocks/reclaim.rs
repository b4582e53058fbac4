//! Giving back the disk space of payload that is gone.
//!
//! RocksDB drops a payload file once nothing in it is live. It can also move what is live out of its oldest files, but
//! then does so in every compaction, however little is to be gained. So that is off, and turned on here for a sweep
//! over the family once a third of it is garbage: two bytes moved for one gained. Not here: when to look, and how fast
//! to go: the caller asks for one piece at a time.

use crate::series::table::Family;
use crate::store::table::rocks::RocksTable;
use crate::types::FsError;
use rocksdb::BottommostLevelCompaction;
use rocksdb::CompactOptions;
use std::collections::VecDeque;

/// A sweep begins when so many bytes are garbage, and one in so many of all.
const GARBAGE_BYTES_MIN: u64 = 16 << 20;
const GARBAGE_ONE_IN: u64 = 3;

/// How far a sweep is.
#[derive(Default)]
pub(super) struct Sweep {
    /// Ranges of keys still to go over: one table file each, some hundred megabytes of payload at most.
    ranges: VecDeque<(Vec<u8>, Vec<u8>)>,
    on: bool,
    /// Garbage that the last sweep could not clear: a snapshot held it, or the disk was full.
    stuck: u64,
}

impl RocksTable {
    /// Does a piece of giving back space of removed payload, if there is enough of it. True if there is more to do.
    ///
    /// # Errors
    /// `Io`.
    pub fn reclaim(&self) -> Result<bool, FsError> {
        let mut sweep = self.sweep.lock();
        if !sweep.on && !self.begin(&mut sweep)? {
            return Ok(false);
        }
        if let Some((first, last)) = sweep.ranges.pop_front() {
            let mut options = CompactOptions::default();
            options.set_exclusive_manual_compaction(false);
            options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
            let family = self.family(Family::Payload);
            self.db.compact_range_cf_opt(family, Some(first), Some(last), &options);
        }
        if sweep.ranges.is_empty() {
            self.collect_garbage(false)?;
            sweep.on = false;
            sweep.stuck = self.payload_bytes("rocksdb.live-blob-file-garbage-size")?;
        }
        Ok(sweep.on)
    }

    fn begin(&self, sweep: &mut Sweep) -> Result<bool, FsError> {
        let garbage = self.payload_bytes("rocksdb.live-blob-file-garbage-size")?;
        let total = self.payload_bytes("rocksdb.live-blob-file-size")?;
        let fresh = garbage.saturating_sub(sweep.stuck);
        if fresh < GARBAGE_BYTES_MIN || fresh < total / GARBAGE_ONE_IN {
            return Ok(false);
        }
        let files = self.db.live_files().map_err(|error| self.fault("list files of", &error))?;
        let payload = super::name(Family::Payload);
        let mut ranges: Vec<_> = files
            .into_iter()
            .filter(|file| file.column_family_name == payload)
            .filter_map(|file| Some((file.start_key?, file.end_key?)))
            .collect();
        ranges.sort_unstable();
        tracing::debug!(garbage, total, files = ranges.len(), "giving back space of payload");
        self.collect_garbage(true)?;
        *sweep = Sweep { ranges: ranges.into(), on: true, stuck: sweep.stuck };
        Ok(true)
    }

    fn collect_garbage(&self, on: bool) -> Result<(), FsError> {
        let on = if on { "true" } else { "false" };
        self.db
            .set_options_cf(self.family(Family::Payload), &[("enable_blob_garbage_collection", on)])
            .map_err(|error| self.fault("set up", &error))
    }

    fn payload_bytes(&self, property: &str) -> Result<u64, FsError> {
        let bytes = self.db.property_int_value_cf(self.family(Family::Payload), property);
        bytes.map(Option::unwrap_or_default).map_err(|error| self.fault("measure", &error))
    }
}

#[cfg(test)]
mod tests {
    use crate::series::table::Changes;
    use crate::series::table::Family;
    use crate::series::table::Rows;
    use crate::series::table::Table;
    use crate::store::table::Options;
    use crate::store::table::RocksTable;
    use bytes::Bytes;
    use rocksdb::WaitForCompactOptions;

    const FRAME_BYTES: usize = 32 << 10;

    #[test]
    fn removed_payload_gives_its_space_back() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { create: true, ..Options::default() };
        let table = RocksTable::open(dir.path(), &options).unwrap();
        let frame = |row: u32| Bytes::from(vec![row as u8; FRAME_BYTES]);
        let mut changes = Changes::default();
        for row in 0..1500u32 {
            changes.put(Family::Payload, row.to_be_bytes(), frame(row));
        }
        table.write(&changes).unwrap();
        table.flush().unwrap();
        assert!(!table.reclaim().unwrap());

        let mut changes = Changes::default();
        for row in (0..1500u32).filter(|row| row % 5 > 1) {
            changes.delete(Family::Payload, row.to_be_bytes());
        }
        table.write(&changes).unwrap();
        table.flush().unwrap();
        table.db.wait_for_compact(&WaitForCompactOptions::default()).unwrap();
        let before = table.payload_bytes("rocksdb.total-blob-file-size").unwrap();
        assert!(before >= 1500 * FRAME_BYTES as u64);

        while table.reclaim().unwrap() {}
        let after = table.payload_bytes("rocksdb.total-blob-file-size").unwrap();
        assert!(after < 650 * FRAME_BYTES as u64, "{before} → {after}");
        for row in 0..1500u32 {
            let found = table.get(Family::Payload, &row.to_be_bytes()).unwrap();
            assert_eq!(found, (row % 5 <= 1).then(|| frame(row)));
        }
        assert!(!table.reclaim().unwrap(), "nothing is left to give back");
    }
}
