//! The hidden `.tsfs` on a real mount: every form of an instant, versions, deletions, marks, permissions of then and
//! now, and the control file.
//!
//! Not here: what commands make of it (`cli`), whether the past is right in every corner (the model test).

use crate::mount::NOBODY;
use crate::mount::Top;
use crate::mount::as_nobody;
use crate::mount::errno;
use crate::support;
use crate::support::run;
use jiff::Timestamp;
use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::DirEntryExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Writes a file and has it synced: then it is stamped before this returns.
fn write(path: &Path, text: &str) {
    let mut file = File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.sync_all().unwrap();
}

fn now() -> Timestamp {
    Timestamp::now()
}

/// An instant between what was synced before the call and what is done after it.
fn between() -> Timestamp {
    let now = now();
    support::wait_until(Duration::from_secs(5), "the clock to move", || Timestamp::now() > now);
    now
}

fn at(top: &Top, when: Timestamp) -> PathBuf {
    top.join(format!(".tsfs/at/{when:.9}"))
}

fn listed(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_hidden_name_is_hidden_and_reserved() {
    let top = Top::new();
    fs::create_dir(top.join("dir")).unwrap();
    write(&top.join("file"), "x");
    assert_eq!(listed(&top.dir()), ["dir", "file"]);
    for dir in ["", "dir/"] {
        let hidden = top.join(format!("{dir}.tsfs"));
        assert_eq!(listed(&hidden), ["at", "control", "deleted", "marks", "versions"]);
        assert_eq!(errno(fs::create_dir(&hidden)), libc::EEXIST);
        assert_eq!(errno(fs::remove_dir(&hidden)), libc::EPERM);
        assert_eq!(errno(fs::rename(&hidden, top.join("other"))), libc::EPERM);
        assert_eq!(errno(fs::rename(top.join("file"), &hidden)), libc::EISDIR);
        assert_eq!(errno(fs::hard_link(top.join("file"), &hidden)), libc::EEXIST);
        assert_eq!(errno(File::create(&hidden)), libc::EISDIR);
        assert_eq!(errno(fs::write(hidden.join("file"), "")), libc::EROFS);
    }
    assert_eq!(errno(fs::metadata(top.join("file/.tsfs"))), libc::ENOTDIR);
    top.sh("rm -r dir");
    top.close();
}

#[test]
fn every_form_of_an_instant_leads_there() {
    let top = Top::new();
    write(&top.join("file"), "old");
    // One form has whole seconds only, so the two states are that far apart.
    let second = now().as_second() + 1;
    support::wait_until(Duration::from_secs(5), "a full second", || now().as_second() > second);
    write(&top.join("file"), "new");
    let then = Timestamp::from_second(second).unwrap();
    let berlin = then.to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(5)));
    let local = then.to_zoned(jiff::tz::TimeZone::system());
    let ago = now().as_second() - second;
    for form in [
        format!("{then}"),
        format!("{then:.9}"),
        berlin.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        local.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
        local.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        format!("@{second}"),
        format!("@{second}.5"),
        format!("{second}.000000000"),
        then.strftime("@GMT-%Y.%m.%d-%H.%M.%S").to_string(),
    ] {
        let text = fs::read_to_string(top.join(format!(".tsfs/at/{form}/file")));
        assert_eq!(text.unwrap(), "old", "{form}");
    }
    let relative = fs::read_to_string(top.join(format!(".tsfs/at/-{ago}s/file"))).unwrap();
    assert!(relative == "old" || relative == "new", "the clock decides");
    assert_eq!(fs::read_to_string(top.join(".tsfs/at/now/file")).unwrap(), "new");

    let missing = |name: &str| errno(fs::metadata(top.join(format!(".tsfs/at/{name}"))));
    for none in [".git", "garbage", "2026-13-01", "-5x", "\u{fc}"] {
        assert_eq!(missing(none), libc::ENOENT, "{none}");
    }
    assert_eq!(missing("2031-01-01"), libc::EINVAL, "the future");
    assert_eq!(missing("2001-01-01"), libc::ENOENT, "before there was anything");
    assert_eq!(missing("-1y"), libc::ENOENT);
    top.close();
}

#[test]
fn a_relative_time_moves_on() {
    let top = Top::new();
    write(&top.join("file"), "old");
    let old = now();
    let path = top.join(".tsfs/at/-2s/file");
    support::wait_until(Duration::from_secs(10), "two seconds", || {
        fs::read_to_string(&path).is_ok_and(|text| text == "old")
    });
    write(&top.join("file"), "new");
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    support::wait_until(Duration::from_secs(10), "two more seconds", || {
        fs::read_to_string(&path).unwrap() == "new"
    });
    assert_eq!(fs::read_to_string(at(&top, old).join("file")).unwrap(), "old");
    top.close();
}

#[test]
fn behind_a_relative_time_a_version_is_one_file() {
    let top = Top::new();
    fs::create_dir(top.join("dir")).unwrap();
    write(&top.join("dir/file"), "old");
    let number = |path: &Path| fs::metadata(path).unwrap().ino();
    for time in ["-1s", "now"] {
        let dir = top.join(format!(".tsfs/at/{time}/dir"));
        let file = dir.join("file");
        support::wait_until(Duration::from_secs(10), "the time to come", || file.exists());
        let numbers = (number(&dir), number(&file));
        let inside = || fs::read_dir(&dir).unwrap().next().unwrap().unwrap().ino();
        assert_eq!(inside(), numbers.1);
        write(&top.join("other"), time);
        assert_eq!((number(&dir), number(&file), inside()), (numbers.0, numbers.1, numbers.1));
        // `cp` refuses what has another number when it looks again.
        top.sh(&format!("cp -a .tsfs/at/{time}/dir copy && diff -r dir copy && rm -r copy"));
    }
    let file = top.join(".tsfs/at/now/dir/file");
    let (old, mut open) = (number(&file), File::open(&file).unwrap());
    write(&top.join("dir/file"), "new");
    assert_ne!(number(&file), old);
    assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old", "what is open stays the version it was");
    top.close();
}

#[test]
fn now_shows_what_was_done_just_before() {
    let top = Top::new();
    for n in 0..10 {
        // A directory of its own, so that nothing of its `.tsfs` is known to the kernel.
        let dir = top.join(format!("dir{n}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("file"), "not synced").unwrap();
        assert_eq!(fs::read_to_string(dir.join(".tsfs/at/now/file")).unwrap(), "not synced");
    }
    top.close();
}

#[test]
fn a_tree_is_what_it_was_under_names_it_had() {
    let mut top = Top::new();
    top.sh("mkdir -p a/b; echo 1 > a/b/one; echo 2 > a/two; ln -s two a/link; setfattr -n user.x -v 1 a/two; chmod 750 a/b; sync -f a; python3 -c 'import os; os.fsync(os.open(\"a/two\",0))'");
    let then = between();
    top.sh("mv a c; mv c/b d; rm -r d; echo changed > c/two; setfattr -n user.x -v 2 c/two; ln -sf one c/link");
    for _ in 0..2 {
        let past = at(&top, then);
        assert_eq!(listed(&past), ["a"]);
        assert_eq!(listed(&past.join("a")), ["b", "link", "two"]);
        assert_eq!(fs::read_to_string(past.join("a/b/one")).unwrap(), "1\n");
        assert_eq!(fs::read_to_string(past.join("a/link")).unwrap(), "2\n");
        assert_eq!(fs::metadata(past.join("a/b")).unwrap().mode() & 0o7777, 0o750);
        let mut value = [0u8; 8];
        assert_eq!(rustix::fs::getxattr(past.join("a/two"), "user.x", &mut value), Ok(1));
        assert_eq!(value[0], b'1');
        assert_eq!(errno(fs::metadata(past.join("c"))), libc::ENOENT);
        // The directory that is `c` now, as it was.
        let renamed = top.join("c/.tsfs/at").join(past.file_name().unwrap());
        assert_eq!(listed(&renamed), ["b", "link", "two"]);
        assert_eq!(listed(&top.dir()), ["c"]);
        top.again(&[]);
    }
    top.sh(&format!("cp -a '.tsfs/at/{then:.9}/a' back && cat back/b/one back/two"));
    run(Command::new("diff").arg("-r").arg(at(&top, then).join("a")).arg(top.join("back")));
    top.close();
}

#[test]
fn the_past_has_numbers_of_its_own_and_cannot_be_changed() {
    let top = Top::new();
    write(&top.join("file"), "same");
    fs::create_dir(top.join("dir")).unwrap();
    write(&top.join("dir/in"), "x");
    let then = between();
    let past = at(&top, then);
    for name in ["", "file", "dir", "dir/in"] {
        let (was, is) =
            (fs::metadata(past.join(name)).unwrap(), fs::metadata(top.join(name)).unwrap());
        assert_ne!(was.ino(), is.ino(), "{name}");
        assert_eq!(
            (was.len(), was.mode(), was.mtime_nsec()),
            (is.len(), is.mode(), is.mtime_nsec())
        );
        assert!(was.ino() >> 63 == 1);
    }
    // `cp` does not take them for one file.
    top.sh(&format!("cp .tsfs/at/{then:.9}/file file"));
    let file = past.join("file");
    assert_eq!(errno(File::options().write(true).open(&file)), libc::EROFS);
    assert_eq!(errno(fs::remove_file(&file)), libc::EROFS);
    assert_eq!(errno(fs::rename(&file, top.join("moved"))), libc::EROFS);
    assert_eq!(errno(fs::rename(top.join("file"), past.join("moved"))), libc::EROFS);
    assert_eq!(errno(fs::hard_link(&file, top.join("linked"))), libc::EROFS);
    assert_eq!(errno(fs::create_dir(past.join("new"))), libc::EROFS);
    assert_eq!(errno(fs::write(past.join("new"), "")), libc::EROFS);
    assert_eq!(errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o600))), libc::EROFS);
    let set = rustix::fs::setxattr(&file, "user.x", b"1", rustix::fs::XattrFlags::empty());
    assert_eq!(set, Err(rustix::io::Errno::ROFS));
    assert_eq!(errno(fs::metadata(past.join(".tsfs"))), libc::ENOENT, "no past of the past");
    top.close();
}

#[test]
fn each_version_of_a_name_is_listed_and_named_by_its_instant() {
    let mut top = Top::new();
    let texts = ["one", "second", "the third"];
    for text in texts {
        write(&top.join("file"), text);
    }
    for _ in 0..2 {
        let dir = top.join(".tsfs/versions/file");
        let names = listed(&dir);
        let read = |name: &String| fs::read_to_string(dir.join(name)).unwrap();
        let contents: Vec<String> =
            names.iter().map(read).filter(|text| !text.is_empty()).collect();
        assert_eq!(contents, texts, "names sort as their times do");
        for name in &names {
            let long = fs::metadata(dir.join(name)).unwrap();
            assert_eq!(long.len() as usize, read(name).len());
            assert_eq!(
                fs::read_to_string(top.join(format!(".tsfs/at/{name}/file"))).unwrap(),
                read(name)
            );
        }
        assert_eq!(listed(&top.join(".tsfs/versions")), ["file"]);
        top.again(&[]);
    }
    // A name that moved on keeps its own past.
    top.sh(
        "mv file other; echo fresh > file; python3 -c 'import os; os.fsync(os.open(\"file\",0))'",
    );
    let last = listed(&top.join(".tsfs/versions/file")).pop().unwrap();
    assert_eq!(
        fs::read_to_string(top.join(format!(".tsfs/versions/file/{last}"))).unwrap(),
        "fresh\n"
    );
    assert_eq!(errno(fs::metadata(top.join(".tsfs/versions/never"))), libc::ENOENT);
    top.close();
}

#[test]
fn what_was_deleted_is_listed_with_when_and_comes_back() {
    let top = Top::new();
    write(&top.join("twice"), "first life");
    let before = now();
    top.sh("rm twice");
    write(&top.join("twice"), "second life");
    write(&top.join("stays"), "stays");
    top.sh("rm twice; mkdir -p dir/a/b; echo in > dir/file; echo deep > dir/a/b/c");
    // Removed over several batches, as a big tree is: it comes back whole all the same.
    for line in ["rm dir/file", "rm -r dir/a", "rmdir dir"] {
        support::pause(Duration::from_millis(120));
        top.sh(line);
    }
    let deleted = top.join(".tsfs/deleted");
    let names = listed(&deleted);
    assert_eq!(names, ["dir", "twice"]);
    assert_eq!(fs::read_to_string(deleted.join("twice")).unwrap(), "second life");
    // Its earlier life is among its versions.
    let versions = top.join(".tsfs/versions/twice");
    let lives: Vec<_> = listed(&versions)
        .iter()
        .map(|name| fs::read_to_string(versions.join(name)).unwrap())
        .filter(|text| !text.is_empty())
        .collect();
    assert_eq!(lives, ["first life", "second life"]);
    assert!(fs::metadata(deleted.join("twice")).unwrap().ctime() >= before.as_second());
    assert_eq!(fs::read_to_string(deleted.join("dir/file")).unwrap(), "in\n");
    assert_eq!(fs::read_to_string(deleted.join("dir/a/b/c")).unwrap(), "deep\n");
    assert_eq!(errno(fs::metadata(deleted.join("stays"))), libc::ENOENT);
    top.sh("cp .tsfs/deleted/twice back; cmp back .tsfs/deleted/twice; ls -l .tsfs/deleted");
    assert_eq!(errno(fs::remove_file(deleted.join("twice"))), libc::EROFS);
    top.close();
}

#[test]
fn marks_name_instants() {
    let mut top = Top::new();
    fs::create_dir(top.join("dir")).unwrap();
    // Not synced: a mark covers everything done before.
    fs::write(top.join("dir/file"), "marked").unwrap();
    top.sh("mkdir .tsfs/marks/release");
    fs::write(top.join("dir/file"), "later").unwrap();
    for _ in 0..2 {
        assert_eq!(listed(&top.join(".tsfs/marks")), ["release"]);
        assert_eq!(fs::read_to_string(top.join(".tsfs/marks/release/dir/file")).unwrap(), "marked");
        assert_eq!(fs::read_to_string(top.join("dir/.tsfs/marks/release/file")).unwrap(), "marked");
        top.again(&[]);
    }
    let mark = top.join(".tsfs/marks/release");
    assert_eq!(errno(fs::create_dir(&mark)), libc::EEXIST);
    assert_eq!(errno(File::create(top.join(".tsfs/marks/file"))), libc::EROFS);
    assert_eq!(errno(fs::remove_dir(top.join(".tsfs/marks/none"))), libc::ENOENT);
    fs::remove_dir(&mark).unwrap();
    assert_eq!(errno(fs::metadata(&mark)), libc::ENOENT);
    assert!(listed(&top.join(".tsfs/marks")).is_empty());
    top.close();
}

#[test]
fn a_mark_needs_the_right_to_write_in_its_directory() {
    let top = Top::new();
    top.sh("mkdir open; chmod 777 open");
    let mkdir = |path: &str| as_nobody("mkdir", &[top.join(path).as_os_str()]);
    assert!(!mkdir(".tsfs/marks/mine").0);
    let (made, said) = mkdir("open/.tsfs/marks/mine");
    assert!(made, "{said}");
    // A command has no other rights than `mkdir`.
    let mark = r#"{"mark":{"name":"asked","note":""}}"#;
    let said = nobody_asks(&top.dir(), mark);
    assert!(said.contains("denied"), "{said}");
    let said = nobody_asks(&top.join("open"), mark);
    assert!(said.contains("done"), "{said}");
    top.close();
}

/// What the control file of a directory answers to somebody who is not root.
fn nobody_asks(dir: &Path, ask: &str) -> String {
    let request = format!(r#"{{"version":1,"ask":{ask}}}"#);
    let control = dir.join(".tsfs/control");
    let script = format!("exec 3<>{}; echo '{request}' >&3; cat <&3 >&2", control.display());
    as_nobody("sh", &["-c".as_ref(), script.as_ref()]).1
}

#[test]
fn commands_need_the_permission_of_then_and_of_now_as_well() {
    let top = Top::new();
    top.sh("mkdir dir; echo first > dir/inside; echo first > file; mkdir was; echo one > was/file");
    fs::create_dir(top.join(".tsfs/marks/first")).unwrap();
    top.sh("echo second > dir/inside; echo second > file; chmod 700 was; echo two > was/file");
    fs::create_dir(top.join(".tsfs/marks/second")).unwrap();
    let (from, to) = (r#"{"mark":"first"}"#, r#"{"mark":"second"}"#);
    let diff = |path: &str| {
        let ask = format!(
            r#"{{"diff":{{"path":"{path}","from":{from},"to":{to},"contents_bytes_max":100}}}}"#
        );
        nobody_asks(&top.dir(), &ask)
    };
    assert!(diff("file").contains("second") && diff("dir").contains("inside"));
    top.sh("chmod 600 file; chmod 700 dir; chmod 755 was; sync -f .");
    for path in ["file", "dir", "dir/inside"] {
        let said = diff(path);
        assert!(said.contains("denied"), "{path}: {said}");
        assert!(!said.contains("second") && !said.contains("inside\","), "{path}: {said}");
    }
    // It was shut when its second version was written, and is open now.
    let log = nobody_asks(&top.dir(), r#"{"log":{"path":"was/file"}}"#);
    assert_eq!(log.matches("version").count(), 1, "only what could be seen then: {log}");
    top.close();
}

#[test]
fn what_was_deleted_is_told_to_those_who_may_read_its_directory() {
    let top = Top::new();
    top.sh("mkdir dir; touch dir/secret; rm dir/secret; chmod 711 dir");
    let ask = || nobody_asks(&top.join("dir"), r#"{"deleted":{"path":""}}"#);
    let said = ask();
    assert!(said.contains("denied") && !said.contains("secret"), "{said}");
    top.sh("chmod 755 dir");
    let said = ask();
    assert!(said.contains("secret"), "{said}");
    top.close();
}

#[test]
fn reading_the_past_needs_the_permission_of_then_and_of_now() {
    let top = Top::new();
    top.sh("mkdir dir; echo text > dir/file; echo text > shut_then; chmod 600 shut_then; echo text > shut_now");
    top.sh("echo text > gone; python3 -c 'import os; os.fsync(os.open(\"gone\",0))'");
    let then = between();
    top.sh("chmod 644 shut_then; chmod 600 shut_now; rm gone");
    let cat = |path: &str| {
        let path = at(&top, then).join(path);
        // Root reads it first: what the kernel remembers from that must not let others in.
        assert_eq!(fs::read_to_string(&path).unwrap(), "text\n");
        as_nobody("cat", &[path.as_os_str()])
    };
    assert!(cat("dir/file").0, "both let in");
    assert!(cat("gone").0, "then let in, and there is no now");
    for shut in ["shut_then", "shut_now"] {
        let (read, said) = cat(shut);
        assert!(!read && said.contains("Permission denied"), "{shut}: {said}");
    }
    // A directory that is closed now closes everything below it in the past.
    top.sh("chmod 700 dir");
    assert!(!cat("dir/file").0);
    let ls = as_nobody("ls", &[at(&top, then).join("dir").as_os_str()]);
    assert!(!ls.0);
    top.sh(&format!("chown {NOBODY} dir"));
    assert!(cat("dir/file").0, "its new owner may");
    top.close();
}

#[test]
fn samba_finds_names_that_it_knows() {
    let top = Top::new();
    let names = listed(&top.join(".tsfs/at"));
    assert!(names.iter().all(|name| name.starts_with("@GMT-")), "{names:?}");
    for name in names {
        assert!(fs::metadata(top.join(".tsfs/at").join(name)).is_ok());
    }
    top.close();
}

#[test]
fn a_mount_of_the_past_is_the_past() {
    let mut top = Top::new();
    write(&top.join("file"), "old");
    let then = between();
    write(&top.join("file"), "new");
    write(&top.join("other"), "new");
    top.again(&["-o", &format!("at={then:.9}")]);
    assert_eq!(listed(&top.dir()), ["file"]);
    assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "old");
    assert_eq!(errno(fs::write(top.join("file"), "")), libc::EROFS);
    assert_eq!(errno(fs::metadata(top.join(".tsfs"))), libc::ENOENT);
    top.again(&[]);
    assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "new");
    top.close();
}

/// Writes a line to a control file and reads the answer.
fn ask(control: &Path, line: &str) -> Vec<String> {
    let mut file = File::options().read(true).write(true).open(control).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
    let lines = BufReader::new(file).lines().map(Result::unwrap);
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_control_file_answers_in_lines() {
    let top = Top::new();
    write(&top.join("file"), "x");
    fs::create_dir(top.join("dir")).unwrap();
    let control = top.join("dir/.tsfs/control");
    let synced = ask(&control, r#"{"version":1,"ask":"sync"}"#);
    assert!(synced.last().unwrap().starts_with(r#"{"done":"#), "{synced:?}");
    let marked =
        ask(&control, r#"{"version":1,"ask":{"mark":{"name":"m","note":"for the test"}}}"#);
    assert!(marked.last().unwrap().starts_with(r#"{"done":"#), "{marked:?}");
    let marks = ask(&control, r#"{"version":1,"ask":"marks"}"#);
    assert!(marks[0].contains("for the test"), "{marks:?}");
    let log = ask(&top.join(".tsfs/control"), r#"{"version":1,"ask":{"log":{"path":"file"}}}"#);
    assert!(log.iter().any(|line| line.starts_with(r#"{"version":"#)), "{log:?}");
    for bad in [r#"{"version":9,"ask":"sync"}"#, "nonsense", r#"{"version":1,"ask":"dance"}"#] {
        let answer = ask(&control, bad);
        assert!(answer.len() == 1 && answer[0].starts_with(r#"{"error":"#), "{bad}: {answer:?}");
    }
    let mut file = File::options().read(true).write(true).open(&control).unwrap();
    assert_eq!(errno(std::io::Read::read(&mut file, &mut [0; 9])), libc::EINVAL, "nothing asked");
    let purge = r#"{"version":1,"ask":{"purge":{"before":"now","path":null,"dry_run":false}}}"#;
    let script = format!("exec 3<>'{}'; echo '{purge}' >&3; cat <&3", control.display());
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "bash", "-c", &script])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("denied"), "it knows who asks: {said}");
    top.close();
}

#[test]
fn what_a_restore_brings_back_is_seen_at_once() {
    let top = Top::new();
    write(&top.join("file"), "old contents");
    write(&top.join("gone"), "gone contents");
    let then = between();
    write(&top.join("file"), "new");
    fs::remove_file(top.join("gone")).unwrap();
    // The kernel has seen all of it: contents, size, that a name is not there, and the listing.
    assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "new");
    assert_eq!(errno(fs::metadata(top.join("gone"))), libc::ENOENT);
    assert_eq!(listed(&top.dir()), ["file"]);
    let at = then.as_nanosecond();
    let ask = |what: &str| {
        let lines = ask(&top.join(".tsfs/control"), &format!(r#"{{"version":1,"ask":{what}}}"#));
        assert!(lines.last().unwrap().starts_with(r#"{"done":"#), "{lines:?}");
    };
    let restore = r#"{"restore":{"path":"file","at":{"at":AT},"remove":false,"dry_run":false}}"#;
    ask(&restore.replace("AT", &at.to_string()));
    ask(r#"{"undelete":{"path":"gone","at":null,"to":null,"dry_run":false}}"#);
    assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "old contents");
    assert_eq!(fs::read_to_string(top.join("gone")).unwrap(), "gone contents");
    assert_eq!(listed(&top.dir()), ["file", "gone"]);
    top.close();
}

#[test]
fn a_command_that_goes_away_does_not_hold_the_mount() {
    let top = Top::new();
    write(&top.join("file"), "x");
    for _ in 0..40 {
        let control = top.join(".tsfs/control");
        let mut file = File::options().read(true).write(true).open(control).unwrap();
        file.write_all(b"{\"version\":1,\"ask\":\"sync\"}\n").unwrap();
    }
    support::wait_until(Duration::from_secs(20), "a command to be let in", || {
        let answer = ask(&top.join(".tsfs/control"), r#"{"version":1,"ask":"sync"}"#);
        answer.last().is_some_and(|line| line.starts_with(r#"{"done":"#))
    });
    assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "x");
    top.close();
}
