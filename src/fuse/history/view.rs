//! What the numbers in the upper half stand for: the names under `.tsfs`, and objects of the past.
//!
//! A number is a hash of what it stands for, so it is the same whenever it is asked for again, and no object of the
//! past has the number of one of the present (`cp` and `diff` would take them for one file). It is known here as long
//! as the kernel knows it. Programs look at a path twice and take what has another number then for another file (`cp`
//! and `rsync` refuse it), so behind a relative time too, which every walk reads anew, one version has one number.

use crate::fuse::history::permission::Way;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use crate::types::Time;
use bytes::Bytes;
use parking_lot::Mutex;
use siphasher::sip::SipHasher13;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::Arc;

/// Set in every number of this view; the store gives out none that has it.
const UPPER_HALF: u64 = 1 << 63;

/// Something under `.tsfs`. The directory is the one of the present whose `.tsfs` it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum View {
    /// `.tsfs` itself.
    Hub(Ino),
    At(Ino),
    Versions(Ino),
    VersionsOf(Ino, Bytes),
    Deleted(Ino),
    Marks(Ino),
    Control(Ino),
    Past(Past),
}

/// An inode as it was at an instant, as reached by one door.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    pub(super) ino: Ino,
    pub(super) at: Stamp,
    pub(super) door: Door,
    /// Shown as deleted at this instant, which is its time of change.
    pub(super) gone: Option<Stamp>,
    pub(super) face: Face,
}

/// What tells objects of the past with one inode and one door apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Face {
    /// Their instant: it is the door's, and stays.
    Instant(Stamp),
    /// A directory behind a relative time. There is one, and its instant moves on whenever the time is read anew.
    Moving,
    /// Anything else behind a relative time: each version is an object.
    Version { changed: Time, modified: Time, size: u64 },
}

/// The name under `.tsfs` behind which an instant begins. The kernel takes a directory for *moved* when it meets one
/// number under two names, so what is behind one door has other numbers than behind another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Door(u64);

impl Door {
    /// The whole mount is one instant.
    pub(super) const MOUNT: Door = Door(0);

    pub(super) fn new(dir: &View, name: &[u8]) -> Door {
        let mut hasher = SipHasher13::new();
        (dir, name).hash(&mut hasher);
        Door(hasher.finish())
    }
}

impl Face {
    fn moving(attr: &Attr) -> Face {
        match attr.kind {
            FileKind::Directory => Face::Moving,
            _ => Face::Version { changed: attr.ctime, modified: attr.mtime, size: attr.size },
        }
    }
}

impl Past {
    /// Behind a door that always leads to this instant.
    pub(super) fn fixed(ino: Ino, at: Stamp, door: Door) -> Past {
        Past { ino, at, door, gone: None, face: Face::Instant(at) }
    }

    /// Behind a door that leads to this instant now, and to a later one later. `attr` is as of the instant.
    pub(super) fn moving(attr: &Attr, at: Stamp, door: Door) -> Past {
        Past { ino: attr.ino, at, door, gone: None, face: Face::moving(attr) }
    }

    /// What a name in a directory of the past leads to. `attr` is as of its instant.
    pub(super) fn below(self, attr: &Attr) -> Past {
        let face = if self.moves() { Face::moving(attr) } else { self.face };
        Past { ino: attr.ino, gone: None, face, ..self }
    }

    /// As [`Past::below`], where the instant is fixed; else a directory only, as the one that this one was in.
    pub(super) fn beside(self, ino: Ino) -> Past {
        Past { ino, gone: None, ..self }
    }

    /// Whether it is behind a relative time.
    pub(super) fn moves(self) -> bool {
        !matches!(self.face, Face::Instant(_))
    }

    /// All that counts: the instant itself only where it is the object's face.
    fn identity(&self) -> (Ino, Door, Option<Stamp>, Face) {
        (self.ino, self.door, self.gone, self.face)
    }
}

impl PartialEq for Past {
    fn eq(&self, other: &Past) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Past {}

impl Hash for Past {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

/// The numbers that the kernel knows.
#[derive(Default)]
pub(super) struct Numbers {
    known: Mutex<HashMap<Ino, Known>>,
}

struct Known {
    view: View,
    /// The directories on the way from `.tsfs` to it, as last walked.
    way: Way,
    /// As often as it was handed to the kernel and not forgotten.
    lookups: u64,
}

pub(super) fn is_ours(ino: Ino) -> bool {
    ino.get() & UPPER_HALF != 0
}

impl Numbers {
    /// What a number stands for, and the way to it.
    pub(super) fn get(&self, ino: Ino) -> Result<(View, Way), FsError> {
        let known = self.known.lock();
        let known = known.get(&ino).ok_or(FsError::Stale)?;
        Ok((known.view.clone(), Arc::clone(&known.way)))
    }

    /// The number of a view that is handed to the kernel: one more lookup.
    pub(super) fn enter(&self, view: &View, way: Way) -> Ino {
        let mut known = self.known.lock();
        let mut ino = first(view);
        loop {
            match known.entry(ino) {
                Entry::Vacant(free) => {
                    free.insert(Known { view: view.clone(), way, lookups: 1 });
                    return ino;
                }
                Entry::Occupied(mut taken) if taken.get().view == *view => {
                    let known = taken.get_mut();
                    known.lookups += 1;
                    // Behind a relative time its instant may be a later one now.
                    known.view = view.clone();
                    known.way = way;
                    return ino;
                }
                Entry::Occupied(_) => ino = next(ino),
            }
        }
    }

    /// The number that a view has or would get; for a listing's numbers, which nobody looks up by.
    pub(super) fn show(&self, view: &View) -> Ino {
        let known = self.known.lock();
        let mut ino = first(view);
        while known.get(&ino).is_some_and(|known| known.view != *view) {
            ino = next(ino);
        }
        ino
    }

    pub(super) fn forget(&self, ino: Ino, lookups: u64) {
        let mut known = self.known.lock();
        if let Entry::Occupied(mut entry) = known.entry(ino) {
            entry.get_mut().lookups = entry.get().lookups.saturating_sub(lookups);
            if entry.get().lookups == 0 {
                entry.remove();
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.known.lock().len()
    }
}

fn first(view: &View) -> Ino {
    let mut hasher = SipHasher13::new();
    view.hash(&mut hasher);
    upper(hasher.finish())
}

fn next(ino: Ino) -> Ino {
    upper(ino.get().wrapping_add(1))
}

fn upper(raw: u64) -> Ino {
    Ino::new(raw | UPPER_HALF).expect("the upper half has no zero")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(at: u64, door: Door) -> View {
        View::Past(Past::fixed(Ino::ROOT, Stamp(at), door))
    }

    fn way() -> Way {
        Arc::new(None)
    }

    #[test]
    fn a_number_lives_as_long_as_the_kernel_knows_it() {
        let numbers = Numbers::default();
        let past = past(5, Door::MOUNT);
        let shown = numbers.show(&past);
        let ino = numbers.enter(&past, way());
        assert_eq!((shown, is_ours(ino), is_ours(Ino::ROOT)), (ino, true, false));
        assert_eq!(numbers.enter(&past, way()), ino);
        numbers.forget(ino, 1);
        assert_eq!(numbers.get(ino).map(|(view, _)| view), Ok(past.clone()));
        numbers.forget(ino, 1);
        assert_eq!(numbers.get(ino).map(|(view, _)| view), Err(FsError::Stale));
        assert_eq!(numbers.len(), 0);
        assert_eq!(numbers.enter(&past, way()), ino, "and gets the same number again");
    }

    #[test]
    fn what_differs_has_numbers_that_differ() {
        let numbers = Numbers::default();
        let hub = View::Hub(Ino::ROOT);
        let views = [
            View::At(Ino::ROOT),
            View::VersionsOf(Ino::ROOT, Bytes::from_static(b"a")),
            View::VersionsOf(Ino::ROOT, Bytes::from_static(b"b")),
            past(5, Door::MOUNT),
            past(6, Door::MOUNT),
            past(5, Door::new(&hub, b"a")),
            past(5, Door::new(&hub, b"b")),
            past(5, Door::new(&View::At(Ino::ROOT), b"a")),
            hub,
        ];
        for view in &views {
            numbers.enter(view, way());
        }
        assert_eq!(numbers.len(), views.len());
    }

    #[test]
    fn a_number_that_is_taken_is_passed_over() {
        let numbers = Numbers::default();
        let view = View::Hub(Ino::ROOT);
        let taken = first(&view);
        let other = Known { view: View::At(Ino::ROOT), way: way(), lookups: 1 };
        numbers.known.lock().insert(taken, other);
        assert_eq!(numbers.enter(&view, way()), next(taken));
        assert_eq!(numbers.show(&view), next(taken));
    }
}
