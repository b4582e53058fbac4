//! What a node tells this client unasked.
//!
//! On the thread that reads the connection: the listener must not wait. Not here: what is done about it.

use crate::net::Connection;
use crate::net::Reply;
use crate::net::Service;
use crate::tsdb_client::remote::links::Links;
use crate::types::SessionId;
use crate::wire::message;
use crate::wire::message::Request;
use crate::wire::message::Told;
use crate::wire::packet::Packet;
use bytes::Bytes;
use std::sync::OnceLock;
use std::sync::Weak;

pub(super) struct Hear {
    links: Weak<Links>,
    /// What is told over it is answered over it: the numbers are of this connection.
    connection: OnceLock<Connection>,
}

impl Hear {
    pub(super) fn new(links: Weak<Links>) -> Hear {
        Hear { links, connection: OnceLock::new() }
    }

    /// Says that something was done, once it is.
    fn done(
        &self,
        session: SessionId,
        answer: impl FnOnce(SessionId) -> Request + Send + 'static,
    ) -> Box<dyn FnOnce() + Send> {
        let connection = self.connection.get().cloned();
        Box::new(move || {
            if let Some(connection) = connection {
                let request = message::encode(&answer(session));
                // Where it is gone, whoever waits for this waits for the lease.
                let _ = connection.tell(message::REQUEST, request, Bytes::new());
            }
        })
    }
}

impl Service for Hear {
    fn opened(&self, connection: &Connection) {
        // Called once.
        let _ = self.connection.set(connection.clone());
    }

    fn asked(&self, _: Packet, reply: Reply) {
        reply.fail("a client is asked nothing");
    }

    fn told(&self, packet: Packet) {
        let told = match message::decode::<Told>(&packet.meta) {
            Ok(told) => told,
            Err(error) => return tracing::warn!(%error, "a node told something else"),
        };
        let Some(links) = self.links.upgrade() else { return };
        let Some(member) = links.member() else { return };
        match told {
            Told::Recall(what) => member.listener.recall(what),
            Told::Whole(_) => {
                // What a renewal says counts: it comes in order with what else is said of the lease.
                links.renew_soon();
            }
            Told::Unlocked { ino } => member.listener.unlocked(ino),
            Told::Ended { why } => links.ended(&why),
            Told::Flush { number } => {
                let flushed = move |session| Request::Flushed { session, number };
                member.listener.flush(self.done(member.session, flushed));
            }
            Told::TakeBack { number, inos } => {
                let given_back = move |session| Request::GivenBack { session, number };
                member.listener.take_back(inos, self.done(member.session, given_back));
            }
        }
    }
}
