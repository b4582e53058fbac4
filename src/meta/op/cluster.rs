//! Changes of the cluster: its nodes, its authority, and invitations to it.
//!
//! They come from the store itself, never from a session.

use crate::meta::record::Incarnation;
use crate::meta::record::Invited;
use crate::types::NodeId;
use crate::types::Roles;
use crate::types::Stamp;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

/// Variants are only ever added at the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClusterOp {
    /// The cluster's own authority, with its key. Once.
    SetAuthority {
        authority: Bytes,
    },
    /// A node that is new (`node` is none, and it gets the next number), or what is different about one that is known.
    SetNode {
        node: Option<NodeId>,
        incarnation: Incarnation,
        name: String,
        address: String,
        roles: Roles,
    },
    /// The node began its `starts`th life on this disk.
    NodeStarted {
        node: NodeId,
        incarnation: Incarnation,
        starts: u64,
        /// What it drew when it did.
        boot: u64,
    },
    RemoveNode {
        node: NodeId,
    },
    /// Whoever knows what this is the digest of may join once.
    Invite {
        digest: [u8; 32],
        expires: Stamp,
        to: Invited,
    },
    /// Refused unless it is good by the stamp of this batch. `by`: who comes, for people.
    UseInvite {
        digest: [u8; 32],
        by: String,
    },
}
