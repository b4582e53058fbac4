//! Every workload of one change and of two, with a sync after each or after both, and the power cut at every step that the disk
//! sees: after each write, with all or nothing or some of what is not synced left.
//!
//! What is there afterwards must be a state that the tree went through, none before what a returned sync covers; the past must be
//! as it was, and `fsck` must find nothing. The idea is that of bounded black-box crash testing (Mohan et al., OSDI 2018): almost
//! every crash bug that file systems had shows with very few changes of a small tree.
//!
//! Node and client run in the test's own process, over the real mount of `crashfs`. The window of a batch never ends by
//! itself, so that what a sync leaves in between is chosen here. Not here: long runs and several writers (`crash`).

use crate::crashfs::CrashFs;
use crate::crashfs::Kept;
use crate::crashfs::Shot;
use crate::embedded;
use crate::support;
use crate::support::Random;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use tsfs::env::SystemClock;
use tsfs::meta::record::Retention;
use tsfs::store::disk::RealDisk;
use tsfs::tsdb_client::Allocate;
use tsfs::tsdb_client::Caller;
use tsfs::tsdb_client::Client;
use tsfs::tsdb_client::Handle;
use tsfs::tsdb_client::New;
use tsfs::tsdb_client::Options;
use tsfs::tsdb_client::RenameHow;
use tsfs::tsdb_client::SetAttr;
use tsfs::tsdb_client::Wait;
use tsfs::tsdb_client::XattrHow;
use tsfs::tsdb_server::node::Fresh;
use tsfs::tsdb_server::node::Node;
use tsfs::types::AsOf;
use tsfs::types::Attr;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;

/// Nothing is sent before a sync, a full batch or the end.
const NEVER: Duration = Duration::from_secs(3600);
/// Workloads of two changes that a short run takes, of all.
const PAIRS_SHORT: usize = 40;
/// A short run checks the whole store after so many cuts.
const FSCK_SHORT: u64 = 16;
/// Of the many steps of closing, a short run cuts at one in so many.
const CLOSING_SHORT: usize = 6;

/// Who makes the changes.
const CALLER: Caller = Caller { uid: 7, gid: 8, pid: 0 };

type Change = fn(&Client) -> Result<(), FsError>;

/// Whole states of the tree: everything that programs can see of each path.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    attr: Attr,
    contents: Bytes,
    xattrs: Vec<(Bytes, Bytes)>,
}

type Tree = BTreeMap<String, Seen>;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    Random::new(seed).noise(len)
}

fn find(client: &Client, path: &str) -> Result<Ino, FsError> {
    let mut ino = Ino::ROOT;
    for name in path.split('/') {
        ino = client.lookup(ino, name.as_bytes(), AsOf::Now)?.ino;
    }
    Ok(ino)
}

fn make(client: &Client, dir: Ino, name: &str, kind: FileKind) -> Result<Ino, FsError> {
    let target = if kind == FileKind::Symlink { "some/where".into() } else { Bytes::new() };
    let new = New { kind, mode: 0o750, uid: 7, gid: 8, rdev: 0, target };
    Ok(client.create(CALLER, dir, name.as_bytes(), new)?.ino)
}

fn with_open(
    client: &Client,
    ino: Ino,
    run: impl FnOnce(Handle) -> Result<(), FsError>,
) -> Result<(), FsError> {
    let handle = client.open_file(CALLER, ino, true)?;
    let done = run(handle).and_then(|()| client.flush(handle));
    client.release(handle);
    done
}

fn write(client: &Client, ino: Ino, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
    with_open(client, ino, |handle| {
        let written = client.write(handle, offset, bytes, false, false, Wait::Allowed)?;
        assert_eq!(written, Some(bytes.len() as u32));
        Ok(())
    })
}

fn resize(client: &Client, path: &str, size: u64) -> Result<(), FsError> {
    let set = SetAttr { size: Some(size), ..SetAttr::default() };
    client.setattr(CALLER, find(client, path)?, set).map(drop)
}

fn rename(client: &Client, from: &str, to: &str, how: RenameHow) -> Result<(), FsError> {
    let split = |path: &str| -> Result<(Ino, String), FsError> {
        match path.rsplit_once('/') {
            Some((dir, name)) => Ok((find(client, dir)?, name.to_owned())),
            None => Ok((Ino::ROOT, path.to_owned())),
        }
    };
    let ((dir, name), (new_dir, new_name)) = (split(from)?, split(to)?);
    client.rename(CALLER, dir, name.as_bytes(), new_dir, new_name.as_bytes(), how)
}

/// What every workload begins with, synced.
fn furnish(client: &Client) -> Result<(), FsError> {
    let text: Vec<u8> = (0..900).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    for (name, contents) in
        [("text", text), ("tiny", b"a few bytes".to_vec()), ("large", noise(1, 300_000))]
    {
        write(client, make(client, Ino::ROOT, name, FileKind::File)?, 0, &contents)?;
    }
    let dir = make(client, Ino::ROOT, "dir", FileKind::Directory)?;
    write(client, make(client, dir, "inner", FileKind::File)?, 0, b"inside")?;
    make(client, Ino::ROOT, "empty", FileKind::Directory)?;
    make(client, Ino::ROOT, "symlink", FileKind::Symlink)?;
    client.setxattr(CALLER, find(client, "text")?, b"user.old", b"value", XattrHow::Set)
}

/// One of each kind, on files that others change too. One that cannot be done changes nothing.
const CHANGES: &[(&str, Change)] = &[
    ("create", |c| make(c, Ino::ROOT, "new", FileKind::File).map(drop)),
    ("write a new file", |c| {
        write(c, make(c, Ino::ROOT, "written", FileKind::File)?, 0, &noise(2, 9000))
    }),
    ("overwrite", |c| write(c, find(c, "text")?, 1000, &[b'o'; 1500])),
    ("append", |c| write(c, find(c, "tiny")?, 11, &[b'a'; 64])),
    ("write blocks", |c| write(c, find(c, "large")?, 50_000, &noise(3, 400_000))),
    ("write far behind the end", |c| write(c, find(c, "tiny")?, 3 << 20, b"far")),
    ("truncate", |c| resize(c, "text", 1234)),
    ("truncate to nothing", |c| resize(c, "large", 0)),
    ("extend", |c| resize(c, "tiny", 10_000)),
    ("unlink", |c| c.unlink(CALLER, Ino::ROOT, b"tiny")),
    ("rename", |c| rename(c, "text", "moved", RenameHow::NoReplace)),
    ("rename over", |c| rename(c, "tiny", "text", RenameHow::Replace)),
    ("rename to another directory", |c| rename(c, "dir/inner", "inner", RenameHow::Replace)),
    ("exchange", |c| rename(c, "text", "dir", RenameHow::Exchange)),
    ("rename a directory over one", |c| rename(c, "dir", "empty", RenameHow::Replace)),
    ("link", |c| c.link(CALLER, find(c, "text")?, find(c, "dir")?, b"link").map(drop)),
    ("mkdir", |c| make(c, Ino::ROOT, "made", FileKind::Directory).map(drop)),
    ("rmdir", |c| c.rmdir(CALLER, Ino::ROOT, b"empty")),
    ("symlink", |c| make(c, Ino::ROOT, "other", FileKind::Symlink).map(drop)),
    ("chmod", |c| {
        let set = SetAttr { mode: Some(0o4711), uid: Some(9), ..SetAttr::default() };
        c.setattr(CALLER, find(c, "text")?, set).map(drop)
    }),
    ("setxattr", |c| {
        c.setxattr(CALLER, find(c, "text")?, b"user.new", &noise(4, 2000), XattrHow::Set)
    }),
    ("removexattr", |c| c.removexattr(CALLER, find(c, "text")?, b"user.old")),
    ("punch a hole", |c| {
        with_open(c, find(c, "large")?, |handle| {
            c.fallocate(handle, Allocate::PunchHole, 10_000, 100_000)
        })
    }),
    ("share blocks", |c| {
        let from = c.open_file(CALLER, find(c, "large")?, false)?;
        let shared =
            with_open(c, find(c, "tiny")?, |to| c.copy_range(from, 4096, to, 0, 200_000).map(drop));
        c.release(from);
        shared
    }),
    ("write to what is unlinked", |c| {
        with_open(c, find(c, "text")?, |handle| {
            c.unlink(CALLER, Ino::ROOT, b"text")?;
            c.write(handle, 0, b"for nobody", false, false, Wait::Allowed).map(drop)
        })
    }),
];

/// One step of a workload.
#[derive(Clone, Copy)]
enum Step {
    Change(usize),
    Sync,
}

fn describe(steps: &[Step]) -> String {
    let name = |step: &Step| match step {
        Step::Change(n) => CHANGES[*n].0,
        Step::Sync => "sync",
    };
    steps.iter().map(name).collect::<Vec<_>>().join(", ")
}

struct Open {
    client: Arc<Client>,
    node: Arc<Node>,
}

impl Open {
    fn close(self) -> Result<(), FsError> {
        let ended = self.client.close();
        self.node.close().and(ended)
    }

    fn tree(&self, at: AsOf) -> Result<Tree, FsError> {
        let mut tree = Tree::new();
        let mut dirs = vec![(String::new(), Ino::ROOT)];
        while let Some((path, dir)) = dirs.pop() {
            let mut found = Vec::new();
            self.client.readdir(dir, at, 0, true, &mut |entry| {
                let name = String::from_utf8_lossy(entry.name).into_owned();
                found.push((format!("{path}/{name}"), entry.attr.expect("it was asked for")));
                ControlFlow::Continue(())
            })?;
            for (path, attr) in found {
                if attr.kind == FileKind::Directory {
                    dirs.push((path.clone(), attr.ino));
                }
                tree.insert(path, self.seen(attr, at)?);
            }
        }
        Ok(tree)
    }

    fn seen(&self, attr: Attr, at: AsOf) -> Result<Seen, FsError> {
        let client = &self.client;
        let contents = match attr.kind {
            FileKind::File => {
                let read = client.read(attr.ino, at, 0, attr.size as u32 + 1, Wait::Allowed)?;
                read.expect("waiting is allowed")
            }
            FileKind::Symlink => client.readlink(attr.ino, at)?,
            _ => Bytes::new(),
        };
        let names = client.listxattr(attr.ino, at)?;
        let value = |name: Bytes| Ok((name.clone(), client.getxattr(attr.ino, &name, at)?));
        let xattrs = names.into_iter().map(value).collect::<Result<_, FsError>>()?;
        Ok(Seen { attr, contents, xattrs })
    }

    fn sync(&self, then: impl Fn() + Send + 'static) {
        let (done, told) = mpsc::channel();
        self.client.fsync(
            None,
            Box::new(move |result| {
                // From here on the program may know.
                then();
                done.send(result).unwrap();
            }),
        );
        told.recv().unwrap().unwrap();
    }
}

/// A furnished store on a disk whose power can be cut.
struct Rig {
    disk: CrashFs,
    furnished: Shot,
    random: Random,
    workloads: u64,
    cuts: u64,
    fsck_each: u64,
    /// Cuts at one step of so many.
    stride: usize,
    _scratch: tempfile::TempDir,
}

impl Rig {
    fn new(seed: u64, fsck_each: u64) -> Rig {
        let scratch = support::scratch();
        let disk = CrashFs::mount(&scratch.path().join("disk"));
        let open = Rig::open_in(&disk, true).unwrap();
        furnish(&open.client).unwrap();
        open.close().unwrap();
        let furnished = disk.shot();
        let random = Random::new(seed);
        let (workloads, cuts, stride) = (0, 0, 1);
        Rig { disk, furnished, random, workloads, cuts, fsck_each, stride, _scratch: scratch }
    }

    fn store(disk: &CrashFs) -> PathBuf {
        disk.dir().join("store")
    }

    fn open_in(disk: &CrashFs, create: bool) -> Result<Open, FsError> {
        let clock = SystemClock::shared();
        let retention = Retention { age_ns: None, disk_percent: None };
        let fresh = Fresh { mode: 0o755, uid: 0, gid: 0, retention };
        let mut options = embedded::options(create);
        options.log.segment_bytes = 1 << 20;
        let store = Rig::store(disk);
        let node = Node::open(&store, RealDisk::shared(), clock.clone(), &options, &fresh)?;
        let options = Options { window: NEVER, version_every: NEVER, ..Options::default() };
        let client = Client::open(node.clone(), clock, options)?;
        Ok(Open { client, node })
    }

    /// Runs a workload and cuts the power at each of its steps; with `closing`, at each step of the unmounting after it as well.
    fn run(&mut self, steps: &[Step], closing: bool) -> Result<(), String> {
        let said = |what: &str, error: FsError| format!("{what}: {error}");
        self.disk.cut_at(&self.furnished, Kept::All, &mut self.random);
        let open = Rig::open_in(&self.disk, false).map_err(|error| said("open", error))?;
        let tree = || open.tree(AsOf::Now).map_err(|error| said("read", error));
        let mut states = vec![tree()?];
        let instant = AsOf::At(open.client.present().map_err(|error| said("the present", error))?);
        self.disk.record();
        for step in steps {
            match step {
                Step::Change(n) => {
                    // Of two changes the first may have taken away what the second is about.
                    let _ = CHANGES[*n].1(&open.client);
                    states.push(tree()?);
                }
                Step::Sync => {
                    let (pass, moment) = (self.disk.pass(), states.len() as u64 - 1);
                    open.sync(move || pass(moment));
                }
            }
        }
        if closing {
            open.close().map_err(|error| said("close", error))?;
            let shots = self.disk.recorded();
            self.check_shots(&shots, &states, instant)?;
        } else {
            let shots = self.disk.recorded();
            open.close().map_err(|error| said("close", error))?;
            self.check_shots(&shots, &states, instant)?;
        }
        self.workloads += 1;
        Ok(())
    }

    fn check_shots(
        &mut self,
        shots: &[Shot],
        states: &[Tree],
        instant: AsOf,
    ) -> Result<(), String> {
        let skip = self.random.below(self.stride as u64) as usize;
        for (n, shot) in shots.iter().enumerate().skip(skip).step_by(self.stride) {
            // What is safe changes with a sync only, and what was seen with anything else.
            let ways: &[Kept] =
                if shot.synced { &[Kept::Nothing] } else { &[Kept::All, Kept::Some] };
            for how in ways {
                self.disk.cut_at(shot, *how, &mut self.random);
                self.check(&states[shot.moment as usize..], &states[0], instant).map_err(
                    |fault| format!("cut at step {n} of {}, {how:?} kept: {fault}", shots.len()),
                )?;
            }
        }
        Ok(())
    }

    /// Looks at what a cut left.
    fn check(&mut self, allowed: &[Tree], first: &Tree, instant: AsOf) -> Result<(), String> {
        self.cuts += 1;
        let whole = self.cuts.is_multiple_of(self.fsck_each);
        if whole {
            let faults = embedded::fsck(&Rig::store(&self.disk));
            if !faults.is_empty() {
                return Err(format!("fsck: {faults:#?}"));
            }
        }
        let open = Rig::open_in(&self.disk, false).map_err(|error| format!("open: {error}"))?;
        let (now, then) = (open.tree(AsOf::Now), open.tree(instant));
        open.close().map_err(|error| format!("close: {error}"))?;
        let (now, then) = (now.map_err(|e| e.to_string())?, then.map_err(|e| e.to_string())?);
        if then != *first {
            return Err(format!("the past changed: {}", difference(&then, first)));
        }
        if allowed.contains(&now) {
            return Ok(());
        }
        let differences = allowed.iter().map(|state| difference(&now, state));
        Err(format!(
            "a state that never was, or is older than a sync: {differences:#?}",
            differences = differences.collect::<Vec<_>>()
        ))
    }
}

fn difference(found: &Tree, expected: &Tree) -> String {
    let paths = found.keys().chain(expected.keys());
    let differs = |path: &&String| found.get(*path) != expected.get(*path);
    let show = |seen: Option<&Seen>| match seen {
        None => "nothing".to_owned(),
        Some(seen) => format!("{:?}, {:.60?}", seen.attr, seen.contents),
    };
    match paths.into_iter().find(differs) {
        None => "none".to_owned(),
        Some(path) => {
            format!("{path}: {}, not {}", show(found.get(path)), show(expected.get(path)))
        }
    }
}

/// All workloads of two changes: with one sync at the end, and with one after each.
fn pairs() -> Vec<[Step; 4]> {
    let numbers = 0..CHANGES.len();
    let all = numbers.clone().flat_map(|a| numbers.clone().map(move |b| (a, b)));
    all.flat_map(|(a, b)| {
        let (a, b) = (Step::Change(a), Step::Change(b));
        [[a, b, Step::Sync, Step::Sync], [a, Step::Sync, b, Step::Sync]]
    })
    .collect()
}

fn run_all(mut rig: Rig, workloads: &[Vec<Step>], closing: bool) {
    for steps in workloads {
        if let Err(fault) = rig.run(steps, closing) {
            panic!("{}: {fault}\nREPLAY TSFS_TEST_POWER_SEED={}", describe(steps), seed());
        }
    }
    println!("{} workloads, {} cuts", rig.workloads, rig.cuts);
    assert!(rig.cuts > 2 * rig.workloads, "hardly anything was cut");
}

fn seed() -> u64 {
    support::setting("TSFS_TEST_POWER_SEED").unwrap_or(1)
}

/// A long run takes everything; a short one what the seed picks.
fn is_long() -> bool {
    support::setting("TSFS_TEST_CRASH_SECONDS").is_some_and(|seconds| seconds > 0)
}

fn single(change: usize) -> Vec<Step> {
    vec![Step::Change(change), Step::Sync]
}

#[test]
fn one_change() {
    let workloads: Vec<_> = (0..CHANGES.len()).map(single).collect();
    run_all(Rig::new(seed(), if is_long() { 1 } else { FSCK_SHORT }), &workloads, false);
}

#[test]
fn two_changes() {
    let pairs = pairs();
    let step = if is_long() { 1 } else { pairs.len() / PAIRS_SHORT };
    let chosen = pairs.iter().skip(seed() as usize % step).step_by(step);
    let workloads: Vec<_> = chosen.map(|steps| steps.to_vec()).collect();
    run_all(Rig::new(seed(), FSCK_SHORT), &workloads, false);
}

/// The table of the store is flushed and everything is tidied up when it is closed: many steps of the disk.
#[test]
fn closing() {
    let mut rig = Rig::new(seed(), FSCK_SHORT);
    let mut step = 1;
    if !is_long() {
        (rig.stride, step) = (CLOSING_SHORT, CHANGES.len() / 3);
    }
    let workloads: Vec<_> = (0..CHANGES.len()).step_by(step).map(single).collect();
    run_all(rig, &workloads, true);
}
