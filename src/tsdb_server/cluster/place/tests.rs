//! Placements for clusters in every state that matters.

use super::*;

const GIB: u64 = 1 << 30;

fn keeper(node: u64) -> Keeper {
    Keeper {
        node: NodeId(node),
        roles: Roles::ALL,
        follows: true,
        silent: Duration::ZERO,
        disk: Some(100 * GIB),
    }
}

fn keepers(nodes: std::ops::RangeInclusive<u64>) -> Vec<Keeper> {
    nodes.map(keeper).collect()
}

fn layout(copies: u8, nodes: &[u64]) -> Layout {
    weighted(copies, &nodes.iter().map(|node| (*node, 8)).collect::<Vec<_>>())
}

fn weighted(copies: u8, shares: &[(u64, u8)]) -> Layout {
    let share = |(node, weight): &(u64, u8)| Share { node: NodeId(*node), weight: *weight };
    Layout::new(copies, shares.iter().map(share).collect()).unwrap()
}

fn placed(now: Option<Layout>, next: Option<Layout>) -> Placement {
    Placement { number: 4, copies: 3, now, next }
}

fn decided(placement: &Placement, keepers: Vec<Keeper>) -> Option<Placement> {
    decided_when(placement, keepers, &[], false)
}

fn decided_when(
    placement: &Placement,
    keepers: Vec<Keeper>,
    leaving: &[u64],
    settled: bool,
) -> Option<Placement> {
    let leaving = leaving.iter().copied().map(NodeId).collect();
    decide(&Facts { placement, keepers, leaving: &leaving, gone: GONE, settled })
}

fn next(now: Option<Layout>, next: Option<Layout>) -> Option<Placement> {
    Some(Placement { number: 5, copies: 3, now, next })
}

#[test]
fn where_every_node_keeps_every_block_nothing_is_said() {
    let none = Placement::default();
    for nodes in 1..=3 {
        assert_eq!(decided(&none, keepers(1..=nodes)), None);
    }
    let mut gone = keepers(1..=3);
    gone[2].silent = GONE * 2;
    assert_eq!(decided(&none, gone), None);
    let asked_for_five = Placement { copies: 5, ..Placement::default() };
    assert_eq!(decided(&asked_for_five, keepers(1..=5)), None);
}

#[test]
fn more_nodes_than_copies_share_the_blocks() {
    let first = decided(&Placement::default(), keepers(1..=5)).unwrap();
    let wanted = layout(3, &[1, 2, 3, 4, 5]);
    assert_eq!(first, Placement { number: 1, copies: 3, now: None, next: Some(wanted.clone()) });
    // It is waited for, then it counts, then there is nothing more to do.
    assert_eq!(decided(&first, keepers(1..=5)), None);
    let second = decided_when(&first, keepers(1..=5), &[], true).unwrap();
    assert_eq!(second, Placement { number: 2, copies: 3, now: Some(wanted), next: None });
    assert_eq!(decided_when(&second, keepers(1..=5), &[], true), None);
}

#[test]
fn a_node_without_the_role_keeps_none() {
    let mut some = keepers(1..=3);
    some[1].roles = "ts,lock,monitor".parse().unwrap();
    let first = decided(&Placement::default(), some).unwrap();
    assert_eq!(first.next, Some(layout(3, &[1, 3])));
    // Nobody else is there: better everywhere than nowhere.
    let mut none = keepers(1..=1);
    none[0].roles = "ts".parse().unwrap();
    assert_eq!(decided(&Placement::default(), none), None);
}

#[test]
fn one_that_comes_takes_part_when_it_has_the_log() {
    let now = layout(3, &[1, 2, 3]);
    let mut four = keepers(1..=4);
    four[3].follows = false;
    assert_eq!(decided(&placed(Some(now.clone()), None), four.clone()), None);
    four[3].follows = true;
    let after = layout(3, &[1, 2, 3, 4]);
    assert_eq!(
        decided(&placed(Some(now.clone()), None), four.clone()),
        next(Some(now.clone()), Some(after))
    );
    // One that is home already stays so while it lags.
    four[0].follows = false;
    let four_homes = layout(3, &[1, 2, 3, 4]);
    assert_eq!(decided(&placed(Some(four_homes), None), four), None);
}

#[test]
fn one_that_is_gone_is_done_without_where_others_are_left() {
    let now = layout(3, &[1, 2, 3, 4]);
    let mut all = keepers(1..=4);
    all[1].silent = GONE - Duration::from_secs(1);
    assert_eq!(decided(&placed(Some(now.clone()), None), all.clone()), None, "it may come back");
    all[1].silent = GONE;
    let without = layout(3, &[1, 3, 4]);
    let change = next(Some(now.clone()), Some(without.clone()));
    assert_eq!(decided(&placed(Some(now.clone()), None), all.clone()), change);
    // It comes back in the middle: nothing is to change after all.
    let under_way = placed(Some(now.clone()), Some(without));
    assert_eq!(decided(&under_way, keepers(1..=4)), next(Some(now.clone()), None));
    // A second goes: three copies want three nodes, so the one that was heard last stays.
    all[2].silent = GONE * 2;
    let change = next(Some(now.clone()), Some(layout(3, &[1, 2, 4])));
    assert_eq!(decided(&placed(Some(now), None), all), change);
}

#[test]
fn one_that_is_to_leave_keeps_nothing_however_few_are_left() {
    let now = layout(3, &[1, 2, 3]);
    let place = placed(Some(now.clone()), None);
    let change = next(Some(now), Some(layout(3, &[1, 3])));
    assert_eq!(decided_when(&place, keepers(1..=3), &[2], false), change);
    assert_eq!(decided_when(&place, keepers(1..=3), &[1, 2, 3], false), None, "somebody has to");
}

#[test]
fn disks_weigh_by_their_size_and_go_on_weighing_what_they_did() {
    let mut some = keepers(1..=4);
    some[3].disk = Some(200 * GIB);
    some[0].disk = None;
    let first = decided(&Placement::default(), some.clone()).unwrap();
    let weights = |placement: &Placement| {
        let shares = placement.next.as_ref().unwrap().shares();
        shares.iter().map(|share| share.weight).collect::<Vec<_>>()
    };
    assert_eq!(weights(&first), [8, 6, 6, 12]);
    // A fifth is weighed by what the others weigh, and they do not change for it.
    some.push(Keeper { disk: Some(400 * GIB), ..keeper(5) });
    let now = first.next.clone();
    let change = decided(&placed(now.clone(), None), some.clone()).unwrap();
    assert_eq!(weights(&change), [8, 6, 6, 12, 24]);
    // A somewhat larger disk changes nothing, a much larger one does.
    let now = change.next;
    some[1].disk = Some(150 * GIB);
    assert_eq!(decided(&placed(now.clone(), None), some.clone()), None);
    some[1].disk = Some(400 * GIB);
    assert!(weights(&decided(&placed(now, None), some).unwrap())[1] > 12);
}

#[test]
fn another_number_of_copies_is_another_layout() {
    let now = layout(3, &[1, 2, 3, 4, 5]);
    let five = Placement { number: 4, copies: 5, now: Some(now.clone()), next: None };
    let change = decided(&five, keepers(1..=5)).unwrap();
    assert_eq!(change.next, Some(layout(5, &[1, 2, 3, 4, 5])));
}

#[test]
fn groups_are_looked_at_one_by_one() {
    let layout = layout(3, &[1, 2, 3, 4, 5]);
    let nodes = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    assert!(majority_among(&layout, &nodes(&[1, 2, 3, 4])));
    assert!(
        !majority_among(&layout, &nodes(&[1, 2, 3])),
        "some group has two of its homes on 4 and 5"
    );
    assert!(any_among(&layout, &nodes(&[1, 2, 3])));
    assert!(!any_among(&layout, &nodes(&[1, 2])), "some group has its homes on 3, 4 and 5");
}
