//! A file system in memory that loses what was not synced, on command: a power cut for real programs.
//!
//! Mount it, keep a store on it, kill the store's server, call [`CrashFs::crash`], start the server again. What was
//! synced is there. Of what was not: any sectors of any page of file contents, any of the lengths a file had (a longer one with
//! what it covers), and a beginning of the changes of names – in the order they were made, as a journal of metadata keeps them; syncing a file
//! does not make its name durable, only syncing its directory does.
//!
//! It talks to the kernel through fuser, not through `tsfs::fuse`: a harness does not rest on what it tests.
//! Not here: links, symbolic links, extended attributes, running out of space; no store needs them.

mod disk;

use disk::Disk;
use disk::Edit;
pub(crate) use disk::Kept;
use disk::Kind;
use disk::Node;
use disk::PAGE_BYTES;
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
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::SystemTime;

use crate::support::Random;

/// What a crash threw away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Lost {
    /// Pages of contents of which at least a part is gone.
    pub(crate) pages: u64,
    /// Changes of names.
    pub(crate) names: u64,
}

/// A disk at one moment: what was seen on it, and what was safe.
pub(crate) struct Shot {
    /// As it was passed last.
    pub(crate) moment: u64,
    /// The change was one that makes others safe.
    pub(crate) synced: bool,
    disk: Disk,
}

/// The disk, and what was recorded of it.
struct Drive {
    disk: Disk,
    recording: bool,
    moment: u64,
    shots: Vec<Shot>,
}

/// A mounted file system that can crash. Dropped, it is unmounted, and everything in it is gone.
pub(crate) struct CrashFs {
    drive: Arc<Mutex<Drive>>,
    dir: PathBuf,
    session: Option<JoinHandle<()>>,
}

impl CrashFs {
    /// Mounts an empty one at `dir`, which is made where it is missing.
    ///
    /// # Panics
    /// Without root or `/dev/fuse`.
    pub(crate) fn mount(dir: &Path) -> CrashFs {
        std::fs::create_dir_all(dir).unwrap();
        let dir = dir.canonicalize().unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other\0",
            device.as_raw_fd()
        );
        let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes()).unwrap();
        let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
        rustix::mount::mount("crashfs", &dir, "fuse.crashfs", flags, data).unwrap();
        let drive = Drive { disk: Disk::new(), recording: false, moment: 0, shots: Vec::new() };
        let drive = Arc::new(Mutex::new(drive));
        let (served, mut config) = (Door(drive.clone()), fuser::Config::default());
        config.n_threads = Some(2);
        let (device, acl) = (device.into(), fuser::SessionACL::All);
        let session = std::thread::spawn(move || {
            let session = fuser::Session::from_fd(served, device, acl, config).unwrap();
            // It ends when the mount goes; the error says no more than that.
            let _ = session.run();
        });
        CrashFs { drive, dir, session: Some(session) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Cuts the power. Whoever used it must be dead by now: what a process still holds open or mapped would show the
    /// time before.
    pub(crate) fn crash(&self, random: &mut Random) -> Lost {
        self.drive.lock().unwrap().disk.crash(Kept::Some, random)
    }

    /// How it is now.
    pub(crate) fn shot(&self) -> Shot {
        let drive = self.drive.lock().unwrap();
        Shot { moment: drive.moment, synced: true, disk: drive.disk.clone() }
    }

    /// From now on every change is remembered, with the disk as it was after it.
    pub(crate) fn record(&self) {
        let mut drive = self.drive.lock().unwrap();
        (drive.recording, drive.moment) = (true, 0);
        drive.shots.clear();
    }

    /// What happens on the disk from here on happens at this moment or later, as whoever drives it counts.
    pub(crate) fn pass(&self) -> impl Fn(u64) + Send + use<> {
        let drive = self.drive.clone();
        move |moment| drive.lock().unwrap().moment = moment
    }

    /// Ends the recording: the disk after each change.
    pub(crate) fn recorded(&self) -> Vec<Shot> {
        let mut drive = self.drive.lock().unwrap();
        drive.recording = false;
        std::mem::take(&mut drive.shots)
    }

    /// The disk is as it was, and then the power was cut. Whoever used it must be gone by now.
    pub(crate) fn cut_at(&self, shot: &Shot, how: Kept, random: &mut Random) -> Lost {
        let mut drive = self.drive.lock().unwrap();
        drive.disk.become_as(&shot.disk);
        drive.disk.crash(how, random)
    }
}

impl Drop for CrashFs {
    fn drop(&mut self) {
        crate::support::unmount(&self.dir);
        if let Some(session) = self.session.take() {
            // A panic in there has been printed already.
            let _ = session.join();
        }
    }
}

/// The kernel must ask each time: after a crash, nothing is as it was.
const NO_TIME: Duration = Duration::ZERO;

/// Requests of the kernel, translated.
struct Door(Arc<Mutex<Drive>>);

impl Door {
    fn with<T>(&self, run: impl FnOnce(&mut Disk) -> T) -> T {
        run(&mut self.0.lock().unwrap().disk)
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

#[cfg(test)]
mod tests;
