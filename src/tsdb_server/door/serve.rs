//! Requests off one connection: on which thread each is answered.
//!
//! What takes a lock and a look at the table is answered on the thread that reads the connection; what may wait for another
//! session, a disk or a majority is given to the pool. Proposals stay in their order on the reading thread, which may be used to
//! write the log, for all of them that came together, and which waits where too much is not yet applied: that is what slows down a client that is too fast.

use crate::meta::op::Batch;
use crate::meta::op::Outcome;
use crate::net::Connection;
use crate::net::Identity;
use crate::net::NetError;
use crate::net::Reply;
use crate::net::Service;
use crate::tsdb_server::door::Door;
use crate::tsdb_server::door::push::Push;
use crate::tsdb_server::lock_node::copies::Changing;
use crate::types::AsOf;
use crate::types::FsError;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::wire::Applied;
use crate::wire::Listener;
use crate::wire::Proposal;
use crate::wire::message;
use crate::wire::message::Request;
use crate::wire::message::Response;
use crate::wire::packet::Packet;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

/// One connection's side of the door.
pub(super) struct Serve {
    door: Arc<Door>,
    identity: Identity,
    connection: OnceLock<Connection>,
    /// The session that is told over this connection what it is told unasked.
    attended: Mutex<Option<(SessionId, Arc<Push>)>>,
    /// Something was proposed, and the log is not driven for it yet.
    proposed: AtomicBool,
}

impl Serve {
    pub(super) fn new(door: Arc<Door>, identity: Identity) -> Serve {
        let (connection, attended) = (OnceLock::new(), Mutex::default());
        Serve { door, identity, connection, attended, proposed: AtomicBool::new(false) }
    }

    fn node(&self) -> Option<NodeId> {
        match self.identity {
            Identity::Node { node, .. } => Some(node),
            _ => None,
        }
    }

    fn is_node(&self) -> bool {
        self.node().is_some()
    }

    fn propose(&self, proposal: Proposal, reply: Reply) {
        let Proposal { session, seq, batch, .. } = &proposal;
        if !Batch::is_of_client(batch, *session, *seq) {
            return reply.fail("a client proposes batches of its own session");
        }
        let (locks, session, sent) = (Arc::clone(&self.door.locks), *session, batch.clone());
        let direct = Batch::is_direct(&sent).then(|| locks.begin_change(session, &sent));
        let changing = match direct.transpose() {
            Ok(changing) => changing.map(Arc::new),
            Err(error) => {
                let failed = message::encode(&Response::Failed(error));
                return reply.answer(message::RESPONSE, failed, Bytes::new());
            }
        };
        let kept = changing.clone();
        // What is committed may yet be refused when it is applied, so that it is durable says nothing before that.
        let applied = move |result: Result<_, FsError>| {
            drop(kept);
            if matches!(result, Ok((Outcome::Refused { error: FsError::Locked, .. }, _))) {
                locks.was_barred(session, &sent);
            }
            let response = match result {
                Ok((outcome, stamp)) => Response::Applied { outcome, stamp },
                Err(error) => Response::Failed(error),
            };
            reply.answer(message::RESPONSE, message::encode(&response), Bytes::new());
        };
        if let Some(changing) = changing.filter(|changing| !changing.is_free) {
            return self.propose_when_free(changing, proposal, Box::new(applied));
        }
        self.proposed.store(true, Relaxed);
        self.door.node.propose_awaited(proposal, Box::new(applied));
    }

    /// The same, once others have let go of their copies. Its client sends nothing behind a direct change before that is answered.
    fn propose_when_free(&self, changing: Arc<Changing>, proposal: Proposal, applied: Applied) {
        let door = Arc::clone(&self.door);
        let propose = move || match door.locks.await_free(&changing) {
            Ok(()) => {
                door.node.propose_awaited(proposal, applied);
                door.node.nudge();
            }
            Err(error) => applied(Err(error)),
        };
        // Where it is not taken the reply is dropped, which says so to whoever asked.
        if let Err(error) = self.door.pool.run(propose) {
            tracing::warn!(%error, "a change was not taken");
        }
    }

    /// Whether a read of these rows can be answered without waiting for anybody.
    fn is_ready(&self, request: &Request) -> bool {
        match request {
            Request::Get { at: AsOf::At(stamp), .. }
            | Request::Scan { at: AsOf::At(stamp), .. } => self.door.node.has_reached(*stamp),
            Request::Get { session, .. }
            | Request::Scan { session, .. }
            | Request::Copy { session, .. }
            | Request::CopyPage { session, .. } => {
                self.door.node.is_read_ready()
                    && !self.door.locks.would_wait(*session, &super::answer::inodes(request))
            }
            Request::View => true,
            // Never behind those who wait for a session to give something back, which may be this one.
            Request::Renew { .. } | Request::KeepCopies { .. } => self.door.node.surely_leads(),
            _ => false,
        }
    }

    /// Takes up a session: what it is told unasked goes over this connection.
    fn attend(&self, session: SessionId) -> Option<Arc<Push>> {
        let push = Arc::new(Push::new(self.connection.get()?.clone()));
        *self.attended.lock() = Some((session, push.clone()));
        Some(push)
    }
}

/// Whether others wait for this: those who fill the pool may be waiting for the session that is to be attended here.
fn is_office(request: &Request) -> bool {
    matches!(
        request,
        Request::Attend { .. }
            | Request::OpenSession { .. }
            | Request::GrantInos { .. }
            | Request::Administer { .. }
    )
}

impl Service for Serve {
    fn opened(&self, connection: &Connection) {
        // Called once.
        let _ = self.connection.set(connection.clone());
    }

    fn asked(&self, packet: Packet, reply: Reply) {
        let request = match message::decode::<Request>(&packet.meta) {
            Ok(request) => request,
            Err(error) => return reply.fail(&error.to_string()),
        };
        let tail = packet.tail;
        if let Request::Propose { session, seq, ops } = request {
            return self.propose(Proposal { session, seq, ops, batch: tail }, reply);
        }
        if let Request::Cluster(ask) = request {
            return match self.is_node() {
                true => self.door.asked.serve(ask, true, reply),
                false => reply.fail("commands about the cluster are for its nodes"),
            };
        }
        let push = match request {
            Request::Attend { session } => match self.attend(session) {
                Some(push) => Some(push),
                None => return reply.fail("the connection is not open yet"),
            },
            _ => None,
        };
        let ready = self.is_ready(&request);
        let is_office = is_office(&request);
        let (door, node) = (Arc::clone(&self.door), self.node());
        let attended = self.attended.lock().as_ref().map(|(session, _)| *session);
        let answer = move || {
            let (response, tail) = door.answer(request, tail, node, push, attended);
            reply.answer(message::RESPONSE, message::encode(&response), tail);
        };
        if ready {
            return answer();
        }
        // Where it is not taken the reply is dropped, which says so to whoever asked.
        let pool = if is_office { &self.door.office } else { &self.door.pool };
        if let Err(error) = pool.run(answer) {
            tracing::warn!(%error, "a request was not taken");
        }
    }

    fn told(&self, packet: Packet) {
        match message::decode::<Request>(&packet.meta) {
            Ok(Request::Log(messages)) if self.is_node() => {
                self.door.greeting.hear(&messages);
                self.door.node.step(messages);
            }
            Ok(Request::Behind) => {
                if let Some(node) = self.node() {
                    self.door.told_behind(node);
                }
            }
            Ok(Request::Flushed { number, .. } | Request::GivenBack { number, .. }) => {
                let attended = self.attended.lock().as_ref().map(|(_, push)| push.clone());
                if let Some(push) = attended {
                    push.done(number);
                }
            }
            Ok(other) => tracing::warn!(?other, "somebody told what is to be asked"),
            Err(error) => tracing::warn!(%error, "somebody told something else"),
        }
    }

    fn came_together(&self) {
        if self.proposed.swap(false, Relaxed) {
            self.door.node.nudge();
        }
    }

    fn closed(&self, why: &NetError) {
        if let Some((session, push)) = self.attended.lock().take() {
            tracing::debug!(session = session.0, %why, "the connection of a session ended");
            let listener: Arc<dyn Listener> = push;
            self.door.locks.unattend(session, &listener);
        }
    }
}
