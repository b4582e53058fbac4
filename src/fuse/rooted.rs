//! A file system of which a mount shows a directory as its root.
//!
//! The kernel knows the root of a mount as number 1, whatever directory it is. So number 1 is the directory's on this side,
//! and the directory is number 1 on that side; all other numbers are themselves. The real root, which has number 1 too, can
//! be met only as the `..` of the directory, which is the directory itself for a mount. Not here: which directory (`cli`).

use crate::fuse::vfs::Answer;
use crate::fuse::vfs::DirEntry;
use crate::fuse::vfs::DirSink;
use crate::fuse::vfs::Done;
use crate::fuse::vfs::Entry;
use crate::fuse::vfs::Handle;
use crate::fuse::vfs::Kernel;
use crate::fuse::vfs::Lookup;
use crate::fuse::vfs::Make;
use crate::fuse::vfs::OpenFlags;
use crate::fuse::vfs::Opened;
use crate::fuse::vfs::Place;
use crate::fuse::vfs::Request;
use crate::fuse::vfs::SetAttr;
use crate::fuse::vfs::Stat;
use crate::fuse::vfs::Vfs;
use crate::fuse::vfs::WriteHow;
use crate::tsdb_client::Allocate;
use crate::tsdb_client::FileLock;
use crate::tsdb_client::Locking;
use crate::tsdb_client::OnUnlock;
use crate::tsdb_client::RenameHow;
use crate::tsdb_client::SeekFor;
use crate::tsdb_client::Space;
use crate::tsdb_client::XattrHow;
use crate::types::FsError;
use crate::types::Ino;
use crate::wire::Circled;
use crate::wire::Moment;
use crate::wire::Waiting;
use bytes::Bytes;
use std::sync::Arc;

pub struct Rooted<V> {
    whole: Arc<V>,
    root: Root,
}

#[derive(Clone, Copy)]
struct Root(Ino);

impl Root {
    /// A number as the file system has it.
    fn inward(self, ino: Ino) -> Ino {
        if ino == Ino::ROOT { self.0 } else { ino }
    }

    /// As the kernel has it.
    fn outward(self, ino: Ino) -> Ino {
        if ino == self.0 { Ino::ROOT } else { ino }
    }

    fn stat(self, mut stat: Stat) -> Stat {
        stat.attr.ino = self.outward(stat.attr.ino);
        stat
    }

    fn entry(self, entry: Entry) -> Entry {
        Entry { stat: self.stat(entry.stat), ..entry }
    }

    fn place(self, at: Place) -> Place {
        Place { ino: self.inward(at.ino), ..at }
    }
}

impl<V: Vfs> Rooted<V> {
    pub fn new(whole: Arc<V>, root: Ino) -> Rooted<V> {
        Rooted { whole, root: Root(root) }
    }
}

/// The kernel's caches, told in its numbers.
struct Outward {
    kernel: Arc<dyn Kernel>,
    root: Root,
}

impl Kernel for Outward {
    fn forget_inode(&self, ino: Ino, contents: Option<u64>) {
        self.kernel.forget_inode(self.root.outward(ino), contents);
    }

    fn forget_entry(&self, dir: Ino, name: &[u8]) {
        self.kernel.forget_entry(self.root.outward(dir), name);
    }
}

struct Sink<'a> {
    sink: &'a mut dyn DirSink,
    root: Root,
}

impl DirSink for Sink<'_> {
    fn add(&mut self, entry: &DirEntry<'_>) -> bool {
        let ino = self.root.outward(entry.ino);
        let told = entry.entry.clone().map(|entry| self.root.entry(entry));
        self.sink.add(&DirEntry { ino, entry: told, ..entry.clone() })
    }
}

impl<V: Vfs> Vfs for Rooted<V> {
    fn mounted(&self, kernel: Arc<dyn Kernel>) {
        self.whole.mounted(Arc::new(Outward { kernel, root: self.root }));
    }

    fn is_far(&self) -> bool {
        self.whole.is_far()
    }

    fn answered(&self) {
        self.whole.answered();
    }

    fn destroy(&self) -> Result<(), FsError> {
        self.whole.destroy()
    }

    fn lookup(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<Lookup> {
        // Nothing leads out of the mount.
        let name = if dir == Ino::ROOT && name == b".." { b"." } else { name };
        Ok(match self.whole.lookup(request, self.root.inward(dir), name)? {
            Lookup::Found(entry) => Lookup::Found(self.root.entry(entry)),
            missing @ Lookup::Missing { .. } => missing,
        })
    }

    fn forget(&self, ino: Ino, lookups: u64) {
        self.whole.forget(self.root.inward(ino), lookups);
    }

    fn getattr(&self, request: &Request, ino: Ino) -> Answer<Stat> {
        Ok(self.root.stat(self.whole.getattr(request, self.root.inward(ino))?))
    }

    fn setattr(&self, request: &Request, ino: Ino, set: &SetAttr) -> Answer<Stat> {
        Ok(self.root.stat(self.whole.setattr(request, self.root.inward(ino), set)?))
    }

    fn readlink(&self, request: &Request, ino: Ino) -> Answer<Bytes> {
        self.whole.readlink(request, ino)
    }

    fn make(&self, request: &Request, dir: Ino, name: &[u8], make: &Make) -> Answer<Entry> {
        self.whole.make(request, self.root.inward(dir), name, make)
    }

    fn create(
        &self,
        request: &Request,
        dir: Ino,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
    ) -> Answer<(Entry, Opened)> {
        self.whole.create(request, self.root.inward(dir), name, mode, flags)
    }

    fn link(&self, request: &Request, ino: Ino, dir: Ino, name: &[u8]) -> Answer<Entry> {
        self.whole.link(request, self.root.inward(ino), self.root.inward(dir), name)
    }

    fn unlink(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<()> {
        self.whole.unlink(request, self.root.inward(dir), name)
    }

    fn rmdir(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<()> {
        self.whole.rmdir(request, self.root.inward(dir), name)
    }

    fn rename(
        &self,
        request: &Request,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        how: RenameHow,
    ) -> Answer<()> {
        let (from_dir, to_dir) = (self.root.inward(from.0), self.root.inward(to.0));
        self.whole.rename(request, (from_dir, from.1), (to_dir, to.1), how)
    }

    fn open(&self, request: &Request, ino: Ino, flags: OpenFlags) -> Answer<Opened> {
        self.whole.open(request, self.root.inward(ino), flags)
    }

    fn read(
        &self,
        request: &Request,
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u32,
    ) -> Answer<Bytes> {
        self.whole.read(request, self.root.inward(ino), handle, offset, len)
    }

    fn write(
        &self,
        request: &Request,
        ino: Ino,
        handle: Handle,
        offset: u64,
        data: &[u8],
        how: WriteHow,
    ) -> Answer<u32> {
        self.whole.write(request, self.root.inward(ino), handle, offset, data, how)
    }

    fn flush(&self, request: &Request, ino: Ino, handle: Handle, owner: u64) -> Answer<()> {
        self.whole.flush(request, self.root.inward(ino), handle, owner)
    }

    fn release(&self, ino: Ino, handle: Handle) {
        self.whole.release(self.root.inward(ino), handle);
    }

    fn fsync(&self, ino: Ino, handle: Handle, done: Done<()>) {
        self.whole.fsync(self.root.inward(ino), handle, done);
    }

    fn on_unlock(&self, told: OnUnlock) {
        let root = self.root;
        self.whole.on_unlock(Box::new(move |ino| told(root.outward(ino))));
    }

    fn lock(&self, request: &Request, at: Place, lock: FileLock) -> Answer<Locking> {
        self.whole.lock(request, self.root.place(at), lock)
    }

    fn waits(&self, after: Moment, mut waits: Vec<Waiting>) -> Answer<Circled> {
        for waiting in &mut waits {
            waiting.ino = self.root.inward(waiting.ino);
        }
        self.whole.waits(after, waits)
    }

    fn has_flock(&self, ino: Ino, owner: u64) -> bool {
        self.whole.has_flock(self.root.inward(ino), owner)
    }

    fn unlock(&self, request: &Request, ino: Ino, owner: u64, bytes: (u64, u64)) -> Answer<()> {
        self.whole.unlock(request, self.root.inward(ino), owner, bytes)
    }

    fn barring(&self, request: &Request, ino: Ino, wanted: FileLock) -> Answer<Option<FileLock>> {
        self.whole.barring(request, self.root.inward(ino), wanted)
    }

    fn fallocate(&self, request: &Request, at: Place, len: u64, how: Allocate) -> Answer<()> {
        self.whole.fallocate(request, self.root.place(at), len, how)
    }

    fn seek(&self, request: &Request, at: Place, seek: SeekFor) -> Answer<u64> {
        self.whole.seek(request, self.root.place(at), seek)
    }

    fn copy_range(&self, request: &Request, from: Place, to: Place, len: u64) -> Answer<u64> {
        self.whole.copy_range(request, self.root.place(from), self.root.place(to), len)
    }

    fn readdir(
        &self,
        request: &Request,
        dir: Ino,
        after: u64,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Answer<()> {
        let mut sink = Sink { sink, root: self.root };
        self.whole.readdir(request, self.root.inward(dir), after, plus, &mut sink)
    }

    fn statfs(&self, request: &Request, ino: Ino) -> Answer<Space> {
        self.whole.statfs(request, self.root.inward(ino))
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        how: XattrHow,
    ) -> Answer<()> {
        self.whole.setxattr(request, self.root.inward(ino), name, value, how)
    }

    fn getxattr(&self, request: &Request, ino: Ino, name: &[u8]) -> Answer<Bytes> {
        self.whole.getxattr(request, self.root.inward(ino), name)
    }

    fn listxattr(&self, request: &Request, ino: Ino) -> Answer<Bytes> {
        self.whole.listxattr(request, self.root.inward(ino))
    }

    fn removexattr(&self, request: &Request, ino: Ino, name: &[u8]) -> Answer<()> {
        self.whole.removexattr(request, self.root.inward(ino), name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_mount_has_number_one_on_one_side_and_its_own_on_the_other() {
        let number = |raw| Ino::new(raw).expect("tests use numbers above zero");
        let root = Root(number(77));
        assert_eq!(root.inward(Ino::ROOT), number(77));
        assert_eq!(root.outward(number(77)), Ino::ROOT);
        for other in [2, 76, 78, u64::MAX].map(number) {
            assert_eq!((root.inward(other), root.outward(other)), (other, other));
        }
        let whole = Root(Ino::ROOT);
        assert_eq!((whole.inward(Ino::ROOT), whole.outward(number(5))), (Ino::ROOT, number(5)));
    }
}
