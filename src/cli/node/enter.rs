//! How a directory comes to be a node's: it is already, or it joins a cluster, or begins one.

use crate::cli::Context;
use crate::cli::cluster::init;
use crate::cli::local;
use crate::cli::mount::store;
use crate::cli::node::Args;
use crate::net::Material;
use crate::net::PendingKey;
use crate::net::Token;
use crate::store::disk::RealDisk;
use crate::tsdb_config::Settings;
use crate::tsdb_server::cluster::disk;
use crate::tsdb_server::cluster::disk::Identity;
use crate::tsdb_server::cluster::join;
use crate::tsdb_server::cluster::work::Pause;
use crate::tsdb_server::open;
use crate::wire::cluster::Joiner;
use anyhow::Context as _;
use anyhow::bail;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// The store's directory, absolute.
pub(super) fn directory(args: &Args) -> anyhow::Result<PathBuf> {
    let dir = store::find(&args.store, args.create || args.join.is_some())?;
    if store::is_store(&dir) {
        store::check_owner(&dir)?;
    }
    Ok(dir)
}

/// Joins the cluster that made the token, unless it is a node of it already: a supervisor starts it with the same words
/// again.
pub(super) fn join(
    dir: &Path,
    text: &str,
    args: &Args,
    settings: &Settings,
    context: &Context,
) -> anyhow::Result<()> {
    let token: Token = text.parse()?;
    let known = Identity::read(&RealDisk, dir)?;
    if let Some(Identity { node: Some(node), .. }) = known {
        let material = Material::load(&dir.join(disk::CERTIFICATE))?;
        if material.authority() != token.authority {
            bail!(
                "{} is node {} of another cluster; use an empty directory, or leave out --join",
                dir.display(),
                node.0
            );
        }
        tracing::info!(node = node.0, "it has joined already");
        return Ok(());
    }
    if known.is_none() && store::is_store(dir) {
        bail!(
            "{} is a store already; a node that joins gets the cluster's contents, so use an empty directory",
            dir.display()
        );
    }
    let described = init::described(settings)?;
    open::check(dir, &RealDisk, true)?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let identity = known.unwrap_or_else(Identity::fresh);
    // Kept first: asked again with the same disk, the cluster answers the same.
    identity.write(&RealDisk, dir)?;
    let key = PendingKey::generate()?;
    let who = Joiner::Node {
        incarnation: identity.incarnation,
        name: described.name,
        address: described.address,
        roles: described.roles,
    };
    let joined = join::ask(&local::net()?, &token, &key, &who, &Pause::default())?;
    let certificate = key.complete(&joined.certificate, token.authority)?;
    args.given.keep(dir, context)?;
    let identity = join::settle_in(identity, &joined, &certificate, (&RealDisk, dir))?;
    tracing::info!(node = identity.node.map(|node| node.0), "joined the cluster");
    Ok(())
}

/// Makes a store a cluster where that was asked for, and makes sure that it is a node's.
pub(super) fn begin(
    dir: &Path,
    args: &Args,
    settings: &Settings,
    context: &Context,
) -> anyhow::Result<()> {
    let known = Identity::read(&RealDisk, dir)?;
    if known.is_some_and(|identity| identity.node.is_some()) {
        return Ok(());
    }
    if !args.create && args.given.address.is_none() {
        bail!(
            "{} is a store of no cluster yet: 'tsfs cluster init' makes it one, and so does --address HOST:PORT; \
             'tsfs mount' serves it to this machine alone",
            dir.display()
        );
    }
    let described = init::described(settings)?;
    let purpose = "making a cluster of it".to_owned();
    let node = store::open(dir, purpose, settings, args.create)?;
    let kept = args.given.keep(dir, context);
    let made = kept.and_then(|()| init::make(&node, dir, &described));
    node.close()?;
    made.map(|_| ())
}
