//! `tsfs cluster init`: a store becomes a cluster of one, in place.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::mount::store;
use crate::env::SystemClock;
use crate::store::disk::RealDisk;
use crate::tsdb_config::Settings;
use crate::tsdb_server::cluster::disk;
use crate::tsdb_server::cluster::disk::Identity;
use crate::tsdb_server::cluster::init;
use crate::tsdb_server::cluster::init::Described;
use crate::tsdb_server::node::Node;
use anyhow::Context as _;
use anyhow::bail;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs cluster init /srv/store --address h1:7000            a store that is not mounted; its history stays
  tsfs cluster init --create /srv/store --address h1:7000   a new one

It makes the cluster's own authority, whose key is in the store and nowhere else, and this node's certificate, and writes
node.toml. Then 'tsfs node STORE' serves it; 'tsfs mount STORE' works as before while no node does.";

/// Make a cluster of a store
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The directory of the store
    store: PathBuf,
    #[command(flatten)]
    given: Given,
    /// Make the store if there is none
    #[arg(long)]
    create: bool,
}

/// What a node is told when it is made. It is kept in node.toml.
#[derive(clap::Args, Clone, Default)]
pub(in crate::cli) struct Given {
    /// Where the other nodes and the mounts reach it [default: this host's name and the port of --listen]
    #[arg(long, value_name = "HOST:PORT")]
    pub(in crate::cli) address: Option<String>,
    /// Where it listens [default: 0.0.0.0:7000]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(in crate::cli) listen: Option<String>,
    /// What people call it [default: this host's name]
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) name: Option<String>,
    /// What it does, of ts, data, lock, monitor [default: all]
    #[arg(long, value_name = "ROLES")]
    pub(in crate::cli) roles: Option<String>,
}

impl Given {
    fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let pairs = [
            ("address", &self.address),
            ("listen", &self.listen),
            ("name", &self.name),
            ("roles", &self.roles),
        ];
        pairs.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }

    /// The settings of the node in `dir`, as they will be once this is kept there.
    pub(in crate::cli) fn settings(
        &self,
        dir: &Path,
        context: &Context,
    ) -> anyhow::Result<Settings> {
        let mut sources = context.sources_for(dir);
        sources.node_file = Some(dir.join(disk::SETTINGS));
        let given = self.pairs().map(|(key, value)| (format!("node.{key}"), value.to_owned()));
        sources.options.extend(given);
        Settings::load(&sources).map_err(anyhow::Error::msg)
    }

    /// Writes node.toml, unless there is one. To be called before the directory becomes a node's: a node that came up without it
    /// would listen elsewhere than it is known to.
    pub(in crate::cli) fn keep(&self, dir: &Path, context: &Context) -> anyhow::Result<()> {
        let path = dir.join(disk::SETTINGS);
        let mut text = String::new();
        for (key, value) in self.pairs() {
            text += &format!("{key} = {}\n", serde_json::Value::from(value));
        }
        if text.is_empty() {
            return Ok(());
        }
        if path.exists() {
            context.out.note(format_args!("{} is left as it is", path.display()));
            return Ok(());
        }
        disk::keep_settings(&RealDisk, dir, &text)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// How a node with these settings is known to the others.
pub(in crate::cli) fn described(settings: &Settings) -> anyhow::Result<Described> {
    let host = || {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = name.trim().to_owned();
        match name.is_empty() {
            true => {
                bail!("this host has no name; say how others reach it with --address HOST:PORT")
            }
            false => Ok(name),
        }
    };
    let address = match &settings.node_address {
        Some(address) => address.clone(),
        None => {
            let (_, port) =
                settings.node_listen.rsplit_once(':').expect("it was checked when it was read");
            format!("{}:{port}", host()?)
        }
    };
    if address.ends_with(":0") {
        bail!("others cannot reach {address}: say which port with --address HOST:PORT");
    }
    let name = match &settings.node_name {
        Some(name) => name.clone(),
        None => host()?,
    };
    Ok(Described { name, address, roles: settings.node_roles })
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let dir = store::find(&args.store, args.create)?;
    if store::is_store(&dir) {
        store::check_owner(&dir)?;
    }
    store::keep_private();
    let settings = args.given.settings(&dir, context)?;
    let described = described(&settings)?;
    let node = store::open(&dir, "making a cluster of it".to_owned(), &settings, args.create)?;
    let kept = args.given.keep(&dir, context);
    let made = kept.and_then(|()| make(&node, &dir, &described));
    node.close()?;
    let identity = made?;
    let number = identity.node.map_or(0, |node| node.0);
    context.out.object(&serde_json::json!({ "node": number, "address": described.address }))?;
    context.out.say(format_args!(
        "{} is node {number} of a cluster, at {}; serve it with 'tsfs node {}'",
        dir.display(),
        described.address,
        dir.display()
    ))?;
    Ok(Exit::Done)
}

/// Makes the open store a cluster, or finishes what was begun.
pub(in crate::cli) fn make(
    node: &Node,
    dir: &Path,
    described: &Described,
) -> anyhow::Result<Identity> {
    let plan = init::plan(node, &RealDisk, dir)?;
    Ok(init::carry_out(&plan, described, node, &SystemClock, (&RealDisk, dir))?)
}
