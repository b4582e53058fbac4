//! The model: a tree in memory, with the rules of POSIX written down as simply as they can be.
//!
//! It shares nothing with `meta` but the ops and the errors. It keeps a copy of itself for each step, so that every
//! instant can be compared.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::rc::Rc;
use tsfs::meta::op::Op;
use tsfs::meta::op::Piece;
use tsfs::meta::op::RenameHow;
use tsfs::meta::op::SetAttr;
use tsfs::meta::op::XattrHow;
use tsfs::types::AsOf;
use tsfs::types::Attr;
use tsfs::types::BlockId;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::Stamp;
use tsfs::types::Time;

pub(super) const PAGE: u64 = 256;
/// In place of a byte, where there is a hole.
pub(super) const HOLE: u16 = 256;

/// Contents by pages; a page of nothing but holes is absent.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Contents {
    pub(super) pages: BTreeMap<u64, [u16; PAGE as usize]>,
}

impl Contents {
    pub(super) fn set(&mut self, at: u64, byte: u16) {
        let page = self.pages.entry(at / PAGE).or_insert([HOLE; PAGE as usize]);
        page[(at % PAGE) as usize] = byte;
    }

    pub(super) fn get(&self, at: u64) -> u16 {
        self.pages.get(&(at / PAGE)).map_or(HOLE, |page| page[(at % PAGE) as usize])
    }

    pub(super) fn clear(&mut self, from: u64, to: u64) {
        for (number, page) in self.pages.range_mut(from / PAGE..=to / PAGE) {
            for (n, byte) in page.iter_mut().enumerate() {
                let at = number * PAGE + n as u64;
                if (from..to).contains(&at) {
                    *byte = HOLE;
                }
            }
        }
        self.tidy();
    }

    pub(super) fn tidy(&mut self) {
        self.pages.retain(|_, page| page.iter().any(|byte| *byte != HOLE));
    }

    fn allocated(&self) -> u64 {
        self.pages.values().flatten().filter(|byte| **byte != HOLE).count() as u64
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Node {
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u32,
    pub(super) nlink: u32,
    pub(super) size: u64,
    pub(super) atime: Time,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) btime: Time,
    pub(super) target: Bytes,
    pub(super) contents: Rc<Contents>,
    pub(super) entries: BTreeMap<Bytes, Ino>,
    pub(super) parent: Option<Ino>,
    pub(super) xattrs: BTreeMap<Bytes, Bytes>,
    pub(super) version: u64,
    pub(super) unfinished: bool,
    pub(super) no_history: bool,
    pub(super) transient: bool,
}

impl Node {
    pub(super) fn new(kind: FileKind, time: Time) -> Node {
        let dir = kind == FileKind::Directory;
        Node {
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            rdev: 0,
            nlink: if dir { 2 } else { 1 },
            size: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            target: Bytes::new(),
            contents: Rc::default(),
            entries: BTreeMap::new(),
            parent: None,
            xattrs: BTreeMap::new(),
            version: 0,
            unfinished: kind == FileKind::File,
            no_history: false,
            transient: false,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    pub(super) fn attr(&self, ino: Ino) -> Attr {
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size: if self.is_dir() { self.entries.len() as u64 } else { self.size },
            allocated: self.contents.allocated(),
            rdev: self.rdev,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
        }
    }

    fn touch(&mut self, time: Time) {
        (self.mtime, self.ctime) = (time, time);
    }

    fn clear_suid(&mut self) {
        if self.is_dir() {
            return;
        }
        self.mode &= !0o4000;
        if self.mode & 0o010 != 0 {
            self.mode &= !0o2000;
        }
        self.xattrs.remove(&b"security.capability"[..]);
    }
}

/// A tree at one instant.
#[derive(Clone, Default)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<Ino, Rc<Node>>,
    pub(super) orphans: BTreeSet<Ino>,
}

type Answer = Result<(), FsError>;

impl Tree {
    pub(super) fn new(time: Time) -> Tree {
        let mut root = Node::new(FileKind::Directory, time);
        root.parent = Some(Ino::ROOT);
        Tree { nodes: BTreeMap::from([(Ino::ROOT, Rc::new(root))]), orphans: BTreeSet::new() }
    }

    pub(super) fn get(&self, ino: Ino) -> Result<&Node, FsError> {
        self.nodes.get(&ino).map(|node| &**node).ok_or(FsError::Stale)
    }

    fn edit(&mut self, ino: Ino) -> &mut Node {
        Rc::make_mut(self.nodes.get_mut(&ino).expect("the node was looked up before"))
    }

    fn dir(&self, ino: Ino) -> Result<&Node, FsError> {
        let node = self.get(ino)?;
        if node.is_dir() { Ok(node) } else { Err(FsError::NotDirectory) }
    }

    fn dir_to_fill(&self, ino: Ino) -> Result<&Node, FsError> {
        let node = self.dir(ino)?;
        if node.nlink == 0 { Err(FsError::NotFound) } else { Ok(node) }
    }

    fn file(&self, ino: Ino) -> Result<&Node, FsError> {
        let node = self.get(ino)?;
        match node.kind {
            FileKind::File => Ok(node),
            FileKind::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid("only regular files have contents")),
        }
    }

    fn is_within(&self, dir: Ino, ancestor: Ino) -> bool {
        let mut at = dir;
        loop {
            if at == ancestor {
                return true;
            }
            let parent = self.nodes[&at].parent.expect("a directory has a parent");
            if at == Ino::ROOT {
                return false;
            }
            at = parent;
        }
    }

    fn drop_link(&mut self, ino: Ino, keep_open: bool, time: Time) {
        let node = self.edit(ino);
        node.nlink = if node.is_dir() { 0 } else { node.nlink - 1 };
        node.ctime = time;
        if node.nlink == 0 {
            if keep_open {
                self.orphans.insert(ino);
            } else {
                self.nodes.remove(&ino);
            }
        }
    }

    fn put(&mut self, dir: Ino, name: &Bytes, ino: Ino, time: Time) {
        let is_dir = self.nodes[&ino].is_dir();
        let node = self.edit(dir);
        node.entries.insert(name.clone(), ino);
        node.nlink += u32::from(is_dir);
        node.touch(time);
        if is_dir {
            self.edit(ino).parent = Some(dir);
        }
    }

    fn take(&mut self, dir: Ino, name: &Bytes, time: Time) -> Ino {
        let ino = self.edit(dir).entries.remove(name).expect("the entry was looked up before");
        let is_dir = self.nodes[&ino].is_dir();
        let node = self.edit(dir);
        node.nlink -= u32::from(is_dir);
        node.touch(time);
        ino
    }
}

/// The tree of now, and as it was at the end of each step.
pub(super) struct Model {
    pub(super) now: Tree,
    pub(super) past: BTreeMap<Stamp, Tree>,
    /// Of the present step.
    pub(super) stamp: Stamp,
    finished: BTreeSet<Ino>,
    marked: bool,
    pub(super) marks: BTreeMap<Bytes, Stamp>,
    /// Read in place: what their times were cannot be told from the past.
    pub(super) accessed: BTreeSet<Ino>,
    /// Directories that kept no history for some time, and files that never had one.
    pub(super) forgetful: BTreeSet<Ino>,
    pub(super) transient: BTreeSet<Ino>,
}

impl Model {
    pub(super) fn new(now: Tree) -> Model {
        Model {
            now,
            past: BTreeMap::new(),
            stamp: Stamp::ZERO,
            finished: BTreeSet::new(),
            marked: false,
            marks: BTreeMap::new(),
            accessed: BTreeSet::new(),
            forgetful: BTreeSet::new(),
            transient: BTreeSet::new(),
        }
    }

    /// A batch begins.
    pub(super) fn begin(&mut self, stamp: Stamp) {
        self.stamp = stamp;
        self.finished.clear();
        self.marked = false;
    }

    /// A batch ends, or a step of it.
    pub(super) fn end_step(&mut self) {
        self.past.insert(self.stamp, self.now.clone());
        self.finished.clear();
        self.marked = false;
    }

    pub(super) fn cut(&mut self) {
        self.end_step();
        self.stamp.0 += 1;
    }

    fn keep_finished(&mut self, ino: Ino) {
        if self.finished.contains(&ino) {
            self.cut();
        }
    }

    pub(super) fn apply(&mut self, op: &Op, blocks: &dyn Fn(BlockId) -> Bytes) -> Answer {
        if self.marked {
            self.cut();
        }
        match op {
            Op::Create { dir, name, ino, kind, mode, uid, gid, rdev, target, time } => {
                let parent = self.now.dir_to_fill(*dir)?;
                if parent.entries.contains_key(name) {
                    return Err(FsError::Exists);
                }
                let mut node = Node::new(*kind, *time);
                (node.mode, node.uid, node.gid, node.rdev) = (*mode, *uid, *gid, *rdev);
                (node.target, node.size) = (target.clone(), target.len() as u64);
                node.transient = parent.no_history;
                node.no_history = parent.no_history && node.is_dir();
                if node.transient {
                    self.transient.insert(*ino);
                    self.forgetful.insert(*ino);
                }
                self.now.nodes.insert(*ino, Rc::new(node));
                self.now.put(*dir, name, *ino, *time);
                Ok(())
            }
            Op::Link { ino, dir, name, time } => {
                let parent = self.now.dir_to_fill(*dir)?;
                let node = self.now.get(*ino)?;
                if node.is_dir() {
                    return Err(FsError::NotPermitted("a directory has one name"));
                }
                if parent.entries.contains_key(name) {
                    return Err(FsError::Exists);
                }
                if node.nlink == 0 {
                    return Err(FsError::NotFound);
                }
                self.now.put(*dir, name, *ino, *time);
                let node = self.now.edit(*ino);
                node.nlink += 1;
                node.ctime = *time;
                Ok(())
            }
            Op::Unlink { dir, name, keep_open, time } => {
                let ino = *self.now.dir(*dir)?.entries.get(name).ok_or(FsError::NotFound)?;
                if self.now.nodes[&ino].is_dir() {
                    return Err(FsError::IsDirectory);
                }
                self.keep_finished(ino);
                self.now.take(*dir, name, *time);
                self.now.drop_link(ino, *keep_open, *time);
                Ok(())
            }
            Op::Rmdir { dir, name, keep_open, time } => {
                let ino = *self.now.dir(*dir)?.entries.get(name).ok_or(FsError::NotFound)?;
                if !self.now.nodes[&ino].is_dir() {
                    return Err(FsError::NotDirectory);
                }
                if !self.now.nodes[&ino].entries.is_empty() {
                    return Err(FsError::NotEmpty);
                }
                self.now.take(*dir, name, *time);
                self.now.drop_link(ino, *keep_open, *time);
                Ok(())
            }
            Op::Rename { .. } => self.rename(op),
            Op::SetAttr { ino, set, time } => self.set_attr(*ino, set, *time),
            Op::Accessed { ino, time } => {
                self.now.get(*ino)?;
                self.now.edit(*ino).atime = *time;
                self.accessed.insert(*ino);
                Ok(())
            }
            Op::Write { ino, offset, pieces, clear_suid, time } => {
                self.now.file(*ino)?;
                self.keep_finished(*ino);
                let node = self.now.edit(*ino);
                let contents = Rc::make_mut(&mut node.contents);
                let mut at = *offset;
                for piece in pieces {
                    let bytes = match piece {
                        Piece::Inline(bytes) => bytes.clone(),
                        Piece::Payload { block, .. } | Piece::Block { block, .. } => blocks(*block),
                    };
                    for byte in &bytes {
                        contents.set(at, u16::from(*byte));
                        at += 1;
                    }
                }
                if *clear_suid {
                    node.clear_suid();
                }
                node.size = node.size.max(at);
                node.unfinished = true;
                node.touch(*time);
                Ok(())
            }
            Op::Zero { ino, offset, len, extend, time } => {
                self.now.file(*ino)?;
                self.keep_finished(*ino);
                let node = self.now.edit(*ino);
                Rc::make_mut(&mut node.contents).clear(*offset, offset + len);
                if *extend {
                    node.size = node.size.max(offset + len);
                }
                node.unfinished = true;
                node.touch(*time);
                Ok(())
            }
            Op::SetXattr { ino, name, value, how, time } => {
                let exists = self.now.get(*ino)?.xattrs.contains_key(name);
                match how {
                    XattrHow::Create if exists => return Err(FsError::Exists),
                    XattrHow::Replace if !exists => return Err(FsError::NoAttribute),
                    _ => {}
                }
                let node = self.now.edit(*ino);
                node.xattrs.insert(name.clone(), value.clone());
                node.ctime = *time;
                Ok(())
            }
            Op::RemoveXattr { ino, name, time } => {
                if !self.now.get(*ino)?.xattrs.contains_key(name) {
                    return Err(FsError::NoAttribute);
                }
                let node = self.now.edit(*ino);
                node.xattrs.remove(name);
                node.ctime = *time;
                Ok(())
            }
            Op::Version { ino } => {
                let node = self.now.file(*ino)?;
                if node.unfinished {
                    if !node.transient {
                        self.finished.insert(*ino);
                    }
                    let node = self.now.edit(*ino);
                    node.unfinished = false;
                    node.version += 1;
                }
                Ok(())
            }
            Op::Release { ino } => {
                if self.now.get(*ino)?.nlink > 0 {
                    return Err(FsError::Invalid("the file still has a name"));
                }
                self.keep_finished(*ino);
                self.now.nodes.remove(ino);
                self.now.orphans.remove(ino);
                Ok(())
            }
            Op::Clone { from, as_of, from_offset, ino, offset, len, time } => {
                self.now.file(*ino)?;
                let source = match as_of {
                    AsOf::Now => self.now.file(*from)?.clone(),
                    AsOf::At(at) => {
                        let (_, tree) =
                            self.past.range(..=*at).next_back().ok_or(FsError::NotFound)?;
                        tree.nodes
                            .get(from)
                            .map(|node| (**node).clone())
                            .ok_or(FsError::NotFound)?
                    }
                };
                let len = (*len).min(source.size.saturating_sub(*from_offset));
                if len == 0 {
                    return Ok(());
                }
                self.keep_finished(*ino);
                let node = self.now.edit(*ino);
                let contents = Rc::make_mut(&mut node.contents);
                let bytes: Vec<u16> =
                    (0..len).map(|n| source.contents.get(from_offset + n)).collect();
                for (n, byte) in bytes.into_iter().enumerate() {
                    contents.set(offset + n as u64, byte);
                }
                contents.tidy();
                node.size = node.size.max(offset + len);
                node.unfinished = true;
                node.touch(*time);
                Ok(())
            }
            Op::Mark { name, .. } => {
                if self.marks.contains_key(name) {
                    return Err(FsError::Exists);
                }
                self.marks.insert(name.clone(), self.stamp);
                self.marked = true;
                Ok(())
            }
            Op::Unmark { name } => self.marks.remove(name).map(|_| ()).ok_or(FsError::NotFound),
            Op::SetHistory { ino, keep, time } => {
                let node = self.now.dir(*ino)?;
                if node.no_history == *keep {
                    self.forgetful.insert(*ino);
                    let node = self.now.edit(*ino);
                    node.no_history = !keep;
                    node.ctime = *time;
                }
                Ok(())
            }
            Op::EndSession { .. } => {
                for ino in std::mem::take(&mut self.now.orphans) {
                    self.now.nodes.remove(&ino);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn rename(&mut self, op: &Op) -> Answer {
        let Op::Rename { dir, name, new_dir, new_name, how, keep_open, time } = op else {
            unreachable!("called for renames")
        };
        let from = self.now.dir(*dir)?;
        let to = if dir == new_dir { from } else { self.now.dir_to_fill(*new_dir)? };
        let source = *from.entries.get(name).ok_or(FsError::NotFound)?;
        let target = to.entries.get(new_name).copied();
        match (how, target) {
            (RenameHow::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameHow::Exchange, None) => return Err(FsError::NotFound),
            (_, Some(target)) if target == source => return Ok(()),
            _ => {}
        }
        let is_dir = self.now.nodes[&source].is_dir();
        let itself = FsError::Invalid("a directory cannot move into itself");
        if is_dir && self.now.is_within(*new_dir, source) {
            return Err(itself);
        }
        match (how, target) {
            (RenameHow::Exchange, Some(target)) => {
                if self.now.nodes[&target].is_dir() && self.now.is_within(*dir, target) {
                    return Err(itself);
                }
                self.now.take(*dir, name, *time);
                self.now.take(*new_dir, new_name, *time);
                self.now.put(*dir, name, target, *time);
                self.now.put(*new_dir, new_name, source, *time);
                self.now.edit(target).ctime = *time;
            }
            (_, Some(target)) => {
                let node = &self.now.nodes[&target];
                match (is_dir, node.is_dir()) {
                    (false, true) => return Err(FsError::IsDirectory),
                    (true, false) => return Err(FsError::NotDirectory),
                    (true, true) if !node.entries.is_empty() => return Err(FsError::NotEmpty),
                    _ => {}
                }
                self.keep_finished(target);
                self.now.take(*new_dir, new_name, *time);
                self.now.drop_link(target, *keep_open, *time);
                self.now.take(*dir, name, *time);
                self.now.put(*new_dir, new_name, source, *time);
            }
            (_, None) => {
                self.now.take(*dir, name, *time);
                self.now.put(*new_dir, new_name, source, *time);
            }
        }
        self.now.edit(source).ctime = *time;
        Ok(())
    }

    fn set_attr(&mut self, ino: Ino, set: &SetAttr, time: Time) -> Answer {
        let node = self.now.get(ino)?;
        if set.size.is_some() {
            match node.kind {
                FileKind::File => {}
                FileKind::Directory => return Err(FsError::IsDirectory),
                _ => return Err(FsError::Invalid("only regular files have a size to set")),
            }
            self.keep_finished(ino);
        }
        let node = self.now.edit(ino);
        let owner_changes = set.uid.is_some() || set.gid.is_some();
        if set.clear_suid || owner_changes && set.mode.is_none() {
            node.clear_suid();
        }
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        node.mode = set.mode.unwrap_or(node.mode);
        if let Some(size) = set.size {
            Rc::make_mut(&mut node.contents).clear(size, node.size.max(size) + 1);
            node.size = size;
            node.mtime = time;
            node.unfinished = true;
        }
        node.atime = set.atime.unwrap_or(node.atime);
        node.mtime = set.mtime.unwrap_or(node.mtime);
        node.ctime = time;
        Ok(())
    }
}
