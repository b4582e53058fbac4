//! Who owns inodes: the whole, ranges of numbers, what was given back.
//!
//! Not here: whether sessions and what else they leave are right (`state`), and who owns what by these rows (`meta::own`).

use crate::meta::check::Check;
use crate::meta::key::StateKey;
use crate::meta::record::Grant;
use crate::meta::record::Next;
use crate::meta::record::Range;
use crate::meta::record::Record;
use crate::meta::record::Session;
use crate::meta::repair::Remedy;
use crate::series::table::Family;
use crate::types::FsError;
use crate::types::Ino;

impl Check<'_> {
    pub(super) fn rights(&mut self) -> Result<(), FsError> {
        // Told where numbers are looked at.
        let Some(next) = self.record::<Next>(&StateKey::Next)? else { return Ok(()) };
        self.whole(&next)?;
        self.ranges(&next)?;
        self.ranges_by_session()?;
        self.shared(&next)
    }

    fn whole(&mut self, next: &Next) -> Result<(), FsError> {
        let Some(Grant { session, epoch, after, .. }) = self.record(&StateKey::Grant)? else {
            return Ok(());
        };
        let key = StateKey::Grant.encode();
        self.session_is_open(&key, session)?;
        if let Some(member) = self.record::<Session>(&StateKey::Session { session })? {
            if !member.is_open() {
                let what = format!("session {} was ended and owns the whole", session.0);
                self.remedied(Family::State, &key, what, Remedy::Drop);
            }
            if after > member.last {
                let what = format!("it was given after batch {}, which is to come", after.0);
                self.fault(Family::State, &key, what);
            }
        }
        if epoch >= next.epoch {
            let what = format!("epoch {epoch} is given, and {} is next", next.epoch);
            let right = Next { epoch: epoch + 1, ..next.clone() };
            let key = StateKey::Next.encode();
            self.remedied(Family::State, &key, what, Remedy::Value(right.to_row()));
        }
        Ok(())
    }

    fn ranges(&mut self, next: &Next) -> Result<(), FsError> {
        let mut before: Option<Ino> = None;
        for (key, row) in self.state_rows(&StateKey::ranges())? {
            let range = Range::from_row(&key, &row);
            let Some(Range { first, session }) = self.read(Family::State, &key, range)? else {
                continue;
            };
            let Some(StateKey::Range { last }) = StateKey::decode(&key) else { continue };
            if first > last || before.is_some_and(|before| first <= before) {
                let what = format!("numbers from {first} on are given twice, or none are");
                self.remedied(Family::State, &key, what, Remedy::Drop);
            }
            before = Some(last);
            if last.get() >= next.ino {
                let what = format!("its last number is given, and {} is next", next.ino);
                let right = Next { ino: last.get() + 1, ..next.clone() };
                let key = StateKey::Next.encode();
                self.remedied(Family::State, &key, what, Remedy::Value(right.to_row()));
            }
            self.session_is_open(&key, session)?;
            let of = StateKey::RangeOf { session, last };
            if self.rows.get(Family::State, &of.encode())?.is_none() {
                let what = "the range is not listed with its session";
                self.remedied(Family::State, &key, what, Remedy::Sign(of));
            }
        }
        Ok(())
    }

    fn ranges_by_session(&mut self) -> Result<(), FsError> {
        for (key, _) in self.state_rows(&StateKey::all_ranges_of())? {
            let Some(StateKey::RangeOf { session, last }) = StateKey::decode(&key) else {
                continue;
            };
            let range = self.record::<Range>(&StateKey::Range { last })?;
            if range.is_none_or(|range| range.session != session) {
                let what = "a range is listed that is not the session's";
                self.remedied(Family::State, &key, what, Remedy::Drop);
            }
        }
        Ok(())
    }

    fn shared(&mut self, next: &Next) -> Result<(), FsError> {
        for (key, _) in self.state_rows(&StateKey::shared())? {
            let Some(StateKey::Shared { epoch, ino }) = StateKey::decode(&key) else { continue };
            if epoch > next.epoch || ino.get() >= next.ino {
                let what = "what was given back is yet to be given";
                self.remedied(Family::State, &key, what, Remedy::Drop);
            }
        }
        Ok(())
    }
}
