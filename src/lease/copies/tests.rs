//! Copies by example. Not here: whatever can happen in a few steps (`every_step`).

mod every_step;

use super::*;

const LEASE: Duration = Duration::from_secs(3);
const OPTIONS: Options = Options { lease: LEASE, inodes_max: 4 };

fn ino(raw: u64) -> Ino {
    Ino::new(raw).unwrap()
}

fn session(number: u64) -> SessionId {
    SessionId(number)
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn some(inos: &[u64]) -> Changed {
    Changed::Inodes(inos.iter().map(|raw| ino(*raw)).collect())
}

fn all(inos: std::ops::Range<u64>) -> Vec<Ino> {
    inos.map(ino).collect()
}

/// In office for long, with two sessions that are attended.
fn two() -> Copies {
    let mut copies = Copies::new(OPTIONS, Term(1), [], seconds(0));
    assert_eq!(copies.attend(session(1), seconds(0)), []);
    assert_eq!(copies.attend(session(2), seconds(0)), []);
    copies
}

#[test]
fn who_has_a_copy_is_asked_for_it_before_it_is_changed() {
    let mut copies = two();
    assert_eq!(copies.give(session(1), &all(1..3), seconds(0)).inos, all(1..3));
    let (free, asks) = copies.begin(session(1), some(&[1]), seconds(1));
    assert_eq!((asks, copies.waits_until(free, seconds(1))), (Vec::new(), None), "its own");
    assert_eq!(copies.give(session(2), &all(1..3), seconds(1)).inos, [ino(2)], "it is changed");
    copies.over(free);
    let (number, asks) = copies.begin(session(2), some(&[1, 3]), seconds(1));
    let ask = Ask { session: session(1), number, inos: Some(vec![ino(1)]) };
    assert_eq!(asks, [ask]);
    assert_eq!(copies.waits_until(number, seconds(1)), Some(seconds(3)));
    copies.given_back(session(1), free);
    copies.given_back(session(2), number);
    assert!(copies.waits_until(number, seconds(1)).is_some(), "others said something");
    copies.given_back(session(1), number);
    assert_eq!(copies.waits_until(number, seconds(1)), None);
    assert_eq!(copies.count(session(1)), 1);
    copies.over(number);
    assert_eq!(copies.give(session(1), &[ino(1)], seconds(3)).inos, [ino(1)]);
}

#[test]
fn nobody_waits_longer_than_a_lease() {
    let mut copies = two();
    let era = copies.give(session(1), &[ino(1)], seconds(0)).standing.era;
    assert_eq!(copies.renew(session(1), seconds(2)).era, era);
    copies.unattend(session(1));
    let (number, _) = copies.begin(session(2), some(&[1]), seconds(2));
    assert_eq!(copies.waits_until(number, seconds(4)), Some(seconds(5)));
    assert_eq!(copies.waits_until(number, seconds(5)), None);
    assert!(copies.renew(session(1), seconds(5)).era > era, "what it had counts no more");
    assert!(copies.give(session(1), &[ino(2)], seconds(5)).inos.is_empty(), "it cannot be asked");
}

#[test]
fn who_does_not_give_back_is_given_no_more_time() {
    let mut copies = two();
    let era = copies.give(session(1), &[ino(1)], seconds(0)).standing.era;
    let (number, _) = copies.begin(session(2), some(&[1]), seconds(0));
    for now in [1, 2] {
        assert_eq!(copies.renew(session(1), seconds(now)), Standing { era, lease: LEASE });
        assert_eq!(copies.owed(session(1)).len(), 1);
    }
    let none = Standing { era, lease: Duration::ZERO };
    assert_eq!([3, 4].map(|now| copies.renew(session(1), seconds(now))), [none; 2]);
    assert_eq!(copies.waits_until(number, seconds(4)), Some(seconds(5)));
    assert_eq!(copies.waits_until(number, seconds(5)), None);
}

#[test]
fn a_new_leader_waits_for_those_whom_the_former_told() {
    let mut copies = Copies::new(OPTIONS, Term(2), [session(1), session(2)], seconds(10));
    let all = |asks: Vec<Ask>| match &asks[..] {
        [Ask { number, inos: None, .. }] => *number,
        _ => panic!("{asks:?}"),
    };
    let of_2 = all(copies.attend(session(2), seconds(10)));
    let (number, asks) = copies.begin(session(2), some(&[1]), seconds(11));
    assert_eq!((asks, copies.waits_until(number, seconds(11))), (Vec::new(), Some(seconds(13))));
    assert_eq!(copies.clone().waits_until(number, seconds(13)), None);
    let of_1 = all(copies.attend(session(1), seconds(12)));
    assert!(copies.waits_until(number, seconds(12)).is_some(), "it has not answered");
    assert!(copies.give(session(1), &[ino(2)], seconds(12)).inos.is_empty());
    copies.given_back(session(1), of_1);
    assert_eq!(copies.waits_until(number, seconds(12)), None, "it has let go of everything");
    assert_eq!(copies.give(session(1), &[ino(2)], seconds(12)).inos, [ino(2)]);
    assert!(copies.give(session(2), &[ino(2)], seconds(12)).inos.is_empty());
    copies.given_back(session(2), of_2);
    assert_eq!(copies.give(session(2), &[ino(2)], seconds(12)).inos, [ino(2)]);
}

#[test]
fn who_comes_back_is_asked_again_and_keeps_the_rest() {
    let mut copies = two();
    let era = copies.give(session(1), &all(1..3), seconds(0)).standing.era;
    let (number, _) = copies.begin(session(2), some(&[1]), seconds(0));
    copies.unattend(session(1));
    let again = Ask { session: session(1), number, inos: Some(vec![ino(1)]) };
    assert_eq!(copies.attend(session(1), seconds(1)), [again]);
    copies.given_back(session(1), number);
    copies.over(number);
    assert_eq!((copies.count(session(1)), copies.renew(session(1), seconds(2)).era), (1, era));
}

#[test]
fn what_is_fought_over_is_left_alone_for_a_while() {
    let mut copies = two();
    let mut now = seconds(0);
    let mut given = 0;
    for _ in 0..1000 {
        now += Duration::from_millis(1);
        copies.renew(session(2), now);
        given += copies.give(session(1), &[ino(1)], now).inos.len();
        let (number, _) = copies.begin(session(2), some(&[1]), now);
        copies.given_back(session(1), number);
        assert_eq!(copies.waits_until(number, now), None);
        copies.over(number);
    }
    assert!((2..10).contains(&given), "{given}");
    assert_eq!(copies.give(session(1), &[ino(1)], now + seconds(2)).inos, [ino(1)]);
    copies.tend(now + seconds(9));
    assert!(copies.rests.is_empty());
}

#[test]
fn who_has_too_many_begins_anew_and_what_nobody_foresees_takes_all() {
    let mut copies = two();
    let given = copies.give(session(1), &all(1..9), seconds(0));
    assert_eq!(given.inos, all(1..5));
    let relief = given.ask.expect("it has too many");
    assert_eq!((relief.session, &relief.inos), (session(1), &None));
    let again = copies.give(session(1), &all(1..9), seconds(0));
    assert_eq!((again.inos, again.ask), (Vec::new(), None), "it has let go of it, for all we know");
    copies.given_back(session(1), relief.number);
    assert_eq!(copies.count(session(1)), 0);
    assert_eq!(copies.give(session(1), &all(5..7), seconds(0)).inos, all(5..7));
    copies.give(session(2), &[ino(9)], seconds(0));
    let (number, asks) = copies.begin(session(2), Changed::Anything, seconds(0));
    assert_eq!(asks, [Ask { session: session(1), number, inos: None }]);
    assert!(copies.give(session(1), &[ino(8)], seconds(0)).inos.is_empty());
    copies.end(session(1));
    assert_eq!(copies.waits_until(number, seconds(0)), None);
    copies.over(number);
    assert_eq!(copies.inodes.len(), 1);
}

#[test]
fn nothing_is_kept_of_what_is_over() {
    let mut copies = two();
    copies.give(session(1), &all(1..4), seconds(0));
    let (number, _) = copies.begin(session(2), some(&[1, 9]), seconds(0));
    copies.end(session(1));
    copies.over(number);
    let left: BTreeSet<Ino> = copies.inodes.keys().copied().collect();
    assert!(left.is_empty() && copies.changes.is_empty(), "{left:?}");
}
