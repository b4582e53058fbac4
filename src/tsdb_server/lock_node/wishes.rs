//! Locks that were refused because another session has one: whoever wanted them is told when nothing is in their way.
//!
//! Only a help: in memory, of one reign, and not of more than so many. Whoever waits asks again by himself. Not here: what bars
//! a lock (`meta::apply`), in which order those get one who are told.

use crate::meta::apply;
use crate::meta::key::StateKey;
use crate::meta::lock::FileLock;
use crate::meta::op::Batch;
use crate::meta::op::Op;
use crate::series::Direction;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::tsdb_server::lock_node::LockNode;
use crate::tsdb_server::lock_node::office::Call;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::SessionId;
use parking_lot::Mutex;
use std::ops::ControlFlow;
use std::sync::Weak;
use std::thread::JoinHandle;
use std::time::Duration;

/// Wishes kept.
const WISHES_MAX: usize = 4096;
/// How often somebody looks whether the node has ended, or leads no more.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a session wanted to have locked of an inode.
#[derive(Clone, PartialEq, Eq)]
struct Wish {
    session: SessionId,
    ino: Ino,
    locks: Vec<FileLock>,
}

impl Wish {
    fn is_barred(&self, rows: &dyn Rows) -> Result<bool, FsError> {
        let mut barred = Ok(false);
        let range = StateKey::locks_on(self.ino);
        rows.scan(Family::State, &range, Direction::Forward, &mut |key, row| {
            barred = apply::bars(key, row, self.session, &self.locks);
            match barred {
                Ok(false) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        barred
    }
}

#[derive(Default)]
pub(super) struct Wishes(Mutex<Vec<Wish>>);

impl LockNode {
    /// This batch of a session was refused, as another session has a lock that is in the way. On the thread that applied it:
    /// waits for nothing.
    pub fn was_barred(&self, session: SessionId, batch: &[u8]) {
        let Ok(Batch { ops, .. }) = Batch::decode(batch) else { return };
        let mut wishes = self.wishes.0.lock();
        for op in ops {
            let Op::SetLocks { ino, locks } = op else { continue };
            let wish = Wish { session, ino, locks };
            if wishes.len() < WISHES_MAX && !wishes.contains(&wish) {
                wishes.push(wish);
            }
        }
        drop(wishes);
        // What was in its way may have gone since.
        self.locked.turn();
    }

    /// Tells those in whose way nothing is any more.
    ///
    /// # Errors
    /// `NotLeader`, `Damaged`, `Io`, `Closing`.
    pub fn grant_wishes(&self) -> Result<(), FsError> {
        let wishes = std::mem::take(&mut *self.wishes.0.lock());
        if wishes.is_empty() {
            return Ok(());
        }
        let rows = self.rows.snapshot();
        let (mut free, mut barred) = (Vec::new(), Vec::new());
        for wish in wishes {
            match wish.is_barred(&*rows)? {
                true => barred.push(wish),
                false => free.push((wish.session, wish.ino)),
            }
        }
        self.in_office(|office, _, _| {
            for (session, ino) in free {
                office.call(session, Call::Unlocked(ino));
            }
            barred.retain(|wish| office.listeners.contains_key(&wish.session));
            Ok(())
        })?;
        self.wishes.0.lock().extend(barred);
        Ok(())
    }
}

/// Grants wishes for as long as the role is there.
///
/// # Errors
/// `Io` where there can be no more threads.
pub(super) fn start(locks: Weak<LockNode>) -> Result<JoinHandle<()>, FsError> {
    let work = move || {
        let mut seen = None;
        while let Some(turns) = locks.upgrade().filter(|locks| !locks.is_stopped()) {
            let turns = turns.locked.clone();
            if let Some(seen) = seen {
                turns.wait_beyond(seen, LOOK_EVERY);
            }
            seen = Some(turns.now());
            let Some(locks) = locks.upgrade() else { return };
            match locks.grant_wishes() {
                // Nobody is told by who does not lead, and what was wanted was forgotten with that.
                Ok(()) | Err(FsError::NotLeader { .. } | FsError::Closing) => {}
                Err(error) => tracing::warn!(%error, "nobody is told which locks may be had"),
            }
        }
    };
    std::thread::Builder::new()
        .name("lock-wishes".to_owned())
        .spawn(work)
        .map_err(|error| FsError::io("start a thread for locks", &error))
}
