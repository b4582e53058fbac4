//! Every bound of a connection, with the reason for its size.
//!
//! Not here: the sizes of packets (`wire::packet`), which both sides must agree on.

use crate::wire::greeting::Purpose;
use crate::wire::greeting::VERSIONS;
use crate::wire::greeting::Versions;
use std::time::Duration;

/// Bytes that the kernel takes of a connection beyond those that it has sent: what is urgent waits for them. By itself it takes
/// megabytes, and on a line of 4 Mbit/s those are more than a peer may be silent for. As much as is written at a time, so that a fast line
/// does not run dry.
pub(super) const NOT_SENT_BYTES_MAX: i32 = 256 << 10;

#[derive(Clone, Debug)]
pub struct Bounds {
    /// What is spoken. Not a bound, but as much a property of the process.
    pub versions: Versions,
    /// How often the timer looks. Every other time here is kept to this precision; ten looks a second cost nothing.
    pub tick: Duration,
    /// For a connection to come up. A node that lives answers in milliseconds; a kernel asks again after one and three
    /// seconds when a packet is lost.
    pub connect: Duration,
    /// For whoever dialled to prove itself and say hello: a stranger holds a thread no longer.
    pub greet: Duration,
    /// For the welcome after that. A node may wait for a majority before it lets a client in.
    pub welcome: Duration,
    /// A connection that was silent for so long is asked whether anybody is there.
    pub ping_after: Duration,
    /// A connection on which nothing came for so long, though asked, is closed: its peer lost its power or its network.
    /// A few of `ping_after`, and more than a disk usually takes for a sync: a thread that reads may be writing the log.
    pub silence: Duration,
    /// A peer that sends, but for so long answers no ping and takes nothing that is sent to it, does not read.
    pub unanswered: Duration,
    /// A program without a certificate is given one within this, or has to come again: it holds a connection.
    pub join: Duration,
    /// Bytes that may wait to be sent before `tell` and `ask` are refused, and before requests are no longer read. A
    /// few of the largest usual packets (1 MiB), so that the socket never runs dry; a first packet is always taken.
    pub queue_bytes: usize,
    /// Requests that may be unanswered on a control connection, each way: bounds what their answers take, a few KiB each.
    pub control_asks: usize,
    /// The same on a bulk connection: their answers have up to 1 MiB each, and 64 of them fill a line of 10 Gbit/s
    /// at 50 ms.
    pub bulk_asks: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        let milliseconds = Duration::from_millis;
        Bounds {
            versions: VERSIONS,
            tick: milliseconds(100),
            connect: milliseconds(4_000),
            greet: milliseconds(5_000),
            welcome: milliseconds(15_000),
            ping_after: milliseconds(1_000),
            silence: milliseconds(6_000),
            unanswered: milliseconds(30_000),
            join: milliseconds(60_000),
            queue_bytes: 8 << 20,
            control_asks: 4096,
            bulk_asks: 64,
        }
    }
}

impl Bounds {
    /// Requests that may be unanswered, each way.
    pub(super) fn asks(&self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::Control => self.control_asks,
            Purpose::Bulk => self.bulk_asks,
            Purpose::Join => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_that_depend_on_each_other_do() {
        let bounds = Bounds::default();
        assert!(bounds.tick * 5 <= bounds.ping_after, "kept to the tick's precision");
        assert!(bounds.ping_after * 3 <= bounds.silence, "a lost packet is sent again in time");
        assert!(bounds.silence <= bounds.unanswered);
        assert!(bounds.greet <= bounds.welcome);
    }
}
