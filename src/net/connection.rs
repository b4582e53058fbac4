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
use super::asks::Asks;
use super::asks::OnAnswer;
use super::asks::Turn;
use super::channel::Channel;
use super::channel::READ_BYTES;
use super::error::NetError;
use super::identity::Identity;
use super::outbox::Outbox;
use super::outbox::Room;
use super::outbox::Wrote;
use crate::wire::greeting::Purpose;
use crate::wire::packet::Decoder;
use crate::wire::packet::Form;
use crate::wire::packet::META_BYTES_MAX;
use crate::wire::packet::Packet;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
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

type OnClosed = Box<dyn FnOnce(&NetError) + Send>;

pub(super) struct Shared {
    net: Arc<Net>,
    peer: Peer,
    channel: Channel,
    outbox: Outbox,
    asks: Asks,
    life: Mutex<Life>,
    closed: AtomicBool,
    /// There is a thread that helps writing, or there was.
    helped: AtomicBool,
    /// When something came last, on the steady clock, in nanoseconds.
    heard: AtomicU64,
    /// The thread that reads is doing what came: that nothing comes meanwhile says nothing about the peer.
    working: AtomicBool,
    ping: Mutex<Ping>,
    /// What the peer asked and was not answered yet.
    serving: AtomicUsize,
}

#[derive(Default)]
struct Life {
    /// Why, from when it is not used any more.
    ended: Option<NetError>,
    /// Everybody was told.
    told: bool,
    on_closed: Vec<OnClosed>,
}

#[derive(Default)]
struct Ping {
    last: u64,
    /// When the one that is not answered yet was sent.
    since: Option<Duration>,
}

/// Closes the connection when it is dropped, unless it is handed out to a clone first.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.end(NetError::Closed("the connection is not used any more".to_owned()));
    }
}

/// One side of a connection. It is closed when the last clone is dropped, at the latest.
#[derive(Clone)]
pub struct Connection(Arc<Handle>);

/// What became of the greeting, for the thread that reads on.
pub(super) struct Reader {
    pub(super) decoder: Decoder,
    /// Read already, together with the greeting.
    pub(super) packets: Vec<Packet>,
}

impl Connection {
    pub(super) fn new(net: &Arc<Net>, peer: Peer, channel: Channel) -> Connection {
        let bounds = net.bounds();
        let shared = Arc::new(Shared {
            outbox: Outbox::new(bounds.queue_bytes),
            asks: Asks::new(bounds.asks(peer.purpose)),
            life: Mutex::default(),
            closed: AtomicBool::new(false),
            helped: AtomicBool::new(false),
            heard: AtomicU64::new(nanoseconds(net.clock().steady())),
            working: AtomicBool::new(false),
            ping: Mutex::default(),
            serving: AtomicUsize::new(0),
            net: Arc::clone(net),
            peer,
            channel,
        });
        net.timer.add(&shared);
        Connection(Arc::new(Handle(shared)))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    pub fn peer(&self) -> &Peer {
        &self.shared().peer
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
        let shared = self.shared();
        let (turn, room) = match wait {
            Wait::Never => (Turn::Refuse, Room::Refuse),
            Wait::UpTo(time) => (Turn::WaitFor(time), Room::WaitFor(time)),
        };
        let id = shared.asks.begin(on_answer, turn, shared.now(), patience)?;
        let sent = shared.send(Packet { form: Form::Ask, kind, id, meta, tail }, room);
        match sent {
            // It was told already, by the end of the connection: that is its one end.
            Err(_) if !shared.asks.take_back(id) => Ok(()),
            sent => sent,
        }
    }

    /// Says something that wants no answer. Never waits.
    ///
    /// # Errors
    /// `Full`, `Closed`, `TooBig`: nothing was sent.
    pub fn tell(&self, kind: u16, meta: Bytes, tail: Bytes) -> Result<(), NetError> {
        self.shared().send(Packet { form: Form::Tell, kind, id: 0, meta, tail }, Room::Refuse)
    }

    /// Closes it, for everybody who uses it. What waits to be sent is lost. Does not wait: see [`Connection::on_closed`].
    pub fn close(&self) {
        self.shared().end(NetError::Closed("the connection was closed here".to_owned()));
    }

    pub fn is_closed(&self) -> bool {
        self.shared().is_closed()
    }

    /// Calls this once when the connection closed, on the thread that read it; here and now if that is over. It must not
    /// wait.
    pub fn on_closed(&self, call: impl FnOnce(&NetError) + Send + 'static) {
        let mut life = self.shared().life.lock();
        match life.ended.clone() {
            Some(why) if life.told => {
                drop(life);
                call(&why);
            }
            _ => life.on_closed.push(Box::new(call)),
        }
    }
}

/// Ends the connection and tells everybody, even where a request made the thread panic.
struct Ending<'a> {
    shared: &'a Shared,
    service: &'a dyn Service,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        // It ended already, but for a panic.
        self.shared.end(NetError::Closed("a request made this program fail".to_owned()));
        self.shared.tell_end(self.service);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Shared {
    fn now(&self) -> Duration {
        self.net.clock().steady()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Ends it at once; the thread that reads then tells everybody. So nobody is called by a thread that only wanted to
    /// send something, and may hold what the called would wait for.
    pub(super) fn end(&self, why: NetError) {
        let mut life = self.life.lock();
        if life.ended.is_some() {
            return;
        }
        life.ended = Some(why.clone());
        drop(life);
        self.closed.store(true, Relaxed);
        self.asks.refuse(&why);
        self.outbox.close();
        self.channel.end();
    }

    fn tell_end(&self, service: &dyn Service) {
        let why = self.life.lock().ended.clone().expect("it ended before it is told");
        self.asks.close(&why);
        let mut life = self.life.lock();
        life.told = true;
        let on_closed = std::mem::take(&mut life.on_closed);
        drop(life);
        for call in on_closed {
            call(&why);
        }
        service.closed(&why);
    }

    /// The life of the thread that reads: until the connection ended and everybody was told.
    pub(super) fn run(self: &Arc<Self>, reader: Reader, service: &dyn Service) {
        let ending = Ending { shared: self, service };
        let why = self.read(reader, service);
        self.end(why);
        drop(ending);
    }

    fn broke(&self, error: &std::io::Error) -> NetError {
        NetError::Closed(format!("the connection with {} broke: {error}", self.peer.address))
    }

    fn send(self: &Arc<Self>, packet: Packet, room: Room) -> Result<(), NetError> {
        let packet = packet.encode().map_err(NetError::TooBig)?;
        let right = self.outbox.put(packet, room);
        self.write_if(right)
    }

    /// Writes where putting something gave the right to. Does not wait.
    fn write_if(self: &Arc<Self>, right: Result<bool, NetError>) -> Result<(), NetError> {
        if !right? {
            return Ok(());
        }
        match self.outbox.write(&self.channel) {
            Ok(Wrote::All) => {}
            Ok(Wrote::Passed) => self.have_helper(),
            // What was put is lost with everything else; those who asked are told so.
            Err(error) => self.end(self.broke(&error)),
        }
        Ok(())
    }

    fn have_helper(self: &Arc<Self>) {
        if self.helped.swap(true, Relaxed) {
            return;
        }
        let shared = Arc::clone(self);
        let help = move || {
            if let Err(error) = shared.outbox.help(&shared.channel) {
                shared.end(shared.broke(&error));
            }
        };
        if let Err(error) = thread::Builder::new().name("net-write".to_owned()).spawn(help) {
            self.end(NetError::Closed(format!("start the thread net-write: {error}")));
        }
    }

    fn read(self: &Arc<Self>, reader: Reader, service: &dyn Service) -> NetError {
        let Reader { mut decoder, mut packets } = reader;
        decoder.set_limit(META_BYTES_MAX);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            self.working.store(true, Relaxed);
            for packet in packets.drain(..) {
                if let Err(why) = self.take(packet, service) {
                    return why;
                }
            }
            self.working.store(false, Relaxed);
            let received = match self.channel.receive(&mut buffer, &mut decoder, &mut packets) {
                Ok(received) => received,
                Err(error) => return error.closed(&self.peer.address),
            };
            self.heard.store(nanoseconds(self.now()), Relaxed);
            if received.send
                && let Err(why) = self.write_if(self.outbox.put_flush())
            {
                return why;
            }
            if received.end && packets.is_empty() {
                return NetError::Closed(format!("{} closed the connection", self.peer.address));
            }
        }
    }

    /// One packet.
    ///
    /// # Errors
    /// Why the connection cannot go on.
    fn take(self: &Arc<Self>, packet: Packet, service: &dyn Service) -> Result<(), NetError> {
        match packet.form {
            Form::Ask => {
                let open = self.serving.fetch_add(1, Relaxed);
                let reply = Reply { shared: Arc::clone(self), id: packet.id, ended: false };
                if open >= self.net.bounds().asks(self.peer.purpose) {
                    reply.fail("too many requests of this connection are not answered yet");
                } else {
                    service.asked(packet, reply);
                }
                self.outbox.wait_for_room();
            }
            Form::Tell => service.told(packet),
            Form::Answer | Form::More | Form::Failure => self.asks.answered(packet, self.now()),
            Form::Ping => {
                let pong =
                    Packet { form: Form::Pong, meta: Bytes::new(), tail: Bytes::new(), ..packet };
                self.send_urgent(pong)?;
            }
            Form::Pong => {
                let mut ping = self.ping.lock();
                if ping.last == packet.id {
                    ping.since = None;
                }
            }
            Form::Hello | Form::Welcome | Form::Refusal => {
                let form = packet.form;
                let address = &self.peer.address;
                return Err(NetError::Closed(format!("{address} greets again, with a {form:?}")));
            }
        }
        Ok(())
    }

    fn send_urgent(self: &Arc<Self>, packet: Packet) -> Result<(), NetError> {
        let packet = packet.encode().map_err(NetError::TooBig)?;
        self.write_if(self.outbox.put_urgent(packet))
    }

    /// The timer looks: ends what is late, asks a silent peer whether it is there, closes the connection if it is not.
    /// Whether the connection is open.
    pub(super) fn tick(self: &Arc<Self>, now: Duration) -> bool {
        if self.is_closed() {
            return false;
        }
        self.asks.tick(now);
        let bounds = self.net.bounds();
        if self.working.load(Relaxed) {
            self.heard.store(nanoseconds(now), Relaxed);
        }
        let silence = now.saturating_sub(Duration::from_nanos(self.heard.load(Relaxed)));
        let mut ping = self.ping.lock();
        let unanswered = ping.since.map(|since| now.saturating_sub(since));
        let address = &self.peer.address;
        let why = match unanswered {
            Some(time) if time >= bounds.silence && silence >= bounds.silence => {
                let seconds = silence.as_secs();
                format!("{address} was silent for {seconds} s: it is down, or the network is")
            }
            Some(time) if time >= bounds.unanswered => {
                format!("{address} does not take what is sent to it for {} s", time.as_secs())
            }
            Some(_) => return true,
            None if silence < bounds.ping_after => return true,
            None => {
                ping.last += 1;
                ping.since = Some(now);
                let id = ping.last;
                drop(ping);
                let (meta, tail) = (Bytes::new(), Bytes::new());
                // It fails on a connection that is closed.
                return self
                    .send_urgent(Packet { form: Form::Ping, kind: 0, id, meta, tail })
                    .is_ok();
            }
        };
        drop(ping);
        self.end(NetError::Closed(why));
        false
    }

    #[cfg(test)]
    pub(super) fn is_pinging(&self) -> bool {
        self.ping.lock().since.is_some()
    }

    #[cfg(test)]
    pub(super) fn is_working(&self) -> bool {
        self.working.load(Relaxed)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.outbox.waiting()
    }
}

/// The right and the duty to answer one ask. Dropped without an answer it says so to whoever asked.
pub struct Reply {
    shared: Arc<Shared>,
    id: u64,
    ended: bool,
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
        self.shared.send(packet, Room::WaitFor(wait))
    }

    /// Whether somebody can still hear it.
    pub fn is_wanted(&self) -> bool {
        !self.shared.is_closed()
    }

    pub fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    fn end(&mut self, form: Form, kind: u16, meta: Bytes, tail: Bytes) {
        self.ended = true;
        self.shared.serving.fetch_sub(1, Relaxed);
        let id = self.id;
        let sent = self.shared.send(Packet { form, kind, id, meta, tail }, Room::Never);
        if let Err(NetError::TooBig(error)) = sent {
            let meta = format!("the answer does not fit: {error}").into();
            let tail = Bytes::new();
            // Only a closed connection is left as an error, on which nobody waits for it.
            let _ = self
                .shared
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
