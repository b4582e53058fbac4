//! Joining over TLS: what a token opens, once, and to whom.

use super::*;

#[test]
fn a_token_takes_one_node_in_over_tls() {
    let world = World::new();
    let token = world.invite(Invited::Node);
    let identity = Identity::fresh();
    let (joined, certificate) = world.join(&token, joiner(identity, "b:1")).unwrap();
    assert_eq!(joined.node, Some(NodeId(2)));
    assert_eq!(world.made.members.lock().learners, [NodeId(2)]);
    assert_eq!(joined.nodes.len(), 2);
    // The answer was lost: the same disk asks again and is answered the same.
    let (again, _) = world.join(&token, joiner(identity, "b:1")).unwrap();
    assert_eq!(again.node, joined.node);
    refused(world.join(&token, joiner(Identity::fresh(), "c:1")), "used already");

    let store = world.dir.with_file_name("second");
    std::fs::create_dir(&store).unwrap();
    identity.write(&RealDisk, &store).unwrap();
    let settled = join::settle_in(identity, &joined, &certificate, (&RealDisk, &store)).unwrap();
    assert_eq!(Identity::read(&RealDisk, &store), Ok(Some(settled)));
    assert_eq!(Label::read(&RealDisk, &store).unwrap().unwrap().store, joined.store);
    let material = Material::load(&store.join(disk::CERTIFICATE)).unwrap();
    let id = net::StoreId(joined.store);
    assert_eq!(*material.identity(), net::Identity::Node { node: NodeId(2), store: id });
    // Cut off in between, it is done again.
    join::settle_in(identity, &joined, &certificate, (&RealDisk, &store)).unwrap();
}

#[test]
fn a_client_gets_its_certificate_with_a_token() {
    let world = World::new();
    let to = Invited::Client { name: "laptop".to_owned() };
    let token = world.invite(to.clone());
    refused(world.join(&token, joiner(Identity::fresh(), "b:1")), "is for the client laptop");
    let (joined, certificate) = world.join(&token, Joiner::Client).unwrap();
    assert_eq!(joined.node, None);
    let material = Material::from_pem(certificate.as_bytes()).unwrap();
    let store = net::StoreId(joined.store);
    let laptop = net::Identity::Client { name: "laptop".to_owned(), store };
    assert_eq!(*material.identity(), laptop);
    refused(world.join(&token, Joiner::Client), "used already");
    refused(world.join(&world.invite(Invited::Node), Joiner::Client), "is for a node");
    let Answer::Certificate { text, .. } =
        world.ask(Ask::Certificate { name: "tv".to_owned(), valid_s: 60 }).unwrap()
    else {
        panic!("no certificate");
    };
    assert!(Material::from_pem(text.as_bytes()).is_ok());
    refused(world.ask(Ask::Certificate { name: String::new(), valid_s: 60 }), "1 to 64 bytes");
    refused(world.ask(Ask::Certificate { name: "tv".to_owned(), valid_s: 0 }), "one second");
}

#[test]
fn tokens_that_are_not_good_are_refused_with_a_sentence() {
    let world = World::new();
    let good = world.invite(Invited::Node);
    let now = world.cluster.clock.wall();
    // Of this cluster's authority, but made up.
    let hour = Duration::from_secs(3600);
    let made_up = Token::make(good.authority, good.addresses.clone(), now, hour).unwrap();
    refused(world.join(&made_up, joiner(Identity::fresh(), "b:1")), "did not make the token");
    refused(world.join(&made_up, Joiner::Client), "did not make the token");
    // Over by the joiner's clock, before anybody is asked.
    let over = crate::types::Stamp(now.0 - 7_200_000_000_000);
    let over = Token::make(good.authority, good.addresses.clone(), over, hour).unwrap();
    refused(world.join(&over, Joiner::Client), "the token ended on");
    // Over by the cluster's.
    let digest = made_up.digest();
    let expires = crate::types::Stamp(1);
    let invite = ClusterOp::Invite { digest, expires, to: Invited::Node };
    world.node.administer(Op::Cluster(invite)).unwrap();
    refused(world.join(&made_up, joiner(Identity::fresh(), "b:1")), "has expired");
    // An address that another node has: the token is not used up.
    let taken = world.listener.as_ref().unwrap().address().to_string();
    refused(world.join(&good, joiner(Identity::fresh(), &taken)), "has this address");
    world.join(&good, joiner(Identity::fresh(), "b:1")).unwrap();
}

#[test]
fn a_joiner_does_not_trust_another_cluster() {
    let world = World::new();
    let token = world.invite(Invited::Node);
    let now = world.cluster.clock.wall();
    let other = net::Authority::make(net::StoreId([9; 16]), now).unwrap();
    let hour = Duration::from_secs(3600);
    let wrong = Token::make(other.fingerprint(), token.addresses, now, hour).unwrap();
    let pause = Pause::default();
    pause.close();
    let key = PendingKey::generate().unwrap();
    let asked = join::ask(&world.net, &wrong, &key, &Joiner::Client, &pause);
    assert_eq!(asked.unwrap_err(), FsError::Closing, "it tries again until it is told to end");
}
