//! Bringing rows into line with the placement, and letting go of blocks that this node need not have any more, in the background.
//!
//! Letting go loses a copy, so it is asked for: whoever leads says whether everything that was named by now is where it is to be. The
//! block store looks once more when it lets go. A round goes through all blocks; after one that found nothing the next is due
//! with another placement, or much later: what a client put by the placement before may come late. Not here: who answers, and
//! which blocks these are (`store::block`).

use crate::env::Clock;
use crate::store::block::BlockStore;
use crate::tsdb_server::task::Task;
use crate::tsdb_server::task::Worked;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::placement::Placement;
use std::sync::Arc;
use std::time::Duration;

/// Blocks that are let go of at once.
const GROUP: usize = 1000;
/// How often it is looked whether there is anything to do.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked through everything.
#[derive(Clone, Debug)]
pub struct Options {
    /// From a round that found nothing to the next, under one placement.
    pub again: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { again: Duration::from_secs(3600) }
    }
}

/// Says how far this node is.
type Applied = Box<dyn Fn() -> Result<(Arc<Placement>, LogIndex), FsError> + Send>;

/// What letting go needs of its node.
pub struct Parts {
    pub blocks: Arc<BlockStore>,
    pub clock: Arc<dyn Clock>,
    /// Which nodes keep which blocks, and up to where the log is applied: of one moment, or the placement older.
    pub applied: Applied,
    /// Asks the node that leads: whether what the log names up to here is where the placement of that number says. Waits.
    pub is_at_home: Box<dyn Fn(u64, LogIndex) -> Result<bool, FsError> + Send>,
    /// Has the rows written that the block store wants written, and waits for it (`Replica::upkeep`).
    pub upkeep: Box<dyn Fn() -> Result<(), FsError> + Send>,
}

/// Blocks that may be let go of once they are at home.
struct Asked {
    blocks: Vec<BlockId>,
    named: LogIndex,
    number: u64,
    after: Option<BlockId>,
}

/// The task. See the module's text.
pub struct Surplus {
    parts: Parts,
    options: Options,
    /// The placement that this round goes by, and up to where it is.
    number: u64,
    after: Option<BlockId>,
    /// This round has found something.
    found: bool,
    /// What is asked about: these blocks, named by this entry, under the placement of this number; and from where to go on.
    asked: Option<Asked>,
    /// The last whole round found nothing under the placement of this number; when.
    clean: Option<(u64, Duration)>,
}

impl Surplus {
    pub fn new(parts: Parts, options: Options) -> Surplus {
        Surplus { parts, options, number: 0, after: None, found: false, asked: None, clean: None }
    }

    fn is_due(&self, number: u64) -> bool {
        let now = self.parts.clock.steady();
        self.clean
            .is_none_or(|(of, at)| of != number || now.saturating_sub(at) >= self.options.again)
    }
}

impl Task for Surplus {
    fn name(&self) -> &'static str {
        "surplus"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        if self.parts.blocks.is_placing() {
            (self.parts.upkeep)()?;
            return Ok(Worked::More);
        }
        let (placement, _) = (self.parts.applied)()?;
        let number = placement.number;
        let moves = placement.next.is_some() || placement.now.is_none();
        if moves || self.parts.blocks.placed() != Some(number) || !self.is_due(number) {
            return Ok(Worked::Idle(LOOK_EVERY));
        }
        if self.number != number {
            // What was looked at before was looked at by another.
            (self.number, self.after, self.found) = (number, None, false);
        }
        // The same again until it may go: homes of a busy cluster have what is older first.
        let asked = match self.asked.take().filter(|asked| asked.number == number) {
            Some(asked) => asked,
            None => {
                let (blocks, after) = self.parts.blocks.surplus(self.after, GROUP)?;
                // Only now: what was found was named by the entry that is asked about.
                let (_, named) = (self.parts.applied)()?;
                Asked { blocks, named, number, after }
            }
        };
        if !asked.blocks.is_empty() {
            if !(self.parts.is_at_home)(number, asked.named)? {
                self.asked = Some(asked);
                return Ok(Worked::Idle(LOOK_EVERY));
            }
            self.found = true;
            self.parts.blocks.let_go(&asked.blocks);
            (self.parts.upkeep)()?;
        }
        self.after = asked.after;
        if self.after.is_none() {
            let now = self.parts.clock.steady();
            self.clean = (!std::mem::take(&mut self.found)).then_some((number, now));
        }
        Ok(Worked::More)
    }
}
