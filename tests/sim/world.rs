//! All of it together, a millisecond at a time.

mod blocks;

use crate::chance::Chance;
use crate::client::Client;
use crate::faults;
use crate::faults::Harm;
use crate::faults::Scene;
use crate::invariants::Invariants;
use crate::lines::Arrival;
use crate::lines::Lines;
use crate::lines::Side;
use crate::lines::What;
use crate::lines::calling_member;
use crate::member::Clocks;
use crate::member::Member;
use crate::mount::Around;
use crate::mount::Kind;
use crate::mount::Mount;
use crate::mount::Report;
use crate::network::Network;
use crate::tally::Tally;
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

/// How long it may take until all is well again.
const HEAL_MS: u64 = 20_000;
/// Who is there in the beginning, and who may come.
const FOUNDERS: u64 = 3;
pub(crate) const NODES: u64 = 5;
const MOUNTS_MAX: u64 = 3;

/// Who changes things.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Load {
    /// One who proposes batches that are small, many at a time: as much of the log as can be.
    Log,
    /// Mounts with sessions, leases and what they own.
    Mounts,
}

impl Load {
    /// How long things go wrong.
    fn run_ms(self) -> u64 {
        match self {
            Load::Log => 12_000,
            // Leases have to run out.
            Load::Mounts => 25_000,
        }
    }

    /// Once in so many milliseconds something goes wrong.
    fn fault_every_ms(self) -> u64 {
        match self {
            Load::Log => 120,
            Load::Mounts => 240,
        }
    }

    /// By how much the rates of clocks may differ, in parts of a hundred thousand: a fiftieth among members, a hundredth
    /// between a member and a mount (`tsdb_client::remote`).
    fn rates_differ(self) -> u64 {
        match self {
            Load::Log => 1900,
            Load::Mounts => 950,
        }
    }
}

pub(crate) struct World {
    load: Load,
    now: u64,
    clock: Arc<AtomicU64>,
    chance: Chance,
    members: Vec<Member>,
    mounts: Vec<Mount>,
    lines: Lines,
    network: Network,
    client: Client,
    harm: Harm,
    invariants: Invariants,
    tally: Tally,
    part: Members,
}

impl World {
    pub(crate) fn new(seed: u64, load: Load) -> World {
        let mut chance = Chance::new(seed);
        let now_ms = Arc::new(AtomicU64::new(0));
        // Where all are there from the beginning, blocks are soon shared out between them.
        let founders = if load == Load::Mounts && seed % 4 != 1 { NODES } else { FOUNDERS };
        let voters = (1..=founders).map(NodeId).collect();
        let part = Members { voters, ..Members::default() };
        let differ = load.rates_differ();
        let mut clock = || Arc::new(Clocks::new(now_ms.clone(), differ, &mut chance));
        let members = (1..=NODES).map(|node| Member::new(NodeId(node), &part, clock())).collect();
        let (count, client) = match load {
            Load::Log => (0, Client::new()),
            Load::Mounts => (MOUNTS_MAX - seed % 4 % MOUNTS_MAX, Client::founder()),
        };
        let mounts = (0..count as usize).map(|n| Mount::new(n, clock())).collect();
        World {
            load,
            now: 0,
            clock: now_ms,
            chance,
            members,
            mounts,
            lines: Lines::default(),
            network: Network::new(),
            client,
            harm: Harm::default(),
            invariants: Invariants::new(seed, count > 0),
            tally: Tally::default(),
            part,
        }
    }

    pub(crate) fn run(&mut self) {
        while self.now < self.load.run_ms() {
            if self.now > 1000 && self.chance.once_in(self.load.fault_every_ms()) {
                self.strike();
            }
            self.step(true);
        }
    }

    fn strike(&mut self) {
        let World { now, members, mounts, lines, network, harm, chance, .. } = self;
        let under_way: Vec<_> = mounts.iter().map(Mount::under_way).collect();
        let scene = &mut Scene { now: *now, members, mounts, lines, network, harm, chance };
        let fault = faults::strike(scene);
        *self.tally.faults.entry(fault).or_default() += 1;
        under_way.iter().for_each(|kinds| self.tally.cover.struck(fault, kinds));
    }

    /// Nothing goes wrong any more: in time, everything is well again.
    pub(crate) fn heal(&mut self) {
        self.network.calm();
        for n in 0..self.members.len() {
            // A cut that is still to come would be one more fault.
            self.stop(n);
            self.members[n].asleep_until = 0;
        }
        self.harm.end(&mut self.members);
        self.mounts.iter_mut().for_each(|mount| mount.asleep_until = 0);
        let end = self.now + HEAL_MS;
        while !self.is_well() {
            assert!(self.now < end, "it is not well again: {}", self.describe());
            self.step(false);
        }
        let part: Vec<NodeId> = self.part.all().into_iter().collect();
        self.invariants.check_end(&self.members, &part, self.client.promised);
        if self.invariants.is_mounted() {
            self.read_at_last(&part);
        }
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
            && self.mounts.iter().all(Mount::is_done)
            && !members.is_joint()
            && running.commit() == index
            && members.all().iter().all(level)
            && (self.mounts.is_empty() || self.has_all_blocks(&members.all()))
    }

    fn describe(&self) -> String {
        let each = self.members.iter().map(|member| {
            let running = member.running.as_ref();
            format!(
                "node {} {:?} commit {:?} applied {} members {:?} lacks {:?} {:?}; ",
                member.node.0,
                running.map(|r| r.leadership()),
                running.map(|r| r.commit().0),
                member.progress().index.0,
                running.map(|r| r.members()),
                member.side.as_ref().map(|side| side.describe()),
                running.map(|r| r.placement()),
            )
        });
        let mounts = self.mounts.iter().map(|mount| {
            let session = mount.life.as_ref().map(|life| life.session.0);
            let (done, waits) = (mount.is_done(), mount.under_way());
            format!("mount {} session {session:?} done {done} waits for {waits:?}; ", mount.n)
        });
        each.chain(mounts).collect()
    }

    fn step(&mut self, more: bool) {
        self.now += 1;
        self.clock.store(self.now, SeqCst);
        self.harm.pass(self.now, &mut self.members);
        for message in self.network.arrive(self.now) {
            let to = &mut self.members[message.to.0 as usize - 1];
            // Whoever sleeps finds it when it wakes up.
            if let Some(running) = to.running.as_mut() {
                running.step(vec![message]);
            }
        }
        if !self.mounts.is_empty() {
            self.talk(more);
        }
        let World { now, members, client, chance, .. } = self;
        client.act(*now, members, more, chance);
        for n in 0..self.members.len() {
            if self.members[n].asleep_until <= self.now {
                self.live(n);
            }
        }
        self.invariants.check(&self.members, &self.mounts, self.client.promised);
    }

    /// What mounts and members say to each other arrives, and mounts go on.
    fn talk(&mut self, more: bool) {
        let World { now, members, mounts, lines, network, chance, .. } = self;
        let awake = |side: Side, who: usize| match (side, calling_member(who)) {
            (Side::Mount, None) => mounts[who].asleep_until <= *now,
            (_, caller) => {
                let member = &members[caller.unwrap_or(who)];
                member.asleep_until <= *now && member.door.is_some()
            }
        };
        let arrivals = lines.arrive(*now, network, awake, chance);
        let leads = |member: &Member| member.asleep_until <= *now && member.leads().is_some();
        let leader = members.iter().position(leads);
        let count = members.len();
        let around =
            &mut Around { now: *now, lines, network, chance, leader, members: count, more };
        for Arrival { line, at, who, with, what } in arrivals {
            match (at, what) {
                (Side::Mount, what) => match calling_member(who) {
                    Some(caller) => {
                        let Member { side, monitor, .. } = &mut members[caller];
                        if let Some((side, monitor)) = side.as_mut().zip(monitor.as_mut()) {
                            monitor.hear(around.now, line, with, &what);
                            side.hear(line, with, what);
                        }
                    }
                    None => mounts[who].hear(line, what, around),
                },
                (Side::Member, what) => {
                    let Member { door, running, .. } = &mut members[who];
                    let (Some(door), Some(running)) = (door, running) else { continue };
                    match what {
                        What::Packet(packet) => door.hear(line, with, packet, running),
                        What::End => door.ended(line),
                    }
                }
            }
        }
        let now = *now;
        for mount in mounts.iter_mut().filter(|mount| mount.asleep_until <= now) {
            mount.act(around);
        }
        let active = self.harm.active(self.now);
        self.invariants.rotten = self.harm.rotten();
        for mount in &mut self.mounts {
            for report in std::mem::take(&mut mount.reports) {
                if let Report::Done(kind) = report {
                    self.tally.cover.done(kind, &active);
                }
                self.invariants.heard(report, &self.members);
            }
        }
    }

    /// The process ends, and what its disk had not synced with it.
    fn stop(&mut self, n: usize) {
        self.members[n].cut_power(self.now);
        self.lines.gone(Side::Member, n, &mut self.chance);
    }

    /// One millisecond of a member's life.
    fn live(&mut self, n: usize) {
        let member = &mut self.members[n];
        if member.running.is_none()
            && let Err(error) = member.start()
        {
            return self.does_not_start(n, &error);
        }
        self.send_messages(n);
        let member = &mut self.members[n];
        member.count_time();
        let before = member.disk.operations();
        let mut fine = !self.invariants.is_mounted() || self.serve(n);
        let member = &mut self.members[n];
        let running = member.running.as_mut().expect("it was started");
        let (disk, may_break) = (&member.disk, member.cannot_read || self.harm.is_flipped(n));
        fine = fine && drive(running, disk, may_break);
        let wrote = member.disk.operations() != before;
        if fine && wrote && member.slow_ms > 0 {
            // Until it is written nobody hears of it.
            member.asleep_until = self.now + self.chance.between(1, member.slow_ms);
            return;
        }
        self.send_messages(n);
        while fine && !self.chance.once_in(3) {
            if let Some(entry) = self.members[n].running.as_ref().and_then(|r| r.next()) {
                self.invariants.applies(&self.members[n], entry);
            }
            let running = self.members[n].running.as_mut().expect("it is fine");
            match running.apply_one() {
                Ok(Some((entry, outcome))) => {
                    if self.invariants.applied(&self.members, n, &entry, &outcome) {
                        self.tally.cover.done(Kind::Place, &self.harm.active(self.now));
                    }
                }
                Ok(None) => break,
                Err(_) => fine = false,
            }
        }
        if !fine {
            self.stop(n);
            self.members[n].asleep_until = self.now + self.chance.between(1, 1000);
            return;
        }
        self.send_answers(n);
        for behind in self.members[n].take_behind() {
            self.bring_table(n, behind);
        }
        self.note_members(n);
    }

    fn send_messages(&mut self, n: usize) {
        for message in self.members[n].take_messages() {
            self.network.send(self.now, message, &mut self.chance);
        }
    }

    fn does_not_start(&mut self, n: usize, error: &FsError) {
        let member = &mut self.members[n];
        let flipped = self.harm.is_flipped(n);
        match error {
            // The power went while it was started, or it cannot be read, or is full.
            FsError::Io(_) | FsError::NoSpace => {}
            FsError::Damaged(_) if flipped => self.harm.repair(n, member),
            other => panic!("node {}: {other}", member.node.0),
        }
        self.stop(n);
        self.members[n].asleep_until = self.now + 100;
    }

    fn send_answers(&mut self, n: usize) {
        let World { now, members, mounts, lines, network, chance, tally, harm, .. } = self;
        let Some(door) = &mut members[n].door else { return };
        for (session, ino) in door.shown.drain(..) {
            self.invariants.shown(mounts, session, ino);
        }
        for (block, frame) in door.given.drain(..) {
            self.invariants.gave(block, &frame);
        }
        for (line, packet) in door.take_out() {
            lines.send(*now, (line, Side::Mount), &packet, network, chance);
        }
        for ends in door.proposed.drain(..) {
            if ends == "end" {
                tally.cover.done(Kind::End, &harm.active(*now));
            }
        }
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
        self.lines.gone(Side::Member, to, &mut self.chance);
        let mut taker = self.members.remove(to);
        let from = if from > to { from - 1 } else { from };
        let done = taker.install(&self.members[from], &members);
        self.members.insert(to, taker);
        self.tally.installs += u64::from(done.is_ok());
    }

    pub(crate) fn tally(mut self) -> Tally {
        let sum = |count: fn(&Mount) -> u64| self.mounts.iter().map(count).sum();
        let digests = self.members.iter().map(|member| member.digest());
        self.tally = Tally {
            simulated_ms: self.now,
            promised: self.client.promised,
            reigns: self.invariants.reigns(),
            reads: self.invariants.reads,
            turned: self.client.turned,
            fenced: sum(|mount| mount.fenced),
            replayed: sum(|mount| mount.replayed),
            woken: sum(|mount| mount.woken),
            looked_again: self.invariants.looked_again(),
            cut_short: self.lines.cut_short,
            refused_packets: self.network.refused,
            damage_found: self.harm.found,
            durable: self.invariants.durable,
            given: self.invariants.given,
            moved: self.invariants.moved(),
            replaced: self.harm.replaced,
            digest: digests.fold(self.chance.next(), |all, one| all.rotate_left(7) ^ one),
            ..self.tally
        };
        self.tally
    }
}

/// One pass; false where it has to stop. The engine breaks down where the disk cannot be read, and so does whoever drives.
fn drive(running: &mut Stepped, disk: &SimulatedDisk, may_break: bool) -> bool {
    match catch_unwind(AssertUnwindSafe(|| running.pass())) {
        Ok(passed) => passed.is_ok(),
        Err(_) if may_break || disk.list(Path::new("/log")).is_err() => false,
        Err(panic) => resume_unwind(panic),
    }
}
