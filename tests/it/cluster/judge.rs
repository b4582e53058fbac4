//! Judges a history: whether one order of its operations, none moved out of its time, explains every answer.
//!
//! Wing and Gong's search with a memory of what was tried, for one object at a time. An operation whose outcome nobody was told may
//! have happened at any time after it was asked for, or never. Searching has a bound; a history that is beyond it was no test.
//! Not here: how histories come about (`history`), what objects do (`objects`), judgements that need no search (`ledgers`).

use super::history::Event;
use std::collections::HashSet;
use std::fmt;
use std::fmt::Debug;
use std::hash::Hash;

/// States visited before the search gives up.
pub(super) const BUDGET: usize = 200_000;
/// Of the operations that fit nowhere, how many a failure shows.
const SHOWN: usize = 12;

/// States that one answer may leave.
pub(super) const WAYS: usize = 2;

/// An object as it would be if everybody took turns.
pub(super) trait Model {
    type State: Clone + Eq + Hash + Debug;
    type Op: Debug;
    type Answer: Debug;

    /// The state after `op`, where it may be answered so; of an answer that nobody saw, whichever it would have been. Two, where
    /// the answer leaves open which.
    fn step(
        state: &Self::State,
        op: &Self::Op,
        answer: Option<&Self::Answer>,
    ) -> [Option<Self::State>; WAYS];
}

/// What comes of a search.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// An order was found.
    Linear,
    /// There is none; how far one gets at best.
    Impossible(String),
    /// The search gave up.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Linear => write!(f, "linearizable"),
            Verdict::Impossible(how) => write!(f, "NOT linearizable: {how}"),
            Verdict::Unknown => write!(f, "not judged: the search gave up, the test asks too much"),
        }
    }
}

/// A set of operations.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn has(&self, n: usize) -> bool {
        self.0[n / 64] >> (n % 64) & 1 == 1
    }

    fn flip(&mut self, n: usize) {
        self.0[n / 64] ^= 1 << (n % 64);
    }
}

/// One choice of the search: a state, and what may be next in it.
struct Place<S> {
    state: S,
    candidates: Vec<usize>,
    /// Counts the candidates, each with its ways.
    next: usize,
    /// What led here.
    chosen: Option<usize>,
}

/// Operations by when they were asked for, with when they were answered: at the end of time where they were not.
struct Times(Vec<(u64, u64)>);

impl Times {
    /// Of those that are not done, the ones that were asked for before any of them was answered; those that end first, first.
    fn candidates(&self, done: &Done) -> Vec<usize> {
        let mut bound = u64::MAX;
        let mut found = Vec::new();
        // Most of a long history is done, from its beginning on.
        let full = done.0.iter().take_while(|word| **word == u64::MAX).count() * 64;
        for (n, (asked, answered)) in self.0.iter().enumerate().skip(full) {
            if *asked > bound {
                break;
            }
            if !done.has(n) {
                bound = bound.min(*answered);
                found.push(n);
            }
        }
        found.retain(|n| self.0[*n].0 <= bound);
        found.sort_by_key(|n| self.0[*n].1);
        found
    }
}

/// Searches for an order of `history` that begins with `initial`.
pub(super) fn judge<M: Model>(
    initial: M::State,
    history: &[Event<M::Op, M::Answer>],
    budget: usize,
) -> Verdict {
    let mut events: Vec<&Event<M::Op, M::Answer>> = history.iter().collect();
    events.sort_by_key(|event| event.asked);
    let answered = |event: &&Event<M::Op, M::Answer>| event.answer.as_ref().map(|(_, at)| *at);
    let times = Times(events.iter().map(|e| (e.asked, answered(e).unwrap_or(u64::MAX))).collect());
    let mut left = events.iter().filter(|event| event.answer.is_some()).count();
    let mut done = Done(vec![0; events.len().div_ceil(64)]);
    let mut tried = HashSet::new();
    let mut deepest = (usize::MAX, String::new());
    let first = times.candidates(&done);
    let mut path = vec![Place { state: initial, candidates: first, next: 0, chosen: None }];
    while left > 0 {
        let Some(place) = path.last_mut() else { return Verdict::Impossible(deepest.1) };
        let way = place.next % WAYS;
        let Some(n) = place.candidates.get(place.next / WAYS).copied() else {
            if left < deepest.0 {
                let before: Vec<usize> = path.iter().filter_map(|place| place.chosen).collect();
                let place = path.last().expect("it was there above");
                deepest = (left, stuck::<M>(&events, &place.state, &place.candidates, &before));
            }
            if let Some(n) = path.pop().and_then(|place| place.chosen) {
                done.flip(n);
                left += usize::from(events[n].answer.is_some());
            }
            continue;
        };
        place.next += 1;
        let answer = events[n].answer.as_ref().map(|(answer, _)| answer);
        let [one, other] = M::step(&place.state, &events[n].op, answer);
        let Some(state) = (if way == 0 { one } else { other }) else { continue };
        done.flip(n);
        if !tried.insert((done.clone(), state.clone())) {
            done.flip(n);
            continue;
        }
        if tried.len() > budget {
            return Verdict::Unknown;
        }
        left -= usize::from(answer.is_some());
        let candidates = times.candidates(&done);
        path.push(Place { state, candidates, next: 0, chosen: Some(n) });
    }
    Verdict::Linear
}

/// Where the search got no further.
fn stuck<M: Model>(
    events: &[&Event<M::Op, M::Answer>],
    state: &M::State,
    candidates: &[usize],
    before: &[usize],
) -> String {
    let show = |which: &[usize]| -> String {
        which.iter().take(SHOWN).map(|n| format!("\n    {:?}", events[*n])).collect()
    };
    let last = &before[before.len().saturating_sub(SHOWN)..];
    let (last, next) = (show(last), show(candidates));
    format!("in the state {state:?} none of these can be next:{next}\n  behind these:{last}")
}

#[cfg(test)]
mod tests {
    use super::BUDGET;
    use super::Verdict;
    use super::judge;
    use crate::cluster::history::Event;
    use crate::cluster::objects::Register;
    use crate::cluster::objects::RegisterOp;
    use crate::cluster::objects::RegisterOp::Read;
    use crate::cluster::objects::RegisterOp::Write;
    use crate::support::Random;

    type Recorded = Event<RegisterOp, u64>;

    /// (asked, answered, what, the answer); answered at 0 is never.
    fn history(events: &[(u64, u64, RegisterOp, u64)]) -> Vec<Recorded> {
        let event =
            |(who, (asked, answered, op, answer)): (usize, &(u64, u64, RegisterOp, u64))| {
                let answer = (*answered > 0).then_some((*answer, *answered));
                Event { who, asked: *asked, op: *op, answer }
            };
        events.iter().enumerate().map(event).collect()
    }

    fn linear(events: &[(u64, u64, RegisterOp, u64)]) -> bool {
        match judge::<Register>(0, &history(events), BUDGET) {
            Verdict::Linear => true,
            Verdict::Impossible(how) => {
                assert!(how.contains("none of these"), "{how}");
                false
            }
            Verdict::Unknown => panic!("so few operations are within the budget"),
        }
    }

    #[test]
    fn orders_that_explain_are_found() {
        assert!(linear(&[]));
        assert!(linear(&[(1, 2, Write(7), 0), (3, 4, Read, 7)]));
        // While a write is under way, either is right; also one after the other.
        assert!(linear(&[(1, 9, Write(7), 0), (2, 3, Read, 0), (4, 5, Read, 7)]));
        // Two writes at once, seen by two in one order.
        let both = [(1, 9, Write(1), 0), (1, 9, Write(2), 0)];
        assert!(linear(&[both[0], both[1], (2, 3, Read, 1), (4, 5, Read, 2), (6, 7, Read, 2)]));
    }

    #[test]
    fn what_nobody_was_told_of_may_have_happened_or_not() {
        assert!(linear(&[(1, 0, Write(7), 0), (3, 4, Read, 0)]));
        assert!(linear(&[(1, 0, Write(7), 0), (3, 4, Read, 0), (5, 6, Read, 7)]));
        assert!(!linear(&[(1, 0, Write(7), 0), (3, 4, Read, 7), (5, 6, Read, 0)]), "not undone");
        assert!(!linear(&[(2, 3, Read, 7), (4, 0, Write(7), 0)]), "not before it was asked for");
    }

    #[test]
    fn planted_faults_are_found() {
        let written = [(1, 2, Write(1), 0), (3, 4, Write(2), 0)];
        assert!(!linear(&[written[0], written[1], (5, 6, Read, 1)]), "a stale read");
        assert!(!linear(&[written[0], (5, 6, Read, 0)]), "a lost write");
        assert!(!linear(&[written[0], (5, 6, Read, 9)]), "bytes from nowhere");
        let back = [(1, 9, Write(1), 0), (2, 3, Read, 1), (4, 5, Read, 0)];
        assert!(!linear(&back), "seen, then unseen");
        let both = [(1, 9, Write(1), 0), (1, 9, Write(2), 0)];
        let seen = [(2, 3, Read, 1), (4, 5, Read, 2), (6, 7, Read, 1)];
        assert!(!linear(&[both[0], both[1], seen[0], seen[1], seen[2]]), "two orders");
    }

    /// A history of many at once, with what an honest register answers at a random moment of each operation.
    fn honest(seed: u64, count: u64) -> Vec<Recorded> {
        let mut random = Random::new(seed);
        // What happens, in its order, each at a time of its own; asked for before that and answered after it.
        let mut value = 0;
        let mut events = Vec::new();
        for n in 0..count {
            let moment = 100 + n * 10;
            let (asked, end) = (moment - random.below(30), moment + 1 + random.below(30));
            let (op, answer) = match random.below(2) {
                0 => (Read, value),
                _ => {
                    value = n + 1;
                    (Write(value), 0)
                }
            };
            let told = n % 100 != 70 || op == Read;
            events.push(Event { who: 0, asked, op, answer: told.then_some((answer, end)) });
        }
        events
    }

    #[test]
    fn honest_histories_pass_and_changed_ones_do_not() {
        let mut caught = 0;
        for seed in 0..30 {
            let mut events = honest(seed, 300);
            assert_eq!(judge::<Register>(0, &events, BUDGET), Verdict::Linear, "seed {seed}");
            // One read in the middle sees what was there much earlier.
            let reads: Vec<usize> = (150..300).filter(|n| events[*n].op == Read).collect();
            let changed = reads[(seed % 20) as usize];
            let at = events[changed].answer.as_ref().unwrap().1;
            let old = events[..100].iter().rev().find_map(|event| match event.op {
                Write(value) if event.answer.is_some() => Some(value),
                _ => None,
            });
            events[changed].answer = Some((old.unwrap(), at));
            caught += usize::from(judge::<Register>(0, &events, BUDGET) != Verdict::Linear);
        }
        assert_eq!(caught, 30);
    }

    #[test]
    fn giving_up_is_no_pass() {
        assert_eq!(judge::<Register>(0, &honest(1, 300), 50), Verdict::Unknown);
    }
}
