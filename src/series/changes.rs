//! What one batch did to which keys: the row it leaves in `changes`.
//!
//! Purge works these rows off as they fall behind the horizon; audit and the comparison of two instants read them.
//! A change in place (`Past::Forget`) of a row that was there before and is there after is not listed: no instant can
//! show it. Not here: what becomes of a version that ended.

use crate::series::row::put_varint;
use crate::series::row::take_varint;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::SessionId;
use crate::types::Stamp;

const FORMAT: u8 = 1;

/// What became of a key at a stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// It was not there, and then it was.
    Began = 0,
    /// Its former version ended here, and the next began.
    Replaced = 1,
    /// Its former version ended here, and none followed.
    Removed = 2,
    /// It went, and its last version was forgotten with it.
    Forgotten = 3,
}

impl What {
    /// A version of the key ended at the stamp and became history.
    pub fn ended(self) -> bool {
        matches!(self, What::Replaced | What::Removed)
    }

    fn from_bits(bits: u64) -> What {
        match bits & 3 {
            0 => What::Began,
            1 => What::Replaced,
            2 => What::Removed,
            _ => What::Forgotten,
        }
    }
}

/// A change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub key: Vec<u8>,
    pub stamp: Stamp,
    pub what: What,
}

/// What a batch left in `changes`. Events are sorted by key, then by stamp.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// First stamp of the batch: the key of the row.
    pub stamp: Stamp,
    pub session: SessionId,
    pub seq: BatchSeq,
    /// Who did it: a user, from the first stamp on and from each where it was another. Empty for what the store did by itself.
    pub by: Vec<(Stamp, u32)>,
    pub events: Vec<Event>,
}

impl Record {
    /// The key in `changes` of the batch whose first stamp this is.
    pub fn key(stamp: Stamp) -> [u8; 8] {
        stamp.0.to_be_bytes()
    }

    /// # Errors
    /// `Damaged`.
    pub fn decode(key: &[u8], row: &[u8]) -> Result<Record, FsError> {
        let fault =
            |what| FsError::Damaged(format!("row {} of changes: {what}", key.escape_ascii()));
        let stamp = key.try_into().map_err(|_| fault("its key is not a stamp"))?;
        let stamp = Stamp(u64::from_be_bytes(stamp));
        match row.split_first() {
            Some((&FORMAT, rest)) => decode(stamp, rest).ok_or_else(|| fault("it is cut")),
            Some(_) => Err(fault("it is of another format")),
            None => Err(fault("it is empty")),
        }
    }

    /// The user who did what is stamped so; `None` for the store itself.
    pub fn who(&self, stamp: Stamp) -> Option<u32> {
        self.by.iter().rev().find(|(from, _)| *from <= stamp).map(|(_, uid)| *uid)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(self.stamp, self.session, self.seq, &self.by);
        for events in self.events.chunk_by(|left, right| left.key == right.key) {
            let of_key: Vec<_> = events.iter().map(|event| (event.stamp, event.what)).collect();
            writer.push(&events[0].key, &of_key);
        }
        writer.finish()
    }
}

fn decode(first: Stamp, mut rest: &[u8]) -> Option<Record> {
    let session = SessionId(take_varint(&mut rest)?);
    let seq = BatchSeq(take_varint(&mut rest)?);
    let mut by = Vec::new();
    let mut from = first.0;
    for _ in 0..take_varint(&mut rest)? {
        from = from.checked_add(take_varint(&mut rest)?)?;
        by.push((Stamp(from), u32::try_from(take_varint(&mut rest)?).ok()?));
    }
    let mut record = Record { stamp: first, session, seq, by, events: Vec::new() };
    let mut key: Vec<u8> = Vec::new();
    while !rest.is_empty() {
        let shared = usize::try_from(take_varint(&mut rest)?).ok()?;
        let own = usize::try_from(take_varint(&mut rest)?).ok()?;
        let (suffix, after) = rest.split_at_checked(own)?;
        rest = after;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        key.extend_from_slice(suffix);
        let mut at = first.0;
        let mut more = true;
        while more {
            let bits = take_varint(&mut rest)?;
            more = bits & 4 != 0;
            at = at.checked_add(bits >> 3)?;
            let event = Event { key: key.clone(), stamp: Stamp(at), what: What::from_bits(bits) };
            record.events.push(event);
        }
    }
    Some(record)
}

/// Writes a record key by key, in key order.
pub(crate) struct Writer {
    first: Stamp,
    bytes: Vec<u8>,
    last: Vec<u8>,
}

impl Writer {
    /// What `by` says of stamps before `first` holds from there on.
    pub(crate) fn new(
        first: Stamp,
        session: SessionId,
        seq: BatchSeq,
        by: &[(Stamp, u32)],
    ) -> Writer {
        let mut bytes = vec![FORMAT];
        put_varint(&mut bytes, session.0);
        put_varint(&mut bytes, seq.0);
        let over = by.iter().skip(1).take_while(|(from, _)| *from <= first).count();
        put_varint(&mut bytes, (by.len() - over) as u64);
        let mut at = first;
        for (from, uid) in &by[over..] {
            put_varint(&mut bytes, from.0.saturating_sub(at.0));
            put_varint(&mut bytes, u64::from(*uid));
            at = at.max(*from);
        }
        Writer { first, bytes, last: Vec::new() }
    }

    /// No key was given yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// The events of the next key, oldest first.
    pub(crate) fn push(&mut self, key: &[u8], events: &[(Stamp, What)]) {
        let shared = self.last.iter().zip(key).take_while(|(last, key)| last == key).count();
        put_varint(&mut self.bytes, shared as u64);
        put_varint(&mut self.bytes, (key.len() - shared) as u64);
        self.bytes.extend_from_slice(&key[shared..]);
        self.last.truncate(shared);
        self.last.extend_from_slice(&key[shared..]);
        let mut at = self.first.0;
        for (n, (stamp, what)) in events.iter().enumerate() {
            let more = u64::from(n + 1 < events.len());
            put_varint(&mut self.bytes, (stamp.0 - at) << 3 | more << 2 | *what as u64);
            at = stamp.0;
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let event =
            |key: &[u8], stamp, what| Event { key: key.to_vec(), stamp: Stamp(stamp), what };
        Record {
            stamp: Stamp(1 << 60),
            session: SessionId(3),
            seq: BatchSeq(1 << 40),
            by: vec![(Stamp(1 << 60), 1000), (Stamp((1 << 60) + 2), 0)],
            events: vec![
                event(b"D1aa\0", 1 << 60, What::Began),
                event(b"D1ab\0", (1 << 60) + 1, What::Replaced),
                event(b"D1ab\0", (1 << 60) + 500, What::Removed),
                event(b"I7", (1 << 60) + 2, What::Forgotten),
            ],
        }
    }

    #[test]
    fn a_record_comes_back() {
        let record = record();
        let row = record.encode();
        assert_eq!(Record::decode(&Record::key(record.stamp), &row), Ok(record));
        assert_eq!(
            row.len(),
            1 + 1 + 6 + (1 + 3 + 2) + (2 + 5 + 1) + (2 + 2 + 1 + 2) + (2 + 2 + 1)
        );
    }

    #[test]
    fn a_record_tells_who_did_what_also_when_a_part_is_worked_off() {
        let record = record();
        assert_eq!(record.who(Stamp(1 << 60)), Some(1000));
        assert_eq!(record.who(Stamp((1 << 60) + 1)), Some(1000));
        assert_eq!(record.who(Stamp((1 << 60) + 500)), Some(0));
        for (at, by) in [(1, 1000), (500, 0)] {
            let stamp = Stamp((1 << 60) + at);
            let left = Record { stamp, events: vec![], ..record.clone() };
            let left = Record::decode(&Record::key(stamp), &left.encode()).unwrap();
            assert_eq!(left.who(stamp), Some(by));
        }
        let own = Record { by: vec![], ..record };
        assert_eq!(own.who(own.stamp), None);
    }

    #[test]
    fn a_damaged_record_is_refused() {
        let record = record();
        let key = Record::key(record.stamp);
        let row = record.encode();
        assert!(Record::decode(b"short", &row).is_err());
        assert!(Record::decode(&key, &[]).is_err());
        assert!(Record::decode(&key, &[&[9], &row[1..]].concat()).is_err());
        assert!(Record::decode(&key, &row[..row.len() - 1]).is_err());
        assert!(Record::decode(&key, &[&row[..], &[200, 0, 0]].concat()).is_err());
    }
}
