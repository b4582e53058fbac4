//! Waits by name, with locks and nodes made up.

use super::*;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::channel;

const FILE: u64 = 7;

/// The nodes know of nobody else.
fn nobody() -> Tell {
    Box::new(|_, _| Ok(Circled::default()))
}

fn of(owner: u64) -> FileLock {
    FileLock { owner, first: 0, last: 9, exclusive: true, pid: 0 }
}

fn ino(number: u64) -> Ino {
    Ino::new(number).unwrap()
}

fn parking(signals: fn(u32) -> Signal) -> Parking {
    let looks = Looks { signals, as_process: |_| true, as_open_file: |tid| tid > 100 };
    Parking::start(Arc::new(Workers::start().unwrap()), looks, nobody()).unwrap()
}

/// Waits for a lock that `free` says may be had, and that this owner is in the way of.
fn park(
    parking: &Parking,
    owner: u64,
    by: Option<u64>,
    free: &Arc<AtomicBool>,
) -> Receiver<Result<(), FsError>> {
    let (tell, told) = channel();
    let (free, lot) = (Arc::clone(free), parking.lot());
    let attempt = move || match free.load(Relaxed) {
        true => Ok(Locking::Done),
        false => Ok(Locking::Held(by)),
    };
    let (begun, came) = (lot.begin(ino(FILE)), attempt());
    let reply = Box::new(move |answer| tell.send(answer).unwrap());
    let waiting = Waiting {
        number: lot.number(),
        ino: ino(FILE),
        lock: of(owner),
        tid: owner as u32,
        as_process: false,
        as_open_file: None,
        attempt: Box::new(attempt),
        reply,
    };
    lot.attempted(waiting, begun, came);
    told
}

#[test]
fn a_lock_that_goes_lets_those_in_who_wait_and_nobody_else_is_tried() {
    let parking = parking(|_| Signal::None);
    let free = Arc::new(AtomicBool::new(false));
    let waits = park(&parking, 1, Some(9), &free);
    parking.lot().unlocked(ino(FILE + 1));
    assert!(waits.try_recv().is_err());
    free.store(true, Relaxed);
    parking.lot().unlocked(ino(FILE));
    assert_eq!(waits.recv().unwrap(), Ok(()));
    // Nobody tells of what another mount drops.
    free.store(false, Relaxed);
    let waits = park(&parking, 1, None, &free);
    free.store(true, Relaxed);
    assert_eq!(waits.recv().unwrap(), Ok(()));
}

#[test]
fn what_goes_during_an_attempt_is_not_missed() {
    let parking = parking(|_| Signal::None);
    let free = Arc::new(AtomicBool::new(false));
    let begun = parking.lot().begin(ino(FILE));
    let elsewhere = parking.lot().begin(ino(FILE + 1));
    free.store(true, Relaxed);
    parking.lot().unlocked(ino(FILE));
    let (tell, told) = channel();
    let waiting = Waiting {
        number: 1,
        ino: ino(FILE),
        lock: of(1),
        tid: 1,
        as_process: false,
        as_open_file: None,
        attempt: Box::new(|| Ok(Locking::Done)),
        reply: Box::new(move |answer| tell.send(answer).unwrap()),
    };
    assert!(!elsewhere.is_late(&parking.lot().state.lock()));
    parking.lot().attempted(waiting, begun, Ok(Locking::Held(Some(2))));
    assert_eq!(told.recv_timeout(LOOK_EVERY * (TRY_EVERY / 2)).unwrap(), Ok(()));
    drop(elsewhere);
    while !parking.lot().state.lock().attempts.is_empty() {
        std::thread::yield_now();
    }
}

#[test]
fn who_would_wait_for_himself_is_told() {
    let parking = parking(|_| Signal::None);
    let free = Arc::new(AtomicBool::new(false));
    let first = park(&parking, 1, Some(2), &free);
    let second = park(&parking, 2, Some(3), &free);
    let elsewhere = park(&parking, 3, None, &free);
    assert!(elsewhere.try_recv().is_err());
    let third = park(&parking, 3, Some(1), &free);
    assert_eq!(third.recv().unwrap(), Err(FsError::Deadlock));
    free.store(true, Relaxed);
    parking.lot().unlocked(ino(FILE));
    for waits in [first, second, elsewhere] {
        assert_eq!(waits.recv().unwrap(), Ok(()));
    }
}

#[test]
fn who_waits_for_an_open_files_lock_closes_no_circle() {
    let parking = parking(|_| Signal::None);
    let free = Arc::new(AtomicBool::new(false));
    // 101 and 102 are open files. Another thread may let go of what they have.
    let first = park(&parking, 1, Some(101), &free);
    let closes = park(&parking, 101, Some(1), &free);
    let second = park(&parking, 2, Some(102), &free);
    let within = park(&parking, 102, Some(3), &free);
    let third = park(&parking, 3, Some(2), &free);
    let all = [first, closes, second, within, third];
    assert!(all.iter().all(|waits| waits.try_recv().is_err()));
    // Processes close one all the same, whatever open files wait for.
    let fourth = park(&parking, 4, Some(3), &free);
    assert_eq!(park(&parking, 2, Some(4), &free).recv().unwrap(), Err(FsError::Deadlock));
    free.store(true, Relaxed);
    parking.lot().unlocked(ino(FILE));
    for waits in all.into_iter().chain([fourth]) {
        assert_eq!(waits.recv().unwrap(), Ok(()));
    }
}

#[test]
fn a_signal_ends_a_wait() {
    let parking = parking(|tid| match tid {
        1 => Signal::Own,
        2 | 3 => Signal::Shared(2),
        _ => Signal::None,
    });
    let free = Arc::new(AtomicBool::new(false));
    let waits: Vec<_> = (1..=4).map(|owner| park(&parking, owner, None, &free)).collect();
    // Of those that share one, each in turn.
    for told in &waits[..3] {
        assert_eq!(told.recv().unwrap(), Err(FsError::Interrupted));
    }
    assert!(waits[3].try_recv().is_err());
    free.store(true, Relaxed);
    parking.lot().unlocked(ino(FILE));
    assert_eq!(waits[3].recv().unwrap(), Ok(()));
}

#[test]
fn the_kernels_word_on_signals_is_understood() {
    let status = |own: &str, shared: &str, threads: u32| {
        format!(
            "Name:\tx\nTgid:\t77\nThreads:\t{threads}\nSigPnd:\t{own}\nShdPnd:\t{shared}\nSigBlk:\t0000000000000002\n"
        )
    };
    let (none, blocked, sent) = ("0000000000000000", "0000000000000002", "0000000000004000");
    assert_eq!(waits_in(&status(none, none, 1)), Signal::None);
    assert_eq!(waits_in(&status(blocked, blocked, 1)), Signal::None);
    assert_eq!(waits_in(&status(sent, none, 5)), Signal::Own);
    assert_eq!(waits_in(&status(none, sent, 1)), Signal::Own);
    assert_eq!(waits_in(&status(none, sent, 5)), Signal::Shared(77));
    assert_eq!(signals(0), Signal::None);
    assert_eq!(signals(std::process::id()), Signal::None);
}

#[test]
fn the_nodes_are_told_who_waits_for_others_and_say_whose_wait_never_ends() {
    let (tell, told) = channel();
    let workers = Workers::start();
    let looks = Looks {
        signals: |_| Signal::None,
        as_process: |tid| tid != 3,
        as_open_file: |tid| tid == 3,
    };
    let say: Tell = Box::new(move |after, waits: Vec<wire::Waiting>| {
        let now = Moment { number: after.number + 1, ..after };
        let owners: Vec<u64> = waits.iter().map(|wait| wait.lock.owner).collect();
        let closes = waits.iter().filter(|wait| wait.lock.owner == 2 && after.number > 1);
        let refused = closes.map(|wait| wait.number).collect();
        tell.send((after, owners)).unwrap();
        Ok(Circled { now, refused, soon: true })
    });
    let parking = Parking::start(Arc::new(workers.unwrap()), looks, say).unwrap();
    let free = Arc::new(AtomicBool::new(false));
    // Of one of its own mount nobody else is told, nor of an open file's.
    let first = park(&parking, 1, Some(9), &free);
    assert!(told.recv_timeout(LOOK_EVERY * 3).is_err());
    let (second, third) = (park(&parking, 2, None, &free), park(&parking, 3, None, &free));
    assert_eq!(second.recv().unwrap(), Err(FsError::Deadlock));
    assert_eq!(told.recv().unwrap(), (Moment::default(), vec![1, 2]));
    free.store(true, Relaxed);
    parking.lot().unlocked(ino(FILE));
    for waits in [first, third] {
        assert_eq!(waits.recv().unwrap(), Ok(()));
    }
    // And at last that nobody waits any more.
    while !told.recv().unwrap().1.is_empty() {}
}
