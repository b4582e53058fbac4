//! What is in memory of the file system that crashes: of each file what is synced and what is seen, of all names a
//! journal of what is not synced.

use super::Lost;
use crate::support::Random;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

pub(super) const PAGE_BYTES: usize = 4096;
/// What a disk writes as one.
const SECTOR_BYTES: usize = 512;
const ROOT: u64 = 1;

type Page = Arc<[u8; PAGE_BYTES]>;
/// Pages by number; what is not there is zero.
type Pages = BTreeMap<u64, Page>;

/// A file: what is seen, and what a crash leaves. Pages that are equal are shared.
#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) len: u64,
    pub(super) pages: Pages,
    durable_len: u64,
    durable: Pages,
    /// Pages that differ, or may.
    dirty: BTreeSet<u64>,
    /// What was written behind the end and is not synced.
    appended: Vec<Range<u64>>,
}

#[derive(Clone, Default)]
pub(super) struct Dir {
    pub(super) names: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
}

#[derive(Clone)]
pub(super) enum Kind {
    File(File),
    Dir(Dir),
    /// Its name is all there is to it: who listens is the kernel's to know.
    Socket,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) time: SystemTime,
    pub(super) opens: u32,
}

/// A name that comes to name a node, or goes.
#[derive(Clone)]
pub(super) struct Edit {
    pub(super) dir: u64,
    pub(super) name: OsString,
    pub(super) node: Option<u64>,
}

#[derive(Clone)]
pub(super) struct Disk {
    pub(super) nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Changes of names that are not synced, oldest first; the edits of one happen together.
    journal: Vec<Vec<Edit>>,
}

/// How much of something a crash leaves: often all or nothing, for these are the likely cases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    All,
    Nothing,
    Some,
}

impl Kept {
    pub(super) fn choose(random: &mut Random) -> Kept {
        match random.below(4) {
            0 => Kept::All,
            1 => Kept::Nothing,
            _ => Kept::Some,
        }
    }

    fn keep(self, random: &mut Random) -> bool {
        match self {
            Kept::All => true,
            Kept::Nothing => false,
            Kept::Some => random.below(2) == 0,
        }
    }
}

impl File {
    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.len.min(offset + len as u64);
        let mut bytes = Vec::with_capacity(len);
        let mut at = offset;
        while at < end {
            let inside = (at % PAGE_BYTES as u64) as usize;
            let part = (PAGE_BYTES - inside).min((end - at) as usize);
            match self.pages.get(&(at / PAGE_BYTES as u64)) {
                Some(page) => bytes.extend_from_slice(&page[inside..inside + part]),
                None => bytes.resize(bytes.len() + part, 0),
            }
            at += part as u64;
        }
        bytes
    }

    pub(super) fn write(&mut self, offset: u64, mut data: &[u8]) {
        let mut at = offset;
        while !data.is_empty() {
            let (number, inside) = (at / PAGE_BYTES as u64, (at % PAGE_BYTES as u64) as usize);
            let part = (PAGE_BYTES - inside).min(data.len());
            let page = self.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[inside..inside + part].copy_from_slice(&data[..part]);
            self.dirty.insert(number);
            data = &data[part..];
            at += part as u64;
        }
        if at > self.len {
            self.appended.push(self.len..at);
            self.len = at;
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.punch(len, self.len - len);
        }
        self.len = len;
    }

    /// Makes a range read as zeros.
    pub(super) fn punch(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let touched = offset / PAGE_BYTES as u64..end.div_ceil(PAGE_BYTES as u64);
        let numbers: Vec<u64> = self.pages.range(touched).map(|(number, _)| *number).collect();
        for number in numbers {
            let start = number * PAGE_BYTES as u64;
            let (from, to) = (offset.max(start), end.min(start + PAGE_BYTES as u64));
            self.dirty.insert(number);
            if to - from == PAGE_BYTES as u64 {
                self.pages.remove(&number);
            } else {
                let page = self.pages.get_mut(&number).unwrap();
                Arc::make_mut(page)[(from - start) as usize..(to - start) as usize].fill(0);
            }
        }
    }

    pub(super) fn sync(&mut self) {
        for number in std::mem::take(&mut self.dirty) {
            match self.pages.get(&number) {
                Some(page) => self.durable.insert(number, page.clone()),
                None => self.durable.remove(&number),
            };
        }
        self.durable_len = self.len;
        self.appended.clear();
    }

    /// Keeps of the unsynced pages whole ones, sectors, or none; and one of the two lengths. A file that was
    /// appended to shows its new length only with what was appended, as on ext4 (data=ordered), XFS and btrfs: they note a
    /// length once what it covers is written. Space taken ahead is another matter: there a length comes alone.
    fn crash(&mut self, kept: Kept, random: &mut Random) -> u64 {
        let grows = kept.keep(random);
        let covered = if grows { std::mem::take(&mut self.appended) } else { Vec::new() };
        let mut lost = 0;
        for number in std::mem::take(&mut self.dirty) {
            let zero = Arc::new([0; PAGE_BYTES]);
            let new = self.pages.get(&number).cloned().unwrap_or_else(|| zero.clone());
            let old = self.durable.get(&number).cloned().unwrap_or(zero);
            let mut left = old;
            let page = Kept::choose(random);
            for (left, new) in
                Arc::make_mut(&mut left).chunks_mut(SECTOR_BYTES).zip(new.chunks(SECTOR_BYTES))
            {
                let keep = if kept == Kept::Some { page.keep(random) } else { kept == Kept::All };
                if keep || covered.iter().any(|range| meets(number, range)) {
                    left.copy_from_slice(new);
                }
            }
            lost += u64::from(left != new);
            self.durable.insert(number, left);
        }
        if grows {
            self.durable_len = self.len;
        }
        self.len = self.durable_len;
        self.pages = self.durable.clone();
        // What lies behind the end is not there.
        self.punch(self.len, u64::MAX / 2 - self.len);
        self.sync();
        lost
    }
}

/// Whether a page has bytes of a range.
fn meets(page: u64, range: &Range<u64>) -> bool {
    let start = page * PAGE_BYTES as u64;
    start < range.end && range.start < start + PAGE_BYTES as u64
}

impl Disk {
    pub(super) fn new() -> Disk {
        let time = SystemTime::UNIX_EPOCH;
        let kind = Kind::Dir(Dir::default());
        let root = Node { kind, mode: 0o755, uid: 0, gid: 0, time, opens: 0 };
        Disk { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, journal: Vec::new() }
    }

    /// Becomes what it was, or another one. Numbers given since are not given again.
    pub(super) fn become_as(&mut self, other: &Disk) {
        let next = self.next.max(other.next);
        *self = Disk { next, ..other.clone() };
    }

    /// A node that has no name yet. Numbers are never used twice, so the kernel cannot take a new file for an old one.
    pub(super) fn add(&mut self, node: Node) -> u64 {
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, node);
        ino
    }

    pub(super) fn file(&mut self, ino: u64) -> Option<&mut File> {
        match self.nodes.get_mut(&ino).map(|node| &mut node.kind) {
            Some(Kind::File(file)) => Some(file),
            _ => None,
        }
    }

    fn dir(&mut self, ino: u64) -> Option<&mut Dir> {
        match self.nodes.get_mut(&ino).map(|node| &mut node.kind) {
            Some(Kind::Dir(dir)) => Some(dir),
            _ => None,
        }
    }

    pub(super) fn lookup(&self, dir: u64, name: &OsStr) -> Option<(u64, &Node)> {
        let Kind::Dir(dir) = &self.nodes.get(&dir)?.kind else { return None };
        let ino = *dir.names.get(name)?;
        Some((ino, self.nodes.get(&ino)?))
    }

    pub(super) fn list(&self, dir: u64) -> Vec<(OsString, u64)> {
        match self.nodes.get(&dir).map(|node| &node.kind) {
            Some(Kind::Dir(dir)) => {
                dir.names.iter().map(|(name, ino)| (name.clone(), *ino)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Pages that all files have, for those who ask how full the disk is.
    pub(super) fn pages(&self) -> u64 {
        let pages = self.nodes.values().map(|node| match &node.kind {
            Kind::File(file) => file.pages.len() as u64,
            Kind::Dir(_) | Kind::Socket => 0,
        });
        pages.sum()
    }

    pub(super) fn edit(&mut self, edits: Vec<Edit>) {
        for edit in &edits {
            if let Some(dir) = self.dir(edit.dir) {
                edit.apply(&mut dir.names);
            }
        }
        self.journal.push(edits);
    }

    /// Makes the names of a directory durable, and with them every change made before the last of its own.
    pub(super) fn sync_dir(&mut self, ino: u64) {
        let of_it = |edits: &Vec<Edit>| edits.iter().any(|edit| edit.dir == ino);
        let changes = self.journal.iter().rposition(of_it).map_or(0, |at| at + 1);
        self.commit(changes);
        self.collect();
    }

    fn commit(&mut self, changes: usize) {
        for edit in self.journal.drain(..changes).flatten().collect::<Vec<_>>() {
            if let Some(dir) = self.dir(edit.dir) {
                edit.apply(&mut dir.durable);
            }
        }
    }

    /// `how` much of everything is kept; some: chosen for the names and for each file.
    pub(super) fn crash(&mut self, how: Kept, random: &mut Random) -> Lost {
        let choose = |random: &mut Random| match how {
            Kept::Some => Kept::choose(random),
            kept => kept,
        };
        let changes = self.journal.len() as u64;
        let kept = match choose(random) {
            Kept::All => changes,
            Kept::Nothing => 0,
            Kept::Some => random.below(changes + 1),
        };
        self.commit(kept as usize);
        self.journal.clear();
        let mut lost = Lost { pages: 0, names: changes - kept };
        for node in self.nodes.values_mut() {
            node.opens = 0;
            match &mut node.kind {
                Kind::File(file) => {
                    let kept = choose(random);
                    lost.pages += file.crash(kept, random);
                }
                Kind::Dir(dir) => dir.names = dir.durable.clone(),
                Kind::Socket => {}
            }
        }
        self.collect();
        lost
    }

    /// Forgets nodes that nothing names, now or after a crash, and nobody has open.
    fn collect(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        for node in self.nodes.values() {
            if let Kind::Dir(dir) = &node.kind {
                named.extend(dir.names.values().chain(dir.durable.values()));
            }
        }
        named.extend(self.journal.iter().flatten().filter_map(|edit| edit.node));
        self.nodes.retain(|ino, node| node.opens > 0 || named.contains(ino));
    }
}

impl Edit {
    fn apply(&self, names: &mut BTreeMap<OsString, u64>) {
        match self.node {
            Some(ino) => names.insert(self.name.clone(), ino),
            None => names.remove(&self.name),
        };
    }
}
