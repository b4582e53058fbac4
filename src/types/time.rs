//! Two kinds of time that never compare: a [`Stamp`] orders what the store did, a [`Time`] is what a
//! client's clock said about a file.

use serde::Deserialize;
use serde::Serialize;
use std::fmt;

/// Commit time: nanoseconds since 1970 by the leader's clock, unique, rising with the log.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Stamp(pub u64);

impl Stamp {
    pub const ZERO: Stamp = Stamp(0);
    /// After every stamp that is ever given.
    pub const MAX: Stamp = Stamp(u64::MAX);

    /// The stamp for a batch: after everything before it, and not before the present.
    pub fn next(last: Stamp, now: Stamp) -> Stamp {
        Stamp(now.0.max(last.0 + 1))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// The present, or an instant of the past.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum AsOf {
    Now,
    At(Stamp),
}

/// A file's time as `stat` shows it: seconds since 1970 (negative before) and nanoseconds below 10^9.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Time {
    pub secs: i64,
    pub nanos: u32,
}

impl From<Stamp> for Time {
    fn from(stamp: Stamp) -> Time {
        Time { secs: (stamp.0 / 1_000_000_000) as i64, nanos: (stamp.0 % 1_000_000_000) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_even_when_the_clock_does_not() {
        assert_eq!(Stamp::next(Stamp(5), Stamp(9)), Stamp(9));
        assert_eq!(Stamp::next(Stamp(9), Stamp(9)), Stamp(10));
        assert_eq!(Stamp::next(Stamp(9), Stamp(3)), Stamp(10));
    }
}
