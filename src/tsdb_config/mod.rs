//! Settings: file, environment and options → validated values.
//!
//! Every setting is in one table (`setting.rs`), with its default and its bounds; `docs/operations.md` is tested against
//! it. Settings are read where things are built and nowhere else: a module takes its own small options, none takes
//! these. Not here: what is the same on every node of a store (retention, marks), which lives in the store.

mod setting;
mod source;
pub mod unit;

pub use setting::Kind;
pub use setting::SETTINGS;
pub use setting::Setting;
pub use source::Sources;

use crate::types::Roles;
use setting::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that can be set, validated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub log_level: String,
    pub log_json: bool,
    pub log_target: LogTarget,
    /// FUSE loop threads.
    pub mount_threads: u32,
    pub mount_linger: Duration,
    /// Whether users other than the one who mounts may enter. `None`: if it is root.
    pub mount_allow_other: Option<bool>,
    pub mount_refused: RefusedTo,
    /// Bytes of rows and contents that a mount keeps in memory.
    pub cache_client: u64,
    /// Bytes of table blocks that the store keeps in memory.
    pub cache_table: u64,
    pub write_window: Duration,
    /// Bytes.
    pub write_batch: u64,
    /// Bytes.
    pub write_unsaved: u64,
    /// A level of zstd; `None`: as the load allows.
    pub store_compression: Option<i32>,
    /// Bytes.
    pub store_reserve: u64,
    /// `None`: for ever. Given to a store when it is made.
    pub history_age: Option<Duration>,
    /// Percent of the disk. Given to a store when it is made.
    pub history_disk: Option<u8>,
    /// `HOST:PORT`.
    pub node_listen: String,
    /// `HOST:PORT`; `None`: made of the host's name.
    pub node_address: Option<String>,
    /// `None`: the host's.
    pub node_name: Option<String>,
    pub node_roles: Roles,
    /// As `10.0.0.0/8,…`; empty: all.
    pub node_networks: String,
    /// After this time without an answer a node is done without.
    pub node_gone: Duration,
    /// Bytes a second.
    pub node_repair_rate: u64,
    /// Bytes a second.
    pub node_scrub_rate: u64,
    /// `HOST:PORT`; `None`: there are no metrics.
    pub metrics_listen: Option<String>,
}

/// Where nodes listen unless they are told otherwise.
pub const PORT: u16 = 7000;

/// Where diagnostic logs go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogTarget {
    /// The journal under systemd, standard error in the foreground, a file in the store else.
    Auto,
    Stderr,
    Journal,
    File(PathBuf),
}

/// Where a mount saves work that was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RefusedTo {
    /// A directory of the machine, or of the user's state.
    Auto,
    Nowhere,
    Dir(PathBuf),
}

impl Settings {
    /// Reads every source; of two that set the same, the later one named in [`Sources`] wins.
    ///
    /// # Errors
    /// A sentence for the first setting that is unknown or not understood, with where it was set.
    pub fn load(sources: &Sources) -> Result<Settings, String> {
        let values = source::resolve(sources)?;
        let settings = Settings::from_values(&Values(values));
        if settings.write_batch > settings.write_unsaved {
            return Err("write.batch is larger than write.unsaved, so no batch could ever fill; \
                        raise write.unsaved"
                .to_owned());
        }
        Ok(settings)
    }

    fn from_values(values: &Values) -> Settings {
        Settings {
            log_level: values.text("log.level"),
            log_json: values.text("log.format") == "json",
            log_target: match values.text("log.target").as_str() {
                "auto" => LogTarget::Auto,
                "stderr" => LogTarget::Stderr,
                "journal" => LogTarget::Journal,
                path => LogTarget::File(PathBuf::from(path)),
            },
            mount_threads: values.number("mount.threads") as u32,
            mount_linger: Duration::from_nanos(values.number("mount.linger")),
            mount_allow_other: values.text("mount.allow-other").parse().ok(),
            mount_refused: match values.text("mount.refused").as_str() {
                "auto" => RefusedTo::Auto,
                "off" => RefusedTo::Nowhere,
                path => RefusedTo::Dir(PathBuf::from(path)),
            },
            cache_client: values.number("cache.client"),
            cache_table: values.number("cache.table"),
            write_window: Duration::from_nanos(values.number("write.window")),
            write_batch: values.number("write.batch"),
            write_unsaved: values.number("write.unsaved"),
            store_compression: values.optional("store.compression").map(|level| level as i32),
            store_reserve: values.number("store.reserve"),
            history_age: values.optional("history.age").map(Duration::from_nanos),
            history_disk: values.optional("history.disk").map(|percent| percent as u8),
            node_listen: values.text("node.listen"),
            node_address: values.optional_text("node.address"),
            node_name: Some(values.text("node.name")).filter(|name| name != "auto"),
            node_roles: values.text("node.roles").parse().expect("it was checked when it was read"),
            node_networks: match values.text("node.networks") {
                any if any == "any" => String::new(),
                networks => networks,
            },
            node_gone: Duration::from_nanos(values.number("node.gone")),
            node_repair_rate: values.number("node.repair-rate"),
            node_scrub_rate: values.number("node.scrub-rate"),
            metrics_listen: values.optional_text("metrics.listen"),
        }
    }
}

/// A value for every key of the table.
struct Values(BTreeMap<&'static str, Value>);

impl Values {
    fn get(&self, key: &str) -> &Value {
        self.0.get(key).expect("every setting has a default, and every key asked for is a setting")
    }

    fn text(&self, key: &str) -> String {
        match self.get(key) {
            Value::Text(text) => text.clone(),
            other => unreachable!("{key} is text, not {other:?}"),
        }
    }

    fn optional_text(&self, key: &str) -> Option<String> {
        match self.get(key) {
            Value::Text(text) => Some(text.clone()),
            Value::None => None,
            other @ Value::Number(_) => unreachable!("{key} is text, not {other:?}"),
        }
    }

    fn number(&self, key: &str) -> u64 {
        self.optional(key).expect("this kind of setting has no `none`")
    }

    fn optional(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Value::Number(number) => Some(*number),
            Value::None => None,
            other @ Value::Text(_) => unreachable!("{key} is a number, not {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests;
