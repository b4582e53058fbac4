//! A replica among others: what they say comes in, time is counted, and reads know whether this one leads.
//!
//! All of it is input for whoever drives. The thread that brings a message drives too, and so answers whoever waits for
//! what the message makes durable. Not here: how messages travel.

use crate::tsdb_log::core::Follower;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::entry::Message;
use crate::tsdb_server::replica::Replica;
use crate::tsdb_server::replica::Shared;
use crate::tsdb_server::replica::inbox::Answer;
use crate::tsdb_server::replica::inbox::Ask;
use crate::tsdb_server::replica::inbox::Input;
use crate::tsdb_server::replica::standing::Lead;
use crate::tsdb_server::replica::standing::Leadership;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// The way to the other members.
pub trait Outbound: Send + Sync {
    /// Sends each message to the member it is for. Must not wait: what there is no room for may be dropped, it is sent again
    /// when it is missed. Called with the replica's locks held, so it must not call the replica.
    fn send(&self, messages: Vec<Message>);

    /// This member needs a table: the log does not reach back to what it has. Told again while that is so. The same
    /// holds as for `send`.
    fn is_behind(&self, node: NodeId);
}

/// Who is told when somebody else leads.
pub(super) type Watcher = Arc<dyn Fn(Leadership) + Send + Sync>;

/// How the thread that counts time is stopped.
#[derive(Default)]
pub(super) struct Ticks {
    closed: Mutex<bool>,
    told: Condvar,
}

impl Ticks {
    pub(super) fn close(&self) {
        *self.closed.lock() = true;
        self.told.notify_all();
    }

    /// Lets the time pass; false at the end.
    fn rest(&self, time: Duration) -> bool {
        let mut closed = self.closed.lock();
        if !*closed {
            self.told.wait_for(&mut closed, time);
        }
        !*closed
    }
}

impl Replica {
    /// Takes what other members said. The calling thread may be used to write the log. Does not wait for anybody else.
    pub fn step(&self, messages: Vec<Message>) {
        self.shared.input(|input| input.add(messages));
    }

    /// What was sent to this member probably did not arrive: its connection broke.
    pub fn unreachable(&self, node: NodeId) {
        self.shared.input(|input| input.asks.push(Ask::Unreachable(node)));
    }

    /// Who leads, as far as this member knows.
    pub fn leadership(&self) -> Leadership {
        self.shared.standing.leadership()
    }

    pub fn leader(&self) -> Option<NodeId> {
        self.leadership().leader
    }

    /// This member leads, or does not know better.
    pub fn is_leader(&self) -> bool {
        self.leadership().here
    }

    pub fn term(&self) -> Term {
        self.leadership().term
    }

    /// What is committed, as far as this member knows.
    pub fn commit(&self) -> LogIndex {
        self.shared.standing.commit()
    }

    /// Who takes part, as of what is committed.
    pub fn members(&self) -> Members {
        self.shared.standing.members()
    }

    /// How far the others are; empty where this member does not lead.
    pub fn followers(&self) -> Vec<Follower> {
        self.shared.standing.followers()
    }

    /// Told whenever another member leads, or none, in the order in which this one learns it. The callback must not wait, nor
    /// call the replica.
    pub fn on_leader_change(&self, watcher: impl Fn(Leadership) + Send + Sync + 'static) {
        self.shared.watchers.lock().push(Arc::new(watcher));
    }

    /// Whether a read of the present can be answered now without waiting.
    pub fn read_ready(&self) -> bool {
        let Shared { standing, seen, clock, .. } = &*self.shared;
        standing.has_lease(clock.steady()) && seen.progress.lock().index >= standing.commit()
    }

    /// Whether nobody else can lead now.
    pub fn surely_leads(&self) -> bool {
        self.shared.standing.has_lease(self.shared.clock.steady())
    }

    /// Waits until this member surely leads and has applied everything that was committed when this was called: what the
    /// table says then is the present. At most until `deadline` on the steady clock.
    ///
    /// # Errors
    /// `NotLeader`; `Unreachable` where it cannot be known in time; what stopped the replica.
    pub fn read_barrier(&self, deadline: Duration) -> Result<(), FsError> {
        let Shared { standing, clock, .. } = &*self.shared;
        if let Some(why) = self.stopped() {
            return Err(why);
        }
        let left = || deadline.saturating_sub(clock.steady());
        if let Lead::Unsure { sent } = standing.is_sure(clock.steady())? {
            self.shared.input(|input| input.round = true);
            standing.wait_until_sure(sent, left())?;
        }
        self.shared.await_applied(standing.commit(), left())
    }

    /// Has these be all voters and all learners. Returns when that is in the log; [`Replica::members`] says when it holds.
    ///
    /// # Errors
    /// `NotLeader`; `Refused` with the reason: a change is under way, or this one could stop the log. `Closing`.
    pub fn change_members(
        &self,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
    ) -> Result<LogIndex, FsError> {
        self.ask(|answer| Ask::Change { from: None, voters, learners, answer })
    }

    /// The same, unless these are not the members any more: then it was decided from what is past.
    ///
    /// # Errors
    /// As for [`Replica::change_members`].
    pub fn change_members_from(
        &self,
        from: Members,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
    ) -> Result<LogIndex, FsError> {
        self.ask(|answer| Ask::Change { from: Some(from), voters, learners, answer })
    }

    /// Has another voter lead as soon as it has everything. Returns when it was told; [`Replica::leadership`] says when it
    /// leads. Until then nothing is taken here; where nothing comes of it this member goes on after an election timeout.
    ///
    /// # Errors
    /// `NotLeader`; `Refused` where that node cannot lead; `Closing`.
    pub fn transfer_leader(&self, to: NodeId) -> Result<(), FsError> {
        self.ask(|answer| Ask::HandOver { to, answer })
    }

    fn ask<T: Send + 'static>(&self, ask: impl FnOnce(Answer<T>) -> Ask) -> Result<T, FsError> {
        let (tell, told) = mpsc::sync_channel(1);
        let ask = ask(Box::new(move |result| {
            // Whoever asked is there until told.
            let _ = tell.send(result);
        }));
        self.shared.input(|input| input.asks.push(ask));
        told.recv().unwrap_or(Err(FsError::Closing))
    }
}

impl Shared {
    /// Puts input in, and drives where nobody does.
    pub(super) fn input(&self, put: impl FnOnce(&mut Input)) {
        if self.inbox.put_input(put) {
            self.drive();
        }
    }

    /// One tick at a time. Time that this process slept through is not made up for: it has not listened either, and who leads
    /// is not to be doubted for that.
    pub(super) fn count_time(&self) {
        let mut last = self.clock.steady();
        loop {
            let passed = self.clock.steady().saturating_sub(last);
            if let Some(left) = self.options.tick.checked_sub(passed).filter(|left| !left.is_zero())
            {
                if !self.ticks.rest(left) {
                    return;
                }
                continue;
            }
            last = self.clock.steady();
            if self.standing.members().has_peers(self.options.node) {
                self.input(|input| input.tick = true);
            }
        }
    }

    pub(super) fn tell_watchers(&self, leadership: Leadership) {
        tracing::info!(term = leadership.term.0, leader = ?leadership.leader, "the log's leader");
        let watchers = self.watchers.lock().clone();
        watchers.iter().for_each(|watcher| watcher(leadership));
    }

    fn await_applied(&self, index: LogIndex, at_most: Duration) -> Result<(), FsError> {
        let mut progress = self.seen.progress.lock();
        if progress.index >= index {
            return Ok(());
        }
        drop(progress);
        self.queue.hurry();
        progress = self.seen.progress.lock();
        let mut late = false;
        while progress.index < index {
            if let Some(why) = self.stopped.lock().clone() {
                return Err(why);
            }
            if late {
                return Err(FsError::Unreachable(
                    "what is committed cannot be applied in time: the disk of the leader is full or slow".to_owned(),
                ));
            }
            late = self.seen.moved.wait_for(&mut progress, at_most).timed_out();
        }
        Ok(())
    }
}
