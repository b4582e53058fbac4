//! Lingering: a loop thread that has answered watches the device for a moment before it sleeps in the kernel.
//!
//! A program that works in a file system sends its next request some microseconds after an answer, and waking a sleeping
//! thread takes longer than most requests do: about 3 µs on bare metal, 40 µs and more on a virtual machine whose idle
//! processors halt. `docs/decisions/0008-lingering.md` has the measurements. Not here: reading requests, which is the
//! transport's.

use crate::env::Clock;
use crate::telemetry::counter::FUSE_LINGERED;
use parking_lot::Mutex;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A request that comes within so many windows of the last answer would have come sooner, had nobody been asleep.
const NEAR_WINDOWS: u32 = 3;

/// Whether the next request is worth waiting for, going by the last ones.
///
/// A point for each that came soon, up to a bound, two less for each that was waited for in vain: of a program that computes
/// between bursts of requests, only the first wait of each pause is lost, and one that sends them evenly a little too far apart
/// for the window is waited for every third time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Promise(u8);

impl Promise {
    const MOST: u8 = 16;

    fn soon(&mut self) {
        self.0 = (self.0 + 1).min(Promise::MOST);
    }

    fn in_vain(&mut self) {
        self.0 = self.0.saturating_sub(2);
    }

    fn holds(self) -> bool {
        self.0 > 1
    }
}

pub(super) struct Linger {
    device: OwnedFd,
    clock: Arc<dyn Clock>,
    /// How long one thread watches; zero: never.
    window: Duration,
    /// Steady nanoseconds of the last answer.
    answered: AtomicU64,
    /// Held by the one thread that watches: a second one could only take the processor from it.
    watch: Mutex<Promise>,
}

impl Linger {
    pub(super) fn new(device: OwnedFd, clock: Arc<dyn Clock>, window: Duration) -> Linger {
        let watch = Mutex::new(Promise::default());
        Linger { device, clock, window, answered: AtomicU64::new(0), watch }
    }

    /// A request was taken from the device. While somebody watches, it is him who judges.
    pub(super) fn came(&self) {
        if self.window.is_zero() {
            return;
        }
        let Some(mut promise) = self.watch.try_lock() else { return };
        let answered = Duration::from_nanos(self.answered.load(Relaxed));
        if self.clock.steady().saturating_sub(answered) <= self.window * NEAR_WINDOWS {
            promise.soon();
        }
    }

    /// A request was answered: watches for the next one, if it is likely to come and nobody else does. Returns once there is
    /// something to read, or the window is over.
    pub(super) fn answered(&self) {
        if self.window.is_zero() {
            return;
        }
        let begun = self.clock.steady();
        self.answered.store(begun.as_nanos() as u64, Relaxed);
        let Some(mut promise) = self.watch.try_lock() else { return };
        if !promise.holds() {
            return;
        }
        while !self.is_readable() {
            // Whoever else wants the processor has it first.
            std::thread::yield_now();
            if self.clock.steady() - begun > self.window {
                promise.in_vain();
                return;
            }
        }
        FUSE_LINGERED.add(1);
        promise.soon();
    }

    /// Whether there is a request, or an end of all requests, to be read.
    fn is_readable(&self) -> bool {
        let mut device = [PollFd::new(&self.device, PollFlags::IN)];
        // An error shows itself to whoever reads.
        rustix::event::poll(&mut device, Some(&Timespec::default())) != Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Stamp;
    use std::io::Write;

    /// A steady clock that a microsecond passes on whenever somebody looks.
    #[derive(Default)]
    struct Looks(AtomicU64);

    impl Looks {
        fn pass(&self, time: Duration) {
            self.0.fetch_add(time.as_nanos() as u64, Relaxed);
        }
    }

    impl Clock for Looks {
        fn wall(&self) -> Stamp {
            Stamp(self.0.load(Relaxed))
        }

        fn steady(&self) -> Duration {
            self.pass(Duration::from_micros(1));
            Duration::from_nanos(self.0.load(Relaxed))
        }
    }

    const WINDOW: Duration = Duration::from_micros(100);

    struct Rig {
        clock: Arc<Looks>,
        linger: Linger,
        requests: std::io::PipeWriter,
    }

    fn rig() -> Rig {
        let (device, requests) = std::io::pipe().unwrap();
        let clock = Arc::new(Looks::default());
        clock.pass(Duration::from_secs(1));
        let linger = Linger::new(device.into(), clock.clone(), WINDOW);
        Rig { clock, linger, requests }
    }

    impl Rig {
        /// How long a thread stays after an answer.
        fn stay(&self) -> Duration {
            let before = self.clock.0.load(Relaxed);
            self.linger.answered();
            Duration::from_nanos(self.clock.0.load(Relaxed) - before)
        }

        /// Requests that come soon after an answer, as far as anybody saw.
        fn burst(&self) {
            self.linger.answered.store(self.clock.0.load(Relaxed), Relaxed);
            for _ in 0..20 {
                self.linger.came();
            }
        }
    }

    #[test]
    fn nobody_waits_for_requests_that_come_far_apart() {
        let rig = rig();
        for _ in 0..20 {
            rig.clock.pass(Duration::from_millis(1));
            rig.linger.came();
            assert!(rig.stay() < WINDOW / 10);
        }
    }

    #[test]
    fn after_a_burst_the_next_request_is_waited_for_until_that_is_in_vain() {
        let mut rig = rig();
        rig.burst();
        let waits = (0..20).filter(|_| rig.stay() >= WINDOW).count();
        assert!((1..=8).contains(&waits), "a bounded number of times: {waits}");
        assert!(rig.stay() < WINDOW / 10, "and then no more");
        rig.burst();
        rig.requests.write_all(b"!").unwrap();
        for _ in 0..20 {
            let stay = rig.stay();
            assert!(stay < WINDOW / 10, "what is there is seen at once: {stay:?}");
        }
        assert!(rig.linger.watch.lock().holds(), "waiting was not in vain");
    }

    #[test]
    fn one_thread_watches_and_the_others_sleep() {
        let rig = rig();
        rig.burst();
        let watching = rig.linger.watch.lock();
        assert!(rig.stay() < WINDOW / 10);
        drop(watching);
        assert!(rig.stay() >= WINDOW);
    }

    #[test]
    fn a_device_that_is_gone_is_not_waited_for() {
        let rig = rig();
        rig.burst();
        let Rig { clock, linger, requests } = rig;
        drop(requests);
        let before = clock.0.load(Relaxed);
        linger.answered();
        assert!(clock.0.load(Relaxed) - before < 10_000, "whoever reads is told");
    }
}
