//! Direct changes: those that touch what this client does not own.
//!
//! The rules run over rows asked of the leader; what they put stays apart, and goes as a batch of its own that is applied
//! only if those rows are still so. Until it is known what came of it nothing has changed here, so there is nothing to take
//! back: what a change does to this client's own state waits in [`Direct::after`]. One at a time, in the order of calls.
//!
//! Not here: what is sent when (`lane`), what the outcomes mean (`meta::apply`).

use crate::env;
use crate::meta::key;
use crate::meta::op::By;
use crate::meta::op::Op;
use crate::meta::op::Outcome;
use crate::meta::op::Seen;
use crate::meta::op::may_change;
use crate::telemetry::counter::CLIENT_AGAIN;
use crate::telemetry::counter::CLIENT_DIRECT;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::fresh::Fresh;
use crate::tsdb_client::lane::Driver;
use crate::tsdb_client::local::ClosedBatch;
use crate::tsdb_client::local::Local;
use crate::tsdb_client::local::OP_BYTES;
use crate::tsdb_client::local::OpenBatch;
use crate::tsdb_client::overlay::Overlay;
use crate::tsdb_client::own::inode_of;
use crate::tsdb_client::view::Fetch;
use crate::tsdb_client::view::Mode;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use bytes::Bytes;
use parking_lot::MutexGuard;
use std::collections::BTreeMap;
use std::collections::HashSet;
use std::time::Duration;

/// The first wait of those that contend, then twice that, up to the last.
const BACK_OFF_FIRST: Duration = Duration::from_micros(500);
const BACK_OFF_LAST: Duration = Duration::from_millis(50);
/// Whoever has lost against others for so long is told. Each time somebody else's change went through.
const CONTENDED_MAX: Duration = Duration::from_secs(120);

/// How often somebody who waits for another's change looks whether he is to wait.
const AWAY_LOOK_EVERY: Duration = Duration::from_millis(200);

type Effect = Box<dyn FnOnce(&mut Local) + Send>;

/// A direct change while its rules run.
pub(super) struct Direct {
    pub(super) batch: OpenBatch,
    /// What its ops put.
    pub(super) rows: Overlay,
    /// The rows of others that its rules read.
    pub(super) seen: BTreeMap<Bytes, Option<u64>>,
    /// Inodes of this client that it touches: no other change may, until it is known what came of it.
    pub(super) touched: HashSet<Ino>,
    /// What becomes of this client's own state once it is applied.
    pub(super) after: Vec<Effect>,
}

/// What came of a batch that was sent.
pub(super) enum Came {
    Applied(Stamp),
    /// To be tried again; this row as well is to be looked at.
    Again(Option<Bytes>),
}

/// A direct batch that is on its way, and what becomes of this client's own state when it is applied.
pub(super) struct Sent {
    seq: BatchSeq,
    rows: Overlay,
    after: Vec<Effect>,
}

impl Direct {
    pub(super) fn new() -> Direct {
        Direct {
            // Its number is that of the batch which is open when the rules have run.
            batch: OpenBatch::new(BatchSeq(0)),
            rows: Overlay::default(),
            seen: BTreeMap::new(),
            touched: HashSet::new(),
            after: Vec::new(),
        }
    }
}

impl Core {
    /// Runs a change that touches what others may use. `fresh` has rows that it is known to need.
    ///
    /// # Errors
    /// As for [`Core::change`]; `Unreachable`.
    pub(super) fn direct<T>(
        &self,
        uid: u32,
        mut fresh: Fresh,
        mut run: impl FnMut(&mut Change<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let mut back_off = BackOff::new(self);
        loop {
            // Let go of while others are waited for.
            let turn = self.one_direct()?;
            let mut local = self.enter_change()?;
            // What was done before goes before, bytes written to what it may rename included.
            self.close_open(&mut local);
            let mut direct = Direct::new();
            let mode = Mode::Direct(&mut fresh, &mut direct);
            let mut change = Change::new(self, &mut local, Fetch::Later, mode);
            change.by = uid;
            let result = run(&mut change);
            if let (Err(_), Some(missed)) = (&result, change.missed()) {
                let at = local.turn;
                self.ask_flusher(&mut local);
                drop((local, turn));
                self.obtain(missed, at, &mut fresh)?;
                continue;
            }
            let behind = change.torn || (change.saw_own && fresh.is_behind(local.directs));
            // What was guessed may be as wrong; where something is sent, that shows when it is applied.
            let decided = result.is_err() || direct.batch.ops.is_empty();
            if (result.is_err() && behind) || (decided && fresh.guesses()) {
                drop((local, turn));
                self.renew(&mut fresh, None)?;
                continue;
            }
            if result.is_err() || direct.batch.ops.is_empty() {
                if result.is_ok() {
                    direct.after.drain(..).for_each(|effect| effect(&mut local));
                }
                self.ask_flusher(&mut local);
                return result;
            }
            let came = self.send_direct(local, direct)?;
            drop(turn);
            match came {
                Came::Applied(_) => return result,
                Came::Again(more) => {
                    CLIENT_AGAIN.add(1);
                    back_off.wait()?;
                    self.renew(&mut fresh, more)?;
                }
            }
        }
    }

    /// Has ops applied that only the server can run, behind everything done before on this mount. They rest on no row seen
    /// here; what they change may be anybody's. The stamp of the last step.
    ///
    /// # Errors
    /// The op's, as `Refused`; `Lost`, `Unreachable`.
    pub(super) fn direct_at_server(&self, uid: u32, ops: &[Op]) -> Result<Stamp, FsError> {
        // Changes wait from the first attempt to the last, direct ones by this lock: only the server knows what is touched.
        let _turn = self.one_direct()?;
        let _frozen = self.freeze()?;
        let mut back_off = BackOff::new(self);
        loop {
            let mut local = self.enter();
            self.close_open(&mut local);
            let mut direct = Direct::new();
            direct.batch.ops = ops.to_vec();
            direct.batch.by = vec![By { uid, ops: ops.len() as u32 }];
            direct.batch.bytes = OP_BYTES * ops.len() as u64;
            let mut came = self.send_direct(local, direct);
            // Nothing may go on before it is known what it touched, whoever is to wait for how long.
            while matches!(came, Err(FsError::Unreachable(_))) {
                self.pause(AWAY_LOOK_EVERY);
                if self.enter().ended {
                    break;
                }
                let Some(left) = self.enter().left.take() else { break };
                came = self.settle_direct(left);
            }
            match came {
                Ok(Came::Applied(stamp)) => {
                    self.rows.clear();
                    return Ok(stamp);
                }
                Ok(Came::Again(more)) => {
                    back_off.wait()?;
                    // Whoever has it is asked for it.
                    self.renew(&mut Fresh::default(), more)?;
                }
                Err(error @ (FsError::Lost(_) | FsError::Closing | FsError::Unreachable(_))) => {
                    return Err(error);
                }
                Err(error) => return Err(FsError::Refused(error.to_string())),
            }
        }
    }

    /// The right to make a direct change, once nobody else makes one and it is known what came of the last.
    ///
    /// # Errors
    /// `Unreachable` where nobody is to wait for it any longer.
    pub(super) fn one_direct(&self) -> Result<MutexGuard<'_, ()>, FsError> {
        let turn = loop {
            if let Some(turn) = self.one_direct.try_lock_for(AWAY_LOOK_EVERY) {
                break turn;
            }
            self.journal.may_wait()?;
        };
        let left = self.enter().left.take();
        if let Some(left) = left {
            // Whoever made it was told that nobody knows.
            if let Err(error @ FsError::Unreachable(_)) = self.settle_direct(left) {
                return Err(error);
            }
        }
        Ok(turn)
    }

    /// Sends a direct batch behind what is closed, and waits for what comes of it.
    ///
    /// # Errors
    /// The op's; `Lost`; `Unreachable` where nobody is to wait any longer: it may be applied yet.
    pub(super) fn send_direct(
        &self,
        mut local: MutexGuard<'_, Local>,
        direct: Direct,
    ) -> Result<Came, FsError> {
        let Direct { batch, rows, seen, touched, after } = direct;
        let seq = local.open.seq;
        local.open = OpenBatch::new(BatchSeq(seq.0 + 1));
        local.own.set_busy(touched);
        let changed = may_change(&batch.ops, seen.keys().map(|key| &key[..]));
        // What only the server can run has put no rows here.
        local.copies.begin(changed, !seen.is_empty());
        self.journal.hold(batch.bytes);
        let OpenBatch { ops, by, bytes, pending, .. } = batch;
        let seen = seen.into_iter().map(|(key, value)| Seen { key, value }).collect();
        local.closed.push_back(ClosedBatch { seq, ops, by, bytes, pending, direct: Some(seen) });
        CLIENT_DIRECT.add(1);
        drop(local);
        // What is heavy is left to the flusher: it may have to be waited for without a bound.
        self.drive(Driver::Call);
        self.settle_direct(Sent { seq, rows, after })
    }

    /// Waits for what comes of a direct batch, and does what follows from it here. Where that takes too long, whoever makes the next
    /// one waits first.
    fn settle_direct(&self, sent: Sent) -> Result<Came, FsError> {
        let outcome = self.journal.answer(sent.seq);
        // What lies below this batch has sunk by now: its rows are the newest.
        let mut local = self.enter();
        if let Err(error @ FsError::Unreachable(_)) = outcome {
            local.left = Some(sent);
            return Err(error);
        }
        let Sent { mut rows, after, .. } = sent;
        local.turn += 1;
        local.directs += 1;
        local.own.clear_busy();
        local.relocking = None;
        local.releasing.clear();
        if !matches!(outcome, Ok((Outcome::Applied | Outcome::Repeated, _))) {
            local.copies.settle(None);
        }
        match outcome? {
            (Outcome::Applied | Outcome::Repeated, stamp) => {
                let (now, mut of_others) = (self.clock.steady(), Vec::new());
                rows.demote(BatchSeq(0), |key, value| {
                    match inode_of(&key).is_some_and(|ino| local.own.keeps(ino)) {
                        true => self.rows.put(key, value),
                        false => {
                            local.hints.note(key.clone(), value.clone(), now);
                            of_others.push((key, value));
                        }
                    }
                });
                local.copies.settle(Some(of_others));
                after.into_iter().for_each(|effect| effect(&mut local));
                Ok(Came::Applied(stamp))
            }
            (Outcome::Conflict, _) => Ok(Came::Again(None)),
            (Outcome::Held(ino), _) => {
                Ok(Came::Again(Some(Bytes::copy_from_slice(&key::inode(ino)))))
            }
            (Outcome::Refused { error, .. }, _) => Err(error),
            (Outcome::Early, _) => unreachable!("the journal takes that for a loss"),
        }
    }
}

/// Waits between attempts, longer and longer, each by chance: those that contend do not meet again.
pub(super) struct BackOff<'a> {
    core: &'a Core,
    until: Duration,
    most: Option<Duration>,
}

impl<'a> BackOff<'a> {
    pub(super) fn new(core: &'a Core) -> BackOff<'a> {
        BackOff { core, until: core.clock.steady() + CONTENDED_MAX, most: None }
    }

    /// # Errors
    /// Where it has taken too long.
    pub(super) fn wait(&mut self) -> Result<(), FsError> {
        if self.core.clock.steady() >= self.until {
            let why = "others changed the same files all the time; try again".to_owned();
            return Err(FsError::Unreachable(why));
        }
        // The first time nobody is in a race yet.
        let Some(most) = self.most else {
            self.most = Some(BACK_OFF_FIRST);
            return Ok(());
        };
        let chance = u64::from_le_bytes(env::random()) % most.as_nanos() as u64;
        self.core.pause(Duration::from_nanos(chance));
        self.most = Some((most * 2).min(BACK_OFF_LAST));
        Ok(())
    }
}
