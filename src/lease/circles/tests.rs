//! Circles by name, and a world in which messages take their time: nobody is refused who was in no circle, and none stays.

use super::*;
use std::convert::Infallible;

/// What is in the way of a wait, told by name.
type By = Vec<(u64, u64)>;
/// A session, and its waits.
type Says = (u64, Vec<Wait<By>>);
/// What all say, and the waits that are refused.
type Case<'a> = (&'a [Says], &'a [(u64, u64)]);

fn wait(number: u64, owner: u64, by: &[(u64, u64)]) -> Wait<By> {
    Wait { number, owner, wants: by.to_vec() }
}

fn told(circles: &mut Circles<By>, session: u64, after: u64, waits: &[Wait<By>]) -> Said {
    let barring = |_, wait: &Wait<By>| {
        Ok::<_, Infallible>(wait.wants.iter().map(|(of, owner)| (SessionId(*of), *owner)).collect())
    };
    circles.say(SessionId(session), after, waits.to_vec(), barring).unwrap()
}

/// Everybody says the same, round after round, as soon as each has been answered: who is refused, in the end.
fn settle(circles: &mut Circles<By>, all: &[Says]) -> Vec<(u64, u64)> {
    let mut heard: BTreeMap<u64, u64> = BTreeMap::new();
    let mut refused = Vec::new();
    for _ in 0..4 {
        for (session, waits) in all {
            let after = heard.get(session).copied().unwrap_or(0);
            let said = told(circles, *session, after, waits);
            heard.insert(*session, said.now);
            refused.extend(said.refused.iter().map(|number| (*session, *number)));
        }
    }
    refused.sort_unstable();
    refused.dedup();
    refused
}

#[test]
fn who_closes_a_circle_is_refused_and_nobody_else() {
    // Two mounts; three; one that goes through a wait for somebody on the same mount; none; one beside a wait that is not in it.
    let cases: [Case<'_>; 6] = [
        (&[(1, vec![wait(1, 10, &[(2, 20)])]), (2, vec![wait(1, 20, &[(1, 10)])])], &[(2, 1)]),
        (
            &[
                (1, vec![wait(1, 10, &[(2, 20)])]),
                (2, vec![wait(7, 20, &[(3, 30)])]),
                (3, vec![wait(5, 30, &[(1, 10)])]),
            ],
            &[(3, 5)],
        ),
        (
            &[
                (1, vec![wait(1, 10, &[(1, 11)]), wait(2, 11, &[(2, 20)])]),
                (2, vec![wait(1, 20, &[(1, 10)])]),
            ],
            &[(2, 1)],
        ),
        (&[(1, vec![wait(1, 10, &[(2, 20)])]), (2, vec![wait(1, 21, &[(1, 10)])])], &[]),
        (&[(1, vec![wait(1, 10, &[(2, 20), (2, 21)])]), (2, vec![wait(1, 22, &[(1, 10)])])], &[]),
        (
            &[
                (1, vec![wait(1, 10, &[(2, 20)]), wait(2, 12, &[(2, 20)])]),
                (2, vec![wait(1, 20, &[(1, 10)])]),
            ],
            &[(2, 1)],
        ),
    ];
    for (n, (waits, refused)) in cases.iter().enumerate() {
        assert_eq!(settle(&mut Circles::default(), waits), *refused, "case {n}");
    }
}

#[test]
fn what_was_said_before_a_circle_was_seen_is_no_proof_of_it() {
    let (one, two) = ([wait(1, 10, &[(2, 20)])], [wait(1, 20, &[(1, 10)])]);
    let mut circles = Circles::default();
    let first = told(&mut circles, 1, 0, &one);
    assert_eq!((first.refused.len(), first.soon), (0, false));
    let seen = told(&mut circles, 2, 0, &two);
    assert!(seen.refused.is_empty() && seen.soon);
    // The first says it again, knowing of no moment since; the second does, knowing of that one.
    assert!(told(&mut circles, 1, first.now, &one).soon);
    assert!(told(&mut circles, 2, seen.now, &two).refused.is_empty());
    let again = told(&mut circles, 1, seen.now, &one);
    assert!(again.refused.is_empty(), "it came first");
    assert_eq!(told(&mut circles, 2, seen.now, &two).refused, [1]);
    // Another wait of the same owner for the same is another circle.
    let anew = [wait(2, 20, &[(1, 10)])];
    assert!(told(&mut circles, 2, again.now, &anew).refused.is_empty());
    // And one that is over is none.
    let over = told(&mut circles, 1, again.now + 1, &[]);
    assert!(!over.soon && !told(&mut circles, 2, over.now, &anew).soon);
}

/// What is under way from a mount, with the moment that it knew.
type Sent = VecDeque<(u64, Vec<Wait<u64>>)>;

/// The world as it is: owners of three mounts, who have locks and wait for one.
struct World {
    random: u64,
    holders: BTreeMap<u64, Holder>,
    /// Of each owner, the number of its wait and for which lock.
    waits: BTreeMap<Holder, (u64, u64)>,
    next: u64,
    circles: Circles<u64>,
    /// What is under way to the leader, and from it; each mount's in their order.
    sent: BTreeMap<SessionId, Sent>,
    answers: BTreeMap<SessionId, VecDeque<Said>>,
    heard: BTreeMap<SessionId, u64>,
    /// Waits that were in a circle, if perhaps only until a signal ended one of them.
    circled: BTreeSet<u64>,
    refused: usize,
}

const MOUNTS: u64 = 3;
const OWNERS: u64 = 2;
const LOCKS: u64 = 5;

impl World {
    fn new(seed: u64) -> World {
        World {
            random: seed,
            holders: BTreeMap::new(),
            waits: BTreeMap::new(),
            next: 0,
            circles: Circles::default(),
            sent: BTreeMap::new(),
            answers: BTreeMap::new(),
            heard: BTreeMap::new(),
            circled: BTreeSet::new(),
            refused: 0,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % bound
    }

    fn in_circle(&self, owner: Holder) -> bool {
        let mut at = owner;
        for _ in 0..=MOUNTS * OWNERS {
            let lock = self.waits.get(&at).map(|wait| wait.1);
            let Some(by) = lock.and_then(|lock| self.holders.get(&lock)) else { return false };
            at = *by;
            if at == owner {
                return true;
            }
        }
        false
    }

    /// What a program does next that waits for nothing; and a signal ends the wait of one that does.
    fn act(&mut self) {
        let owner = (SessionId(self.below(MOUNTS)), self.below(OWNERS));
        let (lock, gives_up) = (self.below(LOCKS), self.below(4) == 0);
        if let Some((_, wanted)) = self.waits.get(&owner).copied() {
            let is_free = !self.holders.contains_key(&wanted);
            if is_free {
                let _ = self.holders.insert(wanted, owner);
            }
            if is_free || gives_up {
                self.waits.remove(&owner);
            }
            return;
        }
        match self.holders.get(&lock) {
            Some(by) if *by == owner => drop(self.holders.remove(&lock)),
            Some(_) => {
                self.next += 1;
                self.waits.insert(owner, (self.next, lock));
            }
            None => drop(self.holders.insert(lock, owner)),
        }
    }

    /// A mount says for what its programs wait.
    fn say(&mut self, session: SessionId) {
        let of = self.waits.iter().filter(|((of, _), _)| *of == session);
        let waits = of
            .map(|((_, owner), (number, lock))| {
                let (number, owner, wants) = (*number, *owner, *lock);
                Wait { number, owner, wants }
            })
            .collect();
        let after = self.heard.get(&session).copied().unwrap_or(0);
        self.sent.entry(session).or_default().push_back((after, waits));
    }

    fn arrive(&mut self, session: SessionId) {
        let Some((after, waits)) = self.sent.entry(session).or_default().pop_front() else {
            return;
        };
        let holders = &self.holders;
        let barring = |session, wait: &Wait<u64>| {
            let by = holders.get(&wait.wants).filter(|by| **by != (session, wait.owner));
            Ok::<_, Infallible>(by.copied().into_iter().collect())
        };
        let said = self.circles.say(session, after, waits, barring).unwrap();
        self.answers.entry(session).or_default().push_back(said);
    }

    fn hear(&mut self, session: SessionId) {
        let Some(said) = self.answers.entry(session).or_default().pop_front() else { return };
        self.heard.insert(session, said.now);
        for number in said.refused {
            assert!(self.circled.contains(&number), "wait {number} was in no circle");
            let of = self.waits.iter().find(|((of, _), wait)| *of == session && wait.0 == number);
            // A signal may have come first.
            let Some(owner) = of.map(|(owner, _)| *owner) else { continue };
            self.refused += 1;
            self.waits.remove(&owner);
        }
    }

    fn step(&mut self) {
        let (session, what) = (SessionId(self.below(MOUNTS)), self.below(10));
        match what {
            0 => {
                self.act();
                let circled = |(owner, wait): (&Holder, &(u64, u64))| {
                    self.in_circle(*owner).then_some(wait.0)
                };
                let circled: Vec<u64> = self.waits.iter().filter_map(circled).collect();
                self.circled.extend(circled);
            }
            // Another leads, who knows nothing, and what is under way to the former is lost.
            1 if self.below(60) == 0 => {
                self.circles = Circles::default();
                self.sent.clear();
                self.answers.clear();
                self.heard.clear();
            }
            1..=3 => self.say(session),
            4..=6 => self.arrive(session),
            _ => self.hear(session),
        }
    }
}

#[test]
fn whatever_is_late_only_circles_are_refused_and_none_stays() {
    let mut refused = 0;
    for seed in 0..400 {
        let mut world = World::new(seed);
        for _ in 0..800 {
            world.step();
        }
        refused += world.refused;
        for session in (0..12 * MOUNTS).map(|n| SessionId(n % MOUNTS)) {
            world.say(session);
            while !world.sent[&session].is_empty() {
                world.arrive(session);
            }
            while !world.answers.entry(session).or_default().is_empty() {
                world.hear(session);
            }
        }
        let left: Vec<_> = world.waits.keys().filter(|owner| world.in_circle(**owner)).collect();
        assert!(left.is_empty(), "seed {seed}: {left:?} wait for themselves");
    }
    assert!(refused > 100, "hardly any: {refused}");
}
