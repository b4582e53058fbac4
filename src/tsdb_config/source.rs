//! Where settings come from, and how a later source overrides an earlier one.

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
/// Variables of the tests.
const TEST_VARIABLES: &str = "TSFS_TEST_";

/// Each overrides the ones before it.
#[derive(Clone, Default, Debug)]
pub struct Sources {
    /// TOML files that need not exist, as `/etc/tsfs/tsfs.toml`.
    pub optional_files: Vec<PathBuf>,
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
    for path in &sources.optional_files {
        match fs::read_to_string(path) {
            Ok(text) => read_file(path, &text, &mut set)?,
            // A store that is no directory is told of by whoever opens it.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        }
    }
    if let Some(path) = &sources.file {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("cannot read the settings in {}: {error}", path.display()))?;
        read_file(path, &text, &mut set)?;
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

fn read_file(
    path: &Path,
    text: &str,
    set: &mut dyn FnMut(&str, &'static Setting, &str) -> Result<(), String>,
) -> Result<(), String> {
    let table = DeTable::parse(text)
        .map_err(|error| format!("{} is not valid TOML: {error}", path.display()))?;
    let place = |at: usize| {
        let line = text[..at].matches('\n').count() + 1;
        format!("{}, line {line}", path.display())
    };
    for (section, value) in table.get_ref() {
        let at = place(section.span().start);
        let DeValue::Table(settings) = value.get_ref() else {
            // A key without its section: find says which it might be.
            find(&at, section.get_ref())?;
            return Err(format!(
                "{at}: settings stand in sections, as [write] and window = \"50ms\""
            ));
        };
        for (name, value) in settings {
            let at = place(name.span().start);
            let setting = find(&at, &format!("{}.{}", section.get_ref(), name.get_ref()))?;
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.as_str().to_owned(),
                DeValue::Boolean(switch) => switch.to_string(),
                _ => return Err(format!("{at}: {} takes text or a whole number", setting.key)),
            };
            set(&at, setting, &text)?;
        }
    }
    Ok(())
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
