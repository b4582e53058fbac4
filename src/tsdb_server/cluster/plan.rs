//! Changes of the cluster, decided before anything is done: a plan is a list of steps, or a sentence why there is none.
//!
//! What a plan must not do: leave nodes to decide of which no majority answers, or take away the last copy of a block.
//! Not here: carrying it out (`work`).

use crate::meta::record::Node;
use crate::tsdb_log::entry::Members;
use crate::tsdb_server::cluster::place;
use crate::tsdb_server::cluster::seams::Follower;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Role;
use crate::types::placement::Placement;
use crate::wire::message::Standing;
use std::collections::BTreeMap;
use std::fmt;

/// A learner that lacks no more entries of the log than this may vote: what comes in some seconds.
pub const LAG_MAX: u64 = 1024;

/// A disk that takes so long to sync a write to the log is slow, in microseconds: of one that is not, programs notice the difference.
pub const SLOW_SYNC_US: u64 = 100_000;
/// So many times faster another's disk has to be for it to lead instead; so the lead does not go to and fro.
const FASTER: u64 = 8;

/// The cluster, as the node that leads knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    pub leader: NodeId,
    /// Every node that belongs to the cluster.
    pub nodes: BTreeMap<NodeId, Node>,
    pub members: Members,
    pub followers: Vec<Follower>,
    /// What nodes say of themselves. Of those that are not here nobody knows.
    pub standings: BTreeMap<NodeId, Standing>,
    pub placement: Placement,
    /// What is in the log for good.
    pub committed: LogIndex,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Has another node lead, which then goes on with the plan.
    HandOver(NodeId),
    /// Waits until a node has the log.
    AwaitLog(NodeId),
    /// Waits until a node has every block.
    AwaitBlocks(NodeId),
    /// Waits until others have what a node keeps, and count for it.
    MoveAway(NodeId),
    /// These are all voters and all learners from now on.
    Members { voters: Vec<NodeId>, learners: Vec<NodeId> },
    /// Waits until every mount has heard who decides: until then a block may count by the disk of a node that does not any more.
    AwaitMounts,
    /// The node does not belong to the cluster any more.
    Forget(NodeId),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::HandOver(node) => write!(f, "hand the lead to node {}", node.0),
            Step::AwaitLog(node) => write!(f, "wait until node {} has the log", node.0),
            Step::AwaitBlocks(node) => write!(f, "wait until node {} has every block", node.0),
            Step::MoveAway(node) => write!(f, "have others keep what node {} keeps", node.0),
            Step::Members { voters, learners } if learners.is_empty() => {
                write!(f, "have {} decide", list(voters))
            }
            Step::Members { voters, learners } => {
                write!(f, "have {} decide and {} learn", list(voters), list(learners))
            }
            Step::AwaitMounts => write!(f, "wait until all mounts have heard of it"),
            Step::Forget(node) => write!(f, "forget node {}", node.0),
        }
    }
}

/// "node 1", "nodes 1, 2 and 3".
pub fn list(nodes: &[NodeId]) -> String {
    let numbers: Vec<String> = nodes.iter().map(|node| node.0.to_string()).collect();
    match numbers.split_last() {
        None => "no node".to_owned(),
        Some((last, [])) => format!("node {last}"),
        Some((last, first)) => format!("nodes {} and {last}", first.join(", ")),
    }
}

/// Steps, one after the other. None: there is nothing to do.
pub type Plan = Vec<Step>;

impl Facts {
    fn follower(&self, node: NodeId) -> Option<&Follower> {
        self.followers.iter().find(|follower| follower.node == node)
    }

    fn answers(&self, node: NodeId) -> bool {
        node == self.leader || self.follower(node).is_some_and(|follower| follower.answers)
    }

    /// Blocks that a node has yet to fetch, where it is known.
    fn lacks(&self, node: NodeId) -> Option<u64> {
        self.standings.get(&node)?.lacks_by(&self.placement)
    }

    fn has_every_block(&self, node: NodeId) -> bool {
        self.lacks(node) == Some(0)
    }

    fn sync_us(&self, node: NodeId) -> Option<u64> {
        self.standings.get(&node)?.sync_us
    }

    /// Whether a node has the log, but for what came in the last seconds.
    pub fn follows(&self, node: NodeId) -> bool {
        let follows = |follower: &Follower| follower.answers && follower.lag <= LAG_MAX;
        node == self.leader || self.follower(node).is_some_and(follows)
    }

    /// Whether a node has every block, but for what was named in the last seconds: while programs write there is always some.
    fn is_nearly_whole(&self, node: NodeId) -> bool {
        let nearly = |standing: &Standing| {
            standing.lacks_by(&self.placement).is_some()
                && standing.complete.0.saturating_add(LAG_MAX) >= self.committed.0
                && standing.complete > LogIndex(0)
        };
        self.has_every_block(node) || self.standings.get(&node).is_some_and(nearly)
    }

    fn has_role(&self, node: NodeId, role: Role) -> bool {
        self.nodes.get(&node).is_some_and(|row| row.roles.has(role))
    }

    /// That nothing is lost with a node that is home to blocks: it is there itself, or each of them has another home that has it.
    fn others_have(&self, node: NodeId) -> Result<(), String> {
        let Some(now) = self.placement.now.as_ref().filter(|now| now.has(node)) else {
            return Ok(());
        };
        let whole = |home: &NodeId| *home != node && self.has_every_block(*home);
        if self.answers(node) || place::any_among(now, &now.nodes().filter(whole).collect()) {
            return Ok(());
        }
        Err(format!(
            "node {} does not answer and may have the last copy of some blocks; bring it up first, or nodes that keep blocks and do not answer either",
            node.0
        ))
    }

    /// A node that belongs to the cluster.
    fn known(&self, node: NodeId) -> Result<(), String> {
        if self.nodes.contains_key(&node) {
            return Ok(());
        }
        let all: Vec<NodeId> = self.nodes.keys().copied().collect();
        Err(format!("the cluster has no node {}; it has {}", node.0, list(&all)))
    }

    /// That a majority of those who would decide answers.
    fn can_decide(&self, voters: &[NodeId]) -> Result<(), String> {
        if voters.is_empty() {
            return Err(
                "no node would be left to decide; add another one first ('tsfs cluster invite')"
                    .to_owned(),
            );
        }
        let answering = voters.iter().filter(|node| self.answers(**node)).count();
        if answering > voters.len() / 2 {
            return Ok(());
        }
        let silent: Vec<NodeId> =
            voters.iter().copied().filter(|node| !self.answers(*node)).collect();
        Err(format!(
            "{} would be left to decide, and of those only {answering} of {} answer, which is no majority; bring up {} first",
            list(voters),
            voters.len(),
            list(&silent)
        ))
    }

    /// What comes before a node that voted, or did not, may be forgotten: as long as it is known the others fetch from it what they
    /// lack. Where blocks are at home by name, those who move them wait for that.
    fn after_members(&self, voted: bool) -> Option<Step> {
        (voted && self.placement.is_everywhere()).then_some(Step::AwaitMounts)
    }

    /// The voter, other than this one, that should lead next: one that answers, with the smallest lag.
    pub(super) fn successor(&self, leaving: NodeId) -> Result<NodeId, String> {
        let fit = |follower: &&Follower| {
            follower.answers
                && follower.node != leaving
                && self.members.voters.contains(&follower.node)
        };
        let best = self.followers.iter().filter(fit).min_by_key(|follower| follower.lag);
        best.map(|follower| follower.node).ok_or_else(|| {
            format!(
                "node {} leads, and no other node that may lead answers; bring one up first",
                leaving.0
            )
        })
    }

    /// Steps after which all blocks can be read and put while a node is away.
    ///
    /// # Errors
    /// Some could not.
    fn homes_do_without(&self, node: NodeId) -> Result<Plan, String> {
        let others = |homes: Vec<NodeId>| -> Vec<NodeId> {
            homes.into_iter().filter(|home| *home != node && self.answers(*home)).collect()
        };
        let left = match &self.placement.now {
            None => others(self.members.voters.clone()),
            Some(now) => {
                let left = others(now.nodes().collect());
                if !place::majority_among(now, &left.iter().copied().collect()) {
                    return Err(format!(
                        "without node {} some blocks would have no majority of their copies on nodes that answer: nobody could write \
                         there until it is back; bring up others first",
                        node.0
                    ));
                }
                left
            }
        };
        let lack = left.into_iter().filter(|other| !self.has_every_block(*other));
        Ok(lack.map(Step::AwaitBlocks).collect())
    }

    /// Steps after which a majority of `voters` has every block, `without` one that goes.
    ///
    /// # Errors
    /// Nobody would have every block.
    fn keep_blocks(&self, voters: &[NodeId], without: NodeId) -> Result<Plan, String> {
        // Not the voters' business where blocks are at home by name.
        if !self.placement.is_everywhere() {
            return Ok(Plan::new());
        }
        let (have, mut lack): (Vec<NodeId>, Vec<NodeId>) =
            voters.iter().copied().partition(|node| self.has_every_block(*node));
        let missing = (voters.len() / 2 + 1).saturating_sub(have.len());
        if have.is_empty() && !self.answers(without) {
            let known = |node: &NodeId| {
                let lacks = self.lacks(*node);
                let count = lacks.map_or("an unknown number".to_owned(), |lacks| lacks.to_string());
                format!("node {} lacks {count}", node.0)
            };
            let each: Vec<String> = voters.iter().map(known).collect();
            return Err(format!(
                "node {} does not answer and may have the last copy of some blocks ({}); bring it up first",
                without.0,
                each.join(", ")
            ));
        }
        // Those that are nearest to it, of those that answer.
        lack.retain(|node| self.answers(*node));
        lack.sort_by_key(|node| self.lacks(*node).unwrap_or(u64::MAX));
        if lack.len() < missing {
            return Err(format!(
                "a majority of {} must have every block first, and of those that lack some only {} answer",
                list(voters),
                lack.len()
            ));
        }
        Ok(lack.into_iter().take(missing).map(Step::AwaitBlocks).collect())
    }
}

fn without(nodes: &[NodeId], node: NodeId) -> Vec<NodeId> {
    nodes.iter().copied().filter(|other| *other != node).collect()
}

/// Takes a node out.
///
/// # Errors
/// A sentence why not, with what to do.
pub fn remove(facts: &Facts, node: NodeId) -> Result<Plan, String> {
    facts.known(node)?;
    let Members { voters, learners, .. } = &facts.members;
    if node == facts.leader {
        facts.can_decide(&without(voters, node))?;
        return Ok(vec![Step::HandOver(facts.successor(node)?)]);
    }
    let (left, learn) = (without(voters, node), without(learners, node));
    let mut plan = Plan::new();
    let votes = left.len() < voters.len();
    if votes {
        facts.can_decide(&left)?;
        plan = facts.keep_blocks(&left, node)?;
    }
    if facts.placement.names(node) {
        facts.others_have(node)?;
        plan.push(Step::MoveAway(node));
    }
    if left.len() + learn.len() < voters.len() + learners.len() {
        plan.push(Step::Members { voters: left, learners: learn });
        plan.extend(facts.after_members(votes));
    }
    plan.push(Step::Forget(node));
    Ok(plan)
}

/// Has `by` take the place of `node`.
///
/// # Errors
/// As for `remove`.
pub fn replace(facts: &Facts, node: NodeId, by: NodeId) -> Result<Plan, String> {
    facts.known(node)?;
    facts.known(by)?;
    if node == by {
        return Err(format!("node {} cannot take its own place; invite a new node", node.0));
    }
    let Members { voters, learners, .. } = &facts.members;
    if !voters.contains(&by) && !learners.contains(&by) {
        return Err(format!("node {} does not take part yet; start it, and try again", by.0));
    }
    if node == facts.leader {
        return Ok(vec![Step::HandOver(facts.successor(node)?)]);
    }
    if voters.contains(&by) || !voters.contains(&node) {
        return remove(facts, node);
    }
    if !facts.answers(by) {
        return Err(format!("node {} does not answer; start it, and try again", by.0));
    }
    let mut left = without(voters, node);
    left.push(by);
    left.sort_unstable();
    facts.can_decide(&left)?;
    let mut plan = vec![Step::AwaitLog(by)];
    let blocks = facts.keep_blocks(&left, node)?;
    if facts.placement.is_everywhere() && !facts.has_every_block(by) {
        plan.push(Step::AwaitBlocks(by));
    }
    plan.extend(blocks.into_iter().filter(|step| *step != Step::AwaitBlocks(by)));
    if facts.placement.names(node) {
        facts.others_have(node)?;
        plan.push(Step::MoveAway(node));
    }
    plan.push(Step::Members { voters: left, learners: without(learners, by) });
    plan.extend(facts.after_members(true));
    plan.push(Step::Forget(node));
    Ok(plan)
}

/// Makes it so that a node may be stopped: it leads nothing, and the others can do without it.
///
/// # Errors
/// As for `remove`.
pub fn drain(facts: &Facts, node: NodeId) -> Result<Plan, String> {
    facts.known(node)?;
    if !facts.members.voters.contains(&node) {
        return match facts.placement.names(node) {
            true => facts.homes_do_without(node),
            false => Ok(Plan::new()),
        };
    }
    let others = without(&facts.members.voters, node);
    let needed = facts.members.voters.len() / 2 + 1;
    let answering: Vec<NodeId> =
        others.iter().copied().filter(|other| facts.answers(*other)).collect();
    if answering.len() < needed {
        return Err(format!(
            "without node {} only {} of {} nodes that decide would answer, which is no majority: everybody would wait \
             until it is back; bring up others first",
            node.0,
            answering.len(),
            facts.members.voters.len()
        ));
    }
    if node == facts.leader {
        return Ok(vec![Step::HandOver(facts.successor(node)?)]);
    }
    // A majority without it has the log already where that of all answers; blocks have to be fetched.
    facts.homes_do_without(node)
}

/// Has the first learner vote that has everything and is to decide. None: there is no such one.
pub fn promote(facts: &Facts) -> Option<Plan> {
    let Members { voters, learners, .. } = &facts.members;
    let ready = learners.iter().copied().find(|node| {
        facts.follows(*node) && facts.is_nearly_whole(*node) && facts.has_role(*node, Role::Ts)
    })?;
    let mut all = voters.clone();
    all.push(ready);
    all.sort_unstable();
    facts.can_decide(&all).ok()?;
    Some(vec![Step::Members { voters: all, learners: without(learners, ready) }])
}

/// Has a voter learn that is not to decide any more, where the others can do without it. None: there is no such one.
pub fn demote(facts: &Facts) -> Option<Plan> {
    let Members { voters, learners, .. } = &facts.members;
    let unfit = |node: &&NodeId| {
        **node != facts.leader
            && facts.nodes.contains_key(*node)
            && !facts.has_role(**node, Role::Ts)
    };
    let node = *voters.iter().find(unfit)?;
    let left = without(voters, node);
    facts.can_decide(&left).ok()?;
    let mut plan = facts.keep_blocks(&left, node).ok()?;
    let mut learn = learners.clone();
    learn.push(node);
    learn.sort_unstable();
    plan.push(Step::Members { voters: left, learners: learn });
    Some(plan)
}

/// Has another node lead where the one that does is not to decide, not to keep sessions and locks, or not to watch the others:
/// all of this is the leader's work. The same where everybody waits for its disk, and another's is much faster. None: it is
/// fit, or nobody else is who has the log.
pub fn better_leader(facts: &Facts) -> Option<Plan> {
    let fit = |node: NodeId| {
        [Role::Ts, Role::Lock, Role::Monitor].into_iter().all(|role| facts.has_role(node, role))
    };
    // A node that has just joined has no row yet.
    if !facts.nodes.contains_key(&facts.leader) {
        return None;
    }
    let follows = |node: &NodeId| *node != facts.leader && facts.follows(*node) && fit(*node);
    let mut others = facts.members.voters.iter().copied().filter(follows);
    let better = match fit(facts.leader) {
        false => others.next(),
        true => {
            let own = facts.sync_us(facts.leader).filter(|own| *own >= SLOW_SYNC_US)?;
            let faster = |node: &NodeId| facts.sync_us(*node).is_some_and(|us| us <= own / FASTER);
            others.filter(faster).min_by_key(|node| facts.sync_us(*node))
        }
    };
    better.map(|node| vec![Step::HandOver(node)])
}

#[cfg(test)]
mod tests;
