//! Locks between programs on two mounts, as fcntl(2) has them: who has one nobody else has, waiting ends, and they go when their
//! holder does, whatever befalls the nodes.
//!
//! Locks of open files (`F_OFD_*`) are set by threads here, those of processes by small programs in Perl, which every Debian has,
//! and by SQLite. Not here: how they are kept (`client::locks`, `model::locks`).

use super::net::Net;
use super::place::Cluster;
use crate::support;
use crate::support::Running;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// A lease, and what it takes to notice that it is over.
const GONE_LIMIT: Duration = Duration::from_secs(40);
/// What somebody notices who waits: far more than it takes, far less than a lease.
const SOON: Duration = Duration::from_secs(8);

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[allow(unsafe_code, reason = "no library that is used has locks of open files")]
/// fcntl(2) with a lock, of bytes from `first` on (`len` zero: to the end).
fn fcntl(file: &File, call: i32, kind: i32, first: i64, len: i64) -> Result<libc::flock, Errno> {
    let (kind, whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
    let mut lock =
        libc::flock { l_type: kind, l_whence: whence, l_start: first, l_len: len, l_pid: 0 };
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and `lock` is what these calls read and write.
    match unsafe { libc::fcntl(file.as_raw_fd(), call, &raw mut lock) } {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
        _ => Ok(lock),
    }
}

/// Whether the open file got it.
fn try_lock(file: &File, kind: i32, first: i64, len: i64) -> bool {
    match fcntl(file, libc::F_OFD_SETLK, kind, first, len) {
        Ok(_) => true,
        Err(Errno::AGAIN) => false,
        Err(errno) => panic!("{errno}"),
    }
}

fn unlock(file: &File) {
    fcntl(file, libc::F_OFD_SETLK, libc::F_UNLCK, 0, 0).unwrap();
}

/// The lock that is in the way of an exclusive one: kind, first byte, length.
fn barring(file: &File) -> (i32, i64, i64) {
    let found = fcntl(file, libc::F_OFD_GETLK, libc::F_WRLCK, 0, 0).unwrap();
    (i32::from(found.l_type), found.l_start, found.l_len)
}

/// A process that locks a file, all of it, says what came of that, and keeps it until its input ends.
struct Process {
    running: Running,
    says: BufReader<ChildStdout>,
    input: Option<ChildStdin>,
}

const LOCKS: &str = r#"
    use Fcntl;
    $| = 1;
    $SIG{ALRM} = sub { };
    open(my $file, '+<', $ARGV[0]) or die;
    my $lock = pack('s s x4 q q i x4', F_WRLCK, 0, 0, 0, 0);
    alarm($ARGV[2]);
    print("waits\n");
    my $done = fcntl($file, $ARGV[1] eq 'waits' ? F_SETLKW : F_SETLK, $lock);
    print($done ? "locked\n" : "errno " . ($! + 0) . "\n");
    <STDIN>;
"#;

impl Process {
    /// `alarm`: a signal comes after so many seconds, if not zero.
    fn start(file: &Path, waits: bool, alarm: u32) -> Process {
        let mut command = Command::new("perl");
        command.args(["-e", LOCKS]).arg(file).arg(if waits { "waits" } else { "tries" });
        Process::run(command.arg(alarm.to_string()))
    }

    fn run(command: &mut Command) -> Process {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running::start(command);
        let says = BufReader::new(running.0.stdout.take().unwrap());
        let input = running.0.stdin.take();
        let mut process = Process { running, says, input };
        assert_eq!(process.says(), "waits");
        process
    }

    fn go_on(&mut self) {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// It goes on to its end.
    fn end(mut self) {
        self.input.take().unwrap().flush().unwrap();
        assert!(self.running.0.wait().unwrap().success());
    }
}

/// A process that locks one file, waits for a line, waits for the lock of another, says what came of that, and keeps what it has.
const LOCKS_TWO: &str = r#"
    use Fcntl;
    $| = 1;
    my ($first, $second);
    open($first, '+<', $ARGV[0]) or die;
    open($second, '+<', $ARGV[1]) or die;
    my $lock = pack('s s x4 q q i x4', F_WRLCK, 0, 0, 0, 0);
    fcntl($first, F_SETLK, $lock) or die;
    print("waits\n");
    <STDIN>;
    my $done = fcntl($second, F_SETLKW, $lock);
    print($done ? "locked\n" : "errno " . ($! + 0) . "\n");
    <STDIN>;
"#;

/// Has the first of two files locked, and wants the second once it is told to go on.
fn locks_two(first: &Path, second: &Path) -> Process {
    let mut command = Command::new("perl");
    command.args(["-e", LOCKS_TWO]).args([first, second]);
    Process::run(&mut command)
}

fn says_errno(process: &mut Process, errno: Errno) {
    assert_eq!(process.says(), format!("errno {}", errno.raw_os_error()));
}

#[test]
fn locks_hold_between_mounts() {
    let mut cluster = Cluster::three(Net::loopback());
    let (one, other) = (cluster.mount(), cluster.mount());
    let (here, there) = (open(&one.join("f")), open(&other.join("f")));
    assert!(try_lock(&here, libc::F_WRLCK, 0, 10));
    assert!(!try_lock(&there, libc::F_RDLCK, 9, 1));
    assert_eq!(barring(&there), (libc::F_WRLCK, 0, 10));
    assert!(try_lock(&there, libc::F_WRLCK, 10, 0));
    assert_eq!(barring(&here), (libc::F_WRLCK, 10, 0));
    assert!(try_lock(&here, libc::F_RDLCK, 0, 10), "less than it has");
    assert!(try_lock(&there, libc::F_RDLCK, 0, 5), "both only read");
    assert!(!try_lock(&there, libc::F_WRLCK, 0, 5));
    let shown =
        String::from_utf8(support::run(cluster.tsfs(0).arg("locks").arg(cluster.store(0))).stdout);
    let shown = shown.unwrap();
    assert!(
        shown.contains("bytes 0 to 9 of inode") && shown.contains("from byte 10 on"),
        "{shown}"
    );
    // With the open file go its locks, also where it was only read through.
    let read = File::open(one.join("f")).unwrap();
    assert!(try_lock(&read, libc::F_RDLCK, 0, 1) && !try_lock(&read, libc::F_RDLCK, 100, 1));
    drop((here, read));
    support::wait_until(SOON, "the locks to go", || try_lock(&there, libc::F_WRLCK, 0, 0));
    let here = open(&one.join("f"));
    assert!(!try_lock(&here, libc::F_RDLCK, 0, 1));
    // Who waits is woken.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| fcntl(&here, libc::F_OFD_SETLKW, libc::F_WRLCK, 0, 0).unwrap());
        support::pause(Duration::from_millis(300));
        assert!(!waits.is_finished());
        let start = support::now();
        unlock(&there);
        waits.join().unwrap();
        let took = start.elapsed();
        println!("woken after {took:?}");
        assert!(took < SOON);
    });
    assert!(!try_lock(&there, libc::F_RDLCK, 0, 1));
    drop((here, there));
    other.close();
    one.close();
    cluster.close();
}

#[test]
fn locks_of_processes_go_with_them_and_signals_end_a_wait() {
    let mut cluster = Cluster::three(Net::loopback());
    let (one, other) = (cluster.mount(), cluster.mount());
    let (here, there) = (one.join("f"), other.join("f"));
    drop(open(&here));
    let mut holds = Process::start(&here, false, 0);
    assert_eq!(holds.says(), "locked");
    let mut tries = Process::start(&there, false, 0);
    says_errno(&mut tries, Errno::AGAIN);
    tries.end();
    for file in [&here, &there] {
        // A handler that does nothing else than end the wait.
        let mut waits = Process::start(file, true, 1);
        says_errno(&mut waits, Errno::INTR);
        waits.end();
        // And one that is not to be caught, which ends what has to be waited for.
        let mut waits = Process::start(file, true, 0);
        let start = support::now();
        waits.running.kill();
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    }
    let mut next = Process::start(&there, true, 0);
    let mut last = Process::start(&here, true, 0);
    holds.running.kill();
    // One of them is next, the other when that is gone.
    let (mut first, mut second) = (String::new(), String::new());
    std::thread::scope(|scope| {
        let (told, tell) = std::sync::mpsc::channel();
        for (n, process) in [&mut next, &mut last].into_iter().enumerate() {
            let told = told.clone();
            scope.spawn(move || {
                let said = process.says();
                process.running.kill();
                told.send((n, said)).unwrap();
            });
        }
        first = tell.recv_timeout(SOON).unwrap().1;
        second = tell.recv_timeout(SOON).unwrap().1;
    });
    assert_eq!((first.as_str(), second.as_str()), ("locked", "locked"));
    // A database on both: one writes at a time, and reads what the other wrote.
    let shared = cluster.dir().join("out");
    let both = format!(
        "one={} other={}
        sqlite3 $one/base 'CREATE TABLE t(a)'
        for n in $(seq 25); do sqlite3 -cmd '.timeout 60000' $one/base \"INSERT INTO t VALUES($n)\"; done & first=$!
        for n in $(seq 26 50); do sqlite3 -cmd '.timeout 60000' $other/base \"INSERT INTO t VALUES($n)\"; done
        wait $first
        sqlite3 $other/base 'SELECT count(*), sum(a) FROM t; PRAGMA integrity_check' >{}",
        one.dir().display(),
        other.dir().display(),
        shared.display()
    );
    support::sh(cluster.dir(), &both);
    assert_eq!(std::fs::read_to_string(&shared).unwrap(), "50|1275\nok\n");
    other.close();
    one.close();
    cluster.close();
}

/// The number in the file, one more each time.
fn count_up(file: &File) -> u64 {
    let mut bytes = [0; 8];
    let had = file.read_at(&mut bytes, 0).unwrap();
    let next = if had == 0 { 1 } else { u64::from_le_bytes(bytes) + 1 };
    file.write_all_at(&next.to_le_bytes(), 0).unwrap();
    next
}

#[test]
fn locks_survive_a_leader_and_end_with_their_mount() {
    const THREADS: usize = 4;
    const ROUNDS: u64 = 40;
    let mut cluster = Cluster::three(Net::loopback());
    let (one, other) = (cluster.mount(), cluster.mount());
    // Everybody counts one up under a lock, and leaders die between.
    let (inside, done) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for n in 0..THREADS {
            let path = [&one, &other][n % 2].join("count");
            let (inside, done) = (&inside, &done);
            scope.spawn(move || {
                let file = open(&path);
                for _ in 0..ROUNDS {
                    fcntl(&file, libc::F_OFD_SETLKW, libc::F_WRLCK, 0, 0).unwrap();
                    assert_eq!(inside.fetch_add(1, SeqCst), 0, "two have it");
                    count_up(&file);
                    assert_eq!(inside.fetch_sub(1, SeqCst), 1);
                    unlock(&file);
                    done.fetch_add(1, SeqCst);
                }
            });
        }
        for part in 1..=2 {
            let goal = part * THREADS as u64 * ROUNDS / 3;
            support::wait_until(super::load::HANG_LIMIT, "them to count", || {
                done.load(SeqCst) >= goal
            });
            let leader = cluster.settle();
            cluster.kill(leader);
            cluster.start(leader);
        }
    });
    let counted = std::fs::read(other.join("count")).unwrap();
    assert_eq!(u64::from_le_bytes(counted[..].try_into().unwrap()), THREADS as u64 * ROUNDS);
    // A lock that is held outlives a leader too.
    cluster.settle();
    let (here, there) = (open(&one.join("f")), open(&other.join("f")));
    assert!(try_lock(&here, libc::F_WRLCK, 0, 0) && !try_lock(&there, libc::F_RDLCK, 0, 0));
    let leader = cluster.settle();
    cluster.kill(leader);
    assert!(!try_lock(&there, libc::F_RDLCK, 0, 0));
    cluster.start(leader);
    cluster.settle();
    assert!(!try_lock(&there, libc::F_RDLCK, 0, 0));
    // The mount that has it dies: nobody gets it before its lease is over, and then somebody does.
    let start = support::now();
    let dead = one.kill();
    assert!(!try_lock(&there, libc::F_RDLCK, 0, 0));
    fcntl(&there, libc::F_OFD_SETLKW, libc::F_WRLCK, 0, 0).unwrap();
    println!("a dead mount's lock was had after {:?}", start.elapsed());
    assert!(start.elapsed() < GONE_LIMIT);
    drop((here, there, dead));
    other.close();
    cluster.close();
}

/// Whether a process waits in fcntl(2).
fn waits_for_a_lock(process: &Process) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{}/syscall", process.running.0.id()));
    call.unwrap().split(' ').next() == Some(&libc::SYS_fcntl.to_string())
}

#[test]
fn who_closes_a_circle_over_mounts_is_told() {
    let mut cluster = Cluster::three(Net::loopback());
    let mounts = [cluster.mount(), cluster.mount(), cluster.mount()];
    for name in ["f0", "f1", "f2"] {
        drop(open(&mounts[0].join(name)));
    }
    // Over two mounts, over three, and over two while the nodes have to find a new leader.
    for (count, fails) in [(2, false), (3, false), (2, true)] {
        let file = |n: usize, of: usize| mounts[n].join(format!("f{}", of % count));
        let mut processes: Vec<Process> =
            (0..count).map(|n| locks_two(&file(n, n), &file(n, n + 1))).collect();
        let (last, others) = processes.split_last_mut().unwrap();
        for process in &mut *others {
            process.go_on();
            support::wait_until(SOON, "a process to wait", || waits_for_a_lock(process));
        }
        let leader = cluster.settle();
        let start = support::now();
        if fails {
            cluster.kill(leader);
        }
        last.go_on();
        if fails {
            // Who closed it a new leader does not know: one of them is told.
            let (told, tell) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                for process in &mut processes {
                    let told = told.clone();
                    scope.spawn(move || {
                        let said = process.says();
                        process.running.kill();
                        told.send(said).unwrap();
                    });
                }
                let first = tell.recv_timeout(GONE_LIMIT).unwrap();
                assert_eq!(first, format!("errno {}", Errno::DEADLK.raw_os_error()));
                assert_eq!(tell.recv_timeout(GONE_LIMIT).unwrap(), "locked");
            });
            cluster.start(leader);
            cluster.settle();
        } else {
            says_errno(last, Errno::DEADLK);
            assert!(others.iter().all(waits_for_a_lock), "one is told");
            last.running.kill();
            // With its locks the circle is open.
            for process in others.iter_mut().rev() {
                assert_eq!(process.says(), "locked");
                process.running.kill();
            }
        }
        println!("over {count} mounts, told after {:?}", start.elapsed());
    }
    for mount in mounts {
        mount.close();
    }
    cluster.close();
}

#[test]
fn open_files_that_wait_for_each_other_are_left_alone() {
    let mut cluster = Cluster::three(Net::loopback());
    let (one, other) = (cluster.mount(), cluster.mount());
    let files = [&one, &other].map(|mount| ["a", "b"].map(|name| open(&mount.join(name))));
    let [[a, b], [other_a, other_b]] = &files;
    assert!(try_lock(a, libc::F_WRLCK, 0, 0) && try_lock(other_b, libc::F_WRLCK, 0, 0));
    // Each of two on one mount has what the other wants.
    let [c, again] = ["c", "c"].map(|name| open(&one.join(name)));
    assert!(try_lock(&c, libc::F_WRLCK, 0, 10) && try_lock(&again, libc::F_WRLCK, 10, 10));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| fcntl(b, libc::F_OFD_SETLKW, libc::F_WRLCK, 0, 0));
        let second = scope.spawn(|| fcntl(other_a, libc::F_OFD_SETLKW, libc::F_WRLCK, 0, 0));
        let third = scope.spawn(|| fcntl(&c, libc::F_OFD_SETLKW, libc::F_WRLCK, 10, 10));
        let fourth = scope.spawn(|| fcntl(&again, libc::F_OFD_SETLKW, libc::F_WRLCK, 0, 10));
        // Longer than it takes to tell a process.
        let start = support::now();
        support::wait_until(SOON, "a while", || start.elapsed() > Duration::from_secs(4));
        let ended = [&first, &second, &third, &fourth].map(|waits| waits.is_finished());
        // Any thread may let go of an open file's lock.
        fcntl(&c, libc::F_OFD_SETLK, libc::F_UNLCK, 0, 10).unwrap();
        let fourth = fourth.join().unwrap();
        unlock(&again);
        let third = third.join().unwrap();
        unlock(a);
        let second = second.join().unwrap();
        unlock(other_b);
        let all = [first.join().unwrap(), second, third, fourth];
        assert_eq!(all.map(|came| came.err()), [None; 4]);
        assert_eq!(ended, [false; 4]);
    });
    drop(files);
    other.close();
    one.close();
    cluster.close();
}

fn flock(file: &File, how: FlockOperation) -> Result<(), Errno> {
    rustix::fs::flock(file, how)
}

/// Whether the open file got it at once.
fn try_flock(file: &File, how: FlockOperation) -> bool {
    match flock(file, how) {
        Ok(()) => true,
        Err(Errno::WOULDBLOCK) => false,
        Err(errno) => panic!("{errno}"),
    }
}

const SHARED: FlockOperation = FlockOperation::NonBlockingLockShared;
const EXCLUSIVE: FlockOperation = FlockOperation::NonBlockingLockExclusive;

#[test]
fn flock_holds_between_mounts_and_is_another_kind_of_lock() {
    let mut cluster = Cluster::three(Net::loopback());
    let (one, other) = (cluster.mount(), cluster.mount());
    let (a, b) = (open(&one.join("file")), open(&other.join("file")));
    let again = open(&one.join("file"));
    // One exclusive, or several shared.
    assert!(try_flock(&a, EXCLUSIVE));
    assert!(!try_flock(&b, EXCLUSIVE) && !try_flock(&b, SHARED) && !try_flock(&again, SHARED));
    assert!(try_flock(&a, SHARED));
    assert!(try_flock(&b, SHARED) && try_flock(&again, SHARED));
    // Locks of fcntl(2) are not in its way, nor is it in theirs.
    assert!(try_lock(&a, libc::F_WRLCK, 0, 0));
    assert!(!try_lock(&b, libc::F_RDLCK, 0, 0) && try_flock(&b, SHARED));
    let said = cluster.tsfs(0).arg("locks").arg(cluster.store(0)).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("(flock)") && said.contains("all of inode"), "{said}");
    unlock(&a);
    assert!(try_lock(&b, libc::F_WRLCK, 0, 0), "the flock of a is left, and is not asked for");
    unlock(&b);
    // The last descriptor's end is the lock's.
    drop(again);
    let twin = a.try_clone().unwrap();
    drop(a);
    assert!(!try_flock(&b, EXCLUSIVE));
    assert!(try_flock(&b, SHARED), "who fails to have it for himself alone has nothing");
    drop(twin);
    let begun = support::now();
    flock(&b, FlockOperation::LockExclusive).unwrap();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    // Who waits is woken, and not before.
    let (a, free) = (open(&one.join("file")), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            flock(&a, FlockOperation::LockExclusive).unwrap();
            assert!(free.load(SeqCst), "two have it");
        });
        // It has asked by then, or asks too late to be told anything else.
        assert!(!try_flock(&open(&one.join("file")), SHARED));
        free.store(true, SeqCst);
        flock(&b, FlockOperation::Unlock).unwrap();
        let begun = support::now();
        waits.join().unwrap();
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    });
    flock(&a, FlockOperation::Unlock).unwrap();
    // Two who share it and each want it alone do not wait for each other.
    flock(&a, FlockOperation::LockShared).unwrap();
    flock(&b, FlockOperation::LockShared).unwrap();
    std::thread::scope(|scope| {
        for file in [&a, &b] {
            scope.spawn(move || {
                flock(file, FlockOperation::LockExclusive).unwrap();
                flock(file, FlockOperation::Unlock).unwrap();
            });
        }
    });
    // What is done under it is done by one at a time, and the next sees it.
    const TURNS: u64 = 25;
    a.write_all_at(&0_u64.to_le_bytes(), 0).unwrap();
    std::thread::scope(|scope| {
        for mount in [&one, &other, &one, &other] {
            scope.spawn(move || {
                let file = open(&mount.join("file"));
                for _ in 0..TURNS {
                    flock(&file, FlockOperation::LockExclusive).unwrap();
                    let mut number = [0; 8];
                    file.read_exact_at(&mut number, 0).unwrap();
                    let next = u64::from_le_bytes(number) + 1;
                    file.write_all_at(&next.to_le_bytes(), 0).unwrap();
                    flock(&file, FlockOperation::Unlock).unwrap();
                }
            });
        }
    });
    let mut number = [0; 8];
    b.read_exact_at(&mut number, 0).unwrap();
    assert_eq!(u64::from_le_bytes(number), 4 * TURNS);
    other.close();
    one.close();
    cluster.close();
}

#[test]
fn flock_of_a_program_goes_with_it_and_outlives_a_leader() {
    let mut cluster = Cluster::three(Net::loopback());
    let (one, other) = (cluster.mount(), cluster.mount());
    let path = one.join("file");
    let b = open(&other.join("file"));
    let program = |path: &Path| {
        let mut command = Command::new("flock");
        command.args(["-x", "-o"]).arg(path).args(["sh", "-c", "echo has it; exec cat"]);
        Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
    };
    let mut holder = program(&path);
    let mut says = BufReader::new(holder.0.stdout.take().unwrap());
    let mut line = String::new();
    says.read_line(&mut line).unwrap();
    assert_eq!(line, "has it\n");
    assert!(!try_flock(&b, EXCLUSIVE));
    // Another leads: it is still had.
    let leader = cluster.settle();
    cluster.kill(leader);
    assert!(!try_flock(&b, EXCLUSIVE));
    cluster.start(leader);
    cluster.settle();
    assert!(!try_flock(&b, EXCLUSIVE));
    holder.kill();
    let begun = support::now();
    flock(&b, FlockOperation::LockExclusive).unwrap();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    // Of what was then, nobody is in anybody's way.
    let past = File::open(other.dir().join(".tsfs/at/now/file")).unwrap();
    assert!(try_lock(&past, libc::F_RDLCK, 0, 0) && try_flock(&past, EXCLUSIVE));
    other.close();
    one.close();
    cluster.close();
}
