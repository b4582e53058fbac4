//! Packets: what travels on a connection between two processes, one behind the other.
//!
//! A packet is a header of fixed size, `meta` (small, encoded by whoever sends it) and `tail` (bytes of files, which no
//! encoder ever copies). The codec is pure: values in, bytes out, and back in whatever pieces they arrive.
//!
//! | at | bytes | what, numbers little-endian |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | [`Form`] |
//! | 2 | 2 | kind: means something to those who talk, nothing here |
//! | 4 | 4 | length of meta, at most [`META_BYTES_MAX`] |
//! | 8 | 4 | length of tail, at most [`TAIL_BYTES_MAX`] |
//! | 12 | 8 | id: which ask an answer belongs to |
//! | 20 | 4 | CRC-32C of the twenty bytes above |
//! | 24 | … | meta, then tail |
//!
//! Not here: sockets, who may ask what, what kind and meta mean. Meta and tail have no checksum of their own: what
//! travels is sealed by TLS, and blocks carry theirs.

use bytes::Bytes;

const VERSION: u8 = 1;
/// Bytes before meta.
pub const HEADER_BYTES: usize = 24;
const SUMMED_BYTES: usize = HEADER_BYTES - 4;
/// The largest meta: a page of rows, or a batch of ops, with room to spare.
pub const META_BYTES_MAX: usize = 16 << 20;
/// The largest tail: sixteen blocks.
pub const TAIL_BYTES_MAX: usize = 16 << 20;

/// What a packet is to the connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Form {
    /// The first one, from whoever dialled.
    Hello = 1,
    /// The answer to it: the connection may be used.
    Welcome = 2,
    /// The other answer to it: it may not.
    Refusal = 3,
    /// Wants no answer.
    Tell = 4,
    /// Wants answers: any number of [`Form::More`], then one [`Form::Answer`] or [`Form::Failure`].
    Ask = 5,
    /// The last answer, or the only one.
    Answer = 6,
    /// An answer that others follow.
    More = 7,
    /// The end of an ask that was not answered. Meta is a sentence.
    Failure = 8,
    /// Is anybody there?
    Ping = 9,
    /// Yes. Has the ping's id.
    Pong = 10,
}

impl Form {
    const ALL: [Form; 10] = [
        Form::Hello,
        Form::Welcome,
        Form::Refusal,
        Form::Tell,
        Form::Ask,
        Form::Answer,
        Form::More,
        Form::Failure,
        Form::Ping,
        Form::Pong,
    ];

    fn from_byte(byte: u8) -> Option<Form> {
        Form::ALL.into_iter().find(|form| *form as u8 == byte)
    }
}

/// One packet. Cloning it copies no bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub form: Form,
    pub kind: u16,
    pub id: u64,
    pub meta: Bytes,
    pub tail: Bytes,
}

/// Why bytes are no packet, or a packet cannot be sent. On a connection nothing that follows can be understood either.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPacket {
    #[error(
        "a packet of version {0}, this program reads {VERSION}: use one version of tsfs on both sides"
    )]
    Version(u8),
    #[error("a packet's header does not match its checksum")]
    Checksum,
    #[error("a packet of the unknown form {0}")]
    Form(u8),
    #[error("a packet with {meta} and {tail} bytes, where at most {limit} of each are allowed")]
    TooBig { meta: usize, tail: usize, limit: usize },
}

impl Packet {
    /// The bytes: header and meta in one piece, which are copied, then the tail, which is not.
    ///
    /// # Errors
    /// `TooBig`.
    pub fn encode(&self) -> Result<[Bytes; 2], BadPacket> {
        let (meta, tail) = (self.meta.len(), self.tail.len());
        if meta > META_BYTES_MAX || tail > TAIL_BYTES_MAX {
            return Err(BadPacket::TooBig { meta, tail, limit: META_BYTES_MAX });
        }
        let mut head = Vec::with_capacity(HEADER_BYTES + meta);
        head.extend_from_slice(&[VERSION, self.form as u8]);
        head.extend_from_slice(&self.kind.to_le_bytes());
        head.extend_from_slice(&(meta as u32).to_le_bytes());
        head.extend_from_slice(&(tail as u32).to_le_bytes());
        head.extend_from_slice(&self.id.to_le_bytes());
        head.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
        head.extend_from_slice(&self.meta);
        Ok([head.into(), self.tail.clone()])
    }
}

const _: () = assert!(META_BYTES_MAX == TAIL_BYTES_MAX, "one limit is named in the error");
const _: () = assert!(META_BYTES_MAX <= u32::MAX as usize, "a length fits in four bytes");

/// How many bytes follow a packet's header.
///
/// # Errors
/// Where it is none, or says that a part has more than `limit` bytes.
pub fn bytes_behind(header: &[u8; HEADER_BYTES], limit: usize) -> Result<usize, BadPacket> {
    Header::decode(header, limit).map(|header| header.meta_bytes + header.tail_bytes)
}

#[derive(Clone, Copy)]
struct Header {
    form: Form,
    kind: u16,
    id: u64,
    meta_bytes: usize,
    tail_bytes: usize,
}

impl Header {
    fn decode(bytes: &[u8; HEADER_BYTES], limit: usize) -> Result<Header, BadPacket> {
        let number = |at: usize| {
            let bytes = bytes[at..at + 4].try_into().expect("four bytes are four bytes");
            u32::from_le_bytes(bytes)
        };
        if bytes[0] != VERSION {
            return Err(BadPacket::Version(bytes[0]));
        }
        if number(SUMMED_BYTES) != crc32c::crc32c(&bytes[..SUMMED_BYTES]) {
            return Err(BadPacket::Checksum);
        }
        let form = Form::from_byte(bytes[1]).ok_or(BadPacket::Form(bytes[1]))?;
        let (meta, tail) = (number(4) as usize, number(8) as usize);
        if meta > limit || tail > limit {
            return Err(BadPacket::TooBig { meta, tail, limit });
        }
        let kind = u16::from_le_bytes([bytes[2], bytes[3]]);
        let id = u64::from(number(12)) | u64::from(number(16)) << 32;
        Ok(Header { form, kind, id, meta_bytes: meta, tail_bytes: tail })
    }
}

/// Makes packets of bytes as they come. It holds at most one packet that is not whole.
pub struct Decoder {
    limit: usize,
    head: [u8; HEADER_BYTES],
    head_bytes: usize,
    /// Of the packet that is being read, once its head is whole.
    header: Option<Header>,
    meta: Vec<u8>,
    tail: Vec<u8>,
    /// What is wrong with the bytes so far. There is no way back into step.
    bad: Option<BadPacket>,
}

impl Decoder {
    /// Of packets whose meta and tail have at most `limit` bytes each, and never more than a packet may have.
    pub fn new(limit: usize) -> Decoder {
        Decoder {
            limit: limit.min(META_BYTES_MAX),
            head: [0; HEADER_BYTES],
            head_bytes: 0,
            header: None,
            meta: Vec::new(),
            tail: Vec::new(),
            bad: None,
        }
    }

    /// From now on another limit.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(META_BYTES_MAX);
    }

    /// Whether no packet has begun that is not whole.
    pub fn is_between(&self) -> bool {
        self.head_bytes == 0
    }

    /// Takes from `bytes` what belongs to one packet, and gives that packet when it is whole. `None`: all was taken, and
    /// more is needed.
    ///
    /// # Errors
    /// What is wrong; again at each call after that.
    pub fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Packet>, BadPacket> {
        if let Some(bad) = self.bad {
            return Err(bad);
        }
        let header = match self.header {
            Some(header) => header,
            None => match self.take_header(bytes) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(None),
                Err(bad) => {
                    self.bad = Some(bad);
                    return Err(bad);
                }
            },
        };
        if !fill(&mut self.meta, header.meta_bytes, bytes)
            || !fill(&mut self.tail, header.tail_bytes, bytes)
        {
            return Ok(None);
        }
        self.header = None;
        self.head_bytes = 0;
        Ok(Some(Packet {
            form: header.form,
            kind: header.kind,
            id: header.id,
            meta: std::mem::take(&mut self.meta).into(),
            tail: std::mem::take(&mut self.tail).into(),
        }))
    }

    fn take_header(&mut self, bytes: &mut &[u8]) -> Result<Option<Header>, BadPacket> {
        let count = bytes.len().min(HEADER_BYTES - self.head_bytes);
        let (taken, left) = bytes.split_at(count);
        self.head[self.head_bytes..self.head_bytes + count].copy_from_slice(taken);
        self.head_bytes += count;
        *bytes = left;
        if self.head_bytes < HEADER_BYTES {
            return Ok(None);
        }
        self.header = Some(Header::decode(&self.head, self.limit)?);
        Ok(self.header)
    }
}

/// Moves bytes until `to` has `wanted` of them; whether it has.
fn fill(to: &mut Vec<u8>, wanted: usize, from: &mut &[u8]) -> bool {
    let missing = wanted - to.len();
    if missing == 0 {
        return true;
    }
    if to.is_empty() {
        to.reserve_exact(wanted);
    }
    let (taken, left) = from.split_at(missing.min(from.len()));
    to.extend_from_slice(taken);
    *from = left;
    to.len() == wanted
}

#[cfg(test)]
mod tests;
