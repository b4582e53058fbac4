//! Which blocks are durable on a majority of the data nodes, as a client keeps account of it.
//!
//! Every block is put to every node. A node first writes it and, asked to sync, makes durable what it had written; when
//! its process ends in between, that is void. A client may name a block in an op once a majority has it durable; the
//! other nodes are sent it meanwhile, as long as a bounded backlog allows: what they miss they fetch from each other.
//!
//! A state machine: told what was sent and answered, it says what is to be sent and what holds. Not here: connections,
//! frames (the caller keeps each until it is [released](Quorum::take_released)), when to sync.

use crate::types::BlockId;
use crate::types::NodeId;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

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
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Put {
    block: BlockId,
    bytes: u64,
    /// In the order of the nodes.
    at: Vec<At>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Node {
    id: NodeId,
    /// One that does not is sent everything, and counts for nothing.
    votes: bool,
    /// None before the first connection.
    boot: Option<Boot>,
    connected: bool,
    /// Raised when what was written is void.
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
    fn begin_era(&mut self) {
        self.era += 1;
        (self.writes, self.marked) = (0, 0);
    }
}

/// The account of one client.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Quorum {
    nodes: Vec<Node>,
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
            puts: BTreeMap::new(),
            last: PutNo(0),
            through: PutNo(0),
            backlog_bytes: 0,
            backlog_bytes_max,
            released: Vec::new(),
        }
    }

    fn majority(&self) -> usize {
        self.nodes.iter().filter(|node| node.votes).count() / 2 + 1
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        self.nodes.iter().position(|known| known.id == node)
    }

    /// A block of `bytes` bytes is to be put everywhere.
    pub fn put(&mut self, block: BlockId, bytes: u64) -> PutNo {
        self.last.0 += 1;
        let at = vec![At::Owed; self.nodes.len()];
        self.puts.insert(self.last, Put { block, bytes, at });
        for node in &mut self.nodes {
            node.owed.insert(self.last);
        }
        self.last
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
        put.at[place] = At::Sent;
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
            At::Owed | At::Durable | At::LeftOut => false,
        });
        if !same {
            self.nodes[place].begin_era();
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
        self.nodes[place].begin_era();
        self.owe(place, |at| matches!(at, At::Sent | At::Written(_)));
    }

    fn owe(&mut self, place: usize, is_void: impl Fn(At) -> bool) {
        for (no, put) in &mut self.puts {
            if is_void(put.at[place]) {
                put.at[place] = At::Owed;
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
            && matches!(put.at[place], At::Sent | At::Owed | At::Refused)
        {
            node.writes += 1;
            node.owed.remove(&no);
            put.at[place] = At::Written(node.writes);
        }
    }

    /// A node will not take a put. It is not asked again before it is connected again.
    pub fn refused(&mut self, node: NodeId, boot: Boot, no: PutNo) {
        let Some(place) = self.place(node) else { return };
        let (node, put) = (&mut self.nodes[place], self.puts.get_mut(&no));
        if let Some(put) = put
            && node.boot == Some(boot)
            && put.at[place] == At::Sent
        {
            put.at[place] = At::Refused;
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
        let (majority, votes) = (self.majority(), self.nodes[place].votes);
        let mut done = Vec::new();
        for (no, put) in &mut self.puts {
            let covered = matches!(put.at[place], At::Written(write) if write <= mark.writes);
            if covered {
                put.at[place] = At::Durable;
                let nodes = durable_at(put, &self.nodes);
                if votes && nodes == majority {
                    self.backlog_bytes += put.bytes;
                }
                if nodes >= majority {
                    done.push(*no);
                }
            }
        }
        for no in done {
            self.let_go(no);
        }
        while self.through < self.last && self.is_durable(PutNo(self.through.0 + 1)) {
            self.through.0 += 1;
        }
        self.shorten_backlog();
    }

    /// Forgets a put that a majority has, unless it is to be sent to others still.
    fn let_go(&mut self, no: PutNo) {
        let settled = |at: &At| matches!(at, At::Durable | At::Refused | At::LeftOut);
        if self.puts[&no].at.iter().all(settled) {
            let put = self.puts.remove(&no).expect("it has just been looked at");
            self.backlog_bytes -= put.bytes;
            self.released.push(no);
        }
    }

    /// Leaves lagging nodes out of the oldest puts, until what is kept for them fits.
    fn shorten_backlog(&mut self) {
        let mut from = PutNo(0);
        while self.backlog_bytes > self.backlog_bytes_max {
            let majority = self.majority();
            let nodes = &self.nodes;
            let mut kept = self.puts.range_mut(from..);
            let oldest = kept.find(|(_, put)| durable_at(put, nodes) >= majority);
            let Some((&no, put)) = oldest else { return };
            for (at, node) in put.at.iter_mut().zip(&mut self.nodes) {
                if *at != At::Durable {
                    *at = At::LeftOut;
                    node.owed.remove(&no);
                }
            }
            self.let_go(no);
            from = no;
        }
    }

    /// Whether a majority has the put on its disks, or had before the nodes were others.
    pub fn is_durable(&self, no: PutNo) -> bool {
        no <= self.through
            || no <= self.last && self.puts.get(&no).is_none_or(|put| self.has_majority(put))
    }

    fn has_majority(&self, put: &Put) -> bool {
        durable_at(put, &self.nodes) >= self.majority()
    }

    /// The last put.
    pub fn last(&self) -> PutNo {
        self.last
    }

    /// Every put up to this one is durable on a majority. Never falls.
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
        let able = |put: &Put| {
            let at = put.at.iter().zip(&self.nodes);
            at.filter(|(at, node)| **at != At::Refused && node.votes).count()
        };
        match self.puts.get(&no).is_none_or(|put| able(put) >= self.majority()) {
            true => Standing::Waiting,
            false => Standing::Hopeless,
        }
    }

    /// The puts whose frames are not needed any more, since this was last asked.
    pub fn take_released(&mut self) -> Vec<PutNo> {
        std::mem::take(&mut self.released)
    }

    /// How many puts a node does not have on its disk, of those that are still accounted for.
    pub fn behind(&self, node: NodeId) -> usize {
        let Some(place) = self.place(node) else { return 0 };
        self.puts.values().filter(|put| put.at[place] != At::Durable).count()
    }

    /// The data nodes are others now. What is not durable yet wants a majority of these; a new one is sent what is still
    /// accounted for, and fetches the rest by itself.
    pub fn reform(&mut self, nodes: &[NodeId]) {
        self.reform_with(nodes, &[]);
    }

    /// The same, with some that are sent everything and do not count.
    pub fn reform_with(&mut self, voters: &[NodeId], learners: &[NodeId]) {
        assert!(!voters.is_empty(), "blocks are put somewhere");
        let nodes = [voters, learners].concat();
        let old = std::mem::take(&mut self.nodes);
        let places: Vec<_> =
            nodes.iter().map(|id| old.iter().position(|node| node.id == *id)).collect();
        let known = |(id, place): (&NodeId, &Option<usize>)| {
            place.map_or_else(|| Node::new(*id), |place| old[place].clone())
        };
        self.nodes = nodes.iter().zip(&places).map(known).collect();
        for (n, node) in self.nodes.iter_mut().enumerate() {
            node.votes = n < voters.len();
        }
        let majority = self.majority();
        self.backlog_bytes = 0;
        for (no, put) in &mut self.puts {
            put.at = places.iter().map(|place| place.map_or(At::Owed, |at| put.at[at])).collect();
            for (node, at) in self.nodes.iter_mut().zip(&mut put.at) {
                // A majority that was is none now: then nobody is left out.
                if *at == At::LeftOut {
                    *at = At::Owed;
                }
                if *at == At::Owed {
                    node.owed.insert(*no);
                }
            }
            if durable_at(put, &self.nodes) >= majority {
                self.backlog_bytes += put.bytes;
            }
        }
        let durable: Vec<_> = self.puts.keys().copied().filter(|no| self.is_durable(*no)).collect();
        durable.into_iter().for_each(|no| self.let_go(no));
        while self.through < self.last && self.is_durable(PutNo(self.through.0 + 1)) {
            self.through.0 += 1;
        }
        self.shorten_backlog();
    }
}

fn durable_at(put: &Put, nodes: &[Node]) -> usize {
    put.at.iter().zip(nodes).filter(|(at, node)| **at == At::Durable && node.votes).count()
}

#[cfg(test)]
mod tests;
