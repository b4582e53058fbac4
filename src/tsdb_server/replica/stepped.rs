//! A replica without threads: whoever owns it says when it listens, drives and applies. For simulations.
//!
//! The same driver and the same applier as [`Replica`](crate::tsdb_server::replica::Replica), one step at a time. Not here:
//! waiting, and what the threads do in the background but for the flush of the table.

use crate::meta::op::Outcome;
use crate::series::table::Table;
use crate::store::block::BlockStore;
use crate::tsdb_log::core::Follower;
use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::entry::Message;
use crate::tsdb_log::header::Body;
use crate::tsdb_server::replica::Opened;
use crate::tsdb_server::replica::Options;
use crate::tsdb_server::replica::Parts;
use crate::tsdb_server::replica::Progress;
use crate::tsdb_server::replica::apply::Applier;
use crate::tsdb_server::replica::apply::Seen;
use crate::tsdb_server::replica::drive::Driver;
use crate::tsdb_server::replica::drive::Passed;
use crate::tsdb_server::replica::inbox::Ask;
use crate::tsdb_server::replica::inbox::Taken;
use crate::tsdb_server::replica::inbox::Work;
use crate::tsdb_server::replica::queue::Committed;
use crate::tsdb_server::replica::standing::Leadership;
use crate::tsdb_server::replica::standing::Standing;
use crate::tsdb_server::turns::Turns;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::placement::Placement;
use crate::wire::Applied;
use crate::wire::Durable;
use crate::wire::Proposal;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// See the module's text. Dropping it is a power cut for what it had in memory.
pub struct Stepped {
    table: Arc<dyn Table>,
    blocks: Arc<BlockStore>,
    driver: Driver,
    applier: Applier,
    seen: Arc<Seen>,
    standing: Arc<Standing>,
    taken: Taken,
    committed: VecDeque<Committed>,
}

impl Stepped {
    /// # Errors
    /// As for [`Replica::open`](crate::tsdb_server::replica::Replica::open).
    pub fn open(parts: Parts, options: Options) -> Result<Stepped, FsError> {
        let batch_bytes_max = options.batch_bytes_max.min(parts.log.batch_bytes_max());
        let (table, blocks) = (parts.table.clone(), parts.blocks.clone());
        let opened = Opened::new(parts, &Options { batch_bytes_max, ..options })?;
        let Opened { driver, applier, seen, standing } = opened;
        let (taken, committed) = (Taken::default(), VecDeque::new());
        Ok(Stepped { table, blocks, driver, applier, seen, standing, taken, committed })
    }

    pub fn propose(&mut self, proposal: Proposal, durable: Durable, applied: Applied) {
        self.taken.work.push(Work {
            body: Body::Batch,
            session: proposal.session,
            seq: proposal.seq,
            stamps: proposal.ops,
            bytes: proposal.batch,
            durable,
            applied,
            urgent: false,
        });
    }

    pub fn step(&mut self, messages: Vec<Message>) {
        self.taken.input.add(messages);
    }

    pub fn tick(&mut self) {
        self.taken.input.tick = true;
    }

    /// Sends a round of heartbeats, to find out whether it still leads.
    pub fn ask_round(&mut self) {
        self.taken.input.round = true;
    }

    /// What comes of it is to be seen.
    pub fn transfer_leader(&mut self, to: NodeId) {
        self.taken.input.asks.push(Ask::HandOver { to, answer: Box::new(|_| {}) });
    }

    pub fn change_members(
        &mut self,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
        answer: impl FnOnce(Result<LogIndex, FsError>) + Send + 'static,
    ) {
        let answer = Box::new(answer);
        self.taken.input.asks.push(Ask::Change { from: None, voters, learners, answer });
    }

    /// Drives once, with everything that was put in. Says who leads, if that has changed.
    ///
    /// # Errors
    /// The replica must stop: it is to be dropped.
    pub fn pass(&mut self) -> Result<Option<Leadership>, FsError> {
        let mut passed = Passed::default();
        let taken = std::mem::take(&mut self.taken);
        let applied = self.seen.progress.lock().index;
        let result = match self.driver.log().make_room(taken.weight() as u64) {
            Ok(()) => self.driver.pass(taken, applied, false, &mut passed),
            Err(why) => Err(why),
        };
        self.committed.extend(passed.committed);
        for (work, why) in passed.refused {
            work.refuse(&why);
        }
        passed.answers.into_iter().for_each(|answer| answer());
        if let Err(why) = &result {
            self.driver.give_up(why);
            self.standing.end();
        }
        result.map(|()| passed.leadership)
    }

    /// The next committed entry, which is not applied yet.
    pub fn next(&self) -> Option<&Entry> {
        self.committed.front().map(|committed| &committed.entry)
    }

    /// Applies the next committed entry: it, and what came of it. `None` where there is none.
    ///
    /// # Errors
    /// As for [`Stepped::pass`].
    pub fn apply_one(&mut self) -> Result<Option<(Entry, Outcome)>, FsError> {
        let Some(Committed { entry, members, proposed }) = self.committed.pop_front() else {
            return Ok(None);
        };
        let result = self.applier.apply(&entry, members.as_ref());
        let done = result.as_ref().map(|(outcome, _)| Some((entry, outcome.clone())));
        let done = done.map_err(Clone::clone);
        if let Some(proposed) = proposed {
            (proposed.applied)(result);
        }
        done
    }

    /// Makes the table durable, and lets go of the log behind it and of segments that nothing names.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn flush(&mut self) -> Result<(), FsError> {
        let applied = self.seen.progress.lock().index;
        let retired = self.blocks.retired();
        self.table.flush()?;
        self.driver.purge(applied);
        self.blocks.remove(retired)?;
        self.driver.log().keeper().work()
    }

    /// As of [`Replica::upkeep`](crate::tsdb_server::replica::Replica::upkeep).
    ///
    /// # Errors
    /// As for [`Stepped::pass`].
    pub fn upkeep(&mut self) -> Result<(), FsError> {
        self.applier.upkeep()
    }

    /// As of [`Replica::sweep`](crate::tsdb_server::replica::Replica::sweep): to be called once it is open.
    ///
    /// # Errors
    /// As for [`Stepped::pass`].
    pub fn sweep(&mut self) -> Result<(), FsError> {
        self.applier.sweep()
    }

    /// As of [`Replica::owned`](crate::tsdb_server::replica::Replica::owned).
    pub fn owned(&self) -> Arc<Turns> {
        self.seen.owned.clone()
    }

    /// As of [`Replica::locked`](crate::tsdb_server::replica::Replica::locked).
    pub fn locked(&self) -> Arc<Turns> {
        self.seen.locked.clone()
    }

    pub fn leadership(&self) -> Leadership {
        self.standing.leadership()
    }

    /// As of [`Replica::placement`](crate::tsdb_server::replica::Replica::placement).
    pub fn placement(&self) -> Arc<Placement> {
        self.seen.placement.read().clone()
    }

    pub fn progress(&self) -> Progress {
        *self.seen.progress.lock()
    }

    pub fn commit(&self) -> LogIndex {
        self.standing.commit()
    }

    pub fn members(&self) -> Members {
        self.standing.members()
    }

    pub fn followers(&self) -> Vec<Follower> {
        self.standing.followers()
    }

    /// Whether it may answer a read of the present, were all applied that is committed.
    pub fn has_lease(&self, now: Duration) -> bool {
        self.standing.has_lease(now)
    }
}
