//! Changes of the cluster: its nodes, its authority, and invitations to it.
//!
//! They come from the store itself, never from a session; what tells the store's ops and batches from a client's is here too.

use crate::meta::op::BATCH_VERSION;
use crate::meta::op::BATCH_VERSION_DIRECT;
use crate::meta::op::Batch;
use crate::meta::op::Op;
use crate::meta::record::Incarnation;
use crate::meta::record::Invited;
use crate::types::BatchSeq;
use crate::types::NodeId;
use crate::types::Roles;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::placement::Placement;
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
    /// Which nodes keep which blocks from now on. Since feature level 3.
    Place {
        placement: Placement,
    },
}

impl Batch {
    /// Whether these bytes begin as this batch of this session does, which is not the store itself. To be asked of what a client
    /// proposes: a batch of the store's own may change who belongs to the cluster.
    pub fn is_of_client(bytes: &[u8], session: SessionId, seq: BatchSeq) -> bool {
        let Some((&(BATCH_VERSION | BATCH_VERSION_DIRECT), rest)) = bytes.split_first() else {
            return false;
        };
        let head = postcard::take_from_bytes::<(SessionId, BatchSeq)>(rest);
        session != SessionId(0) && head.is_ok_and(|(head, _)| head == (session, seq))
    }
}

impl Op {
    /// Whether a client may have the store do it, outside of its own batches. Ending a session is not among them: whose it is, is
    /// for who is asked to know.
    pub fn may_be_asked(&self) -> bool {
        matches!(
            self,
            Op::Mark { .. }
                | Op::Unmark { .. }
                | Op::SetRetention { .. }
                | Op::Purge { .. }
                | Op::Forget { .. }
        )
    }
}
