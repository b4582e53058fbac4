//! What one key held and holds within a batch, step by step.

use crate::series::Past;
use crate::types::Stamp;
use bytes::Bytes;

/// The row that the table has in `current`.
#[derive(Clone, Debug)]
pub(super) struct Former {
    pub from: Stamp,
    pub run: u8,
    pub value: Bytes,
}

/// A version that ended within the batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ended {
    pub from: Stamp,
    pub to: Stamp,
    pub value: Bytes,
}

/// A key's versions, beginning with the table's.
#[derive(Debug)]
pub(super) struct Timeline {
    pub former: Option<Former>,
    /// Oldest first; none is empty, and they do not overlap.
    pub ended: Vec<Ended>,
    /// What holds now, and since when.
    pub live: Option<(Stamp, Bytes)>,
    /// When what was in the table was removed without leaving a version.
    pub forgotten: Option<Stamp>,
}

impl Timeline {
    pub(super) fn new(former: Option<Former>) -> Timeline {
        let live = former.as_ref().map(|former| (former.from, former.value.clone()));
        Timeline { former, ended: Vec::new(), live, forgotten: None }
    }

    pub(super) fn now(&self) -> Option<&Bytes> {
        self.live.as_ref().map(|(_, value)| value)
    }

    /// The oldest value that the batch leaves, not counting versions that ended before it.
    pub(super) fn oldest(&self) -> Option<&Bytes> {
        self.ended.first().map(|ended| &ended.value).or(self.now())
    }

    /// What the version that the table holds as present one is to be after the batch; `None` if it is forgotten.
    pub(super) fn stands(&self) -> Option<&Bytes> {
        let from =
            self.ended.first().map(|ended| ended.from).or(self.live.as_ref().map(|live| live.0));
        let former = self.former.as_ref().map(|former| former.from);
        if from == former { self.oldest() } else { None }
    }

    /// Nothing is to be written.
    pub(super) fn is_unchanged(&self) -> bool {
        let unmoved = match (&self.former, &self.live) {
            (None, None) => true,
            (Some(former), Some((from, value))) => former.from == *from && former.value == *value,
            _ => false,
        };
        unmoved && self.ended.is_empty()
    }

    /// Lets the key hold `value` from `stamp` on, which is not before any stamp given earlier.
    pub(super) fn change(&mut self, stamp: Stamp, value: Option<Bytes>, past: Past) {
        match (past, self.live.take()) {
            (Past::Keep | Past::Fresh, Some((from, former))) if value.as_ref() == Some(&former) => {
                self.live = Some((from, former));
            }
            // Begun in this step: no instant shows what it held.
            (Past::Keep | Past::Fresh, Some((from, _))) if from == stamp => {
                self.begin(stamp, value)
            }
            (Past::Keep | Past::Fresh, Some((from, former))) => {
                self.ended.push(Ended { from, to: stamp, value: former });
                self.begin(stamp, value);
            }
            (Past::Forget, Some((from, _))) => {
                if value.is_none() && self.former.is_some() {
                    self.forgotten = Some(stamp);
                }
                self.live = value.map(|value| (from, value));
            }
            (Past::Keep | Past::Fresh | Past::Forget, None) => self.begin(stamp, value),
        }
    }

    fn begin(&mut self, stamp: Stamp, value: Option<Bytes>) {
        let Some(value) = value else { return };
        // What ended in this step and is put back never ended.
        match self.ended.pop_if(|last| last.to == stamp && last.value == value) {
            Some(back) => self.live = Some((back.from, back.value)),
            None => self.live = Some((stamp, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &Bytes) -> String {
        String::from_utf8(value.to_vec()).unwrap()
    }

    /// Versions as (from, to, value), the live one without an end. The table's holds from 5.
    fn versions(former: Option<&str>, changes: &[(u64, Option<&str>, Past)]) -> Vec<String> {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let former = former.map(|text| Former { from: Stamp(5), run: 0, value: bytes(text) });
        let mut timeline = Timeline::new(former);
        for (stamp, text, past) in changes {
            timeline.change(Stamp(*stamp), text.map(bytes), *past);
        }
        let ended = timeline.ended.iter();
        ended
            .map(|past| format!("{}..{} {}", past.from.0, past.to.0, text(&past.value)))
            .chain(
                timeline.live.iter().map(|(from, value)| format!("{}.. {}", from.0, text(value))),
            )
            .collect()
    }

    #[test]
    fn a_step_leaves_one_version_and_none_of_what_it_undid() {
        use Past::Keep;
        let cases: [(&[_], &[&str]); 7] = [
            (&[(9, Some("b"), Keep), (9, Some("c"), Keep)], &["5..9 a", "9.. c"]),
            (&[(9, Some("b"), Keep), (10, Some("c"), Keep)], &["5..9 a", "9..10 b", "10.. c"]),
            (&[(9, Some("b"), Keep), (9, None, Keep)], &["5..9 a"]),
            (&[(9, Some("b"), Keep), (10, None, Keep)], &["5..9 a", "9..10 b"]),
            (&[(9, None, Keep), (9, Some("a"), Keep)], &["5.. a"]),
            (&[(9, Some("a"), Keep)], &["5.. a"]),
            (&[(9, None, Keep), (11, Some("a"), Keep)], &["5..9 a", "11.. a"]),
        ];
        for (changes, expected) in cases {
            assert_eq!(versions(Some("a"), changes), expected, "{changes:?}");
        }
        assert_eq!(versions(None, &[(9, Some("b"), Keep), (9, None, Keep)]), [""; 0]);
        assert_eq!(versions(None, &[(9, Some("b"), Keep), (10, None, Keep)]), ["9..10 b"]);
    }

    #[test]
    fn what_is_forgotten_changes_in_place() {
        use Past::Forget;
        use Past::Keep;
        let cases: [(&[_], &[&str]); 5] = [
            (&[(9, Some("b"), Forget)], &["5.. b"]),
            (&[(9, Some("b"), Forget), (9, Some("c"), Keep)], &["5..9 b", "9.. c"]),
            (&[(9, Some("b"), Keep), (11, Some("c"), Forget)], &["5..9 a", "9.. c"]),
            (&[(9, None, Forget)], &[]),
            (&[(9, None, Forget), (11, Some("c"), Forget)], &["11.. c"]),
        ];
        for (changes, expected) in cases {
            assert_eq!(versions(Some("a"), changes), expected, "{changes:?}");
        }
        assert_eq!(versions(None, &[(9, Some("b"), Forget)]), ["9.. b"]);
    }
}
