//! Fetching what is listed for repair from other nodes, in the background.
//!
//! A piece of work is a group of blocks: several are fetched at once, each is written as it comes, and one sync and one
//! write of rows take the group off the list. A block that nobody has is asked for again ever more rarely. Not here: what
//! comes on the list (`store::block`), and how other nodes are asked.

use crate::env::Clock;
use crate::store::block::BlockStore;
use crate::store::block::Supplied;
use crate::tsdb_server::data::Peers;
use crate::tsdb_server::task::Task;
use crate::tsdb_server::task::Worked;
use crate::types::BlockId;
use crate::types::FsError;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How often the list is looked at while there is nothing to do.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A block that could not be had is asked for again after this time, then after twice as long, up to the second.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// Blocks of one piece of work.
const GROUP: usize = 32;
/// Blocks of the list that are looked at for one piece of work.
const LOOKED_AT_MAX: usize = 8192;
/// So many blocks that could not be had are remembered; those beyond are asked for in each round.
const REMEMBERED_MAX: usize = 65_536;

/// How fast it goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// At most so much is fetched, in bytes a second, on the average.
    pub bytes_per_second: u64,
    /// Blocks that are fetched at the same time.
    pub at_once: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { bytes_per_second: 64 << 20, at_once: 4 }
    }
}

/// What repair needs of its node.
pub struct Parts {
    pub blocks: Arc<BlockStore>,
    pub peers: Arc<dyn Peers>,
    pub clock: Arc<dyn Clock>,
    /// Has the rows written that the block store wants written, and waits for it (`Replica::upkeep`).
    pub upkeep: Box<dyn Fn() -> Result<(), FsError> + Send>,
    /// Bytes that may still be written: at zero, repair waits.
    pub space_left: Box<dyn Fn() -> u64 + Send>,
}

/// How far it is, since the node was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Blocks on the list.
    pub left: u64,
    pub repaired: u64,
    pub repaired_bytes: u64,
    /// Of those left: every other node said that it does not have them.
    pub nobody_has: u64,
    /// Of those left: somebody who may have them could not be asked.
    pub unreachable: u64,
}

/// How far repair is, for whoever wants to know.
pub struct Watch {
    blocks: Arc<BlockStore>,
    progress: Mutex<Progress>,
}

impl Watch {
    pub fn progress(&self) -> Progress {
        Progress { left: self.blocks.listed(), ..*self.progress.lock() }
    }

    /// A sentence for each thing that is not as it should be.
    pub fn health(&self) -> Vec<String> {
        let Progress { left, nobody_has, unreachable, .. } = self.progress();
        let mut lines = Vec::new();
        if left > 0 {
            let waiting = match unreachable {
                0 => String::new(),
                some => format!("; {some} of them wait for a node that cannot be reached"),
            };
            lines.push(format!(
                "{left} blocks are not yet on this node and are fetched from others{waiting}"
            ));
        }
        if nobody_has > 0 {
            lines.push(format!(
                "{nobody_has} blocks are whole on no node: run 'tsfs fsck', which names the files, and bring back a node that has them"
            ));
        }
        lines
    }
}

/// Why a block could not be had, and when it is asked for again.
#[derive(Clone, Copy)]
struct Missed {
    nobody: bool,
    tries: u32,
    again: Duration,
    /// In which round of the list it was last met.
    round: u64,
}

/// What became of one block of a group.
enum Got {
    /// It is written: so many bytes.
    Written(u64),
    Unneeded,
    Nobody,
    Unreachable(FsError),
}

/// The task. See the module's text.
pub struct Repair {
    parts: Parts,
    options: Options,
    watch: Arc<Watch>,
    /// Up to where the list was looked at in this round.
    after: Option<BlockId>,
    round: u64,
    missed: BTreeMap<BlockId, Missed>,
    /// Before then, nothing is fetched.
    pause_until: Duration,
    /// How long nobody is asked when nobody can be reached.
    away: Duration,
}

impl Repair {
    pub fn new(parts: Parts, options: Options) -> Repair {
        let watch = Watch { blocks: parts.blocks.clone(), progress: Mutex::default() };
        Repair {
            parts,
            options,
            watch: Arc::new(watch),
            after: None,
            round: 0,
            missed: BTreeMap::new(),
            pause_until: Duration::ZERO,
            away: AGAIN_MIN,
        }
    }

    pub fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// The next blocks to be asked for; none where the list's end was reached, or there is much of it to be looked at.
    fn next_group(&mut self, now: Duration) -> Result<(Vec<BlockId>, bool), FsError> {
        let (mut group, mut looked_at) = (Vec::new(), 0);
        while group.len() < GROUP && looked_at < LOOKED_AT_MAX {
            let page = self.parts.blocks.missing(self.after, GROUP)?;
            let Some(last) = page.last() else {
                return Ok((group, true));
            };
            looked_at += page.len();
            for block in &page {
                match self.missed.get_mut(block) {
                    Some(missed) => {
                        missed.round = self.round;
                        if missed.again <= now {
                            group.push(*block);
                        }
                    }
                    None => group.push(*block),
                }
            }
            self.after = Some(*last);
        }
        Ok((group, false))
    }

    /// The list was looked through. What could not be had and is not on it any more is forgotten.
    fn end_round(&mut self) {
        let round = self.round;
        self.missed.retain(|_, missed| missed.round == round);
        self.round += 1;
        self.after = None;
    }

    /// Fetches a group, several at once.
    fn fetch(&self, group: &[BlockId]) -> Vec<(BlockId, Result<Got, FsError>)> {
        let (next, done) = (Mutex::new(group.iter()), Mutex::new(Vec::new()));
        let (blocks, peers) = (&self.parts.blocks, &self.parts.peers);
        let fetch = || {
            loop {
                let Some(block) = next.lock().next().copied() else { return };
                let got = fetch_one(blocks, &**peers, block);
                done.lock().push((block, got));
            }
        };
        thread::scope(|threads| {
            for _ in 1..self.options.at_once {
                // Without more threads it goes more slowly.
                let thread = thread::Builder::new().name("repair-fetch".to_owned());
                let _ = thread.spawn_scoped(threads, fetch);
            }
            fetch();
        });
        done.into_inner()
    }

    /// Notes what became of a group: bytes written, and the first failure of this node itself.
    fn note(
        &mut self,
        done: Vec<(BlockId, Result<Got, FsError>)>,
        now: Duration,
    ) -> (u64, Result<(), FsError>) {
        let (mut bytes, mut failed, mut answered) = (0, Ok(()), false);
        let mut away = None;
        for (block, got) in done {
            match got {
                Ok(Got::Written(frame_bytes)) => {
                    bytes += frame_bytes;
                    answered = true;
                    self.missed.remove(&block);
                    self.watch.progress.lock().repaired += 1;
                }
                Ok(Got::Unneeded) => {
                    answered = true;
                    self.missed.remove(&block);
                }
                Ok(Got::Nobody) => {
                    answered = true;
                    self.miss(block, true, now);
                }
                Ok(Got::Unreachable(why)) => {
                    self.miss(block, false, now);
                    away = Some(why);
                }
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        self.watch.progress.lock().repaired_bytes += bytes;
        match away {
            Some(why) if !answered => {
                tracing::debug!(%why, "no other node can be asked for blocks");
                self.pause_until = now + self.away;
                self.away = (self.away * 2).min(AGAIN_MAX);
            }
            _ => self.away = AGAIN_MIN,
        }
        (bytes, failed)
    }

    fn miss(&mut self, block: BlockId, nobody: bool, now: Duration) {
        let tries = self.missed.get(&block).map_or(0, |missed| missed.tries + 1);
        if tries == 0 && nobody {
            tracing::warn!(%block, "no other node has a whole copy of a block that is missing here");
        }
        if tries > 0 || self.missed.len() < REMEMBERED_MAX {
            let wait = AGAIN_MIN.saturating_mul(1 << tries.min(16)).min(AGAIN_MAX);
            let missed = Missed { nobody, tries, again: now + wait, round: self.round };
            self.missed.insert(block, missed);
        }
    }

    fn count_missed(&self) {
        let nobody = self.missed.values().filter(|missed| missed.nobody).count() as u64;
        let mut progress = self.watch.progress.lock();
        progress.nobody_has = nobody;
        progress.unreachable = self.missed.len() as u64 - nobody;
    }
}

fn fetch_one(blocks: &BlockStore, peers: &dyn Peers, block: BlockId) -> Result<Got, FsError> {
    let frame = match peers.fetch(block, false) {
        Ok(Some(frame)) => frame,
        Ok(None) => return Ok(Got::Nobody),
        Err(why) => return Ok(Got::Unreachable(why)),
    };
    match blocks.supply(block, &frame) {
        Ok(Supplied::Written) => Ok(Got::Written(frame.len() as u64)),
        Ok(Supplied::Unneeded) => Ok(Got::Unneeded),
        // What was sent does not verify: as good as nothing.
        Err(FsError::Damaged(what)) => {
            tracing::warn!(%block, what, "another node sent a block that is damaged");
            Ok(Got::Nobody)
        }
        Err(error) => Err(error),
    }
}

impl Task for Repair {
    fn name(&self) -> &'static str {
        "repair"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        // Lists what was found damaged; takes off what came in by itself, once it is durable.
        if self.parts.blocks.arrivals_unsynced() {
            self.parts.blocks.sync()?;
        }
        if self.parts.blocks.upkeep_due() {
            (self.parts.upkeep)()?;
        }
        let now = self.parts.clock.steady();
        if now < self.pause_until {
            return Ok(Worked::Idle(LOOK_EVERY.min(self.pause_until - now)));
        }
        if self.parts.blocks.listed() == 0 || (self.parts.space_left)() == 0 {
            if self.parts.blocks.listed() == 0 {
                self.missed.clear();
                self.count_missed();
            }
            return Ok(Worked::Idle(LOOK_EVERY));
        }
        let (group, ended) = self.next_group(now)?;
        if ended {
            self.end_round();
        }
        if group.is_empty() {
            self.count_missed();
            return Ok(if ended { Worked::Idle(LOOK_EVERY) } else { Worked::More });
        }
        let done = self.fetch(&group);
        let (bytes, failed) = self.note(done, now);
        self.count_missed();
        if bytes > 0 {
            self.parts.blocks.sync()?;
            (self.parts.upkeep)()?;
        }
        failed?;
        let took = Duration::from_secs(1)
            .mul_f64(bytes as f64 / self.options.bytes_per_second.max(1) as f64);
        self.pause_until = self.pause_until.max(now + took);
        Ok(Worked::More)
    }
}

#[cfg(test)]
mod tests;
