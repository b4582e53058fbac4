//! How long what this client has copies of counts.
//!
//! Not here: the copies (`tsdb_client::copies`), asking for more time (`seek`).

use crate::tsdb_client::remote::links::Links;
use crate::types::Era;
use crate::wire::Copying;
use std::time::Duration;

/// What clocks may drift apart meanwhile: a hundredth of it.
const DRIFT: u32 = 100;
/// It is asked for more time so many times before it would end.
const RENEWALS: u32 = 3;
/// A mount that nobody has used for so long need not keep its copies.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct State {
    era: Era,
    until: Duration,
    /// From one renewal to the end.
    length: Duration,
    /// When they were last asked for or used.
    used: Duration,
}

impl Links {
    /// The leader has said something of copies to whoever asked it at `asked`.
    pub(in crate::tsdb_client::remote) fn copied(&self, asked: Duration, copying: &Copying) {
        let length = Duration::from_millis(copying.lease_ms);
        let until = asked + length - length / DRIFT;
        let mut state = self.copying.lock();
        if copying.era < state.era {
            // Of a leader before, or from before it lost count of us.
            return;
        }
        if copying.era > state.era {
            state.era = copying.era;
            state.until = Duration::ZERO;
        }
        state.until = state.until.max(until);
        state.length = length;
        state.used = state.used.max(asked);
    }

    pub(in crate::tsdb_client::remote) fn copying(&self, used: bool) -> (Era, Duration) {
        let mut state = self.copying.lock();
        if used {
            state.used = self.now();
        }
        (state.era, state.until)
    }

    /// When the leader is to be asked for more time; none where nobody needs it.
    pub(in crate::tsdb_client::remote) fn copies_due(&self) -> Option<Duration> {
        let now = self.now();
        let state = self.copying.lock();
        let counts = state.until > now && state.used + IDLE > now;
        counts.then(|| state.until.saturating_sub(state.length - state.length / RENEWALS))
    }
}
