//! `tsfs cluster client`: a certificate for a mount.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::cluster::duration;
use crate::cli::local;
use crate::cli::local::Local;
use crate::cli::mount::remote::own_certificate;
use crate::cli::when;
use crate::net;
use crate::net::Material;
use crate::net::PendingKey;
use crate::net::Token;
use crate::tsdb_server::cluster::join;
use crate::tsdb_server::cluster::work::Pause;
use crate::wire::cluster::Answer;
use crate::wire::cluster::Ask;
use crate::wire::cluster::Joiner;
use anyhow::Context as _;
use anyhow::bail;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  tsfs cluster client laptop /srv/store --out laptop.pem   on a node; copy it to the laptop as ~/.config/tsfs/client.pem
  tsfs cluster client --join tsfs-…                        on the laptop itself, with a token of 'tsfs cluster invite --client
                                                           laptop': its key never leaves it

The file proves who the mount is: keep it as you would a private key (mode 600).";

/// Make a certificate for a client
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What the client is called
    #[arg(required_unless_present = "join")]
    name: Option<String>,
    /// The directory that a node on this machine serves
    #[arg(default_value = ".")]
    store: PathBuf,
    /// Get it from the cluster that made this token
    #[arg(long, value_name = "TOKEN", conflicts_with = "name")]
    join: Option<String>,
    /// Where to write it [default: NAME.pem; with --join where mounts look for it]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How long it is good; with --join a year
    #[arg(long, value_name = "TIME", default_value = "366d", value_parser = duration)]
    valid: Duration,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let (text, out) = match (&args.join, &args.name) {
        (Some(token), _) => {
            let out = args.out.clone().unwrap_or_else(own_certificate);
            may_write(&out)?;
            (by_token(token)?, out)
        }
        (None, Some(name)) => {
            let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.pem")));
            may_write(&out)?;
            let ask = Ask::Certificate { name: name.clone(), valid_s: args.valid.as_secs() };
            let Answer::Certificate { text, .. } = Local::open(&args.store)?.ask(&ask, context)?
            else {
                return local::other();
            };
            (text, out)
        }
        (None, None) => unreachable!("clap asks for a name"),
    };
    let material = Material::from_pem(text.as_bytes())?;
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    net::write_private(&out, text.as_bytes())?;
    let (who, until) = (material.identity(), material.valid_until());
    context.out.object(&serde_json::json!({
        "file": out.display().to_string(),
        "who": who.to_string(),
        "expires": until,
    }))?;
    let until = when::show(until, &context.zone);
    context.out.say(format_args!("{}: the certificate of {who}, until {until}", out.display()))?;
    Ok(Exit::Done)
}

/// A certificate that is there may be in use, and is not made again by asking for another.
fn may_write(out: &Path) -> anyhow::Result<()> {
    if out.exists() {
        bail!("{} is there already; remove it, or name another file with --out", out.display());
    }
    Ok(())
}

fn by_token(text: &str) -> anyhow::Result<String> {
    let token: Token = text.parse()?;
    let key = PendingKey::generate()?;
    let joined = join::ask(&local::net()?, &token, &key, &Joiner::Client, &Pause::default())?;
    Ok(key.complete(&joined.certificate, token.authority)?)
}
