//! Connections between mounts and members, and of members that ask others for blocks: bytes in order and in pieces, until they
//! end somewhere.
//!
//! What was on its way when one ends may still arrive, up to any byte: so a member hears late from a connection that its mount
//! has given up, after it has heard from the next. A loss is a delay, as for TCP. Not here: what is said.

use crate::chance::Chance;
use crate::network::Network;
use crate::network::bytes_of;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use tsfs::types::NodeId;
use tsfs::wire::packet::Decoder;
use tsfs::wire::packet::META_BYTES_MAX;
use tsfs::wire::packet::Packet;

/// What is stuck for so long because one end is cut off does not arrive any more. Longer than a lease: so a member hears batches
/// of a session that has ended since.
const STUCK_MS: u64 = 5000;
/// A piece that is lost is sent again.
const AGAIN_MS: u64 = 120;

/// The kind of the packet with which both sides begin where it matters which process is there: `Hello`, as in `net`.
pub(crate) const HELLO: u16 = 100;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LineId(u64);

/// One direction.
struct Pipe {
    pieces: VecDeque<(u64, Vec<u8>)>,
    /// Nothing arrives before what was sent before.
    last: u64,
    decoder: Decoder,
    /// Nothing is sent any more; what is on its way arrives, then the end.
    ends: bool,
    /// Its end was seen, or nobody listens.
    over: bool,
}

impl Pipe {
    fn new() -> Pipe {
        let decoder = Decoder::new(META_BYTES_MAX);
        Pipe { pieces: VecDeque::new(), last: 0, decoder, ends: false, over: false }
    }

    /// It ends after any part of what is on its way.
    fn end(&mut self, chance: &mut Chance) {
        if self.ends {
            return;
        }
        self.ends = true;
        self.pieces.truncate(chance.below(self.pieces.len() as u64 + 1) as usize);
        if let Some((_, piece)) = self.pieces.back_mut() {
            piece.truncate(chance.below(piece.len() as u64 + 1) as usize);
        }
    }
}

struct Line {
    /// Or who else called.
    mount: usize,
    member: usize,
    /// To the member, and to the mount.
    pipes: [Pipe; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Member,
    Mount,
}

pub(crate) enum What {
    Packet(Packet),
    End,
}

/// Something reached one end of a line.
pub(crate) struct Arrival {
    pub(crate) line: LineId,
    pub(crate) at: Side,
    /// Which member or mount, and whom it is connected with.
    pub(crate) who: usize,
    pub(crate) with: usize,
    pub(crate) what: What,
}

/// Members that call others stand on the side of mounts, behind them.
const CALLERS: usize = 100;

/// A member as one that calls.
pub(crate) fn caller(member: usize) -> usize {
    CALLERS + member
}

/// The member that calls, if it is no mount.
pub(crate) fn calling_member(mount: usize) -> Option<usize> {
    mount.checked_sub(CALLERS)
}

/// The address of a mount, for those who cut it off.
pub(crate) fn address(mount: usize) -> NodeId {
    match calling_member(mount) {
        Some(member) => NodeId(member as u64 + 1),
        None => NodeId(100 + mount as u64),
    }
}

#[derive(Default)]
pub(crate) struct Lines {
    lines: BTreeMap<LineId, Line>,
    next: u64,
    /// How many ended in the middle of a packet.
    pub(crate) cut_short: u64,
}

impl Lines {
    pub(crate) fn open(&mut self, mount: usize, member: usize) -> LineId {
        self.next += 1;
        let id = LineId(self.next);
        self.lines.insert(id, Line { mount, member, pipes: [Pipe::new(), Pipe::new()] });
        id
    }

    pub(crate) fn send(
        &mut self,
        now: u64,
        (id, to): (LineId, Side),
        packet: &Packet,
        network: &Network,
        chance: &mut Chance,
    ) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        let pipe = &mut line.pipes[to as usize];
        if pipe.ends {
            return;
        }
        let mut bytes = bytes_of(packet);
        while !bytes.is_empty() {
            let rest = match chance.once_in(3) {
                true => bytes.split_off(chance.between(1, bytes.len() as u64) as usize),
                false => Vec::new(),
            };
            let again = if chance.below(1000) < network.lost { AGAIN_MS } else { 0 };
            pipe.last = pipe.last.max(now + chance.between(1, network.delay_max) + again);
            pipe.pieces.push_back((pipe.last, bytes));
            bytes = rest;
        }
    }

    /// One side wants no more of it. The other learns it.
    pub(crate) fn close(&mut self, id: LineId, by: Side, chance: &mut Chance) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        let (heard, said) = match by {
            Side::Member => (Side::Member, Side::Mount),
            Side::Mount => (Side::Mount, Side::Member),
        };
        line.pipes[heard as usize].over = true;
        line.pipes[said as usize].end(chance);
    }

    /// The network breaks a line, if this is one.
    pub(crate) fn break_one(&mut self, chance: &mut Chance) -> bool {
        let ids: Vec<LineId> = self.lines.keys().copied().collect();
        let Some(id) = chance.pick(&ids) else { return false };
        for pipe in &mut self.lines.get_mut(id).unwrap().pipes {
            pipe.end(chance);
        }
        true
    }

    /// A process is gone, and its ends with it.
    pub(crate) fn gone(&mut self, side: Side, who: usize, chance: &mut Chance) {
        let end = |line: &Line| match side {
            Side::Member if line.mount == caller(who) => Some(Side::Mount),
            Side::Member => (line.member == who).then_some(side),
            Side::Mount => (line.mount == who).then_some(side),
        };
        let ends: Vec<(LineId, Side)> =
            self.lines.iter().filter_map(|(id, line)| Some((*id, end(line)?))).collect();
        for (id, side) in ends {
            self.close(id, side, chance);
        }
    }

    /// What arrives by now, at those that are awake.
    pub(crate) fn arrive(
        &mut self,
        now: u64,
        network: &Network,
        awake: impl Fn(Side, usize) -> bool,
        chance: &mut Chance,
    ) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for (id, line) in &mut self.lines {
            let (member, mount) = (NodeId(line.member as u64 + 1), address(line.mount));
            for side in [Side::Member, Side::Mount] {
                let (who, with, from, to) = match side {
                    Side::Member => (line.member, line.mount, mount, member),
                    Side::Mount => (line.mount, line.member, member, mount),
                };
                let pipe = &mut line.pipes[side as usize];
                if network.is_cut(from, to)
                    && let Some((due, _)) = pipe.pieces.front_mut()
                {
                    if *due + STUCK_MS < now {
                        pipe.pieces.clear();
                        pipe.ends = true;
                    }
                    continue;
                }
                if pipe.over || !awake(side, who) {
                    continue;
                }
                let arrival = |what| Arrival { line: *id, at: side, who, with, what };
                while pipe.pieces.front().is_some_and(|(due, _)| *due <= now) {
                    let (_, piece) = pipe.pieces.pop_front().unwrap();
                    let mut bytes = &piece[..];
                    while let Some(packet) = pipe.decoder.take(&mut bytes).expect("whole bytes") {
                        arrivals.push(arrival(What::Packet(packet)));
                    }
                }
                if pipe.ends && pipe.pieces.is_empty() {
                    pipe.over = true;
                    self.cut_short += u64::from(!pipe.decoder.is_between());
                    arrivals.push(arrival(What::End));
                }
            }
            // Whoever sees the end of one direction closes the other.
            if line.pipes.iter().any(|pipe| pipe.over) {
                line.pipes.iter_mut().for_each(|pipe| pipe.end(chance));
            }
        }
        self.lines.retain(|_, line| line.pipes.iter().any(|pipe| !pipe.over));
        arrivals
    }
}
