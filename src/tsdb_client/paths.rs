//! Where inodes were when they were last met: a directory and a name, for whoever has to be told of an inode later.
//!
//! A guess, never an answer: names move, and what was not met lately is forgotten. Not here: what a name leads to.

use crate::types::Ino;
use bytes::Bytes;
use quick_cache::sync::Cache;

/// Inodes whose last place is remembered.
const PLACES_MAX: usize = 65_536;
/// A path is not followed any further up.
const DEPTH_MAX: usize = 128;

pub(super) struct Paths {
    places: Option<Cache<Ino, (Ino, Bytes)>>,
}

impl Paths {
    /// `keeps`: otherwise nothing is remembered.
    pub(super) fn new(keeps: bool) -> Paths {
        Paths { places: keeps.then(|| Cache::new(PLACES_MAX)) }
    }

    /// `dir` has `ino` under this name.
    pub(super) fn note(&self, dir: Ino, name: &[u8], ino: Ino) {
        let Some(places) = &self.places else { return };
        // Mostly it is where it was: then nothing is copied.
        let same = |(at, known): (Ino, Bytes)| at == dir && *known == *name;
        if !places.get(&ino).is_some_and(same) {
            places.insert(ino, (dir, Bytes::copy_from_slice(name)));
        }
    }

    /// The path of an inode below the highest directory that is known. `None` where nothing is.
    pub(super) fn find(&self, ino: Ino) -> Option<(Ino, Vec<u8>)> {
        let (mut under, name) = self.places.as_ref()?.get(&ino)?;
        let mut names = vec![name];
        while under != Ino::ROOT
            && names.len() < DEPTH_MAX
            && let Some((dir, name)) = self.places.as_ref()?.get(&under)
        {
            names.push(name);
            under = dir;
        }
        names.reverse();
        Some((under, names.join(&b'/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_as_long_as_what_is_known() {
        let paths = Paths::new(true);
        let ino = |number| Ino::new(number).unwrap();
        paths.note(Ino::ROOT, b"a", ino(2));
        paths.note(ino(2), b"b", ino(3));
        paths.note(ino(9), b"x", ino(10));
        assert_eq!(paths.find(ino(3)), Some((Ino::ROOT, b"a/b".to_vec())));
        assert_eq!(paths.find(ino(10)), Some((ino(9), b"x".to_vec())));
        assert_eq!(paths.find(ino(4)), None);
        paths.note(Ino::ROOT, b"moved", ino(3));
        assert_eq!(paths.find(ino(3)), Some((Ino::ROOT, b"moved".to_vec())));
        // What was moved in a circle meanwhile ends all the same.
        paths.note(ino(3), b"c", ino(2));
        paths.note(ino(2), b"b", ino(3));
        assert!(paths.find(ino(3)).is_some());
        let none = Paths::new(false);
        none.note(Ino::ROOT, b"a", ino(2));
        assert_eq!(none.find(ino(2)), None);
    }
}
