//! Rows without a history: numbers, sums, sessions, orphans, marks and what they keep.

use crate::meta::check::Check;
use crate::meta::check::Counted;
use crate::meta::key::StateKey;
use crate::meta::read;
use crate::meta::record::Mark;
use crate::meta::record::Next;
use crate::meta::record::Record;
use crate::meta::record::Session;
use crate::meta::record::Totals;
use crate::meta::repair::Remedy;
use crate::series::KeyRange;
use crate::series::Read;
use crate::series::table::Family;
use crate::types::AsOf;
use crate::types::FsError;
use crate::types::SessionId;
use crate::types::Stamp;
use std::ops::ControlFlow;

impl Check<'_> {
    pub(super) fn state(&mut self, counted: &Counted) -> Result<(), FsError> {
        self.begin("state");
        for (key, _) in self.state_rows(&KeyRange::prefix(&[]))? {
            if StateKey::decode(&key).is_none() {
                self.fault(Family::State, &key, "nothing has this key");
            }
        }
        self.numbers(counted)?;
        self.sums(counted)?;
        self.sessions()?;
        self.rights()?;
        self.locks()?;
        self.cluster()?;
        self.marks()
    }

    pub(super) fn record<T: Record>(&mut self, key: &StateKey) -> Result<Option<T>, FsError> {
        let key = key.encode();
        let Some(row) = self.rows.get(Family::State, &key)? else { return Ok(None) };
        self.read(Family::State, &key, T::from_row(&key, &row))
    }

    fn numbers(&mut self, counted: &Counted) -> Result<(), FsError> {
        let key = StateKey::Next.encode();
        match self.record::<Next>(&StateKey::Next)? {
            None => self.fault(Family::State, &key, "the numbers to give out are missing"),
            Some(next) if next.ino <= counted.ino => {
                let what = format!("inode {} exists, and {} is next", counted.ino, next.ino);
                let given = self.given_inos()?;
                let next = Next { ino: given.max(counted.ino + 1), ..next };
                self.remedied(Family::State, &key, what, Remedy::Value(next.to_row()));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// The end of the last range of inode numbers that a session was given.
    fn given_inos(&mut self) -> Result<u64, FsError> {
        let sessions = self.state_rows(&StateKey::sessions())?;
        let sessions = sessions.iter().filter_map(|(key, row)| Session::from_row(key, row).ok());
        Ok(sessions.flat_map(|session| session.inos).map(|(_, end)| end).max().unwrap_or(0))
    }

    fn sums(&mut self, counted: &Counted) -> Result<(), FsError> {
        let totals = self.record::<Totals>(&StateKey::Totals)?.unwrap_or_default();
        let key = StateKey::Totals.encode();
        let Counted { files, live_bytes, versions, .. } = *counted;
        let right = Totals { files, live_bytes, versions, ..totals }.to_row();
        for (what, is, sum) in [
            ("files", counted.files, totals.files),
            ("bytes of present contents", counted.live_bytes, totals.live_bytes),
            ("finished versions", counted.versions, totals.versions),
        ] {
            if is != sum {
                let (what, remedy) =
                    (format!("{is} {what}, counted as {sum}"), Remedy::Value(right.clone()));
                self.remedied(Family::State, &key, what, remedy);
            }
        }
        Ok(())
    }

    fn sessions(&mut self) -> Result<(), FsError> {
        let next = self.record::<Next>(&StateKey::Next)?.map_or(SessionId(0), |next| next.session);
        for (key, row) in self.state_rows(&StateKey::sessions())? {
            let session = Session::from_row(&key, &row);
            let Some(session) = self.read(Family::State, &key, session)? else { continue };
            if !session.inos.is_sorted() || session.inos.iter().any(|(first, end)| first > end) {
                self.fault(Family::State, &key, "its inode numbers are not in order");
            }
            if let Some(StateKey::Session { session }) = StateKey::decode(&key)
                && session >= next
            {
                self.fault(
                    Family::State,
                    &key,
                    format!("session {} is yet to be given out", next.0),
                );
            }
        }
        for (key, _) in self.state_rows(&StateKey::all_orphans())? {
            let Some(StateKey::Orphan { session, ino }) = StateKey::decode(&key) else { continue };
            self.session_is_open(&key, session)?;
            match read::inode(&self.series, ino, AsOf::Now) {
                Ok(Some(inode)) if inode.nlink == 0 => {}
                Ok(Some(_)) => {
                    self.remedied(Family::State, &key, "the orphan has a name", Remedy::Drop);
                }
                Ok(None) => {
                    self.remedied(Family::State, &key, "the orphan is not there", Remedy::Drop);
                }
                // Told where inodes are looked at.
                Err(FsError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn session_is_open(
        &mut self,
        key: &[u8],
        session: SessionId,
    ) -> Result<(), FsError> {
        let row = self.rows.get(Family::State, &StateKey::Session { session }.encode())?;
        if row.is_none() {
            let what = format!("session {} is not open", session.0);
            self.remedied(Family::State, key, what, Remedy::Drop);
        }
        Ok(())
    }

    fn marks(&mut self) -> Result<(), FsError> {
        for (key, row) in self.state_rows(&StateKey::marks())? {
            let mark = Mark::from_row(&key, &row);
            let Some(mark) = self.read(Family::State, &key, mark)? else { continue };
            let Some(StateKey::Mark { name }) = StateKey::decode(&key) else { continue };
            let at = StateKey::MarkAt { stamp: mark.stamp, name };
            if self.rows.get(Family::State, &at.encode())?.is_none() {
                let what = "the mark is not listed by its instant";
                self.remedied(Family::State, &key, what, Remedy::Sign(at));
            }
        }
        for (key, _) in self.state_rows(&StateKey::marks_in(Stamp::ZERO, Stamp::MAX))? {
            let Some(StateKey::MarkAt { stamp, name }) = StateKey::decode(&key) else { continue };
            let mark = self.record::<Mark>(&StateKey::Mark { name })?;
            if mark.is_none_or(|mark| mark.stamp != stamp) {
                let what = "an instant is listed for a mark that is not there";
                self.remedied(Family::State, &key, what, Remedy::Drop);
            }
        }
        for (key, _) in self.state_rows(&StateKey::all_kept())? {
            let Some(StateKey::Kept { mark, from, key: kept }) = StateKey::decode(&key) else {
                continue;
            };
            let waits = self.rows.get(Family::State, &StateKey::Unmarked { mark }.encode())?;
            let stands = self.state_rows(&StateKey::marks_in(mark, Stamp(mark.0 + 1)))?;
            if waits.is_none() && stands.is_empty() {
                let what = "it is kept by a mark that is not there";
                let remedy = Remedy::Sign(StateKey::Unmarked { mark });
                self.remedied(Family::State, &key, what, remedy);
            }
            let mut found = false;
            let version = self.series.versions(&kept, from, from, &mut |version| {
                found = version.from == from && version.to < Stamp::MAX;
                ControlFlow::Break(())
            });
            if self.read(Family::History, &kept, version)?.is_some() && !found {
                let what = "the version that a mark keeps is not there";
                self.remedied(Family::State, &key, what, Remedy::Drop);
            }
        }
        Ok(())
    }
}
