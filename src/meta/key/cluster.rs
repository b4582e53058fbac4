//! Keys of rows about the cluster. All begin with `c`, so that they are one range.

use crate::meta::key::Parts;
use crate::meta::key::StateKey;
use crate::series::KeyRange;
use crate::types::NodeId;

const NEXT: u8 = b'#';
const AUTHORITY: u8 = b'a';
const INVITE: u8 = b'i';
const NODE: u8 = b'n';
const PLACEMENT: u8 = b'p';

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClusterKey {
    NextNode,
    Authority,
    Invite { digest: [u8; 32] },
    Node { node: NodeId },
    Placement,
}

impl ClusterKey {
    pub(super) const KIND: u8 = b'c';

    /// Behind the kind.
    pub(super) fn put(self, key: &mut Vec<u8>) {
        match self {
            ClusterKey::NextNode => key.push(NEXT),
            ClusterKey::Authority => key.push(AUTHORITY),
            ClusterKey::Invite { digest } => {
                key.push(INVITE);
                key.extend(digest);
            }
            ClusterKey::Node { node } => {
                key.push(NODE);
                key.extend(node.0.to_be_bytes());
            }
            ClusterKey::Placement => key.push(PLACEMENT),
        }
    }

    pub(super) fn take(parts: &mut Parts<'_>) -> Option<ClusterKey> {
        Some(match parts.u8()? {
            NEXT => ClusterKey::NextNode,
            AUTHORITY => ClusterKey::Authority,
            INVITE => ClusterKey::Invite { digest: parts.take(32)?.try_into().ok()? },
            NODE => ClusterKey::Node { node: NodeId(parts.u64()?) },
            PLACEMENT => ClusterKey::Placement,
            _ => return None,
        })
    }

    pub fn encode(self) -> Vec<u8> {
        StateKey::Cluster(self).encode()
    }

    /// All nodes.
    pub fn nodes() -> KeyRange {
        KeyRange::prefix(&[ClusterKey::KIND, NODE])
    }

    /// All invitations.
    pub fn invites() -> KeyRange {
        KeyRange::prefix(&[ClusterKey::KIND, INVITE])
    }
}

/// Whether only nodes may read this row of state: the authority's key would let a client become anybody, and whoever was
/// invited is nobody's business. To be asked of every row that is about to be sent.
pub fn is_for_nodes_only(key: &[u8]) -> bool {
    matches!(key, [ClusterKey::KIND, AUTHORITY | INVITE, ..])
}
