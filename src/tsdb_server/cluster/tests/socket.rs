//! Commands come in through the socket in the store's directory.

use super::*;

#[test]
fn commands_come_through_the_socket() {
    let world = World::new();
    world.add(2);
    let way = Way::open(&world.net, &world.dir);
    refused(way.map(|_| ()), "no node serves");
    let local =
        Local::bind(&world.net, &world.dir, Asked::new(world.cluster.clone()), world.store())
            .unwrap();
    let way = Way::open(&world.net, &world.dir).unwrap();
    let Answer::Overview(overview) = way.ask(&Ask::Overview, &mut |_| {}).unwrap() else {
        panic!("no overview");
    };
    assert_eq!((overview.here, overview.leader, overview.term), (1, Some(1), 7));
    let parts: Vec<Part> = overview.nodes.iter().map(|node| node.part).collect();
    assert_eq!(parts, [Part::Leads, Part::Votes]);
    assert!(overview.health.iter().any(|line| line.contains("add a third")), "{overview:?}");
    refused(way.ask(&Ask::Drain { node: NodeId(2) }, &mut |_| {}), "only 1 of 2");
    refused(way.ask(&Ask::Remove { node: NodeId(7) }, &mut |_| {}), "no node 7");
    refused(way.ask(&Ask::Evict { session: SessionId(99) }, &mut |_| {}), "no client 99");
    let session = world.node.open_session("a mount", Arc::new(Deaf)).unwrap().session;
    let Answer::Clients(clients) = way.ask(&Ask::Clients, &mut |_| {}).unwrap() else {
        panic!("no clients");
    };
    assert_eq!((clients.len(), &*clients[0].name, clients[0].whole), (1, "a mount", true));
    let locks = way.ask(&Ask::Locks { limit: 10 }, &mut |_| {}).unwrap();
    assert!(
        matches!(&locks, Answer::Locks { locks, more: false } if locks.len() == 1),
        "{locks:?}"
    );
    way.ask(&Ask::Evict { session }, &mut |_| {}).unwrap();
    assert_eq!(way.ask(&Ask::Clients, &mut |_| {}), Ok(Answer::Clients(Vec::new())));
    let mode = std::fs::metadata(world.dir.join(crate::wire::cluster::SOCKET)).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    drop(local);
    assert!(way.ask(&Ask::Clients, &mut |_| {}).is_err(), "the node is gone");
    refused(Way::open(&world.net, &world.dir).map(|_| ()), "no node serves");
}

#[test]
fn a_socket_may_lie_deep() {
    let world = World::new();
    let deep = world.dir.with_file_name("d".repeat(200));
    std::fs::create_dir(&deep).unwrap();
    let _local =
        Local::bind(&world.net, &deep, Asked::new(world.cluster.clone()), world.store()).unwrap();
    let way = Way::open(&world.net, &deep).unwrap();
    assert!(way.ask(&Ask::Clients, &mut |_| {}).is_ok());
}
