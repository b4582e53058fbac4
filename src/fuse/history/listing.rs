//! Listings under `.tsfs`, and of directories of the past.

use crate::fuse::history::FOR_EVER;
use crate::fuse::history::History;
use crate::fuse::history::lookup::alone;
use crate::fuse::history::lookup::below;
use crate::fuse::history::lookup::stamp_name;
use crate::fuse::history::permission::Way;
use crate::fuse::history::permission::may;
use crate::fuse::history::permission::may_walk;
use crate::fuse::history::view::Door;
use crate::fuse::history::view::Past;
use crate::fuse::history::view::View;
use crate::fuse::present::DOT;
use crate::fuse::present::DOT_DOT;
use crate::fuse::present::behind_dots;
use crate::fuse::vfs::Answer;
use crate::fuse::vfs::DirEntry;
use crate::fuse::vfs::DirSink;
use crate::fuse::vfs::Request;
use crate::fuse::vfs::Stop;
use crate::tsdb_client::Deleted;
use crate::tsdb_client::FileVersion;
use crate::tsdb_client::Marked;
use crate::tsdb_client::Wait;
use crate::tsdb_client::permission::READ;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use bytes::Bytes;
use jiff::Timestamp;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

const HOUR_NS: u64 = 3_600_000_000_000;
const DAY_NS: u64 = 24 * HOUR_NS;
/// What `at` lists: the last full hours of a day and the last midnights (UTC) of a month.
const HOURS: u64 = 24;
const DAYS: u64 = 31;
/// As Samba's `shadow_copy2` wants names: with these it shows "Previous Versions" of any directory.
const SAMBA: &str = "@GMT-%Y.%m.%d-%H.%M.%S";

/// Listings that were begun, so that one which takes several requests is of one moment. Bounded: directories are
/// not closed, so nobody tells when one is done with; who comes back after as many others finds a new listing.
#[derive(Default)]
pub(super) struct Begun(VecDeque<(Ino, Arc<Vec<Item>>)>);

const BEGUN_MAX: usize = 64;

impl Begun {
    fn get(&self, dir: Ino) -> Option<Arc<Vec<Item>>> {
        self.0.iter().find(|(of, _)| *of == dir).map(|(_, items)| Arc::clone(items))
    }

    fn put(&mut self, dir: Ino, items: Arc<Vec<Item>>) {
        self.0.retain(|(of, _)| *of != dir);
        self.0.truncate(BEGUN_MAX - 1);
        self.0.push_front((dir, items));
    }
}

/// A sink that knows whether anything went into it.
struct Noting<'a> {
    sink: &'a mut dyn DirSink,
    added: bool,
}

impl DirSink for Noting<'_> {
    fn add(&mut self, entry: &DirEntry<'_>) -> bool {
        let added = self.sink.add(entry);
        self.added |= added;
        added
    }
}

/// One line of a listing.
pub(super) struct Item {
    name: Bytes,
    view: View,
    kind: FileKind,
    /// Where it was at hand.
    attr: Option<Attr>,
    way: Way,
}

/// What `.tsfs` holds.
pub(super) fn hub(dir: Ino) -> Vec<Item> {
    let directory = |name: &'static str, view| Item {
        name: Bytes::from_static(name.as_bytes()),
        view,
        kind: FileKind::Directory,
        attr: None,
        way: Way::default(),
    };
    vec![
        directory("at", View::At(dir)),
        directory("versions", View::Versions(dir)),
        directory("deleted", View::Deleted(dir)),
        directory("marks", View::Marks(dir)),
        Item { kind: FileKind::File, ..directory("control", View::Control(dir)) },
    ]
}

impl History {
    /// Everything in a directory under `.tsfs`. May wait.
    pub(super) fn items(&self, view: &View) -> Result<Vec<Item>, FsError> {
        match view {
            View::Hub(dir) => Ok(hub(*dir)),
            View::At(dir) => Ok(self.instants(view, *dir)),
            View::VersionsOf(dir, file) => {
                let versions = self.client.file_versions(*dir, file)?;
                let readable = self.client.readable()?;
                let item = |version: &FileVersion| {
                    let at = readable.within(version.stamp, version.until)?;
                    self.version(view, *dir, version, at).ok()
                };
                Ok(versions.iter().filter_map(item).collect())
            }
            View::Deleted(dir) => self.deletions(view, *dir),
            View::Marks(dir) => {
                let marks = self.client.marks()?;
                let item = |mark: &Marked| self.there(view, *dir, mark.name.clone(), mark.stamp);
                Ok(marks.iter().filter_map(item).collect())
            }
            View::Versions(_) | View::Past(_) | View::Control(_) => Err(FsError::NotDirectory),
        }
    }

    /// A version of a name, called by the instant at which it began and read at `at`: another one where that one is gone.
    fn version(
        &self,
        listed: &View,
        dir: Ino,
        version: &FileVersion,
        at: Stamp,
    ) -> Result<Item, FsError> {
        let name = Bytes::from(stamp_name(version.stamp));
        let door = Door::new(listed, &name);
        let (past, attr) = if at == version.stamp {
            (Past::fixed(version.attr.ino, at, door), version.attr.clone())
        } else {
            let attr = self.client.getattr(version.attr.ino, AsOf::At(at))?;
            (Past::moving(&attr, at, door), attr)
        };
        let (view, way) = (View::Past(past), alone(dir, at));
        Ok(Item { name, view, kind: attr.kind, attr: Some(attr), way })
    }

    /// An instant of a directory, if it was there then.
    fn there(&self, listed: &View, ino: Ino, name: Bytes, at: Stamp) -> Option<Item> {
        self.client.now_readable(at).ok()?;
        let view = View::Past(Past::fixed(ino, at, Door::new(listed, &name)));
        let attr = self.attr(&view).ok()?;
        Some(Item { name, view, kind: attr.kind, attr: Some(attr), way: Way::default() })
    }

    fn instants(&self, listed: &View, dir: Ino) -> Vec<Item> {
        let now = self.client.clock().wall().0;
        let hours = (0..HOURS).map(|n| (now - now % HOUR_NS).saturating_sub(n * HOUR_NS));
        let days = (0..DAYS).map(|n| (now - now % DAY_NS).saturating_sub(n * DAY_NS));
        let mut seen = HashSet::new();
        let item = |at: u64| {
            let name = Timestamp::from_nanosecond(i128::from(at)).ok()?.strftime(SAMBA).to_string();
            self.there(listed, dir, name.into(), Stamp(at))
        };
        hours.chain(days).filter(|at| seen.insert(*at)).filter_map(item).collect()
    }

    fn deletions(&self, listed: &View, dir: Ino) -> Result<Vec<Item>, FsError> {
        let item = |gone: Deleted| {
            let (past, way) = self.deleted(dir, &gone, Door::new(listed, &gone.name))?;
            let view = View::Past(past);
            Ok(Item { name: gone.name, view, kind: gone.kind, attr: None, way })
        };
        self.client.deleted(dir)?.into_iter().map(item).collect()
    }

    pub(in crate::fuse) fn readdir(
        &self,
        request: &Request,
        dir: Ino,
        after: u64,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Answer<()> {
        let sink = &mut Noting { sink, added: false };
        self.list(request, dir, after, plus, sink)?;
        // This was the end, and the kernel is about to take what it was told for the whole directory. It may not keep
        // that: others may not read it, and most of these listings change without its knowing.
        if !sink.added
            && let Some(kernel) = self.kernel.get()
        {
            kernel.forget_inode(dir, Some(0));
        }
        Ok(())
    }

    fn list(
        &self,
        request: &Request,
        dir: Ino,
        after: u64,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Answer<()> {
        let (view, way) = self.get(dir)?;
        let items = match &view {
            View::Past(past) => {
                may_walk(&self.client, request, &way)?;
                may(&self.client, request, past.ino, AsOf::Now, READ)?;
                None
            }
            // As long as the directory itself, so it is read in pieces like it.
            View::Versions(_) => None,
            _ => Some(self.begun(request, dir, &view, after)?),
        };
        if !self.dots(dir, &view, after, sink) {
            return Ok(());
        }
        match (&view, items) {
            (View::Past(past), _) => self.list_past(past, &way, after, plus, sink)?,
            (View::Versions(dir), _) => self.list_versions(*dir, after, plus, sink)?,
            (_, items) => self.list_items(&items.unwrap_or_default(), after, plus, sink)?,
        }
        Ok(())
    }

    /// What a directory held when its listing began.
    fn begun(
        &self,
        request: &Request,
        dir: Ino,
        view: &View,
        after: u64,
    ) -> Answer<Arc<Vec<Item>>> {
        if after > 0
            && let Some(items) = self.begun.lock().get(dir)
        {
            return Ok(items);
        }
        let items = match view {
            View::Hub(dir) => hub(*dir),
            _ if request.wait == Wait::Never => return Err(Stop::Waits),
            _ => self.items(view)?,
        };
        let items = Arc::new(items);
        self.begun.lock().put(dir, Arc::clone(&items));
        Ok(items)
    }

    /// `.` and `..`. False once the sink is full.
    fn dots(&self, dir: Ino, view: &View, after: u64, sink: &mut dyn DirSink) -> bool {
        let dots: [(u64, &[u8], Ino); 2] = [(DOT, b".", dir), (DOT_DOT, b"..", self.up(view))];
        dots.into_iter().filter(|(cookie, ..)| *cookie > after).all(|(cookie, name, ino)| {
            let kind = FileKind::Directory;
            sink.add(&DirEntry { name, ino, kind, cookie, entry: None })
        })
    }

    fn up(&self, view: &View) -> Ino {
        match view {
            View::Hub(dir) => *dir,
            View::At(dir) | View::Versions(dir) | View::Deleted(dir) | View::Marks(dir) => {
                self.numbers.show(&View::Hub(*dir))
            }
            View::VersionsOf(dir, _) => self.numbers.show(&View::Versions(*dir)),
            View::Control(dir) => self.numbers.show(&View::Hub(*dir)),
            View::Past(past) => {
                let parent = self.client.parent(past.ino, AsOf::At(past.at)).unwrap_or(past.ino);
                self.numbers.show(&View::Past(past.beside(parent)))
            }
        }
    }

    fn list_past(
        &self,
        past: &Past,
        way: &Way,
        after: u64,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Result<(), FsError> {
        let at = AsOf::At(past.at);
        let valid = self.names_believed(past);
        let way = below(past, way);
        // Behind a relative time a number tells versions apart, so attributes are needed to know it.
        let with_attrs = plus || past.moves();
        self.client.readdir(past.ino, at, behind_dots(after), with_attrs, &mut |found| {
            let past = match &found.attr {
                Some(attr) => past.below(attr),
                None => past.beside(found.ino),
            };
            let (name, kind, cookie) = (found.name, found.kind, found.cookie);
            let attr = found.attr.filter(|_| plus);
            self.add(name, &View::Past(past), kind, cookie, attr, &way, valid, sink)
        })
    }

    /// Every name that is there now. Those that are no more have versions too, but stand in `deleted`.
    fn list_versions(
        &self,
        dir: Ino,
        after: u64,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Result<(), FsError> {
        let attr = self.attr(&View::Versions(dir))?;
        let (kind, way) = (FileKind::Directory, Way::default());
        self.client.readdir(dir, AsOf::Now, behind_dots(after), false, &mut |found| {
            let view = View::VersionsOf(dir, Bytes::copy_from_slice(found.name));
            let attr = plus.then(|| attr.clone());
            self.add(found.name, &view, kind, found.cookie, attr, &way, Duration::ZERO, sink)
        })
    }

    fn list_items(
        &self,
        items: &[Item],
        after: u64,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Result<(), FsError> {
        let first = DOT_DOT + 1;
        let skip = after.saturating_sub(DOT_DOT) as usize;
        for (n, item) in items.iter().enumerate().skip(skip) {
            let attr = match &item.attr {
                _ if !plus => None,
                Some(attr) => Some(attr.clone()),
                None => match self.attr(&item.view) {
                    // Purged since the directory was opened.
                    Err(FsError::Stale | FsError::NotFound | FsError::BeforeHorizon { .. }) => {
                        continue;
                    }
                    attr => Some(attr?),
                },
            };
            let valid = match &item.view {
                View::Past(_) => Duration::ZERO,
                _ => FOR_EVER,
            };
            let (name, view, way) = (&item.name, &item.view, &item.way);
            let cookie = first + n as u64;
            if self.add(name, view, item.kind, cookie, attr, way, valid, sink).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Adds one entry; with attributes it is handed to the kernel, and taken back where there is no room for it.
    #[expect(clippy::too_many_arguments, reason = "they are the columns of one line")]
    fn add(
        &self,
        name: &[u8],
        view: &View,
        kind: FileKind,
        cookie: u64,
        attr: Option<Attr>,
        way: &Way,
        valid: Duration,
        sink: &mut dyn DirSink,
    ) -> ControlFlow<()> {
        let entry = attr.map(|attr| self.entry(view, attr, Way::clone(way), valid));
        let handed = entry.as_ref().map(|entry| entry.stat.attr.ino);
        let ino = handed.unwrap_or_else(|| self.numbers.show(view));
        if sink.add(&DirEntry { name, ino, kind, cookie, entry }) {
            return ControlFlow::Continue(());
        }
        if let Some(ino) = handed {
            self.numbers.forget(ino, 1);
        }
        ControlFlow::Break(())
    }
}
