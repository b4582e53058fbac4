//! The bytes of rows: what is (`current`), what was (`history`), and the index of what was by interval.
//!
//! `docs/format.md` draws them. Not here: how one value is told as a change of another, and which rows are written
//! when.
//!
//! The index answers "which keys of a group held something at t" without meeting all that ever lived there. A
//! past version is listed under the smallest dyadic interval `[n·2^l, (n+1)·2^l)` that contains its own. For one t there
//! are 65 such intervals, one of each size, and whatever held at t is listed under one of them.

use crate::series::delta::Form;
use crate::types::FsError;
use crate::types::Stamp;
use bytes::Bytes;

/// How rows are laid out. Stands in the upper three bits of each row's first byte.
const FORMAT: u8 = 1;
const FORMAT_SHIFT: u32 = 5;
const LOW_BITS: u8 = (1 << FORMAT_SHIFT) - 1;

/// First byte of an index row. No key of a series begins with it.
pub(crate) const INDEX: u8 = 0;
/// An index row carries the value itself up to this many bytes: a listing then needs no second lookup.
const INDEX_VALUE_BYTES_MAX: usize = 48;
/// Sizes of dyadic intervals: from one stamp to all of them.
pub(crate) const LEVELS: u8 = 65;

/// Most deltas between a past version and the full value that it is told from.
pub(crate) const CHAIN_MAX: u8 = 16;
const _: () = assert!(CHAIN_MAX <= LOW_BITS, "a run fits beside the format");

pub(crate) fn damaged(what: &str, key: &[u8]) -> FsError {
    FsError::Damaged(format!("row {}: {what}", key.escape_ascii()))
}

/// Takes the low bits of a row's first byte, if the row is of our format.
fn head(row: &[u8], key: &[u8]) -> Result<u8, FsError> {
    match row.first() {
        Some(head) if head >> FORMAT_SHIFT == FORMAT => Ok(head & LOW_BITS),
        Some(_) => Err(damaged("it is of another format", key)),
        None => Err(damaged("it is empty", key)),
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number from the front; `None` where there is none, or one of more than 64 bits.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        number |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn take_stamp(bytes: &mut &[u8]) -> Option<Stamp> {
    let (stamp, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(Stamp(u64::from_be_bytes(*stamp)))
}

/// A row of `current`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Present<'a> {
    pub from: Stamp,
    /// How many of the newest past versions, in a row, are deltas: the newest of them on this value.
    pub run: u8,
    pub value: &'a [u8],
}

/// Bytes before the value in a row of `current`.
pub(crate) const PRESENT_HEAD_BYTES: usize = 9;

impl<'a> Present<'a> {
    pub(crate) fn decode(key: &[u8], row: &'a [u8]) -> Result<Present<'a>, FsError> {
        let run = head(row, key)?;
        let mut rest = &row[1..];
        let from = take_stamp(&mut rest).ok_or_else(|| damaged("it is cut", key))?;
        Ok(Present { from, run, value: rest })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(PRESENT_HEAD_BYTES + self.value.len());
        row.push(FORMAT << FORMAT_SHIFT | self.run);
        row.extend_from_slice(&self.from.0.to_be_bytes());
        row.extend_from_slice(self.value);
        row
    }
}

/// A row of `history`, apart from its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Past<'a> {
    pub to: Stamp,
    pub form: Form,
    pub body: &'a [u8],
}

impl<'a> Past<'a> {
    pub(crate) fn decode(key: &[u8], from: Stamp, row: &'a [u8]) -> Result<Past<'a>, FsError> {
        let form = Form::from_bits(head(row, key)?)
            .ok_or_else(|| damaged("its form is not known", key))?;
        let mut rest = &row[1..];
        let to = take_varint(&mut rest)
            .and_then(|length| from.0.checked_add(length))
            .ok_or_else(|| damaged("it is cut", key))?;
        Ok(Past { to: Stamp(to), form, body: rest })
    }

    /// `from` is before `to`.
    pub(crate) fn encode(&self, from: Stamp) -> Vec<u8> {
        let mut row = Vec::with_capacity(11 + self.body.len());
        row.push(FORMAT << FORMAT_SHIFT | self.form as u8);
        put_varint(&mut row, self.to.0 - from.0);
        row.extend_from_slice(self.body);
        row
    }
}

/// The key in `history` of the version that holds from `from`: newer ones sort before older ones.
pub(crate) fn past_key(key: &[u8], from: Stamp) -> Vec<u8> {
    let mut past = Vec::with_capacity(key.len() + 8);
    past.extend_from_slice(key);
    past.extend_from_slice(&(!from.0).to_be_bytes());
    past
}

/// The series and the stamp in a key of `history` that is not of the index.
pub(crate) fn split_past_key(past: &[u8]) -> Result<(&[u8], Stamp), FsError> {
    let (key, from) =
        past.split_last_chunk().ok_or_else(|| damaged("its key is too short", past))?;
    Ok((key, Stamp(!u64::from_be_bytes(*from))))
}

/// A dyadic interval: the `number`-th of the size `2^level`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Node {
    pub level: u8,
    pub number: u64,
}

impl Node {
    /// The smallest that contains `[from, to)`, which is not empty.
    pub(crate) fn around(from: Stamp, to: Stamp) -> Node {
        let last = to.0 - 1;
        Node::at(Stamp(last), (u64::BITS - (from.0 ^ last).leading_zeros()) as u8)
    }

    /// The one of this level that contains `stamp`.
    pub(crate) fn at(stamp: Stamp, level: u8) -> Node {
        Node { level, number: stamp.0.checked_shr(u32::from(level)).unwrap_or(0) }
    }

    /// What the keys of index rows under this interval begin with.
    pub(crate) fn prefix(self, group: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(group.len() + 32);
        key.push(INDEX);
        key.extend_from_slice(group);
        key.push(self.level);
        key.extend_from_slice(&self.number.to_be_bytes());
        key
    }
}

/// Bytes of [`Node::prefix`] besides the group.
pub(crate) const NODE_BYTES: usize = 10;

/// The key of the index row of a version of `key`, which begins with `group`.
pub(crate) fn index_key(key: &[u8], group: &[u8], from: Stamp, to: Stamp) -> Vec<u8> {
    let mut index = Node::around(from, to).prefix(group);
    index.extend_from_slice(&key[group.len()..]);
    index
}

/// What an index row tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Listed<'a> {
    pub from: Stamp,
    pub to: Stamp,
    /// `None` where it is too long: look it up.
    pub value: Option<&'a [u8]>,
}

impl<'a> Listed<'a> {
    pub(crate) fn new(from: Stamp, to: Stamp, value: &'a [u8]) -> Listed<'a> {
        let short = value.len() <= INDEX_VALUE_BYTES_MAX;
        Listed { from, to, value: short.then_some(value) }
    }

    pub(crate) fn decode(key: &[u8], row: &'a [u8]) -> Result<Listed<'a>, FsError> {
        let has_value = match head(row, key)? {
            0 => false,
            1 => true,
            _ => return Err(damaged("its form is not known", key)),
        };
        let mut rest = &row[1..];
        let from = take_stamp(&mut rest).ok_or_else(|| damaged("it is cut", key))?;
        let to = take_varint(&mut rest)
            .and_then(|length| from.0.checked_add(length))
            .ok_or_else(|| damaged("it is cut", key))?;
        Ok(Listed { from, to: Stamp(to), value: has_value.then_some(rest) })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let value = self.value.unwrap_or_default();
        let mut row = Vec::with_capacity(19 + value.len());
        row.push(FORMAT << FORMAT_SHIFT | u8::from(self.value.is_some()));
        row.extend_from_slice(&self.from.0.to_be_bytes());
        put_varint(&mut row, self.to.0 - self.from.0);
        row.extend_from_slice(value);
        row
    }
}

/// A value that stands in a row, without copying it.
pub(crate) fn present_value(row: &Bytes) -> Bytes {
    row.slice(PRESENT_HEAD_BYTES..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back() {
        let present = Present { from: Stamp(7), run: CHAIN_MAX, value: b"abc" };
        assert_eq!(Present::decode(b"k", &present.encode()), Ok(present));
        let past = Past { to: Stamp(1 << 60), form: Form::Patch, body: b"xyz" };
        assert_eq!(Past::decode(b"k", Stamp(3), &past.encode(Stamp(3))), Ok(past));
        for value in [&b""[..], &[1; INDEX_VALUE_BYTES_MAX]] {
            let listed = Listed::new(Stamp(1), Stamp(2), value);
            assert_eq!(listed.value, Some(value));
            assert_eq!(Listed::decode(b"k", &listed.encode()), Ok(listed));
        }
        assert_eq!(Listed::new(Stamp(1), Stamp(2), &[1; INDEX_VALUE_BYTES_MAX + 1]).value, None);
    }

    #[test]
    fn rows_that_are_cut_or_of_another_format_are_damage() {
        let row = Present { from: Stamp(7), run: 0, value: b"" }.encode();
        for cut in 0..row.len() {
            assert!(Present::decode(b"k", &row[..cut]).is_err());
        }
        assert!(Present::decode(b"k", &[0xff; 20]).is_err());
        assert!(Past::decode(b"k", Stamp(1), &[FORMAT << FORMAT_SHIFT | 9, 1]).is_err());
        assert!(Past::decode(b"k", Stamp(u64::MAX), &[FORMAT << FORMAT_SHIFT, 1]).is_err());
        assert!(
            Past::decode(b"k", Stamp(1), &[&[FORMAT << FORMAT_SHIFT], &[0xff; 11][..]].concat())
                .is_err()
        );
    }

    #[test]
    fn varints_come_back_and_refuse_more_than_64_bits() {
        for number in [0, 1, 0x7f, 0x80, 1 << 35, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            assert_eq!(take_varint(&mut bytes.as_slice()), Some(number));
        }
        assert_eq!(
            take_varint(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]),
            None
        );
    }

    #[test]
    fn newer_versions_sort_first() {
        let keys = [9, 8, 1].map(|from| past_key(b"key", Stamp(from)));
        assert!(keys.is_sorted());
        assert_eq!(split_past_key(&keys[1]), Ok((&b"key"[..], Stamp(8))));
        assert!(split_past_key(b"short").is_err());
    }

    #[test]
    fn a_version_is_listed_under_one_interval_of_every_instant_in_it() {
        let ends = [0, 1, 2, 3, 7, 8, 9, 1000, 1 << 40, u64::MAX - 1, u64::MAX];
        for from in ends {
            for to in ends.into_iter().filter(|to| *to > from) {
                let node = Node::around(Stamp(from), Stamp(to));
                for t in [from, from + (to - from) / 2, to - 1] {
                    assert_eq!(Node::at(Stamp(t), node.level), node, "{from}..{to} at {t}");
                }
                assert!(node.level < LEVELS);
                if node.level > 0 {
                    let below = node.level - 1;
                    assert_ne!(Node::at(Stamp(from), below), Node::at(Stamp(to - 1), below));
                }
            }
        }
    }
}
