//! Blocks as stored and sent: compressed once, checksummed, verified on every read.
//!
//! Client and store share this file, so a block is compressed at the client and opened only where it is read.
//! A frame does not know which block it is, so that one frame may travel, be repaired and be moved under any name: what
//! holds it (a segment's record, a table's row) binds name and frame with a checksum of its own. It does not carry its
//! stored length either, which its holder knows; a frame that was cut or grew fails its checksum.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | codec: 0 plain, 1 zstd |
//! | 3 | length of the raw bytes, little-endian, at most [`BLOCK_BYTES_MAX`] |
//! | 4 | CRC-32C of the five bytes above and all bytes below, little-endian |
//! | … | the raw bytes; or one zstd frame |

use crate::types::BLOCK_BYTES_MAX;
use crate::types::FsError;
use bytes::Bytes;
use std::cell::RefCell;
use zstd::bulk::Compressor;
use zstd::bulk::Decompressor;

const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// What stands before the checksum.
const PREFIX_BYTES: usize = 5;
/// What a frame needs besides the stored bytes.
pub const HEADER_BYTES: usize = PREFIX_BYTES + 4;
/// The largest frame: a full block that does not compress.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + BLOCK_BYTES_MAX;

/// Input from this many bytes on is probed before it is compressed. Below, compressing costs no more than the probe.
const PROBE_FROM_BYTES: usize = 32 << 10;
/// The probe takes this many bytes at each of three places.
const PROBE_PART_BYTES: usize = 4 << 10;
/// The probe's level: zstd's fastest that still entropy-codes literals.
const PROBE_LEVEL: i32 = 1;

const _: () = assert!(BLOCK_BYTES_MAX < 1 << 24, "a raw length fits in three bytes");
const _: () = assert!(PROBE_FROM_BYTES >= 3 * PROBE_PART_BYTES, "the probed parts lie apart");

/// Contexts of zstd cost more to make than to use on a small block, so each thread keeps its own.
struct Contexts {
    pack: Option<(i32, Compressor<'static>)>,
    unpack: Option<Decompressor<'static>>,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = const { RefCell::new(Contexts { pack: None, unpack: None }) };
}

impl Contexts {
    fn compressor(&mut self, level: i32) -> std::io::Result<&mut Compressor<'static>> {
        let (at, compressor) = match self.pack.take() {
            Some(pack) => pack,
            None => (level, Compressor::new(level)?),
        };
        let (at_level, compressor) = self.pack.insert((at, compressor));
        if *at_level != level {
            compressor.set_compression_level(level)?;
            *at_level = level;
        }
        Ok(compressor)
    }

    fn decompressor(&mut self) -> std::io::Result<&mut Decompressor<'static>> {
        let decompressor = match self.unpack.take() {
            Some(decompressor) => decompressor,
            None => Decompressor::new()?,
        };
        Ok(self.unpack.insert(decompressor))
    }
}

/// A frame in two parts, so that bytes which are stored plain are never copied. Its checksum holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    header: [u8; HEADER_BYTES],
    stored: Bytes,
}

impl Frame {
    /// The frame of `raw`, which has at most [`BLOCK_BYTES_MAX`] bytes. `level` is zstd's, 1 to 22 or negative; input that
    /// does not shrink by a sixteenth is stored plain, and read without a copy.
    pub fn pack(raw: &Bytes, level: i32) -> Frame {
        assert!(raw.len() <= BLOCK_BYTES_MAX, "a block of {} bytes", raw.len());
        let compressed = if worth_a_try(raw) { compress(raw, level) } else { None };
        match compressed {
            Some(stored) => Frame::new(ZSTD, raw.len(), stored.into()),
            None => Frame::new(PLAIN, raw.len(), raw.clone()),
        }
    }

    fn new(codec: u8, raw_bytes: usize, stored: Bytes) -> Frame {
        let mut header = [0; HEADER_BYTES];
        header[0] = VERSION;
        header[1] = codec;
        header[2..PREFIX_BYTES].copy_from_slice(&(raw_bytes as u32).to_le_bytes()[..3]);
        let sum = checksum(&header, &stored);
        header[PREFIX_BYTES..].copy_from_slice(&sum.to_le_bytes());
        Frame { header, stored }
    }

    /// The frame that these bytes are.
    ///
    /// # Errors
    /// `Damaged`, as for [`unpack`].
    pub fn from_bytes(bytes: &Bytes) -> Result<Frame, FsError> {
        verify(bytes)?;
        let header = bytes.first_chunk().expect("what is verified has a header");
        Ok(Frame { header: *header, stored: bytes.slice(HEADER_BYTES..) })
    }

    /// The bytes of the frame, in one piece.
    pub fn to_bytes(&self) -> Bytes {
        self.parts().concat().into()
    }

    /// The bytes of the frame: one part behind the other.
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.header, &self.stored]
    }

    /// Of both parts.
    #[expect(clippy::len_without_is_empty, reason = "no frame is empty")]
    pub fn len(&self) -> usize {
        HEADER_BYTES + self.stored.len()
    }

    pub fn checksum(&self) -> u32 {
        let [.., a, b, c, d] = self.header;
        u32::from_le_bytes([a, b, c, d])
    }
}

/// The plain frame of `raw`: the same bytes wherever and whenever it is made, which zstd does not promise.
pub fn plain(raw: &[u8]) -> Bytes {
    assert!(raw.len() <= BLOCK_BYTES_MAX, "a block of {} bytes", raw.len());
    Frame::new(PLAIN, raw.len(), Bytes::copy_from_slice(raw)).to_bytes()
}

/// `raw`, compressed. `None` where it does not shrink enough, or zstd fails: storing plain is always right.
fn compress(raw: &[u8], level: i32) -> Option<Vec<u8>> {
    // Zstd gives up when it would need more room.
    let mut stored = Vec::with_capacity(raw.len() - raw.len() / 16);
    CONTEXTS.with_borrow_mut(|contexts| {
        contexts.compressor(level).ok()?.compress_to_buffer(raw, &mut stored).ok()
    })?;
    stored.shrink_to_fit();
    Some(stored)
}

/// Compresses a little of a large input, quickly: compressed and encrypted data is found out without the work.
fn worth_a_try(raw: &[u8]) -> bool {
    if raw.len() < PROBE_FROM_BYTES {
        return raw.len() > HEADER_BYTES;
    }
    let mut sample = [0; 3 * PROBE_PART_BYTES];
    let last = raw.len() - PROBE_PART_BYTES;
    for (part, at) in sample.chunks_mut(PROBE_PART_BYTES).zip([0, last / 2, last]) {
        part.copy_from_slice(&raw[at..at + PROBE_PART_BYTES]);
    }
    let mut room = [0; 3 * PROBE_PART_BYTES - PROBE_PART_BYTES / 16];
    CONTEXTS.with_borrow_mut(|contexts| {
        let probe = contexts.compressor(PROBE_LEVEL).ok();
        // It fails where the sample does not fit into the room.
        probe.is_some_and(|probe| probe.compress_to_buffer(&sample, &mut room[..]).is_ok())
    })
}

/// The raw bytes of a frame, verified. A plain frame is not copied.
///
/// # Errors
/// `Damaged`, without saying where: the caller knows what it read.
pub fn unpack(frame: &Bytes) -> Result<Bytes, FsError> {
    let header = verify(frame)?;
    if header.codec == PLAIN {
        return Ok(frame.slice(HEADER_BYTES..));
    }
    let mut raw = Vec::with_capacity(header.raw_bytes);
    let stored = &frame[HEADER_BYTES..];
    let done = CONTEXTS.with_borrow_mut(|contexts| {
        contexts.decompressor()?.decompress_to_buffer(stored, &mut raw)
    });
    match done {
        Ok(bytes) if bytes == header.raw_bytes => Ok(raw.into()),
        Ok(bytes) => Err(damaged(format!("it holds {bytes} bytes, not {}", header.raw_bytes))),
        Err(error) => Err(damaged(format!("zstd: {error}"))),
    }
}

/// What a frame says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    codec: u8,
    /// Length of what [`unpack`] gives.
    pub raw_bytes: usize,
    /// The frame's checksum, which covers all of it.
    pub checksum: u32,
}

/// Checks a frame without opening it: version, lengths, checksum.
///
/// # Errors
/// `Damaged`, as for [`unpack`].
pub fn verify(frame: &[u8]) -> Result<Header, FsError> {
    let header = header(frame)?;
    if checksum(frame, &frame[HEADER_BYTES..]) != header.checksum {
        return Err(damaged("the checksum does not match".to_string()));
    }
    let stored = frame.len() - HEADER_BYTES;
    if header.codec == PLAIN && stored != header.raw_bytes {
        return Err(damaged(format!("{stored} plain bytes, not {}", header.raw_bytes)));
    }
    Ok(header)
}

/// What a frame says of itself, from its first [`HEADER_BYTES`] alone. Believe it after [`verify`] only.
///
/// # Errors
/// `Damaged`, as for [`unpack`].
pub fn header(frame: &[u8]) -> Result<Header, FsError> {
    let Some(&[version, codec, low, middle, high, a, b, c, d]) = frame.first_chunk() else {
        return Err(damaged(format!("{} bytes are no frame", frame.len())));
    };
    let raw_bytes = u32::from_le_bytes([low, middle, high, 0]) as usize;
    if version != VERSION {
        return Err(damaged(format!("version {version}, this program reads {VERSION}")));
    }
    if codec > ZSTD || raw_bytes > BLOCK_BYTES_MAX {
        return Err(damaged(format!("codec {codec}, {raw_bytes} bytes")));
    }
    Ok(Header { codec, raw_bytes, checksum: u32::from_le_bytes([a, b, c, d]) })
}

fn checksum(header: &[u8], stored: &[u8]) -> u32 {
    let prefix = crc32c::crc32c(&header[..PREFIX_BYTES]);
    crc32c::crc32c_append(prefix, stored)
}

fn damaged(what: String) -> FsError {
    FsError::Damaged(format!("block frame: {what}"))
}

#[cfg(test)]
mod tests;
