//! What goes wrong, and when: each kind by itself or together with others, and for a while.

mod harm;
mod rot;

pub(crate) use harm::Harm;

use crate::chance::Chance;
use crate::lines;
use crate::lines::Lines;
use crate::lines::Side;
use crate::member::Member;
use crate::member::SAYS_DISK;
use crate::monitor;
use crate::mount::Mount;
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
    FailedReads,
    BitFlip,
    FullDisk,
    SlowDisk,
    Pause,
    CutOff,
    CutOffOneWay,
    Halves,
    Mend,
    BadNetwork,
    /// The wall clock is set.
    ClockStep,
    Transfer,
    Members,
    Flush,
    MountCrash,
    /// Longer than its lease, or not.
    MountPause,
    MountCutOff,
    LineBreak,
    /// Blocks are to be kept elsewhere: on other nodes, more on one, or more copies.
    Place,
}

pub(crate) const ALL: [Fault; 23] = [
    Fault::Kill,
    Fault::PowerCut,
    Fault::PowerCutLater,
    Fault::FailedSync,
    Fault::FailedReads,
    Fault::BitFlip,
    Fault::FullDisk,
    Fault::SlowDisk,
    Fault::Pause,
    Fault::CutOff,
    Fault::CutOffOneWay,
    Fault::Halves,
    Fault::Mend,
    Fault::BadNetwork,
    Fault::ClockStep,
    Fault::Transfer,
    Fault::Members,
    Fault::Flush,
    Fault::MountCrash,
    Fault::MountPause,
    Fault::MountCutOff,
    Fault::LineBreak,
    Fault::Place,
];
/// Those that need mounts stand at the end.
pub(crate) const OF_MEMBERS: usize = ALL.len() - 5;

/// So many nodes at most are to keep nothing at a time.
const LEAVING_MAX: usize = 2;

pub(crate) type Counts = BTreeMap<Fault, u64>;

/// All that can be harmed.
pub(crate) struct Scene<'a> {
    pub(crate) now: u64,
    pub(crate) members: &'a mut [Member],
    pub(crate) mounts: &'a mut [Mount],
    pub(crate) lines: &'a mut Lines,
    pub(crate) network: &'a mut Network,
    pub(crate) harm: &'a mut Harm,
    pub(crate) chance: &'a mut Chance,
}

/// Lets one thing go wrong.
pub(crate) fn strike(scene: &mut Scene<'_>) -> Fault {
    let kinds = if scene.mounts.is_empty() { &ALL[..OF_MEMBERS] } else { &ALL };
    let mut fault = *scene.chance.pick(kinds).unwrap();
    // A network that is never whole shows little.
    if scene.network.is_torn() && scene.chance.once_in(5) {
        fault = Fault::Mend;
    }
    // Blocks that never move neither, and where they are to go is another place all the time they never arrive.
    let moves = scene.harm.active(scene.now).contains(&Fault::Place);
    if !scene.mounts.is_empty() && !moves && scene.chance.once_in(6) {
        fault = Fault::Place;
    }
    if fault == Fault::Place && moves && !scene.chance.once_in(3) {
        fault = Fault::Flush;
    }
    let leader = scene.members.iter().position(|member| member.leads().is_some());
    let who = scene.chance.below(scene.members.len() as u64) as usize;
    // What happens to the leader is the most interesting.
    let mut who = leader.filter(|_| scene.chance.once_in(2)).unwrap_or(who);
    // But while blocks move, it is the others: one that leads for a moment moves nothing.
    if moves && leader == Some(who) && !scene.chance.once_in(4) {
        who = (who + 1) % scene.members.len();
    }
    let until = match fault {
        Fault::Kill | Fault::PowerCut | Fault::PowerCutLater | Fault::Pause => {
            stop(fault, who, scene)
        }
        Fault::FailedSync
        | Fault::FailedReads
        | Fault::BitFlip
        | Fault::FullDisk
        | Fault::SlowDisk => {
            let chance = (!scene.mounts.is_empty(), &mut *scene.chance);
            scene.harm.disk(fault, who, scene.now, scene.members, chance)
        }
        Fault::CutOff | Fault::CutOffOneWay | Fault::Halves | Fault::MountCutOff => {
            cut(fault, who, scene);
            u64::MAX
        }
        Fault::Mend => {
            scene.network.mend();
            scene.harm.mended();
            scene.now + 200
        }
        Fault::BadNetwork => {
            let Scene { network, chance, .. } = scene;
            network.lost = chance.below(200);
            network.doubled = chance.below(100);
            network.broken = chance.below(60);
            network.delay_max = chance.between(1, 60);
            scene.now + 1000
        }
        Fault::ClockStep => {
            let ahead = match scene.chance.below(4) {
                // More than an hour is not believed.
                0 => scene.chance.between(3_700_000, 9_000_000) as i64,
                1 => scene.chance.between(1, 3_000_000) as i64,
                2 => -(scene.chance.between(1, 90_000_000) as i64),
                _ => 0,
            };
            scene.members[who].clock.set_ahead(ahead);
            scene.now + 1000
        }
        Fault::Transfer | Fault::Members | Fault::Flush => {
            ask(fault, who, leader, scene);
            scene.now + 300
        }
        Fault::MountCrash | Fault::MountPause | Fault::LineBreak => strike_mount(fault, scene),
        Fault::Place => {
            place(who, leader, scene);
            scene.now + 3000
        }
    };
    scene.harm.lasts(fault, until);
    fault
}

fn stop(fault: Fault, who: usize, scene: &mut Scene<'_>) -> u64 {
    let Scene { now, members, lines, chance, .. } = scene;
    let member = &mut members[who];
    match fault {
        Fault::PowerCutLater => {
            member.disk.power_off_after(chance.below(12));
            return *now + 300;
        }
        Fault::Pause => member.asleep_until = *now + chance.between(50, 1500),
        Fault::Kill => {
            member.kill();
            lines.gone(Side::Member, who, chance);
            member.asleep_until = *now + chance.between(1, 1500);
        }
        _ => {
            member.cut_power(chance.next());
            lines.gone(Side::Member, who, chance);
            member.asleep_until = *now + chance.between(20, 2500);
        }
    }
    member.asleep_until
}

fn cut(fault: Fault, who: usize, scene: &mut Scene<'_>) {
    let Scene { members, mounts, network, chance, .. } = scene;
    let members: Vec<NodeId> = members.iter().map(|member| member.node).collect();
    let mounts: Vec<NodeId> = mounts.iter().map(|mount| lines::address(mount.n)).collect();
    let nodes: Vec<NodeId> = members.iter().chain(&mounts).copied().collect();
    match fault {
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
        Fault::MountCutOff => {
            let node = *chance.pick(&mounts).unwrap();
            let both = chance.once_in(2);
            for other in members {
                network.cut(node, other);
                if both {
                    network.cut(other, node);
                }
            }
        }
        _ => {
            let node = members[who];
            let hears = chance.once_in(2);
            for other in nodes {
                if fault == Fault::CutOff || hears {
                    network.cut(node, other);
                }
                if fault == Fault::CutOff || !hears {
                    network.cut(other, node);
                }
            }
        }
    }
}

fn ask(fault: Fault, who: usize, leader: Option<usize>, scene: &mut Scene<'_>) {
    let Scene { members, chance, .. } = scene;
    let node = members[who].node;
    match fault {
        Fault::Transfer => {
            if let Some(running) = leader.and_then(|leader| members[leader].running.as_mut()) {
                running.transfer_leader(node);
            }
        }
        Fault::Members => change_members(members, leader, chance),
        _ => {
            if let Some(running) = members[who].running.as_mut() {
                // A disk without power says so at the next write too.
                let _ = running.flush();
            }
        }
    }
}

/// Somebody has nodes emptied or filled again, a disk is larger than it was, or another number of copies is wanted.
fn place(who: usize, leader: Option<usize>, scene: &mut Scene<'_>) {
    let Scene { members, harm, chance, .. } = scene;
    let node = members[who].node;
    match chance.below(6) {
        0 => members[who].says_disk = SAYS_DISK << chance.below(4),
        1 => {
            if let Some(running) = leader.and_then(|leader| members[leader].running.as_mut()) {
                monitor::want_copies(running, chance);
            }
        }
        _ => {
            if !harm.leaving.remove(&node) && harm.leaving.len() < LEAVING_MAX {
                harm.leaving.insert(node);
            }
        }
    }
}

fn strike_mount(fault: Fault, scene: &mut Scene<'_>) -> u64 {
    let Scene { now, mounts, lines, chance, .. } = scene;
    let who = chance.below(mounts.len() as u64) as usize;
    let mount = &mut mounts[who];
    match fault {
        Fault::MountCrash => {
            mount.crash();
            lines.gone(Side::Mount, who, chance);
            mount.asleep_until = *now + chance.between(1, 2000);
        }
        Fault::MountPause => mount.asleep_until = *now + chance.between(50, 4000),
        _ => {
            lines.break_one(chance);
            return *now + 200;
        }
    }
    mount.asleep_until
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
