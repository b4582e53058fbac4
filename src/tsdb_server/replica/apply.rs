//! Applying committed entries: in the order of the log, each in one write of the table with the applied index.
//!
//! One thread. Whether a batch may be applied at all, by its session and number, is decided in `meta::apply` and nowhere
//! else. Not here: when to flush the table.

use crate::meta::apply::Rules;
use crate::meta::key;
use crate::meta::key::ClusterKey;
use crate::meta::key::StateKey;
use crate::meta::op::Batch;
use crate::meta::op::ClusterOp;
use crate::meta::op::Op;
use crate::meta::op::Outcome;
use crate::meta::record::Horizon;
use crate::meta::record::Next;
use crate::meta::record::Record;
use crate::meta::record::Store;
use crate::series;
use crate::series::Direction;
use crate::series::Groups;
use crate::series::Origin;
use crate::series::Readable;
use crate::series::table::Changes;
use crate::series::table::Family;
use crate::series::table::Rows;
use crate::series::table::Table;
use crate::store::block::BlockStore;
use crate::telemetry::counter;
use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::header::Body;
use crate::tsdb_log::header::Header;
use crate::tsdb_server::room::Room;
use crate::tsdb_server::turns::Turns;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::SessionId;
use crate::types::Stamp;
use crate::types::Term;
use crate::types::placement::Placed;
use crate::types::placement::Placement;
use parking_lot::Condvar;
use parking_lot::Mutex;
use parking_lot::RwLock;
use serde::Deserialize;
use serde::Serialize;
use std::mem;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The row of `Family::Local` that says how far the table is.
const APPLIED_KEY: &[u8] = b"applied";
const APPLIED_VERSION: u8 = 2;
/// The version that does not say the entry's term.
const APPLIED_WITHOUT_TERM: u8 = 1;
/// The row of `Family::Local` that says who takes part in the log, as of the applied entry.
const MEMBERS_KEY: &[u8] = b"members";

/// Which keys are listed together, as the series want to know it.
pub(in crate::tsdb_server) const GROUPS: Groups = key::GROUPS;

/// How far the table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    pub index: LogIndex,
    /// The last stamp that was set aside by that entry.
    pub stamp: Stamp,
    /// Of that entry; zero where an earlier version wrote the row. With it the table can go to another member.
    pub term: Term,
}

impl Progress {
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn read(rows: &dyn Rows) -> Result<Progress, FsError> {
        let damaged = || FsError::Damaged("the table does not say how far it is".to_string());
        let Some(row) = rows.get(Family::Local, APPLIED_KEY)? else {
            return Ok(Progress::default());
        };
        let (version, rest) = row.split_first().ok_or_else(damaged)?;
        let read = match *version {
            APPLIED_VERSION => postcard::from_bytes(rest),
            APPLIED_WITHOUT_TERM => postcard::from_bytes(rest).map(|(index, stamp)| Progress {
                index,
                stamp,
                term: Term::default(),
            }),
            _ => return Err(damaged()),
        };
        read.map_err(|_| damaged())
    }

    /// Adds the row that says so.
    pub fn put(self, changes: &mut Changes) {
        let row = postcard::to_extend(&self, vec![APPLIED_VERSION]);
        changes.put(Family::Local, APPLIED_KEY, row.expect("a vector grows as needed"));
    }
}

/// How far a table is and who took part as of there, where it says both: what a log that is to begin behind it needs.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn received(table: &dyn Table) -> Result<Option<(Progress, Members)>, FsError> {
    let progress = Progress::read(table)?;
    let members = table.get(Family::Local, MEMBERS_KEY)?;
    let members = members.map(|row| Members::decode(&row)).transpose()?;
    Ok(members.filter(|_| progress.term != Term(0)).map(|members| (progress, members)))
}

/// Who takes part in the log, as of the applied entry. A table that does not say it, because that was never changed, is told
/// what the log was made with: it may go to another member, whose log was made with something else.
///
/// # Errors
/// `Damaged`, `NoSpace`, `Io`.
pub(super) fn members_or(table: &dyn Table, founders: &Members) -> Result<Members, FsError> {
    if let Some(members) = read_members(table)? {
        return Ok(members);
    }
    let mut changes = Changes::default();
    changes.put(Family::Local, MEMBERS_KEY, founders.encode());
    table.write(&changes)?;
    Ok(founders.clone())
}

fn read_members(rows: &dyn Rows) -> Result<Option<Members>, FsError> {
    rows.get(Family::Local, MEMBERS_KEY)?.map(|row| Members::decode(&row)).transpose()
}

/// What readers need to know of what is applied.
pub(super) struct Seen {
    pub(super) progress: Mutex<Progress>,
    /// Told when there is progress.
    pub(super) moved: Condvar,
    /// Which instants can be read.
    pub(super) readable: RwLock<Arc<Readable>>,
    /// Which nodes keep which blocks.
    pub(super) placement: RwLock<Arc<Placement>>,
    /// Raised when something was applied that bears on who owns what.
    pub(super) owned: Arc<Turns>,
    /// Raised when a lock on a file may have gone.
    pub(super) locked: Arc<Turns>,
}

impl Seen {
    pub(super) fn read(rows: &dyn Rows) -> Result<Seen, FsError> {
        Ok(Seen {
            progress: Mutex::new(Progress::read(rows)?),
            moved: Condvar::new(),
            readable: RwLock::new(Arc::new(readable(rows)?)),
            placement: RwLock::new(Arc::new(placement(rows)?)),
            owned: Arc::default(),
            locked: Arc::default(),
        })
    }
}

/// Which nodes keep which blocks, as the table says.
///
/// # Errors
/// `Damaged`, `Io`.
pub(in crate::tsdb_server) fn placement(rows: &dyn Rows) -> Result<Placement, FsError> {
    let key = ClusterKey::Placement.encode();
    let row = rows.get(Family::State, &key)?;
    let placement = row.map_or(Ok(Placement::default()), |row| Placement::from_row(&key, &row))?;
    match placement.is_sound() {
        true => Ok(placement),
        false => {
            Err(FsError::Damaged("the row of where blocks are kept makes no sense".to_owned()))
        }
    }
}

/// Which instants can be read, as the table says.
pub(super) fn readable(rows: &dyn Rows) -> Result<Readable, FsError> {
    let key = StateKey::Horizon.encode();
    let horizon = match rows.get(Family::State, &key)? {
        Some(row) => Horizon::from_row(&key, &row)?,
        None => Horizon::default(),
    };
    let mut marks = Vec::new();
    let all = StateKey::marks_in(Stamp::ZERO, Stamp::MAX);
    rows.scan(Family::State, &all, Direction::Forward, &mut |key, _| {
        if let Some(StateKey::MarkAt { stamp, .. }) = StateKey::decode(key) {
            marks.push(stamp);
        }
        ControlFlow::Continue(())
    })?;
    Ok(Readable { oldest: horizon.0, marks })
}

/// Whether a row of `Family::State` bears on which instants can be read.
fn bears_on_readable(key: &[u8]) -> bool {
    matches!(StateKey::decode(key), Some(StateKey::Horizon | StateKey::MarkAt { .. }))
}

/// Whether an op bears on who owns what.
fn bears_on_owners(op: &Op) -> bool {
    matches!(
        op,
        Op::OpenSession { .. }
            | Op::EndSession { .. }
            | Op::GrantInos { .. }
            | Op::Yield { .. }
            | Op::GrantWhole { .. }
    )
}

/// Applies entries. There is one, and it alone writes the table.
pub(super) struct Applier {
    table: Arc<dyn Table>,
    blocks: Arc<BlockStore>,
    room: Arc<Room>,
    seen: Arc<Seen>,
    here: NodeId,
    /// None until the store is made.
    rules: Option<Rules>,
    /// The entry that is being applied bears on who owns what.
    turned: bool,
    /// It may have taken locks away.
    unlocked: bool,
    /// It says anew which nodes keep which blocks.
    places: bool,
}

impl Applier {
    pub(super) fn new(
        table: Arc<dyn Table>,
        blocks: Arc<BlockStore>,
        room: Arc<Room>,
        seen: Arc<Seen>,
        here: NodeId,
    ) -> Applier {
        let placed = Placed::new(&seen.placement.read());
        blocks.keep_by(here, Arc::new(placed));
        Applier {
            table,
            blocks,
            room,
            seen,
            here,
            rules: None,
            turned: false,
            unlocked: false,
            places: false,
        }
    }

    /// Applies the next entry of the log: what came of it, and the stamp of its last step. `members` take part from it on,
    /// where it changes that.
    ///
    /// # Errors
    /// `Damaged`, `Io`, and `NoSpace` where nobody waits for room: the replica must stop.
    pub(super) fn apply(
        &mut self,
        entry: &Entry,
        members: Option<&Members>,
    ) -> Result<(Outcome, Stamp), FsError> {
        let before = *self.seen.progress.lock();
        if entry.index.0 != before.index.0 + 1 {
            return Err(FsError::Damaged(format!(
                "log entry {} follows entry {} in the table",
                entry.index.0, before.index.0
            )));
        }
        let mut changes = Changes::default();
        let mut outcome = (Outcome::Applied, before.stamp);
        let mut progress = Progress { index: entry.index, stamp: before.stamp, term: entry.term };
        if let Some(members) = members {
            changes.put(Family::Local, MEMBERS_KEY, members.encode());
        }
        // A new leader's first entry is empty, and a change of members is the log's own: neither has a stamp.
        if !entry.header.is_empty() {
            let header = Header::decode(entry.index, &entry.header)?;
            progress.stamp = header.last_stamp();
            outcome = match header.body {
                Body::Empty => (Outcome::Applied, header.stamp),
                Body::Batch => self.batch(&header, entry, &mut changes)?,
            };
        }
        let readable_changes = changes
            .rows
            .iter()
            .any(|(family, key, _)| *family == Family::State && bears_on_readable(key));
        let places = mem::take(&mut self.places);
        progress.put(&mut changes);
        self.write(changes)?;
        if readable_changes {
            *self.seen.readable.write() = Arc::new(readable(&*self.table)?);
        }
        if places {
            let placement = placement(&*self.table)?;
            self.blocks.keep_by(self.here, Arc::new(Placed::new(&placement)));
            *self.seen.placement.write() = Arc::new(placement);
        }
        *self.seen.progress.lock() = progress;
        self.seen.moved.notify_all();
        if mem::take(&mut self.turned) {
            self.seen.owned.turn();
        }
        if mem::take(&mut self.unlocked) {
            self.seen.locked.turn();
        }
        Ok(outcome)
    }

    fn batch(
        &mut self,
        header: &Header,
        entry: &Entry,
        changes: &mut Changes,
    ) -> Result<(Outcome, Stamp), FsError> {
        let batch = Batch::decode(&entry.body)?;
        // What the log was told of the batch has to be true: its stamps were set aside for so many ops.
        if (batch.session, batch.seq) != (header.session, header.seq)
            || batch.ops.len() > header.stamps as usize
        {
            let error = FsError::Refused("the batch is not what it was proposed as".to_owned());
            return Ok((Outcome::Refused { op: 0, error }, header.stamp));
        }
        let rules = self.rules()?;
        let origin = Origin { stamp: header.stamp, session: header.session, seq: header.seq };
        let mut present = series::Batch::new(&*self.table, GROUPS, origin);
        let outcome = rules.apply_batch(&mut present, &batch)?;
        let finished = present.finish()?;
        *changes = finished.changes;
        if outcome != Outcome::Applied {
            return Ok((outcome, finished.last));
        }
        self.turned = batch.ops.iter().any(bears_on_owners);
        let unlocks = |op: &Op| matches!(op, Op::SetLocks { .. } | Op::EndSession { .. });
        self.unlocked = batch.ops.iter().any(unlocks);
        let places = |op: &Op| matches!(op, Op::Cluster(ClusterOp::Place { .. }));
        self.places = batch.ops.iter().any(places);
        counter::APPLY_BATCHES.add(1);
        counter::APPLY_OPS.add(batch.ops.len() as u64);
        counter::APPLY_ROWS.add(changes.rows.len() as u64);
        counter::PURGED_VERSIONS.add(purged(&batch, changes));
        self.blocks.named(&finished.named, changes)?;
        self.blocks.freed(&finished.freed, changes)?;
        for op in &batch.ops {
            if let Op::EndSession { session } = op
                && has_ended(changes, *session)
            {
                self.blocks.sweep_session(*session, changes)?;
            }
        }
        Ok((outcome, finished.last))
    }

    /// The rules of this store, or of none yet: making it does not depend on its key.
    fn rules(&mut self) -> Result<Rules, FsError> {
        if let Some(rules) = &self.rules {
            return Ok(rules.clone());
        }
        let key = StateKey::Store.encode();
        match self.table.get(Family::State, &key)? {
            Some(row) => {
                let rules = Rules::new(Store::from_row(&key, &row)?.hash_key);
                Ok(self.rules.insert(rules).clone())
            }
            None => Ok(Rules::new([0; 16])),
        }
    }

    /// Rows that the block store wants written.
    pub(super) fn upkeep(&self) -> Result<(), FsError> {
        if !self.blocks.upkeep_due() {
            return Ok(());
        }
        let mut changes = Changes::default();
        self.blocks.upkeep(&mut changes)?;
        self.write(changes)
    }

    /// Drops blocks that no op named, of sessions that ended before the store was opened. A session whose beginning is not
    /// applied here has not ended: a node that lags has its blocks before it knows of it, and its client relies on them.
    pub(super) fn sweep(&self) -> Result<(), FsError> {
        let mut changes = Changes::default();
        let key = StateKey::Next.encode();
        let next = self.table.get(Family::State, &key)?.map(|row| Next::from_row(&key, &row));
        let begun = next.transpose()?.map_or(SessionId(0), |next| next.session);
        let pending = self.blocks.pending_sessions();
        for session in pending.into_iter().filter(|session| *session < begun) {
            let key = StateKey::Session { session }.encode();
            if self.table.get(Family::State, &key)?.is_none() {
                self.blocks.sweep_session(session, &mut changes)?;
            }
        }
        self.write(changes)
    }

    fn write(&self, changes: Changes) -> Result<(), FsError> {
        if changes.rows.is_empty() {
            return Ok(());
        }
        // The table takes nothing while it has no room for what it has taken already. Applying the entry again would be
        // wrong, for the block store has noted it; writing what came of it is not.
        self.room.until(|| self.table.write(&changes))?;
        self.blocks.written();
        Ok(())
    }
}

/// Whether these changes remove a session's row: it has no orphans left.
/// The versions of files that a purge forgets: each has a past row of its inode.
fn purged(batch: &Batch, changes: &Changes) -> u64 {
    if !batch.ops.iter().any(|op| matches!(op, Op::Purge { .. } | Op::Forget { .. })) {
        return 0;
    }
    let inodes = key::inodes();
    let forgotten = changes.rows.iter().filter(|(family, key, row)| {
        *family == Family::History && row.is_none() && inodes.contains(key)
    });
    forgotten.count() as u64
}

fn has_ended(changes: &Changes, session: SessionId) -> bool {
    let row = StateKey::Session { session }.encode();
    changes
        .rows
        .iter()
        .any(|(family, key, value)| *family == Family::State && *key == row && value.is_none())
}
