//! Real programs on a real mount: what people will run on it on the first day.
//!
//! Not here: crashes by the hundred (`crash`), each call's corner cases (`posix`).

use crate::support;
use crate::support::Mount;
use crate::support::Random;
use crate::support::Running;
use crate::support::sh;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

/// A scratch directory with a mounted store in it.
struct Bench {
    // Declared first, so it is unmounted before the directory under it is removed.
    mount: Option<Mount>,
    scratch: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let scratch = support::scratch();
        let mount = Mount::create(&scratch.path().join("store"), &scratch.path().join("mnt"));
        Bench { mount: Some(mount), scratch }
    }

    /// The top of the mount.
    fn top(&self) -> PathBuf {
        self.scratch.path().canonicalize().unwrap().join("mnt")
    }

    /// A path on the machine's own file system.
    fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Unmounts and mounts again: what is read then comes from the disk.
    fn again(&mut self) {
        self.mount.take().unwrap().close();
        self.mount = Some(Mount::open(&self.beside("store"), &self.beside("mnt")));
    }

    /// Kills the server, and mounts over what it leaves behind.
    fn kill_and_open(&mut self) {
        let point = self.mount.take().unwrap().kill();
        self.mount = Some(Mount::with(&[], &self.beside("store"), point));
    }

    fn close(mut self) {
        self.mount.take().unwrap().close();
        support::run(support::tsfs().arg("fsck").arg(self.beside("store")));
    }
}

/// A tree with everything in it that tools have to carry: kinds, modes, times, links, attributes, odd names, holes.
fn odd_tree(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let mut random = Random::new(11);
    for n in 0..300_usize {
        let sub = dir.join(format!("dir{}", n % 12));
        std::fs::create_dir_all(&sub).unwrap();
        let text = random.text(n * n % 50_000);
        std::fs::write(sub.join(format!("file {n}")), text).unwrap();
    }
    std::fs::write(dir.join("noise"), random.noise(3_000_000)).unwrap();
    sh(
        dir,
        r"ln noise hard; ln -s noise soft; ln -s /nowhere/at/all dangling; mkfifo pipe; mknod null c 1 3
        touch empty ./-dash $'new\nline' $'\xff\xfe' 'ünï'; mkdir -p empty_dir deep/er/est
        chmod 4755 empty; chmod 1777 empty_dir; chmod 000 ./-dash; chown 1:2 noise; chown -h 3:4 soft
        truncate -s 40M sparse; printf end | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none
        # Long ago: rsync takes two times within one second for the same.
        find . -mindepth 1 -depth -exec touch -h -d '2020-02-02 02:02:02.25 UTC' {} +
        touch -d '1999-12-31 23:59:59.123456789 UTC' noise; touch -h -d 2001-01-01 soft; touch -d 1960-01-01 deep
        setfattr -n user.colour -v blue noise; setfattr -n user.empty empty; setfattr -n trusted.secret -v x deep",
    );
}

/// Two listings are the same; if not, only what differs is shown.
#[track_caller]
fn same(found: &str, expected: &str, what: &str) {
    let lines =
        |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (found_lines, expected_lines) = (lines(found), lines(expected));
    let more: Vec<_> = found_lines.difference(&expected_lines).take(9).collect();
    let less: Vec<_> = expected_lines.difference(&found_lines).take(9).collect();
    assert!(found == expected, "{what}: found {more:#?}\nexpected {less:#?}");
}

/// Everything about every file of a tree but its change time, one a line.
fn listing(dir: &Path) -> String {
    sh(
        dir,
        r"find . -mindepth 1 \( -type d -printf '%y %m %U:%G %T@ %p\n' -o -printf '%y %m %U:%G %n %s %T@ %l %p\n' \) |
            LC_ALL=C sort
          find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
          find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m - 2>/dev/null",
    )
}

#[test]
fn git_clones_checks_and_collects() {
    let mut bench = Bench::new();
    let top = bench.top();
    let git = "git -c safe.directory=* -c user.name=t -c user.email=t@t";
    let here = env!("CARGO_MANIFEST_DIR");
    // A history of our own beside the one of this repository, which may be shallow or not there at all.
    let history = bench.beside("history");
    std::fs::create_dir(&history).unwrap();
    let commits = format!(
        "git init -q . && for i in $(seq 40); do mkdir -p d$((i%5)); seq $((i*37)) > d$((i%5))/f$i; echo $i >> log;
        git add . ; {git} commit -qm \"change $i\"; done"
    );
    sh(&history, &commits);
    sh(&top, &format!("{git} clone -q --no-hardlinks file://{} history", history.display()));
    if Path::new(here).join(".git").exists() {
        sh(
            &top,
            &format!("{git} clone -q file://{here} this && {git} -C this fsck --full --strict"),
        );
    }
    let work = top.join("history");
    sh(&work, &format!("{git} fsck --full --strict && git status --porcelain"));
    sh(
        &work,
        &format!(
            "git checkout -q HEAD~20 && git checkout -q - && git rm -q -r d1 && {git} commit -qm less"
        ),
    );
    sh(&work, &format!("{git} gc -q --aggressive --prune=now && {git} fsck --full --strict"));
    assert_eq!(sh(&work, "git status --porcelain"), "");
    let log = sh(&work, "git log --format=%H");
    bench.again();
    assert_eq!(sh(&work, "git log --format=%H"), log);
    sh(&work, &format!("{git} fsck --full --strict"));
    bench.close();
}

#[test]
fn rsync_has_nothing_to_do_the_second_time() {
    let mut bench = Bench::new();
    let (source, top) = (bench.beside("source"), bench.top());
    odd_tree(&source);
    let rsync =
        format!("rsync -aHXS --devices --specials --itemize-changes {}/ copy/", source.display());
    assert_ne!(sh(&top, &rsync), "");
    assert_eq!(sh(&top, &rsync), "", "the second run copied again");
    same(&listing(&top.join("copy")), &listing(&source), "copied by rsync");
    bench.again();
    assert_eq!(sh(&top, &format!("{rsync} --checksum --delete")), "", "after mounting again");
    bench.close();
}

#[test]
fn tar_makes_the_same_archive_of_what_it_unpacked() {
    let bench = Bench::new();
    let top = bench.top();
    odd_tree(&top.join("tree"));
    let pack = "tar --xattrs --xattrs-include='*' --sort=name --format=posix \
        --pax-option=delete=atime,delete=ctime -C";
    sh(&top, &format!("{pack} . -cf first.tar tree"));
    // Not compared: in an archive with holes tar writes down its own process id.
    sh(&top, &format!("{pack} . --sparse -cf holes.tar tree"));
    sh(&top, "mkdir out && tar --xattrs --xattrs-include='*' -C out -xpf holes.tar");
    sh(&top, &format!("{pack} out -cf second.tar tree && cmp first.tar second.tar"));
    same(&listing(&top.join("out/tree")), &listing(&top.join("tree")), "unpacked");
    bench.close();
}

#[test]
fn cp_find_and_grep_see_one_tree() {
    let bench = Bench::new();
    let (source, top) = (bench.beside("source"), bench.top());
    odd_tree(&source);
    sh(
        &top,
        &format!(
            "cp -a {}/. in && cp -a in inside && cp -a in {}",
            source.display(),
            bench.beside("out").display()
        ),
    );
    let expected = listing(&source);
    same(&listing(&top.join("in")), &expected, "copied in");
    same(&listing(&top.join("inside")), &expected, "copied inside");
    same(&listing(&bench.beside("out")), &expected, "copied out");
    sh(&top, "diff -r --no-dereference --exclude=pipe --exclude=null in inside");
    for look in
        ["find . -type f -size +20k | sort", "grep -rl --devices=skip end . | sort", "ls -ARQ"]
    {
        assert_eq!(sh(&top.join("in"), look), sh(&source, look), "{look}");
    }
    bench.close();
}

#[test]
fn sqlite_keeps_what_it_committed_when_the_server_dies() {
    let mut bench = Bench::new();
    let mut random = Random::new(12);
    for journal in ["DELETE", "WAL"] {
        for round in 0..3 {
            let name = format!("{journal}{round}.db");
            let (database, ledger) =
                (bench.top().join(&name), bench.beside(&format!("{name}.ledger")));
            sh(
                &bench.top(),
                &format!(
                    "sqlite3 {name} 'PRAGMA journal_mode={journal}; CREATE TABLE t(a INTEGER PRIMARY KEY, b)'"
                ),
            );
            std::fs::write(&ledger, []).unwrap();
            // Each transaction writes two rows; the ledger has a line for each that SQLite says is committed.
            let mut shell = Command::new("sqlite3");
            shell.arg(&database).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut shell = Running::start(&mut shell);
            let mut input = shell.0.stdin.take().unwrap();
            let ledger_path = ledger.clone();
            let feed = std::thread::spawn(move || {
                // Ends when the shell does: it stops at the first error. EXTRA, because with a rollback journal FULL does
                // not sync the removal of the journal, which is the commit.
                let _ = writeln!(input, ".bail on\nPRAGMA synchronous=EXTRA;");
                for n in 0.. {
                    let (a, b) = (2 * n, 2 * n + 1);
                    let insert = format!(
                        "INSERT INTO t VALUES({a}, hex(randomblob(200))), ({b}, hex(randomblob(9000)));"
                    );
                    let told = writeln!(
                        input,
                        "BEGIN; {insert} COMMIT;\n.system echo {n} >> {}",
                        ledger_path.display()
                    );
                    if told.is_err() {
                        break;
                    }
                }
            });
            let lines = || std::fs::read_to_string(&ledger).unwrap().lines().count() as u64;
            let goal = 5 + random.below(40);
            support::wait_until(Duration::from_secs(60), "commits", || lines() >= goal);
            bench.kill_and_open();
            shell.kill();
            feed.join().unwrap();
            let committed = lines();
            let answers = sh(
                &bench.top(),
                &format!("sqlite3 {name} 'PRAGMA integrity_check; SELECT count(*), max(a) FROM t'"),
            );
            let answers: Vec<&str> = answers.lines().collect();
            assert_eq!(answers[0], "ok");
            let (count, most) = answers[1].split_once('|').unwrap();
            let (count, most): (u64, u64) = (count.parse().unwrap(), most.parse().unwrap());
            assert_eq!(count, most + 1, "a hole");
            assert!(count % 2 == 0, "half a transaction");
            assert!(
                count >= 2 * committed,
                "{committed} transactions were committed, {count} rows are left"
            );
        }
    }
    bench.close();
}

#[test]
fn the_version_before_sed_is_still_there() {
    let mut bench = Bench::new();
    let top = bench.top();
    std::fs::write(top.join("letter"), "Dear Alice,\nyours, Bob\n").unwrap();
    let before = sh(&top, "sync letter; date +@%s.%N");
    sh(&top, "sed -i s/Alice/Eve/ letter && grep -q Eve letter");
    let expected = "Dear Alice,\nyours, Bob\n";
    for _ in 0..2 {
        let then = top.join(format!(".tsfs/at/{}/letter", before.trim()));
        assert_eq!(std::fs::read_to_string(&then).unwrap(), expected);
        // By its name, although sed put another file in its place: the versions are those of the name.
        let versions = sh(&top, "cat $(ls -d .tsfs/versions/letter/* | head -1)");
        assert_eq!(versions, expected, "the oldest version of the name");
        sh(
            &top,
            "cp .tsfs/versions/letter/$(ls .tsfs/versions/letter | tail -1) /dev/stdout | grep -q Eve",
        );
        bench.again();
    }
    bench.close();
}

#[test]
fn holes_stay_holes() {
    let mut bench = Bench::new();
    let top = bench.top();
    sh(&top, "truncate -s 2G big; printf start | dd of=big conv=notrunc status=none");
    sh(&top, "printf middle | dd of=big bs=1 seek=1500000000 conv=notrunc status=none");
    sh(
        &top,
        "cp --sparse=always big always; cp --sparse=auto big auto; cmp big always; cmp big auto",
    );
    bench.again();
    for name in ["big", "always", "auto"] {
        let kib: u64 = sh(&top, &format!("du -k {name} | cut -f1")).trim().parse().unwrap();
        assert!(kib < 4096, "{name} takes {kib} KiB");
    }
    let store: u64 =
        sh(bench.scratch.path(), "du -sk --apparent-size store | cut -f1").trim().parse().unwrap();
    assert!(store < 512 * 1024, "the store takes {store} KiB");
    sh(&top, "fallocate --punch-hole -o 0 -l 1M big && test -z \"$(head -c 5 big | tr -d '\\0')\"");
    bench.close();
}

#[test]
fn direct_io_and_mapped_memory_meet_in_one_file() {
    let mut bench = Bench::new();
    let (top, source) = (bench.top(), bench.beside("source"));
    let mut expected = Random::new(13).noise(3 << 20);
    std::fs::write(&source, &expected).unwrap();
    let from = source.display();
    sh(
        &top,
        &format!("dd if={from} of=direct bs=64k oflag=direct status=none && cmp {from} direct"),
    );
    sh(
        &top,
        &format!("dd if=direct of=/dev/stdout bs=128k iflag=direct status=none | cmp {from} -"),
    );
    let file = File::options().read(true).write(true).open(top.join("direct")).unwrap();
    let mut map = Mapped::new(&file, expected.len());
    for (n, byte) in b"written through memory".iter().enumerate() {
        map.bytes()[1_000_000 + n * 5000] = *byte;
        expected[1_000_000 + n * 5000] = *byte;
    }
    map.sync();
    assert!(std::fs::read(top.join("direct")).unwrap() == expected, "read(2) after msync(2)");
    file.write_all_at(b"write", 77).unwrap();
    expected[77..82].copy_from_slice(b"write");
    assert_eq!(&map.bytes()[77..82], b"write");
    drop((map, file));
    bench.again();
    assert!(std::fs::read(top.join("direct")).unwrap() == expected, "after mounting again");
    bench.close();
}

/// A shared mapping of a whole file.
struct Mapped {
    start: *mut libc::c_void,
    len: usize,
}

#[expect(unsafe_code, reason = "mapping a file is what is tested")]
impl Mapped {
    fn new(file: &File, len: usize) -> Mapped {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = std::os::fd::AsRawFd::as_raw_fd(file);
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0) };
        assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Mapped { start, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `len` bytes long and lives as long as `self`; no other process changes the file.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }

    fn sync(&self) {
        // SAFETY: the range is the mapping.
        let done = unsafe { libc::msync(self.start, self.len, libc::MS_SYNC) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

#[expect(unsafe_code, reason = "mapping a file is what is tested")]
impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the mapping any more.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

#[test]
fn locks_keep_processes_apart() {
    let bench = Bench::new();
    let top = bench.top();
    // flock(2).
    sh(
        &top,
        "exec 9>lock; flock 9; ! flock -n lock true; flock -s -n other true; exec 9>&-; flock -n lock true",
    );
    // fcntl(2), as SQLite uses it: a second writer is refused, and gets in once the first is done.
    let held = "sqlite3 base 'CREATE TABLE t(a)'; mkfifo gate
        (echo 'BEGIN IMMEDIATE;'; read -r _ <gate; echo 'COMMIT;') | sqlite3 -bail -cmd '.timeout 60000' base & first=$!
        while sqlite3 -cmd '.timeout 0' base 'BEGIN IMMEDIATE; COMMIT;' 2>refusal; do :; done
        grep -q 'locked' refusal
        echo >gate; wait $first
        sqlite3 -cmd '.timeout 0' base 'BEGIN IMMEDIATE; COMMIT;'";
    sh(&top, held);
    bench.close();
}

#[test]
fn a_program_that_runs_is_not_emptied_by_an_open_that_is_refused() {
    let bench = Bench::new();
    let path = bench.top().join("sleep");
    std::fs::copy("/bin/sleep", &path).unwrap();
    let mut running = Running::start(Command::new(&path).arg("600"));
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC] {
        let refused = rustix::fs::open(&path, flags, Mode::empty());
        assert_eq!(refused.err(), Some(Errno::TXTBSY), "{flags:?}");
    }
    assert!(std::fs::read(&path).unwrap() == std::fs::read("/bin/sleep").unwrap());
    assert_eq!(running.0.try_wait().unwrap(), None);
    running.kill();
    bench.close();
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    let bench = Bench::new();
    let top = bench.top();
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(top.join("gone"))
        .unwrap();
    file.write_all_at(b"before", 0).unwrap();
    std::fs::remove_file(top.join("gone")).unwrap();
    file.write_all_at(&Random::new(14).noise(200_000), 6).unwrap();
    let mut read = [0; 6];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"before");
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&file.metadata().unwrap()), 0);
    assert_eq!(sh(&top, "ls -A"), "");
    drop(file);
    bench.close();
}

/// Names that stay, while as many come and go, must each be listed exactly once, however slowly it is read.
#[test]
fn a_large_directory_can_be_listed_while_it_changes() {
    let bench = Bench::new();
    let dir = bench.top().join("large");
    std::fs::create_dir(&dir).unwrap();
    let (staying, passing) = (100_000, 3_000);
    for n in 0..staying {
        File::create(dir.join(format!("stays{n}"))).unwrap();
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in (0..passing).cycle().take_while(|_| !stop.load(order)) {
                let name = dir.join(format!("passes{n}"));
                match n % 3 {
                    0 => drop(File::create(name)),
                    1 => drop(std::fs::rename(dir.join(format!("passes{}", n - 1)), name)),
                    _ => drop(std::fs::remove_file(dir.join(format!("passes{}", n - 1)))),
                }
            }
        });
        for _ in 0..3 {
            let mut seen: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
            for entry in std::fs::read_dir(&dir).unwrap() {
                *seen.entry(entry.unwrap().file_name().into_encoded_bytes()).or_default() += 1;
            }
            let stays = seen.iter().filter(|(name, _)| name.starts_with(b"stays"));
            let wrong = stays.clone().find(|(_, count)| **count != 1);
            let count = stays.count();
            assert_eq!(wrong.map(|(name, count)| (String::from_utf8_lossy(name), count)), None);
            assert_eq!(count, staying);
        }
        stop.store(true, order);
    });
    assert_eq!(sh(&dir, "ls -f | grep -c stays").trim(), "100000");
    sh(&bench.top(), "rm -rf large && test ! -e large");
    bench.close();
}
