//! Following the rows that say which nodes there are, where, and who of them keeps which blocks.

use crate::tsdb_server::cluster::rows;
use crate::tsdb_server::node::Node;
use crate::tsdb_server::peers::Peers;
use crate::tsdb_server::task::Task;
use crate::tsdb_server::task::Worked;
use crate::types::FsError;
use crate::types::placement::Placed;
use crate::wire::message::NodeAt;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

/// A change of address is heard of within this time, and no later than anybody needs it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Roster {
    pub(super) node: Weak<Node>,
    pub(super) peers: Weak<Peers>,
    pub(super) known: Vec<NodeAt>,
    /// The number of the placement that was told last.
    pub(super) placed: u64,
}

impl Task for Roster {
    fn name(&self) -> &'static str {
        "roster"
    }

    fn work(&mut self) -> Result<Worked, FsError> {
        let node = self.node.upgrade().ok_or(FsError::Closing)?;
        let peers = self.peers.upgrade().ok_or(FsError::Closing)?;
        let nodes = rows::addresses(&*node)?;
        // A node that has just joined has no rows yet: it goes by what it was told then.
        if !nodes.is_empty() && nodes != self.known {
            peers.meet(&nodes)?;
            node.set_nodes(nodes.clone());
            self.known = nodes;
        }
        let placement = node.placement();
        if placement.number != self.placed {
            peers.place(Arc::new(Placed::new(&placement)));
            self.placed = placement.number;
        }
        Ok(Worked::Idle(LOOK_EVERY))
    }
}
