//! The leader's side by itself, and then everything that two sessions, a leader and the log can do in few steps.
//!
//! Goal: what a session believes to own it owns, however messages are delayed, connections break, leaders change and sessions die; and
//! a question that waits is over within the bounds. Method: all interleavings from a few beginnings, breadth first, each state
//! once; the log is a few sets (`tests/it/model/sessions.rs` holds the rules against such sets). Proved with planted faults: a new leader
//! that gives nobody a lease, one that ends nobody, one that evicts at once, a client that notes what it gives back too late.

use super::*;
use std::collections::HashSet;

const LEASE: Duration = Duration::from_secs(9);
const STEP: Duration = Duration::from_secs(3);
const OPTIONS: Options =
    Options { lease: LEASE, yield_within: Duration::from_secs(18), inodes_max: 1000 };

fn ino(raw: u64) -> Ino {
    Ino::new(raw).unwrap()
}

fn session(number: u64) -> SessionId {
    SessionId(number)
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn recall(number: u64, inos: &[u64]) -> Action {
    let what = What::Inodes(inos.iter().map(|raw| ino(*raw)).collect());
    Action::Recall { session: session(number), what }
}

#[test]
fn a_session_that_is_not_heard_of_ends_when_its_lease_does() {
    let mut leases = Leases::new(OPTIONS, [session(1), session(2)], seconds(0));
    leases.keep(session(2));
    for now in [3, 6, 8] {
        assert_eq!(leases.tick(seconds(now)), []);
    }
    assert_eq!(leases.renew(session(1), seconds(8)), Ok(()));
    for now in [11, 14, 16] {
        assert_eq!(leases.tick(seconds(now)), []);
    }
    assert_eq!(
        leases.renew(session(1), seconds(17)),
        Err(Gone),
        "it is over whoever says it first"
    );
    let why = "it was not heard of for a lease".to_owned();
    for now in [17, 18] {
        let end = Action::End { session: session(1), why: why.clone() };
        assert_eq!(leases.tick(seconds(now)), [end], "until it has ended");
    }
    leases.ended(session(1));
    assert_eq!(leases.tick(seconds(19)), []);
    assert_eq!(leases.attend(session(1), seconds(19)), Err(Gone));
}

#[test]
fn time_that_the_leader_stood_still_is_nobodys_fault() {
    let mut leases = Leases::new(OPTIONS, [session(1)], seconds(0));
    leases.tick(seconds(3));
    assert_eq!(leases.tick(seconds(103)), []);
    assert_eq!(leases.renew(session(1), seconds(105)), Ok(()));
    for now in [108, 111] {
        assert_eq!(leases.tick(seconds(now)), []);
    }
    assert_eq!(leases.tick(seconds(114)).len(), 1, "and no longer");
}

#[test]
fn what_is_asked_back_is_told_once_and_again_on_another_connection() {
    let mut leases = Leases::new(OPTIONS, [session(1), session(2)], seconds(0));
    let want =
        |leases: &mut Leases, raw| leases.want(session(1), ino(raw), Through::Whole, seconds(1));
    assert_eq!(want(&mut leases, 5), [], "there is nobody to tell");
    assert_eq!(leases.attend(session(1), seconds(1)), Ok(vec![recall(1, &[5])]));
    assert_eq!(want(&mut leases, 5), []);
    assert_eq!(want(&mut leases, 6), [recall(1, &[6])]);
    leases.settle::<Gone>(Some(session(1)), |it| Ok((it == ino(6)).then_some(session(1)))).unwrap();
    leases.unattend(session(1));
    assert_eq!(leases.attend(session(1), seconds(2)), Ok(vec![recall(1, &[6])]));
    // It renews, and does not give back.
    for now in [5, 8, 11, 14, 17] {
        leases.renew(session(1), seconds(now)).unwrap();
        leases.renew(session(2), seconds(now)).unwrap();
        assert_eq!(leases.tick(seconds(now)), []);
    }
    assert_eq!(leases.tick(seconds(19)), [], "its lease lasts");
    assert_eq!(leases.renew(session(1), seconds(19)), Err(Gone), "and no longer");
    leases.renew(session(2), seconds(22)).unwrap();
    assert_eq!(leases.tick(seconds(24)), []);
    let why = "it did not give back inode 6 in time".to_owned();
    assert_eq!(leases.tick(seconds(26)), [Action::End { session: session(1), why }]);
}

#[test]
fn who_is_asked_for_much_is_asked_for_all() {
    let options = Options { inodes_max: 3, ..OPTIONS };
    let mut leases = Leases::new(options, [session(1)], seconds(0));
    leases.attend(session(1), seconds(0)).unwrap();
    for raw in 1..=3 {
        let told = leases.want(session(1), ino(raw), Through::Whole, seconds(0));
        assert_eq!(told, [recall(1, &[raw])]);
    }
    let whole = Action::Recall { session: session(1), what: What::Whole };
    assert_eq!(leases.want(session(1), ino(4), Through::Whole, seconds(1)), [whole.clone()]);
    assert_eq!(leases.want(session(1), ino(5), Through::Whole, seconds(1)), []);
    let again = leases.attend(session(1), seconds(1)).unwrap();
    assert_eq!(again, [recall(1, &[1, 2, 3, 4, 5]), whole]);
    leases.settle::<Gone>(None, |_| Ok(None)).unwrap();
    assert_eq!(leases.attend(session(1), seconds(2)), Ok(Vec::new()));
    // Another lease, another count.
    let told = leases.want(session(1), ino(9), Through::Whole, seconds(20));
    assert_eq!(told, [recall(1, &[9])]);
}

#[test]
fn what_a_session_made_is_asked_back_in_growing_parts() {
    let mut leases = Leases::new(OPTIONS, [session(1)], seconds(0));
    leases.attend(session(1), seconds(0)).unwrap();
    let last = ino(100_000);
    let (mut next, mut told) = (10, 0);
    while next < last.get() {
        let through = Through::Range { last };
        let actions = leases.want(session(1), ino(next), through, seconds(1));
        let [Action::Recall { what: What::Inodes(inos), .. }] = &actions[..] else { panic!() };
        assert_eq!(inos[0], ino(next));
        assert!(inos.len() <= AHEAD_MAX as usize + 1 && inos.last().unwrap() <= &last);
        assert!(told >= AHEAD_AFTER || inos.len() == 1, "few are asked for one by one");
        next = inos.last().unwrap().get() + 1;
        told += 1;
    }
    assert!(told < 500, "{told} times");
}

#[test]
fn who_is_left_alone_gets_the_whole() {
    let mut leases = Leases::new(OPTIONS, [session(1), session(2)], seconds(0));
    leases.attend(session(1), seconds(0)).unwrap();
    leases.lacks(session(1), true);
    assert_eq!(leases.tick(seconds(1)), []);
    leases.ended(session(2));
    let grant = Action::GrantWhole { session: session(1) };
    assert_eq!(leases.tick(seconds(2)), [grant]);
    leases.lacks(session(1), false);
    assert_eq!(leases.tick(seconds(3)), []);
}

#[test]
fn a_flush_waits_for_all_others_and_for_none_longer_than_a_lease() {
    let mut leases = Leases::new(OPTIONS, [1, 2, 3].map(session), seconds(0));
    leases.attend(session(2), seconds(0)).unwrap();
    let (round, told) = leases.flush(session(1), seconds(1));
    assert_eq!(told, [Action::Flush { session: session(2), round }]);
    assert!(!leases.is_flushed(round, seconds(1)));
    let told = leases.attend(session(3), seconds(2)).unwrap();
    assert_eq!(told, [Action::Flush { session: session(3), round }]);
    leases.flushed(session(2), round);
    assert!(!leases.is_flushed(round, seconds(9)));
    assert!(leases.is_flushed(round, seconds(10)), "a lease is long enough");
    leases.flushed(session(3), round);
    assert!(leases.is_flushed(round, seconds(2)));
    let (alone, _) = leases.flush(session(1), seconds(3));
    leases.ended(session(2));
    leases.ended(session(3));
    assert!(leases.is_flushed(alone, seconds(3)));
}

// Everything that can happen.

const SESSIONS: [u64; 2] = [1, 2];
const INOS: u64 = 2;

/// A client: what it believes, and what is on its way from it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Client {
    dead: bool,
    connected: bool,
    /// Until when it believes to own anything.
    until: Duration,
    whole: bool,
    yielded: BTreeSet<u64>,
    /// Batches that have not come to the log: what they give back.
    sent: Vec<Option<u64>>,
    /// A renewal under way, and when it was asked for.
    renewal: Option<Duration>,
    /// Told, and not yet heard.
    inbox: Vec<u64>,
    /// An inode that it asked the leader for.
    waits: Option<u64>,
}

impl Client {
    fn believes(&self, raw: u64, now: Duration) -> bool {
        !self.dead && self.whole && !self.yielded.contains(&raw) && now < self.until
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    now: Duration,
    leases: Leases,
    clients: [Client; 2],
    // The log: who has the whole, what was given back, who is open.
    whole: Option<SessionId>,
    shared: BTreeSet<u64>,
    open: BTreeSet<SessionId>,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Time,
    Leader,
    Use(usize, u64),
    Hear(usize),
    Arrive(usize),
    Renew(usize),
    RenewArrives(usize),
    Break(usize),
    Connect(usize),
    Die(usize),
}

fn steps() -> Vec<Step> {
    let mut steps = vec![Step::Time, Step::Leader];
    for who in 0..2 {
        steps.extend((1..=INOS).map(|raw| Step::Use(who, raw)));
        steps.extend([
            Step::Hear(who),
            Step::Arrive(who),
            Step::Renew(who),
            Step::RenewArrives(who),
        ]);
        steps.extend([Step::Break(who), Step::Connect(who), Step::Die(who)]);
    }
    steps
}

impl World {
    fn new() -> World {
        let now = Duration::ZERO;
        let client = Client {
            dead: false,
            connected: true,
            until: LEASE,
            whole: false,
            yielded: BTreeSet::new(),
            sent: Vec::new(),
            renewal: None,
            inbox: Vec::new(),
            waits: None,
        };
        let open = SESSIONS.map(session);
        let mut leases = Leases::new(OPTIONS, open, now);
        for session in open {
            leases.attend(session, now).unwrap();
        }
        let clients = [Client { whole: true, ..client.clone() }, client];
        World {
            now,
            leases,
            clients,
            whole: Some(open[0]),
            shared: BTreeSet::new(),
            open: open.into(),
        }
    }

    fn owner(&self, raw: u64) -> Option<SessionId> {
        self.whole.filter(|_| !self.shared.contains(&raw))
    }

    /// What comes of it; `None` where it cannot happen.
    fn after(&self, step: Step) -> Option<World> {
        let mut world = self.clone();
        match step {
            Step::Time => {
                world.now += STEP;
                let actions = world.leases.tick(world.now);
                world.carry_out(actions);
            }
            // Another node leads, and knows what the log says. Connections were to the old one.
            Step::Leader => {
                let open = world.open.iter().copied();
                world.leases = Leases::new(OPTIONS, open, world.now);
                for client in &mut world.clients {
                    client.connected = false;
                    client.inbox.clear();
                    client.waits = None;
                }
            }
            Step::Use(who, raw) => {
                let client = &mut world.clients[who];
                if client.dead || client.waits.is_some() {
                    return None;
                }
                if client.believes(raw, world.now) {
                    client.sent.push(None);
                } else {
                    client.connected.then_some(())?;
                    client.waits = Some(raw);
                    world.ask(who);
                }
            }
            Step::Hear(who) => {
                let client = &mut world.clients[who];
                if client.dead || !client.connected || client.inbox.is_empty() {
                    return None;
                }
                let raw = client.inbox.remove(0);
                client.yielded.insert(raw);
                client.sent.push(Some(raw));
            }
            // What was sent comes to the log in order, also after its sender has died.
            Step::Arrive(who) => {
                if world.clients[who].sent.is_empty() {
                    return None;
                }
                let gives_back = world.clients[who].sent.remove(0);
                let session = session(SESSIONS[who]);
                if world.open.contains(&session)
                    && let Some(raw) = gives_back
                    && world.owner(raw) == Some(session)
                {
                    world.shared.insert(raw);
                    world.settle();
                }
            }
            Step::Renew(who) => {
                let client = &mut world.clients[who];
                if client.dead || client.renewal.is_some() || !client.connected {
                    return None;
                }
                client.renewal = Some(world.now);
            }
            Step::RenewArrives(who) => {
                let asked = world.clients[who].renewal.take()?;
                let renewed = world.leases.renew(session(SESSIONS[who]), world.now);
                let client = &mut world.clients[who];
                match renewed {
                    Ok(()) if client.connected => client.until = client.until.max(asked + LEASE),
                    Ok(()) => {}
                    Err(Gone) => client.whole = false,
                }
            }
            Step::Break(who) => {
                let client = &mut world.clients[who];
                client.connected.then_some(())?;
                client.connected = false;
                client.inbox.clear();
                world.leases.unattend(session(SESSIONS[who]));
            }
            Step::Connect(who) => {
                let client = &mut world.clients[who];
                if client.dead || client.connected {
                    return None;
                }
                match world.leases.attend(session(SESSIONS[who]), world.now) {
                    Ok(actions) => {
                        client.connected = true;
                        client.until = client.until.max(world.now + LEASE);
                        world.carry_out(actions);
                    }
                    Err(Gone) => client.whole = false,
                }
            }
            Step::Die(who) => {
                let client = &mut world.clients[who];
                (!client.dead).then_some(())?;
                (client.dead, client.connected) = (true, false);
                client.inbox.clear();
                client.waits = None;
                world.leases.unattend(session(SESSIONS[who]));
            }
        }
        Some(world)
    }

    /// The leader looks who owns what a session wants.
    fn ask(&mut self, who: usize) {
        let Some(raw) = self.clients[who].waits else { return };
        match self.owner(raw).filter(|owner| *owner != session(SESSIONS[who])) {
            None => self.clients[who].waits = None,
            Some(owner) => {
                let actions = self.leases.want(owner, ino(raw), Through::Whole, self.now);
                self.carry_out(actions);
            }
        }
    }

    /// Something was applied that bears on who owns what.
    fn settle(&mut self) {
        let (whole, shared) = (self.whole, self.shared.clone());
        let owner = |it: Ino| Ok(whole.filter(|_| !shared.contains(&it.get())));
        self.leases.settle::<Gone>(whole, owner).unwrap();
        for who in 0..2 {
            self.ask(who);
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Recall { session, what } => {
                    let What::Inodes(inos) = what else { panic!("nobody is asked for much") };
                    let client = &mut self.clients[session.0 as usize - 1];
                    assert!(client.connected, "told to nobody");
                    client.inbox.extend(inos.iter().map(|ino| ino.get()));
                }
                Action::End { session, .. } => {
                    self.open.remove(&session);
                    self.whole = self.whole.filter(|owner| *owner != session);
                    self.leases.ended(session);
                    self.settle();
                }
                Action::Flush { .. } | Action::GrantWhole { .. } => panic!("{action:?}"),
            }
        }
    }

    fn holds(&self) {
        for (client, number) in self.clients.iter().zip(SESSIONS) {
            for raw in 1..=INOS {
                let owner = self.owner(raw);
                assert!(
                    !client.believes(raw, self.now) || owner == Some(session(number)),
                    "session {number} believes to own {raw}, {owner:?} does"
                );
            }
        }
    }

    /// Whatever waits is over soon, even if nothing happens any more but time.
    fn ends(&self) {
        if self.clients.iter().all(|client| client.waits.is_none()) {
            return;
        }
        let mut world = self.clone();
        let mut left = (OPTIONS.yield_within + LEASE).as_secs() / STEP.as_secs();
        while world.clients.iter().any(|client| client.waits.is_some()) {
            assert!(left > 0, "it waits for ever");
            left -= 1;
            // Who can, renews, also if it gives nothing back.
            for who in 0..2 {
                for step in [Step::Renew(who), Step::RenewArrives(who)] {
                    world = world.after(step).unwrap_or(world);
                }
            }
            world = world.after(Step::Time).expect("time goes on");
            world.holds();
        }
    }
}

#[test]
fn nobody_believes_to_own_what_it_does_not_and_every_question_ends() {
    const DEPTH: usize = 6;
    let mut seen = HashSet::from([World::new()]);
    let mut edge: Vec<(World, Vec<Step>)> = vec![(World::new(), Vec::new())];
    // Further from where it is about to become interesting: near the end of a lease, with a question under way.
    let prefix = [Step::Renew(0), Step::Time, Step::Time, Step::Use(1, 1)];
    let near = prefix.iter().fold(World::new(), |world, step| world.after(*step).unwrap());
    edge.push((near, prefix.to_vec()));
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for (world, path) in edge {
            for step in steps() {
                let Some(after) = world.after(step) else { continue };
                if !seen.insert(after.clone()) {
                    continue;
                }
                let path = [&path[..], &[step]].concat();
                let run = std::panic::AssertUnwindSafe(|| {
                    after.holds();
                    after.ends();
                });
                if let Err(panic) = std::panic::catch_unwind(run) {
                    eprintln!("after {path:?}");
                    std::panic::resume_unwind(panic);
                }
                next.push((after, path));
            }
        }
        edge = next;
    }
    assert!(seen.len() > 10_000, "{} states", seen.len());
}
