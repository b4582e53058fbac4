//! Giving back what others want, and being given: what follows from what the server tells.
//!
//! `docs/decisions/0012-who-owns-an-inode.md` has the order of the steps. On a thread of its own, which waits for the kernel
//! and for the lane, but never for another client. Not here: who may do what meanwhile (`own`).

use crate::meta::apply::YIELD_INOS_MAX;
use crate::meta::op::Op;
use crate::telemetry::counter::CLIENT_RECALLED;
use crate::telemetry::counter::CLIENT_TAKEN_BACK;
use crate::tsdb_client::Client;
use crate::tsdb_client::Invalidate;
use crate::tsdb_client::Tell;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::copies::LetGo;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::ear::Ear;
use crate::tsdb_client::ear::Heard;
use crate::tsdb_client::lane::Driver;
use crate::tsdb_client::own::Given;
use crate::types::Ino;
use crate::wire::Recall;
use crate::wire::Whole;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Pages of files are not believed for a time, so this is waited for also where nothing else is believed.
const PAGES_WITHIN: Duration = Duration::from_secs(1);

impl Core {
    /// Does what the server tells until the client closes. `kernel`: where it is told what to forget.
    pub(super) fn listen(&self, ear: &Ear, kernel: &SyncSender<Tell>) {
        while let Some(heard) = ear.next() {
            for heard in heard {
                match heard {
                    Heard::Recall(what) => self.give_back(&what, kernel),
                    Heard::Flush(done) => self.flush_for(done),
                    Heard::Whole(whole) => self.own_whole(whole),
                    Heard::TakeBack(inos, done) => self.let_go(inos, done, kernel),
                    Heard::Unlocked(ino) => Client::unlocked(self, ino),
                    Heard::Ended => {
                        let mut local = self.enter();
                        local.own.end();
                        local.copies.leave_all();
                        drop(local);
                        self.given.notify_all();
                        // Where it cannot be told now, what it was told runs out.
                        let _ = kernel.try_send(Tell::Forget(vec![Invalidate::Everything]));
                    }
                }
            }
        }
    }

    /// Somebody else wants these. Calls go on with them while the kernel forgets, and the kernel may hold for a call what it
    /// needs for that (a directory's lock, while it has a file made there): were the call to wait for the end of this, each would wait for the other.
    fn give_back(&self, what: &[Recall], kernel: &SyncSender<Tell>) {
        let mut fading = Given::default();
        self.belief.others(self.clock.steady());
        {
            let mut local = self.enter();
            for what in what {
                let Given { inos, whole } = local.own.fade(what);
                fading.inos.extend(inos);
                fading.whole |= whole;
            }
        }
        if fading.is_empty() {
            return;
        }
        CLIENT_RECALLED.add(fading.inos.len() as u64 + u64::from(fading.whole));
        self.have_forgotten(&fading, kernel);
        // From here on no call rests on owning them. Those that need them wait until this is applied.
        let mut local = self.enter();
        let kept = local.own_locks();
        let mut given = Given::default();
        for what in what {
            let Given { inos, whole } = local.own.recall(what);
            given.inos.extend(inos);
            given.whole |= whole;
        }
        self.seal_all(&mut local);
        if let Err(error) = Change::sealing(self, &mut local).tell_locks(&kept) {
            // It has no rules here.
            tracing::error!(%error, "locks were not told");
        }
        let none: &[Ino] = &[];
        let parts = given.inos.chunks(YIELD_INOS_MAX).chain(given.inos.is_empty().then_some(none));
        for (n, inos) in parts.enumerate() {
            let op = Op::Yield { inos: inos.to_vec(), whole: given.whole && n == 0 };
            if let Err(error) = Change::sealing(self, &mut local).run(op) {
                // It has no rules here.
                tracing::error!(%error, "nothing was given back");
            }
        }
        let seq = local.open.seq;
        local.own.note_yield(seq, &given);
        self.close_open(&mut local);
        drop(local);
        self.given.notify_all();
        self.drive(Driver::Flusher);
    }

    /// Copies are taken back: these, or all.
    fn let_go(
        &self,
        inos: Option<Vec<Ino>>,
        done: Box<dyn FnOnce() + Send>,
        kernel: &SyncSender<Tell>,
    ) {
        let LetGo { inos, more } = self.enter().copies.take_back(inos);
        CLIENT_TAKEN_BACK.add(inos.len() as u64);
        if !inos.is_empty() || more {
            self.have_forgotten(&Given { inos, whole: more }, kernel);
        }
        done();
    }

    /// The kernel forgets what it was told of these. It may hold what it needs for that while a request waits for somebody
    /// who waits for this: then what it was told runs out by itself.
    fn have_forgotten(&self, given: &Given, kernel: &SyncSender<Tell>) {
        // Nobody knows which inodes the whole has that the kernel was told of, but it may forget them all.
        let what = match given.whole {
            true => vec![Invalidate::Everything],
            false => given.inos.iter().map(|ino| Invalidate::Inode(*ino)).collect(),
        };
        let over = self.belief.left(self.clock.steady());
        let (waiting, reached) = sync_channel(0);
        let told = kernel
            .try_send(Tell::Forget(what))
            .and_then(|()| kernel.try_send(Tell::Reached(waiting)));
        match told {
            // It is let go of, never sent.
            Ok(()) => match reached.recv_timeout(over.max(PAGES_WITHIN)) {
                Err(RecvTimeoutError::Timeout) => {
                    tracing::debug!("the kernel took longer to forget than it may remember");
                }
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
            },
            Err(_) => self.pause(over),
        }
    }

    /// Everything done so far is sent; `done` is called when it is applied.
    fn flush_for(&self, done: Box<dyn FnOnce() + Send>) {
        let mut local = self.enter();
        let last = self.close_open(&mut local);
        drop(local);
        self.drive(Driver::Flusher);
        self.journal.when_settled(last, done);
    }

    /// What is known of what others owned may be old.
    fn own_whole(&self, whole: Whole) {
        let mut local = self.enter();
        if local.own.grant_whole(whole) {
            self.rows.clear();
            local.copies.leave_all();
            local.turn += 1;
        }
    }
}
