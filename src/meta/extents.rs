//! The row of one region of a file: sorted, disjoint extents, and the algebra on them.
//!
//! Holes are absent. Offsets stand absolute inside the region and nothing is counted in front, so that a small edit is
//! a small splice of the row. Not here: which region, which file, how long the file is.
//!
//! Everything an edit leaves is in one normal form – neighbours that continue each other are one extent – so that
//! equal edits reach equal rows.

use crate::meta::key;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::REGION_BYTES;
use crate::types::SessionId;
use bytes::Bytes;
use bytes::BytesMut;
use std::ops::Range;

/// Bytes that a row holds itself. Once it holds this many, apply seals them into a block.
pub const INLINE_ROW_BYTES: u32 = 4096;

/// A client writes a region anew, whole, when its row has more extents than this: reading and changing the row costs
/// by the extent. Apply itself refuses nothing because of it.
pub const EXTENTS_CROWDED: usize = 1024;

const VERSION: u8 = 1;

/// Where a block lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// It travelled inside an op and is a row of `Family::Payload`.
    Payload,
    /// In a segment of the data role.
    Segment,
}

/// Where the bytes of an extent are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    Inline(Bytes),
    /// The block's bytes from `offset` on.
    Block {
        block: BlockId,
        place: Place,
        offset: u32,
    },
}

impl Source {
    /// The same source from `by` bytes further on, `len` bytes of it.
    pub fn part(&self, by: u32, len: u32) -> Source {
        match self {
            Source::Inline(bytes) => Source::Inline(bytes.slice(by as usize..(by + len) as usize)),
            Source::Block { block, place, offset } => {
                Source::Block { block: *block, place: *place, offset: offset + by }
            }
        }
    }

    /// This source of `len` bytes and the one behind it as one, where they continue each other.
    fn joined(&self, len: u32, next: &Source) -> Option<Source> {
        match (self, next) {
            (Source::Inline(a), Source::Inline(b)) => {
                let mut both = BytesMut::with_capacity(a.len() + b.len());
                both.extend_from_slice(a);
                both.extend_from_slice(b);
                Some(Source::Inline(both.freeze()))
            }
            (Source::Block { block, offset, .. }, Source::Block { block: b, offset: o, .. }) => {
                (block == b && offset + len == *o).then(|| self.clone())
            }
            _ => None,
        }
    }
}

/// `len` bytes of a region from `start` on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    pub start: u32,
    pub len: u32,
    pub source: Source,
}

impl Extent {
    pub fn end(&self) -> u32 {
        self.start + self.len
    }

    /// The part of it that lies in `range`, which meets it.
    fn cut(&self, range: &Range<u32>) -> Extent {
        let (start, end) = (self.start.max(range.start), self.end().min(range.end));
        let source = self.source.part(start - self.start, end - start);
        Extent { start, len: end - start, source }
    }
}

/// What one region of a file holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extents {
    extents: Vec<Extent>,
}

impl Extents {
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Extent> {
        self.extents.iter()
    }

    pub fn is_crowded(&self) -> bool {
        self.extents.len() > EXTENTS_CROWDED
    }

    /// Bytes that are not holes.
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.len)).sum()
    }

    /// Bytes that stand in the row itself.
    pub fn inline_bytes(&self) -> u32 {
        let inline = |extent: &&Extent| matches!(extent.source, Source::Inline(_));
        self.extents.iter().filter(inline).map(|extent| extent.len).sum()
    }

    /// The blocks it names, one for each extent that does.
    pub fn blocks(&self) -> impl Iterator<Item = (BlockId, Place)> {
        self.extents.iter().filter_map(|extent| match extent.source {
            Source::Block { block, place, .. } => Some((block, place)),
            Source::Inline(_) => None,
        })
    }

    /// Bytes of file whose block `wanted` picks.
    pub fn bytes_of_blocks(&self, wanted: impl Fn(BlockId) -> bool) -> u64 {
        let picked = |extent: &&Extent| match extent.source {
            Source::Block { block, .. } => wanted(block),
            Source::Inline(_) => false,
        };
        self.extents.iter().filter(picked).map(|extent| u64::from(extent.len)).sum()
    }

    /// The extents that meet `range`, as places in the list.
    fn meeting(&self, range: &Range<u32>) -> Range<usize> {
        let first = self.extents.partition_point(|extent| extent.end() <= range.start);
        let last = self.extents[first..].partition_point(|extent| extent.start < range.end);
        first..first + last
    }

    /// What lies in `range`, cut to it; holes are absent.
    pub fn within(&self, range: Range<u32>) -> impl Iterator<Item = Extent> {
        self.extents[self.meeting(&range)].iter().map(move |extent| extent.cut(&range))
    }

    /// Puts `source` for `start..start + len`. Returns how many bytes it replaced that were no hole.
    pub fn put(&mut self, start: u32, len: u32, source: Source) -> u32 {
        self.replace(start..start + len, Some(source))
    }

    /// Makes a hole. Returns how many bytes went.
    pub fn clear(&mut self, range: Range<u32>) -> u32 {
        self.replace(range, None)
    }

    fn replace(&mut self, range: Range<u32>, source: Option<Source>) -> u32 {
        if range.is_empty() {
            return 0;
        }
        let meeting = self.meeting(&range);
        let replaced = self.extents[meeting.clone()].iter().map(|old| old.cut(&range).len).sum();
        let mut new: Vec<Extent> = Vec::with_capacity(3);
        if let Some(first) = self.extents[meeting.clone()].first()
            && first.start < range.start
        {
            new.push(first.cut(&(first.start..range.start)));
        }
        if let Some(source) = source {
            new.push(Extent { start: range.start, len: range.end - range.start, source });
        }
        if let Some(last) = self.extents[meeting.clone()].last()
            && last.end() > range.end
        {
            new.push(last.cut(&(range.end..last.end())));
        }
        let added = new.len();
        self.extents.splice(meeting.clone(), new);
        self.join(meeting.start.saturating_sub(1)..meeting.start + added);
        replaced
    }

    /// Makes one of each two neighbours that continue each other, where the first has its place in `places`.
    fn join(&mut self, places: Range<usize>) {
        for at in places.rev() {
            if at + 1 >= self.extents.len() {
                continue;
            }
            let (one, next) = (&self.extents[at], &self.extents[at + 1]);
            if one.end() == next.start
                && let Some(source) = one.source.joined(one.len, &next.source)
            {
                let len = one.len + next.len;
                self.extents[at].source = source;
                self.extents[at].len = len;
                self.extents.remove(at + 1);
            }
        }
    }

    /// Moves all bytes that stand in the row into `block`, which gets what is returned. Reads as before.
    pub fn seal(&mut self, block: BlockId) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(self.inline_bytes() as usize);
        for extent in &mut self.extents {
            if let Source::Inline(bytes) = &extent.source {
                let offset = sealed.len() as u32;
                sealed.extend_from_slice(bytes);
                extent.source = Source::Block { block, place: Place::Payload, offset };
            }
        }
        sealed
    }

    /// The row's value.
    pub fn to_row(&self) -> Bytes {
        let mut row =
            Vec::with_capacity(1 + self.extents.len() * 16 + self.inline_bytes() as usize);
        row.push(VERSION);
        for extent in &self.extents {
            put_varint(&mut row, u64::from(extent.start));
            match &extent.source {
                Source::Inline(bytes) => {
                    put_varint(&mut row, u64::from(extent.len) << 2 | TAG_INLINE);
                    row.extend_from_slice(bytes);
                }
                Source::Block { block, place, offset } => {
                    let tag = match place {
                        Place::Payload => TAG_PAYLOAD,
                        Place::Segment => TAG_SEGMENT,
                    };
                    put_varint(&mut row, u64::from(extent.len) << 2 | tag);
                    put_varint(&mut row, block.session.0);
                    put_varint(&mut row, block.number);
                    put_varint(&mut row, u64::from(*offset));
                }
            }
        }
        row.into()
    }

    /// # Errors
    /// `Damaged`, naming the row.
    pub fn from_row(key: &[u8], row: &Bytes) -> Result<Extents, FsError> {
        parse(row).map_err(|why| FsError::Damaged(format!("{}: {why}", key::describe(key))))
    }
}

const TAG_INLINE: u64 = 0;
const TAG_PAYLOAD: u64 = 1;
const TAG_SEGMENT: u64 = 2;

fn parse(row: &Bytes) -> Result<Extents, &'static str> {
    if row.first() != Some(&VERSION) {
        return Err("unknown version of the extent row");
    }
    let mut extents: Vec<Extent> = Vec::with_capacity(row.len() / 8);
    let mut rest = &row[1..];
    let mut free_from = 0;
    while !rest.is_empty() {
        let start = take_varint(&mut rest)?;
        let len_tag = take_varint(&mut rest)?;
        let (len, tag) = (len_tag >> 2, len_tag & 3);
        let end = start.checked_add(len).filter(|end| *end <= REGION_BYTES);
        let end = end.ok_or("an extent leaves its region")?;
        if start < free_from || len == 0 {
            return Err("extents overlap or are empty");
        }
        let source = match tag {
            TAG_INLINE => {
                let (bytes, after) =
                    rest.split_at_checked(len as usize).ok_or("an extent is cut short")?;
                rest = after;
                Source::Inline(row.slice_ref(bytes))
            }
            TAG_PAYLOAD | TAG_SEGMENT => {
                let session = SessionId(take_varint(&mut rest)?);
                let block = BlockId { session, number: take_varint(&mut rest)? };
                let offset = u32::try_from(take_varint(&mut rest)?)
                    .map_err(|_| "an offset inside a block is out of range")?;
                let place = if tag == TAG_PAYLOAD { Place::Payload } else { Place::Segment };
                Source::Block { block, place, offset }
            }
            _ => return Err("unknown kind of extent"),
        };
        extents.push(Extent { start: start as u32, len: len as u32, source });
        free_from = end;
    }
    Ok(Extents { extents })
}

/// Seven bits a byte, lowest first, as postcard writes numbers.
fn put_varint(row: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        row.push(number as u8 | 0x80);
        number >>= 7;
    }
    row.push(number as u8);
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, &'static str> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or("a number is cut short")?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is too long")
}

#[cfg(test)]
mod tests;
