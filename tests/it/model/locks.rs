//! Locks of several sessions on a few files, whatever comes between.
//!
//! Goal: no two sessions ever have locks that bar each other; what a session says it has is what its row says, or nothing of it; who owns a file
//! decides before who has locked it; a lock keeps the token that it was taken with, and each one taken later has a greater one; with a session go
//! its locks; sent again, each batch is answered alike; after a power cut all rows are as before. Method: sessions lock, give back, end and are
//! replayed in random order; beside the rows stands which session has which byte how.
//!
//! Proved with planted faults: see `docs/decisions/0015-file-locks.md`.

use super::ops::Chance;
use super::world::World;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use tsfs::meta::key::StateKey;
use tsfs::meta::lock::FileLock;
use tsfs::meta::lock::FileLocks;
use tsfs::meta::op::Batch;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::meta::record::Locks;
use tsfs::meta::record::Record;
use tsfs::series::Direction;
use tsfs::series::table::Family;
use tsfs::series::table::Rows;
use tsfs::types::BatchSeq;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::types::Time;

const SEEDS: u64 = 12;
const TURNS: u64 = 400;
const SESSIONS: usize = 3;
const FILES: u64 = 3;
const BYTES: u64 = 10;

#[test]
fn locks_of_two_sessions_never_bar_each_other() {
    let seeds = super::seeds(SEEDS);
    let mut met: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in seeds.clone() {
        let run = AssertUnwindSafe(|| Run::new(seed).all());
        match std::panic::catch_unwind(run) {
            Ok(of_seed) => of_seed.iter().for_each(|(what, n)| *met.entry(what).or_default() += n),
            Err(panic) => {
                println!("FAILED seed {seed}: TSFS_SEED={seed} cargo test --test it model::locks");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{met:?}");
    let all =
        ["locked", "dropped", "barred", "held", "stale", "gone", "given", "ended", "replayed"];
    assert!(seeds.count() == 1 || all.iter().all(|what| met.contains_key(what)), "{met:?}");
}

struct Session {
    session: SessionId,
    seq: u64,
    /// The last batch, and what came of it, if it was a direct one.
    last: Option<(Batch, Outcome)>,
}

struct File {
    name: Bytes,
    owner: Option<SessionId>,
    is_gone: bool,
    /// Without a name: which sessions may have it open.
    nameless: Option<BTreeSet<SessionId>>,
    /// With the stamp of each.
    locks: BTreeMap<SessionId, Vec<(FileLock, Stamp)>>,
}

impl File {
    fn tidy(&mut self) {
        self.is_gone |= self.nameless.as_ref().is_some_and(BTreeSet::is_empty);
    }
}

struct Run {
    world: World,
    chance: Chance,
    sessions: Vec<Session>,
    next_session: u64,
    files: BTreeMap<Ino, File>,
    met: BTreeMap<&'static str, u64>,
}

fn ino(number: u64) -> Ino {
    Ino::new(number).unwrap()
}

const TIME: Time = Time { secs: 100, nanos: 0 };

impl Run {
    fn new(seed: u64) -> Run {
        let world = World::new(TIME);
        let (first, next_session) = (world.session, world.session.0 + 1);
        let sessions = vec![Session { session: first, seq: 0, last: None }];
        let (chance, files, met) = (Chance(seed), BTreeMap::new(), BTreeMap::new());
        let mut run = Run { world, chance, sessions, next_session, files, met };
        for n in 0..FILES {
            let (at, name) = (ino(2 + n), Bytes::from(format!("f{n}")));
            let op = Op::Create {
                dir: Ino::ROOT,
                name: name.clone(),
                ino: at,
                kind: FileKind::File,
                mode: 0o644,
                uid: 0,
                gid: 0,
                rdev: 0,
                target: Bytes::new(),
                time: TIME,
            };
            assert_eq!(run.submit(0, vec![op], false).0, Outcome::Applied);
            let file = File {
                name,
                owner: Some(first),
                is_gone: false,
                nameless: None,
                locks: BTreeMap::new(),
            };
            run.files.insert(at, file);
        }
        let root = Op::Yield { inos: vec![Ino::ROOT], whole: false };
        assert_eq!(run.submit(0, vec![root], false).0, Outcome::Applied);
        run
    }

    fn all(mut self) -> BTreeMap<&'static str, u64> {
        for _ in 0..TURNS {
            self.turn();
            self.check();
        }
        self.world.crash();
        self.check();
        self.met
    }

    fn turn(&mut self) {
        while self.sessions.len() < SESSIONS {
            let session = SessionId(self.next_session);
            self.next_session += 1;
            let stamp = self.stamp();
            self.world.administer(stamp, Op::OpenSession { session, client: "one".to_owned() });
            self.sessions.push(Session { session, seq: 0, last: None });
        }
        let who = self.chance.below(self.sessions.len() as u64) as usize;
        match self.chance.below(100) {
            0..=69 => self.lock(who),
            70..=84 => self.send_again(who),
            85..=92 => self.give_back(who),
            93..=94 => self.unlink(who),
            95 => self.release(who),
            96..=97 => self.end(who),
            _ => self.world.crash(),
        }
    }

    fn stamp(&mut self) -> Stamp {
        Stamp(self.world.last.0 + 1 + self.chance.below(5))
    }

    /// The next batch of a session; what came of it, and its stamp.
    fn submit(&mut self, who: usize, ops: Vec<Op>, direct: bool) -> (Outcome, Stamp) {
        let stamp = self.stamp();
        let of = &mut self.sessions[who];
        of.seq += 1;
        let (session, seq) = (of.session, BatchSeq(of.seq));
        let direct = direct.then(Vec::new);
        let batch = Batch { session, seq, epoch: self.world.epoch, by: Vec::new(), ops, direct };
        let outcome = self.world.append(stamp, &batch).0;
        let told = if batch.direct.is_some() { outcome.clone() } else { Outcome::Repeated };
        self.sessions[who].last = Some((batch, told));
        (outcome, stamp)
    }

    /// What one mount may have.
    fn locks(&mut self) -> Vec<FileLock> {
        let mut locks = FileLocks::default();
        for _ in 0..self.chance.below(4) {
            let (a, b) = (self.chance.below(BYTES), self.chance.below(BYTES));
            let (owner, exclusive) = (self.chance.below(3), self.chance.one_in(3));
            let lock = FileLock { owner, first: a.min(b), last: a.max(b), exclusive, pid: 1 };
            if locks.barring(&lock).is_none() {
                locks.set(lock);
            }
        }
        locks.all().to_vec()
    }

    fn pick(&mut self) -> Ino {
        ino(2 + self.chance.below(FILES))
    }

    fn lock(&mut self, who: usize) {
        let (session, at, locks) = (self.sessions[who].session, self.pick(), self.locks());
        let file = &self.files[&at];
        let had = file.locks.get(&session).cloned().unwrap_or_default();
        let new = |lock: &&FileLock| !had.iter().any(|(had, _)| had == *lock);
        let others = file.locks.iter().filter(|(of, _)| **of != session).flat_map(|(_, of)| of);
        let barred = locks.iter().filter(new).any(|lock| {
            others.clone().any(|(other, _)| {
                (lock.first..=lock.last).any(|byte| (other.first..=other.last).contains(&byte))
                    && (lock.exclusive || other.exclusive)
            })
        });
        let (expected, met) = if file.owner.is_some_and(|owner| owner != session) {
            (Outcome::Held(at), "held")
        } else if file.is_gone && !locks.is_empty() {
            (Outcome::Refused { op: 0, error: FsError::Stale }, "stale")
        } else if barred {
            (Outcome::Refused { op: 0, error: FsError::Locked }, "barred")
        } else if locks.is_empty() {
            (Outcome::Applied, if file.is_gone { "gone" } else { "dropped" })
        } else {
            (Outcome::Applied, "locked")
        };
        let op = Op::SetLocks { ino: at, locks: locks.clone() };
        let (outcome, stamp) = self.submit(who, vec![op], true);
        assert_eq!(outcome, expected, "{locks:?} on {at}");
        *self.met.entry(met).or_default() += 1;
        if outcome == Outcome::Applied {
            self.have(session, at, &locks, stamp);
        }
    }

    fn have(&mut self, session: SessionId, at: Ino, locks: &[FileLock], stamp: Stamp) {
        let file = self.files.get_mut(&at).unwrap();
        let had = file.locks.remove(&session).unwrap_or_default();
        let token = |lock: &FileLock| {
            let same = |(had, _): &&(FileLock, Stamp)| {
                had.owner == lock.owner && had.exclusive == lock.exclusive
            };
            let covers = |(had, _): &&(FileLock, Stamp)| {
                (lock.first..=lock.last).all(|byte| (had.first..=had.last).contains(&byte))
            };
            had.iter().filter(same).find(covers).map_or(stamp, |(_, token)| *token)
        };
        if !locks.is_empty() {
            file.locks.insert(session, locks.iter().map(|lock| (*lock, token(lock))).collect());
        }
    }

    /// What its programs have locked goes along.
    fn give_back(&mut self, who: usize) {
        let (session, at, locks) = (self.sessions[who].session, self.pick(), self.locks());
        if self.files[&at].owner != Some(session) {
            return;
        }
        let locks_op = Op::SetLocks { ino: at, locks: locks.clone() };
        let ops = vec![locks_op, Op::Yield { inos: vec![at], whole: false }];
        let (outcome, stamp) = self.submit(who, ops, false);
        assert_eq!(outcome, Outcome::Applied);
        *self.met.entry("given").or_default() += 1;
        let file = self.files.get_mut(&at).unwrap();
        file.owner = None;
        let locks = if file.is_gone { &[][..] } else { &locks };
        self.have(session, at, locks, stamp);
    }

    fn unlink(&mut self, who: usize) {
        let (session, at) = (self.sessions[who].session, self.pick());
        let file = &self.files[&at];
        if file.nameless.is_some() || file.owner.is_some_and(|owner| owner != session) {
            return;
        }
        let (dir, name) = (Ino::ROOT, file.name.clone());
        let op = Op::Unlink { dir, name, keep_open: false, time: TIME };
        assert_eq!(self.submit(who, vec![op], true).0, Outcome::Applied);
        // Whoever is there may have it open, where nobody has it to himself.
        let file = self.files.get_mut(&at).unwrap();
        let all = self.sessions.iter().map(|of| of.session).filter(|_| file.owner.is_none());
        file.nameless = Some(all.collect());
        file.tidy();
    }

    fn release(&mut self, who: usize) {
        let (session, at) = (self.sessions[who].session, self.pick());
        let file = &self.files[&at];
        if file.is_gone || file.nameless.as_ref().is_none_or(|of| !of.contains(&session)) {
            return;
        }
        assert_eq!(self.submit(who, vec![Op::Release { ino: at }], true).0, Outcome::Applied);
        let file = self.files.get_mut(&at).unwrap();
        file.nameless.as_mut().unwrap().remove(&session);
        file.tidy();
    }

    fn end(&mut self, who: usize) {
        let session = self.sessions.remove(who).session;
        let stamp = self.stamp();
        self.world.administer(stamp, Op::EndSession { session });
        for file in self.files.values_mut() {
            file.owner = file.owner.filter(|owner| *owner != session);
            file.locks.remove(&session);
            if let Some(of) = &mut file.nameless {
                of.remove(&session);
            }
            file.tidy();
        }
        *self.met.entry("ended").or_default() += 1;
    }

    fn send_again(&mut self, who: usize) {
        let Some((batch, told)) = self.sessions[who].last.clone() else { return };
        let (before, stamp) = (self.world.dump(), self.stamp());
        assert_eq!(self.world.append(stamp, &batch).0, told);
        assert!(self.world.dump() == before, "a replay left something");
        *self.met.entry("replayed").or_default() += 1;
    }

    /// The rows say what stands beside them, and break no rule.
    fn check(&mut self) {
        if self.chance.one_in(8) {
            self.world.check();
        }
        let mut found: BTreeMap<(Ino, SessionId), Vec<(FileLock, Stamp)>> = BTreeMap::new();
        let rows: &dyn Rows = &self.world.table;
        let (all, mut listed) = (StateKey::locks(), 0);
        rows.scan(Family::State, &all, Direction::Forward, &mut |key, row| {
            let Some(StateKey::Locks { ino, session }) = StateKey::decode(key) else { panic!() };
            let Locks(locks) = Locks::from_row(key, row).unwrap();
            assert!(found.insert((ino, session), locks).is_none());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        rows.scan(Family::State, &StateKey::all_locks_of(), Direction::Forward, &mut |_, _| {
            listed += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(listed, found.len());
        let expected = self.files.iter().flat_map(|(at, file)| {
            file.locks.iter().map(|(session, locks)| ((*at, *session), locks.clone()))
        });
        assert_eq!(found, expected.collect());
    }
}
