//! For how long the kernel may believe what it is told of the tree where other mounts may change it, and until when it does.
//!
//! Not here: what it was told (`fuse`), how it is told to forget (`recall`).

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

/// While others use what this mount uses: whoever recalls waits no longer for the kernel, where it cannot be made to forget
/// (it holds a directory for a call that waits for another mount).
const AMONG_OTHERS: Duration = Duration::from_secs(1);
/// While nobody does.
const ALONE: Duration = Duration::from_secs(5);
/// Nobody does who has not for so long.
const ALONE_AFTER: Duration = Duration::from_secs(10);
/// The kernel counts from when the thread that asked has taken the answer, for which it has to be scheduled.
const TAKEN_WITHIN: Duration = Duration::from_millis(100);

/// Moments are milliseconds of the steady clock, plus one: 0 is never.
#[derive(Default)]
pub(super) struct Belief {
    /// Nothing that was told so far is believed any longer than this.
    until: AtomicU64,
    /// When something was last used that this mount does not own, or asked back of it.
    shared: AtomicU64,
}

fn moment(at: Duration) -> u64 {
    at.as_millis() as u64 + 1
}

impl Belief {
    /// Something that is owned may be believed so long, at most for `left`.
    pub(super) fn owned(&self, now: Duration, left: Duration) -> Duration {
        let shared = self.shared.load(Acquire);
        let alone = shared == 0 || moment(now.saturating_sub(ALONE_AFTER)) > shared;
        self.told(now, left.min(if alone { ALONE } else { AMONG_OTHERS }))
    }

    /// Something that others use likewise.
    pub(super) fn shared(&self, now: Duration, left: Duration) -> Duration {
        self.others(now);
        self.told(now, left.min(AMONG_OTHERS))
    }

    /// Others use what this mount does.
    pub(super) fn others(&self, now: Duration) {
        self.shared.fetch_max(moment(now), AcqRel);
    }

    fn told(&self, now: Duration, valid: Duration) -> Duration {
        if !valid.is_zero() {
            self.until.fetch_max(moment(now + valid + TAKEN_WITHIN), AcqRel);
        }
        valid
    }

    /// How long until nothing that was told so far is believed any more.
    pub(super) fn left(&self, now: Duration) -> Duration {
        Duration::from_millis(self.until.load(Acquire).saturating_sub(moment(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_is_owned_is_believed_longer_while_nobody_else_is_met() {
        let belief = Belief::default();
        assert_eq!(belief.left(HOUR), Duration::ZERO);
        assert_eq!(belief.owned(HOUR, HOUR), ALONE);
        assert_eq!(belief.left(HOUR), ALONE + TAKEN_WITHIN);
        assert_eq!(belief.shared(HOUR, Duration::ZERO), Duration::ZERO);
        assert_eq!(belief.owned(HOUR, HOUR), AMONG_OTHERS);
        assert_eq!(belief.shared(HOUR, HOUR), AMONG_OTHERS);
        assert_eq!(belief.left(HOUR), ALONE + TAKEN_WITHIN, "it was told before");
        assert_eq!(belief.owned(HOUR + ALONE_AFTER, HOUR), AMONG_OTHERS);
        let later = HOUR + 2 * ALONE_AFTER;
        assert_eq!(belief.left(later), Duration::ZERO);
        assert_eq!(belief.owned(later, HOUR), ALONE);
        assert_eq!(belief.owned(later, Duration::from_secs(2)), Duration::from_secs(2));
    }
}
