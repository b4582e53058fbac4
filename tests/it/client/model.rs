//! A tree in memory that does what POSIX says, and no more. It can be copied cheaply, so there is one for every moment.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::rc::Rc;
use tsfs::tsdb_client::Client;
use tsfs::tsdb_client::RenameHow;
use tsfs::tsdb_client::Wait;
use tsfs::types::AsOf;
use tsfs::types::FileKind;
use tsfs::types::Ino;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Body {
    File(Rc<Vec<u8>>),
    Dir(BTreeMap<Vec<u8>, Ino>),
    Link(Vec<u8>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<Ino, Rc<Node>>,
}

impl Tree {
    pub(super) fn new() -> Tree {
        let root = Node {
            body: Body::Dir(BTreeMap::new()),
            mode: 0o755,
            nlink: 2,
            xattrs: BTreeMap::new(),
        };
        Tree { nodes: BTreeMap::from([(Ino::ROOT, Rc::new(root))]) }
    }

    pub(super) fn node(&mut self, ino: Ino) -> &mut Node {
        Rc::make_mut(self.nodes.get_mut(&ino).expect("the caller knows it is there"))
    }

    pub(super) fn get(&self, ino: Ino) -> &Node {
        &self.nodes[&ino]
    }

    pub(super) fn entries(&self, dir: Ino) -> &BTreeMap<Vec<u8>, Ino> {
        match &self.get(dir).body {
            Body::Dir(entries) => entries,
            _ => panic!("{dir} is no directory"),
        }
    }

    fn entries_mut(&mut self, dir: Ino) -> &mut BTreeMap<Vec<u8>, Ino> {
        match &mut self.node(dir).body {
            Body::Dir(entries) => entries,
            _ => panic!("{dir} is no directory"),
        }
    }

    pub(super) fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.get(ino).body, Body::Dir(_))
    }

    pub(super) fn contents(&self, ino: Ino) -> &Rc<Vec<u8>> {
        match &self.get(ino).body {
            Body::File(contents) => contents,
            _ => panic!("{ino} is no file"),
        }
    }

    pub(super) fn contents_mut(&mut self, ino: Ino) -> &mut Vec<u8> {
        match &mut self.node(ino).body {
            Body::File(contents) => Rc::make_mut(contents),
            _ => panic!("{ino} is no file"),
        }
    }

    pub(super) fn of_kind(&self, wanted: impl Fn(&Body) -> bool) -> Vec<Ino> {
        let found = self.nodes.iter().filter(|(_, node)| node.nlink > 0 && wanted(&node.body));
        found.map(|(ino, _)| *ino).collect()
    }

    pub(super) fn write(&mut self, ino: Ino, offset: usize, data: &[u8]) {
        let contents = self.contents_mut(ino);
        if contents.len() < offset + data.len() {
            contents.resize(offset + data.len(), 0);
        }
        contents[offset..offset + data.len()].copy_from_slice(data);
    }

    pub(super) fn create(&mut self, dir: Ino, name: &[u8], ino: Ino, body: Body, mode: u32) {
        let is_dir = matches!(body, Body::Dir(_));
        let nlink = if is_dir { 2 } else { 1 };
        self.nodes.insert(ino, Rc::new(Node { body, mode, nlink, xattrs: BTreeMap::new() }));
        self.entries_mut(dir).insert(name.to_vec(), ino);
        self.node(dir).nlink += u32::from(is_dir);
    }

    pub(super) fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) {
        self.node(ino).nlink += 1;
        self.entries_mut(dir).insert(name.to_vec(), ino);
    }

    pub(super) fn remove(&mut self, dir: Ino, name: &[u8]) {
        let ino = self.entries_mut(dir).remove(name).expect("the caller knows it is there");
        if self.is_dir(ino) {
            self.node(dir).nlink -= 1;
            self.node(ino).nlink = 0;
        } else {
            self.node(ino).nlink -= 1;
        }
    }

    pub(super) fn is_within(&self, dir: Ino, ancestor: Ino) -> bool {
        dir == ancestor
            || self.is_dir(ancestor)
                && self
                    .entries(ancestor)
                    .values()
                    .any(|ino| self.is_dir(*ino) && self.is_within(dir, *ino))
    }

    /// Whether it can be done; then it is.
    pub(super) fn rename(&mut self, from: (Ino, &[u8]), to: (Ino, &[u8]), how: RenameHow) -> bool {
        let Some(&source) = self.entries(from.0).get(from.1) else { return false };
        let target = self.entries(to.0).get(to.1).copied();
        match (how, target) {
            (RenameHow::NoReplace, Some(_)) | (RenameHow::Exchange, None) => return false,
            (_, Some(target)) if target == source => return true,
            _ => {}
        }
        if self.is_dir(source) && self.is_within(to.0, source) {
            return false;
        }
        if how == RenameHow::Exchange {
            let target = target.expect("checked above");
            if self.is_dir(target) && self.is_within(from.0, target) {
                return false;
            }
            let (one, other) = (u32::from(self.is_dir(source)), u32::from(self.is_dir(target)));
            self.entries_mut(from.0).insert(from.1.to_vec(), target);
            self.entries_mut(to.0).insert(to.1.to_vec(), source);
            self.node(from.0).nlink = self.get(from.0).nlink - one + other;
            self.node(to.0).nlink = self.get(to.0).nlink - other + one;
            return true;
        }
        if let Some(target) = target {
            if self.is_dir(source) != self.is_dir(target)
                || self.is_dir(target) && !self.entries(target).is_empty()
            {
                return false;
            }
            self.remove(to.0, to.1);
        }
        self.entries_mut(from.0).remove(from.1);
        self.entries_mut(to.0).insert(to.1.to_vec(), source);
        if self.is_dir(source) {
            self.node(from.0).nlink -= 1;
            self.node(to.0).nlink += 1;
        }
        true
    }

    /// Only what can be reached by name: what a crash leaves.
    pub(super) fn named(&self) -> Tree {
        let mut waiting = vec![Ino::ROOT];
        let mut seen = BTreeSet::new();
        while let Some(ino) = waiting.pop() {
            if seen.insert(ino) && self.is_dir(ino) {
                waiting.extend(self.entries(ino).values());
            }
        }
        Tree {
            nodes: self
                .nodes
                .iter()
                .filter(|(ino, _)| seen.contains(ino))
                .map(|(i, n)| (*i, n.clone()))
                .collect(),
        }
    }
}

/// The tree that a client shows.
pub(super) fn shown(client: &Client, at: AsOf) -> Tree {
    let mut tree = Tree { nodes: BTreeMap::new() };
    let mut waiting = vec![Ino::ROOT];
    while let Some(ino) = waiting.pop() {
        if tree.nodes.contains_key(&ino) {
            continue;
        }
        let attr = client.getattr(ino, at).unwrap();
        let body = match attr.kind {
            FileKind::Directory => {
                let mut entries = BTreeMap::new();
                client
                    .readdir(ino, at, 0, true, &mut |entry| {
                        assert_eq!(entry.attr.as_ref().map(|attr| attr.ino), Some(entry.ino));
                        let twice = entries.insert(entry.name.to_vec(), entry.ino);
                        assert_eq!(twice, None, "a name is listed once");
                        ControlFlow::Continue(())
                    })
                    .unwrap();
                assert_eq!(attr.size, entries.len() as u64, "a directory's size is its entries");
                waiting.extend(entries.values());
                Body::Dir(entries)
            }
            FileKind::File => Body::File(Rc::new(contents(client, ino, at, attr.size))),
            _ => Body::Link(client.readlink(ino, at).unwrap().to_vec()),
        };
        let names: Vec<Bytes> = client.listxattr(ino, at).unwrap();
        let value = |name: &Bytes| client.getxattr(ino, name, at).unwrap().to_vec();
        let xattrs = names.iter().map(|name| (name.to_vec(), value(name))).collect();
        let node = Node { body, mode: attr.mode, nlink: attr.nlink, xattrs };
        tree.nodes.insert(ino, Rc::new(node));
    }
    tree
}

pub(super) fn contents(client: &Client, ino: Ino, at: AsOf, size: u64) -> Vec<u8> {
    let mut contents = Vec::new();
    loop {
        let bytes =
            client.read(ino, at, contents.len() as u64, 100_000, Wait::Allowed).unwrap().unwrap();
        contents.extend_from_slice(&bytes);
        if bytes.len() < 100_000 {
            assert_eq!(contents.len() as u64, size, "{ino} is as long as it says");
            return contents;
        }
    }
}
