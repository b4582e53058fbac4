//! How batches leave: closed under the lock, proposed in order by whoever holds the lane.
//!
//! `docs/decisions/0006-client-journal.md` has the states and their invariants. Not here: what became of a proposed batch
//! (`journal`).

use crate::meta::op::Batch;
use crate::meta::op::Op;
use crate::meta::op::Piece;
use crate::telemetry::counter::CLIENT_BATCHES;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::journal::Sent;
use crate::tsdb_client::local::ClosedBatch;
use crate::tsdb_client::local::Local;
use crate::tsdb_client::local::OpenBatch;
use crate::tsdb_client::pending::Pending;
use crate::tsdb_client::pending::Where;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::OP_PAYLOAD_BYTES_MAX;
use crate::wire::Proposal;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Contents that a thread of the mount packs itself for an fsync, or a direct change; more is left to the flusher.
const LIGHT_BYTES: u64 = 128 << 10;
/// A block of no more contents travels inside its op, whatever they are.
const TRAVELS_BYTES: usize = OP_PAYLOAD_BYTES_MAX / 2;

/// Batches that a call sends together.
const TOGETHER_MAX: usize = 8;

/// Who drives the lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Driver {
    /// A call, which must not wait for long: it leaves what is heavy, what is put on other nodes first, and a lane that is taken.
    Call,
    /// The flusher.
    Flusher,
}

/// The batch that is proposed next.
struct Next {
    seq: BatchSeq,
    bytes: u64,
    pending: Vec<Arc<Pending>>,
}

impl Core {
    /// Closes the open batch with everything written so far; the last closed batch's number.
    pub(super) fn close_open(&self, local: &mut Local) -> BatchSeq {
        self.seal_all(local);
        local.began = None;
        local.asked = false;
        let seq = local.open.seq;
        if local.open.ops.is_empty() {
            return BatchSeq(seq.0 - 1);
        }
        let batch = std::mem::replace(&mut local.open, OpenBatch::new(BatchSeq(seq.0 + 1)));
        let OpenBatch { seq, ops, by, bytes, pending } = batch;
        if !pending.is_empty() {
            local.named.push_back((seq, pending.iter().map(|block| block.id.number).collect()));
        }
        local.closed.push_back(ClosedBatch { seq, ops, by, bytes, pending, direct: None });
        seq
    }

    /// Everything that was written is in the open batch.
    pub(super) fn seal_all(&self, local: &mut Local) {
        for ino in std::mem::take(&mut local.dirty) {
            if let Err(error) = Change::sealing(self, local).seal(ino) {
                // Nothing can be missing here, and everything else was noted with the file.
                tracing::error!(%ino, %error, "sealing failed");
            }
        }
        self.finish_long_writes(local);
    }

    /// A file that has been written for long without a close gets a version; at the end, every file. Others' files get theirs
    /// with what is written to them.
    fn finish_long_writes(&self, local: &mut Local) {
        let now = self.clock.steady();
        let due = |since: Duration| {
            local.ended || now.saturating_sub(since) >= self.options.version_every
        };
        let since = |ino: &Ino| local.files.get(ino).and_then(|file| file.unfinished);
        let inos: Vec<Ino> = local
            .unfinished
            .iter()
            .copied()
            .filter(|ino| since(ino).is_none_or(due) && local.own.seals(*ino))
            .collect();
        for ino in inos {
            if let Err(error) = Change::sealing(self, local).finish(ino) {
                tracing::warn!(%ino, %error, "a version could not be made");
            }
            local.note_finished(ino);
        }
    }

    pub(super) fn close_if_full(&self, local: &mut Local) {
        if local.open.is_full(self.options.batch_bytes_max) {
            self.close_open(local);
            self.ask_flusher(local);
        }
    }

    /// Has the flusher send what is closed.
    pub(super) fn ask_flusher(&self, local: &mut Local) {
        if !local.closed.is_empty() || local.asked {
            local.flusher_asked = true;
            self.work.notify_one();
        }
    }

    /// Proposes what is closed and, where it was asked for, closes what is open. Looks again after letting the lane go: whoever
    /// asked while it was held has gone on.
    pub(super) fn drive(&self, driver: Driver) {
        loop {
            let lane = match driver {
                Driver::Flusher => self.lane.lock(),
                Driver::Call => match self.lane.try_lock() {
                    Some(lane) => lane,
                    None => return,
                },
            };
            match driver {
                // What a call did before, and what it does now, are mostly two batches.
                Driver::Call => {
                    let mut more = true;
                    while more {
                        self.server.together(&mut || more = self.propose_some(driver));
                    }
                }
                Driver::Flusher => while self.propose_some(driver) {},
            }
            drop(lane);
            let mut local = self.enter();
            if local.closed.is_empty() && !local.asked {
                return;
            }
            if driver == Driver::Call && !local.closed.is_empty() {
                local.flusher_asked = true;
                self.work.notify_one();
                return;
            }
        }
    }

    /// Whether there may be more. Bounded, as a call's go together and none is answered before they are sent.
    fn propose_some(&self, driver: Driver) -> bool {
        for _ in 0..TOGETHER_MAX {
            match self.next_batch(driver) {
                Some(next) => self.propose(next),
                None => return false,
            }
        }
        true
    }

    fn next_batch(&self, driver: Driver) -> Option<Next> {
        let mut local = self.enter();
        if local.closed.is_empty() && local.asked {
            self.close_open(&mut local);
        }
        let near = self.near;
        let light = local.closed.front().is_some_and(|batch| {
            let travels = |block: &Arc<Pending>| (block.len() as usize) <= TRAVELS_BYTES;
            batch.bytes <= LIGHT_BYTES && (near || batch.pending.iter().all(travels))
        });
        // Whoever may not wait does not wait for what came of a direct batch either, to send what stands behind it.
        let behind = self.journal.applied() < BatchSeq(self.last_direct.load(Relaxed));
        match driver {
            Driver::Call if !light || behind => None,
            _ => {
                let batch = local.closed.pop_front()?;
                let next =
                    Next { seq: batch.seq, bytes: batch.bytes, pending: batch.pending.clone() };
                // Before the lock is let go of: whoever looks for what is not applied misses nothing.
                self.leaving.lock().push_back(batch);
                Some(next)
            }
        }
    }

    /// Gives a batch to the server. The lane is held.
    fn propose(&self, next: Next) {
        let Next { seq, bytes, pending } = next;
        // Nothing goes behind a direct batch before it is known what came of it: of one batch only, the last, the store
        // remembers that, for whoever has to ask again.
        let before = BatchSeq(self.last_direct.load(Relaxed));
        if before > BatchSeq(0) {
            self.journal.await_answer(before);
        }
        let packed = match self.journal.check() {
            Ok(()) => self.pack(&pending),
            Err(lost) => Err(lost),
        };
        let taken = packed.map(|places| self.take_leaving(seq, &places));
        let (is_direct, proposal) = match taken {
            Ok(Some(taken)) => taken,
            failed => {
                self.journal.let_go(bytes);
                if let Err(error) = failed {
                    self.journal.lose(&error.to_string());
                }
                if !self.saves() {
                    self.leaving.lock().clear();
                }
                return;
            }
        };
        CLIENT_BATCHES.add(1);
        let (for_durable, for_applied) = (self.journal.clone(), self.journal.clone());
        self.server.propose(
            proposal,
            Box::new(move |result| for_durable.durable(seq, result)),
            Box::new(move |result| match is_direct {
                true => for_applied.answered(seq, bytes, result),
                false => for_applied.applied_one(seq, bytes, result),
            }),
        );
    }

    /// A batch as it goes to the server; whether it is a direct one. `None` where it was given up and somebody else has it.
    fn take_leaving(&self, seq: BatchSeq, places: &[Where]) -> Option<(bool, Proposal)> {
        let mut leaving = self.leaving.lock();
        let at = leaving.iter().position(|batch| batch.seq == seq)?;
        let ClosedBatch { mut ops, by, mut pending, direct, .. } = leaving.remove(at)?;
        let count = u32::try_from(ops.len()).expect("a batch has a bounded number of ops");
        let is_direct = direct.is_some();
        if is_direct {
            self.last_direct.store(seq.0, Relaxed);
        }
        place(&mut ops, &pending, places);
        let batch = Batch { session: self.session, seq, epoch: self.epoch, by, ops, direct };
        let batch = batch.encode();
        if self.saves() {
            let mut places = places.iter();
            pending.retain(|_| matches!(places.next(), Some(Where::Put)));
            // Still under the lock: at no moment it is in neither place.
            self.journal.keep(Sent { seq, batch: batch.clone(), pending });
        }
        Some((is_direct, Proposal { session: self.session, seq, ops: count, batch }))
    }

    /// Puts the contents of a batch where they go: small ones into frames for its ops, large ones to the server, durably.
    fn pack(&self, pending: &[Arc<Pending>]) -> Result<Vec<Where>, FsError> {
        let level = self.options.compression.level(self.pool.is_behind());
        let pack = |pending: &Arc<Pending>| pending.pack(&*self.server, level);
        let places = pending.iter().map(pack).collect::<Result<Vec<Where>, FsError>>()?;
        if places.iter().any(|place| matches!(place, Where::Put)) {
            self.server.sync_blocks()?;
        }
        Ok(places)
    }

    /// The flusher's life: closes batches at the end of their window, and drives the lane for others.
    pub(super) fn flush_until_stopped(&self) {
        loop {
            let mut local = self.enter();
            let now = self.clock.steady();
            let due = self.deadline(&local);
            if due.is_some_and(|due| due <= now) {
                local.asked = true;
                local.flusher_asked = true;
            }
            // A sync may have closed the batch that crowded a region: the flusher wakes at the batch's deadline all the same.
            if local.flusher_asked || !local.crowded.is_empty() {
                let asked = std::mem::take(&mut local.flusher_asked);
                drop(local);
                if asked {
                    self.drive(Driver::Flusher);
                }
                self.rewrite_crowded();
                if let Err(error) = self.refill_inos() {
                    tracing::warn!(%error, "no fresh inode numbers");
                }
                continue;
            }
            if local.stopped {
                return;
            }
            // Whoever begins a batch that is due earlier wakes it.
            local.flusher_wakes = due.unwrap_or(Duration::MAX);
            match due {
                Some(due) => drop(self.work.wait_for(&mut local, due.saturating_sub(now))),
                None => self.work.wait(&mut local),
            }
            local.flusher_wakes = Duration::ZERO;
        }
    }

    /// When the flusher has something to do.
    fn deadline(&self, local: &Local) -> Option<Duration> {
        let window = local.began.map(|began| began + self.options.window);
        let versions = local
            .unfinished
            .iter()
            .filter(|ino| local.own.seals(**ino))
            .filter_map(|ino| local.files.get(ino)?.unfinished)
            .min()
            .map(|since| since + self.options.version_every);
        window.into_iter().chain(versions).min()
    }
}

/// Puts the frames of small contents into the ops that name them.
fn place(ops: &mut [Op], pending: &[Arc<Pending>], places: &[Where]) {
    let mut next = pending.iter().zip(places);
    let pieces = ops.iter_mut().filter_map(|op| match op {
        Op::Write { pieces, .. } => Some(pieces),
        _ => None,
    });
    for piece in pieces.flatten() {
        let Piece::Block { block, len } = *piece else { continue };
        let (pending, place) = next.next().expect("each block of a batch is pending, in order");
        assert_eq!(pending.id, block, "contents belong to the piece that names them");
        if let Where::Here(frame) = place {
            *piece = Piece::Payload { block, frame: frame.clone(), len };
        }
    }
}
