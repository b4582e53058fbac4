//! Reading the past needs the permission of then *and* of now: who was shut out since stays out, and so does who was
//! not let in then.
//!
//! The kernel checks the permission of then, on the modes that objects of the past have. Here is that of now, on the
//! same inodes in the present, as far as they are still there: of the object when it is opened, and of every directory
//! on the way to it, because the kernel may remember the way from somebody who may walk it.
//!
//! Not here: ACLs, which do not exist yet.

use crate::fuse::present::caller;
use crate::fuse::vfs::Request;
use crate::tsdb_client::Client;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use std::sync::Arc;

/// What somebody wants, as bits of a mode's class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    Read = 4,
    Search = 1,
}

/// The directories from a `.tsfs` down to something, nearest first. Shared tails: a way is as long as its path, and
/// there is one for every object that the kernel knows.
pub(super) type Way = Arc<Option<Step>>;

#[derive(Debug)]
pub(super) struct Step {
    pub(super) dir: Ino,
    /// The instant whose permission counts too, where the kernel never saw the directory as it was then.
    pub(super) then: Option<Stamp>,
    pub(super) up: Way,
}

/// # Errors
/// `Denied` where one of the directories may not be searched now.
pub(super) fn may_walk(client: &Client, request: &Request, way: &Way) -> Result<(), FsError> {
    let mut way = way;
    while let Some(step) = &**way {
        may(client, request, step.dir, AsOf::Now, Want::Search)?;
        if let Some(then) = step.then {
            may(client, request, step.dir, AsOf::At(then), Want::Search)?;
        }
        way = &step.up;
    }
    Ok(())
}

/// # Errors
/// `Denied` where the inode is there at that time and the caller may not do that to it.
pub(super) fn may(
    client: &Client,
    request: &Request,
    ino: Ino,
    at: AsOf,
    want: Want,
) -> Result<(), FsError> {
    if request.uid == 0 {
        return Ok(());
    }
    match client.getattr(ino, at) {
        Ok(attr) if allowed(&attr, request.uid, request.gid, want, || caller(request).groups()) => {
            Ok(())
        }
        Ok(_) => Err(FsError::Denied),
        Err(FsError::Stale | FsError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The rule of path_resolution(7). `groups` is asked only where it decides.
fn allowed(
    attr: &Attr,
    uid: u32,
    gid: u32,
    want: Want,
    groups: impl FnOnce() -> Option<Vec<u32>>,
) -> bool {
    let class = |shift: u32| attr.mode >> shift & want as u32 != 0;
    let (owner, group, other) = (class(6), class(3), class(0));
    if uid == attr.uid {
        owner
    } else if gid == attr.gid {
        group
    } else if group == other {
        other
    } else {
        // Groups that cannot be told count as whichever shuts out.
        groups().is_some_and(|groups| if groups.contains(&attr.gid) { group } else { other })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::FileKind;
    use crate::types::Time;

    fn attr(mode: u32) -> Attr {
        let time = Time::default();
        Attr {
            ino: Ino::ROOT,
            kind: FileKind::File,
            mode,
            uid: 10,
            gid: 20,
            nlink: 1,
            size: 0,
            allocated: 0,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        }
    }

    #[test]
    fn the_class_that_fits_decides_alone() {
        let read = |mode, uid, gid, groups: Option<Vec<u32>>| {
            allowed(&attr(mode), uid, gid, Want::Read, || groups)
        };
        assert!(read(0o400, 10, 20, None));
        assert!(!read(0o044, 10, 20, None), "the owner's class, though others may");
        assert!(read(0o040, 11, 20, None));
        assert!(!read(0o404, 11, 20, None));
        assert!(read(0o044, 11, 21, None), "no group decides");
        assert!(read(0o040, 11, 21, Some(vec![1, 20])));
        assert!(!read(0o040, 11, 21, Some(vec![1])));
        assert!(!read(0o004, 11, 21, Some(vec![20])));
        assert!(!read(0o004, 11, 21, None) && !read(0o040, 11, 21, None));
        assert!(allowed(&attr(0o001), 11, 21, Want::Search, || Some(Vec::new())));
    }
}
