//! What goes wrong, and when: each kind by itself or together with others, and for a while.

use crate::chance::Chance;
use crate::member::Member;
use crate::network::Network;
use std::collections::BTreeMap;
use tsfs::types::NodeId;

/// Every kind of fault that there is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Fault {
    Kill,
    PowerCut,
    /// The power goes in the middle of a write, some operations later.
    PowerCutLater,
    FailedSync,
    Pause,
    CutOff,
    CutOffOneWay,
    Halves,
    Mend,
    BadNetwork,
    Transfer,
    Members,
    Flush,
}

pub(crate) const ALL: [Fault; 13] = [
    Fault::Kill,
    Fault::PowerCut,
    Fault::PowerCutLater,
    Fault::FailedSync,
    Fault::Pause,
    Fault::CutOff,
    Fault::CutOffOneWay,
    Fault::Halves,
    Fault::Mend,
    Fault::BadNetwork,
    Fault::Transfer,
    Fault::Members,
    Fault::Flush,
];

pub(crate) type Counts = BTreeMap<Fault, u64>;

/// Lets one thing go wrong.
pub(crate) fn strike(
    now: u64,
    members: &mut [Member],
    network: &mut Network,
    chance: &mut Chance,
) -> Fault {
    let fault = *chance.pick(&ALL).unwrap();
    let nodes: Vec<NodeId> = members.iter().map(|member| member.node).collect();
    let who = chance.below(members.len() as u64) as usize;
    let leader = members.iter().position(|member| member.leads().is_some());
    // What happens to the leader is the most interesting.
    let who = leader.filter(|_| chance.once_in(2)).unwrap_or(who);
    let node = nodes[who];
    match fault {
        Fault::Kill => {
            members[who].kill();
            members[who].asleep_until = now + chance.between(1, 1500);
        }
        Fault::PowerCut => {
            members[who].cut_power(chance.next());
            members[who].asleep_until = now + chance.between(20, 2500);
        }
        Fault::PowerCutLater => members[who].disk.power_off_after(chance.below(12)),
        Fault::FailedSync => {
            members[who].disk.fail_sync("/log");
            members[who].doubtful = true;
        }
        Fault::Pause => members[who].asleep_until = now + chance.between(50, 1500),
        Fault::CutOff => {
            for other in nodes {
                network.cut(node, other);
                network.cut(other, node);
            }
        }
        Fault::CutOffOneWay => {
            let hears = chance.once_in(2);
            for other in nodes {
                let (from, to) = if hears { (node, other) } else { (other, node) };
                network.cut(from, to);
            }
        }
        Fault::Halves => {
            let sides: Vec<bool> = nodes.iter().map(|_| chance.once_in(2)).collect();
            for (one, here) in nodes.iter().zip(&sides) {
                for (other, there) in nodes.iter().zip(&sides) {
                    if here != there {
                        network.cut(*one, *other);
                    }
                }
            }
        }
        Fault::Mend => network.mend(),
        Fault::BadNetwork => {
            network.lost = chance.below(200);
            network.doubled = chance.below(100);
            network.delay_max = chance.between(1, 60);
        }
        Fault::Transfer => {
            if let Some(running) = leader.and_then(|leader| members[leader].running.as_mut()) {
                running.transfer_leader(node);
            }
        }
        Fault::Members => change_members(members, leader, chance),
        Fault::Flush => {
            if let Some(running) = members[who].running.as_mut() {
                // A disk without power says so at the next write too.
                let _ = running.flush();
            }
        }
    }
    fault
}

/// Asks the leader for some other members: one comes, goes, learns or votes, or two change places.
fn change_members(members: &mut [Member], leader: Option<usize>, chance: &mut Chance) {
    let nodes: Vec<NodeId> = members.iter().map(|member| member.node).collect();
    let Some(running) = leader.and_then(|leader| members[leader].running.as_mut()) else { return };
    let now = running.members();
    let (mut voters, mut learners) = (now.voters, now.learners);
    for _ in 0..chance.between(1, 2) {
        let node = *chance.pick(&nodes).unwrap();
        let voted = voters.contains(&node);
        let learnt = learners.contains(&node);
        voters.retain(|voter| *voter != node);
        learners.retain(|learner| *learner != node);
        match (voted, learnt) {
            (true, _) if chance.once_in(2) => learners.push(node),
            (true, _) => {}
            (_, true) => voters.push(node),
            (false, false) => learners.push(node),
        }
    }
    if voters.len() >= 2 {
        running.change_members(voters, learners, |_| {});
    }
}
