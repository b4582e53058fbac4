//! What a process that stays sets up first: where it logs, and how many files it may open.

use crate::cli::Context;
use crate::telemetry::logs;
use crate::tsdb_config::LogTarget;
use crate::tsdb_config::Settings;
use std::env;
use std::path::Path;

/// Log of a mount in the background, in its store, or in the directory that a mount of a cluster holds while it lives.
const LOG_FILE: &str = "tsfs.log";

pub(super) fn start_logs(settings: &Settings, dir: &Path, context: &Context) -> anyhow::Result<()> {
    let target = match &settings.log_target {
        LogTarget::Stderr => logs::Target::Stderr,
        LogTarget::Journal => logs::Target::Journal,
        LogTarget::File(path) => logs::Target::File(path.clone()),
        LogTarget::Auto if context.background => logs::Target::File(dir.join(LOG_FILE)),
        // Set by systemd for what it started, and only for that.
        LogTarget::Auto if env::var_os("JOURNAL_STREAM").is_some() => logs::Target::Journal,
        LogTarget::Auto => logs::Target::Stderr,
    };
    let format = if settings.log_json { logs::Format::Json } else { logs::Format::Text };
    let filter = settings.log_level.clone();
    logs::start(&logs::Options { filter, format, target }).map_err(anyhow::Error::msg)
}

/// A store keeps many files open; the usual limit of 1024 is meant for programs that use select(2).
pub(super) fn raise_open_files() {
    use rustix::process::Resource;
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
