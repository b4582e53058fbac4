//! Rows that this client changed and the server does not show yet, ordered, because listing a directory merges them.
//!
//! Each row remembers the batch that wrote it last; once that batch is applied the row is clean and goes. Not here: what
//! rows mean, where clean rows are kept.

use crate::series::KeyRange;
use crate::types::BatchSeq;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Bound;

struct Row {
    /// `None`: removed.
    value: Option<Bytes>,
    batch: BatchSeq,
}

/// Uncommitted rows of one family.
#[derive(Default)]
pub(super) struct Overlay {
    rows: BTreeMap<Bytes, Row>,
    /// The keys that each batch not yet applied has written, oldest batch first. A key stands under every batch that wrote it.
    written: VecDeque<(BatchSeq, Vec<Bytes>)>,
}

impl Overlay {
    /// `None`: nothing is known here. `Some(None)`: removed.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.rows.get(key).map(|row| row.value.clone())
    }

    /// `batch` is the newest one, or newer.
    pub(super) fn put(&mut self, key: &[u8], value: Option<Bytes>, batch: BatchSeq) {
        let key = match self.rows.get_mut(key) {
            Some(row) if row.batch == batch => {
                row.value = value;
                return;
            }
            Some(row) => {
                *row = Row { value, batch };
                Bytes::copy_from_slice(key)
            }
            None => {
                let key = Bytes::copy_from_slice(key);
                self.rows.insert(key.clone(), Row { value, batch });
                key
            }
        };
        match self.written.back_mut() {
            Some((last, keys)) if *last == batch => keys.push(key),
            _ => self.written.push_back((batch, vec![key])),
        }
    }

    /// The rows of a range in key order.
    pub(super) fn range(
        &self,
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = (&Bytes, &Option<Bytes>)> {
        let start = range.start.as_slice();
        let end = match range.end.as_slice() {
            [] => Bound::Unbounded,
            // A range that ends before it starts is empty; the map would panic.
            end => Bound::Excluded(end.max(start)),
        };
        let rows = self.rows.range::<[u8], _>((Bound::Included(start), end));
        rows.map(|(key, row)| (key, &row.value))
    }

    /// The server shows everything up to `applied`: gives back the rows that no later batch wrote.
    pub(super) fn demote(
        &mut self,
        applied: BatchSeq,
        mut clean: impl FnMut(Bytes, Option<Bytes>),
    ) {
        while let Some((batch, _)) = self.written.front()
            && *batch <= applied
        {
            let (_, keys) = self.written.pop_front().expect("it has a front");
            for key in keys {
                if self.rows.get(&key).is_some_and(|row| row.batch <= applied) {
                    let row = self.rows.remove(&key).expect("it was just found");
                    clean(key, row.value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_row_stays_until_the_last_batch_that_wrote_it_is_applied() {
        let mut overlay = Overlay::default();
        overlay.put(b"a", Some(key("1")), BatchSeq(1));
        overlay.put(b"b", Some(key("1")), BatchSeq(1));
        overlay.put(b"a", None, BatchSeq(3));
        let mut clean = Vec::new();
        overlay.demote(BatchSeq(2), |key, value| clean.push((key, value)));
        assert_eq!(clean, [(key("b"), Some(key("1")))]);
        assert_eq!(overlay.get(b"a"), Some(None), "removed by a batch that is still on its way");
        assert_eq!(overlay.get(b"b"), None);
        overlay.demote(BatchSeq(3), |key, value| clean.push((key, value)));
        assert_eq!(clean[1], (key("a"), None));
        assert!(overlay.rows.is_empty() && overlay.written.is_empty());
    }

    #[test]
    fn ranges_are_in_order_and_may_be_open_or_empty() {
        let mut overlay = Overlay::default();
        for name in ["c", "a", "b"] {
            overlay.put(name.as_bytes(), Some(key("")), BatchSeq(1));
        }
        let keys = |start: &str, end: &str| -> Vec<Bytes> {
            let range = KeyRange { start: start.into(), end: end.into() };
            overlay.range(&range).map(|(key, _)| key.clone()).collect()
        };
        assert_eq!(keys("", ""), [key("a"), key("b"), key("c")]);
        assert_eq!(keys("b", "c"), [key("b")]);
        assert_eq!(keys("c", "b"), [] as [Bytes; 0]);
    }
}
