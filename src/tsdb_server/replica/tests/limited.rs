//! A table on a disk that is full whenever the test says so.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Visit;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::series::table::Table;
use crate::store::table::MemoryTable;
use crate::types::FsError;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;

/// A table that takes nothing while it is full, and tells whoever wants to know when it refused something.
#[derive(Default)]
pub(super) struct Limited {
    table: MemoryTable,
    pub(super) full: AtomicBool,
    pub(super) tell: Mutex<Option<mpsc::Sender<()>>>,
}

impl Limited {
    pub(super) fn lose_power(&self) {
        self.table.lose_power();
    }

    fn room(&self) -> Result<(), FsError> {
        if !self.full.load(SeqCst) {
            return Ok(());
        }
        if let Some(tell) = &*self.tell.lock() {
            // Whoever knows enough has gone.
            let _ = tell.send(());
        }
        Err(FsError::NoSpace)
    }
}

impl Rows for Limited {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        self.table.get(family, key)
    }

    fn scan(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        self.table.scan(family, range, direction, visit)
    }
}

impl Table for Limited {
    fn snapshot(&self) -> Box<dyn Rows + '_> {
        self.table.snapshot()
    }

    fn write(&self, changes: &Changes) -> Result<(), FsError> {
        self.room()?;
        self.table.write(changes)
    }

    fn flush(&self) -> Result<(), FsError> {
        self.room()?;
        self.table.flush()
    }
}
