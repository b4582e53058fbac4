//! What may follow `-o`: the kernel's words, a few of ours, and every setting.

use crate::cli::Context;
use crate::cli::mount::Args;
use crate::cli::when;
use crate::fuse::mount::MountOptions;
use crate::tsdb_config::SETTINGS;
use crate::tsdb_config::Settings;
use crate::wire::control::Moment;
use anyhow::bail;
use std::path::Path;
use std::path::PathBuf;

/// Words with a meaning here, besides settings and what the kernel understands.
const OURS: &[&str] = &["create", "at", "config"];

pub(in crate::cli) struct Options {
    pub(super) create: bool,
    /// Mounts the past.
    pub(super) at: Option<Moment>,
    config: Option<PathBuf>,
    settings: Vec<(String, String)>,
    /// The source is filled in where the store is known.
    pub(super) kernel: MountOptions,
}

impl Options {
    /// The settings as they hold for a mount of this store.
    pub(super) fn settings(&self, store: &Path, context: &Context) -> anyhow::Result<Settings> {
        let mut sources = context.sources_for(store);
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
        settings: Vec::new(),
        kernel: MountOptions::new(String::new()),
    };
    for word in &args.options {
        match word.split_once('=') {
            None if word == "create" => options.create = true,
            Some(("at", time)) => options.at = Some(when::moment(time, context)?),
            Some(("config", file)) => options.config = Some(PathBuf::from(file)),
            Some((key, value)) if SETTINGS.iter().any(|setting| setting.key == key) => {
                options.settings.push((key.to_owned(), value.to_owned()));
            }
            _ if options.kernel.accept(word) => {}
            _ => bail!("-o: there is no option '{word}'; did you mean '{}'?", nearest(word)),
        }
    }
    Ok(options)
}

fn nearest(word: &str) -> &'static str {
    let key = word.split('=').next().unwrap_or(word);
    MountOptions::words()
        .chain(OURS.iter().copied())
        .chain(SETTINGS.iter().map(|setting| setting.key))
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
