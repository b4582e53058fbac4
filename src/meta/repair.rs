//! What puts a broken rule right: found by `meta::check`, as data; carried out here, as an ordinary change of the present.
//!
//! A remedy takes nothing away that a name or an instant still leads to. It corrects what counts or points by what is
//! counted or pointed to, drops what points to nothing, and gives what has no name one in `/lost+found`. A wrong field is
//! corrected in place, for it was never right; names come and go as in any batch, so that the past still has them. Not here:
//! bytes that are gone, which nothing here could bring back, and when to stop.

use crate::meta::apply::past_of;
use crate::meta::check::Fault;
use crate::meta::key;
use crate::meta::key::Key;
use crate::meta::key::NameHash;
use crate::meta::key::StateKey;
use crate::meta::record::Dirent;
use crate::meta::record::Inode;
use crate::meta::record::Next;
use crate::meta::record::Record;
use crate::meta::record::Store;
use crate::series::Past;
use crate::series::Present;
use crate::series::table::Family;
use crate::types::BlockId;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Time;
use bytes::Bytes;

/// Where files go that have no name any more.
const LOST_FOUND: &[u8] = b"lost+found";

/// What is to be done about a fault. Those of one inode bear being carried out one after the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Remedy {
    /// The row goes: an entry that names nothing, a sign for something that is over, a payload that nothing names.
    Drop,
    /// The row of state becomes this.
    Value(Bytes),
    /// A sign in state, under this key, has purge look at it.
    Sign(StateKey),
    /// An entry says what its inode is.
    Kind(FileKind),
    /// An inode's count of names, or a directory's of itself and its subdirectories.
    Links(u32),
    /// A directory's count of entries.
    Entries(u64),
    /// A file's count of bytes that are no holes.
    Allocated(u64),
    /// A directory's parent is where its name is.
    Parent(Ino),
    /// An inode has attributes.
    Attributes,
    /// An inode gets a name.
    Name,
    /// Entries lie in a directory that is not there: an empty one is made under its number, which then counts them.
    Directory,
}

/// Carries out what can be; how many faults something was done about. What is right then, the next check says.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn repair(present: &mut dyn Present, faults: &[Fault], now: Time) -> Result<usize, FsError> {
    let key = StateKey::Store.encode();
    let Some(row) = present.state(&key)? else { return Ok(0) };
    let names = NameHash::new(Store::from_row(&key, &row)?.hash_key);
    let mut repair = Repair { names, present, now };
    let mut done = 0;
    for fault in faults {
        if let Some(remedy) = &fault.remedy {
            done += usize::from(repair.one(fault, remedy)?);
        }
    }
    Ok(done)
}

struct Repair<'a> {
    names: NameHash,
    present: &'a mut dyn Present,
    now: Time,
}

impl Repair<'_> {
    fn one(&mut self, fault: &Fault, remedy: &Remedy) -> Result<bool, FsError> {
        let Fault { family, key, .. } = fault;
        match (family, remedy) {
            (Family::State, Remedy::Drop) => self.present.state_put(key, None),
            (Family::State, Remedy::Value(row)) => self.present.state_put(key, Some(row.clone())),
            (_, Remedy::Sign(sign)) => {
                self.present.state_put(&sign.encode(), Some(Bytes::from_static(&[1])));
            }
            (Family::Payload, Remedy::Drop) => return Ok(self.drop_payload(key)),
            (Family::Current, Remedy::Drop) => {
                let past = self.past(key)?;
                self.present.remove(key, past);
            }
            (Family::Current, Remedy::Kind(kind)) => {
                let Some(row) = self.present.get(key)? else { return Ok(false) };
                let dirent = Dirent { kind: *kind, ..Dirent::from_row(key, &row)? };
                self.present.put(key, dirent.to_row(), Past::Forget);
            }
            (Family::Current, remedy) => {
                let Some(Key::Inode { ino }) = Key::decode(key) else { return Ok(false) };
                return match remedy {
                    Remedy::Name => self.name(ino),
                    Remedy::Directory => self.directory(ino),
                    remedy => self.edit(ino, |inode| correct(inode, remedy)),
                };
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What becomes of the former value of a row.
    fn past(&mut self, key: &[u8]) -> Result<Past, FsError> {
        let owner = match Key::decode(key) {
            Some(Key::Inode { ino } | Key::Dirent { dir: ino, .. }) => self.inode(ino)?,
            Some(Key::Extents { .. } | Key::Xattr { .. }) | None => None,
        };
        Ok(owner.map_or(Past::Keep, |inode| past_of(&inode)))
    }

    fn inode(&mut self, ino: Ino) -> Result<Option<Inode>, FsError> {
        let key = key::inode(ino);
        self.present.get(&key)?.map(|row| Inode::from_row(&key, &row)).transpose()
    }

    fn put(&mut self, ino: Ino, inode: &Inode) {
        self.present.put(&key::inode(ino), inode.to_row(), Past::Forget);
    }

    fn edit(&mut self, ino: Ino, edit: impl FnOnce(&mut Inode)) -> Result<bool, FsError> {
        let Some(mut inode) = self.inode(ino)? else { return Ok(false) };
        edit(&mut inode);
        self.put(ino, &inode);
        Ok(true)
    }

    fn drop_payload(&mut self, key: &[u8]) -> bool {
        match (BlockId::from_bytes(key), self.present.replica()) {
            (Some(block), Some(replica)) => {
                replica.payload_remove(block);
                true
            }
            _ => false,
        }
    }

    /// Names an inode by its number.
    fn name(&mut self, ino: Ino) -> Result<bool, FsError> {
        let Some(dir) = self.lost_found()? else { return Ok(false) };
        let Some(mut inode) = self.inode(ino)? else { return Ok(false) };
        let name = format!("#{ino}").into_bytes();
        if dir == ino || !self.enter(dir, &name, Dirent { ino, kind: inode.kind })? {
            return Ok(false);
        }
        if inode.is_dir() {
            inode.parent = Some(dir);
        }
        inode.nlink = inode.nlink.max(if inode.is_dir() { 2 } else { 1 });
        self.put(ino, &inode);
        Ok(true)
    }

    /// A new entry, counted in its directory; false where the name is taken.
    fn enter(&mut self, dir: Ino, name: &[u8], dirent: Dirent) -> Result<bool, FsError> {
        let key = key::dirent(dir, self.names.of(name), name);
        if self.present.get(&key)?.is_some() {
            return Ok(false);
        }
        self.present.put(&key, dirent.to_row(), Past::Keep);
        self.edit(dir, |dir| {
            dir.size += 1;
            dir.nlink += u32::from(dirent.kind == FileKind::Directory);
        })
    }

    /// The directory for what has no name, made where it is missing.
    fn lost_found(&mut self) -> Result<Option<Ino>, FsError> {
        let key = key::dirent(Ino::ROOT, self.names.of(LOST_FOUND), LOST_FOUND);
        if let Some(row) = self.present.get(&key)? {
            let Dirent { ino, kind } = Dirent::from_row(&key, &row)?;
            let usable = kind == FileKind::Directory && self.inode(ino)?.is_some();
            return Ok(usable.then_some(ino));
        }
        let next_key = StateKey::Next.encode();
        let Some(row) = self.present.state(&next_key)? else { return Ok(None) };
        let mut next = Next::from_row(&next_key, &row)?;
        let Some(ino) = Ino::new(next.ino) else { return Ok(None) };
        // Where numbers were given out twice, the next round knows better.
        if self.inode(ino)?.is_some() || self.inode(Ino::ROOT)?.is_none() {
            return Ok(None);
        }
        next.ino += 1;
        self.present.state_put(&next_key, Some(next.to_row()));
        self.put(ino, &fresh_directory(Ino::ROOT, self.now));
        let kind = FileKind::Directory;
        self.enter(Ino::ROOT, LOST_FOUND, Dirent { ino, kind })?;
        Ok(Some(ino))
    }

    fn directory(&mut self, ino: Ino) -> Result<bool, FsError> {
        if self.inode(ino)?.is_some() {
            return Ok(false);
        }
        // The root is its own parent; any other has no name, and gets one in the next round.
        self.put(ino, &fresh_directory(Ino::ROOT, self.now));
        Ok(true)
    }
}

/// For its owner alone: nobody knows who was let in before.
fn fresh_directory(parent: Ino, now: Time) -> Inode {
    Inode { mode: 0o700, nlink: 2, parent: Some(parent), ..Inode::new(FileKind::Directory, now) }
}

fn correct(inode: &mut Inode, remedy: &Remedy) {
    match remedy {
        Remedy::Links(links) => inode.nlink = *links,
        Remedy::Entries(entries) => inode.size = *entries,
        Remedy::Allocated(bytes) => {
            inode.allocated = *bytes;
            // Contents are never cut off to fit a count.
            inode.size = inode.size.max(*bytes);
            inode.high = inode.high.max(inode.size);
        }
        Remedy::Parent(parent) => inode.parent = Some(*parent),
        Remedy::Attributes => inode.has_xattrs = true,
        Remedy::Drop
        | Remedy::Value(_)
        | Remedy::Sign(_)
        | Remedy::Kind(_)
        | Remedy::Name
        | Remedy::Directory => unreachable!("it edits no inode"),
    }
}
