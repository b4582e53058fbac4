//! The node that leads looks after the others.

use super::*;
use crate::tsdb_server::cluster::monitor::Monitor;
use crate::tsdb_server::task::Task;
use crate::types::placement::Layout;
use crate::types::placement::Placement;

/// A clock that is set.
#[derive(Default)]
struct Hands(Mutex<Duration>);

impl Clock for Hands {
    fn wall(&self) -> crate::types::Stamp {
        SystemClock.wall()
    }

    fn time(&self) -> crate::types::Time {
        SystemClock.time()
    }

    fn steady(&self) -> Duration {
        *self.0.lock()
    }
}

impl World {
    /// The same with a clock of its own.
    fn watched(&self, clock: &Arc<Hands>) -> Arc<Cluster> {
        let made = &self.made;
        Arc::new(Cluster::new(Parts {
            here: NodeId(1),
            server: self.node.clone(),
            members: made.clone(),
            copies: made.clone(),
            clients: Arc::new(ByRows(self.node.clone())),
            others: made.clone(),
            clock: clock.clone(),
            pause: Arc::default(),
            gone: place::GONE,
        }))
    }

    fn placement(&self) -> Placement {
        rows::placement(&*self.node).unwrap()
    }
}

fn nodes(layout: Option<&Layout>) -> Vec<u64> {
    layout.map_or(Vec::new(), |layout| layout.nodes().map(|node| node.0).collect())
}

fn look(cluster: &Arc<Cluster>) {
    Monitor(Arc::downgrade(cluster)).work().unwrap();
}

#[test]
fn a_learner_with_everything_is_made_a_voter() {
    let world = World::new();
    world.add(2);
    let mut members = Members::alone(NodeId(1));
    members.learners.push(NodeId(2));
    *world.made.members.lock() = members;
    world.made.lacks.lock().insert(NodeId(2), 2);
    look(&world.cluster);
    assert_eq!(world.made.members.lock().voters, [NodeId(1)]);
    look(&world.cluster);
    assert_eq!(world.made.members.lock().voters, [NodeId(1), NodeId(2)]);
}

#[test]
fn blocks_are_placed_when_there_are_more_nodes_than_copies() {
    let world = World::new();
    let clock = Arc::new(Hands::default());
    let cluster = world.watched(&clock);
    world.add(2);
    world.add(3);
    look(&cluster);
    assert_eq!(world.placement(), Placement::default(), "every node keeps everything");
    world.add(4);
    look(&cluster);
    (*world.made.committed.lock(), *world.made.complete.lock()) = (10, 10);
    let placement = world.placement();
    assert_eq!((placement.number, nodes(placement.next.as_ref())), (1, vec![1, 2, 3, 4]));
    assert!(!cluster.is_at_home(1, LogIndex(0)).unwrap(), "it is to change");
    // Rows of it everywhere, but not every client has heard.
    *world.made.placed.lock() = 1;
    look(&cluster);
    *clock.0.lock() += Duration::from_secs(14);
    look(&cluster);
    assert_eq!(world.placement().number, 1);
    // Everybody has heard; one lacks a block still.
    *clock.0.lock() += Duration::from_secs(1);
    world.made.lacks.lock().insert(NodeId(3), 3);
    look(&cluster);
    assert_eq!(world.placement().number, 1);
    (0..3).for_each(|_| look(&cluster));
    let placement = world.placement();
    assert_eq!((placement.number, nodes(placement.now.as_ref())), (2, vec![1, 2, 3, 4]));
    assert_eq!(placement.next, None);
    // Then what is beside may go, where all have rows of this placement and everything that is asked about.
    look(&cluster);
    assert!(!cluster.is_at_home(2, LogIndex(0)).unwrap());
    (*world.made.placed.lock(), *world.made.complete.lock()) = (2, 50);
    look(&cluster);
    assert!(cluster.is_at_home(2, LogIndex(50)).unwrap());
    assert!(
        !cluster.is_at_home(2, LogIndex(51)).unwrap()
            && !cluster.is_at_home(1, LogIndex(50)).unwrap()
    );
    world.made.lacks.lock().insert(NodeId(4), 9);
    look(&cluster);
    assert!(!cluster.is_at_home(2, LogIndex(50)).unwrap());
    // Who does not lead says nothing.
    *world.made.leader.lock() = Some(NodeId(2));
    assert!(matches!(cluster.is_at_home(2, LogIndex(50)), Err(FsError::NotLeader { .. })));
}

#[test]
fn a_node_that_is_taken_out_has_its_blocks_moved_first() {
    let world = World::new();
    let clock = Arc::new(Hands::default());
    let cluster = world.watched(&clock);
    (2..=4).for_each(|node| world.add(node));
    look(&cluster);
    *world.made.placed.lock() = 1;
    look(&cluster);
    *clock.0.lock() += Duration::from_secs(15);
    look(&cluster);
    *world.made.placed.lock() = 2;
    look(&cluster);
    assert_eq!(nodes(world.placement().now.as_ref()), [1, 2, 3, 4]);
    let mut said = Vec::new();
    let plan = plan::remove(&cluster.facts().unwrap(), NodeId(4)).unwrap();
    // While it waits, the monitor does what it waits for.
    let worked = cluster.carry_out(&plan, &mut |progress| {
        said.push(progress.doing);
        *world.made.placed.lock() = world.placement().number;
        look(&cluster);
        *clock.0.lock() += Duration::from_secs(15);
        ControlFlow::Continue(())
    });
    assert_eq!(worked.unwrap(), Worked::Done);
    assert!(said.iter().all(|said| said.contains("fetch what node 4 keeps")), "{said:?}");
    assert_eq!(nodes(world.placement().now.as_ref()), [1, 2, 3]);
    let health = |cluster: &Cluster| cluster.overview().unwrap().health.join("; ");
    assert!(!health(&cluster).contains("copies are wanted"), "{}", health(&cluster));
    cluster.want_copies(5).unwrap();
    assert!(health(&cluster).contains("3 nodes keep blocks, and 5 copies are wanted"));
    cluster.want_copies(3).unwrap();
    assert!(cluster.want_copies(4).is_err() && cluster.want_copies(1).is_err());
    assert_eq!(rows::node(&*world.node, NodeId(4)).unwrap(), None);
    assert_eq!(world.made.members.lock().voters, [1, 2, 3].map(NodeId));
    // Nobody is leaving any more.
    world.add(5);
    look(&cluster);
    assert_eq!(nodes(world.placement().next.as_ref()), [1, 2, 3, 5]);
}

#[test]
fn a_node_that_joins_while_another_is_made_a_voter_goes_on_learning() {
    let world = World::new();
    world.add(2);
    let mut members = Members::alone(NodeId(1));
    members.learners.push(NodeId(2));
    *world.made.members.lock() = members;
    let plan = plan::promote(&world.cluster.facts().unwrap()).unwrap();
    world.made.members.lock().learners.push(NodeId(3));
    world.cluster.carry_out(&plan, &mut |_| ControlFlow::Continue(())).unwrap();
    let members = world.made.members.lock().clone();
    assert_eq!((members.voters, members.learners), ([1, 2].map(NodeId).into(), vec![NodeId(3)]));
    // One that is taken out does not.
    let plan =
        vec![Step::Members { voters: vec![NodeId(1)], learners: vec![] }, Step::Forget(NodeId(2))];
    world.made.members.lock().learners = vec![NodeId(2), NodeId(3)];
    world.cluster.carry_out(&plan, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(world.made.members.lock().learners, [NodeId(3)]);
}

#[test]
fn who_is_slow_is_told_from_who_is_away() {
    let world = World::new();
    (2..=4).for_each(|node| world.add(node));
    let follower = |node, answers, lag| Follower { node: NodeId(node), answers, lag };
    let few = plan::LAG_MAX;
    // The second is away; the third takes its time to say anything, the fourth is far behind.
    world.made.away.lock().push(NodeId(2));
    world.made.lacks.lock().retain(|node, _| ![2, 3].contains(&node.0));
    *world.made.followers.lock() =
        vec![follower(2, false, 9), follower(3, false, 9), follower(4, true, few + 1)];
    let overview = world.cluster.overview().unwrap();
    let answers: Vec<_> = overview.nodes.iter().map(|node| node.answers).collect();
    assert_eq!(answers, [Some(true), Some(false), Some(true), Some(true)]);
    let [away, slow, far] = &overview.health[..3] else { panic!("{overview:?}") };
    assert!(away.contains("node 2 does not answer"), "{away}");
    assert!(slow.contains("node 3 lags") && slow.contains("9 entries"), "{slow}");
    assert!(far.contains("node 4 lags"), "{far}");
    *world.made.followers.lock() = (2..=4).map(|node| follower(node, true, few)).collect();
    let health = world.cluster.overview().unwrap().health;
    assert!(!health.iter().any(|line| line.contains("lags")), "{health:?}");
}
