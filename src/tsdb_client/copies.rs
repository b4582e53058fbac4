//! Copies of rows of inodes that are nobody's: what the leader has said that this client may answer from until it is taken back.
//!
//! While an inode is here, no change of it enters the log, but for this client's own: so all that is here is of one moment, which is
//! now. `docs/decisions/0017-copies.md` has the states. Not here: rows of what is owned (`rows`), who gives copies (`lease::copies`).

use crate::tsdb_client::own::inode_of;
use crate::types::Era;
use crate::types::Ino;
use crate::wire::Copying;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::time::Duration;

/// What a row costs besides its bytes.
const ROW_OVERHEAD_BYTES: u64 = 160;
/// Inodes that were let go of without being asked for which are remembered.
const LEFT_MAX: usize = 1 << 16;

/// Since when an inode is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gained {
    /// How many answers had brought copies by then.
    at: u64,
    /// The question that brought it.
    by: u64,
}

/// A question that was asked of the leader: what was known then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Question {
    number: u64,
    gains: u64,
    turn: u64,
}

impl Question {
    /// Whether what is answered to it may be of another moment than a copy is. An inode that was copied before it was asked, and is still,
    /// has not changed since; nor has one that came with the answer.
    pub(super) fn is_before(self, gained: Gained) -> bool {
        gained.at > self.gains && gained.by != self.number
    }
}

struct Copy {
    gained: Gained,
    rows: HashMap<Bytes, Option<Bytes>>,
}

pub(super) struct Copies {
    bytes_max: u64,
    bytes: u64,
    era: Era,
    inos: HashMap<Ino, Copy>,
    /// Were copied, and the kernel may still believe something of them.
    left: HashSet<Ino>,
    /// It is not known which.
    left_more: bool,
    /// Of this client's direct change that is on its way; none: of any.
    busy: Option<BTreeSet<Ino>>,
    /// Somebody has looked at one.
    used: bool,
    /// Questions asked.
    questions: u64,
    /// Answers that brought copies.
    gains: u64,
    /// Raised when answers that are on their way may be older than what they would overtake.
    turn: u64,
}

/// What was let go of, for the kernel to forget.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct LetGo {
    pub(super) inos: Vec<Ino>,
    /// And more, nobody knows which.
    pub(super) more: bool,
}

impl Copies {
    /// They take at most so many bytes.
    pub(super) fn new(bytes_max: u64) -> Copies {
        Copies {
            bytes_max,
            bytes: 0,
            era: Era::default(),
            inos: HashMap::new(),
            left: HashSet::new(),
            left_more: false,
            busy: Some(BTreeSet::new()),
            used: false,
            questions: 0,
            gains: 0,
            turn: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inos.is_empty()
    }

    /// Copies count in this era and until then.
    pub(super) fn follow(&mut self, (era, until): (Era, Duration), now: Duration) {
        if era != self.era || until <= now {
            self.leave_all();
            self.era = era;
        }
    }

    /// Since when the inode is copied, if it is.
    pub(super) fn gained(&self, ino: Ino) -> Option<Gained> {
        self.inos.get(&ino).filter(|_| !self.is_busy(ino)).map(|copy| copy.gained)
    }

    /// A copy was looked at.
    pub(super) fn note_used(&mut self) {
        self.used = true;
    }

    pub(super) fn take_used(&mut self) -> bool {
        std::mem::take(&mut self.used)
    }

    /// A row of an inode that is copied. `None`: it is not known.
    pub(super) fn row(&self, ino: Ino, key: &[u8]) -> Option<Option<Bytes>> {
        self.inos.get(&ino)?.rows.get(key).cloned()
    }

    pub(super) fn ask(&mut self) -> Question {
        self.questions += 1;
        Question { number: self.questions, gains: self.gains, turn: self.turn }
    }

    /// What came of a question.
    pub(super) fn keep(
        &mut self,
        question: Question,
        copying: &Copying,
        rows: impl Iterator<Item = (Bytes, Option<Bytes>)>,
    ) {
        if copying.inos.is_empty() || question.turn != self.turn || copying.era != self.era {
            return;
        }
        let given: HashSet<Ino> = copying.inos.iter().copied().collect();
        self.gains += 1;
        let gained = Gained { at: self.gains, by: question.number };
        for (key, value) in rows {
            let Some(ino) = inode_of(&key).filter(|ino| given.contains(ino)) else { continue };
            if self.is_busy(ino) {
                continue;
            }
            self.inos.entry(ino).or_insert_with(|| Copy { gained, rows: HashMap::new() });
            self.put_row(ino, key, value);
        }
        if self.bytes > self.bytes_max {
            // The leader takes them for ours still, and asks in vain.
            self.leave_all();
        }
    }

    fn put_row(&mut self, ino: Ino, key: Bytes, value: Option<Bytes>) {
        let Some(copy) = self.inos.get_mut(&ino) else { return };
        let size = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len) as u64;
        let added = key.len() as u64 + ROW_OVERHEAD_BYTES;
        self.bytes += size(&value);
        match copy.rows.insert(key, value) {
            Some(former) => self.bytes -= size(&former),
            None => self.bytes += added,
        }
    }

    fn is_busy(&self, ino: Ino) -> bool {
        self.busy.as_ref().is_none_or(|busy| busy.contains(&ino))
    }

    /// A direct change of this client is about to be sent: it may change these, or anything. `known`: its rows are, once it is applied.
    pub(super) fn begin(&mut self, changed: Option<BTreeSet<Ino>>, known: bool) {
        if !known {
            match &changed {
                Some(inos) => inos.iter().for_each(|ino| self.leave(*ino)),
                None => self.leave_all(),
            }
        }
        self.busy = changed;
    }

    /// It is known what came of it. `rows`: what it put, where it was applied; then the copies that it may have changed stay.
    pub(super) fn settle(&mut self, rows: Option<Vec<(Bytes, Option<Bytes>)>>) {
        // Answers to what was asked before may be from before it, or what it has put.
        self.turn += 1;
        let busy = self.busy.replace(BTreeSet::new());
        let Some(rows) = rows else {
            match busy {
                Some(inos) => inos.iter().for_each(|ino| self.leave(*ino)),
                None => self.leave_all(),
            }
            return;
        };
        for (key, value) in rows {
            if let Some(ino) = inode_of(&key) {
                self.put_row(ino, key, value);
            }
        }
    }

    /// The leader takes these back, or all.
    pub(super) fn take_back(&mut self, inos: Option<Vec<Ino>>) -> LetGo {
        self.turn += 1;
        match inos {
            Some(inos) => {
                for ino in &inos {
                    self.leave(*ino);
                    self.left.remove(ino);
                }
                LetGo { inos, more: false }
            }
            None => {
                self.leave_all();
                let inos = std::mem::take(&mut self.left).into_iter().collect();
                LetGo { inos, more: std::mem::take(&mut self.left_more) }
            }
        }
    }

    fn leave(&mut self, ino: Ino) {
        let Some(copy) = self.inos.remove(&ino) else { return };
        let size = |(key, value): (&Bytes, &Option<Bytes>)| {
            key.len() as u64 + ROW_OVERHEAD_BYTES + value.as_ref().map_or(0, Bytes::len) as u64
        };
        self.bytes -= copy.rows.iter().map(size).sum::<u64>();
        if self.left.len() < LEFT_MAX {
            self.left.insert(ino);
        } else {
            self.left_more = true;
        }
    }

    /// No copy is used any more.
    pub(super) fn leave_all(&mut self) {
        let inos = std::mem::take(&mut self.inos);
        self.left_more |= self.left.len() + inos.len() > LEFT_MAX;
        let room = LEFT_MAX.saturating_sub(self.left.len());
        self.left.extend(inos.into_keys().take(room));
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::key;
    use crate::types::Term;

    const ERA: Era = Era { term: Term(1), turn: 1 };

    fn ino(raw: u64) -> Ino {
        Ino::new(raw).unwrap()
    }

    fn row(raw: u64, value: &'static str) -> (Bytes, Option<Bytes>) {
        (Bytes::copy_from_slice(&key::inode(ino(raw))), Some(Bytes::from_static(value.as_bytes())))
    }

    fn copying(inos: &[u64]) -> Copying {
        let inos = inos.iter().map(|raw| ino(*raw)).collect();
        Copying { era: ERA, lease_ms: 3000, inos }
    }

    fn copies() -> Copies {
        let mut copies = Copies::new(1 << 20);
        copies.follow((ERA, Duration::from_secs(3)), Duration::ZERO);
        copies
    }

    fn value(copies: &Copies, raw: u64) -> Option<String> {
        copies.gained(ino(raw))?;
        let value = copies.row(ino(raw), &key::inode(ino(raw)))??;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    fn keep(copies: &mut Copies, raw: u64, text: &'static str) {
        let question = copies.ask();
        copies.keep(question, &copying(&[raw]), [row(raw, text)].into_iter());
    }

    #[test]
    fn what_was_asked_before_something_ended_is_not_kept() {
        let mut copies = copies();
        let late = copies.ask();
        keep(&mut copies, 1, "one");
        assert_eq!(value(&copies, 1).as_deref(), Some("one"));
        assert_eq!(copies.take_back(Some(vec![ino(1)])).inos, [ino(1)]);
        copies.keep(late, &copying(&[1, 2]), [row(1, "old"), row(2, "old")].into_iter());
        assert_eq!((value(&copies, 1), value(&copies, 2)), (None, None));
        let question = copies.ask();
        let of_then = Copying { era: Era { turn: 9, ..ERA }, ..copying(&[1]) };
        copies.keep(question, &of_then, [row(1, "of another era")].into_iter());
        copies.keep(question, &copying(&[2]), [row(1, "not given"), row(2, "given")].into_iter());
        assert_eq!((value(&copies, 1), value(&copies, 2).as_deref()), (None, Some("given")));
        copies.follow((ERA, Duration::from_secs(3)), Duration::from_secs(3));
        assert_eq!(value(&copies, 2), None, "its time is over");
        assert_eq!(copies.take_back(None), LetGo { inos: vec![ino(2)], more: false });
    }

    #[test]
    fn a_change_of_ones_own_leaves_copies_as_it_has_made_them() {
        let mut copies = copies();
        keep(&mut copies, 1, "before");
        keep(&mut copies, 2, "other");
        copies.begin(Some([ino(1), ino(3)].into()), true);
        assert_eq!(value(&copies, 1), None, "nobody knows yet");
        let question = copies.ask();
        copies.keep(question, &copying(&[1, 3]), [row(1, "seen"), row(3, "seen")].into_iter());
        copies.settle(Some(vec![row(1, "after"), row(3, "was not copied")]));
        assert_eq!((value(&copies, 1).as_deref(), value(&copies, 3)), (Some("after"), None));
        copies.keep(question, &copying(&[3]), [row(3, "from before")].into_iter());
        assert_eq!(value(&copies, 3), None);
        copies.begin(Some([ino(1)].into()), true);
        copies.settle(None);
        assert_eq!((value(&copies, 1), value(&copies, 2).as_deref()), (None, Some("other")));
        copies.begin(None, false);
        keep(&mut copies, 2, "while anything may change");
        copies.settle(Some(Vec::new()));
        assert_eq!(value(&copies, 2), None);
    }

    #[test]
    fn an_answer_is_of_the_moment_of_what_was_copied_before_and_stays() {
        let mut copies = copies();
        keep(&mut copies, 1, "one");
        let question = copies.ask();
        copies.keep(question, &copying(&[2]), [row(2, "two")].into_iter());
        keep(&mut copies, 3, "three");
        let gained = |raw| copies.gained(ino(raw)).unwrap();
        let before = [1, 2, 3].map(|raw| question.is_before(gained(raw)));
        assert_eq!(before, [false, false, true]);
    }

    #[test]
    fn they_take_no_more_than_they_may() {
        let mut copies = copies();
        copies.bytes_max = 1000;
        for raw in 1..=100 {
            keep(&mut copies, raw, "value");
            assert!(copies.bytes <= 1000);
            let rows = copies.inos.values().flat_map(|copy| copy.rows.iter());
            let held: usize =
                rows.map(|(key, value)| key.len() + value.as_ref().unwrap().len() + 160).sum();
            assert_eq!(copies.bytes, held as u64);
        }
        assert_eq!(copies.take_back(None).inos.len(), 100, "the kernel may believe all of them");
    }
}
