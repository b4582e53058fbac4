//! The leader's side by itself. Not here: together with sessions and the log (`every_step`).

mod every_step;

use super::*;

const LEASE: Duration = Duration::from_secs(9);
const OPTIONS: Options =
    Options { lease: LEASE, yield_within: Duration::from_secs(18), inodes_max: 1000 };

fn ino(raw: u64) -> Ino {
    Ino::new(raw).unwrap()
}

fn session(number: u64) -> SessionId {
    SessionId(number)
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn recall(number: u64, inos: &[u64]) -> Action {
    let what = What::Inodes(inos.iter().map(|raw| ino(*raw)).collect());
    Action::Recall { session: session(number), what }
}

#[test]
fn a_session_that_is_not_heard_of_ends_when_its_lease_does() {
    let mut leases = Leases::new(OPTIONS, [session(1), session(2)], seconds(0));
    leases.keep(session(2));
    for now in [3, 6, 8] {
        assert_eq!(leases.tick(seconds(now)), []);
    }
    assert_eq!(leases.renew(session(1), seconds(8)), Ok(()));
    for now in [11, 14, 16] {
        assert_eq!(leases.tick(seconds(now)), []);
    }
    assert_eq!(
        leases.renew(session(1), seconds(17)),
        Err(Gone),
        "it is over whoever says it first"
    );
    let why = "it was not heard of for a lease".to_owned();
    for now in [17, 18] {
        let end = Action::End { session: session(1), why: why.clone() };
        assert_eq!(leases.tick(seconds(now)), [end], "until it has ended");
    }
    leases.ended(session(1));
    assert_eq!(leases.tick(seconds(19)), []);
    assert_eq!(leases.attend(session(1), seconds(19)), Err(Gone));
}

#[test]
fn time_that_the_leader_stood_still_is_nobodys_fault() {
    let mut leases = Leases::new(OPTIONS, [session(1)], seconds(0));
    leases.tick(seconds(3));
    assert_eq!(leases.tick(seconds(103)), []);
    assert_eq!(leases.renew(session(1), seconds(105)), Ok(()));
    for now in [108, 111] {
        assert_eq!(leases.tick(seconds(now)), []);
    }
    assert_eq!(leases.tick(seconds(114)).len(), 1, "and no longer");
}

#[test]
fn what_is_asked_back_is_told_once_and_again_on_another_connection() {
    let mut leases = Leases::new(OPTIONS, [session(1), session(2)], seconds(0));
    let want =
        |leases: &mut Leases, raw| leases.want(session(1), ino(raw), Through::Whole, seconds(1));
    assert_eq!(want(&mut leases, 5), [], "there is nobody to tell");
    assert_eq!(leases.attend(session(1), seconds(1)), Ok(vec![recall(1, &[5])]));
    assert_eq!(want(&mut leases, 5), []);
    assert_eq!(want(&mut leases, 6), [recall(1, &[6])]);
    leases.settle::<Gone>(Some(session(1)), |it| Ok((it == ino(6)).then_some(session(1)))).unwrap();
    leases.unattend(session(1));
    assert_eq!(leases.attend(session(1), seconds(2)), Ok(vec![recall(1, &[6])]));
    // It renews, and does not give back.
    for now in [5, 8, 11, 14, 17] {
        leases.renew(session(1), seconds(now)).unwrap();
        leases.renew(session(2), seconds(now)).unwrap();
        assert_eq!(leases.tick(seconds(now)), []);
    }
    assert_eq!(leases.tick(seconds(19)), [], "its lease lasts");
    assert_eq!(leases.renew(session(1), seconds(19)), Err(Gone), "and no longer");
    leases.renew(session(2), seconds(22)).unwrap();
    assert_eq!(leases.tick(seconds(24)), []);
    let why = "it did not give back inode 6 in time".to_owned();
    assert_eq!(leases.tick(seconds(26)), [Action::End { session: session(1), why }]);
}

#[test]
fn who_is_asked_for_much_is_asked_for_all() {
    let options = Options { inodes_max: 3, ..OPTIONS };
    let mut leases = Leases::new(options, [session(1)], seconds(0));
    leases.attend(session(1), seconds(0)).unwrap();
    for raw in 1..=3 {
        let told = leases.want(session(1), ino(raw), Through::Whole, seconds(0));
        assert_eq!(told, [recall(1, &[raw])]);
    }
    let whole = Action::Recall { session: session(1), what: What::Whole };
    let told = leases.want(session(1), ino(4), Through::Whole, seconds(1));
    assert_eq!(told, std::slice::from_ref(&whole));
    assert_eq!(leases.want(session(1), ino(5), Through::Whole, seconds(1)), []);
    let again = leases.attend(session(1), seconds(1)).unwrap();
    assert_eq!(again, [recall(1, &[1, 2, 3, 4, 5]), whole]);
    leases.settle::<Gone>(None, |_| Ok(None)).unwrap();
    assert_eq!(leases.attend(session(1), seconds(2)), Ok(Vec::new()));
    // Another lease, another count.
    let told = leases.want(session(1), ino(9), Through::Whole, seconds(20));
    assert_eq!(told, [recall(1, &[9])]);
}

#[test]
fn what_a_session_made_is_asked_back_in_growing_parts() {
    let mut leases = Leases::new(OPTIONS, [session(1)], seconds(0));
    leases.attend(session(1), seconds(0)).unwrap();
    let last = ino(100_000);
    let (mut next, mut told) = (10, 0);
    while next < last.get() {
        let through = Through::Range { last };
        let actions = leases.want(session(1), ino(next), through, seconds(1));
        let [Action::Recall { what: What::Inodes(inos), .. }] = &actions[..] else { panic!() };
        assert_eq!(inos[0], ino(next));
        assert!(inos.len() <= AHEAD_MAX as usize + 1 && inos.last().unwrap() <= &last);
        assert!(told >= AHEAD_AFTER || inos.len() == 1, "few are asked for one by one");
        next = inos.last().unwrap().get() + 1;
        told += 1;
    }
    assert!(told < 500, "{told} times");
}

#[test]
fn who_is_left_alone_gets_the_whole() {
    let mut leases = Leases::new(OPTIONS, [session(1), session(2)], seconds(0));
    leases.attend(session(1), seconds(0)).unwrap();
    leases.lacks(session(1), true);
    assert_eq!(leases.tick(seconds(1)), []);
    leases.ended(session(2));
    let grant = Action::GrantWhole { session: session(1) };
    assert_eq!(leases.tick(seconds(2)), [grant]);
    leases.lacks(session(1), false);
    assert_eq!(leases.tick(seconds(3)), []);
}

#[test]
fn a_flush_waits_for_all_others_and_for_none_longer_than_a_lease() {
    let mut leases = Leases::new(OPTIONS, [1, 2, 3].map(session), seconds(0));
    leases.attend(session(2), seconds(0)).unwrap();
    let (round, told) = leases.flush(session(1), seconds(1));
    assert_eq!(told, [Action::Flush { session: session(2), round }]);
    assert!(!leases.is_flushed(round, seconds(1)));
    let told = leases.attend(session(3), seconds(2)).unwrap();
    assert_eq!(told, [Action::Flush { session: session(3), round }]);
    leases.flushed(session(2), round);
    assert!(!leases.is_flushed(round, seconds(9)));
    assert!(leases.is_flushed(round, seconds(10)), "a lease is long enough");
    leases.flushed(session(3), round);
    assert!(leases.is_flushed(round, seconds(2)));
    let (alone, _) = leases.flush(session(1), seconds(3));
    leases.ended(session(2));
    leases.ended(session(3));
    assert!(leases.is_flushed(alone, seconds(3)));
}
