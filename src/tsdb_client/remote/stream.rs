//! The proposals of a session on their way: kept until each is applied, sent again in order to whoever leads next.
//!
//! What is here is what "exactly once" needs of a client: everything from the first proposal that is not known to be applied,
//! in the order of its numbers. That it is applied once is the log's doing. Not here: who leads.
//!
//! Lock order: `sending`, then `items`. Sending may wait for room on the connection, so answers, which make room, take
//! `items` alone.

use crate::meta::op::Outcome;
use crate::net::NetError;
use crate::net::Wait;
use crate::telemetry::counter::CLIENT_REPLAYS;
use crate::tsdb_client::remote::LONG_PATIENCE;
use crate::tsdb_client::remote::Lane;
use crate::tsdb_client::remote::link::Link;
use crate::tsdb_client::remote::links::Links;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::NodeId;
use crate::wire::Applied;
use crate::wire::Durable;
use crate::wire::Proposal;
use crate::wire::message;
use crate::wire::message::Request;
use crate::wire::message::Response;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

struct Item {
    proposal: Proposal,
    /// Taken when they are called. That it is durable is told by its being applied, unless it is not.
    durable: Option<Durable>,
    applied: Option<Applied>,
}

impl Item {
    fn fail(mut self, why: &FsError) {
        if let Some(durable) = self.durable.take() {
            durable(Err(why.clone()));
        }
        if let Some(applied) = self.applied.take() {
            applied(Err(why.clone()));
        }
    }
}

#[derive(Default)]
struct Items {
    /// In the order of their numbers, as one session proposes them.
    list: VecDeque<Item>,
    /// Why nothing is taken any more.
    over: Option<String>,
}

#[derive(Default)]
pub(super) struct Stream {
    /// Held by whoever sends: what is on a connection is in order. The link that it is sent over.
    sending: Mutex<Option<Link>>,
    items: Mutex<Items>,
}

impl Stream {
    /// As `wire::Server::propose`. Sent at once where there is a leader to send it to; else when there is one.
    pub(super) fn propose(
        self: &Arc<Stream>,
        links: &Arc<Links>,
        proposal: Proposal,
        durable: Durable,
        applied: Applied,
    ) {
        let sending = self.sending.lock();
        let item =
            Item { proposal: proposal.clone(), durable: Some(durable), applied: Some(applied) };
        let mut items = self.items.lock();
        if let Some(why) = items.over.clone() {
            drop(items);
            return item.fail(&FsError::Lost(why));
        }
        items.list.push_back(item);
        drop(items);
        if let Some(link) = &*sending {
            self.send(links, link, &proposal);
        }
    }

    /// Sends everything again, and from now on, over this link.
    pub(super) fn take_up(self: &Arc<Stream>, links: &Arc<Links>, link: &Link) {
        let mut sending = self.sending.lock();
        let all: Vec<Proposal> =
            self.items.lock().list.iter().map(|item| item.proposal.clone()).collect();
        CLIENT_REPLAYS.add(all.len() as u64);
        for proposal in &all {
            if !self.send(links, link, proposal) {
                break;
            }
        }
        *sending = Some(link.clone());
    }

    /// Something was proposed and is not known to be applied.
    pub(super) fn is_waiting(&self) -> bool {
        !self.items.lock().list.is_empty()
    }

    /// The link is gone: what comes is kept for the next.
    pub(super) fn let_go(&self) {
        *self.sending.lock() = None;
    }

    /// Nothing of it will ever be applied.
    pub(super) fn give_up(&self, why: &str) {
        let mut items = self.items.lock();
        items.over.get_or_insert_with(|| why.to_owned());
        let left = std::mem::take(&mut items.list);
        drop(items);
        for item in left {
            item.fail(&FsError::Lost(why.to_owned()));
        }
    }

    /// False where the link is gone.
    fn send(self: &Arc<Stream>, links: &Arc<Links>, link: &Link, proposal: &Proposal) -> bool {
        let Proposal { session, seq, ops, ref batch } = *proposal;
        let meta = message::encode(&Request::Propose { session, seq, ops });
        let (stream, links_for_answer) = (Arc::clone(self), Arc::downgrade(links));
        let generation = link.generation;
        let sent = link.connection(Lane::Bulk).ask(
            message::REQUEST,
            meta,
            batch.clone(),
            LONG_PATIENCE,
            Wait::UpTo(LONG_PATIENCE),
            Box::new(move |answer| {
                let failed = match answer {
                    Ok(packet) => stream.answered(seq, message::decode(&packet.meta)),
                    Err(error) => Some(lost_link(&error)),
                };
                if let (Some(leader), Some(links)) = (failed, links_for_answer.upgrade()) {
                    links.lost(generation, leader);
                }
            }),
        );
        if let Err(error) = &sent {
            links.lost(generation, lost_link(error));
        }
        sent.is_ok()
    }

    /// Takes an answer. Where it says that the link is not to be used any more: who leads instead, if that is known.
    fn answered(&self, seq: BatchSeq, answer: Result<Response, FsError>) -> Option<Option<NodeId>> {
        match answer {
            // What is committed may be refused when it is applied.
            Ok(Response::Durable(_)) => None,
            Ok(Response::Applied { outcome, stamp }) => {
                let mut items = self.items.lock();
                if outcome == Outcome::Early && !items.is_first(seq) {
                    // One before it was not taken, by a leader that was between two minds: all are sent again, in order.
                    return Some(None);
                }
                // Not under the lock: callbacks may take others.
                let item = items.take(seq);
                drop(items);
                if let Some(applied) = item.and_then(|mut item| item.applied.take()) {
                    applied(Ok((outcome, stamp)));
                }
                None
            }
            Ok(Response::Failed(FsError::NotLeader { leader })) => Some(leader),
            // The session is over, or the batch is none: no other node says anything else.
            Ok(Response::Failed(
                error @ (FsError::Fenced | FsError::Invalid(_) | FsError::Refused(_)),
            )) => {
                let item = self.items.lock().take(seq);
                if let Some(item) = item {
                    item.fail(&error);
                }
                None
            }
            // This node has trouble of its own: its disk, or its end. Another can take the batch.
            Ok(Response::Failed(error)) | Err(error) => {
                tracing::warn!(%error, "the node that leads did not take a change; it is sent to the next");
                Some(None)
            }
            Ok(other) => {
                tracing::error!(?other, "a node answered a proposal with something else");
                Some(None)
            }
        }
    }
}

impl Items {
    fn is_first(&self, seq: BatchSeq) -> bool {
        self.list.front().is_some_and(|item| item.proposal.seq == seq)
    }

    fn take(&mut self, seq: BatchSeq) -> Option<Item> {
        let at = self.list.iter().position(|item| item.proposal.seq == seq)?;
        self.list.remove(at)
    }
}

fn lost_link(error: &NetError) -> Option<NodeId> {
    tracing::debug!(%error, "a proposal was not answered; it will be sent again");
    None
}
