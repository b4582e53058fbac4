//! What may follow `-o`: the kernel's words, a few of ours, and every setting.

use crate::cli::Context;
use crate::cli::mount::Args;
use crate::cli::mount::source::Source;
use crate::cli::when;
use crate::fuse::mount::MountOptions;
use crate::tsdb_client::remote::WhenDown;
use crate::tsdb_config::SETTINGS;
use crate::tsdb_config::Settings;
use crate::wire::control::Moment;
use anyhow::anyhow;
use anyhow::bail;
use std::path::PathBuf;

/// Words with a meaning here, besides settings and what the kernel understands.
const OURS: &[&str] = &["create", "at", "config", "dir", "cert", "when-down"];
/// Settings that mean nothing to a mount.
const OF_NODES: &[&str] = &["node.", "metrics."];

pub(in crate::cli) struct Options {
    pub(super) create: bool,
    /// Mounts the past.
    pub(super) at: Option<Moment>,
    config: Option<PathBuf>,
    /// The directory that is the root of the mount.
    pub(super) dir: Option<PathBuf>,
    /// The file of a certificate.
    pub(super) cert: Option<PathBuf>,
    pub(super) when_down: Option<WhenDown>,
    settings: Vec<(String, String)>,
    /// The source is filled in where the store is known.
    pub(super) kernel: MountOptions,
}

impl Options {
    /// Takes the directory from the source, and refuses what does not go with it.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn fit(&mut self, source: &Source) -> anyhow::Result<()> {
        match source {
            Source::Cluster(_) if self.create => {
                bail!(
                    "a cluster is not made by mounting it: 'tsfs cluster init' makes one; leave out --create"
                );
            }
            Source::Cluster(_) if self.dir.is_some() => {
                bail!(
                    "the directory of a cluster stands behind its hosts, as n1,n2:/DIR; leave out dir="
                );
            }
            Source::Cluster(cluster) => self.dir = Some(cluster.dir.clone()),
            Source::Store(_) if self.cert.is_some() || self.when_down.is_some() => {
                bail!("cert= and when-down= are for mounts of a cluster, as n1,n2:/");
            }
            Source::Store(_) => {}
        }
        Ok(())
    }

    /// The settings as they hold for this mount.
    pub(super) fn settings(&self, source: &Source, context: &Context) -> anyhow::Result<Settings> {
        let mut sources = match source {
            Source::Store(store) => context.sources_for(store),
            Source::Cluster(_) => context.sources.clone(),
        };
        sources.file = self.config.clone().or(sources.file);
        sources.options.extend(self.settings.iter().cloned());
        Settings::load(&sources).map_err(anyhow::Error::msg)
    }
}

pub(super) fn read(args: &Args, context: &Context) -> anyhow::Result<Options> {
    let mut options = Options {
        create: args.create,
        at: None,
        config: None,
        dir: None,
        cert: None,
        when_down: None,
        settings: Vec::new(),
        kernel: MountOptions::new(String::new()),
    };
    for word in &args.options {
        match word.split_once('=') {
            None if word == "create" => options.create = true,
            Some(("at", time)) => options.at = Some(when::moment(time, context)?),
            Some(("config", file)) => options.config = Some(PathBuf::from(file)),
            Some(("dir", dir)) => options.dir = Some(PathBuf::from(dir)),
            Some(("cert", file)) => options.cert = Some(PathBuf::from(file)),
            Some(("when-down", what)) => {
                let what = what.parse().map_err(|why| anyhow!("-o when-down: {why}"))?;
                options.when_down = Some(what);
            }
            // mount(8) knows it, and passes it on; it is for whoever orders mounts.
            None if word == "_netdev" => {}
            Some((key, value)) if settings().any(|known| known == key) => {
                options.settings.push((key.to_owned(), value.to_owned()));
            }
            _ if options.kernel.accept(word) => {}
            _ => bail!("-o: there is no option '{word}'; did you mean '{}'?", nearest(word)),
        }
    }
    Ok(options)
}

/// The keys of what a mount may be set to.
fn settings() -> impl Iterator<Item = &'static str> {
    let of_nodes = |key: &str| OF_NODES.iter().any(|section| key.starts_with(section));
    SETTINGS.iter().map(|setting| setting.key).filter(move |key| !of_nodes(key))
}

fn nearest(word: &str) -> &'static str {
    let key = word.split('=').next().unwrap_or(word);
    MountOptions::words()
        .chain(OURS.iter().copied())
        .chain(settings())
        .min_by_key(|known| strsim::damerau_levenshtein(known, key))
        .expect("there are options")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_option_is_named() {
        assert_eq!(nearest("noatme"), "noatime");
        assert_eq!(nearest("write.widow=5ms"), "write.window");
        assert_eq!(nearest("att=yesterday"), "at");
    }
}
