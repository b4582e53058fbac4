//! The present as this client sees it, for the rules of `meta` to run on: uncommitted rows over clean ones over the
//! server's. Rows of inodes that it does not own are the server's, asked for this one call, or copies that it may answer from.
//!
//! It lives inside one hold of the lock. An op that needs a row which is not at hand fails, and [`View::missed`] says
//! which, so that it is fetched without the lock; the rules read everything before they put anything, so nothing is
//! left behind. Not here: history and payload, which only replicas keep.

use crate::meta::key;
use crate::meta::key::KeyBytes;
use crate::meta::op::Seen;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Past;
use crate::series::Present;
use crate::series::Replica;
use crate::series::Visit;
use crate::tsdb_client::copies::Gained;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::direct::Direct;
use crate::tsdb_client::fresh::Fresh;
use crate::tsdb_client::local::Local;
use crate::tsdb_client::merge;
use crate::tsdb_client::merge::Over;
use crate::tsdb_client::overlay::Overlay;
use crate::tsdb_client::own::Right;
use crate::tsdb_client::own::inode_of;
use crate::types::AsOf;
use crate::types::BatchSeq;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use crate::wire::Page;
use bytes::Bytes;

/// Rows asked of the server at a time while a scan is merged.
const PAGE_ROWS: usize = 256;

/// Attempts that fetch what they miss without the lock. A write of many regions misses a row in each.
const ATTEMPTS_UNLOCKED: u32 = 8;
/// The same where the server is far: while the lock is held for it, nothing else goes on here.
const ATTEMPTS_UNLOCKED_FAR: u32 = 1000;

/// What a failed attempt lacked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Missed {
    /// Rows of inodes that are owned.
    Rows(Vec<Bytes>),
    /// Rows of inodes that are not.
    Fresh(Vec<Bytes>),
    /// A range of rows.
    Range(KeyRange),
    /// A fresh inode number.
    Inos,
    /// The inode is being given back: only when that is done can the server be asked about it.
    Given(Ino),
    /// A direct change of it is under way.
    Busy,
    /// The lease has run out.
    Lease,
    /// Nothing: it is a change of what is nobody's, which goes to the leader.
    Direct,
}

/// Where the rows of an inode are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Here: it is owned.
    Own,
    /// Here, as far as they were asked for: nobody changes them.
    Copy(Ino, Gained),
    /// With the leader.
    Other,
}

/// What an attempt is for.
pub(super) enum Mode<'a> {
    /// Seals what was written while it was owned.
    Seal,
    Look(&'a mut Fresh),
    /// A change of what is owned; anything else makes it a direct one.
    Local(&'a mut Fresh),
    Direct(&'a mut Fresh, &'a mut Direct),
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
    pub(super) fn after(failed: u32, near: bool) -> Fetch {
        let unlocked = if near { ATTEMPTS_UNLOCKED } else { ATTEMPTS_UNLOCKED_FAR };
        if failed < unlocked { Fetch::Later } else { Fetch::Now }
    }
}

pub(super) struct View<'v, 'a> {
    core: &'v Core,
    local: &'v mut Local,
    mode: &'v mut Mode<'a>,
    fetch: Fetch,
    /// The lease has run out.
    lapsed: bool,
    batch: BatchSeq,
    missed: Option<Missed>,
    saw_own: bool,
    torn: bool,
}

impl<'v, 'a> View<'v, 'a> {
    pub(super) fn new(
        core: &'v Core,
        local: &'v mut Local,
        mode: &'v mut Mode<'a>,
        fetch: Fetch,
        lapsed: bool,
    ) -> View<'v, 'a> {
        let batch = local.open.seq;
        let (missed, saw_own, torn) = (None, false, false);
        View { core, local, mode, fetch, lapsed, batch, missed, saw_own, torn }
    }

    /// Whether rows of inodes that are owned were looked at.
    pub(super) fn saw_own(&self) -> bool {
        self.saw_own
    }

    /// Whether copies were looked at which may be of a later moment than what was asked for.
    pub(super) fn is_torn(&self) -> bool {
        self.torn
    }

    /// What the attempt lacked, if that is why it failed.
    pub(super) fn missed(&mut self) -> Option<Missed> {
        self.missed.take()
    }

    fn miss<T>(&mut self, missed: Missed) -> Result<T, FsError> {
        self.missed = Some(missed);
        Err(FsError::Io("the row is not at hand".to_owned()))
    }

    /// Whether what is at hand of an inode is the present. The one place where it is asked.
    ///
    /// # Errors
    /// Where that is not known now: the attempt is to be repeated.
    pub(super) fn owns(&mut self, ino: Ino) -> Result<bool, FsError> {
        if self.local.own.is_near() || matches!(self.mode, Mode::Seal) {
            return Ok(true);
        }
        if self.is_old() {
            // Until it is known to be over, nobody else is told of other rows than ours.
            return Ok(self.local.own.right(ino) != Right::Nothing);
        }
        match (self.local.own.right(ino), &mut *self.mode) {
            (Right::Nothing, Mode::Local(_)) if self.local.copies.gained(ino).is_some() => {
                self.miss(Missed::Direct)
            }
            (Right::Nothing, Mode::Local(_)) => {
                let key = Bytes::copy_from_slice(&key::inode(ino));
                self.miss(Missed::Fresh(vec![key]))
            }
            (Right::Nothing, _) => Ok(false),
            (Right::Leaving, _) => self.miss(Missed::Given(ino)),
            // What it comes to, others may know before this client does.
            (Right::Busy, Mode::Local(_) | Mode::Look(_)) => self.miss(Missed::Busy),
            _ if self.lapsed => self.miss(Missed::Lease),
            (_, Mode::Direct(_, direct)) => {
                direct.touched.insert(ino);
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    fn is_old(&self) -> bool {
        matches!(&*self.mode, Mode::Look(fresh) if fresh.is_old())
    }

    fn standing(&mut self, key: &[u8]) -> Result<Standing, FsError> {
        let Some(ino) = inode_of(key) else { return Ok(Standing::Own) };
        if self.owns(ino)? {
            return Ok(Standing::Own);
        }
        let Some(gained) = self.local.copies.gained(ino).filter(|_| !self.is_old()) else {
            return Ok(Standing::Other);
        };
        self.note_copy(gained);
        Ok(Standing::Copy(ino, gained))
    }

    /// A copy is looked at. What was asked for may be older; as may be, like with rows of its own, what a direct change has changed since.
    fn note_copy(&mut self, gained: Gained) {
        self.saw_own = true;
        self.local.copies.note_used();
        if let Mode::Look(fresh) | Mode::Local(fresh) | Mode::Direct(fresh, _) = &*self.mode {
            self.torn |= fresh.is_before(gained);
        }
    }

    /// A row of an inode that is copied. The rules count on it that all rows of one inode are of one moment: where this one was asked for
    /// before the others came, or before this client changed them, it is asked for again.
    fn copied(&mut self, ino: Ino, gained: Gained, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        if let Some(value) = self.local.copies.row(ino, key) {
            self.note_seen(key, value.as_deref());
            return Ok(value);
        }
        let directs = self.local.directs;
        match &*self.mode {
            Mode::Look(fresh) | Mode::Local(fresh) | Mode::Direct(fresh, _)
                if fresh.is_before(gained) || fresh.is_behind(directs) =>
            {
                self.miss(Missed::Fresh(vec![Bytes::copy_from_slice(key)]))
            }
            _ => self.fresh(key),
        }
    }

    /// A direct change is decided on this row of others.
    fn note_seen(&mut self, key: &[u8], value: Option<&[u8]>) {
        if let Mode::Direct(_, direct) = &mut *self.mode {
            direct.seen.insert(Bytes::copy_from_slice(key), value.map(Seen::hash));
        }
    }

    /// A row of an inode that is owned.
    fn row(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        self.saw_own = true;
        if let Some(value) = self.local.series.get(key) {
            return Ok(value);
        }
        if let Some(value) = self.core.rows.get(key) {
            return Ok(value);
        }
        if self.is_old() {
            return self.fresh(key);
        }
        match self.fetch {
            Fetch::Later => self.miss(Missed::Rows(vec![Bytes::copy_from_slice(key)])),
            Fetch::Now => {
                let value = self.core.server.get(key, AsOf::Now)?;
                self.core.rows.put(Bytes::copy_from_slice(key), value.clone());
                Ok(value)
            }
        }
    }

    /// Asks for the rows that are not at hand together.
    ///
    /// # Errors
    /// Where one is not: the attempt is to be repeated.
    pub(super) fn ahead(
        &mut self,
        keys: &mut dyn Iterator<Item = KeyBytes>,
    ) -> Result<(), FsError> {
        let (mut rows, mut fresh) = (Vec::new(), Vec::new());
        for key in keys {
            let standing = self.standing(&key)?;
            let owned = standing == Standing::Own;
            let here = match &*self.mode {
                Mode::Seal => true,
                _ if let Standing::Copy(ino, _) = standing
                    && self.local.copies.row(ino, &key).is_some() =>
                {
                    true
                }
                _ if owned
                    && (self.local.series.get(&key).is_some()
                        || self.core.rows.get(&key).is_some()) =>
                {
                    true
                }
                _ if owned && !self.is_old() => false,
                Mode::Look(fresh) | Mode::Local(fresh) | Mode::Direct(fresh, _) => {
                    fresh.get(&key).is_some()
                }
            };
            let missed = if owned && !self.is_old() { &mut rows } else { &mut fresh };
            missed.extend((!here).then(|| Bytes::copy_from_slice(&key)));
        }
        match (rows.is_empty(), fresh.is_empty()) {
            (false, _) => self.miss(Missed::Rows(rows)),
            (true, false) => self.miss(Missed::Fresh(fresh)),
            (true, true) => Ok(()),
        }
    }

    /// A row of an inode that is not.
    fn fresh(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        let (Mode::Look(fresh) | Mode::Local(fresh) | Mode::Direct(fresh, _)) = &*self.mode else {
            unreachable!("what is sealed was owned when it was written");
        };
        let guess = || match &*self.mode {
            Mode::Direct(fresh, _) if fresh.guesses() => {
                self.local.hints.get(key, self.core.clock.steady())
            }
            _ => None,
        };
        let Some(value) = fresh.get(key).or_else(guess) else {
            return self.miss(Missed::Fresh(vec![Bytes::copy_from_slice(key)]));
        };
        self.note_seen(key, value.as_deref());
        Ok(value)
    }

    /// The rows of a range, where they have to be fetched without the lock. None where an op has put rows of it already:
    /// no batch of one call scans what it wrote.
    fn ranged(&mut self, range: &KeyRange, owned: bool, visit: Visit<'_>) -> Result<(), FsError> {
        let (Mode::Look(fresh) | Mode::Local(fresh) | Mode::Direct(fresh, _)) = &*self.mode else {
            unreachable!("sealing scans nothing");
        };
        let turn = self.local.turn;
        let found = if owned { fresh.scan_of_turn(range, turn) } else { fresh.scan(range) };
        let Some(found) = found else {
            return self.miss(Missed::Range(range.clone()));
        };
        let rows = found.rows.clone();
        if owned {
            let page = |_: &KeyRange| Ok(Page { rows: rows.clone(), more: false });
            return scan(&self.local.series, range, Direction::Forward, &page, visit);
        }
        if let Mode::Direct(_, direct) = &mut *self.mode {
            let seen = rows.iter().map(|(key, value)| (key.clone(), Some(Seen::hash(value))));
            direct.seen.extend(seen);
        }
        for (key, value) in &rows {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn put_row(&mut self, key: &[u8], value: Option<Bytes>) {
        match &mut *self.mode {
            Mode::Direct(_, direct) => direct.rows.put(key, value, BatchSeq(0)),
            _ => self.local.series.put(key, value, self.batch),
        }
    }
}

impl Present for View<'_, '_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        if let Mode::Direct(_, direct) = &*self.mode
            && let Some(value) = direct.rows.get(key)
        {
            return Ok(value);
        }
        match self.standing(key)? {
            Standing::Own => self.row(key),
            Standing::Copy(ino, gained) => self.copied(ino, gained, key),
            Standing::Other => self.fresh(key),
        }
    }

    fn scan(
        &mut self,
        range: &KeyRange,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), FsError> {
        let owned = self.standing(&range.start)? == Standing::Own;
        if !self.local.own.is_near() && direction == Direction::Forward {
            return self.ranged(range, owned, visit);
        }
        let server = &*self.core.server;
        let page = |range: &KeyRange| server.scan(range, AsOf::Now, direction, PAGE_ROWS);
        scan(&self.local.series, range, direction, &page, visit)
    }

    fn put(&mut self, key: &[u8], value: Bytes, _past: Past) {
        self.put_row(key, Some(value));
    }

    fn remove(&mut self, key: &[u8], _past: Past) {
        self.put_row(key, None);
    }

    fn cut(&mut self) {}

    /// No op that a client runs decides on such a row.
    fn state(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        if let Some(value) = self.local.state.get(key) {
            return Ok(value);
        }
        let range = KeyRange { start: key.to_vec(), end: [key, &[0]].concat() };
        let mut page = self.core.server.state(&range, 1)?;
        Ok(page.rows.pop().map(|(_, value)| value))
    }

    fn state_put(&mut self, key: &[u8], value: Option<Bytes>) {
        if !matches!(self.mode, Mode::Direct(..)) {
            self.local.state.put(key, value, self.batch);
        }
    }

    fn state_scan(&mut self, range: &KeyRange, visit: Visit<'_>) -> Result<(), FsError> {
        let server = &*self.core.server;
        let page = |range: &KeyRange| server.state(range, PAGE_ROWS);
        scan(&self.local.state, range, Direction::Forward, &page, visit)
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
