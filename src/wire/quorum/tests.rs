//! Nodes that write, sync, crash and lose connections in every order, beside what the account says of them: it never says
//! durable of what is not on a majority's disks. Every short history, and random long ones.

mod placed;

use super::*;
use crate::types::SessionId;
use proptest::prelude::*;
use std::collections::HashSet;

/// What a node is asked; it may take up requests in any order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Request {
    Put(PutNo),
    Sync(Mark),
}

/// What a node answers; answers too may overtake each other.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Answer {
    Written(Boot, PutNo),
    Refused(Boot, PutNo),
    Synced(Mark),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Server {
    boot: u64,
    written: BTreeSet<PutNo>,
    durable: BTreeSet<PutNo>,
    connected: bool,
    requests: Vec<Request>,
    /// Syncs under way, with what each will have made durable.
    syncs: Vec<(Mark, BTreeSet<PutNo>)>,
    answers: Vec<Answer>,
    /// Refuses what is put.
    full: bool,
    refused: BTreeSet<PutNo>,
}

impl Server {
    /// What is sent on a connection that is broken, though nobody has noticed, arrives nowhere.
    fn ask(&mut self, request: Request) {
        if self.connected {
            self.requests.push(request);
        }
    }

    fn break_connection(&mut self) {
        self.connected = false;
        self.requests.clear();
        self.syncs.clear();
        // What was answered may be on its way still, and be heard when the next connection is there.
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put,
    /// The node is sent its next put, or a sync.
    Send(usize),
    Sync(usize),
    /// The node takes up the request of this number.
    Take(usize, usize),
    /// A sync under way ends.
    End(usize, usize),
    /// The client hears the answer of this number.
    Hear(usize, usize),
    Break(usize),
    Crash(usize),
    Connect(usize),
    DiskFails(usize),
    Fill(usize),
    /// The nodes are those of these bits, and blocks are kept by the placement of this number.
    Reform(usize, usize),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    quorum: Quorum,
    servers: Vec<Server>,
    released: BTreeSet<PutNo>,
    voters: Vec<NodeId>,
    learners: Vec<NodeId>,
    /// Said to be durable for good, by whom that was asked of then.
    sealed: BTreeSet<PutNo>,
    /// Released before the nodes or homes were others: these were sent to those there were.
    released_before: BTreeSet<PutNo>,
}

fn block(no: PutNo) -> BlockId {
    BlockId { session: SessionId(1), number: no.0 }
}

fn id(n: usize) -> NodeId {
    NodeId(n as u64 + 1)
}

impl World {
    fn new(nodes: usize, backlog_bytes_max: u64) -> World {
        let ids: Vec<_> = (0..nodes).map(id).collect();
        let quorum = Quorum::new(&ids, backlog_bytes_max);
        World {
            quorum,
            servers: vec![Server::default(); nodes],
            released: BTreeSet::new(),
            voters: ids,
            learners: Vec::new(),
            sealed: BTreeSet::new(),
            released_before: BTreeSet::new(),
        }
    }

    /// Whether it was possible.
    fn step(&mut self, step: Step) -> bool {
        let count = self.servers.len();
        match step {
            Step::Put => {
                self.quorum.put(block(PutNo(self.quorum.last.0 + 1)), 10);
            }
            Step::Send(n) => match self.quorum.next_for(id(n % count)) {
                Some((no, _)) => {
                    assert!(
                        self.keepers(no).contains(&id(n % count)),
                        "{no:?} has no business there"
                    );
                    self.servers[n % count].ask(Request::Put(no));
                }
                None => return false,
            },
            Step::Sync(n) => match self.quorum.begin_sync(id(n % count)) {
                Some(mark) => self.servers[n % count].ask(Request::Sync(mark)),
                None => return false,
            },
            Step::Take(n, at) => return take(&mut self.servers[n % count], at),
            Step::End(n, at) => {
                let server = &mut self.servers[n % count];
                if server.syncs.is_empty() {
                    return false;
                }
                let (mark, covered) = server.syncs.remove(at % server.syncs.len());
                server.durable.extend(covered);
                server.answers.push(Answer::Synced(mark));
            }
            Step::Hear(n, at) => return self.hear(n % count, at),
            Step::Break(n) => {
                if !self.servers[n % count].connected {
                    return false;
                }
                self.servers[n % count].break_connection();
                self.quorum.disconnected(id(n % count));
                self.unanswered(n % count);
            }
            Step::Crash(n) => {
                // The client notices at once or, as here, when the connection is made anew.
                let server = &mut self.servers[n % count];
                server.boot += 1;
                server.written = server.durable.clone();
                server.break_connection();
            }
            Step::Connect(n) => {
                let server = &mut self.servers[n % count];
                if server.connected {
                    return false;
                }
                server.connected = true;
                server.full = false;
                self.quorum.connected(id(n % count), Boot(server.boot));
                self.unanswered(n % count);
            }
            Step::DiskFails(n) => {
                self.servers[n % count].break_connection();
                self.quorum.failed(id(n % count));
            }
            Step::Fill(n) => self.servers[n % count].full = true,
            Step::Reform(who, placing) => self.reform_by(who, placing),
        }
        true
    }

    /// Whoever holds connections tells that syncs were not answered.
    fn unanswered(&mut self, n: usize) {
        let Some(place) = self.quorum.place(id(n)) else { return };
        let era = self.quorum.nodes[place].era;
        self.quorum.unanswered(Mark { node: id(n), era, writes: 0 });
    }

    fn hear(&mut self, n: usize, at: usize) -> bool {
        let answers = &mut self.servers[n].answers;
        if answers.is_empty() {
            return false;
        }
        match answers.remove(at % answers.len()) {
            Answer::Written(boot, no) => self.quorum.written(id(n), boot, no),
            Answer::Refused(boot, no) => self.quorum.refused(id(n), boot, no),
            Answer::Synced(mark) => self.quorum.synced(mark),
        }
        true
    }

    fn check(&mut self) -> Result<(), String> {
        let through = self.quorum.durable_through();
        for no in (1..=self.quorum.last.0).map(PutNo).filter(|no| !self.sealed.contains(no)) {
            let said = self.quorum.is_durable(no) || no <= through;
            let counting = self.counting(no);
            let disks = counting.iter().filter(|node| self.has(**node, no)).count();
            if said && disks < counting.len() / 2 + 1 {
                return Err(format!("{no:?} is said to be durable, on {disks} of {counting:?}"));
            }
        }
        self.sealed.extend((1..=through.0).map(PutNo));
        for no in self.quorum.take_released() {
            if !self.quorum.is_durable(no) || !self.released.insert(no) {
                return Err(format!("{no:?} is released too early or twice"));
            }
            self.sealed.insert(no);
        }
        let kept = |no: &PutNo| !self.released.contains(no) && self.quorum.is_durable(*no);
        let lagging = (1..=self.quorum.last.0).map(PutNo).filter(kept).count() as u64;
        if lagging * 10 != self.quorum.backlog_bytes
            || self.quorum.backlog_bytes > self.quorum.backlog_bytes_max
        {
            return Err(format!("{lagging} puts lag, {} bytes", self.quorum.backlog_bytes));
        }
        Ok(())
    }

    /// All is well from now on: everything becomes durable.
    fn settle(&mut self) {
        let count = self.servers.len();
        for n in 0..count {
            if !self.servers[n].connected {
                self.step(Step::Connect(n));
            }
            self.servers[n].full = false;
        }
        // What was refused is asked again by a new connection.
        for n in 0..count {
            while self.step(Step::Hear(n, 0)) {}
            self.step(Step::Break(n));
            self.step(Step::Connect(n));
            let steps = [Step::Send(n), Step::Take(n, 0), Step::Hear(n, 0)];
            while steps.into_iter().any(|step| self.step(step)) {}
            let sync = [Step::Sync(n), Step::Take(n, 0), Step::End(n, 0), Step::Hear(n, 0)];
            while sync.into_iter().any(|step| self.step(step)) {}
        }
    }
}

fn take(server: &mut Server, at: usize) -> bool {
    if server.requests.is_empty() {
        return false;
    }
    match server.requests.remove(at % server.requests.len()) {
        Request::Put(no) if server.full && !server.written.contains(&no) => {
            server.refused.insert(no);
            server.answers.push(Answer::Refused(Boot(server.boot), no));
        }
        Request::Put(no) => {
            server.written.insert(no);
            server.answers.push(Answer::Written(Boot(server.boot), no));
        }
        Request::Sync(mark) => server.syncs.push((mark, server.written.clone())),
    }
    true
}

/// Every history of so many steps, states that were met before left out.
fn explore(world: World, steps: &[Step], depth: usize) -> usize {
    let mut met = HashSet::from([world.clone()]);
    let mut edge = vec![(world, Vec::new())];
    for _ in 0..depth {
        let mut next = Vec::new();
        for (world, history) in edge {
            for step in steps {
                let mut after = world.clone();
                if !after.step(*step) {
                    continue;
                }
                let mut history: Vec<Step> = history.clone();
                history.push(*step);
                after.check().unwrap_or_else(|fault| panic!("{fault}: {history:?}"));
                if met.insert(after.clone()) {
                    next.push((after, history));
                }
            }
        }
        edge = next;
    }
    met.len()
}

#[test]
fn no_short_history_makes_it_say_durable_of_what_is_not() {
    // From where one put is on one disk: the next answer of another decides.
    let mut world = World::new(3, 1000);
    world.step(Step::Put);
    for step in [Step::Connect(0), Step::Send(0), Step::Take(0, 0), Step::Hear(0, 0)] {
        assert!(world.step(step));
    }
    for step in [Step::Sync(0), Step::Take(0, 0), Step::End(0, 0), Step::Hear(0, 0)] {
        assert!(world.step(step));
    }
    assert!(world.step(Step::Connect(1)));
    let steps = [
        Step::Put,
        Step::Send(1),
        Step::Sync(1),
        Step::Take(1, 0),
        Step::Take(1, 1),
        Step::End(1, 0),
        Step::Hear(1, 0),
        Step::Crash(1),
        Step::Break(1),
        Step::Connect(1),
        Step::DiskFails(1),
    ];
    let states = explore(world, &steps, 11);
    assert!(states > 2_000, "{states} states");
}

fn step() -> impl Strategy<Value = Step> {
    let (n, at) = (0..5_usize, 0..8_usize);
    prop_oneof![
        3 => Just(Step::Put),
        8 => n.clone().prop_map(Step::Send),
        5 => n.clone().prop_map(Step::Sync),
        12 => (n.clone(), at.clone()).prop_map(|(n, at)| Step::Take(n, at)),
        6 => (n.clone(), at.clone()).prop_map(|(n, at)| Step::End(n, at)),
        12 => (n.clone(), at).prop_map(|(n, at)| Step::Hear(n, at)),
        1 => n.clone().prop_map(Step::Break),
        1 => n.clone().prop_map(Step::Crash),
        6 => n.clone().prop_map(Step::Connect),
        1 => n.clone().prop_map(Step::DiskFails),
        1 => n.prop_map(Step::Fill),
    ]
}

proptest! {
    #[test]
    fn whatever_nodes_do_what_is_said_to_be_durable_is_on_a_majority(
        nodes in prop_oneof![Just(1_usize), Just(3), Just(5)],
        backlog in prop_oneof![Just(0_u64), Just(30), Just(10_000)],
        steps in prop::collection::vec(step(), 0..400),
    ) {
        let mut world = World::new(nodes, backlog);
        for step in steps {
            world.step(step);
            prop_assert_eq!(world.check(), Ok(()), "after {:?}", step);
        }
        world.settle();
        prop_assert_eq!(world.check(), Ok(()));
        prop_assert!(world.quorum.all_durable(), "{:?}", world.quorum);
        prop_assert_eq!(world.quorum.backlog_bytes, 0);
    }
}

/// Puts one block and has it made durable on these nodes.
fn put_on(world: &mut World, nodes: &[usize]) -> PutNo {
    world.step(Step::Put);
    for n in nodes {
        world.step(Step::Connect(*n));
        for step in [Step::Send(*n), Step::Take(*n, 0), Step::Hear(*n, 0), Step::Sync(*n)] {
            assert!(world.step(step));
        }
        for step in [Step::Take(*n, 0), Step::End(*n, 0), Step::Hear(*n, 0)] {
            assert!(world.step(step));
        }
    }
    world.quorum.last
}

#[test]
fn a_node_that_lags_is_left_out_beyond_the_backlog() {
    let mut world = World::new(3, 20);
    for _ in 0..2 {
        put_on(&mut world, &[0, 1]);
    }
    assert_eq!((world.quorum.take_released(), world.quorum.behind(id(2))), (vec![], 2));
    let third = put_on(&mut world, &[0, 1]);
    assert_eq!(world.quorum.take_released(), [PutNo(1)]);
    world.step(Step::Connect(2));
    assert_eq!(world.quorum.next_for(id(2)).map(|(no, _)| no), Some(PutNo(2)));
    assert_eq!(world.quorum.next_for(id(2)).map(|(no, _)| no), Some(third));
    assert_eq!(world.quorum.next_for(id(2)), None);
}

#[test]
fn a_put_is_hopeless_when_a_majority_refuses_it_and_not_any_more_when_they_are_asked_anew() {
    let mut world = World::new(3, 1000);
    world.step(Step::Put);
    for n in 0..2 {
        assert_eq!(world.quorum.standing(PutNo(1)), Standing::Waiting);
        world.step(Step::Connect(n));
        world.step(Step::Fill(n));
        for step in [Step::Send(n), Step::Take(n, 0), Step::Hear(n, 0)] {
            assert!(world.step(step));
        }
    }
    assert_eq!(world.quorum.standing(PutNo(1)), Standing::Hopeless);
    world.step(Step::Break(0));
    world.step(Step::Connect(0));
    assert_eq!(world.quorum.standing(PutNo(1)), Standing::Waiting);
    assert_eq!(world.quorum.standing(PutNo(2)), Standing::Waiting, "it was not put yet");
    world.settle();
    assert_eq!(world.quorum.standing(PutNo(1)), Standing::Durable);
}

#[test]
fn other_nodes_are_sent_what_is_accounted_for() {
    let mut world = World::new(3, 1000);
    put_on(&mut world, &[0]);
    let second = put_on(&mut world, &[0, 1]);
    assert_eq!(world.quorum.durable_through(), PutNo(1), "node 2 was sent the older one");
    // Alone, node 1 is a majority.
    let mut alone = world.quorum.clone();
    alone.reform(&[id(0)]);
    assert!(alone.all_durable());
    assert_eq!(alone.take_released(), [PutNo(1), second]);
    // Of five, three are needed; the first one was durable as long as there were three.
    let five: Vec<_> = (0..5).map(id).collect();
    world.quorum.reform(&five);
    world.voters = five;
    assert!(world.quorum.is_durable(PutNo(1)) && !world.quorum.is_durable(second));
    world.servers.resize(5, Server::default());
    world.settle();
    assert!(world.quorum.all_durable());
    assert!(world.servers.iter().all(|server| server.durable.len() == 2), "all have both");
    assert_eq!(world.check(), Ok(()));
}

#[test]
fn who_does_not_vote_is_sent_everything_and_counts_for_nothing() {
    let mut world = World::new(2, 1000);
    world.reform(vec![id(0)], vec![id(1)], &Arc::default());
    let first = put_on(&mut world, &[1]);
    assert!(!world.quorum.is_durable(first), "only on one that does not vote");
    assert_eq!(world.quorum.standing(first), Standing::Waiting);
    let second = put_on(&mut world, &[0, 0]);
    assert!(world.quorum.is_durable(first) && world.quorum.is_durable(second));
    assert_eq!(world.quorum.behind(id(1)), 1, "it need not have it");
    world.settle();
    assert!(world.quorum.all_durable());
    assert!(world.servers.iter().all(|server| server.durable.len() == 2), "it is sent it");
    assert_eq!(world.check(), Ok(()));
}
