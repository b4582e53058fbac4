//! What a connection carries on this machine. Prints figures and asserts none:
//! `cargo test --release --lib net::tests::measure -- --ignored --nocapture`.

use super::*;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// With TLS, over loopback.
fn connect(net: &Arc<Net>, purpose: Purpose) -> (Listener, Connection) {
    let authority = Authority::make(STORE, net.clock().wall()).unwrap();
    let credentials = |identity: &Identity| {
        let text = authority.issue(identity, net.clock().wall(), DAY).unwrap();
        let material = Material::from_pem(text.as_bytes()).unwrap();
        Credentials::new(Arc::clone(net.clock()), material)
    };
    let listen = Listen {
        address: "127.0.0.1:0".to_owned(),
        security: ListenSecurity::Tls { credentials: credentials(&node(1)), strangers: false },
        networks: Networks::everywhere(),
        connections_max: 10,
        handler: Arc::new(Everybody::default()),
    };
    let listener = Listener::bind(net, listen).unwrap();
    let dial = Dial {
        address: listener.address().to_string(),
        purpose,
        hello: Bytes::new(),
        security: DialSecurity::Tls(credentials(&client("a")), None),
        service: Arc::<Conduct>::default(),
    };
    let (connection, _) = net.dial(dial).unwrap();
    (listener, connection)
}

/// Asks so often, with so many under way, each begun by the answer to another; how long it took.
fn asked(
    net: &Net,
    connection: &Connection,
    count: usize,
    under_way: usize,
    tail: &Bytes,
) -> Duration {
    struct Run {
        connection: Connection,
        tail: Bytes,
        begun: AtomicUsize,
        count: usize,
        ended: (Mutex<usize>, Condvar),
    }
    fn next(run: &Arc<Run>) {
        if run.begun.fetch_add(1, Relaxed) >= run.count {
            return;
        }
        let (again, meta) = (Arc::clone(run), Bytes::from_static(b"meta of a small request"));
        let on_answer = move |answer: Answer| {
            answer.unwrap();
            *again.ended.0.lock() += 1;
            again.ended.1.notify_one();
            next(&again);
        };
        let (tail, wait) = (run.tail.clone(), Wait::Never);
        run.connection.ask(SIZE_OF_TAIL, meta, tail, LONG, wait, Box::new(on_answer)).unwrap();
    }
    const SIZE_OF_TAIL: u16 = ECHO;
    let run = Arc::new(Run {
        connection: connection.clone(),
        tail: tail.clone(),
        begun: AtomicUsize::new(0),
        count,
        ended: (Mutex::new(0), Condvar::new()),
    });
    let begun = net.clock().steady();
    (0..under_way).for_each(|_| next(&run));
    run.ended.1.wait_while(&mut run.ended.0.lock(), |ended| *ended < count);
    net.clock().steady() - begun
}

#[test]
#[ignore = "prints figures; run it alone, with --release"]
fn round_trips_and_bytes_with_tls_over_loopback() {
    let net = net();
    let (_listener, control) = connect(&net, Purpose::Control);
    let (_other, bulk) = connect(&net, Purpose::Bulk);
    let small = Bytes::from_static(&[0; 64]);
    let none = Bytes::new;
    let begun = net.clock().steady();
    for _ in 0..5_000 {
        control.call(ECHO, none(), small.clone(), LONG).unwrap();
    }
    let time = (net.clock().steady() - begun).as_secs_f64();
    println!(
        "call, 64 bytes, one under way: {:.0} a second, {:.1} µs",
        5_000.0 / time,
        time * 200.0
    );
    for (under_way, count) in [(1, 10_000), (64, 100_000), (512, 200_000)] {
        let time = asked(&net, &control, count, under_way, &small).as_secs_f64();
        println!("ask, 64 bytes, {under_way} under way: {:.0} a second", count as f64 / time);
    }
    let large = Bytes::from(vec![7; 1 << 20]);
    for under_way in [1, 4] {
        let time = asked(&net, &bulk, 400, under_way, &large).as_secs_f64();
        println!("echo of 1 MiB, {under_way} under way: {:.0} MiB/s each way", 400.0 / time);
    }
}
