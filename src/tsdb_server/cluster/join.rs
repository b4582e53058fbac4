//! One more comes in: what it asks with its token, what the node that leads does, and what the new one writes down.
//!
//! The joiner makes its own key, which never leaves it, and sends the public half with the token's secret over a connection
//! on which the token proves who the cluster is. The leader uses up the invitation and makes the node's row in one batch, so
//! a token works once whoever leads; it then has the log send everything to the new node. A joiner that did not hear the
//! answer asks again with the same disk, and is answered the same.

use crate::env::Clock;
use crate::meta::op::ClusterOp;
use crate::meta::op::Op;
use crate::meta::record::Incarnation;
use crate::meta::record::Invite;
use crate::meta::record::Invited;
use crate::net;
use crate::net::Dial;
use crate::net::DialSecurity;
use crate::net::KeyRequest;
use crate::net::Net;
use crate::net::NetError;
use crate::net::PendingKey;
use crate::net::Token;
use crate::store::disk::Disk;
use crate::store::label::Label;
use crate::tsdb_server::cluster::CERTIFICATE_VALID;
use crate::tsdb_server::cluster::Cluster;
use crate::tsdb_server::cluster::disk;
use crate::tsdb_server::cluster::disk::Identity;
use crate::tsdb_server::cluster::init::Described;
use crate::tsdb_server::cluster::init::find;
use crate::tsdb_server::cluster::init::set_node;
use crate::tsdb_server::cluster::rows;
use crate::tsdb_server::cluster::work::Pause;
use crate::tsdb_server::open;
use crate::types::FsError;
use crate::types::NodeId;
use crate::wire::cluster::Join;
use crate::wire::cluster::Joined;
use crate::wire::cluster::Joiner;
use crate::wire::greeting::Purpose;
use crate::wire::message;
use crate::wire::message::Request;
use crate::wire::message::Response;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// For the answer to a joiner: the batch, and a change of the log's members.
const PATIENCE: Duration = Duration::from_secs(30);
/// Times that a joiner goes through the addresses of its token, while the cluster elects somebody.
const ROUNDS: usize = 10;
/// Between two of them.
const NEXT_ROUND: Duration = Duration::from_secs(1);
/// Times that the leader tries to add a learner while another change is under way.
const CHANGES: usize = 50;
const NEXT_CHANGE: Duration = Duration::from_millis(200);

impl Cluster {
    /// Takes in somebody who shows a token.
    ///
    /// # Errors
    /// `NotLeader`; `Refused` with a sentence for the joiner.
    pub fn admit(&self, join: &Join) -> Result<Joined, FsError> {
        let leader = self.members.leader();
        if leader != Some(self.here) {
            return Err(FsError::NotLeader { leader });
        }
        let authority = rows::authority(&*self.server)?;
        let key = KeyRequest::from_bytes(&join.key).map_err(refused)?;
        let digest = Token::digest_of(&join.secret);
        let invite = rows::invite(&*self.server, digest)?;
        let (identity, node) = match (&join.who, invite.as_ref().map(|invite| &invite.to)) {
            (Joiner::Node { incarnation, name, address, roles }, None | Some(Invited::Node)) => {
                let described =
                    Described { name: name.clone(), address: address.clone(), roles: *roles };
                let node = self.admit_node(digest, invite.as_ref(), *incarnation, &described)?;
                (net::Identity::Node { node, store: authority.store() }, Some(node))
            }
            (Joiner::Client, Some(Invited::Client { name })) => {
                let by = format!("client {name}");
                self.server.administer(Op::Cluster(ClusterOp::UseInvite { digest, by }))?;
                (net::Identity::Client { name: name.clone(), store: authority.store() }, None)
            }
            (Joiner::Client, None) => {
                // Refused with the reason that every unknown token gets.
                let by = "a client".to_owned();
                self.server.administer(Op::Cluster(ClusterOp::UseInvite { digest, by }))?;
                return Err(FsError::Refused("the token is unknown".to_owned()));
            }
            (Joiner::Client, Some(Invited::Node)) => {
                let why = "the token is for a node: 'tsfs node STORE --join TOKEN'";
                return Err(FsError::Refused(why.to_owned()));
            }
            (Joiner::Node { .. }, Some(Invited::Client { name })) => {
                return Err(FsError::Refused(format!(
                    "the token is for the client {name}: 'tsfs cluster client --join TOKEN'"
                )));
            }
        };
        let now = self.clock.wall();
        let certificate = authority.issue_for(&key, &identity, now, CERTIFICATE_VALID)?;
        if let Some(node) = node {
            self.teach(node)?;
        }
        tracing::info!(who = %identity, "joined the cluster");
        let nodes = rows::addresses(&*self.server)?;
        Ok(Joined { store: authority.store().0, certificate, nodes, node })
    }

    fn admit_node(
        &self,
        digest: [u8; 32],
        invite: Option<&Invite>,
        incarnation: Incarnation,
        described: &Described,
    ) -> Result<NodeId, FsError> {
        let by = incarnation.to_string();
        let comes_again = |invite: Option<&Invite>| {
            invite.and_then(|invite| invite.used.as_ref()).is_some_and(|used| used.by == by)
        };
        if comes_again(invite) {
            return find(&*self.server, incarnation);
        }
        let ops = vec![
            Op::Cluster(ClusterOp::UseInvite { digest, by: by.clone() }),
            Op::Cluster(set_node(None, incarnation, described)),
        ];
        match self.server.administer_all(None, ops) {
            Ok(_) => find(&*self.server, incarnation),
            // It may have been done all the same, by a batch whose fate was not told.
            Err(error) => match comes_again(rows::invite(&*self.server, digest)?.as_ref()) {
                true => find(&*self.server, incarnation),
                false => Err(error),
            },
        }
    }

    /// Has the log sent to a node.
    fn teach(&self, node: NodeId) -> Result<(), FsError> {
        for left in (0..CHANGES).rev() {
            let members = self.members.members();
            if members.voters.contains(&node) || members.learners.contains(&node) {
                return Ok(());
            }
            let mut learners = members.learners.clone();
            learners.push(node);
            learners.sort_unstable();
            let voters = members.voters.clone();
            match self.members.change(members, voters, learners) {
                // Another change is under way, or this one is.
                Ok(()) | Err(FsError::Refused(_)) if left > 0 => self.pause.rest(NEXT_CHANGE)?,
                Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        Err(FsError::Unreachable(
            "the log did not take the node in within its time; try again with the same token"
                .to_owned(),
        ))
    }
}

fn refused(error: NetError) -> FsError {
    FsError::Refused(error.to_string())
}

/// Asks the cluster that made the token, at one address after the other.
///
/// # Errors
/// `Refused` with what the cluster said; `Unreachable` with what became of each address; `Closing`.
pub fn ask(
    net: &Arc<Net>,
    token: &Token,
    key: &PendingKey,
    who: &Joiner,
    pause: &Pause,
) -> Result<Joined, FsError> {
    token.check(net.clock().wall()).map_err(refused)?;
    let join = Join { secret: *token.secret(), key: key.request()?.into(), who: who.clone() };
    let request = message::encode(&Request::Join(Box::new(join)));
    let mut said = Vec::new();
    for round in 0..ROUNDS {
        if round > 0 {
            pause.rest(NEXT_ROUND)?;
        }
        said.clear();
        for address in &token.addresses {
            match ask_one(net, token, address, &request) {
                Ok(joined) => return Ok(joined),
                Err(why @ (FsError::Refused(_) | FsError::Invalid(_))) => return Err(why),
                Err(why) => said.push(format!("{address}: {why}")),
            }
        }
    }
    Err(FsError::Unreachable(format!(
        "no node of the cluster took this one in; {}. Try again with the same token",
        said.join("; ")
    )))
}

fn ask_one(
    net: &Arc<Net>,
    token: &Token,
    address: &str,
    request: &Bytes,
) -> Result<Joined, FsError> {
    let dial = Dial {
        address: address.to_owned(),
        purpose: Purpose::Join,
        hello: Bytes::new(),
        security: DialSecurity::Pinned(token.authority),
        service: Arc::new(Silent),
    };
    let reached = net.dial(dial);
    let (connection, _) = reached.map_err(|error| match error {
        // It says what people must do, whichever node says it.
        NetError::Refused(_) => refused(error),
        other => FsError::Unreachable(other.to_string()),
    })?;
    let answer = connection.call(message::KIND, request.clone(), Bytes::new(), PATIENCE);
    let answer = answer.map_err(|error| FsError::Unreachable(error.to_string()))?;
    match message::decode(&answer.meta)? {
        Response::Joined(joined) => Ok(*joined),
        Response::Failed(error) => Err(error),
        other => Err(FsError::Io(format!("the node answered something else: {other:?}"))),
    }
}

/// The side that only asks.
pub(super) struct Silent;

impl net::Service for Silent {
    fn asked(&self, _: crate::wire::packet::Packet, reply: net::Reply) {
        reply.fail("nothing is to be asked here");
    }

    fn told(&self, _: crate::wire::packet::Packet) {}
}

/// Makes the directory what a new node starts with: an empty store with the cluster's identity, a log that waits for what
/// the leader sends, and its certificate. Which node it is comes last: without it the node does not start, and may join again.
///
/// # Errors
/// `NoSpace`, `Io`; `Exists` where another store is there; `Refused` where the answer is none for a node.
pub fn settle_in(
    identity: Identity,
    joined: &Joined,
    certificate: &str,
    (disk, dir): (&dyn Disk, &Path),
) -> Result<Identity, FsError> {
    let Some(node) = joined.node else {
        return Err(FsError::Refused("the cluster made no node of this".to_owned()));
    };
    match open::receive(dir, disk, joined.store) {
        // Made before, when something behind it failed.
        Err(FsError::Exists)
            if Label::read(disk, dir)?.is_some_and(|label| label.store == joined.store) => {}
        made => made?,
    }
    net::write_private(&dir.join(disk::CERTIFICATE), certificate.as_bytes())?;
    disk::keep_joined(disk, dir, &joined.nodes)?;
    let identity = Identity { node: Some(node), ..identity };
    identity.write(disk, dir)?;
    Ok(identity)
}

/// Whether a certificate is to be made anew: a third of its time is left, or less.
pub(super) fn is_old(material: &net::Material, clock: &dyn Clock) -> bool {
    let (from, until, now) = (material.valid_from(), material.valid_until(), clock.wall());
    let (all, left) = (until.0.saturating_sub(from.0), until.0.saturating_sub(now.0));
    left < all / 3
}
