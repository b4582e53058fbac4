//! A small file tree in memory, to say what a directory should hold, and the same read from a real one.

use rustix::io::Errno;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What stands under one name, as any program could see it. Times are left out: the kernel's clock made them.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Directory,
    Link(Vec<u8>),
    /// `first` is the smallest of the names that are this file.
    File {
        first: String,
        mode: u32,
        links: u64,
        note: Vec<u8>,
        bytes: Vec<u8>,
    },
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Seen::Directory => write!(f, "directory"),
            Seen::Link(target) => write!(f, "link to {:?}", String::from_utf8_lossy(target)),
            Seen::File { first, mode, links, note, bytes } => {
                let (sum, len) = (crc32c::crc32c(bytes), bytes.len());
                write!(f, "file {mode:o}, {links} links from {first}, note {note:x?}, ")?;
                write!(f, "{len} bytes {sum:08x}")
            }
        }
    }
}

/// Every name below a directory.
pub(super) type Tree = BTreeMap<String, Seen>;

/// The extended attribute that the writers set.
pub(super) const NOTE: &str = "user.note";

/// What is really there.
pub(super) fn read(top: &Path) -> std::io::Result<Tree> {
    let (mut tree, mut inodes) = (Tree::new(), BTreeMap::new());
    read_below(top, "", &mut tree, &mut inodes)?;
    for names in inodes.values() {
        for name in names {
            if let Some(Seen::File { first, .. }) = tree.get_mut(name) {
                first.clone_from(names.first().expect("a name made the entry"));
            }
        }
    }
    Ok(tree)
}

/// The names of each file, by inode number.
type Inodes = BTreeMap<u64, BTreeSet<String>>;

fn read_below(
    top: &Path,
    below: &str,
    tree: &mut Tree,
    inodes: &mut Inodes,
) -> std::io::Result<()> {
    let dir = top.join(below);
    let at = |path: &Path, error: std::io::Error| {
        std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    for entry in std::fs::read_dir(&dir).map_err(|error| at(&dir, error))? {
        let entry = entry.map_err(|error| at(&dir, error))?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        let path = entry.path();
        let meta = std::fs::symlink_metadata(&path).map_err(|error| at(&path, error))?;
        let seen = if meta.is_dir() {
            read_below(top, &format!("{name}/"), tree, inodes)?;
            Seen::Directory
        } else if meta.is_symlink() {
            Seen::Link(std::fs::read_link(&path)?.as_os_str().as_encoded_bytes().to_vec())
        } else {
            let mut note = [0; 64];
            let note = match rustix::fs::lgetxattr(&path, NOTE, &mut note) {
                Ok(len) => note[..len].to_vec(),
                Err(Errno::NODATA) => Vec::new(),
                Err(errno) => return Err(errno.into()),
            };
            let bytes = std::fs::read(&path).map_err(|error| at(&path, error))?;
            inodes.entry(meta.ino()).or_default().insert(name.clone());
            let (mode, links) = (meta.mode() & 0o7777, meta.nlink());
            Seen::File { first: String::new(), mode, links, note, bytes }
        };
        tree.insert(name, seen);
    }
    Ok(())
}

/// The first name at which two trees differ, and how.
pub(super) fn difference(expected: &Tree, found: &Tree) -> Option<String> {
    let names = expected.keys().chain(found.keys());
    names.filter(|name| expected.get(*name) != found.get(*name)).min().map(|name| {
        format!("{name}: expected {:?}, found {:?}", expected.get(name), found.get(name))
    })
}

/// The model: names in directories one level deep, over numbered files, so that hard links work.
#[derive(Clone, Default)]
pub(super) struct Model {
    names: BTreeMap<String, Node>,
    files: BTreeMap<u64, Contents>,
    next: u64,
}

#[derive(Clone, PartialEq)]
enum Node {
    Directory,
    Link(Vec<u8>),
    File(u64),
}

#[derive(Clone, Default)]
struct Contents {
    mode: u32,
    links: u64,
    note: Vec<u8>,
    bytes: Vec<u8>,
}

impl Model {
    pub(super) fn tree(&self) -> Tree {
        let seen = |node: &Node| match node {
            Node::Directory => Seen::Directory,
            Node::Link(target) => Seen::Link(target.clone()),
            Node::File(number) => {
                let Contents { mode, links, note, bytes } = self.files[number].clone();
                let same = |(_, other): &(&String, &Node)| *other == node;
                let (first, _) = self.names.iter().find(same).expect("this name is one of them");
                Seen::File { first: first.clone(), mode, links, note, bytes }
            }
        };
        self.names.iter().map(|(name, node)| (name.clone(), seen(node))).collect()
    }

    /// Whether the directory that would hold this name is there.
    fn parent(&self, name: &str) -> Result<(), Errno> {
        match name.rsplit_once('/').map(|(parent, _)| self.names.get(parent)) {
            None | Some(Some(Node::Directory)) => Ok(()),
            Some(None) => Err(Errno::NOENT),
            Some(Some(_)) => Err(Errno::NOTDIR),
        }
    }

    fn absent(&self, name: &str) -> Result<(), Errno> {
        self.parent(name)?;
        if self.names.contains_key(name) { Err(Errno::EXIST) } else { Ok(()) }
    }

    fn file(&mut self, name: &str) -> Result<&mut Contents, Errno> {
        self.parent(name)?;
        match self.names.get(name) {
            None => Err(Errno::NOENT),
            Some(Node::File(number)) => Ok(self.files.get_mut(number).expect("names name files")),
            Some(_) => unreachable!("the writers keep names of files, links and directories apart"),
        }
    }

    fn drop_name(&mut self, name: &str) {
        if let Some(Node::File(number)) = self.names.remove(name) {
            let file = self.files.get_mut(&number).expect("names name files");
            file.links -= 1;
            if file.links == 0 {
                self.files.remove(&number);
            }
        }
    }

    pub(super) fn create(&mut self, name: &str, mode: u32) -> Result<(), Errno> {
        self.absent(name)?;
        self.next += 1;
        self.files.insert(self.next, Contents { mode, links: 1, ..Contents::default() });
        self.names.insert(name.to_owned(), Node::File(self.next));
        Ok(())
    }

    /// Bytes of a file, if that is what the name is.
    pub(super) fn len(&self, name: &str) -> Option<usize> {
        match self.names.get(name) {
            Some(Node::File(number)) => self.files.get(number).map(|file| file.bytes.len()),
            _ => None,
        }
    }

    pub(super) fn write(&mut self, name: &str, offset: usize, data: &[u8]) -> Result<(), Errno> {
        let bytes = &mut self.file(name)?.bytes;
        bytes.resize(bytes.len().max(offset + data.len()), 0);
        bytes[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    pub(super) fn append(&mut self, name: &str, data: &[u8]) -> Result<(), Errno> {
        self.file(name)?.bytes.extend_from_slice(data);
        Ok(())
    }

    pub(super) fn truncate(&mut self, name: &str, len: usize) -> Result<(), Errno> {
        self.file(name)?.bytes.resize(len, 0);
        Ok(())
    }

    pub(super) fn chmod(&mut self, name: &str, mode: u32) -> Result<(), Errno> {
        self.file(name)?.mode = mode;
        Ok(())
    }

    pub(super) fn note(&mut self, name: &str, note: &[u8]) -> Result<(), Errno> {
        self.file(name)?.note = note.to_vec();
        Ok(())
    }

    pub(super) fn link(&mut self, name: &str, new: &str) -> Result<(), Errno> {
        self.file(name)?;
        self.absent(new)?;
        self.file(name)?.links += 1;
        self.names.insert(new.to_owned(), self.names[name].clone());
        Ok(())
    }

    pub(super) fn symlink(&mut self, name: &str, target: &[u8]) -> Result<(), Errno> {
        self.absent(name)?;
        self.names.insert(name.to_owned(), Node::Link(target.to_vec()));
        Ok(())
    }

    /// Removes a file or a symbolic link.
    pub(super) fn unlink(&mut self, name: &str) -> Result<(), Errno> {
        self.parent(name)?;
        if !self.names.contains_key(name) {
            return Err(Errno::NOENT);
        }
        self.drop_name(name);
        Ok(())
    }

    /// Renames a file over whatever file has the new name.
    pub(super) fn rename(&mut self, name: &str, new: &str) -> Result<(), Errno> {
        self.parent(name)?;
        self.parent(new)?;
        let node = self.names.get(name).cloned().ok_or(Errno::NOENT)?;
        // Two names of one file: POSIX says that nothing happens.
        if self.names.get(new) != Some(&node) {
            self.drop_name(new);
            self.names.remove(name);
            self.names.insert(new.to_owned(), node);
        }
        Ok(())
    }

    pub(super) fn mkdir(&mut self, name: &str) -> Result<(), Errno> {
        self.absent(name)?;
        self.names.insert(name.to_owned(), Node::Directory);
        Ok(())
    }

    pub(super) fn rmdir(&mut self, name: &str) -> Result<(), Errno> {
        if !self.names.contains_key(name) {
            return Err(Errno::NOENT);
        }
        let inside = format!("{name}/");
        if self.names.keys().any(|other| other.starts_with(&inside)) {
            return Err(Errno::NOTEMPTY);
        }
        self.names.remove(name);
        Ok(())
    }
}

/// The path of a tree at an instant, in nanoseconds since 1970.
pub(super) fn at(mount: &Path, instant: u64, below: impl AsRef<OsStr>) -> std::path::PathBuf {
    let time = format!("@{}.{:09}", instant / 1_000_000_000, instant % 1_000_000_000);
    mount.join(".tsfs/at").join(time).join(below.as_ref())
}
