//! All of it together, a millisecond at a time.

use crate::chance::Chance;
use crate::client::Client;
use crate::faults;
use crate::faults::Counts;
use crate::invariants::Invariants;
use crate::member::Member;
use crate::network::Network;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use tsfs::store::disk::Disk;
use tsfs::store::disk::SimulatedDisk;
use tsfs::tsdb_log::entry::Members;
use tsfs::tsdb_server::replica::stepped::Stepped;
use tsfs::types::FsError;
use tsfs::types::NodeId;

/// How long things go wrong, and how long it may take until all is well again.
const RUN_MS: u64 = 12_000;
const HEAL_MS: u64 = 20_000;
/// Once in so many milliseconds something goes wrong.
const FAULT_EVERY_MS: u64 = 120;
/// Who is there in the beginning, and who may come.
const FOUNDERS: [u64; 3] = [1, 2, 3];
const NODES: u64 = 5;

/// What happened.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) faults: Counts,
    pub(crate) promised: u64,
    pub(crate) reigns: u64,
    pub(crate) reads: u64,
    pub(crate) turned: u64,
    pub(crate) installs: u64,
    pub(crate) changes: u64,
    pub(crate) digest: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        self.promised += other.promised;
        self.reigns += other.reigns;
        self.reads += other.reads;
        self.turned += other.turned;
        self.installs += other.installs;
        self.changes += other.changes;
        self.digest ^= other.digest;
    }

    /// A run of many seeds that has not met everything proves little.
    pub(crate) fn covers(&self) {
        assert!(faults::ALL.iter().all(|fault| self.faults.contains_key(fault)), "{self:?}");
        let met = [self.promised, self.reigns, self.reads, self.turned, self.changes];
        assert!(met.iter().all(|count| *count > 0), "{self:?}");
    }
}

pub(crate) struct World {
    now: u64,
    clock: Arc<AtomicU64>,
    chance: Chance,
    members: Vec<Member>,
    network: Network,
    client: Client,
    invariants: Invariants,
    tally: Tally,
    part: Members,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut chance = Chance::new(seed);
        let clock = Arc::new(AtomicU64::new(0));
        let part = Members { voters: FOUNDERS.map(NodeId).to_vec(), ..Members::default() };
        let members = (1..=NODES)
            .map(|node| Member::new(NodeId(node), &part, clock.clone(), &mut chance))
            .collect();
        World {
            now: 0,
            clock,
            chance,
            members,
            network: Network::new(),
            client: Client::new(),
            invariants: Invariants::default(),
            tally: Tally::default(),
            part,
        }
    }

    pub(crate) fn run(&mut self) {
        while self.now < RUN_MS {
            if self.now > 1000 && self.chance.once_in(FAULT_EVERY_MS) {
                let World { now, members, network, chance, .. } = self;
                let fault = faults::strike(*now, members, network, chance);
                *self.tally.faults.entry(fault).or_default() += 1;
            }
            self.step(true);
        }
    }

    /// Nothing goes wrong any more: in time, everything is well again.
    pub(crate) fn heal(&mut self) {
        self.network.calm();
        for member in &mut self.members {
            // A cut that is still to come would be one more fault.
            member.cut_power(self.now);
            member.asleep_until = 0;
        }
        let end = self.now + HEAL_MS;
        while !self.is_well() {
            assert!(self.now < end, "it is not well again: {}", self.describe());
            self.step(false);
        }
        let part: Vec<NodeId> = self.part.all().into_iter().collect();
        self.invariants.check_end(&self.members, &part, self.client.promised);
    }

    fn is_well(&self) -> bool {
        let leaders: Vec<&Member> = self.members.iter().filter(|m| m.leads().is_some()).collect();
        let [leader] = leaders[..] else { return false };
        let running = leader.running.as_ref().unwrap();
        let index = running.progress().index;
        let members = running.members();
        let level = |node: &NodeId| {
            self.members.iter().any(|m| m.node == *node && m.progress().index == index)
        };
        self.client.is_done()
            && !members.is_joint()
            && running.commit() == index
            && members.all().iter().all(level)
    }

    fn describe(&self) -> String {
        let each = self.members.iter().map(|member| {
            let running = member.running.as_ref();
            format!(
                "node {} {:?} commit {:?} applied {} members {:?}; ",
                member.node.0,
                running.map(|r| r.leadership()),
                running.map(|r| r.commit().0),
                member.progress().index.0,
                running.map(|r| r.members()),
            )
        });
        each.collect()
    }

    fn step(&mut self, more: bool) {
        self.now += 1;
        self.clock.store(self.now, SeqCst);
        for message in self.network.arrive(self.now) {
            let to = &mut self.members[message.to.0 as usize - 1];
            // Whoever sleeps finds it when it wakes up.
            if let Some(running) = to.running.as_mut() {
                running.step(vec![message]);
            }
        }
        let World { now, members, client, chance, .. } = self;
        client.act(*now, members, more, chance);
        for n in 0..self.members.len() {
            if self.members[n].asleep_until <= self.now {
                self.live(n);
            }
        }
        self.invariants.check(&self.members, self.client.promised);
    }

    /// One millisecond of a member's life.
    fn live(&mut self, n: usize) {
        let member = &mut self.members[n];
        if member.running.is_none()
            && let Err(error) = member.start()
        {
            // The power went while it was started.
            assert!(matches!(error, FsError::Io(_)), "node {}: {error}", member.node.0);
            member.cut_power(self.now);
            member.asleep_until = self.now + 100;
            return;
        }
        member.count_time();
        let running = member.running.as_mut().expect("it was started");
        let passed = drive(running, &member.disk);
        for message in member.take_messages() {
            self.network.send(self.now, message, &mut self.chance);
        }
        let mut fine = passed;
        while fine && !self.chance.once_in(3) {
            let running = self.members[n].running.as_mut().expect("it is fine");
            match running.apply_one() {
                Ok(true) => self.invariants.applied(&self.members[n]),
                Ok(false) => break,
                Err(_) => fine = false,
            }
        }
        let member = &mut self.members[n];
        if !fine {
            member.cut_power(self.now);
            member.asleep_until = self.now + self.chance.between(1, 1000);
            return;
        }
        for behind in member.take_behind() {
            self.bring_table(n, behind);
        }
        self.note_members(n);
    }

    fn note_members(&mut self, n: usize) {
        let running = self.members[n].running.as_ref().expect("it is fine");
        if running.leadership().here && running.members() != self.part {
            self.part = running.members();
            self.tally.changes += 1;
        }
    }

    /// The leader's table comes to a member that needs one; its process is stopped for it.
    fn bring_table(&mut self, from: usize, to: NodeId) {
        let to = to.0 as usize - 1;
        if self.members[to].asleep_until > self.now || from == to || !self.chance.once_in(5) {
            return;
        }
        let members = self.members[from].applied_members();
        self.members[to].kill();
        let mut taker = self.members.remove(to);
        let from = if from > to { from - 1 } else { from };
        let done = taker.install(&self.members[from], &members);
        self.members.insert(to, taker);
        self.tally.installs += u64::from(done.is_ok());
    }

    pub(crate) fn tally(mut self) -> Tally {
        self.tally.promised = self.client.promised;
        self.tally.reigns = self.invariants.reigns();
        self.tally.reads = self.invariants.reads;
        self.tally.turned = self.client.turned;
        let led = self.members.iter().find(|member| member.leads().is_some());
        self.tally.digest = led.expect("it is well").digest();
        self.tally
    }
}

/// One pass; false where it has to stop. The engine breaks down where the disk cannot be read, and so does whoever drives.
fn drive(running: &mut Stepped, disk: &SimulatedDisk) -> bool {
    match catch_unwind(AssertUnwindSafe(|| running.pass())) {
        Ok(passed) => passed.is_ok(),
        Err(_) if disk.list(Path::new("/log")).is_err() => false,
        Err(panic) => resume_unwind(panic),
    }
}
