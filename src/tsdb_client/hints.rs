//! Rows of others that were asked for a moment ago: good enough to decide a direct change on, which is applied only if they are still so.
//!
//! Programs look before they change: the kernel asks for a name before it makes it. Nothing is answered from here. Not here: what may be
//! answered from (`copies`).

use bytes::Bytes;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

/// Rows that are remembered.
const ROWS_MAX: usize = 256;
/// Where others change something, what is older is mostly old.
const AGE_MAX: Duration = Duration::from_millis(20);
/// Longer ones are as well asked for.
const ROW_BYTES_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Hints {
    rows: HashMap<Bytes, (Duration, Option<Bytes>)>,
    /// When they were noted, oldest first; a row may have been noted again since.
    order: VecDeque<(Duration, Bytes)>,
}

impl Hints {
    pub(super) fn note(&mut self, key: Bytes, value: Option<Bytes>, now: Duration) {
        if value.as_ref().is_some_and(|value| value.len() > ROW_BYTES_MAX) {
            self.rows.remove(&key);
            return;
        }
        self.order.push_back((now, key.clone()));
        self.rows.insert(key, (now, value));
        while let Some((noted, key)) = self.order.front()
            && (self.order.len() > ROWS_MAX || *noted + AGE_MAX <= now)
        {
            if self.rows.get(key).is_some_and(|(of, _)| of == noted) {
                self.rows.remove(key);
            }
            self.order.pop_front();
        }
    }

    pub(super) fn get(&self, key: &[u8], now: Duration) -> Option<Option<Bytes>> {
        let (noted, value) = self.rows.get(key)?;
        (*noted + AGE_MAX > now).then(|| value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_few_and_young() {
        let mut hints = Hints::default();
        let value = |n: u64| Some(Bytes::copy_from_slice(&n.to_be_bytes()));
        let key = |n: u64| value(n).unwrap();
        let at = Duration::from_millis;
        hints.note(key(0), value(0), at(0));
        hints.note(key(1), None, at(5));
        hints.note(key(0), value(7), at(10));
        hints.note(key(2), Some(Bytes::from(vec![0; 5000])), at(10));
        assert_eq!(hints.get(&key(0), at(12)), Some(value(7)));
        assert_eq!((hints.get(&key(1), at(12)), hints.get(&key(2), at(12))), (Some(None), None));
        assert_eq!((hints.get(&key(1), at(25)), hints.get(&key(0), at(30))), (None, None));
        hints.note(key(3), None, at(29));
        assert_eq!(hints.rows.len(), 2, "the old one went");
        for n in 0..1000 {
            hints.note(key(n), value(n), at(40));
        }
        assert_eq!((hints.rows.len(), hints.order.len()), (ROWS_MAX, ROWS_MAX));
        assert_eq!(hints.get(&key(999), at(40)), Some(value(999)));
    }
}
