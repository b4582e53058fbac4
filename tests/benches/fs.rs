//! `make bench`: the figures of a mount, each measured beside its baseline, interleaved, in rounds.
//!
//! A row shows the median over rounds, the ratio to the baseline in the same rounds and how far those ratios spread: on
//! a noisy machine a wide spread says that the median is worth little. `server/op` is processor time of the server.
//! Needs root (it drops caches) and a disk under the temporary directory.
//!
//! Not here: parts of the program by themselves; a profile of a row says more (`perf record -g -p PID`).

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is a table")]

mod bulk;
#[allow(dead_code, reason = "the tests of a cluster use all of it")]
#[path = "../it/cluster"]
mod cluster {
    pub(crate) mod faults;
    mod keeper;
    pub(crate) mod net;
    pub(crate) mod place;
}
mod durable;
mod footprint;
mod history;
mod nofuse;
mod place;
#[path = "../it/support.rs"]
mod support;
mod table;
mod three;
mod tree;

use clap::Parser;
use place::Place;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use table::Row;

#[derive(Parser)]
#[command(about = "Measures tsfs beside its baselines and prints a table")]
struct Arguments {
    /// Only the groups whose name contains this; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// Smaller numbers and fewer rounds: minutes instead of a quarter of an hour
    #[arg(long)]
    quick: bool,
    /// A JSON value a row instead of the table
    #[arg(long)]
    json: bool,
    /// Where to work: a directory on the disk to measure
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Serve the in-memory baseline at this directory (what the bench starts itself as)
    #[arg(long, hide = true)]
    nofuse: Option<PathBuf>,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much one group may do, where, and with what.
pub(crate) struct Plan {
    quick: bool,
    /// Three nodes and a mount on this machine, not a store in the mount's process.
    three: bool,
    scratch: tempfile::TempDir,
    deadline: Instant,
}

impl Plan {
    /// An empty directory for this group.
    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// What is measured, empty.
    fn ours(&self) -> Place {
        if self.three { Place::three(self.dir()) } else { Place::tsfs(self.dir()) }
    }

    /// The bar that holds here: for one process, or for three nodes.
    fn bar<T>(&self, embedded: T, three: T) -> T {
        if self.three { three } else { embedded }
    }

    fn count(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// Rounds until there are `most`, or at least three when the time is up.
    fn rounds(&self, most: u64) -> impl Iterator<Item = u64> {
        let most = if self.quick { most.min(3) } else { most };
        let deadline = self.deadline;
        (0..most).take_while(move |round| *round < 3 || support::now() < deadline)
    }
}

/// One group of rows measured together, and the seconds it may take before it stops adding rounds.
struct Group {
    name: &'static str,
    seconds: u64,
    measure: fn(&Plan) -> Vec<Row>,
}

/// Those that are measured with three nodes are called so.
const THREE: &str = "cluster-";

const GROUPS: [Group; 24] = [
    Group { name: "unpack", seconds: 60, measure: tree::unpack },
    Group { name: "create", seconds: 30, measure: tree::create },
    Group { name: "warm", seconds: 40, measure: tree::warm },
    Group { name: "sync", seconds: 20, measure: durable::sync },
    Group { name: "threads", seconds: 30, measure: durable::sync_threads },
    Group { name: "sqlite", seconds: 40, measure: durable::sqlite },
    Group { name: "sequential", seconds: 90, measure: bulk::sequential },
    Group { name: "edits", seconds: 20, measure: history::edits },
    Group { name: "appends", seconds: 120, measure: history::appends },
    Group { name: "past", seconds: 100, measure: history::past },
    Group { name: "spool", seconds: 60, measure: history::spool },
    Group { name: "around", seconds: 100, measure: history::around },
    Group { name: "footprint", seconds: 60, measure: footprint::files },
    Group { name: "cluster-unpack", seconds: 90, measure: tree::unpack },
    Group { name: "cluster-create", seconds: 40, measure: tree::create },
    Group { name: "cluster-warm", seconds: 40, measure: tree::warm },
    Group { name: "cluster-sync", seconds: 20, measure: durable::sync },
    Group { name: "cluster-threads", seconds: 30, measure: durable::sync_threads },
    Group { name: "cluster-sqlite", seconds: 40, measure: durable::sqlite },
    Group { name: "cluster-sequential", seconds: 90, measure: bulk::sequential },
    Group { name: "cluster-failover", seconds: 120, measure: three::failover },
    Group { name: "cluster-recall", seconds: 60, measure: three::recall },
    Group { name: "cluster-pingpong", seconds: 40, measure: three::ping_pong },
    Group { name: "cluster-scan", seconds: 120, measure: three::cold_scan },
];

fn main() {
    let arguments = Arguments::parse();
    if let Some(dir) = &arguments.nofuse {
        return nofuse::serve(dir);
    }
    let wanted = |group: &&Group| {
        arguments.only.is_empty() || arguments.only.iter().any(|part| group.name.contains(&**part))
    };
    let groups: Vec<&Group> = GROUPS.iter().filter(wanted).collect();
    if groups.is_empty() {
        let names: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
        eprintln!("no such group; there are: {}", names.join(", "));
        std::process::exit(2);
    }
    let (start, mut missed) = (support::now(), 0);
    if !arguments.json {
        println!("{}", table::heading());
    }
    for group in groups {
        let scratch =
            tempfile::Builder::new().prefix("tsfs-bench-").tempdir_in(&arguments.dir).unwrap();
        let seconds = if arguments.quick { group.seconds / 5 } else { group.seconds };
        let deadline = support::now() + Duration::from_secs(seconds);
        let (quick, three) = (arguments.quick, group.name.starts_with(THREE));
        let rows = (group.measure)(&Plan { quick, three, scratch, deadline });
        for mut row in rows {
            if three {
                row.name = format!("{} [3]", row.name);
            }
            missed += usize::from(row.passes() == Some(false));
            if arguments.json {
                println!("{}", row.json());
            } else {
                println!("{}", row.text());
            }
        }
    }
    eprintln!("{missed} bars missed; took {:.0} s", start.elapsed().as_secs_f64());
}
