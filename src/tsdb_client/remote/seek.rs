//! Finding who leads, being known there, and renewing the lease.
//!
//! Not here: the connections themselves (`links`).

use crate::net::Wait;
use crate::tsdb_client::remote::Lane;
use crate::tsdb_client::remote::link::Link;
use crate::tsdb_client::remote::links::Links;
use crate::types::FsError;
use crate::types::NodeId;
use crate::wire::message;
use crate::wire::message::Request;
use crate::wire::message::Response;
use crate::wire::message::View;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::Duration;

/// How long the nodes are given to say who leads. One that lives says so in less than a millisecond.
const ANSWER: Duration = Duration::from_millis(300);
/// Between two rounds of asking while nobody leads: an election takes a few of them.
const ROUND: Duration = Duration::from_millis(20);
/// Being attended waits for the leader to be sure that it leads.
const ATTEND: Duration = Duration::from_secs(2);
/// A lease is renewed so many times before it would end.
const RENEWALS: u32 = 3;
/// Whoever waits for an answer looks this often whether another node leads: a few times within an election.
const PROBE: Duration = Duration::from_millis(250);
/// Without a lease nothing is to be renewed, but the leader is looked at all the same.
const LOOK: Duration = Duration::from_secs(1);

impl Links {
    /// One step; false at the end.
    pub(super) fn seek(self: &Arc<Links>) -> bool {
        if self.is_closed() {
            return false;
        }
        match self.leader() {
            Some(link) => self.hold(&link),
            None => {
                // Its connection may have ended without anybody asking for anything.
                self.down();
                self.tell_away();
                self.stream.let_go();
                match self.who_leads() {
                    Some(link) => self.attach(link),
                    None => self.wait_for_change(ROUND),
                }
            }
        }
        true
    }

    /// Renews the lease when it is time.
    fn hold(self: &Arc<Links>, link: &Link) {
        let length = Duration::from_nanos(self.lease_length.load(Relaxed));
        let every = if length.is_zero() { LOOK } else { length / RENEWALS };
        let due = self.lease().saturating_sub(length - every.min(length));
        let left = due.saturating_sub(self.now());
        if !left.is_zero() && !self.take_renew() {
            let copies = self.copies_due().map(|due| due.saturating_sub(self.now()));
            if copies.is_some_and(|left| left.is_zero()) {
                return self.keep_copies(link);
            }
            self.wait_for_change(left.min(every).min(PROBE).min(copies.unwrap_or(PROBE)));
            // Idle mounts need not know sooner; one that waits is not to wait for a node that is frozen or cut off.
            if self.is_waiting() && self.leader().is_some() {
                self.probe(link);
            }
            return;
        }
        let Some(member) = self.member() else { return self.wait_for_change(every) };
        // In this order: whoever has a lease put by what the leader said no longer ago than that.
        if !self.look_around(link, every.min(ATTEND)) {
            return;
        }
        let asked = self.now();
        let request = message::encode(&Request::Renew { session: member.session });
        match link.call(Lane::Control, request, Bytes::new(), every.min(ATTEND)) {
            Ok((Response::Renewed(renewed), _)) => self.renewed(asked, &renewed),
            Ok((Response::Failed(FsError::NotLeader { leader }), _)) => {
                self.lost(link.generation, leader);
            }
            Ok((Response::Failed(FsError::Fenced), _)) => self.over(),
            Ok((Response::Failed(error), _)) => {
                tracing::warn!(%error, "the lease was not renewed");
                self.wait_for_change(ROUND);
            }
            Ok(_) | Err(_) => self.lost(link.generation, None),
        }
    }

    /// What this mount has copies of is to count for longer.
    fn keep_copies(self: &Arc<Links>, link: &Link) {
        let Some(member) = self.member() else { return self.wait_for_change(ROUND) };
        let asked = self.now();
        let request = message::encode(&Request::KeepCopies { session: member.session });
        match link.call(Lane::Control, request, Bytes::new(), ANSWER) {
            Ok((Response::Copying(copying), _)) => self.copied(asked, &copying),
            Ok((Response::Failed(FsError::NotLeader { leader }), _)) => {
                self.lost(link.generation, leader);
            }
            // Then they count no longer; whether the node still leads, others find out.
            other => {
                tracing::debug!(?other, "copies are not kept");
                self.wait_for_change(ANSWER);
            }
        }
    }

    /// Learns which nodes there are by now, and which of them keep which blocks. False where the node does not say so: then
    /// it does not lead for us.
    fn look_around(self: &Arc<Links>, link: &Link, patience: Duration) -> bool {
        let request = message::encode(&Request::View);
        match link.call(Lane::Control, request, Bytes::new(), patience) {
            Ok((Response::View(view), _)) if view.leader == Some(link.node) => {
                if self.meet(&view) {
                    return true;
                }
                self.lost(link.generation, None);
            }
            Ok((Response::View(view), _)) => self.lost(link.generation, view.leader),
            other => {
                tracing::debug!(?other, "the node that leads does not say who there is");
                self.lost(link.generation, None);
            }
        }
        false
    }

    /// Looks whether another node leads by now.
    fn probe(self: &Arc<Links>, link: &Link) {
        let Some(other) = self.who_leads_after(link.node, self.term()) else { return };
        tracing::info!(
            node = link.node.0,
            by = other.node.0,
            "the node that led does not any more"
        );
        self.lost(link.generation, Some(other.node));
        // Whoever waits for an answer of it is told that there is none, and asks the other.
        link.close();
    }

    fn over(&self) {
        self.ended("the cluster ended this mount's session, for it was not heard of for longer than its lease");
    }

    /// Makes our session known to the leader, and sends it what was not applied.
    fn attach(self: &Arc<Links>, link: Link) {
        let Some(member) = self.member() else { return self.found(link) };
        let asked = self.now();
        let request = message::encode(&Request::Attend { session: member.session });
        match link.call(Lane::Control, request, Bytes::new(), ATTEND) {
            Ok((Response::Renewed(renewed), _)) => {
                self.renewed(asked, &renewed);
                self.stream.take_up(self, &link);
                self.found(link);
            }
            Ok((Response::Failed(FsError::Fenced), _)) => self.over(),
            Ok((Response::Failed(FsError::NotLeader { .. }), _)) => self.wait_for_change(ROUND),
            other => {
                tracing::debug!(?other, "a node that says it leads does not take us up");
                self.wait_for_change(ROUND);
            }
        }
    }

    /// The node that says of itself that it leads: all are asked at once, and the first such answer counts.
    fn who_leads(self: &Arc<Links>) -> Option<Link> {
        self.ask_all(self.all(), 0)
    }

    /// The node, other than this one, that says that it leads in a later term.
    fn who_leads_after(self: &Arc<Links>, node: NodeId, term: u64) -> Option<Link> {
        let others = self.all().into_iter().filter(|link| link.node != node).collect();
        self.ask_all(others, term + 1)
    }

    fn ask_all(self: &Arc<Links>, mut links: Vec<Link>, term: u64) -> Option<Link> {
        let hint = self.hint();
        links.sort_by_key(|link| Some(link.node) != hint);
        let (tell, told) = mpsc::sync_channel::<(NodeId, View)>(links.len());
        let request = message::encode(&Request::View);
        for link in &links {
            let (tell, node) = (tell.clone(), link.node);
            let on_answer = move |answer: crate::net::Answer| {
                let view = answer.ok().and_then(|packet| message::decode(&packet.meta).ok());
                if let Some(Response::View(view)) = view {
                    // Whoever asked has its answer by now.
                    let _ = tell.try_send((node, view));
                }
            };
            let (kind, tail) = (message::REQUEST, Bytes::new());
            // One that cannot be asked does not lead for us.
            let _ = link.connection(Lane::Control).ask(
                kind,
                request.clone(),
                tail,
                ANSWER,
                Wait::Never,
                Box::new(on_answer),
            );
        }
        drop(tell);
        while let Ok((node, view)) = told.recv_timeout(ANSWER) {
            if view.leader == Some(node) && view.term >= term && self.meet(&view) {
                return links.into_iter().find(|link| link.node == node);
            }
            // One that follows says where the leader is, for who was told of it alone.
            if view.leader.is_some_and(|leader| links.iter().all(|link| link.node != leader)) {
                self.hear_of(&view.nodes);
            }
        }
        None
    }
}
