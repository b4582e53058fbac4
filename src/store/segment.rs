//! The bytes of a segment of blocks: its header, and records that begin at multiples of [`UNIT_BYTES`].
//!
//! A record says where it lies and which block it holds, under a checksum, so that one that was moved, mixed up or
//! left over is noticed. Not here: which records are live, when a segment is made or goes. `docs/format.md` has the
//! layout.

use crate::store::disk::File;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::frame;
use bytes::Bytes;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;

/// Where records begin: at multiples of this. A page, so that no two records share one.
pub const UNIT_BYTES: u64 = 4096;
/// The first unit holds the segment's header.
pub(crate) const FIRST_UNIT: u32 = 1;

const MAGIC: [u8; 8] = *b"tsfsblok";
const VERSION: u8 = 1;
/// Magic, version, segment, store, checksum.
const SEGMENT_HEADER_BYTES: usize = 8 + 1 + 8 + 16 + 4;
/// What stands before each frame.
pub(crate) const RECORD_HEADER_BYTES: usize = 48;
const CHECKED_BYTES: usize = RECORD_HEADER_BYTES - 4;
/// Units of the largest record.
pub(crate) const RECORD_UNITS_MAX: u32 = units(frame::FRAME_BYTES_MAX as u32);

/// Which segment, counted from 1 and never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId(pub u64);

impl SegmentId {
    /// Its file in the directory of segments.
    pub fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:016x}.blocks", self.0))
    }

    /// The segment that a file is by its name.
    pub(crate) fn from_name(name: &str) -> Option<SegmentId> {
        let digits = name.strip_suffix(".blocks").filter(|digits| digits.len() == 16)?;
        u64::from_str_radix(digits, 16).ok().map(SegmentId)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Where a record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub segment: SegmentId,
    /// Where it begins, in units.
    pub unit: u32,
    /// Length of its frame.
    pub frame_bytes: u32,
}

impl Place {
    /// Units that the record takes.
    pub(crate) fn units(&self) -> u32 {
        units(self.frame_bytes)
    }

    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.unit) * UNIT_BYTES
    }
}

/// Units of a record with a frame of so many bytes.
pub(crate) const fn units(frame_bytes: u32) -> u32 {
    (RECORD_HEADER_BYTES as u32 + frame_bytes).div_ceil(UNIT_BYTES as u32)
}

/// How a record came here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A client put it.
    Put,
    /// Copied from a segment that was mostly dead.
    Copied,
}

/// A record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub origin: Origin,
    pub block: BlockId,
    pub place: Place,
    /// The frame's own checksum: binds the frame to this block and place.
    pub checksum: u32,
}

/// The first bytes of a segment's file.
pub(crate) fn segment_header(segment: SegmentId, store: &[u8; 16]) -> Vec<u8> {
    let mut header = Vec::with_capacity(SEGMENT_HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.push(VERSION);
    header.extend_from_slice(&segment.0.to_le_bytes());
    header.extend_from_slice(store);
    let sum = crc32c::crc32c(&header);
    header.extend_from_slice(&sum.to_le_bytes());
    header
}

/// Checks that a file is the segment it should be.
///
/// # Errors
/// `Damaged`, saying what it is instead; `Io`.
pub(crate) fn check_segment_header(
    file: &dyn File,
    segment: SegmentId,
    store: &[u8; 16],
) -> Result<(), FsError> {
    let header = file.read_at(0, SEGMENT_HEADER_BYTES)?;
    if header == segment_header(segment, store) {
        return Ok(());
    }
    let sealed = header.len() == SEGMENT_HEADER_BYTES
        && header[..8] == MAGIC
        && crc32c::crc32c(&header[..SEGMENT_HEADER_BYTES - 4]).to_le_bytes()
            == header[SEGMENT_HEADER_BYTES - 4..];
    Err(FsError::Damaged(match sealed {
        true if header[8] != VERSION => {
            format!("segment {segment} has version {}, this program reads {VERSION}", header[8])
        }
        true if header[17..33] != store[..] => format!("segment {segment} is of another store"),
        true => format!("segment {segment} holds another one's bytes"),
        false => format!("segment {segment}: the header does not match its checksum"),
    }))
}

impl Record {
    pub(crate) fn to_bytes(self) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[0] = VERSION;
        bytes[1] = match self.origin {
            Origin::Put => 0,
            Origin::Copied => 1,
        };
        bytes[4..8].copy_from_slice(&self.place.frame_bytes.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.block.to_bytes());
        bytes[24..32].copy_from_slice(&self.place.segment.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.place.unit.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.checksum.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The record that begins at `unit` of `segment`; `None` where these bytes are not one.
    pub(crate) fn from_bytes(bytes: &[u8], segment: SegmentId, unit: u32) -> Option<Record> {
        let bytes: &[u8; RECORD_HEADER_BYTES] = bytes.first_chunk()?;
        let word = |at: usize| Some(u32::from_le_bytes(bytes[at..at + 4].try_into().ok()?));
        let origin = match (bytes[0], bytes[1]) {
            (VERSION, 0) => Origin::Put,
            (VERSION, 1) => Origin::Copied,
            _ => return None,
        };
        let place = Place { segment, unit, frame_bytes: word(4)? };
        let record = Record {
            origin,
            block: BlockId::from_bytes(&bytes[8..24])?,
            place,
            checksum: word(36)?,
        };
        // Segment, unit, reserved bytes and the sum are compared by making them anew.
        let fits = place.frame_bytes as usize <= frame::FRAME_BYTES_MAX;
        (fits && record.to_bytes() == *bytes).then_some(record)
    }
}

/// Reads the record at `place`, which holds `block`: its frame, verified. The frame is not copied.
///
/// # Errors
/// `Damaged`, naming block, segment and offset; `Io`.
pub(crate) fn read_frame(file: &dyn File, place: Place, block: BlockId) -> Result<Bytes, FsError> {
    let damaged = |what: &str| {
        let (segment, at) = (place.segment, place.offset());
        FsError::Damaged(format!("block {block} at byte {at} of segment {segment}: {what}"))
    };
    let len = RECORD_HEADER_BYTES + place.frame_bytes as usize;
    let bytes = Bytes::from(file.read_at(place.offset(), len)?);
    if bytes.len() < len {
        return Err(damaged("the file ends before"));
    }
    let record = Record::from_bytes(&bytes, place.segment, place.unit);
    let record =
        record.ok_or_else(|| damaged("the record's header does not match its checksum"))?;
    if record.block != block || record.place != place {
        return Err(damaged(&format!("block {} lies there instead", record.block)));
    }
    let frame = bytes.slice(RECORD_HEADER_BYTES..);
    match frame::verify(&frame) {
        Ok(header) if header.checksum == record.checksum => Ok(frame),
        Ok(_) => Err(damaged("the frame is another block's")),
        Err(error) => Err(damaged(&error.to_string())),
    }
}

/// What a walk meets at a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// A record's header that holds; the frame is not read.
    Record(Record),
    /// Nothing was ever written there.
    Empty,
    /// Bytes that are no record.
    Junk,
}

/// Walks over the units of a segment from `unit` to the end of the file: record by record, unit by unit where there is
/// none.
pub(crate) struct Walk<'a> {
    pub file: &'a dyn File,
    pub segment: SegmentId,
    pub unit: u32,
    /// The unit at which the file ends.
    pub end: u32,
}

impl<'a> Walk<'a> {
    /// # Errors
    /// `Io`.
    pub(crate) fn new(
        file: &'a dyn File,
        segment: SegmentId,
        unit: u32,
    ) -> Result<Walk<'a>, FsError> {
        let units = file.len()?.div_ceil(UNIT_BYTES);
        let end = u32::try_from(units).map_err(|_| {
            FsError::Damaged(format!("segment {segment} is larger than a segment can be"))
        })?;
        Ok(Walk { file, segment, unit, end })
    }

    /// What is at the next unit, and which that is; `None` at the end of the file.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn step(&mut self) -> Result<Option<(u32, Found)>, FsError> {
        if self.unit >= self.end {
            return Ok(None);
        }
        let unit = self.unit;
        let offset = u64::from(unit) * UNIT_BYTES;
        let header = self.file.read_at(offset, RECORD_HEADER_BYTES)?;
        let found = match Record::from_bytes(&header, self.segment, unit) {
            Some(record) => Found::Record(record),
            None => {
                let bytes = self.file.read_at(offset, UNIT_BYTES as usize)?;
                if bytes.iter().all(|byte| *byte == 0) { Found::Empty } else { Found::Junk }
            }
        };
        self.unit += match found {
            Found::Record(record) => record.place.units(),
            Found::Empty | Found::Junk => 1,
        };
        Ok(Some((unit, found)))
    }
}
