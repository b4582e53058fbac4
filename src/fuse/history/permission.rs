//! Reading the past needs the permission of then *and* of now: who was shut out since stays out, and so does who was
//! not let in then.
//!
//! The kernel checks the permission of then, on the modes that objects of the past have. Here is that of now, on the
//! same inodes in the present, as far as they are still there: of the object when it is opened, and of every directory
//! on the way to it, because the kernel may remember the way from somebody who may walk it.
//!
//! Not here: the rule itself (`tsdb_client::permission`).

use crate::fuse::present::caller;
use crate::fuse::vfs::Request;
use crate::tsdb_client::Client;
use crate::tsdb_client::permission::SEARCH;
use crate::types::AsOf;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use std::sync::Arc;

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
        may(client, request, step.dir, AsOf::Now, SEARCH)?;
        if let Some(then) = step.then {
            may(client, request, step.dir, AsOf::At(then), SEARCH)?;
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
    want: u32,
) -> Result<(), FsError> {
    let caller = caller(request);
    if caller.uid == 0 {
        return Ok(());
    }
    match client.getattr(ino, at) {
        Ok(attr) if caller.may(&attr, want) => Ok(()),
        Ok(_) => Err(FsError::Denied),
        Err(FsError::Stale | FsError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}
