//! Where an operation is measured: a directory of the machine's own file system, a mount of `nofuse`, a mount of tsfs.

use crate::cluster::net::Net;
use crate::cluster::place::Cluster;
use crate::support;
use crate::support::Mount;
use crate::support::Point;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A directory to work in, and the process that serves it, if one does.
pub(crate) struct Place {
    pub name: &'static str,
    dir: PathBuf,
    mount: Option<Mount>,
    store: Option<PathBuf>,
    /// The nodes that the mount talks to, if the store is not its own.
    cluster: Option<Cluster>,
    /// Settings of the mount that are not the defaults.
    settings: &'static [&'static str],
}

impl Place {
    /// The machine's own file system (ext4 where the figures were set).
    pub(crate) fn disk(under: &Path) -> Place {
        let dir = under.join("ext4");
        std::fs::create_dir_all(&dir).unwrap();
        Place { name: "ext4", dir, mount: None, store: None, cluster: None, settings: &[] }
    }

    /// An in-memory FUSE server that does nothing else: the ceiling.
    pub(crate) fn nofuse(under: &Path) -> Place {
        let dir = under.join("nofuse");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--nofuse").arg(&dir);
        let mount = Mount::serve(&mut command, &under.join("nofuse.log"), Point::new(&dir));
        let dir = mount.dir().to_owned();
        Place { name: "nofuse", dir, mount: Some(mount), store: None, cluster: None, settings: &[] }
    }

    /// A fresh store, mounted.
    pub(crate) fn tsfs(under: &Path) -> Place {
        Place::tsfs_named(under, "tsfs")
    }

    /// A fresh store of its own name, mounted.
    pub(crate) fn tsfs_named(under: &Path, name: &'static str) -> Place {
        Place::tsfs_with(under, name, &[])
    }

    /// The same with settings, each as `KEY=VALUE`.
    pub(crate) fn tsfs_with(
        under: &Path,
        name: &'static str,
        settings: &'static [&'static str],
    ) -> Place {
        let store = under.join(format!("{name}-store"));
        let mount = serve(&["--create"], settings, &store, &under.join(name));
        let dir = mount.dir().to_owned();
        Place { name, dir, mount: Some(mount), store: Some(store), cluster: None, settings }
    }

    /// Three fresh nodes on this machine, mounted.
    pub(crate) fn three(under: &Path) -> Place {
        let dir = under.join("cluster");
        std::fs::create_dir_all(&dir).unwrap();
        let stores = (1..=3).map(|n| dir.join(format!("store{n}"))).collect();
        let mut cluster = Cluster::on(Net::loopback(), stores, &dir);
        let mount = cluster.mount();
        let dir = mount.dir().to_owned();
        let (mount, cluster) = (Some(mount), Some(cluster));
        Place { name: "tsfs", dir, mount, store: None, cluster, settings: &[] }
    }

    /// Its nodes, for who does something to them.
    pub(crate) fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("it has nodes")
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.join(path)
    }

    /// Makes an empty directory in it.
    pub(crate) fn make(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Processor time that its servers have used, those that run.
    pub(crate) fn server_time(&self) -> Duration {
        let nodes = self.cluster.iter().flat_map(Cluster::pids);
        self.mount.iter().map(Mount::pid).chain(nodes).map(processor_time).sum()
    }

    /// Memory of its server's own: resident, neither shared nor backed by a file. In bytes.
    pub(crate) fn server_memory(&self) -> u64 {
        let pid = self.mount.as_ref().expect("only a mount has a server").pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Makes everything durable that was written so far, so that one measurement does not pay for the last.
    pub(crate) fn settle(&self) {
        let top = rustix::fs::open(&self.dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        rustix::fs::fsync(top.unwrap()).unwrap();
        rustix::fs::sync();
    }

    /// Forgets whatever is in memory: the kernel's caches, and the server's, by mounting again.
    pub(crate) fn cool(&mut self) {
        self.settle();
        if self.store.is_some() || self.cluster.is_some() {
            self.mount.take().expect("it is mounted").close();
            if let Some(cluster) = &mut self.cluster {
                (0..cluster.nodes.len()).for_each(|node| cluster.end(node));
                drop_caches();
                cluster.start_all();
                cluster.settle();
            }
            self.mount = Some(match (&self.store, &self.cluster) {
                (Some(store), _) => serve(&[], self.settings, store, &self.dir),
                (None, Some(cluster)) => cluster.mount_again(&self.dir),
                (None, None) => unreachable!("one of them is there"),
            });
        }
        drop_caches();
    }

    /// Unmounts, and says what its store takes on disk.
    pub(crate) fn finish(&mut self) -> Taken {
        self.mount.take().expect("only a mount is finished").close();
        let mut taken = Taken::default();
        taken.add(self.store.as_ref().expect("only tsfs has a store"));
        taken
    }

    /// Mounts again what [`Place::finish`] unmounted.
    pub(crate) fn resume(&mut self) {
        let store = self.store.as_ref().expect("only tsfs has a store");
        self.mount = Some(serve(&[], self.settings, store, &self.dir));
    }
}

/// Processor time of a process.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, which may hold anything, ends at the last parenthesis; user and system time are 12th and 13th
    // behind it, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn serve(how: &[&str], settings: &[&str], store: &Path, dir: &Path) -> Mount {
    let mut arguments = how.to_vec();
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    Mount::with(&arguments, store, Point::new(dir))
}

/// Drops the kernel's caches of file contents, names and inodes.
pub(crate) fn drop_caches() {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("the benches run as root");
}

/// What a closed store takes on disk by kind, in bytes as allocated.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Taken {
    /// Rows: names, inodes, extents and their history.
    pub rows: u64,
    /// File contents, in rows of their own or in segments.
    pub contents: u64,
    /// The log's files, which are written ahead and used again: their size does not tell what is in them.
    pub log: u64,
}

impl Taken {
    fn add(&mut self, dir: &Path) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.add(&path);
                continue;
            }
            let bytes = std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap()) * 512;
            let text = path.to_string_lossy();
            if text.ends_with(".sst") {
                self.rows += bytes;
            } else if text.contains("/log/") {
                self.log += bytes;
            } else if text.ends_with(".blob") || text.contains("/blocks/") {
                self.contents += bytes;
            }
        }
    }

    /// What came since `before`.
    pub(crate) fn since(self, before: Taken) -> Taken {
        Taken {
            rows: self.rows.saturating_sub(before.rows),
            contents: self.contents.saturating_sub(before.contents),
            log: self.log,
        }
    }
}

/// Measures one thing in several places, round by round, and what each server used for it.
pub(crate) struct Measured {
    /// Seconds, by place and round.
    pub seconds: Vec<Vec<f64>>,
    /// Processor seconds of the server of the last place, over all rounds.
    pub server: f64,
}

impl Measured {
    pub(crate) fn new(places: usize) -> Measured {
        Measured { seconds: vec![Vec::new(); places], server: 0.0 }
    }

    /// Times `work` in one place, after what was before has settled.
    pub(crate) fn time(&mut self, index: usize, place: &Place, work: impl FnOnce()) {
        place.settle();
        let (before, start) = (place.server_time(), support::now());
        work();
        self.seconds[index].push(start.elapsed().as_secs_f64());
        if index + 1 == self.seconds.len() {
            self.server += (place.server_time() - before).as_secs_f64();
        }
    }

    /// Operations a second, in each round, for a place that did `operations` in each.
    pub(crate) fn rates(&self, index: usize, operations: f64) -> Vec<f64> {
        self.seconds[index].iter().map(|seconds| operations / seconds).collect()
    }

    /// Processor microseconds of the server for each of `operations` a round.
    pub(crate) fn server_each(&self, operations: f64) -> f64 {
        let rounds = self.seconds.last().map_or(0, Vec::len) as f64;
        self.server * 1e6 / (rounds * operations)
    }
}
