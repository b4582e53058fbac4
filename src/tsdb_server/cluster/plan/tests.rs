//! Plans for clusters in every state that matters: what is done in which order, and what is refused.

use super::*;
use crate::meta::record::Incarnation;
use crate::types::LogIndex;
use crate::types::Roles;
use crate::types::Stamp;
use crate::types::placement::Layout;
use crate::types::placement::Share;

fn row(roles: Roles) -> Node {
    let (name, address) = ("a host".to_owned(), "a host:1".to_owned());
    let (added, incarnation) = (Stamp(1), Incarnation([1; 16]));
    Node { name, address, roles, added, incarnation, starts: 1, boot: 1 }
}

const COMMITTED: u64 = 100_000;

/// How a node stands that lacks so many blocks, and has rows of placement 4.
fn lacking(blocks: u64) -> Standing {
    Standing {
        features: 3,
        complete: LogIndex(if blocks == 0 { COMMITTED } else { 0 }),
        placed: Some(4),
        lacks: blocks,
        disk_total: 1 << 40,
        disk_free: 1 << 39,
        room: 1 << 38,
        sync_us: None,
    }
}

/// Nodes 1 to `n`, all voting and well; node 1 leads.
fn cluster(n: u64) -> Facts {
    let nodes: Vec<NodeId> = (1..=n).map(NodeId).collect();
    let follower = |node: &NodeId| Follower { node: *node, answers: true, lag: 0 };
    Facts {
        leader: NodeId(1),
        nodes: nodes.iter().map(|node| (*node, row(Roles::ALL))).collect(),
        followers: nodes[1..].iter().map(follower).collect(),
        standings: nodes.iter().map(|node| (*node, lacking(0))).collect(),
        placement: Placement::default(),
        committed: LogIndex(COMMITTED),
        members: Members { voters: nodes, ..Members::default() },
    }
}

impl Facts {
    fn silent(mut self, node: u64) -> Facts {
        let follower = self.followers.iter_mut().find(|follower| follower.node.0 == node);
        follower.expect("it follows").answers = false;
        self.standings.remove(&NodeId(node));
        self
    }

    fn lacking(mut self, node: u64, blocks: u64) -> Facts {
        self.standings.insert(NodeId(node), lacking(blocks));
        self
    }

    /// Blocks have homes by name: three of the nodes each, of these.
    fn placed(mut self, nodes: &[u64]) -> Facts {
        let share = |node: &u64| Share { node: NodeId(*node), weight: 8 };
        let now = Layout::new(3, nodes.iter().map(share).collect());
        self.placement = Placement { number: 4, copies: 3, now, next: None };
        self
    }

    fn with_roles(mut self, node: u64, roles: &str) -> Facts {
        self.nodes.insert(NodeId(node), row(roles.parse().unwrap()));
        self
    }

    fn learner(mut self, node: u64, lag: u64, lacks: u64) -> Facts {
        let id = NodeId(node);
        self.nodes.insert(id, row(Roles::ALL));
        self.members.voters.retain(|voter| *voter != id);
        self.members.learners.push(id);
        self.followers.retain(|follower| follower.node != id);
        self.followers.push(Follower { node: id, answers: true, lag });
        self.lacking(node, lacks)
    }
}

fn members(voters: &[u64]) -> Step {
    Step::Members { voters: voters.iter().copied().map(NodeId).collect(), learners: Vec::new() }
}

fn refused(plan: Result<Plan, String>, why: &str) {
    let sentence = plan.unwrap_err();
    assert!(sentence.contains(why), "{sentence}");
}

#[test]
fn a_node_is_removed_when_the_others_can_do_without_it() {
    let plan = remove(&cluster(3), NodeId(3)).unwrap();
    assert_eq!(plan, [members(&[1, 2]), Step::AwaitMounts, Step::Forget(NodeId(3))]);
    // A dead one as well.
    let plan = remove(&cluster(3).silent(3), NodeId(3)).unwrap();
    assert_eq!(plan, [members(&[1, 2]), Step::AwaitMounts, Step::Forget(NodeId(3))]);
    // Others get every block first: as many as make a majority, the nearest.
    let plan = remove(&cluster(4).lacking(2, 9).lacking(3, 5), NodeId(4)).unwrap();
    let wait = Step::AwaitBlocks(NodeId(3));
    assert_eq!(plan, [wait, members(&[1, 2, 3]), Step::AwaitMounts, Step::Forget(NodeId(4))]);
    let learner = cluster(3).learner(4, 0, 7);
    assert_eq!(
        remove(&learner, NodeId(4)).unwrap(),
        [members(&[1, 2, 3]), Step::Forget(NodeId(4))]
    );
}

#[test]
fn who_leads_hands_over_before_it_goes() {
    let mut facts = cluster(3);
    facts.followers[0].lag = 5;
    assert_eq!(remove(&facts, NodeId(1)).unwrap(), [Step::HandOver(NodeId(3))]);
    assert_eq!(drain(&facts, NodeId(1)).unwrap(), [Step::HandOver(NodeId(3))]);
    refused(remove(&cluster(2).silent(2), NodeId(1)), "only 0 of 1 answer");
    refused(remove(&cluster(1), NodeId(1)), "no node would be left");
}

#[test]
fn what_would_stop_the_cluster_is_refused() {
    refused(remove(&cluster(3).silent(2), NodeId(3)), "bring up node 2 first");
    refused(remove(&cluster(5).silent(2).silent(3), NodeId(4)), "bring up nodes 2 and 3 first");
    refused(drain(&cluster(3).silent(2), NodeId(3)), "only 1 of 3 nodes");
    refused(drain(&cluster(2), NodeId(2)), "only 1 of 2 nodes");
    refused(drain(&cluster(1), NodeId(1)), "only 0 of 1 nodes");
    refused(remove(&cluster(3), NodeId(9)), "no node 9; it has nodes 1, 2 and 3");
}

#[test]
fn the_last_copy_is_not_taken_away() {
    let facts = cluster(3).lacking(1, 4).lacking(2, 5).silent(3);
    let sentence = remove(&facts, NodeId(3)).unwrap_err();
    assert!(sentence.contains("last copy") && sentence.contains("node 2 lacks 5"), "{sentence}");
    // While it is there the others can fetch what they lack.
    let facts = cluster(3).lacking(1, 4).lacking(2, 5);
    let plan = remove(&facts, NodeId(3)).unwrap();
    assert_eq!(plan[..2], [Step::AwaitBlocks(NodeId(1)), Step::AwaitBlocks(NodeId(2))]);
    let mut unknown = cluster(3);
    unknown.standings.clear();
    refused(remove(&unknown.silent(3), NodeId(3)), "an unknown number");
}

#[test]
fn a_node_is_drained_when_the_others_have_everything() {
    assert_eq!(drain(&cluster(3), NodeId(3)), Ok(Plan::new()));
    let plan = drain(&cluster(3).lacking(2, 7), NodeId(3)).unwrap();
    assert_eq!(plan, [Step::AwaitBlocks(NodeId(2))]);
    assert_eq!(drain(&cluster(3).learner(4, 0, 0), NodeId(4)), Ok(Plan::new()));
}

#[test]
fn a_node_takes_the_place_of_another_in_one_step() {
    let facts = cluster(3).silent(3).learner(4, 0, 12);
    let plan = replace(&facts, NodeId(3), NodeId(4)).unwrap();
    let (log, blocks) = (Step::AwaitLog(NodeId(4)), Step::AwaitBlocks(NodeId(4)));
    let (heard, forget) = (Step::AwaitMounts, Step::Forget(NodeId(3)));
    assert_eq!(plan, [log, blocks, members(&[1, 2, 4]), heard.clone(), forget.clone()]);
    // It votes already: what is left is to take the other one out.
    let plan = replace(&cluster(4).silent(3), NodeId(3), NodeId(4)).unwrap();
    assert_eq!(plan, [members(&[1, 2, 4]), heard, forget]);
    refused(replace(&cluster(3), NodeId(3), NodeId(3)), "its own place");
    refused(
        replace(&cluster(3).learner(4, 0, 0).silent(4), NodeId(3), NodeId(4)),
        "does not answer",
    );
    let mut away = cluster(3);
    away.nodes.insert(NodeId(4), row(Roles::ALL));
    refused(replace(&away, NodeId(3), NodeId(4)), "does not take part yet");
}

#[test]
fn a_learner_votes_when_it_has_everything() {
    assert_eq!(promote(&cluster(3)), None);
    assert_eq!(promote(&cluster(1).learner(2, 0, 0)), Some(vec![members(&[1, 2])]));
    assert_eq!(promote(&cluster(1).learner(2, LAG_MAX + 1, 0)), None);
    assert_eq!(promote(&cluster(1).learner(2, 0, 1)), None);
    assert_eq!(promote(&cluster(1).learner(2, 0, 0).silent(2)), None);
    // Three, one of which is gone: a fourth would leave two of four, so it waits for the third, or replaces it.
    assert_eq!(promote(&cluster(3).silent(3).learner(4, 0, 0)), Some(vec![members(&[1, 2, 3, 4])]));
    assert_eq!(promote(&cluster(2).silent(2).learner(3, 0, 0)), Some(vec![members(&[1, 2, 3])]));
    let mut removed = cluster(1).learner(2, 0, 0);
    removed.nodes.remove(&NodeId(2));
    assert_eq!(promote(&removed), None);
}

#[test]
fn steps_are_sentences() {
    let plan = replace(&cluster(3).learner(4, 0, 3), NodeId(2), NodeId(4)).unwrap();
    let said: Vec<String> = plan.iter().map(Step::to_string).collect();
    assert_eq!(
        said,
        [
            "wait until node 4 has the log",
            "wait until node 4 has every block",
            "have nodes 1, 3 and 4 decide",
            "wait until all mounts have heard of it",
            "forget node 2"
        ]
    );
}

#[test]
fn what_a_node_keeps_is_moved_away_before_it_goes() {
    let facts = cluster(5).placed(&[1, 2, 3, 4, 5]);
    let away = Step::MoveAway(NodeId(5));
    let plan = remove(&facts, NodeId(5)).unwrap();
    assert_eq!(plan, [away.clone(), members(&[1, 2, 3, 4]), Step::Forget(NodeId(5))]);
    // One that is home to nothing just goes.
    let plan = remove(&cluster(5).placed(&[1, 2, 3, 4]), NodeId(5)).unwrap();
    assert_eq!(plan, [members(&[1, 2, 3, 4]), Step::Forget(NodeId(5))]);
    // A dead one: others have what it kept, unless too many of them do not answer either.
    let plan = remove(&facts.clone().silent(5), NodeId(5)).unwrap();
    assert_eq!(plan[0], away);
    let five = || cluster(5).placed(&[1, 2, 3, 4, 5]).silent(5);
    refused(remove(&five().lacking(4, 1).lacking(3, 1), NodeId(5)), "last copy");
    // Whose rows are of an older placement says nothing of this one.
    let mut old = five().lacking(4, 1);
    old.standings.get_mut(&NodeId(3)).unwrap().placed = Some(3);
    refused(remove(&old, NodeId(5)), "last copy");
}

#[test]
fn a_node_takes_the_place_of_a_home() {
    let facts = cluster(4).placed(&[1, 2, 3, 4]).learner(5, 0, 0);
    let plan = replace(&facts, NodeId(4), NodeId(5)).unwrap();
    let [log, away] = [Step::AwaitLog(NodeId(5)), Step::MoveAway(NodeId(4))];
    assert_eq!(plan, [log, away, members(&[1, 2, 3, 5]), Step::Forget(NodeId(4))]);
}

#[test]
fn a_home_is_drained_where_each_block_keeps_a_majority() {
    let facts = cluster(5).placed(&[1, 2, 3, 4, 5]);
    assert_eq!(drain(&facts, NodeId(5)).unwrap(), []);
    let plan = drain(&facts.clone().lacking(2, 7), NodeId(5)).unwrap();
    assert_eq!(plan, [Step::AwaitBlocks(NodeId(2))]);
    refused(drain(&facts.silent(4), NodeId(5)), "no majority of their copies");
    // A node that does not decide may keep blocks too.
    let learner = cluster(3).placed(&[2, 3, 4]).learner(4, 0, 0).lacking(3, 1);
    assert_eq!(drain(&learner, NodeId(4)).unwrap(), [Step::AwaitBlocks(NodeId(3))]);
}

#[test]
fn roles_say_who_decides_and_who_leads() {
    let learner = || cluster(3).learner(4, 0, 0);
    assert_eq!(promote(&learner()), Some(vec![members(&[1, 2, 3, 4])]));
    assert_eq!(promote(&learner().with_roles(4, "data")), None);
    // While programs write, something is always missing; what is old must not be.
    let mut busy = learner().lacking(4, 3);
    let stands = |facts: &mut Facts, complete| {
        facts.standings.get_mut(&NodeId(4)).unwrap().complete = LogIndex(complete);
    };
    stands(&mut busy, COMMITTED - LAG_MAX);
    assert!(promote(&busy).is_some());
    stands(&mut busy, COMMITTED - LAG_MAX - 1);
    assert_eq!(promote(&busy), None);
    let other = cluster(4).with_roles(4, "data");
    let learns = Step::Members { voters: [1, 2, 3].map(NodeId).into(), learners: vec![NodeId(4)] };
    assert_eq!(demote(&other), Some(vec![learns]));
    assert_eq!(demote(&other.silent(2).silent(3)), None, "the others could not decide");
    assert_eq!(
        demote(&cluster(3).with_roles(1, "data")),
        None,
        "it leads: another one is to, first"
    );
    let facts = cluster(3);
    assert_eq!(better_leader(&facts), None);
    let unfit = facts.with_roles(1, "ts,data,monitor").with_roles(2, "ts,data");
    assert_eq!(better_leader(&unfit), Some(vec![Step::HandOver(NodeId(3))]));
    assert_eq!(better_leader(&unfit.clone().silent(3)), None, "better than nobody");
    assert_eq!(better_leader(&unfit.with_roles(3, "ts,lock")), None);
}

#[test]
fn a_disk_for_which_everybody_waits_does_not_lead_where_a_faster_one_can() {
    let paced = |own, second, third| {
        let mut facts = cluster(3);
        for (node, us) in [(1, own), (2, second), (3, third)] {
            facts.standings.get_mut(&NodeId(node)).unwrap().sync_us = us;
        }
        facts
    };
    let to = |node| Some(vec![Step::HandOver(NodeId(node))]);
    assert_eq!(better_leader(&paced(Some(400_000), Some(900), Some(800))), to(3));
    assert_eq!(better_leader(&paced(Some(400_000), Some(900), None)), to(2));
    assert_eq!(better_leader(&paced(Some(400_000), Some(900), Some(800)).silent(3)), to(2));
    assert_eq!(
        better_leader(&paced(Some(400_000), Some(900), None).with_roles(2, "ts,data")),
        None
    );
    assert_eq!(better_leader(&paced(Some(90_000), Some(900), Some(800))), None, "not slow");
    assert_eq!(better_leader(&paced(Some(400_000), Some(60_000), None)), None, "to and fro");
    assert_eq!(better_leader(&paced(None, Some(900), Some(800))), None, "nothing is known");
}
