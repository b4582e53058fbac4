//! Bytes written to one inode and not yet sealed into an op: disjoint parts by offset.
//!
//! Nothing here is copied twice: a large write stays the buffer it came in, small ones that follow each other grow one
//! tail. Not here: sizes and times, what a seal becomes.

use bytes::Bytes;
use bytes::BytesMut;
use std::collections::BTreeMap;

/// A write of at least this many bytes becomes a part of its own; smaller ones that follow each other share a tail.
pub(super) const OWN_PART_BYTES: usize = 32 << 10;
/// A tail that has grown to this becomes a part.
const TAIL_BYTES_MAX: usize = 64 << 10;

/// Bytes for `start..start + bytes.len()` of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) bytes: Bytes,
}

impl Part {
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// What of it lies in `start..end`, which it meets.
    pub(super) fn clip(&self, start: u64, end: u64) -> Part {
        let from = start.max(self.start);
        let to = end.min(self.end());
        let inside = (from - self.start) as usize..(to - self.start) as usize;
        Part { start: from, bytes: self.bytes.slice(inside) }
    }
}

/// The unsealed bytes of one inode.
#[derive(Default)]
pub(super) struct Dirty {
    /// Not empty, disjoint, and disjoint from the tail.
    parts: BTreeMap<u64, Bytes>,
    tail: Option<(u64, BytesMut)>,
    bytes: u64,
}

/// What is written: borrowed from the caller, or already copied into a buffer of its own.
pub(super) enum Data<'a> {
    Borrowed(&'a [u8]),
    Owned(Bytes),
}

impl Data<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Data::Borrowed(data) => data.len(),
            Data::Owned(data) => data.len(),
        }
    }

    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            Data::Borrowed(data) => Bytes::copy_from_slice(data),
            Data::Owned(data) => data,
        }
    }
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts `data`, which is not empty, over whatever was there.
    pub(super) fn write(&mut self, offset: u64, data: Data<'_>) {
        let len = data.len() as u64;
        if let (Some((start, tail)), Data::Borrowed(data)) = (&mut self.tail, &data)
            && *start + tail.len() as u64 == offset
            && tail.len() + data.len() <= TAIL_BYTES_MAX
            && self.parts.range(offset..offset + len).next().is_none()
        {
            tail.extend_from_slice(data);
            self.bytes += len;
            return;
        }
        self.cut(offset, offset + len);
        match data {
            Data::Borrowed(data) => {
                self.freeze();
                self.tail = Some((offset, BytesMut::from(data)));
            }
            Data::Owned(data) => {
                self.parts.insert(offset, data);
            }
        }
        self.bytes += len;
    }

    /// Forgets `start..end`.
    pub(super) fn cut(&mut self, start: u64, end: u64) {
        if let Some((tail_start, tail)) = &self.tail
            && *tail_start < end
            && start < *tail_start + tail.len() as u64
        {
            self.freeze();
        }
        while let Some((&at, bytes)) = self.parts.range(..end).next_back() {
            let part_end = at + bytes.len() as u64;
            if part_end <= start {
                break;
            }
            let bytes = self.parts.remove(&at).expect("it was just found");
            self.bytes -= bytes.len() as u64;
            if at < start {
                self.keep(at, bytes.slice(..(start - at) as usize));
            }
            if end < part_end {
                self.keep(end, bytes.slice((end - at) as usize..));
            }
            if at <= start {
                break;
            }
        }
    }

    fn keep(&mut self, at: u64, bytes: Bytes) {
        self.bytes += bytes.len() as u64;
        self.parts.insert(at, bytes);
    }

    /// The parts that meet `start..end`, clipped to it, in order.
    pub(super) fn slices(&self, start: u64, end: u64) -> Vec<Part> {
        let first = self.parts.range(..=start).next_back().map_or(start, |(&at, _)| at);
        let mut found: Vec<Part> = self
            .parts
            .range(first..end.max(first))
            .map(|(&start, bytes)| Part { start, bytes: bytes.clone() })
            .filter(|part| part.end() > start)
            .map(|part| part.clip(start, end))
            .collect();
        if let Some((at, tail)) = &self.tail {
            let tail_end = at + tail.len() as u64;
            let (from, to) = (start.max(*at), end.min(tail_end));
            if from < to {
                let bytes = Bytes::copy_from_slice(&tail[(from - at) as usize..(to - at) as usize]);
                let place = found.partition_point(|part| part.start < from);
                found.insert(place, Part { start: from, bytes });
            }
        }
        found
    }

    /// Whether all of `start..end` is here.
    pub(super) fn covers(&mut self, start: u64, end: u64) -> bool {
        self.freeze();
        let mut at = start;
        let first = self.parts.range(..=start).next_back().map_or(start, |(&at, _)| at);
        for (&from, bytes) in self.parts.range(first..end) {
            if from > at {
                return false;
            }
            at = at.max(from + bytes.len() as u64);
        }
        at >= end
    }

    /// Takes what lies in `start..end`, in order.
    pub(super) fn take(&mut self, start: u64, end: u64) -> Vec<Part> {
        self.freeze();
        if start == 0 && end == u64::MAX {
            self.bytes = 0;
            let parts = std::mem::take(&mut self.parts);
            return parts.into_iter().map(|(start, bytes)| Part { start, bytes }).collect();
        }
        let parts = self.slices(start, end);
        self.cut(start, end);
        parts
    }

    fn freeze(&mut self) {
        if let Some((start, tail)) = self.tail.take() {
            self.parts.insert(start, tail.freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::Strategy;
    use proptest::prelude::TestCaseError;
    use proptest::prelude::any;
    use proptest::prelude::prop;
    use proptest::prop_assert;
    use proptest::prop_assert_eq;
    use proptest::prop_oneof;
    use proptest::proptest;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, usize, bool),
        Cut(u64, u64),
        Take(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = 0..200_u64;
        prop_oneof![
            4 => (at.clone(), 1..60_usize, any::<bool>()).prop_map(|(o, l, own)| Step::Write(o, l, own)),
            1 => (at.clone(), 0..80_u64).prop_map(|(o, l)| Step::Cut(o, o + l)),
            1 => (at, 0..80_u64).prop_map(|(o, l)| Step::Take(o, o + l)),
        ]
    }

    proptest! {
        #[test]
        fn it_is_what_an_array_of_optional_bytes_is(steps in prop::collection::vec(step(), 1..60)) {
            let mut dirty = Dirty::default();
            let mut model: Vec<Option<u8>> = vec![None; 300];
            let mut follow = 0;
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Write(at, len, owned) => {
                        // Every third write follows the one before, so that tails grow.
                        let at = if n % 3 == 0 && follow + len < 300 { follow } else { at as usize };
                        let data = vec![n as u8; len];
                        if owned {
                            dirty.write(at as u64, Data::Owned(Bytes::from(data)));
                        } else {
                            dirty.write(at as u64, Data::Borrowed(&data));
                        }
                        model[at..at + len].fill(Some(n as u8));
                        follow = at + len;
                    }
                    Step::Cut(from, to) => {
                        dirty.cut(from, to);
                        model[from as usize..to as usize].fill(None);
                    }
                    Step::Take(from, to) => {
                        let covered = model[from as usize..to as usize].iter().all(Option::is_some);
                        prop_assert_eq!(dirty.covers(from, to), covered || from == to);
                        check(&dirty.take(from, to), &model, from, to)?;
                        model[from as usize..to as usize].fill(None);
                    }
                }
                prop_assert_eq!(dirty.bytes(), model.iter().flatten().count() as u64);
                check(&dirty.slices(0, 300), &model, 0, 300)?;
                check(&dirty.slices(50, 120), &model, 50, 120)?;
            }
        }
    }

    fn check(
        parts: &[Part],
        model: &[Option<u8>],
        from: u64,
        to: u64,
    ) -> Result<(), TestCaseError> {
        let mut got = vec![None; model.len()];
        let mut end = from;
        for part in parts {
            prop_assert!(part.start >= end && part.end() <= to, "in order, disjoint, inside");
            end = part.end();
            for (n, byte) in part.bytes.iter().enumerate() {
                got[part.start as usize + n] = Some(*byte);
            }
        }
        prop_assert_eq!(&got[from as usize..to as usize], &model[from as usize..to as usize]);
        Ok(())
    }
}
