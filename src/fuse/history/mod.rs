//! The hidden `.tsfs` of every directory: instants, versions, deletions, marks, and the control file.
//!
//! ```text
//! .tsfs/at/TIME/…          this directory and everything below, as it was
//! .tsfs/versions/FILE/…    what the name was, each state named by its instant
//! .tsfs/deleted/…          what was deleted here; its time of change is when
//! .tsfs/marks/NAME/…       as `at`, by name; `mkdir` makes a mark, `rmdir` removes it
//! .tsfs/control            what `tsfs` commands talk to
//! ```
//!
//! Everything but marks and the control file is read-only. The past does not change, so the kernel may believe what
//! it is told of it; what depends on the present is told anew each time.
//!
//! Not here: how the past is found (`tsdb_client`), forms of instants (`types::instant`).

mod control;
mod listing;
mod lookup;
mod permission;
mod view;

use crate::fuse::history::control::Session;
use crate::fuse::history::listing::Begun;
use crate::fuse::history::permission::Way;
use crate::fuse::history::permission::may;
use crate::fuse::history::permission::may_walk;
use crate::fuse::history::view::Door;
use crate::fuse::history::view::Face;
use crate::fuse::history::view::Numbers;
use crate::fuse::history::view::Past;
use crate::fuse::history::view::View;
use crate::fuse::present::caller;
use crate::fuse::vfs::Answer;
use crate::fuse::vfs::Cache;
use crate::fuse::vfs::Entry;
use crate::fuse::vfs::Handle;
use crate::fuse::vfs::Kernel;
use crate::fuse::vfs::Make;
use crate::fuse::vfs::OpenFlags;
use crate::fuse::vfs::Opened;
use crate::fuse::vfs::Place;
use crate::fuse::vfs::Request;
use crate::fuse::vfs::Stat;
use crate::fuse::vfs::Stop;
use crate::tsdb_client::Client;
use crate::tsdb_client::SeekFor;
use crate::tsdb_client::Wait;
use crate::tsdb_client::permission::READ;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use bytes::Bytes;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The hidden name.
pub(super) const NAME: &[u8] = b".tsfs";

/// How long the kernel may believe what does not change.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);
/// How long it may believe the mode of `.tsfs` and what is in it, which is that of the directory they are in.
const A_MOMENT: Duration = Duration::from_secs(1);
/// In place of a handle where nothing is kept open.
const NOTHING_OPEN: Handle = Handle(0);

pub(super) struct History {
    client: Arc<Client>,
    /// In which dates without an offset are meant.
    zone: TimeZone,
    /// Where the whole mount is one instant: its root directory, which is shown as it was then.
    root: Option<(Ino, Stamp)>,
    numbers: Numbers,
    /// Control files that are open.
    open: Mutex<HashMap<Handle, Arc<Session>>>,
    last_handle: AtomicU64,
    begun: Mutex<Begun>,
    kernel: OnceLock<Arc<dyn Kernel>>,
}

impl History {
    pub(super) fn new(client: Arc<Client>, zone: TimeZone, root: Option<(Ino, Stamp)>) -> History {
        History {
            client,
            zone,
            root,
            numbers: Numbers::default(),
            open: Mutex::default(),
            last_handle: AtomicU64::new(0),
            begun: Mutex::default(),
            kernel: OnceLock::new(),
        }
    }

    pub(super) fn mounted(&self, kernel: Arc<dyn Kernel>) {
        // A file system is mounted once; of a second kernel nothing would be cached.
        let _ = self.kernel.set(kernel);
    }

    /// Whether a number is one of this view's.
    pub(super) fn has(&self, ino: Ino) -> bool {
        view::is_ours(ino) || self.root.is_some_and(|(root, _)| ino == root)
    }

    fn get(&self, ino: Ino) -> Result<(View, Way), FsError> {
        match self.root {
            Some((root, at)) if ino == root => {
                let root = Past::fixed(ino, at, Door::MOUNT);
                Ok((View::Past(root), Way::default()))
            }
            _ => self.numbers.get(ino),
        }
    }

    fn past(&self, ino: Ino) -> Result<Past, FsError> {
        match self.get(ino)? {
            (View::Past(past), _) => Ok(past),
            _ => Err(FsError::Stale),
        }
    }

    pub(super) fn forget(&self, ino: Ino, lookups: u64) {
        self.numbers.forget(ino, lookups);
    }

    /// `.tsfs` of a directory of the present.
    pub(super) fn hub(&self, dir: Ino) -> Answer<Entry> {
        let view = View::Hub(dir);
        let attr = self.attr(&view)?;
        Ok(self.entry(&view, attr, Way::default(), FOR_EVER))
    }

    /// Hands a view to the kernel.
    fn entry(&self, view: &View, attr: Attr, way: Way, valid: Duration) -> Entry {
        let ino = self.numbers.enter(view, way);
        Entry { stat: Stat { attr: Attr { ino, ..attr }, valid: believed(view) }, valid }
    }

    /// The attributes of a view. Their number is not the view's yet.
    fn attr(&self, view: &View) -> Result<Attr, FsError> {
        let (dir, kind, bits) = match view {
            View::Past(past) => {
                let mut attr = self.client.getattr(past.ino, AsOf::At(past.at))?;
                if let Some(when) = past.gone {
                    attr.ctime = when.into();
                }
                return Ok(attr);
            }
            View::Control(dir) => (*dir, FileKind::File, 0o666),
            // Whoever may write in the directory may make marks in it.
            View::Marks(dir) => (*dir, FileKind::Directory, 0o777),
            View::Hub(dir)
            | View::At(dir)
            | View::Versions(dir)
            | View::VersionsOf(dir, _)
            | View::Deleted(dir) => (*dir, FileKind::Directory, 0o555),
        };
        let attr = self.client.getattr(dir, AsOf::Now)?;
        let mode = if kind == FileKind::File { bits } else { attr.mode & bits };
        Ok(Attr { kind, mode, nlink: 1, size: 0, allocated: 0, ..attr })
    }

    pub(super) fn getattr(&self, ino: Ino) -> Answer<Stat> {
        let (view, _) = self.get(ino)?;
        let attr = self.attr(&view)?;
        Ok(Stat { attr: Attr { ino, ..attr }, valid: believed(&view) })
    }

    /// Only the control file takes new attributes, without effect: a shell truncates what it writes to.
    pub(super) fn setattr(&self, ino: Ino) -> Answer<Stat> {
        match self.get(ino)? {
            (View::Control(_), _) => self.getattr(ino),
            _ => Err(FsError::ReadOnly.into()),
        }
    }

    pub(super) fn readlink(&self, ino: Ino) -> Answer<Bytes> {
        let past = self.past(ino)?;
        Ok(self.client.readlink(past.ino, AsOf::At(past.at))?)
    }

    pub(super) fn open(&self, request: &Request, ino: Ino, flags: OpenFlags) -> Answer<Opened> {
        let (view, way) = self.get(ino)?;
        match view {
            View::Past(_) if flags.writes() => Err(FsError::ReadOnly.into()),
            View::Past(past) => {
                may_walk(&self.client, request, &way)?;
                may(&self.client, request, past.ino, AsOf::Now, READ)?;
                Ok(Opened { handle: NOTHING_OPEN, cache: Cache::Keep, flush: false })
            }
            View::Control(dir) => {
                let handle = self.keep(Session::new(caller(request), dir));
                Ok(Opened { handle, cache: Cache::Bypass, flush: false })
            }
            _ => Err(FsError::IsDirectory.into()),
        }
    }

    fn keep(&self, open: Arc<Session>) -> Handle {
        let handle = Handle(self.last_handle.fetch_add(1, Relaxed) + 1);
        self.open.lock().insert(handle, open);
        handle
    }

    fn opened(&self, handle: Handle) -> Result<Arc<Session>, FsError> {
        self.open.lock().get(&handle).cloned().ok_or(FsError::BadHandle)
    }

    pub(super) fn release(&self, handle: Handle) {
        if let Some(session) = self.open.lock().remove(&handle) {
            session.close();
        }
    }

    pub(super) fn read(&self, request: &Request, at: Place, len: u32) -> Answer<Bytes> {
        if at.handle != NOTHING_OPEN {
            return self.opened(at.handle)?.read(len, request.wait);
        }
        let past = self.past(at.ino)?;
        let as_of = AsOf::At(past.at);
        let read = self.client.read(past.ino, as_of, at.offset, len, request.wait)?;
        read.ok_or(Stop::Waits)
    }

    pub(super) fn write(&self, handle: Handle, data: &[u8]) -> Answer<u32> {
        self.opened(handle)?.write(&self.client, data)
    }

    pub(super) fn seek(&self, at: Place, what: SeekFor) -> Answer<u64> {
        let past = self.past(at.ino)?;
        Ok(self.client.seek(past.ino, AsOf::At(past.at), at.offset, what)?)
    }

    pub(super) fn getxattr(&self, ino: Ino, name: &[u8]) -> Answer<Bytes> {
        match self.get(ino)? {
            (View::Past(past), _) => Ok(self.client.getxattr(past.ino, name, AsOf::At(past.at))?),
            _ => Err(FsError::NoAttribute.into()),
        }
    }

    pub(super) fn xattr_names(&self, ino: Ino) -> Answer<Vec<Bytes>> {
        match self.get(ino)? {
            (View::Past(past), _) => Ok(self.client.listxattr(past.ino, AsOf::At(past.at))?),
            _ => Ok(Vec::new()),
        }
    }

    /// `mkdir` among the marks makes one.
    pub(super) fn make(
        &self,
        request: &Request,
        dir: Ino,
        name: &[u8],
        make: &Make,
    ) -> Answer<Entry> {
        match self.get(dir)? {
            (View::Marks(_), _) if make.kind != FileKind::Directory => {
                Err(FsError::NotPermitted("only 'mkdir' makes a mark").into())
            }
            (View::Marks(_), _) if request.wait == Wait::Never => Err(Stop::Waits),
            (marks @ View::Marks(ino), _) => {
                let at = self.client.mark(caller(request), name, "")?;
                self.client.now_readable(at)?;
                let door = Door::new(&marks, name);
                let view = View::Past(Past::fixed(ino, at, door));
                let attr = self.attr(&view)?;
                Ok(self.entry(&view, attr, Way::default(), Duration::ZERO))
            }
            _ => Err(FsError::ReadOnly.into()),
        }
    }

    /// `rmdir` among the marks removes one.
    pub(super) fn rmdir(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<()> {
        match self.get(dir)? {
            (View::Marks(_), _) if request.wait == Wait::Never => Err(Stop::Waits),
            (View::Marks(_), _) => Ok(self.client.unmark(caller(request), name)?),
            _ => Err(FsError::ReadOnly.into()),
        }
    }
}

/// How long the attributes of a view may be believed.
fn believed(view: &View) -> Duration {
    match view {
        View::Past(past) if past.face == Face::Moving => A_MOMENT,
        View::Past(_) => FOR_EVER,
        _ => A_MOMENT,
    }
}
