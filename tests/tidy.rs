//! Properties of the source itself: layers as `docs/ARCHITECTURE.md` draws them, pure modules that stay pure, the form
//! of files, and documents whose promises name tests that exist.
//!
//! Each rule is a function from text to faults, so that the last test here can plant every fault and see it caught.
//! Not here: what the compiler and clippy see already.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Modules that may not touch the world, and the words by which they would.
const PURE: &[&str] = &["types", "series", "tsdb_log", "meta", "lease", "wire"];
const IMPURE: &[&str] =
    &["tokio", "rocksdb", "fuser", "std::fs", "std::net", "SystemTime", "Instant"];

/// No file is longer.
const FILE_LINES_MAX: usize = 800;
/// Files are to stay below this; how many may not is a ratchet: lower it when one gets shorter.
const FILE_LINES_AIM: usize = 450;
const LONG_FILES_MAX: usize = 7;
/// No function is longer.
const FUNCTION_LINES_MAX: usize = 70;

/// Drawers that things are thrown into: modules are named by what they hold.
const DRAWERS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];
/// What is unfinished, or true of one machine only, does not enter. Spelled in two halves: this file is read too.
const NEVER: &[(&str, &str)] =
    &[("TO", "DO"), ("FIX", "ME"), ("XX", "X:"), ("/ro", "ot/"), ("/wo", "rk/"), ("/tm", "p/w")];

type Layers = Vec<(String, Vec<String>)>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files(dir: &str, endings: &[&str]) -> Vec<(String, String)> {
    fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { collect(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    collect(&root().join(dir), &mut found);
    found.sort();
    let wanted = |path: &&PathBuf| {
        let name = path.to_str().unwrap();
        endings.iter().any(|ending| name.ends_with(ending))
    };
    let named = |path: &PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        (name, text)
    };
    found.iter().filter(wanted).map(named).collect()
}

/// Each module with the modules it may import, as the document lists them.
fn layers(document: &str) -> Layers {
    let block = document.split("```layers").nth(1).unwrap().split("```").next().unwrap();
    let line = |line: &str| {
        let (module, below) = line.split_once(':')?;
        Some((module.trim().to_owned(), below.split_whitespace().map(str::to_owned).collect()))
    };
    block.lines().filter_map(line).collect()
}

/// A line of the document that lists a module which does not stand above it.
fn order_faults(layers: &Layers) -> Vec<String> {
    let mut faults = Vec::new();
    for (n, (module, below)) in layers.iter().enumerate() {
        for name in below {
            if !layers[..n].iter().any(|(above, _)| above == name) {
                faults.push(format!("docs/ARCHITECTURE.md: `{module}` lists `{name}`"));
            }
        }
    }
    faults
}

/// The module that a file of `src` belongs to.
fn module(file: &str) -> &str {
    file.trim_start_matches("src/").split('/').next().unwrap().trim_end_matches(".rs")
}

/// `word` in `line`, not as a part of a longer name.
fn names(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

fn import_faults(file: &str, text: &str, layers: &Layers) -> Vec<String> {
    let module = module(file);
    if module == "lib" || module == "main" {
        return Vec::new();
    }
    let Some((_, below)) = layers.iter().find(|(name, _)| name == module) else {
        return vec![format!("{file}: `{module}` is not in docs/ARCHITECTURE.md")];
    };
    let mut faults = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let (line, at) = (line.split("//").next().unwrap(), n + 1);
        for tail in line.split("crate::").skip(1) {
            let name = tail.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            if name != module && !below.iter().any(|allowed| allowed == name) {
                faults.push(format!("{file}:{at}: `{module}` may not import `{name}`"));
            }
        }
        // A test may measure, or put its doubles on a disk.
        let pure = PURE.contains(&module) && !file.contains("/tests");
        for word in IMPURE.iter().filter(|word| pure && names(line, word)) {
            faults.push(format!("{file}:{at}: `{module}` is pure, `{word}` is not"));
        }
    }
    faults
}

/// What a file must have and may not have, wherever it is.
fn form_faults(file: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//! ") {
        faults.push(format!("{file}: begins with what it is for: `//! …`"));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        faults.push(format!("{file}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    if file.split(['/', '.']).any(|part| DRAWERS.contains(&part)) {
        faults.push(format!("{file}: name it by what it holds"));
    }
    // The one glob that its crate's own documents ask for.
    const PRELUDE: &str = "use proptest::prelude::*;";
    let glob = |line: &str| {
        let line = line.trim_start().trim_start_matches("pub ");
        // A child file of tests sees what its parent sees; the macros of proptest need all of its prelude.
        let meant = ["use super::*;", PRELUDE].contains(&line);
        line.starts_with("use ") && line.ends_with("::*;") && !meant
    };
    for (n, line) in text.lines().enumerate().filter(|(_, line)| glob(line)) {
        faults.push(format!("{file}:{}: a line for each name: `{}`", n + 1, line.trim()));
    }
    faults
}

fn word_faults(file: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (first, second) in NEVER {
        let word = format!("{first}{second}");
        for (n, _) in text.lines().enumerate().filter(|(_, line)| line.contains(&word)) {
            faults.push(format!("{file}:{}: `{word}` does not enter", n + 1));
        }
    }
    faults
}

/// Names of functions longer than the aim. Read by indentation, which rustfmt makes reliable.
fn long_functions(file: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let head = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "unsafe fn "];
        if !head.iter().any(|head| body.starts_with(head)) {
            continue;
        }
        // A trait's function may have no body.
        let opened = lines[n..].iter().find(|line| line.ends_with(['{', ';', '}']));
        if opened.is_none_or(|line| !line.ends_with('{')) {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - body.len()]);
        let Some(length) = lines[n..].iter().position(|line| *line == end) else { continue };
        if length + 1 > FUNCTION_LINES_MAX {
            found.push(format!("{file}:{}: {} lines", n + 1, length + 1));
        }
    }
    found
}

/// Rows of tables whose last column is headed `test`: each must name tests, all of which exist in `sources`.
fn promise_faults(document: &str, sources: &str) -> (usize, Vec<String>) {
    let (mut promises, mut faults, mut inside) = (0, Vec::new(), false);
    for (n, line) in document.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        if !line.starts_with('|') {
            inside = false;
        } else if cells.last() == Some(&"test") {
            inside = true;
        } else if inside && !line.starts_with("|--") {
            promises += 1;
            let tests: Vec<&str> = cells.last().unwrap().split('`').skip(1).step_by(2).collect();
            if tests.is_empty() {
                faults.push(format!("docs/semantics.md:{}: a promise without a test", n + 1));
            }
            for test in tests {
                let function = test.rsplit("::").next().unwrap();
                if !sources.contains(&format!("fn {function}(")) {
                    faults.push(format!("docs/semantics.md:{}: no test `{test}`", n + 1));
                }
            }
        }
    }
    (promises, faults)
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn a_layer_lists_only_what_stands_above_it() {
    let layers = layers(&read("docs/ARCHITECTURE.md"));
    assert!(layers.len() > 10, "the layers block is read");
    assert_none(order_faults(&layers));
}

#[test]
fn imports_point_down_and_pure_modules_are_pure() {
    let layers = layers(&read("docs/ARCHITECTURE.md"));
    let faults = |(file, text): &(String, String)| import_faults(file, text, &layers);
    assert_none(files("src", &[".rs"]).iter().flat_map(faults).collect());
}

#[test]
fn files_have_the_form() {
    let mut sources = files("src", &[".rs"]);
    sources.extend(files("tests", &[".rs"]));
    assert_none(sources.iter().flat_map(|(file, text)| form_faults(file, text)).collect());
}

#[test]
fn files_and_functions_get_shorter_not_longer() {
    let sources = files("src", &[".rs"]);
    let long: Vec<_> = sources
        .iter()
        .map(|(file, text)| (text.lines().count(), file))
        .filter(|(lines, _)| *lines > FILE_LINES_AIM)
        .collect();
    assert!(long.len() <= LONG_FILES_MAX, "{} long files: {long:#?}", long.len());
    let long: Vec<_> = sources.iter().flat_map(|(file, text)| long_functions(file, text)).collect();
    assert_none(long);
}

#[test]
fn nothing_unfinished_and_nobody_elses_paths() {
    let mut all = files("src", &[".rs"]);
    all.extend(files("tests", &[".rs", ".md", ".txt", ".sh", "run"]));
    all.extend(files("docs", &[".md"]));
    all.extend(files("mount-scripts", &[""]));
    all.extend(files(".ci", &[""]));
    for file in ["README.md", "Makefile", "Cargo.toml"] {
        all.push((file.to_owned(), read(file)));
    }
    assert_none(all.iter().flat_map(|(file, text)| word_faults(file, text)).collect());
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let mut sources = files("src", &[".rs"]);
    sources.extend(files("tests", &[".rs"]));
    let sources: String = sources.into_iter().map(|(_, text)| text).collect();
    let (_, faults) = promise_faults(&read("docs/semantics.md"), &sources);
    assert_none(faults);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut faults = Vec::new();
    let mut documents = files("docs", &[".md"]);
    documents.push(("README.md".to_owned(), read("README.md")));
    for (file, text) in documents {
        for target in text.split("](").skip(1).filter_map(|tail| tail.split(')').next()) {
            let target = target.split('#').next().unwrap();
            let there = root().join(&file).parent().unwrap().join(target).exists();
            if !target.contains("://") && !there {
                faults.push(format!("{file}: no `{target}`"));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn each_rule_catches_a_planted_fault() {
    let layers = layers("```layers\ntypes:\nmeta: types\ncli: types meta\n```");
    assert!(order_faults(&layers).is_empty());
    assert_eq!(order_faults(&vec![("types".into(), vec!["cli".into()])]).len(), 1);

    let import = |file: &str, text: &str| import_faults(file, text, &layers).len();
    assert_eq!(import("src/meta/key.rs", "use crate::types::Ino;\n// crate::cli, Instant"), 0);
    assert_eq!(import("src/meta/key.rs", "FsError::BadInstant"), 0);
    assert_eq!(import("src/meta/key.rs", "use crate::cli::mount;"), 1, "upward");
    assert_eq!(import("src/meta/key.rs", "use crate::{types, cli};"), 1, "grouped");
    assert_eq!(import("src/meta/key.rs", "let now = Instant::now();"), 1, "impure");
    assert_eq!(import("src/net/mod.rs", ""), 1, "not in the document");

    let form = |file: &str, text: &str| form_faults(file, text).len();
    assert_eq!(form("src/meta/key.rs", "//! Keys.\nuse super::*;\n"), 0);
    assert_eq!(form("src/meta/key.rs", "use std::fs;"), 1, "no purpose");
    assert_eq!(form("src/meta/key.rs", &format!("//! Keys.\n{}", "\n".repeat(800))), 1, "long");
    assert_eq!(form("src/meta/util.rs", "//! Things."), 1, "a drawer");
    assert_eq!(form("src/meta/key.rs", "//! Keys.\npub use crate::types::*;"), 1, "a glob");

    let unfinished = format!("// {}{}: later", NEVER[0].0, NEVER[0].1);
    assert_eq!(word_faults("src/lib.rs", &unfinished).len(), 1);

    let function = format!("    pub fn f() {{\n{}    }}\n", "        g();\n".repeat(70));
    assert_eq!(long_functions("src/lib.rs", &function).len(), 1);
    assert_eq!(long_functions("src/lib.rs", "fn f() {\n    g();\n}\n").len(), 0);
    let declared = format!("    fn f();\n{}    }}\n", "        g();\n".repeat(70));
    assert_eq!(long_functions("src/lib.rs", &declared).len(), 0);

    let table = |row: &str| format!("| promise | test |\n|---|---|\n{row}\n");
    let promise = |row: &str| promise_faults(&table(row), "fn it_holds() {");
    assert_eq!(promise("| it holds | `it::mount::it_holds` |"), (1, vec![]));
    assert_eq!(promise("| it holds | `it_does_not` |").1.len(), 1);
    assert_eq!(promise("| it holds | |").1.len(), 1);
}
