//! Which history goes when: by age, and by the share that it takes of the disk space that nothing else takes.
//!
//! Decides the horizon and proposes `Purge` ops, a few hundred rows each; forgetting itself is the log's and
//! `meta`'s. It also works off what other ops left for purge: contents that nothing leads to any more, and versions that
//! only a removed mark kept.

use crate::env::Clock;
use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::meta::record::Horizon;
use crate::meta::record::Next;
use crate::meta::record::Record;
use crate::meta::record::Retention;
use crate::series::KeyRange;
use crate::series::changes;
use crate::tsdb_server::task::Task;
use crate::tsdb_server::task::Worked;
use crate::types::FsError;
use crate::types::Stamp;
use crate::wire::Server;
use crate::wire::Status;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

/// Versions that one op forgets: well below the thousand rows that an op may touch.
const VERSIONS_PER_OP: u32 = 400;
/// How often an idle task looks at clock and disk.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Batches whose history goes at a time where the disk's share is passed.
const BATCHES_PER_STEP: usize = 32;
/// History younger than this never goes because of its size: what a person wants back most is what just went.
const KEPT_NS: u64 = 3_600_000_000_000;

/// The task of a node. It ends when the node is gone.
pub struct Keeper<S> {
    node: Weak<S>,
    clock: Arc<dyn Clock>,
}

impl<S: Server> Keeper<S> {
    pub fn new(node: &Arc<S>, clock: Arc<dyn Clock>) -> Keeper<S> {
        Keeper { node: Arc::downgrade(node), clock }
    }
}

impl<S: Server> Task for Keeper<S> {
    fn name(&self) -> &'static str {
        "retention"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        let node = self.node.upgrade().ok_or(FsError::Closing)?;
        match plan(&*node, self.clock.wall())? {
            Some(horizon) => {
                match node.administer(Op::Purge { horizon, rows: VERSIONS_PER_OP }) {
                    // The leader does it for all.
                    Err(FsError::NotLeader { .. }) => Ok(Worked::Idle(LOOK_EVERY)),
                    done => done.map(|_| Worked::More),
                }
            }
            None => Ok(Worked::Idle(LOOK_EVERY)),
        }
    }
}

/// The horizon to purge to; `None` where nothing is to be done.
///
/// # Errors
/// `Damaged`, `Io`.
fn plan(node: &dyn Server, now: Stamp) -> Result<Option<Stamp>, FsError> {
    let horizon = record::<Horizon>(node, &StateKey::Horizon)?.unwrap_or_default().0;
    let mut wanted = horizon;
    if let Some(retention) = record::<Retention>(node, &StateKey::Retention)? {
        if let Some(age) = retention.age_ns {
            wanted = wanted.max(Stamp(now.0.saturating_sub(age)));
        }
        if let Some(percent) = retention.disk_percent
            && is_too_much(&node.status()?, percent)
        {
            wanted = wanted.max(by_size(node, now)?);
        }
    }
    let epoch = record::<Next>(node, &StateKey::Next)?.map_or(0, |next| next.epoch);
    let due = !node.changes(Stamp::ZERO, wanted, 1)?.rows.is_empty()
        || !node.state(&StateKey::void(epoch), 1)?.rows.is_empty()
        || !node.state(&StateKey::sweeps(), 1)?.rows.is_empty()
        || !node.state(&StateKey::unmarked(), 1)?.rows.is_empty();
    Ok(due.then_some(wanted))
}

fn record<R: Record>(node: &dyn Server, key: &StateKey) -> Result<Option<R>, FsError> {
    let page = node.state(&KeyRange::prefix(&key.encode()), 1)?;
    page.rows.first().map(|(key, row)| R::from_row(key, row)).transpose()
}

/// Whether history takes more than its share of what is free and what it takes itself. So a disk never fills with history,
/// however much of it other files take; and no history goes because of them, as long as it is small beside what is free.
/// What was forgotten counts at once: its space comes back later.
fn is_too_much(status: &Status, percent: u8) -> bool {
    let history = history_on_disk(status);
    history > share(status.disk_free.saturating_add(history), percent)
}

fn share(total: u64, percent: u8) -> u64 {
    (u128::from(total) * u128::from(percent) / 100) as u64
}

/// What history takes on disk: its part of all contents, applied to what the contents take compressed.
fn history_on_disk(status: &Status) -> u64 {
    let contents = status.live_bytes.saturating_add(status.history_bytes);
    let stored = status.block_bytes.saturating_add(status.table_bytes);
    match contents {
        0 => 0,
        _ => (u128::from(stored) * u128::from(status.history_bytes) / u128::from(contents)) as u64,
    }
}

/// The horizon behind the oldest few batches, but never one so young that history is hardly kept at all.
fn by_size(node: &dyn Server, now: Stamp) -> Result<Stamp, FsError> {
    let page = node.changes(Stamp::ZERO, Stamp::MAX, BATCHES_PER_STEP)?;
    let youngest = Stamp(now.0.saturating_sub(KEPT_NS));
    let Some((key, row)) = page.rows.last() else { return Ok(Stamp::ZERO) };
    let record = changes::Record::decode(key, row)?;
    let last = record.events.iter().map(|event| event.stamp).max().unwrap_or(record.stamp);
    Ok(last.min(youngest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_history_is_that_of_its_contents() {
        let mut status = Status { disk_total: 1000, ..Status::default() };
        assert_eq!(history_on_disk(&status), 0);
        (status.live_bytes, status.history_bytes) = (300, 100);
        (status.block_bytes, status.table_bytes) = (150, 50);
        assert_eq!(history_on_disk(&status), 50);
        assert_eq!(share(status.disk_total, 5), 50);
        assert_eq!(share(u64::MAX, 100), u64::MAX);
    }

    #[test]
    fn history_takes_its_share_of_what_nothing_else_takes() {
        let status = |live_bytes, history_bytes, disk_free| Status {
            disk_total: 1000,
            disk_free,
            live_bytes,
            history_bytes,
            block_bytes: live_bytes + history_bytes,
            ..Status::default()
        };
        assert!(!is_too_much(&status(100, 700, 200), 80));
        assert!(is_too_much(&status(0, 801, 199), 80));
        // Half of the disk is taken by other files and by what is live: history has its share of the other half.
        assert!(!is_too_much(&status(100, 400, 100), 80));
        assert!(is_too_much(&status(100, 401, 99), 80));
        // A disk that others fill costs a small history nothing.
        assert!(!is_too_much(&status(10, 10, 50), 80));
        assert!(!is_too_much(&status(10, 0, 0), 80));
    }
}
