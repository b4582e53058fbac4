//! The log's side of the replica: stamp, propose, write and sync, say what is durable, pass on what is committed.
//!
//! One thread at a time, the holder of the right: see [`inbox`](crate::tsdb_server::replica::inbox). Not here: applying.

use crate::env::Clock;
use crate::store::log::Log;
use crate::telemetry::counter;
use crate::tsdb_log::core::Core;
use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::header::Header;
use crate::tsdb_log::store::Group;
use crate::tsdb_log::store::LogStore;
use crate::tsdb_server::replica::clock::Stamper;
use crate::tsdb_server::replica::inbox::Work;
use crate::tsdb_server::replica::queue::Committed;
use crate::tsdb_server::replica::queue::Proposed;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::Stamp;
use crate::wire::Durable;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// An entry that was proposed and is not yet committed.
struct Pending {
    index: LogIndex,
    stamp: Stamp,
    durable: Durable,
    proposed: Proposed,
}

/// What the holder of the right works with.
pub(super) struct Driver {
    core: Core,
    pub(super) log: Log,
    clock: Arc<dyn Clock>,
    stamper: Stamper,
    /// In the order of their indices.
    pending: VecDeque<Pending>,
    /// Bytes appended since the log was last purged.
    pub(super) appended: u64,
}

/// What a pass leaves to be done once the driver is let go of.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) committed: Vec<Committed>,
    pub(super) urgent: bool,
    /// Work that was not taken, and why.
    pub(super) refused: Vec<(Work, FsError)>,
}

impl Driver {
    pub(super) fn new(core: Core, log: Log, clock: Arc<dyn Clock>, last: Stamp) -> Driver {
        let stamper = Stamper::new(last, &*clock);
        let pending = VecDeque::new();
        Driver { core, log, clock, stamper, pending, appended: 0 }
    }

    /// Leads, as it is alone; and commits what earlier reigns left. All of that is to be taken with [`Driver::carry_on`].
    pub(super) fn begin(&mut self) -> Result<(), FsError> {
        self.core.campaign()
    }

    /// Proposes all work as one group and makes it durable. `applied` is what was applied meanwhile.
    ///
    /// # Errors
    /// `Io`, `NoSpace`, `Damaged`: the replica must stop. `passed` holds what was committed before.
    pub(super) fn pass(
        &mut self,
        work: Vec<Work>,
        applied: LogIndex,
        passed: &mut Passed,
    ) -> Result<(), FsError> {
        self.core.applied(applied);
        let now = self.stamper.now(&*self.clock);
        for work in work {
            self.propose(work, now, passed);
        }
        while self.carry_on(passed)? {}
        Ok(())
    }

    fn propose(&mut self, work: Work, now: Stamp, passed: &mut Passed) {
        let stamp = self.stamper.take(now, work.stamps);
        let header = Header {
            stamp,
            stamps: work.stamps,
            body: work.body,
            session: work.session,
            seq: work.seq,
        };
        match self.core.propose(header.encode(), work.bytes.clone()) {
            Ok(index) => {
                let weight = work.weight();
                passed.urgent |= work.urgent;
                let proposed = Proposed { applied: work.applied, weight };
                self.pending.push_back(Pending { index, stamp, durable: work.durable, proposed });
            }
            Err(not_leader) => {
                let why = FsError::Io(format!("this node does not lead the log: {not_leader:?}"));
                passed.refused.push((work, why));
            }
        }
    }

    /// Does what the core asks for next; false where that is nothing.
    pub(super) fn carry_on(&mut self, passed: &mut Passed) -> Result<bool, FsError> {
        let Some(ready) = self.core.ready()? else { return Ok(false) };
        debug_assert!(ready.send.is_empty(), "one voter has nobody to talk to");
        if !ready.persist.is_empty() {
            self.persist(&ready.persist)?;
        }
        self.core.persisted(ready.number);
        debug_assert!(ready.send_after.is_empty(), "one voter has nobody to talk to");
        for entry in ready.committed {
            let proposed = self.committed(&entry);
            passed.committed.push(Committed { entry, proposed });
        }
        Ok(true)
    }

    fn persist(&mut self, group: &Group) -> Result<(), FsError> {
        let begun = self.clock.steady();
        self.log.append(group)?;
        let took = self.clock.steady().saturating_sub(begun);
        let bytes = group.entries.iter().map(|entry| entry.header.len() + entry.body.len());
        let bytes = bytes.sum::<usize>() as u64;
        self.appended += bytes;
        counter::LOG_SYNCS.add(1);
        counter::LOG_SYNC_TIME.add(took.as_micros() as u64);
        counter::LOG_ENTRIES.add(group.entries.len() as u64);
        counter::LOG_BYTES.add(bytes);
        Ok(())
    }

    /// Tells the proposer of a committed entry that it is durable.
    fn committed(&mut self, entry: &Entry) -> Option<Proposed> {
        let ours = self.pending.front().is_some_and(|pending| pending.index == entry.index);
        let Pending { stamp, durable, proposed, .. } =
            if ours { self.pending.pop_front()? } else { return None };
        durable(Ok(stamp));
        Some(proposed)
    }

    /// Everything that was proposed and is not known to be durable.
    pub(super) fn give_up(&mut self, why: &FsError) -> usize {
        let mut weight = 0;
        for pending in self.pending.drain(..) {
            weight += pending.proposed.weight;
            (pending.durable)(Err(why.clone()));
            (pending.proposed.applied)(Err(why.clone()));
        }
        weight
    }

    /// Lets go of the log's beginning, whose effects are durable in the table.
    pub(super) fn purge(&mut self, upto: LogIndex) {
        self.core.applied(upto);
        self.log.purge(upto);
        self.appended = 0;
    }

    /// Entries up to `upto` are applied.
    pub(super) fn applied(&mut self, upto: LogIndex) {
        self.core.applied(upto);
    }

    /// Stamps from now on are after `last`.
    pub(super) fn stamps_after(&mut self, last: Stamp) {
        self.stamper.after(last);
    }

    pub(super) fn health(&self) -> Option<String> {
        self.stamper.health()
    }
}

/// Work that puts nothing into the tree: its commitment says that its stamp has come.
pub(super) const NOTHING: Bytes = Bytes::new();
