//! The cluster: its nodes, its authority, and invitations that work once.
//!
//! Only the store changes these. Not here: who takes part in the log, which the log knows itself; making certificates.

use crate::meta::apply::Apply;
use crate::meta::apply::session::check_text;
use crate::meta::key::ClusterKey;
use crate::meta::key::StateKey;
use crate::meta::op::ClusterOp;
use crate::meta::record::Authority;
use crate::meta::record::Incarnation;
use crate::meta::record::Invite;
use crate::meta::record::Invited;
use crate::meta::record::NextNode;
use crate::meta::record::Node;
use crate::meta::record::Record;
use crate::meta::record::Used;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::placement::Layout;
use crate::types::placement::Placement;
use bytes::Bytes;
use std::ops::ControlFlow;

/// Nodes of a cluster.
pub const NODES_MAX: usize = 64;
/// Invitations that are remembered.
const INVITES_MAX: usize = 500;
/// How long one is remembered after it ended: so long its bearer is told that it was used or is over.
const INVITE_KEPT_NS: u64 = 30 * 24 * 3600 * 1_000_000_000;
/// Bytes of an authority: a certificate and a key have some hundred.
const AUTHORITY_BYTES_MAX: usize = 16 << 10;
/// Bytes of `HOST:PORT`.
const ADDRESS_BYTES_MAX: usize = 255;

const UNKNOWN_INVITE: FsError = FsError::Invalid(
    "this cluster did not make the token, or it ended long ago: make a new one with 'tsfs cluster invite'",
);
const USED_INVITE: FsError = FsError::Invalid(
    "the token was used already, and works once: make a new one with 'tsfs cluster invite'",
);
const EXPIRED_INVITE: FsError =
    FsError::Invalid("the token has expired: make a new one with 'tsfs cluster invite'");
const UNKNOWN_NODE: FsError = FsError::Invalid("the cluster has no such node");
const STILL_A_HOME: FsError = FsError::Invalid(
    "the node is home to blocks: have these moved away first ('tsfs cluster remove' does)",
);
const OTHER_DISK: FsError = FsError::Invalid("the node has another disk than this one");

/// A node as an op describes it.
struct Described<'a> {
    incarnation: Incarnation,
    name: &'a str,
    address: &'a str,
}

impl Apply<'_> {
    pub(super) fn cluster(&mut self, op: &ClusterOp) -> Result<(), FsError> {
        if self.session != SessionId(0) {
            return Err(FsError::NotPermitted("only the store itself changes its cluster"));
        }
        // Without a stamp this is no replica, and there is nothing of the cluster to change.
        let Some(now) = self.present.stamp() else { return Ok(()) };
        match op {
            ClusterOp::SetAuthority { authority } => self.set_authority(authority),
            ClusterOp::SetNode { node, incarnation, name, address, roles } => {
                let described = Described { incarnation: *incarnation, name, address };
                self.check_node(*node, &described)?;
                let known = match node {
                    Some(node) => self.same_disk(*node, *incarnation)?,
                    None => None,
                };
                let (node, before) = match (node, known) {
                    (Some(node), Some(known)) => (*node, (known.added, known.starts, known.boot)),
                    (Some(_), None) => return Err(UNKNOWN_NODE),
                    (None, _) => (self.next_node()?, (now, 0, 0)),
                };
                let (name, address) = (name.clone(), address.clone());
                let (added, starts, boot) = before;
                let (roles, incarnation) = (*roles, *incarnation);
                let row = Node { name, address, roles, added, incarnation, starts, boot };
                self.put_cluster(ClusterKey::Node { node }, &row);
                Ok(())
            }
            ClusterOp::NodeStarted { node, incarnation, starts, boot } => {
                let known = self.same_disk(*node, *incarnation)?.ok_or(UNKNOWN_NODE)?;
                if *starts <= known.starts {
                    return Err(FsError::Invalid("the node was started more often than that"));
                }
                let row = Node { starts: *starts, boot: *boot, ..known };
                self.put_cluster(ClusterKey::Node { node: *node }, &row);
                Ok(())
            }
            ClusterOp::RemoveNode { node } => {
                let key = ClusterKey::Node { node: *node };
                self.in_cluster::<Node>(key)?.ok_or(UNKNOWN_NODE)?;
                if self.placement()?.names(*node) {
                    return Err(STILL_A_HOME);
                }
                self.remove_state(&StateKey::Cluster(key));
                Ok(())
            }
            ClusterOp::Invite { digest, expires, to } => self.invite(*digest, *expires, to, now),
            ClusterOp::UseInvite { digest, by } => self.use_invite(*digest, by, now),
            ClusterOp::Place { placement } => self.place(placement),
        }
    }

    fn placement(&mut self) -> Result<Placement, FsError> {
        Ok(self.in_cluster(ClusterKey::Placement)?.unwrap_or_default())
    }

    /// What counts for a block changes only to what its homes were told before: so whoever is one change behind, a client or a
    /// node, is still right.
    fn place(&mut self, new: &Placement) -> Result<(), FsError> {
        let known = self.placement()?;
        if !new.is_sound() {
            return Err(FsError::Invalid("this is no placement"));
        }
        if new.number != known.number + 1 {
            return Err(FsError::Invalid("another placement came first: look again"));
        }
        let arrives = known.next.is_some() && new.now == known.next && new.next.is_none();
        if new.now != known.now && !arrives {
            return Err(FsError::Invalid("blocks count where they do, or where they were to be"));
        }
        for node in new.next.iter().flat_map(Layout::nodes) {
            self.in_cluster::<Node>(ClusterKey::Node { node })?.ok_or(UNKNOWN_NODE)?;
        }
        self.put_cluster(ClusterKey::Placement, new);
        Ok(())
    }

    fn set_authority(&mut self, authority: &Bytes) -> Result<(), FsError> {
        if authority.is_empty() || authority.len() > AUTHORITY_BYTES_MAX {
            return Err(FsError::Invalid("an authority has between 1 byte and 16 KiB"));
        }
        match self.in_cluster::<Authority>(ClusterKey::Authority)? {
            Some(known) if known.0 != *authority => Err(FsError::Exists),
            _ => {
                self.put_cluster(ClusterKey::Authority, &Authority(authority.clone()));
                Ok(())
            }
        }
    }

    /// What is asked of every node: that people and nodes can tell it from all others.
    fn check_node(&mut self, node: Option<NodeId>, new: &Described<'_>) -> Result<(), FsError> {
        check_text(new.name)?;
        let port = new.address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if new.address.len() > ADDRESS_BYTES_MAX
            || port.is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            return Err(FsError::Invalid("a node's address is HOST:PORT, of at most 255 bytes"));
        }
        let (mut count, mut fault) = (0, None);
        for (_, row) in self.nodes()?.into_iter().filter(|(other, _)| Some(*other) != node) {
            count += 1;
            if row.address == new.address {
                fault = Some(FsError::Invalid("another node of the cluster has this address"));
            }
            if row.incarnation == new.incarnation {
                fault = Some(FsError::Invalid("another node of the cluster has this disk"));
            }
        }
        match fault {
            Some(fault) => Err(fault),
            None if count >= NODES_MAX => Err(FsError::Invalid("a cluster has at most 64 nodes")),
            None => Ok(()),
        }
    }

    fn nodes(&mut self) -> Result<Vec<(NodeId, Node)>, FsError> {
        let mut rows = Vec::new();
        self.present.state_scan(&ClusterKey::nodes(), &mut |key, row| {
            rows.push((key.to_vec(), Bytes::copy_from_slice(row)));
            ControlFlow::Continue(())
        })?;
        rows.into_iter().map(|(key, row)| node_of(&key, &row)).collect()
    }

    fn next_node(&mut self) -> Result<NodeId, FsError> {
        let next = self.in_cluster::<NextNode>(ClusterKey::NextNode)?;
        let node = next.map_or(NodeId(1), |next| next.0);
        self.put_cluster(ClusterKey::NextNode, &NextNode(NodeId(node.0 + 1)));
        Ok(node)
    }

    /// The row of a node that still has the disk it was known with.
    fn same_disk(&mut self, node: NodeId, disk: Incarnation) -> Result<Option<Node>, FsError> {
        match self.in_cluster::<Node>(ClusterKey::Node { node })? {
            Some(known) if known.incarnation != disk => Err(OTHER_DISK),
            known => Ok(known),
        }
    }

    fn invite(
        &mut self,
        digest: [u8; 32],
        expires: Stamp,
        to: &Invited,
        now: Stamp,
    ) -> Result<(), FsError> {
        if let Invited::Client { name } = to {
            check_text(name)?;
        }
        let mut invites = Vec::new();
        self.present.state_scan(&ClusterKey::invites(), &mut |key, row| {
            invites.push((key.to_vec(), Bytes::copy_from_slice(row)));
            ControlFlow::Continue(())
        })?;
        let (mut left, mut over) = (0, Vec::new());
        for (key, row) in invites {
            match Invite::from_row(&key, &row)?.expires.0.saturating_add(INVITE_KEPT_NS) < now.0 {
                true => over.push(key),
                false => left += 1,
            }
        }
        if left >= INVITES_MAX {
            return Err(FsError::Invalid("more invitations are open than the cluster remembers"));
        }
        for key in over {
            self.present.state_put(&key, None);
        }
        let invite = Invite { to: to.clone(), made: now, expires, used: None };
        self.put_cluster(ClusterKey::Invite { digest }, &invite);
        Ok(())
    }

    fn use_invite(&mut self, digest: [u8; 32], by: &str, now: Stamp) -> Result<(), FsError> {
        check_text(by)?;
        let key = ClusterKey::Invite { digest };
        let invite = self.in_cluster::<Invite>(key)?.ok_or(UNKNOWN_INVITE)?;
        if invite.used.is_some() {
            return Err(USED_INVITE);
        }
        if invite.expires < now {
            return Err(EXPIRED_INVITE);
        }
        let used = Some(Used { by: by.to_owned(), at: now });
        self.put_cluster(key, &Invite { used, ..invite });
        Ok(())
    }

    fn in_cluster<T: Record>(&mut self, key: ClusterKey) -> Result<Option<T>, FsError> {
        self.state(&StateKey::Cluster(key))
    }

    fn put_cluster<T: Record>(&mut self, key: ClusterKey, record: &T) {
        self.put_state(&StateKey::Cluster(key), record);
    }
}

fn node_of(key: &[u8], row: &[u8]) -> Result<(NodeId, Node), FsError> {
    match StateKey::decode(key) {
        Some(StateKey::Cluster(ClusterKey::Node { node })) => Ok((node, Node::from_row(key, row)?)),
        _ => Err(FsError::Damaged(format!("{} is no node of the cluster", key.escape_ascii()))),
    }
}

#[cfg(test)]
mod tests;
