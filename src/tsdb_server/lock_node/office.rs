//! A reign of this node: the sessions with their leases, and how each is told something.
//!
//! Not here: the lock around it, and calling listeners, which is done without that lock.

use crate::lease::Action;
use crate::lease::Leases;
use crate::lease::Options;
use crate::lease::What;
use crate::lease::copies;
use crate::lease::copies::Ask;
use crate::lease::copies::Copies;
use crate::series::table::Rows;
use crate::tsdb_server::lock_node::circles::LockCircles;
use crate::tsdb_server::lock_node::rights::Rights;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use crate::types::Term;
use crate::wire::Listener;
use crate::wire::Recall;
use crate::wire::Whole;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A reign.
pub(super) struct Office {
    /// In which it leads.
    pub(super) term: Term,
    pub(super) leases: Leases,
    pub(super) copies: Copies,
    pub(super) circles: LockCircles,
    pub(super) listeners: BTreeMap<SessionId, Arc<dyn Listener>>,
    /// The turn as of which sessions and recalls are those of the rows.
    turn: Option<u64>,
    /// To be told once the lock is let go of. Also keeps listeners that are replaced until then: one may be a connection, and
    /// go with its last reference.
    pub(super) calls: Vec<(Arc<dyn Listener>, Call)>,
}

/// What a session is told.
pub(super) enum Call {
    Recall(Recall),
    Flush {
        session: SessionId,
        round: u64,
    },
    Whole(Whole),
    Ended(String),
    TakeBack(Ask),
    /// Nothing is in the way any more of what it wanted to lock.
    Unlocked(Ino),
    /// Nothing any more.
    Replaced,
}

impl Office {
    /// Every session that is open has a lease from now on.
    pub(super) fn new(term: Term, options: Options, rights: &Rights, now: Duration) -> Office {
        let open = rights.sessions.iter().filter(|(_, member)| member.open);
        let sessions: Vec<SessionId> = open.map(|(session, _)| *session).collect();
        let copies = Copies::new(copies::Options::default(), term, sessions.clone(), now);
        let leases = Leases::new(options, sessions, now);
        Office {
            term,
            leases,
            copies,
            circles: LockCircles::default(),
            listeners: BTreeMap::new(),
            turn: None,
            calls: Vec::new(),
        }
    }

    /// Takes over what has changed in the rows.
    pub(super) fn follow(
        &mut self,
        rights: &Rights,
        rows: &dyn Rows,
        now: Duration,
    ) -> Result<(), FsError> {
        if self.turn.is_some() && self.turn >= rights.turn {
            return Ok(());
        }
        for (session, _) in rights.sessions.iter().filter(|(_, member)| member.open) {
            self.leases.opened(*session, now);
        }
        let is_open =
            |session: &SessionId| rights.sessions.get(session).is_some_and(|member| member.open);
        let gone: Vec<SessionId> =
            self.leases.sessions().filter(|session| !is_open(session)).collect();
        for session in gone {
            self.leases.ended(session);
            self.copies.end(session);
            self.call(session, Call::Ended("its session was ended".to_owned()));
            self.listeners.remove(&session);
        }
        let whole = rights.grant.as_ref().map(|grant| grant.session);
        self.leases.settle(whole, |ino| {
            Ok::<_, FsError>(rights.owner(rows, ino)?.map(|owner| owner.session))
        })?;
        if let ([session], None) =
            (&self.leases.sessions().collect::<Vec<_>>()[..], rights.ending())
        {
            self.leases.lacks(*session, rights.lacks(rows, *session)?);
        }
        self.turn = rights.turn;
        Ok(())
    }

    pub(super) fn call(&mut self, session: SessionId, call: Call) {
        if let Some(listener) = self.listeners.get(&session) {
            self.calls.push((listener.clone(), call));
        }
    }

    /// Has sessions told which copies to let go of.
    pub(super) fn take_back(&mut self, asks: impl IntoIterator<Item = Ask>) {
        for ask in asks {
            self.call(ask.session, Call::TakeBack(ask));
        }
    }

    /// Notes what sessions are to be told. Gives back what is to be proposed.
    pub(super) fn act(&mut self, actions: Vec<Action>) -> Vec<Action> {
        let mut proposed = Vec::new();
        let mut recalls: BTreeMap<SessionId, Vec<Ino>> = BTreeMap::new();
        for action in actions {
            match action {
                Action::Recall { session, what: What::Inodes(inos) } => {
                    recalls.entry(session).or_default().extend(inos);
                }
                Action::Recall { session, what: What::Whole } => {
                    self.call(session, Call::Recall(Recall::Whole));
                }
                Action::Flush { session, round } => {
                    self.call(session, Call::Flush { session, round });
                }
                Action::End { .. } | Action::GrantWhole { .. } => proposed.push(action),
            }
        }
        for (session, inos) in recalls {
            self.call(session, Call::Recall(Recall::Inodes(inos)));
        }
        proposed
    }
}
