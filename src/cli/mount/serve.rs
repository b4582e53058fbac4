//! Puts the parts together: settings → store → client → file tree → mount; and takes them apart again, losing nothing.
//!
//! Not here: anything a part does.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::mount::Args;
use crate::cli::mount::background;
use crate::cli::mount::guard;
use crate::cli::mount::options::Options;
use crate::cli::mount::remote;
use crate::cli::mount::source::Cluster;
use crate::cli::mount::source::Source;
use crate::cli::mount::store;
use crate::cli::process::raise_open_files;
use crate::cli::process::start_logs;
use crate::cli::retention;
use crate::cli::when;
use crate::env::SystemClock;
use crate::fuse;
use crate::fuse::Rooted;
use crate::fuse::Tree;
use crate::fuse::mount::Mounted;
use crate::fuse::mount::Unmounted;
use crate::meta::record::Retention;
use crate::tsdb_client;
use crate::tsdb_client::Caller;
use crate::tsdb_client::Client;
use crate::tsdb_client::Compression;
use crate::tsdb_config::Settings;
use crate::types::AsOf;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::wire::Server;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use crate::wire::control::Moment;
use crate::wire::control::Request;
use anyhow::Context as _;
use anyhow::bail;
use rustix::mount::MountFlags;
use sd_notify::NotifyState;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use std::fs;
use std::io;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Component;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long a mount that is in use is waited for, after it was told to end, before it is detached.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
/// Threads that compress: one for each processor, within these bounds.
const WORKERS_LEAST: usize = 2;
const WORKERS_MOST: usize = 16;

/// What a mount talks to, and how that is left.
struct Served {
    server: Arc<dyn Server>,
    /// Where it is, for people and the table of mounts.
    source: String,
    close: Box<dyn FnOnce() -> Result<(), FsError>>,
}

pub(super) fn run(
    args: &Args,
    source: &Source,
    mut options: Options,
    settings: &Settings,
    context: &Context,
) -> anyhow::Result<Exit> {
    // From here on a signal is waited for, and does not kill: SIGHUP, of a terminal that closes, is ignored.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot wait for signals")?;
    let at = fuse::mount::prepare(&args.at, options.kernel.nonempty)?;
    store::keep_private();
    let served = match source {
        Source::Store(dir) => embedded(dir, &at, &options, settings, context)?,
        Source::Cluster(cluster) => of_cluster(cluster, &at, &options, settings, context)?,
    };
    let mut client_options = client_options(&at, settings);
    if let Source::Cluster(cluster) = source {
        client_options.refused = remote::refused(cluster, &at, settings)?;
    }
    let client = Client::open(served.server, SystemClock::shared(), client_options)?;
    options.kernel.source = served.source.clone();
    options.kernel.threads = settings.mount_threads as usize;
    options.kernel.linger = settings.mount_linger;
    options.kernel.allow_other = options.kernel.allow_other.or(settings.mount_allow_other);
    let instant = instant(&client, options.at.as_ref(), context)?;
    if instant != AsOf::Now {
        options.kernel.flags.insert(MountFlags::RDONLY);
    }
    let root = directory(&client, options.dir.as_deref(), instant)?;
    let tree = Arc::new(Tree::new(Arc::clone(&client), context.zone.clone(), instant, root));
    let mounted = match root {
        Ino::ROOT => fuse::mount::mount(tree, &at, &options.kernel)?,
        _ => fuse::mount::mount(Arc::new(Rooted::new(tree, root)), &at, &options.kernel)?,
    };
    let mounted = Arc::new(mounted);
    let _guard = guard::start(&mounted);

    end_on_signal(signals, &mounted)?;
    ready(&client, context)?;
    tracing::info!(source = served.source, at = %at.display(), "mounted");
    let ended = mounted.wait();
    let closed = client.close();
    let freed = (served.close)();
    tracing::info!(source = served.source, at = %at.display(), "unmounted");
    ended?;
    closed?;
    freed?;
    Ok(Exit::Done)
}

/// A store in this process.
fn embedded(
    given: &Path,
    at: &Path,
    options: &Options,
    settings: &Settings,
    context: &Context,
) -> anyhow::Result<Served> {
    let dir = store::find(given, options.create)?;
    apart(&dir, at)?;
    if options.create {
        if options.at.is_some() && !store::is_store(&dir) {
            bail!("a store that is about to be made has no past; leave out --create or at=");
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    start_logs(settings, &dir, context)?;
    raise_open_files();
    let purpose = format!("mounted at {}", at.display());
    let node = store::open(&dir, purpose, settings, options.create)?;
    let source = dir.display().to_string();
    let server = Arc::clone(&node);
    Ok(Served { server, source, close: Box::new(move || node.close()) })
}

/// Nodes that are other processes.
fn of_cluster(
    cluster: &Cluster,
    at: &Path,
    options: &Options,
    settings: &Settings,
    context: &Context,
) -> anyhow::Result<Served> {
    let how = remote::options(cluster, options)?;
    let holder = remote::hold(at)?;
    start_logs(settings, &remote::held(at), context)?;
    let server = remote::connect(&how)?;
    let close = move || {
        drop(holder);
        Ok(())
    };
    Ok(Served { server, source: cluster.to_string(), close: Box::new(close) })
}

/// The directory that is the root of the mount.
fn directory(client: &Client, dir: Option<&Path>, at: AsOf) -> anyhow::Result<Ino> {
    let Some(dir) = dir else { return Ok(Ino::ROOT) };
    let none = |what: &str| anyhow::anyhow!("cannot mount {}: {what}", dir.display());
    let mut ino = Ino::ROOT;
    for part in dir.components() {
        let name = match part {
            Component::RootDir | Component::CurDir => continue,
            Component::Normal(name) => name.as_bytes(),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(none("a path of the store has no '..'"));
            }
        };
        let attr = client.lookup(ino, name, at).map_err(|error| match error {
            FsError::NotFound => none("there is no such directory in the store"),
            other => none(&other.to_string()),
        })?;
        if attr.kind != FileKind::Directory {
            return Err(none("it is no directory"));
        }
        ino = attr.ino;
    }
    Ok(ino)
}

/// A store and a mount point may not lie in each other: either would hide or swallow the other.
fn apart(store: &Path, at: &Path) -> anyhow::Result<()> {
    if store.starts_with(at) {
        bail!(
            "the store {} is inside the mount point {}; put it elsewhere",
            store.display(),
            at.display()
        );
    }
    if at.starts_with(store) {
        bail!("the mount point {} is inside the store; mount elsewhere", at.display());
    }
    Ok(())
}

fn client_options(at: &Path, settings: &Settings) -> tsdb_client::Options {
    tsdb_client::Options {
        name: at.display().to_string(),
        // Names and attributes decide how fast a tree is walked, contents how fast it is read again: half for each.
        row_cache_bytes: settings.cache_client / 2,
        block_cache_bytes: settings.cache_client / 2,
        dirty_bytes_max: settings.write_unsaved,
        window: settings.write_window,
        batch_bytes_max: settings.write_batch,
        compression: settings.store_compression.map_or(Compression::Auto, Compression::Level),
        workers: std::thread::available_parallelism().map_or(WORKERS_LEAST, |processors| {
            processors.get().clamp(WORKERS_LEAST, WORKERS_MOST)
        }),
        owner: rustix::process::geteuid().as_raw(),
        ..tsdb_client::Options::default()
    }
}

/// The instant that the whole mount shows.
fn instant(client: &Client, at: Option<&Moment>, context: &Context) -> anyhow::Result<AsOf> {
    let stamp = match at {
        None => return Ok(AsOf::Now),
        // A mount of the past shows one instant, also where that is the last one.
        Some(Moment::Now) => client.present()?,
        Some(Moment::At(stamp)) => *stamp,
        Some(Moment::Mark(name)) => {
            let marks = client.marks()?;
            let mark = marks.iter().find(|mark| mark.name == name.as_bytes());
            mark.with_context(|| format!("there is no mark '{name}' in the store"))?.stamp
        }
    };
    let shown = |stamp| when::show(stamp, &context.zone);
    match client.now_readable(stamp) {
        Err(FsError::BeforeHorizon { asked, oldest }) => {
            bail!("{} is before the oldest instant kept, {}", shown(asked), shown(oldest));
        }
        other => other?,
    }
    match client.getattr(Ino::ROOT, AsOf::At(stamp)) {
        Err(FsError::Stale | FsError::NotFound) => {
            bail!("there is nothing to show at {}: the store was made later", shown(stamp));
        }
        other => other?,
    };
    Ok(AsOf::At(stamp))
}

/// Tells whoever waits that the mount can be used, and the user how long history is kept.
fn ready(client: &Client, context: &Context) -> anyhow::Result<()> {
    let said = retention::sentence(&kept(client)?);
    if context.background {
        writeln!(io::stdout(), "{said}")?;
        background::ready().context("cannot let go of the terminal")?;
    } else {
        tracing::info!("{said}");
        // Not started by systemd: then there is nobody to notify.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }
    Ok(())
}

fn kept(client: &Client) -> anyhow::Result<Retention> {
    let caller = Caller { uid: 0, gid: 0, pid: 0 };
    let request = Request::new(Ask::Retention { set: None });
    let mut retention = None;
    client.control(caller, Ino::ROOT, &request, &mut |answer| {
        if let Answer::Retention(answer) = answer {
            retention = Some(answer);
        }
        ControlFlow::Continue(())
    });
    retention.context("the store does not say how long it keeps history")
}

/// Unmounts when told to, from a thread of its own.
fn end_on_signal(mut signals: Signals, mounted: &Arc<Mounted>) -> anyhow::Result<()> {
    let mounted = Arc::clone(mounted);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever().filter(|signal| *signal != SIGHUP) {
            tracing::info!(signal, "told to end");
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
            match mounted.unmount(BUSY_PATIENCE) {
                Ok(Unmounted::Gone) => {}
                Ok(Unmounted::Detached) => {
                    tracing::warn!("programs had files open; they get errors from now on");
                }
                // Told again, it is tried again.
                Err(error) => tracing::error!(%error, "cannot unmount"),
            }
        }
    })?;
    Ok(())
}
