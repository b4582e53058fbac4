//! The commands from outside, on real mounts: what each prints, what it answers to bad input, and its exit code.

use crate::support::Mount;
use crate::support::Point;
use crate::support::mounted;
use crate::support::run;
use crate::support::scratch;
use crate::support::sh;
use crate::support::tsfs;
use crate::support::unmount;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use tempfile::TempDir;

/// Runs `tsfs` in a directory: exit code, standard output, standard error.
fn tsfs_in(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = tsfs();
    command.args(arguments).current_dir(dir).env("TZ", "Europe/Berlin");
    told(&command.output().unwrap())
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// What it prints, if it succeeds.
fn done(dir: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = tsfs_in(dir, arguments);
    assert_eq!(code, 0, "tsfs {arguments:?}:\n{out}{err}");
    out
}

/// The objects it prints with `--json`.
fn objects(dir: &Path, arguments: &[&str]) -> Vec<Value> {
    let out = done(dir, &[arguments, &["--json"]].concat());
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// That it fails with this code and a sentence that has this in it.
fn refused(dir: &Path, arguments: &[&str], code: i32, sentence: &str) {
    let (got, out, err) = tsfs_in(dir, arguments);
    assert_eq!(got, code, "tsfs {arguments:?}:\n{out}{err}");
    assert!(err.contains(sentence), "tsfs {arguments:?} said:\n{err}");
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no text '{key}' in {value}")).to_owned()
}

struct World {
    scratch: TempDir,
}

impl World {
    fn new() -> World {
        World { scratch: scratch() }
    }

    fn store(&self) -> PathBuf {
        self.scratch.path().join("store")
    }

    fn mnt(&self) -> PathBuf {
        self.scratch.path().canonicalize().unwrap().join("mnt")
    }

    fn mount(&self) -> Mount {
        Mount::create(&self.store(), &self.mnt())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        unmount(&self.mnt());
    }
}

#[test]
fn mount_returns_when_ready_and_umount_when_all_is_on_disk() {
    let world = World::new();
    fs::create_dir(world.mnt()).unwrap();
    let (store, mnt) = (world.store(), world.mnt());
    let (store, at) = (store.to_str().unwrap(), mnt.to_str().unwrap());
    let root = Path::new("/");
    let said = done(root, &["mount", "--create", store, at]);
    assert!(said.contains("history is kept for 1y"), "{said}");
    assert_eq!(mounted(&mnt).as_deref(), Some("fuse.tsfs"));
    fs::write(mnt.join("file"), "kept").unwrap();
    let other = world.scratch.path().join("other");
    fs::create_dir(&other).unwrap();
    let other = other.to_str().unwrap();
    refused(root, &["mount", store, other], 1, "is in use by process");
    refused(root, &["mount", store, other], 1, &format!("mounted at {at}"));
    refused(root, &["mount", store, at], 1, "is mounted at");
    done(root, &["umount", at]);
    assert_eq!(mounted(&mnt), None);
    // At once, without waiting for anything: umount did.
    done(root, &["mount", store, at, "-o", "noatime,write.window=5ms"]);
    assert_eq!(fs::read_to_string(mnt.join("file")).unwrap(), "kept");
    assert!(sh(&mnt, "findmnt -no OPTIONS --target .").contains("noatime"));
    done(root, &["umount", at]);
    assert!(world.store().join("tsfs.log").exists(), "the log of a mount in the background");
}

#[test]
fn a_mount_point_whose_server_was_killed_is_cleaned() {
    let world = World::new();
    let mount = world.mount();
    let point_dir = mount.dir().to_owned();
    let point = mount.kill();
    let inside = format!("{}/x", point_dir.display());
    let (code, _, err) = tsfs_in(Path::new("/"), &["log", &inside]);
    assert_eq!(code, 1);
    assert!(err.contains("process behind the mount") && err.contains("is gone"), "{err}");
    let again = Mount::with(&[], &world.store(), point);
    fs::write(again.join("file"), "x").unwrap();
    again.close();
}

#[test]
fn sigterm_loses_nothing_and_sighup_does_nothing() {
    let world = World::new();
    let mount = world.mount();
    run(Command::new("kill").args(["-HUP", &mount.pid().to_string()]));
    for n in 0..200 {
        fs::write(mount.join(format!("file{n}")), n.to_string()).unwrap();
    }
    // A file that is held open makes the mount busy, and is kept all the same.
    let mut busy = fs::File::create(mount.join("busy")).unwrap();
    std::io::Write::write_all(&mut busy, b"written, not closed").unwrap();
    mount.close();
    drop(busy);
    let mount = Mount::open(&world.store(), &world.mnt());
    for n in 0..200 {
        assert_eq!(fs::read_to_string(mount.join(format!("file{n}"))).unwrap(), n.to_string());
    }
    assert_eq!(fs::read_to_string(mount.join("busy")).unwrap(), "written, not closed");
    mount.close();
}

#[test]
fn a_busy_mount_names_who_uses_it() {
    let world = World::new();
    let mount = world.mount();
    let open = fs::File::create(mount.join("file")).unwrap();
    let at = world.mnt();
    let at = at.to_str().unwrap();
    refused(Path::new("/"), &["umount", at], 1, &format!("(process {})", std::process::id()));
    drop(open);
    done(Path::new("/"), &["umount", at]);
    refused(Path::new("/"), &["umount", at], 1, "nothing is mounted at");
    refused(Path::new("/"), &["umount", "/proc"], 1, "is no tsfs mount");
}

#[test]
fn log_shows_versions_that_can_be_read_at_their_times() {
    let world = World::new();
    let mount = world.mount();
    let dir = mount.dir();
    for contents in ["one", "two two", "three three three"] {
        fs::write(dir.join("note"), contents).unwrap();
    }
    fs::remove_file(dir.join("note")).unwrap();
    let rows = objects(dir, &["log", "note"]);
    let sizes: Vec<_> = rows.iter().map(|row| row["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes.first(), Some(&17), "{rows:?}");
    assert!(sizes.contains(&3) && sizes.contains(&7), "{sizes:?}");
    assert!(!rows[0]["to"].is_null(), "it is deleted");
    for row in &rows {
        let at = dir.join(".tsfs/at").join(text(row, "from")).join("note");
        assert_eq!(fs::read(&at).unwrap().len() as u64, row["size"].as_u64().unwrap(), "{row}");
    }
    let human = done(dir, &["log", "note"]);
    assert!(human.lines().next().unwrap().ends_with("deleted"), "{human}");
    assert!(human.lines().last().unwrap().ends_with("created"), "{human}");
    let (rfc, offset) = (&rows[0]["from"].as_str().unwrap()[..4], "+0");
    assert!(human.contains(rfc) && human.contains(offset), "in the user's zone: {human}");
    assert_eq!(objects(dir, &["log", "-n", "1", "note"]).len(), 1);
    refused(dir, &["log", "never"], 1, "never was there");
    // While a file is being rewritten there is no version of it, but it is not deleted.
    fs::write(dir.join("rewritten"), "first").unwrap();
    let mut file = fs::File::create(dir.join("rewritten")).unwrap();
    done(dir, &["sync"]);
    std::io::Write::write_all(&mut file, b"second").unwrap();
    drop(file);
    let log = done(dir, &["log", "rewritten"]);
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(log.contains("contents") && !log.contains("deleted"), "{log}");
    assert!(objects(dir, &["log", "rewritten"]).iter().all(|row| row["gone"].is_null()));
    mount.close();
}

#[test]
fn diff_restore_and_undelete_go_back_and_can_be_undone() {
    let world = World::new();
    let mount = world.mount();
    let dir = mount.dir();
    sh(
        dir,
        "mkdir -p src/deep; echo a >src/a; echo b >src/b; echo c >src/deep/c; ln -s a src/link",
    );
    done(dir, &["mark", "before", "--note", "the first"]);
    sh(
        dir,
        "echo A >src/a; rm src/b; echo new >src/new; chmod 600 src/deep/c; mv src/link src/renamed",
    );

    let changes = objects(dir, &["diff", "src", "--from", "mark:before"]);
    let change = |path: &str| {
        let row = changes.iter().find(|row| row["path"] == path);
        row.map(|row| text(row, "change")).unwrap_or_default()
    };
    assert_eq!(change("a"), "changed", "{changes:?}");
    assert_eq!(change("b"), "removed");
    assert_eq!(change("new"), "added");
    assert_eq!(change("deep/c"), "attributes");
    assert_eq!(change("renamed"), "renamed");
    let patch = done(dir, &["diff", "src/a", "--from", "mark:before"]);
    assert!(patch.contains("-a\n+A\n"), "{patch}");
    assert!(done(dir, &["diff", "src/a", "--from", "now"]).contains("no change"));

    let listed = objects(dir, &["undelete", "--list", "src"]);
    assert!(listed.iter().any(|row| row["name"] == "b"), "{listed:?}");
    done(dir, &["undelete", "src/b", "--dry-run"]);
    assert!(!dir.join("src/b").exists());
    done(dir, &["undelete", "src/b"]);
    assert_eq!(fs::read_to_string(dir.join("src/b")).unwrap(), "b\n");
    refused(dir, &["undelete", "src/b"], 1, "\"b\" is there; 'tsfs log'");
    done(dir, &["undelete", "src/link", "--to", "link2"]);
    assert_eq!(fs::read_link(dir.join("src/link2")).unwrap(), Path::new("a"));

    done(dir, &["mark", "between"]);
    let plan = done(dir, &["restore", "src", "--at", "mark:before", "--remove", "--dry-run"]);
    assert!(plan.contains("nothing was changed"), "{plan}");
    assert_eq!(fs::read_to_string(dir.join("src/a")).unwrap(), "A\n");
    done(dir, &["restore", "src", "--at", "mark:before", "--remove"]);
    assert_eq!(sh(dir, "diff -r src .tsfs/marks/before/src; ls src"), "a\nb\ndeep\nlink\n");
    assert_eq!(sh(dir, "stat -c %a src/deep/c").trim(), "644");
    done(dir, &["restore", "src", "--at", "mark:between", "--remove"]);
    assert_eq!(sh(dir, "diff -r src .tsfs/marks/between/src; cat src/a"), "A\n");
    let again = done(dir, &["restore", "src", "--at", "mark:between", "--remove"]);
    assert!(again.contains("nothing to change"), "{again}");
    refused(dir, &["restore", "src", "--at", "now"], 1, "an instant of the past");
    mount.close();
}

#[test]
fn what_was_removed_in_several_batches_comes_back_whole() {
    let world = World::new();
    let options = ["--create", "-o", "write.window=10s"];
    let mount = Mount::with(&options, &world.store(), Point::new(&world.mnt()));
    let dir = mount.dir();
    sh(dir, "mkdir -p tree/a/b; touch tree/a/b/{1..9}; touch tree/a/{1..9}");
    // The files go with one batch, all directories with the next.
    sh(dir, "find tree -type f -delete");
    done(dir, &["sync"]);
    sh(dir, "rm -r tree");
    let shown = done(dir, &["undelete", "tree"]);
    assert_eq!(sh(dir, "find tree -type f | wc -l").trim(), "18", "{shown}");
    mount.close();
}

#[test]
fn a_tree_is_restored_many_files_at_a_time() {
    let world = World::new();
    let mount = world.mount();
    let dir = mount.dir();
    sh(
        dir,
        "mkdir -p tree/a; for n in $(seq 400); do echo $n >tree/a/$n; done; ln tree/a/7 tree/link",
    );
    done(dir, &["mark", "whole"]);
    let entries = || objects(dir, &["status"])[0]["applied"].as_u64().unwrap();
    let sums = || sh(dir, "cd tree && find . -type f | sort | xargs md5sum; stat -c %h a/7");
    let before = sums();
    sh(dir, "rm -r tree");
    let mut begun = entries();
    let shown = done(dir, &["undelete", "tree"]);
    assert_eq!(shown.lines().filter(|line| line.starts_with("+ a/")).count(), 400, "{shown}");
    assert!(entries() - begun < 100, "{} batches for 400 files", entries() - begun);
    assert_eq!(sums(), before, "links as well");
    sh(dir, "for n in $(seq 400); do echo changed >tree/a/$n; done");
    begun = entries();
    done(dir, &["restore", "tree", "--at", "mark:whole"]);
    assert!(entries() - begun < 100, "{} batches for 400 files", entries() - begun);
    assert_eq!(sums(), before);
    mount.close();
}

#[test]
fn marks_name_instants_until_they_are_removed() {
    let world = World::new();
    let mount = world.mount();
    let dir = mount.dir();
    sh(dir, "echo 1 >file");
    done(dir, &["mark", "one", "--note", "a note"]);
    sh(dir, "echo 2 >file; mkdir .tsfs/marks/two; echo 3 >file");
    let marks = objects(dir, &["marks"]);
    let names: Vec<_> = marks.iter().map(|mark| text(mark, "name")).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(text(&marks[0], "note"), "a note");
    assert_eq!(sh(dir, "cat .tsfs/marks/one/file .tsfs/marks/two/file file"), "1\n2\n3\n");
    refused(dir, &["mark", "one"], 1, "tsfs: there is a mark \"one\" already");
    done(dir, &["mark", "--remove", "one"]);
    refused(dir, &["mark", "--remove", "one"], 1, "there is no mark \"one\"");
    refused(dir, &["mark", ""], 1, "a mark has a name");
    refused(dir, &["mark", "a/b"], 1, "no slash");
    assert_eq!(objects(dir, &["marks"]).len(), 1);
    mount.close();
}

#[test]
fn the_log_tells_who_did_it() {
    let world = World::new();
    let mount = world.mount();
    let dir = mount.dir();
    let other = |line: &str| {
        let user = "setpriv --reuid 65534 --regid 65534 --clear-groups bash -c";
        sh(dir, &format!("{user} '{line}'"));
    };
    sh(dir, "chmod 777 .; echo 1 >file; chmod 666 file");
    other("echo 2 >>file");
    sh(dir, "echo 3 >>file");
    other("touch theirs; mv file moved");
    sh(dir, "chmod 600 theirs");
    let by = |file| -> Vec<_> {
        let versions = objects(dir, &["log", file]);
        versions.iter().map(|version| version["by"].as_u64().unwrap()).collect()
    };
    assert_eq!(by("theirs"), [65534], "made, not what was changed about it later");
    assert_eq!(by("file"), [0, 65534, 0]);
    assert_eq!(by("moved"), [65534], "who gave it the name");
    let shown = done(dir, &["log", "file"]);
    assert!(shown.contains("contents by user 65534"), "{shown}");
    mount.close();
    done(Path::new("/"), &["fsck", world.store().to_str().unwrap()]);
}

#[test]
fn the_past_of_a_large_tree_is_forgotten_a_part_at_a_time() {
    let world = World::new();
    let mount = world.mount();
    let dir = mount.dir();
    // More files than a purge holds at a time, each with an earlier version, and others beside them.
    sh(dir, "mkdir tree; echo 1 >other; echo 2 >other");
    sh(dir, "for from in 10000 20000; do seq $from $((from+2299)) | split -l1 -a4 - tree/f; done");
    let plan = |path| objects(dir, &["purge", "--before", "now", path, "--dry-run"])[0].clone();
    let versions = |path| plan(path)["versions"].as_u64().unwrap();
    assert!(versions("tree") >= 2300, "{}", plan("tree"));
    let others = versions("other");
    done(dir, &["purge", "--before", "now", "tree"]);
    assert_eq!(versions("tree"), 0, "{}", plan("tree"));
    assert_eq!(versions("other"), others);
    assert_eq!(
        sh(dir, "cat tree/* | sed -n 1,3p; cat tree/* | wc -l"),
        "20000\n20001\n20002\n2300\n"
    );
    assert_eq!(objects(dir, &["log", "tree/faaaa"]).len(), 1);
    mount.close();
    done(Path::new("/"), &["fsck", world.store().to_str().unwrap()]);
}

#[test]
fn purge_forgets_what_it_said_and_marks_keep_theirs() {
    let world = World::new();
    let mount = world.mount();
    let dir = mount.dir();
    sh(dir, "echo 1 >file; echo 1 >other");
    done(dir, &["mark", "kept"]);
    sh(dir, "for n in 2 3 4 5; do echo $n >file; echo $n >other; done");
    let before = objects(dir, &["log", "file"]).len();
    let plan = &objects(dir, &["purge", "--before", "now", "file", "--dry-run"])[0];
    assert!(plan["versions"].as_u64().unwrap() > 0, "{plan}");
    assert_eq!(objects(dir, &["log", "file"]).len(), before);
    done(dir, &["purge", "--before", "now", "file"]);
    assert!(objects(dir, &["log", "file"]).len() < before);
    assert_eq!(sh(dir, "cat file .tsfs/marks/kept/file"), "5\n1\n");
    assert!(objects(dir, &["log", "other"]).len() >= 5, "only the named file was purged");
    done(dir, &["purge", "--before", "now", world.mnt().to_str().unwrap()]);
    assert_eq!(sh(dir, "cat other .tsfs/marks/kept/other"), "5\n1\n");
    refused(dir, &["purge", "--before", "tomorrow"], 1, "is no instant");
    // What is kept can be read under the name that it is listed by, though it began before the oldest instant.
    assert_eq!(sh(dir, "cd .tsfs/versions/other && cat *"), "1\n5\n");
    assert_eq!(sh(dir, "cp -a .tsfs/versions/other was && cat was/*"), "1\n5\n");
    let log = done(dir, &["log", "other"]);
    assert_eq!(log.matches("history begins").count(), 1, "{log}");
    assert!(!log.contains("deleted") && !log.contains("created"), "{log}");
    mount.close();
}

#[test]
fn retention_and_history_are_shown_and_set() {
    let world = World::new();
    let mount = Mount::with(
        &["--create", "-o", "history.age=30d,history.disk=none"],
        &world.store(),
        Point::new(&world.mnt()),
    );
    let dir = mount.dir();
    assert!(done(dir, &["retention"]).contains("kept for 30d, however full"));
    done(dir, &["retention", "--age", "forever", "--disk", "70%"]);
    assert_eq!(objects(dir, &["retention"])[0].to_string(), r#"{"age":null,"disk_percent":70}"#);

    sh(dir, "mkdir build");
    assert!(done(dir, &["history", "show", "build"]).ends_with("is on\n"));
    done(dir, &["history", "off", "build"]);
    sh(dir, "for n in 1 2 3; do echo $n >build/file; done; echo 3 >beside; echo 4 >beside");
    assert!(done(dir, &["history", "show", "build"]).ends_with("is off\n"));
    assert_eq!(objects(dir, &["log", "build/file"]).len(), 1, "only what is there now");
    assert!(objects(dir, &["log", "beside"]).len() >= 2);
    mount.close();
    let mount = Mount::open(&world.store(), &world.mnt());
    assert!(done(mount.dir(), &["retention"]).contains("kept for ever"), "it lives in the store");
    mount.close();
}

#[test]
fn status_tells_of_a_mount_and_of_a_store() {
    let world = World::new();
    let mount = world.mount();
    let dir = mount.dir();
    sh(dir, "head -c 100000 /dev/zero >zeros; echo x >zeros; echo y >zeros");
    done(dir, &["sync"]);
    let status = &objects(dir, &["status"])[0];
    assert_eq!(status["files"], 2, "the root and a file: {status}");
    assert!(status["versions"].as_u64().unwrap() > 0, "{status}");
    assert!(status["counters"]["fuse_requests"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(status["health"], Value::Array(vec![]));
    let store = world.store();
    let store = store.to_str().unwrap();
    // Retention of a year makes the horizon older than a store of today: everything is still there.
    done(dir, &["purge", "--before", "1990-01-01"]);
    assert_eq!(objects(dir, &["status"])[0]["oldest"], 0);
    done(dir, &["purge", "--before", "now"]);
    let status = &objects(dir, &["status"])[0];
    assert!(status["oldest"].as_u64().unwrap() > 0, "{status}");
    assert!(status["counters"]["purged_versions"].as_u64().unwrap() > 0, "{status}");
    let same = &objects(Path::new("/"), &["status", store])[0];
    assert_eq!(same["store"], status["store"], "a mounted store is asked through its mount");
    mount.close();
    let closed = done(Path::new("/"), &["status", store]);
    assert!(closed.contains("health    good") && closed.contains("2 files"), "{closed}");
    assert_eq!(objects(Path::new("/"), &["status", store])[0]["store"], status["store"]);
}

#[test]
fn the_past_can_be_mounted_and_not_written() {
    let world = World::new();
    let mount = world.mount();
    sh(mount.dir(), "echo then >file");
    let at = text(&objects(mount.dir(), &["mark", "then"])[0], "at");
    sh(mount.dir(), "echo now >file; touch new");
    mount.close();
    let past = Mount::with(&["-o", &format!("at={at}")], &world.store(), Point::new(&world.mnt()));
    assert_eq!(sh(past.dir(), "cat file; ls"), "then\nfile\n");
    let refusal = fs::write(past.join("file"), "x").unwrap_err();
    assert_eq!(refusal.raw_os_error(), Some(libc::EROFS));
    refused(past.dir(), &["log", "file"], 1, "is in a mount of the past");
    past.close();
    let ro = Mount::with(&["-o", "ro"], &world.store(), Point::new(&world.mnt()));
    assert_eq!(sh(ro.dir(), "cat file .tsfs/marks/then/file"), "now\nthen\n");
    refused(ro.dir(), &["log", "file"], 1, "is mounted read-only");
    ro.close();
    let (scratch, mnt) = (world.scratch.path(), world.mnt());
    let mnt = mnt.to_str().unwrap();
    let at = |store: &'static str, more| ["mount", more, store, mnt, "-o", "at=2001-01-01"];
    refused(scratch, &at("store", "--foreground"), 1, "nothing to show at 2001-01-01T00:00:00");
    refused(scratch, &at("fresh", "--create"), 1, "has no past");
    assert!(!scratch.join("fresh").exists(), "nothing was made");
}

#[test]
fn files_are_called_as_they_were_named() {
    let world = World::new();
    let mount = world.mount();
    let dir = mount.dir();
    sh(dir, "mkdir p; echo 1 >p/file");
    done(dir, &["mark", "then"]);
    sh(dir, "echo 22 >p/file");
    let shown = done(dir, &["diff", "p/file", "--from", "mark:then"]);
    assert!(shown.starts_with("~ p/file  2 B → 3 B\n"), "{shown}");
    let shown = done(dir, &["restore", "p/file", "--at", "mark:then"]);
    assert!(shown.starts_with("~ p/file  3 B → 2 B\n"), "{shown}");
    sh(dir, "rm p/file");
    let shown = done(dir, &["undelete", "p/file", "--to", "again"]);
    assert!(shown.starts_with("+ p/again  2 B\n"), "{shown}");
    sh(dir, "seq 3000000 >large");
    done(dir, &["mark", "large"]);
    sh(dir, "echo more >>large");
    let shown = done(dir, &["diff", "large", "--from", "mark:large"]);
    assert!(shown.contains("larger than 16 MiB") && !shown.contains("+++"), "{shown}");
    refused(dir, &["undelete", "p/again"], 1, "p/again: \"again\" is there");
    refused(dir, &["undelete", "p/never"], 1, "nothing named \"never\" was deleted here");
    refused(dir, &["log", "."], 1, "tsfs: the top of the mount has no name");
    sh(dir, "rm -r p");
    refused(dir, &["restore", "p/file", "--at", "mark:then"], 1, "there is no directory \"p\" now");
    mount.close();
}

#[test]
fn fsck_finds_a_clean_store_clean_and_a_damaged_one_damaged() {
    let world = World::new();
    let mount = world.mount();
    // Incompressible, so that there are blocks in segments to be damaged.
    sh(mount.dir(), "head -c 3000000 /dev/urandom >noise; mkdir d; echo x >d/file; rm d/file");
    let store = world.store();
    let store = store.to_str().unwrap();
    refused(Path::new("/"), &["fsck", store], 8, "is in use by process");
    mount.close();
    let clean = done(Path::new("/"), &["fsck", store]);
    assert!(clean.contains("clean"), "{clean}");
    assert_eq!(objects(Path::new("/"), &["fsck", store]).last().unwrap()["faults"], 0);
    flip_a_byte_of_the_largest(&world.store().join("blocks"));
    let (code, out, err) = tsfs_in(Path::new("/"), &["fsck", store]);
    assert_eq!(code, 4, "{out}{err}");
    assert!(out.contains("block"), "it says what is damaged: {out}");
    assert!(out.contains("damaged file: noise\n"), "and whose contents that are: {out}");
    assert!(out.contains("cannot be repaired; restore the files above"), "{out}");
    let mount = Mount::open(&world.store(), &world.mnt());
    fs::read(mount.join("noise")).unwrap_err();
    let (code, out, err) = tsfs_in(mount.dir(), &["status"]);
    assert_eq!(code, 1, "{err}");
    assert!(out.contains("health    damaged blocks were met"), "{out}");
    fs::create_dir(mount.join("d/e")).unwrap();
    fs::rename(mount.join("noise"), mount.join("d/e/renamed")).unwrap();
    // An instant at which it had that name.
    done(mount.dir(), &["sync"]);
    fs::remove_file(mount.join("d/e/renamed")).unwrap();
    done(mount.dir(), &["sync"]);
    // Its log has errors, as it should; a mount that is closed may have none.
    drop(mount.kill());
    let (code, out, err) = tsfs_in(Path::new("/"), &["fsck", "--repair", store]);
    assert_eq!(code, 4, "{out}{err}");
    assert!(out.contains("damaged version: d/e/renamed, as it was from "), "{out}");
    let (_, out, _) = tsfs_in(Path::new("/"), &["fsck", "--json", store]);
    let owner = out.lines().find(|line| line.contains("d/e/renamed")).expect("the file is named");
    let owner: Value = serde_json::from_str(owner).unwrap();
    assert_eq!(owner["now"], false);
}

#[test]
fn fsck_names_files_whose_contents_are_in_the_table_as_well() {
    let world = World::new();
    let mount = world.mount();
    // Of a size that travels inside the log and then lies in the table.
    sh(mount.dir(), "mkdir d; for n in 1 2 3; do head -c 20000 /dev/urandom >d/noise$n; done");
    mount.close();
    let payload = fs::read_dir(world.store().join("table")).unwrap().map(|e| e.unwrap().path());
    let payload = payload.filter(|path| path.extension().is_some_and(|kind| kind == "blob"));
    for path in payload {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&path, bytes).unwrap();
    }
    let store = world.store();
    let (code, out, err) = tsfs_in(Path::new("/"), &["fsck", store.to_str().unwrap()]);
    assert_eq!(code, 4, "{out}{err}");
    assert!(out.contains("damaged file: d/noise2\n"), "{out}");
    assert!(!out.contains("d/noise1") && !out.contains("d/noise3"), "only what is: {out}");
}

fn flip_a_byte_of_the_largest(dir: &Path) {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let largest = files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    // In the middle of what is not zeros: segments are allocated ahead.
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end / 2] ^= 0x10;
    fs::write(&largest, bytes).unwrap();
}

#[test]
fn a_store_is_closed_to_other_users() {
    let world = World::new();
    fs::create_dir(world.mnt()).unwrap();
    let (store, mnt) = (world.store(), world.mnt());
    done(Path::new("/"), &["mount", "--create", store.to_str().unwrap(), mnt.to_str().unwrap()]);
    sh(&mnt, "head -c 300000 /dev/urandom >secret; chmod 600 secret; umask 022; touch open");
    done(&mnt, &["sync"]);
    let open = sh(&store, "find . -perm /077");
    assert_eq!(open, "", "others could read the store's files");
    assert_eq!(fs::metadata(mnt.join("open")).unwrap().permissions().mode() & 0o777, 0o644);
    done(Path::new("/"), &["umount", mnt.to_str().unwrap()]);
    done(Path::new("/"), &["fsck", "--repair", store.to_str().unwrap()]);
    assert_eq!(sh(&store, "find . -perm /077"), "");
    sh(&store, "chown -R 65534:65534 .");
    for command in ["fsck", "status"] {
        let (root, store) = (Path::new("/"), store.to_str().unwrap());
        let code = if command == "fsck" { 8 } else { 1 };
        refused(root, &[command, store], code, "belongs to user 65534");
    }
    assert_eq!(sh(&store, "find . ! -user 65534"), "", "nothing was made as root");
}

#[test]
fn bad_stores_and_mount_points_get_a_sentence() {
    let world = World::new();
    let dir = world.scratch.path();
    let mnt = world.mnt();
    fs::create_dir(&mnt).unwrap();
    refused(dir, &["mount", "nowhere", "mnt"], 1, "there is no store");
    fs::create_dir(dir.join("plain")).unwrap();
    fs::write(dir.join("plain/file"), "mine").unwrap();
    refused(dir, &["mount", "plain", "mnt"], 1, "is no store: it holds \"file\"");
    refused(dir, &["mount", "--create", "plain", "mnt"], 1, "is no store: it holds \"file\"");
    fs::create_dir(dir.join("empty")).unwrap();
    refused(dir, &["mount", "empty", "mnt"], 1, "make a store in it with --create");
    assert_eq!(fs::read_to_string(dir.join("plain/file")).unwrap(), "mine");
    refused(dir, &["fsck", "plain"], 8, "is no store");
    refused(dir, &["mount", "plain/file", "mnt"], 1, "is not a directory; give the directory of");
    refused(dir, &["status", "plain"], 1, "not in a tsfs mount");

    refused(dir, &["mount", "--create", "store", "missing"], 1, "does not exist; make it with");
    refused(dir, &["mount", "--create", "store", "plain"], 1, "is not empty; mount at an empty");
    refused(dir, &["mount", "--create", "store", "plain/file"], 1, "is not a directory");
    refused(dir, &["mount", "--create", "mnt/store", "mnt"], 1, "inside the mount point");
    assert_eq!(mounted(&mnt), None);

    Mount::create(&world.store(), &mnt).close();
    // A newer format, and a label that is none.
    let label = world.store().join("tsfs-store");
    let good = fs::read_to_string(&label).unwrap();
    fs::write(&label, good.replace("format 1", "format 999")).unwrap();
    refused(dir, &["mount", "store", "mnt"], 1, "newer tsfs");
    refused(dir, &["fsck", "store"], 8, "newer tsfs");
    fs::write(&label, good.replace("id ", "id 0")).unwrap();
    refused(dir, &["mount", "store", "mnt"], 1, "damaged");
    assert_eq!(mounted(&mnt), None);
}

#[test]
fn bad_options_settings_and_dates_get_a_sentence() {
    let world = World::new();
    let dir = world.scratch.path();
    fs::create_dir(world.mnt()).unwrap();
    let mount = |options: &'static str| ["mount", "--create", "store", "mnt", "-o", options];
    refused(dir, &mount("noatme"), 1, "did you mean 'noatime'?");
    refused(dir, &mount("write.window=never"), 1, "is no length of time");
    refused(dir, &mount("at=2026-13-01"), 1, "is no instant; write 2026-11-22T17:30");
    refused(dir, &["mount", "store", "mnt", "--set", "cache=1GiB"], 1, "did you mean 'cache.");
    refused(
        dir,
        &["mount", "store", "mnt", "--config", "none.toml"],
        1,
        "cannot read the settings",
    );
    refused(dir, &["mount", "store"], 2, "MNT");
    refused(dir, &["fsck"], 16, "STORE");
    refused(dir, &["mout"], 2, "mount");
    refused(dir, &["log", "plain"], 1, "is not in a tsfs mount");
    refused(dir, &["diff", ".", "--from", "soon"], 1, "is no instant; write 2026");
    assert!(!world.store().exists(), "nothing was made");
}

#[test]
fn an_instant_before_the_oldest_says_which_is_the_oldest() {
    let world = World::new();
    let mount = world.mount();
    let dir = mount.dir();
    sh(dir, "echo 1 >file; echo 2 >file");
    done(dir, &["purge", "--before", "now", world.mnt().to_str().unwrap()]);
    let asked = "2000-01-01T00:00:00.000000000+01:00 is before the oldest instant kept";
    refused(dir, &["diff", ".", "--from", "2000-01-01"], 1, asked);
    let asked = "2500-01-01T00:00:00.000000000+01:00 is in the future";
    refused(dir, &["diff", ".", "--from", "2500-01-01"], 1, asked);
    refused(dir, &["restore", "file", "--at", "2000-01-01"], 1, "before the oldest instant kept");
    let read = fs::read_dir(dir.join(".tsfs/at/2000-01-01")).unwrap_err();
    assert_eq!(read.raw_os_error(), Some(libc::ENODATA));
    let bad = fs::read_dir(dir.join(".tsfs/at/soon")).unwrap_err();
    assert_eq!(bad.raw_os_error(), Some(libc::ENOENT));
    mount.close();
}

#[test]
fn output_that_nobody_reads_ends_quietly() {
    let world = World::new();
    let mount = world.mount();
    sh(mount.dir(), "for n in $(seq 50); do echo $n >file; done");
    let line = format!("{} log file | head -1", env!("CARGO_BIN_EXE_tsfs"));
    let output =
        Command::new("bash").args(["-c", &line]).current_dir(mount.dir()).output().unwrap();
    let (_, out, err) = told(&output);
    assert_eq!(out.lines().count(), 1);
    assert_eq!(err, "");
    mount.close();
}

#[test]
fn mount_of_the_system_mounts_and_umount_waits() {
    let world = World::new();
    fs::create_dir(world.mnt()).unwrap();
    // The helpers as installed, but with the program under test and without touching /sbin.
    let bin = world.scratch.path().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tsfs"), bin.join("tsfs")).unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-scripts");
    let mode = fs::metadata(scripts.join("mount.tsfs")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "executable");
    let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", bin.display());
    let script = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(scripts.join(name));
        command.args(arguments).env("PATH", &path).current_dir(world.scratch.path());
        told(&command.output().unwrap())
    };
    let (code, _, err) = script("mount.tsfs", &["store", "mnt", "-o", "rw,create,nosuid,nofail"]);
    assert_eq!(code, 0, "{err}");
    assert!(sh(&world.mnt(), "findmnt -no OPTIONS --target .").contains("nosuid"));
    assert_eq!(script("mount.tsfs", &["store", "mnt"]).0, 32);
    assert_eq!(script("umount.fuse.tsfs", &["mnt"]).0, 0);
    assert_eq!(mounted(&world.mnt()), None);
}

#[test]
fn completions_and_manual_are_made_from_the_same_text() {
    let dir = scratch();
    for shell in ["bash", "zsh", "fish"] {
        assert!(done(dir.path(), &["completions", shell]).contains("undelete"));
    }
    assert!(done(dir.path(), &["man"]).contains(".TH tsfs 1"));
    done(dir.path(), &["man", "man1"]);
    let page = fs::read_to_string(dir.path().join("man1/tsfs-restore.1")).unwrap();
    assert!(page.contains(".SH EXAMPLES\n.nf\n") && page.contains("dry\\-run"), "{page}");
    for command in ["mount", "log", "diff", "purge", "fsck", "status"] {
        let help = done(dir.path(), &[command, "--help"]);
        assert!(help.contains("Examples:"), "{command}");
    }
}
