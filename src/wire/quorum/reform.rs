//! Other nodes, or other homes, while puts are under way.
//!
//! What is durable by then stays so. Not here: who says which nodes there are.

use crate::types::NodeId;
use crate::types::placement::Placed;
use crate::wire::quorum::At;
use crate::wire::quorum::Node;
use crate::wire::quorum::Put;
use crate::wire::quorum::PutNo;
use crate::wire::quorum::Quorum;
use crate::wire::quorum::Seat;
use std::mem;
use std::sync::Arc;

impl Quorum {
    /// The data nodes are others now. What is not durable yet wants a majority of these; a new one is sent what is still
    /// accounted for, and fetches the rest by itself. One that went and is back is to be [connected](Quorum::connected) anew.
    pub fn reform(&mut self, nodes: &[NodeId]) {
        self.reform_with(nodes, &[], &Arc::default());
    }

    /// The same, with some that are sent everything and do not count; where there is a placement it says of each block who is
    /// sent it and who counts, whether they vote or not.
    pub fn reform_with(&mut self, voters: &[NodeId], learners: &[NodeId], placed: &Arc<Placed>) {
        assert!(!voters.is_empty(), "blocks are put somewhere");
        let nodes = [voters, learners].concat();
        let old = mem::take(&mut self.nodes);
        let places: Vec<_> =
            nodes.iter().map(|id| old.iter().position(|node| node.id == *id)).collect();
        let known = |(id, place): (&NodeId, &Option<usize>)| {
            place.map_or_else(|| Node::new(*id), |place| old[place].clone())
        };
        self.nodes = nodes.iter().zip(&places).map(known).collect();
        for (n, node) in self.nodes.iter_mut().enumerate() {
            node.votes = n < voters.len();
            node.owed.clear();
        }
        self.placed = Arc::clone(placed);
        self.backlog_bytes = 0;
        let mut puts = mem::take(&mut self.puts);
        for (no, put) in &mut puts {
            self.seat_anew(*no, put, &places);
        }
        self.puts = puts;
        let durable: Vec<_> = self.puts.keys().copied().filter(|no| self.is_durable(*no)).collect();
        durable.into_iter().for_each(|no| self.let_go(no));
        self.advance();
        self.shorten_backlog();
    }

    /// `places` are where the nodes were.
    fn seat_anew(&mut self, no: PutNo, put: &mut Put, places: &[Option<usize>]) {
        let (mut seats, disks) = self.seats(put.block);
        for ((seat, place), node) in seats.iter_mut().zip(places).zip(&mut self.nodes) {
            let was = place.map(|place| put.seats[place].at);
            *seat = Seat { at: at_now(seat.at, was), ..*seat };
            if seat.at == At::Owed {
                node.owed.insert(no);
            }
        }
        (put.seats, put.disks) = (seats, disks);
        // It is kept only for those that lag: it is in the backlog.
        if no <= self.through || put.has_majority() {
            self.backlog_bytes += put.bytes;
        }
    }
}

/// How far a put is at a node that is to be sent it now or not, and was so far before.
fn at_now(wanted: At, was: Option<At>) -> At {
    match (wanted, was) {
        // Should the node be home to it again, it is asked again: it may have let it go.
        (At::NotHome, _) => At::NotHome,
        // A majority that was is none now: then nobody is left out.
        (_, None | Some(At::LeftOut | At::NotHome)) => At::Owed,
        (_, Some(at)) => at,
    }
}
