//! How far the batches have come: proposed ones become durable, then applied, or everything is lost from one on.
//!
//! The server's callbacks end here, on whatever thread: they take this module's lock only and wait for nothing. Not here:
//! what is in a batch and when it is proposed (`lane`).

use crate::meta::op::Outcome;
use crate::tsdb_client::Synced;
use crate::tsdb_client::pending::Pending;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::Stamp;
use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

/// What later syncs answer on a file that was told of a loss: nothing of this session can become durable any more.
const STOPPED: &str = "the store stopped after a failure; unmount, look at its log, mount again";

/// What was sent behind it can mean nothing any more.
const MISSING: &str = "an earlier change was refused, or did not reach the store";

/// Whether an open file was told of a loss.
pub(super) type Told = Arc<AtomicBool>;

/// A sync that waits for a batch.
pub(super) struct Waiter {
    pub(super) told: Option<Told>,
    pub(super) then: Synced,
}

impl Waiter {
    fn answer(self, lost: Option<&str>) {
        let result = match lost {
            None => Ok(()),
            Some(why) => Err(loss(self.told.as_ref(), why)),
        };
        (self.then)(result);
    }
}

/// The error of a loss, for an open file: the loss itself the first time.
pub(super) fn loss(told: Option<&Told>, why: &str) -> FsError {
    match told {
        Some(told) if told.swap(true, AcqRel) => FsError::Io(STOPPED.to_owned()),
        _ => FsError::Lost(why.to_owned()),
    }
}

/// A batch that was proposed and is not known to be applied, for whoever has to save it.
pub(super) struct Sent {
    pub(super) seq: BatchSeq,
    /// As it was proposed: whoever proposed it holds the same bytes.
    pub(super) batch: Bytes,
    /// The contents that it names and does not carry.
    pub(super) pending: Vec<Arc<Pending>>,
}

#[derive(Default)]
struct Progress {
    durable: BatchSeq,
    applied: BatchSeq,
    /// Why, from the first loss on.
    lost: Option<String>,
    /// Why nobody is to wait now; it may all become durable yet.
    away: Option<String>,
    waiters: BTreeMap<BatchSeq, Vec<Waiter>>,
    /// Called when a batch is applied, or it is known that it never will be.
    settled: BTreeMap<BatchSeq, Vec<Settled>>,
    /// What came of the last direct batch.
    answer: Option<(BatchSeq, Outcome, Stamp)>,
    /// In order.
    sent: VecDeque<Sent>,
    /// Nothing is lost any more: the client has closed.
    finished: bool,
}

impl Progress {
    fn may_wait(&self) -> Result<(), FsError> {
        self.away.clone().map_or(Ok(()), |why| Err(FsError::Unreachable(why)))
    }

    /// Everything up to this batch is durable: those who waited for that.
    fn durable(&mut self, seq: BatchSeq) -> Vec<Waiter> {
        self.durable = self.durable.max(seq);
        if self.waiters.is_empty() {
            return Vec::new();
        }
        let later = self.waiters.split_off(&BatchSeq(self.durable.0 + 1));
        std::mem::replace(&mut self.waiters, later).into_values().flatten().collect()
    }
}

/// Must not wait.
type Settled = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Journal {
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Who waits for a loss waits here: it is seldom, and everything else is often.
    over: Condvar,
    /// As in `progress`, for those who only want to know whether something happened.
    applied: AtomicU64,
    lost: AtomicBool,
    /// Bytes of changes that are written and not applied.
    held: AtomicU64,
}

impl Journal {
    /// The last batch that the server shows.
    pub(super) fn applied(&self) -> BatchSeq {
        BatchSeq(self.applied.load(Acquire))
    }

    pub(super) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    pub(super) fn hold(&self, bytes: u64) {
        self.held.fetch_add(bytes, Relaxed);
    }

    pub(super) fn let_go(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Relaxed);
    }

    /// # Errors
    /// `Lost` once something is.
    pub(super) fn check(&self) -> Result<(), FsError> {
        if !self.lost.load(Acquire) {
            return Ok(());
        }
        Err(FsError::Lost(self.lost().unwrap_or_default()))
    }

    /// Why everything from some batch on is lost, if it is.
    pub(super) fn lost(&self) -> Option<String> {
        self.progress.lock().lost.clone()
    }

    /// Answers `waiter` once batch `seq` is durable or lost; at once if it is.
    pub(super) fn when_durable(&self, seq: BatchSeq, waiter: Waiter) {
        let mut progress = self.progress.lock();
        if progress.durable < seq && progress.lost.is_none() {
            match progress.away.clone() {
                None => progress.waiters.entry(seq).or_default().push(waiter),
                Some(why) => {
                    drop(progress);
                    (waiter.then)(Err(FsError::Unreachable(why)));
                }
            }
            return;
        }
        let lost = progress.lost.clone().filter(|_| progress.durable < seq);
        drop(progress);
        waiter.answer(lost.as_deref());
    }

    /// The server made batch `seq` durable, or could not.
    pub(super) fn durable(&self, seq: BatchSeq, result: Result<Stamp, FsError>) {
        match result {
            Err(error) => self.lose(&error.to_string()),
            Ok(_) => {
                let synced = self.progress.lock().durable(seq);
                synced.into_iter().for_each(|waiter| waiter.answer(None));
            }
        }
    }

    /// The server applied batch `seq`, which held `bytes`, or refused it.
    pub(super) fn applied_one(
        &self,
        seq: BatchSeq,
        bytes: u64,
        result: Result<(Outcome, Stamp), FsError>,
    ) {
        self.let_go(bytes);
        match result {
            Ok((Outcome::Applied | Outcome::Repeated, _)) => self.past(seq, None),
            Ok((Outcome::Refused { op, error }, _)) => {
                self.lose(&format!("the store refused change {op} of batch {}: {error}", seq.0));
            }
            Ok((Outcome::Held(_) | Outcome::Conflict, _)) => {
                self.lose("the store took a batch for a direct one");
            }
            Ok((Outcome::Early, _)) => self.lose(MISSING),
            Err(error) => self.lose(&error.to_string()),
        }
    }

    /// The server tells what came of a direct batch. Where the rules refused it nothing else is lost.
    pub(super) fn answered(
        &self,
        seq: BatchSeq,
        bytes: u64,
        result: Result<(Outcome, Stamp), FsError>,
    ) {
        self.let_go(bytes);
        match result {
            Ok((Outcome::Refused { error: FsError::Refused(why), .. }, _)) => self.lose(&why),
            Ok((Outcome::Early, _)) => self.lose(MISSING),
            Ok((outcome, stamp)) => self.past(seq, Some((seq, outcome, stamp))),
            Err(error) => self.lose(&error.to_string()),
        }
    }

    /// The server has come past batch `seq`: it is durable as well.
    fn past(&self, seq: BatchSeq, answer: Option<(BatchSeq, Outcome, Stamp)>) {
        let mut progress = self.progress.lock();
        progress.applied = progress.applied.max(seq);
        let synced = progress.durable(seq);
        progress.answer = answer.or(progress.answer.take());
        self.applied.store(progress.applied.0, Release);
        let next = BatchSeq(progress.applied.0 + 1);
        let later = progress.settled.split_off(&next);
        let settled = std::mem::replace(&mut progress.settled, later);
        let done = progress.sent.partition_point(|sent| sent.seq < next);
        let done: Vec<Sent> = progress.sent.drain(..done).collect();
        drop(progress);
        // Not under the lock: it may be much.
        drop(done);
        self.changed.notify_all();
        synced.into_iter().for_each(|waiter| waiter.answer(None));
        settled.into_values().flatten().for_each(|settled| settled());
    }

    /// Calls `settled` once batch `seq` is applied or lost.
    pub(super) fn when_settled(&self, seq: BatchSeq, settled: Settled) {
        let mut progress = self.progress.lock();
        if progress.applied < seq && progress.lost.is_none() {
            progress.settled.entry(seq).or_default().push(settled);
            return;
        }
        drop(progress);
        settled();
    }

    /// Waits until it is known what came of a direct batch, or that nothing will: what goes behind it cannot go before.
    pub(super) fn await_answer(&self, seq: BatchSeq) {
        let mut progress = self.progress.lock();
        while progress.applied < seq && progress.lost.is_none() {
            self.changed.wait(&mut progress);
        }
    }

    /// What came of the direct batch `seq`, when it is known.
    ///
    /// # Errors
    /// `Lost`; `Unreachable` where nobody is to wait for it any longer.
    pub(super) fn answer(&self, seq: BatchSeq) -> Result<(Outcome, Stamp), FsError> {
        let mut progress = self.progress.lock();
        while progress.applied < seq && progress.lost.is_none() {
            progress.may_wait()?;
            self.changed.wait(&mut progress);
        }
        match &progress.answer {
            Some((of, outcome, stamp)) if *of == seq => Ok((outcome.clone(), *stamp)),
            _ => Err(FsError::Lost(progress.lost.clone().unwrap_or_default())),
        }
    }

    /// Whoever waits for something to be durable, applied or smaller is told why instead, until the server is back.
    pub(super) fn away(&self, why: Option<&str>) {
        let mut progress = self.progress.lock();
        progress.away = why.map(str::to_owned);
        let Some(why) = why else { return };
        let waiters = std::mem::take(&mut progress.waiters);
        drop(progress);
        self.changed.notify_all();
        for waiter in waiters.into_values().flatten() {
            (waiter.then)(Err(FsError::Unreachable(why.to_owned())));
        }
    }

    /// # Errors
    /// `Unreachable` while nobody is to wait.
    pub(super) fn may_wait(&self) -> Result<(), FsError> {
        self.progress.lock().may_wait()
    }

    /// What is not durable will never be.
    pub(super) fn lose(&self, why: &str) {
        let mut progress = self.progress.lock();
        if progress.lost.is_none() {
            tracing::error!(why, durable = progress.durable.0, "changes were lost");
            progress.lost = Some(why.to_owned());
            self.lost.store(true, Release);
            self.over.notify_all();
        }
        let waiters = std::mem::take(&mut progress.waiters);
        let settled = std::mem::take(&mut progress.settled);
        drop(progress);
        self.changed.notify_all();
        waiters.into_values().flatten().for_each(|waiter| waiter.answer(Some(why)));
        settled.into_values().flatten().for_each(|settled| settled());
    }

    /// A batch is about to be proposed.
    pub(super) fn keep(&self, sent: Sent) {
        self.progress.lock().sent.push_back(sent);
    }

    /// The last batch that is known to be applied, and all that were proposed and are not.
    pub(super) fn take_sent(&self) -> (BatchSeq, Vec<Sent>) {
        let mut progress = self.progress.lock();
        (progress.applied, progress.sent.drain(..).collect())
    }

    /// Waits until something is lost, and says why; `None` where the client has closed and nothing was.
    pub(super) fn await_loss(&self) -> Option<String> {
        let mut progress = self.progress.lock();
        while progress.lost.is_none() && !progress.finished {
            self.over.wait(&mut progress);
        }
        progress.lost.clone()
    }

    /// The client has closed.
    pub(super) fn finish(&self) {
        self.progress.lock().finished = true;
        self.over.notify_all();
    }

    /// Waits until batch `seq` is applied.
    ///
    /// # Errors
    /// `Lost`; `Unreachable` where nobody is to wait for it any longer.
    pub(super) fn wait_applied(&self, seq: BatchSeq) -> Result<(), FsError> {
        let mut progress = self.progress.lock();
        while progress.applied < seq {
            if let Some(why) = &progress.lost {
                return Err(FsError::Lost(why.clone()));
            }
            progress.may_wait()?;
            self.changed.wait(&mut progress);
        }
        Ok(())
    }

    /// Waits until at most `bytes_max` are held, or something is lost.
    ///
    /// # Errors
    /// `Unreachable` where nobody is to wait for it any longer.
    pub(super) fn wait_room(&self, bytes_max: u64) -> Result<(), FsError> {
        let mut progress = self.progress.lock();
        while self.held() > bytes_max && progress.lost.is_none() {
            progress.may_wait()?;
            self.changed.wait(&mut progress);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Receiver;
    use std::sync::mpsc::channel;

    fn synced(journal: &Journal, seq: u64) -> Receiver<Result<(), FsError>> {
        let (tell, told) = channel();
        let then = Box::new(move |result| tell.send(result).unwrap());
        journal.when_durable(BatchSeq(seq), Waiter { told: None, then });
        told
    }

    #[test]
    fn what_is_applied_is_durable_and_what_is_not_applied_is_not() {
        let journal = Journal::default();
        let (first, second) = (synced(&journal, 1), synced(&journal, 2));
        journal.applied_one(BatchSeq(1), 0, Ok((Outcome::Applied, Stamp(7))));
        assert_eq!(first.try_recv(), Ok(Ok(())));
        assert!(second.try_recv().is_err());
        // One that changed nothing holds no sync up that comes behind it.
        let refused = Outcome::Refused { op: 0, error: FsError::Exists };
        journal.answered(BatchSeq(2), 0, Ok((refused.clone(), Stamp(8))));
        assert_eq!(second.try_recv(), Ok(Ok(())));
        let third = synced(&journal, 3);
        journal.applied_one(BatchSeq(3), 0, Ok((refused, Stamp(9))));
        assert!(matches!(third.try_recv(), Ok(Err(FsError::Lost(_)))));
        assert!(matches!(synced(&journal, 3).try_recv(), Ok(Err(FsError::Lost(_)))));
        assert_eq!(synced(&journal, 2).try_recv(), Ok(Ok(())), "that stays so");
    }

    #[test]
    fn who_waits_while_the_server_is_away_is_told_and_nothing_is_lost() {
        let journal = Journal::default();
        let before = synced(&journal, 1);
        journal.away(Some("nobody answers"));
        let unreachable = || Err(FsError::Unreachable("nobody answers".to_owned()));
        assert_eq!(before.try_recv(), Ok(unreachable()));
        assert_eq!(synced(&journal, 1).try_recv(), Ok(unreachable()));
        assert_eq!(journal.wait_applied(BatchSeq(1)), unreachable());
        journal.hold(10);
        assert_eq!(journal.wait_room(5), unreachable());
        journal.away(None);
        let after = synced(&journal, 1);
        assert!(after.try_recv().is_err());
        journal.applied_one(BatchSeq(1), 10, Ok((Outcome::Applied, Stamp(7))));
        assert_eq!(after.try_recv(), Ok(Ok(())));
        assert_eq!((journal.wait_room(5), journal.check()), (Ok(()), Ok(())));
    }
}
