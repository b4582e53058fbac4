//! Copies: whom the leader has told rows of inodes that are nobody's, so that he may answer from them without asking.
//!
//! An inode that is copied is not changed before its copies are taken back, or have run out. `docs/decisions/0017-copies.md` has the
//! states and why they hold. Pure, and of one reign, as everything in this module. Not here: whether an inode is nobody's.

#[cfg(test)]
mod tests;

use crate::types::Era;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Term;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

/// First rest of an inode that was taken back soon after it was given.
const REST_FIRST: Duration = Duration::from_millis(50);
const REST_LAST: Duration = Duration::from_secs(2);
/// What is taken back sooner after it was given was not worth giving.
const WORTH: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Options {
    /// How long a session may answer from copies after it was heard of. A change waits so long at most; a new leader takes no direct
    /// one before.
    pub lease: Duration,
    /// A session that has copies of more inodes is asked for all of them.
    pub inodes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { lease: Duration::from_secs(3), inodes_max: 1 << 15 }
    }
}

/// What a direct change may change.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Changed {
    Inodes(BTreeSet<Ino>),
    /// Nobody can say before it is applied.
    Anything,
}

/// A session is to be told to give back: these, or all that it has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ask {
    pub session: SessionId,
    /// Comes back with the answer.
    pub number: u64,
    pub inos: Option<Vec<Ino>>,
}

/// What a session that asked for rows may keep of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Given {
    pub standing: Standing,
    pub inos: Vec<Ino>,
    /// It has too many.
    pub ask: Option<Ask>,
}

/// How long what a session has counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Standing {
    pub era: Era,
    /// From when it asked. Zero: no longer than before.
    pub lease: Duration,
}

/// A session that may have copies.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Holder {
    era: Era,
    /// Until when it may answer from them.
    until: Duration,
    /// It can be told to give back.
    attended: bool,
    /// It was asked for everything under this number, and is given nothing before it has answered: what it is given would be taken for
    /// what it let go of.
    all: Option<Owed>,
    inos: BTreeSet<Ino>,
}

/// Something that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Owed {
    number: u64,
    since: Duration,
}

/// An inode with copies, or one that is about to be changed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Copied {
    holders: BTreeSet<SessionId>,
    given: Duration,
    /// Changes of it that are under way: until they are over nobody is given a copy.
    changes: u32,
}

/// An inode that was given and taken back again and again is left alone for a while.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Rest {
    until: Duration,
    length: Duration,
}

/// A direct change under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Change {
    by: SessionId,
    changed: Changed,
    since: Duration,
    /// Those who were asked to give back and have not.
    waits: BTreeSet<SessionId>,
}

/// Who has copies of what, in one reign.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Copies {
    options: Options,
    term: Term,
    turns: u64,
    /// Those who may still answer from what the leader before told them, and until when.
    former: BTreeSet<SessionId>,
    former_until: Duration,
    holders: BTreeMap<SessionId, Holder>,
    inodes: BTreeMap<Ino, Copied>,
    rests: BTreeMap<Ino, Rest>,
    changes: BTreeMap<u64, Change>,
    next_number: u64,
}

impl Copies {
    /// Takes office. `sessions`: all that are open.
    pub fn new(
        options: Options,
        term: Term,
        sessions: impl IntoIterator<Item = SessionId>,
        now: Duration,
    ) -> Copies {
        Copies {
            options,
            term,
            turns: 0,
            former: sessions.into_iter().collect(),
            former_until: now + options.lease,
            holders: BTreeMap::new(),
            inodes: BTreeMap::new(),
            rests: BTreeMap::new(),
            changes: BTreeMap::new(),
            next_number: 0,
        }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    fn next_era(&mut self) -> Era {
        self.turns += 1;
        Era { term: self.term, turn: self.turns }
    }

    /// The session can be told to give back from now on: what it may have missed is asked again. Who comes from another leader is
    /// asked for all that that one told.
    pub fn attend(&mut self, session: SessionId, now: Duration) -> Vec<Ask> {
        if !self.holders.contains_key(&session) {
            let is_former = self.former.contains(&session);
            let holder = Holder {
                era: self.next_era(),
                until: now + self.options.lease,
                attended: true,
                all: is_former.then(|| Owed { number: self.next_number(), since: now }),
                inos: BTreeSet::new(),
            };
            self.holders.insert(session, holder);
        }
        self.renew(session, now);
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.attended = true;
        }
        self.owed(session)
    }

    /// What the session was asked for and has not given back: whatever of it was lost on the way is asked again.
    pub fn owed(&self, session: SessionId) -> Vec<Ask> {
        let Some(holder) = self.holders.get(&session).filter(|holder| holder.attended) else {
            return Vec::new();
        };
        let all = holder.all.map(|Owed { number, .. }| Ask { session, number, inos: None });
        let waits = self.changes.iter().filter(|(_, change)| change.waits.contains(&session));
        let asks = waits.map(|(number, change)| {
            let inos = match &change.changed {
                Changed::Inodes(inos) => Some(inos.iter().copied().collect()),
                Changed::Anything => None,
            };
            Ask { session, number: *number, inos }
        });
        all.into_iter().chain(asks).collect()
    }

    /// There is no way to tell the session anything any more: it is given no more copies.
    pub fn unattend(&mut self, session: SessionId) {
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.attended = false;
        }
    }

    /// The session was ended, and its lease is over, or it has let go of everything.
    pub fn end(&mut self, session: SessionId) {
        self.former.remove(&session);
        self.forget(session);
        self.holders.remove(&session);
    }

    /// The session has no copies any more: nobody waits for it.
    fn forget(&mut self, session: SessionId) {
        for change in self.changes.values_mut() {
            change.waits.remove(&session);
        }
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.all = None;
            for ino in std::mem::take(&mut holder.inos) {
                self.let_go(session, ino);
            }
        }
    }

    fn let_go(&mut self, session: SessionId, ino: Ino) {
        if let Some(copied) = self.inodes.get_mut(&ino) {
            copied.holders.remove(&session);
            if copied.holders.is_empty() && copied.changes == 0 {
                self.inodes.remove(&ino);
            }
        }
    }

    /// The session was heard of. Where that is for the first time in too long, a new era begins. Who was asked to give back a lease ago
    /// and has not is given no more time.
    pub fn renew(&mut self, session: SessionId, now: Duration) -> Standing {
        let Some(holder) = self.holders.get(&session) else { return Standing::default() };
        if holder.until <= now {
            self.lapse(session);
        }
        let lease = self.options.lease;
        let is_late = |since: Duration| since + lease <= now;
        let of_it = |change: &&Change| change.waits.contains(&session);
        let late = self.changes.values().filter(of_it).any(|change| is_late(change.since));
        let Some(holder) = self.holders.get_mut(&session) else { return Standing::default() };
        if late || holder.all.is_some_and(|all| is_late(all.since)) {
            return Standing { era: holder.era, lease: Duration::ZERO };
        }
        holder.until = now + lease;
        Standing { era: holder.era, lease }
    }

    /// The session is about to be told rows of these, which are nobody's: which it may keep. To be asked before the rows are
    /// read.
    pub fn give(&mut self, session: SessionId, inos: &[Ino], now: Duration) -> Given {
        let standing = self.renew(session, now);
        let nothing = Given { standing, inos: Vec::new(), ask: None };
        let unforeseen = self.changes.values().any(|change| change.changed == Changed::Anything);
        let mut given = Vec::with_capacity(inos.len());
        for ino in inos {
            let Some(holder) = self.holders.get_mut(&session) else { return nothing };
            let has = holder.inos.contains(ino);
            let full = !has && holder.inos.len() >= self.options.inodes_max;
            if !holder.attended || holder.all.is_some() || full {
                break;
            }
            let rests = self.rests.get(ino).is_some_and(|rest| rest.until > now);
            let changes = self.inodes.get(ino).is_some_and(|copied| copied.changes > 0);
            if unforeseen || changes || (rests && !has) {
                continue;
            }
            holder.inos.insert(*ino);
            let copied = self.inodes.entry(*ino).or_default();
            copied.holders.insert(session);
            copied.given = now;
            given.push(*ino);
        }
        Given { standing, inos: given, ask: self.relief(session, now) }
    }

    /// A session that has too many is asked for all of them, to begin anew.
    fn relief(&mut self, session: SessionId, now: Duration) -> Option<Ask> {
        let number = self.next_number();
        let holder = self.holders.get_mut(&session)?;
        if holder.inos.len() < self.options.inodes_max || holder.all.is_some() {
            return None;
        }
        holder.all = Some(Owed { number, since: now });
        Some(Ask { session, number, inos: None })
    }

    fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// A direct change of `by` is about to enter the log: its number, and who is to be asked. It may when [`Copies::waits_until`]
    /// says so; it is over with [`Copies::over`]. What `by` itself has is its own to look after.
    pub fn begin(&mut self, by: SessionId, changed: Changed, now: Duration) -> (u64, Vec<Ask>) {
        let number = self.next_number();
        let mut asked: BTreeMap<SessionId, Option<Vec<Ino>>> = BTreeMap::new();
        match &changed {
            Changed::Anything => {
                let has = |(session, holder): &(&SessionId, &Holder)| {
                    **session != by && !holder.inos.is_empty()
                };
                let all = self.holders.iter().filter(has);
                asked.extend(all.map(|(session, _)| (*session, None)));
            }
            Changed::Inodes(inos) => {
                for ino in inos {
                    let copied = self.inodes.entry(*ino).or_default();
                    copied.changes += 1;
                    let others = copied.holders.iter().filter(|holder| **holder != by);
                    let mut any = false;
                    for other in others {
                        any = true;
                        let inos = asked.entry(*other).or_insert_with(|| Some(Vec::new()));
                        inos.get_or_insert_default().push(*ino);
                    }
                    let given = copied.given;
                    if any {
                        self.rest(*ino, given, now);
                    }
                }
            }
        }
        let waits = asked.keys().copied().collect();
        self.changes.insert(number, Change { by, changed, since: now, waits });
        let ask = |(session, inos)| Ask { session, number, inos };
        (number, asked.into_iter().map(ask).collect())
    }

    /// An inode that was given at `given` is taken back.
    fn rest(&mut self, ino: Ino, given: Duration, now: Duration) {
        if now.saturating_sub(given) >= WORTH {
            self.rests.remove(&ino);
            return;
        }
        let length = self.rests.get(&ino).map_or(Duration::ZERO, |rest| rest.length);
        let length = (length * 2).clamp(REST_FIRST, REST_LAST);
        self.rests.insert(ino, Rest { until: now + length, length });
    }

    /// The session has let go of what it was asked for under this number. Late answers say nothing: what they are about may have been
    /// given again.
    pub fn given_back(&mut self, session: SessionId, number: u64) {
        if self
            .holders
            .get(&session)
            .is_some_and(|holder| holder.all.is_some_and(|all| all.number == number))
        {
            self.former.remove(&session);
            return self.forget(session);
        }
        let Some(change) = self.changes.get_mut(&number) else { return };
        if !change.waits.remove(&session) {
            return;
        }
        let inos = match &change.changed {
            Changed::Inodes(inos) => Some(inos.clone()),
            Changed::Anything => None,
        };
        let Some(inos) = inos else { return self.forget(session) };
        for ino in inos {
            if let Some(holder) = self.holders.get_mut(&session) {
                holder.inos.remove(&ino);
            }
            self.let_go(session, ino);
        }
    }

    /// None where the change may enter the log; else when it is to be asked again, unless something is given back before.
    pub fn waits_until(&mut self, number: u64, now: Duration) -> Option<Duration> {
        let change = self.changes.get(&number)?;
        let former = self.former.iter().any(|session| *session != change.by);
        let mut until = (former && self.former_until > now).then_some(self.former_until);
        for session in change.waits.clone() {
            match self.holders.get(&session).map(|holder| holder.until).filter(|end| *end > now) {
                Some(end) => until = Some(until.map_or(end, |until| until.min(end))),
                None => self.lapse(session),
            }
        }
        until
    }

    /// The session was not heard of for so long that it answers from copies no more.
    fn lapse(&mut self, session: SessionId) {
        self.forget(session);
        let era = self.next_era();
        if let Some(holder) = self.holders.get_mut(&session) {
            holder.era = era;
        }
    }

    /// What came of the change is known, or it will not enter the log.
    pub fn over(&mut self, number: u64) {
        let Some(Change { changed: Changed::Inodes(inos), .. }) = self.changes.remove(&number)
        else {
            return;
        };
        for ino in inos {
            if let Some(copied) = self.inodes.get_mut(&ino) {
                copied.changes -= 1;
                if copied.holders.is_empty() && copied.changes == 0 {
                    self.inodes.remove(&ino);
                }
            }
        }
    }

    /// Forgets what time has made meaningless. To be called now and then.
    pub fn tend(&mut self, now: Duration) {
        // The length of a rest counts for as long again.
        self.rests.retain(|_, rest| rest.until + rest.length > now);
        if self.former_until <= now {
            self.former.clear();
        }
    }

    /// How many inodes a session has copies of.
    pub fn count(&self, session: SessionId) -> usize {
        self.holders.get(&session).map_or(0, |holder| holder.inos.len())
    }
}
