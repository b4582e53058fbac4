//! The leader's volatile side of ownership: whose lease lasts how long, what is asked back from whom, who is to flush.
//!
//! Pure: it is told what happened and when, and says what is to be done. Nothing here outlives a reign; a new leader begins
//! with the sessions that the rows have, each with a lease from then on. Not here: who owns what (`meta::own`), sending
//! and proposing (`tsdb_server::lock_node`).

pub mod circles;
pub mod copies;
#[cfg(test)]
mod tests;

use crate::types::Ino;
use crate::types::SessionId;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

/// Inodes after the one that is wanted which are asked back with it at most, of those that a session made.
const AHEAD_MAX: u32 = 256;
/// Asked back one by one before more are asked back at once.
const AHEAD_AFTER: u32 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Options {
    /// How long a session's rights last after it was heard of.
    pub lease: Duration,
    /// How long a session that renews may take to give back what it is asked for. Longer than a lease: it may have much to flush.
    pub yield_within: Duration,
    /// A session that is asked for more inodes than this within a lease is asked for the whole.
    pub inodes_max: u32,
}

impl Default for Options {
    fn default() -> Options {
        let seconds = Duration::from_secs;
        Options { lease: seconds(10), yield_within: seconds(30), inodes_max: 1000 }
    }
}

/// Through what a session owns an inode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Through {
    Whole,
    /// A range of numbers. What follows the inode up to `last` was made by the session too.
    Range {
        last: Ino,
    },
}

/// What is asked back.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum What {
    Inodes(Vec<Ino>),
    Whole,
}

/// What the driver is to do, in this order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Tell the session to give back.
    Recall { session: SessionId, what: What },
    /// Tell the session to flush what it has.
    Flush { session: SessionId, round: u64 },
    /// Propose that the session ends. Said again with every tick until it is known to have.
    End { session: SessionId, why: String },
    /// Propose that the session gets the whole. Likewise.
    GrantWhole { session: SessionId },
}

/// The session is not open, or about to be ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone;

/// What is known of a session.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Member {
    /// None: it lives in this process, and as long.
    until: Option<Duration>,
    /// There is a way to tell it something.
    attended: bool,
    /// Why it is to end.
    ending: Option<String>,
    /// Inodes that it was or is to be asked for, and since when.
    recalls: BTreeMap<Ino, Duration>,
    /// The same of the whole.
    whole: Option<Duration>,
    asked: Asked,
    /// Something is not its own that would be if it got the whole.
    lacks: bool,
}

/// How much a session was asked for lately.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Asked {
    since: Duration,
    /// Of the whole.
    inodes: u32,
    /// Of what it made.
    made: u32,
    /// How many were asked back in advance the last time.
    ahead: u32,
}

/// Who has yet to say that it has flushed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Round {
    left: BTreeSet<SessionId>,
    until: Duration,
}

/// What a status shows of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    pub session: SessionId,
    pub attended: bool,
    /// Zero where it has run out; none where there is no lease.
    pub left: Option<Duration>,
    /// Inodes asked back, the whole as one.
    pub recalls: usize,
    pub ending: bool,
}

/// The sessions of one reign.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Leases {
    options: Options,
    members: BTreeMap<SessionId, Member>,
    rounds: BTreeMap<u64, Round>,
    next_round: u64,
    /// When it was last told something, or asked.
    last: Duration,
}

impl Leases {
    /// Takes office: each session has a lease from now on, and nobody is asked for anything.
    pub fn new(
        options: Options,
        sessions: impl IntoIterator<Item = SessionId>,
        now: Duration,
    ) -> Leases {
        let (members, rounds) = (BTreeMap::new(), BTreeMap::new());
        let mut leases = Leases { options, members, rounds, next_round: 1, last: now };
        for session in sessions {
            leases.opened(session, now);
        }
        leases
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// This process stood still, so nobody could be heard of: that is not held against them. (The longer the leader waits, the
    /// safer; what matters is that it counts no shorter than the client does.)
    fn catch_up(&mut self, now: Duration) {
        let gap = now.saturating_sub(self.last);
        self.last = now;
        if gap > self.options.lease / 3 {
            let leases = self.members.values_mut().filter_map(|member| member.until.as_mut());
            leases.for_each(|until| *until += gap);
        }
    }

    /// A session was opened. Known already, it is as it was.
    pub fn opened(&mut self, session: SessionId, now: Duration) {
        let until = Some(now + self.options.lease);
        self.members.entry(session).or_insert_with(|| Member { until, ..Member::default() });
    }

    /// The session is one of this process: it needs no lease.
    pub fn keep(&mut self, session: SessionId) {
        if let Some(member) = self.members.get_mut(&session) {
            member.until = None;
        }
    }

    /// A session was ended: nobody waits for it any more.
    pub fn ended(&mut self, session: SessionId) {
        self.members.remove(&session);
        for round in self.rounds.values_mut() {
            round.left.remove(&session);
        }
    }

    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.members.keys().copied()
    }

    fn open(&mut self, session: SessionId) -> Result<&mut Member, Gone> {
        self.members.get_mut(&session).filter(|member| member.ending.is_none()).ok_or(Gone)
    }

    /// The session can be told something from now on: what it was not told, or whose answer may be lost, is told again.
    ///
    /// # Errors
    /// `Gone` where it is too late.
    pub fn attend(&mut self, session: SessionId, now: Duration) -> Result<Vec<Action>, Gone> {
        self.renew(session, now)?;
        self.open(session)?.attended = true;
        Ok(self.repeat(session))
    }

    /// What the session was asked for and has not done: whatever of it was lost on the way is told again.
    pub fn repeat(&self, session: SessionId) -> Vec<Action> {
        let Some(member) = self.members.get(&session).filter(|member| member.attended) else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        let inos: Vec<Ino> = member.recalls.keys().copied().collect();
        if !inos.is_empty() {
            actions.push(Action::Recall { session, what: What::Inodes(inos) });
        }
        if member.whole.is_some() {
            actions.push(Action::Recall { session, what: What::Whole });
        }
        let rounds = self.rounds.iter().filter(|(_, round)| round.left.contains(&session));
        actions.extend(rounds.map(|(round, _)| Action::Flush { session, round: *round }));
        actions
    }

    /// There is no way to tell the session anything any more. Its lease goes on.
    pub fn unattend(&mut self, session: SessionId) {
        if let Some(member) = self.members.get_mut(&session) {
            member.attended = false;
        }
    }

    /// The session was heard of.
    ///
    /// # Errors
    /// `Gone` where it is too late.
    pub fn renew(&mut self, session: SessionId, now: Duration) -> Result<(), Gone> {
        self.catch_up(now);
        let lease = self.options.lease;
        let member = self.open(session)?;
        // Not decided by a tick that has yet to come: who heard of the end of its lease first is nobody's luck.
        if member.until.is_some_and(|until| until <= now) {
            return Err(Gone);
        }
        member.until = member.until.map(|_| now + lease);
        Ok(())
    }

    /// Somebody else needs an inode that `owner` owns.
    pub fn want(
        &mut self,
        owner: SessionId,
        ino: Ino,
        through: Through,
        now: Duration,
    ) -> Vec<Action> {
        self.opened(owner, now);
        let options = self.options;
        let Ok(member) = self.open(owner) else { return Vec::new() };
        if member.recalls.contains_key(&ino) {
            return Vec::new();
        }
        member.recalls.insert(ino, now);
        if now.saturating_sub(member.asked.since) > options.lease {
            member.asked = Asked { since: now, ..Asked::default() };
        }
        let what = match through {
            Through::Whole if member.whole.is_some() => return Vec::new(),
            Through::Whole => {
                member.asked.inodes += 1;
                if member.asked.inodes > options.inodes_max {
                    member.whole = Some(now);
                    What::Whole
                } else {
                    What::Inodes(vec![ino])
                }
            }
            Through::Range { last } => What::Inodes(member.asked.made(ino, last)),
        };
        match member.attended {
            true => vec![Action::Recall { session: owner, what }],
            false => Vec::new(),
        }
    }

    /// Something was given back, or a session has ended: forgets what is not to be waited for any more. `owner` tells who owns an
    /// inode now, `whole` who has the whole.
    pub fn settle<E>(
        &mut self,
        whole: Option<SessionId>,
        mut owner: impl FnMut(Ino) -> Result<Option<SessionId>, E>,
    ) -> Result<(), E> {
        for (session, member) in &mut self.members {
            let mut settled = Vec::new();
            for ino in member.recalls.keys() {
                if owner(*ino)? != Some(*session) {
                    settled.push(*ino);
                }
            }
            for ino in settled {
                member.recalls.remove(&ino);
            }
            member.whole = member.whole.filter(|_| whole == Some(*session));
        }
        Ok(())
    }

    /// Whether the session would gain something by the whole.
    pub fn lacks(&mut self, session: SessionId, lacks: bool) {
        if let Some(member) = self.members.get_mut(&session) {
            member.lacks = lacks;
        }
    }

    /// The session is to end when its lease does, whatever it does until then.
    ///
    /// # Errors
    /// `Gone` where it does already.
    pub fn evict(&mut self, session: SessionId, why: &str) -> Result<(), Gone> {
        self.open(session)?.ending = Some(why.to_owned());
        Ok(())
    }

    /// What is due. To be asked several times in a lease.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        self.catch_up(now);
        let within = self.options.yield_within;
        for member in self.members.values_mut().filter(|member| member.ending.is_none()) {
            let overdue = |since: &Duration| now.saturating_sub(*since) >= within;
            let late = member.recalls.iter().find(|(_, since)| overdue(since));
            member.ending = if member.until.is_some_and(|until| until <= now) {
                Some("it was not heard of for a lease".to_owned())
            } else if let Some((ino, _)) = late {
                Some(format!("it did not give back inode {ino} in time"))
            } else {
                let whole = member.whole.filter(overdue);
                whole.map(|_| "it did not give back the whole in time".to_owned())
            };
        }
        self.rounds.retain(|_, round| round.until > now && !round.left.is_empty());
        // Who is to end is not renewed any more, and may go by what it owns for as long as its lease lasts.
        let is_over = |member: &&Member| member.until.is_none_or(|until| until <= now);
        let ending = self.members.iter().filter_map(|(session, member)| {
            let why = Some(member).filter(is_over)?.ending.clone()?;
            Some(Action::End { session: *session, why })
        });
        let mut actions: Vec<Action> = ending.collect();
        if let Some((session, member)) = self.members.first_key_value()
            && self.members.len() == 1
            && member.ending.is_none()
            && member.attended
            && member.lacks
            && member.recalls.is_empty()
            && member.whole.is_none()
        {
            actions.push(Action::GrantWhole { session: *session });
        }
        actions
    }

    /// All but `by` are to flush. The number of the round, to ask [`Leases::is_flushed`] for.
    pub fn flush(&mut self, by: SessionId, now: Duration) -> (u64, Vec<Action>) {
        let round = self.next_round;
        self.next_round += 1;
        let others = self.members.iter().filter(|(session, _)| **session != by);
        let actions = others.clone().filter(|(_, member)| member.attended);
        let actions = actions.map(|(session, _)| Action::Flush { session: *session, round });
        let actions = actions.collect();
        let left: BTreeSet<SessionId> = others.map(|(session, _)| *session).collect();
        if !left.is_empty() {
            self.rounds.insert(round, Round { left, until: now + self.options.lease });
        }
        (round, actions)
    }

    pub fn flushed(&mut self, session: SessionId, round: u64) {
        if let Some(round) = self.rounds.get_mut(&round) {
            round.left.remove(&session);
        }
    }

    /// All have flushed that were asked, or had a lease's time for it.
    pub fn is_flushed(&self, round: u64, now: Duration) -> bool {
        self.rounds.get(&round).is_none_or(|round| round.left.is_empty() || round.until <= now)
    }

    /// Something is waited for: the driver looks more often.
    pub fn is_waited_for(&self) -> bool {
        let asked = |member: &Member| !member.recalls.is_empty() || member.whole.is_some();
        !self.rounds.is_empty() || self.members.values().any(asked)
    }

    pub fn standing(&self, now: Duration) -> Vec<Standing> {
        let standing = |(session, member): (&SessionId, &Member)| Standing {
            session: *session,
            attended: member.attended,
            left: member.until.map(|until| until.saturating_sub(now)),
            recalls: member.recalls.len() + usize::from(member.whole.is_some()),
            ending: member.ending.is_some(),
        };
        self.members.iter().map(standing).collect()
    }
}

impl Asked {
    /// What to ask back of what a session made: who goes through a tree that another has just made would else ask for each
    /// inode by itself. They were made in about the order in which they are looked at.
    fn made(&mut self, ino: Ino, last: Ino) -> Vec<Ino> {
        self.made += 1;
        if self.made > AHEAD_AFTER {
            self.ahead = (self.ahead * 2).clamp(4, AHEAD_MAX);
        }
        let end = last.get().min(ino.get() + u64::from(self.ahead)).max(ino.get());
        (ino.get()..=end).filter_map(Ino::new).collect()
    }
}
