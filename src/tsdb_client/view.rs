//! The present as this client sees it, for the rules of `meta` to run on: uncommitted rows over clean ones over the
//! server's.
//!
//! It lives inside one hold of the lock. An op that needs a row which is not at hand fails, and [`View::missed`] says
//! which, so that it is fetched without the lock; the rules read everything before they put anything, so nothing is
//! left behind. Not here: history and payload, which only replicas keep.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Past;
use crate::series::Present;
use crate::series::Replica;
use crate::series::Visit;
use crate::tsdb_client::merge;
use crate::tsdb_client::merge::Over;
use crate::tsdb_client::overlay::Overlay;
use crate::tsdb_client::rows::Rows;
use crate::types::AsOf;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::Stamp;
use crate::wire::Page;
use crate::wire::Server;
use bytes::Bytes;

/// Rows asked of the server at a time while a scan is merged.
const PAGE_ROWS: usize = 256;

/// Attempts that fetch what they miss without the lock. A write of many regions misses a row in each.
const ATTEMPTS_UNLOCKED: u32 = 8;

/// What a failed attempt lacked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Missed {
    Row(Bytes),
    /// A fresh inode number.
    Inos,
}

/// Whether a row that is not at hand may be asked of the server while the lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fetch {
    /// Fail and tell.
    Later,
    Now,
}

impl Fetch {
    /// How to fetch on an attempt after `failed` ones: some without the lock, then with it, so that a busy tree cannot
    /// starve anybody.
    pub(super) fn after(failed: u32) -> Fetch {
        if failed < ATTEMPTS_UNLOCKED { Fetch::Later } else { Fetch::Now }
    }
}

pub(super) struct View<'a> {
    series: &'a mut Overlay,
    state: &'a mut Overlay,
    rows: &'a Rows,
    server: &'a dyn Server,
    fetch: Fetch,
    batch: BatchSeq,
    missed: Option<Missed>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        series: &'a mut Overlay,
        state: &'a mut Overlay,
        rows: &'a Rows,
        server: &'a dyn Server,
        fetch: Fetch,
        batch: BatchSeq,
    ) -> View<'a> {
        View { series, state, rows, server, fetch, batch, missed: None }
    }

    /// What the attempt lacked, if that is why it failed.
    pub(super) fn missed(&mut self) -> Option<Missed> {
        self.missed.take()
    }
}

impl Present for View<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        if let Some(value) = self.series.get(key) {
            return Ok(value);
        }
        if let Some(value) = self.rows.get(key) {
            return Ok(value);
        }
        match self.fetch {
            Fetch::Later => {
                self.missed = Some(Missed::Row(Bytes::copy_from_slice(key)));
                Err(FsError::Io("the row is not at hand".to_owned()))
            }
            Fetch::Now => {
                let value = self.server.get(key, AsOf::Now)?;
                self.rows.put(Bytes::copy_from_slice(key), value.clone());
                Ok(value)
            }
        }
    }

    fn scan(
        &mut self,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        let page = |range: &KeyRange| self.server.scan(range, AsOf::Now, direction, PAGE_ROWS);
        scan(self.series, range, direction, &page, visit)
    }

    fn put(&mut self, key: &[u8], value: Bytes, _past: Past) {
        self.series.put(key, Some(value), self.batch);
    }

    fn remove(&mut self, key: &[u8], _past: Past) {
        self.series.put(key, None, self.batch);
    }

    fn cut(&mut self) {}

    fn state(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        if let Some(value) = self.state.get(key) {
            return Ok(value);
        }
        let range = KeyRange { start: key.to_vec(), end: [key, &[0]].concat() };
        let mut page = self.server.state(&range, 1)?;
        Ok(page.rows.pop().map(|(_, value)| value))
    }

    fn state_put(&mut self, key: &[u8], value: Option<Bytes>) {
        self.state.put(key, value, self.batch);
    }

    fn state_scan(&mut self, range: &KeyRange, visit: Visit<'_>) -> Result<(), FsError> {
        let page = |range: &KeyRange| self.server.state(range, PAGE_ROWS);
        scan(self.state, range, Direction::Forward, &page, visit)
    }

    fn stamp(&self) -> Option<Stamp> {
        None
    }

    fn replica(&mut self) -> Option<&mut dyn Replica> {
        None
    }
}

/// Visits the rows of a range: those of `overlay` over those of the server, which gives them by the page.
fn scan(
    overlay: &Overlay,
    range: &KeyRange,
    direction: Direction,
    page: &dyn Fn(&KeyRange) -> Result<Page, FsError>,
    visit: Visit<'_>,
) -> Result<(), FsError> {
    let mut rest = Some(range.clone());
    while let Some(range) = rest {
        let page = page(&range)?;
        let (span, after) = merge::split(&range, &page, direction);
        let uncommitted = overlay.range(&span).map(|(key, value)| (key.clone(), value.clone()));
        let uncommitted = merge::directed(uncommitted, direction);
        for (key, value) in Over::new(uncommitted, merge::lowest(page), direction) {
            if let Some(value) = value
                && visit(&key, &value).is_break()
            {
                return Ok(());
            }
        }
        rest = after;
    }
    Ok(())
}
