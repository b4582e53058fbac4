//! A table in memory: the double that tests and simulations run on.
//!
//! It keeps what RocksDB keeps – atomic writes, snapshots, durability only at a flush – and can lose the power. Not
//! here: frugality. A write copies a family that a snapshot still holds.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Visit;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::series::table::Table;
use crate::types::FsError;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

type Map = BTreeMap<Vec<u8>, Bytes>;

/// One state of all families. Cloning shares the maps; a later change copies the map that it touches.
#[derive(Clone, Default)]
struct State {
    families: [Arc<Map>; Family::ALL.len()],
}

impl Rows for State {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        Ok(self.families[family as usize].get(key).cloned())
    }

    fn scan(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        let end = match range.end.as_slice() {
            [] => Bound::Unbounded,
            end if end <= range.start.as_slice() => return Ok(()),
            end => Bound::Excluded(end),
        };
        let rows = self.families[family as usize]
            .range::<[u8], _>((Bound::Included(range.start.as_slice()), end));
        let _ = match direction {
            Direction::Forward => rows.into_iter().try_for_each(|(key, value)| visit(key, value)),
            Direction::Backward => rows.rev().try_for_each(|(key, value)| visit(key, value)),
        };
        Ok(())
    }
}

#[derive(Default)]
struct Inner {
    now: State,
    durable: State,
}

/// A table that lives as long as its value.
#[derive(Default)]
pub struct MemoryTable {
    inner: Mutex<Inner>,
}

impl MemoryTable {
    /// Loses what was written since the last flush, as a power cut does.
    pub fn lose_power(&self) {
        let mut inner = self.inner.lock();
        inner.now = inner.durable.clone();
    }

    /// Another table with what this one has now, or would have after a power cut.
    pub fn copy(&self, after_cut: bool) -> MemoryTable {
        let inner = self.inner.lock();
        let now = if after_cut { inner.durable.clone() } else { inner.now.clone() };
        MemoryTable { inner: Mutex::new(Inner { now, durable: inner.durable.clone() }) }
    }

    /// The present state, shared: a visitor may call the table again while it scans.
    fn now(&self) -> State {
        self.inner.lock().now.clone()
    }
}

impl Rows for MemoryTable {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        self.inner.lock().now.get(family, key)
    }

    fn scan(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        self.now().scan(family, range, direction, visit)
    }
}

impl Table for MemoryTable {
    fn snapshot(&self) -> Box<dyn Rows + '_> {
        Box::new(self.now())
    }

    fn write(&self, changes: &Changes) -> Result<(), FsError> {
        let mut inner = self.inner.lock();
        for (family, key, value) in &changes.rows {
            let map = Arc::make_mut(&mut inner.now.families[*family as usize]);
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), FsError> {
        let mut inner = self.inner.lock();
        inner.durable = inner.now.clone();
        Ok(())
    }
}
