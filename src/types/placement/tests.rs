//! Where blocks are at home, by tables and by counting.

use super::*;
use crate::types::SessionId;
use std::collections::BTreeMap;

fn layout(copies: u8, weights: &[(u64, u8)]) -> Layout {
    let share = |(node, weight): &(u64, u8)| Share { node: NodeId(*node), weight: *weight };
    Layout::new(copies, weights.iter().map(share).collect()).unwrap()
}

fn even(copies: u8, nodes: std::ops::RangeInclusive<u64>) -> Layout {
    layout(copies, &nodes.map(|node| (node, 8)).collect::<Vec<_>>())
}

fn counts(layout: &Layout) -> BTreeMap<u64, u16> {
    layout.nodes().map(|node| (node.0, layout.groups_of(node))).collect()
}

#[test]
fn every_group_has_as_many_homes_as_there_are_copies_and_no_node_twice() {
    for (copies, nodes) in [(3, 5), (3, 3), (3, 2), (5, 7), (1, 4)] {
        let layout = even(copies, 1..=nodes);
        for group in 0..GROUPS {
            let mut homes = layout.homes(group);
            assert_eq!(homes.len() as u64, u64::from(copies).min(nodes));
            homes.sort_unstable();
            homes.dedup();
            assert_eq!(homes.len() as u64, u64::from(copies).min(nodes));
        }
    }
}

#[test]
fn nodes_alike_keep_alike_and_others_by_their_weight() {
    for nodes in [4, 5, 8, 16] {
        let mean = f64::from(GROUPS) * 3.0 / nodes as f64;
        for (node, groups) in counts(&even(3, 1..=nodes)) {
            let off = f64::from(groups) / mean;
            assert!(
                (0.85..1.15).contains(&off),
                "{nodes} nodes: node {node} has {off:.2} of the mean"
            );
        }
    }
    let uneven = counts(&layout(2, &[(1, 4), (2, 4), (3, 4), (4, 8), (5, 4), (6, 4)]));
    let others = [1, 2, 3, 5, 6].map(|node| uneven[&node]).iter().sum::<u16>() / 5;
    let ratio = f64::from(uneven[&4]) / f64::from(others);
    assert!((1.5..2.2).contains(&ratio), "twice the weight keeps {ratio:.2} times as much");
}

#[test]
fn a_node_that_comes_takes_its_share_and_nothing_else_moves() {
    let (before, after) = (even(3, 1..=5), even(3, 1..=6));
    for group in 0..GROUPS {
        let (was, is) = (before.homes(group), after.homes(group));
        let new: Vec<_> = is.iter().filter(|node| !was.contains(node)).collect();
        assert!(new.iter().all(|node| node.0 == 6), "{was:?} {is:?}");
        assert!(new.len() <= 1);
    }
}

#[test]
fn blocks_of_one_session_are_spread_evenly() {
    let layout = even(3, 1..=5);
    let mut kept: BTreeMap<NodeId, u32> = BTreeMap::new();
    for number in 0..u64::from(GROUPS) * 2 {
        let block = BlockId { session: SessionId(77), number };
        layout.homes(group_of(block)).iter().for_each(|node| *kept.entry(*node).or_default() += 1);
    }
    let exact = |node: &NodeId| u32::from(layout.groups_of(*node)) * 2;
    assert!(kept.iter().all(|(node, count)| *count == exact(node)), "{kept:?}");
}

#[test]
fn a_placement_says_who_counts_and_who_is_to_have_it() {
    let block = BlockId { session: SessionId(3), number: 9 };
    let everywhere = Placed::new(&Placement::default());
    assert!(everywhere.is_everywhere() && everywhere.keeps(NodeId(99), block));
    let (now, next) = (even(2, 1..=4), even(2, 3..=9));
    let placement =
        Placement { number: 7, copies: 2, now: Some(now.clone()), next: Some(next.clone()) };
    let placed = Placed::new(&placement);
    assert_eq!(placed.number(), 7);
    let group = group_of(block);
    assert_eq!(placed.homes(block), Some(&now.homes(group)[..]));
    assert_eq!(placed.next_homes(block), next.homes(group));
    for node in (1..=9).map(NodeId) {
        let kept = now.homes(group).contains(&node) || next.homes(group).contains(&node);
        assert_eq!(placed.keeps(node, block), kept);
    }
}

#[test]
fn what_is_no_layout_is_refused() {
    let share = |node, weight| Share { node: NodeId(node), weight };
    assert_eq!(Layout::new(3, vec![]), None);
    assert_eq!(Layout::new(0, vec![share(1, 1)]), None);
    assert_eq!(Layout::new(COPIES_MAX + 1, vec![share(1, 1)]), None);
    assert_eq!(Layout::new(3, vec![share(1, 1), share(1, 1)]), None);
    assert_eq!(Layout::new(3, vec![share(1, 0)]), None);
    assert_eq!(Layout::new(3, vec![share(1, WEIGHT_MAX + 1)]), None);
    assert!(Layout::new(3, vec![share(2, WEIGHT_MAX), share(1, 1)]).unwrap().is_sound());
}

/// Replicas of all versions must agree: what was computed once stays so.
#[test]
fn homes_are_what_they_were() {
    let layout = layout(3, &[(1, 8), (2, 8), (3, 8), (4, 16), (5, 1)]);
    let homes = |group| layout.homes(group).iter().map(|node| node.0).collect::<Vec<_>>();
    assert_eq!([0, 1, 511, 1023].map(homes), [[5, 4, 3], [3, 1, 2], [4, 2, 5], [4, 1, 3]]);
    let group = |(session, number)| group_of(BlockId { session: SessionId(session), number });
    assert_eq!([(1, 0), (1, 1), (9, 1000)].map(group), [193, 194, 76]);
}
