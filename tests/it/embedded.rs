//! A store opened in the test's own process, without the kernel: node and client, and little files in its root.
//!
//! Not here: directories, names of other bytes, anything that needs a mount.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use tsfs::env::SystemClock;
use tsfs::meta::record::Retention;
use tsfs::store::disk::RealDisk;
use tsfs::tsdb_client::Caller;
use tsfs::tsdb_client::Client;
use tsfs::tsdb_client::New;
use tsfs::tsdb_client::Wait;
use tsfs::tsdb_server::node::Fresh;
use tsfs::tsdb_server::node::Node;
use tsfs::tsdb_server::offline;
use tsfs::tsdb_server::open::Options;
use tsfs::types::AsOf;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;

/// Who does everything here.
const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };

/// Files by name.
pub(crate) type Contents = BTreeMap<String, Vec<u8>>;

/// How these stores are opened: small pieces, so that they can be copied again and again.
pub(crate) fn options(create: bool) -> Options {
    let mut options = Options { create, reserve_bytes: 1 << 20, ..Options::default() };
    options.log.segment_bytes = 4 << 20;
    options.blocks.allocate_bytes = 1 << 20;
    options
}

/// An open store.
pub(crate) struct Open {
    // In this order: the client ends before what it talks to.
    pub(crate) client: Arc<Client>,
    pub(crate) node: Arc<Node>,
}

impl Open {
    /// Opens the store in `dir`, or makes it.
    pub(crate) fn new(dir: &Path, create: bool) -> Result<Open, FsError> {
        let clock = SystemClock::shared();
        let retention = Retention { age_ns: None, disk_percent: None };
        let fresh = Fresh { mode: 0o755, uid: 0, gid: 0, retention };
        let node = Node::open(dir, RealDisk::shared(), clock.clone(), &options(create), &fresh)?;
        let client = Client::open(node.clone(), clock, tsfs::tsdb_client::Options::default());
        let client = client.inspect_err(|_| drop(node.close()))?;
        Ok(Open { client, node })
    }

    /// Writes each file from its beginning, as a version of its own, and waits until all is durable.
    pub(crate) fn write(&self, contents: &Contents) {
        for (name, bytes) in contents {
            let ino = self.ino(name, AsOf::Now).unwrap_or_else(|_| {
                let kind = FileKind::File;
                let new = New { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, target: Bytes::new() };
                self.client.create(CALLER, Ino::ROOT, name.as_bytes(), new).unwrap().ino
            });
            let handle = self.client.open_file(CALLER, ino, true).unwrap();
            let written = self.client.write(handle, 0, bytes, false, false, Wait::Allowed).unwrap();
            assert_eq!(written, Some(bytes.len() as u32));
            self.client.flush(handle).unwrap();
            self.client.release(handle);
        }
        let (done, told) = mpsc::channel();
        self.client.fsync(None, Box::new(move |result| done.send(result).unwrap()));
        told.recv().unwrap().unwrap();
    }

    fn ino(&self, name: &str, at: AsOf) -> Result<Ino, FsError> {
        Ok(self.client.lookup(Ino::ROOT, name.as_bytes(), at)?.ino)
    }

    /// A file as of an instant: `len` bytes, and one more if it has more.
    pub(crate) fn read(&self, name: &str, at: AsOf, len: usize) -> Result<Bytes, FsError> {
        let ino = self.ino(name, at)?;
        Ok(self.client.read(ino, at, 0, len as u32 + 1, Wait::Allowed)?.unwrap())
    }

    pub(crate) fn close(self) -> Result<(), FsError> {
        let ended = self.client.close();
        self.node.close().and(ended)
    }
}

/// What `tsfs fsck` finds in a store that nobody has open: a sentence each.
pub(crate) fn fsck(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let checked = offline::check(
        dir,
        &RealDisk::shared(),
        SystemClock::shared(),
        &options(false),
        false,
        &mut |_, _, _, _| {},
        &mut |finding| found.push(finding.what),
    );
    match checked {
        Ok(summary) => assert_eq!(summary.faults, found.len() as u64, "{found:#?}"),
        Err(error) => found.push(error.to_string()),
    }
    found
}
