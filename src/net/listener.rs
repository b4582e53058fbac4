//! Accepting connections: who may come at all, who proved what, and a thread for each.
//!
//! Not here: what they are told (`Handler`, `Service`).

use super::Net;
use super::channel::Channel;
use super::connection::Connection;
use super::connection::Peer;
use super::connection::Service;
use super::credentials::Credentials;
use super::error::NetError;
use super::greet::Greeter;
use super::greet::Proof;
use super::identity::Identity;
use super::networks::Networks;
use super::stream::Socket;
use super::stream::Stream;
use super::tls;
use crate::wire::greeting::Hello;
use crate::wire::greeting::Purpose;
use crate::wire::greeting::Refusal;
use crate::wire::greeting::Welcome;
use crate::wire::greeting::Why;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Connections beyond the limit that are still told so. Any more are closed without a word.
const REFUSED_MAX: usize = 16;
/// The kernel has no more files or memory: it is asked again after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Lines in the log about those who are not let in: one in this time, with how many more there were.
const SELDOM: Duration = Duration::from_secs(1);

/// How those who come prove themselves.
#[derive(Clone)]
pub enum ListenSecurity {
    /// Not at all: whoever comes is taken for this one. For streams that cannot come from anywhere else.
    Plain(Identity),
    /// With certificates. `strangers` may come without one, to join.
    Tls { credentials: Arc<Credentials>, strangers: bool },
}

/// What to do with those who proved who they are.
pub trait Handler: Send + Sync {
    /// Lets somebody in: with what serves it, and what it is told first. May wait; whoever dialled waits too.
    ///
    /// # Errors
    /// Why not.
    fn greeted(&self, peer: &Peer, hello: &Bytes) -> Result<(Arc<dyn Service>, Bytes), Refusal>;
}

/// What it takes to listen.
pub struct Listen {
    /// Address and port, as `0.0.0.0:7000`. Port 0: any.
    pub address: String,
    pub security: ListenSecurity,
    /// Who may connect.
    pub networks: Networks,
    /// How many may, at once.
    pub connections_max: usize,
    pub handler: Arc<dyn Handler>,
}

/// Accepts connections. When it is dropped they are closed first, and it waits until nobody calls the handler or a
/// service any more.
pub struct Listener {
    address: SocketAddr,
    door: Arc<Door>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Door {
    net: Arc<Net>,
    socket: TcpListener,
    listen: Listen,
    state: Mutex<Inside>,
    /// A connection ended, or the listener is closing.
    changed: Condvar,
}

#[derive(Default)]
struct Inside {
    closing: bool,
    last: u64,
    streams: HashMap<u64, Arc<dyn Stream>>,
    /// Not let in since the last line about it.
    refused: u64,
    told: Option<Duration>,
}

impl Listener {
    /// # Errors
    /// `Local`: the address cannot be used, or there is no thread.
    pub fn bind(net: &Arc<Net>, listen: Listen) -> Result<Listener, NetError> {
        let failed = |error: std::io::Error| {
            NetError::Local(format!("listen on {}: {error}", listen.address))
        };
        let socket = TcpListener::bind(&*listen.address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let (net, state, changed) = (Arc::clone(net), Mutex::default(), Condvar::new());
        let door = Arc::new(Door { net, socket, listen, state, changed });
        let accepting = Arc::clone(&door);
        let thread = thread::Builder::new()
            .name("net-accept".to_owned())
            .spawn(move || accepting.accept_all())
            .map_err(|error| NetError::Local(format!("start the thread net-accept: {error}")))?;
        Ok(Listener { address, door, thread: Some(thread) })
    }

    /// Where it listens, with the port that it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are there, or coming up.
    pub fn connections(&self) -> usize {
        self.door.state.lock().streams.len()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.door.state.lock();
        state.closing = true;
        self.door.changed.notify_all();
        drop(state);
        // Wakes the thread that accepts. It fails only on a socket that does not listen, where there is nothing to wake.
        let _ = rustix::net::shutdown(&self.door.socket, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // If it panicked that was said.
            let _ = thread.join();
        }
        let mut state = self.door.state.lock();
        state.streams.values().for_each(|stream| stream.end());
        self.door.changed.wait_while(&mut state, |state| !state.streams.is_empty());
    }
}

impl Door {
    fn accept_all(self: &Arc<Door>) {
        loop {
            let accepted = self.socket.accept();
            if self.state.lock().closing {
                return;
            }
            match accepted {
                Ok((stream, address)) => self.let_in(stream, address),
                Err(error) => {
                    self.refused(&format!("no connection can be accepted: {error}"));
                    let mut state = self.state.lock();
                    let open = |state: &mut Inside| !state.closing;
                    self.changed.wait_while_for(&mut state, open, ACCEPT_AGAIN);
                }
            }
        }
    }

    fn let_in(self: &Arc<Door>, stream: TcpStream, address: SocketAddr) {
        if !self.listen.networks.contain(address.ip()) {
            self.refused(&format!(
                "{address} may not connect: see the setting of allowed networks"
            ));
            return;
        }
        let limit = self.listen.connections_max;
        let stream: Arc<dyn Stream> = Arc::new(Socket::from(stream));
        let mut state = self.state.lock();
        let there = state.streams.len();
        if there >= limit + REFUSED_MAX {
            drop(state);
            self.refused(&format!("{address} may not connect: {limit} connections are there"));
            return;
        }
        state.last += 1;
        let id = state.last;
        state.streams.insert(id, Arc::clone(&stream));
        drop(state);
        let (door, full) = (Arc::clone(self), there >= limit);
        // Kept by the thread, so that its end is seen even if it panics.
        let inside = Entry { door, id };
        let serve = move || inside.door.serve(stream, &address.to_string(), full);
        if let Err(error) = thread::Builder::new().name("net-serve".to_owned()).spawn(serve) {
            self.refused(&format!("no thread for {address}: {error}"));
        }
    }

    fn serve(&self, stream: Arc<dyn Stream>, address: &str, full: bool) {
        let full = full.then_some(self.listen.connections_max);
        let serving = Serving {
            net: &self.net,
            security: &self.listen.security,
            handler: &*self.listen.handler,
            full,
        };
        if let Err(error) = serving.run(stream, address) {
            self.refused(&format!("{address} was not let in: {error}"));
        }
    }

    /// Says so in the log, unless it said something a moment ago.
    fn refused(&self, what: &str) {
        let now = self.net.clock().steady();
        let mut state = self.state.lock();
        if state.told.is_some_and(|told| now.saturating_sub(told) < SELDOM) {
            state.refused += 1;
            return;
        }
        state.told = Some(now);
        let more = std::mem::take(&mut state.refused);
        drop(state);
        tracing::warn!(more, "{what}");
    }
}

/// A connection among those that are there.
struct Entry {
    door: Arc<Door>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.door.state.lock().streams.remove(&self.id);
        self.door.changed.notify_all();
    }
}

/// Serves whoever is at the other end of this stream, until the connection ends: what a listener does on a thread for each.
///
/// # Errors
/// Why it was not let in.
pub fn accept(
    net: &Arc<Net>,
    stream: Arc<dyn Stream>,
    address: &str,
    security: &ListenSecurity,
    handler: &dyn Handler,
) -> Result<(), NetError> {
    Serving { net, security, handler, full: None }.run(stream, address)
}

struct Serving<'a> {
    net: &'a Arc<Net>,
    security: &'a ListenSecurity,
    handler: &'a dyn Handler,
    /// There are so many already: this one is told so.
    full: Option<usize>,
}

impl Serving<'_> {
    fn run(&self, stream: Arc<dyn Stream>, address: &str) -> Result<(), NetError> {
        let (proof, secured) = match self.security {
            ListenSecurity::Plain(identity) => (Proof::Plain(identity.clone()), None),
            ListenSecurity::Tls { credentials, strangers } => {
                tls::accept(credentials, *strangers)?.parts()
            }
        };
        let channel = Channel::new(Arc::clone(&stream), secured);
        let ending = EndStream(stream);
        let bounds = self.net.bounds();
        let mut greeter = Greeter::new(self.net, &channel, address, &proof, bounds.greet);
        let hello = greeter.hello()?;
        let (peer, service, body) = match self.judge(&hello, proof.identity(), address) {
            Ok(welcome) => welcome,
            Err(refusal) => return Err(greeter.refuse(refusal)),
        };
        let reader = greeter.welcome(&Welcome { version: peer.version, body }, bounds.greet)?;
        let connection = Connection::new(self.net, peer, channel);
        service.opened(&connection);
        connection.link().run(reader, &*service);
        drop(ending);
        Ok(())
    }

    fn judge(
        &self,
        hello: &Hello,
        identity: Identity,
        address: &str,
    ) -> Result<(Peer, Arc<dyn Service>, Bytes), Refusal> {
        let ours = self.net.bounds().versions;
        let Some(version) = ours.common(hello.versions) else {
            let theirs = hello.versions;
            let older =
                if theirs.max < ours.min { "the program that connects" } else { "the node" };
            let sentence = format!(
                "the node speaks {ours} of the protocol, the program that connects {theirs}: update tsfs of {older}"
            );
            return Err(Refusal::new(Why::Version, sentence));
        };
        let Some(purpose) = hello.purpose else {
            let sentence = "a node of this version does not know that purpose: update it";
            return Err(Refusal::new(Why::Purpose, sentence));
        };
        if identity == Identity::Nobody && purpose != Purpose::Join {
            let sentence = "only a program with a certificate of this cluster may do that: get one with 'tsfs cluster client'";
            return Err(Refusal::new(Why::Stranger, sentence));
        }
        if let Some(limit) = self.full {
            let sentence = format!("{limit} connections are there, which is the limit");
            return Err(Refusal::new(Why::Full, sentence));
        }
        let peer = Peer { address: address.to_owned(), identity, purpose, version };
        let (service, body) = self.handler.greeted(&peer, &hello.body)?;
        Ok((peer, service, body))
    }
}

/// Ends a stream however its connection does.
struct EndStream(Arc<dyn Stream>);

impl Drop for EndStream {
    fn drop(&mut self) {
        self.0.end();
    }
}
