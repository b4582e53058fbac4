//! Connecting to a node.
//!
//! Not here: to which one, and what to do when it is gone.

use super::Net;
use super::channel::Channel;
use super::connection::Connection;
use super::connection::Peer;
use super::connection::Service;
use super::credentials::Credentials;
use super::credentials::Fingerprint;
use super::error::NetError;
use super::greet::Greeter;
use super::greet::Proof;
use super::identity::Identity;
use super::stream::Socket;
use super::stream::Stream;
use super::tls;
use crate::types::NodeId;
use crate::wire::greeting::Hello;
use crate::wire::greeting::Purpose;
use bytes::Bytes;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How both sides prove themselves.
#[derive(Clone)]
pub enum DialSecurity {
    /// Not at all: whoever is there is taken for this one. For streams that cannot lead anywhere else.
    Plain(Identity),
    /// With certificates; this node must be there, if one is given.
    Tls(Arc<Credentials>, Option<NodeId>),
    /// Without a certificate of our own, to a node whose authority is known by its fingerprint.
    Pinned(Fingerprint),
}

/// What it takes to connect.
#[derive(Clone)]
pub struct Dial {
    /// Host and port, as `n1.example.org:7000`.
    pub address: String,
    pub purpose: Purpose,
    /// What we say first.
    pub hello: Bytes,
    pub security: DialSecurity,
    /// What we do with what the other side asks and tells.
    pub service: Arc<dyn Service>,
}

impl Net {
    /// Connects, and waits until it is welcome: the connection, and what the other side said. Takes `Bounds::connect` and
    /// `Bounds::welcome` at most; names are resolved by the system, within its own bounds.
    ///
    /// # Errors
    /// `Unreachable`, `Unproven`, `Refused`, `Closed`, `Local`.
    pub fn dial(self: &Arc<Net>, dial: Dial) -> Result<(Connection, Bytes), NetError> {
        let stream = self.connect(&dial.address)?;
        self.dial_over(Arc::new(Socket::from(stream)), dial)
    }

    /// The same over a stream that is there already.
    ///
    /// # Errors
    /// As for `dial`.
    pub fn dial_over(
        self: &Arc<Net>,
        stream: Arc<dyn Stream>,
        dial: Dial,
    ) -> Result<(Connection, Bytes), NetError> {
        let (proof, secured) = match &dial.security {
            DialSecurity::Plain(identity) => (Proof::Plain(identity.clone()), None),
            DialSecurity::Tls(credentials, node) => tls::dial(credentials, *node)?.parts(),
            DialSecurity::Pinned(authority) => tls::dial_pinned(*authority, self.clock())?.parts(),
        };
        let channel = Channel::new(stream, secured);
        let bounds = self.bounds();
        let hello = Hello::new(bounds.versions, dial.purpose, dial.hello.clone());
        let greeter = Greeter::new(self, &channel, &dial.address, &proof, bounds.welcome);
        let (welcome, reader) = match greeter.dial(&hello) {
            Ok(welcome) => welcome,
            Err(error) => {
                channel.end();
                return Err(error);
            }
        };
        let identity = proof.identity();
        let (address, purpose, version) = (dial.address.clone(), dial.purpose, welcome.version);
        let peer = Peer { address, identity, purpose, version };
        let connection = Connection::new(self, peer, channel);
        let (link, service) = (Arc::clone(connection.link()), Arc::clone(&dial.service));
        service.opened(&connection);
        let read = move || link.run(reader, &*service);
        if let Err(error) = thread::Builder::new().name("net-read".to_owned()).spawn(read) {
            let error = NetError::Local(format!("start the thread net-read: {error}"));
            connection.link().end(error.clone());
            connection.link().tell_end(&*dial.service);
            return Err(error);
        }
        Ok((connection, welcome.body))
    }

    fn connect(&self, address: &str) -> Result<TcpStream, NetError> {
        let unreachable = |error: &dyn std::fmt::Display| {
            NetError::Unreachable(format!("{address} cannot be reached: {error}"))
        };
        let until = self.clock().steady() + self.bounds().connect;
        let all: Vec<SocketAddr> =
            address.to_socket_addrs().map_err(|error| unreachable(&error))?.collect();
        let mut failed = unreachable(&"the name has no address");
        for address in all {
            // At least a millisecond: nothing at all is not a time that connecting takes.
            let left = until.saturating_sub(self.clock().steady()).max(Duration::from_millis(1));
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = unreachable(&error),
            }
        }
        Err(failed)
    }
}
