//! What one thread of a load does, step by step.
//!
//! Not here: how many there are, and what is made of their accounts (`load`).

use super::history::Event;
use super::history::clock;
use super::ledgers::Claim;
use super::load::Account;
use super::load::Shared;
use super::load::is_open;
use super::load::record;
use super::objects::NAMES;
use super::objects::NamesAnswer;
use super::objects::NamesOp;
use super::objects::RegisterOp;
use crate::support::Random;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;

/// A log is used for as long as so many registers, one after the other.
const OBJECTS_A_LOG: u64 = 8;
/// Every how many-th record of the file of its own a thread syncs.
const SYNC_EVERY: u32 = 7;

pub(super) fn own_file(dir: &Path, who: usize) -> PathBuf {
    dir.join(format!("own{who}"))
}

pub(super) fn log_file(dir: &Path, log: u64) -> PathBuf {
    dir.join(format!("log{log}"))
}

pub(super) fn claimed(dir: &Path, name: u64) -> PathBuf {
    dir.join(format!("won{name}"))
}

fn register_file(dir: &Path, object: u64) -> PathBuf {
    dir.join(format!("register{object}"))
}

fn names_dir(dir: &Path, object: u64) -> PathBuf {
    dir.join(format!("names{object}"))
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))
}

/// What a thread has open and where it is.
struct Worker<'a> {
    shared: &'a Shared,
    dir: &'a Path,
    who: usize,
    random: Random,
    account: Account,
    /// Counts what it writes.
    number: u32,
    register: Option<(u64, OwnedFd)>,
    log: Option<(u64, OwnedFd)>,
    names: Option<u64>,
    /// The next name to win.
    claim: u64,
}

/// Works where others do, until it is told to stop.
pub(super) fn meet(shared: &Shared, dir: &Path, who: usize, seed: u64) -> Account {
    let mut worker = Worker {
        shared,
        dir,
        who,
        random: Random::new(seed.wrapping_add(who as u64)),
        account: Account::default(),
        number: 0,
        register: None,
        log: None,
        names: None,
        claim: 0,
    };
    let apart = worker.apart();
    worker.timed("mkdir", || rustix::fs::mkdir(&apart, Mode::RWXU));
    while !shared.stop.load(SeqCst) {
        let object = shared.object();
        worker.number += 1;
        match worker.random.below(8) {
            0..3 => worker.use_register(object),
            3..6 => worker.use_names(object),
            6 => worker.append(object / OBJECTS_A_LOG),
            _ => worker.claim(),
        }
    }
    worker.account
}

impl Worker<'_> {
    fn apart(&self) -> PathBuf {
        self.dir.join(format!("apart{}", self.who))
    }

    /// A call that is not part of a history; an error is noted.
    fn timed<T>(&mut self, what: &str, run: impl FnOnce() -> Result<T, Errno>) -> Option<T> {
        match self.shared.pulse(self.who).time(run).1 {
            Ok(value) => Some(value),
            Err(errno) => {
                is_open(&mut self.account, what, errno);
                None
            }
        }
    }

    fn use_register(&mut self, object: u64) {
        let path = register_file(self.dir, object);
        // Now and then it is opened anew: what an open file shows and what a path leads to is to be the same.
        let keep = self.random.below(4) > 0;
        if !keep || self.register.as_ref().is_none_or(|(open, _)| *open != object) {
            let file = self.timed("open", || open(&path, OFlags::RDWR));
            self.register = file.map(|file| (object, file));
        }
        let Some((_, file)) = &self.register else { return };
        let op = match self.random.below(2) {
            0 => RegisterOp::Read,
            _ => RegisterOp::Write((self.who as u64 + 1) << 32 | u64::from(self.number)),
        };
        let (asked, result, answered) = self.shared.pulse(self.who).time(|| op.perform(file));
        let answer = match result {
            Ok(answer) => Some((answer, answered)),
            Err(errno) => {
                is_open(&mut self.account, &format!("{op:?}"), errno);
                None
            }
        };
        let event = Event { who: self.who, asked, op, answer };
        self.account.registers.entry(object).or_default().push(event);
    }

    fn any_names_op(&mut self) -> NamesOp {
        let n = self.random.below(NAMES as u64) as usize;
        let other = (n + 1 + self.random.below(NAMES as u64 - 1) as usize) % NAMES;
        let thing = self.who as u32 * 10_000_000 + self.number;
        match self.random.below(9) {
            0..3 => NamesOp::Read(n),
            3 | 4 => NamesOp::Make(n, thing),
            5 => NamesOp::Replace(n, thing),
            6 => NamesOp::Rename(n, other),
            7 => NamesOp::Exchange(n, other),
            _ => NamesOp::Unlink(n),
        }
    }

    fn use_names(&mut self, object: u64) {
        let (dir, apart) = (names_dir(self.dir, object), self.apart());
        if self.names != Some(object) {
            let make = || match rustix::fs::mkdir(&dir, Mode::RWXU) {
                Err(Errno::EXIST) => Ok(()),
                result => result,
            };
            if self.timed("mkdir", make).is_none() {
                return;
            }
            self.names = Some(object);
        }
        let op = self.any_names_op();
        if self.timed("symlink", || op.prepare(&apart)).is_none() {
            return;
        }
        let pulse = self.shared.pulse(self.who);
        let (asked, result, answered) = pulse.time(|| op.perform(&dir, &apart));
        let answer = match result {
            Ok(answer) => Some((answer, answered)),
            Err(errno) => {
                is_open(&mut self.account, &format!("{op:?}"), errno);
                None
            }
        };
        let event = Event { who: self.who, asked, op, answer };
        self.account.names.entry(object).or_default().push(event);
    }

    fn append(&mut self, log: u64) {
        if self.log.as_ref().is_none_or(|(open, _)| *open != log) {
            let path = log_file(self.dir, log);
            let file = self.timed("open", || open(&path, OFlags::WRONLY | OFlags::APPEND));
            self.log = file.map(|file| (log, file));
        }
        let Some((_, file)) = &self.log else { return };
        let bytes = record(self.who, self.number);
        let write = || match rustix::io::write(file, &bytes)? {
            done if done == bytes.len() => Ok(()),
            _ => Err(Errno::IO),
        };
        let result = self.shared.pulse(self.who).time(write).1;
        let open = result.is_err_and(|errno| is_open(&mut self.account, "append", errno));
        let written = self.account.appended.entry(log).or_default();
        if result.is_ok() {
            written.acknowledged.push(self.number);
        } else if open {
            written.open.insert(self.number);
        }
    }

    fn claim(&mut self) {
        let (name, path) = (self.claim, claimed(self.dir, self.claim));
        let make = || open(&path, OFlags::WRONLY | OFlags::EXCL);
        let claim = match self.shared.pulse(self.who).time(make).1 {
            Ok(_) => Claim::Won,
            Err(Errno::EXIST) => Claim::Lost,
            Err(errno) => {
                // What is there right after: a name that is missing for a moment only was looked for in the wrong place.
                let (dir, file) = (self.dir.metadata().is_ok(), path.metadata().is_ok());
                let what =
                    format!("open with O_EXCL of name {name} (directory {dir}, file {file})");
                is_open(&mut self.account, &what, errno);
                Claim::Open
            }
        };
        self.account.claims.insert(name, claim);
        self.claim += 1;
    }
}

/// Writes a file of its own and syncs it now and then, until it is told to stop or met an error.
pub(super) fn alone(shared: &Shared, dir: &Path, who: usize) -> Account {
    let mut account = Account::default();
    let pulse = shared.pulse(who);
    let path = own_file(dir, who);
    let file = match pulse.time(|| open(&path, OFlags::WRONLY | OFlags::APPEND)).1 {
        Ok(file) => file,
        Err(errno) => {
            is_open(&mut account, "open", errno);
            return account;
        }
    };
    while !shared.stop.load(SeqCst) {
        let bytes = record(who, account.own);
        match pulse.time(|| rustix::io::write(&file, &bytes)).1 {
            Ok(done) if done == bytes.len() => account.own += 1,
            Ok(done) => account.errors.push(format!("{done} of {} bytes were taken", bytes.len())),
            Err(errno) => {
                is_open(&mut account, "write", errno);
            }
        }
        if account.own.is_multiple_of(SYNC_EVERY) {
            match pulse.time(|| rustix::fs::fsync(&file)).1 {
                Ok(()) => account.synced = account.own,
                Err(errno) => {
                    is_open(&mut account, "fsync", errno);
                }
            }
        }
        // What the file holds after an error nobody can say.
        if !account.errors.is_empty() {
            return account;
        }
    }
    account
}

/// How a register is left.
pub(super) fn look_at_register(dir: &Path, object: u64) -> Event<RegisterOp, u64> {
    let (asked, path) = (clock(), register_file(dir, object));
    let file = open(&path, OFlags::RDWR).unwrap_or_else(|errno| panic!("{path:?}: {errno}"));
    let answer = RegisterOp::Read.perform(file).unwrap();
    Event { who: usize::MAX, asked, op: RegisterOp::Read, answer: Some((answer, clock())) }
}

/// How a directory is left.
pub(super) fn look_at_names(dir: &Path, object: u64) -> Vec<Event<NamesOp, NamesAnswer>> {
    let dir = names_dir(dir, object);
    let look = |n| {
        let (asked, op) = (clock(), NamesOp::Read(n));
        let answer = op.perform(&dir, &dir).unwrap();
        Event { who: usize::MAX, asked, op, answer: Some((answer, clock())) }
    };
    (0..NAMES).map(look).collect()
}
