//! A client and the model side by side, under random calls.

use super::CALLER;
use crate::client::OWNER;
use crate::client::fsync;
use crate::client::model;
use crate::client::model::Body;
use crate::client::model::Tree;
use crate::client::open;
use crate::client::options;
use crate::client::server::Memory;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use tsfs::tsdb_client::Allocate;
use tsfs::tsdb_client::Client;
use tsfs::tsdb_client::Handle;
use tsfs::tsdb_client::New;
use tsfs::tsdb_client::Options;
use tsfs::tsdb_client::RenameHow;
use tsfs::tsdb_client::SetAttr;
use tsfs::tsdb_client::Wait;
use tsfs::tsdb_client::XattrHow;
use tsfs::types::AsOf;
use tsfs::types::FileKind;
use tsfs::types::Ino;
use tsfs::types::Stamp;

/// splitmix64: small, and the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    /// Bytes that do not compress.
    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }
}

pub(super) struct World {
    seed: u64,
    random: Random,
    server: Arc<Memory>,
    client: Arc<Client>,
    tree: Tree,
    handles: Vec<(Handle, Ino)>,
    /// The named tree after each call since what is known to be durable, which is the first.
    moments: Vec<Tree>,
    /// Instants that were named, and what was there.
    instants: BTreeMap<Stamp, Tree>,
    log: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let server = Memory::new();
        let tree = Tree::new();
        World {
            seed,
            random: Random(seed),
            client: open(&server, World::options(seed)),
            server,
            moments: vec![tree.clone()],
            tree,
            handles: Vec::new(),
            instants: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn options(seed: u64) -> Options {
        // Small caches and batches, so that every path is taken.
        Options {
            row_cache_bytes: if seed.is_multiple_of(2) { 16 << 10 } else { 1 << 20 },
            block_cache_bytes: 1 << 20,
            batch_bytes_max: if seed.is_multiple_of(3) { 100 << 10 } else { 2 << 20 },
            version_every: std::time::Duration::from_millis(20),
            ..options()
        }
    }

    pub(super) fn run(mut self, calls: usize) {
        for _ in 0..calls {
            self.call();
            if self.random.below(25) == 0 {
                self.compare();
            }
            match self.random.below(120) {
                0 => self.crash(),
                1..=3 => self.mark(),
                _ => {}
            }
        }
        self.compare();
        self.crash();
        self.check_instants();
    }

    fn fail(&self, what: &str) -> ! {
        let tail = &self.log[self.log.len().saturating_sub(60)..];
        panic!("seed {}: {what}; the last calls:\n{}", self.seed, tail.join("\n"));
    }

    /// The call was made on both; both must have done it, or none.
    fn done<T, E: std::fmt::Debug>(
        &mut self,
        what: String,
        expected: bool,
        result: Result<T, E>,
    ) -> Option<T> {
        self.log.push(format!("{what}: {}", if result.is_ok() { "done" } else { "refused" }));
        if result.is_ok() != expected {
            let error = result.as_ref().err();
            self.fail(&format!("{what}: expected {expected}, was {error:?}"));
        }
        result.ok()
    }

    fn call(&mut self) {
        match self.random.below(30) {
            0..=4 => self.create(),
            5 => self.link(),
            6..=7 => self.remove(),
            8..=9 => self.rename(),
            10..=11 => self.open(),
            12..=18 => self.write(),
            19 => self.truncate(),
            20 => self.release(),
            21 => self.flush(),
            22..=23 => self.sync(),
            24 => self.set_mode(),
            25 => self.xattr(),
            26 => self.allocate(),
            27 => self.copy(),
            _ => self.read(),
        }
        let now = self.tree.named();
        self.moments.push(now);
    }

    fn name(&mut self) -> Vec<u8> {
        vec![b'a' + self.random.below(7) as u8]
    }

    fn dir(&mut self) -> Ino {
        let dirs = self.tree.of_kind(|body| matches!(body, Body::Dir(_)));
        self.random.pick(&dirs).unwrap()
    }

    fn file(&mut self) -> Option<Ino> {
        let files = self.tree.of_kind(|body| matches!(body, Body::File(_)));
        self.random.pick(&files)
    }

    fn create(&mut self) {
        let (dir, name) = (self.dir(), self.name());
        let (kind, body, target) = match self.random.below(8) {
            0..=1 => (FileKind::Directory, Body::Dir(BTreeMap::new()), &b""[..]),
            2 => (FileKind::Symlink, Body::Link(b"there".to_vec()), &b"there"[..]),
            _ => (FileKind::File, Body::File(Rc::default()), &b""[..]),
        };
        let target = bytes::Bytes::from_static(target);
        let new = New { kind, mode: 0o640, uid: 0, gid: 0, rdev: 0, target };
        let free = !self.tree.entries(dir).contains_key(&name);
        let result = self.client.create(CALLER, dir, &name, new);
        if let Some(attr) = self.done(format!("create {kind:?} {dir}/{name:?}"), free, result) {
            self.tree.create(dir, &name, attr.ino, body, 0o640);
        }
    }

    fn link(&mut self) {
        let Some(ino) = self.file() else { return };
        let (dir, name) = (self.dir(), self.name());
        let free = !self.tree.entries(dir).contains_key(&name);
        let result = self.client.link(CALLER, ino, dir, &name);
        if self.done(format!("link {ino} {dir}/{name:?}"), free, result).is_some() {
            self.tree.link(ino, dir, &name);
        }
    }

    fn remove(&mut self) {
        let (dir, name) = (self.dir(), self.name());
        let Some(&ino) = self.tree.entries(dir).get(&name) else { return };
        let is_dir = self.tree.is_dir(ino);
        let can = !is_dir || self.tree.entries(ino).is_empty();
        let result = if is_dir {
            self.client.rmdir(CALLER, dir, &name)
        } else {
            self.client.unlink(CALLER, dir, &name)
        };
        if self.done(format!("remove {dir}/{name:?} ({ino})"), can, result).is_some() {
            self.tree.remove(dir, &name);
        }
    }

    fn rename(&mut self) {
        let (from, name) = (self.dir(), self.name());
        let (to, new_name) = (self.dir(), self.name());
        let hows =
            [RenameHow::Replace, RenameHow::Replace, RenameHow::NoReplace, RenameHow::Exchange];
        let how = self.random.pick(&hows).unwrap();
        let can = self.tree.rename((from, &name), (to, &new_name), how);
        let result = self.client.rename(CALLER, from, &name, to, &new_name, how);
        self.done(format!("rename {from}/{name:?} {to}/{new_name:?} {how:?}"), can, result);
    }

    fn open(&mut self) {
        let Some(ino) = self.file() else { return };
        if self.handles.len() < 6 {
            let result = self.client.open_file(CALLER, ino, true);
            let handle = self.done(format!("open {ino}"), true, result).unwrap();
            self.handles.push((handle, ino));
        }
    }

    fn handle(&mut self) -> Option<(Handle, Ino)> {
        let handles = self.handles.clone();
        self.random.pick(&handles)
    }

    fn write(&mut self) {
        let Some((handle, ino)) = self.handle() else { return };
        let size = self.tree.contents(ino).len();
        let append = self.random.below(2) == 0;
        let len = [1, 64, 600, 5_000, 40_000, 300_000][self.random.below(6)];
        let offset = match self.random.below(4) {
            0 => size,
            1 => size + self.random.below(100_000),
            _ => self.random.below(size + 1),
        };
        if offset + len > 4 << 20 {
            return;
        }
        let kind = self.random.below(2);
        let fill = self.random.next();
        let data = if kind == 0 { vec![fill as u8; len] } else { Random(fill).bytes(len) };
        let result = self.client.write(handle, offset as u64, &data, append, false, Wait::Allowed);
        let at = if append { size } else { offset };
        self.done(format!("write {ino} {at}+{len}"), true, result);
        self.tree.write(ino, at, &data);
    }

    fn truncate(&mut self) {
        let Some(ino) = self.file() else { return };
        let size = self.tree.contents(ino).len();
        let to = [0, self.random.below(size + 1), size + self.random.below(2_000_000)]
            [self.random.below(3)];
        let set = SetAttr { size: Some(to as u64), ..SetAttr::default() };
        let result = self.client.setattr(CALLER, ino, set);
        let attr = self.done(format!("truncate {ino} {size} to {to}"), true, result).unwrap();
        assert_eq!(attr.size, to as u64);
        self.tree.contents_mut(ino).resize(to, 0);
    }

    fn release(&mut self) {
        if self.handles.is_empty() {
            return;
        }
        let place = self.random.below(self.handles.len());
        let (handle, ino) = self.handles.swap_remove(place);
        self.client.flush(handle).unwrap();
        self.client.release(handle);
        self.done::<_, ()>(format!("release {ino}"), true, Ok(()));
    }

    fn flush(&mut self) {
        let Some((handle, ino)) = self.handle() else { return };
        let result = self.client.flush(handle);
        self.done(format!("flush {ino}"), true, result);
    }

    fn sync(&mut self) {
        let handle = self.handle().filter(|_| self.random.below(3) > 0);
        let result = fsync(&self.client, handle.map(|(handle, _)| handle));
        self.done(format!("sync {handle:?}"), true, result);
        self.moments = vec![self.tree.named()];
    }

    fn set_mode(&mut self) {
        let (dir, mode) = (self.dir(), self.random.below(0o1000) as u32);
        let ino = self.file().filter(|_| self.random.below(2) == 0).unwrap_or(dir);
        let result =
            self.client.setattr(CALLER, ino, SetAttr { mode: Some(mode), ..SetAttr::default() });
        self.done(format!("chmod {ino}"), true, result);
        self.tree.node(ino).mode = mode;
    }

    fn xattr(&mut self) {
        let Some(ino) = self.file() else { return };
        let name = [b"user.".to_vec(), self.name()].concat();
        if self.random.below(3) == 0 {
            let there = self.tree.node(ino).xattrs.remove(&name).is_some();
            let result = self.client.removexattr(CALLER, ino, &name);
            self.done(format!("removexattr {ino}"), there, result);
        } else {
            let value = vec![9; self.random.below(3000)];
            let result = self.client.setxattr(CALLER, ino, &name, &value, XattrHow::Set);
            self.done(format!("setxattr {ino}"), true, result);
            self.tree.node(ino).xattrs.insert(name, value);
        }
    }

    fn allocate(&mut self) {
        let Some((handle, ino)) = self.handle() else { return };
        let size = self.tree.contents(ino).len();
        let (offset, len) = (self.random.below(size + 1000), 1 + self.random.below(1_500_000));
        let hows = [
            Allocate::Extend,
            Allocate::KeepSize,
            Allocate::PunchHole,
            Allocate::ZeroRange { keep_size: true },
            Allocate::ZeroRange { keep_size: false },
        ];
        let how = self.random.pick(&hows).unwrap();
        let result = self.client.fallocate(handle, how, offset as u64, len as u64);
        self.done(format!("fallocate {how:?} {ino} {offset}+{len}"), true, result);
        let contents = self.tree.contents_mut(ino);
        let grows = matches!(how, Allocate::Extend | Allocate::ZeroRange { keep_size: false });
        if grows && contents.len() < offset + len {
            contents.resize(offset + len, 0);
        }
        if matches!(how, Allocate::PunchHole | Allocate::ZeroRange { .. }) {
            let (start, end) = (offset.min(contents.len()), (offset + len).min(contents.len()));
            contents[start..end].fill(0);
        }
    }

    fn copy(&mut self) {
        let (Some((from, source)), Some((to, target))) = (self.handle(), self.handle()) else {
            return;
        };
        let size = self.tree.contents(source).len();
        let (offset, len) = (self.random.below(size + 10), self.random.below(size + 10));
        let at = self.random.below(self.tree.contents(target).len() + 1000);
        if at + len > 4 << 20 {
            return;
        }
        let copied = len.min(size.saturating_sub(offset));
        let overlap = source == target && offset < at + copied && at < offset + copied;
        let result = self.client.copy_range(from, offset as u64, to, at as u64, len as u64);
        let what = format!("copy {source} {offset}+{len} to {target} {at}");
        if let Some(told) = self.done(what, !overlap, result) {
            assert_eq!(told, copied as u64);
            let data = self.tree.contents(source).get(offset..offset + copied).map(<[u8]>::to_vec);
            if let Some(data) = data.filter(|data| !data.is_empty()) {
                self.tree.write(target, at, &data);
            }
        }
    }

    fn read(&mut self) {
        let ino = match self.handle() {
            Some((_, ino)) if self.random.below(2) == 0 => ino,
            _ => match self.file() {
                Some(ino) => ino,
                None => return,
            },
        };
        let size = self.tree.contents(ino).len();
        let (offset, len) = (self.random.below(size + 100), self.random.below(200_000));
        let wait = if self.random.below(2) == 0 { Wait::Never } else { Wait::Allowed };
        let read = self.client.read(ino, AsOf::Now, offset as u64, len as u32, wait).unwrap();
        let Some(read) = read else {
            assert_eq!(wait, Wait::Never);
            return;
        };
        let contents = self.tree.contents(ino);
        let expected = contents.get(offset..size.min(offset + len)).unwrap_or_default();
        if *read != *expected {
            let first = read.iter().zip(expected).position(|(a, b)| a != b);
            self.fail(&format!(
                "read {ino} {offset}+{len} of {size}: {} bytes, first other {first:?}",
                read.len()
            ));
        }
    }

    fn same(&self, what: &str, shown: &Tree, expected: &Tree) {
        if shown != expected {
            self.fail(&format!("{what}: {}", difference(shown, expected)));
        }
    }

    /// What the client shows is what the model has.
    fn compare(&mut self) {
        let shown = model::shown(&self.client, AsOf::Now);
        self.same("now", &shown, &self.tree.named());
    }

    fn mark(&mut self) {
        let name = format!("m{}", self.instants.len());
        let stamp = self.client.mark(OWNER, name.as_bytes(), "").unwrap();
        self.log.push(format!("mark {name} at {stamp}"));
        let now = self.tree.named();
        self.instants.insert(stamp, now.clone());
        self.moments = vec![now];
    }

    fn check_instants(&mut self) {
        for (stamp, expected) in &self.instants {
            self.client.now_readable(*stamp).unwrap();
            let shown = model::shown(&self.client, AsOf::At(*stamp));
            self.same(&format!("at {stamp}"), &shown, expected);
        }
    }

    /// The server is lost and comes back; a new client must show one of the moments since the last sync.
    fn crash(&mut self) {
        self.log.push("crash".to_owned());
        self.server.lose();
        let (tell, told) = sync_channel(1);
        self.client.fsync(None, Box::new(move |result| drop(tell.send(result))));
        let synced = told.recv().unwrap();
        if synced.is_ok() {
            // Everything had been durable already.
            self.moments = vec![self.tree.named()];
        }
        let _ = self.client.close();
        self.server = self.server.restarted();
        self.client = open(&self.server, World::options(self.seed));
        let shown = model::shown(&self.client, AsOf::Now);
        let Some(survived) = self.moments.iter().rposition(|moment| *moment == shown) else {
            let last = self.moments.len() - 1;
            let nearest: Vec<String> = [0, last]
                .iter()
                .map(|n| format!("moment {n}: {}", difference(&shown, &self.moments[*n])))
                .collect();
            self.fail(&format!(
                "no moment since the last sync looks like this: {}",
                nearest.join("; ")
            ));
        };
        self.tree = self.moments[survived].clone();
        self.moments = vec![self.tree.clone()];
        self.handles.clear();
        if self.random.below(3) == 0 {
            self.check_instants();
        }
    }
}

fn difference(shown: &Tree, expected: &Tree) -> String {
    let inos: std::collections::BTreeSet<_> =
        shown.nodes.keys().chain(expected.nodes.keys()).collect();
    let differs = inos.into_iter().filter(|ino| shown.nodes.get(ino) != expected.nodes.get(ino));
    let told = differs.take(4).map(|ino| {
        let tell = |tree: &Tree| match tree.nodes.get(ino) {
            None => "nothing".to_owned(),
            Some(node) => match &node.body {
                Body::File(contents) => {
                    let (links, xattrs) = (node.nlink, node.xattrs.len());
                    format!(
                        "file of {} bytes, {links} links, mode {:o}, {xattrs} xattrs",
                        contents.len(),
                        node.mode
                    )
                }
                body => format!("{body:?}, {} links, mode {:o}", node.nlink, node.mode),
            },
        };
        let mut line = format!("{ino} is {}, not {}", tell(shown), tell(expected));
        if let (Some(a), Some(b)) = (shown.nodes.get(ino), expected.nodes.get(ino))
            && let (Body::File(a), Body::File(b)) = (&a.body, &b.body)
        {
            let first = a.iter().zip(b.iter()).position(|(a, b)| a != b);
            line.push_str(&format!(", first other byte {first:?}"));
        }
        line
    });
    told.collect::<Vec<_>>().join("; ")
}
