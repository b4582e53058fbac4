//! The leader's clock as stamps: rising, and believed only while it does not leap.

use crate::env::Clock;
use crate::types::Stamp;
use std::time::Duration;

/// A clock that is farther ahead than this of where it was believed to be is not believed.
const LEAP: Duration = Duration::from_secs(3600);

/// Gives stamps. `docs/decisions/0004-whoever-has-work-drives-the-log.md` has the rule.
pub(super) struct Stamper {
    /// The last stamp set aside.
    last: Stamp,
    /// When the wall clock was last believed, by both clocks.
    wall: Stamp,
    steady: Duration,
    /// How far it leapt, while that is not believed.
    leapt: Option<Duration>,
}

impl Stamper {
    /// The wall clock is believed once, at the start: stamps go on behind `last` in any case.
    pub(super) fn new(last: Stamp, clock: &dyn Clock) -> Stamper {
        Stamper { last, wall: clock.wall(), steady: clock.steady(), leapt: None }
    }

    /// What the clock says, if it is to be believed; else what it should say.
    pub(super) fn now(&mut self, clock: &dyn Clock) -> Stamp {
        let (wall, steady) = (clock.wall(), clock.steady());
        let passed = steady.saturating_sub(self.steady);
        let expected = Stamp(self.wall.0.saturating_add(passed.as_nanos() as u64));
        let ahead = Duration::from_nanos(wall.0.saturating_sub(expected.0));
        if ahead > LEAP {
            self.leapt = Some(ahead);
            return expected;
        }
        (self.wall, self.steady, self.leapt) = (wall, steady, None);
        wall
    }

    /// The first of `count` stamps, which are set aside.
    pub(super) fn take(&mut self, now: Stamp, count: u32) -> Stamp {
        let first = Stamp::next(self.last, now);
        self.last = Stamp(first.0 + u64::from(count.max(1)) - 1);
        first
    }

    /// Stamps up to `last` were given by somebody before.
    pub(super) fn after(&mut self, last: Stamp) {
        self.last = self.last.max(last);
    }

    /// What is wrong with the clock, as a sentence.
    pub(super) fn health(&self) -> Option<String> {
        if let Some(leapt) = self.leapt {
            return Some(format!(
                "the clock leapt forward by {} minutes and is not believed; if it is right now, unmount and mount again",
                leapt.as_secs() / 60
            ));
        }
        let behind = Duration::from_nanos(self.last.0.saturating_sub(self.wall.0));
        (behind > LEAP).then(|| {
            format!(
                "the clock is {} minutes behind the store's newest change; what is changed now is dated behind that",
                behind.as_secs() / 60
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    struct Hands(Mutex<(u64, u64)>);

    impl Hands {
        fn set(&self, wall_s: u64, steady_s: u64) {
            *self.0.lock() = (wall_s, steady_s);
        }
    }

    impl Clock for Hands {
        fn wall(&self) -> Stamp {
            Stamp(self.0.lock().0 * 1_000_000_000)
        }

        fn steady(&self) -> Duration {
            Duration::from_secs(self.0.lock().1)
        }
    }

    #[test]
    fn a_leap_is_not_believed_until_the_clock_comes_back() {
        let clock = Hands(Mutex::new((10_000, 50)));
        let mut stamper = Stamper::new(Stamp(7), &clock);
        let secs = |stamp: Stamp| stamp.0 / 1_000_000_000;
        clock.set(10_010, 60);
        assert_eq!(secs(stamper.now(&clock)), 10_010);
        clock.set(20_000, 70);
        assert_eq!(secs(stamper.now(&clock)), 10_020, "the steady clock went on by ten seconds");
        assert!(stamper.health().is_some_and(|line| line.contains("166 minutes")));
        clock.set(10_050, 80);
        assert_eq!(secs(stamper.now(&clock)), 10_050);
        assert_eq!(stamper.health(), None);
        // Half an hour is believed, backward is followed by `now` though not by stamps.
        clock.set(11_850, 90);
        assert_eq!(secs(stamper.now(&clock)), 11_850);
        let first = stamper.now(&clock);
        let first = stamper.take(first, 3);
        clock.set(1_000, 100);
        let now = stamper.now(&clock);
        assert_eq!(stamper.take(now, 1), Stamp(first.0 + 3));
        assert!(stamper.health().is_some_and(|line| line.contains("behind")));
    }
}
