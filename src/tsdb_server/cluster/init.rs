//! A store becomes a cluster of one, in place: it gets an authority, this node gets number 1, and a certificate.
//!
//! What a start needs comes into the directory last, and each step may be done again: an init that was cut off is
//! finished by the next one. Not here: opening the store, settings.

use crate::env::Clock;
use crate::meta::op::ClusterOp;
use crate::meta::op::Op;
use crate::meta::record::Incarnation;
use crate::net;
use crate::net::StoreId;
use crate::store::disk::Disk;
use crate::tsdb_server::cluster::CERTIFICATE_VALID;
use crate::tsdb_server::cluster::disk;
use crate::tsdb_server::cluster::disk::Identity;
use crate::tsdb_server::cluster::rows;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::Roles;
use crate::wire::Server;
use std::path::Path;

/// A node as it is to be known to the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    pub name: String,
    /// `HOST:PORT`.
    pub address: String,
    pub roles: Roles,
}

/// What an init found, and is going to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    pub identity: Identity,
    pub make_authority: bool,
    pub make_node: bool,
}

/// Looks at a store that is open, and nobody's but ours.
///
/// # Errors
/// `Refused` where it is a cluster's already, or a copy of one of its nodes.
pub fn plan(server: &dyn Server, disk: &dyn Disk, dir: &Path) -> Result<Plan, FsError> {
    let known = Identity::read(disk, dir)?;
    let nodes = rows::nodes(server)?;
    let identity = known.unwrap_or_else(Identity::fresh);
    let row = nodes.iter().find(|(_, row)| row.incarnation == identity.incarnation);
    match (identity.node, row) {
        (Some(node), Some(_)) => Err(FsError::Refused(format!(
            "the store is node {} of a cluster already; 'tsfs node' serves it",
            node.0
        ))),
        (_, None) if !nodes.is_empty() => Err(FsError::Refused(
            "the store belongs to a cluster, and this directory is a copy of a node of it, or lost the file tsfs-node; \
             empty it, and join as a new node"
                .to_owned(),
        )),
        _ => Ok(Plan {
            identity,
            make_authority: !rows::has_authority(server)?,
            make_node: row.is_none(),
        }),
    }
}

/// Does it: which node this is, from now on.
///
/// # Errors
/// `Refused`, `NoSpace`, `Io`.
pub fn carry_out(
    plan: &Plan,
    described: &Described,
    server: &dyn Server,
    clock: &dyn Clock,
    (disk, dir): (&dyn Disk, &Path),
) -> Result<Identity, FsError> {
    // Before the row says so, for that must not be forgotten.
    plan.identity.write(disk, dir)?;
    let store = StoreId(rows::store(server)?.uuid);
    let mut ops = Vec::new();
    if plan.make_authority {
        let authority = net::Authority::make(store, clock.wall())?.to_bytes().into();
        ops.push(Op::Cluster(ClusterOp::SetAuthority { authority }));
    }
    if plan.make_node {
        ops.push(Op::Cluster(set_node(None, plan.identity.incarnation, described)));
    }
    if !ops.is_empty() {
        server.administer_all(None, ops)?;
    }
    let node = find(server, plan.identity.incarnation)?;
    certify(server, node, clock, dir)?;
    let identity = Identity { node: Some(node), ..plan.identity };
    identity.write(disk, dir)?;
    Ok(identity)
}

pub(super) fn set_node(
    node: Option<NodeId>,
    incarnation: Incarnation,
    described: &Described,
) -> ClusterOp {
    let Described { name, address, roles } = described.clone();
    ClusterOp::SetNode { node, incarnation, name, address, roles }
}

/// The node with this disk, which has just been put.
pub(super) fn find(server: &dyn Server, incarnation: Incarnation) -> Result<NodeId, FsError> {
    let nodes = rows::nodes(server)?;
    let found = nodes.iter().find(|(_, row)| row.incarnation == incarnation);
    found.map(|(node, _)| *node).ok_or_else(|| FsError::Io("the node's row is missing".to_owned()))
}

/// Makes this node a new certificate, in place of the one that it may have.
///
/// # Errors
/// `Refused` where the store is no cluster's; `Io`.
pub fn certify(
    server: &dyn Server,
    node: NodeId,
    clock: &dyn Clock,
    dir: &Path,
) -> Result<(), FsError> {
    let authority = rows::authority(server)?;
    let identity = net::Identity::Node { node, store: authority.store() };
    let text = authority.issue(&identity, clock.wall(), CERTIFICATE_VALID)?;
    net::write_private(&dir.join(disk::CERTIFICATE), text.as_bytes())?;
    Ok(())
}
