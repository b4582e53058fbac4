//! What this client owns: the inodes whose rows it may answer for, and change, without asking.
//!
//! `docs/decisions/0012-who-owns-an-inode.md` has the rule. A client may believe that it owns less than it does, never
//! more. Not here: how something is given back (`recall`), what is done about everything else (`fresh`, `direct`).

use crate::types::BatchSeq;
use crate::types::Ino;
use crate::wire::Recall;
use crate::wire::Whole;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::ops::Range;

/// What a client may do with the rows of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    Owned,
    /// It is being given back: what rests on it is on its way, and then it is nobody's.
    Leaving,
    /// It is owned, and a direct batch that changes it is on its way.
    Busy,
    /// Whoever wants to know asks the leader.
    Nothing,
}

/// What a `Yield` gives back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Given {
    pub inos: Vec<Ino>,
    pub whole: bool,
}

impl Given {
    pub fn is_empty(&self) -> bool {
        self.inos.is_empty() && !self.whole
    }
}

pub struct Own {
    /// The server is in this process: everything is owned, for ever, and nothing below is looked at.
    near: bool,
    /// Of the whole, which is every inode that there was when it was given: the first that was not.
    whole: Option<Ino>,
    /// Of the last grant of the whole that is known.
    epoch: u64,
    /// Which batch gave the whole back last, or will.
    whole_given: Option<BatchSeq>,
    /// Numbers given to this session: first to behind the last.
    ranges: BTreeMap<u64, u64>,
    /// What would be owned by the rules above, and was given back or will be, by which batch.
    given: HashMap<Ino, BatchSeq>,
    /// The last batch that is known to be applied.
    applied: BatchSeq,
    /// Of the direct batch that is on its way.
    busy: HashSet<Ino>,
    /// What is given back as soon as the kernel has forgotten it, and owned till then.
    fading: Fading,
}

#[derive(Default)]
struct Fading {
    inos: HashSet<Ino>,
    whole: bool,
}

/// It is to be given back, and no batch says so yet.
const SOON: BatchSeq = BatchSeq(u64::MAX);

impl Own {
    /// `near`: the server is in this process.
    pub fn new(near: bool, whole: Option<Whole>) -> Own {
        Own {
            near,
            whole: whole.map(|whole| whole.below),
            epoch: whole.map_or(0, |whole| whole.epoch),
            whole_given: None,
            ranges: BTreeMap::new(),
            given: HashMap::new(),
            applied: BatchSeq(0),
            busy: HashSet::new(),
            fading: Fading::default(),
        }
    }

    pub fn is_near(&self) -> bool {
        self.near
    }

    pub fn right(&self, ino: Ino) -> Right {
        if self.near {
            return Right::Owned;
        }
        match self.giver(ino) {
            Some(seq) if seq > self.applied => Right::Leaving,
            Some(_) => Right::Nothing,
            None if !self.in_whole(ino) && !self.made(ino) => Right::Nothing,
            None if self.busy.contains(&ino) => Right::Busy,
            None => Right::Owned,
        }
    }

    /// Which batch gave the inode back, or will: none where it was not or that counts no more.
    fn giver(&self, ino: Ino) -> Option<BatchSeq> {
        let given = self.given.get(&ino).copied();
        given.or_else(|| self.whole_given.filter(|_| !self.in_whole(ino) && !self.made(ino)))
    }

    /// The same; none as well where no batch says so yet.
    pub fn given_by(&self, ino: Ino) -> Option<BatchSeq> {
        self.giver(ino).filter(|seq| *seq != SOON)
    }

    /// Whether nobody else can have changed it: not even if the lease has run out, while the session is open.
    pub fn keeps(&self, ino: Ino) -> bool {
        matches!(self.right(ino), Right::Owned | Right::Busy)
    }

    /// Whether ops on it may still enter the open batch, if they come of what was done while it was owned.
    pub fn seals(&self, ino: Ino) -> bool {
        match self.right(ino) {
            Right::Owned => true,
            Right::Leaving => self.given_by(ino).is_none(),
            Right::Busy | Right::Nothing => false,
        }
    }

    fn in_whole(&self, ino: Ino) -> bool {
        self.whole.is_some_and(|below| ino < below)
    }

    fn made(&self, ino: Ino) -> bool {
        let below = self.ranges.range(..=ino.get()).next_back();
        below.is_some_and(|(_, end)| ino.get() < *end)
    }

    /// Numbers that the session was given. False where it can use none of them: they are used in rising order, and two who ask at
    /// once may both be told of the last ones, or of the first ones last.
    #[must_use]
    pub fn add_range(&mut self, range: Range<u64>) -> bool {
        if self.ranges.last_key_value().is_some_and(|(_, end)| *end > range.start) {
            return false;
        }
        // Ranges mostly follow each other.
        match self.ranges.range_mut(..=range.start).next_back() {
            Some((_, end)) if *end == range.start => *end = range.end,
            _ => drop(self.ranges.insert(range.start, range.end)),
        }
        true
    }

    /// Somebody else wants these. What is to be given back for it: nothing where that is on its way already. What this
    /// client does not believe to own is given back like the rest, for the server knows better. Until [`Own::recall`] it stays
    /// owned, but nobody is told any more that it will be so for a while.
    pub fn fade(&mut self, what: &Recall) -> Given {
        let back = self.wanted(what);
        self.fading.inos.extend(&back.inos);
        self.fading.whole |= back.whole;
        back
    }

    /// Whether it is given back soon.
    pub fn fades(&self, ino: Ino) -> bool {
        self.fading.inos.contains(&ino) || (self.fading.whole && self.in_whole(ino))
    }

    /// Somebody else wants these, and from here on they are on their way back: what is to be given.
    pub fn recall(&mut self, what: &Recall) -> Given {
        let back = self.wanted(what);
        if back.whole {
            self.whole = None;
            self.whole_given = Some(SOON);
        }
        self.given.extend(back.inos.iter().map(|ino| (*ino, SOON)));
        self.fading = Fading::default();
        back
    }

    fn wanted(&self, what: &Recall) -> Given {
        let over = |seq: BatchSeq| seq <= self.applied;
        match what {
            Recall::Whole => Given { inos: Vec::new(), whole: self.whole_given.is_none_or(over) },
            Recall::Inodes(inos) => {
                let is_wanted = |ino: &Ino| self.given.get(ino).copied().is_none_or(over);
                let mut inos: Vec<Ino> = inos.iter().copied().filter(is_wanted).collect();
                // One that was named twice is given back once.
                inos.sort_unstable();
                inos.dedup();
                Given { inos, whole: false }
            }
        }
    }

    /// This batch gives it back.
    pub fn note_yield(&mut self, seq: BatchSeq, back: &Given) {
        for ino in &back.inos {
            self.given.insert(*ino, seq);
        }
        if back.whole {
            self.whole_given = Some(seq);
        }
    }

    /// Batches up to this one are applied.
    pub fn applied(&mut self, applied: BatchSeq) {
        let before = std::mem::replace(&mut self.applied, applied);
        if self.whole_given.is_some_and(|seq| before < seq && seq <= applied) {
            // What is not of its own making needs no mark any more.
            let mut given = std::mem::take(&mut self.given);
            given.retain(|ino, seq| *seq > applied || self.made(*ino));
            self.given = given;
        }
    }

    /// The session owns whatever no other owns, what it had given back before included. False where that is known, or over
    /// already.
    pub fn grant_whole(&mut self, whole: Whole) -> bool {
        if whole.epoch <= self.epoch {
            return false;
        }
        self.epoch = whole.epoch;
        if self.whole_given.is_some_and(|seq| seq > whole.after) {
            return false;
        }
        self.whole_given = None;
        self.whole = Some(whole.below);
        self.given.retain(|_, seq| *seq > whole.after);
        true
    }

    /// The session is over: nothing is owned.
    pub fn end(&mut self) {
        if !self.near {
            self.whole = None;
            self.whole_given = None;
            self.ranges.clear();
            self.given.clear();
            self.fading = Fading::default();
        }
    }

    /// A direct batch that changes these is on its way.
    pub fn set_busy(&mut self, inos: HashSet<Ino>) {
        self.busy = inos;
    }

    pub fn clear_busy(&mut self) {
        self.busy.clear();
    }
}

/// The inode that a row belongs to: every series' key begins with its kind and the inode.
pub fn inode_of(key: &[u8]) -> Option<Ino> {
    let number: [u8; 8] = key.get(1..9)?.try_into().ok()?;
    Ino::new(u64::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::key;

    fn ino(number: u64) -> Ino {
        Ino::new(number).unwrap()
    }

    /// Of what is below 100.
    fn whole(epoch: u64, after: u64) -> Whole {
        Whole { epoch, after: BatchSeq(after), below: ino(100) }
    }

    fn inos(numbers: &[u64]) -> Recall {
        Recall::Inodes(numbers.iter().map(|n| ino(*n)).collect())
    }

    #[test]
    fn what_is_given_back_is_leaving_until_it_is_applied() {
        let mut own = Own::new(false, Some(whole(3, 0)));
        assert_eq!(own.right(ino(9)), Right::Owned);
        assert_eq!(own.fade(&inos(&[9, 10, 9])).inos, [ino(9), ino(10)]);
        assert_eq!((own.right(ino(9)), own.fades(ino(9))), (Right::Owned, true));
        assert!(!own.fades(ino(11)));
        let given = own.recall(&inos(&[9, 10]));
        assert_eq!(given.inos.len(), 2);
        assert!(!own.fades(ino(9)) && own.fade(&inos(&[9])).is_empty());
        assert!(own.recall(&inos(&[9])).is_empty(), "told again while it is on its way");
        assert_eq!((own.right(ino(9)), own.given_by(ino(9))), (Right::Leaving, None));
        assert!(own.seals(ino(9)));
        own.note_yield(BatchSeq(4), &given);
        assert_eq!((own.given_by(ino(9)), own.seals(ino(9))), (Some(BatchSeq(4)), false));
        own.applied(BatchSeq(3));
        assert_eq!(own.right(ino(9)), Right::Leaving);
        own.applied(BatchSeq(4));
        assert_eq!((own.right(ino(9)), own.right(ino(11))), (Right::Nothing, Right::Owned));
        assert_eq!(own.recall(&inos(&[9])).inos, [ino(9)], "the server knows better");
        assert_eq!(own.right(ino(100)), Right::Nothing, "made by another since");
    }

    #[test]
    fn without_the_whole_only_what_was_made_is_owned() {
        let mut own = Own::new(false, Some(whole(3, 0)));
        assert!(own.add_range(100..200));
        assert!(own.add_range(200..300));
        assert!(own.add_range(500..600));
        assert!(!own.add_range(500..600), "twice");
        assert!(!own.add_range(300..400), "late");
        let some = own.recall(&inos(&[150, 7]));
        own.note_yield(BatchSeq(1), &some);
        assert!(own.fade(&Recall::Whole).whole);
        assert_eq!((own.fades(ino(50)), own.fades(ino(250))), (true, false));
        let given = own.recall(&Recall::Whole);
        assert!(given.whole && own.recall(&Recall::Whole).is_empty());
        assert_eq!((own.right(ino(250)), own.right(ino(50))), (Right::Owned, Right::Leaving));
        own.note_yield(BatchSeq(2), &given);
        own.applied(BatchSeq(2));
        for (number, right) in [
            (250, Right::Owned),
            (599, Right::Owned),
            (150, Right::Nothing),
            (300, Right::Nothing),
            (600, Right::Nothing),
            (7, Right::Nothing),
        ] {
            assert_eq!(own.right(ino(number)), right, "{number}");
        }
        assert_eq!(own.given.len(), 1, "marks that say nothing go");
    }

    #[test]
    fn a_grant_of_the_whole_voids_what_was_given_back_before_it() {
        let mut own = Own::new(false, None);
        assert!(own.add_range(100..200));
        for (number, seq) in [(150, 1), (151, 2), (152, 3)] {
            let given = own.recall(&inos(&[number]));
            own.note_yield(BatchSeq(seq), &given);
        }
        own.recall(&inos(&[153]));
        own.applied(BatchSeq(1));
        // The word of the second batch has not come yet.
        assert!(own.grant_whole(whole(5, 2)));
        assert!(!own.grant_whole(whole(5, 2)), "told again");
        let rights = [150, 151, 152, 153, 3].map(|number| own.right(ino(number)));
        let (owned, leaving) = (Right::Owned, Right::Leaving);
        assert_eq!(rights, [owned, owned, leaving, leaving, owned]);
        let given = own.recall(&Recall::Whole);
        assert!(!own.grant_whole(whole(6, 3)), "it is what is being given back");
        own.note_yield(BatchSeq(4), &given);
        own.applied(BatchSeq(4));
        assert_eq!((own.right(ino(3)), own.right(ino(150))), (Right::Nothing, Right::Owned));
        assert!(own.grant_whole(whole(7, 4)));
        assert_eq!((own.right(ino(3)), own.right(ino(152))), (Right::Owned, Right::Owned));
        own.end();
        assert_eq!(own.right(ino(3)), Right::Nothing);
    }

    #[test]
    fn a_row_tells_whose_it_is() {
        let keys = [
            key::inode(ino(77)),
            key::dirent(ino(77), 99, b"name"),
            key::extents(ino(77), Default::default(), Default::default()),
            key::xattr(ino(77), b"user.x"),
        ];
        assert!(keys.iter().all(|key| inode_of(key) == Some(ino(77))));
        assert_eq!(inode_of(&key::dirents(ino(77), 5).start), Some(ino(77)));
        assert_eq!(inode_of(b"I"), None);
    }
}
