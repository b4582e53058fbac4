//! The way to the other nodes: what the log says to its members, and blocks that this node lacks.
//!
//! Every node keeps connections of its own to each other node and asks over these only. Not here: who the nodes are (the
//! store's rows say), what the messages mean.

use crate::net::Credentials;
use crate::net::DialSecurity;
use crate::net::Keep;
use crate::net::Line;
use crate::net::Net;
use crate::net::NetError;
use crate::net::Pair;
use crate::net::Reply;
use crate::net::Service;
use crate::tsdb_log::entry::Message;
use crate::tsdb_server::data;
use crate::tsdb_server::member::greeting::Greeting;
use crate::tsdb_server::replica::Outbound;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::frame;
use crate::types::placement::Placed;
use crate::wire::message;
use crate::wire::message::NodeAt;
use crate::wire::message::Request;
use crate::wire::message::Response;
use crate::wire::packet::Packet;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

/// How long another node is waited for that is asked for a block.
const PATIENCE: Duration = Duration::from_secs(10);

/// Entries of the log that go in one packet, unless there is one only.
const PACKET_BYTES: usize = 4 << 20;

/// Told that what was sent to a node may be lost, from any thread: it must not wait.
type OnBroken = Box<dyn Fn(NodeId) + Send + Sync>;

pub struct Peers {
    net: Arc<Net>,
    credentials: Arc<Credentials>,
    here: NodeId,
    greeting: Arc<Greeting>,
    nodes: RwLock<BTreeMap<NodeId, Keep>>,
    /// Whom to ask first for which block.
    placed: RwLock<Arc<Placed>>,
    on_broken: Arc<OnceLock<OnBroken>>,
}

impl Peers {
    /// `greeting` is what this node says of itself.
    pub(super) fn new(
        net: Arc<Net>,
        credentials: Arc<Credentials>,
        here: NodeId,
        greeting: Arc<Greeting>,
    ) -> Arc<Peers> {
        Arc::new(Peers {
            net,
            credentials,
            here,
            greeting,
            nodes: RwLock::default(),
            placed: RwLock::default(),
            on_broken: Arc::default(),
        })
    }

    /// The first call counts.
    pub fn on_broken(&self, call: impl Fn(NodeId) + Send + Sync + 'static) {
        let _ = self.on_broken.set(Box::new(call));
    }

    /// The nodes are these, and no others. This one may be among them.
    ///
    /// # Errors
    /// `Io` where there can be no more threads.
    pub fn meet(&self, all: &[NodeAt]) -> Result<(), FsError> {
        let others: Vec<&NodeAt> = all.iter().filter(|at| at.node != self.here).collect();
        let mut gone = Vec::new();
        {
            let mut nodes = self.nodes.write();
            let kept = |node: &NodeId, keep: &Keep| {
                others.iter().any(|at| at.node == *node && at.address == keep.address())
            };
            let left: BTreeSet<NodeId> = nodes
                .iter()
                .filter(|(node, keep)| !kept(node, keep))
                .map(|(node, _)| *node)
                .collect();
            gone.extend(left.iter().filter_map(|node| nodes.remove(node)));
            for at in others {
                if let Entry::Vacant(place) = nodes.entry(at.node) {
                    place.insert(self.keep(at)?);
                }
            }
        }
        // Their ends are told, which may ask for the list.
        drop(gone);
        Ok(())
    }

    /// Blocks are kept so: who is home to one is asked for it first.
    pub fn place(&self, placed: Arc<Placed>) {
        *self.placed.write() = placed;
    }

    /// The other nodes, in the order in which they are asked for a block: all, as any may have it.
    fn in_order(&self, block: BlockId) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.nodes.read().keys().copied().collect();
        let placed = self.placed.read().clone();
        nodes.sort_by_key(|node| placed.rank(*node, block));
        nodes
    }

    /// Nobody is kept a connection to any more.
    pub fn close(&self) {
        let nodes = std::mem::take(&mut *self.nodes.write());
        // Their ends are told, which may ask for the list.
        drop(nodes);
    }

    fn keep(&self, at: &NodeAt) -> Result<Keep, FsError> {
        let (node, on_broken) = (at.node, Arc::clone(&self.on_broken));
        let line = Line {
            address: at.address.clone(),
            hello: {
                let greeting = self.greeting.clone();
                Box::new(move || greeting.bytes())
            },
            security: DialSecurity::Tls(self.credentials.clone(), Some(node)),
            service: Box::new(|| Arc::new(Silent) as Arc<dyn Service>),
            changed: Arc::new(move || {
                if let Some(call) = on_broken.get() {
                    call(node);
                }
            }),
        };
        Ok(Keep::start(&self.net, line)?)
    }

    /// The connections to another node, where they are up.
    pub fn pair(&self, node: NodeId) -> Option<Arc<Pair>> {
        self.nodes.read().get(&node).and_then(Keep::pair)
    }

    /// The nodes that can be reached, and why the others cannot.
    pub fn reached(&self) -> Vec<(NodeId, Option<String>)> {
        let nodes = self.nodes.read();
        let why = |keep: &Keep| match keep.pair() {
            Some(_) => None,
            None => Some(keep.trouble().unwrap_or_else(|| "it was not reached yet".to_owned())),
        };
        nodes.iter().map(|(node, keep)| (*node, why(keep))).collect()
    }
}

impl data::Peers for Peers {
    fn fetch(&self, block: BlockId, _payload_row: bool) -> Result<Option<Bytes>, FsError> {
        let nodes = self.in_order(block);
        let meta = message::encode(&Request::Block { block });
        let mut unasked = None;
        for node in nodes {
            let answer = match self.pair(node) {
                Some(pair) => pair
                    .bulk
                    .call(message::REQUEST, meta.clone(), Bytes::new(), PATIENCE)
                    .map_err(|error| error.to_string()),
                None => Err("it is not reached".to_owned()),
            };
            let packet = match answer {
                Ok(packet) => packet,
                Err(why) => {
                    unasked = Some(format!("node {}: {why}", node.0));
                    continue;
                }
            };
            match message::decode(&packet.meta) {
                Ok(Response::Frame) if frame::verify(&packet.tail).is_ok() => {
                    return Ok(Some(packet.tail));
                }
                Ok(Response::Failed(FsError::Io(why))) => {
                    unasked = Some(format!("node {}: {why}", node.0));
                }
                _ => {}
            }
        }
        unasked.map_or(Ok(None), |why| Err(FsError::Io(why)))
    }
}

/// Messages for one node, in their order, by the packet. One alone is never too big for it: what is proposed has a bound.
fn packets(messages: Vec<Message>) -> Vec<Vec<Message>> {
    let mut packets: Vec<Vec<Message>> = Vec::new();
    let mut room = 0;
    for message in messages {
        let bytes: usize =
            message.entries.iter().map(|entry| entry.header.len() + entry.body.len()).sum();
        match packets.last_mut().filter(|_| bytes <= room) {
            Some(packet) => packet.push(message),
            None => {
                packets.push(vec![message]);
                room = PACKET_BYTES;
            }
        }
        room = room.saturating_sub(bytes);
    }
    packets
}

impl Outbound for Peers {
    fn send(&self, messages: Vec<Message>) {
        let mut by_node: BTreeMap<NodeId, Vec<Message>> = BTreeMap::new();
        for message in messages {
            by_node.entry(message.to).or_default().push(message);
        }
        for (node, messages) in by_node {
            let Some(pair) = self.pair(node) else { continue };
            for messages in packets(messages) {
                let meta = message::encode(&Request::Log(messages));
                match pair.control.tell(message::REQUEST, meta, Bytes::new()) {
                    Ok(()) => continue,
                    // Its end is told of by itself.
                    Err(NetError::Closed(_)) => {}
                    Err(error) => {
                        tracing::debug!(node = node.0, %error, "messages of the log were not sent");
                        // So that they are sent again soon: nothing else says that they are missed.
                        if let Some(call) = self.on_broken.get() {
                            call(node);
                        }
                    }
                }
                break;
            }
        }
    }

    fn is_behind(&self, node: NodeId) {
        let Some(pair) = self.pair(node) else { return };
        // Told again for as long as it is.
        let _ =
            pair.control.tell(message::REQUEST, message::encode(&Request::Behind), Bytes::new());
    }
}

/// Nobody asks over a connection that this node dialled.
struct Silent;

impl Service for Silent {
    fn asked(&self, _: Packet, reply: Reply) {
        reply.fail("ask over a connection of your own");
    }

    fn told(&self, _: Packet) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tsdb_log::entry::Entry;
    use crate::tsdb_log::entry::EntryKind;
    use crate::tsdb_log::entry::MessageKind;
    use crate::types::LogIndex;
    use crate::types::Term;
    use crate::wire::packet::META_BYTES_MAX;

    fn append(index: u64, bytes: usize) -> Message {
        let (index, term) = (LogIndex(index), Term(1));
        let body = vec![0; bytes].into();
        Message {
            kind: MessageKind::Append,
            from: NodeId(1),
            to: NodeId(2),
            term,
            index,
            log_term: term,
            entries: vec![Entry {
                index,
                term,
                kind: EntryKind::Command,
                header: Bytes::new(),
                body,
            }],
            commit: index,
            commit_term: term,
            reject: false,
            reject_hint: index,
            request_snapshot: index,
            priority: 0,
            context: Bytes::new(),
        }
    }

    #[test]
    fn messages_are_put_in_packets_that_can_be_sent() {
        let sizes = [0, 1 << 20, 3 << 20, 1, 12 << 20, 0, 5 << 20, 2 << 20, 2 << 20, 2 << 20];
        let messages: Vec<Message> = (0..).zip(sizes).map(|(n, bytes)| append(n, bytes)).collect();
        let packets = packets(messages.clone());
        for packet in &packets {
            assert!(message::encode(&Request::Log(packet.clone())).len() < META_BYTES_MAX);
        }
        let counts: Vec<usize> = packets.iter().map(Vec::len).collect();
        assert_eq!(counts, [3, 1, 2, 1, 2, 1]);
        assert_eq!(packets.concat(), messages);
    }
}
