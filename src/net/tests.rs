//! Connections end to end: over memory, sockets and TLS; and what becomes of them when the other side does not do its part.

mod broken;
mod measure;
mod secure;
mod talk;

use super::*;
use crate::env::SystemClock;
use crate::types::NodeId;
use crate::types::Stamp;
use crate::wire::greeting::Purpose;
use crate::wire::greeting::Refusal;
use crate::wire::greeting::Why;
use crate::wire::packet::Packet;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

/// Long enough for everything that is to happen on any machine.
const LONG: Duration = Duration::from_secs(60);
/// The middle of January 2027.
const NOW: Stamp = Stamp(1_800_000_000_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What the service here does with a request.
const ECHO: u16 = 1;
/// Three answers, from another thread.
const THRICE: u16 = 2;
/// None yet: see `Service::release`.
const KEEP: u16 = 3;
const DROP: u16 = 4;
const PANIC: u16 = 5;
/// As many bytes as the first four of meta say.
const SIZE: u16 = 6;
/// Tells the same back.
const PUSH: u16 = 7;

/// A clock that is set by hand.
pub(super) struct Hands(Mutex<(Stamp, Duration)>);

impl Hands {
    pub(super) fn at(now: Stamp) -> Arc<Hands> {
        Arc::new(Hands(Mutex::new((now, LONG))))
    }

    pub(super) fn advance(&self, time: Duration) {
        let mut hands = self.0.lock();
        hands.0.0 += time.as_nanos() as u64;
        hands.1 += time;
    }
}

impl Clock for Hands {
    fn wall(&self) -> Stamp {
        self.0.lock().0
    }

    fn steady(&self) -> Duration {
        self.0.lock().1
    }
}

/// One side's conduct: does what it is asked, and keeps what it hears.
#[derive(Default)]
struct Conduct {
    heard: Mutex<Heard>,
    changed: Condvar,
}

#[derive(Default)]
struct Heard {
    connection: Option<Connection>,
    told: Vec<Packet>,
    kept: Vec<(Packet, Reply)>,
    asked: usize,
    closed: Vec<NetError>,
}

impl Conduct {
    /// Waits until what was heard is so.
    fn wait(&self, what: &str, mut so: impl FnMut(&Heard) -> bool) {
        let mut heard = self.heard.lock();
        let result = self.changed.wait_while_for(&mut heard, |heard| !so(heard), LONG);
        assert!(!result.timed_out(), "never happened: {what}");
    }

    fn note(&self, note: impl FnOnce(&mut Heard)) {
        note(&mut self.heard.lock());
        self.changed.notify_all();
    }
}

impl Service for Conduct {
    fn opened(&self, connection: &Connection) {
        self.note(|heard| heard.connection = Some(connection.clone()));
    }

    fn asked(&self, packet: Packet, reply: Reply) {
        self.note(|heard| heard.asked += 1);
        match packet.kind {
            ECHO => reply.answer(ECHO, packet.meta, packet.tail),
            THRICE => {
                thread::spawn(move || {
                    for kind in 0..2 {
                        let (meta, tail) = (packet.meta.clone(), packet.tail.clone());
                        reply.more(kind, meta, tail, LONG).unwrap();
                    }
                    reply.answer(2, packet.meta, packet.tail);
                });
            }
            KEEP => self.note(|heard| heard.kept.push((packet, reply))),
            DROP => drop(reply),
            PANIC => panic!("as it was asked to"),
            SIZE => {
                let size = u32::from_le_bytes(packet.meta[..].try_into().unwrap());
                reply.answer(SIZE, Bytes::new(), vec![7; size as usize].into());
            }
            kind => panic!("asked {kind}"),
        }
    }

    fn told(&self, packet: Packet) {
        if packet.kind == PUSH {
            let connection = self.heard.lock().connection.clone().unwrap();
            connection.tell(PUSH + 1, packet.meta.clone(), packet.tail.clone()).unwrap();
        }
        self.note(|heard| heard.told.push(packet));
    }

    fn is_quick(&self, packet: &Packet) -> bool {
        packet.kind == ECHO
    }

    fn closed(&self, why: &NetError) {
        self.note(|heard| {
            // Else it would keep itself.
            heard.connection = None;
            heard.closed.push(why.clone());
        });
    }
}

/// Lets everybody in, but who says "no".
#[derive(Default)]
struct Everybody {
    conduct: Arc<Conduct>,
    peers: Mutex<Vec<Peer>>,
}

impl Handler for Everybody {
    fn greeted(&self, peer: &Peer, hello: &Bytes) -> Result<(Arc<dyn Service>, Bytes), Refusal> {
        if hello == "no" {
            return Err(Refusal::new(Why::Other, "nobody who says no"));
        }
        self.peers.lock().push(peer.clone());
        let welcome = [b"welcome, ", &hello[..]].concat();
        Ok((Arc::clone(&self.conduct) as _, welcome.into()))
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn node(number: u64) -> Identity {
    Identity::Node { node: NodeId(number), store: STORE }
}

fn client(name: &str) -> Identity {
    Identity::Client { name: name.to_owned(), store: STORE }
}

const STORE: StoreId = StoreId([0x5a; 16]);

/// Two sides that talk without TLS.
struct Pair {
    connection: Connection,
    /// What the side that dialled heard.
    here: Arc<Conduct>,
    /// What the other did.
    there: Arc<Conduct>,
}

/// Over memory, in which so many bytes fit, and over a socket.
fn streams(room: usize) -> [(Arc<dyn Stream>, Arc<dyn Stream>); 2] {
    let (one, other) = Memory::pair(room);
    let (here, there) = UnixStream::pair().unwrap();
    [
        (Arc::new(one), Arc::new(other)),
        (Arc::new(Socket::from(here)), Arc::new(Socket::from(there))),
    ]
}

fn plain(here: &Arc<Conduct>, hello: &str) -> Dial {
    Dial {
        address: "there".to_owned(),
        purpose: Purpose::Control,
        hello: bytes(hello),
        security: DialSecurity::Plain(node(1)),
        service: Arc::clone(here) as _,
    }
}

/// Serves one side of a stream on a thread.
fn serve(net: &Arc<Net>, stream: Arc<dyn Stream>) -> Arc<Conduct> {
    let handler = Everybody::default();
    let (conduct, net) = (Arc::clone(&handler.conduct), Arc::clone(net));
    let security = ListenSecurity::Plain(client("a"));
    thread::spawn(move || accept(&net, stream, "here", &security, &handler));
    conduct
}

fn pair_over(net: &Arc<Net>, (one, other): (Arc<dyn Stream>, Arc<dyn Stream>)) -> Pair {
    let there = serve(net, other);
    let here = Arc::<Conduct>::default();
    let (connection, welcome) = net.dial_over(one, plain(&here, "it is me")).unwrap();
    assert_eq!(welcome, "welcome, it is me");
    Pair { connection, here, there }
}

/// One pair over each kind of stream.
fn pairs(net: &Arc<Net>) -> impl Iterator<Item = Pair> {
    streams(1000).into_iter().map(|streams| pair_over(net, streams))
}

fn net() -> Arc<Net> {
    Net::start(SystemClock::shared(), Bounds::default()).unwrap()
}

/// With a clock that stands still until it is moved, and a timer that looks only when it is told to.
fn still_net(bounds: Bounds) -> (Arc<Net>, Arc<Hands>) {
    let hands = Hands::at(NOW);
    let bounds = Bounds { tick: LONG * 60, ..bounds };
    (Net::start(Arc::clone(&hands) as _, bounds).unwrap(), hands)
}
