//! Reading a file of refused work, as much of it as is whole.
//!
//! Not here: what the batches mean.

use crate::meta::op::Batch;
use crate::types::BatchSeq;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::frame;
use crate::types::frame::FRAME_BYTES_MAX;
use crate::wire::message;
use crate::wire::packet::Decoder;
use crate::wire::packet::Form;
use crate::wire::packet::HEADER_BYTES;
use crate::wire::packet::Packet;
use crate::wire::packet::bytes_behind;
use crate::wire::refused::BEGIN_BYTES;
use crate::wire::refused::Block;
use crate::wire::refused::End;
use crate::wire::refused::Head;
use crate::wire::refused::Kind;
use crate::wire::refused::MAGIC;
use crate::wire::refused::Named;
use crate::wire::refused::Part;
use crate::wire::refused::VERSION;
use crate::wire::refused::begin;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;

/// Read at a time where the next record is looked for.
const WINDOW_BYTES: usize = 64 << 10;

/// Where the bytes are.
pub trait Source {
    fn len(&self) -> u64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// So many bytes from `at` on, all of which are there.
    ///
    /// # Errors
    /// `Io`.
    fn read(&self, at: u64, len: usize) -> Result<Bytes, FsError>;
}

/// Something in the file, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    Head(Head),
    Names(Vec<Named>),
    /// `sent`: nobody knows whether it was applied.
    Batch {
        sent: bool,
        batch: Box<Batch>,
    },
    /// [`contents`] gives it.
    Block {
        block: BlockId,
        at: u64,
        len: u32,
    },
    Damage(Damage),
}

/// What cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    pub at: u64,
    pub bytes: u64,
    pub what: String,
}

/// Goes through a file once. It holds one batch at most.
pub struct Reader<'a> {
    source: &'a dyn Source,
    at: u64,
    /// The number of the next record.
    next: u64,
    /// A batch of which not all parts have come.
    part: Option<(Part, Vec<u8>)>,
    read: End,
    ended: bool,
    /// What is to be told before anything else.
    told: VecDeque<Found>,
    /// Something was just told to be damaged: that records are missing is no news.
    damaged: bool,
}

impl<'a> Reader<'a> {
    /// # Errors
    /// `Damaged` where it is no such file, `NotSupported` where a newer program wrote it, `Io`.
    pub fn open(source: &'a dyn Source) -> Result<Reader<'a>, FsError> {
        let none = || FsError::Damaged("this is no file of refused work".to_owned());
        if source.len() < BEGIN_BYTES as u64 {
            return Err(none());
        }
        let bytes = source.read(0, BEGIN_BYTES)?;
        let version = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes are four"));
        let mut told = VecDeque::new();
        if bytes[..] != begin(version)[..] {
            let at = BEGIN_BYTES as u64;
            if !bytes.starts_with(MAGIC) && head_at(source, at)?.is_none() {
                return Err(none());
            }
            told.push_back(damage(0, at, "how the file begins"));
        } else if version != VERSION {
            return Err(FsError::NotSupported("the file was written by a newer tsfs"));
        }
        let read = End { batches: 0, blocks: 0 };
        let (at, part, ended) = (BEGIN_BYTES as u64, None, false);
        Ok(Reader { source, at, next: 0, part, read, ended, told, damaged: false })
    }

    /// What comes next.
    ///
    /// # Errors
    /// `Io`.
    pub fn next_found(&mut self) -> Result<Option<Found>, FsError> {
        loop {
            if let Some(found) = self.told.pop_front() {
                self.damaged = matches!(found, Found::Damage(_));
                return Ok(Some(found));
            }
            if self.at >= self.source.len() {
                if std::mem::replace(&mut self.ended, true) {
                    return Ok(None);
                }
                self.part_is_over();
                let what = "the end is missing: saving was cut short, or the file was";
                self.told.push_back(damage(self.at, 0, what));
                continue;
            }
            self.step()?;
        }
    }

    /// One record, or what is in its place.
    fn step(&mut self) -> Result<(), FsError> {
        let (at, left) = (self.at, self.source.len() - self.at);
        let Some(behind) = head_at(self.source, at)? else {
            let next = self.seek(at + 1)?;
            self.at = next;
            self.part_is_over();
            self.told.push_back(damage(at, next - at, "a record, or several"));
            return Ok(());
        };
        let bytes = (HEADER_BYTES + behind) as u64;
        if bytes > left {
            self.at = self.source.len();
            self.part_is_over();
            self.told.push_back(damage(at, left, "a record that is cut off"));
            return Ok(());
        }
        self.at += bytes;
        let packet = packet(self.source, at, bytes as usize)?;
        if packet.id != self.next && !self.damaged {
            self.told.push_back(damage(at, 0, "records are missing before this one"));
        }
        self.next = packet.id + 1;
        if let Err(error) = self.take(at, &packet) {
            self.part_is_over();
            self.told.push_back(damage(at, bytes, &error.to_string()));
        }
        Ok(())
    }

    /// A record as it should be, or why it is not.
    fn take(&mut self, at: u64, packet: &Packet) -> Result<(), FsError> {
        let kind = Kind::of(packet.kind).expect("what is no record was passed over");
        if kind != Kind::Part {
            self.part_is_over();
        }
        let found = match kind {
            Kind::Head => Found::Head(meta(packet)?),
            Kind::Names => Found::Names(meta(packet)?),
            Kind::Part => return self.take_part(meta(packet)?, &frame::unpack(&packet.tail)?),
            Kind::Block => {
                let Block { block, len } = meta(packet)?;
                frame::verify(&packet.tail)?;
                self.read.blocks += 1;
                Found::Block { block, at, len }
            }
            Kind::End => {
                let end: End = meta(packet)?;
                self.ended = true;
                if end != self.read {
                    let missing = format!(
                        "of {} batches and {} blocks {} and {} are here",
                        end.batches, end.blocks, self.read.batches, self.read.blocks
                    );
                    self.told.push_back(damage(at, 0, &missing));
                }
                return Ok(());
            }
        };
        self.told.push_back(found);
        Ok(())
    }

    fn take_part(&mut self, part: Part, bytes: &[u8]) -> Result<(), FsError> {
        let follows = self.part.as_ref().is_some_and(|(before, _)| {
            before.seq == part.seq && before.parts == part.parts && before.part + 1 == part.part
        });
        if !follows {
            self.part_is_over();
        }
        let (_, mut all) = self.part.take().unwrap_or_else(|| (part, Vec::new()));
        if !follows && part.part != 0 {
            let BatchSeq(seq) = part.seq;
            return Err(FsError::Damaged(format!("the beginning of batch {seq} is missing")));
        }
        all.extend_from_slice(bytes);
        if part.part + 1 < part.parts {
            self.part = Some((part, all));
            return Ok(());
        }
        let batch = Box::new(Batch::decode(&all)?);
        self.read.batches += 1;
        self.told.push_back(Found::Batch { sent: part.sent, batch });
        Ok(())
    }

    /// What comes is no further part of the batch that had begun.
    fn part_is_over(&mut self) {
        if let Some((part, _)) = self.part.take() {
            let what = format!("the end of batch {} is missing", part.seq.0);
            self.told.push_back(damage(self.at, 0, &what));
        }
    }

    /// Where the next record may begin.
    fn seek(&self, from: u64) -> Result<u64, FsError> {
        let len = self.source.len();
        let mut at = from;
        while at + HEADER_BYTES as u64 <= len {
            let bytes = WINDOW_BYTES.min((len - at) as usize);
            let window = self.source.read(at, bytes)?;
            let found = window.windows(HEADER_BYTES).position(|head| is_head(head).is_some());
            if let Some(found) = found {
                return Ok(at + found as u64);
            }
            at += (bytes - HEADER_BYTES + 1) as u64;
        }
        Ok(len)
    }
}

/// The raw bytes of the block whose record is at `at`.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn contents(source: &dyn Source, at: u64) -> Result<Bytes, FsError> {
    let none = || FsError::Damaged("no record of a block is there".to_owned());
    let behind = head_at(source, at)?.ok_or_else(none)?;
    frame::unpack(&packet(source, at, HEADER_BYTES + behind)?.tail)
}

/// How many bytes follow the header of the record that is there, if one is.
fn head_at(source: &dyn Source, at: u64) -> Result<Option<usize>, FsError> {
    if source.len().saturating_sub(at) < HEADER_BYTES as u64 {
        return Ok(None);
    }
    Ok(is_head(&source.read(at, HEADER_BYTES)?))
}

fn is_head(head: &[u8]) -> Option<usize> {
    let kind = u16::from_le_bytes([head[2], head[3]]);
    let known = head[1] == Form::Tell as u8 && Kind::of(kind).is_some();
    let head = head.try_into().ok().filter(|_| known)?;
    bytes_behind(head, FRAME_BYTES_MAX).ok()
}

/// The packet that is there, whole.
fn packet(source: &dyn Source, at: u64, bytes: usize) -> Result<Packet, FsError> {
    let bytes = source.read(at, bytes)?;
    let taken = Decoder::new(FRAME_BYTES_MAX).take(&mut &bytes[..]);
    taken.ok().flatten().ok_or_else(|| FsError::Io("the file changed while it was read".into()))
}

fn meta<T: DeserializeOwned>(packet: &Packet) -> Result<T, FsError> {
    message::decode(&frame::unpack(&packet.meta)?)
}

fn damage(at: u64, bytes: u64, what: &str) -> Found {
    Found::Damage(Damage { at, bytes, what: what.to_owned() })
}
