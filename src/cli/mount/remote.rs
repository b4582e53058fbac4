//! A mount of a cluster: its certificate, and who waits for its end.
//!
//! Not here: talking to the nodes (`tsdb_client::remote`).

use crate::cli::mount::options::Options;
use crate::cli::mount::source::Cluster;
use crate::cli::refused;
use crate::env::SystemClock;
use crate::net::Credentials;
use crate::net::Identity;
use crate::store::holder::Holder;
use crate::tsdb_client::SaveTo;
use crate::tsdb_client::remote;
use crate::tsdb_client::remote::Remote;
use crate::tsdb_config::Settings;
use crate::wire::Server;
use anyhow::Context as _;
use anyhow::bail;
use data_encoding::HEXLOWER;
use std::env;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a client's certificate is looked for, besides what `cert=` names: the machine's.
const SYSTEM_CERTIFICATE: &str = "/etc/tsfs/client.pem";
/// The user's, below their configuration.
const USER_CERTIFICATE: &str = "tsfs/client.pem";

/// Connects to a cluster.
///
/// # Errors
/// A sentence with what to do.
pub(super) fn connect(options: &remote::Options) -> anyhow::Result<Arc<dyn Server>> {
    Ok(Remote::connect(options.clone(), SystemClock::shared())?)
}

/// How the cluster is reached, from what the user gave.
pub(super) fn options(cluster: &Cluster, options: &Options) -> anyhow::Result<remote::Options> {
    let path = certificate(options.cert.as_deref())?;
    let credentials = Credentials::load(SystemClock::shared(), &path)?;
    if let Identity::Node { node, .. } = credentials.current().identity() {
        bail!(
            "{} is the certificate of node {}; a mount has one of its own: 'tsfs cluster client NAME'",
            path.display(),
            node.0
        );
    }
    let when_down = options.when_down.unwrap_or_default();
    Ok(remote::Options { addresses: cluster.addresses.clone(), when_down, credentials })
}

fn certificate(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        if !given.exists() {
            bail!(
                "there is no certificate at {}: 'tsfs cluster client NAME' on a node makes one",
                given.display()
            );
        }
        return Ok(given.to_owned());
    }
    let user = user_certificate();
    let places: Vec<PathBuf> =
        user.into_iter().chain([PathBuf::from(SYSTEM_CERTIFICATE)]).collect();
    match places.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.clone()),
        None => {
            let places: Vec<String> =
                places.iter().map(|path| path.display().to_string()).collect();
            bail!(
                "this machine has no certificate, neither at {}: 'tsfs cluster client NAME' on a node makes one; or -o cert=FILE",
                places.join(" nor at ")
            )
        }
    }
}

/// Where the user's certificate is, wherever their configuration is.
pub(in crate::cli) fn user_certificate() -> Option<PathBuf> {
    let config = match env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()) {
        Some(config) => PathBuf::from(config),
        None => PathBuf::from(env::var_os("HOME")?).join(".config"),
    };
    Some(config.join(USER_CERTIFICATE))
}

/// Where this user looks for a certificate first: root's is the machine's.
pub(in crate::cli) fn own_certificate() -> PathBuf {
    let system = || PathBuf::from(SYSTEM_CERTIFICATE);
    match rustix::process::geteuid().is_root() {
        true => system(),
        false => user_certificate().unwrap_or_else(system),
    }
}

/// Where work is saved that the cluster refuses. No mount fails for that.
///
/// # Errors
/// Where there is no telling what a relative path means.
pub(super) fn refused(
    cluster: &Cluster,
    at: &Path,
    settings: &Settings,
) -> anyhow::Result<Option<SaveTo>> {
    let Some(dir) = refused::dir(settings)? else {
        tracing::info!("work that the cluster refuses is not saved");
        return Ok(None);
    };
    if dir.starts_with(at) {
        tracing::warn!(
            dir = %dir.display(),
            "work that the cluster refuses is not saved, for mount.refused is a directory in the mount itself"
        );
        return Ok(None);
    }
    Ok(Some(SaveTo { dir, source: cluster.to_string() }))
}

/// A directory that the process of a mount holds while it lives, as it holds a store: so umount can wait for its end.
pub(in crate::cli) fn held(at: &Path) -> PathBuf {
    let uid = rustix::process::geteuid();
    let base = match env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        _ if uid.is_root() => PathBuf::from("/run"),
        Some(dir) => PathBuf::from(dir),
        None => env::temp_dir().join(format!("tsfs-of-{}", uid.as_raw())),
    };
    // A name has at most 255 bytes; the end of a path tells mounts apart.
    let name = HEXLOWER.encode(at.as_os_str().as_bytes());
    base.join("tsfs").join(&name[name.len().saturating_sub(240)..])
}

/// Takes it, for the mount at `at`.
pub(super) fn hold(at: &Path) -> anyhow::Result<Holder> {
    let dir = held(at);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    Ok(Holder::take(&dir, &format!("mounted at {}", at.display()))?)
}
