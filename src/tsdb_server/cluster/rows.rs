//! The cluster's rows, read.

use crate::meta::key::ClusterKey;
use crate::meta::key::StateKey;
use crate::meta::record::Authority;
use crate::meta::record::Invite;
use crate::meta::record::Node;
use crate::meta::record::Record;
use crate::meta::record::Store;
use crate::net;
use crate::series::KeyRange;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::placement::Placement;
use crate::wire::Server;
use crate::wire::message::NodeAt;
use bytes::Bytes;

/// Rows asked for at once.
const PAGE: usize = 256;

/// All rows of state in a range, a page at a time. For ranges that are bounded.
///
/// # Errors
/// `Damaged`, `Io`.
pub(super) fn all(
    server: &dyn Server,
    mut range: KeyRange,
) -> Result<Vec<(Bytes, Bytes)>, FsError> {
    let mut rows = Vec::new();
    loop {
        let page = server.state(&range, PAGE)?;
        let last = page.rows.last().map(|(key, _)| key.clone());
        rows.extend(page.rows);
        match last.filter(|_| page.more) {
            // The key itself with a zero behind it is the next there can be.
            Some(last) => range.start = [&last[..], &[0]].concat(),
            None => return Ok(rows),
        }
    }
}

pub(super) fn one<T: Record>(server: &dyn Server, key: &StateKey) -> Result<Option<T>, FsError> {
    let start = key.encode();
    let end = [&start[..], &[0]].concat();
    let page = server.state(&KeyRange { start, end }, 1)?;
    page.rows.first().map(|(key, row)| T::from_row(key, row)).transpose()
}

/// The nodes of the cluster, by number.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn nodes(server: &dyn Server) -> Result<Vec<(NodeId, Node)>, FsError> {
    let node = |(key, row): &(Bytes, Bytes)| match StateKey::decode(key) {
        Some(StateKey::Cluster(ClusterKey::Node { node })) => Ok((node, Node::from_row(key, row)?)),
        _ => Err(FsError::Damaged(format!("{} is no node of the cluster", key.escape_ascii()))),
    };
    all(server, ClusterKey::nodes())?.iter().map(node).collect()
}

/// # Errors
/// `Damaged`, `Io`.
pub fn node(server: &dyn Server, node: NodeId) -> Result<Option<Node>, FsError> {
    one(server, &StateKey::Cluster(ClusterKey::Node { node }))
}

/// Where the nodes listen.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn addresses(server: &dyn Server) -> Result<Vec<NodeAt>, FsError> {
    let at = |(node, row): (NodeId, Node)| NodeAt { node, address: row.address };
    Ok(nodes(server)?.into_iter().map(at).collect())
}

/// Which nodes keep which blocks.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn placement(server: &dyn Server) -> Result<Placement, FsError> {
    let row = one(server, &StateKey::Cluster(ClusterKey::Placement))?;
    Ok(row.unwrap_or_default())
}

/// # Errors
/// `Damaged`, `Io`.
pub(super) fn invite(server: &dyn Server, digest: [u8; 32]) -> Result<Option<Invite>, FsError> {
    one(server, &StateKey::Cluster(ClusterKey::Invite { digest }))
}

/// The authority, ready to make certificates.
///
/// # Errors
/// `Refused` where the store is no cluster's; `Damaged`, `Io`.
pub(super) fn authority(server: &dyn Server) -> Result<net::Authority, FsError> {
    let row: Option<Authority> = one(server, &StateKey::Cluster(ClusterKey::Authority))?;
    let Some(Authority(bytes)) = row else {
        let why = "the store is no cluster's yet: 'tsfs cluster init' makes it one";
        return Err(FsError::Refused(why.to_owned()));
    };
    net::Authority::from_bytes(&bytes).map_err(|error| FsError::Damaged(error.to_string()))
}

/// # Errors
/// `Damaged`, `Io`.
pub(super) fn has_authority(server: &dyn Server) -> Result<bool, FsError> {
    let key = StateKey::Cluster(ClusterKey::Authority);
    Ok(one::<Authority>(server, &key)?.is_some())
}

/// # Errors
/// `Damaged`, `Io`.
pub(super) fn store(server: &dyn Server) -> Result<Store, FsError> {
    let none = || FsError::Damaged("the store has no row about itself".to_owned());
    one(server, &StateKey::Store)?.ok_or_else(none)
}
