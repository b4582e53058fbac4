//! Mounting, and unmounting what we mounted.
//!
//! Done by ourselves and not by fuser 0.18, which after an unmount from outside unmounts the path once more, whatever
//! is mounted there by then. Here a mount is known by its number and device in the kernel's table, and left alone
//! once its session has ended.
//!
//! Not here: signals (`cli`), the store (`tsdb_server`).

mod fusermount;
mod options;
mod switch;
pub mod table;

pub use options::MountOptions;

use crate::env::SystemClock;
use crate::fuse::adapter::Adapter;
use crate::fuse::adapter::Notifier;
use crate::fuse::adapter::REQUEST_BYTES_MAX;
use crate::fuse::linger::Linger;
use crate::fuse::mount::table::Row;
use crate::fuse::vfs::Vfs;
use crate::types::FsError;
use parking_lot::Condvar;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

const DEVICE: &str = "/dev/fuse";
/// The file system type that the table of mounts shows.
pub const KIND: &str = "fuse.tsfs";
/// How often a busy mount is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Why something could not be mounted or unmounted: sentences that say what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{at} does not exist; make it with 'mkdir -p {at}'", at = .at.display())]
    Missing { at: PathBuf },
    #[error("{at} is not a directory; name a directory to mount at", at = .at.display())]
    NotDirectory { at: PathBuf },
    #[error("{at} is not empty; mount at an empty directory, or hide its entries with '-o nonempty'", at = .at.display())]
    NotEmpty { at: PathBuf },
    #[error("{from} ({kind}) is mounted at {at} already; unmount it first, or mount elsewhere", at = .at.display())]
    Mounted { at: PathBuf, kind: String, from: String },
    #[error("the server of {from} ({kind}), mounted at {at}, is gone; remove it with 'umount -l {at}'", at = .at.display())]
    Dead { at: PathBuf, kind: String, from: String },
    #[error("{at} may not be entered: {error}", at = .at.display())]
    Closed { at: PathBuf, error: io::Error },
    #[error(
        "there is no {DEVICE}; load the kernel's module with 'modprobe fuse', or start the container with '--device {DEVICE}'"
    )]
    NoDevice,
    #[error(
        "{DEVICE} may not be opened: {0}; let users open it with 'chmod 666 {DEVICE}', or start the container with '--device {DEVICE} --cap-add SYS_ADMIN'"
    )]
    DeviceClosed(io::Error),
    #[error("no permission to mount at {at}; be root, or install fusermount3 (package fuse3)", at = .at.display())]
    NoPermission { at: PathBuf },
    #[error("fusermount3 did not mount at {at}: {said}", at = .at.display())]
    Fusermount { at: PathBuf, said: String },
    #[error("{at} is covered by another mount, {from} ({kind}); unmount that first", at = .at.display())]
    Covered { at: PathBuf, kind: String, from: String },
    #[error("could not {doing}: {error}")]
    Failed { doing: String, error: io::Error },
}

impl MountError {
    fn failed(doing: impl Into<String>) -> impl FnOnce(io::Error) -> MountError {
        let doing = doing.into();
        move |error| MountError::Failed { doing, error }
    }
}

/// What came of unmounting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmounted {
    /// Nothing of it is left.
    Gone,
    /// It was in use: its name is gone, and whatever had it open gets errors from now on.
    Detached,
}

/// How a session ended: what its `destroy` came to.
#[derive(Default)]
struct End {
    outcome: Mutex<Option<Result<(), FsError>>>,
    came: Condvar,
}

impl End {
    /// The first outcome counts.
    fn tell(&self, outcome: Result<(), FsError>) {
        self.outcome.lock().get_or_insert(outcome);
        self.came.notify_all();
    }

    fn wait(&self) -> Result<(), FsError> {
        let mut outcome = self.outcome.lock();
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            self.came.wait(&mut outcome);
        }
    }

    /// True if it came within `patience`.
    fn wait_for(&self, patience: Duration) -> bool {
        let mut outcome = self.outcome.lock();
        self.came.wait_while_for(&mut outcome, |outcome| outcome.is_none(), patience);
        outcome.is_some()
    }
}

/// A mount that is being served. Dropping it neither unmounts nor ends it.
pub struct Mounted {
    at: PathBuf,
    row: Row,
    end: Arc<End>,
    by_fusermount: bool,
    /// Ends the file system where the kernel does not (it is detached, but in use).
    destroy: Box<dyn Fn() -> Result<(), FsError> + Send + Sync>,
}

/// Mounts, and serves requests from threads of its own. When it returns, the mount can be used.
///
/// A mount point whose server died is cleaned first, if that was one of ours.
///
/// # Errors
/// Says what is wrong with the mount point, the device or the permission; then nothing is mounted.
pub fn mount<V: Vfs>(
    vfs: Arc<V>,
    at: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    let at = prepare(at, options.nonempty)?;
    let (device, by_fusermount) = attach(&at, options)?;
    let undo = Undo { at: &at, by_fusermount, armed: true };
    let row = table::top(&at).map_err(MountError::failed("read the table of mounts"))?;
    let row = row.filter(|row| row.kind == KIND).ok_or_else(|| {
        MountError::failed("mount")(io::Error::other("the mount vanished at once"))
    })?;

    let end = Arc::new(End::default());
    let told = Arc::clone(&end);
    let ended = Box::new(move |outcome| told.tell(outcome));
    let starting = || MountError::failed("start the FUSE session");
    let watched = device.try_clone().map_err(starting())?;
    let linger = Linger::new(watched, SystemClock::shared(), options.linger);
    let adapter = Adapter::new(Arc::clone(&vfs), linger, ended).map_err(starting())?;
    let mut config = fuser::Config::default();
    config.n_threads = Some(options.threads.max(1));
    // Who may enter is the kernel's to check (`allow_other`), so the session lets everybody pass.
    let all = fuser::SessionACL::All;
    let session = fuser::Session::from_fd(adapter, device, all, config).map_err(starting())?;
    read_ahead(&row.device);
    vfs.mounted(Arc::new(Notifier(session.notifier())));
    std::thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "the FUSE session ended");
            }
        })
        .map_err(starting())?;
    undo.disarm();
    let destroy = Box::new(move || vfs.destroy());
    Ok(Mounted { at, row, end, by_fusermount, destroy })
}

impl Mounted {
    /// The mount point, absolute and resolved.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Waits until the session has ended, by [`Mounted::unmount`] or from outside.
    ///
    /// # Errors
    /// What the file system could not keep at its end.
    pub fn wait(&self) -> Result<(), FsError> {
        self.end.wait()
    }

    /// Unmounts, if it is still mounted. While it is in use, tries again for `patience`; then detaches it and ends the
    /// file system, so that everything a program saw succeed is kept all the same.
    ///
    /// # Errors
    /// `Covered` where something else was mounted on top, and what the kernel refuses for other reasons.
    pub fn unmount(&self, patience: Duration) -> Result<Unmounted, MountError> {
        self.write_back()?;
        let tries = patience.as_nanos().div_ceil(RETRY.as_nanos());
        for _ in 0..tries.max(1) {
            if self.end.wait_for(Duration::ZERO) || !self.in_place()? {
                return Ok(self.ended(patience));
            }
            match self.detach(false) {
                Ok(()) => return Ok(self.ended(patience)),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    self.end.wait_for(RETRY);
                }
                Err(error) => {
                    return Err(MountError::failed(self.doing())(error));
                }
            }
        }
        self.write_back()?;
        self.detach(true).map_err(MountError::failed(self.doing()))?;
        Ok(self.ended(Duration::ZERO))
    }

    /// Has the kernel send what programs changed through mappings: with the mount's end it comes now or never. Another process
    /// asks for it, and is waited for. A request of our own that nobody answers any more would keep a kill from ending this
    /// process, hence its device open, hence that request without an answer.
    fn write_back(&self) -> Result<(), MountError> {
        if self.end.wait_for(Duration::ZERO) || !self.in_place()? {
            return Ok(());
        }
        let (mut sync, mut look_every) = (Command::new("sync"), Duration::from_millis(1));
        sync.arg("--file-system").arg(&self.at).stdin(Stdio::null()).stdout(Stdio::null());
        let written = sync.stderr(Stdio::null()).spawn().and_then(|mut child| {
            loop {
                if let Some(status) = child.try_wait()? {
                    return Ok(status.success());
                }
                if self.end.wait_for(look_every) {
                    // Whatever it asked for has failed.
                    return Ok(child.wait()?.success());
                }
                look_every = (look_every * 2).min(RETRY);
            }
        });
        match written {
            Ok(true) => {}
            Ok(false) => tracing::warn!("could not write mapped pages back before unmounting"),
            Err(error) => {
                tracing::warn!(%error, "could not run sync(1) to write mapped pages back before unmounting");
            }
        }
        Ok(())
    }

    fn doing(&self) -> String {
        format!("unmount {}", self.at.display())
    }

    /// Whether our mount is the one on top.
    fn in_place(&self) -> Result<bool, MountError> {
        let top = table::top(&self.at).map_err(MountError::failed("read the table of mounts"))?;
        match top {
            None => Ok(false),
            Some(row) if (row.id, &row.device) == (self.row.id, &self.row.device) => Ok(true),
            Some(Row { at, kind, source: from, .. }) => Err(MountError::Covered { at, kind, from }),
        }
    }

    fn detach(&self, lazy: bool) -> io::Result<()> {
        if self.by_fusermount {
            return fusermount::unmount(&self.at, lazy);
        }
        let lazy = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        Ok(rustix::mount::unmount(&self.at, lazy | UnmountFlags::NOFOLLOW)?)
    }

    /// The name is gone. The session ends now, unless somebody (or another namespace) still has the mount in use.
    fn ended(&self, patience: Duration) -> Unmounted {
        if self.end.wait_for(patience) {
            return Unmounted::Gone;
        }
        self.end.tell((self.destroy)());
        Unmounted::Detached
    }
}

/// Unmounts what is mounted at `at`, whoever serves it; `lazy`: even while it is busy.
///
/// # Errors
/// `ResourceBusy` where it is in use; what the kernel or fusermount3 refuses for other reasons.
pub fn unmount(at: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(at, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => fusermount::unmount(at, lazy),
        Err(error) => Err(error.into()),
    }
}

/// Takes a mount back that could not be served.
struct Undo<'a> {
    at: &'a Path,
    by_fusermount: bool,
    armed: bool,
}

impl Undo<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            let undone = clear(self.at, self.by_fusermount);
            if let Err(error) = undone {
                tracing::warn!(at = %self.at.display(), %error, "a mount is left behind");
            }
        }
    }
}

fn clear(at: &Path, by_fusermount: bool) -> io::Result<()> {
    if by_fusermount {
        return fusermount::unmount(at, true);
    }
    Ok(rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// The mount point, resolved, once it is fit for mounting: a directory, empty unless `nonempty`, and nothing mounted
/// there. A mount of ours whose server is gone is removed.
///
/// # Errors
/// Says what is wrong with it.
pub fn prepare(at: &Path, nonempty: bool) -> Result<PathBuf, MountError> {
    let resolved = resolve(at)?;
    while let Some(row) =
        table::top(&resolved).map_err(MountError::failed("read the table of mounts"))?
    {
        let Row { at, kind, source: from, .. } = row;
        if !dead(&resolved) {
            return Err(MountError::Mounted { at, kind, from });
        }
        if kind != KIND {
            return Err(MountError::Dead { at, kind, from });
        }
        tracing::info!(at = %at.display(), %from, "removing a mount whose server is gone");
        let root = rustix::process::geteuid().is_root();
        clear(&resolved, !root).map_err(|_| MountError::Dead { at, kind, from })?;
    }
    let mut entries = match std::fs::read_dir(&resolved) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(MountError::NotDirectory { at: resolved });
        }
        Err(error) => return Err(MountError::Closed { at: resolved, error }),
    };
    if !nonempty && entries.next().is_some() {
        return Err(MountError::NotEmpty { at: resolved });
    }
    Ok(resolved)
}

/// Whether what is mounted there has lost its server. Attributes the kernel may still know by itself; this it has to
/// ask.
fn dead(at: &Path) -> bool {
    matches!(rustix::fs::statfs(at), Err(Errno::NOTCONN | Errno::CONNABORTED))
}

/// Absolute and without symbolic links. A dead mount point answers nothing about itself, but its parent does.
///
/// # Errors
/// It does not exist, or may not be entered.
pub fn resolve(at: &Path) -> Result<PathBuf, MountError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => MountError::Missing { at: at.to_owned() },
        io::ErrorKind::NotADirectory => MountError::NotDirectory { at: at.to_owned() },
        _ => MountError::Closed { at: at.to_owned(), error },
    };
    match at.canonicalize() {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {}
        resolved => return resolved.map_err(failed),
    }
    let absolute = std::path::absolute(at).map_err(failed)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize().map_err(failed)?.join(name)),
        _ => Ok(absolute),
    }
}

/// Mounts; the device, and whether fusermount3 did it.
fn attach(at: &Path, options: &MountOptions) -> Result<(OwnedFd, bool), MountError> {
    let root = rustix::process::geteuid().is_root();
    let device = match File::options().read(true).write(true).open(DEVICE) {
        Ok(device) => device,
        Err(error) => match error.kind() {
            io::ErrorKind::PermissionDenied if !root => {
                return match fusermount::mount(at, options) {
                    Ok(device) => Ok((device, true)),
                    // It opens the device as the user who calls it.
                    Err(MountError::Fusermount { said, .. }) if said.contains(DEVICE) => {
                        Err(MountError::DeviceClosed(error))
                    }
                    Err(error) => Err(error),
                };
            }
            io::ErrorKind::PermissionDenied => return Err(MountError::DeviceClosed(error)),
            _ => return Err(MountError::NoDevice),
        },
    };
    let is_device = device.metadata().is_ok_and(|data| data.file_type().is_char_device());
    if !is_device {
        return Err(MountError::NoDevice);
    }
    match attach_directly(&device, at, options, root) {
        Ok(()) => Ok((device.into(), false)),
        Err(error) => match error.kind() {
            io::ErrorKind::PermissionDenied => Ok((fusermount::mount(at, options)?, true)),
            _ => Err(MountError::failed(format!("mount at {}", at.display()))(error)),
        },
    }
}

fn attach_directly(device: &File, at: &Path, options: &MountOptions, root: bool) -> io::Result<()> {
    let other = options.allow_other.unwrap_or(root);
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
        if other { ",allow_other" } else { "" },
    );
    let data = CString::new(data)?;
    Ok(rustix::mount::mount(&options.source, at, KIND, options.flags, data.as_c_str())?)
}

/// Lets the kernel read ahead as much as one request holds. Only root may say so; without it reads are smaller.
fn read_ahead(device: &str) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    let kib = REQUEST_BYTES_MAX / 1024;
    if let Err(error) = std::fs::write(&path, kib.to_string()) {
        tracing::debug!(path, %error, "reading ahead stays as it is");
    }
}
