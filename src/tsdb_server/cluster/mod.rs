//! What makes stores on several machines a cluster: who belongs to it, how one more comes in, and how one goes.
//!
//! Everything that changes the cluster is decided first, as a [`plan`], which refuses what would stop the cluster or lose the
//! last copy of something; then it is done ([`work`]). What this needs of the log, of the blocks and of the other nodes it
//! asks through [`seams`]. `docs/decisions/0014-becoming-a-cluster.md` has the reasons. Not here: the log's own rules about
//! its members (`tsdb_log`), moving blocks and tables (`tsdb_server::data`), what clients are served.

pub mod admit;
pub mod announce;
pub mod answer;
pub mod clients;
pub mod disk;
pub mod headroom;
pub mod heard;
pub mod init;
pub mod join;
pub mod metrics;
pub mod monitor;
pub mod place;
pub mod plan;
pub mod renew;
pub mod rows;
pub mod seams;
pub mod socket;
pub mod work;

use crate::env::Clock;
use crate::tsdb_server::cluster::heard::Heard;
use crate::tsdb_server::cluster::seams::Clients;
use crate::tsdb_server::cluster::seams::Copies;
use crate::tsdb_server::cluster::seams::Membership;
use crate::tsdb_server::cluster::seams::Others;
use crate::tsdb_server::cluster::work::Pause;
use crate::types::FsError;
use crate::types::NodeId;
use crate::wire::Server;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// How long a certificate of a node or a client is good for, unless it is told otherwise.
pub const CERTIFICATE_VALID: Duration = Duration::from_secs(366 * 24 * 3600);

/// A node's view of its cluster, and its hands.
pub struct Cluster {
    pub here: NodeId,
    pub server: Arc<dyn Server>,
    pub members: Arc<dyn Membership>,
    pub copies: Arc<dyn Copies>,
    pub clients: Arc<dyn Clients>,
    pub others: Arc<dyn Others>,
    pub clock: Arc<dyn Clock>,
    /// How whatever waits here is ended.
    pub pause: Arc<Pause>,
    gone: Duration,
    /// What is known of the others, where this node leads.
    heard: Mutex<Heard>,
    /// Nodes that are being taken out.
    leaving: Mutex<BTreeSet<NodeId>>,
}

/// What a cluster is made of.
pub struct Parts {
    pub here: NodeId,
    pub server: Arc<dyn Server>,
    pub members: Arc<dyn Membership>,
    pub copies: Arc<dyn Copies>,
    pub clients: Arc<dyn Clients>,
    pub others: Arc<dyn Others>,
    pub clock: Arc<dyn Clock>,
    pub pause: Arc<Pause>,
    /// A node that has not answered for so long is done without.
    pub gone: Duration,
}

impl Cluster {
    pub fn new(parts: Parts) -> Cluster {
        let Parts { here, server, members, copies, clients, others, clock, pause, gone } = parts;
        let (heard, leaving) = Default::default();
        Cluster {
            here,
            server,
            members,
            copies,
            clients,
            others,
            clock,
            pause,
            gone,
            heard,
            leaving,
        }
    }

    /// Has another node lead, where this one does and another can: before it is stopped.
    pub fn step_down(&self) {
        let successor = match self.facts() {
            Ok(facts) => facts.successor(self.here).ok(),
            Err(_) => None,
        };
        let Some(to) = successor else { return };
        let plan = vec![plan::Step::HandOver(to)];
        if let Err(error) = self.carry_out(&plan, &mut |_| ControlFlow::Continue(())) {
            tracing::warn!(%error, "the node stops as the one that leads");
        }
    }

    /// What plans are made from, as this node knows it.
    ///
    /// # Errors
    /// `NotLeader`: another node knows it. `Damaged`, `Io`.
    pub fn facts(&self) -> Result<plan::Facts, FsError> {
        let leader = self.members.leader();
        if leader != Some(self.here) {
            return Err(FsError::NotLeader { leader });
        }
        let nodes: BTreeMap<_, _> = rows::nodes(&*self.server)?.into_iter().collect();
        let standing = |node: &NodeId| Some((*node, self.copies.standing(*node)?));
        Ok(plan::Facts {
            leader: self.here,
            standings: nodes.keys().filter_map(standing).collect(),
            nodes,
            members: self.members.members(),
            followers: self.members.followers(),
            placement: rows::placement(&*self.server)?,
            committed: self.members.committed(),
        })
    }
}

#[cfg(test)]
mod tests;
