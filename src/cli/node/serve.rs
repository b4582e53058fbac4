//! A node from its start to its end: it serves until a signal comes; where the log cannot bring it up to date, it takes over
//! another node's table and starts again.
//!
//! Not here: what a node is made of (`tsdb_server::member`).

use crate::cli::cluster::init;
use crate::cli::mount::store;
use crate::env::SystemClock;
use crate::net::Networks;
use crate::store::disk::Disk;
use crate::store::disk::RealDisk;
use crate::tsdb_config::Settings;
use crate::tsdb_server::cluster::disk;
use crate::tsdb_server::cluster::init::Described;
use crate::tsdb_server::cluster::metrics::Metrics;
use crate::tsdb_server::cluster::work::Pause;
use crate::tsdb_server::member;
use crate::tsdb_server::member::Ended;
use crate::tsdb_server::member::Member;
use crate::tsdb_server::member::Rates;
use crate::types::FsError;
use sd_notify::NotifyState;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What wakes the thread that waits for signals, where the node itself has something to say.
pub(super) const WAKE: i32 = SIGUSR1;

/// After a table that was not received, so long nothing is asked for.
const AGAIN: Duration = Duration::from_secs(2);

/// What became of a life of the node.
enum Life {
    /// It is over.
    Over,
    /// Another begins with this node's table.
    Behind(crate::types::NodeId),
}

pub(super) fn run(dir: &Path, settings: &Settings, mut signals: Signals) -> anyhow::Result<()> {
    let networks: Networks = settings
        .node_networks
        .parse()
        .map_err(|why| anyhow::anyhow!("node.networks cannot be set so: {why}"))?;
    let described = init::described(settings)?;
    let device: Arc<dyn Disk> = Arc::new(RealDisk);
    let options = member::Options {
        dir: dir.to_owned(),
        listen: settings.node_listen.clone(),
        networks,
        nodes: disk::joined(&*device, dir)?,
        store: store::options("served as a node".to_owned(), settings),
        rates: Rates {
            gone: settings.node_gone,
            repair: settings.node_repair_rate,
            scrub: settings.node_scrub_rate,
        },
    };
    loop {
        let wake = || {
            // It fails for a signal that does not exist.
            let _ = signal_hook::low_level::raise(WAKE);
        };
        let member = Member::start(options.clone(), device.clone(), SystemClock::shared(), wake)?;
        match live(&member, settings, &described, &mut signals)? {
            Life::Over => {
                member.stop()?;
                tracing::info!("the node has ended, and its store is whole");
                return Ok(());
            }
            Life::Behind(from) => {
                tracing::info!(from = from.0, "the log does not reach back to what is here");
                match member.catch_up(&device, from) {
                    Ok(()) => {}
                    // It sends its table to others just now, or has gone: the next life is told again.
                    Err(error @ (FsError::Io(_) | FsError::Unreachable(_))) => {
                        tracing::warn!(%error, "the table of another node was not received; tried again soon");
                        Pause::default().rest(AGAIN)?;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// Serves until there is something else to do.
fn live(
    member: &Member,
    settings: &Settings,
    described: &Described,
    signals: &mut Signals,
) -> anyhow::Result<Life> {
    let _metrics = match &settings.metrics_listen {
        Some(address) => {
            let (cluster, credentials) = (member.cluster().clone(), member.credentials().clone());
            Some(Metrics::listen(address, cluster, credentials)?)
        }
        None => None,
    };
    member.announce(described.clone())?;
    tracing::info!(node = member.cluster().here.0, listens = ?member.address(), "serving");
    // Not started by systemd: then there is nobody to notify.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    for signal in signals.forever() {
        match signal {
            SIGHUP => match member.reload() {
                Ok(()) => tracing::info!("the certificate was read again"),
                Err(error) => tracing::error!(%error, "the certificate in use is kept"),
            },
            WAKE => {
                if let Some(Ended::Behind(from)) = member.ended() {
                    return Ok(Life::Behind(from));
                }
            }
            _ => {
                tracing::info!(signal, "told to end");
                let _ = sd_notify::notify(&[NotifyState::Stopping]);
                return Ok(Life::Over);
            }
        }
    }
    Ok(Life::Over)
}
