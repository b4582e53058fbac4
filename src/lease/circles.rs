//! Who waits for a lock of whom, over all mounts, and who is told that his wait would never end.
//!
//! Each session says now and then for what its programs wait; a circle of waits that is real stays until somebody gives up. So
//! it is believed only when all of it was said twice: once before it was first seen, and once again by each session that had
//! heard of a later moment than that. A wait that went on meanwhile was there when the circle was seen. Not here: which locks
//! are in the way of a wait, which the caller says each time (`docs/decisions/0015-file-locks.md`).

use crate::types::SessionId;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;

/// Circles that are seen and not believed yet; more are not looked into before some of these are gone.
const SUSPECTS_MAX: usize = 1024;

/// An owner of locks on a mount.
pub type Holder = (SessionId, u64);

/// A wait of one of a session's programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wait<W> {
    /// Higher with each that begins; it stays while the wait does.
    pub number: u64,
    pub owner: u64,
    pub wants: W,
}

/// What a session is told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// This moment.
    pub now: u64,
    /// Waits of its own that would never end.
    pub refused: Vec<u64>,
    /// It is part of a circle that is not believed yet: it is to say again soon.
    pub soon: bool,
}

/// One wait among all.
type Id = (SessionId, u64);

struct Known<W> {
    wait: Wait<W>,
    /// When it was said first.
    first: u64,
}

struct Session<W> {
    waits: Vec<Known<W>>,
    /// What it said last it said after this moment.
    after: u64,
}

/// A circle that stood each time since it was seen.
struct Suspect {
    circle: BTreeSet<Id>,
    seen: u64,
}

/// See the module's text. Of one reign.
pub struct Circles<W> {
    now: u64,
    sessions: BTreeMap<SessionId, Session<W>>,
    /// By the wait from which each was found.
    suspects: BTreeMap<Id, Suspect>,
}

impl<W> Default for Circles<W> {
    fn default() -> Circles<W> {
        Circles { now: 0, sessions: BTreeMap::new(), suspects: BTreeMap::new() }
    }
}

impl<W> Circles<W> {
    /// A session's programs wait for these, and for nothing else. `after`: a moment that it had been told of when it said so; zero
    /// where it had not. `barring` says who has what is in the way of a wait now.
    ///
    /// # Errors
    /// Those of `barring`.
    pub fn say<E>(
        &mut self,
        session: SessionId,
        after: u64,
        waits: Vec<Wait<W>>,
        barring: impl Fn(SessionId, &Wait<W>) -> Result<Vec<Holder>, E>,
    ) -> Result<Said, E> {
        self.now += 1;
        let now = self.now;
        self.note(session, after, waits);
        let mut graph = self.graph(barring)?;
        // One that was broken meanwhile may close again, and who says so knows nothing of that.
        self.suspects
            .retain(|start, suspect| graph.circle(*start).as_ref() == Some(&suspect.circle));
        let mut refused = Vec::new();
        let own: Vec<Id> = graph.of(session).collect();
        for wait in own {
            let Some(circle) = graph.circle(wait) else { continue };
            if !self.suspects.contains_key(&wait) && self.suspects.len() < SUSPECTS_MAX {
                self.suspects.insert(wait, Suspect { circle: circle.clone(), seen: now });
            }
            let suspect = self.suspects.get(&wait).filter(|suspect| suspect.circle == circle);
            let believed = suspect.is_some_and(|suspect| self.is_believed(suspect));
            if believed && self.victim(&circle) == wait {
                refused.push(wait.1);
                graph.remove(wait);
            }
        }
        let is_in = |suspect: &Suspect| suspect.circle.iter().any(|(of, _)| *of == session);
        let soon = self.suspects.values().any(is_in);
        Ok(Said { now, refused, soon })
    }

    /// Nothing is known of the waits of any other session than these any more.
    pub fn retain(&mut self, is_there: impl Fn(SessionId) -> bool) {
        self.sessions.retain(|session, _| is_there(*session));
        self.forget();
    }

    fn note(&mut self, session: SessionId, after: u64, waits: Vec<Wait<W>>) {
        let former = self.sessions.remove(&session);
        let first: BTreeMap<u64, u64> = former
            .iter()
            .flat_map(|former| &former.waits)
            .map(|known| (known.wait.number, known.first))
            .collect();
        let known = |wait: Wait<W>| {
            let first = first.get(&wait.number).copied().unwrap_or(self.now);
            Known { wait, first }
        };
        let waits: Vec<_> = waits.into_iter().map(known).collect();
        if !waits.is_empty() {
            self.sessions.insert(session, Session { waits, after });
        }
        self.forget();
    }

    /// A circle of which a wait has ended is none.
    fn forget(&mut self) {
        let sessions = &self.sessions;
        let waits = |(session, number): &Id| {
            sessions.get(session).is_some_and(|session| {
                session.waits.iter().any(|known| known.wait.number == *number)
            })
        };
        self.suspects.retain(|_, suspect| suspect.circle.iter().all(waits));
    }

    /// Everybody in it has said so again after it was seen.
    fn is_believed(&self, suspect: &Suspect) -> bool {
        let again = |(session, _): &Id| {
            self.sessions.get(session).is_some_and(|session| session.after >= suspect.seen)
        };
        suspect.circle.iter().all(again)
    }

    /// Who closed it: the last that was heard of.
    fn victim(&self, circle: &BTreeSet<Id>) -> Id {
        let first = |(session, number): &Id| {
            let known = self.sessions.get(session).into_iter().flat_map(|session| &session.waits);
            let mut known = known.filter(|known| known.wait.number == *number);
            known.next().map_or(0, |known| known.first)
        };
        let last = circle.iter().copied().max_by_key(|id| (first(id), *id));
        last.expect("a circle has a wait")
    }

    fn graph<E>(
        &self,
        barring: impl Fn(SessionId, &Wait<W>) -> Result<Vec<Holder>, E>,
    ) -> Result<Graph, E> {
        let mut graph = Graph::default();
        for (session, Session { waits, .. }) in &self.sessions {
            for Known { wait, .. } in waits {
                let (id, holder) = ((*session, wait.number), (*session, wait.owner));
                graph.of_holder.entry(holder).or_default().push(id);
                graph.waits.insert(id, (holder, barring(*session, wait)?));
            }
        }
        Ok(graph)
    }
}

/// Each wait: whose it is, and who is in its way.
#[derive(Default)]
struct Graph {
    waits: BTreeMap<Id, (Holder, Vec<Holder>)>,
    of_holder: BTreeMap<Holder, Vec<Id>>,
}

impl Graph {
    fn of(&self, session: SessionId) -> impl Iterator<Item = Id> {
        self.waits.range((session, 0)..=(session, u64::MAX)).map(|(id, _)| *id)
    }

    fn remove(&mut self, wait: Id) {
        if let Some((holder, _)) = self.waits.remove(&wait)
            && let Some(of) = self.of_holder.get_mut(&holder)
        {
            of.retain(|id| *id != wait);
        }
    }

    /// The shortest circle that a wait is part of. The same each time while nothing changes.
    fn circle(&self, start: Id) -> Option<BTreeSet<Id>> {
        let (target, _) = self.waits.get(&start)?;
        // By which wait each was come to, and from which that was.
        let mut from: BTreeMap<Id, Id> = BTreeMap::new();
        let mut open = VecDeque::from([start]);
        while let Some(wait) = open.pop_front() {
            for holder in &self.waits[&wait].1 {
                if holder == target {
                    let mut circle = BTreeSet::from([wait]);
                    let mut at = wait;
                    while let Some(before) = from.get(&at) {
                        circle.insert(*before);
                        at = *before;
                    }
                    return Some(circle);
                }
                for next in self.of_holder.get(holder).into_iter().flatten() {
                    if *next != start && !from.contains_key(next) {
                        from.insert(*next, wait);
                        open.push_back(*next);
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
