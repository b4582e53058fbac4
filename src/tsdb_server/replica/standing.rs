//! What is known of this member's place among the others, for whoever asks while somebody drives.
//!
//! The holder of the right writes it, everybody reads it. What is committed is known here before anybody is told that it is
//! durable, so that a read which begins after that sees it. Not here: how it is found out (`drive`, `tsdb_log`).

use crate::tsdb_log::core::Follower;
use crate::tsdb_log::entry::Members;
use crate::tsdb_server::replica::pace::Pace;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Two members' steady clocks run at rates that differ by no more than one part in this many. A lease is shorter by that
/// than the time for which a follower votes for nobody else.
pub const CLOCK_DRIFT_PARTS: u32 = 50;

/// For how long from sending a round that a majority answers nobody else can lead. A follower counts ticks, of which the
/// first may come at once.
pub(super) fn lease(tick: Duration, election_ticks: usize) -> Duration {
    let promised = tick * (election_ticks as u32).saturating_sub(1);
    promised - promised / CLOCK_DRIFT_PARTS
}

/// Who leads, as far as a member knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    pub term: Term,
    pub leader: Option<NodeId>,
    /// This member does.
    pub here: bool,
}

#[derive(Clone, Default)]
struct State {
    leadership: Leadership,
    /// It leads and knows all that is committed.
    settled: bool,
    members: Members,
    followers: Vec<Follower>,
    /// The last round of heartbeats that was sent, and the last that a majority has answered in this reign.
    sent: u64,
    confirmed: u64,
}

/// Whether a leader may answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lead {
    /// It surely leads now.
    Sure,
    /// It leads, unless others have elected somebody else. It is sure once a round behind this one is answered.
    Unsure { sent: u64 },
}

#[derive(Default)]
pub(super) struct Standing {
    state: Mutex<State>,
    changed: Condvar,
    commit: AtomicU64,
    /// Nobody else leads before this moment of the steady clock, in nanoseconds.
    lease: AtomicU64,
    ended: AtomicBool,
    pub(super) pace: Pace,
}

impl Standing {
    /// Entries up to here are committed. To be said before anybody is told.
    pub(super) fn committed(&self, index: LogIndex) {
        self.commit.fetch_max(index.0, SeqCst);
    }

    /// What is committed, all that anybody was told of included.
    pub(super) fn commit(&self) -> LogIndex {
        LogIndex(self.commit.load(SeqCst))
    }

    pub(super) fn has_lease(&self, now: Duration) -> bool {
        (now.as_nanos() as u64) < self.lease.load(SeqCst)
    }

    /// Nobody else leads until then.
    pub(super) fn extend_lease(&self, until: Duration) {
        self.lease.fetch_max(until.as_nanos() as u64, SeqCst);
    }

    pub(super) fn drop_lease(&self) {
        self.lease.store(0, SeqCst);
    }

    /// It takes part in nothing any more.
    pub(super) fn end(&self) {
        self.ended.store(true, SeqCst);
        self.drop_lease();
        let mut state = self.state.lock();
        (state.leadership.here, state.settled) = (false, false);
        drop(state);
        self.changed.notify_all();
    }

    /// True where the leadership is another than before.
    pub(super) fn lead(&self, leadership: Leadership, settled: bool) -> bool {
        let mut state = self.state.lock();
        if self.ended.load(SeqCst) {
            return false;
        }
        let other = state.leadership != leadership;
        if other {
            state.confirmed = 0;
        }
        if other || state.settled != settled {
            (state.leadership, state.settled) = (leadership, settled);
            drop(state);
            self.changed.notify_all();
        }
        other
    }

    pub(super) fn rounds(&self, sent: Option<u64>, confirmed: Option<u64>) {
        let mut state = self.state.lock();
        state.sent = sent.unwrap_or(state.sent);
        if let Some(round) = confirmed.filter(|round| *round > state.confirmed) {
            state.confirmed = round;
            drop(state);
            self.changed.notify_all();
        }
    }

    pub(super) fn take_part(&self, members: Members) {
        self.state.lock().members = members;
    }

    pub(super) fn follow(&self, followers: Vec<Follower>) {
        self.state.lock().followers = followers;
    }

    pub(super) fn leadership(&self) -> Leadership {
        self.state.lock().leadership
    }

    pub(super) fn members(&self) -> Members {
        self.state.lock().members.clone()
    }

    pub(super) fn followers(&self) -> Vec<Follower> {
        self.state.lock().followers.clone()
    }

    /// # Errors
    /// `NotLeader`.
    pub(super) fn is_sure(&self, now: Duration) -> Result<Lead, FsError> {
        if self.has_lease(now) {
            return Ok(Lead::Sure);
        }
        let state = self.state.lock();
        match state.leadership.here {
            true => Ok(Lead::Unsure { sent: state.sent }),
            false => Err(FsError::NotLeader { leader: state.leadership.leader }),
        }
    }

    /// Waits until a round behind `sent` is answered.
    ///
    /// # Errors
    /// `NotLeader`; `Unreachable` where that takes longer than `at_most`.
    pub(super) fn wait_until_sure(&self, sent: u64, at_most: Duration) -> Result<(), FsError> {
        let mut state = self.state.lock();
        let mut late = false;
        loop {
            if !state.leadership.here {
                return Err(FsError::NotLeader { leader: state.leadership.leader });
            }
            if state.settled && state.confirmed > sent {
                return Ok(());
            }
            if late {
                return Err(FsError::Unreachable(
                    "no majority of the nodes answers this one, which led until now".to_owned(),
                ));
            }
            late = self.changed.wait_for(&mut state, at_most).timed_out();
        }
    }
}
