//! The server of a mount, where it is on other machines: `wire::Server` over connections to the nodes of a cluster.
//!
//! Whoever calls does not notice which node leads, or that another does now: a question is asked again, a proposal is kept
//! until it is applied and sent again to the next leader, in order; its number makes that happen once. How long a call
//! waits where no majority answers is the mount's to say ([`WhenDown`]).
//!
//! `links` keeps the connections, `seek` finds who leads, `stream` keeps the proposals, `blocks` puts contents on several
//! nodes, `hear` takes what a node tells unasked. Not here: what a client does with any of it.

mod blocks;
mod hear;
mod link;
mod links;
mod seek;
mod stream;
mod when_down;

pub use when_down::WhenDown;

use crate::env;
use crate::env::Clock;
use crate::meta::op::Op;
use crate::net::Bounds;
use crate::net::Credentials;
use crate::net::Net;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Version;
use crate::tsdb_client::remote::blocks::Blocks;
use crate::tsdb_client::remote::links::Links;
use crate::tsdb_client::remote::stream::Stream;
use crate::types::AsOf;
use crate::types::BlockId;
use crate::types::Era;
use crate::types::FsError;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::frame::Frame;
use crate::wire::Applied;
use crate::wire::Circled;
use crate::wire::Copying;
use crate::wire::Durable;
use crate::wire::Listener;
use crate::wire::Moment;
use crate::wire::Page;
use crate::wire::Proposal;
use crate::wire::Server;
use crate::wire::Status;
use crate::wire::Waiting;
use crate::wire::Welcome;
use crate::wire::message;
use crate::wire::message::Hello;
use crate::wire::message::LastKnown;
use crate::wire::message::Request;
use crate::wire::message::Response;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// What it takes to reach a cluster.
#[derive(Clone)]
pub struct Options {
    /// Where nodes listen, as `HOST:PORT`: one that answers is enough, for it knows the others.
    pub addresses: Vec<String>,
    pub when_down: WhenDown,
    pub credentials: Arc<Credentials>,
}

/// A call waits this long for a cluster that is between two leaders, whatever [`WhenDown`] says: an election is no outage.
const ELECTION: Duration = Duration::from_secs(3);
/// Between two questions to a node that had no answer.
const AGAIN: Duration = Duration::from_millis(50);
/// How long one answer may take. A leader that waits for others to give something back says so within 45 s.
const PATIENCE: Duration = Duration::from_secs(50);
/// For what may take minutes: purging, forgetting, a full disk.
const LONG_PATIENCE: Duration = Duration::from_secs(600);

/// See the module's text. Dropping it closes the connections.
pub struct Remote {
    links: Arc<Links>,
    stream: Arc<Stream>,
    blocks: Blocks,
}

/// Which of the connections to a node something goes over: what is long must not delay what is urgent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lane {
    Control,
    Bulk,
}

impl Remote {
    /// Begins to look for the cluster. Waits for nothing.
    ///
    /// # Errors
    /// `Io` where threads cannot be started.
    pub fn connect(options: Options, clock: Arc<dyn Clock>) -> Result<Arc<Remote>, FsError> {
        let net = Net::start(clock.clone(), Bounds::default())?;
        let hello = Hello {
            store: options.credentials.current().store().0,
            node: None,
            boot: u64::from_le_bytes(env::random()),
            features: crate::meta::apply::FEATURES,
            life: None,
        };
        let stream = Arc::new(Stream::default());
        let links = Links::start(net, options, hello, clock, stream.clone())?;
        let blocks = Blocks::new(links.clone());
        Ok(Arc::new(Remote { links, stream, blocks }))
    }

    /// Asks the leader, whoever that is, until it answers.
    fn ask(&self, lane: Lane, request: &Request) -> Result<(Response, Bytes), FsError> {
        self.ask_for(lane, request, PATIENCE)
    }

    fn ask_for(
        &self,
        lane: Lane,
        request: &Request,
        patience: Duration,
    ) -> Result<(Response, Bytes), FsError> {
        let meta = message::encode(request);
        let until = self.links.until();
        let _asking = self.links.asking();
        loop {
            let link = self.links.link(until)?;
            match link.call(lane, meta.clone(), Bytes::new(), patience) {
                Ok((Response::Failed(FsError::NotLeader { leader }), _)) => {
                    self.links.lost(link.generation, leader);
                }
                // It leads and cannot answer in time, or ends: it is asked again, and whoever leads by then.
                Ok((Response::Failed(error @ (FsError::Unreachable(_) | FsError::Closing)), _)) => {
                    if until.is_some_and(|until| until <= self.links.now()) {
                        return Err(error);
                    }
                    self.links.wait_for_change(AGAIN);
                }
                Ok((Response::Failed(error), _)) => return Err(error),
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    tracing::debug!(%error, "a question was not answered");
                    self.links.lost(link.generation, None);
                }
            }
        }
    }

    fn session(&self) -> SessionId {
        self.links.session().unwrap_or(SessionId(0))
    }
}

/// An answer of another kind than was asked for.
fn unexpected(response: &Response) -> FsError {
    FsError::Io(format!("a node gave another answer than it was asked for: {response:?}"))
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Server for Remote {
    fn open_session(&self, client: &str, listener: Arc<dyn Listener>) -> Result<Welcome, FsError> {
        let asked = self.links.now();
        // Where its answer is lost it is asked again, and is to begin one session all the same.
        let opening = u64::from_le_bytes(env::random());
        let request = Request::OpenSession { client: client.to_owned(), opening };
        match self.ask(Lane::Control, &request)? {
            (Response::Opened { welcome, lease_ms }, _) => {
                self.links.begin_session(&welcome, listener, asked, lease_ms);
                Ok(welcome)
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn lease(&self) -> Duration {
        self.links.lease()
    }

    fn grant_inos(&self, session: SessionId, count: u64) -> Result<u64, FsError> {
        match self.ask(Lane::Control, &Request::GrantInos { session, count })? {
            (Response::First(first), _) => Ok(first),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn propose(&self, proposal: Proposal, durable: Durable, applied: Applied) {
        self.links.spend(proposal.batch.len() as u64);
        self.stream.propose(&self.links, proposal, durable, applied);
    }

    fn together(&self, propose: &mut dyn FnMut()) {
        match self.links.leader() {
            Some(link) => link.connection(Lane::Bulk).together(propose),
            None => propose(),
        }
    }

    fn get(&self, key: &[u8], at: AsOf) -> Result<Option<Bytes>, FsError> {
        let keys = vec![Bytes::copy_from_slice(key)];
        let request = Request::Get { session: self.session(), keys, at };
        match self.read(&request, at)? {
            (Response::Rows(mut rows), _) if rows.len() == 1 => Ok(rows.pop().flatten()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn get_all(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, FsError> {
        let session = self.session();
        let request = Request::Get { session, keys: keys.to_vec(), at: AsOf::Now };
        match self.ask(Lane::Control, &request)? {
            (Response::Rows(rows), _) if rows.len() == keys.len() => Ok(rows),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn copy_all(&self, keys: &[Bytes]) -> Result<(Vec<Option<Bytes>>, Copying), FsError> {
        let (session, asked) = (self.session(), self.links.now());
        let request = Request::Copy { session, keys: keys.to_vec() };
        match self.ask(Lane::Control, &request)? {
            (Response::Copied { rows, copying }, _) if rows.len() == keys.len() => {
                self.links.copied(asked, &copying);
                Ok((rows, copying))
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn copy_page(
        &self,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<(Page, Copying), FsError> {
        let (session, asked) = (self.session(), self.links.now());
        let (range, limit) = (range.clone(), limit as u32);
        let request = Request::CopyPage { session, range, direction, limit };
        match self.ask(Lane::Control, &request)? {
            (Response::CopiedPage { page, copying }, _) => {
                self.links.copied(asked, &copying);
                Ok((page, copying))
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn copying(&self, used: bool) -> (Era, Duration) {
        self.links.copying(used)
    }

    fn waits(&self, after: Moment, waits: Vec<Waiting>) -> Result<Circled, FsError> {
        let session = self.session();
        match self.ask(Lane::Control, &Request::Waits { session, after, waits })? {
            (Response::Circled(circled), _) => Ok(circled),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn scan(
        &self,
        range: &KeyRange,
        at: AsOf,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, FsError> {
        let (session, range, limit) = (self.session(), range.clone(), limit as u32);
        match self.read(&Request::Scan { session, range, at, direction, limit }, at)? {
            (Response::Page(page), _) => Ok(page),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn abandon(&self) {
        self.links.close();
        self.stream.give_up("the mount is closed");
    }

    fn prefers_old(&self) -> bool {
        self.links.when_down() == WhenDown::Stale && self.links.is_down()
    }

    fn old_rows(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, FsError> {
        match self.ask_anybody(LastKnown::Rows { keys: keys.to_vec() })? {
            (Response::Rows(rows), _) if rows.len() == keys.len() => Ok(rows),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn old_page(
        &self,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, FsError> {
        let (range, limit) = (range.clone(), limit as u32);
        match self.ask_anybody(LastKnown::Page { range, direction, limit })? {
            (Response::Page(page), _) => Ok(page),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn versions(
        &self,
        key: &[u8],
        since: Stamp,
        until: Stamp,
        limit: usize,
    ) -> Result<Vec<Version>, FsError> {
        let (key, limit) = (Bytes::copy_from_slice(key), limit as u32);
        match self.ask(Lane::Bulk, &Request::Versions { key, since, until, limit })? {
            (Response::Versions(versions), _) => Ok(versions),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn ended(
        &self,
        range: &KeyRange,
        since: Stamp,
        until: Stamp,
        limit: usize,
    ) -> Result<Vec<(Bytes, Version)>, FsError> {
        let (range, limit) = (range.clone(), limit as u32);
        match self.ask(Lane::Bulk, &Request::Ended { range, since, until, limit })? {
            (Response::Ended(found), _) => Ok(found),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn state(&self, range: &KeyRange, limit: usize) -> Result<Page, FsError> {
        let (range, limit) = (range.clone(), limit as u32);
        let request = Request::State { range: range.clone(), limit };
        let answered = match self.ask(Lane::Control, &request) {
            Err(FsError::Unreachable(_)) if self.prefers_old() => {
                self.ask_anybody(LastKnown::State { range, limit })
            }
            answered => answered,
        };
        match answered? {
            (Response::Page(page), _) => Ok(page),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn changes(&self, since: Stamp, until: Stamp, limit: usize) -> Result<Page, FsError> {
        match self.ask(Lane::Bulk, &Request::Changes { since, until, limit: limit as u32 })? {
            (Response::Page(page), _) => Ok(page),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn barrier(&self) -> Result<Stamp, FsError> {
        match self.ask(Lane::Control, &Request::Barrier { session: self.session() })? {
            (Response::Stamp(stamp), _) => Ok(stamp),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn put_block(&self, block: BlockId, frame: Frame) -> Result<(), FsError> {
        self.links.spend(frame.len() as u64);
        self.blocks.put(block, frame)
    }

    fn sync_blocks(&self) -> Result<(), FsError> {
        self.blocks.sync()
    }

    fn block(&self, block: BlockId) -> Result<Bytes, FsError> {
        self.blocks.get(block)
    }

    fn space_left(&self) -> u64 {
        self.links.space.load(Relaxed)
    }

    fn status(&self) -> Result<Status, FsError> {
        match self.ask(Lane::Control, &Request::Status)? {
            (Response::Status(status), _) => Ok(*status),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn administer_all(&self, by: Option<u32>, ops: Vec<Op>) -> Result<Stamp, FsError> {
        let request = Request::Administer { by, ops };
        match self.ask_for(Lane::Control, &request, LONG_PATIENCE)? {
            (Response::Stamp(stamp), _) => Ok(stamp),
            (other, _) => Err(unexpected(&other)),
        }
    }
}

impl Remote {
    /// A question about rows. Of the past, any node knows the answer; while nobody leads, a mount that prefers to be
    /// answered asks them all.
    fn read(&self, request: &Request, at: AsOf) -> Result<(Response, Bytes), FsError> {
        match self.ask(Lane::Control, request) {
            Err(FsError::Unreachable(_)) if at != AsOf::Now && self.prefers_old() => {
                self.ask_everybody(request)
            }
            answered => answered,
        }
    }

    fn ask_anybody(&self, asked: LastKnown) -> Result<(Response, Bytes), FsError> {
        self.ask_everybody(&Request::LastKnown(asked))
    }

    /// The first answer of those who can be reached.
    fn ask_everybody(&self, request: &Request) -> Result<(Response, Bytes), FsError> {
        let meta = message::encode(request);
        for link in self.links.all() {
            match link.call(Lane::Control, meta.clone(), Bytes::new(), PATIENCE) {
                Ok((Response::Failed(error), _)) => tracing::debug!(%error, "a node cannot say"),
                Err(error) => tracing::debug!(%error, "a node does not say"),
                Ok(answer) => return Ok(answer),
            }
        }
        Err(FsError::Unreachable("no node answers that could say".to_owned()))
    }
}
