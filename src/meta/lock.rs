//! Locks on parts of a file, as fcntl(2) has them: which bar each other, and what becomes of an owner's when it sets or drops one.
//!
//! `docs/decisions/0015-file-locks.md` has the rules. Used by a client for the owners on its mount, and at apply for the
//! sessions of a store. Not here: whose turn it is to wait, and how long.

use serde::Deserialize;
use serde::Serialize;

/// A lock, held or wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileLock {
    /// The kernel's number for who holds it: it means something on one mount only.
    pub owner: u64,
    /// In bytes, the last one included; up to [`FileLock::LAST`], which stands for the end of any file. Or both
    /// [`FileLock::FLOCK`].
    pub first: u64,
    pub last: u64,
    pub exclusive: bool,
    /// Who set it last, for people.
    pub pid: u32,
}

impl FileLock {
    /// The last byte that a lock can reach, as in Linux.
    pub const LAST: u64 = i64::MAX as u64;

    /// The byte that stands for what flock(2) locks: none that fcntl(2) reaches, nor beside one, so the two kinds are not in each
    /// other's way.
    pub const FLOCK: u64 = u64::MAX;

    pub fn is_flock(&self) -> bool {
        self.first == FileLock::FLOCK
    }

    /// They have bytes in common.
    pub fn meets(&self, other: &FileLock) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Two owners cannot have both.
    pub fn bars(&self, other: &FileLock) -> bool {
        self.meets(other) && (self.exclusive || other.exclusive)
    }

    fn is_sound(&self) -> bool {
        self.first <= self.last && (self.last <= FileLock::LAST || self.is_flock())
    }
}

/// The locks of the owners on one mount on one file, by their first bytes. An owner's do not meet, and no two of one kind
/// touch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileLocks {
    locks: Vec<FileLock>,
}

impl FileLocks {
    /// `None` where no mount could have them together.
    pub fn of(locks: &[FileLock]) -> Option<FileLocks> {
        let mut made = FileLocks::default();
        for lock in locks {
            (lock.is_sound() && made.barring(lock).is_none()).then_some(())?;
            made.set(*lock);
        }
        Some(made)
    }

    pub fn is_empty(&self) -> bool {
        self.locks.is_empty()
    }

    pub fn all(&self) -> &[FileLock] {
        &self.locks
    }

    /// A lock of another owner that is in the way.
    pub fn barring(&self, wanted: &FileLock) -> Option<&FileLock> {
        self.locks.iter().find(|lock| lock.owner != wanted.owner && lock.bars(wanted))
    }

    /// In place of whatever its owner had there. Whether something is in the way was asked before.
    pub fn set(&mut self, mut lock: FileLock) {
        self.clear(lock.owner, lock.first, lock.last);
        let same =
            |other: &FileLock| other.owner == lock.owner && other.exclusive == lock.exclusive;
        let touches = |other: &FileLock| {
            other.last.checked_add(1) == Some(lock.first)
                || lock.last.checked_add(1) == Some(other.first)
        };
        let neighbours: Vec<FileLock> =
            self.locks.iter().filter(|other| same(other) && touches(other)).copied().collect();
        self.locks.retain(|other| !neighbours.contains(other));
        for other in neighbours {
            lock.first = lock.first.min(other.first);
            lock.last = lock.last.max(other.last);
        }
        self.insert(lock);
    }

    /// Drops what an owner has in these bytes. False where it has nothing there.
    pub fn clear(&mut self, owner: u64, first: u64, last: u64) -> bool {
        let (met, kept) = self
            .locks
            .iter()
            .partition(|lock| lock.owner == owner && lock.first <= last && first <= lock.last);
        let met: Vec<FileLock> = met;
        self.locks = kept;
        for lock in &met {
            if lock.first < first {
                self.insert(FileLock { last: first - 1, ..*lock });
            }
            if lock.last > last {
                self.insert(FileLock { first: last + 1, ..*lock });
            }
        }
        !met.is_empty()
    }

    fn insert(&mut self, lock: FileLock) {
        let place = |lock: &FileLock| (lock.first, lock.owner);
        let at = self.locks.partition_point(|other| place(other) < place(&lock));
        self.locks.insert(at, lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const BYTES: u64 = 12;

    /// Which owner has which byte how, told byte by byte.
    type Model = BTreeMap<(u64, u64), bool>;

    fn lock(owner: u64, first: u64, last: u64, exclusive: bool) -> FileLock {
        FileLock { owner, first, last, exclusive, pid: 0 }
    }

    fn barred(model: &Model, wanted: &FileLock) -> bool {
        model.iter().any(|((byte, owner), exclusive)| {
            (wanted.first..=wanted.last).contains(byte)
                && *owner != wanted.owner
                && (*exclusive || wanted.exclusive)
        })
    }

    fn shown(locks: &FileLocks) -> Model {
        let bytes = locks.all().iter().flat_map(|lock| {
            (lock.first..=lock.last).map(|byte| ((byte, lock.owner), lock.exclusive))
        });
        bytes.collect()
    }

    proptest! {
        #[test]
        fn locks_are_as_if_each_byte_had_one(
            calls in prop::collection::vec((0..3u64, 0..BYTES, 0..BYTES, 0..3u8), 1..40)
        ) {
            let (mut locks, mut model) = (FileLocks::default(), Model::new());
            for (owner, a, b, what) in calls {
                let wanted = lock(owner, a.min(b), a.max(b), what == 1);
                if what == 2 {
                    let held = (wanted.first..=wanted.last).any(|byte| model.contains_key(&(byte, owner)));
                    prop_assert_eq!(locks.clear(owner, wanted.first, wanted.last), held);
                    model.retain(|(byte, of), _| {
                        *of != owner || !(wanted.first..=wanted.last).contains(byte)
                    });
                } else {
                    let bar = locks.barring(&wanted).copied();
                    prop_assert_eq!(bar.is_some(), barred(&model, &wanted));
                    if bar.is_none() {
                        locks.set(wanted);
                        model.extend((wanted.first..=wanted.last).map(|byte| ((byte, owner), what == 1)));
                    }
                }
                prop_assert_eq!(&shown(&locks), &model);
                // As few as can say it, in order, and what is told of them is taken as it is.
                for pair in locks.all().windows(2) {
                    prop_assert!((pair[0].first, pair[0].owner) < (pair[1].first, pair[1].owner));
                }
                for (n, one) in locks.all().iter().enumerate() {
                    let joins = |other: &FileLock| other.owner == one.owner
                        && other.exclusive == one.exclusive
                        && one.last + 1 == other.first;
                    prop_assert!(!locks.all()[n..].iter().any(joins), "{:?}", locks);
                }
                prop_assert_eq!(FileLocks::of(locks.all()), Some(locks.clone()));
            }
        }
    }

    #[test]
    fn what_no_mount_can_have_is_refused() {
        let whole = |owner| lock(owner, 0, FileLock::LAST, true);
        assert!(FileLocks::of(&[whole(1)]).is_some());
        assert!(FileLocks::of(&[whole(1), whole(2)]).is_none());
        assert!(FileLocks::of(&[lock(1, 5, 4, false)]).is_none());
        assert!(FileLocks::of(&[lock(1, 5, u64::MAX, false)]).is_none());
        let mut locks = FileLocks::of(&[whole(1)]).unwrap();
        assert!(locks.clear(1, 10, FileLock::LAST));
        assert_eq!(locks.all(), [lock(1, 0, 9, true)]);
    }

    #[test]
    fn what_flock_locks_is_nothing_that_fcntl_does() {
        let (byte, all) = (FileLock::FLOCK, FileLock::LAST);
        let (flock, fcntl) = (lock(1, byte, byte, true), lock(2, 0, all, true));
        let mut locks = FileLocks::of(&[flock, fcntl, lock(3, byte, byte, false)]);
        assert_eq!(locks, None, "two of one kind are in each other's way");
        locks = FileLocks::of(&[flock, fcntl]);
        let mut locks = locks.expect("two of different kinds are not");
        // Of one owner, too, they do not become one.
        locks.set(lock(1, 0, 7, false));
        locks.clear(2, 0, all);
        locks.set(lock(1, 8, all, true));
        assert_eq!(locks.all().len(), 3);
        assert!(locks.clear(1, 0, all) && locks.all() == [flock]);
        assert_eq!(locks.barring(&fcntl), None);
        assert_eq!(FileLocks::of(&[lock(1, 5, byte, false)]), None);
        assert_eq!(FileLocks::of(&[lock(1, all + 1, all + 1, false)]), None);
    }
}
