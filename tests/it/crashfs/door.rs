//! Requests of the kernel, translated into what happens on the disk, and how long they take there.
//!
//! Not here: what a crash leaves (`disk`).

use super::Drive;
use super::Shot;
use super::disk;
use super::disk::Disk;
use super::disk::Edit;
use super::disk::Kind;
use super::disk::Node;
use super::disk::PAGE_BYTES;
use fuser::Errno;
use fuser::FileAttr;
use fuser::FileHandle;
use fuser::FileType;
use fuser::Filesystem;
use fuser::FopenFlags;
use fuser::Generation;
use fuser::INodeNo;
use fuser::LockOwner;
use fuser::OpenFlags;
use fuser::RenameFlags;
use fuser::ReplyAttr;
use fuser::ReplyCreate;
use fuser::ReplyData;
use fuser::ReplyDirectory;
use fuser::ReplyEmpty;
use fuser::ReplyEntry;
use fuser::ReplyOpen;
use fuser::ReplyStatfs;
use fuser::ReplyWrite;
use fuser::Request;
use fuser::TimeOrNow;
use fuser::WriteFlags;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

/// The kernel must ask each time: after a crash, nothing is as it was.
const NO_TIME: Duration = Duration::ZERO;

/// The kernel's side of it.
pub(super) struct Door(pub(super) Arc<Mutex<Drive>>);

impl Door {
    fn with<T>(&self, run: impl FnOnce(&mut Disk) -> T) -> T {
        run(&mut self.0.lock().unwrap().disk)
    }

    /// What a slow disk takes, with nothing held: what only looks is as fast as ever.
    fn take_time(&self) {
        let time = self.0.lock().unwrap().slow;
        if !time.is_zero() {
            crate::support::pause(time);
        }
    }

    /// For what changes it.
    fn change<T>(&self, run: impl FnOnce(&mut Disk) -> T) -> T {
        self.changed(false, run)
    }

    /// For what makes changes safe.
    fn sync<T>(&self, run: impl FnOnce(&mut Disk) -> T) -> T {
        self.changed(true, run)
    }

    fn changed<T>(&self, synced: bool, run: impl FnOnce(&mut Disk) -> T) -> T {
        let drive = &mut *self.0.lock().unwrap();
        let result = run(&mut drive.disk);
        if drive.recording {
            let (moment, disk) = (drive.moment, drive.disk.clone());
            drive.shots.push(Shot { moment, synced, disk });
        }
        result
    }

    fn attr(ino: u64, node: &Node) -> FileAttr {
        let (kind, size, pages, nlink) = match &node.kind {
            Kind::File(file) => (FileType::RegularFile, file.len, file.pages.len() as u64, 1),
            Kind::Dir(dir) => (FileType::Directory, dir.names.len() as u64, 0, 2),
            Kind::Socket => (FileType::Socket, 0, 0, 1),
        };
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: pages * (PAGE_BYTES / 512) as u64,
            atime: node.time,
            mtime: node.time,
            ctime: node.time,
            crtime: node.time,
            kind,
            perm: node.mode as u16,
            nlink,
            uid: node.uid,
            gid: node.gid,
            rdev: 0,
            blksize: PAGE_BYTES as u32,
            flags: 0,
        }
    }

    fn make(&self, req: &Request, dir: INodeNo, name: &OsStr, mode: u32, kind: Kind) -> FileAttr {
        let (uid, gid, time) = (req.uid(), req.gid(), now());
        self.change(|disk| {
            let node = Node { kind, mode: mode & 0o7777, uid, gid, time, opens: 0 };
            let ino = disk.add(node);
            disk.edit(vec![Edit { dir: dir.0, name: name.to_owned(), node: Some(ino) }]);
            Door::attr(ino, &disk.nodes[&ino])
        })
    }

    fn remove(&self, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.change(|disk| disk.edit(vec![Edit { dir: dir.0, name: name.to_owned(), node: None }]));
        reply.ok();
    }
}

#[expect(clippy::disallowed_methods, reason = "times of files in a test; nothing depends on them")]
fn now() -> SystemTime {
    SystemTime::now()
}

impl Filesystem for Door {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.with(|disk| match disk.lookup(parent.0, name) {
            Some((ino, node)) => reply.entry(&NO_TIME, &Door::attr(ino, node), Generation(0)),
            None => reply.error(Errno::ENOENT),
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.with(|disk| match disk.nodes.get(&ino.0) {
            Some(node) => reply.attr(&NO_TIME, &Door::attr(ino.0, node)),
            None => reply.error(Errno::ENOENT),
        });
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.change(|disk| {
            let Some(node) = disk.nodes.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
            node.mode = mode.map_or(node.mode, |mode| mode & 0o7777);
            node.uid = uid.unwrap_or(node.uid);
            node.gid = gid.unwrap_or(node.gid);
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => node.time = time,
                Some(TimeOrNow::Now) => node.time = now(),
                None => {}
            }
            if let (Kind::File(file), Some(size)) = (&mut node.kind, size) {
                file.set_len(size);
            }
            reply.attr(&NO_TIME, &Door::attr(ino.0, node));
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let attr = self.make(req, parent, name, mode, Kind::Dir(disk::Dir::default()));
        reply.entry(&NO_TIME, &attr, Generation(0));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFSOCK {
            return reply.error(Errno::ENOSYS);
        }
        let attr = self.make(req, parent, name, mode, Kind::Socket);
        reply.entry(&NO_TIME, &attr, Generation(0));
    }

    /// As a file system without links says it: who would like one copies.
    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let full = self.with(|disk| match disk.lookup(parent.0, name) {
            Some((_, Node { kind: Kind::Dir(dir), .. })) => !dir.names.is_empty(),
            _ => false,
        });
        if full { reply.error(Errno::ENOTEMPTY) } else { self.remove(parent, name, reply) }
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        self.change(|disk| {
            let Some((ino, _)) = disk.lookup(parent.0, name) else {
                return reply.error(Errno::ENOENT);
            };
            let gone = Edit { dir: parent.0, name: name.to_owned(), node: None };
            let come = Edit { dir: newparent.0, name: newname.to_owned(), node: Some(ino) };
            disk.edit(vec![gone, come]);
            reply.ok();
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.with(|disk| match disk.nodes.get_mut(&ino.0) {
            Some(node) => {
                node.opens += 1;
                // Without KEEP_CACHE the kernel forgets the pages it had, so it shows what a crash left.
                reply.opened(FileHandle(0), FopenFlags::empty());
            }
            None => reply.error(Errno::ENOENT),
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let attr = self.make(req, parent, name, mode, Kind::File(disk::File::default()));
        self.with(|disk| disk.nodes.get_mut(&attr.ino.0).unwrap().opens += 1);
        reply.created(&NO_TIME, &attr, Generation(0), FileHandle(0), FopenFlags::empty());
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        // The node may have gone in a crash.
        self.with(|disk| {
            if let Some(node) = disk.nodes.get_mut(&ino.0) {
                node.opens = node.opens.saturating_sub(1);
            }
        });
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.with(|disk| match disk.file(ino.0) {
            Some(file) => reply.data(&file.read(offset, size as usize)),
            None => reply.error(Errno::EIO),
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.take_time();
        self.change(|disk| match disk.file(ino.0) {
            Some(file) => {
                file.write(offset, data);
                reply.written(data.len() as u32);
            }
            None => reply.error(Errno::EIO),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.take_time();
        self.sync(|disk| match disk.file(ino.0) {
            Some(file) => {
                file.sync();
                reply.ok();
            }
            None => reply.error(Errno::EIO),
        });
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(|disk| disk.sync_dir(ino.0));
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.with(|disk| {
            // Names are added behind those that were told only if they sort so: good enough for a store, whose
            // directories do not change while they are listed.
            for (n, (name, ino)) in disk.list(ino.0).iter().enumerate().skip(offset as usize) {
                let kind = match disk.nodes.get(ino).map(|node| &node.kind) {
                    Some(Kind::Dir(_)) => FileType::Directory,
                    Some(Kind::Socket) => FileType::Socket,
                    _ => FileType::RegularFile,
                };
                if reply.add(INodeNo(*ino), n as u64 + 1, kind, name) {
                    break;
                }
            }
        });
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let total = (16 << 30) / PAGE_BYTES as u64;
        let free = total - self.with(|disk| disk.pages());
        let size = PAGE_BYTES as u32;
        reply.statfs(total, free, free, 1 << 20, 1 << 20, size, 255, size);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.change(|disk| match disk.file(ino.0) {
            Some(file) if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 => {
                file.punch(offset, length);
                reply.ok();
            }
            Some(file) if mode & !libc::FALLOC_FL_KEEP_SIZE == 0 => {
                if mode == 0 && file.len < offset + length {
                    file.set_len(offset + length);
                }
                reply.ok();
            }
            _ => reply.error(Errno::EOPNOTSUPP),
        });
    }
}
