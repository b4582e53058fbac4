//! The same where there are more nodes than copies: nodes come, go and come back, blocks are to be kept elsewhere, at any moment and
//! in any order, also in one that no cluster would take.

use super::*;
use crate::types::placement::Layout;
use crate::types::placement::Placement;
use crate::types::placement::Share;
use std::sync::LazyLock;

/// A node that holds a share of some placements and that no client is told of.
const UNKNOWN: u64 = 6;
/// Servers of a world with placements.
const SERVERS: usize = 5;
/// Everybody votes.
const ALL: usize = 0b11111;
/// The first placements of [`PLACEMENTS`].
const EVERYWHERE: usize = 0;
const FIRST: usize = 1;
const FIRST_TO_SECOND: usize = 2;
const SECOND: usize = 3;
const EVERYWHERE_TO_FIRST: usize = 4;

fn layout(copies: u8, nodes: impl IntoIterator<Item = u64>) -> Option<Layout> {
    let share = |node| Share { node: NodeId(node), weight: 2 };
    Layout::new(copies, nodes.into_iter().map(share).collect())
}

/// Those with a name, whose homes are the same for every block, and others by chance.
static PLACEMENTS: LazyLock<Vec<Arc<Placed>>> = LazyLock::new(|| {
    let (first, second) = (layout(3, 1..=3), layout(3, 2..=4));
    let mut layouts = vec![
        (None, None),
        (first.clone(), None),
        (first.clone(), second.clone()),
        (second, None),
        (None, first),
    ];
    let mut chance = 1_u64;
    let mut below = |bound: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (chance >> 33) % bound
    };
    let mut drawn = || {
        let (copies, bits) = (1 + below(4) as u8, below(1 << UNKNOWN));
        layout(copies, (1..=UNKNOWN).filter(|node| bits >> (node - 1) & 1 == 1))
    };
    layouts.extend((0..20).map(|_| (drawn(), drawn())));
    let placed =
        |(number, (now, next))| Arc::new(Placed::new(&Placement { number, copies: 3, now, next }));
    (0..).zip(layouts).map(placed).collect()
});

impl World {
    /// Whose disks count for a put.
    pub(super) fn counting(&self, no: PutNo) -> Vec<NodeId> {
        self.quorum.placed.homes(block(no)).map_or_else(|| self.voters.clone(), <[_]>::to_vec)
    }

    /// Who is to have it, whether the client knows of them or not.
    pub(super) fn keepers(&self, no: PutNo) -> Vec<NodeId> {
        match self.quorum.placed.homes(block(no)) {
            Some(homes) => [homes, self.quorum.placed.next_homes(block(no))].concat(),
            None => [&self.voters[..], &self.learners].concat(),
        }
    }

    pub(super) fn has(&self, node: NodeId, no: PutNo) -> bool {
        let server = self.servers.get(node.0 as usize - 1);
        server.is_some_and(|server| server.durable.contains(&no))
    }

    /// The low bits are the voters', those above the others'.
    pub(super) fn reform_by(&mut self, who: usize, placing: usize) {
        let count = self.servers.len();
        let all: Vec<usize> = (0..count).collect();
        let of = |bits: usize| all.iter().copied().filter(move |n| bits >> n & 1 == 1);
        let mut voters: Vec<NodeId> = of(who).map(id).collect();
        if voters.is_empty() {
            voters.push(id(0));
        }
        let others = of(who >> count).map(id).filter(|node| !voters.contains(node));
        let learners = others.collect();
        self.reform(voters, learners, &PLACEMENTS[placing % PLACEMENTS.len()]);
    }

    pub(super) fn reform(
        &mut self,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
        placed: &Arc<Placed>,
    ) {
        let before: Vec<NodeId> = self.quorum.nodes.iter().map(|node| node.id).collect();
        self.released_before = self.released.clone();
        self.quorum.reform_with(&voters, &learners, placed);
        // Whoever holds connections kept that of a node which was not used for a while.
        for node in voters.iter().chain(&learners).filter(|node| !before.contains(node)) {
            let server = &self.servers[node.0 as usize - 1];
            if server.connected {
                self.quorum.connected(*node, Boot(server.boot));
            }
        }
        (self.voters, self.learners) = (voters, learners);
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (who, placing) = (0..1_usize << (2 * SERVERS), 0..PLACEMENTS.len());
    let reform = |(who, placing)| vec![Step::Reform(who, placing)];
    // A node is gone for a moment.
    let away = |(n, placing): (usize, usize)| {
        vec![Step::Reform(ALL & !(1 << n), placing), Step::Reform(ALL, placing)]
    };
    prop_oneof![
        60 => super::step().prop_map(|step| vec![step]),
        1 => (who.clone(), placing.clone()).prop_map(reform),
        1 => (Just(ALL), placing.clone()).prop_map(reform),
        1 => (who.prop_map(|who| who | 0b111), Just(FIRST_TO_SECOND)).prop_map(reform),
        1 => (0..SERVERS, placing).prop_map(away),
    ]
}

proptest! {
    #[test]
    fn wherever_blocks_are_kept_what_is_said_to_be_durable_is_on_a_majority_of_its_homes(
        backlog in prop_oneof![Just(0_u64), Just(30), Just(10_000)],
        begin in 0..PLACEMENTS.len(),
        steps in prop::collection::vec(steps(), 0..400),
        end in 0..PLACEMENTS.len(),
    ) {
        let mut world = World::new(SERVERS, backlog);
        world.step(Step::Reform(ALL, begin));
        for step in steps.into_iter().flatten() {
            world.step(step);
            prop_assert_eq!(world.check(), Ok(()), "after {:?}", step);
        }
        let known = |placed: &Placed| {
            let homes = |no| placed.homes(block(PutNo(no))).unwrap_or_default();
            (1..400).all(|no| !homes(no).contains(&NodeId(UNKNOWN)))
        };
        let end = if known(&PLACEMENTS[end]) { end } else { SECOND };
        // Whether they vote is nothing to homes.
        world.step(Step::Reform(ALL << SERVERS | 1, end));
        prop_assert_eq!(world.check(), Ok(()), "in the end");
        world.settle();
        prop_assert_eq!(world.check(), Ok(()));
        prop_assert!(world.quorum.all_durable(), "{:?}", world.quorum);
        prop_assert_eq!(world.quorum.backlog_bytes, 0);
        for no in (1..=world.quorum.last.0).map(PutNo) {
            let kept = backlog == 10_000 && !world.released_before.contains(&no);
            for node in world.keepers(no).into_iter().filter(|node| node.0 != UNKNOWN) {
                let refused = world.servers[node.0 as usize - 1].refused.contains(&no);
                let has = refused || world.has(node, no);
                prop_assert!(!kept || has, "{:?} was not sent {:?}", node, no);
            }
        }
    }
}

/// A block on one disk that counts before and after, and nodes that count before, or after.
#[test]
fn no_short_history_of_a_change_makes_it_say_durable_of_what_is_not() {
    let mut world = World::new(4, 1000);
    world.reform_by(0b1111, FIRST);
    put_on(&mut world, &[1]);
    for n in [0, 3] {
        assert!(world.step(Step::Connect(n)));
    }
    let one =
        |n| [Step::Send(n), Step::Sync(n), Step::Take(n, 0), Step::End(n, 0), Step::Hear(n, 0)];
    let placings = [EVERYWHERE, FIRST, FIRST_TO_SECOND, SECOND, EVERYWHERE_TO_FIRST];
    let mut steps: Vec<Step> = placings.map(|placing| Step::Reform(0b1111, placing)).to_vec();
    // Node 4 goes, or votes no more.
    steps.extend([Step::Reform(0b0111, SECOND), Step::Reform(0b1000_0111, EVERYWHERE)]);
    steps.extend(one(0));
    steps.extend(one(3));
    steps.extend([Step::Crash(3), Step::Connect(3), Step::DiskFails(0)]);
    let states = explore(world, &steps, 8);
    assert!(states > 2_000, "{states} states");
}

#[test]
fn a_block_is_sent_to_its_homes_and_its_next_ones_and_counts_on_its_homes() {
    let mut world = World::new(SERVERS, 1000);
    // Of the nodes only the first votes.
    world.reform_by(0b11110_00001, FIRST_TO_SECOND);
    let first = put_on(&mut world, &[0, 3]);
    assert!(!world.quorum.is_durable(first), "on one home, and on one that is going to be");
    let sent = |quorum: &mut Quorum, n| quorum.next_for(id(n)).map(|(no, _)| no);
    world.step(Step::Connect(4));
    assert_eq!(sent(&mut world.quorum, 4), None, "it is nobody's home");
    put_on(&mut world, &[1, 1]);
    assert!(world.quorum.is_durable(first), "on two of three homes");
    assert!(world.quorum.take_released().is_empty(), "one more home is to have it");
    // What was put on the way to the second ones counts there.
    world.reform_by(0b11110_00001, SECOND);
    assert!(world.quorum.is_durable(first));
    world.settle();
    assert_eq!(world.check(), Ok(()));
    assert!([1, 2, 3].iter().all(|n| world.has(id(*n), first)) && !world.has(id(4), first));
    assert!(!world.has(id(2), PutNo(0)) && world.quorum.behind(id(4)) == 0);
}

#[test]
fn a_home_that_is_not_known_counts_and_has_refused_nothing() {
    let mut world = World::new(SERVERS, 1000);
    // Of homes 2, 3 and 4 nodes 2 and 3 are known.
    world.reform_by(0b00111, SECOND);
    let first = put_on(&mut world, &[1]);
    assert!(!world.quorum.is_durable(first) && !world.quorum.is_written(first));
    world.step(Step::Connect(2));
    world.step(Step::Fill(2));
    for step in [Step::Send(2), Step::Take(2, 0), Step::Hear(2, 0)] {
        assert!(world.step(step));
    }
    assert_eq!(world.quorum.standing(first), Standing::Waiting, "node 4 may come");
    let second = world.quorum.put(block(PutNo(2)), 10);
    for n in [1, 2] {
        world.step(Step::Fill(n));
        for step in [Step::Send(n), Step::Take(n, 0), Step::Hear(n, 0)] {
            assert!(world.step(step));
        }
    }
    assert_eq!(world.quorum.standing(second), Standing::Hopeless, "node 4 is no majority");
}

#[test]
fn a_sync_from_before_a_node_was_away_covers_nothing_that_it_was_sent_since() {
    let mut world = World::new(3, 1000);
    world.step(Step::Put);
    for step in [Step::Connect(0), Step::Send(0), Step::Take(0, 0), Step::Hear(0, 0)] {
        assert!(world.step(step));
    }
    let before = world.quorum.begin_sync(id(0)).unwrap();
    for who in [0b110, 0b111] {
        assert!(world.step(Step::Reform(who, EVERYWHERE)));
    }
    for step in [Step::Send(0), Step::Take(0, 0), Step::Hear(0, 0)] {
        assert!(world.step(step));
    }
    world.quorum.synced(before);
    assert_eq!(world.quorum.behind(id(0)), 1);
}

#[test]
fn what_was_durable_is_no_burden_where_its_new_homes_do_not_take_it() {
    let mut world = World::new(SERVERS, 1000);
    world.reform_by(ALL, FIRST);
    let first = put_on(&mut world, &[0, 1]);
    assert_eq!(world.quorum.durable_through(), first);
    assert_eq!(world.check(), Ok(()));
    // Of its homes none is known but node 4, which is to be sent it; then none.
    world.reform_by(0b1001, SECOND);
    assert_eq!((world.check(), world.quorum.behind(id(3))), (Ok(()), 1));
    world.reform_by(0b1, SECOND);
    assert!(world.quorum.is_durable(first), "it was");
    assert_eq!(world.check(), Ok(()));
    assert!(world.released.contains(&first), "nobody who is known is to have it");
}
