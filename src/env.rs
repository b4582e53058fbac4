//! Clock and randomness: the only file that asks the operating system for them.
//!
//! Everything else takes `now` or a [`Clock`], so that tests and a simulator decide what time it is.

use crate::types::Stamp;
use crate::types::Time;
use std::sync::Arc;
use std::time::Duration;

/// What time it is. Two clocks: the wall's, which may step, and a steady one, which only advances.
pub trait Clock: Send + Sync {
    /// Nanoseconds since 1970.
    fn wall(&self) -> Stamp;
    /// Since some fixed moment, across suspends (CLOCK_BOOTTIME).
    fn steady(&self) -> Duration;

    /// The wall clock as a file time.
    fn time(&self) -> Time {
        self.wall().into()
    }
}

/// The operating system's clocks.
#[derive(Default)]
pub struct SystemClock;

impl SystemClock {
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Stamp {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Stamp(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    fn steady(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers once it is seeded");
    bytes
}
