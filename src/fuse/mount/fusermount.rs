//! Mounting without being root: `fusermount3`, which is installed set-user-id, mounts for us and hands the device over.

use crate::fuse::mount::MountError;
use crate::fuse::mount::MountOptions;
use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use std::ffi::OsString;
use std::io;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

const PROGRAM: &str = "fusermount3";
/// Where it finds its end of the socket.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// Has it mounted; the device, with the mount's first request waiting in it.
///
/// # Errors
/// It is not installed, or refused: then with what it said.
pub(super) fn mount(at: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(MountError::failed("make a socket"))?;
    // The child must inherit its end.
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())
        .map_err(|error| MountError::failed("share a socket")(error.into()))?;
    let mut words: Vec<String> = options.flag_words().map(str::to_owned).collect();
    words.push("default_permissions".to_owned());
    words.push("subtype=tsfs".to_owned());
    words.push(format!("fsname={}", options.source.replace('\\', r"\\").replace(',', r"\,")));
    if options.allow_other == Some(true) {
        words.push("allow_other".to_owned());
    }
    let child = Command::new(PROGRAM)
        .arg("-o")
        .arg(words.join(","))
        .arg("--")
        .arg(at)
        .env(SOCKET_VARIABLE, theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| missing(at, error))?;
    // Only the child holds that end now, so that its death ends the wait below.
    drop(theirs);
    let device = receive(&ours);
    let output = child.wait_with_output().map_err(MountError::failed("wait for fusermount3"))?;
    match device {
        Ok(device) if output.status.success() => Ok(device),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(MountError::Fusermount { at: at.to_owned(), said })
        }
    }
}

/// Has it unmounted; `lazy`: even while it is busy.
///
/// # Errors
/// It is not installed, or refused. `ResourceBusy` where the mount is in use, `PermissionDenied` where it is another
/// user's.
pub(super) fn unmount(at: &Path, lazy: bool) -> io::Result<()> {
    let mut arguments = vec![OsString::from("-u")];
    if lazy {
        arguments.push("-z".into());
    }
    let output = Command::new(PROGRAM).args(arguments).arg("--").arg(at).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(refusal(String::from_utf8_lossy(&output.stderr).trim()))
}

/// What it said, understood. It knows the mounts of a user by their name in the table.
fn refusal(said: &str) -> io::Error {
    if said.ends_with("Device or resource busy") {
        io::ErrorKind::ResourceBusy.into()
    } else if said.contains("not found in /etc/mtab") || said.ends_with("Operation not permitted") {
        io::ErrorKind::PermissionDenied.into()
    } else {
        io::Error::other(said)
    }
}

fn missing(at: &Path, error: io::Error) -> MountError {
    if error.kind() == io::ErrorKind::NotFound {
        return MountError::NoPermission { at: at.to_owned() };
    }
    MountError::failed("start fusermount3")(error)
}

/// One byte, and with it the descriptor.
fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut data, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(device) = descriptors.next()
        {
            return Ok(device);
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_understood() {
        let kind = |said| refusal(said).kind();
        let busy = "fusermount3: failed to unmount /mnt/a: Device or resource busy";
        assert_eq!(kind(busy), io::ErrorKind::ResourceBusy);
        let foreign = "fusermount3: entry for /mnt/busybox not found in /etc/mtab";
        assert_eq!(kind(foreign), io::ErrorKind::PermissionDenied);
        let other = "fusermount3: failed to unmount /mnt/busybox: Invalid argument";
        assert_eq!(kind(other), io::ErrorKind::Other);
        assert_eq!(refusal(other).to_string(), other);
    }
}
