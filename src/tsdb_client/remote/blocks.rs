//! Contents on several nodes: each block is put to those that keep it, and may be named once a majority of them has it on disk.
//!
//! The account is `wire::quorum`; here its puts and syncs are sent, over the bulk connection of each node, and waited for. A node
//! that lags is sent what it lacks while others go on; one that was away fetches it from the others. Not here: which contents
//! become blocks.

use crate::net::Answer;
use crate::net::Wait;
use crate::tsdb_client::remote::LONG_PATIENCE;
use crate::tsdb_client::remote::Lane;
use crate::tsdb_client::remote::PATIENCE;
use crate::tsdb_client::remote::link::Link;
use crate::tsdb_client::remote::links::Links;
use crate::tsdb_client::remote::links::Roll;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::frame;
use crate::types::frame::Frame;
use crate::wire::message;
use crate::wire::message::Request;
use crate::wire::message::Response;
use crate::wire::quorum::Boot;
use crate::wire::quorum::Mark;
use crate::wire::quorum::PutNo;
use crate::wire::quorum::Quorum;
use crate::wire::quorum::Standing;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Frames kept for nodes that lag behind a majority.
const BACKLOG_BYTES_MAX: u64 = 64 << 20;
/// Puts that one node may have unanswered: what fills a line, and less than a bulk connection takes.
const IN_FLIGHT_MAX: usize = 32;
/// Whoever waits looks at the connections this often: a node that comes back is sent what it lacks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Blocks {
    links: Arc<Links>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    account: Mutex<Account>,
    answered: Condvar,
}

#[derive(Default)]
struct Account {
    /// None before the nodes are known.
    quorum: Option<Quorum>,
    /// By which the account is kept.
    roll: Arc<Roll>,
    frames: HashMap<PutNo, Bytes>,
    nodes: HashMap<NodeId, Node>,
    /// The last refusal, for who is told that there is no hope.
    refused: Option<FsError>,
    /// Somebody waits for a sync of everything up to here.
    wanted: PutNo,
}

#[derive(Default)]
struct Node {
    /// Of the link that the account takes for the present one.
    generation: u64,
    in_flight: usize,
    syncing: bool,
}

/// What is to be sent to a node.
enum Send {
    Put(PutNo, BlockId, Bytes),
    Sync(Mark),
}

impl Blocks {
    pub(super) fn new(links: Arc<Links>) -> Blocks {
        Blocks { links, shared: Arc::default() }
    }

    /// Puts a block; returns once a majority of the nodes that count for it has it, though not yet on disk.
    ///
    /// # Errors
    /// `NoSpace` or what else a majority of the nodes refused it for; `Closing`.
    pub(super) fn put(&self, block: BlockId, frame: Frame) -> Result<(), FsError> {
        let bytes = frame.to_bytes();
        // The leader has said who the nodes are.
        self.links.link(None)?;
        let no = {
            let mut account = self.shared.account.lock();
            account.form(&self.links);
            let Some(quorum) = &mut account.quorum else {
                return Err(FsError::Unreachable("no node of the cluster is known yet".to_owned()));
            };
            let no = quorum.put(block, bytes.len() as u64);
            account.frames.insert(no, bytes);
            no
        };
        let written = move |account: &Account| {
            account.quorum.as_ref().is_none_or(|quorum| quorum.is_written(no))
        };
        self.wait(written, no)
    }

    /// Makes every block put so far durable on a majority.
    ///
    /// # Errors
    /// As for `put`.
    pub(super) fn sync(&self) -> Result<(), FsError> {
        let target = {
            let mut account = self.shared.account.lock();
            let Some(last) = account.quorum.as_ref().map(Quorum::last) else { return Ok(()) };
            account.wanted = account.wanted.max(last);
            last
        };
        let durable = move |account: &Account| {
            account.quorum.as_ref().is_none_or(|quorum| quorum.durable_through() >= target)
        };
        self.wait(durable, target)
    }

    /// Sends what is to be sent until `done` says so, or there is no hope for this put. As long as it takes, whatever the mount's
    /// `when-down` is: what waits here was taken from programs already, and giving up would lose it.
    fn wait(&self, done: impl Fn(&Account) -> bool, no: PutNo) -> Result<(), FsError> {
        loop {
            pump(&self.links, &self.shared);
            let mut account = self.shared.account.lock();
            if done(&account) {
                return Ok(());
            }
            let standing = account.quorum.as_ref().map(|quorum| quorum.standing(no));
            if standing == Some(Standing::Hopeless) {
                let unknown = || FsError::Io("a majority of the nodes refused a block".to_owned());
                return Err(account.refused.clone().unwrap_or_else(unknown));
            }
            if self.links.is_closed() {
                return Err(FsError::Closing);
            }
            self.shared.answered.wait_for(&mut account, LOOK_EVERY);
        }
    }

    /// A block's frame, verified, from whichever node has it.
    ///
    /// # Errors
    /// `Damaged`, `Io` where every node was asked; `Stale` where none knows it; `Unreachable`, `Closing`.
    pub(super) fn get(&self, block: BlockId) -> Result<Bytes, FsError> {
        let until = self.links.until();
        let meta = message::encode(&Request::Block { block });
        loop {
            let leader = self.links.leader().map(|link| link.node);
            let (mut links, roll) = (self.links.all(), self.links.roll());
            links.sort_by_key(|link| {
                (roll.placed.rank(link.node, block), Some(link.node) != leader)
            });
            let is_asked = |node: NodeId| links.iter().any(|link| link.node == node);
            let everybody = !roll.members.is_empty() && roll.keepers(block).all(is_asked);
            let mut failed = None;
            for link in links {
                match link.call(Lane::Bulk, meta.clone(), Bytes::new(), PATIENCE) {
                    Ok((Response::Frame, frame)) => match frame::verify(&frame) {
                        Ok(_) => return Ok(frame),
                        Err(error) => failed = Some(error),
                    },
                    // What one node never had says nothing about it; damage elsewhere does.
                    Ok((Response::Failed(FsError::Stale), _)) => {
                        failed = failed.or(Some(FsError::Stale));
                    }
                    Ok((Response::Failed(error), _)) => failed = Some(error),
                    Ok(_) | Err(_) => failed = failed.or(Some(FsError::Stale)),
                }
            }
            if let Some(error) = failed.filter(|_| everybody) {
                return Err(error);
            }
            if until.is_some_and(|until| until <= self.links.now()) {
                return Err(FsError::Unreachable(format!(
                    "no node answers that has block {block}"
                )));
            }
            if self.links.is_closed() {
                return Err(FsError::Closing);
            }
            self.links.wait_for_change(LOOK_EVERY);
        }
    }
}

/// Sends everything that may be sent now. Waits for nothing.
fn pump(links: &Arc<Links>, shared: &Arc<Shared>) {
    let all = links.all();
    let mut account = shared.account.lock();
    account.form(links);
    account.meet(&all);
    let sends: Vec<_> = all.iter().flat_map(|link| account.next(link)).collect();
    drop(account);
    for (link, send) in sends {
        deliver(links, shared, &link, send);
    }
}

fn deliver(links: &Arc<Links>, shared: &Arc<Shared>, link: &Link, send: Send) {
    let (meta, tail) = match &send {
        Send::Put(_, block, frame) => {
            (message::encode(&Request::PutBlock { block: *block }), frame.clone())
        }
        Send::Sync(_) => (message::encode(&Request::SyncBlocks), Bytes::new()),
    };
    let what = match send {
        Send::Put(no, ..) => Sent::Put(no),
        Send::Sync(mark) => Sent::Sync(mark),
    };
    let (links, shared_after) = (Arc::downgrade(links), Arc::clone(shared));
    let (node, boot, generation) = (link.node, Boot(link.boot), link.generation);
    let asked = link.connection(Lane::Bulk).ask(
        message::REQUEST,
        meta,
        tail,
        LONG_PATIENCE,
        Wait::Never,
        Box::new(move |answer| {
            shared_after.account.lock().take(node, boot, generation, what, answer);
            shared_after.answered.notify_all();
            if let Some(links) = links.upgrade() {
                pump(&links, &shared_after);
            }
        }),
    );
    if asked.is_err() {
        // As if the connection had broken: it is all owed again, when the node is met again.
        shared.account.lock().part(node, generation);
    }
}

#[derive(Clone, Copy)]
enum Sent {
    Put(PutNo),
    Sync(Mark),
}

impl Account {
    /// The nodes are these.
    fn form(&mut self, links: &Links) {
        let roll = links.roll();
        if roll.members.is_empty() || Arc::ptr_eq(&roll, &self.roll) {
            return;
        }
        let Roll { members, learners, placed } = &*roll;
        let new = || Quorum::new(members, BACKLOG_BYTES_MAX);
        self.quorum.get_or_insert_with(new).reform_with(members, learners, placed);
        // One that comes back is met anew.
        self.nodes.retain(|node, _| members.contains(node) || learners.contains(node));
        self.roll = roll;
    }

    /// These can be reached, and no others.
    fn meet(&mut self, links: &[Link]) {
        let Some(quorum) = &mut self.quorum else { return };
        for member in self.roll.members.iter().chain(&self.roll.learners) {
            let node = self.nodes.entry(*member).or_default();
            match links.iter().find(|link| link.node == *member) {
                Some(link) if link.generation != node.generation => {
                    *node = Node { generation: link.generation, in_flight: 0, syncing: false };
                    quorum.connected(*member, Boot(link.boot));
                }
                Some(_) => {}
                None => quorum.disconnected(*member),
            }
        }
    }

    /// A node does not take what is sent: it is met anew with its next link.
    fn part(&mut self, node: NodeId, generation: u64) {
        let known = self.nodes.entry(node).or_default();
        if known.generation == generation {
            known.generation = 0;
            if let Some(quorum) = &mut self.quorum {
                quorum.disconnected(node);
            }
        }
    }

    /// What is to be sent to a node now.
    fn next(&mut self, link: &Link) -> Vec<(Link, Send)> {
        let mut sends = Vec::new();
        let Some(quorum) = &mut self.quorum else { return sends };
        let Some(node) = self.nodes.get_mut(&link.node) else { return sends };
        while node.in_flight < IN_FLIGHT_MAX
            && let Some((no, block)) = quorum.next_for(link.node)
        {
            // A frame is let go of only when nobody is owed it.
            let Some(frame) = self.frames.get(&no) else { continue };
            node.in_flight += 1;
            sends.push((link.clone(), Send::Put(no, block, frame.clone())));
        }
        if !node.syncing
            && quorum.durable_through() < self.wanted
            && let Some(mark) = quorum.begin_sync(link.node)
        {
            node.syncing = true;
            sends.push((link.clone(), Send::Sync(mark)));
        }
        sends
    }

    fn take(&mut self, node: NodeId, boot: Boot, generation: u64, sent: Sent, answer: Answer) {
        let Some(quorum) = &mut self.quorum else { return };
        if let Some(known) =
            self.nodes.get_mut(&node).filter(|known| known.generation == generation)
        {
            match sent {
                Sent::Put(_) => known.in_flight = known.in_flight.saturating_sub(1),
                Sent::Sync(_) => known.syncing = false,
            }
        }
        let response =
            answer.ok().and_then(|packet| message::decode::<Response>(&packet.meta).ok());
        match (sent, response) {
            (Sent::Put(no), Some(Response::Done)) => {
                quorum.written(node, boot, no);
            }
            (Sent::Put(no), Some(Response::Failed(error))) => {
                tracing::warn!(node = node.0, %error, "a node does not take a block");
                quorum.refused(node, boot, no);
                self.refused = Some(error);
            }
            (Sent::Sync(mark), Some(Response::Done)) => quorum.synced(mark),
            (Sent::Sync(_), Some(Response::Failed(error))) => {
                tracing::warn!(node = node.0, %error, "a node cannot make blocks durable");
                quorum.failed(node);
                self.refused = Some(error);
            }
            // Whether it has it nobody knows: it is sent again.
            (Sent::Put(_), _) => self.part(node, generation),
            (Sent::Sync(mark), _) => quorum.unanswered(mark),
        }
        let released = self.quorum.as_mut().map(Quorum::take_released).unwrap_or_default();
        for no in released {
            self.frames.remove(&no);
        }
    }
}
