//! The rules: what each op does to the rows. One file per family of ops.
//!
//! The same code runs in every replica, over a batch, and in a client, op by op over its cache, so that what a client
//! answered cannot be refused later. What only a replica has (payload, lives of blocks, queues, sums) is done only
//! there and decides nothing. Permissions are not checked: the kernel does that before it asks.
//!
//! **An op changes all of its rows or none.** Each first reads everything it needs and refuses what it must; only then
//! it puts rows. A client relies on this, for it has nothing to take an op back with.

mod batch;
mod clone;
mod cluster;
mod create;
mod direct;
mod lives;
mod lock;
mod own;
mod purge;
mod remove;
mod rename;
mod session;
mod setattr;
mod write;
mod xattr;

pub use cluster::NODES_MAX;
pub use lock::LOCKS_MAX;
pub use lock::bars;
pub use own::YIELD_INOS_MAX;
pub use purge::is_pending;
pub use session::FEATURES;
pub use setattr::truncate_steps;
pub(crate) use xattr::XATTR_VERSION;

use crate::meta::key;
use crate::meta::key::NameHash;
use crate::meta::key::StateKey;
use crate::meta::key::Sweep;
use crate::meta::op::Batch;
use crate::meta::op::Op;
use crate::meta::op::Outcome;
use crate::meta::record::Dirent;
use crate::meta::record::Inode;
use crate::meta::record::Next;
use crate::meta::record::Record;
use crate::meta::record::Session;
use crate::series::Past;
use crate::series::Present;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Generation;
use crate::types::Ino;
use crate::types::Kind;
use crate::types::NAME_BYTES_MAX;
use crate::types::SessionId;
use crate::types::Time;
use batch::Entry;
use bytes::Bytes;
use lives::Lives;
use std::collections::HashSet;

/// No op reads or changes more rows than this.
pub const OP_ROWS_MAX: usize = 1000;
/// No op changes the extents of more regions than this: half of what an op may, for it also changes what counts them.
pub const OP_REGIONS_MAX: usize = 500;

/// The rules of one store.
#[derive(Clone, Debug)]
pub struct Rules {
    names: NameHash,
}

impl Rules {
    /// `hash_key` is the store's: [`crate::meta::record::Store::hash_key`].
    pub fn new(hash_key: [u8; 16]) -> Rules {
        Rules { names: NameHash::new(hash_key) }
    }

    /// The order of names, which is also their cookies.
    pub fn names(&self) -> &NameHash {
        &self.names
    }

    /// Applies one op, as a client does to its own view.
    ///
    /// # Errors
    /// What a program is told. Nothing was changed then.
    pub fn apply(
        &self,
        present: &mut dyn Present,
        session: SessionId,
        op: &Op,
    ) -> Result<(), FsError> {
        Apply::new(&self.names, present, session).op(op)
    }

    /// Applies a batch, as a replica does. What is put then is to be written whatever the outcome: one that is not `Applied`
    /// has left nothing, or of a direct batch the number and the outcome itself. A direct batch that was applied before is
    /// answered as it was then.
    ///
    /// # Errors
    /// `Damaged` and `Io` only: the node must stop, for it cannot know what others reach.
    pub fn apply_batch(
        &self,
        present: &mut dyn Present,
        batch: &Batch,
    ) -> Result<Outcome, FsError> {
        let mut apply = Apply::new(&self.names, present, batch.session);
        let member = match apply.enter(batch)? {
            Entry::Next(member) => member,
            Entry::Told(outcome) => return Ok(outcome),
            Entry::Refused(why) => {
                return Ok(Outcome::Refused { op: 0, error: FsError::Refused(why.to_owned()) });
            }
        };
        if let (Some(seen), Some(member)) = (&batch.direct, &member) {
            return self.direct(present, batch, seen, member.clone());
        }
        apply.member = member;
        let outcome = apply.ops(batch)?;
        if outcome == Outcome::Applied {
            apply.leave(batch.seq, None)?;
        } else if let Some(replica) = present.replica() {
            replica.take_back();
        }
        Ok(outcome)
    }
}

/// A batch, or at a client one op, being applied.
struct Apply<'a> {
    names: &'a NameHash,
    present: &'a mut dyn Present,
    session: SessionId,
    step: Step,
    /// The batch is a direct one: what it lacks is told to whoever sent it.
    direct: bool,
    /// The rest is a replica's only.
    lives: Lives,
    totals: Delta,
    /// The session's row and the numbers to give out, once read; put back at the end of the batch.
    member: Option<Session>,
    next: Option<Next>,
}

/// What the present step did that decides whether the next op may join it, and what it leaves.
#[derive(Default)]
struct Step {
    /// Files whose contents became a version.
    finished: HashSet<Ino>,
    /// Files whose contents began: no stored version shows any of them, nor will one if they end in this step.
    contents: HashSet<Ino>,
    /// Files that got their first attribute. The same holds for attributes.
    attributes: HashSet<Ino>,
    /// An instant was named: it is the end of the step.
    marked: bool,
}

/// Changes of `record::Totals`.
#[derive(Default)]
struct Delta {
    files: i64,
    live_bytes: i64,
    history_bytes: i64,
    versions: i64,
}

impl<'a> Apply<'a> {
    fn new(names: &'a NameHash, present: &'a mut dyn Present, session: SessionId) -> Apply<'a> {
        Apply {
            names,
            present,
            session,
            step: Step::default(),
            direct: false,
            lives: Lives::default(),
            totals: Delta::default(),
            member: None,
            next: None,
        }
    }

    /// One after the other, up to the first that is refused.
    fn ops(&mut self, batch: &Batch) -> Result<Outcome, FsError> {
        let mut by = batch.by.iter();
        let mut left = 0;
        for (n, op) in batch.ops.iter().enumerate() {
            if left == 0
                && let Some(next) = by.next()
            {
                left = next.ops;
                self.made_by(n, next.uid)?;
            }
            left = left.saturating_sub(1);
            match self.op(op) {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Damage => return Err(error),
                Err(error) => return Ok(Outcome::Refused { op: n as u32, error }),
            }
        }
        Ok(Outcome::Applied)
    }

    fn op(&mut self, op: &Op) -> Result<(), FsError> {
        if self.step.marked {
            self.cut()?;
        }
        match op {
            Op::Create { .. } => self.create(op),
            Op::Link { ino, dir, name, time } => self.link(*ino, *dir, name, *time),
            Op::Unlink { dir, name, keep_open, time } => self.unlink(*dir, name, *keep_open, *time),
            Op::Rmdir { dir, name, keep_open, time } => self.rmdir(*dir, name, *keep_open, *time),
            Op::Rename { dir, name, new_dir, new_name, how, keep_open, time } => {
                let names = rename::Names { dir: *dir, name, new_dir: *new_dir, new_name };
                self.rename(names, *how, *keep_open, *time)
            }
            Op::SetAttr { ino, set, time } => self.set_attr(*ino, set, *time),
            Op::Accessed { ino, time } => self.accessed(*ino, *time),
            Op::Write { ino, offset, pieces, clear_suid, time } => {
                self.write(*ino, *offset, pieces, *clear_suid, *time)
            }
            Op::Zero { ino, offset, len, extend, time } => {
                self.zero(*ino, *offset, *len, *extend, *time)
            }
            Op::SetXattr { ino, name, value, how, time } => {
                self.set_xattr(*ino, name, value, *how, *time)
            }
            Op::RemoveXattr { ino, name, time } => self.remove_xattr(*ino, name, *time),
            Op::Version { ino } => self.version(*ino),
            Op::Release { ino } => self.release(*ino),
            Op::Clone { from, as_of, from_offset, ino, offset, len, time } => {
                let source =
                    clone::Part { ino: *from, as_of: *as_of, offset: *from_offset, len: *len };
                self.clone_part(source, *ino, *offset, *time)
            }
            Op::Mark { name, note, uid } => self.mark(name, note, *uid),
            Op::Unmark { name } => self.unmark(name),
            Op::SetRetention { retention } => self.set_retention(retention),
            Op::Purge { horizon, rows } => self.purge(*horizon, *rows),
            Op::Forget { keys, before } => self.forget(keys, *before),
            Op::OpenSession { session, client } => self.open_session(*session, client),
            Op::EndSession { session } => self.end_session(*session),
            Op::GrantInos { session, count } => self.grant_inos(*session, *count),
            Op::Yield { inos, whole } => self.yield_back(inos, *whole),
            Op::GrantWhole { session } => self.grant_whole(*session),
            Op::SetHistory { ino, keep, time } => self.set_history(*ino, *keep, *time),
            Op::Format { .. } => self.format(op),
            Op::Raise { features } => self.raise(*features),
            Op::Cluster(op) => self.cluster(op),
            Op::SetLocks { ino, locks } => self.set_locks(*ino, locks),
        }
    }

    /// Ends the step: everything put so far stays readable.
    fn cut(&mut self) -> Result<(), FsError> {
        self.settle_lives()?;
        self.present.cut();
        self.step = Step::default();
        Ok(())
    }

    /// Called before an op changes the contents of `ino`, or takes a name from it: a version that was finished in this
    /// step would go unseen.
    fn keep_finished(&mut self, ino: Ino) -> Result<(), FsError> {
        if self.step.finished.contains(&ino) { self.cut() } else { Ok(()) }
    }

    /// The largest size that the contents of `inode` ever had is at least its size.
    fn raise_high(&mut self, ino: Ino, inode: &mut Inode) {
        if inode.high == 0 && inode.size > 0 && self.is_replica() {
            self.step.contents.insert(ino);
        }
        inode.high = inode.high.max(inode.size);
    }

    fn is_replica(&mut self) -> bool {
        self.present.replica().is_some()
    }

    // Rows.

    fn find_inode(&mut self, ino: Ino) -> Result<Option<Inode>, FsError> {
        let key = key::inode(ino);
        self.present.get(&key)?.map(|row| Inode::from_row(&key, &row)).transpose()
    }

    /// An inode that an op names by number. `Stale` where there is none.
    fn inode(&mut self, ino: Ino) -> Result<Inode, FsError> {
        self.find_inode(ino)?.ok_or(FsError::Stale)
    }

    /// A regular file, for its contents.
    fn file(&mut self, ino: Ino) -> Result<Inode, FsError> {
        let inode = self.inode(ino)?;
        match inode.kind {
            FileKind::File => Ok(inode),
            FileKind::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid("only regular files have contents")),
        }
    }

    /// A directory, for a look at its entries.
    fn dir(&mut self, ino: Ino) -> Result<Inode, FsError> {
        let inode = self.inode(ino)?;
        if inode.is_dir() { Ok(inode) } else { Err(FsError::NotDirectory) }
    }

    /// A directory, for a new entry: one that was removed while it is open takes none.
    fn dir_to_fill(&mut self, ino: Ino) -> Result<Inode, FsError> {
        let inode = self.dir(ino)?;
        if inode.nlink == 0 { Err(FsError::NotFound) } else { Ok(inode) }
    }

    fn put_inode(&mut self, ino: Ino, inode: &Inode) {
        debug_assert_eq!(crate::meta::check::inode_fault(inode), None, "inode {ino}: {inode:?}");
        self.present.put(&key::inode(ino), inode.to_row(), past_of(inode));
    }

    fn dirent(&mut self, dir: Ino, name: &[u8]) -> Result<Option<Dirent>, FsError> {
        let key = key::dirent(dir, self.names.of(name), name);
        self.present.get(&key)?.map(|row| Dirent::from_row(&key, &row)).transpose()
    }

    fn put_dirent(&mut self, dir: Ino, name: &[u8], dirent: Dirent, past: Past) {
        let key = key::dirent(dir, self.names.of(name), name);
        self.present.put(&key, dirent.to_row(), past);
    }

    /// A name now stands for another file. The former entry may keep a past where the new one has none, or the other
    /// way round.
    fn replace_dirent(&mut self, dir: Ino, name: &[u8], was: Past, dirent: Dirent, past: Past) {
        if was != past {
            self.remove_dirent(dir, name, was);
        }
        self.put_dirent(dir, name, dirent, past);
    }

    fn remove_dirent(&mut self, dir: Ino, name: &[u8], past: Past) {
        let key = key::dirent(dir, self.names.of(name), name);
        self.present.remove(&key, past);
    }

    fn state<T: Record>(&mut self, key: &StateKey) -> Result<Option<T>, FsError> {
        let key = key.encode();
        self.present.state(&key)?.map(|row| T::from_row(&key, &row)).transpose()
    }

    fn put_state<T: Record>(&mut self, key: &StateKey, record: &T) {
        self.present.state_put(&key.encode(), Some(record.to_row()));
    }

    /// A row that only is there or not.
    fn put_sign(&mut self, key: &StateKey) {
        self.present.state_put(&key.encode(), Some(Bytes::from_static(SIGN)));
    }

    fn remove_state(&mut self, key: &StateKey) {
        self.present.state_put(&key.encode(), None);
    }

    /// The numbers to give out next, to be changed in place.
    fn next(&mut self) -> Result<&mut Next, FsError> {
        if self.next.is_none() {
            let none = || FsError::Damaged("the store has no row of numbers to give out".into());
            self.next = Some(self.state(&StateKey::Next)?.ok_or_else(none)?);
        }
        Ok(self.next.as_mut().expect("it was read just now"))
    }

    /// Notes that nothing leads to these rows any more: purge removes them.
    fn sweep(&mut self, sweep: Sweep) {
        if self.is_replica() {
            self.put_sign(&StateKey::Sweep(sweep));
        }
    }
}

/// The value of rows that only are there or not: a version byte.
const SIGN: &[u8] = &[1];

/// What becomes of former values of an inode's own rows.
pub(in crate::meta) fn past_of(inode: &Inode) -> Past {
    if inode.no_history || inode.transient { Past::Forget } else { Past::Keep }
}

/// What becomes of the former values of an entry of `dir` that names `inode`. No past entry ever names an inode that
/// has no past.
fn past_of_entry(dir: &Inode, transient: bool) -> Past {
    if dir.no_history || transient { Past::Forget } else { Past::Keep }
}

/// Whether an entry, or a mark, may have this name.
///
/// # Errors
/// `NotFound` for an empty one, as for system calls; `NameTooLong`, `Invalid`.
pub fn check_name(name: &[u8]) -> Result<(), FsError> {
    match name {
        [] => Err(FsError::NotFound),
        _ if name.len() > NAME_BYTES_MAX => Err(FsError::NameTooLong),
        b"." | b".." => Err(FsError::Invalid("\".\" and \"..\" name no entry")),
        _ if name.iter().any(|byte| matches!(byte, 0 | b'/')) => {
            Err(FsError::Invalid("a name has no zero byte and no slash"))
        }
        _ => Ok(()),
    }
}

/// An entry came into a directory. A subdirectory is also a link to it.
fn gain_entry(dir: &mut Inode, is_dir: bool, time: Time) {
    dir.size += 1;
    dir.nlink += u32::from(is_dir);
    (dir.mtime, dir.ctime) = (time, time);
}

/// An entry left a directory. Counts that are too low already are for `meta::check` to tell, not for a crash.
fn lose_entry(dir: &mut Inode, is_dir: bool, time: Time) {
    dir.size = dir.size.saturating_sub(1);
    dir.nlink = dir.nlink.saturating_sub(u32::from(is_dir));
    (dir.mtime, dir.ctime) = (time, time);
}

/// The generation after this one, where there is one.
fn generation_after(generation: Generation) -> Option<Generation> {
    (generation < crate::meta::record::GENERATION_MAX).then(|| Generation(generation.0 + 1))
}
