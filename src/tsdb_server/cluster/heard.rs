//! What the node that leads has heard of the others, and what follows from it for where blocks are kept: whether those that are to
//! be homes count now, and whether what lies beside may go.
//!
//! Here is no clock and no network. Not here: who asks the others (`monitor`), and which layout there should be (`place`).

use crate::tsdb_server::cluster::place;
use crate::tsdb_server::cluster::place::Keeper;
use crate::tsdb_server::cluster::plan::Facts;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::placement::Layout;
use crate::types::placement::Placement;
use crate::wire::message::Standing;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long is waited before something follows from nothing having been said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waits {
    /// A node that has not answered for so long is done without.
    pub gone: Duration,
    /// After this time every client that may still put a block has heard of a placement.
    pub heard: Duration,
}

/// What was last heard of the others. A node that does not lead knows nothing.
#[derive(Default)]
pub struct Heard {
    pub(super) standings: BTreeMap<NodeId, Standing>,
    /// When each answered last, or was missed first.
    answered: BTreeMap<NodeId, Duration>,
    /// The placement, since when it has been this one, and what was committed then.
    placement: Option<Since>,
}

/// A placement that is being waited for.
#[derive(Clone, Copy)]
struct Since {
    number: u64,
    at: Duration,
    committed: LogIndex,
}

impl Heard {
    /// Whether these nodes have rows of the placement, and everything that it says they are to have and that is named up to here.
    /// What is named later they may lack: it is listed there, and whoever has it beside keeps it until it is at home.
    fn have_all(&self, nodes: &Layout, placement: &Placement, named: LogIndex) -> bool {
        let has_all = |node: NodeId| {
            self.standings.get(&node).is_some_and(|standing| {
                standing.complete >= named && standing.placed == Some(placement.number)
            })
        };
        nodes.nodes().all(has_all)
    }

    /// Whether all blocks that the log names up to this entry are where the placement of that number says. `placement` is the one
    /// that holds.
    pub fn is_at_home(&self, placement: &Placement, number: u64, named: LogIndex) -> bool {
        let Placement { now: Some(now), next: None, .. } = placement else { return false };
        placement.number == number && self.have_all(now, placement, named)
    }

    /// Notes how the nodes stand.
    pub fn listen(&mut self, facts: &Facts, now: Duration) {
        let Heard { standings, answered, placement } = self;
        standings.clone_from(&facts.standings);
        answered.retain(|node, _| facts.nodes.contains_key(node));
        for node in facts.nodes.keys() {
            match standings.contains_key(node) {
                true => answered.insert(*node, now),
                false => Some(*answered.entry(*node).or_insert(now)),
            };
        }
        let number = facts.placement.number;
        if placement.is_none_or(|since| since.number != number) {
            *placement = Some(Since { number, at: now, committed: facts.committed });
        }
    }

    /// The placement that is to be next, if it is to be another one. `leaving` are to keep nothing.
    pub fn to_place(
        &self,
        facts: &Facts,
        leaving: &BTreeSet<NodeId>,
        waits: Waits,
        now: Duration,
    ) -> Option<Placement> {
        let keeper = |node: NodeId| {
            let standing = facts.standings.get(&node);
            Some(Keeper {
                node,
                roles: facts.nodes.get(&node)?.roles,
                follows: facts.follows(node),
                silent: now.saturating_sub(self.answered.get(&node).copied().unwrap_or(now)),
                disk: standing.map(|standing| standing.disk_total),
            })
        };
        let members = facts.members.voters.iter().chain(&facts.members.learners);
        let placement = &facts.placement;
        let since = self.placement.filter(|since| since.number == placement.number);
        let settled = since.zip(placement.next.as_ref()).is_some_and(|(since, next)| {
            now.saturating_sub(since.at) >= waits.heard
                && self.have_all(next, placement, since.committed)
        });
        let keepers = members.filter_map(|node| keeper(*node)).collect();
        let gone = waits.gone;
        place::decide(&place::Facts { placement, keepers, leaving, gone, settled })
    }
}
