//! Clean rows: what the server showed, present and past, bounded by bytes. Absence is cached too.
//!
//! Not here: rows this client changed (`overlay`), when a row may be put (`reader`).

use crate::types::Stamp;
use bytes::Bytes;
use quick_cache::Equivalent;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// What a cached row costs besides its bytes: two handles, two allocations, the cache's own entry.
const ROW_OVERHEAD_BYTES: u64 = 160;
/// Rows are this long on average, overhead included: the cache sizes its tables by it.
const ROW_BYTES_EXPECTED: u64 = 320;
/// The share of the past in the bytes that rows may take.
const PAST_SHARE: u64 = 4;

#[derive(Clone, PartialEq, Eq, Hash)]
struct PastKey {
    key: Bytes,
    at: Stamp,
}

/// Hashes and compares as the [`PastKey`] with the same bytes.
#[derive(Hash)]
struct PastRef<'a> {
    key: &'a [u8],
    at: Stamp,
}

impl Equivalent<PastKey> for PastRef<'_> {
    fn equivalent(&self, other: &PastKey) -> bool {
        self.at == other.at && *self.key == *other.key
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Bytes, Option<Bytes>> for ByBytes {
    fn weight(&self, key: &Bytes, value: &Option<Bytes>) -> u64 {
        (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64 + ROW_OVERHEAD_BYTES
    }
}

impl Weighter<PastKey, Option<Bytes>> for ByBytes {
    fn weight(&self, key: &PastKey, value: &Option<Bytes>) -> u64 {
        ByBytes.weight(&key.key, value)
    }
}

pub(super) struct Rows {
    now: Cache<Bytes, Option<Bytes>, ByBytes>,
    past: Cache<PastKey, Option<Bytes>, ByBytes>,
}

impl Rows {
    pub(super) fn new(bytes_max: u64) -> Rows {
        let past = bytes_max / PAST_SHARE;
        let now = bytes_max - past;
        Rows {
            now: Cache::with_weighter((now / ROW_BYTES_EXPECTED) as usize, now, ByBytes),
            past: Cache::with_weighter((past / ROW_BYTES_EXPECTED) as usize, past, ByBytes),
        }
    }

    /// `None`: not known. `Some(None)`: known to be absent.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.now.get(key)
    }

    pub(super) fn put(&self, key: Bytes, value: Option<Bytes>) {
        self.now.insert(key, value);
    }

    pub(super) fn remove(&self, key: &[u8]) {
        self.now.remove(key);
    }

    pub(super) fn past(&self, key: &[u8], at: Stamp) -> Option<Option<Bytes>> {
        self.past.get(&PastRef { key, at })
    }

    pub(super) fn put_past(&self, key: &[u8], at: Stamp, value: Option<Bytes>) {
        self.past.insert(PastKey { key: Bytes::copy_from_slice(key), at }, value);
    }

    /// Forgets the present. The past stays: it does not change.
    pub(super) fn clear(&self) {
        self.now.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_is_known_and_the_past_is_apart_from_the_present() {
        let rows = Rows::new(1 << 20);
        let value = Some(Bytes::from_static(b"v"));
        rows.put(Bytes::from_static(b"k"), None);
        rows.put_past(b"k", Stamp(7), value.clone());
        assert_eq!(rows.get(b"k"), Some(None));
        assert_eq!(rows.get(b"x"), None);
        assert_eq!(rows.past(b"k", Stamp(7)), Some(value));
        assert_eq!(rows.past(b"k", Stamp(8)), None);
        rows.clear();
        assert_eq!(rows.get(b"k"), None);
    }

    #[test]
    fn it_takes_no_more_than_it_may() {
        let rows = Rows::new(1 << 20);
        for n in 0..20_000_u64 {
            rows.put(Bytes::copy_from_slice(&n.to_be_bytes()), Some(Bytes::from(vec![0; 100])));
        }
        assert!(rows.now.weight() <= 1 << 20, "{}", rows.now.weight());
        assert!(rows.now.len() > 1_000, "{}", rows.now.len());
    }
}
