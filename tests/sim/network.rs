//! Messages between members on their way, as bytes: delayed, lost, repeated, cut short, in another order, and cut off in one
//! direction or both.
//!
//! Each is a packet as a connection carries it. A real connection loses nothing in the middle and repeats nothing, so this is
//! harsher. Not here: what mounts say (`lines`).

use crate::chance::Chance;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use tsfs::tsdb_log::entry::Message;
use tsfs::types::NodeId;
use tsfs::wire::message;
use tsfs::wire::message::Request;
use tsfs::wire::packet::Decoder;
use tsfs::wire::packet::Form;
use tsfs::wire::packet::HEADER_BYTES;
use tsfs::wire::packet::META_BYTES_MAX;
use tsfs::wire::packet::Packet;

struct Letter {
    from: NodeId,
    to: NodeId,
    bytes: Bytes,
}

pub(crate) struct Network {
    /// By when they arrive, and in which order they were sent.
    under_way: BTreeMap<(u64, u64), Letter>,
    sent: u64,
    /// From whom nothing reaches whom.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Of a thousand messages so many are lost, arrive twice, or arrive as bytes that are no packet.
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) broken: u64,
    pub(crate) delay_max: u64,
    /// Packets that were refused, as they have to be.
    pub(crate) refused: u64,
}

/// The bytes of a packet.
pub(crate) fn bytes_of(packet: &Packet) -> Vec<u8> {
    packet.encode().unwrap().concat()
}

impl Network {
    pub(crate) fn new() -> Network {
        Network {
            under_way: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            lost: 0,
            doubled: 0,
            broken: 0,
            delay_max: 2,
            refused: 0,
        }
    }

    pub(crate) fn send(&mut self, now: u64, message: Message, chance: &mut Chance) {
        let (from, to) = (message.from, message.to);
        let meta = message::encode(&Request::Log(vec![message]));
        let (form, kind, tail) = (Form::Tell, message::REQUEST, Bytes::new());
        let bytes = bytes_of(&Packet { form, kind, id: 0, meta, tail });
        let copies = if chance.below(1000) < self.doubled { 2 } else { 1 };
        for _ in 0..copies {
            if chance.below(1000) < self.lost {
                continue;
            }
            self.sent += 1;
            let at = now + chance.between(1, self.delay_max);
            let bytes = match chance.below(1000) < self.broken {
                true => broken(&bytes, chance),
                false => bytes.clone().into(),
            };
            self.under_way.insert((at, self.sent), Letter { from, to, bytes });
        }
    }

    /// What arrives by now and can be read.
    pub(crate) fn arrive(&mut self, now: u64) -> Vec<Message> {
        let later = self.under_way.split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut self.under_way, later);
        let mut messages = Vec::new();
        for letter in due.into_values() {
            if self.is_cut(letter.from, letter.to) {
                continue;
            }
            let mut bytes = &letter.bytes[..];
            match Decoder::new(META_BYTES_MAX).take(&mut bytes) {
                Ok(Some(packet)) => {
                    let Ok(Request::Log(said)) = message::decode(&packet.meta) else {
                        panic!("a whole packet has a message");
                    };
                    messages.extend(said);
                }
                Ok(None) | Err(_) => self.refused += 1,
            }
        }
        messages
    }

    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Somebody does not reach somebody.
    pub(crate) fn is_torn(&self) -> bool {
        !self.cut.is_empty()
    }

    /// Everybody reaches everybody again.
    pub(crate) fn mend(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn calm(&mut self) {
        self.mend();
        (self.lost, self.doubled, self.broken, self.delay_max) = (0, 0, 0, 2);
    }
}

/// Cut short, or with another bit in its head. What is behind the head has no checksum: TLS seals it.
fn broken(bytes: &[u8], chance: &mut Chance) -> Bytes {
    let mut bytes = bytes.to_vec();
    if chance.once_in(2) {
        bytes.truncate(chance.below(bytes.len() as u64) as usize);
    } else {
        bytes[chance.below(HEADER_BYTES as u64) as usize] ^= 1 << chance.below(8);
    }
    bytes.into()
}
