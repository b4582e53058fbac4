//! Which nodes are to keep blocks: decided from what the node that leads knows, as the next placement or none.
//!
//! `docs/decisions/0020-which-nodes-keep-a-block.md` has the states. Here is no clock and no network. Not here: proposing it
//! (`monitor`), and how blocks get where it says (`store::block`, `tsdb_server::data`).

use crate::types::NodeId;
use crate::types::Role;
use crate::types::Roles;
use crate::types::placement::GROUPS;
use crate::types::placement::Layout;
use crate::types::placement::Placement;
use crate::types::placement::Share;
use crate::types::placement::WEIGHT_MAX;
use std::collections::BTreeSet;
use std::time::Duration;

/// A node that has not answered for so long is to be done without, if nothing else is said: what it kept is copied elsewhere.
pub const GONE: Duration = Duration::from_secs(30 * 60);
/// What nodes weigh that are alike.
const WEIGHT: u64 = 8;

/// A node that belongs to the cluster and gets the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keeper {
    pub node: NodeId,
    pub roles: Roles,
    /// It has the log, but for what came in the last seconds.
    pub follows: bool,
    /// For how long it has not answered.
    pub silent: Duration,
    /// Bytes of its disk, where they are known.
    pub disk: Option<u64>,
}

/// What is decided from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts<'a> {
    pub placement: &'a Placement,
    pub keepers: Vec<Keeper>,
    /// Nodes that are to keep nothing, whether they answer or not.
    pub leaving: &'a BTreeSet<NodeId>,
    /// A node that has been silent for so long is done without.
    pub gone: Duration,
    /// The homes that are to be have every block, and everybody knows which these are.
    pub settled: bool,
}

impl Facts<'_> {
    /// The layout that the next one is to be made from.
    fn present(&self) -> Option<&Layout> {
        self.placement.next.as_ref().or(self.placement.now.as_ref())
    }

    /// Whether anything has to be said: not where every node is to keep every block anyway.
    fn is_needed(&self) -> bool {
        let copies = usize::from(self.placement.copies);
        self.present().is_some()
            || self.keepers.len() > copies
            || self.keepers.iter().any(|keeper| !keeper.roles.has(Role::Data))
    }

    /// Those that are to keep blocks: who answers, and of the others as many as it takes for all copies.
    fn chosen(&self) -> Vec<&Keeper> {
        let is_home = |node| self.present().is_some_and(|layout| layout.has(node));
        let fit = |keeper: &&Keeper| {
            keeper.roles.has(Role::Data)
                && !self.leaving.contains(&keeper.node)
                && (keeper.follows || is_home(keeper.node))
        };
        let mut fit: Vec<&Keeper> = self.keepers.iter().filter(fit).collect();
        fit.sort_by_key(|keeper| (keeper.silent, keeper.node));
        let here = fit.iter().filter(|keeper| keeper.silent < self.gone).count();
        fit.truncate(here.max(usize::from(self.placement.copies)));
        fit
    }

    /// What each of them weighs: what it weighed before, unless its disk is now another by far.
    fn weights(&self, chosen: &[&Keeper]) -> Vec<Share> {
        let weighed = |keeper: &Keeper| {
            let shares = self.present()?.shares();
            shares.iter().find(|share| share.node == keeper.node).map(|share| share.weight)
        };
        let known: Vec<(u64, u64)> = chosen
            .iter()
            .filter_map(|keeper| Some((keeper.disk?, u64::from(weighed(keeper)?))))
            .collect();
        // So many bytes stand for so much weight.
        let (bytes, weight) = match known.is_empty() {
            false => (sum(known.iter().map(|(disk, _)| *disk)), sum(known.iter().map(|(_, w)| *w))),
            true => {
                let disks = || chosen.iter().filter_map(|keeper| keeper.disk);
                (sum(disks()), WEIGHT * disks().count() as u64)
            }
        };
        let by_disk = |disk: u64| {
            let weight = u128::from(disk) * u128::from(weight) + u128::from(bytes) / 2;
            (weight / u128::from(bytes.max(1))).clamp(1, u128::from(WEIGHT_MAX)) as u8
        };
        let share = |keeper: &&Keeper| {
            let (before, ideal) = (weighed(keeper), keeper.disk.map(by_disk));
            let weight = match (before, ideal) {
                (Some(before), Some(ideal)) if ideal > before / 2 && ideal / 2 < before => before,
                (_, Some(ideal)) => ideal,
                (Some(before), None) => before,
                (None, None) => WEIGHT as u8,
            };
            Share { node: keeper.node, weight }
        };
        chosen.iter().map(share).collect()
    }

    /// The layout that there should be; `None` where nothing is to be said.
    fn wanted(&self) -> Option<Layout> {
        if !self.is_needed() {
            return None;
        }
        let chosen = self.chosen();
        // Nobody is left: what is stays.
        Layout::new(self.placement.copies, self.weights(&chosen))
    }
}

fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

/// The placement that is to be next, if it is to be another one.
pub fn decide(facts: &Facts<'_>) -> Option<Placement> {
    let wanted = Some(facts.wanted()?);
    let Placement { number, copies, now, next } = facts.placement.clone();
    let number = number + 1;
    if next.is_some() && next == wanted {
        return facts.settled.then_some(Placement { number, copies, now: next, next: None });
    }
    let to_be = if now == wanted { None } else { wanted };
    (to_be != next).then_some(Placement { number, copies, now, next: to_be })
}

/// Whether each group keeps a majority of its homes among these nodes.
pub fn majority_among(layout: &Layout, nodes: &BTreeSet<NodeId>) -> bool {
    each_group(layout, |homes, left| left > homes / 2, nodes)
}

/// Whether each group has a home among these nodes.
pub fn any_among(layout: &Layout, nodes: &BTreeSet<NodeId>) -> bool {
    each_group(layout, |_, left| left > 0, nodes)
}

fn each_group(
    layout: &Layout,
    holds: impl Fn(usize, usize) -> bool,
    nodes: &BTreeSet<NodeId>,
) -> bool {
    (0..GROUPS).all(|group| {
        let homes = layout.homes(group);
        let left = homes.iter().filter(|home| nodes.contains(home)).count();
        holds(homes.len(), left)
    })
}

#[cfg(test)]
mod tests;
