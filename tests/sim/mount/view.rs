//! The tree as a mount sees it while the rules run: what it changed over what it knows, or a note of what it has to ask for.

use super::Rows;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use tsfs::meta::key::Key;
use tsfs::series::Direction;
use tsfs::series::KeyRange;
use tsfs::series::Past;
use tsfs::series::Present;
use tsfs::series::Replica;
use tsfs::series::Visit;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::Stamp;

/// What is to be asked of the leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Miss {
    Key(Bytes),
    Range(KeyRange),
}

pub(crate) struct View<'a> {
    /// What batches changed that are not applied.
    pub(crate) overlay: &'a BTreeMap<Vec<u8>, (u64, Option<Bytes>)>,
    /// Of what the mount owns.
    pub(crate) cache: &'a Rows,
    /// Asked for this call.
    pub(crate) fresh: &'a Rows,
    pub(crate) owns: &'a dyn Fn(Ino) -> bool,
    pub(crate) changed: BTreeMap<Vec<u8>, Option<Bytes>>,
    /// Rows of others.
    pub(crate) seen: BTreeMap<Vec<u8>, Option<Bytes>>,
    pub(crate) touched: BTreeSet<Ino>,
    pub(crate) missed: Option<Miss>,
}

fn ino_of(key: &[u8]) -> Ino {
    Key::decode(key).expect("mounts see rows of the tree only").ino()
}

fn missed() -> FsError {
    FsError::Unreachable("it is to be asked for".to_owned())
}

impl View<'_> {
    /// As it is without what this call changes.
    fn known(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        let ino = ino_of(key);
        self.touched.insert(ino);
        if !(self.owns)(ino) {
            let Some(row) = self.fresh.rows.get(key) else {
                self.missed = Some(Miss::Key(Bytes::copy_from_slice(key)));
                return Err(missed());
            };
            self.seen.insert(key.to_vec(), row.clone());
            return Ok(row.clone());
        }
        if let Some((_, row)) = self.overlay.get(key) {
            return Ok(row.clone());
        }
        match self.cache.get(key) {
            Some(row) => Ok(row),
            None => {
                self.missed = Some(Miss::Key(Bytes::copy_from_slice(key)));
                Err(missed())
            }
        }
    }
}

impl Present for View<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        if let Some(row) = self.changed.get(key) {
            return Ok(row.clone());
        }
        self.known(key)
    }

    fn scan(
        &mut self,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        assert_eq!(direction, Direction::Forward);
        let ino = tsfs::meta::key::inode_of(&range.start).expect("rows of one inode");
        self.touched.insert(ino);
        let own = (self.owns)(ino);
        let from = if own { self.cache } else { self.fresh };
        if !from.ranges.contains(&(range.start.clone(), range.end.clone())) {
            self.missed = Some(Miss::Range(range.clone()));
            return Err(missed());
        }
        let mut rows: BTreeMap<Vec<u8>, Option<Bytes>> = BTreeMap::new();
        let known = from.rows.iter().filter(|(key, _)| range.contains(key));
        for (key, row) in known {
            rows.insert(key.clone(), row.clone());
            if !own {
                self.seen.insert(key.clone(), row.clone());
            }
        }
        let changed = self.overlay.iter().map(|(key, (_, row))| (key, row)).chain(&self.changed);
        let changed = changed.filter(|(key, _)| range.contains(key));
        rows.extend(changed.map(|(key, row)| (key.clone(), row.clone())));
        for (key, row) in rows {
            if let Some(row) = row
                && visit(&key, &row) == ControlFlow::Break(())
            {
                break;
            }
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: Bytes, _: Past) {
        self.touched.insert(ino_of(key));
        self.changed.insert(key.to_vec(), Some(value));
    }

    fn remove(&mut self, key: &[u8], _: Past) {
        self.touched.insert(ino_of(key));
        self.changed.insert(key.to_vec(), None);
    }

    fn cut(&mut self) {}

    fn state(&mut self, _: &[u8]) -> Result<Option<Bytes>, FsError> {
        Ok(None)
    }

    fn state_put(&mut self, _: &[u8], _: Option<Bytes>) {}

    fn state_scan(&mut self, _: &KeyRange, _: Visit<'_>) -> Result<(), FsError> {
        Ok(())
    }

    fn stamp(&self) -> Option<Stamp> {
        None
    }

    fn replica(&mut self) -> Option<&mut dyn Replica> {
        None
    }
}
