//! Rows of the cluster: numbers below the next, and nothing that two nodes share.

use crate::meta::check::Check;
use crate::meta::key::ClusterKey;
use crate::meta::key::StateKey;
use crate::meta::record::Authority;
use crate::meta::record::Invite;
use crate::meta::record::NextNode;
use crate::meta::record::Node;
use crate::meta::record::Record;
use crate::meta::repair::Remedy;
use crate::series::table::Family;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::placement::Placement;
use std::collections::BTreeSet;
use std::collections::HashSet;

impl Check<'_> {
    pub(super) fn cluster(&mut self) -> Result<(), FsError> {
        self.record::<Authority>(&StateKey::Cluster(ClusterKey::Authority))?;
        for (key, row) in self.state_rows(&ClusterKey::invites())? {
            self.read(Family::State, &key, Invite::from_row(&key, &row))?;
        }
        let next = StateKey::Cluster(ClusterKey::NextNode);
        let given = self.record::<NextNode>(&next)?.map_or(NodeId(1), |next| next.0);
        let placement = StateKey::Cluster(ClusterKey::Placement);
        let placed = self.record::<Placement>(&placement)?;
        if placed.as_ref().is_some_and(|placed| !placed.is_sound()) {
            self.fault(Family::State, &placement.encode(), "this is no placement");
        }
        let mut homes: BTreeSet<NodeId> = BTreeSet::new();
        for layout in placed.iter().flat_map(|placed| placed.now.iter().chain(&placed.next)) {
            homes.extend(layout.nodes());
        }
        let (mut last, mut addresses, mut disks) = (NodeId(0), HashSet::new(), HashSet::new());
        for (key, row) in self.state_rows(&ClusterKey::nodes())? {
            let Some(StateKey::Cluster(ClusterKey::Node { node })) = StateKey::decode(&key) else {
                continue;
            };
            last = last.max(node);
            homes.remove(&node);
            let row = Node::from_row(&key, &row);
            let Some(row) = self.read(Family::State, &key, row)? else { continue };
            if !addresses.insert(row.address.clone()) {
                let what = format!("another node has the address {} too", row.address);
                self.fault(Family::State, &key, what);
            }
            if !disks.insert(row.incarnation) {
                self.fault(Family::State, &key, "another node has the same disk");
            }
        }
        if let Some(node) = homes.first() {
            let what =
                format!("node {} is home to blocks, and does not belong to the cluster", node.0);
            self.fault(Family::State, &placement.encode(), what);
        }
        if last >= given {
            let what = format!("node {} exists, and {} is next", last.0, given.0);
            let remedy = Remedy::Value(NextNode(NodeId(last.0 + 1)).to_row());
            self.remedied(Family::State, &next.encode(), what, remedy);
        }
        Ok(())
    }
}
