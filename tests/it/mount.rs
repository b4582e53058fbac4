//! What a program sees through one mount, call by call, where the suites (`posix`) do not look or not closely enough.
//!
//! Not here: the past (`past`), requests that misbehave (`transport`).

use crate::support;
use crate::support::Mount;
use crate::support::Point;
use crate::support::Random;
use crate::support::run;
use crate::support::sh;
use rustix::fs::AtFlags;
use rustix::fs::FallocateFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RenameFlags;
use rustix::fs::SeekFrom;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Somebody who is not root.
pub(crate) const NOBODY: u32 = 65534;

/// A scratch directory that others may enter, with a mounted store in it.
pub(crate) struct Top {
    // Declared first, so it is unmounted before the directory under it is removed.
    mount: Option<Mount>,
    scratch: tempfile::TempDir,
}

impl Top {
    pub(crate) fn new() -> Top {
        let scratch = support::scratch();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mount = Mount::create(&scratch.path().join("store"), &scratch.path().join("mnt"));
        Top { mount: Some(mount), scratch }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.mount.as_ref().unwrap().dir().to_owned()
    }

    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir().join(path)
    }

    pub(crate) fn sh(&self, line: &str) -> String {
        sh(&self.dir(), line)
    }

    /// Unmounts and mounts again, with further arguments.
    pub(crate) fn again(&mut self, arguments: &[&str]) {
        self.mount.take().unwrap().close();
        let point = Point::new(&self.scratch.path().join("mnt"));
        self.mount = Some(Mount::with(arguments, &self.scratch.path().join("store"), point));
    }

    pub(crate) fn server(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    /// Everything was as it should be to the end: no error in the log, a store without faults.
    pub(crate) fn close(mut self) {
        self.mount.take().unwrap().close();
        run(support::tsfs().arg("fsck").arg(self.scratch.path().join("store")));
    }
}

/// The errno that a call failed with.
pub(crate) fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// A command run by somebody who is not root: whether it succeeded, and what it said.
pub(crate) fn as_nobody(program: &str, arguments: &[&OsStr]) -> (bool, String) {
    let id = NOBODY.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", program]);
    let output = command.args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn names(dir: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_vec()).collect();
    names.sort();
    names
}

#[test]
fn every_kind_of_file_is_kept() {
    let mut top = Top::new();
    top.sh("touch file; mkdir dir; ln -s file soft; ln file hard; mkfifo fifo; mknod null c 1 3; mknod disk b 7 9");
    let socket = std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap();
    for round in 0..2 {
        let kind = |name: &str| fs::symlink_metadata(top.join(name)).unwrap().file_type();
        assert!(kind("file").is_file() && kind("dir").is_dir() && kind("soft").is_symlink());
        assert!(kind("fifo").is_fifo() && kind("socket").is_socket());
        assert!(kind("null").is_char_device() && kind("disk").is_block_device());
        let disk = fs::metadata(top.join("disk")).unwrap().rdev();
        assert_eq!((rustix::fs::major(disk), rustix::fs::minor(disk)), (7, 9));
        let hard = fs::metadata(top.join("hard")).unwrap();
        assert_eq!((hard.nlink(), hard.ino()), (2, fs::metadata(top.join("file")).unwrap().ino()));
        for entry in fs::read_dir(top.dir()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            assert_eq!(entry.file_type().unwrap(), kind(&name), "{name}");
        }
        if round == 0 {
            top.again(&[]);
        }
    }
    drop(socket);
    top.close();
}

#[test]
fn names_are_any_bytes() {
    let mut top = Top::new();
    let every: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let mut all =
        vec![every[..200].to_vec(), b"\xff\xfe".to_vec(), b" \n\\".to_vec(), vec![b'x'; 255]];
    for name in &all {
        fs::write(top.join(OsStr::from_bytes(name)), name).unwrap();
    }
    assert_eq!(errno(fs::write(top.join("x".repeat(256)), "")), libc::ENAMETOOLONG);
    all.sort();
    top.again(&[]);
    assert_eq!(names(&top.dir()), all);
    for name in &all {
        assert_eq!(fs::read(top.join(OsStr::from_bytes(name))).unwrap(), *name);
    }
    top.close();
}

#[test]
fn rename_replaces_refuses_and_exchanges() {
    let top = Top::new();
    top.sh("echo a > a; echo b > b; mkdir full empty; touch full/entry");
    let rename = |from: &str, to: &str, flags| {
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            top.join(from),
            rustix::fs::CWD,
            top.join(to),
            flags,
        )
    };
    assert_eq!(rename("a", "b", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(rename("a", "b", RenameFlags::EXCHANGE), Ok(()));
    assert_eq!(top.sh("cat a b"), "b\na\n");
    assert_eq!(rename("a", "full", RenameFlags::EXCHANGE), Ok(()));
    assert_eq!(top.sh("ls a; cat full"), "entry\nb\n");
    assert_eq!(rename("a", "empty", RenameFlags::empty()), Ok(()));
    assert_eq!(errno(fs::rename(top.join("full"), top.join("empty"))), libc::EISDIR);
    top.sh("mkdir -p other/x");
    assert_eq!(errno(fs::rename(top.join("other"), top.join("empty"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(top.join("other"), top.join("other/x/in"))), libc::EINVAL);
    assert_eq!(rename("b", "c", RenameFlags::NOREPLACE), Ok(()));
    assert_eq!(rename("b", "d", RenameFlags::empty()), Err(Errno::NOENT));
    assert_eq!(rename("c", "d", RenameFlags::WHITEOUT), Err(Errno::INVAL));
    top.close();
}

#[test]
fn open_obeys_its_flags() {
    let top = Top::new();
    let path = top.join("file");
    let new = |path: &Path| File::options().write(true).create_new(true).open(path);
    new(&path).unwrap();
    assert_eq!(errno(new(&path)), libc::EEXIST);
    // Two writers that append do not overwrite each other, wherever they think they are.
    let append = || File::options().append(true).open(&path).unwrap();
    let (mut one, mut two) = (append(), append());
    for _ in 0..50 {
        one.write_all(b"one,").unwrap();
        two.write_all(b"two,").unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "one,two,".repeat(50));
    one.write_all_at(b"end", 0).unwrap();
    assert!(fs::read_to_string(&path).unwrap().ends_with("end"), "pwrite appends too, on Linux");
    File::create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    assert_eq!(errno(File::options().write(true).open(top.dir())), libc::EISDIR);
    assert_eq!(errno(File::open(path.join("below"))), libc::ENOTDIR);
    top.sh("ln -s file link");
    let no_follow = OFlags::RDONLY | OFlags::NOFOLLOW;
    let opened = rustix::fs::open(top.join("link"), no_follow, Mode::empty());
    assert_eq!(opened.map(drop), Err(Errno::LOOP));
    top.close();
}

#[test]
fn direct_io_reads_what_others_wrote_and_the_other_way_round() {
    let top = Top::new();
    let path = top.join("file");
    top.sh("dd if=/dev/urandom of=../plain bs=4096 count=64 status=none");
    top.sh("dd if=../plain of=file bs=64k oflag=direct status=none");
    top.sh("cmp ../plain file; dd if=file of=../back bs=128k iflag=direct status=none; cmp ../plain ../back");
    let mut random = Random::new(3);
    for _ in 0..20 {
        let (at, noise) = (random.below(64) * 4096, random.noise(4096));
        fs::write(top.join("../page"), &noise).unwrap();
        let seek = at / 4096;
        top.sh(&format!(
            "dd if=../page of=file bs=4096 seek={seek} conv=notrunc oflag=direct status=none"
        ));
        let mut back = vec![0; 4096];
        File::open(&path).unwrap().read_exact_at(&mut back, at).unwrap();
        assert!(back == noise, "a buffered read after a direct write at {at}");
    }
    top.close();
}

#[test]
fn holes_are_kept_found_and_made() {
    let top = Top::new();
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(top.join("file"))
        .unwrap();
    file.write_all_at(b"data", 5 << 20).unwrap();
    file.sync_all().unwrap();
    let seek = |from| rustix::fs::seek(&file, from);
    assert_eq!(seek(SeekFrom::Data(0)), Ok(5 << 20));
    assert_eq!(seek(SeekFrom::Hole(0)), Ok(0));
    assert_eq!(seek(SeekFrom::Hole(5 << 20)), Ok((5 << 20) + 4));
    assert_eq!(seek(SeekFrom::Data((5 << 20) + 4)), Err(Errno::NXIO));
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20, "a hole takes no room");

    let noise = Random::new(5).noise(300_000);
    file.write_all_at(&noise, 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 100_000, 50_000).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, 200_000, 10).unwrap();
    let mut expected = noise;
    expected[100_000..150_000].fill(0);
    expected[200_000..200_010].fill(0);
    let mut back = vec![1; expected.len()];
    file.read_exact_at(&mut back, 0).unwrap();
    assert!(back == expected);

    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 9 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (5 << 20) + 4);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 6 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 6 << 20);
    let collapse = rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(Errno::OPNOTSUPP));

    file.set_len(150_100).unwrap();
    file.set_len(150_200).unwrap();
    let mut tail = [1; 200];
    file.read_exact_at(&mut tail, 150_000).unwrap();
    assert_eq!(tail[..100], expected[150_000..150_100]);
    assert_eq!(tail[100..], [0; 100], "what was cut off does not come back");
    assert_eq!(errno(file.set_len((1 << 50) + 1)), libc::EFBIG);
    top.close();
}

#[test]
fn a_file_lives_until_it_is_closed() {
    let mut top = Top::new();
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(top.join("file"))
        .unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(top.join("file")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all(b" and after").unwrap();
    file.sync_all().unwrap();
    let mut text = String::new();
    io::Seek::rewind(&mut file).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before and after");
    // So does one that a rename replaced.
    top.sh("echo old > target; echo new > source");
    let mut old = File::open(top.join("target")).unwrap();
    top.sh("mv source target");
    text.clear();
    old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old\n");
    // And a removed directory that is open, which is empty.
    top.sh("mkdir gone");
    let gone = fs::read_dir(top.join("gone")).unwrap();
    top.sh("rmdir gone");
    assert_eq!(gone.count(), 0);
    drop((file, old));
    top.again(&[]);
    assert_eq!(names(&top.dir()), [b"target".to_vec()]);
    top.close();
}

#[test]
fn attributes_are_set_replaced_and_refused() {
    let mut top = Top::new();
    fs::write(top.join("file"), "").unwrap();
    let path = top.join("file");
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    let big = Random::new(1).noise(60_000);
    assert_eq!(set("user.one", b"1", XattrFlags::CREATE), Ok(()));
    assert_eq!(set("user.one", b"1", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set("user.two", b"2", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(set("user.big", &big, XattrFlags::empty()), Ok(()));
    assert_eq!(set("user.empty", b"", XattrFlags::empty()), Ok(()));
    assert_eq!(set("trusted.x", b"t", XattrFlags::empty()), Ok(()));
    top.again(&[]);
    let mut value = vec![0; 65_536];
    assert_eq!(rustix::fs::getxattr(&path, "user.big", &mut value), Ok(60_000));
    assert!(value[..60_000] == big);
    assert_eq!(rustix::fs::getxattr(&path, "user.none", &mut value), Err(Errno::NODATA));
    let len = rustix::fs::listxattr(&path, &mut value).unwrap();
    let mut listed: Vec<_> =
        value[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    listed.sort();
    assert_eq!(listed, [&b"trusted.x"[..], b"user.big", b"user.empty", b"user.one"]);
    rustix::fs::removexattr(&path, "user.one").unwrap();
    assert_eq!(rustix::fs::removexattr(&path, "user.one"), Err(Errno::NODATA));
    top.close();
}

#[test]
fn acls_are_refused_not_ignored() {
    let top = Top::new();
    fs::write(top.join("file"), "").unwrap();
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    for (name, path) in [("system.posix_acl_access", "file"), ("system.posix_acl_default", ".")] {
        let set = rustix::fs::setxattr(top.join(path), name, acl, XattrFlags::empty());
        assert_eq!(set, Err(Errno::OPNOTSUPP), "{name}");
        let got = rustix::fs::getxattr(top.join(path), name, &mut [0u8; 64][..]);
        assert!(matches!(got, Err(Errno::OPNOTSUPP | Errno::NODATA)), "{name}: {got:?}");
    }
    top.close();
}

#[test]
fn set_user_id_goes_when_somebody_else_changes_the_file() {
    let top = Top::new();
    let mode = |name: &str| fs::metadata(top.join(name)).unwrap().mode() & 0o7777;
    let change = |what: &str| {
        top.sh("rm -f file; head -c 9000 /dev/zero > file; chmod 6777 file");
        assert_eq!(mode("file"), 0o6777);
        let script = format!("cd '{}' && {what}", top.dir().display());
        let (done, said) = as_nobody("bash", &["-c".as_ref(), script.as_ref()]);
        assert!(done, "{what}: {said}");
        mode("file")
    };
    assert_eq!(change("echo more >> file"), 0o777);
    assert_eq!(change("truncate -s 5 file"), 0o777);
    assert_eq!(change(": > file"), 0o777);
    assert_eq!(change("fallocate -l 10000 file"), 0o777);
    assert_eq!(change("cat file"), 0o6777, "reading leaves it");
    top.sh("chmod 6777 file; echo root >> file");
    assert_eq!(mode("file"), 0o6777, "root may keep it");
    top.sh("chown 1 file");
    assert_eq!(mode("file"), 0o777, "a new owner does not get it");
    top.sh("mkdir dir; chmod 2777 dir; chown 1 dir");
    assert_eq!(mode("dir"), 0o2777, "a directory's means something else");
    top.close();
}

#[test]
fn the_kernel_checks_permissions_for_everybody() {
    let top = Top::new();
    top.sh("echo secret > secret; chmod 600 secret; mkdir shut; chmod 700 shut; echo x > shut/x");
    top.sh(
        "mkdir group sticky; chgrp 7 group; chmod 2777 group; chmod 1777 sticky; touch sticky/root",
    );
    let cat = |name: &str| as_nobody("cat", &[top.join(name).as_os_str()]);
    assert!(cat("secret").1.contains("Permission denied"));
    assert!(cat("shut/x").1.contains("Permission denied"));
    let script =
        format!("cd '{}' && umask 027 && touch group/file && mkdir group/dir", top.dir().display());
    let (done, said) = as_nobody("bash", &["-c".as_ref(), script.as_ref()]);
    assert!(done, "{said}");
    let file = fs::metadata(top.join("group/file")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (NOBODY, 7, 0o640));
    let dir = fs::metadata(top.join("group/dir")).unwrap();
    assert_eq!((dir.gid(), dir.mode() & 0o7777), (7, 0o2750), "a directory hands its group down");
    let (removed, _) = as_nobody("rm", &["-f".as_ref(), top.join("sticky/root").as_os_str()]);
    assert!(!removed, "a sticky directory protects its entries");
    top.close();
}

#[test]
fn times_before_1970_keep_their_fractions() {
    let mut top = Top::new();
    fs::write(top.join("file"), "").unwrap();
    let path = top.join("file");
    let spec = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
    let set = |last_access, last_modification| {
        let times = rustix::fs::Timestamps { last_access, last_modification };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty()).unwrap();
    };
    for (seconds, nanos) in
        [(-2, 300_000_000), (-1, 1), (-86_400, 0), (0, 999_999_999), (1 << 33, 7)]
    {
        set(spec(seconds, nanos), spec(seconds, nanos));
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, nanos));
        assert_eq!((meta.atime(), meta.atime_nsec()), (seconds, nanos));
    }
    set(spec(5, rustix::fs::UTIME_OMIT), spec(11, 0));
    top.again(&[]);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.atime(), meta.mtime()), (1 << 33, 11));
    let before = meta.ctime();
    set(spec(0, rustix::fs::UTIME_NOW), spec(0, rustix::fs::UTIME_NOW));
    let meta = fs::metadata(&path).unwrap();
    assert!(meta.mtime() >= before && meta.ctime() >= before);
    top.close();
}

#[test]
fn a_listing_goes_on_while_the_directory_changes() {
    const FILES: u64 = 20_000;
    let top = Top::new();
    let dir = top.join("dir");
    fs::create_dir(&dir).unwrap();
    for n in 0..FILES {
        File::create(dir.join(format!("stays {n}"))).unwrap();
    }
    let (mut seen, mut random) = (HashSet::new(), Random::new(9));
    for (n, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("stays") {
            assert!(seen.insert(name.clone()), "{name} came twice");
        }
        if n % 7 == 0 {
            let other = dir.join(format!("comes {}", random.next()));
            File::create(&other).unwrap();
            if n % 2 == 0 {
                fs::remove_file(other).unwrap();
            }
        }
    }
    assert_eq!(seen.len() as u64, FILES, "each that stays is seen once");
    top.close();
}

#[test]
fn space_is_told() {
    let top = Top::new();
    let space = rustix::fs::statvfs(top.dir()).unwrap();
    let below = rustix::fs::statvfs(top.join("..")).unwrap();
    assert_eq!(space.f_namemax, 255);
    assert!(
        space.f_blocks > 0 && space.f_bavail <= space.f_bfree && space.f_bfree <= space.f_blocks
    );
    assert!(space.f_blocks * space.f_frsize <= below.f_blocks * below.f_frsize);
    top.close();
}

#[test]
fn locks_hold_within_a_mount() {
    let top = Top::new();
    fs::write(top.join("file"), "").unwrap();
    let one = File::open(top.join("file")).unwrap();
    let two = File::open(top.join("file")).unwrap();
    let try_exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&one, try_exclusive).unwrap();
    assert_eq!(rustix::fs::flock(&two, try_exclusive), Err(Errno::WOULDBLOCK));
    // A record lock is another kind and does not meet the first.
    let lock = "import fcntl,sys; f=open('file','r+'); fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB)";
    top.sh(&format!("python3 -c \"{lock}\""));
    let held = format!(
        "{lock}; import subprocess; sys.exit(subprocess.call([sys.executable,'-c',sys.argv[1]],stderr=subprocess.DEVNULL)==0)"
    );
    top.sh(&format!("python3 -c \"{held}\" \"{lock}\""));
    drop(one);
    rustix::fs::flock(&two, try_exclusive).unwrap();
    top.close();
}

#[test]
fn a_shared_mapping_is_the_file() {
    let mut top = Top::new();
    fs::write(top.join("file"), vec![b'a'; 100_000]).unwrap();
    let script = "import mmap; f=open('file','r+b'); m=mmap.mmap(f.fileno(),0)
assert m[99999:]==b'a'; m[50000:50003]=b'xyz'
f.seek(50000); assert f.read(3)==b'xyz', 'a read sees a store'
f.seek(7); f.write(b'w'); f.flush(); assert m[7:8]==b'w', 'a store sees a write'
m.flush()";
    run(Command::new("python3").args(["-c", script]).current_dir(top.dir()));
    top.again(&[]);
    let bytes = fs::read(top.join("file")).unwrap();
    assert_eq!((bytes.len(), bytes[7], &bytes[50_000..50_003]), (100_000, b'w', &b"xyz"[..]));
    top.close();
}

#[test]
fn copying_shares_or_copies_but_arrives() {
    let top = Top::new();
    let noise = Random::new(8).noise(3_000_000);
    fs::write(top.join("from"), &noise).unwrap();
    assert_eq!(fs::copy(top.join("from"), top.join("to")).unwrap(), 3_000_000);
    assert!(fs::read(top.join("to")).unwrap() == noise);
    let (from, to) = (
        File::open(top.join("from")).unwrap(),
        File::options().write(true).open(top.join("to")).unwrap(),
    );
    let (mut at, mut into) = (1_000_001, 77);
    let copied =
        rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut into), 500_000).unwrap();
    assert_eq!((at, into), (1_000_001 + copied as u64, 77 + copied as u64));
    let mut expected = noise.clone();
    expected[77..77 + copied].copy_from_slice(&noise[1_000_001..1_000_001 + copied]);
    assert!(copied > 0 && fs::read(top.join("to")).unwrap() == expected);
    top.sh(
        "cp --reflink=auto from three; cmp from three; cp --sparse=always from four; cmp from four",
    );
    top.close();
}

#[test]
fn what_was_written_before_a_signal_is_there_after_it() {
    let mut top = Top::new();
    for n in 0..300 {
        fs::write(top.join(format!("file{n}")), format!("contents {n}")).unwrap();
    }
    // Not synced, and the mount is in use.
    let mut held = File::create(top.join("held")).unwrap();
    held.write_all(b"held open").unwrap();
    top.again(&[]);
    for n in 0..300 {
        assert_eq!(
            fs::read_to_string(top.join(format!("file{n}"))).unwrap(),
            format!("contents {n}")
        );
    }
    assert_eq!(fs::read_to_string(top.join("held")).unwrap(), "held open");
    drop(held);
    top.close();
}

#[test]
fn an_unmount_from_outside_ends_the_server() {
    let top = Top::new();
    fs::write(top.join("file"), "kept").unwrap();
    run(Command::new("umount").arg(top.dir()));
    let server = top.server().pid();
    support::wait_until(std::time::Duration::from_secs(30), "the server to end", || {
        let state = fs::read_to_string(format!("/proc/{server}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    });
}

#[test]
fn a_read_only_mount_refuses_changes() {
    let mut top = Top::new();
    fs::write(top.join("file"), "kept").unwrap();
    top.again(&["-o", "ro"]);
    assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "kept");
    assert_eq!(errno(fs::write(top.join("file"), "")), libc::EROFS);
    assert_eq!(errno(fs::create_dir(top.join("dir"))), libc::EROFS);
    assert_eq!(errno(fs::remove_file(top.join("file"))), libc::EROFS);
    top.close();
}

/// What fuser 0.18 cannot carry, so that a release that can is noticed.
#[test]
fn what_the_transport_cannot_carry_is_refused_cleanly() {
    let top = Top::new();
    let nameless = rustix::fs::open(top.dir(), OFlags::TMPFILE | OFlags::RDWR, Mode::RWXU);
    assert_eq!(nameless.map(drop), Err(Errno::OPNOTSUPP), "O_TMPFILE");
    fs::write(top.join("file"), "").unwrap();
    let birth = fs::metadata(top.join("file")).unwrap().created();
    assert!(birth.is_err(), "the time of birth has no request");
    top.sh("! lsattr file");
    top.sh("sync -f file");
    top.close();
}
