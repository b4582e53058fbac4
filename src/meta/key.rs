//! Every metadata key, with the table of prefixes and their order.
//!
//! Numbers are big-endian, so that bytes sort as the numbers do. The first byte is the kind. Names end with a zero
//! byte, which no name contains: with that, no key of a series is the beginning of another.
//!
//! | family | key | what the row holds |
//! |---|---|---|
//! | Current, History | `I` ino8 | [`record::Inode`](crate::meta::record::Inode) |
//! | | `D` dir8 hash8 name 00 | [`record::Dirent`](crate::meta::record::Dirent) |
//! | | `E` ino8 generation4 region4 | [`extents::Extents`](crate::meta::extents::Extents) |
//! | | `X` ino8 name 00 | the value of an extended attribute |
//! | State | `s` | [`record::Store`](crate::meta::record::Store) |
//! | | `n` | [`record::Next`](crate::meta::record::Next) |
//! | | `g` | [`record::Grant`](crate::meta::record::Grant) on the root |
//! | | `G` epoch8 ino8 | nothing: nobody owns the inode, until there is a grant of the whole with this epoch or a later one |
//! | | `R` last8 | [`record::Range`](crate::meta::record::Range) of inode numbers, by the last of them |
//! | | `N` session8 last8 | nothing: the range that ends there is the session's |
//! | | `S` session8 | [`record::Session`](crate::meta::record::Session) |
//! | | `L` ino8 session8 | [`record::Locks`](crate::meta::record::Locks): what the session has locked of the inode |
//! | | `l` session8 ino8 | nothing: the session has locks on the inode |
//! | | `O` session8 ino8 | nothing: an orphan of the session |
//! | | `C` block16 | [`record::Lives`](crate::meta::record::Lives), where there are two or more |
//! | | `M` name 00 | [`record::Mark`](crate::meta::record::Mark) |
//! | | `T` stamp8 name 00 | nothing: the marks by instant |
//! | | `r` | [`record::Retention`](crate::meta::record::Retention) |
//! | | `h` | [`record::Horizon`](crate::meta::record::Horizon) |
//! | | `Q` ino8 generation4 or FF×4 | nothing: extent rows, or attributes, that nothing names any more |
//! | | `K` mark8 from8 key | nothing: a version past its time that the mark keeps |
//! | | `U` mark8 | nothing: a removed mark whose kept versions are to be looked at again |
//! | | `t` | [`record::Totals`](crate::meta::record::Totals) |
//! | | `c` … | rows of the cluster: [`ClusterKey`] |

mod cluster;

pub use cluster::ClusterKey;
pub use cluster::is_for_nodes_only;

use crate::series::Groups;
use crate::series::KeyRange;
use crate::types::BlockId;
use crate::types::Generation;
use crate::types::Ino;
use crate::types::NAME_BYTES_MAX;
use crate::types::Region;
use crate::types::SessionId;
use crate::types::Stamp;
use siphasher::sip::SipHasher13;
use std::fmt;
use std::ops::Deref;

const INODE: u8 = b'I';
const DIRENT: u8 = b'D';
const EXTENTS: u8 = b'E';
const XATTR: u8 = b'X';

/// A directory entry's key with the longest name is the longest key.
pub const KEY_BYTES_MAX: usize = 1 + 8 + 8 + NAME_BYTES_MAX + 1;

/// Smaller cookies are left to the start of a directory, `.`, `..`, and what a view of the directory adds.
const HASH_MIN: u64 = 16;

/// A key on the stack: keys are made for every row that an op touches.
#[derive(Clone, Copy)]
pub struct KeyBytes {
    bytes: [u8; KEY_BYTES_MAX],
    len: u16,
}

impl KeyBytes {
    fn new(kind: u8) -> KeyBytes {
        let mut key = KeyBytes { bytes: [0; KEY_BYTES_MAX], len: 1 };
        key.bytes[0] = kind;
        key
    }

    /// Appends. Names were checked against their bound before a key is made of them.
    fn with(mut self, part: &[u8]) -> KeyBytes {
        let len = usize::from(self.len);
        self.bytes[len..len + part.len()].copy_from_slice(part);
        self.len += part.len() as u16;
        self
    }

    fn u64(self, number: u64) -> KeyBytes {
        self.with(&number.to_be_bytes())
    }

    fn name(self, name: &[u8]) -> KeyBytes {
        self.with(name).with(&[0])
    }
}

impl Deref for KeyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The order of the entries of a directory: a hash under a key of the store's own, so that nobody who names files
/// can choose it. It is also the entry's cookie for `readdir`: at least 16, and positive as an `i64`.
#[derive(Clone, Copy)]
pub struct NameHash {
    hasher: SipHasher13,
}

impl NameHash {
    pub fn new(key: [u8; 16]) -> NameHash {
        NameHash { hasher: SipHasher13::new_with_key(&key) }
    }

    pub fn of(&self, name: &[u8]) -> u64 {
        // 63 bits, and the lowest values folded onto others.
        let hash = self.hasher.hash(name) >> 1;
        if hash < HASH_MIN { hash + HASH_MIN } else { hash }
    }
}

impl fmt::Debug for NameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameHash")
    }
}

/// The key of a series, understood.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    Dirent { dir: Ino, hash: u64, name: Vec<u8> },
    Extents { ino: Ino, generation: Generation, region: Region },
    Inode { ino: Ino },
    Xattr { ino: Ino, name: Vec<u8> },
}

impl Key {
    /// The inode that the row belongs to: an entry to its directory, contents and attributes to their file.
    pub fn ino(&self) -> Ino {
        match self {
            Key::Dirent { dir: ino, .. }
            | Key::Extents { ino, .. }
            | Key::Inode { ino }
            | Key::Xattr { ino, .. } => *ino,
        }
    }

    pub fn encode(&self) -> KeyBytes {
        match self {
            Key::Dirent { dir, hash, name } => dirent(*dir, *hash, name),
            Key::Extents { ino, generation, region } => extents(*ino, *generation, *region),
            Key::Inode { ino } => inode(*ino),
            Key::Xattr { ino, name } => xattr(*ino, name),
        }
    }

    /// `None` where the bytes are not a series' key.
    pub fn decode(key: &[u8]) -> Option<Key> {
        let mut parts = Parts(key);
        let key = match parts.u8()? {
            DIRENT => {
                let (dir, hash) = (parts.ino()?, parts.u64()?);
                let name = parts.name()?;
                (HASH_MIN..=i64::MAX as u64).contains(&hash).then_some(())?;
                Key::Dirent { dir, hash, name }
            }
            EXTENTS => Key::Extents {
                ino: parts.ino()?,
                generation: Generation(parts.u32()?),
                region: Region(parts.u32()?),
            },
            INODE => Key::Inode { ino: parts.ino()? },
            XATTR => Key::Xattr { ino: parts.ino()?, name: parts.name()? },
            _ => return None,
        };
        parts.end(key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Dirent { dir, name, .. } => {
                write!(f, "entry \"{}\" of directory {dir}", name.escape_ascii())
            }
            Key::Extents { ino, generation, region } => {
                write!(
                    f,
                    "extents of inode {ino}, generation {}, region {}",
                    generation.0, region.0
                )
            }
            Key::Inode { ino } => write!(f, "inode {ino}"),
            Key::Xattr { ino, name } => {
                write!(f, "attribute \"{}\" of inode {ino}", name.escape_ascii())
            }
        }
    }
}

/// The inode that every key belongs to which begins with these bytes. `None` where they are too few, or no series' key.
pub fn inode_of(start: &[u8]) -> Option<Ino> {
    let mut parts = Parts(start);
    matches!(parts.u8()?, INODE | DIRENT | EXTENTS | XATTR).then_some(())?;
    parts.ino()
}

/// A key in words, for messages about damage.
pub fn describe(key: &[u8]) -> String {
    if let Some(key) = Key::decode(key) {
        return key.to_string();
    }
    match StateKey::decode(key) {
        Some(key) => format!("state row {key:?}"),
        None => format!("row with the unknown key \"{}\"", key.escape_ascii()),
    }
}

/// The series whose past is listed by group: the entries of a directory, the attributes of a file. All others are read
/// one key at a time or in a short range.
pub const GROUPS: Groups = Groups { prefix: group_prefix };

const GROUP_PREFIX_BYTES: usize = 1 + 8;

fn group_prefix(key: &[u8]) -> Option<usize> {
    match key.first() {
        Some(&DIRENT | &XATTR) if key.len() >= GROUP_PREFIX_BYTES => Some(GROUP_PREFIX_BYTES),
        _ => None,
    }
}

pub fn inode(ino: Ino) -> KeyBytes {
    KeyBytes::new(INODE).u64(ino.get())
}

/// Every inode.
pub fn inodes() -> KeyRange {
    KeyRange::prefix(&[INODE])
}

/// `name` has at most [`NAME_BYTES_MAX`] bytes.
pub fn dirent(dir: Ino, hash: u64, name: &[u8]) -> KeyBytes {
    KeyBytes::new(DIRENT).u64(dir.get()).u64(hash).name(name)
}

/// The entries of a directory in the order of their cookies, those after cookie `after`.
pub fn dirents(dir: Ino, after: u64) -> KeyRange {
    let prefix = KeyBytes::new(DIRENT).u64(dir.get());
    let mut range = KeyRange::prefix(&prefix);
    range.start = prefix.u64(after.saturating_add(1)).to_vec();
    range
}

/// The entries of every directory.
pub fn all_dirents() -> KeyRange {
    KeyRange::prefix(&[DIRENT])
}

pub fn extents(ino: Ino, generation: Generation, region: Region) -> KeyBytes {
    KeyBytes::new(EXTENTS)
        .u64(ino.get())
        .with(&generation.0.to_be_bytes())
        .with(&region.0.to_be_bytes())
}

/// The extent rows of one content, from a region on.
pub fn extents_from(ino: Ino, generation: Generation, region: Region) -> KeyRange {
    let prefix = KeyBytes::new(EXTENTS).u64(ino.get()).with(&generation.0.to_be_bytes());
    let mut range = KeyRange::prefix(&prefix);
    range.start = prefix.with(&region.0.to_be_bytes()).to_vec();
    range
}

/// The extent rows of every file.
pub fn all_extents() -> KeyRange {
    KeyRange::prefix(&[EXTENTS])
}

/// `name` has at most [`NAME_BYTES_MAX`] bytes.
pub fn xattr(ino: Ino, name: &[u8]) -> KeyBytes {
    KeyBytes::new(XATTR).u64(ino.get()).name(name)
}

/// The extended attributes of one inode, by name.
pub fn xattrs(ino: Ino) -> KeyRange {
    KeyRange::prefix(&KeyBytes::new(XATTR).u64(ino.get()))
}

/// The extended attributes of every inode.
pub fn all_xattrs() -> KeyRange {
    KeyRange::prefix(&[XATTR])
}

/// The key of a row without a history, understood.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum StateKey {
    Store,
    Next,
    Grant,
    /// The epoch is the one that was next. The key has it, so that what is void lies together, before all that counts.
    Shared {
        epoch: u64,
        ino: Ino,
    },
    Range {
        last: Ino,
    },
    RangeOf {
        session: SessionId,
        last: Ino,
    },
    Session {
        session: SessionId,
    },
    Orphan {
        session: SessionId,
        ino: Ino,
    },
    Locks {
        ino: Ino,
        session: SessionId,
    },
    LocksOf {
        session: SessionId,
        ino: Ino,
    },
    Lives {
        block: BlockId,
    },
    Mark {
        name: Vec<u8>,
    },
    MarkAt {
        stamp: Stamp,
        name: Vec<u8>,
    },
    Retention,
    Horizon,
    Sweep(Sweep),
    Kept {
        mark: Stamp,
        from: Stamp,
        key: Vec<u8>,
    },
    Unmarked {
        mark: Stamp,
    },
    Totals,
    Cluster(ClusterKey),
}

/// Rows that no version of an inode leads to any more, waiting to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sweep {
    Extents { ino: Ino, generation: Generation },
    Xattrs { ino: Ino },
}

/// In place of a generation, which never gets there: see [`crate::meta::record::GENERATION_MAX`].
const SWEEP_XATTRS: u32 = u32::MAX;

impl StateKey {
    pub fn encode(&self) -> Vec<u8> {
        let mut key = vec![self.kind()];
        match self {
            StateKey::Shared { epoch, ino } => {
                key.extend(epoch.to_be_bytes());
                key.extend(ino.get().to_be_bytes());
            }
            StateKey::Range { last } => key.extend(last.get().to_be_bytes()),
            StateKey::RangeOf { session, last } => {
                key.extend(session.0.to_be_bytes());
                key.extend(last.get().to_be_bytes());
            }
            StateKey::Session { session } => key.extend(session.0.to_be_bytes()),
            StateKey::Locks { ino, session } => {
                key.extend(ino.get().to_be_bytes());
                key.extend(session.0.to_be_bytes());
            }
            StateKey::Orphan { session, ino } | StateKey::LocksOf { session, ino } => {
                key.extend(session.0.to_be_bytes());
                key.extend(ino.get().to_be_bytes());
            }
            StateKey::Lives { block } => key.extend(block.to_bytes()),
            StateKey::Mark { name } => {
                key.extend(name);
                key.push(0);
            }
            StateKey::MarkAt { stamp, name } => {
                key.extend(stamp.0.to_be_bytes());
                key.extend(name);
                key.push(0);
            }
            StateKey::Sweep(sweep) => {
                let (ino, number) = match sweep {
                    Sweep::Extents { ino, generation } => (ino, generation.0),
                    Sweep::Xattrs { ino } => (ino, SWEEP_XATTRS),
                };
                key.extend(ino.get().to_be_bytes());
                key.extend(number.to_be_bytes());
            }
            StateKey::Kept { mark, from, key: kept } => {
                key.extend(mark.0.to_be_bytes());
                key.extend(from.0.to_be_bytes());
                key.extend(kept);
            }
            StateKey::Unmarked { mark } => key.extend(mark.0.to_be_bytes()),
            StateKey::Cluster(part) => part.put(&mut key),
            StateKey::Store
            | StateKey::Next
            | StateKey::Grant
            | StateKey::Retention
            | StateKey::Horizon
            | StateKey::Totals => {}
        }
        key
    }

    fn kind(&self) -> u8 {
        match self {
            StateKey::Store => b's',
            StateKey::Next => b'n',
            StateKey::Grant => b'g',
            StateKey::Shared { .. } => b'G',
            StateKey::Range { .. } => b'R',
            StateKey::RangeOf { .. } => b'N',
            StateKey::Session { .. } => b'S',
            StateKey::Orphan { .. } => b'O',
            StateKey::Locks { .. } => b'L',
            StateKey::LocksOf { .. } => b'l',
            StateKey::Lives { .. } => b'C',
            StateKey::Mark { .. } => b'M',
            StateKey::MarkAt { .. } => b'T',
            StateKey::Retention => b'r',
            StateKey::Horizon => b'h',
            StateKey::Sweep(_) => b'Q',
            StateKey::Kept { .. } => b'K',
            StateKey::Unmarked { .. } => b'U',
            StateKey::Totals => b't',
            StateKey::Cluster(_) => ClusterKey::KIND,
        }
    }

    /// `None` where the bytes are not the key of a row without a history.
    pub fn decode(key: &[u8]) -> Option<StateKey> {
        let mut parts = Parts(key);
        let key = match parts.u8()? {
            b's' => StateKey::Store,
            b'n' => StateKey::Next,
            b'g' => StateKey::Grant,
            b'G' => StateKey::Shared { epoch: parts.u64()?, ino: parts.ino()? },
            b'R' => StateKey::Range { last: parts.ino()? },
            b'N' => StateKey::RangeOf { session: SessionId(parts.u64()?), last: parts.ino()? },
            b'S' => StateKey::Session { session: SessionId(parts.u64()?) },
            b'O' => StateKey::Orphan { session: SessionId(parts.u64()?), ino: parts.ino()? },
            b'L' => StateKey::Locks { ino: parts.ino()?, session: SessionId(parts.u64()?) },
            b'l' => StateKey::LocksOf { session: SessionId(parts.u64()?), ino: parts.ino()? },
            b'C' => StateKey::Lives { block: BlockId::from_bytes(parts.take(BlockId::BYTES)?)? },
            b'M' => StateKey::Mark { name: parts.name()? },
            b'T' => StateKey::MarkAt { stamp: Stamp(parts.u64()?), name: parts.name()? },
            b'r' => StateKey::Retention,
            b'h' => StateKey::Horizon,
            b'Q' => {
                let ino = parts.ino()?;
                StateKey::Sweep(match parts.u32()? {
                    SWEEP_XATTRS => Sweep::Xattrs { ino },
                    number => Sweep::Extents { ino, generation: Generation(number) },
                })
            }
            b'K' => {
                let (mark, from) = (Stamp(parts.u64()?), Stamp(parts.u64()?));
                let key = parts.rest();
                Key::decode(&key)?;
                StateKey::Kept { mark, from, key }
            }
            b'U' => StateKey::Unmarked { mark: Stamp(parts.u64()?) },
            b't' => StateKey::Totals,
            ClusterKey::KIND => StateKey::Cluster(ClusterKey::take(&mut parts)?),
            _ => return None,
        };
        parts.end(key)
    }

    /// All inodes that were given back.
    pub fn shared() -> KeyRange {
        KeyRange::prefix(b"G")
    }

    /// Those that were given back before the grant of the whole that `epoch` follows: nothing follows from them any more.
    pub fn void(epoch: u64) -> KeyRange {
        let end = [b"G".as_slice(), &epoch.to_be_bytes()].concat();
        KeyRange { start: b"G".to_vec(), end }
    }

    /// The ranges of inode numbers that end with `ino` or behind it, in order.
    pub fn ranges_from(ino: Ino) -> KeyRange {
        let mut range = KeyRange::prefix(b"R");
        range.start = StateKey::Range { last: ino }.encode();
        range
    }

    /// All ranges of inode numbers.
    pub fn ranges() -> KeyRange {
        KeyRange::prefix(b"R")
    }

    /// The ranges of one session.
    pub fn ranges_of(session: SessionId) -> KeyRange {
        KeyRange::prefix(&[b"N".as_slice(), &session.0.to_be_bytes()].concat())
    }

    /// The ranges by sessions.
    pub fn all_ranges_of() -> KeyRange {
        KeyRange::prefix(b"N")
    }

    /// All rows of sessions.
    pub fn sessions() -> KeyRange {
        KeyRange::prefix(b"S")
    }

    /// The orphans of one session.
    pub fn orphans(session: SessionId) -> KeyRange {
        KeyRange::prefix(&[b"O".as_slice(), &session.0.to_be_bytes()].concat())
    }

    /// The orphans of all sessions.
    pub fn all_orphans() -> KeyRange {
        KeyRange::prefix(b"O")
    }

    /// What sessions have locked of an inode.
    pub fn locks_on(ino: Ino) -> KeyRange {
        KeyRange::prefix(&[b"L".as_slice(), &ino.get().to_be_bytes()].concat())
    }

    /// What sessions have locked of any inode.
    pub fn locks() -> KeyRange {
        KeyRange::prefix(b"L")
    }

    /// The inodes that a session has locks on.
    pub fn locks_of(session: SessionId) -> KeyRange {
        KeyRange::prefix(&[b"l".as_slice(), &session.0.to_be_bytes()].concat())
    }

    /// The same of all sessions.
    pub fn all_locks_of() -> KeyRange {
        KeyRange::prefix(b"l")
    }

    /// All counts of lives.
    pub fn lives() -> KeyRange {
        KeyRange::prefix(b"C")
    }

    /// All marks, by name.
    pub fn marks() -> KeyRange {
        KeyRange::prefix(b"M")
    }

    /// The marks of instants in `[from, to)`, oldest first.
    pub fn marks_in(from: Stamp, to: Stamp) -> KeyRange {
        let at = |stamp: Stamp| [b"T".as_slice(), &stamp.0.to_be_bytes()].concat();
        KeyRange { start: at(from), end: at(to) }
    }

    /// Everything that waits to be swept.
    pub fn sweeps() -> KeyRange {
        KeyRange::prefix(b"Q")
    }

    /// The versions that one mark keeps.
    pub fn kept_by(mark: Stamp) -> KeyRange {
        KeyRange::prefix(&[b"K".as_slice(), &mark.0.to_be_bytes()].concat())
    }

    /// The versions that marks keep.
    pub fn all_kept() -> KeyRange {
        KeyRange::prefix(b"K")
    }

    /// Removed marks with work left.
    pub fn unmarked() -> KeyRange {
        KeyRange::prefix(b"U")
    }
}

/// The rest of a key that is being understood.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(part)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|part| part[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    fn ino(&mut self) -> Option<Ino> {
        self.u64().and_then(Ino::new)
    }

    /// A name and its final zero, which end the key.
    fn name(&mut self) -> Option<Vec<u8>> {
        let (last, name) = self.0.split_last()?;
        let good = *last == 0 && (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(&0);
        self.0 = &[];
        good.then(|| name.to_vec())
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }

    fn end<T>(self, whole: T) -> Option<T> {
        self.0.is_empty().then_some(whole)
    }
}

#[cfg(test)]
mod tests;
