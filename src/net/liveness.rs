//! Whether the other side is still there: asked by a ping when it is silent, and judged by what comes and what goes.
//!
//! Not here: sending the pings, closing the connection (`link`).

use super::bounds::Bounds;
use parking_lot::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// What is known of the other side.
pub(super) struct Liveness {
    /// When something came last, on the steady clock, in nanoseconds.
    heard: AtomicU64,
    /// The thread that reads is doing what came: that nothing comes meanwhile says nothing about the peer.
    working: AtomicBool,
    ping: Mutex<Ping>,
}

#[derive(Default)]
struct Ping {
    last: u64,
    /// When the one that is not answered yet was sent.
    since: Option<Duration>,
    /// Bytes that the socket had taken, and when that number was seen to rise.
    sent: u64,
    moved: Duration,
}

/// What is to be done about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Look {
    Fine,
    /// Send a ping with this id.
    Ping(u64),
    /// Close the connection: the other side …
    Gone(String),
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Liveness {
    pub(super) fn new(now: Duration) -> Liveness {
        Liveness {
            heard: AtomicU64::new(nanoseconds(now)),
            working: AtomicBool::new(false),
            ping: Mutex::new(Ping { moved: now, ..Ping::default() }),
        }
    }

    /// Something came.
    pub(super) fn heard(&self, now: Duration) {
        self.heard.store(nanoseconds(now), Relaxed);
    }

    /// The thread that reads begins or ends doing what came.
    pub(super) fn set_working(&self, working: bool) {
        self.working.store(working, Relaxed);
    }

    /// The answer to a ping came.
    pub(super) fn pong(&self, id: u64) {
        let mut ping = self.ping.lock();
        if ping.last == id {
            ping.since = None;
        }
    }

    /// `sent`: bytes that the socket took so far.
    pub(super) fn look(&self, now: Duration, sent: u64, bounds: &Bounds) -> Look {
        if self.working.load(Relaxed) {
            self.heard(now);
        }
        let silence = now.saturating_sub(Duration::from_nanos(self.heard.load(Relaxed)));
        let mut ping = self.ping.lock();
        if ping.sent != sent {
            ping.sent = sent;
            ping.moved = now;
        }
        let stuck = now.saturating_sub(ping.moved);
        let Some(unanswered) = ping.since.map(|since| now.saturating_sub(since)) else {
            if silence < bounds.ping_after {
                return Look::Fine;
            }
            ping.last += 1;
            ping.since = Some(now);
            return Look::Ping(ping.last);
        };
        if unanswered >= bounds.silence && silence >= bounds.silence {
            let seconds = silence.as_secs();
            return Look::Gone(format!(
                "was silent for {seconds} s: it is down, or the network is"
            ));
        }
        // Its answer may stand behind what we do not read while it slowly takes what we send.
        if unanswered >= bounds.unanswered && stuck >= bounds.unanswered {
            let seconds = stuck.as_secs();
            return Look::Gone(format!("has not taken what is sent to it for {seconds} s"));
        }
        Look::Fine
    }

    #[cfg(test)]
    pub(super) fn is_pinging(&self) -> bool {
        self.ping.lock().since.is_some()
    }

    #[cfg(test)]
    pub(super) fn is_working(&self) -> bool {
        self.working.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Looks each second, after `each` happened; at which second it was found to be gone.
    fn gone(mut each: impl FnMut(&Liveness, Duration, &Look) -> u64) -> Option<u32> {
        let (bounds, liveness, mut last) = (Bounds::default(), Liveness::new(SECOND), Look::Fine);
        for second in 1..200 {
            let now = SECOND * (second + 1);
            let sent = each(&liveness, now, &last);
            last = liveness.look(now, sent, &bounds);
            if matches!(last, Look::Gone(_)) {
                return Some(second);
            }
        }
        None
    }

    #[test]
    fn silence_is_asked_about_and_then_believed() {
        assert_eq!(gone(|_, _, _| 0), Some(7));
    }

    #[test]
    fn who_answers_is_there() {
        let answers = |liveness: &Liveness, now, last: &Look| {
            if let Look::Ping(id) = last {
                liveness.heard(now);
                liveness.pong(*id);
            }
            0
        };
        assert_eq!(gone(answers), None);
    }

    #[test]
    fn who_talks_and_never_takes_anything_is_not() {
        let talks = |liveness: &Liveness, now, last: &Look| {
            // It is silent once, or there would be no ping.
            if !matches!(last, Look::Fine) || now > SECOND * 3 {
                liveness.heard(now);
            }
            0
        };
        assert_eq!(gone(talks), Some(31));
    }

    #[test]
    fn who_takes_what_is_sent_slowly_is_there() {
        let mut sent = 0;
        let takes = |liveness: &Liveness, _, _: &Look| {
            sent += 1000;
            liveness.set_working(sent > 2000);
            sent
        };
        assert_eq!(gone(takes), None);
    }

    #[test]
    fn who_is_not_read_is_not_blamed_at_once() {
        // What it said meanwhile is read in the end.
        let busy = |liveness: &Liveness, now, _: &Look| {
            liveness.set_working((SECOND * 3..SECOND * 25).contains(&now));
            if now > SECOND * 25 {
                liveness.heard(now);
                liveness.pong(1);
            }
            0
        };
        assert_eq!(gone(busy), None);
    }
}
