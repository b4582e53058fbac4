//! What both handles and threads of a connection hold on to: what waits to be sent, what is not answered yet, and how it
//! ends.
//!
//! Whoever finds that it must end only says so and wakes the thread that reads, which tells everybody. So nobody is
//! called by a thread that wanted to send something, and may hold what the called would wait for.
//!
//! Not here: what users of a connection see (`connection`).

use super::Net;
use super::asks::Asks;
use super::channel::Channel;
use super::channel::READ_BYTES;
use super::connection::Peer;
use super::connection::Reply;
use super::connection::Service;
use super::error::NetError;
use super::liveness::Liveness;
use super::liveness::Look;
use super::outbox::Outbox;
use super::outbox::Room;
use super::outbox::Wrote;
use crate::wire::greeting::Purpose;
use crate::wire::packet::Decoder;
use crate::wire::packet::Form;
use crate::wire::packet::META_BYTES_MAX;
use crate::wire::packet::Packet;
use bytes::Bytes;
use parking_lot::Mutex;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

/// What became of the greeting, for the thread that reads on.
pub(super) struct Reader {
    pub(super) decoder: Decoder,
    /// Read already, together with the greeting.
    pub(super) packets: Vec<Packet>,
}

type OnClosed = Box<dyn FnOnce(&NetError) + Send>;

pub(super) struct Link {
    net: Arc<Net>,
    peer: Peer,
    channel: Channel,
    outbox: Outbox,
    asks: Asks,
    life: Mutex<Life>,
    closed: AtomicBool,
    /// There is a thread that helps writing, or there was.
    helped: AtomicBool,
    liveness: Liveness,
    opened: Duration,
    /// What the peer asked and was not answered yet.
    serving: AtomicUsize,
}

thread_local! {
    /// The link whose packets this thread will write in a moment: those it puts now may wait for that.
    static LATER: Cell<*const Link> = const { Cell::new(std::ptr::null()) };
}

/// While this is there, what this thread sends on a link waits.
struct Later {
    /// As it was before.
    before: *const Link,
}

impl Later {
    fn begin(link: &Arc<Link>, later: bool) -> Later {
        let link = if later { Arc::as_ptr(link) } else { std::ptr::null() };
        Later { before: LATER.replace(link) }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        LATER.set(self.before);
    }
}

#[derive(Default)]
struct Life {
    /// Why, from when it is not used any more.
    ended: Option<NetError>,
    /// Everybody was told.
    told: bool,
    on_closed: Vec<OnClosed>,
}

/// Ends the connection and tells everybody, even where a request made the thread panic.
struct Ending<'a> {
    link: &'a Link,
    service: &'a dyn Service,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        // It ended already, but for a panic.
        self.link.end(NetError::Closed("a request made this program fail".to_owned()));
        self.link.tell_end(self.service);
    }
}

impl Link {
    pub(super) fn new(net: &Arc<Net>, peer: Peer, channel: Channel) -> Link {
        let bounds = net.bounds();
        Link {
            outbox: Outbox::new(bounds.queue_bytes),
            asks: Asks::new(bounds.asks(peer.purpose)),
            life: Mutex::default(),
            closed: AtomicBool::new(false),
            helped: AtomicBool::new(false),
            liveness: Liveness::new(net.clock().steady()),
            opened: net.clock().steady(),
            serving: AtomicUsize::new(0),
            net: Arc::clone(net),
            peer,
            channel,
        }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn asks(&self) -> &Asks {
        &self.asks
    }

    /// Something that the peer asked is about to be answered.
    pub(super) fn served(&self) {
        self.serving.fetch_sub(1, Relaxed);
    }

    /// Calls this when everybody is told that the connection ended; now if that is over.
    pub(super) fn on_closed(&self, call: OnClosed) {
        let mut life = self.life.lock();
        match life.ended.clone() {
            Some(why) if life.told => {
                drop(life);
                call(&why);
            }
            _ => life.on_closed.push(call),
        }
    }

    pub(super) fn now(&self) -> Duration {
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

    pub(super) fn tell_end(&self, service: &dyn Service) {
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
        let ending = Ending { link: self, service };
        let why = self.read(reader, service);
        self.end(why);
        drop(ending);
    }

    fn broke(&self, error: &std::io::Error) -> NetError {
        NetError::Closed(format!("the connection with {} broke: {error}", self.peer.address))
    }

    pub(super) fn send(self: &Arc<Self>, packet: Packet, room: Room) -> Result<(), NetError> {
        let packet = packet.encode().map_err(NetError::TooBig)?;
        let later = LATER.get() == Arc::as_ptr(self);
        let right = self.outbox.put(packet, room, later);
        self.write_if(right)
    }

    /// What `send` sends on this thread is written together, where nobody else writes meanwhile. It must not wait for an answer.
    pub(super) fn together(self: &Arc<Self>, send: &mut dyn FnMut()) {
        let later = Later::begin(self, true);
        send();
        drop(later);
        if let Err(error) = self.write_if(self.outbox.claim()) {
            // Whoever sent something is told so by the end of the connection.
            tracing::debug!(%error, "what was to be sent together was not");
        }
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
        let link = Arc::clone(self);
        let help = move || {
            if let Err(error) = link.outbox.help(&link.channel) {
                link.end(link.broke(&error));
            }
        };
        if let Err(error) = thread::Builder::new().name("net-write".to_owned()).spawn(help) {
            self.end(NetError::Closed(format!("start the thread net-write: {error}")));
        }
    }

    fn read(self: &Arc<Self>, reader: Reader, service: &dyn Service) -> NetError {
        let Reader { mut decoder, mut packets } = reader;
        if self.peer.purpose != Purpose::Join {
            // Who it is, is known.
            decoder.set_limit(META_BYTES_MAX);
        }
        let mut buffer = vec![0; READ_BYTES];
        loop {
            self.liveness.set_working(true);
            if let Err(why) = self.take_all(&mut packets, service) {
                return why;
            }
            self.liveness.set_working(false);
            let received = match self.channel.receive(&mut buffer, &mut decoder, &mut packets) {
                Ok(received) => received,
                Err(error) => return error.closed(&self.peer.address),
            };
            self.liveness.heard(self.now());
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

    /// What came together. What this thread sends because of it goes together too, unless something in between may take
    /// its time.
    ///
    /// # Errors
    /// Why the connection cannot go on.
    fn take_all(
        self: &Arc<Self>,
        packets: &mut Vec<Packet>,
        service: &dyn Service,
    ) -> Result<(), NetError> {
        let mut left = packets.len();
        for packet in packets.drain(..) {
            left -= 1;
            let quick = match packet.form {
                Form::Ask | Form::Tell => service.is_quick(&packet),
                _ => true,
            };
            if !quick {
                self.write_if(self.outbox.claim())?;
            }
            // With the last one there is nothing to wait for.
            let later = Later::begin(self, quick && left > 0);
            let taken = self.take(packet, service);
            drop(later);
            taken?;
        }
        self.write_if(self.outbox.claim())?;
        service.came_together();
        Ok(())
    }

    /// One packet.
    ///
    /// # Errors
    /// Why the connection cannot go on.
    fn take(self: &Arc<Self>, packet: Packet, service: &dyn Service) -> Result<(), NetError> {
        match packet.form {
            Form::Ask => {
                let open = self.serving.fetch_add(1, Relaxed);
                let reply = Reply { link: Arc::clone(self), id: packet.id, ended: false };
                if open >= self.net.bounds().asks(self.peer.purpose) {
                    reply.fail("too many requests of this connection are not answered yet");
                } else {
                    service.asked(packet, reply);
                }
                if self.outbox.is_full() {
                    self.write_if(self.outbox.claim())?;
                    self.outbox.wait_for_room();
                }
            }
            Form::Tell => service.told(packet),
            Form::Answer | Form::More | Form::Failure => self.asks.answered(packet, self.now()),
            Form::Ping => {
                let pong =
                    Packet { form: Form::Pong, meta: Bytes::new(), tail: Bytes::new(), ..packet };
                self.send_urgent(pong)?;
            }
            Form::Pong => self.liveness.pong(packet.id),
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
        let age = now.saturating_sub(self.opened);
        if self.peer.purpose == Purpose::Join && age >= bounds.join {
            let why = format!("{} took too long to join", self.peer.address);
            self.end(NetError::Closed(why));
            return false;
        }
        match self.liveness.look(now, self.outbox.sent(), bounds) {
            Look::Fine => true,
            Look::Ping(id) => {
                let (meta, tail) = (Bytes::new(), Bytes::new());
                // It fails on a connection that is closed.
                self.send_urgent(Packet { form: Form::Ping, kind: 0, id, meta, tail }).is_ok()
            }
            Look::Gone(why) => {
                self.end(NetError::Closed(format!("{} {why}", self.peer.address)));
                false
            }
        }
    }

    #[cfg(test)]
    pub(super) fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.outbox.waiting()
    }
}
