//! What happened in a run, and whether that is enough to prove anything.

use crate::cover::Cover;
use crate::faults;
use crate::faults::Counts;
use crate::world::Load;

/// Of about seven hundred pairs of an op and a fault, so many may be left out by an ordinary run.
const HOLES_MAX: usize = 25;

/// What happened.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) faults: Counts,
    pub(crate) cover: Cover,
    pub(crate) simulated_ms: u64,
    pub(crate) promised: u64,
    pub(crate) reigns: u64,
    pub(crate) reads: u64,
    pub(crate) turned: u64,
    pub(crate) installs: u64,
    pub(crate) changes: u64,
    pub(crate) fenced: u64,
    pub(crate) replayed: u64,
    pub(crate) looked_again: u64,
    pub(crate) cut_short: u64,
    pub(crate) refused_packets: u64,
    pub(crate) damage_found: u64,
    /// Blocks that counted as durable, that were given out, that rotted and were replaced.
    pub(crate) durable: u64,
    pub(crate) given: u64,
    pub(crate) replaced: u64,
    /// Blocks that were fetched from other members, segments that were rewritten.
    pub(crate) repaired: u64,
    pub(crate) collected: u64,
    /// How often other nodes came to be homes of blocks; copies that were let go of.
    pub(crate) moved: u64,
    pub(crate) let_go: u64,
    /// Mounts that were told of a lock that somebody waited for.
    pub(crate) woken: u64,
    pub(crate) digest: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        self.cover.add(&other.cover);
        for (sum, more) in self.counts().into_iter().zip(other.clone().counts()) {
            *sum += *more;
        }
        self.digest ^= other.digest;
    }

    fn counts(&mut self) -> [&mut u64; 21] {
        [
            &mut self.simulated_ms,
            &mut self.promised,
            &mut self.reigns,
            &mut self.reads,
            &mut self.turned,
            &mut self.installs,
            &mut self.changes,
            &mut self.fenced,
            &mut self.replayed,
            &mut self.looked_again,
            &mut self.cut_short,
            &mut self.refused_packets,
            &mut self.damage_found,
            &mut self.durable,
            &mut self.given,
            &mut self.replaced,
            &mut self.repaired,
            &mut self.collected,
            &mut self.moved,
            &mut self.let_go,
            &mut self.woken,
        ]
    }

    /// A run of many seeds that has not met everything proves little.
    pub(crate) fn covers(&self, load: Load) {
        let all = match load {
            Load::Log => &faults::ALL[..faults::OF_MEMBERS],
            Load::Mounts => &faults::ALL,
        };
        assert!(all.iter().all(|fault| self.faults.contains_key(fault)), "{self:#?}");
        let met = [self.reigns, self.reads, self.changes, self.refused_packets];
        assert!(met.iter().all(|count| *count > 0), "{self:#?}");
        match load {
            Load::Log => assert!(self.promised > 0 && self.turned > 0, "{self:#?}"),
            Load::Mounts => {
                let met = [self.fenced, self.replayed, self.looked_again, self.cut_short];
                assert!(met.iter().all(|count| *count > 0), "{self:#?}");
                let Tally { durable, given, replaced, repaired, collected, .. } = *self;
                let met = [durable, given, replaced, repaired, collected];
                assert!(met.iter().all(|count| *count > 0), "{self:#?}");
                let met = [self.moved, self.let_go, self.woken];
                assert!(met.iter().all(|count| *count > 0), "{self:#?}");
                assert_eq!(self.cover.undone(), [], "{self:#?}");
                let holes = self.cover.holes(all);
                assert!(holes.len() <= HOLES_MAX, "not met: {holes:?}\n{self:#?}");
            }
        }
    }
}
