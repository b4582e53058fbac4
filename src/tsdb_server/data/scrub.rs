//! Reading all segments slowly in the background, so that rot is found while another copy is there to repair it with.
//!
//! What is damaged is listed for repair by the block store, where other nodes have it. A round goes on after a restart
//! where it was. Not here: rows and payload, whose checksums RocksDB verifies as it merges and reads them.

use crate::env::Clock;
use crate::store::block::BlockStore;
use crate::store::block::Fault;
use crate::store::block::Scrub;
use crate::store::block::Scrubbed;
use crate::store::segment::SegmentId;
use crate::telemetry::counter;
use crate::tsdb_server::task::Task;
use crate::tsdb_server::task::Worked;
use crate::types::FsError;
use std::sync::Arc;
use std::time::Duration;

/// What is read in one piece of work, about.
const PIECE_BYTES: u64 = 1 << 20;
/// How often it is asked whether the next round is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How fast it goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// At most so much is read, in bytes a second.
    pub bytes_per_second: u64,
    /// From the beginning of one round to that of the next.
    pub every: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { bytes_per_second: 8 << 20, every: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// What scrubbing needs of its node.
pub struct Parts {
    pub blocks: Arc<BlockStore>,
    pub clock: Arc<dyn Clock>,
    /// Has the rows written that the block store wants written, and waits for it (`Replica::upkeep`).
    pub upkeep: Box<dyn Fn() -> Result<(), FsError> + Send>,
}

/// The task. See the module's text.
pub struct Scrubber {
    parts: Parts,
    options: Options,
    /// What the row says, once it was read.
    scrubbed: Option<Scrubbed>,
    /// The segment that is being read.
    scrub: Option<(SegmentId, Scrub)>,
    /// Before then, nothing is read.
    pause_until: Duration,
}

impl Scrubber {
    pub fn new(parts: Parts, options: Options) -> Scrubber {
        Scrubber { parts, options, scrubbed: None, scrub: None, pause_until: Duration::ZERO }
    }

    /// How far the rounds are. A store that was never scrubbed is young, or has waited so long that some days more are
    /// no matter.
    fn scrubbed(&mut self) -> Result<Scrubbed, FsError> {
        if let Some(scrubbed) = self.scrubbed {
            return Ok(scrubbed);
        }
        let scrubbed = match self.parts.blocks.scrubbed()? {
            Some(scrubbed) => scrubbed,
            None => {
                let scrubbed = Scrubbed { segment: None, begun: self.parts.clock.wall() };
                self.note(scrubbed)?;
                scrubbed
            }
        };
        Ok(*self.scrubbed.insert(scrubbed))
    }

    fn note(&mut self, scrubbed: Scrubbed) -> Result<(), FsError> {
        self.scrubbed = Some(scrubbed);
        self.parts.blocks.note_scrubbed(scrubbed);
        (self.parts.upkeep)()
    }

    /// The next segment of the round, which begins if it is due.
    fn next_segment(&mut self) -> Result<Option<SegmentId>, FsError> {
        let scrubbed = self.scrubbed()?;
        let now = self.parts.clock.wall();
        if scrubbed.begun > now {
            // The clock was ahead when that was noted, by days or by years: it is not waited for.
            self.note(Scrubbed { begun: now, ..scrubbed })?;
        }
        let since = Duration::from_nanos(now.0.saturating_sub(scrubbed.begun.0));
        let after = match scrubbed.segment {
            Some(after) => after,
            None if since < self.options.every => return Ok(None),
            None => {
                self.note(Scrubbed { segment: Some(0), begun: now })?;
                0
            }
        };
        let segments = self.parts.blocks.segments();
        let next = segments.into_iter().map(|(id, _)| id).find(|id| id.0 > after);
        if next.is_none() {
            let begun = self.scrubbed()?.begun;
            self.note(Scrubbed { segment: None, begun })?;
        }
        Ok(next)
    }
}

impl Task for Scrubber {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        let now = self.parts.clock.steady();
        if now < self.pause_until {
            return Ok(Worked::Idle(self.pause_until - now));
        }
        let (id, mut scrub) = match self.scrub.take() {
            Some(under_way) => under_way,
            None => match self.next_segment()? {
                Some(id) => (id, Scrub::new(id)),
                None => return Ok(Worked::Idle(LOOK_EVERY)),
            },
        };
        let fault = &mut |fault: Fault| {
            tracing::error!(fault = %fault.what, "scrubbing found damage");
        };
        let read = self.parts.blocks.scrub_on(&mut scrub, PIECE_BYTES, fault)?;
        counter::BLOCKS_SCRUBBED_BYTES.add(read);
        if scrub.is_done() {
            let begun = self.scrubbed()?.begun;
            self.note(Scrubbed { segment: Some(id.0), begun })?;
        } else {
            self.scrub = Some((id, scrub));
        }
        let rate = self.options.bytes_per_second.max(1);
        self.pause_until = now + Duration::from_secs(1).mul_f64(read as f64 / rate as f64);
        Ok(Worked::More)
    }
}

#[cfg(test)]
mod tests;
