//! Everything that two sessions, leaders and changes can do in few steps.
//!
//! Goal: what a session answers from a copy is what the last change that entered the log made of it, however messages are delayed,
//! connections break and leaders change; and no change waits longer than two leases. Method: as `lease::tests::every_step`. Proved with
//! planted faults: see `docs/decisions/0017-copies.md`.

use super::*;
use std::collections::HashSet;

const STEP: Duration = Duration::from_secs(1);

/// One inode is too many already: so being asked for all is among what happens.
const FEW: Options = Options { lease: LEASE, inodes_max: 1 };

/// The one inode that all of it is about.
fn it() -> Ino {
    ino(1)
}

/// A question under way, or its answer: what the client knew when it asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Question {
    asked: Duration,
    /// The client lets go of copies, or begins a change of its own, and counts that.
    turn: u64,
    /// None: not answered. An era, whether the inode may be kept, and what it was.
    answer: Option<(Standing, bool, u64)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Client {
    connected: bool,
    turn: u64,
    era: Era,
    until: Duration,
    copy: Option<u64>,
    question: Option<Question>,
    renewal: Option<Question>,
    /// Told, and not yet heard.
    inbox: Vec<u64>,
    /// Said, and not yet come to the leader.
    said: Vec<u64>,
    /// The number of its change that waits.
    change: Option<u64>,
}

impl Client {
    fn answers(&self, now: Duration) -> Option<u64> {
        self.copy.filter(|_| now < self.until)
    }

    fn drop_copies(&mut self) {
        self.copy = None;
        self.turn += 1;
    }

    /// What an answer says of how long copies count.
    fn heard(&mut self, Standing { era, lease }: Standing, asked: Duration) -> bool {
        if era < self.era {
            return false;
        }
        if era > self.era {
            (self.era, self.until, self.copy) = (era, Duration::ZERO, None);
        }
        self.until = self.until.max(asked + lease);
        true
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    now: Duration,
    term: u64,
    copies: Copies,
    clients: [Client; 2],
    /// The inode, as the log has it.
    value: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Time,
    Leader,
    Ask(usize),
    Answer(usize),
    Hear(usize),
    Renew(usize),
    RenewArrives(usize),
    RenewHeard(usize),
    Change(usize),
    Enter(usize),
    Told(usize),
    Said(usize),
    Break(usize),
    Connect(usize),
}

fn steps() -> Vec<Step> {
    let of = |who| {
        [
            Step::Ask(who),
            Step::Answer(who),
            Step::Hear(who),
            Step::Renew(who),
            Step::RenewArrives(who),
            Step::RenewHeard(who),
            Step::Change(who),
            Step::Enter(who),
            Step::Told(who),
            Step::Said(who),
            Step::Break(who),
            Step::Connect(who),
        ]
    };
    [Step::Time, Step::Leader].into_iter().chain((0..2).flat_map(of)).collect()
}

fn name(who: usize) -> SessionId {
    session(who as u64 + 1)
}

impl World {
    fn new() -> World {
        let mut copies = Copies::new(FEW, Term(1), [], Duration::ZERO);
        copies.attend(name(0), Duration::ZERO);
        copies.attend(name(1), Duration::ZERO);
        let client = Client { connected: true, ..Client::default() };
        World { now: Duration::ZERO, term: 1, copies, clients: [client.clone(), client], value: 0 }
    }

    /// What comes of it; `None` where it cannot happen.
    fn after(&self, step: Step) -> Option<World> {
        let mut world = self.clone();
        match step {
            Step::Time => world.now += STEP,
            Step::Leader => {
                world.term += 1;
                let both = [name(0), name(1)];
                world.copies = Copies::new(FEW, Term(world.term), both, world.now);
                (0..2).for_each(|who| world.cut_off(who));
            }
            Step::Ask(who) | Step::Answer(who) | Step::Hear(who) => world.asks(who, step)?,
            Step::Renew(who) | Step::RenewArrives(who) | Step::RenewHeard(who) => {
                world.renews(who, step)?;
            }
            Step::Change(who) | Step::Enter(who) => world.changes(who, step)?,
            Step::Told(who) => {
                let client = &mut world.clients[who];
                (!client.inbox.is_empty()).then_some(())?;
                let number = client.inbox.remove(0);
                client.drop_copies();
                client.said.push(number);
            }
            Step::Said(who) => {
                let client = &mut world.clients[who];
                (!client.said.is_empty()).then_some(())?;
                let number = client.said.remove(0);
                world.copies.given_back(name(who), number);
            }
            Step::Break(who) => {
                world.clients[who].connected.then_some(())?;
                world.copies.unattend(name(who));
                world.cut_off(who);
            }
            Step::Connect(who) => {
                let client = &mut world.clients[who];
                (!client.connected).then_some(())?;
                client.connected = true;
                let asks = world.copies.attend(name(who), world.now);
                world.clients[who].inbox.extend(asks.iter().map(|ask| ask.number));
            }
        }
        Some(world)
    }

    /// Nothing that was not answered is any more; what was may yet be heard.
    fn cut_off(&mut self, who: usize) {
        if let Some(number) = self.clients[who].change.take() {
            self.copies.over(number);
        }
        let client = &mut self.clients[who];
        client.connected = false;
        client.inbox.clear();
        client.said.clear();
        for question in [&mut client.question, &mut client.renewal] {
            *question = question.take().filter(|question| question.answer.is_some());
        }
    }

    fn asks(&mut self, who: usize, step: Step) -> Option<()> {
        let (now, value) = (self.now, self.value);
        let client = &mut self.clients[who];
        match step {
            Step::Ask(_) => {
                (client.connected && client.question.is_none() && client.change.is_none())
                    .then_some(())?;
                client.question = Some(Question { asked: now, turn: client.turn, answer: None });
            }
            Step::Answer(_) => {
                let question = client.question.as_mut().filter(|it| it.answer.is_none())?;
                let given = self.copies.give(name(who), &[it()], now);
                question.answer = Some((given.standing, !given.inos.is_empty(), value));
                client.inbox.extend(given.ask.map(|ask| ask.number));
            }
            _ => {
                let answered = client.question.take_if(|question| question.answer.is_some())?;
                let (standing, kept, value) = answered.answer?;
                let counts = client.turn == answered.turn && client.heard(standing, answered.asked);
                if counts && kept {
                    client.copy = Some(value);
                }
            }
        }
        Some(())
    }

    fn renews(&mut self, who: usize, step: Step) -> Option<()> {
        let now = self.now;
        let client = &mut self.clients[who];
        match step {
            Step::Renew(_) => {
                (client.connected && client.renewal.is_none()).then_some(())?;
                client.renewal = Some(Question { asked: now, turn: 0, answer: None });
            }
            Step::RenewArrives(_) => {
                let renewal = client.renewal.as_mut().filter(|it| it.answer.is_none())?;
                renewal.answer = Some((self.copies.renew(name(who), now), false, 0));
            }
            _ => {
                let renewal = client.renewal.take_if(|renewal| renewal.answer.is_some())?;
                let (standing, ..) = renewal.answer?;
                client.heard(standing, renewal.asked);
            }
        }
        Some(())
    }

    fn changes(&mut self, who: usize, step: Step) -> Option<()> {
        let client = &mut self.clients[who];
        if let Step::Change(_) = step {
            (client.connected && client.change.is_none()).then_some(())?;
            client.drop_copies();
            let (number, asks) = self.copies.begin(name(who), some(&[1]), self.now);
            self.clients[who].change = Some(number);
            for ask in asks {
                let other = &mut self.clients[ask.session.0 as usize - 1];
                if other.connected {
                    other.inbox.push(ask.number);
                }
            }
            return Some(());
        }
        let number = client.change?;
        self.copies.waits_until(number, self.now).is_none().then_some(())?;
        self.value += 1;
        self.copies.over(number);
        self.clients[who].change = None;
        // Its own copies it looks after itself: an answer that was under way may be older than the change.
        self.clients[who].drop_copies();
        Some(())
    }

    fn holds(&self) {
        for (who, client) in self.clients.iter().enumerate() {
            if let Some(value) = client.answers(self.now) {
                assert_eq!(value, self.value, "session {who} answers from an old copy");
            }
        }
    }

    /// A change that waits is over within two leases, though others renew all the time and give nothing back.
    fn ends(&self) {
        for who in 0..2 {
            let Some(number) = self.clients[who].change else { continue };
            let mut copies = self.copies.clone();
            let mut now = self.now;
            while copies.waits_until(number, now).is_some() {
                assert!(now < self.now + 2 * LEASE, "it waits for ever");
                now += STEP;
                copies.renew(name(1 - who), now);
            }
        }
    }
}

#[test]
fn no_copy_outlives_a_change_and_every_change_ends() {
    const DEPTH: usize = 6;
    let fresh = World::new();
    let prefixes: [&[Step]; 4] = [
        &[],
        // One has a copy, and the other is about to change it.
        &[Step::Ask(0), Step::Answer(0), Step::Hear(0), Step::Change(1)],
        // A copy is on its way while it is taken back.
        &[Step::Ask(0), Step::Answer(0), Step::Change(1), Step::Told(0)],
        // It was heard of late, and the leader has changed.
        &[Step::Ask(0), Step::Answer(0), Step::Hear(0), Step::Renew(0), Step::Time, Step::Time],
    ];
    let mut seen = HashSet::new();
    let mut edge: Vec<(World, Vec<Step>)> = Vec::new();
    for prefix in prefixes {
        let begun = prefix.iter().fold(fresh.clone(), |world, step| world.after(*step).unwrap());
        seen.insert(begun.clone());
        edge.push((begun, prefix.to_vec()));
    }
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
    let copied = seen.iter().filter(|world| world.clients[0].answers(world.now).is_some());
    assert!(copied.count() > 100, "nobody has a copy");
}
