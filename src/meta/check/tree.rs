//! Entries, inodes, contents and attributes: each named by the others as it should be.

use crate::meta::check::Check;
use crate::meta::check::Counted;
use crate::meta::check::bits::Bits;
use crate::meta::check::inode_fault;
use crate::meta::extents::Extents;
use crate::meta::key;
use crate::meta::key::Key;
use crate::meta::key::StateKey;
use crate::meta::key::Sweep;
use crate::meta::read;
use crate::meta::record::Dirent;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::meta::record::Store;
use crate::meta::repair::Remedy;
use crate::series::Direction;
use crate::series::KeyRange;
use crate::series::Read;
use crate::series::table::Family;
use crate::types::AsOf;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Generation;
use crate::types::Ino;
use crate::types::Stamp;
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Which inodes entries name.
#[derive(Default)]
struct Named {
    once: Bits,
    /// How often, where more than once.
    often: HashMap<Ino, u32>,
    /// Directories that have entries.
    filled: Bits,
    /// Without a name, and open.
    orphans: Bits,
    /// Entries that name a directory which says that its parent is another.
    misplaced: Vec<Misplaced>,
}

struct Misplaced {
    key: Vec<u8>,
    dir: Ino,
    ino: Ino,
    parent: Option<Ino>,
}

impl Named {
    fn count(&self, ino: Ino) -> u32 {
        match self.often.get(&ino) {
            Some(count) => *count,
            None => u32::from(self.once.contains(0, ino.get())),
        }
    }

    fn add(&mut self, ino: Ino) {
        if !self.once.insert(0, ino.get()) {
            *self.often.entry(ino).or_insert(1) += 1;
        }
    }
}

/// The entries of one directory, while they are counted.
struct Dir {
    ino: Ino,
    entries: u64,
    subdirs: u32,
}

/// What is done with a key and its present row, if it has one.
type Look<'a, C> = &'a mut dyn FnMut(&mut C, &[u8], Option<Bytes>) -> Result<(), FsError>;

impl Check<'_> {
    pub(super) fn tree(&mut self) -> Result<Counted, FsError> {
        let mut counted = Counted::default();
        let named = self.dirents()?;
        self.inodes(&named, &mut counted)?;
        self.extents()?;
        self.xattrs()?;
        Ok(counted)
    }

    /// All keys of a range that have a version, and each with its present row.
    fn each(
        &mut self,
        what: &'static str,
        range: &KeyRange,
        look: Look<'_, Self>,
    ) -> Result<(), FsError> {
        self.begin(what);
        let mut range = range.clone();
        loop {
            // By pages, because looking borrows the check.
            let mut keys: Vec<Vec<u8>> = Vec::new();
            self.series.keys(&range, &mut |key| {
                keys.push(key.to_vec());
                match keys.len() < 1000 {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            let Some(last) = keys.last() else { return Ok(()) };
            range.start = KeyRange::prefix(last).end;
            for key in keys {
                self.step(what);
                let row = self.series.get(&key, AsOf::Now);
                if let Some(row) = self.read(Family::Current, &key, row)? {
                    look(self, &key, row)?;
                }
            }
        }
    }

    /// Looks at every past version of a key, newest first, with the next newer one: what is wrong with it, if anything.
    fn past<T>(
        &mut self,
        key: &[u8],
        present: Option<T>,
        decode: impl Fn(&Bytes) -> Result<T, FsError>,
        look: &mut dyn FnMut(&T, Option<&T>) -> Option<String>,
    ) -> Result<(), FsError> {
        let mut newer = present;
        let mut faults = Vec::new();
        let all = self.series.versions(key, Stamp::ZERO, Stamp::MAX, &mut |version| {
            if version.to < Stamp::MAX {
                match decode(&version.value) {
                    Ok(value) => {
                        faults.extend(look(&value, newer.as_ref()));
                        newer = Some(value);
                    }
                    Err(error) => faults.push(error.to_string()),
                }
            }
            ControlFlow::Continue(())
        });
        for fault in faults {
            self.fault(Family::History, key, fault);
        }
        self.read(Family::History, key, all)?;
        Ok(())
    }

    fn inode_now(&mut self, ino: Ino) -> Result<Option<Inode>, FsError> {
        let inode = read::inode(&self.series, ino, AsOf::Now);
        // A damaged row is told where inodes are looked at.
        match inode {
            Err(FsError::Damaged(_)) => Ok(None),
            other => other,
        }
    }

    fn dirents(&mut self) -> Result<Named, FsError> {
        let key = StateKey::Store.encode();
        let store = self.rows.get(Family::State, &key)?;
        let store = store.map(|row| Store::from_row(&key, &row)).transpose();
        let names = match self.read(Family::State, &key, store)?.flatten() {
            Some(store) => Some(key::NameHash::new(store.hash_key)),
            None => {
                self.fault(Family::State, &key, "the store's own record is missing");
                None
            }
        };
        let mut named = Named::default();
        for (key, _) in self.state_rows(&StateKey::all_orphans())? {
            if let Some(StateKey::Orphan { ino, .. }) = StateKey::decode(&key) {
                named.orphans.insert(0, ino.get());
            }
        }
        let mut dir: Option<Dir> = None;
        self.each("entries", &key::all_dirents(), &mut |check, key, row| {
            let Some(Key::Dirent { dir: at, hash, name }) = Key::decode(key) else {
                check.fault(Family::Current, key, "it is no key of an entry");
                return Ok(());
            };
            if names.is_some_and(|names| names.of(&name) != hash) {
                check.fault(Family::Current, key, "the hash is not that of the name");
            }
            check.past(key, None, |row| Dirent::from_row(key, row), &mut |_, _| None)?;
            let Some(row) = row else { return Ok(()) };
            if dir.as_ref().is_none_or(|dir| dir.ino != at) {
                if let Some(dir) = dir.take() {
                    check.dir_counted(&dir, &mut named)?;
                }
                dir = Some(Dir { ino: at, entries: 0, subdirs: 0 });
            }
            let dir = dir.as_mut().expect("it was set just now");
            dir.entries += 1;
            let dirent = Dirent::from_row(key, &row);
            let Some(dirent) = check.read(Family::Current, key, dirent)? else { return Ok(()) };
            named.add(dirent.ino);
            dir.subdirs += u32::from(dirent.kind == FileKind::Directory);
            check.entry(key, at, dirent, &mut named)
        })?;
        if let Some(dir) = dir {
            self.dir_counted(&dir, &mut named)?;
        }
        self.misplaced(&mut named);
        Ok(named)
    }

    /// A directory's only name is where it belongs. Of several, the one that it does not know goes.
    fn misplaced(&mut self, named: &mut Named) {
        for Misplaced { key, dir, ino, parent } in std::mem::take(&mut named.misplaced) {
            let what = format!("directory {ino} says its parent is {parent:?}");
            match named.count(ino) {
                1 => self.remedied(Family::Current, &key::inode(ino), what, Remedy::Parent(dir)),
                _ => self.remedied(Family::Current, &key, what, Remedy::Drop),
            }
        }
    }

    fn entry(
        &mut self,
        key: &[u8],
        dir: Ino,
        dirent: Dirent,
        named: &mut Named,
    ) -> Result<(), FsError> {
        let Dirent { ino, kind } = dirent;
        match self.inode_now(ino)? {
            None => {
                let what = format!("it names inode {ino}, which is not there");
                self.remedied(Family::Current, key, what, Remedy::Drop);
            }
            Some(inode) if inode.kind != kind => {
                let what = format!("it says {kind:?}, inode {ino} is {:?}", inode.kind);
                self.remedied(Family::Current, key, what, Remedy::Kind(inode.kind));
            }
            Some(inode) if inode.is_dir() && inode.parent != Some(dir) => {
                let parent = inode.parent;
                named.misplaced.push(Misplaced { key: key.to_vec(), dir, ino, parent });
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn dir_counted(&mut self, dir: &Dir, named: &mut Named) -> Result<(), FsError> {
        named.filled.insert(0, dir.ino.get());
        let key = key::inode(dir.ino);
        let Dir { entries, subdirs, .. } = dir;
        match self.inode_now(dir.ino)? {
            None => {
                let what = format!("it has {entries} entries and is not there");
                self.remedied(Family::Current, &key, what, Remedy::Directory);
            }
            Some(inode) if !inode.is_dir() => {
                self.fault(Family::Current, &key, "it has entries and is no directory");
            }
            Some(inode) => {
                if inode.size != *entries {
                    let what = format!("{entries} entries, counted as {}", inode.size);
                    self.remedied(Family::Current, &key, what, Remedy::Entries(*entries));
                }
                if inode.nlink != 2 + subdirs {
                    let what = format!("{subdirs} subdirectories, and {} links", inode.nlink);
                    self.remedied(Family::Current, &key, what, Remedy::Links(2 + subdirs));
                }
            }
        }
        Ok(())
    }

    fn inodes(&mut self, named: &Named, counted: &mut Counted) -> Result<(), FsError> {
        let mut reaches = Bits::default();
        reaches.insert(0, Ino::ROOT.get());
        if self.inode_now(Ino::ROOT)?.is_none() {
            let (key, what) = (key::inode(Ino::ROOT), "the root directory is missing");
            self.remedied(Family::Current, &key, what, Remedy::Directory);
        }
        self.each("inodes", &key::inodes(), &mut |check, key, row| {
            let Some(Key::Inode { ino }) = Key::decode(key) else {
                check.fault(Family::Current, key, "it is no key of an inode");
                return Ok(());
            };
            counted.ino = counted.ino.max(ino.get());
            let present = match row {
                Some(row) => check.read(Family::Current, key, Inode::from_row(key, &row))?,
                None => None,
            };
            if let Some(inode) = &present {
                counted.files += 1;
                counted.live_bytes += inode.allocated;
                counted.versions += u64::from(is_version(inode));
                check.present_inode(key, ino, inode, named);
                if inode.is_dir() && inode.nlink > 0 {
                    check.leads_to_root(key, ino, inode, &mut reaches)?;
                }
            }
            check.past(key, present, |row| Inode::from_row(key, row), &mut |inode, newer| {
                let same = newer.is_some_and(|n| n.version == inode.version && !n.unfinished);
                counted.versions += u64::from(is_version(inode) && !same);
                inode_fault(inode)
            })
        })
    }

    fn present_inode(&mut self, key: &[u8], ino: Ino, inode: &Inode, named: &Named) {
        if let Some(fault) = inode_fault(inode) {
            self.fault(Family::Current, key, fault);
        }
        let names = named.count(ino);
        let wanted = match (inode.kind, inode.nlink) {
            _ if ino == Ino::ROOT => 0,
            (FileKind::Directory, links) => u32::from(links > 0),
            (_, links) => links,
        };
        if names != wanted {
            let what = format!("{names} entries name it, and it says {wanted}");
            match (names, inode.is_dir()) {
                (0, _) => self.remedied(Family::Current, key, what, Remedy::Name),
                (_, false) => self.remedied(Family::Current, key, what, Remedy::Links(names)),
                (1, true) => self.remedied(Family::Current, key, what, Remedy::Links(2)),
                // Where its entries are looked at, those too many are told.
                (2.., true) => self.fault(Family::Current, key, what),
            }
        }
        if inode.is_dir() && inode.size > 0 && !named.filled.contains(0, ino.get()) {
            let what = format!("no entries, counted as {}", inode.size);
            self.remedied(Family::Current, key, what, Remedy::Entries(0));
        }
        if inode.is_dir() && inode.size == 0 && inode.nlink > 2 {
            let what = format!("no entries, and {} links", inode.nlink);
            self.remedied(Family::Current, key, what, Remedy::Links(2));
        }
        if inode.nlink == 0 && !named.orphans.contains(0, ino.get()) {
            // It was removed, and whoever had it open is gone.
            let what = "it has neither a name nor a session that has it open";
            self.remedied(Family::Current, key, what, Remedy::Drop);
        }
    }

    /// Follows the parents up to one that is known to reach the root.
    fn leads_to_root(
        &mut self,
        key: &[u8],
        ino: Ino,
        inode: &Inode,
        reaches: &mut Bits,
    ) -> Result<(), FsError> {
        let mut way = Bits::default();
        let (mut at, mut parent) = (ino, inode.parent);
        let mut walked = Vec::new();
        while !reaches.contains(0, at.get()) {
            if !way.insert(0, at.get()) {
                self.fault(Family::Current, key, "its parents go round in a circle");
                return Ok(());
            }
            walked.push(at);
            let Some(up) = parent else {
                self.fault(Family::Current, key, format!("directory {at} above it has no parent"));
                return Ok(());
            };
            at = up;
            if !reaches.contains(0, at.get()) {
                parent = self.inode_now(at)?.and_then(|inode| inode.parent);
            }
        }
        for ino in walked {
            reaches.insert(0, ino.get());
        }
        Ok(())
    }

    fn extents(&mut self) -> Result<(), FsError> {
        /// One content, while its rows are looked at.
        struct Content {
            ino: Ino,
            generation: Generation,
            /// Of the present inode, where it has this generation.
            inode: Option<Inode>,
            bytes: u64,
        }
        let mut content: Option<Content> = None;
        let finish = |check: &mut Self, content: &Content| {
            if let Some(inode) = &content.inode
                && inode.allocated != content.bytes
            {
                let what = format!("{} bytes, counted as {}", content.bytes, inode.allocated);
                let (key, remedy) = (key::inode(content.ino), Remedy::Allocated(content.bytes));
                // Fewer than counted are perhaps gone, and a count that fits would hide it.
                match content.bytes > inode.allocated {
                    true => check.remedied(Family::Current, &key, what, remedy),
                    false => check.fault(Family::Current, &key, what),
                }
            }
        };
        self.each("extents", &key::all_extents(), &mut |check, key, row| {
            let Some(Key::Extents { ino, generation, region }) = Key::decode(key) else {
                check.fault(Family::Current, key, "it is no key of an extent row");
                return Ok(());
            };
            let here = |content: &Content| content.ino == ino && content.generation == generation;
            if !content.as_ref().is_some_and(here) {
                if let Some(content) = content.take() {
                    finish(check, &content);
                }
                let present = check.inode_now(ino)?;
                let inode = present.filter(|inode| inode.generation == generation);
                if inode.is_none() && row.is_some() {
                    check.has_owner(key, ino, Some(generation))?;
                }
                content = Some(Content { ino, generation, inode, bytes: 0 });
            }
            check.past(key, None, |row| Extents::from_row(key, row), &mut |_, _| None)?;
            let Some(row) = row else { return Ok(()) };
            let extents = Extents::from_row(key, &row);
            let Some(extents) = check.read(Family::Current, key, extents)? else { return Ok(()) };
            let content = content.as_mut().expect("it was set just now");
            content.bytes += extents.bytes();
            let end =
                extents.iter().last().map_or(0, |last| region.start() + u64::from(last.end()));
            match &content.inode {
                _ if extents.is_empty() => {
                    check.remedied(Family::Current, key, "the row is empty", Remedy::Drop);
                }
                Some(inode) if end > inode.size => {
                    let what = format!("contents up to {end}, beyond the size {}", inode.size);
                    check.fault(Family::Current, key, what);
                }
                _ => {}
            }
            Ok(())
        })?;
        if let Some(content) = content {
            finish(self, &content);
        }
        self.allocated_without_rows()
    }

    /// Files that say they have contents and have no row.
    fn allocated_without_rows(&mut self) -> Result<(), FsError> {
        self.each("contents", &key::inodes(), &mut |check, key, row| {
            let (Some(Key::Inode { ino }), Some(row)) = (Key::decode(key), row) else {
                return Ok(());
            };
            let Ok(inode) = Inode::from_row(key, &row) else { return Ok(()) };
            if inode.allocated == 0 {
                return Ok(());
            }
            let range = key::extents_from(ino, inode.generation, crate::types::Region(0));
            let mut any = false;
            check.rows.scan(Family::Current, &range, Direction::Forward, &mut |_, _| {
                any = true;
                ControlFlow::Break(())
            })?;
            if !any {
                // They are gone, and reading zeros where they were would hide it.
                check.fault(Family::Current, key, "it says it has contents, and no row holds them");
            }
            Ok(())
        })
    }

    fn xattrs(&mut self) -> Result<(), FsError> {
        self.each("attributes", &key::all_xattrs(), &mut |check, key, row| {
            let Some(Key::Xattr { ino, .. }) = Key::decode(key) else {
                check.fault(Family::Current, key, "it is no key of an attribute");
                return Ok(());
            };
            let Some(row) = row else { return Ok(()) };
            if row.first() != Some(&crate::meta::apply::XATTR_VERSION) {
                check.fault(Family::Current, key, "unknown version of the attribute");
            }
            match check.inode_now(ino)? {
                Some(inode) if !inode.has_xattrs => {
                    let what = "its inode says it has no attributes";
                    check.remedied(Family::Current, &key::inode(ino), what, Remedy::Attributes);
                    Ok(())
                }
                Some(_) => Ok(()),
                None => check.has_owner(key, ino, None),
            }
        })
    }

    /// Rows that are present though their inode is not: a past version shows them, or they wait to be swept.
    fn has_owner(
        &mut self,
        key: &[u8],
        ino: Ino,
        generation: Option<Generation>,
    ) -> Result<(), FsError> {
        let sweep = match generation {
            Some(generation) => Sweep::Extents { ino, generation },
            None => Sweep::Xattrs { ino },
        };
        if self.rows.get(Family::State, &StateKey::Sweep(sweep).encode())?.is_some() {
            return Ok(());
        }
        let inode_key = key::inode(ino);
        let mut owned = false;
        let all = self.series.versions(&inode_key, Stamp::ZERO, Stamp::MAX, &mut |version| {
            owned =
                Inode::from_row(&inode_key, &version.value).is_ok_and(|inode| match generation {
                    Some(generation) => inode.generation == generation,
                    None => inode.has_xattrs,
                });
            if owned { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if self.read(Family::History, &inode_key, all)?.is_some() && !owned {
            let remedy = Remedy::Sign(StateKey::Sweep(sweep));
            self.remedied(Family::Current, key, "no version of its inode leads to it", remedy);
        }
        Ok(())
    }
}

/// A finished version that its row is counted for.
fn is_version(inode: &Inode) -> bool {
    inode.version > 0 && !inode.unfinished && !inode.transient
}
