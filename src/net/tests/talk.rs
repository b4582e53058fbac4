//! Both sides do their part: asking, telling, answering, over every kind of stream.

use super::super::asks::OnAnswer;
use super::*;

/// Collects answers until the last.
fn collect() -> (OnAnswer, impl Fn(usize) -> Vec<Answer>) {
    let heard = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
    let told = Arc::clone(&heard);
    let on_answer = move |answer| {
        told.0.lock().push(answer);
        told.1.notify_all();
    };
    let wait = move |count| {
        let mut answers = heard.0.lock();
        let few = |answers: &mut Vec<Answer>| answers.len() < count;
        assert!(!heard.1.wait_while_for(&mut answers, few, LONG).timed_out(), "{answers:?}");
        answers.clone()
    };
    (Box::new(on_answer), wait)
}

#[test]
fn what_is_asked_is_answered() {
    for pair in pairs(&net()) {
        for size in [0, 1, 5000] {
            let (meta, tail) = (vec![1; size].into(), vec![2; 2 * size].into());
            let answer = pair.connection.call(ECHO, meta, tail, LONG).unwrap();
            assert_eq!((answer.meta.len(), answer.tail.len()), (size, 2 * size));
            assert!(answer.meta.iter().all(|byte| *byte == 1));
            assert!(answer.tail.iter().all(|byte| *byte == 2));
        }
        assert_eq!(pair.there.heard.lock().asked, 3);
    }
}

#[test]
fn one_request_may_have_several_answers() {
    for pair in pairs(&net()) {
        let (on_answer, wait) = collect();
        let ask = (bytes("meta"), Bytes::new());
        pair.connection.ask(THRICE, ask.0, ask.1, LONG, Wait::Never, on_answer).unwrap();
        let kinds: Vec<u16> = wait(3).into_iter().map(|answer| answer.unwrap().kind).collect();
        assert_eq!(kinds, [0, 1, 2]);
        let first = pair.connection.call(THRICE, Bytes::new(), Bytes::new(), LONG).unwrap();
        assert_eq!(first.kind, 0, "a call gives the first");
    }
}

#[test]
fn both_sides_ask_and_tell() {
    for pair in pairs(&net()) {
        pair.connection.tell(PUSH, bytes("a"), bytes("b")).unwrap();
        pair.here.wait("the push", |heard| heard.told.len() == 1);
        let told = pair.here.heard.lock().told[0].clone();
        assert_eq!((told.kind, told.meta, told.tail), (PUSH + 1, bytes("a"), bytes("b")));

        let back = pair.there.heard.lock().connection.clone().unwrap();
        let answer = back.call(ECHO, bytes("and you?"), Bytes::new(), LONG).unwrap();
        assert_eq!(answer.meta, "and you?");
        assert_eq!(back.peer().identity, client("a"));
        assert_eq!(pair.connection.peer().identity, node(1));
    }
}

#[test]
fn what_is_told_arrives_in_order() {
    for pair in pairs(&net()) {
        for kind in 100..1100 {
            // Where too much waits it is refused, and said again.
            while pair.connection.tell(kind, Bytes::new(), vec![0; 100].into()).is_err() {
                pair.connection.call(ECHO, Bytes::new(), Bytes::new(), LONG).unwrap();
            }
        }
        pair.there.wait("the last", |heard| heard.told.len() == 1000);
        assert!(pair.there.heard.lock().told.iter().map(|packet| packet.kind).is_sorted());
    }
}

#[test]
fn a_request_that_is_dropped_or_fails_is_told_so() {
    for pair in pairs(&net()) {
        let call = |kind| pair.connection.call(kind, Bytes::new(), Bytes::new(), LONG);
        let dropped = call(DROP).unwrap_err();
        assert_eq!(dropped.to_string(), "the request was dropped without an answer");
        let size = Bytes::copy_from_slice(&(17u32 << 20).to_le_bytes());
        let big = pair.connection.call(SIZE, size, Bytes::new(), LONG).unwrap_err();
        assert!(big.to_string().starts_with("the answer does not fit: "), "{big}");
        let big = pair.connection.call(ECHO, vec![0; 17 << 20].into(), Bytes::new(), LONG);
        assert!(matches!(big, Err(NetError::TooBig(_))), "{big:?}");
        assert!(call(ECHO).is_ok(), "neither breaks the connection");
    }
}

#[test]
fn a_panic_ends_its_connection_and_is_told() {
    for pair in pairs(&net()) {
        let (on_answer, wait) = collect();
        let none = Bytes::new;
        pair.connection.ask(KEEP, none(), none(), LONG, Wait::Never, on_answer).unwrap();
        let answer = pair.connection.call(PANIC, none(), none(), LONG);
        assert!(answer.is_err(), "{answer:?}");
        assert!(matches!(wait(1)[..], [Err(_)]));
        pair.there.wait("its end", |heard| heard.closed.len() == 1);
    }
}

#[test]
fn whatever_was_asked_is_told_when_the_connection_closes() {
    for close_here in [true, false] {
        for pair in pairs(&net()) {
            let waits: Vec<_> = (0..10)
                .map(|_| {
                    let (on_answer, wait) = collect();
                    let ask = (Bytes::new(), Bytes::new());
                    let wait_for_room = Wait::UpTo(LONG);
                    pair.connection
                        .ask(KEEP, ask.0, ask.1, LONG, wait_for_room, on_answer)
                        .unwrap();
                    wait
                })
                .collect();
            pair.there.wait("all of it", |heard| heard.kept.len() == 10);
            let (told, on_close) = std::sync::mpsc::channel();
            let again = told.clone();
            pair.connection.on_closed(move |why| told.send(why.clone()).unwrap());
            match close_here {
                true => pair.connection.close(),
                false => pair.there.heard.lock().connection.clone().unwrap().close(),
            }
            let why = on_close.recv().unwrap();
            for wait in waits {
                assert_eq!(wait(1), [Err(why.clone())]);
            }
            pair.there.wait("its end", |heard| heard.closed.len() == 1);
            pair.here.wait("its end", |heard| heard.closed == [why.clone()]);
            pair.connection.on_closed(move |why| again.send(why.clone()).unwrap());
            assert_eq!(on_close.recv().unwrap(), why);
            let after = pair.connection.call(ECHO, Bytes::new(), Bytes::new(), LONG);
            assert!(matches!(after, Err(NetError::Closed(_))), "{after:?}");
            // Answers to somebody who is gone are dropped.
            std::mem::take(&mut *pair.there.heard.lock());
        }
    }
}

#[test]
fn a_connection_that_nobody_uses_closes() {
    for Pair { connection, here, there } in pairs(&net()) {
        let clone = connection.clone();
        drop(connection);
        assert!(clone.call(ECHO, Bytes::new(), Bytes::new(), LONG).is_ok());
        here.heard.lock().connection = None;
        drop(clone);
        there.wait("its end", |heard| heard.closed.len() == 1);
    }
}

#[test]
fn many_threads_ask_at_once() {
    for pair in pairs(&net()) {
        thread::scope(|scope| {
            for thread in 0..16u8 {
                let connection = &pair.connection;
                scope.spawn(move || {
                    for n in 0..50usize {
                        let meta = Bytes::copy_from_slice(&[thread, n as u8]);
                        let tail = Bytes::from(vec![thread; n * 97]);
                        let answer =
                            connection.call(ECHO, meta.clone(), tail.clone(), LONG).unwrap();
                        assert_eq!((answer.meta, answer.tail), (meta, tail));
                    }
                });
            }
        });
    }
}

#[test]
fn who_is_refused_is_told_why() {
    let net = net();
    for (one, other) in streams(1000) {
        let there = serve(&net, other);
        let here = Arc::<Conduct>::default();
        let refused = net.dial_over(one, plain(&here, "no")).err().unwrap();
        let refusal = Refusal::new(Why::Other, "there refuses: nobody who says no");
        assert_eq!(refused, NetError::Refused(refusal));
        assert!(there.heard.lock().connection.is_none());
    }
}

#[test]
fn programs_without_a_common_version_say_which_is_older() {
    use crate::wire::greeting::Versions;
    let ours = net();
    let cases = [
        (Versions { min: 7, max: 9 }, "the node"),
        (Versions { min: 0, max: 0 }, "the program that connects"),
    ];
    for (versions, older) in cases {
        let theirs = Bounds { versions, ..Bounds::default() };
        let theirs = Net::start(SystemClock::shared(), theirs).unwrap();
        for (one, other) in streams(1000) {
            serve(&ours, other);
            let refused = theirs.dial_over(one, plain(&Arc::default(), "")).err().unwrap();
            let NetError::Refused(refusal) = refused else { panic!("{refused:?}") };
            assert_eq!(refusal.why, Why::Version);
            let sentence = &refusal.sentence;
            assert!(
                sentence.contains(&format!("{versions}: update tsfs of {older}")),
                "{sentence}"
            );
        }
    }
}
