//! Copies: who is asked for them before what changes, here and at a new leader.

use super::*;

type TakenBack = (Option<Vec<Ino>>, Box<dyn FnOnce() + Send>);

/// Notes what it is asked for, and answers when the test does.
struct Holder(Mutex<mpsc::Sender<TakenBack>>);

impl Listener for Holder {
    fn recall(&self, _: Recall) {}

    fn flush(&self, done: Box<dyn FnOnce() + Send>) {
        done();
    }

    fn whole(&self, _: Whole) {}

    fn take_back(&self, inos: Option<Vec<Ino>>, done: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().send((inos, done)).unwrap();
    }

    fn ended(&self, _: &str) {}
}

fn attend(world: &World, session: SessionId) -> mpsc::Receiver<TakenBack> {
    let (tell, asked) = mpsc::channel();
    world.locks.attend(session, Arc::new(Holder(Mutex::new(tell)))).unwrap();
    asked
}

fn next(asked: &mpsc::Receiver<TakenBack>) -> TakenBack {
    asked.recv_timeout(LIMIT).unwrap()
}

/// A change of the root by this session, as its node is asked for it.
fn change(world: &World, by: SessionId) -> crate::tsdb_server::lock_node::copies::Changing {
    let (ops, direct) = (vec![chmod(Ino::ROOT, 0o711)], Some(world.root_seen()));
    let batch = Batch { session: by, seq: BatchSeq(1), epoch: 0, by: Vec::new(), ops, direct };
    world.locks.begin_change(by, &batch.encode()).unwrap()
}

#[test]
fn a_change_waits_until_copies_are_given_back_or_their_time_is_over() {
    let world = World::new();
    let (mut a, b) = (Mount::open(&world, "a"), Mount::open(&world, "b"));
    let root = [Ino::ROOT];
    assert!(world.locks.give_copies(b.session, &root).unwrap().inos.is_empty(), "it is owned");
    assert_eq!(a.give_back(root.to_vec(), 0o700).0, Outcome::Applied);
    let beyond = Ino::new(1 << 40).unwrap();
    let asked = attend(&world, a.session);
    let given = world.locks.give_copies(a.session, &[Ino::ROOT, beyond]).unwrap();
    assert_eq!((&given.inos[..], given.lease_ms), (&root[..], 3000), "nobody has made the other");
    assert!(change(&world, a.session).is_free, "its own");
    let begun = change(&world, b.session);
    assert!(!begun.is_free);
    let (inos, done) = next(&asked);
    assert_eq!(inos.as_deref(), Some(&root[..]));
    assert!(world.locks.give_copies(a.session, &root).unwrap().inos.is_empty(), "it changes");
    let waiting = {
        let locks = world.locks.clone();
        thread::spawn(move || locks.await_free(&begun).map(|()| begun.is_free))
    };
    // Said again with each renewal, in case it was lost on the way.
    assert_eq!(world.locks.keep_copies(a.session).unwrap().era, given.era);
    assert_eq!(next(&asked).0.as_deref(), Some(&root[..]));
    assert!(!waiting.is_finished());
    done();
    waiting.join().unwrap().unwrap();
    // It rests, as it was taken back at once.
    *world.clock.0.lock().unwrap() += Duration::from_secs(1);
    assert_eq!(world.locks.give_copies(a.session, &root).unwrap().inos, root);
    let late = change(&world, b.session);
    assert!(!late.is_free);
    *world.clock.0.lock().unwrap() += THIRD;
    assert_eq!(world.locks.await_free(&late), Ok(()), "its time is over");
    drop(late);
    assert!(world.locks.give_copies(a.session, &root).unwrap().era > given.era);
}

#[test]
fn a_new_leader_takes_no_change_before_the_formers_copies_are_let_go_of() {
    let world = World::new();
    let (a, b) = (Mount::open(&world, "a"), Mount::open(&world, "b"));
    let begun = change(&world, b.session);
    world.reign.term.store(0, SeqCst);
    world.locks.wake();
    assert!(matches!(world.locks.await_free(&begun), Err(FsError::NotLeader { .. })));
    world.reign.term.store(2, SeqCst);
    let of_b = attend(&world, b.session);
    let begun = change(&world, b.session);
    assert!(!begun.is_free, "somebody else may have copies");
    let of_a = attend(&world, a.session);
    let (inos, done) = next(&of_a);
    assert_eq!(inos, None, "all");
    assert!(!change(&world, b.session).is_free);
    done();
    assert_eq!(world.locks.await_free(&begun), Ok(()));
    // It has to say so of itself as well, before others change anything.
    assert!(!change(&world, a.session).is_free);
    next(&of_b).1();
    assert!(change(&world, a.session).is_free);
    // Who never comes is waited for no longer than its copies count.
    world.reign.term.store(3, SeqCst);
    let of_b = attend(&world, b.session);
    next(&of_b).1();
    let begun = change(&world, b.session);
    assert!(!begun.is_free);
    *world.clock.0.lock().unwrap() += THIRD;
    assert_eq!(world.locks.await_free(&begun), Ok(()));
}
