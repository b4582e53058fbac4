//! What a connection carries on this machine. Prints figures and asserts none:
//! `cargo test --release --lib net::tests::measure -- --ignored --nocapture`.

use super::*;
use rustix::time::ClockId;
use rustix::time::clock_gettime;
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

/// Asks so often, with so many under way, each begun by the answer to another.
fn asked(connection: &Connection, count: usize, under_way: usize, tail: &Bytes) {
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
        run.connection.ask(ECHO, meta, tail, LONG, wait, Box::new(on_answer)).unwrap();
    }
    let run = Arc::new(Run {
        connection: connection.clone(),
        tail: tail.clone(),
        begun: AtomicUsize::new(0),
        count,
        ended: (Mutex::new(0), Condvar::new()),
    });
    (0..under_way).for_each(|_| next(&run));
    run.ended.1.wait_while(&mut run.ended.0.lock(), |ended| *ended < count);
}

#[test]
#[ignore = "prints figures; run it alone, with --release"]
fn round_trips_and_bytes_with_tls_over_loopback() {
    let net = net();
    let (_listener, control) = connect(&net, Purpose::Control);
    let (_other, bulk) = connect(&net, Purpose::Bulk);
    let small = Bytes::from_static(&[0; 64]);
    let none = Bytes::new;
    let once = |connection: &Connection, count: usize| {
        for _ in 0..count {
            connection.call(ECHO, none(), small.clone(), LONG).unwrap();
        }
    };
    show("call, 64 bytes, 1 under way", 5_000, || once(&control, 5_000));
    for (under_way, count) in [(1, 10_000), (64, 100_000), (512, 200_000)] {
        let what = format!("ask, 64 bytes, {under_way} under way");
        show(&what, count, || asked(&control, count, under_way, &small));
    }
    let large = Bytes::from(vec![7; 1 << 20]);
    for under_way in [1, 4] {
        let what = format!("echo of 1 MiB, {under_way} under way");
        show(&what, 400, || asked(&bulk, 400, under_way, &large));
    }
}

/// Both sides are in this process: its time on processors is what a round trip costs in all, on a machine that has other
/// things to do as well.
fn show(what: &str, count: usize, run: impl FnOnce()) {
    let clocks = || {
        [ClockId::Monotonic, ClockId::ProcessCPUTime].map(|clock| {
            let now = clock_gettime(clock);
            now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
        })
    };
    let begun = clocks();
    run();
    let ended = clocks();
    let [time, busy] = [ended[0] - begun[0], ended[1] - begun[1]].map(|time| time / count as f64);
    println!("{what}: {:.0} a second, {:.1} µs of processor each", 1.0 / time, busy * 1e6);
}
