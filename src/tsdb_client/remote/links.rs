//! The connections to the nodes, and which of them leads.
//!
//! A thread for each node keeps its two connections up, so that a node which cannot be reached holds up nobody; a thread for
//! all of them (`seek`) finds the leader, attends it and renews the lease. Not here: the session itself (`session`), what is asked over a connection.

mod copying;
mod roll;
mod session;

pub(super) use roll::Roll;

use crate::env::Clock;
use crate::net::DialSecurity;
use crate::net::Keep;
use crate::net::Line;
use crate::net::Net;
use crate::net::Service;
use crate::telemetry::counter::CLIENT_FAILOVERS;
use crate::tsdb_client::remote::ELECTION;
use crate::tsdb_client::remote::Options;
use crate::tsdb_client::remote::WhenDown;
use crate::tsdb_client::remote::hear::Hear;
use crate::tsdb_client::remote::link::Link;
use crate::tsdb_client::remote::stream::Stream;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::wire::Listener;
use crate::wire::Whole;
use crate::wire::message;
use crate::wire::message::Hello;
use crate::wire::message::NodeAt;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

/// Nodes that a client keeps connections to. A cluster has a handful; a list that is longer is not one.
const NODES_MAX: usize = 64;
/// A mount that is made waits so long for a cluster.
const FIRST: Duration = Duration::from_secs(30);
/// Even where the cluster has been away for long, a call looks for so long.
const MOMENT: Duration = Duration::from_millis(100);

struct State {
    nodes: Vec<Keep>,
    /// The one that leads and knows our session.
    leader: Option<Link>,
    /// Who is said to lead.
    hint: Option<NodeId>,
    /// As a node that leads said.
    roll: Arc<Roll>,
    /// What it said last could not be.
    senseless: bool,
    /// The latest term in which somebody was found to lead.
    term: u64,
    session: Option<Member>,
    /// The lease is to be renewed before it is time.
    renew: bool,
    /// Since when nobody leads, as far as this client knows.
    down_since: Option<Duration>,
    closed: bool,
    /// Whoever waits was told that nobody leads.
    told_away: bool,
}

/// Our membership.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) session: SessionId,
    pub(super) listener: Arc<dyn Listener>,
    pub(super) whole: Option<Whole>,
}

pub(super) struct Links {
    net: Arc<Net>,
    options: Options,
    hello: Hello,
    clock: Arc<dyn Clock>,
    pub(super) stream: Arc<Stream>,
    state: Mutex<State>,
    /// Anything of it changed.
    changed: Condvar,
    /// Until when our session may answer by itself, on the steady clock, in nanoseconds.
    lease: AtomicU64,
    /// How long a lease is, in nanoseconds; zero before there is one.
    pub(super) lease_length: AtomicU64,
    /// Bytes that may still be written, as the leader last said, less what was sent since.
    pub(super) space: AtomicU64,
    /// Questions that wait for an answer.
    asking: AtomicU64,
    copying: Mutex<copying::State>,
}

/// A question that waits for its answer.
pub(super) struct Asking<'a>(&'a AtomicU64);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Links {
    pub(super) fn start(
        net: Arc<Net>,
        options: Options,
        hello: Hello,
        clock: Arc<dyn Clock>,
        stream: Arc<Stream>,
    ) -> Result<Arc<Links>, FsError> {
        let addresses = options.addresses.clone();
        let state = State {
            nodes: Vec::new(),
            leader: None,
            hint: None,
            roll: Arc::default(),
            senseless: false,
            term: 0,
            session: None,
            renew: false,
            down_since: Some(clock.steady()),
            closed: false,
            told_away: false,
        };
        let links = Arc::new(Links {
            net,
            options,
            hello,
            clock,
            stream,
            state: Mutex::new(state),
            changed: Condvar::new(),
            lease: AtomicU64::new(0),
            lease_length: AtomicU64::new(0),
            space: AtomicU64::new(0),
            asking: AtomicU64::new(0),
            copying: Mutex::default(),
        });
        for address in addresses {
            links.know(&address)?;
        }
        let seeker = Arc::downgrade(&links);
        start("tsfs-leader", move || {
            while let Some(links) = seeker.upgrade() {
                if !links.seek() {
                    return;
                }
            }
        })?;
        Ok(links)
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.steady()
    }

    pub(super) fn when_down(&self) -> WhenDown {
        self.options.when_down
    }

    /// Until when a call that begins now waits for a leader; `None`: as long as it takes.
    pub(super) fn until(&self) -> Option<Duration> {
        let (now, state) = (self.now(), self.state.lock());
        // Counted from when it went away: not anew by each call.
        let since = state.down_since.unwrap_or(now);
        let at_least = |time: Duration| Some((since + time).max(now + MOMENT));
        match self.options.when_down {
            // Somebody waits for the mount, who can be told what is wrong.
            _ if state.session.is_none() => at_least(FIRST),
            WhenDown::Wait => None,
            WhenDown::Eio(time) => at_least(time.max(ELECTION)),
            // Somebody else is asked then; the leader is looked for all the while.
            WhenDown::Stale => Some(since + ELECTION),
        }
    }

    /// The leader's link; waits for one.
    ///
    /// # Errors
    /// `Unreachable` with what is wrong with each node, `Closing`.
    pub(super) fn link(&self, until: Option<Duration>) -> Result<Link, FsError> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(FsError::Closing);
            }
            if let Some(link) = state.leader.as_ref().filter(|link| link.is_up()) {
                return Ok(link.clone());
            }
            if state.session.is_none() && state.is_refused() {
                return Err(FsError::Unreachable(state.trouble()));
            }
            let Some(until) = until else {
                self.changed.wait(&mut state);
                continue;
            };
            let left = until.saturating_sub(self.now());
            if left.is_zero() {
                return Err(FsError::Unreachable(state.trouble()));
            }
            self.changed.wait_for(&mut state, left);
        }
    }

    /// The links to all nodes that can be reached.
    pub(super) fn all(&self) -> Vec<Link> {
        self.state.lock().nodes.iter().filter_map(Keep::pair).filter_map(Link::new).collect()
    }

    pub(super) fn term(&self) -> u64 {
        self.state.lock().term
    }

    /// Somebody waits for an answer of the node that leads.
    pub(super) fn is_waiting(&self) -> bool {
        self.asking.load(Relaxed) > 0 || self.stream.is_waiting()
    }

    /// Counts a question as long as it lives.
    pub(super) fn asking(&self) -> Asking<'_> {
        self.asking.fetch_add(1, Relaxed);
        Asking(&self.asking)
    }

    /// The lease is renewed without waiting for its time.
    pub(super) fn renew_soon(&self) {
        self.state.lock().renew = true;
        self.changed.notify_all();
    }

    pub(super) fn take_renew(&self) -> bool {
        std::mem::take(&mut self.state.lock().renew)
    }

    /// Waits until some connection changes, at most so long.
    pub(super) fn wait_for_change(&self, most: Duration) {
        let mut state = self.state.lock();
        if !state.closed {
            self.changed.wait_for(&mut state, most);
        }
    }

    /// This link does not lead, or is gone. Waits for nothing.
    pub(super) fn lost(&self, generation: u64, leader: Option<NodeId>) {
        let mut state = self.state.lock();
        if state.leader.as_ref().is_some_and(|link| link.generation == generation) {
            state.leader = None;
            state.hint = leader;
            state.down_since = Some(self.now());
            self.changed.notify_all();
        }
    }

    /// This link leads, and knows our session.
    pub(super) fn found(&self, link: Link) {
        let mut state = self.state.lock();
        if let Some(since) = state.down_since.take() {
            CLIENT_FAILOVERS.add(1);
            let took_ms = self.now().saturating_sub(since).as_millis() as u64;
            tracing::info!(node = link.node.0, took_ms, "this node leads");
        }
        state.leader = Some(link);
        let back = std::mem::take(&mut state.told_away);
        let listener = state.session.as_ref().map(|member| member.listener.clone());
        drop(state);
        self.changed.notify_all();
        if let Some(listener) = listener.filter(|_| back) {
            listener.away(None);
        }
    }

    /// Tells whoever waits for what was sent, once nobody has led for as long as calls wait.
    pub(super) fn tell_away(&self) {
        let limit = match self.options.when_down {
            WhenDown::Wait => return,
            WhenDown::Eio(time) => time.max(ELECTION),
            WhenDown::Stale => ELECTION,
        };
        let mut state = self.state.lock();
        let due = state.down_since.is_some_and(|since| since + limit <= self.now());
        let listener = state.session.as_ref().map(|member| member.listener.clone());
        let Some(listener) = listener.filter(|_| due && !state.told_away) else { return };
        state.told_away = true;
        let why = state.trouble();
        drop(state);
        listener.away(Some(&why));
    }

    /// Whether nobody leads, for longer than an election takes.
    pub(super) fn is_down(&self) -> bool {
        let (now, state) = (self.now(), self.state.lock());
        let up = state.leader.as_ref().is_some_and(Link::is_up);
        !up && state.down_since.is_some_and(|since| since + ELECTION <= now)
    }

    /// Nobody leads, as far as is known: from now on, unless it has been so for longer.
    pub(super) fn down(&self) {
        let now = self.now();
        self.state.lock().down_since.get_or_insert(now);
    }

    pub(super) fn leader(&self) -> Option<Link> {
        self.state.lock().leader.clone().filter(Link::is_up)
    }

    pub(super) fn hint(&self) -> Option<NodeId> {
        self.state.lock().hint
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.leader = None;
        let nodes = std::mem::take(&mut state.nodes);
        drop(state);
        // Their ends are told, which asks for the lock.
        drop(nodes);
        self.changed.notify_all();
    }
}

impl State {
    /// No node lets us in, and trying again will not change that.
    fn is_refused(&self) -> bool {
        !self.nodes.is_empty() && self.nodes.iter().all(Keep::is_refused)
    }

    /// What is wrong with each node.
    fn trouble(&self) -> String {
        let each = self.nodes.iter().map(|node| match node.trouble() {
            Some(why) => why,
            None if node.pair().is_some() => {
                format!("{} answers, but does not lead", node.address())
            }
            None => format!("{} was not reached yet", node.address()),
        });
        let senseless = self.senseless.then(|| roll::SENSELESS.to_owned());
        let each: Vec<String> = each.chain(senseless).collect();
        format!("no majority of the nodes answers: {}", each.join("; "))
    }
}

/// Keeping the connections up.
impl Links {
    /// Keeps connections to this node as well.
    ///
    /// # Errors
    /// `Io` where there can be no more threads.
    pub(super) fn know(self: &Arc<Links>, address: &str) -> Result<(), FsError> {
        let mut state = self.state.lock();
        let known = state.nodes.iter().any(|node| node.address() == address);
        if known || state.closed || state.nodes.len() >= NODES_MAX {
            return Ok(());
        }
        let (for_service, for_change) = (Arc::downgrade(self), Arc::downgrade(self));
        let line = Line {
            address: address.to_owned(),
            hello: {
                let hello = message::encode(&self.hello);
                Box::new(move || hello.clone())
            },
            security: DialSecurity::Tls(self.options.credentials.clone(), None),
            service: Box::new(move || Arc::new(Hear::new(for_service.clone())) as Arc<dyn Service>),
            changed: Arc::new(move || {
                if let Some(links) = for_change.upgrade() {
                    // Whoever waits has looked under this lock.
                    drop(links.state.lock());
                    links.changed.notify_all();
                }
            }),
        };
        state.nodes.push(Keep::start(&self.net, line)?);
        Ok(())
    }

    /// There are nodes at these addresses, or were: who they are they say themselves.
    pub(super) fn hear_of(self: &Arc<Links>, nodes: &[NodeAt]) {
        for node in nodes {
            if let Err(error) = self.know(&node.address) {
                tracing::warn!(%error, address = %node.address, "a node is not used");
            }
        }
    }
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), FsError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(drop)
        .map_err(|error| FsError::io(format_args!("start the thread {name}"), &error))
}
