//! Who may do what by the mode of a file: the rule of path_resolution(7), where the kernel does not check it – the permission of
//! now to the past, and the paths that commands name.
//!
//! Not here: ACLs, which do not exist yet.

use crate::tsdb_client::Caller;
use crate::types::Attr;

/// Bits of a class of a mode.
pub const READ: u32 = 4;
pub const WRITE: u32 = 2;
pub const SEARCH: u32 = 1;

impl Caller {
    /// Whether the caller has all of `want` on a file with these attributes.
    pub fn may(self, attr: &Attr, want: u32) -> bool {
        self.uid == 0 || allowed(self, attr, want, || self.groups())
    }
}

/// `groups` is asked only where it decides.
fn allowed(
    caller: Caller,
    attr: &Attr,
    want: u32,
    groups: impl FnOnce() -> Option<Vec<u32>>,
) -> bool {
    let class = |shift: u32| (attr.mode >> shift) & want == want;
    let (owner, group, other) = (class(6), class(3), class(0));
    if caller.uid == attr.uid {
        owner
    } else if caller.gid == attr.gid {
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
    use crate::types::Ino;
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
        let may = |mode, want, uid, gid, groups: Option<Vec<u32>>| {
            allowed(Caller { uid, gid, pid: 0 }, &attr(mode), want, || groups)
        };
        let read = |mode, uid, gid, groups| may(mode, READ, uid, gid, groups);
        assert!(read(0o400, 10, 20, None));
        assert!(!read(0o044, 10, 20, None), "the owner's class, though others may");
        assert!(read(0o040, 11, 20, None));
        assert!(!read(0o404, 11, 20, None));
        assert!(read(0o044, 11, 21, None), "no group decides");
        assert!(read(0o040, 11, 21, Some(vec![1, 20])));
        assert!(!read(0o040, 11, 21, Some(vec![1])));
        assert!(!read(0o004, 11, 21, Some(vec![20])));
        assert!(!read(0o004, 11, 21, None) && !read(0o040, 11, 21, None));
        assert!(may(0o001, SEARCH, 11, 21, Some(Vec::new())));
        assert!(may(0o600, READ | WRITE, 10, 1, None));
        assert!(!may(0o400, READ | WRITE, 10, 1, None), "all of it");
        assert!(Caller { uid: 0, gid: 0, pid: 0 }.may(&attr(0), READ | WRITE | SEARCH));
    }
}
