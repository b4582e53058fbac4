//! The seam to the disk: an ordered map in a few families, written in atomic batches.
//!
//! `store::table` implements it on RocksDB and in memory; one contract suite runs on both.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Visit;
use crate::types::FsError;
use bytes::Bytes;

/// The parts of the table. All but `Local` are the replicated state: equal on every replica at equal index.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize,
)]
pub enum Family {
    /// key → value and the stamp it holds from.
    Current,
    /// key, ~from → value, from, to; and the index of past rows by interval.
    History,
    /// Frames of blocks that travelled inside ops.
    Payload,
    /// One row per batch: who changed which keys when. Purge's queue, audit's source.
    Changes,
    /// Rows without a history: sessions, marks, counts, horizon.
    State,
    /// What this node alone knows: applied index, where its blocks lie.
    Local,
}

impl Family {
    pub const ALL: [Family; 6] = [
        Family::Current,
        Family::History,
        Family::Payload,
        Family::Changes,
        Family::State,
        Family::Local,
    ];
}

/// Rows to put (`Some`) or delete (`None`), applied as one. A later change of a row wins.
#[derive(Default, Debug)]
pub struct Changes {
    pub rows: Vec<(Family, Vec<u8>, Option<Bytes>)>,
}

impl Changes {
    pub fn put(&mut self, family: Family, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.rows.push((family, key.into(), Some(value.into())));
    }

    pub fn delete(&mut self, family: Family, key: impl Into<Vec<u8>>) {
        self.rows.push((family, key.into(), None));
    }
}

/// Reading a table, or a snapshot of one.
pub trait Rows {
    /// # Errors
    /// `Damaged` where a checksum fails, `Io`.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, FsError>;

    /// Visits the rows of `range` in key order, or against it.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    fn scan(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError>;
}

/// A table that can be written.
pub trait Table: Rows + Send + Sync {
    /// A view that later writes do not change.
    fn snapshot(&self) -> Box<dyn Rows + '_>;

    /// Applies all changes or none. Not durable until the next [`Table::flush`] returns.
    ///
    /// # Errors
    /// `NoSpace`, after which the same changes may be tried again; `Io`.
    fn write(&self, changes: &Changes) -> Result<(), FsError>;

    /// Makes everything written before this call durable, all families as one.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn flush(&self) -> Result<(), FsError>;
}
