//! Both sides prove who they are, over TCP; and every way in which one does not is a sentence at both.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A cluster with a node that listens, and a clock.
struct Cluster {
    hands: Arc<Hands>,
    net: Arc<Net>,
    authority: Authority,
    handler: Arc<Everybody>,
    node: Arc<Credentials>,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster::of(STORE)
    }

    fn of(store: StoreId) -> Cluster {
        // The wall clock is set by hand: certificates are checked against it.
        let hands = Hands::at(NOW);
        let net = Net::start(Arc::clone(&hands) as _, Bounds::default()).unwrap();
        let authority = Authority::make(store, NOW).unwrap();
        let identity = Identity::Node { node: NodeId(1), store };
        let material = material(&authority, &identity, NOW, DAY);
        let node = Credentials::new(Arc::clone(&hands) as _, material);
        Cluster { hands, net, authority, handler: Arc::default(), node }
    }

    fn listen(&self, strangers: bool) -> Listener {
        let credentials = Arc::clone(&self.node);
        let listen = Listen {
            address: "127.0.0.1:0".to_owned(),
            security: ListenSecurity::Tls { credentials, strangers },
            networks: Networks::everywhere(),
            connections_max: 100,
            handler: Arc::clone(&self.handler) as _,
        };
        Listener::bind(&self.net, listen).unwrap()
    }

    fn credentials(&self, identity: &Identity) -> Arc<Credentials> {
        let material = material(&self.authority, identity, NOW, DAY);
        Credentials::new(Arc::clone(&self.hands) as _, material)
    }

    fn dial(&self, listener: &Listener, security: DialSecurity) -> Result<Connection, NetError> {
        self.dial_for(listener, security, Purpose::Control)
    }

    fn dial_for(
        &self,
        listener: &Listener,
        security: DialSecurity,
        purpose: Purpose,
    ) -> Result<Connection, NetError> {
        let address = listener.address().to_string();
        let dial = Dial { address, security, purpose, ..plain(&Arc::default(), "") };
        Ok(self.net.dial(dial)?.0)
    }
}

fn material(authority: &Authority, identity: &Identity, now: Stamp, valid: Duration) -> Material {
    Material::from_pem(authority.issue(identity, now, valid).unwrap().as_bytes()).unwrap()
}

fn echo(connection: &Connection) {
    let answer = connection.call(ECHO, bytes("meta"), vec![9; 100_000].into(), LONG).unwrap();
    assert_eq!((&answer.meta[..], answer.tail.len()), (&b"meta"[..], 100_000));
}

/// A sentence of somebody who was not let in, without the address.
fn unproven(result: Result<Connection, NetError>) -> String {
    let error = result.err().expect("it was let in");
    let NetError::Unproven(sentence) = error else { panic!("{error:?}") };
    sentence.split_once(": ").expect("it names the address").1.to_owned()
}

#[test]
fn both_sides_know_who_the_other_is() {
    let cluster = Cluster::new();
    let listener = cluster.listen(false);
    for identity in [client("Jörg's laptop"), node(2)] {
        let security = DialSecurity::Tls(cluster.credentials(&identity), Some(NodeId(1)));
        let connection = cluster.dial(&listener, security).unwrap();
        assert_eq!(connection.peer().identity, node(1));
        echo(&connection);
        assert_eq!(cluster.handler.peers.lock().last().unwrap().identity, identity);
    }
}

#[test]
fn tls_goes_through_a_narrow_stream() {
    let cluster = Cluster::new();
    // Whatever is sealed never fits at once.
    let (one, other) = Memory::pair(100);
    let credentials = Arc::clone(&cluster.node);
    let (net, handler) = (Arc::clone(&cluster.net), Arc::clone(&cluster.handler));
    let security = ListenSecurity::Tls { credentials, strangers: false };
    let served = thread::spawn(move || accept(&net, Arc::new(other), "here", &security, &*handler));
    let security = DialSecurity::Tls(cluster.credentials(&client("a")), None);
    let dial = Dial { security, ..plain(&Arc::default(), "") };
    let (connection, _) = cluster.net.dial_over(Arc::new(one), dial).unwrap();
    (0..5).for_each(|_| echo(&connection));
    connection.close();
    assert_eq!(served.join().unwrap(), Ok(()));
}

#[test]
fn many_threads_ask_through_tls_at_once() {
    let cluster = Cluster::new();
    let listener = cluster.listen(false);
    let security = DialSecurity::Tls(cluster.credentials(&client("a")), None);
    let connection = cluster.dial(&listener, security).unwrap();
    thread::scope(|scope| {
        for thread in 0..8u8 {
            let connection = &connection;
            scope.spawn(move || {
                for n in 0..20usize {
                    let size = if n % 5 == 0 { 1 << 20 } else { n * 997 };
                    let tail = Bytes::from(vec![thread; size]);
                    let answer = connection.call(ECHO, Bytes::new(), tail.clone(), LONG).unwrap();
                    assert!(answer.tail == tail);
                }
            });
        }
    });
}

#[test]
fn a_certificate_of_another_cluster_is_refused_at_both_sides() {
    let (cluster, other) = (Cluster::new(), Cluster::of(StoreId([7; 16])));
    let listener = cluster.listen(false);
    let foreign = Identity::Client { name: "a".to_owned(), store: StoreId([7; 16]) };
    let foreign = DialSecurity::Tls(other.credentials(&foreign), None);
    let sentence = unproven(cluster.dial(&listener, foreign));
    assert_eq!(sentence, "the certificate of node 1 is of another cluster");

    // The same names, but made by another authority.
    let other = Cluster::new();
    let forged = DialSecurity::Tls(other.credentials(&client("a")), None);
    let sentence = unproven(cluster.dial(&listener, forged));
    assert!(
        sentence.starts_with("the certificate of node 1 was not made by this cluster's authority"),
        "{sentence}"
    );
}

/// A client that believes the node, which does not believe it.
fn believing(cluster: &Cluster, certificate: &str) -> DialSecurity {
    let believed = cluster.authority.issue(&client("a"), NOW, DAY).unwrap();
    let (_, authority) = believed.split_once("-----END CERTIFICATE-----\n").unwrap();
    let (authority, _) = authority.split_once("-----BEGIN PRIVATE KEY").unwrap();
    let material = Material::from_pem((certificate.to_owned() + authority).as_bytes()).unwrap();
    DialSecurity::Tls(Credentials::new(Arc::clone(&cluster.hands) as _, material), None)
}

#[test]
fn a_client_that_is_not_believed_hears_it() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let listener = cluster.listen(false);
    let forged = other.authority.issue(&client("a"), NOW, DAY).unwrap();
    let sentence = unproven(cluster.dial(&listener, believing(&cluster, &forged)));
    assert_eq!(
        sentence,
        "it does not know the authority of the certificate of client 'a', used here: it is of another cluster"
    );
    assert!(cluster.handler.peers.lock().is_empty());
}

#[test]
fn an_expired_certificate_is_refused_with_its_date() {
    let cluster = Cluster::new();
    let security = |identity: &Identity| {
        let material = material(&cluster.authority, identity, NOW, DAY * 3);
        DialSecurity::Tls(Credentials::new(Arc::clone(&cluster.hands) as _, material), None)
    };
    let (long, short) =
        (security(&client("long")), DialSecurity::Tls(cluster.credentials(&client("short")), None));
    cluster.hands.advance(DAY * 2);
    let listener = cluster.listen(false);
    let sentence = unproven(cluster.dial(&listener, long.clone()));
    let expected = "the certificate of node 1 expired on 2027-01-16 08:00:00 UTC; a node renews it by itself: start that node again, and look at its log";
    assert_eq!(sentence, expected);

    cluster.node.replace(material(&cluster.authority, &node(1), NOW, DAY * 3));
    let sentence = unproven(cluster.dial(&listener, short));
    let expected = "the certificate of client 'short', used here, expired on 2027-01-16 08:00:00 UTC; make a new one with 'tsfs cluster client short'";
    assert_eq!(sentence, expected);
    echo(&cluster.dial(&listener, long).unwrap());
}

#[test]
fn a_certificate_from_the_future_is_refused_with_the_clocks() {
    let cluster = Cluster::new();
    let listener = cluster.listen(false);
    let later = Stamp(NOW.0 + (10 * DAY).as_nanos() as u64);
    let early = material(&cluster.authority, &client("a"), later, DAY);
    let early = DialSecurity::Tls(Credentials::new(Arc::clone(&cluster.hands) as _, early), None);
    let sentence = unproven(cluster.dial(&listener, early));
    assert!(
        sentence.contains("is valid from 2027-01-24 08:00:00 UTC to 2027-01-26 08:00:00 UTC"),
        "{sentence}"
    );
    assert!(
        sentence.ends_with("here it is 2027-01-15 08:00:00 UTC: set the clocks of both machines"),
        "{sentence}"
    );

    cluster.node.replace(material(&cluster.authority, &node(1), later, DAY));
    let security = DialSecurity::Tls(cluster.credentials(&client("a")), None);
    let sentence = unproven(cluster.dial(&listener, security));
    assert_eq!(
        sentence,
        "the certificate of node 1 is valid from 2027-01-24 08:00:00 UTC, and here it is 2027-01-15 08:00:00 UTC: set the clocks of both machines"
    );
}

#[test]
fn nobody_else_passes_for_a_node() {
    let cluster = Cluster::new();
    let listener = cluster.listen(false);
    let security = |node| DialSecurity::Tls(cluster.credentials(&client("a")), node);
    let sentence = unproven(cluster.dial(&listener, security(Some(NodeId(2)))));
    assert_eq!(sentence, "node 1 is there, not node 2: the address is another's");
    // A client that listens.
    cluster.node.replace(material(&cluster.authority, &client("evil"), NOW, DAY));
    let sentence = unproven(cluster.dial(&listener, security(None)));
    assert!(sentence.starts_with("the certificate of client 'evil' "), "{sentence}");
}

#[test]
fn without_a_certificate_one_may_only_join() {
    let cluster = Cluster::new();
    let pinned = || DialSecurity::Pinned(cluster.authority.fingerprint());
    let closed = cluster.listen(false);
    let sentence = unproven(cluster.dial_for(&closed, pinned(), Purpose::Join));
    assert_eq!(sentence, "it takes nobody without a certificate now: ask there for an invitation");

    let open = cluster.listen(true);
    for purpose in [Purpose::Control, Purpose::Bulk] {
        let refused = cluster.dial_for(&open, pinned(), purpose).err().unwrap();
        let NetError::Refused(refusal) = refused else { panic!("{refused:?}") };
        assert_eq!(refusal.why, Why::Stranger);
    }
    assert!(cluster.handler.peers.lock().is_empty());
    let connection = cluster.dial_for(&open, pinned(), Purpose::Join).unwrap();
    assert_eq!(connection.peer().identity, node(1));
    assert_eq!(cluster.handler.peers.lock()[0].identity, Identity::Nobody);
    let answer = connection.call(ECHO, bytes("a token"), Bytes::new(), LONG).unwrap();
    assert_eq!(answer.meta, "a token");

    let other = Authority::make(STORE, NOW).unwrap();
    let sentence =
        unproven(cluster.dial_for(&open, DialSecurity::Pinned(other.fingerprint()), Purpose::Join));
    assert_eq!(
        sentence,
        "the certificate of node 1 is not of the cluster that made the token: ask there for a new token"
    );
    // Where nobody need come with a certificate, one that is shown must still be right.
    let forged = other.issue(&client("a"), NOW, DAY).unwrap();
    let refused = cluster.dial(&open, believing(&cluster, &forged));
    assert!(unproven(refused).starts_with("it does not know the authority"));
}

#[test]
fn a_program_joins_with_a_token() {
    let cluster = Cluster::new();
    let listener = cluster.listen(true);
    let addresses = vec![listener.address().to_string()];
    let token = Token::make(cluster.authority.fingerprint(), addresses, NOW, DAY).unwrap();
    // What a person copies.
    let token: Token = token.to_string().parse().unwrap();
    let pinned = DialSecurity::Pinned(token.authority);
    assert!(cluster.dial_for(&listener, pinned, Purpose::Join).is_ok());

    let key = PendingKey::generate().unwrap();
    let request = key.request().unwrap();
    for byte in [0, 1, 40, 80, request.len() - 1] {
        let mut wrong = request.clone();
        wrong[byte] ^= 1;
        assert!(KeyRequest::from_bytes(&wrong).is_err(), "byte {byte}");
    }
    let request = KeyRequest::from_bytes(&request).unwrap();
    let answer = cluster.authority.issue_for(&request, &node(3), NOW, DAY).unwrap();
    assert!(!answer.contains("PRIVATE"));
    let text = key.complete(&answer, token.authority).unwrap();
    let material = Material::from_pem(text.as_bytes()).unwrap();
    assert_eq!(material.identity(), &node(3));
    assert_eq!(material.authority(), token.authority);
    assert_eq!(material.valid_until(), Stamp(NOW.0 + DAY.as_nanos() as u64));
    let credentials = Credentials::new(Arc::clone(&cluster.hands) as _, material);
    echo(&cluster.dial(&listener, DialSecurity::Tls(credentials, None)).unwrap());

    let other = Authority::make(STORE, NOW).unwrap();
    let answer = other.issue_for(&request, &node(3), NOW, DAY).unwrap();
    assert!(PendingKey::generate().unwrap().complete(&answer, token.authority).is_err());
}

#[test]
fn an_authority_comes_back_from_its_bytes() {
    let made = Authority::make(STORE, NOW).unwrap();
    let bytes = made.to_bytes();
    let kept = Authority::from_bytes(&bytes).unwrap();
    assert_eq!((kept.store(), kept.fingerprint()), (STORE, made.fingerprint()));
    // What it made before and after is of one authority.
    let (before, after) =
        (material(&made, &client("a"), NOW, DAY), material(&kept, &node(1), NOW, DAY));
    assert_eq!(before.authority(), after.authority());
    for cut in [0, 10, 20, 100, bytes.len() - 1] {
        assert!(Authority::from_bytes(&bytes[..cut]).is_err(), "{cut} bytes");
    }
    for identity in [client(""), client(&"x".repeat(65)), node(0), Identity::Nobody] {
        assert!(kept.issue(&identity, NOW, DAY).is_err(), "{identity:?}");
    }
    let foreign = Identity::Node { node: NodeId(1), store: StoreId([1; 16]) };
    assert!(kept.issue(&foreign, NOW, DAY).is_err());
}

#[test]
fn a_new_certificate_is_used_without_a_restart() {
    let cluster = Cluster::new();
    let listener = cluster.listen(false);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("client.pem");
    let write = |name: &str| {
        let text = cluster.authority.issue(&client(name), NOW, DAY).unwrap();
        write_private(&path, text.as_bytes()).unwrap();
    };
    write("before");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let clock: Arc<dyn Clock> = Arc::clone(&cluster.hands) as _;
    let credentials = Credentials::load(clock, &path).unwrap();
    let dial =
        || cluster.dial(&listener, DialSecurity::Tls(Arc::clone(&credentials), None)).unwrap();
    let before = dial();
    write("after");
    let soon = dial();
    cluster.hands.advance(Duration::from_secs(1));
    let after = dial();
    let names: Vec<Identity> =
        cluster.handler.peers.lock().iter().map(|peer| peer.identity.clone()).collect();
    assert_eq!(names, [client("before"), client("before"), client("after")]);
    [before, soon, after].iter().for_each(echo);

    // A file that cannot be used changes nothing.
    fs::write(&path, "garbage").unwrap();
    cluster.hands.advance(Duration::from_secs(1));
    assert_eq!(credentials.current().identity(), &client("after"));
    echo(&dial());
}

#[test]
fn a_file_that_is_not_right_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.pem");
    let authority = Authority::make(STORE, NOW).unwrap();
    let good = authority.issue(&node(1), NOW, DAY).unwrap();
    let other = authority.issue(&node(1), NOW, DAY).unwrap();
    let foreign = Authority::make(STORE, NOW).unwrap().issue(&node(1), NOW, DAY).unwrap();
    let part = |text: &str, n: usize| -> String {
        let parts: Vec<&str> = text.split("-----BEGIN ").collect();
        format!("-----BEGIN {}", parts[n + 1])
    };
    let cases = [
        (String::new(), "it has no private key"),
        (part(&good, 2), "it has no certificate"),
        (part(&good, 0) + &part(&good, 2), "0 authorities"),
        (part(&good, 0) + &part(&good, 1), "it has no private key"),
        (part(&good, 0) + &part(&foreign, 1) + &part(&good, 2), "its authority did not make it"),
        (part(&good, 0) + &part(&good, 1) + &part(&other, 2), "keys may not be consistent"),
    ];
    for (text, expected) in cases {
        write_private(&path, text.as_bytes()).unwrap();
        let error = Material::load(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("node.pem"), "{error}");
    }
    write_private(&path, good.as_bytes()).unwrap();
    assert_eq!(Material::load(&path).unwrap().identity(), &node(1));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Material::load(&path).unwrap_err().to_string();
    assert!(error.ends_with(&format!("'chmod 600 {}'", path.display())), "{error}");
}
