//! The log's side of the replica: take what came, stamp, propose, send, write and sync, say what is durable, pass on what is
//! committed.
//!
//! One thread at a time, the holder of the right: see [`inbox`](crate::tsdb_server::replica::inbox). Nothing here waits for
//! another member: what they say is input like any other. Not here: applying, and who drives when.

use crate::env::Clock;
use crate::store::log::Log;
use crate::telemetry::counter;
use crate::tsdb_log::core::Core;
use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::EntryKind;
use crate::tsdb_log::entry::Message;
use crate::tsdb_log::entry::MessageKind;
use crate::tsdb_log::header::Header;
use crate::tsdb_log::store::Group;
use crate::tsdb_log::store::LogStore;
use crate::tsdb_server::replica::Outbound;
use crate::tsdb_server::replica::clock::Stamper;
use crate::tsdb_server::replica::inbox::Ask;
use crate::tsdb_server::replica::inbox::Input;
use crate::tsdb_server::replica::inbox::Taken;
use crate::tsdb_server::replica::inbox::Work;
use crate::tsdb_server::replica::queue::Committed;
use crate::tsdb_server::replica::queue::Proposed;
use crate::tsdb_server::replica::standing::Leadership;
use crate::tsdb_server::replica::standing::Standing;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Stamp;
use crate::types::Term;
use crate::wire::Durable;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the log read at once when it is read for its stamps.
const PAGE_BYTES: u64 = 4 << 20;

/// An entry that was proposed and is not yet committed.
struct Pending {
    index: LogIndex,
    stamp: Stamp,
    durable: Durable,
    proposed: Proposed,
}

/// What a driver is made of.
pub(super) struct DriverParts {
    pub(super) core: Core,
    pub(super) log: Log,
    pub(super) clock: Arc<dyn Clock>,
    /// The last stamp that the table knows.
    pub(super) last: Stamp,
    pub(super) node: NodeId,
    pub(super) lease: Duration,
    pub(super) standing: Arc<Standing>,
    pub(super) outbound: Option<Arc<dyn Outbound>>,
}

/// What the holder of the right works with.
pub(super) struct Driver {
    parts: DriverParts,
    stamper: Stamper,
    /// In the order of their indices; proposed in this reign.
    pending: VecDeque<Pending>,
    /// Bytes appended since the log was last purged.
    pub(super) appended: u64,
    /// The reign of this member, while it leads.
    reign: Option<Term>,
    /// The last stamp in the log, of entries that were never committed too.
    logged: Stamp,
    /// When the rounds of heartbeats were sent that no majority has answered yet.
    rounds: VecDeque<(u64, Duration)>,
    /// Up to where the log may go at the next purge, where others may need what it holds.
    purged: LogIndex,
}

/// What a pass leaves to be done once the driver is let go of.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) committed: Vec<Committed>,
    /// Work that was not taken, and why.
    pub(super) refused: Vec<(Work, FsError)>,
    /// The weight of work that was told it has lost its leader.
    pub(super) lost: usize,
    /// Who leads now, if that has changed.
    pub(super) leadership: Option<Leadership>,
    /// Answers to what was asked, to be given where no lock is held.
    pub(super) answers: Vec<Box<dyn FnOnce() + Send>>,
}

impl Driver {
    pub(super) fn new(parts: DriverParts) -> Driver {
        let stamper = Stamper::new(parts.last, &*parts.clock);
        Driver {
            stamper,
            pending: VecDeque::new(),
            appended: 0,
            reign: None,
            logged: parts.last,
            rounds: VecDeque::new(),
            purged: LogIndex(0),
            parts,
        }
    }

    /// To be called when what was known to be committed is applied: who takes part is among that. A lone voter leads at once,
    /// and commits what earlier reigns left, which is to be taken with [`Driver::carry_on`]; true where it is one.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub(super) fn lead_or_listen(&mut self) -> Result<bool, FsError> {
        self.parts.standing.take_part(self.parts.core.members().clone());
        let alone = self.parts.core.members().decides_alone(self.parts.node);
        match alone {
            true => self.parts.core.campaign()?,
            false => self.read_stamps()?,
        }
        Ok(alone)
    }

    /// Reads the stamps of what is in the log behind what the table has: a leader's own go on behind all of them.
    fn read_stamps(&mut self) -> Result<(), FsError> {
        let log = self.parts.log.reader();
        let end = LogIndex(log.last().0 + 1);
        let mut next = LogIndex(log.first().0.max(self.parts.core.handed().0 + 1));
        while next < end {
            for entry in log.entries(next, end, PAGE_BYTES)? {
                next = LogIndex(entry.index.0 + 1);
                self.note_stamp(&entry)?;
            }
        }
        Ok(())
    }

    fn note_stamp(&mut self, entry: &Entry) -> Result<(), FsError> {
        if entry.kind == EntryKind::Command && !entry.header.is_empty() {
            let header = Header::decode(entry.index, &entry.header)?;
            self.logged = self.logged.max(header.last_stamp());
        }
        Ok(())
    }

    /// Takes all input, proposes all work as one group and makes it durable. `applied` is what was applied meanwhile;
    /// `full` says that no more of what others proposed can be taken.
    ///
    /// # Errors
    /// `Io`, `NoSpace`, `Damaged`: the replica must stop. `passed` holds what was committed before.
    pub(super) fn pass(
        &mut self,
        taken: Taken,
        applied: LogIndex,
        full: bool,
        passed: &mut Passed,
    ) -> Result<(), FsError> {
        self.parts.core.applied(applied);
        if !taken.input.is_empty() {
            self.listen(taken.input, full, passed)?;
            self.follow_leadership(passed);
            // What others have acknowledged is told before the disk is waited for again.
            while self.carry_on(passed)? {}
        }
        self.follow_leadership(passed);
        if !taken.work.is_empty() {
            let now = self.stamper.now(&*self.parts.clock);
            for work in taken.work {
                self.propose(work, now, passed);
            }
        }
        self.parts.core.carry_on_change();
        while self.carry_on(passed)? {}
        self.follow_leadership(passed);
        self.tell_standing(passed);
        Ok(())
    }

    fn listen(&mut self, input: Input, full: bool, passed: &mut Passed) -> Result<(), FsError> {
        let core = &mut self.parts.core;
        if input.tick {
            core.tick();
        }
        for message in input.messages {
            // As if the network had lost it: the leader sends it again, as soon as it is answered at all.
            if full && message.kind == MessageKind::Append && !message.entries.is_empty() {
                continue;
            }
            core.step(message)?;
        }
        for ask in input.asks {
            match ask {
                Ask::Unreachable(node) => core.unreachable(node),
                Ask::HandOver { to, answer } => {
                    // No read may rest on the lease from here on.
                    self.parts.standing.drop_lease();
                    self.rounds.clear();
                    let done = core.hand_over(to);
                    passed.answers.push(Box::new(move || answer(done)));
                }
                Ask::Change { from, voters, learners, answer } => {
                    let done = match from.is_none_or(|from| from == *core.members()) {
                        true => core.change_members(voters, learners),
                        false => Err(FsError::Refused(
                            "the members were changed meanwhile; try again".to_owned(),
                        )),
                    };
                    passed.answers.push(Box::new(move || answer(done)));
                }
            }
        }
        if input.round {
            core.ask_round();
        }
        Ok(())
    }

    /// Whether this member leads may have changed. Who was told to wait by a leader that is none any more is told so; a new
    /// leader stamps behind everything that is in the log.
    fn follow_leadership(&mut self, passed: &mut Passed) {
        let core = &self.parts.core;
        let reign = core.is_leader().then(|| core.term());
        if reign == self.reign {
            return;
        }
        self.parts.standing.drop_lease();
        self.rounds.clear();
        self.reign = reign;
        let leader = core.leader().filter(|leader| *leader != self.parts.node);
        passed.lost += self.give_up(&FsError::NotLeader { leader });
        if reign.is_some() {
            self.stamper.after(self.logged);
        }
    }

    fn propose(&mut self, work: Work, now: Stamp, passed: &mut Passed) {
        if self.reign.is_none() {
            let leader = self.parts.core.leader();
            passed.refused.push((work, FsError::NotLeader { leader }));
            return;
        }
        let stamp = self.stamper.take(now, work.stamps);
        let header = Header {
            stamp,
            stamps: work.stamps,
            body: work.body,
            session: work.session,
            seq: work.seq,
        };
        self.logged = self.logged.max(header.last_stamp());
        match self.parts.core.propose(header.encode(), work.bytes.clone()) {
            Ok(index) => {
                let weight = work.weight();
                let Work { durable, applied, urgent, .. } = work;
                let proposed = Proposed { applied, weight, urgent };
                self.pending.push_back(Pending { index, stamp, durable, proposed });
            }
            Err(not_leader) => {
                let why = FsError::NotLeader { leader: not_leader.leader };
                passed.refused.push((work, why));
            }
        }
    }

    /// Does what the core asks for next; false where that is nothing.
    ///
    /// # Errors
    /// As for [`Driver::pass`].
    pub(super) fn carry_on(&mut self, passed: &mut Passed) -> Result<bool, FsError> {
        // Before anything is sent: a lease counts from here.
        let sent = self.parts.clock.steady();
        let Some(ready) = self.parts.core.ready()? else { return Ok(false) };
        self.rounds.extend(ready.round.map(|round| (round, sent)));
        if ready.round.is_some() {
            self.parts.standing.rounds(ready.round, None);
        }
        self.send(ready.send);
        if !ready.persist.is_empty() {
            self.persist(&ready.persist)?;
        }
        self.parts.core.persisted(ready.number);
        self.send(ready.send_after);
        if let Some(last) = ready.committed.last() {
            self.parts.standing.committed(last.index);
        }
        let mut members = ready.members.into_iter().peekable();
        for entry in ready.committed {
            let proposed = self.committed(&entry);
            let members = members.next_if(|(index, _)| *index == entry.index).map(|next| next.1);
            if let Some(members) = &members {
                // Other answers are needed now.
                self.parts.standing.drop_lease();
                self.rounds.clear();
                self.parts.standing.take_part(members.clone());
            }
            passed.committed.push(Committed { entry, members, proposed });
        }
        Ok(true)
    }

    fn send(&self, messages: Vec<Message>) {
        if let Some(outbound) = self.parts.outbound.as_ref().filter(|_| !messages.is_empty()) {
            outbound.send(messages);
        }
    }

    fn persist(&mut self, group: &Group) -> Result<(), FsError> {
        let begun = self.parts.clock.steady();
        self.parts.log.append(group)?;
        let now = self.parts.clock.steady();
        let took = now.saturating_sub(begun);
        self.parts.standing.pace.note(now, took);
        let bytes = group.entries.iter().map(|entry| entry.header.len() + entry.body.len());
        let bytes = bytes.sum::<usize>() as u64;
        self.appended += bytes;
        counter::LOG_SYNCS.add(1);
        counter::LOG_SYNC_TIME.add(took.as_micros() as u64);
        counter::LOG_ENTRIES.add(group.entries.len() as u64);
        counter::LOG_BYTES.add(bytes);
        if self.reign.is_none() {
            for entry in &group.entries {
                self.note_stamp(entry)?;
            }
        }
        Ok(())
    }

    /// Tells the proposer of a committed entry that it is durable.
    fn committed(&mut self, entry: &Entry) -> Option<Proposed> {
        let ours = self.reign == Some(entry.term)
            && self.pending.front().is_some_and(|pending| pending.index == entry.index);
        let Pending { stamp, durable, proposed, .. } =
            if ours { self.pending.pop_front()? } else { return None };
        durable(Ok(stamp));
        Some(proposed)
    }

    /// Everything that was proposed and is not known to be durable: its weight.
    pub(super) fn give_up(&mut self, why: &FsError) -> usize {
        let mut weight = 0;
        for pending in self.pending.drain(..) {
            weight += pending.proposed.weight;
            (pending.durable)(Err(why.clone()));
            (pending.proposed.applied)(Err(why.clone()));
        }
        weight
    }

    /// Says where this member stands, at the end of a pass.
    fn tell_standing(&mut self, passed: &mut Passed) {
        let Driver { parts, rounds, .. } = self;
        let DriverParts { core, standing, node, .. } = parts;
        let leadership =
            Leadership { term: core.term(), leader: core.leader(), here: core.is_leader() };
        if standing.lead(leadership, core.is_settled()) {
            passed.leadership = Some(leadership);
        }
        if core.members().decides_alone(*node) {
            if core.is_settled() && core.may_lease() {
                standing.extend_lease(FOREVER);
            }
        } else if let Some(round) = core.confirmed() {
            let mut sent = None;
            while rounds.front().is_some_and(|front| front.0 <= round) {
                sent = rounds.pop_front();
            }
            if let Some((_, sent)) = sent.filter(|_| core.may_lease()) {
                standing.extend_lease(sent + parts.lease);
            }
            standing.rounds(None, Some(round));
        }
        if core.members().has_peers(*node) {
            standing.follow(core.followers());
            let behind = core.take_behind();
            if let Some(outbound) = parts.outbound.as_ref().filter(|_| !behind.is_empty()) {
                behind.into_iter().for_each(|node| outbound.is_behind(node));
            }
        }
    }

    /// Lets go of the log's beginning, whose effects are durable in the table. Where there are other members, what was
    /// appended since the flush before the last one stays: who is a little behind then needs no table.
    pub(super) fn purge(&mut self, upto: LogIndex) {
        self.parts.core.applied(upto);
        let before = std::mem::replace(&mut self.purged, upto);
        let others = self.parts.core.members().has_peers(self.parts.node);
        self.parts.log.purge(if others { before } else { upto });
        self.appended = 0;
    }

    /// Entries up to `upto` are applied.
    pub(super) fn applied(&mut self, upto: LogIndex) {
        self.parts.core.applied(upto);
    }

    /// Stamps from now on are after `last`.
    pub(super) fn stamps_after(&mut self, last: Stamp) {
        self.logged = self.logged.max(last);
        self.stamper.after(last);
    }

    pub(super) fn log(&mut self) -> &mut Log {
        &mut self.parts.log
    }

    pub(super) fn health(&self) -> Option<String> {
        self.stamper.health()
    }
}

/// A lone voter leads until somebody else takes part.
const FOREVER: Duration = Duration::from_nanos(u64::MAX);

/// Work that puts nothing into the tree: its commitment says that its stamp has come.
pub(super) const NOTHING: Bytes = Bytes::new();
