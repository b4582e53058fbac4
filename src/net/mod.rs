//! Connections between processes: packets over streams that are sealed by TLS, on threads.
//!
//! A call of [`Net::dial`] or a [`Listener`] gives a [`Connection`]: whoever has something to say writes it to the socket
//! itself, and one thread for each connection reads and calls [`Service`] or whoever asked. What may wait is given to a
//! [`Pool`]. Every wait has a bound ([`Bounds`]), and everything asked is answered, if only with why there is no answer.
//!
//! Not here: what the messages are (`wire`), who may do what beyond being let in, how to find another node when one is
//! gone. Reasons: `docs/decisions/0010-connections.md`; the bytes: `docs/format.md`.

mod asks;
mod authority;
mod bounds;
mod channel;
mod connection;
mod credentials;
mod dial;
mod error;
mod greet;
mod identity;
mod keep;
mod link;
mod listener;
mod liveness;
mod networks;
mod outbox;
mod pool;
mod stream;
mod timer;
mod tls;
mod token;

pub use asks::Answer;
pub use asks::OnAnswer;
pub use authority::Authority;
pub use authority::KeyRequest;
pub use authority::PendingKey;
pub use authority::write_private;
pub use bounds::Bounds;
pub use connection::Connection;
pub use connection::Peer;
pub use connection::Reply;
pub use connection::Service;
pub use connection::Wait;
pub use credentials::Credentials;
pub use credentials::Fingerprint;
pub use credentials::Material;
pub use dial::Dial;
pub use dial::DialSecurity;
pub use error::NetError;
pub use identity::CLIENT_NAME_BYTES_MAX;
pub use identity::Identity;
pub use identity::StoreId;
pub use keep::Keep;
pub use keep::Line;
pub use keep::Pair;
pub use listener::Handler;
pub use listener::Listen;
pub use listener::ListenSecurity;
pub use listener::Listener;
pub use listener::accept;
pub use networks::Networks;
pub use pool::Pool;
pub use stream::Memory;
pub use stream::Socket;
pub use stream::Stream;
pub use token::ADDRESSES_MAX;
pub use token::Token;

use crate::env::Clock;
use std::sync::Arc;

/// What the connections of a process share: its clock, its bounds, and the thread that watches over them.
pub struct Net {
    clock: Arc<dyn Clock>,
    bounds: Bounds,
    timer: timer::Timer,
}

impl Net {
    /// # Errors
    /// `Local` where there can be no more threads.
    pub fn start(clock: Arc<dyn Clock>, bounds: Bounds) -> Result<Arc<Net>, NetError> {
        let timer = timer::Timer::start(Arc::clone(&clock), bounds.tick)?;
        Ok(Arc::new(Net { clock, bounds, timer }))
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }
}

#[cfg(test)]
mod tests;
