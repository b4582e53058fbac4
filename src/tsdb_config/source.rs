//! Where settings come from, and how a later source overrides an earlier one.

use crate::tsdb_config::Kind;
use crate::tsdb_config::SETTINGS;
use crate::tsdb_config::Setting;
use crate::tsdb_config::setting::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;
use toml::de::DeTable;
use toml::de::DeValue;

/// Names of variables that begin with `TSFS_` and are no settings.
const OTHER_VARIABLES: &[&str] = &["TSFS_CONFIG"];
/// Besides roles, what may be a list.
const NETWORKS: &str = "node.networks";
/// The section of a node's own file.
const NODE: &str = "node";
/// Variables of the tests.
const TEST_VARIABLES: &str = "TSFS_TEST_";

/// Each overrides the ones before it.
#[derive(Clone, Default, Debug)]
pub struct Sources {
    /// TOML files that need not exist, as `/etc/tsfs/tsfs.toml`.
    pub optional_files: Vec<PathBuf>,
    /// A node's own TOML file, which need not exist: keys without a section are of `node` there.
    pub node_file: Option<PathBuf>,
    /// A TOML file that must exist: the user named it.
    pub file: Option<PathBuf>,
    /// All environment variables; those that begin with `TSFS_` are read.
    pub environment: Vec<(String, String)>,
    /// Keys and values from the command line.
    pub options: Vec<(String, String)>,
}

/// A checked value for every setting.
pub(super) fn resolve(sources: &Sources) -> Result<BTreeMap<&'static str, Value>, String> {
    let mut values = BTreeMap::new();
    let mut set = |place: &str, setting: &'static Setting, text: &str| {
        let value = setting
            .parse(text)
            .map_err(|why| format!("{place}: {} cannot be set so: {why}", setting.key))?;
        values.insert(setting.key, value);
        Ok::<(), String>(())
    };
    for setting in SETTINGS {
        set("built in", setting, setting.default)?;
    }
    let optional = sources.optional_files.iter().map(|path| (path, None));
    for (path, section) in optional.chain(sources.node_file.iter().map(|path| (path, Some(NODE)))) {
        match fs::read_to_string(path) {
            Ok(text) => read_file(path, &text, section, &mut set)?,
            // A store that is no directory is told of by whoever opens it.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        }
    }
    if let Some(path) = &sources.file {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("cannot read the settings in {}: {error}", path.display()))?;
        read_file(path, &text, None, &mut set)?;
    }
    for (name, value) in &sources.environment {
        let other = OTHER_VARIABLES.contains(&name.as_str()) || name.starts_with(TEST_VARIABLES);
        if !name.starts_with("TSFS_") || other {
            continue;
        }
        let setting = SETTINGS.iter().find(|setting| setting.variable() == *name);
        let setting = setting.ok_or_else(|| {
            unknown(&format!("environment: {name}"), name, SETTINGS.iter().map(Setting::variable))
        })?;
        set(&format!("environment: {name}"), setting, value)?;
    }
    for (key, value) in &sources.options {
        set("command line", find("command line", key)?, value)?;
    }
    Ok(values)
}

type Set<'a> = &'a mut dyn FnMut(&str, &'static Setting, &str) -> Result<(), String>;

/// `section`: of keys that stand in none.
fn read_file(path: &Path, text: &str, section: Option<&str>, set: Set<'_>) -> Result<(), String> {
    let table = DeTable::parse(text)
        .map_err(|error| format!("{} is not valid TOML: {error}", path.display()))?;
    let place = |at: usize| {
        let line = text[..at].matches('\n').count() + 1;
        format!("{}, line {line}", path.display())
    };
    for (name, value) in table.get_ref() {
        let at = place(name.span().start);
        match (value.get_ref(), section) {
            (DeValue::Table(settings), _) => {
                for (key, value) in settings {
                    let at = place(key.span().start);
                    let setting = find(&at, &format!("{}.{}", name.get_ref(), key.get_ref()))?;
                    set(&at, setting, &text_of(&at, setting, value.get_ref())?)?;
                }
            }
            (value, Some(section)) => {
                let setting = find(&at, &format!("{section}.{}", name.get_ref()))?;
                set(&at, setting, &text_of(&at, setting, value)?)?;
            }
            (_, None) => {
                // A key without its section: find says which it might be.
                find(&at, name.get_ref())?;
                return Err(format!(
                    "{at}: settings stand in sections, as [write] and window = \"50ms\""
                ));
            }
        }
    }
    Ok(())
}

/// A value as it would be written elsewhere; a list with commas.
fn text_of(at: &str, setting: &Setting, value: &DeValue<'_>) -> Result<String, String> {
    let wrong = || format!("{at}: {} takes text or a whole number", setting.key);
    Ok(match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Boolean(switch) => switch.to_string(),
        DeValue::Array(parts) if setting.kind == Kind::Roles || setting.key == NETWORKS => {
            let word = |part: &toml::Spanned<DeValue<'_>>| match part.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                _ => Err(format!("{at}: {} is a list of texts", setting.key)),
            };
            parts.iter().map(word).collect::<Result<Vec<_>, _>>()?.join(",")
        }
        _ => return Err(wrong()),
    })
}

fn find(place: &str, key: &str) -> Result<&'static Setting, String> {
    SETTINGS
        .iter()
        .find(|setting| setting.key == key)
        .ok_or_else(|| unknown(place, key, SETTINGS.iter().map(|setting| setting.key.to_owned())))
}

fn unknown(place: &str, key: &str, known: impl Iterator<Item = String>) -> String {
    let nearest = known
        .map(|name| (strsim::damerau_levenshtein(&name, key), name))
        .min()
        .map(|(_, name)| name)
        .expect("there are settings");
    format!("{place}: there is no setting '{key}'; did you mean '{nearest}'?")
}
