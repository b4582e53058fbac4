//! Kills the server with real writers on its mount, again and again, and compares what is left with what they know.
//!
//! After every kill: nothing that was synced is lost; what is left of each writer's changes is a prefix of them, and of
//! all writers' together; every answer was right; every instant recorded earlier reads the same; `tsfs fsck` finds
//! nothing. Two variants: the process dies (what it wrote is in the kernel's cache and stays), and the machine dies
//! (what was not synced is thrown away, by the pass-through file system of `crashfs`).
//!
//! Not here: reproducing a failure exactly. A seed repeats the writers' changes and the moments by count, not the
//! kernel's scheduling.

mod account;
mod tree;
mod writer;

use crate::crashfs::CrashFs;
use crate::crashfs::Lost;
use crate::support;
use crate::support::Mount;
use crate::support::Point;
use crate::support::Random;
use crate::support::Running;
use account::Account;
pub(crate) use account::Writer;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tree::Model;
use tree::Tree;
use writer::Entry;

/// How long the writers may take to reach the moment of a kill.
const ROUND_LIMIT: Duration = Duration::from_secs(120);
const WRITERS: usize = 2;
/// How many earlier instants are read back after a kill.
const INSTANTS_READ: usize = 6;

/// What lies under the store while its server is killed.
trait Disk {
    fn store(&self) -> PathBuf;
    /// The server is dead: lose what a power cut would lose.
    fn crash(&mut self, random: &mut Random);
}

/// The machine's own file system: it outlives the process and loses nothing.
struct Kept(PathBuf);

impl Disk for Kept {
    fn store(&self) -> PathBuf {
        self.0.clone()
    }

    fn crash(&mut self, _: &mut Random) {}
}

/// A machine whose power is cut: what the store did not sync is gone, in the ways a disk loses it.
struct Lossy {
    under: CrashFs,
    lost: Lost,
}

impl Disk for Lossy {
    fn store(&self) -> PathBuf {
        self.under.dir().join("store")
    }

    fn crash(&mut self, random: &mut Random) {
        let Lost { pages, names } = self.under.crash(random);
        self.lost.pages += pages;
        self.lost.names += names;
    }
}

/// The body of a writer process, which the tests below start: this binary again, with this one test.
#[test]
#[ignore = "a process that the crash tests start"]
#[expect(clippy::disallowed_methods, reason = "how a test tells its child what to do")]
fn writer_process() {
    let path = |name| PathBuf::from(std::env::var(name).unwrap());
    let seed = support::setting("TSFS_TEST_SEED").unwrap();
    writer::write(&path("TSFS_TEST_TOP"), &path("TSFS_TEST_LEDGER"), seed, u64::MAX);
}

/// Everything that is known of the store under test.
struct World<'a> {
    scratch: &'a Path,
    disk: &'a mut dyn Disk,
    random: Random,
    /// What each writer's directory holds.
    models: Vec<Model>,
    /// Instants that were read once, and what was there.
    instants: Vec<(u64, Vec<Tree>)>,
    kills: u64,
    changes: u64,
}

impl World<'_> {
    fn fsck(&self) -> Result<(), String> {
        let output = support::tsfs().arg("fsck").arg(self.disk.store()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("fsck: {}\n{said}", output.status))
        }
    }

    /// Reads all writers' directories at an instant, for the first time or again.
    fn read_at(&self, mount: &Mount, instant: u64) -> Result<Vec<Tree>, String> {
        let read = |index| tree::read(&tree::at(mount.dir(), instant, format!("w{index}")));
        (0..WRITERS)
            .map(|index| read(index).map_err(|error| format!("at {instant}: {error}")))
            .collect()
    }

    /// Lets the writers work until a chosen number of changes, remembering an instant on the way; then kills.
    fn work_and_kill(&mut self, mount: Mount) -> Result<(Point, Vec<Account>), String> {
        let mut writers: Vec<Writer> = (0..WRITERS)
            .map(|index| Writer::start(self.scratch, &mount, index, self.random.next()))
            .collect();
        let most = [30_000, 3_000, 3_000, 300, 300, 300, 300, 30][self.random.below(8) as usize];
        let goal = 1 + self.random.below(most);
        let look = self.random.below(goal);
        let mut looked = None;
        support::wait_until(ROUND_LIMIT, "the writers to reach the moment of the kill", || {
            let progress: u64 = writers.iter().map(Writer::progress).sum();
            for writer in &mut writers {
                assert_eq!(
                    writer.process.0.try_wait().unwrap(),
                    None,
                    "a writer ended before the kill"
                );
            }
            // Reading the last second makes it durable: only now and then, or no kill would find a tail to lose.
            if progress >= look && looked.is_none() && look.is_multiple_of(3) {
                let instant = wall();
                looked = Some(self.read_at(&mount, instant).map(|trees| (instant, trees)));
            }
            progress >= goal
        });
        let point = mount.kill();
        self.instants.extend(looked.transpose()?);
        self.disk.crash(&mut self.random);
        support::wait_until(ROUND_LIMIT, "the writers to notice", || {
            writers.iter_mut().all(|writer| writer.process.0.try_wait().unwrap().is_some())
        });
        self.kills += 1;
        Ok((point, writers.iter().map(Writer::account).collect()))
    }

    /// Compares a mount after a kill with what is known, and takes what it holds as the new truth.
    fn compare(&mut self, mount: &Mount, accounts: &[Account]) -> Result<(), String> {
        let mut survived = Vec::new();
        for (index, account) in accounts.iter().enumerate() {
            let synced = accounts.iter().flat_map(Account::syncs).max().unwrap_or(0);
            let least = account.returned_before(synced);
            let found =
                tree::read(&mount.join(format!("w{index}"))).map_err(|error| error.to_string())?;
            let model = self.models[index].clone();
            survived.push(
                account
                    .survived(model, least, &found)
                    .map_err(|fault| format!("writer {index}: {fault}"))?,
            );
            self.changes += account.entries.len() as u64;
        }
        // One order over all writers: what survived of one was asked for after nothing that is lost of another.
        for (one, kept) in accounts.iter().zip(&survived) {
            let Some(last) = kept.shortest.checked_sub(1).and_then(|last| one.entries.get(last))
            else {
                continue;
            };
            for (other, kept) in accounts.iter().zip(&survived) {
                let before = other.returned_before(last.asked);
                if kept.longest < before {
                    return Err(format!(
                        "{} of {before} earlier changes of another are left",
                        kept.longest
                    ));
                }
            }
        }
        self.models = survived.into_iter().map(|kept| kept.model).collect();
        self.compare_instants(mount)
    }

    /// Some instants of the past read as they did the first time; then the present becomes one of them.
    fn compare_instants(&mut self, mount: &Mount) -> Result<(), String> {
        for _ in 0..INSTANTS_READ.min(self.instants.len()) {
            let choice = self.random.below(self.instants.len() as u64) as usize;
            let (instant, before) = &self.instants[choice];
            let again = self.read_at(mount, *instant)?;
            for (before, again) in before.iter().zip(&again) {
                if let Some(how) = tree::difference(before, again) {
                    return Err(format!("the past changed: at {instant}, {how}"));
                }
            }
        }
        let instant = wall();
        let seen = self.read_at(mount, instant)?;
        for (model, seen) in self.models.iter().zip(&seen) {
            if let Some(how) = tree::difference(&model.tree(), seen) {
                return Err(format!("the present, read as an instant, differs: {how}"));
            }
        }
        self.instants.push((instant, seen));
        Ok(())
    }

    /// Dies once more while it is coming up from the last death: recovery has to be repeatable.
    fn kill_in_recovery(&mut self) {
        let mut command = support::tsfs();
        command
            .args(["mount", "--foreground"])
            .arg(self.disk.store())
            .arg(self.scratch.join("mnt"));
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut server = Running::start(&mut command);
        support::pause(Duration::from_micros(self.random.below(150_000)));
        server.kill();
        self.disk.crash(&mut self.random);
        self.kills += 1;
    }
}

/// Nanoseconds since 1970 by the machine's clock, which the server's stamps follow.
fn wall() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Kills until `kills` and `seconds` are both used up.
fn survive(disk: &mut dyn Disk, scratch: &Path, kills: u64) {
    let seed = support::setting("TSFS_TEST_CRASH_SEED").unwrap_or_else(wall);
    let time = Duration::from_secs(support::setting("TSFS_TEST_CRASH_SECONDS").unwrap_or(0));
    let start = support::now();
    let random = Random::new(seed);
    let models = vec![Model::default(); WRITERS];
    let mut world =
        World { scratch, disk, random, models, instants: Vec::new(), kills: 0, changes: 0 };
    let mount = Mount::create(&world.disk.store(), &scratch.join("mnt"));
    for index in 0..WRITERS {
        std::fs::create_dir(mount.join(format!("w{index}"))).unwrap();
    }
    support::sh(mount.dir(), "sync w0");
    let mut mount = Some(mount);
    while world.kills < kills || start.elapsed() < time {
        let outcome =
            round(&mut world, mount.take().unwrap_or_else(|| panic!("one mount a round")));
        mount = Some(outcome.unwrap_or_else(|fault| {
            let (kills, changes) = (world.kills, world.changes);
            panic!("after {kills} kills and {changes} changes: {fault}\nREPLAY make crash TSFS_TEST_CRASH_SEED={seed}")
        }));
    }
    mount.take().expect("each round leaves a mount").close();
    world.fsck().unwrap();
    let World { kills, changes, instants, .. } = world;
    println!("survived {kills} kills, {changes} changes, {} instants", instants.len());
}

/// One kill and what follows; returns the mount that came up after it.
fn round(world: &mut World<'_>, mount: Mount) -> Result<Mount, String> {
    let (point, accounts) = world.work_and_kill(mount)?;
    if world.random.below(4) == 0 {
        world.kill_in_recovery();
    }
    if world.random.below(4) == 0 {
        world.fsck()?;
    }
    let mount = Mount::with(&[], &world.disk.store(), point);
    world.compare(&mount, &accounts)?;
    Ok(mount)
}

/// Without this, a failure of the others could as well be the model's.
#[test]
fn the_model_agrees_with_the_disk_of_this_machine() {
    let scratch = support::scratch();
    let (top, ledger) = (scratch.path().join("top"), scratch.path().join("ledger"));
    std::fs::create_dir(&top).unwrap();
    std::fs::write(&ledger, []).unwrap();
    let account = |seed| {
        writer::write(&top, &ledger, seed, 3_000);
        Account { seed, entries: Entry::read(&ledger) }
    };
    let account = account(7);
    let found = tree::read(&top).unwrap();
    account.survived(Model::default(), 3_000, &found).map(drop).unwrap();
    let answers: std::collections::BTreeSet<i32> =
        account.entries.iter().map(|entry| entry.errno).collect();
    assert!(answers.len() >= 4, "the changes hardly meet: {answers:?}");
}

#[test]
fn a_lost_change_and_one_out_of_order_are_noticed() {
    let entry = Entry { errno: 0, asked: 0, answered: 0 };
    let without = |missing: u64, count: u64| {
        let mut model = Model::default();
        let kept = (0..count).filter(|n| *n != missing);
        for n in kept {
            let _ = writer::change(7, n).apply(&mut model);
        }
        model.tree()
    };
    let mut model = Model::default();
    let errno =
        |n| writer::change(7, n).apply(&mut model).map_or_else(|e| e.raw_os_error(), |()| 0);
    let entries: Vec<Entry> = (0..200).map(errno).map(|errno| Entry { errno, ..entry }).collect();
    let creates = |n: &u64| matches!(writer::change(7, *n), writer::Change::Create(..));
    let first = (0..200).find(|n| creates(n) && entries[*n as usize].errno == 0).unwrap();
    let account = Account { seed: 7, entries };
    let survives = |least, found: &Tree| account.survived(Model::default(), least, found).is_ok();
    assert!(survives(150, &without(u64::MAX, 160)), "a lost tail after the last sync is no fault");
    assert!(!survives(180, &without(u64::MAX, 160)), "a lost tail before the last sync is one");
    assert!(!survives(0, &without(first, 160)), "so is a hole");
}

#[test]
fn the_process_dies() {
    let scratch = support::scratch();
    let mut disk = Kept(scratch.path().join("store"));
    survive(&mut disk, scratch.path(), 12);
}

#[test]
fn the_power_fails() {
    let scratch = support::scratch();
    let under = CrashFs::mount(&scratch.path().join("disk"));
    let mut disk = Lossy { under, lost: Lost::default() };
    survive(&mut disk, scratch.path(), 12);
    println!("thrown away: {:?}", disk.lost);
    assert!(disk.lost.pages > 0, "nothing was lost, so nothing was shown");
}
