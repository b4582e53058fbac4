//! Nobody is shown rows of an inode that another mount may be changing without asking: whoever begins to read after a call on
//! another mount has returned sees what it did.

use crate::mount::Mount;
use tsfs::types::Ino;
use tsfs::types::SessionId;

/// When a member shows rows of the present to a session.
pub(crate) fn check(mounts: &[Mount], session: SessionId, ino: Ino) {
    for mount in mounts.iter().filter(|mount| mount.has_lease()) {
        let Some(life) = mount.life.as_ref().filter(|life| life.session != session) else {
            continue;
        };
        assert!(
            !life.own.keeps(ino),
            "session {} is shown rows of inode {ino}, which mount {} owns",
            session.0,
            mount.n
        );
    }
}
