//! The other side does not do its part: it is silent, does not read, asks too much, sends what is no packet.

use super::*;
use crate::wire::greeting::GREETING_BYTES_MAX;
use crate::wire::greeting::Hello;
use crate::wire::greeting::VERSIONS;
use crate::wire::greeting::Welcome;
use crate::wire::packet::Decoder;
use crate::wire::packet::Form;
use crate::wire::packet::META_BYTES_MAX;
use std::io;
use std::io::IoSlice;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

const SECOND: Duration = Duration::from_secs(1);

fn packet(form: Form, id: u64) -> Packet {
    Packet { form, kind: ECHO, id, meta: Bytes::new(), tail: Bytes::new() }
}

/// A side without a connection behind it: what it sends and reads is up to the test.
struct Raw {
    stream: Arc<dyn Stream>,
    decoder: Decoder,
    bytes: Vec<u8>,
}

impl Raw {
    fn new(stream: Arc<dyn Stream>) -> Raw {
        Raw { stream, decoder: Decoder::new(META_BYTES_MAX), bytes: Vec::new() }
    }

    fn send(&self, packet: &Packet) {
        let bytes = packet.encode().unwrap().concat();
        assert_eq!(self.stream.write(&[IoSlice::new(&bytes)]).unwrap(), bytes.len());
    }

    fn receive(&mut self) -> Packet {
        loop {
            let mut bytes = &self.bytes[..];
            let packet = self.decoder.take(&mut bytes).unwrap();
            self.bytes = bytes.to_vec();
            if let Some(packet) = packet {
                return packet;
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "it ended");
            self.bytes.extend_from_slice(&buffer[..count]);
        }
    }

    fn welcome(&mut self) {
        assert_eq!(self.receive().form, Form::Hello);
        self.send(&Welcome { version: 1, body: Bytes::new() }.packet());
    }
}

/// A connection to a side that is played by the test.
fn dial_raw(net: &Arc<Net>, room: usize) -> (Connection, Arc<Conduct>, Raw) {
    let (one, other) = Memory::pair(room);
    let mut raw = Raw::new(Arc::new(other));
    let here = Arc::<Conduct>::default();
    let dial = plain(&here, "");
    let connection = thread::scope(|scope| {
        let dialled = scope.spawn(|| net.dial_over(Arc::new(one), dial).unwrap());
        raw.welcome();
        dialled.join().unwrap().0
    });
    (connection, here, raw)
}

#[test]
fn a_peer_that_is_gone_without_a_word_is_noticed() {
    let (net, hands) = still_net(Bounds::default());
    let (connection, here, mut raw) = dial_raw(&net, 1 << 20);
    let bounds = net.bounds();
    net.timer.look();
    hands.advance(bounds.ping_after);
    net.timer.look();
    let ping = raw.receive();
    assert_eq!(ping.form, Form::Ping);
    raw.send(&packet(Form::Pong, ping.id));
    // Answered, it is only asked again.
    let answered = || connection.link().liveness().is_pinging();
    while answered() {
        thread::yield_now();
    }
    hands.advance(bounds.ping_after);
    net.timer.look();
    assert_eq!(raw.receive().form, Form::Ping);
    hands.advance(bounds.silence - SECOND);
    net.timer.look();
    assert!(!connection.is_closed());
    hands.advance(SECOND);
    net.timer.look();
    here.wait("its end", |heard| heard.closed.len() == 1);
    let why = here.heard.lock().closed[0].to_string();
    assert_eq!(why, "there was silent for 7 s: it is down, or the network is");
}

#[test]
fn a_peer_that_sends_but_never_reads_is_noticed() {
    let (net, hands) = still_net(Bounds::default());
    let (connection, here, raw) = dial_raw(&net, 1 << 20);
    hands.advance(net.bounds().ping_after);
    net.timer.look();
    let mut seconds = 0;
    while !connection.is_closed() {
        hands.advance(SECOND);
        raw.send(&packet(Form::Tell, 0));
        here.wait("what it sends", |heard| heard.told.len() > seconds);
        net.timer.look();
        seconds += 1;
        assert!(seconds < 100, "it is not noticed");
    }
    // A second longer than the bound, from when it took the ping: which is written some time after it was due.
    assert!(seconds >= 31, "it is blamed after {seconds} s");
    here.wait("its end", |heard| heard.closed.len() == 1);
    let why = here.heard.lock().closed[0].to_string();
    assert_eq!(why, "there has not taken what is sent to it for 30 s");
}

#[test]
fn a_thread_that_is_busy_does_not_blame_the_peer() {
    let (net, hands) = still_net(Bounds::default());
    let (connection, here, raw) = dial_raw(&net, 1 << 20);
    // The test holds what the service needs, so it is at work until that is let go.
    let heard = here.heard.lock();
    raw.send(&packet(Form::Tell, 0));
    while !connection.link().liveness().is_working() {
        thread::yield_now();
    }
    for _ in 0..20 {
        hands.advance(SECOND);
        net.timer.look();
    }
    drop(heard);
    here.wait("what came", |heard| heard.told.len() == 1);
    assert!(!connection.is_closed());
}

#[test]
fn an_answer_that_does_not_come_is_late() {
    let (net, hands) = still_net(Bounds::default());
    for pair in pairs(&net) {
        let late = thread::scope(|scope| {
            let call = || pair.connection.call(KEEP, Bytes::new(), Bytes::new(), SECOND);
            let late = scope.spawn(call);
            pair.there.wait("the request", |heard| heard.kept.len() == 1);
            hands.advance(SECOND);
            net.timer.look();
            late.join().unwrap()
        });
        assert_eq!(late, Err(NetError::Late));
        // When it comes after all, nobody is confused.
        let (_, reply) = pair.there.heard.lock().kept.pop().unwrap();
        reply.answer(0, Bytes::new(), Bytes::new());
        assert!(pair.connection.call(ECHO, Bytes::new(), Bytes::new(), LONG).is_ok());
    }
}

#[test]
fn to_a_peer_that_does_not_read_no_more_is_kept_than_may_wait() {
    let (net, _) = still_net(Bounds { queue_bytes: 10_000, ..Bounds::default() });
    let (connection, _, mut raw) = dial_raw(&net, 1000);
    let tell = || connection.tell(0, Bytes::new(), vec![0; 3000].into());
    let told = (0..100).take_while(|_| tell().is_ok()).count();
    assert!((3..=5).contains(&told), "{told}");
    assert_eq!(tell(), Err(NetError::Full));
    assert!(connection.link().waiting() <= 10_000);
    let none = || Box::new(|_| ());
    let ask = |wait| connection.ask(0, Bytes::new(), vec![0; 3000].into(), LONG, wait, none());
    assert_eq!(ask(Wait::Never), Err(NetError::Full));
    assert_eq!(ask(Wait::UpTo(Duration::from_millis(1))), Err(NetError::Full));
    // Who can wait gets on when the peer reads again.
    thread::scope(|scope| {
        let asked = scope.spawn(|| ask(Wait::UpTo(LONG)));
        let forms: Vec<Form> = (0..=told).map(|_| raw.receive().form).collect();
        assert_eq!(forms.last(), Some(&Form::Ask));
        assert_eq!(asked.join().unwrap(), Ok(()));
    });
}

#[test]
fn a_packet_larger_than_what_may_wait_goes_alone() {
    let net = Net::start(SystemClock::shared(), Bounds { queue_bytes: 10, ..Bounds::default() });
    for pair in pairs(&net.unwrap()) {
        let answer = pair.connection.call(ECHO, Bytes::new(), vec![1; 100_000].into(), LONG);
        assert_eq!(answer.unwrap().tail.len(), 100_000);
    }
}

/// A client played by the test, which was let in.
fn served_raw(net: &Arc<Net>, room: usize) -> (Arc<Conduct>, Raw) {
    served_raw_for(net, room, Purpose::Control)
}

fn served_raw_for(net: &Arc<Net>, room: usize, purpose: Purpose) -> (Arc<Conduct>, Raw) {
    let (one, other) = Memory::pair(room);
    let there = serve(net, Arc::new(other));
    (there, greet_raw(one, purpose))
}

fn greet_raw(stream: Memory, purpose: Purpose) -> Raw {
    let mut raw = Raw::new(Arc::new(stream));
    raw.send(&Hello::new(VERSIONS, purpose, Bytes::new()).packet());
    assert_eq!(raw.receive().form, Form::Welcome);
    raw
}

#[test]
fn a_client_that_asks_and_does_not_read_is_not_read_from() {
    let (net, _) = still_net(Bounds { queue_bytes: 10_000, ..Bounds::default() });
    let (there, mut raw) = served_raw(&net, 1000);
    let size = Bytes::copy_from_slice(&4000u32.to_le_bytes());
    let request = Packet { kind: SIZE, meta: size, ..packet(Form::Ask, 1) };
    let request = request.encode().unwrap().concat();
    let mut sent = 0;
    // Until there is no room for a moment, which there would be if somebody read.
    while raw.stream.writable(Duration::from_millis(50)).unwrap() && sent < 1_000_000 {
        let rest = &request[sent % request.len()..];
        sent += raw.stream.write(&[IoSlice::new(rest)]).unwrap();
    }
    let asked = sent / request.len();
    let connection = there.heard.lock().connection.clone().unwrap();
    let waiting = connection.link().waiting();
    assert!((10_000..15_000).contains(&waiting), "{waiting}");
    let served = there.heard.lock().asked;
    assert!(served < asked && served < 10, "{served} of {asked}");
    // When it reads, it is served again.
    for _ in 0..asked {
        assert_eq!(raw.receive().tail.len(), 4000);
    }
}

/// Counts writes.
struct Counted(Memory, AtomicUsize);

impl Stream for Counted {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }

    fn readable(&self, within: Duration) -> io::Result<bool> {
        self.0.readable(within)
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.1.fetch_add(1, Relaxed);
        self.0.write(parts)
    }

    fn writable(&self, within: Duration) -> io::Result<bool> {
        self.0.writable(within)
    }

    fn finish(&self) {
        self.0.finish();
    }

    fn end(&self) {
        self.0.end();
    }
}

#[test]
fn what_comes_together_is_answered_together() {
    let (net, _) = still_net(Bounds::default());
    let (one, other) = Memory::pair(1 << 20);
    let counted = Arc::new(Counted(other, AtomicUsize::new(0)));
    let there = serve(&net, Arc::clone(&counted) as _);
    let mut raw = greet_raw(one, Purpose::Control);
    there.wait("it to open", |heard| heard.connection.is_some());
    let connection = there.heard.lock().connection.clone().unwrap();
    // It is still at opening it for a moment.
    while connection.link().liveness().is_working() {
        thread::yield_now();
    }
    // While the service is held up by the first, the others come: all of them in one read.
    let heard = there.heard.lock();
    raw.send(&packet(Form::Ask, 1));
    while !connection.link().liveness().is_working() {
        thread::yield_now();
    }
    (2..=10).for_each(|id| raw.send(&packet(Form::Ask, id)));
    raw.send(&Packet { kind: KEEP, ..packet(Form::Ask, 11) });
    raw.send(&packet(Form::Ask, 12));
    drop(heard);
    let ids: Vec<u64> = (1..=11).map(|_| raw.receive().id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]);
    // The welcome, the first, the nine others before the one that might have taken its time, the last.
    assert_eq!(counted.1.load(Relaxed), 4);
}

#[test]
fn a_client_has_a_limit_of_open_requests() {
    let (net, _) = still_net(Bounds { control_asks: 2, ..Bounds::default() });
    let (there, mut raw) = served_raw(&net, 1 << 20);
    let keep = |id| Packet { kind: KEEP, ..packet(Form::Ask, id) };
    [1, 2, 3].iter().for_each(|id| raw.send(&keep(*id)));
    let refused = raw.receive();
    assert_eq!((refused.form, refused.id), (Form::Failure, 3));
    there.wait("the others", |heard| heard.kept.len() == 2);
    let (_, reply) = there.heard.lock().kept.pop().unwrap();
    reply.answer(0, Bytes::new(), Bytes::new());
    assert_eq!(raw.receive().id, 2);
    raw.send(&keep(4));
    there.wait("another", |heard| heard.kept.len() == 2);
}

#[test]
fn who_joins_has_a_moment_and_little_room() {
    let (net, hands) = still_net(Bounds::default());
    let (there, raw) = served_raw_for(&net, 1 << 20, Purpose::Join);
    raw.send(&Packet { tail: vec![0; GREETING_BYTES_MAX + 1].into(), ..packet(Form::Tell, 0) });
    there.wait("its end", |heard| heard.closed.len() == 1);

    let (there, raw) = served_raw_for(&net, 1 << 20, Purpose::Join);
    raw.send(&Packet { tail: vec![0; GREETING_BYTES_MAX].into(), ..packet(Form::Tell, 0) });
    there.wait("what it may send", |heard| heard.told.len() == 1);
    hands.advance(net.bounds().join);
    net.timer.look();
    there.wait("its end", |heard| heard.closed.len() == 1);
    let why = there.heard.lock().closed[0].to_string();
    assert_eq!(why, "here took too long to join");
}

#[test]
fn bytes_that_are_no_packet_end_the_connection() {
    let (net, _) = still_net(Bounds::default());
    let wrong: [&[u8]; 3] = [
        &[1; 100],
        &packet(Form::Hello, 0).encode().unwrap()[0],
        &packet(Form::Welcome, 0).encode().unwrap()[0],
    ];
    for bytes in wrong {
        let (there, raw) = served_raw(&net, 1 << 20);
        raw.stream.write(&[IoSlice::new(bytes)]).unwrap();
        there.wait("its end", |heard| heard.closed.len() == 1);
        let (connection, here, raw) = dial_raw(&net, 1 << 20);
        raw.stream.write(&[IoSlice::new(bytes)]).unwrap();
        here.wait("its end", |heard| heard.closed.len() == 1);
        assert!(connection.is_closed());
    }
}

#[test]
fn somebody_who_does_not_greet_is_not_waited_for() {
    let bounds = Bounds {
        greet: Duration::from_millis(20),
        welcome: Duration::from_millis(20),
        ..Bounds::default()
    };
    let net = Net::start(SystemClock::shared(), bounds).unwrap();
    let (one, other) = Memory::pair(1000);
    let security = ListenSecurity::Plain(client("a"));
    let silent = accept(&net, Arc::new(other), "a client", &security, &Everybody::default());
    let expected =
        NetError::Unreachable("a client did not come up in time: is it tsfs?".to_owned());
    assert_eq!(silent, Err(expected));
    drop(one);

    let (one, _other) = Memory::pair(1000);
    let silent = net.dial_over(Arc::new(one), plain(&Arc::default(), "")).err();
    let expected = NetError::Unreachable("there did not come up in time: is it tsfs?".to_owned());
    assert_eq!(silent, Some(expected));
}

fn listen(net: &Arc<Net>, networks: &str, connections_max: usize) -> (Listener, Arc<Conduct>) {
    let handler = Arc::new(Everybody::default());
    let conduct = Arc::clone(&handler.conduct);
    let listen = Listen {
        address: "127.0.0.1:0".to_owned(),
        security: ListenSecurity::Plain(client("a")),
        networks: networks.parse().unwrap(),
        connections_max,
        handler,
    };
    (Listener::bind(net, listen).unwrap(), conduct)
}

#[test]
fn an_address_that_may_not_connect_is_turned_away_at_once() {
    let net = net();
    let (listener, _) = listen(&net, "10.0.0.0/8", 10);
    let dial = Dial { address: listener.address().to_string(), ..plain(&Arc::default(), "") };
    let error = net.dial(dial).err().unwrap();
    assert!(matches!(error, NetError::Unreachable(_)), "{error:?}");
    let (listener, _) = listen(&net, "10.0.0.0/8, 127.0.0.0/8", 10);
    let dial = Dial { address: listener.address().to_string(), ..plain(&Arc::default(), "") };
    assert!(net.dial(dial).is_ok());
}

#[test]
fn one_connection_too_many_is_told_so() {
    let net = net();
    let (listener, there) = listen(&net, "", 1);
    let dial = Dial { address: listener.address().to_string(), ..plain(&Arc::default(), "") };
    let (first, _) = net.dial(dial.clone()).unwrap();
    let NetError::Refused(refusal) = net.dial(dial.clone()).err().unwrap() else { panic!() };
    assert_eq!(refusal.why, Why::Full);
    first.close();
    there.wait("the end of the first", |heard| heard.closed.len() == 1);
    // Its thread ends a moment after that.
    let again = || net.dial(dial.clone()).is_ok();
    assert!((0..10_000).any(|_| again() || {
        thread::yield_now();
        false
    }));
}

#[test]
fn a_listener_that_is_dropped_leaves_nothing_behind() {
    let net = net();
    let (listener, there) = listen(&net, "", 10);
    let address = listener.address().to_string();
    let here = Arc::<Conduct>::default();
    let dial = Dial { address: address.clone(), ..plain(&here, "") };
    let (_connection, _) = net.dial(dial.clone()).unwrap();
    // One that never says anything.
    let mut silent = TcpStream::connect(&address).unwrap();
    drop(listener);
    assert_eq!(there.heard.lock().closed.len(), 1, "nobody calls it any more");
    here.wait("its end", |heard| heard.closed.len() == 1);
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
    assert!(matches!(net.dial(dial), Err(NetError::Unreachable(_))));
}

#[test]
fn strangers_who_send_anything_do_no_harm() {
    let net = net();
    let (listener, _) = listen(&net, "", 10);
    let address = listener.address().to_string();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100_000], &[]] {
        let mut stranger = TcpStream::connect(&address).unwrap();
        // It may be closed before all is written.
        let _ = stranger.write_all(bytes);
        let _ = stranger.shutdown(std::net::Shutdown::Write);
        assert_eq!(stranger.read(&mut [0]).unwrap_or(0), 0);
    }
    let dial = Dial { address, ..plain(&Arc::default(), "") };
    assert!(net.dial(dial).is_ok());
}
