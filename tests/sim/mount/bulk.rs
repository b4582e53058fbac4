//! The blocks that a mount puts: to every node of the cluster, or to their homes, and counted by the production's account (`wire::quorum`).
//!
//! In the place of `tsdb_client::remote::blocks`, whose callers wait: what may be sent is sent each millisecond, over a line of its
//! own to each member. A mount puts a few blocks before it has anything to name them with; those that it never names stay for the
//! end of its session. No op that names one is made before the account says that it is durable on a majority of those that count.

use super::Around;
use super::Mount;
use super::Report;
use super::calls::Kind;
use crate::chance::Chance;
use crate::door;
use crate::lines::HELLO;
use crate::lines::LineId;
use crate::lines::Side;
use crate::lines::What;
use crate::monitor::placed;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use tsfs::types::BlockId;
use tsfs::types::NodeId;
use tsfs::types::SessionId;
use tsfs::types::frame::Frame;
use tsfs::types::placement::Placed;
use tsfs::wire::message;
use tsfs::wire::message::Hello;
use tsfs::wire::message::Request;
use tsfs::wire::message::Response;
use tsfs::wire::message::View;
use tsfs::wire::packet::Form;
use tsfs::wire::packet::Packet;
use tsfs::wire::quorum::Boot;
use tsfs::wire::quorum::Mark;
use tsfs::wire::quorum::PutNo;
use tsfs::wire::quorum::Quorum;

/// Frames kept for nodes that lag: little, so that some are left out.
const BACKLOG_BYTES_MAX: u64 = 24 << 10;
/// Puts that one node may have unanswered.
const IN_FLIGHT_MAX: usize = 4;
/// A node that has not answered for so long is called anew.
const PATIENCE_MS: u64 = 1500;
/// Blocks that are put ahead of use.
const STOCK_MAX: usize = 6;
/// Blocks that were named lately, to be read.
const NAMED_MAX: usize = 30;

/// What an answer belongs to.
enum Sent {
    Put(PutNo),
    Sync(Mark),
    Read(BlockId),
}

/// The way to a member.
#[derive(Default)]
struct Link {
    line: Option<LineId>,
    /// Which process is there, once it has said so.
    boot: Option<Boot>,
    sent: BTreeMap<u64, Sent>,
    heard: u64,
    next_try: u64,
}

/// A block that was put and is not named yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stocked {
    pub(crate) block: BlockId,
    pub(crate) len: u32,
    no: PutNo,
}

pub(crate) struct Bulk {
    /// None before the nodes are known.
    quorum: Option<Quorum>,
    /// Those that decide, and the others.
    voters: Vec<NodeId>,
    learners: Vec<NodeId>,
    /// Which nodes keep which blocks, as it was last said.
    placed: Arc<Placed>,
    links: Vec<Link>,
    frames: BTreeMap<PutNo, Bytes>,
    /// Somebody waits for everything up to here.
    wanted: PutNo,
    stock: VecDeque<Stocked>,
    /// Puts that were not found durable yet.
    waiting: BTreeMap<PutNo, BlockId>,
    /// Those that were, and whose disks counted for it.
    claims: Vec<(BlockId, Vec<NodeId>)>,
    named: VecDeque<BlockId>,
}

impl Bulk {
    pub(super) fn new(members: usize) -> Bulk {
        Bulk {
            quorum: None,
            voters: Vec::new(),
            learners: Vec::new(),
            placed: Arc::default(),
            links: (0..members).map(|_| Link::default()).collect(),
            frames: BTreeMap::new(),
            wanted: PutNo(0),
            stock: VecDeque::new(),
            waiting: BTreeMap::new(),
            claims: Vec::new(),
            named: VecDeque::new(),
        }
    }

    /// The nodes are these, as the one says that leads.
    pub(super) fn meet(&mut self, view: &View) {
        if view.voters.is_empty() {
            return;
        }
        let others = view.nodes.iter().map(|at| at.node);
        let learners: Vec<NodeId> = others.filter(|node| !view.voters.contains(node)).collect();
        // One of before, as a member says it that leads no more or has yet to apply the log, does not count.
        let placed = match view.placement.number > self.placed.number() {
            true => placed(&view.placement),
            false => self.placed.clone(),
        };
        let now = (&view.voters, &learners, placed.number());
        if (&self.voters, &self.learners, self.placed.number()) == now {
            return;
        }
        self.note_durable();
        (self.voters, self.learners, self.placed) = (view.voters.clone(), learners, placed);
        let Bulk { quorum, voters, learners, placed, .. } = self;
        let new = || Quorum::new(voters, BACKLOG_BYTES_MAX);
        quorum.get_or_insert_with(new).reform_with(voters, learners, placed);
        // One that comes back is met anew.
        for (n, link) in self.links.iter_mut().enumerate() {
            let node = NodeId(n as u64 + 1);
            if let Some(boot) = link.boot.filter(|_| link.line.is_some()) {
                self.quorum.as_mut().expect("it is formed").connected(node, boot);
            }
        }
        self.note_durable();
    }

    /// Notes what the account says is durable by now.
    fn note_durable(&mut self) {
        let Some(quorum) = &self.quorum else { return };
        while let Some(first) = self.waiting.first_entry() {
            if quorum.durable_through() < *first.key() {
                break;
            }
            let block = first.remove();
            let nodes = self.placed.homes(block).unwrap_or(&self.voters);
            self.claims.push((block, nodes.to_vec()));
        }
    }

    fn is_of(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }

    /// So many that were put first and are not named yet, or fewer.
    pub(super) fn take(&mut self, count: usize) -> Vec<Stocked> {
        self.stock.drain(..count.min(self.stock.len())).collect()
    }

    /// They were not needed.
    pub(super) fn give_back(&mut self, stocked: Vec<Stocked>) {
        stocked.into_iter().rev().for_each(|stocked| self.stock.push_front(stocked));
    }

    /// Whether these may be named; else they will be as soon as it can.
    pub(super) fn may_name(&mut self, stocked: &[Stocked]) -> bool {
        let Some(last) = stocked.iter().map(|stocked| stocked.no).max() else { return true };
        self.wanted = self.wanted.max(last);
        self.quorum.as_ref().is_some_and(|quorum| quorum.durable_through() >= last)
    }

    pub(super) fn note_named(&mut self, block: BlockId) {
        self.named.push_back(block);
        if self.named.len() > NAMED_MAX {
            self.named.pop_front();
        }
    }

    /// Something is not durable yet.
    pub(super) fn is_under_way(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn reads(&self) -> bool {
        let read = |sent: &Sent| matches!(sent, Sent::Read(_));
        self.links.iter().any(|link| link.sent.values().any(read))
    }

    /// The link is gone, or no use any more: what was not answered may have been done or not.
    fn part(&mut self, n: usize, now: u64, chance: &mut Chance) -> Option<LineId> {
        let link = &mut self.links[n];
        let sent = std::mem::take(&mut link.sent);
        link.boot = None;
        link.next_try = now + chance.between(5, 60);
        let line = link.line.take();
        if let Some(quorum) = &mut self.quorum {
            for sent in sent.into_values() {
                if let Sent::Sync(mark) = sent {
                    quorum.unanswered(mark);
                }
            }
            quorum.disconnected(NodeId(n as u64 + 1));
        }
        line
    }
}

impl Mount {
    /// One millisecond of what is put.
    pub(super) fn work_bulk(&mut self, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        life.asks_view |= life.bulk.quorum.is_none();
        self.stock_up(around);
        for n in 0..around.members {
            self.connect(n, around);
            self.pump(n, around);
        }
        let Some(life) = &mut self.life else { return };
        let Bulk { quorum: Some(quorum), claims, frames, wanted, .. } = &mut life.bulk else {
            return;
        };
        if around.chance.once_in(10) {
            *wanted = quorum.last();
        }
        for (block, nodes) in claims.drain(..) {
            self.reports.push(Report::Durable { block, nodes });
            self.reports.push(Report::Done(Kind::Put));
        }
        for no in quorum.take_released() {
            frames.remove(&no);
        }
    }

    fn stock_up(&mut self, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let (session, number) = (life.session, life.next_block);
        let Bulk { quorum: Some(quorum), stock, frames, waiting, .. } = &mut life.bulk else {
            return;
        };
        if !around.more || stock.len() >= STOCK_MAX || !around.chance.once_in(15) {
            return;
        }
        life.next_block += 1;
        let block = BlockId { session, number };
        let raw = contents(block, around.chance);
        let frame = Frame::pack(&raw, 1).to_bytes();
        let no = quorum.put(block, frame.len() as u64);
        frames.insert(no, frame.clone());
        waiting.insert(no, block);
        stock.push_back(Stocked { block, len: raw.len() as u32, no });
        self.reports.push(Report::Put { block, frame });
    }

    /// Keeps a line to a member that takes part.
    fn connect(&mut self, n: usize, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let wanted = life.bulk.is_of(NodeId(n as u64 + 1));
        let link = &mut life.bulk.links[n];
        let late = around.now > link.heard + PATIENCE_MS;
        match link.line {
            Some(line) if !wanted || late && (link.boot.is_none() || !link.sent.is_empty()) => {
                life.bulk.part(n, around.now, around.chance);
                around.lines.close(line, Side::Mount, around.chance);
            }
            None if wanted && around.now >= link.next_try => {
                let Around { now, lines, network, chance, .. } = around;
                let line = lines.open(self.n, n);
                (link.line, link.heard) = (Some(line), *now);
                lines.send(*now, (line, Side::Member), &door::hello(0), network, chance);
            }
            _ => {}
        }
    }

    /// Sends a member what it may be sent.
    fn pump(&mut self, n: usize, around: &mut Around<'_>) {
        let node = NodeId(n as u64 + 1);
        loop {
            let Some(life) = &mut self.life else { return };
            let Bulk { quorum: Some(quorum), links, frames, wanted, .. } = &mut life.bulk else {
                return;
            };
            let link = &mut links[n];
            if link.boot.is_none() || link.sent.len() >= IN_FLIGHT_MAX {
                return;
            }
            let syncing = link.sent.values().any(|sent| matches!(sent, Sent::Sync(_)));
            let (request, tail, sent) = if let Some((no, block)) = quorum.next_for(node) {
                let Some(frame) = frames.get(&no) else { continue };
                (Request::PutBlock { block }, frame.clone(), Sent::Put(no))
            } else if !syncing
                && quorum.durable_through() < *wanted
                && let Some(mark) = quorum.begin_sync(node)
            {
                (Request::SyncBlocks, Bytes::new(), Sent::Sync(mark))
            } else {
                return;
            };
            self.send_bulk(n, &request, tail, sent, around);
        }
    }

    fn send_bulk(
        &mut self,
        n: usize,
        request: &Request,
        tail: Bytes,
        sent: Sent,
        around: &mut Around<'_>,
    ) {
        let Some(life) = &mut self.life else { return };
        let link = &mut life.bulk.links[n];
        let Some(line) = link.line else { return };
        self.next_id += 1;
        let (form, kind, id) = (Form::Ask, message::REQUEST, self.next_id);
        let packet = Packet { form, kind, id, meta: message::encode(request), tail };
        if link.sent.is_empty() {
            link.heard = around.now;
        }
        link.sent.insert(id, sent);
        let Around { now, lines, network, chance, .. } = around;
        lines.send(*now, (line, Side::Member), &packet, network, chance);
    }

    /// Reads a block that was named lately, from any member.
    pub(super) fn read_block(&mut self, around: &mut Around<'_>) {
        let Some(life) = &self.life else { return };
        let named: Vec<BlockId> = life.bulk.named.iter().copied().collect();
        let Some(block) = around.chance.pick(&named).copied() else { return };
        let n = around.chance.below(around.members as u64) as usize;
        if life.bulk.links[n].boot.is_some() {
            self.send_bulk(n, &Request::Block { block }, Bytes::new(), Sent::Read(block), around);
        }
    }

    /// Of a line to a member for blocks; false where it is another.
    pub(super) fn hear_bulk(&mut self, line: LineId, what: &What, around: &mut Around<'_>) -> bool {
        let Some(life) = &mut self.life else { return false };
        let of = |link: &Link| link.line == Some(line);
        let Some(n) = life.bulk.links.iter().position(of) else { return false };
        let node = NodeId(n as u64 + 1);
        life.bulk.links[n].heard = around.now;
        match what {
            What::End => {
                life.bulk.part(n, around.now, around.chance);
                around.lines.close(line, Side::Mount, around.chance);
            }
            What::Packet(packet) if packet.kind == HELLO => {
                let hello: Hello = message::decode(&packet.meta).expect("a whole packet");
                life.bulk.links[n].boot = Some(Boot(hello.boot));
                if let Some(quorum) = &mut life.bulk.quorum {
                    quorum.connected(node, Boot(hello.boot));
                }
            }
            What::Packet(packet) => self.bulk_answered(n, packet, around),
        }
        true
    }

    fn bulk_answered(&mut self, n: usize, packet: &Packet, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let (node, link) = (NodeId(n as u64 + 1), &mut life.bulk.links[n]);
        let (Some(sent), Some(boot)) = (link.sent.remove(&packet.id), link.boot) else { return };
        let Some(quorum) = &mut life.bulk.quorum else { return };
        let response = message::decode(&packet.meta).expect("a whole packet");
        match (sent, response) {
            (Sent::Put(no), Response::Done) => quorum.written(node, boot, no),
            (Sent::Put(no), Response::Failed(_)) => quorum.refused(node, boot, no),
            (Sent::Sync(mark), Response::Done) => {
                quorum.synced(mark);
                life.bulk.note_durable();
            }
            (Sent::Sync(_), Response::Failed(_)) => {
                quorum.failed(node);
                // It is called anew: by then it is another process, or fails once more.
                if let Some(line) = life.bulk.part(n, around.now + 200, around.chance) {
                    around.lines.close(line, Side::Mount, around.chance);
                }
            }
            (Sent::Read(block), Response::Frame) => {
                self.reports.push(Report::Got { block, frame: packet.tail.clone() });
                self.reports.push(Report::Done(Kind::Fetch));
            }
            (Sent::Read(_), Response::Failed(_)) => {}
            (_, other) => panic!("another answer than was asked for: {other:?}"),
        }
    }

    /// Ends all lines for blocks, with the session.
    pub(super) fn part_all(&mut self, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        for line in life.bulk.links.iter_mut().filter_map(|link| link.line.take()) {
            around.lines.close(line, Side::Mount, around.chance);
        }
    }
}

/// Contents that tell blocks apart, of some pages at most; now and then they shrink.
fn contents(block: BlockId, chance: &mut Chance) -> Bytes {
    let SessionId(session) = block.session;
    let (len, seed) = (chance.between(1, 7000), chance.next());
    let plain = chance.once_in(4);
    let byte = |n: u64| match plain {
        true => (n / 64 + block.number) as u8,
        false => (seed.wrapping_mul(n | 1) >> 40) as u8 ^ session as u8,
    };
    (0..len).map(byte).collect()
}
