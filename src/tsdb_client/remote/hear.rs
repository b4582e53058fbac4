//! What a node tells this client unasked.
//!
//! On the thread that reads the connection: the listener must not wait. Not here: what is done about it.

use crate::net::Reply;
use crate::net::Service;
use crate::tsdb_client::remote::Lane;
use crate::tsdb_client::remote::links::Links;
use crate::wire::message;
use crate::wire::message::Request;
use crate::wire::message::Told;
use crate::wire::packet::Packet;
use bytes::Bytes;
use std::sync::Weak;

pub(super) struct Hear {
    links: Weak<Links>,
}

impl Hear {
    pub(super) fn new(links: Weak<Links>) -> Hear {
        Hear { links }
    }
}

impl Service for Hear {
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
                let (links, session) = (self.links.clone(), member.session);
                member.listener.flush(Box::new(move || {
                    let request = message::encode(&Request::Flushed { session, number });
                    let leader = links.upgrade().and_then(|links| links.leader());
                    if let Some(leader) = leader {
                        // Where it is gone, whoever waits for this waits for the lease.
                        let control = leader.connection(Lane::Control);
                        let _ = control.tell(message::REQUEST, request, Bytes::new());
                    }
                }));
            }
        }
    }
}
