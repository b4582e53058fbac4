//! Sources override each other, bad input gets a sentence, and the document says what the table says.

use super::*;

fn options(options: &[(&str, &str)]) -> Sources {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Sources { options: options.collect(), ..Sources::default() }
}

fn fault(sources: &Sources) -> String {
    Settings::load(sources).unwrap_err()
}

fn file(text: &str) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tsfs.toml");
    std::fs::write(&path, text).unwrap();
    (dir, Sources { file: Some(path), ..Sources::default() })
}

#[test]
fn defaults_are_settings_like_any_other() {
    let settings = Settings::load(&Sources::default()).unwrap();
    assert_eq!(settings.write_window, Duration::from_millis(50));
    assert_eq!(settings.write_batch, 8 << 20);
    assert_eq!(settings.history_age, Some(Duration::from_secs(365 * 86_400)));
    assert_eq!(settings.history_disk, Some(80));
    assert_eq!(settings.log_target, LogTarget::Auto);
}

#[test]
fn later_sources_win() {
    let (_dir, mut sources) =
        file("[write]\nwindow = \"1s\"\nbatch = \"2MiB\"\nunsaved = \"32MiB\"");
    sources.optional_files = vec![PathBuf::from("/nowhere/tsfs.toml")];
    sources.environment = vec![
        ("TSFS_WRITE_WINDOW".to_owned(), "2s".to_owned()),
        ("TSFS_WRITE_BATCH".to_owned(), "3MiB".to_owned()),
        ("PATH".to_owned(), "/bin".to_owned()),
        ("TSFS_TEST_SEED".to_owned(), "7".to_owned()),
    ];
    sources.options = vec![("write.window".to_owned(), "3s".to_owned())];
    let settings = Settings::load(&sources).unwrap();
    assert_eq!(settings.write_window, Duration::from_secs(3));
    assert_eq!(settings.write_batch, 3 << 20);
    assert_eq!(settings.write_unsaved, 32 << 20);
}

#[test]
fn what_can_be_without_limit_can_be_told_so() {
    let sources = options(&[("history.age", "forever"), ("history.disk", "none")]);
    let settings = Settings::load(&sources).unwrap();
    assert_eq!((settings.history_age, settings.history_disk), (None, None));
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    let (_dir, sources) = file("# a comment\n[write]\nwindw = \"1s\"\n");
    let fault_in_file = fault(&sources);
    assert!(fault_in_file.contains("line 3: there is no setting 'write.windw'"), "{fault_in_file}");
    assert!(fault_in_file.contains("did you mean 'write.window'?"), "{fault_in_file}");
    let environment = vec![("TSFS_CACHE_TABEL".to_owned(), "1GiB".to_owned())];
    let sources = Sources { environment, ..Sources::default() };
    assert!(fault(&sources).contains("did you mean 'TSFS_CACHE_TABLE'?"));
    assert!(fault(&options(&[("compression", "3")])).contains("'store.compression'?"));
}

#[test]
fn a_bad_value_says_where_and_what_would_do() {
    let (_dir, sources) = file("[store]\ncompression = 99\n");
    assert!(fault(&sources).ends_with(
        "tsfs.toml, line 2: store.compression cannot be set so: 99 is not between 1 and 19"
    ));
    let (_dir, sources) = file("window = \"50ms\"\n");
    assert!(fault(&sources).contains("there is no setting 'window'"));
    let (_dir, sources) = file("[write\n");
    assert!(fault(&sources).contains("is not valid TOML"));
    for (key, value, hint) in [
        ("write.window", "50", "50ms, 12h, 90d"),
        ("cache.client", "lots", "64KiB, 256MiB"),
        ("cache.client", "1KiB", "between 16 MiB and"),
        ("log.format", "xml", "text, json"),
        ("mount.allow-other", "maybe", "auto, true, false"),
        ("history.age", "never", "or forever"),
        ("history.disk", "0%", "1% to 100%"),
        ("log.level", "", "is empty"),
    ] {
        let fault = fault(&options(&[(key, value)]));
        assert!(fault.contains(hint) && fault.contains(key), "{fault}");
    }
    let missing = Sources { file: Some("/nowhere/a.toml".into()), ..Sources::default() };
    assert!(fault(&missing).contains("cannot read the settings in /nowhere/a.toml"));
    let sources = options(&[("write.batch", "32MiB"), ("write.unsaved", "16MiB")]);
    assert!(fault(&sources).contains("raise write.unsaved"));
}

#[test]
fn the_document_lists_every_setting() {
    let row = |setting: &Setting| {
        format!("| `{}` | `{}` | {} |\n", setting.key, setting.default, setting.help)
    };
    let table: String = SETTINGS.iter().map(row).collect();
    let document = include_str!("../../docs/operations.md");
    assert!(document.contains(&table), "docs/operations.md should have:\n{table}");
}

#[test]
fn a_nodes_own_file_needs_no_section_and_may_have_lists() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Settings::load(&Sources { node_file: Some(path.clone()), ..Sources::default() })
    };
    let settings = load(
        "listen = \"127.0.0.1:0\"\nroles = [\"data\", \"ts\"]\nnetworks = [\"10.0.0.0/8\"]\n\
         [metrics]\nlisten = \"127.0.0.1:7001\"\n",
    )
    .unwrap();
    assert_eq!(settings.node_listen, "127.0.0.1:0");
    assert_eq!(settings.node_roles.to_string(), "ts,data");
    assert_eq!(settings.node_networks, "10.0.0.0/8");
    assert_eq!(settings.metrics_listen.as_deref(), Some("127.0.0.1:7001"));
    assert_eq!((settings.node_address, settings.node_name), (None, None));
    for (text, why) in [
        (
            "lisen = \"a:1\"",
            "line 1: there is no setting 'node.lisen'; did you mean 'node.listen'?",
        ),
        ("roles = [\"date\"]", "'date' is no role"),
        ("roles = []", "at least one role"),
        ("roles = [1]", "a list of texts"),
        ("name = [\"a\"]", "takes text"),
        ("listen = \"7000\"", "has no port"),
        ("listen = \"::1:7000\"", "brackets"),
        ("address = \"host:port\"", "'port' is no port; write it as HOST:PORT, or auto"),
    ] {
        let fault = load(text).unwrap_err();
        assert!(fault.contains(why), "{text}: {fault}");
    }
    assert!(
        Settings::load(&Sources::default()).unwrap().node_listen.ends_with(&format!(":{PORT}"))
    );
}
