//! One member of the replicated log with its table: what is proposed becomes durable, then applied.
//!
//! `docs/decisions/0004-whoever-has-work-drives-the-log.md` has the states, the lock order and the invariants,
//! `0011-several-members.md` what is added by other members. Three threads help: one applies, one keeps the log's files and
//! the table's flushes in step, one drives when a proposer has driven enough for others; a fourth counts time where there
//! are other members. Not here: what is read (`node`), how messages travel, and when the background work of a store is
//! done (`task`).

mod apply;
mod clock;
mod drive;
mod inbox;
mod keep;
mod pace;
mod peers;
mod queue;
mod standing;
pub mod stepped;
#[cfg(test)]
mod tests;

pub use apply::Progress;
pub(in crate::tsdb_server) use apply::placement;
pub use apply::received;
pub use peers::Outbound;
pub use standing::CLOCK_DRIFT_PARTS;
pub use standing::Leadership;

use crate::env::Clock;
use crate::meta::op::Outcome;
use crate::series::Groups;
use crate::series::Readable;
use crate::series::table::Table;
use crate::store::block::BlockStore;
use crate::store::log::Log;
use crate::telemetry::counter;
use crate::tsdb_log::core;
use crate::tsdb_log::core::Core;
use crate::tsdb_log::core::Follower;
use crate::tsdb_log::header::Body;
use crate::tsdb_log::store::LogStore;
use crate::tsdb_server::replica::apply::Applier;
use crate::tsdb_server::replica::apply::Seen;
use crate::tsdb_server::replica::drive::Driver;
use crate::tsdb_server::replica::drive::DriverParts;
use crate::tsdb_server::replica::drive::Passed;
use crate::tsdb_server::replica::inbox::Inbox;
use crate::tsdb_server::replica::inbox::Next;
use crate::tsdb_server::replica::inbox::Taken;
use crate::tsdb_server::replica::inbox::Work;
use crate::tsdb_server::replica::keep::Signal;
use crate::tsdb_server::replica::peers::Ticks;
use crate::tsdb_server::replica::peers::Watcher;
use crate::tsdb_server::replica::queue::Committed;
use crate::tsdb_server::replica::queue::Queue;
use crate::tsdb_server::replica::queue::Task;
use crate::tsdb_server::replica::standing::Standing;
use crate::tsdb_server::room::Room;
use crate::tsdb_server::turns::Turns;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::placement::Placement;
use crate::wire::Applied;
use crate::wire::Durable;
use crate::wire::Proposal;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use parking_lot::MutexGuard;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

/// Passes that a proposer makes for others before it hands the right on.
const PASSES_MAX: usize = 8;
/// Why a store is not taken up on a disk without room for the rows of what its log still has.
const TOO_FULL: &str = "its disk is too full to take up its log; nothing is lost: make room on the disk, then mount again";
/// Which keys are listed together, as the series want to know it.
pub const GROUPS: Groups = apply::GROUPS;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub node: NodeId,
    /// Bytes appended to the log between two flushes of the table: what a start replays at most, roughly.
    pub log_bytes_max: u64,
    /// Bytes that one batch may have; fewer where the log's segments are small.
    pub batch_bytes_max: usize,
    /// How time is counted where there are other members. The same on all of them: leases rest on it.
    pub tick: Duration,
    /// Ticks without a sign of the leader before anybody stands for election; up to twice as many.
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    /// Chance, to be another one on each member: who stands for election when.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            node: NodeId(1),
            log_bytes_max: 128 << 20,
            batch_bytes_max: 12 << 20,
            tick: Duration::from_millis(50),
            election_ticks: 10,
            heartbeat_ticks: 2,
            seed: 1,
        }
    }
}

impl Options {
    fn core(&self) -> core::Options {
        let Options { node, election_ticks, heartbeat_ticks, seed, .. } = *self;
        core::Options { node, election_ticks, heartbeat_ticks, seed }
    }
}

/// What a replica is made of: all of it opened, and nothing of it in use by anybody else.
pub struct Parts {
    pub table: Arc<dyn Table>,
    pub log: Log,
    pub blocks: Arc<BlockStore>,
    pub clock: Arc<dyn Clock>,
    pub room: Arc<Room>,
    /// The way to the other members; none where there never are any.
    pub outbound: Option<Arc<dyn Outbound>>,
}

struct Shared {
    options: Options,
    clock: Arc<dyn Clock>,
    table: Arc<dyn Table>,
    blocks: Arc<BlockStore>,
    room: Arc<Room>,
    seen: Arc<Seen>,
    standing: Arc<Standing>,
    inbox: Inbox,
    driver: Mutex<Driver>,
    queue: Queue,
    keep: Signal,
    ticks: Ticks,
    watchers: Mutex<Vec<Watcher>>,
    flushing: Mutex<()>,
    /// Behind which entry others need the log.
    needed: OnceLock<Needed>,
    /// Why nothing is done any more.
    stopped: Mutex<Option<FsError>>,
    /// Told when an errand on the applier's thread is done.
    errand_done: Condvar,
    errands: Mutex<Errands>,
}

/// Says behind which entry the log is to be kept, whatever the table has.
type Needed = Box<dyn Fn(&[Follower]) -> Option<LogIndex> + Send + Sync>;

/// Work for the applier that is not in the log.
#[derive(Default)]
struct Errands {
    asked: u64,
    done: u64,
    /// The blocks of ended sessions are to be swept.
    sweep: bool,
}

/// See the module's text. Dropping it stops it as a power cut would; [`Replica::close`] stops it in order.
pub struct Replica {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Replica {
    /// Takes up the log where the table left off. Returns when everything that is known to be committed is applied; a lone
    /// voter leads then, and knows all.
    ///
    /// # Errors
    /// `Damaged` where log and table do not fit together or an entry cannot be applied; `NotSupported` where the log has
    /// other members and there is no way to them; `NoSpace`, `Io`.
    pub fn open(parts: Parts, options: Options) -> Result<Replica, FsError> {
        let batch_bytes_max = options.batch_bytes_max.min(parts.log.batch_bytes_max());
        let options = Options { batch_bytes_max, ..options };
        let linked = parts.outbound.is_some();
        let (table, blocks, room) = (parts.table.clone(), parts.blocks.clone(), parts.room.clone());
        let clock = parts.clock.clone();
        let Opened { driver, mut applier, seen, standing } = Opened::new(parts, &options)?;
        room.open();
        let shared = Arc::new(Shared {
            options,
            clock,
            table,
            blocks,
            room,
            seen,
            standing,
            inbox: Inbox::new(),
            driver: Mutex::new(driver),
            queue: Queue::new(),
            keep: Signal::default(),
            ticks: Ticks::default(),
            watchers: Mutex::default(),
            flushing: Mutex::new(()),
            needed: OnceLock::new(),
            stopped: Mutex::new(None),
            errand_done: Condvar::new(),
            errands: Mutex::default(),
        });
        let replica = Replica { shared, threads: Mutex::default() };
        replica.start("apply", move |shared| shared.apply(&mut applier))?;
        replica.start("drive", |shared| shared.drive_for_others())?;
        replica.start("keep-log", |shared| shared.keep())?;
        if linked {
            replica.start("tick", |shared| shared.count_time())?;
        }
        Ok(replica)
    }

    fn start(
        &self,
        name: &'static str,
        run: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<(), FsError> {
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // A panic is a broken rule: what the replica would do next cannot be trusted.
            if catch_unwind(AssertUnwindSafe(|| run(&shared))).is_err() {
                shared.stop(&FsError::Io(format!("the thread '{name}' broke down")));
            }
        });
        let thread = thread.map_err(|error| FsError::io(format!("start thread {name}"), &error))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Puts a batch into the log; `wire::Server::propose` has the promises. The calling thread may be used to write the log, and
    /// waits where too much is not yet applied.
    pub fn propose(&self, proposal: Proposal, durable: Durable, applied: Applied) {
        self.put(Work::batch(proposal, durable, applied, false));
    }

    /// The same, where somebody waits for it to be applied. Nothing is written before [`Replica::nudge`], which is to follow
    /// soon: what is proposed together is synced together.
    pub fn propose_awaited(&self, proposal: Proposal, applied: Applied) {
        let work = Work::batch(proposal, Box::new(|_| {}), applied, true);
        if work.bytes.len() > self.shared.options.batch_bytes_max {
            return self.put(work);
        }
        if let Err(work) = self.shared.inbox.put_by(work) {
            // Room comes of what is there already.
            self.nudge();
            self.put(work);
        }
    }

    /// Drives the log for what was proposed and nobody drives for.
    pub fn nudge(&self) {
        if self.shared.inbox.claim() {
            self.shared.drive();
        }
    }

    /// Puts a batch into the log and waits until it is applied.
    ///
    /// # Errors
    /// `Io`, `NoSpace`, `Closing`.
    pub fn apply(&self, proposal: Proposal) -> Result<(Outcome, Stamp), FsError> {
        let Proposal { session, seq, ops, batch } = proposal;
        self.wait_for(Body::Batch, session, seq, ops, batch)
    }

    /// Commits and applies an entry without contents: its stamp is after everything proposed before, and not before the
    /// present.
    ///
    /// # Errors
    /// `Io`, `Closing`.
    pub fn barrier(&self) -> Result<Stamp, FsError> {
        let nobody = (SessionId(0), BatchSeq(0));
        self.wait_for(Body::Empty, nobody.0, nobody.1, 1, drive::NOTHING).map(|(_, stamp)| stamp)
    }

    fn wait_for(
        &self,
        body: Body,
        session: SessionId,
        seq: BatchSeq,
        stamps: u32,
        bytes: Bytes,
    ) -> Result<(Outcome, Stamp), FsError> {
        let (tell, told) = mpsc::sync_channel(1);
        let applied: Applied = Box::new(move |result| {
            // Whoever asked is there until told.
            let _ = tell.send(result);
        });
        let durable: Durable = Box::new(|_| {});
        self.put(Work { body, session, seq, stamps, bytes, durable, applied, urgent: true });
        told.recv().unwrap_or(Err(FsError::Closing))
    }

    fn put(&self, work: Work) {
        if work.bytes.len() > self.shared.options.batch_bytes_max {
            let why = FsError::Invalid("the batch is larger than the log takes at once");
            return work.refuse(&why);
        }
        match self.shared.inbox.put(work) {
            Next::Drive => self.shared.drive(),
            Next::Leave => {}
            Next::Refused(work, why) => work.refuse(&why),
        }
    }

    /// The log is let go of only up to what `needed` says, where it says something; it is told how far the others are. Not
    /// where room is short: then nothing is kept for them. The first call counts.
    pub fn keep_log_behind(
        &self,
        needed: impl Fn(&[Follower]) -> Option<LogIndex> + Send + Sync + 'static,
    ) {
        let _ = self.shared.needed.set(Box::new(needed));
    }

    /// The last entry of the log that is on this member's disk.
    pub fn last(&self) -> LogIndex {
        self.shared.driver.lock().log().reader().last()
    }

    /// How long this member's disk takes of late for what is appended to the log together; `None` where nothing much is.
    pub fn pace(&self) -> Option<Duration> {
        self.shared.standing.pace.typical(self.shared.clock.steady())
    }

    /// How far the table is.
    pub fn progress(&self) -> Progress {
        *self.shared.seen.progress.lock()
    }

    /// Which nodes keep which blocks, as of what is applied.
    pub fn placement(&self) -> Arc<Placement> {
        self.shared.seen.placement.read().clone()
    }

    /// Which instants can be read. To be asked after a snapshot of the table was taken: then nothing is shown that purge has
    /// begun to take.
    pub fn readable(&self) -> Arc<Readable> {
        self.shared.seen.readable.read().clone()
    }

    /// Counts what was applied that bears on who owns what.
    pub fn owned(&self) -> Arc<Turns> {
        self.shared.seen.owned.clone()
    }

    /// Counts what was applied that may have taken locks on files away.
    pub fn locked(&self) -> Arc<Turns> {
        self.shared.seen.locked.clone()
    }

    /// Why nothing changes any more; `None` while all is well.
    pub fn stopped(&self) -> Option<FsError> {
        self.shared.stopped.lock().clone()
    }

    /// A sentence for each thing that is not as it should be.
    pub fn health(&self) -> Vec<String> {
        let stopped = self.stopped().map(|why| format!("the store takes no more changes: {why}"));
        let clock = self.shared.driver.lock().health();
        let full = self.shared.room.trouble().or(self.shared.keep.trouble());
        stopped.into_iter().chain(clock).chain(full).collect()
    }

    /// Bytes of the log's files.
    pub fn log_bytes(&self) -> u64 {
        self.shared.driver.lock().log().bytes()
    }

    /// Has the rows written that the block store wants written, after blocks were rewritten. Waits.
    ///
    /// # Errors
    /// `Io`, `Damaged`, `Closing`.
    pub fn upkeep(&self) -> Result<(), FsError> {
        self.shared.errand(false)
    }

    /// Drops the blocks that no op named, of sessions that have ended. Waits.
    ///
    /// # Errors
    /// `Io`, `Damaged`, `Closing`.
    pub fn sweep(&self) -> Result<(), FsError> {
        self.shared.errand(true)
    }

    /// Makes the table durable and lets go of the log behind it. Waits.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn flush(&self) -> Result<(), FsError> {
        self.shared.flush()
    }

    /// Takes nothing more, finishes what was taken, flushes. A store closed so has nothing to replay.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; the log then still has everything.
    pub fn close(&self) -> Result<(), FsError> {
        self.end(FsError::Closing);
        if let Some(why) = self.stopped() {
            return Err(why);
        }
        self.shared.flush()?;
        self.shared.driver.lock().log().settle()
    }

    fn end(&self, why: FsError) {
        self.shared.inbox.close(why);
        self.shared.room.close();
        // Whoever proposed and has not come to that.
        self.nudge();
        // Behind whoever drives, so that nothing comes to the queue any more.
        self.shared.inbox.wait_until_free();
        // What only other members could still make durable. The next leader finds it in the log, or nobody does.
        let lost = self.shared.driver.lock().give_up(&FsError::Closing);
        if lost > 0 {
            self.shared.inbox.done(lost);
        }
        self.shared.standing.end();
        self.shared.queue.close();
        self.shared.keep.close();
        self.shared.ticks.close();
        for thread in self.threads.lock().drain(..) {
            // A callback may be what drops the last of a replica: its thread ends behind it.
            if thread.thread().id() != thread::current().id() {
                // Each catches its panics and tells.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.end(FsError::Closing);
    }
}

/// A member that was opened, and has applied what it knows to be committed.
struct Opened {
    driver: Driver,
    applier: Applier,
    seen: Arc<Seen>,
    standing: Arc<Standing>,
}

impl Opened {
    fn new(parts: Parts, options: &Options) -> Result<Opened, FsError> {
        let Parts { table, log, blocks, clock, room, outbound } = parts;
        let seen = Arc::new(Seen::read(&*table)?);
        let standing = Arc::new(Standing::default());
        let progress = *seen.progress.lock();
        let members = apply::members_or(&*table, &log.members())?;
        if outbound.is_none() && !members.decides_alone(options.node) {
            return Err(FsError::NotSupported(
                "this store belongs to several nodes; start it with 'tsfs node' and mount from there",
            ));
        }
        let (hard, reader) = (log.hard_state(), log.reader());
        let core = Core::open(options.core(), hard, &members, reader, progress.index)?;
        let mut driver = Driver::new(DriverParts {
            core,
            log,
            clock,
            last: progress.stamp,
            node: options.node,
            lease: standing::lease(options.tick, options.election_ticks),
            standing: standing.clone(),
            outbound,
        });
        let mut applier = Applier::new(table, blocks, room, seen.clone(), options.node);
        replay(&mut driver, &mut applier, &seen).map_err(|error| match error {
            FsError::NoSpace => FsError::Io(TOO_FULL.to_owned()),
            other => other,
        })?;
        Ok(Opened { driver, applier, seen, standing })
    }
}

/// Applies everything that is committed beyond the table, and what electing oneself adds: a page at a time.
fn replay(driver: &mut Driver, applier: &mut Applier, seen: &Seen) -> Result<(), FsError> {
    let mut passed = Passed::default();
    let mut catch_up = |driver: &mut Driver| -> Result<(), FsError> {
        while driver.carry_on(&mut passed)? {
            for committed in std::mem::take(&mut passed.committed) {
                applier.apply(&committed.entry, committed.members.as_ref())?;
            }
            driver.applied(seen.progress.lock().index);
        }
        driver.stamps_after(seen.progress.lock().stamp);
        Ok(())
    };
    catch_up(driver)?;
    if driver.lead_or_listen()? {
        catch_up(driver)?;
    }
    // Who leads is known now; nobody waits for anything yet.
    driver.pass(Taken::default(), seen.progress.lock().index, false, &mut Passed::default())
}

impl Shared {
    /// Makes passes while there is work. The caller has the right.
    fn drive(&self) {
        self.holding(|| {
            for _ in 0..PASSES_MAX {
                let taken = self.inbox.take();
                if taken.is_empty() {
                    return;
                }
                self.pass(taken);
            }
            self.inbox.hand_on();
        });
    }

    fn drive_for_others(&self) {
        while self.inbox.wait_for_right() {
            self.holding(|| {
                loop {
                    let taken = self.inbox.take();
                    if taken.is_empty() {
                        return;
                    }
                    self.pass(taken);
                }
            });
        }
    }

    /// Drives. A panic must not leave the right with nobody: then everybody would wait for ever.
    fn holding(&self, drive: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(drive)) {
            let why = FsError::Io("whoever drove the log broke down".to_owned());
            self.stop(&why);
            self.refuse(self.inbox.abandon().into_iter().map(|work| (work, why.clone())));
            resume_unwind(panic);
        }
    }

    fn pass(&self, taken: Taken) {
        let applied = self.seen.progress.lock().index;
        let mut passed = Passed::default();
        let mut driver = match self.driver_with_room(&taken) {
            Ok(driver) => driver,
            Err(why) => {
                return self.refuse(taken.work.into_iter().map(|work| (work, why.clone())));
            }
        };
        let result = driver.pass(taken, applied, self.queue.is_full(), &mut passed);
        let due = driver.appended >= self.options.log_bytes_max || driver.log().wants_keeping();
        drop(driver);
        if !passed.committed.is_empty() {
            self.let_down(self.queue.put(passed.committed));
        }
        if passed.lost > 0 {
            self.inbox.done(passed.lost);
        }
        self.refuse(passed.refused);
        if let Some(leadership) = passed.leadership {
            self.tell_watchers(leadership);
        }
        passed.answers.into_iter().for_each(|answer| answer());
        match result {
            Ok(()) => self.keep.written(due),
            Err(why) => self.stop(&why),
        }
    }

    /// The driver, with room in the log for this work. On a full disk, room is what the table has made durable; where it
    /// cannot be made durable either, this waits: whoever proposed the work cannot take it back.
    fn driver_with_room(&self, taken: &Taken) -> Result<MutexGuard<'_, Driver>, FsError> {
        let bytes = taken.weight();
        let with_room = || {
            let mut driver = self.driver()?;
            driver.log().make_room(bytes as u64).map(|()| driver)
        };
        self.room.until(|| match with_room() {
            Err(FsError::NoSpace) => {
                self.errand(false)?;
                self.flush()?;
                with_room()
            }
            other => other,
        })
    }

    /// Whether all is well is asked under the lock: whoever stops the replica gives up what it finds there.
    fn driver(&self) -> Result<MutexGuard<'_, Driver>, FsError> {
        let driver = self.driver.lock();
        match self.stopped.lock().clone() {
            Some(why) => Err(why),
            None => Ok(driver),
        }
    }

    fn refuse(&self, refused: impl IntoIterator<Item = (Work, FsError)>) {
        for (work, why) in refused {
            self.inbox.done(work.weight());
            work.refuse(&why);
        }
    }

    /// Nothing is done any more. What waits is told.
    fn stop(&self, why: &FsError) {
        let mut driver = self.driver.lock();
        {
            let mut stopped = self.stopped.lock();
            if stopped.is_none() {
                tracing::error!(error = %why, "the store takes no more changes");
                *stopped = Some(why.clone());
            }
        }
        let weight = driver.give_up(why);
        drop(driver);
        self.standing.end();
        self.inbox.done(weight);
        self.inbox.close(why.clone());
        self.let_down(self.queue.abandon());
        // Whoever waits has looked whether all is well under this lock: none misses what follows.
        drop(self.errands.lock());
        self.errand_done.notify_all();
        drop(self.seen.progress.lock());
        self.seen.moved.notify_all();
    }

    /// Tells those whose entries are committed and will not be applied before the store is opened again.
    fn let_down(&self, committed: Vec<Committed>) {
        committed.iter().for_each(|committed| self.queue.done(committed));
        for proposed in committed.into_iter().filter_map(|committed| committed.proposed) {
            let why = self.stopped.lock().clone().unwrap_or(FsError::Closing);
            self.inbox.done(proposed.weight);
            (proposed.applied)(Err(why));
        }
    }

    fn apply(&self, applier: &mut Applier) {
        loop {
            match self.queue.next() {
                Task::Apply(committed) => {
                    for committed in committed {
                        self.apply_one(applier, committed);
                    }
                }
                Task::Errand => self.run_errand(applier),
                Task::End => return,
            }
        }
    }

    fn apply_one(&self, applier: &mut Applier, committed: Committed) {
        // Not asked inside the match: applying may wait long, and whoever asks meanwhile must not.
        let stopped = self.stopped.lock().clone();
        let result = match stopped {
            Some(why) => Err(why),
            None => applier.apply(&committed.entry, committed.members.as_ref()),
        };
        if let Err(why) = &result {
            self.stop(why);
        }
        self.queue.done(&committed);
        if let Some(proposed) = committed.proposed {
            self.inbox.done(proposed.weight);
            (proposed.applied)(result);
        }
    }

    /// Waits until the applier has applied what is committed, and done what is to be done on its thread.
    fn errand(&self, sweep: bool) -> Result<(), FsError> {
        let mut errands = self.errands.lock();
        errands.asked += 1;
        errands.sweep |= sweep;
        let mine = errands.asked;
        if !self.queue.errand() {
            return Err(FsError::Closing);
        }
        while errands.done < mine {
            if let Some(why) = self.stopped.lock().clone() {
                return Err(why);
            }
            self.errand_done.wait(&mut errands);
        }
        Ok(())
    }

    fn run_errand(&self, applier: &mut Applier) {
        let (asked, sweep) = {
            let mut errands = self.errands.lock();
            (errands.asked, std::mem::take(&mut errands.sweep))
        };
        let swept = if sweep { applier.sweep() } else { Ok(()) };
        match swept.and_then(|()| applier.upkeep()) {
            Ok(()) => self.errands.lock().done = asked,
            Err(why) => self.stop(&why),
        }
        self.errand_done.notify_all();
    }

    /// Makes the table durable; then the log up to what was applied before is not needed any more.
    fn flush(&self) -> Result<(), FsError> {
        let _one_at_a_time = self.flushing.lock();
        let applied = self.seen.progress.lock().index;
        let retired = self.blocks.retired();
        self.table.flush()?;
        counter::TABLE_FLUSHES.add(1);
        let keeper = {
            let followers = self.standing.followers();
            let needed = self.needed.get().filter(|_| self.room.trouble().is_none());
            let needed = needed.and_then(|needed| needed(&followers));
            let mut driver = self.driver.lock();
            driver.purge(needed.map_or(applied, |needed| needed.min(applied)));
            driver.log().keeper()
        };
        self.blocks.remove(retired)?;
        keeper.recycle()
    }
}
