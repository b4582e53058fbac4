//! A client whose server does not answer: nobody waits without a bound, and nothing is lost by that.

use super::CALLER;
use super::leader::Leader;
use super::options;
use super::write;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::channel;
use std::time::Duration;
use tsfs::env::SystemClock;
use tsfs::tsdb_client::Client;
use tsfs::tsdb_client::FileLock;
use tsfs::tsdb_client::Locking;
use tsfs::tsdb_client::New;
use tsfs::tsdb_client::Options;
use tsfs::tsdb_client::XattrHow;
use tsfs::types::AsOf;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::wire::Moment;
use tsfs::wire::Waiting;

const ROOT: Ino = Ino::ROOT;

fn set(client: &Client, ino: Ino, name: &[u8]) -> Result<(), FsError> {
    client.setxattr(CALLER, ino, name, b"x", XattrHow::Create)
}

fn has(client: &Client, ino: Ino, name: &[u8]) -> bool {
    client.getxattr(ino, name, AsOf::Now).is_ok()
}

fn file(client: &Client, name: &[u8]) -> Ino {
    let kind = FileKind::File;
    let new = New { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, target: Bytes::new() };
    client.create(CALLER, ROOT, name, new).unwrap().ino
}

/// What a call on a thread of its own comes to.
fn apart<T: Send + 'static>(
    client: &Arc<Client>,
    call: impl FnOnce(&Client) -> T + Send + 'static,
) -> Receiver<T> {
    let (client, (tell, told)) = (Arc::clone(client), channel());
    std::thread::spawn(move || tell.send(call(&client)));
    told
}

/// What comes within a time that nothing takes unless it waits without a bound.
fn soon<T>(told: &Receiver<T>) -> Option<T> {
    told.recv_timeout(Duration::from_secs(20)).ok()
}

#[test]
fn a_change_that_is_on_its_way_when_nobody_answers_any_more_is_not_waited_for() {
    let leader = Leader::new();
    let seat = leader.seat();
    let a = Client::open(seat.clone(), SystemClock::shared(), options()).unwrap();
    let b = Client::open(leader.seat(), SystemClock::shared(), options()).unwrap();
    let ino = file(&a, b"f");
    let handle = a.open_file(CALLER, ino, true).unwrap();
    let lock = FileLock { owner: 1, first: 0, last: 9, exclusive: true, pid: 1 };
    assert_eq!(a.lock(ino, handle, lock), Ok(Locking::Done));
    // From here on it is nobody's.
    b.getattr(ino, AsOf::Now).unwrap();
    leader.hold(true);
    let changing = {
        let a = Arc::clone(&a);
        std::thread::spawn(move || set(&a, ino, b"user.first"))
    };
    while leader.waiting() == 0 {
        std::thread::yield_now();
    }
    leader.away(seat.session(), Some("nobody answers"));
    let unreachable = Err(FsError::Unreachable("nobody answers".to_owned()));
    assert_eq!(changing.join().unwrap(), unreachable);
    assert_eq!(set(&a, ino, b"user.second"), unreachable, "it is not known what came of the first");
    // A close does not fail for that.
    a.unlock_owner(ino, 1);
    leader.away(seat.session(), None);
    leader.hold(false);
    set(&a, ino, b"user.third").unwrap();
    for client in [&a, &b] {
        let there = [&b"user.first"[..], b"user.second", b"user.third"];
        assert_eq!(there.map(|name| has(client, ino, name)), [true, false, true]);
    }
    let other = b.open_file(CALLER, ino, true).unwrap();
    while b.lock(ino, other, lock).unwrap() != Locking::Done {
        std::thread::yield_now();
    }
    b.unlock_owner(ino, 1);
    // The kernel gives the number of an owner that is gone to the next: what the first had goes before that one locks.
    assert_eq!(a.lock(ino, handle, lock), Ok(Locking::Done));
    leader.away(seat.session(), Some("nobody answers"));
    leader.hold(true);
    a.unlock_owner(ino, 1);
    leader.hold(false);
    leader.away(seat.session(), None);
    assert_eq!(a.lock(ino, handle, lock), Ok(Locking::Done));
    // Longer than what is said late is said.
    let start = a.clock().steady();
    while a.clock().steady() - start < Duration::from_secs(3) {
        assert_eq!(b.lock(ino, other, lock), Ok(Locking::Held(None)));
    }
    assert_eq!(leader.faults(), Vec::<String>::new());
}

#[test]
fn while_an_unlock_is_kept_back_nobody_is_said_to_wait() {
    let leader = Leader::new();
    let seat = leader.seat();
    let a = Client::open(seat.clone(), SystemClock::shared(), options()).unwrap();
    let b = Client::open(leader.seat(), SystemClock::shared(), options()).unwrap();
    let (ino, other) = (file(&a, b"f"), file(&a, b"g"));
    let lock = FileLock { owner: 1, first: 0, last: 9, exclusive: true, pid: 1 };
    let handle = a.open_file(CALLER, ino, true).unwrap();
    // As rows: the nodes know who has it, and not that he wants it no more.
    b.getattr(ino, AsOf::Now).unwrap();
    assert_eq!(a.lock(ino, handle, lock), Ok(Locking::Done));
    let waiting = || vec![Waiting { number: 1, ino: other, lock, by: None }];
    a.waits(Moment::default(), waiting()).unwrap();
    assert_eq!(leader.asked("waits"), 1);
    leader.away(seat.session(), Some("nobody answers"));
    leader.hold(true);
    a.unlock_owner(ino, 1);
    a.waits(Moment::default(), waiting()).unwrap();
    let said = leader.asked("waits");
    // Clients end where the leader goes on, also where the test has failed.
    leader.hold(false);
    leader.away(seat.session(), None);
    assert_eq!(said, 1, "by what it does not hold any more");
    while leader.asked("waits") == 1 {
        a.waits(Moment::default(), waiting()).unwrap();
        std::thread::yield_now();
    }
    let handle = b.open_file(CALLER, ino, true).unwrap();
    assert_eq!(b.lock(ino, handle, lock), Ok(Locking::Done), "by then it is known");
}

#[test]
fn nobody_waits_without_a_bound_behind_a_direct_change_that_is_not_answered() {
    let leader = Leader::new();
    let seat = leader.seat();
    // Nothing is sent by itself.
    let slowly = Options { window: Duration::from_secs(3600), ..options() };
    let a = Client::open(seat.clone(), SystemClock::shared(), slowly).unwrap();
    let b = Client::open(leader.seat(), SystemClock::shared(), options()).unwrap();
    let (shared, own) = (file(&a, b"shared"), file(&a, b"own"));
    b.getattr(shared, AsOf::Now).unwrap();
    let handle = a.open_file(CALLER, own, true).unwrap();
    leader.hold(true);
    let changing = apart(&a, move |a| set(a, shared, b"user.first"));
    while leader.waiting() == 0 {
        std::thread::yield_now();
    }
    write(&a, handle, 0, b"of its own");
    let (tell, synced) = channel();
    let call = apart(&a, move |a| {
        a.fsync(Some(handle), Box::new(move |result| tell.send(result).unwrap()));
    });
    // Whoever calls goes on; the program waits for the answer.
    let called = soon(&call);
    write(&a, handle, 10, b", and more");
    let present = apart(&a, |a| a.present());
    let early = synced.try_recv();
    leader.away(seat.session(), Some("nobody answers"));
    let (changed, synced, present) = (soon(&changing), soon(&synced), soon(&present));
    // Clients end where the leader goes on, also where the test has failed.
    leader.away(seat.session(), None);
    leader.hold(false);
    assert_eq!((called, early.is_err()), (Some(()), true));
    let unreachable = FsError::Unreachable("nobody answers".to_owned());
    assert_eq!(changed, Some(Err(unreachable.clone())));
    assert_eq!(synced, Some(Err(unreachable.clone())));
    assert_eq!(present, Some(Err(unreachable)));
    a.present().unwrap();
    assert_eq!(b.getattr(own, AsOf::Now).map(|attr| attr.size), Ok(20));
    assert!(has(&b, shared, b"user.first"));
    assert_eq!(leader.faults(), Vec::<String>::new());
}
