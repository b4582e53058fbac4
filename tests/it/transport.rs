//! Mounting, and requests on their way through `fuse::adapter`, on real mounts of a small file system that misbehaves
//! on demand. What a file system answers is tested in `mount.rs`.

use crate::support::mounted;
use crate::support::run;
use crate::support::scratch;
use crate::support::wait_until;
use bytes::Bytes;
use rustix::mount::UnmountFlags;
use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::thread::ThreadId;
use std::time::Duration;
use tsfs::fuse::mount::MountError;
use tsfs::fuse::mount::MountOptions;
use tsfs::fuse::mount::Mounted;
use tsfs::fuse::mount::Unmounted;
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
use tsfs::fuse::vfs::Stat;
use tsfs::fuse::vfs::Stop;
use tsfs::fuse::vfs::Vfs;
use tsfs::fuse::vfs::WriteHow;
use tsfs::tsdb_client::Allocate;
use tsfs::tsdb_client::RenameHow;
use tsfs::tsdb_client::SeekFor;
use tsfs::tsdb_client::Space;
use tsfs::tsdb_client::Wait;
use tsfs::tsdb_client::XattrHow;
use tsfs::types::Attr;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::Time;

const LIMIT: Duration = Duration::from_secs(20);
const NO: Stop = Stop::Error(FsError::NotSupported("a probe"));

/// A directory of files that exist once they are looked up. Their names say how they behave: `panic…` panics when it
/// is looked up, `wait…` has to wait when it is read, all others hold their own name.
#[derive(Default)]
struct Probe {
    names: Mutex<Vec<Vec<u8>>>,
    ended: Mutex<u32>,
    gate: Mutex<bool>,
    opened: Condvar,
    /// Threads on which reads were refused, and answered.
    refused_on: Mutex<Option<ThreadId>>,
    answered_on: Mutex<Option<ThreadId>>,
    kernel: Mutex<Option<Arc<dyn Kernel>>>,
    written: Mutex<Vec<u8>>,
}

impl Probe {
    fn stat(ino: Ino, size: u64) -> Stat {
        let directory = ino == Ino::ROOT;
        let time = Time { secs: -2, nanos: 300_000_000 };
        let attr = Attr {
            ino,
            kind: if directory { FileKind::Directory } else { FileKind::File },
            mode: if directory { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            nlink: 1,
            size,
            allocated: size,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        };
        Stat { attr, valid: Duration::ZERO }
    }

    fn name(&self, ino: Ino) -> Vec<u8> {
        self.names.lock().unwrap()[ino.get() as usize - 2].clone()
    }

    fn open_gate(&self) {
        *self.gate.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

impl Vfs for Probe {
    fn mounted(&self, kernel: Arc<dyn Kernel>) {
        *self.kernel.lock().unwrap() = Some(kernel);
    }

    fn is_far(&self) -> bool {
        false
    }

    fn answered(&self) {}

    fn destroy(&self) -> Result<(), FsError> {
        *self.ended.lock().unwrap() += 1;
        Ok(())
    }

    fn lookup(&self, _: &Request, _: Ino, name: &[u8]) -> Answer<Lookup> {
        assert!(!name.starts_with(b"panic"), "asked to panic");
        if name.starts_with(b"missing") {
            return Ok(Lookup::Missing { valid: Duration::ZERO });
        }
        let mut names = self.names.lock().unwrap();
        let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
            names.push(name.to_vec());
            names.len() - 1
        });
        let ino = Ino::new(at as u64 + 2).unwrap();
        let stat = Probe::stat(ino, name.len() as u64);
        Ok(Lookup::Found(Entry { stat, valid: Duration::ZERO }))
    }

    fn forget(&self, _: Ino, _: u64) {}

    fn getattr(&self, _: &Request, ino: Ino) -> Answer<Stat> {
        let size = if ino == Ino::ROOT { 0 } else { self.name(ino).len() as u64 };
        Ok(Probe::stat(ino, size))
    }

    fn setattr(&self, _: &Request, _: Ino, _: &SetAttr) -> Answer<Stat> {
        Err(NO)
    }

    fn readlink(&self, _: &Request, _: Ino) -> Answer<Bytes> {
        Err(NO)
    }

    fn make(&self, _: &Request, _: Ino, _: &[u8], _: &Make) -> Answer<Entry> {
        Err(NO)
    }

    fn create(
        &self,
        _: &Request,
        _: Ino,
        _: &[u8],
        _: u32,
        _: OpenFlags,
    ) -> Answer<(Entry, Opened)> {
        Err(NO)
    }

    fn link(&self, _: &Request, _: Ino, _: Ino, _: &[u8]) -> Answer<Entry> {
        Err(NO)
    }

    fn unlink(&self, _: &Request, _: Ino, _: &[u8]) -> Answer<()> {
        Err(NO)
    }

    fn rmdir(&self, _: &Request, _: Ino, _: &[u8]) -> Answer<()> {
        Err(NO)
    }

    fn rename(&self, _: &Request, _: (Ino, &[u8]), _: (Ino, &[u8]), _: RenameHow) -> Answer<()> {
        Err(NO)
    }

    fn open(&self, _: &Request, _: Ino, _: OpenFlags) -> Answer<Opened> {
        Ok(Opened { handle: Handle(7), cache: Cache::Bypass, flush: true })
    }

    fn read(
        &self,
        request: &Request,
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u32,
    ) -> Answer<Bytes> {
        assert_eq!(handle, Handle(7));
        let name = self.name(ino);
        let this = Some(std::thread::current().id());
        if name.starts_with(b"wait") {
            if request.wait == Wait::Never {
                *self.refused_on.lock().unwrap() = this;
                return Err(Stop::Waits);
            }
            let open = self.gate.lock().unwrap();
            drop(self.opened.wait_while(open, |open| !*open).unwrap());
            *self.answered_on.lock().unwrap() = this;
        }
        let rest = name.get(offset as usize..).unwrap_or_default();
        Ok(Bytes::copy_from_slice(&rest[..rest.len().min(len as usize)]))
    }

    fn write(
        &self,
        request: &Request,
        _: Ino,
        _: Handle,
        offset: u64,
        data: &[u8],
        _: WriteHow,
    ) -> Answer<u32> {
        if request.wait == Wait::Never {
            return Err(Stop::Waits);
        }
        let mut written = self.written.lock().unwrap();
        assert_eq!(written.len(), offset as usize);
        written.extend_from_slice(data);
        Ok(data.len() as u32)
    }

    fn flush(&self, _: &Request, _: Ino, _: Handle, _: u64) -> Answer<()> {
        Ok(())
    }

    fn release(&self, _: Ino, _: Handle) {}

    fn fsync(&self, _: Ino, _: Handle, done: Done<()>) {
        std::thread::spawn(move || {
            done(Err(FsError::Lost("the probe loses everything".to_owned())))
        });
    }

    fn fallocate(&self, _: &Request, _: Place, _: u64, _: Allocate) -> Answer<()> {
        Err(NO)
    }

    fn seek(&self, _: &Request, _: Place, _: SeekFor) -> Answer<u64> {
        Err(NO)
    }

    fn copy_range(&self, _: &Request, _: Place, _: Place, _: u64) -> Answer<u64> {
        Err(NO)
    }

    fn readdir(
        &self,
        request: &Request,
        dir: Ino,
        after: u64,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Answer<()> {
        if request.wait == Wait::Never {
            return Err(Stop::Waits);
        }
        let names = self.names.lock().unwrap();
        let dots = [(dir, &b"."[..]), (dir, b"..")];
        let files = names
            .iter()
            .enumerate()
            .map(|(n, name)| (Ino::new(n as u64 + 2).unwrap(), name.as_slice()));
        for (n, (ino, name)) in dots.into_iter().chain(files).enumerate().skip(after as usize) {
            let stat = Probe::stat(ino, name.len() as u64);
            let (kind, valid) = (stat.attr.kind, Duration::ZERO);
            let entry = (plus && n > 1).then_some(Entry { stat, valid });
            let cookie = n as u64 + 1;
            if !sink.add(&DirEntry { name, ino, kind, cookie, entry }) {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&self, _: &Request, _: Ino) -> Answer<Space> {
        Ok(Space { total: 1 << 30, free: 1 << 29, available: 1 << 28, files: 3 })
    }

    fn setxattr(&self, _: &Request, _: Ino, _: &[u8], _: &[u8], _: XattrHow) -> Answer<()> {
        Err(NO)
    }

    fn getxattr(&self, _: &Request, _: Ino, _: &[u8]) -> Answer<Bytes> {
        Ok(Bytes::from_static(b"value"))
    }

    fn listxattr(&self, _: &Request, _: Ino) -> Answer<Bytes> {
        Ok(Bytes::from_static(b"user.one\0user.two\0"))
    }

    fn removexattr(&self, _: &Request, _: Ino, _: &[u8]) -> Answer<()> {
        Err(NO)
    }
}

/// A mounted probe, unmounted whatever the test does.
struct Served {
    probe: Arc<Probe>,
    mounted: Mounted,
    dir: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Served {
    fn start() -> Served {
        let scratch = scratch();
        let dir = scratch.path().canonicalize().unwrap().join("mount point, 1");
        fs::create_dir(&dir).unwrap();
        let probe = Arc::new(Probe::default());
        let mounted = mount(Arc::clone(&probe), &dir, &options()).unwrap();
        Served { probe, mounted, dir, _scratch: scratch }
    }

    fn ended(&self) -> u32 {
        *self.probe.ended.lock().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.probe.open_gate();
        // The table writes this mount point with escapes, so it is unmounted until nothing is mounted there.
        while rustix::mount::unmount(&self.dir, UnmountFlags::DETACH).is_ok() {}
    }
}

fn options() -> MountOptions {
    MountOptions::new("tsfs#a, comma".to_owned())
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn refused(at: &Path) -> MountError {
    mount(Arc::new(Probe::default()), at, &options()).map(|_| ()).unwrap_err()
}

#[test]
fn a_panic_costs_one_request() {
    let served = Served::start();
    for n in 0..20 {
        let path = served.dir.join(format!("panic{n}"));
        assert_eq!(errno(fs::metadata(path)), libc::EIO);
    }
    assert_eq!(fs::read(served.dir.join("still here")).unwrap(), b"still here");
}

#[test]
fn a_request_that_waits_holds_up_no_other() {
    let served = Served::start();
    let readers: Vec<_> = (0..8)
        .map(|n| {
            let path = served.dir.join(format!("wait{n}"));
            std::thread::spawn(move || fs::read(path).unwrap())
        })
        .collect();
    // More of them wait than there are loop threads, and others are answered all the same.
    wait_until(LIMIT, "a read to wait", || served.probe.refused_on.lock().unwrap().is_some());
    for n in 0..50 {
        let name = format!("quick{n}");
        assert_eq!(fs::read(served.dir.join(&name)).unwrap(), name.as_bytes());
    }
    served.probe.open_gate();
    for (n, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.join().unwrap(), format!("wait{n}").as_bytes());
    }
    let (refused, answered) =
        (*served.probe.refused_on.lock().unwrap(), *served.probe.answered_on.lock().unwrap());
    assert_ne!(refused, answered, "answered by another thread than the loop's");
}

#[test]
fn bytes_of_a_write_that_waits_are_kept() {
    let served = Served::start();
    let mut file = File::options().write(true).open(served.dir.join("file")).unwrap();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    file.write_all(&data).unwrap();
    assert!(*served.probe.written.lock().unwrap() == data);
}

#[test]
fn names_of_any_bytes_pass() {
    let served = Served::start();
    let every: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    for name in [&every[..], b"\xff\xfe", b" ", b"\n", b"a\\b", "grün".as_bytes()] {
        let path = served.dir.join(OsStr::from_bytes(name));
        assert_eq!(fs::read(path).unwrap(), name);
    }
    let mut listed: Vec<_> = fs::read_dir(&served.dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_vec())
        .collect();
    listed.sort();
    assert!(listed.contains(&every));
    assert_eq!(listed.len(), 6);
    let long = |len| served.dir.join("x".repeat(len));
    assert!(fs::metadata(long(255)).is_ok());
    assert_eq!(errno(fs::metadata(long(256))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(served.dir.join("missing"))), libc::ENOENT);
}

#[test]
fn a_big_listing_arrives_whole() {
    let served = Served::start();
    let names: Vec<Vec<u8>> = (0..5000).map(|n| format!("entry number {n}").into_bytes()).collect();
    *served.probe.names.lock().unwrap() = names;
    for _ in 0..2 {
        let mut sizes = 0;
        for entry in fs::read_dir(&served.dir).unwrap() {
            sizes += entry.unwrap().metadata().unwrap().len();
        }
        let expected: usize = (0..5000).map(|n| format!("entry number {n}").len()).sum();
        assert_eq!(sizes, expected as u64);
    }
}

#[test]
fn times_before_1970_and_errors_of_fsync_arrive() {
    let served = Served::start();
    let path = served.dir.join("file");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (-2, 300_000_000));
    let file = File::open(&path).unwrap();
    assert_eq!(errno(file.sync_all()), libc::EIO);
    let space = rustix::fs::statvfs(&served.dir).unwrap();
    assert_eq!(space.f_bavail * space.f_frsize, 1 << 28);
}

#[test]
fn values_of_attributes_fit_or_say_so() {
    let served = Served::start();
    let path = served.dir.join("file");
    let mut room = [0u8; 5];
    assert_eq!(rustix::fs::getxattr(&path, "user.x", &mut room), Ok(5));
    assert_eq!(&room, b"value");
    assert_eq!(rustix::fs::getxattr_query(&path, "user.x"), Ok(5));
    let short: &mut [u8] = &mut [0; 3];
    assert_eq!(rustix::fs::getxattr(&path, "user.x", short), Err(rustix::io::Errno::RANGE));
    let mut names = [0u8; 64];
    let len = rustix::fs::listxattr(&path, &mut names).unwrap();
    assert_eq!(&names[..len], b"user.one\0user.two\0");
}

#[test]
fn the_table_of_mounts_names_the_store() {
    let served = Served::start();
    let at = served.dir.to_str().unwrap().replace(' ', r"\040");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let row = table.lines().find(|line| line.contains(&at)).unwrap();
    assert!(row.contains(r"fuse.tsfs tsfs\043a,\040comma"), "{row}");
    assert!(row.contains("default_permissions") && row.contains("allow_other"), "{row}");
}

#[test]
fn unmounting_ends_the_session_once() {
    let served = Served::start();
    assert_eq!(served.mounted.unmount(LIMIT).unwrap(), Unmounted::Gone);
    assert_eq!(served.mounted.wait(), Ok(()));
    assert_eq!(served.ended(), 1);
    assert_eq!(served.mounted.unmount(LIMIT).unwrap(), Unmounted::Gone);
    assert_eq!(served.ended(), 1);
    assert_eq!(fs::read_dir(&served.dir).unwrap().count(), 0);
}

#[test]
fn an_unmount_from_outside_ends_the_session_and_leaves_the_next_mount_alone() {
    let served = Served::start();
    run(Command::new("umount").arg(&served.dir));
    assert_eq!(served.mounted.wait(), Ok(()));
    assert_eq!(served.ended(), 1);
    let other = Arc::new(Probe::default());
    let next = mount(Arc::clone(&other), &served.dir, &options()).unwrap();
    assert_eq!(served.mounted.unmount(LIMIT).unwrap(), Unmounted::Gone);
    assert_eq!(fs::read(served.dir.join("alive")).unwrap(), b"alive");
    assert_eq!(next.unmount(LIMIT).unwrap(), Unmounted::Gone);
}

#[test]
fn a_busy_mount_is_detached_after_a_while() {
    let served = Served::start();
    let mut held = File::open(served.dir.join("held")).unwrap();
    let outcome = served.mounted.unmount(Duration::from_millis(200)).unwrap();
    assert_eq!(outcome, Unmounted::Detached);
    assert_eq!(served.mounted.wait(), Ok(()));
    assert_eq!(served.ended(), 1);
    assert!(!served.dir.join("held").exists(), "its name is gone");
    // The probe does not mind that it was ended; the last descriptor ends the session itself.
    let mut text = String::new();
    held.read_to_string(&mut text).unwrap();
    assert_eq!(text, "held");
    drop(held);
    wait_until(LIMIT, "the session to end", || served.ended() == 2);
}

#[test]
fn what_covers_a_mount_is_not_unmounted() {
    let served = Served::start();
    assert!(matches!(refused(&served.dir), MountError::Mounted { .. }));
    run(Command::new("mount").args(["-t", "tmpfs", "cover"]).arg(&served.dir));
    let fault = served.mounted.unmount(LIMIT).unwrap_err();
    assert!(matches!(&fault, MountError::Covered { kind, .. } if kind == "tmpfs"), "{fault}");
    run(Command::new("umount").arg(&served.dir));
    assert_eq!(served.mounted.unmount(LIMIT).unwrap(), Unmounted::Gone);
}

#[test]
fn a_mount_point_that_does_not_fit_is_refused_with_a_sentence() {
    let scratch = scratch();
    let dir = scratch.path().join("full");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("entry"), "").unwrap();
    let fault = refused(&dir);
    assert!(matches!(fault, MountError::NotEmpty { .. }), "{fault}");
    assert!(fault.to_string().contains("nonempty"), "{fault}");
    assert!(matches!(refused(&scratch.path().join("no")), MountError::Missing { .. }));
    assert!(matches!(refused(&dir.join("entry")), MountError::NotDirectory { .. }));
    assert!(matches!(refused(Path::new("/proc")), MountError::Mounted { .. }));
    assert_eq!(mounted(&dir), None);

    let over = MountOptions { nonempty: true, ..options() };
    let hiding = mount(Arc::new(Probe::default()), &dir, &over).unwrap();
    assert_eq!(hiding.unmount(LIMIT).unwrap(), Unmounted::Gone);
    assert!(dir.join("entry").exists());
}

#[test]
fn the_kernel_forgets_what_it_is_told_to() {
    let served = Served::start();
    fs::read(served.dir.join("file")).unwrap();
    let kernel = served.probe.kernel.lock().unwrap().clone().unwrap();
    let file = Ino::new(2).unwrap();
    kernel.forget_inode(file, Some(0));
    kernel.forget_inode(file, None);
    kernel.forget_entry(Ino::ROOT, b"file");
    // Things that it does not know are no fault.
    kernel.forget_inode(Ino::new(999).unwrap(), Some(0));
    kernel.forget_entry(Ino::ROOT, b"never seen");
    assert_eq!(fs::read(served.dir.join("file")).unwrap(), b"file");
}

#[test]
fn a_mount_whose_server_died_is_replaced() {
    let served = Served::start();
    // A connection that is aborted answers as one whose server was killed.
    let device = rustix::fs::stat(&served.dir).unwrap().st_dev;
    let number = rustix::fs::minor(device);
    let control = scratch();
    run(Command::new("mount").args(["-t", "fusectl", "fusectl"]).arg(control.path()));
    let aborted = fs::write(control.path().join(format!("{number}/abort")), "1");
    run(Command::new("umount").arg(control.path()));
    aborted.unwrap();
    assert_eq!(served.mounted.wait(), Ok(()));
    assert_eq!(errno(fs::metadata(&served.dir)), libc::ENOTCONN);

    let next = mount(Arc::new(Probe::default()), &served.dir, &options()).unwrap();
    assert_eq!(fs::read(served.dir.join("alive")).unwrap(), b"alive");
    assert_eq!(next.unmount(LIMIT).unwrap(), Unmounted::Gone);
}

#[test]
fn a_switch_ends_its_own_mount_and_no_later_one() {
    let device = |served: &Served| rustix::fs::stat(&served.dir).unwrap().st_dev;
    let first = Served::start();
    let (number, mut switch) = (device(&first), first.mounted.switch().unwrap());
    assert_eq!(first.mounted.unmount(LIMIT).unwrap(), Unmounted::Gone);
    // The kernel uses the lowest number that is free, unless others are quicker.
    let mut others = Vec::new();
    wait_until(LIMIT, "a mount with the same number", || {
        others.push(Served::start());
        device(others.last().unwrap()) == number
    });
    let next = others.last().unwrap();
    switch.write_all(b"1").unwrap();
    assert_eq!(fs::read(next.dir.join("alive")).unwrap(), b"alive");
    let mut switch = next.mounted.switch().unwrap();
    switch.write_all(b"1").unwrap();
    assert_eq!(next.mounted.wait(), Ok(()));
    assert_eq!(errno(fs::metadata(&next.dir)), libc::ENOTCONN);
}
