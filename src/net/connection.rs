//! A connection: both sides ask, tell and answer, from any thread.
//!
//! One thread reads. It calls the [`Service`] with what the other side asks and tells, and whoever asked with the answers;
//! so these must not wait, or the connection does. It does not read on while more answers wait to be sent than may: a
//! peer that asks and does not read is slowed down, not buffered for. Two that both do so to each other would wait
//! for each other until the unanswered ping ends the connection; so in volume only the side that dialled asks.
//!
//! Not here: how a connection comes up (`dial`, `listener`, `greet`).

use super::Net;
use super::asks::Answer;
use super::asks::OnAnswer;
use super::asks::Turn;
use super::channel::Channel;
use super::error::NetError;
use super::identity::Identity;
use super::link::Link;
use super::outbox::Room;
use crate::wire::greeting::Purpose;
use crate::wire::packet::Form;
use crate::wire::packet::Packet;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Who is at the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Where it is, for people.
    pub address: String,
    /// Who it proved to be.
    pub identity: Identity,
    pub purpose: Purpose,
    /// Of the messages that both speak.
    pub version: u16,
}

/// What a side does with what the other asks and tells. Called on the thread that reads, one packet after the other: it
/// must not wait, and not `call` on this connection.
pub trait Service: Send + Sync {
    /// The connection may be used; nothing was read from it yet.
    fn opened(&self, _connection: &Connection) {}

    /// Wants an answer, here or later from any thread.
    fn asked(&self, packet: Packet, reply: Reply);

    /// Wants none.
    fn told(&self, packet: Packet);

    /// Whether this one is done without waiting for a disk or for anybody. Then what is sent because of it may go with
    /// what is sent because of the next, in one write.
    fn is_quick(&self, _packet: &Packet) -> bool {
        false
    }

    /// Everything that came together was handed over: what was put off for that is to be done.
    fn came_together(&self) {}

    /// Nothing more will come. Called once, after everything else.
    fn closed(&self, _why: &NetError) {}
}

/// What to do where as much as may be is waiting already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// `Full`, at once.
    Never,
    /// For room, at most so long, then `Full`.
    UpTo(Duration),
}

/// Closes the connection when it is dropped, unless it is handed out to a clone first.
struct Handle(Arc<Link>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.end(NetError::Closed("the connection is not used any more".to_owned()));
    }
}

/// One side of a connection. It is closed when the last clone is dropped, at the latest.
#[derive(Clone)]
pub struct Connection(Arc<Handle>);

impl Connection {
    pub(super) fn new(net: &Arc<Net>, peer: Peer, channel: Channel) -> Connection {
        let link = Arc::new(Link::new(net, peer, channel));
        net.timer.add(&link);
        Connection(Arc::new(Handle(link)))
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.0.0
    }

    pub fn peer(&self) -> &Peer {
        self.link().peer()
    }

    /// Asks, and waits for the answer: the first, if there are several.
    ///
    /// # Errors
    /// `Late` after `patience`; `Full`, where there was no room for so long; `Failed`, `Closed`, `TooBig`.
    pub fn call(&self, kind: u16, meta: Bytes, tail: Bytes, patience: Duration) -> Answer {
        let slot = Arc::new((Mutex::new(None), Condvar::new()));
        let answered = Arc::clone(&slot);
        let on_answer = move |answer| {
            answered.0.lock().get_or_insert(answer);
            answered.1.notify_one();
        };
        self.ask(kind, meta, tail, patience, Wait::UpTo(patience), Box::new(on_answer))?;
        let mut answer = slot.0.lock();
        loop {
            match answer.take() {
                Some(answer) => return answer,
                // Every ask is told its end, so this ends too.
                None => slot.1.wait(&mut answer),
            }
        }
    }

    /// Asks. `on_answer` is called with each answer and then once more with the last, or with an error: that there was
    /// none for `patience`, or that the connection closed.
    ///
    /// # Errors
    /// `Full`, `Closed`, `TooBig`: nothing was sent, and `on_answer` is not called.
    pub fn ask(
        &self,
        kind: u16,
        meta: Bytes,
        tail: Bytes,
        patience: Duration,
        wait: Wait,
        on_answer: OnAnswer,
    ) -> Result<(), NetError> {
        let link = self.link();
        let (turn, room) = match wait {
            Wait::Never => (Turn::Refuse, Room::Refuse),
            Wait::UpTo(time) => (Turn::WaitFor(time), Room::WaitFor(time)),
        };
        let id = link.asks().begin(on_answer, turn, link.now(), patience)?;
        let sent = link.send(Packet { form: Form::Ask, kind, id, meta, tail }, room);
        match sent {
            // It was told already, by the end of the connection: that is its one end.
            Err(_) if !link.asks().take_back(id) => Ok(()),
            sent => sent,
        }
    }

    /// Says something that wants no answer. Never waits.
    ///
    /// # Errors
    /// `Full`, `Closed`, `TooBig`: nothing was sent.
    pub fn tell(&self, kind: u16, meta: Bytes, tail: Bytes) -> Result<(), NetError> {
        self.link().send(Packet { form: Form::Tell, kind, id: 0, meta, tail }, Room::Refuse)
    }

    /// What `send` asks and tells on this thread is written together. It must not wait for an answer.
    pub fn together(&self, send: &mut dyn FnMut()) {
        self.link().together(send);
    }

    /// Closes it, for everybody who uses it. What waits to be sent is lost. Does not wait: see [`Connection::on_closed`].
    pub fn close(&self) {
        self.link().end(NetError::Closed("the connection was closed here".to_owned()));
    }

    pub fn is_closed(&self) -> bool {
        self.link().is_closed()
    }

    /// Calls this once when the connection closed, on the thread that read it; here and now if that is over. It must not
    /// wait.
    pub fn on_closed(&self, call: impl FnOnce(&NetError) + Send + 'static) {
        self.link().on_closed(Box::new(call));
    }
}

/// The right and the duty to answer one ask. Dropped without an answer it says so to whoever asked.
pub struct Reply {
    pub(super) link: Arc<Link>,
    pub(super) id: u64,
    pub(super) ended: bool,
}

impl Reply {
    /// The answer: the only one, or the last. Never waits.
    pub fn answer(mut self, kind: u16, meta: Bytes, tail: Bytes) {
        self.end(Form::Answer, kind, meta, tail);
    }

    /// There is no answer, and why.
    pub fn fail(mut self, why: &str) {
        self.end(Form::Failure, 0, Bytes::copy_from_slice(why.as_bytes()), Bytes::new());
    }

    /// An answer that others follow. Waits for room.
    ///
    /// # Errors
    /// `Full` after waiting so long, `Closed`, `TooBig`: it was not sent.
    pub fn more(
        &self,
        kind: u16,
        meta: Bytes,
        tail: Bytes,
        wait: Duration,
    ) -> Result<(), NetError> {
        let packet = Packet { form: Form::More, kind, id: self.id, meta, tail };
        self.link.send(packet, Room::WaitFor(wait))
    }

    /// Whether somebody can still hear it.
    pub fn is_wanted(&self) -> bool {
        !self.link.is_closed()
    }

    pub fn peer(&self) -> &Peer {
        self.link.peer()
    }

    fn end(&mut self, form: Form, kind: u16, meta: Bytes, tail: Bytes) {
        self.ended = true;
        self.link.served();
        let id = self.id;
        let sent = self.link.send(Packet { form, kind, id, meta, tail }, Room::Never);
        if let Err(NetError::TooBig(error)) = sent {
            let meta = format!("the answer does not fit: {error}").into();
            let tail = Bytes::new();
            // Only a closed connection is left as an error, on which nobody waits for it.
            let _ = self
                .link
                .send(Packet { form: Form::Failure, kind: 0, id, meta, tail }, Room::Never);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.ended {
            self.end(
                Form::Failure,
                0,
                "the request was dropped without an answer".into(),
                Bytes::new(),
            );
        }
    }
}
