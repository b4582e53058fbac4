//! What comes of an entry is the same on every member, however often it is applied; entries that are applied have rising stamps.

use std::collections::BTreeMap;
use tsfs::meta::op::Outcome;
use tsfs::tsdb_log::entry::Entry;
use tsfs::tsdb_log::header::Header;
use tsfs::types::LogIndex;
use tsfs::types::Stamp;

#[derive(Default)]
pub(crate) struct SameOutcome {
    first: BTreeMap<LogIndex, (Entry, Outcome)>,
    stamp: Stamp,
}

impl SameOutcome {
    pub(crate) fn check(&mut self, entry: &Entry, outcome: &Outcome) {
        if let Some((first, came)) = self.first.get(&entry.index) {
            assert_eq!(first, entry, "two entries {} are applied", entry.index.0);
            assert_eq!(came, outcome, "entry {} has two outcomes", entry.index.0);
            return;
        }
        if !entry.header.is_empty() {
            let header = Header::decode(entry.index, &entry.header).unwrap();
            assert!(header.stamp > self.stamp, "entry {} is stamped earlier", entry.index.0);
            self.stamp = header.last_stamp();
        }
        self.first.insert(entry.index, (entry.clone(), outcome.clone()));
    }
}
