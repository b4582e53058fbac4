//! A disk in memory that knows what is synced and what is not, and can lose its power.
//!
//! It is harsher than any real file system: after a cut, of what was not synced any part of any write may be there, at
//! the granularity of a sector, and any subset of the changes of a directory. A failed sync loses what it covered for
//! good, while reads go on showing it, as Linux does.

use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::disk::File;
use crate::store::disk::Space;
use crate::types::FsError;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::IoSlice;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// What a disk writes as one.
const SECTOR_BYTES: usize = 512;
/// What a file takes space by.
const UNIT_BYTES: u64 = 4096;

/// A disk in memory. Clones share it.
#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    capacity: u64,
    inodes: BTreeMap<u64, Inode>,
    dirs: BTreeMap<PathBuf, Dir>,
    next_inode: u64,
    /// Raised by every power cut: handles from before it are dead.
    boots: u64,
    /// Operations that still change something before the power goes; `None`: it stays.
    operations_left: Option<u64>,
    operations: u64,
    failing_syncs: Vec<String>,
    failing_reads: Vec<String>,
}

#[derive(Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    /// What reads see.
    cached: Vec<u8>,
    /// In the order they were made, since the last sync.
    unsynced: Vec<Change>,
    units: BTreeSet<u64>,
    handles: u32,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
    Punch { offset: usize, len: usize },
}

#[derive(Clone, Default)]
struct Dir {
    durable: BTreeMap<String, u64>,
    cached: BTreeMap<String, u64>,
    unsynced: Vec<Renaming>,
}

/// One change of a directory: names that go and names that come, as one.
#[derive(Clone)]
struct Renaming {
    gone: Option<String>,
    come: Option<(String, u64)>,
}

impl Renaming {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        if let Some(name) = &self.gone {
            names.remove(name);
        }
        if let Some((name, inode)) = &self.come {
            names.insert(name.clone(), *inode);
        }
    }
}

/// Chance from a seed (SplitMix64): the same on every machine, so a seed is a whole test case.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

impl SimulatedDisk {
    /// An empty disk of `capacity` bytes.
    pub fn new(capacity: u64) -> SimulatedDisk {
        let mut dirs = BTreeMap::new();
        dirs.insert(PathBuf::from("/"), Dir::default());
        let state = State {
            capacity,
            inodes: BTreeMap::new(),
            dirs,
            next_inode: 1,
            boots: 0,
            operations_left: None,
            operations: 0,
            failing_syncs: Vec::new(),
            failing_reads: Vec::new(),
        };
        SimulatedDisk { state: Arc::new(Mutex::new(state)) }
    }

    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// The power is cut and comes back: what was synced is there; of the rest, what `seed` decides. Files opened before
    /// fail from now on.
    pub fn crash(&self, seed: u64) {
        let state = &mut *self.state.lock();
        let mut chance = Chance(seed);
        state.boots += 1;
        state.operations_left = None;
        for dir in state.dirs.values_mut() {
            let kept = Kept::choose(&mut chance);
            for change in std::mem::take(&mut dir.unsynced) {
                if kept.whole(&mut chance) {
                    change.apply(&mut dir.durable);
                }
            }
            dir.cached = dir.durable.clone();
        }
        for inode in state.inodes.values_mut() {
            inode.crash(&mut chance);
        }
        let State { inodes, dirs, .. } = state;
        inodes
            .retain(|id, _| dirs.values().any(|dir| dir.durable.values().any(|named| named == id)));
    }

    /// Another disk with what lies in one directory of this one, which can be read: to look at without being noticed.
    pub fn copy_of(&self, dir: &Path) -> SimulatedDisk {
        let copy = SimulatedDisk::new(u64::MAX);
        {
            let (from, to) = (self.state.lock(), &mut *copy.state.lock());
            if let Some(dir_there) = from.dirs.get(dir) {
                to.dirs.insert(dir.to_path_buf(), dir_there.clone());
                let come = dir_there.unsynced.iter().filter_map(|change| change.come.as_ref());
                let ids = dir_there.cached.values().chain(dir_there.durable.values());
                let ids = ids.chain(come.map(|(_, id)| id));
                for id in ids.filter(|id| from.inodes.contains_key(id)) {
                    to.inodes.insert(*id, from.inodes[id].clone());
                }
            }
            to.next_inode = from.next_inode;
        }
        copy
    }

    /// Lets `operations` more calls change something; from then on every call fails until [`SimulatedDisk::crash`].
    pub fn power_off_after(&self, operations: u64) {
        self.state.lock().operations_left = Some(operations);
    }

    /// Calls so far that changed something.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    pub fn set_capacity(&self, capacity: u64) {
        self.state.lock().capacity = capacity;
    }

    /// Bytes of space taken by files.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// The next sync of a file or directory whose path contains `part` fails, and loses what it covered.
    pub fn fail_sync(&self, part: &str) {
        self.state.lock().failing_syncs.push(part.to_string());
    }

    /// Every read of a file whose path contains `part` fails from now on.
    pub fn fail_reads(&self, part: &str) {
        self.state.lock().failing_reads.push(part.to_string());
    }

    /// Reads are answered again.
    pub fn mend_reads(&self) {
        self.state.lock().failing_reads.clear();
    }

    /// Turns one bit of a file on the disk.
    ///
    /// # Errors
    /// `Io` where there is no such file or it is shorter.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> Result<(), FsError> {
        let mut state = self.state.lock();
        let id = state.named(path)?;
        let inode = state.inode(id);
        let at = offset as usize;
        for contents in [&mut inode.durable, &mut inode.cached] {
            let byte = contents.get_mut(at);
            let byte = byte.ok_or_else(|| FsError::Io(format!("{} is shorter", path.display())))?;
            *byte ^= 1 << (bit % 8);
        }
        Ok(())
    }

    /// Cuts a file on the disk, behind its users' backs.
    ///
    /// # Errors
    /// `Io` where there is no such file.
    pub fn cut(&self, path: &Path, len: u64) -> Result<(), FsError> {
        let mut state = self.state.lock();
        let id = state.named(path)?;
        let inode = state.inode(id);
        inode.durable.truncate(len as usize);
        inode.cached.truncate(len as usize);
        Ok(())
    }
}

/// How much a power cut leaves of one file or directory: often all or nothing, for these are the likely cases.
#[derive(Clone, Copy)]
enum Kept {
    All,
    Nothing,
    Some,
}

impl Kept {
    fn choose(chance: &mut Chance) -> Kept {
        match chance.below(4) {
            0 => Kept::All,
            1 => Kept::Nothing,
            _ => Kept::Some,
        }
    }

    fn whole(self, chance: &mut Chance) -> bool {
        match self {
            Kept::All => true,
            Kept::Nothing => false,
            Kept::Some => chance.below(2) == 0,
        }
    }
}

impl Inode {
    fn crash(&mut self, chance: &mut Chance) {
        let kept = Kept::choose(chance);
        let mut durable = std::mem::take(&mut self.durable);
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Write { offset, bytes } => {
                    keep_sectors(&mut durable, offset, &bytes, kept, chance);
                }
                other if kept.whole(chance) => other.apply(&mut durable),
                Change::SetLen(_) | Change::Punch { .. } => {}
            }
        }
        self.units = (0..(durable.len() as u64).div_ceil(UNIT_BYTES)).collect();
        self.cached = durable.clone();
        self.durable = durable;
        self.handles = 0;
    }
}

/// Of a write that was not synced: all of it, nothing, its beginning, or any of its sectors.
fn keep_sectors(
    durable: &mut Vec<u8>,
    offset: usize,
    bytes: &[u8],
    kept: Kept,
    chance: &mut Chance,
) {
    let sectors = (offset % SECTOR_BYTES + bytes.len()).div_ceil(SECTOR_BYTES) as u64;
    let beginning = chance.below(sectors + 1);
    let torn = chance.below(2) == 0;
    let mut at = 0;
    for sector in 0..sectors {
        let len = (SECTOR_BYTES - (offset + at) % SECTOR_BYTES).min(bytes.len() - at);
        let keep = match kept {
            Kept::All => true,
            Kept::Nothing => false,
            Kept::Some if torn => sector < beginning,
            Kept::Some => chance.below(2) == 0,
        };
        if keep {
            let part = bytes[at..at + len].to_vec();
            Change::Write { offset: offset + at, bytes: part }.apply(durable);
        }
        at += len;
    }
}

impl Change {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if contents.len() < end {
                    contents.resize(end, 0);
                }
                contents[*offset..end].copy_from_slice(bytes);
            }
            Change::SetLen(len) => contents.resize(*len, 0),
            Change::Punch { offset, len } => {
                let end = contents.len().min(offset + len);
                contents[end.min(*offset)..end].fill(0);
            }
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        let named: BTreeSet<u64> =
            self.dirs.values().flat_map(|dir| dir.cached.values().copied()).collect();
        let taken = self.inodes.iter();
        let taken = taken.filter(|(id, inode)| named.contains(id) || inode.handles > 0);
        taken.map(|(_, inode)| inode.units.len() as u64 * UNIT_BYTES).sum()
    }

    fn inode(&mut self, id: u64) -> &mut Inode {
        self.inodes.get_mut(&id).expect("an inode lives as long as a name or handle of it")
    }

    fn dir(&mut self, path: &Path) -> Result<&mut Dir, FsError> {
        let dir = self.dirs.get_mut(path);
        dir.ok_or_else(|| FsError::Io(format!("{}: no such directory", path.display())))
    }

    fn named(&mut self, path: &Path) -> Result<u64, FsError> {
        let (dir, name) = split(path);
        let inode = self.dir(&dir)?.cached.get(&name).copied();
        inode.ok_or_else(|| FsError::Io(format!("{}: no such file", path.display())))
    }

    fn powered(&self) -> Result<(), FsError> {
        if self.operations_left == Some(0) {
            return Err(FsError::Io("the power is off".to_string()));
        }
        Ok(())
    }

    /// Counts an operation that changes something.
    fn operation(&mut self) -> Result<(), FsError> {
        self.powered()?;
        self.operations += 1;
        if let Some(left) = &mut self.operations_left {
            *left -= 1;
        }
        Ok(())
    }

    fn rename(&mut self, dir: &Path, change: Renaming) -> Result<(), FsError> {
        self.operation()?;
        let dir = self.dir(dir)?;
        change.apply(&mut dir.cached);
        dir.unsynced.push(change);
        Ok(())
    }

    fn sync_fails(&mut self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        let failing = self.failing_syncs.iter().position(|part| path.contains(part.as_str()));
        failing.map(|at| self.failing_syncs.swap_remove(at)).is_some()
    }

    fn change(&mut self, id: u64, change: Change) -> Result<(), FsError> {
        self.operation()?;
        let inode = self.inode(id);
        change.apply(&mut inode.cached);
        inode.unsynced.push(change);
        Ok(())
    }

    /// Takes space for a range, or says that there is none.
    fn take(&mut self, id: u64, offset: u64, len: u64) -> Result<(), FsError> {
        let units = offset / UNIT_BYTES..(offset + len).div_ceil(UNIT_BYTES);
        let taken = &self.inode(id).units;
        let wanted = units.clone().filter(|unit| !taken.contains(unit)).count() as u64;
        if wanted > 0 && self.used() + wanted * UNIT_BYTES > self.capacity {
            return Err(FsError::NoSpace);
        }
        self.inode(id).units.extend(units);
        Ok(())
    }
}

fn split(path: &Path) -> (PathBuf, String) {
    let dir = path.parent().expect("files lie in directories").to_path_buf();
    let name = path.file_name().expect("files have names");
    (dir, name.to_str().expect("our names are UTF-8").to_string())
}

impl Disk for SimulatedDisk {
    fn make_dir(&self, path: &Path) -> Result<(), FsError> {
        let mut state = self.state.lock();
        state.operation()?;
        // Directories are made once, when a store is; that they last is taken for granted here.
        state.dirs.entry(path.to_path_buf()).or_default();
        Ok(())
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        let mut state = self.state.lock();
        let (dir, name) = split(path);
        if state.dir(&dir)?.cached.contains_key(&name) {
            return Err(FsError::Io(format!("create {}: it exists", path.display())));
        }
        let id = state.next_inode;
        state.rename(&dir, Renaming { gone: None, come: Some((name, id)) })?;
        state.next_inode += 1;
        state.inodes.insert(id, Inode::default());
        drop(state);
        self.open(path, Access::ReadWrite)
    }

    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>, FsError> {
        let mut state = self.state.lock();
        state.powered()?;
        let id = state.named(path)?;
        state.inode(id).handles += 1;
        let (boot, path) = (state.boots, path.to_path_buf());
        Ok(Arc::new(SimulatedFile { disk: self.clone(), id, boot, access, path }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, FsError> {
        let mut state = self.state.lock();
        state.powered()?;
        Ok(state.dir(dir)?.cached.keys().cloned().collect())
    }

    fn exists(&self, path: &Path) -> Result<bool, FsError> {
        let mut state = self.state.lock();
        state.powered()?;
        Ok(state.dirs.contains_key(path) || state.named(path).is_ok())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        let mut state = self.state.lock();
        let id = state.named(from)?;
        let ((dir, gone), (_, come)) = (split(from), split(to));
        state.rename(&dir, Renaming { gone: Some(gone), come: Some((come, id)) })
    }

    fn remove(&self, path: &Path) -> Result<(), FsError> {
        let mut state = self.state.lock();
        state.named(path)?;
        let (dir, name) = split(path);
        state.rename(&dir, Renaming { gone: Some(name), come: None })
    }

    fn sync_dir(&self, path: &Path) -> Result<(), FsError> {
        let mut state = self.state.lock();
        state.operation()?;
        let fails = state.sync_fails(path);
        let dir = state.dir(path)?;
        let unsynced = std::mem::take(&mut dir.unsynced);
        if fails {
            return Err(FsError::Io(format!("sync directory {}: injected", path.display())));
        }
        for change in unsynced {
            change.apply(&mut dir.durable);
        }
        Ok(())
    }

    fn space(&self, _path: &Path) -> Result<Space, FsError> {
        let state = self.state.lock();
        state.powered()?;
        let used = state.used();
        Ok(Space { total: state.capacity, free: state.capacity.saturating_sub(used) })
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    id: u64,
    boot: u64,
    access: Access,
    path: PathBuf,
}

impl SimulatedFile {
    fn with<T>(&self, run: impl FnOnce(&mut State) -> Result<T, FsError>) -> Result<T, FsError> {
        let mut state = self.disk.state.lock();
        if state.boots != self.boot {
            return Err(FsError::Io(format!("{}: opened before a crash", self.path.display())));
        }
        state.powered()?;
        run(&mut state)
    }

    fn changing<T>(
        &self,
        run: impl FnOnce(&mut State) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        if self.access == Access::Read {
            return Err(FsError::Io(format!("{}: opened for reading", self.path.display())));
        }
        self.with(run)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.boots == self.boot
            && let Some(inode) = state.inodes.get_mut(&self.id)
        {
            inode.handles -= 1;
        }
    }
}

impl File for SimulatedFile {
    fn len(&self) -> Result<u64, FsError> {
        self.with(|state| Ok(state.inode(self.id).cached.len() as u64))
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, FsError> {
        self.with(|state| {
            let path = self.path.to_string_lossy();
            if state.failing_reads.iter().any(|part| path.contains(part.as_str())) {
                return Err(FsError::Io(format!("read {path}: injected")));
            }
            let contents = &state.inode(self.id).cached;
            let start = contents.len().min(offset as usize);
            let end = contents.len().min(start + len);
            Ok(contents[start..end].to_vec())
        })
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> Result<(), FsError> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.changing(|state| {
            state.take(self.id, offset, bytes.len() as u64)?;
            state.change(self.id, Change::Write { offset: offset as usize, bytes })
        })
    }

    fn sync_data(&self) -> Result<(), FsError> {
        self.changing(|state| {
            state.operation()?;
            let fails = state.sync_fails(&self.path);
            let inode = state.inode(self.id);
            let unsynced = std::mem::take(&mut inode.unsynced);
            if fails {
                return Err(FsError::Io(format!("sync {}: injected", self.path.display())));
            }
            for change in unsynced {
                change.apply(&mut inode.durable);
            }
            Ok(())
        })
    }

    fn sync_all(&self) -> Result<(), FsError> {
        self.sync_data()
    }

    fn set_len(&self, len: u64) -> Result<(), FsError> {
        self.changing(|state| {
            state.inode(self.id).units.split_off(&len.div_ceil(UNIT_BYTES));
            state.change(self.id, Change::SetLen(len as usize))
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<(), FsError> {
        self.changing(|state| {
            state.take(self.id, offset, len)?;
            let end = (offset + len) as usize;
            if end > state.inode(self.id).cached.len() {
                state.change(self.id, Change::SetLen(end))?;
            }
            Ok(())
        })
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), FsError> {
        self.changing(|state| {
            let whole = offset.div_ceil(UNIT_BYTES)..(offset + len) / UNIT_BYTES;
            state.inode(self.id).units.retain(|unit| !whole.contains(unit));
            let (offset, len) = (offset as usize, len as usize);
            state.change(self.id, Change::Punch { offset, len })
        })
    }
}

#[cfg(test)]
mod tests;
