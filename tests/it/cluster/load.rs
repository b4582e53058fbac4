//! Programs at work on several mounts at once, with an account of all that they were told.
//!
//! On every mount, some threads do what others can see (a register, a directory of few names, a log to append to, names to win) and one
//! writes a file of its own and syncs it. What they work on changes every few hundred steps, so that each history stays small enough to be judged.
//! Nobody waits for one answer longer than a bound: then the mount is killed, and it is a fault. Not here: what befalls the cluster meanwhile.

use super::history::Event;
use super::history::Pulse;
use super::history::Took;
use super::history::leaves_open;
use super::judge::BUDGET;
use super::judge::Model;
use super::judge::Verdict;
use super::judge::judge;
use super::ledgers;
use super::ledgers::Claim;
use super::ledgers::Record;
use super::ledgers::Written;
use super::objects;
use super::objects::NAMES;
use super::objects::Names;
use super::objects::Register;
use super::worker;
use crate::support;
use crate::support::Mount;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::Duration;

/// Nothing may take longer, whatever befalls the nodes, as long as most of them come back.
pub(super) const HANG_LIMIT: Duration = Duration::from_secs(30);
/// Threads of a mount that meet those of the others.
const MEETING: usize = 2;
/// And one that works alone.
const THREADS_EACH: usize = MEETING + 1;
/// Steps of all threads on one register and one directory.
const STEPS_EACH: u64 = 400;
/// Of each thread, so many errors are remembered.
const ERRORS_MAX: usize = 100;

/// What all threads know.
pub(super) struct Shared {
    pub stop: AtomicBool,
    pub steps: AtomicU64,
    pulses: Vec<Pulse>,
    hung: parking_lot::Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn pulse(&self, who: usize) -> &Pulse {
        &self.pulses[who]
    }

    /// Which register and directory it is the time of.
    pub(super) fn object(&self) -> u64 {
        self.steps.fetch_add(1, SeqCst) / STEPS_EACH
    }
}

/// What one thread was told.
#[derive(Default)]
pub(super) struct Account {
    pub registers: Histories<Register>,
    pub names: Histories<Names>,
    pub appended: BTreeMap<u64, Written>,
    pub claims: BTreeMap<u64, Claim>,
    /// Records written to the file of its own.
    pub own: u32,
    /// Of those, how many were synced.
    pub synced: u32,
    pub errors: Vec<String>,
}

/// Threads at work. Dropped, they are told to stop; finished, they are judged.
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Account>>,
    watch: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins to work in the directory `name`, which is made, of every mount.
    pub(super) fn start(mounts: &[&Mount], name: &str, seed: u64) -> Load {
        std::fs::create_dir(mounts[0].join(name)).unwrap();
        let each = THREADS_EACH;
        let pulses = (0..mounts.len() * each).map(|_| Pulse::default()).collect();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            steps: AtomicU64::new(0),
            pulses,
            hung: parking_lot::Mutex::default(),
        });
        let thread = |who: usize| {
            let (shared, dir) = (shared.clone(), mounts[who / each].join(name));
            std::thread::spawn(move || {
                if who % each == MEETING {
                    worker::alone(&shared, &dir, who)
                } else {
                    worker::meet(&shared, &dir, who, seed)
                }
            })
        };
        let threads = (0..mounts.len() * each).map(thread).collect();
        let pids: Vec<u32> = mounts.iter().map(|mount| mount.pid()).collect();
        let watched = shared.clone();
        let watch = Some(std::thread::spawn(move || watch(&watched, &pids)));
        Load { shared, threads, watch }
    }

    /// Steps of the threads that meet, so far.
    pub(super) fn steps(&self) -> u64 {
        self.shared.steps.load(SeqCst)
    }

    /// Waits until they did so many more.
    pub(super) fn work(&self, steps: u64) {
        let goal = self.steps() + steps;
        let (mut last, mut since) = (self.steps(), support::now());
        // The limit is on getting anywhere: how fast a machine is, is no business of a test.
        support::wait_until(Duration::from_secs(500), "the programs to do their steps", || {
            if self.steps() > last {
                (last, since) = (self.steps(), support::now());
            }
            assert!(since.elapsed() < HANG_LIMIT * 2, "nobody goes on");
            let hung = self.shared.hung.lock().clone();
            assert_eq!(hung, None);
            let ended = self.threads.iter().any(JoinHandle::is_finished);
            assert!(!ended, "a thread ended: its message is above, or it was told of an error");
            self.steps() >= goal
        });
    }

    /// Stops, and returns what they were told.
    ///
    /// # Panics
    /// If one had to be ended.
    pub(super) fn finish(mut self) -> Report {
        self.shared.stop.store(true, SeqCst);
        let threads = std::mem::take(&mut self.threads);
        let accounts: Vec<Account> = threads
            .into_iter()
            .map(|thread| thread.join().expect("its message is above"))
            .collect();
        self.watch.take().map(JoinHandle::join);
        let hung = self.shared.hung.lock().clone();
        assert_eq!(hung, None);
        let took = self.shared.pulses.iter().flat_map(Pulse::took).collect();
        Report { accounts, took }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
    }
}

/// Kills the mount of whoever waits longer than the bound.
fn watch(shared: &Shared, pids: &[u32]) {
    while !shared.stop.load(SeqCst) || shared.pulses.iter().any(|p| !p.waiting().is_zero()) {
        let each = shared.pulses.len() / pids.len();
        let late = shared.pulses.iter().position(|pulse| pulse.waiting() > HANG_LIMIT);
        if let Some(who) = late {
            let said = format!("thread {who} waited more than {HANG_LIMIT:?} for one answer");
            *shared.hung.lock() = Some(said);
            let pid = i32::try_from(pids[who / each]).ok().and_then(rustix::process::Pid::from_raw);
            let pid = pid.expect("the number of a process");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            return;
        }
        support::pause(Duration::from_millis(20));
    }
}

/// What all threads were told.
pub(super) struct Report {
    accounts: Vec<Account>,
    pub took: Vec<Took>,
}

impl Report {
    /// Errors that programs saw.
    pub(super) fn errors(&self) -> Vec<&str> {
        self.accounts.iter().flat_map(|account| &account.errors).map(String::as_str).collect()
    }

    /// Judges all of it, with what each of `mounts` shows in the directory `name` now.
    ///
    /// # Panics
    /// With the first fault.
    pub(super) fn judge(&self, mounts: &[&Mount], name: &str) {
        let dirs: Vec<PathBuf> = mounts.iter().map(|mount| mount.join(name)).collect();
        self.judge_objects(&dirs);
        for dir in &dirs {
            self.judge_ledgers(dir).unwrap_or_else(|fault| panic!("{}: {fault}", dir.display()));
        }
        let mut claims: BTreeMap<u64, Vec<Claim>> = BTreeMap::new();
        for (number, claim) in self.accounts.iter().flat_map(|account| &account.claims) {
            claims.entry(*number).or_default().push(*claim);
        }
        ledgers::won(&claims).unwrap_or_else(|fault| panic!("{fault}"));
        let sum = |count: fn(&Account) -> usize| self.accounts.iter().map(count).sum::<usize>();
        println!(
            "judged: {} operations on registers, {} on names, {} appends, {} names won, {} records of {} synced",
            sum(|account| account.registers.values().map(Vec::len).sum()),
            sum(|account| account.names.values().map(Vec::len).sum()),
            sum(|account| account.appended.values().map(|log| log.acknowledged.len()).sum()),
            claims.len(),
            sum(|account| account.own as usize),
            sum(|account| account.synced as usize),
        );
    }

    /// Judges only the files that were synced, with what is there after the mounts died.
    ///
    /// # Panics
    /// If one is shorter than what was synced, or is no beginning of what was written.
    pub(super) fn judge_synced(&self, mount: &Mount, name: &str) {
        for (who, account) in self.accounts.iter().enumerate().filter(|(_, a)| a.synced > 0) {
            let own = worker::own_file(&mount.join(name), who);
            let bytes = std::fs::read(&own).unwrap_or_else(|error| panic!("{own:?}: {error}"));
            let left = ledgers::kept(&bytes, who as u32, account.own, account.synced);
            let left = left.unwrap_or_else(|fault| panic!("{own:?}: {fault}"));
            println!("{left} of {} records are left, {} were synced", account.own, account.synced);
        }
    }

    fn judge_objects(&self, dirs: &[PathBuf]) {
        let mut registers = Histories::<Register>::new();
        let mut names = Histories::<Names>::new();
        for account in &self.accounts {
            for (object, events) in &account.registers {
                registers.entry(*object).or_default().extend(events.iter().cloned());
            }
            for (object, events) in &account.names {
                names.entry(*object).or_default().extend(events.iter().cloned());
            }
        }
        // How each is left is part of its history.
        for dir in dirs {
            for (object, events) in &mut registers {
                events.push(worker::look_at_register(dir, *object));
            }
            for (object, events) in &mut names {
                events.extend(worker::look_at_names(dir, *object));
            }
        }
        names.values_mut().for_each(|events| objects::leave_open(events, |who| who / THREADS_EACH));
        judge_all::<Register>(0, &registers, "register");
        judge_all::<Names>([0; NAMES], &names, "directory");
    }

    fn judge_ledgers(&self, dir: &Path) -> Result<(), String> {
        let mut logs: BTreeMap<u64, BTreeMap<u32, Written>> = BTreeMap::new();
        for (who, account) in self.accounts.iter().enumerate() {
            for (log, written) in &account.appended {
                logs.entry(*log).or_default().insert(who as u32, written.clone());
            }
            let own = worker::own_file(dir, who);
            if account.own > 0 {
                // No client died, so everything is there, synced or not.
                let bytes = std::fs::read(&own).map_err(|error| format!("{own:?}: {error}"))?;
                ledgers::kept(&bytes, who as u32, account.own, account.own)?;
            }
        }
        for (log, writers) in &logs {
            let path = worker::log_file(dir, *log);
            let bytes = std::fs::read(&path).map_err(|error| format!("{path:?}: {error}"))?;
            ledgers::appended(&bytes, writers).map_err(|fault| format!("log {log}: {fault}"))?;
        }
        for (name, _) in self.accounts.iter().flat_map(|account| &account.claims) {
            let path = worker::claimed(dir, *name);
            path.metadata().map_err(|error| format!("{path:?} was won, and: {error}"))?;
        }
        Ok(())
    }
}

/// What happened to each of many objects.
type Histories<M> = BTreeMap<u64, Vec<Event<<M as Model>::Op, <M as Model>::Answer>>>;

fn judge_all<M: Model>(initial: M::State, objects: &Histories<M>, what: &str) {
    for (object, events) in objects {
        let verdict = judge::<M>(initial.clone(), events, BUDGET);
        if verdict != Verdict::Linear {
            println!("{what} {object}, all of it:");
            let mut events: Vec<_> = events.iter().collect();
            events.sort_by_key(|event| event.asked);
            events.iter().for_each(|event| println!("  {event:?}"));
        }
        assert_eq!(verdict, Verdict::Linear, "{what} {object}, {} events: {verdict}", events.len());
    }
}

/// The record that a thread writes to the file of its own, or to a log.
pub(super) fn record(who: usize, number: u32) -> Vec<u8> {
    Record { writer: who as u32, number }.to_bytes()
}

/// Whether an error leaves open what came of the call; any error is one that a program saw.
pub(super) fn is_open(account: &mut Account, what: &str, errno: rustix::io::Errno) -> bool {
    // On a mount that is dead everything fails.
    if account.errors.len() < ERRORS_MAX {
        println!("a program was told of an error: {what}: {errno}");
        account.errors.push(format!("{what}: {errno}"));
    }
    leaves_open(errno)
}
