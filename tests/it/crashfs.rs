//! A file system in memory that loses what was not synced, on command: a power cut for real programs.
//!
//! Mount it, keep a store on it, kill the store's server, call [`CrashFs::crash`], start the server again. What was
//! synced is there. Of what was not: any sectors of any page of file contents, any of the lengths a file had (a longer one with
//! what it covers), and a beginning of the changes of names – in the order they were made, as a journal of metadata keeps them; syncing a file
//! does not make its name durable, only syncing its directory does.
//!
//! It talks to the kernel through fuser, not through `tsfs::fuse`: a harness does not rest on what it tests.
//! Not here: links, symbolic links, extended attributes, running out of space; no store needs them.

/// The tree, and what of it is safe.
mod disk;
/// Requests of the kernel.
mod door;

use disk::Disk;
pub(crate) use disk::Kept;
use door::Door;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

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
    /// What each write and each sync takes.
    slow: Duration,
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
        let drive = Drive {
            disk: Disk::new(),
            slow: Duration::ZERO,
            recording: false,
            moment: 0,
            shots: Vec::new(),
        };
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

    /// From now on each write and each sync takes so long.
    pub(crate) fn slow(&self, time: Duration) {
        self.drive.lock().unwrap().slow = time;
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

#[cfg(test)]
mod tests;
