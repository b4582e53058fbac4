//! The kernel's switch of a mount's connection: whoever writes to it ends every request that has no answer, and those that come.
//!
//! Not here: who does that, and when (`cli`).

use crate::fuse::mount::Mounted;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::mount::FsMountFlags;
use rustix::mount::FsOpenFlags;
use rustix::mount::MountAttrFlags;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Where the kernel's connections are shown, on most machines.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
/// The type of file system that shows them.
const KIND: &str = "fusectl";

impl Mounted {
    /// Opens the switch. It remains that of this mount: once that is gone, writing to it does nothing, whatever was mounted since.
    ///
    /// # Errors
    /// The machine does not show it, and would not do so to us. Root is shown it unless a container forbids mounting.
    pub fn switch(&self) -> io::Result<File> {
        // Of a file system without a disk the kernel names the connection by the device's minor number.
        let minor = self.row.device.split_once(':').map_or("", |(_, minor)| minor);
        let name = Path::new(minor).join("abort");
        let shown = File::options().write(true).open(Path::new(CONNECTIONS).join(&name));
        shown.or_else(|error| {
            let all = connections().map_err(|_| error)?;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(all, &name, flags, Mode::empty())?.into())
        })
    }
}

/// All connections, mounted for us alone and nowhere.
fn connections() -> io::Result<OwnedFd> {
    let kind = rustix::mount::fsopen(KIND, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&kind)?;
    let (flags, attributes) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    Ok(rustix::mount::fsmount(&kind, flags, attributes)?)
}
