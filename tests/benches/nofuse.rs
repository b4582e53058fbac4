//! `nofuse`: a file system in memory behind the same transport as tsfs, and nothing else.
//!
//! It is the ceiling: what FUSE itself costs on this machine. No history, no disk, no limits, no care for memory.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tsfs::env::Clock;
use tsfs::env::SystemClock;
use tsfs::fuse::mount::MountOptions;
use tsfs::fuse::mount::mount;
use tsfs::fuse::vfs::Answer;
use tsfs::fuse::vfs::Cache;
use tsfs::fuse::vfs::DirEntry;
use tsfs::fuse::vfs::DirSink;
use tsfs::fuse::vfs::Done;
use tsfs::fuse::vfs::Entry;
use tsfs::fuse::vfs::Handle;
use tsfs::fuse::vfs::Kernel;
use tsfs::fuse::vfs::Lookup;
use tsfs::fuse::vfs::Make;
use tsfs::fuse::vfs::OpenFlags;
use tsfs::fuse::vfs::Opened;
use tsfs::fuse::vfs::Place;
use tsfs::fuse::vfs::Request;
use tsfs::fuse::vfs::SetAttr;
use tsfs::fuse::vfs::SetTime;
use tsfs::fuse::vfs::Stat;
use tsfs::fuse::vfs::Stop;
use tsfs::fuse::vfs::Vfs;
use tsfs::fuse::vfs::WriteHow;
use tsfs::tsdb_client::Allocate;
use tsfs::tsdb_client::RenameHow;
use tsfs::tsdb_client::SeekFor;
use tsfs::tsdb_client::Space;
use tsfs::tsdb_client::XattrHow;
use tsfs::types::Attr;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::Time;

/// As long as tsfs lets the kernel believe things.
const VALID: Duration = Duration::from_secs(24 * 3600);

struct Node {
    attr: Attr,
    data: Vec<u8>,
    target: Bytes,
    xattrs: BTreeMap<Vec<u8>, Bytes>,
    parent: Ino,
    names: HashMap<Vec<u8>, u64>,
    /// By cookie, so that a listing goes on where it stopped.
    entries: BTreeMap<u64, (Vec<u8>, Ino)>,
    next_cookie: u64,
}

struct State {
    nodes: HashMap<Ino, Node>,
    next: u64,
}

/// The file system.
pub(crate) struct Memory(Mutex<State>);

fn stop<T>(error: FsError) -> Answer<T> {
    Err(Stop::Error(error))
}

impl State {
    fn node(&mut self, ino: Ino) -> Result<&mut Node, Stop> {
        self.nodes.get_mut(&ino).ok_or(Stop::Error(FsError::Stale))
    }

    fn find(&mut self, dir: Ino, name: &[u8]) -> Result<Ino, Stop> {
        let dir = self.node(dir)?;
        let cookie = dir.names.get(name).ok_or(Stop::Error(FsError::NotFound))?;
        Ok(dir.entries[cookie].1)
    }

    fn add(&mut self, dir: Ino, name: &[u8], ino: Ino, now: Time) -> Result<(), Stop> {
        let dir = self.node(dir)?;
        dir.next_cookie += 1;
        dir.names.insert(name.to_vec(), dir.next_cookie);
        dir.entries.insert(dir.next_cookie, (name.to_vec(), ino));
        (dir.attr.mtime, dir.attr.ctime) = (now, now);
        Ok(())
    }

    /// Takes a name out of its directory, and the node with it if it was the last.
    fn take(&mut self, dir: Ino, name: &[u8], now: Time) -> Result<Ino, Stop> {
        let parent = self.node(dir)?;
        let cookie = parent.names.remove(name).ok_or(Stop::Error(FsError::NotFound))?;
        let (_, ino) = parent.entries.remove(&cookie).expect("each name has an entry");
        (parent.attr.mtime, parent.attr.ctime) = (now, now);
        Ok(ino)
    }

    fn unlinked(&mut self, ino: Ino, now: Time) -> Result<(), Stop> {
        let node = self.node(ino)?;
        node.attr.ctime = now;
        node.attr.nlink = node.attr.nlink.saturating_sub(1);
        // An open file would be lost here; the benches have none.
        if node.attr.nlink == 0 || node.attr.kind == FileKind::Directory {
            self.nodes.remove(&ino);
        }
        Ok(())
    }

    fn entry(&mut self, ino: Ino) -> Result<Entry, Stop> {
        let attr = self.node(ino)?.attr.clone();
        Ok(Entry { stat: Stat { attr, valid: VALID }, valid: VALID })
    }

    fn make(
        &mut self,
        request: &Request,
        dir: Ino,
        name: &[u8],
        make: &Make,
    ) -> Result<Entry, Stop> {
        if self.node(dir)?.names.contains_key(name) {
            return Err(Stop::Error(FsError::Exists));
        }
        let now = SystemClock.time();
        self.next += 1;
        let ino = Ino::new(self.next).expect("counted from 2");
        let node = new_node(ino, dir, make, (request.uid, request.gid), now);
        self.nodes.insert(ino, node);
        self.add(dir, name, ino, now)?;
        self.entry(ino)
    }
}

fn new_node(ino: Ino, parent: Ino, make: &Make, owner: (u32, u32), now: Time) -> Node {
    let nlink = if make.kind == FileKind::Directory { 2 } else { 1 };
    let attr = Attr {
        ino,
        kind: make.kind,
        mode: make.mode,
        uid: owner.0,
        gid: owner.1,
        nlink,
        size: make.target.len() as u64,
        allocated: 0,
        rdev: make.rdev,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    Node {
        attr,
        data: Vec::new(),
        target: make.target.clone(),
        xattrs: BTreeMap::new(),
        parent,
        names: HashMap::new(),
        entries: BTreeMap::new(),
        next_cookie: 100,
    }
}

impl Memory {
    pub(crate) fn new() -> Memory {
        let root = Make { kind: FileKind::Directory, mode: 0o755, rdev: 0, target: Bytes::new() };
        let node = new_node(Ino::ROOT, Ino::ROOT, &root, (0, 0), SystemClock.time());
        Memory(Mutex::new(State { nodes: HashMap::from([(Ino::ROOT, node)]), next: 1 }))
    }
}

/// Closing is told as often as tsfs has to be told, so that both get the same requests for the same work.
fn opened(writes: bool) -> Opened {
    Opened { handle: Handle(1), cache: Cache::Keep, flush: writes }
}

impl Vfs for Memory {
    fn mounted(&self, _: Arc<dyn Kernel>) {}

    fn is_far(&self) -> bool {
        false
    }

    fn answered(&self) {}

    fn destroy(&self) -> Result<(), FsError> {
        Ok(())
    }

    fn lookup(&self, _: &Request, dir: Ino, name: &[u8]) -> Answer<Lookup> {
        let mut state = self.0.lock();
        match state.find(dir, name) {
            Ok(ino) => Ok(Lookup::Found(state.entry(ino)?)),
            Err(_) => Ok(Lookup::Missing { valid: VALID }),
        }
    }

    fn forget(&self, _: Ino, _: u64) {}

    fn getattr(&self, _: &Request, ino: Ino) -> Answer<Stat> {
        Ok(self.0.lock().entry(ino)?.stat)
    }

    fn setattr(&self, _: &Request, ino: Ino, set: &SetAttr) -> Answer<Stat> {
        let now = SystemClock.time();
        let time = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        let mut state = self.0.lock();
        let node = state.node(ino)?;
        let attr = &mut node.attr;
        attr.mode = set.mode.unwrap_or(attr.mode);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        if let Some(size) = set.size {
            node.data.resize(size as usize, 0);
            (attr.size, attr.mtime) = (size, now);
        }
        attr.atime = set.atime.map_or(attr.atime, time);
        attr.mtime = set.mtime.map_or(attr.mtime, time);
        attr.ctime = now;
        Ok(state.entry(ino)?.stat)
    }

    fn readlink(&self, _: &Request, ino: Ino) -> Answer<Bytes> {
        Ok(self.0.lock().node(ino)?.target.clone())
    }

    fn make(&self, request: &Request, dir: Ino, name: &[u8], make: &Make) -> Answer<Entry> {
        self.0.lock().make(request, dir, name, make)
    }

    fn create(
        &self,
        request: &Request,
        dir: Ino,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
    ) -> Answer<(Entry, Opened)> {
        let make = Make { kind: FileKind::File, mode, rdev: 0, target: Bytes::new() };
        Ok((self.0.lock().make(request, dir, name, &make)?, opened(flags.writes())))
    }

    fn link(&self, _: &Request, ino: Ino, dir: Ino, name: &[u8]) -> Answer<Entry> {
        let mut state = self.0.lock();
        if state.find(dir, name).is_ok() {
            return stop(FsError::Exists);
        }
        state.node(ino)?.attr.nlink += 1;
        state.add(dir, name, ino, SystemClock.time())?;
        state.entry(ino)
    }

    fn unlink(&self, _: &Request, dir: Ino, name: &[u8]) -> Answer<()> {
        let (mut state, now) = (self.0.lock(), SystemClock.time());
        let ino = state.take(dir, name, now)?;
        state.unlinked(ino, now)
    }

    fn rmdir(&self, _: &Request, dir: Ino, name: &[u8]) -> Answer<()> {
        let (mut state, now) = (self.0.lock(), SystemClock.time());
        let ino = state.find(dir, name)?;
        if !state.node(ino)?.entries.is_empty() {
            return stop(FsError::NotEmpty);
        }
        state.take(dir, name, now)?;
        state.unlinked(ino, now)
    }

    fn rename(
        &self,
        _: &Request,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        how: RenameHow,
    ) -> Answer<()> {
        let (mut state, now) = (self.0.lock(), SystemClock.time());
        if how == RenameHow::Exchange {
            return stop(FsError::NotSupported("nofuse does not exchange"));
        }
        if let Ok(over) = state.find(to.0, to.1) {
            if how == RenameHow::NoReplace {
                return stop(FsError::Exists);
            }
            state.take(to.0, to.1, now)?;
            state.unlinked(over, now)?;
        }
        let ino = state.take(from.0, from.1, now)?;
        state.node(ino)?.parent = to.0;
        state.add(to.0, to.1, ino, now)
    }

    fn open(&self, request: &Request, ino: Ino, flags: OpenFlags) -> Answer<Opened> {
        if flags.truncates() {
            self.setattr(request, ino, &SetAttr { size: Some(0), ..SetAttr::default() })?;
        }
        Ok(opened(flags.writes()))
    }

    fn read(&self, _: &Request, ino: Ino, _: Handle, offset: u64, len: u32) -> Answer<Bytes> {
        let mut state = self.0.lock();
        let data = &state.node(ino)?.data;
        let start = data.len().min(offset as usize);
        let end = data.len().min(start + len as usize);
        Ok(Bytes::copy_from_slice(&data[start..end]))
    }

    fn write(
        &self,
        _: &Request,
        ino: Ino,
        _: Handle,
        offset: u64,
        data: &[u8],
        how: WriteHow,
    ) -> Answer<u32> {
        let (mut state, now) = (self.0.lock(), SystemClock.time());
        let node = state.node(ino)?;
        let start = if how.append { node.data.len() } else { offset as usize };
        let end = start + data.len();
        if node.data.len() == start {
            node.data.extend_from_slice(data);
        } else {
            node.data.resize(node.data.len().max(end), 0);
            node.data[start..end].copy_from_slice(data);
        }
        node.attr.size = node.data.len() as u64;
        node.attr.allocated = node.attr.size;
        (node.attr.mtime, node.attr.ctime) = (now, now);
        Ok(data.len() as u32)
    }

    fn flush(&self, _: &Request, _: Ino, _: Handle, _: u64) -> Answer<()> {
        Ok(())
    }

    fn release(&self, _: Ino, _: Handle) {}

    fn fsync(&self, _: Ino, _: Handle, done: Done<()>) {
        done(Ok(()));
    }

    fn fallocate(&self, _: &Request, _: Place, _: u64, _: Allocate) -> Answer<()> {
        stop(FsError::NotSupported("nofuse has no fallocate"))
    }

    fn seek(&self, _: &Request, _: Place, _: SeekFor) -> Answer<u64> {
        stop(FsError::NotSupported("nofuse has no seek"))
    }

    fn copy_range(&self, _: &Request, _: Place, _: Place, _: u64) -> Answer<u64> {
        stop(FsError::NotSupported("nofuse has no copy_file_range"))
    }

    fn readdir(
        &self,
        _: &Request,
        dir: Ino,
        after: u64,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Answer<()> {
        let mut state = self.0.lock();
        let parent = state.node(dir)?.parent;
        for (cookie, name, ino) in [(1, b".".as_slice(), dir), (2, b"..", parent)] {
            let kind = FileKind::Directory;
            if cookie > after && !sink.add(&DirEntry { name, ino, kind, cookie, entry: None }) {
                return Ok(());
            }
        }
        let listed: Vec<(u64, Vec<u8>, Ino)> = state
            .node(dir)?
            .entries
            .range(after + 1..)
            .take(1024)
            .map(|(cookie, (name, ino))| (*cookie, name.clone(), *ino))
            .collect();
        for (cookie, name, ino) in listed {
            let entry = state.entry(ino)?;
            let kind = entry.stat.attr.kind;
            let entry = plus.then_some(entry);
            if !sink.add(&DirEntry { name: &name, ino, kind, cookie, entry }) {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&self, _: &Request, _: Ino) -> Answer<Space> {
        let (total, free) = (1 << 40, 1 << 39);
        Ok(Space { total, free, available: free, files: 1 << 30 })
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        _: XattrHow,
    ) -> Answer<()> {
        self.0.lock().node(ino)?.xattrs.insert(name.to_vec(), Bytes::copy_from_slice(value));
        Ok(())
    }

    fn getxattr(&self, _: &Request, ino: Ino, name: &[u8]) -> Answer<Bytes> {
        let mut state = self.0.lock();
        state.node(ino)?.xattrs.get(name).cloned().ok_or(Stop::Error(FsError::NoAttribute))
    }

    fn listxattr(&self, _: &Request, ino: Ino) -> Answer<Bytes> {
        let mut state = self.0.lock();
        let names = state.node(ino)?.xattrs.keys();
        Ok(names.flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    fn removexattr(&self, _: &Request, ino: Ino, name: &[u8]) -> Answer<()> {
        let gone = self.0.lock().node(ino)?.xattrs.remove(name);
        gone.map(drop).ok_or(Stop::Error(FsError::NoAttribute))
    }
}

/// Serves it at `dir` until this process is killed.
pub(crate) fn serve(dir: &Path) {
    let options = MountOptions::new("nofuse".to_owned());
    mount(Arc::new(Memory::new()), dir, &options).unwrap().wait().unwrap();
}
