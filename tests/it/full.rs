//! A real disk that is really full: programs are told so, nothing breaks, and deleting gets it back. Somebody else may fill it.

use crate::support;
use crate::support::Mount;
use crate::support::Point;
use crate::support::Random;
use crate::support::sh;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// The default is meant for disks, not for images.
const RESERVE: &str = "store.reserve=32MiB";

/// An ext4 of so many MiB in a file, mounted while it lives.
pub(crate) struct Image(PathBuf);

impl Image {
    pub(crate) fn new(scratch: &Path, mib: u64) -> Image {
        sh(
            scratch,
            &format!(
                "truncate -s {mib}M image && PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -m 0 image"
            ),
        );
        sh(scratch, "mkdir disk && mount -o loop image disk");
        Image(scratch.canonicalize().unwrap().join("disk"))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    pub(crate) fn free(&self) -> u64 {
        let space = rustix::fs::statvfs(&self.0).unwrap();
        space.f_bavail * space.f_frsize
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        support::unmount(&self.0);
    }
}

/// Writes files of noise until the disk is full; returns how many are whole.
fn fill(dir: &Path) -> (u64, std::io::Error) {
    let mut random = Random::new(15);
    for n in 0.. {
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(dir.join(format!("file{n}")))?;
            // A size that goes into blocks, then one that goes into the log.
            file.write_all(&random.noise(if n % 2 == 0 { 1 << 20 } else { 20_000 }))?;
            file.sync_all()
        };
        if let Err(error) = { write }() {
            return (n, error);
        }
    }
    unreachable!("the disk is finite")
}

#[test]
fn a_full_disk_refuses_writes_and_gives_space_back() {
    let scratch = support::scratch();
    let image = Image::new(scratch.path(), 400);
    let store = image.0.join("store");
    let point = Point::new(&scratch.path().join("mnt"));
    let mount = Mount::with(&["--create", "--set", RESERVE], &store, point);
    let top = mount.dir().to_owned();
    std::fs::create_dir(top.join("many")).unwrap();
    let (whole, error) = fill(&top.join("many"));
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(whole > 100, "full after {whole} files");
    // What was synced before is whole, also for a server that starts on the full disk.
    let sums = format!("cd many && sha256sum $(seq -f file%.0f 0 {})", whole - 1);
    let before = sh(&top, &sums);
    mount.close();
    support::run(support::tsfs().arg("fsck").arg(&store));
    let point = Point::new(&scratch.path().join("mnt"));
    let mount = Mount::with(&["--set", RESERVE], &store, point);
    assert_eq!(sh(&top, &sums), before);
    // Closing it has let go of some of the log; with that used up, it is as full as before.
    let more = Random::new(16).noise(4 << 20);
    for len in [4 << 20, 200_000] {
        let write = |n| std::fs::write(top.join(format!("more{len}.{n}")), &more[..len]);
        let refused = (0..30).find_map(|n| write(n).err());
        assert_eq!(refused.and_then(|error| error.raw_os_error()), Some(libc::ENOSPC));
    }
    // Whoever tries again and again does not fill the log with it.
    for _ in 0..100 {
        std::fs::write(top.join("more"), Random::new(16).noise(200_000)).unwrap_err();
    }
    let told = |logged: &str| logged.lines().filter(|line| line.contains("full")).count();
    let said = || told(&mount.logged()) >= 1;
    support::wait_until(std::time::Duration::from_secs(10), "the log to say so", said);
    let logged = mount.logged();
    assert!(!logged.contains("a request failed") && told(&logged) < 5, "{logged}");
    // Deleting works; the space comes back when history is given up.
    sh(&top, "rm -rf many more*");
    let full = image.free();
    let purge = support::run(support::tsfs().args(["purge", "--before", "now"]).arg(&top));
    support::wait_until(std::time::Duration::from_secs(120), "space to come back", || {
        image.free() > full + (150 << 20)
    });
    drop(purge);
    let (again, error) = fill(&top);
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(again * 2 > whole, "{whole} files at first, {again} after purging");
    mount.close();
    support::run(support::tsfs().arg("fsck").arg(&store));
}

/// Takes all that is left of the disk, as somebody else's program does, until nothing is left of the reserve either.
fn take_all(image: &Image) -> PathBuf {
    let path = image.0.join("somebody's");
    let mut file = std::fs::File::create(&path).unwrap();
    let chunk = vec![0; 16 << 10];
    support::wait_until(std::time::Duration::from_secs(60), "the reserve to be gone", || {
        while file.write(&chunk).is_ok_and(|written| written > 0) {}
        image.free() < 64 << 10
            && std::fs::metadata(image.0.join("store/ballast")).unwrap().len() == 0
    });
    path
}

#[test]
fn a_disk_that_somebody_else_fills_holds_changes_up_and_loses_none() {
    let scratch = support::scratch();
    let image = Image::new(scratch.path(), 300);
    let store = image.0.join("store");
    let point = Point::new(&scratch.path().join("mnt"));
    // A small reserve makes for a small table in memory, which then has to be written soon.
    let settings = ["--set", "store.reserve=16MiB"];
    let mount = Mount::with(&["--create", settings[0], settings[1]], &store, point);
    let top = mount.dir().to_owned();
    let noise = Random::new(17).noise(100_000);
    std::fs::write(top.join("kept"), &noise).unwrap();
    sh(&top, "mkdir names && cd names && touch $(seq -f a%.0f 2000)");
    support::run(support::tsfs().arg("sync").arg(&top));
    let somebodys = take_all(&image);
    let refused = std::fs::write(top.join("more"), &noise);
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    // What needs no space of its own goes on, until the table cannot be written any more.
    let health = || {
        // It fails where not all is well.
        let status = support::tsfs().arg("status").arg(&top).output().unwrap();
        String::from_utf8(status.stdout).unwrap()
    };
    let mut passes = 0;
    while !health().contains("changes wait") {
        assert!(passes < 200, "the table had room all the time");
        let (from, to) = if passes % 2 == 0 { ('a', 'b') } else { ('b', 'a') };
        for n in 1..=2000 {
            let name = |letter: char| top.join(format!("names/{letter}{n}"));
            std::fs::rename(name(from), name(to)).unwrap();
        }
        passes += 1;
    }
    assert_eq!(std::fs::read(top.join("kept")).unwrap(), noise);
    assert_eq!(std::fs::read_dir(top.join("names")).unwrap().count(), 2000);
    std::fs::remove_file(top.join("kept")).unwrap();
    std::fs::remove_file(somebodys).unwrap();
    // It goes on by itself.
    support::wait_until(std::time::Duration::from_secs(60), "changes to go on", || {
        !health().contains("changes wait")
    });
    std::fs::write(top.join("more"), &noise).unwrap();
    support::run(support::tsfs().arg("sync").arg(&top));
    let names = sh(&top, "ls names");
    let _dead = mount.kill();
    // Elsewhere, with a log of its own: what RocksDB said of the full disk is no error of this one.
    let point = Point::new(&scratch.path().join("again"));
    let mount = Mount::with(&settings, &store, point);
    let top = mount.dir().to_owned();
    assert_eq!(sh(&top, "ls names"), names);
    assert_eq!(std::fs::read(top.join("more")).unwrap(), noise);
    assert!(!top.join("kept").exists());
    mount.close();
    support::run(support::tsfs().arg("fsck").arg(&store));
}
