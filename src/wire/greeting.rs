//! The first packets of a connection: who dialled says which versions it speaks and what the connection is for; who
//! accepted welcomes it or says why not.
//!
//! The layout of these three, and of the packets they travel in, never changes: it is how two versions of tsfs find out
//! that they cannot talk, and say so. Not here: who may have what (`net`), what the opaque bodies mean.

use crate::wire::packet::Form;
use crate::wire::packet::Packet;
use bytes::Bytes;

/// Most bytes of a hello, a welcome or a refusal: what is read from somebody who has not been let in yet.
pub const GREETING_BYTES_MAX: usize = 64 << 10;

/// Versions of the messages that a program speaks, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    pub min: u16,
    pub max: u16,
}

/// What this program speaks. Raised when a message changes its meaning.
pub const VERSIONS: Versions = Versions { min: 1, max: 1 };

impl Versions {
    /// The newest that both speak.
    pub fn common(self, other: Versions) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.min == self.max {
            true => write!(f, "version {}", self.min),
            false => write!(f, "versions {} to {}", self.min, self.max),
        }
    }
}

/// What a connection is for. Two between the same processes, so that a heartbeat never stands behind a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// Small messages that somebody waits for.
    Control,
    /// Blocks and checkpoints.
    Bulk,
    /// A program without a certificate asks for one, with a token.
    Join,
}

impl Purpose {
    const ALL: [Purpose; 3] = [Purpose::Control, Purpose::Bulk, Purpose::Join];
}

/// The first packet, from whoever dialled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    pub versions: Versions,
    /// None: a purpose that this program does not know.
    pub purpose: Option<Purpose>,
    pub body: Bytes,
}

const HELLO_HEAD_BYTES: usize = 5;

impl Hello {
    pub fn new(versions: Versions, purpose: Purpose, body: Bytes) -> Hello {
        Hello { versions, purpose: Some(purpose), body }
    }

    pub fn packet(&self) -> Packet {
        let purpose = Purpose::ALL.iter().position(|purpose| Some(*purpose) == self.purpose);
        let mut meta = Vec::with_capacity(HELLO_HEAD_BYTES);
        meta.extend_from_slice(&self.versions.min.to_le_bytes());
        meta.extend_from_slice(&self.versions.max.to_le_bytes());
        meta.push(purpose.map_or(u8::MAX, |at| at as u8));
        Packet { form: Form::Hello, kind: 0, id: 0, meta: meta.into(), tail: self.body.clone() }
    }

    /// None: it is none.
    pub fn from_packet(packet: &Packet) -> Option<Hello> {
        let [a, b, c, d, purpose] = *packet.meta.first_chunk::<HELLO_HEAD_BYTES>()?;
        (packet.form == Form::Hello).then(|| Hello {
            versions: Versions { min: u16::from_le_bytes([a, b]), max: u16::from_le_bytes([c, d]) },
            purpose: Purpose::ALL.get(usize::from(purpose)).copied(),
            body: packet.tail.clone(),
        })
    }
}

/// Why a connection is refused, for programs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Why {
    /// No version in common.
    Version,
    /// It did not prove who it is, or that does not suffice for this.
    Stranger,
    /// Nobody here serves that purpose.
    Purpose,
    /// There are too many connections. Another node, or later.
    Full,
    /// The process is ending. Another node.
    Closing,
    /// Anything else: the sentence says it.
    Other,
}

impl Why {
    const ALL: [Why; 5] = [Why::Version, Why::Stranger, Why::Purpose, Why::Full, Why::Closing];
}

/// Why a connection is refused, for programs and for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub why: Why,
    pub sentence: String,
}

impl Refusal {
    pub fn new(why: Why, sentence: impl Into<String>) -> Refusal {
        Refusal { why, sentence: sentence.into() }
    }

    pub fn packet(&self) -> Packet {
        let kind =
            Why::ALL.iter().position(|why| *why == self.why).map_or(u16::MAX, |at| at as u16);
        let mut sentence = self.sentence.clone();
        sentence.truncate(sentence.floor_char_boundary(GREETING_BYTES_MAX));
        let meta = sentence.into_bytes().into();
        Packet { form: Form::Refusal, kind, id: 0, meta, tail: Bytes::new() }
    }

    /// None: it is none.
    pub fn from_packet(packet: &Packet) -> Option<Refusal> {
        (packet.form == Form::Refusal).then(|| Refusal {
            why: Why::ALL.get(usize::from(packet.kind)).copied().unwrap_or(Why::Other),
            sentence: String::from_utf8_lossy(&packet.meta).into_owned(),
        })
    }
}

/// The answer to a hello: the version that both will speak, and what the two have to say to each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    pub version: u16,
    pub body: Bytes,
}

impl Welcome {
    pub fn packet(&self) -> Packet {
        let meta = self.version.to_le_bytes().to_vec().into();
        Packet { form: Form::Welcome, kind: 0, id: 0, meta, tail: self.body.clone() }
    }

    /// None: it is none.
    pub fn from_packet(packet: &Packet) -> Option<Welcome> {
        let version = u16::from_le_bytes(*packet.meta.first_chunk()?);
        let body = packet.tail.clone();
        (packet.form == Form::Welcome).then_some(Welcome { version, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_come_back() {
        let body = Bytes::from_static(b"body");
        for purpose in Purpose::ALL {
            let hello = Hello::new(Versions { min: 1, max: 300 }, purpose, body.clone());
            assert_eq!(Hello::from_packet(&hello.packet()), Some(hello.clone()));
            assert_eq!(Welcome::from_packet(&hello.packet()), None);
        }
        let welcome = Welcome { version: 300, body };
        assert_eq!(Welcome::from_packet(&welcome.packet()), Some(welcome));
        for why in Why::ALL.into_iter().chain([Why::Other]) {
            let refusal = Refusal::new(why, "because of that");
            assert_eq!(Refusal::from_packet(&refusal.packet()), Some(refusal));
        }
    }

    #[test]
    fn what_a_newer_program_says_is_still_understood() {
        let mut packet = Hello::new(VERSIONS, Purpose::Control, Bytes::new()).packet();
        packet.meta = Bytes::from_static(&[9, 0, 10, 0, 77, 1, 2, 3]);
        let hello = Hello::from_packet(&packet).unwrap();
        assert_eq!((hello.versions, hello.purpose), (Versions { min: 9, max: 10 }, None));
        packet.meta = Bytes::from_static(&[9, 0, 10]);
        assert_eq!(Hello::from_packet(&packet), None);
    }

    #[test]
    fn two_programs_speak_the_newest_version_that_both_know() {
        let versions = |min, max| Versions { min, max };
        assert_eq!(versions(1, 3).common(versions(2, 5)), Some(3));
        assert_eq!(versions(2, 5).common(versions(1, 3)), Some(3));
        assert_eq!(versions(1, 2).common(versions(3, 4)), None);
        assert_eq!(versions(3, 4).common(versions(1, 2)), None);
    }

    #[test]
    fn a_refusal_that_is_too_long_is_cut() {
        let long = "ä".repeat(GREETING_BYTES_MAX);
        let packet = Refusal::new(Why::Other, long).packet();
        assert!(packet.meta.len() <= GREETING_BYTES_MAX);
        assert!(std::str::from_utf8(&packet.meta).is_ok());
    }
}
