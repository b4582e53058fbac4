//! Which blocks are durable on a majority of the data nodes, as a client keeps account of it.
//!
//! Every block is put to every node or, where there is a placement, to its homes and to those that are going to be. A node
//! first writes it and, asked to sync, makes durable what it had written; when its process ends in between, that is void. A
//! client may name a block in an op once a majority of those that count has it durable: of the voters or, where there is a
//! placement, of its homes. The other nodes are sent it meanwhile, as long as a bounded backlog allows: what they miss they
//! fetch from each other.
//!
//! A state machine: told what was sent and answered, it says what is to be sent and what holds. Not here: connections,
//! frames (the caller keeps each until it is [released](Quorum::take_released)), when to sync.

mod reform;

use crate::types::BlockId;
use crate::types::NodeId;
use crate::types::placement::Placed;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which run of a node's process: another one has lost what this one had not made durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Boot(pub u64);

/// Which put of this client, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PutNo(pub u64);

/// A sync that was asked for. What it covers was acknowledged as written before it was sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mark {
    pub node: NodeId,
    /// Writes were counted anew since, where the node's is another.
    era: u64,
    writes: u64,
}

/// What is to be expected of a put.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// On a majority's disks: the block may be named.
    Durable,
    /// It may yet be.
    Waiting,
    /// So many nodes have refused it that no majority is left.
    Hopeless,
}

/// How far a block is at one node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    /// To be sent.
    Owed,
    /// Sent and not answered.
    Sent,
    /// Written: the node's so manyth write in its present era.
    Written(u64),
    Durable,
    /// The node said no. Asked again when it is connected again.
    Refused,
    /// Not sent any more: a majority has it, and the backlog was too long.
    LeftOut,
    /// Not sent: the node is not home to the block, nor going to be.
    NotHome,
}

/// A node, as one put has to do with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Seat {
    at: At,
    /// Its disk is one of those of which a majority is needed.
    counts: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Put {
    block: BlockId,
    bytes: u64,
    /// In the order of the nodes.
    seats: Vec<Seat>,
    /// So many disks count. More than seats that do, where a home is not among the nodes.
    disks: usize,
}

impl Put {
    fn majority(&self) -> usize {
        self.disks / 2 + 1
    }

    /// So many of the disks that count are of nodes that are so far.
    fn count(&self, is_so_far: impl Fn(At) -> bool) -> usize {
        self.seats.iter().filter(|seat| seat.counts && is_so_far(seat.at)).count()
    }

    fn has_majority(&self) -> bool {
        self.count(|at| at == At::Durable) >= self.majority()
    }

    /// Nobody is sent it any more, as far as is known.
    fn is_settled(&self) -> bool {
        let settled = |at: At| matches!(at, At::Durable | At::Refused | At::LeftOut | At::NotHome);
        self.seats.iter().all(|seat| settled(seat.at))
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Node {
    id: NodeId,
    /// Without a placement, one that does not is sent everything, and counts for nothing.
    votes: bool,
    /// None before the first connection.
    boot: Option<Boot>,
    connected: bool,
    /// Another one when what was written is void. No two are alike, of any nodes at any time: a node that goes and comes back
    /// is not taken for what it was.
    era: u64,
    /// Writes acknowledged in this era.
    writes: u64,
    /// Of these, how many the last sync that was asked for covers.
    marked: u64,
    owed: BTreeSet<PutNo>,
}

impl Node {
    fn new(id: NodeId) -> Node {
        let owed = BTreeSet::new();
        Node { id, votes: true, boot: None, connected: false, era: 0, writes: 0, marked: 0, owed }
    }

    /// What was written and not made durable is void. An answer to an older sync, heard late, covers nothing any more.
    fn begin_era(&mut self, eras: &mut u64) {
        *eras += 1;
        self.era = *eras;
        (self.writes, self.marked) = (0, 0);
    }
}

/// The account of one client.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Quorum {
    nodes: Vec<Node>,
    placed: Arc<Placed>,
    /// Eras that began so far.
    eras: u64,
    /// Those of which something is still to be told. All that is not here is durable.
    puts: BTreeMap<PutNo, Put>,
    last: PutNo,
    /// Every put up to here is durable.
    through: PutNo,
    /// Bytes of puts that are kept only for nodes that lag.
    backlog_bytes: u64,
    backlog_bytes_max: u64,
    released: Vec<PutNo>,
}

impl Quorum {
    /// The account of blocks that are put to `nodes`. At most `backlog_bytes_max` bytes of frames are kept for nodes that lag
    /// behind a majority.
    pub fn new(nodes: &[NodeId], backlog_bytes_max: u64) -> Quorum {
        assert!(!nodes.is_empty(), "blocks are put somewhere");
        Quorum {
            nodes: nodes.iter().map(|id| Node::new(*id)).collect(),
            placed: Arc::default(),
            eras: 0,
            puts: BTreeMap::new(),
            last: PutNo(0),
            through: PutNo(0),
            backlog_bytes: 0,
            backlog_bytes_max,
            released: Vec::new(),
        }
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        self.nodes.iter().position(|known| known.id == node)
    }

    /// A block of `bytes` bytes is to be put to everybody who is to have it.
    pub fn put(&mut self, block: BlockId, bytes: u64) -> PutNo {
        self.last.0 += 1;
        let (seats, disks) = self.seats(block);
        for (node, seat) in self.nodes.iter_mut().zip(&seats) {
            if seat.at == At::Owed {
                node.owed.insert(self.last);
            }
        }
        self.puts.insert(self.last, Put { block, bytes, seats, disks });
        self.last
    }

    /// Whom a block is to be sent to, whose disks count for it, and how many these are.
    fn seats(&self, block: BlockId) -> (Vec<Seat>, usize) {
        let Some(homes) = self.placed.homes(block) else {
            let seat = |node: &Node| Seat { at: At::Owed, counts: node.votes };
            let voters = self.nodes.iter().filter(|node| node.votes).count();
            return (self.nodes.iter().map(seat).collect(), voters);
        };
        let next = self.placed.next_homes(block);
        let seat = |node: &Node| {
            let counts = homes.contains(&node.id);
            let at = match counts || next.contains(&node.id) {
                true => At::Owed,
                false => At::NotHome,
            };
            Seat { at, counts }
        };
        (self.nodes.iter().map(seat).collect(), homes.len())
    }

    /// The next put to be sent to a node, and which block it is; `None` where there is none or the node is away. Oldest first.
    pub fn next_for(&mut self, node: NodeId) -> Option<(PutNo, BlockId)> {
        let place = self.place(node)?;
        let node = &mut self.nodes[place];
        if !node.connected {
            return None;
        }
        let no = node.owed.pop_first()?;
        let put = self.puts.get_mut(&no).expect("a put is known while it is owed");
        put.seats[place].at = At::Sent;
        Some((no, put.block))
    }

    /// A node can be talked to. What an earlier run of its process had not made durable is owed again, and so is what was
    /// not answered.
    pub fn connected(&mut self, node: NodeId, boot: Boot) {
        let Some(place) = self.place(node) else { return };
        let same = self.nodes[place].boot == Some(boot);
        self.nodes[place].connected = true;
        self.nodes[place].boot = Some(boot);
        self.owe(place, |at| match at {
            At::Sent | At::Refused => true,
            At::Written(_) => !same,
            At::Owed | At::Durable | At::LeftOut | At::NotHome => false,
        });
        if !same {
            self.nodes[place].begin_era(&mut self.eras);
        }
    }

    /// A node cannot be talked to. What it has written may still be made durable by a later sync.
    pub fn disconnected(&mut self, node: NodeId) {
        if let Some(place) = self.place(node) {
            self.nodes[place].connected = false;
        }
    }

    /// A node said that its disk failed: what it had not made durable is void, and it is left alone until it is connected
    /// again.
    pub fn failed(&mut self, node: NodeId) {
        let Some(place) = self.place(node) else { return };
        self.nodes[place].connected = false;
        self.nodes[place].begin_era(&mut self.eras);
        self.owe(place, |at| matches!(at, At::Sent | At::Written(_)));
    }

    fn owe(&mut self, place: usize, is_void: impl Fn(At) -> bool) {
        for (no, put) in &mut self.puts {
            if is_void(put.seats[place].at) {
                put.seats[place].at = At::Owed;
                self.nodes[place].owed.insert(*no);
            }
        }
    }

    /// A run of a node's process has written a put.
    pub fn written(&mut self, node: NodeId, boot: Boot, no: PutNo) {
        let Some(place) = self.place(node) else { return };
        let (node, put) = (&mut self.nodes[place], self.puts.get_mut(&no));
        if let Some(put) = put
            && node.boot == Some(boot)
            && matches!(put.seats[place].at, At::Sent | At::Owed | At::Refused)
        {
            node.writes += 1;
            node.owed.remove(&no);
            put.seats[place].at = At::Written(node.writes);
        }
    }

    /// A node will not take a put. It is not asked again before it is connected again.
    pub fn refused(&mut self, node: NodeId, boot: Boot, no: PutNo) {
        let Some(place) = self.place(node) else { return };
        let (node, put) = (&mut self.nodes[place], self.puts.get_mut(&no));
        if let Some(put) = put
            && node.boot == Some(boot)
            && put.seats[place].at == At::Sent
        {
            put.seats[place].at = At::Refused;
        }
    }

    /// A sync of everything that the node has acknowledged as written; to be sent now. `None` where the last one covers
    /// that, or the node is away.
    pub fn begin_sync(&mut self, node: NodeId) -> Option<Mark> {
        let place = self.place(node)?;
        let node = &mut self.nodes[place];
        if !node.connected || node.marked == node.writes {
            return None;
        }
        node.marked = node.writes;
        Some(Mark { node: node.id, era: node.era, writes: node.writes })
    }

    /// The connection broke before a sync was answered: what it was to cover wants another.
    pub fn unanswered(&mut self, mark: Mark) {
        if let Some(place) = self.place(mark.node)
            && self.nodes[place].era == mark.era
        {
            self.nodes[place].marked = 0;
        }
    }

    /// The node has made durable what the sync covers.
    pub fn synced(&mut self, mark: Mark) {
        let Some(place) = self.place(mark.node) else { return };
        if self.nodes[place].era != mark.era {
            return;
        }
        let mut done = Vec::new();
        for (no, put) in &mut self.puts {
            let Seat { at, counts } = put.seats[place];
            if matches!(at, At::Written(write) if write <= mark.writes) {
                put.seats[place].at = At::Durable;
                let nodes = put.count(|at| at == At::Durable);
                // What was durable before the nodes were others is in the backlog already.
                if counts && nodes == put.majority() && *no > self.through {
                    self.backlog_bytes += put.bytes;
                }
                if nodes >= put.majority() || *no <= self.through {
                    done.push(*no);
                }
            }
        }
        for no in done {
            self.let_go(no);
        }
        self.advance();
        self.shorten_backlog();
    }

    fn advance(&mut self) {
        while self.through < self.last && self.is_durable(PutNo(self.through.0 + 1)) {
            self.through.0 += 1;
        }
    }

    /// Forgets a put that is durable, unless it is to be sent to others still.
    fn let_go(&mut self, no: PutNo) {
        if self.puts[&no].is_settled() {
            let put = self.puts.remove(&no).expect("it has just been looked at");
            self.backlog_bytes -= put.bytes;
            self.released.push(no);
        }
    }

    /// Leaves lagging nodes out of the oldest puts, until what is kept for them fits.
    fn shorten_backlog(&mut self) {
        let mut from = PutNo(0);
        while self.backlog_bytes > self.backlog_bytes_max {
            let through = self.through;
            let mut kept = self.puts.range_mut(from..);
            let oldest = kept.find(|(no, put)| **no <= through || put.has_majority());
            let Some((&no, put)) = oldest else { return };
            for (seat, node) in put.seats.iter_mut().zip(&mut self.nodes) {
                if !matches!(seat.at, At::Durable | At::NotHome) {
                    seat.at = At::LeftOut;
                    node.owed.remove(&no);
                }
            }
            self.let_go(no);
            from = no;
        }
    }

    /// Whether a majority of those that count has the put on its disks, or had before these were others.
    pub fn is_durable(&self, no: PutNo) -> bool {
        no <= self.through || no <= self.last && self.puts.get(&no).is_none_or(Put::has_majority)
    }

    /// Whether a majority of those that count has written the put, or has it on its disks. May become false again.
    pub fn is_written(&self, no: PutNo) -> bool {
        let written = |at| matches!(at, At::Written(_) | At::Durable);
        let counted = |put: &Put| put.count(written) >= put.majority();
        self.is_durable(no) || self.puts.get(&no).is_some_and(counted)
    }

    /// The last put.
    pub fn last(&self) -> PutNo {
        self.last
    }

    /// Every put up to this one is durable on a majority of those that count, or was when they did. Never falls.
    pub fn durable_through(&self) -> PutNo {
        self.through
    }

    /// Every block put so far is durable on a majority.
    pub fn all_durable(&self) -> bool {
        self.through == self.last
    }

    /// What is to be expected of a put.
    pub fn standing(&self, no: PutNo) -> Standing {
        if self.is_durable(no) {
            return Standing::Durable;
        }
        // A home that is not among the nodes has refused nothing.
        let able = |put: &Put| put.disks - put.count(|at| at == At::Refused);
        match self.puts.get(&no).is_none_or(|put| able(put) >= put.majority()) {
            true => Standing::Waiting,
            false => Standing::Hopeless,
        }
    }

    /// The puts whose frames are not needed any more, since this was last asked.
    pub fn take_released(&mut self) -> Vec<PutNo> {
        std::mem::take(&mut self.released)
    }

    /// How many puts a node is to have and does not have on its disk, of those that are still accounted for.
    pub fn behind(&self, node: NodeId) -> usize {
        let Some(place) = self.place(node) else { return 0 };
        let has = |put: &Put| matches!(put.seats[place].at, At::Durable | At::NotHome);
        self.puts.values().filter(|put| !has(put)).count()
    }
}

#[cfg(test)]
mod tests;
