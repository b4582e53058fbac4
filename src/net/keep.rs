//! Keeping two connections to an address up: one for what is short and urgent, one for what is long.
//!
//! A thread for each address dials, waits until one of the two ends, and dials again, less and less often: an address that
//! cannot be reached holds up nobody else. Not here: who is at the address, and what to say to it.

use super::Connection;
use super::Dial;
use super::DialSecurity;
use super::Net;
use super::NetError;
use super::Service;
use crate::wire::greeting::Purpose;
use crate::wire::greeting::Why;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

/// Between two attempts: at first, and at most.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_MOST: Duration = Duration::from_secs(2);

/// Numbers the pairs of this process.
static PAIRS: AtomicU64 = AtomicU64::new(1);

/// Both connections to an address.
pub struct Pair {
    /// Rises with every pair: what is said of one does not touch the next.
    pub generation: u64,
    /// What the other side said when it let the first one in.
    pub welcome: Bytes,
    pub control: Connection,
    pub bulk: Connection,
}

impl Pair {
    pub fn is_up(&self) -> bool {
        !self.control.is_closed() && !self.bulk.is_closed()
    }
}

/// What it takes to connect, for both.
pub struct Line {
    pub address: String,
    /// What is said first, as it is when a connection is begun.
    pub hello: Box<dyn Fn() -> Bytes + Send + Sync>,
    pub security: DialSecurity,
    /// What serves each of the two.
    pub service: Box<dyn Fn() -> Arc<dyn Service> + Send + Sync>,
    /// Called when the pair comes or goes. It must not wait.
    pub changed: Arc<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    pair: Option<Arc<Pair>>,
    trouble: Option<Trouble>,
    closed: bool,
}

/// Why an address could not be reached.
struct Trouble {
    why: String,
    /// People must do something: trying again is of no use by itself.
    lasting: bool,
}

impl From<NetError> for Trouble {
    fn from(error: NetError) -> Trouble {
        let lasting = match &error {
            NetError::Unproven(_) => true,
            NetError::Refused(refusal) => !matches!(refusal.why, Why::Full | Why::Closing),
            _ => false,
        };
        Trouble { why: error.to_string(), lasting }
    }
}

struct Shared {
    net: Arc<Net>,
    line: Line,
    state: Mutex<State>,
    told: Condvar,
}

/// Dropping it closes the connections.
pub struct Keep(Arc<Shared>);

impl Keep {
    /// # Errors
    /// `Local` where there can be no more threads.
    pub fn start(net: &Arc<Net>, line: Line) -> Result<Keep, NetError> {
        let (net, state, told) = (Arc::clone(net), Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { net, line, state, told });
        let keeping = Arc::clone(&shared);
        thread::Builder::new()
            .name("net-keep".to_owned())
            .spawn(move || keeping.run())
            .map_err(|error| NetError::Local(format!("start the thread net-keep: {error}")))?;
        Ok(Keep(shared))
    }

    pub fn address(&self) -> &str {
        &self.0.line.address
    }

    /// Both connections, where they are up.
    pub fn pair(&self) -> Option<Arc<Pair>> {
        self.0.state.lock().pair.clone().filter(|pair| pair.is_up())
    }

    /// Whether it could not be reached last for a reason that people must see to.
    pub fn is_refused(&self) -> bool {
        self.0.state.lock().trouble.as_ref().is_some_and(|trouble| trouble.lasting)
    }

    /// Why the address could not be reached last; `None` while it is, and before the first attempt.
    pub fn trouble(&self) -> Option<String> {
        self.0.state.lock().trouble.as_ref().map(|trouble| trouble.why.clone())
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        let pair = state.pair.take();
        drop(state);
        if let Some(pair) = pair {
            pair.control.close();
            pair.bulk.close();
        }
        self.0.told.notify_all();
    }
}

impl Shared {
    fn run(self: &Arc<Shared>) {
        let mut pause = AGAIN_FIRST;
        loop {
            let dialled = self.dial();
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            match dialled {
                Ok(pair) => {
                    (state.pair, state.trouble) = (Some(Arc::new(pair)), None);
                    pause = AGAIN_FIRST;
                    drop(state);
                    (self.line.changed)();
                    state = self.state.lock();
                    while !state.closed && state.pair.as_ref().is_some_and(|pair| pair.is_up()) {
                        self.told.wait(&mut state);
                    }
                    // The last clone of a connection closes it: not under the lock that this asks for.
                    let gone = state.pair.take();
                    drop(state);
                    drop(gone);
                    (self.line.changed)();
                }
                Err(error) => {
                    let trouble = Trouble::from(error);
                    if state.trouble.as_ref().is_none_or(|known| known.why != trouble.why) {
                        tracing::warn!(address = %self.line.address, error = %trouble.why, "a node is not reached");
                    }
                    state.trouble = Some(trouble);
                    drop(state);
                    (self.line.changed)();
                    state = self.state.lock();
                    if !state.closed {
                        self.told.wait_for(&mut state, pause);
                    }
                    pause = (pause * 2).min(AGAIN_MOST);
                }
            }
        }
    }

    fn dial(self: &Arc<Shared>) -> Result<Pair, NetError> {
        let line = &self.line;
        let dial = |purpose| Dial {
            address: line.address.clone(),
            purpose,
            hello: (line.hello)(),
            security: line.security.clone(),
            service: (line.service)(),
        };
        let (control, welcome) = self.net.dial(dial(Purpose::Control))?;
        let (bulk, _) = self.net.dial(dial(Purpose::Bulk))?;
        let generation = PAIRS.fetch_add(1, Relaxed);
        for connection in [&control, &bulk] {
            let shared = Arc::downgrade(self);
            connection.on_closed(move |why| {
                if let Some(shared) = shared.upgrade() {
                    tracing::info!(address = %shared.line.address, %why, "a connection ended");
                    // Whoever waits has looked under this lock.
                    drop(shared.state.lock());
                    shared.told.notify_all();
                    (shared.line.changed)();
                }
            });
        }
        Ok(Pair { generation, welcome, control, bulk })
    }
}
