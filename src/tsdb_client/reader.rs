//! Rows for reading: now over this client's own changes, or at an instant.
//!
//! Looks at uncommitted rows with the lock, then at clean ones, then asks the server, in this order: rows only ever move
//! that way. Not here: what rows mean.

use crate::series::Direction;
use crate::series::Ended;
use crate::series::KeyRange;
use crate::series::Read;
use crate::series::Version;
use crate::series::Visit;
use crate::tsdb_client::change::Change;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::fresh::Fresh;
use crate::tsdb_client::merge;
use crate::tsdb_client::merge::Over;
use crate::tsdb_client::overlay::Overlay;
use crate::tsdb_client::own::inode_of;
use crate::tsdb_client::view::Fetch;
use crate::tsdb_client::view::Mode;
use crate::types::AsOf;
use crate::types::FsError;
use crate::types::Stamp;
use crate::wire::Page;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Rows of a scan asked for at first, then at a time: a listing is read in pieces of a few dozen entries, and starts
/// anew for each.
const ROWS_FIRST: usize = 64;
const ROWS_NEXT: usize = 512;
/// Versions asked for at a time.
const VERSIONS: usize = 256;

/// Scans that ask the server without the lock; the next one holds it, so that a busy tree cannot starve it.
const SCANS_UNLOCKED: u32 = 3;

/// Rows of a range, and what of the range is still to be read.
struct Rows {
    rows: Vec<(Bytes, Bytes)>,
    rest: Option<KeyRange>,
}

/// Rows of a range, from the server.
type Ask<'a> = &'a dyn Fn(&KeyRange) -> Result<(Page, Age), FsError>;

/// Whether rows are the newest there are, or those of a node that may be behind, as nobody else answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    New,
    Old,
}

impl Read for Core {
    fn get(&self, key: &[u8], at: AsOf) -> Result<Option<Bytes>, FsError> {
        self.row(key, at)
    }

    /// Visits without holding the lock. Consistent piece by piece: what is changed meanwhile may show or not.
    fn scan(
        &self,
        range: &KeyRange,
        at: AsOf,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        let mut rest = Some(range.clone());
        let mut limit = ROWS_FIRST;
        while let Some(range) = rest {
            let page = self.page(&range, at, direction, limit)?;
            for (key, value) in &page.rows {
                if visit(key, value).is_break() {
                    return Ok(());
                }
            }
            rest = page.rest;
            limit = ROWS_NEXT;
        }
        Ok(())
    }

    /// Of what was applied: what is still on its way has no stamps. See [`Core::settle`].
    fn versions(
        &self,
        key: &[u8],
        since: Stamp,
        until: Stamp,
        visit: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let mut until = until;
        loop {
            let page = self.ask()?.versions(key, since, until, VERSIONS)?;
            let oldest = page.last().filter(|_| page.len() == VERSIONS).map(|last| last.from);
            for version in page {
                if visit(version).is_break() {
                    return Ok(());
                }
            }
            match oldest {
                Some(from) if from > since => until = Stamp(from.0 - 1),
                _ => return Ok(()),
            }
        }
    }

    /// Of what was applied, likewise.
    fn ended(
        &self,
        range: &KeyRange,
        since: Stamp,
        until: Stamp,
        visit: Ended<'_>,
    ) -> Result<(), FsError> {
        let mut range = range.clone();
        loop {
            let page = self.ask()?.ended(&range, since, until, VERSIONS)?;
            let full = page.len() == VERSIONS;
            let last = page.last().filter(|_| full).map(|(key, _)| key.clone());
            for (key, version) in page {
                if visit(&key, version).is_break() {
                    return Ok(());
                }
            }
            match last {
                Some(last) => range.start = [&last, &[0][..]].concat(),
                None => return Ok(()),
            }
        }
    }
}

impl Core {
    /// # Errors
    /// `BeforeHorizon`, `Damaged`, `Io`.
    pub(super) fn row(&self, key: &[u8], at: AsOf) -> Result<Option<Bytes>, FsError> {
        let stamp = match at {
            AsOf::At(stamp) => stamp,
            AsOf::Now if !self.near => return self.look(|change| change.row(key)),
            AsOf::Now => {
                let local = self.enter();
                if let Some(value) = local.series.get(key) {
                    return Ok(value);
                }
                let turn = local.turn;
                drop(local);
                if let Some(value) = self.rows.get(key) {
                    return Ok(value);
                }
                return self.fetch_row(Bytes::copy_from_slice(key), turn);
            }
        };
        if let Some(value) = self.rows.past(key, stamp) {
            return Ok(value);
        }
        let value = self.ask()?.get(key, at)?;
        self.rows.put_past(key, stamp, value.clone());
        Ok(value)
    }

    /// Looks at several rows of the present in one hold of the lock. Where one is missing the look fails, the row is
    /// fetched without the lock, and the look is repeated. Rows of what is not owned are all of one moment.
    ///
    /// # Errors
    /// Those of the look; `Damaged`, `Io`.
    pub(super) fn look<T>(
        &self,
        mut look: impl FnMut(&mut Change<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let mut fresh = Fresh::default();
        let mut round = 0;
        loop {
            let mut local = self.enter();
            let fetch = Fetch::after(round, self.near);
            let mut change = Change::new(self, &mut local, fetch, Mode::Look(&mut fresh));
            let result = look(&mut change);
            let (missed, saw_own, torn) = (change.missed(), change.saw_own, change.torn);
            let turn = local.turn;
            let behind = torn || (saw_own && fresh.is_behind(local.directs));
            drop(local);
            let obtained = match missed {
                Some(missed) => self.obtain(missed, turn, &mut fresh),
                None if behind && !fresh.is_old() => self.renew(&mut fresh, None),
                None => return result,
            };
            match obtained {
                Ok(()) => round += 1,
                Err(FsError::Unreachable(_)) if self.server.prefers_old() && !fresh.is_old() => {
                    fresh = Fresh::old();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// About `limit` rows of a range, at least one where there is one.
    fn page(
        &self,
        range: &KeyRange,
        at: AsOf,
        direction: Direction,
        limit: usize,
    ) -> Result<Rows, FsError> {
        let server = self.ask()?;
        let ask = |range: &KeyRange| {
            let page = match at {
                AsOf::Now if !self.near => self.copy_page(range, direction, limit),
                _ => server.scan(range, at, direction, limit),
            };
            match page {
                Err(FsError::Unreachable(_)) if at == AsOf::Now && server.prefers_old() => {
                    Ok((server.old_page(range, direction, limit)?, Age::Old))
                }
                page => Ok((page?, Age::New)),
            }
        };
        let mut range = range.clone();
        loop {
            let found = match at {
                AsOf::Now if self.owns_range(&range)? => {
                    self.page_now(&range, direction, limit, &ask)?
                }
                _ => {
                    let (page, _) = ask(&range)?;
                    let (_, rest) = merge::split(&range, &page, direction);
                    Rows { rows: page.rows, rest }
                }
            };
            match found.rest {
                // All rows of the page were removed here.
                Some(rest) if found.rows.is_empty() => range = rest,
                rest => return Ok(Rows { rows: found.rows, rest }),
            }
        }
    }

    /// Rows of the present, kept where they may be.
    fn copy_page(
        &self,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, FsError> {
        let asked = self.asks();
        let (page, copying) = self.server.copy_page(range, direction, limit)?;
        let rows = if copying.inos.is_empty() { Vec::new() } else { page.rows.clone() };
        let rows = rows.into_iter().map(|(key, value)| (key, Some(value))).collect();
        self.keep(asked, (rows, copying));
        Ok(page)
    }

    /// Whether the rows of a range are of an inode that is owned.
    fn owns_range(&self, range: &KeyRange) -> Result<bool, FsError> {
        match inode_of(&range.start).filter(|_| !self.near) {
            Some(ino) => self.look(|change| change.owns(ino)),
            None => Ok(true),
        }
    }

    fn page_now(
        &self,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
        ask: Ask<'_>,
    ) -> Result<Rows, FsError> {
        for _ in 0..SCANS_UNLOCKED {
            let turn = self.enter().turn;
            let known = self.pages.get(turn, range, direction, limit);
            let is_known = known.is_some();
            let (page, age) = match known {
                Some(page) => (page, Age::New),
                None => ask(range).map(|(page, age)| (Arc::new(page), age))?,
            };
            // Had a batch been demoted meanwhile, rows could be in neither.
            let local = self.enter();
            if local.turn == turn {
                if !is_known && !self.near && age == Age::New {
                    self.pages.put(turn, range, direction, limit, &page);
                }
                let page = Arc::unwrap_or_clone(page);
                return Ok(merged(&local.series, range, direction, limit, page));
            }
        }
        let local = self.enter();
        let (page, _) = ask(range)?;
        Ok(merged(&local.series, range, direction, limit, page))
    }
}

fn merged(
    overlay: &Overlay,
    range: &KeyRange,
    direction: Direction,
    limit: usize,
    page: Page,
) -> Rows {
    let (span, mut rest) = merge::split(range, &page, direction);
    let uncommitted = overlay.range(&span).map(|(key, value)| (key.clone(), value.clone()));
    let uncommitted = merge::directed(uncommitted, direction);
    let all = Over::new(uncommitted, merge::lowest(page), direction);
    let mut rows = Vec::with_capacity(limit);
    for (key, value) in all {
        let Some(value) = value else { continue };
        rows.push((key, value));
        if rows.len() >= limit {
            // There may be any number of uncommitted rows.
            let stopped = Page { rows: vec![rows[rows.len() - 1].clone()], more: true };
            rest = merge::split(range, &stopped, direction).1;
            break;
        }
    }
    Rows { rows, rest }
}
