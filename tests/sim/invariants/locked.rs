//! No two mounts have locked what bars each other, as their programs believe it while their leases last.

use crate::mount::Mount;
use tsfs::meta::lock::FileLock;
use tsfs::types::Ino;

pub(crate) fn check(mounts: &[Mount]) {
    let mut all: Vec<(usize, Ino, &FileLock)> = Vec::new();
    for mount in mounts.iter().filter(|mount| mount.has_lease()) {
        let Some(life) = &mount.life else { continue };
        for (ino, lock) in life.locks.believed() {
            let other = all
                .iter()
                .find(|(other, of, held)| *other != mount.n && *of == ino && held.bars(lock));
            if let Some((other, _, held)) = other {
                panic!("inode {ino}: mount {other} has {held:?}, and mount {} {lock:?}", mount.n);
            }
            all.push((mount.n, ino, lock));
        }
    }
}
