//! Getting what an attempt missed, without the lock: rows of one's own and of others, inode numbers, the right to go on.
//!
//! Not here: the attempts (`core`, `direct`), what is kept of an answer (`rows`, `copies`, `hints`).

use crate::telemetry::counter::CLIENT_ROW_MISSES;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::fresh::Answered;
use crate::tsdb_client::fresh::Asked;
use crate::tsdb_client::fresh::Fresh;
use crate::tsdb_client::patience::may_wait;
use crate::tsdb_client::view::Missed;
use crate::types::AsOf;
use crate::types::FsError;
use bytes::Bytes;

/// Inode numbers asked for at a time, and how many are left when more are asked for.
const INOS_ASKED: u64 = 32_768;
pub(super) const INOS_LOW: u64 = 16_384;
/// Rows of one answer that may be hints.
const HINTED_ROWS_MAX: usize = 16;

impl Core {
    /// Gets what an attempt missed. `turn`, as it was then, tells whether a row that is owned may be cached: had a batch been
    /// demoted since, the server's answer could be older than it.
    pub(super) fn obtain(
        &self,
        missed: Missed,
        turn: u64,
        fresh: &mut Fresh,
    ) -> Result<(), FsError> {
        if !self.near {
            may_wait()?;
        }
        match missed {
            Missed::Rows(keys) => self.fetch_rows(keys, turn),
            Missed::Fresh(keys) => {
                let asked = self.asks();
                let answered = fresh.ask(&*self.server, keys, asked)?;
                self.keep(asked, answered);
                Ok(())
            }
            Missed::Range(range) => fresh.ask_range(&*self.server, range, turn, self.asks()),
            Missed::Direct => Ok(()),
            Missed::Inos => self.ask_inos(),
            Missed::Given(ino) => self.await_given(ino),
            Missed::Busy => {
                drop(self.one_direct()?);
                Ok(())
            }
            Missed::Lease => self.await_lease(),
        }
    }

    /// Asks for all rows of others that a call looked at anew, and for `more`.
    pub(super) fn renew(&self, fresh: &mut Fresh, more: Option<Bytes>) -> Result<(), FsError> {
        let asked = self.asks();
        let answered = fresh.renew(self.ask()?, more, asked)?;
        self.keep(asked, answered);
        Ok(())
    }

    /// The leader is about to be asked for what is nobody's.
    pub(super) fn asks(&self) -> Asked {
        let mut local = self.lock();
        Asked { directs: local.directs, question: local.copies.ask() }
    }

    /// Keeps what of an answer may be, and a hint of the rest.
    pub(super) fn keep(&self, asked: Asked, (rows, copying): Answered) {
        let now = self.clock.steady();
        let mut local = self.lock();
        // Listings are no hints.
        if rows.len() <= HINTED_ROWS_MAX {
            for (key, value) in &rows {
                local.hints.note(key.clone(), value.clone(), now);
            }
        }
        local.copies.follow(self.copying(false), now);
        local.copies.keep(asked.question, &copying, rows.into_iter());
    }

    fn ask_inos(&self) -> Result<(), FsError> {
        let first = self.server.grant_inos(self.session, INOS_ASKED)?;
        let range = first..first + INOS_ASKED;
        let mut local = self.lock();
        if local.own.add_range(range.clone()) {
            local.inos.push_back(range);
        }
        Ok(())
    }

    /// Gets more inode numbers before they run out.
    pub(super) fn refill_inos(&self) -> Result<(), FsError> {
        let local = self.lock();
        if local.inos_left() >= INOS_LOW || local.ended {
            return Ok(());
        }
        drop(local);
        self.ask_inos()
    }

    /// A row of the present that is owned and was not at hand when the lock was held, at `turn`.
    pub(super) fn fetch_row(&self, key: Bytes, turn: u64) -> Result<Option<Bytes>, FsError> {
        CLIENT_ROW_MISSES.add(1);
        let value = self.server.get(&key, AsOf::Now)?;
        let local = self.lock();
        if local.turn == turn {
            self.rows.put(key, value.clone());
        }
        Ok(value)
    }

    fn fetch_rows(&self, keys: Vec<Bytes>, turn: u64) -> Result<(), FsError> {
        if let [key] = &keys[..] {
            return self.fetch_row(key.clone(), turn).map(|_| ());
        }
        CLIENT_ROW_MISSES.add(keys.len() as u64);
        let values = self.server.get_all(&keys)?;
        let local = self.lock();
        if local.turn == turn {
            keys.into_iter().zip(values).for_each(|(key, value)| self.rows.put(key, value));
        }
        Ok(())
    }
}
