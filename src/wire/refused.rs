//! The file of what a mount had done and the store did not take: batches as they would have entered the log, and the contents
//! that they name.
//!
//! It is made of what is there already: records are packets, everything in them is a block frame, and so has a checksum.
//! `docs/format.md` has the bytes. What is damaged costs itself: the reader says so, and goes on at the next record.
//!
//! Not here: the disk, what is saved when (`tsdb_client`), showing it (`cli`).

mod reader;

pub use reader::Damage;
pub use reader::Found;
pub use reader::Reader;
pub use reader::Source;
pub use reader::contents;

use crate::types::BLOCK_BYTES_MAX;
use crate::types::BatchSeq;
use crate::types::BlockId;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::frame::Frame;
use crate::wire::message;
use crate::wire::packet::Form;
use crate::wire::packet::Packet;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use std::io;

const MAGIC: &[u8; 8] = b"tsfsrefd";
/// It covers everything in the file.
const VERSION: u32 = 1;
/// Magic, version, and the checksum of both.
const BEGIN_BYTES: usize = 16;
/// How hard it is compressed: it is written in a hurry, and by a machine that may be in trouble.
const LEVEL: i32 = 1;

/// Most bytes of a path, and most paths of one record: so that they fit into a frame.
pub const PATH_BYTES_MAX: usize = 8 << 10;
const NAMES_MAX: usize = 100;
/// Most bytes of a text in the head.
const TEXT_BYTES_MAX: usize = 4 << 10;

const _: () = assert!(NAMES_MAX * (PATH_BYTES_MAX + 32) <= BLOCK_BYTES_MAX);

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Head = 1,
    Names = 2,
    Part = 3,
    Block = 4,
    End = 5,
}

impl Kind {
    fn of(number: u16) -> Option<Kind> {
        let all = [Kind::Head, Kind::Names, Kind::Part, Kind::Block, Kind::End];
        all.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// Whose work it is, and why it was not taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// The store's identity, as people read it.
    pub store: String,
    pub session: SessionId,
    /// What the session called itself: its mount point.
    pub client: String,
    /// What was mounted: the nodes, and a directory.
    pub source: String,
    /// By the client's clock.
    pub opened: Stamp,
    pub saved: Stamp,
    pub why: String,
    /// The last batch that is known to be applied: what is here comes after it.
    pub applied: BatchSeq,
}

/// Where an inode was, as far as the client knew: at this path below the directory `under`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    pub ino: Ino,
    pub under: Ino,
    pub path: Bytes,
}

/// A part of the bytes of a batch, which are in the tail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Part {
    seq: BatchSeq,
    /// It was sent: nobody here knows whether it was applied.
    sent: bool,
    part: u32,
    parts: u32,
}

/// A block that a batch names and does not carry: its frame is in the tail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Block {
    block: BlockId,
    len: u32,
}

/// That the file is whole, and what is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct End {
    batches: u64,
    blocks: u64,
}

/// Writes such a file, one record behind the other.
pub struct Writer<W> {
    to: W,
    next: u64,
    end: End,
}

impl<W: io::Write> Writer<W> {
    /// # Errors
    /// Those of the file, here and below.
    pub fn begin(mut to: W, head: &Head) -> io::Result<Writer<W>> {
        to.write_all(&begin(VERSION))?;
        let mut writer = Writer { to, next: 0, end: End { batches: 0, blocks: 0 } };
        let short = |text: &String| text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned();
        let head = Head {
            client: short(&head.client),
            source: short(&head.source),
            why: short(&head.why),
            ..head.clone()
        };
        writer.record(Kind::Head, &head, Bytes::new())?;
        Ok(writer)
    }

    /// # Errors
    /// As above.
    pub fn names(&mut self, names: &[Named]) -> io::Result<()> {
        let fits = |named: &&Named| named.path.len() <= PATH_BYTES_MAX;
        let names: Vec<&Named> = names.iter().filter(fits).collect();
        names.chunks(NAMES_MAX).try_for_each(|some| self.record(Kind::Names, &some, Bytes::new()))
    }

    /// A batch as it is encoded, whatever its length.
    ///
    /// # Errors
    /// As above.
    pub fn batch(&mut self, seq: BatchSeq, sent: bool, batch: &Bytes) -> io::Result<()> {
        let parts = batch.len().div_ceil(BLOCK_BYTES_MAX) as u32;
        for part in 0..parts {
            let from = part as usize * BLOCK_BYTES_MAX;
            let bytes = batch.slice(from..batch.len().min(from + BLOCK_BYTES_MAX));
            let tail = Frame::pack(&bytes, LEVEL).to_bytes();
            self.record(Kind::Part, &Part { seq, sent, part, parts }, tail)?;
        }
        self.end.batches += 1;
        Ok(())
    }

    /// The contents of a block, at most [`BLOCK_BYTES_MAX`].
    ///
    /// # Errors
    /// As above.
    pub fn block(&mut self, block: BlockId, raw: &Bytes) -> io::Result<()> {
        let tail = Frame::pack(raw, LEVEL).to_bytes();
        self.record(Kind::Block, &Block { block, len: raw.len() as u32 }, tail)?;
        self.end.blocks += 1;
        Ok(())
    }

    /// Nothing is missing. What it was written to.
    ///
    /// # Errors
    /// As above.
    pub fn end(mut self) -> io::Result<W> {
        let end = self.end;
        self.record(Kind::End, &end, Bytes::new())?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn record(&mut self, kind: Kind, meta: &impl Serialize, tail: Bytes) -> io::Result<()> {
        let meta = Frame::pack(&message::encode(meta), LEVEL).to_bytes();
        let packet = Packet { form: Form::Tell, kind: kind as u16, id: self.next, meta, tail };
        self.next += 1;
        let parts = packet.encode().expect("frames are smaller than what a packet may have");
        parts.iter().try_for_each(|part| self.to.write_all(part))
    }
}

/// How a file of some version begins.
fn begin(version: u32) -> [u8; BEGIN_BYTES] {
    let mut bytes = [0; BEGIN_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests;
