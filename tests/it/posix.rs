//! Runs pjdfstest and fsx, which are not ours, on a real mount.
//!
//! `tests/posix/tools` installs them. What does not pass must be argued in `tests/posix/exclusions.txt`, and a line
//! there that is no longer needed is a failure too. On the ext4 of a Debian 12 machine pjdfstest passes 385 tests
//! and skips 13, fsx passes: the baseline.

use crate::support;
use crate::support::Mount;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Where the programs are, installed if need be.
fn tools() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/posix/tools");
    let output = support::run(&mut Command::new(script));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// What became of one test of the suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Skipped,
    Failed,
}

/// Users that every Debian has: the suite wants two that are not root, each in a group of its own.
/// The second file system is for the tests of EXDEV.
const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
secondary_fs = "/dev/shm"
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// The outcome of each test, from lines `name … ok|FAILED|skipped`; what a test says stands indented below.
fn parse(report: &str) -> BTreeMap<String, Outcome> {
    let outcome = |word: &str| match word {
        "ok" => Some(Outcome::Passed),
        "skipped" => Some(Outcome::Skipped),
        "FAILED" => Some(Outcome::Failed),
        _ => None,
    };
    let mut found = BTreeMap::new();
    for line in
        report.lines().filter(|line| line.contains("::") && !line.starts_with(char::is_whitespace))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, .., last] = words[..]
            && let Some(outcome) = outcome(last)
        {
            found.insert(name.to_owned(), outcome);
        }
    }
    found
}

/// Whether a name fits a pattern in which `*` stands for any run of characters.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).any(|cut| tail.is_char_boundary(cut) && fits(rest, &tail[cut..]))
        }),
    }
}

/// Everything that is wrong with the outcomes, given the exclusions.
fn faults(outcomes: &BTreeMap<String, Outcome>, exclusions: &str) -> Vec<String> {
    let lines = exclusions.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let patterns: Vec<&str> = lines
        .map(|line| {
            let (pattern, reason) = line.split_once(' ').unwrap_or((line, ""));
            assert!(!reason.trim().is_empty(), "exclusion without a reason: {pattern}");
            pattern
        })
        .collect();
    let excluded = |name: &str| patterns.iter().any(|pattern| fits(pattern, name));
    let bad = outcomes.iter().filter(|(_, outcome)| **outcome != Outcome::Passed);
    let mut faults: Vec<String> = bad
        .clone()
        .filter(|(name, _)| !excluded(name))
        .map(|(name, outcome)| {
            format!("{name}: {outcome:?}, and not in tests/posix/exclusions.txt")
        })
        .collect();
    for pattern in patterns {
        if !bad.clone().any(|(name, _)| fits(pattern, name)) {
            faults.push(format!(
                "{pattern}: excluded, but nothing that it names fails or is skipped"
            ));
        }
    }
    faults
}

#[test]
fn an_exclusion_must_be_needed_and_a_failure_must_be_excluded() {
    let report = "open::a ok\nopen::b   FAILED\n\tpanicked at open::c ok\nlink::erofs_x skipped\nSummary: 1 failed\n";
    let outcomes = parse(report);
    assert_eq!(outcomes.len(), 3);
    assert_eq!(faults(&outcomes, "open::b why\n*::erofs_* why\n"), [""; 0]);
    assert_eq!(faults(&outcomes, "*::erofs_* why\n").len(), 1, "a new failure");
    assert_eq!(
        faults(&outcomes, "# note\nopen::* why\n*::erofs_* why\nopen::a why\n").len(),
        1,
        "a stale line"
    );
}

#[test]
fn pjdfstest() {
    let scratch = support::scratch();
    let mount = Mount::create(&scratch.path().join("store"), &scratch.path().join("mnt"));
    // The suite becomes other users, who have to reach its directory.
    support::sh(scratch.path(), "chmod 755 . mnt");
    let config = scratch.path().join("pjdfstest.toml");
    std::fs::write(&config, PJDFSTEST).unwrap();
    let run = |tests: &[String]| {
        let mut suite = Command::new(tools().join("pjdfstest"));
        suite.arg("-c").arg(&config).arg("-p").arg(mount.dir());
        if !tests.is_empty() {
            suite.arg("--exact").args(tests);
        }
        suite.output().unwrap()
    };
    let output = run(&[]);
    let report = String::from_utf8_lossy(&output.stdout);
    let mut outcomes = parse(&report);
    // The suite runs its tests in one process that forks: a program it has just written may be busy because a child of
    // another test still holds it open. So what failed runs once more, one by one.
    for (name, outcome) in &mut outcomes {
        if *outcome == Outcome::Failed {
            let again = parse(&String::from_utf8_lossy(&run(std::slice::from_ref(name)).stdout));
            *outcome = again.get(name).copied().unwrap_or(Outcome::Failed);
        }
    }
    let count = |wanted| outcomes.values().filter(|outcome| **outcome == wanted).count();
    let (passed, failed) = (count(Outcome::Passed), count(Outcome::Failed));
    println!("pjdfstest: {passed} passed, {failed} failed, {} skipped", count(Outcome::Skipped));
    assert!(
        outcomes.len() >= 398,
        "the suite did not finish:\n{report}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let faults = faults(&outcomes, include_str!("../posix/exclusions.txt"));
    assert!(faults.is_empty(), "{}\n\n{report}", faults.join("\n"));
    mount.close();
}

/// fsx with every kind of operation it knows. The sizes aim at the ways a file is kept: inline, in one block, over
/// several regions; the weights at what makes versions: closing and syncing.
const FSX: [(&str, &str); 4] = [
    (
        "inline",
        "flen = 9000\n[opsize]\nmin = 1\nmax = 700\n[weights]\nclose_open = 5\nfsync = 1\nposix_fallocate = 1\n",
    ),
    (
        "mixed",
        "flen = 262144\n[opsize]\nmin = 1\nmax = 65536\n[weights]\nclose_open = 1\nfsync = 1\nposix_fallocate = 1\n",
    ),
    (
        "regions",
        "flen = 4000000\n[opsize]\nmin = 1\nmax = 300000\n[weights]\nclose_open = 1\nfsync = 0.2\nposix_fallocate = 1\n",
    ),
    // Without fallocate: with aligned sizes fsx asks for zero bytes of it now and then, which no file system takes.
    (
        "blocks",
        "flen = 2097152\n[opsize]\nalign = 4096\nmin = 4096\nmax = 131072\n[weights]\nclose_open = 3\nfsync = 0\n",
    ),
];
const FSX_WEIGHTS: &str = "read = 10\nwrite = 10\nmapread = 5\nmapwrite = 5\ninvalidate = 1\ntruncate = 3\n\
    fdatasync = 0.5\npunch_hole = 3\nsendfile = 2\nposix_fadvise = 1\ncopy_file_range = 2\n";

#[test]
fn fsx() {
    let scratch = support::scratch();
    let store = scratch.path().join("store");
    let mount = Mount::create(&store, &scratch.path().join("mnt"));
    let fsx = tools().join("fsx");
    let seeds = support::setting("TSFS_TEST_FSX_SEEDS").unwrap_or(1);
    let mut files = Vec::new();
    for seed in 1..=seeds {
        for (name, sizes) in FSX {
            let config = scratch.path().join(format!("{name}.toml"));
            std::fs::write(&config, format!("{sizes}{FSX_WEIGHTS}")).unwrap();
            let file = mount.join(format!("{name}-{seed}"));
            let mut run = Command::new(&fsx);
            run.arg("-f").arg(&config).args(["-N", "10000", "-S", &seed.to_string()]);
            support::run(run.arg("-P").arg(scratch.path()).arg(&file));
            files.push(format!("{name}-{seed}"));
        }
    }
    println!("fsx: {} runs of 10000 operations passed", files.len());
    // What fsx last read back came from the mount that wrote it; a new one has to say the same.
    let sum = format!("sha256sum {}", files.join(" "));
    let before = support::sh(mount.dir(), &sum);
    mount.close();
    let mount = Mount::open(&store, &scratch.path().join("mnt"));
    assert_eq!(support::sh(mount.dir(), &sum), before);
    mount.close();
}
