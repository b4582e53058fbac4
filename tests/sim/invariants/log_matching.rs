//! Where two logs have an entry of the same index and term, they are equal up to there.

use crate::member::Member;
use std::collections::BTreeMap;
use tsfs::tsdb_log::entry::Entry;
use tsfs::types::LogIndex;

pub(crate) fn check(members: &[&Member]) {
    let logs: Vec<Vec<Entry>> = members.iter().map(|member| member.log()).collect();
    for (n, one) in logs.iter().enumerate() {
        let by_index: BTreeMap<LogIndex, &Entry> =
            one.iter().map(|entry| (entry.index, entry)).collect();
        for other in &logs[n + 1..] {
            let both = other.iter().filter_map(|entry| Some((*by_index.get(&entry.index)?, entry)));
            let both: Vec<_> = both.collect();
            let Some(last) = both.iter().rposition(|(a, b)| a.term == b.term) else { continue };
            for (a, b) in &both[..=last] {
                assert_eq!(a, b, "logs differ at entry {}", a.index.0);
            }
        }
    }
}
