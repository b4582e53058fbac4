//! What a node keeps in its store's directory besides the store: which node it is, its certificate, its settings.
//!
//! Which node it is stands in a file of its own, [`FILE`], with the incarnation of the disk and how often the node was started on
//! it. It is written, and synced, before the node says anything to anybody. Not here: judging what another node says of
//! itself (`admit`).

use crate::env;
use crate::meta::record::Incarnation;
use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::types::FsError;
use crate::types::NodeId;
use crate::wire::message;
use crate::wire::message::NodeAt;
use std::io::IoSlice;
use std::path::Path;

/// Which node this is.
pub const FILE: &str = "tsfs-node";
/// A file of these while it is written.
pub const WRITING: &str = "tsfs-node.new";
/// Its certificate, its key, and the authority's certificate.
pub const CERTIFICATE: &str = "node.pem";
/// Its settings.
pub const SETTINGS: &str = "node.toml";
/// Where the others were when it joined: until the rows of the store are here, nothing else says it.
const JOINED: &str = "tsfs-node.joined";
/// The first line.
const MAGIC: &str = "tsfs node";
/// Longer is none of ours.
const BYTES_MAX: usize = 4096;
/// As many nodes as there may be, with the longest addresses.
const JOINED_BYTES_MAX: usize = 64 << 10;

/// Which node a disk belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// `None` until it has joined.
    pub node: Option<NodeId>,
    pub incarnation: Incarnation,
    /// How often it was started here, this time included.
    pub starts: u64,
}

impl Identity {
    /// Of a disk that belongs to nobody yet.
    pub fn fresh() -> Identity {
        Identity { node: None, incarnation: Incarnation(env::random()), starts: 0 }
    }

    /// What stands in the store at `dir`; `None` where no node has been there.
    ///
    /// # Errors
    /// `Damaged` with what to do, `Io`.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, FsError> {
        let path = dir.join(FILE);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let bytes = disk.open(&path, Access::Read)?.read_at(0, BYTES_MAX)?;
        Identity::decode(&bytes).map(Some)
    }

    /// Writes it, all or nothing, and on disk when this returns.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn write(self, disk: &dyn Disk, dir: &Path) -> Result<(), FsError> {
        write(disk, dir, FILE, self.encode().as_bytes())
    }

    /// One life more begins. To be called before the node talks to anybody.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn start(self, disk: &dyn Disk, dir: &Path) -> Result<Identity, FsError> {
        let started = Identity { starts: self.starts + 1, ..self };
        started.write(disk, dir)?;
        Ok(started)
    }

    fn encode(self) -> String {
        let node = self.node.map_or(0, |node| node.0);
        let Identity { incarnation, starts, .. } = self;
        let body = format!("{MAGIC} 1\nnode {node}\nincarnation {incarnation}\nstarts {starts}\n");
        let sum = crc32c::crc32c(body.as_bytes());
        format!("{body}checksum {sum:08x}\n")
    }

    fn decode(bytes: &[u8]) -> Result<Identity, FsError> {
        let damaged = || {
            FsError::Damaged(format!(
                "the file {FILE} of the store is not what was written: the node cannot tell which it is; \
                 empty the directory and join as a new node, then 'tsfs cluster remove' the old one"
            ))
        };
        let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
        let first = text.lines().next().ok_or_else(damaged)?;
        let version = first.strip_prefix(MAGIC).ok_or_else(damaged)?.trim();
        if version.parse::<u32>().is_ok_and(|version| version > 1) {
            return Err(FsError::NotSupported(
                "the node was written by a newer tsfs; use that version or a later one",
            ));
        }
        let read = || {
            let (body, sum) = text.split_at(text.find("checksum ")?);
            let sum = sum.trim_end().strip_prefix("checksum ")?;
            let right = u32::from_str_radix(sum, 16) == Ok(crc32c::crc32c(body.as_bytes()));
            let mut lines = body.lines().skip(1);
            let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
            let node: u64 = field("node")?.parse().ok()?;
            let incarnation = Incarnation::parse(field("incarnation")?)?;
            let starts = field("starts")?.parse().ok()?;
            let node = (node != 0).then_some(NodeId(node));
            right.then_some(Identity { node, incarnation, starts })
        };
        read().ok_or_else(damaged)
    }
}

/// Keeps what a joiner was told about the others.
///
/// # Errors
/// `NoSpace`, `Io`.
pub(super) fn keep_joined(disk: &dyn Disk, dir: &Path, nodes: &[NodeAt]) -> Result<(), FsError> {
    write(disk, dir, JOINED, &message::encode(&nodes))
}

/// Keeps the settings that the node was made with.
///
/// # Errors
/// `NoSpace`, `Io`.
pub fn keep_settings(disk: &dyn Disk, dir: &Path, text: &str) -> Result<(), FsError> {
    write(disk, dir, SETTINGS, text.as_bytes())
}

/// Writes a file, all or nothing, and on disk when this returns.
fn write(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> Result<(), FsError> {
    let new = dir.join(WRITING);
    if disk.exists(&new)? {
        disk.remove(&new)?;
    }
    let file = disk.create(&new)?;
    file.write_at(0, &[IoSlice::new(bytes)])?;
    file.sync_all()?;
    disk.rename(&new, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// The nodes that a joiner was told of; none where it was the first.
///
/// # Errors
/// `Damaged`, `Io`.
pub fn joined(disk: &dyn Disk, dir: &Path) -> Result<Vec<NodeAt>, FsError> {
    let path = dir.join(JOINED);
    if !disk.exists(&path)? {
        return Ok(Vec::new());
    }
    let file = disk.open(&path, Access::Read)?;
    let bytes = file.read_at(0, JOINED_BYTES_MAX)?;
    message::decode(&bytes).map_err(|_| {
        FsError::Damaged(format!(
            "the file {JOINED} of the store is not what was written: join anew"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::RealDisk;

    #[test]
    fn a_node_knows_who_it_is_and_counts_its_starts() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, dir) = (RealDisk, dir.path());
        assert_eq!(Identity::read(&disk, dir), Ok(None));
        let fresh = Identity::fresh();
        fresh.write(&disk, dir).unwrap();
        assert_eq!(Identity::read(&disk, dir), Ok(Some(fresh)));
        let joined = Identity { node: Some(NodeId(3)), ..fresh };
        joined.start(&disk, dir).unwrap().start(&disk, dir).unwrap();
        assert_eq!(Identity::read(&disk, dir), Ok(Some(Identity { starts: 2, ..joined })));
        assert_ne!(Identity::fresh().incarnation, fresh.incarnation);
        assert_eq!(super::joined(&disk, dir), Ok(Vec::new()));
        let at = NodeAt { node: NodeId(1), address: "a:1".to_owned() };
        for nodes in [vec![at.clone()], vec![at.clone(), at]] {
            keep_joined(&disk, dir, &nodes).unwrap();
            assert_eq!(super::joined(&disk, dir), Ok(nodes));
        }
    }

    #[test]
    fn damage_and_newer_versions_are_refused() {
        let identity = Identity { node: Some(NodeId(3)), ..Identity::fresh() };
        let good = identity.encode();
        assert_eq!(Identity::decode(good.as_bytes()), Ok(identity));
        for at in 0..good.len() - 1 {
            let mut bytes = good.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(Identity::decode(&bytes).is_err(), "byte {at}");
            assert!(Identity::decode(&good.as_bytes()[..at]).is_err(), "cut at {at}");
        }
        let newer = good.replace("tsfs node 1", "tsfs node 2");
        assert!(matches!(Identity::decode(newer.as_bytes()), Err(FsError::NotSupported(_))));
    }
}
