//! The session of this client, and how long it may answer by itself.
//!
//! Not here: renewing the lease (`seek`), what the session owns (`tsdb_client::own`).

use crate::tsdb_client::remote::links::Links;
use crate::tsdb_client::remote::links::Member;
use crate::types::SessionId;
use crate::wire::Listener;
use crate::wire::Welcome;
use crate::wire::message::Renewed;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// What clocks may drift apart within a lease: a hundredth of it.
const DRIFT: u32 = 100;

impl Links {
    pub(in crate::tsdb_client::remote) fn session(&self) -> Option<SessionId> {
        self.state.lock().session.as_ref().map(|member| member.session)
    }

    pub(in crate::tsdb_client::remote) fn member(&self) -> Option<Member> {
        self.state.lock().session.clone()
    }

    /// A session was opened; `asked` is when it was asked for.
    pub(in crate::tsdb_client::remote) fn begin_session(
        &self,
        welcome: &Welcome,
        listener: Arc<dyn Listener>,
        asked: Duration,
        lease_ms: u64,
    ) {
        let whole = welcome.whole;
        let mut state = self.state.lock();
        state.session = Some(Member { session: welcome.session, listener, whole });
        // It is to be attended: until then nothing reaches us that is told unasked.
        state.leader = None;
        drop(state);
        self.leased(asked, lease_ms);
        self.changed.notify_all();
    }

    /// The lease was renewed by somebody who was asked at `asked`.
    pub(in crate::tsdb_client::remote) fn renewed(&self, asked: Duration, renewed: &Renewed) {
        self.leased(asked, renewed.lease_ms);
        self.space.store(renewed.space, Relaxed);
        let mut state = self.state.lock();
        let Some(member) = &mut state.session else { return };
        if member.whole != renewed.whole {
            member.whole = renewed.whole;
            let listener = member.listener.clone();
            drop(state);
            if let Some(whole) = renewed.whole {
                listener.whole(whole);
            }
        }
    }

    fn leased(&self, asked: Duration, lease_ms: u64) {
        let length = Duration::from_millis(lease_ms);
        let until = asked + length - length / DRIFT;
        self.lease_length.store(length.as_nanos() as u64, Relaxed);
        self.lease.fetch_max(until.as_nanos() as u64, Relaxed);
    }

    /// Our session is over.
    pub(in crate::tsdb_client::remote) fn ended(&self, why: &str) {
        self.lease.store(0, Relaxed);
        let member = self.state.lock().session.take();
        self.stream.give_up(why);
        if let Some(member) = member {
            member.listener.ended(why);
        }
    }

    pub(in crate::tsdb_client::remote) fn lease(&self) -> Duration {
        Duration::from_nanos(self.lease.load(Relaxed))
    }

    pub(in crate::tsdb_client::remote) fn spend(&self, bytes: u64) {
        // A lower bound between two renewals: nobody is refused for it who would not be soon.
        let _ =
            self.space.fetch_update(Relaxed, Relaxed, |space| Some(space.saturating_sub(bytes)));
    }
}
