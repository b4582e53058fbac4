//! Work that programs saw succeed and the store does not take: it is in a file, all of it and nothing else, and nobody waits for
//! that.

use super::CALLER;
use super::fsync;
use super::leader::Leader;
use super::leader::Seat;
use super::model;
use super::options;
use super::world::Random;
use super::write;
use crate::support;
use crate::support::scratch;
use crate::support::wait_until;
use bytes::Bytes;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use tsfs::env::SystemClock;
use tsfs::meta::op::Batch;
use tsfs::meta::op::Op;
use tsfs::meta::op::Outcome;
use tsfs::tsdb_client::Client;
use tsfs::tsdb_client::Handle;
use tsfs::tsdb_client::New;
use tsfs::tsdb_client::Options;
use tsfs::tsdb_client::RenameHow;
use tsfs::tsdb_client::SaveTo;
use tsfs::tsdb_client::SetAttr;
use tsfs::tsdb_client::XattrHow;
use tsfs::types::AsOf;
use tsfs::types::BatchSeq;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;
use tsfs::types::frame::Frame;
use tsfs::wire::control::Answer;
use tsfs::wire::control::Ask;
use tsfs::wire::control::Request;
use tsfs::wire::refused::Found;
use tsfs::wire::refused::Head;
use tsfs::wire::refused::Reader;
use tsfs::wire::refused::Source;
use tsfs::wire::refused::contents;

const ROOT: Ino = Ino::ROOT;
/// Nothing is sent that nobody asks for.
const LONG: Duration = Duration::from_secs(3600);
/// What takes longer waits for something that does not come.
const SOON: Duration = Duration::from_secs(20);

struct InMemory(Vec<u8>);

impl Source for InMemory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes, FsError> {
        Ok(Bytes::copy_from_slice(&self.0[at as usize..at as usize + len]))
    }
}

fn join(leader: &Arc<Leader>, dir: &Path, window: Duration) -> (Arc<Client>, Arc<Seat>) {
    let seat = leader.seat();
    let refused = Some(SaveTo { dir: dir.to_owned(), source: "h1,h2:/".to_owned() });
    let options = Options { window, refused, name: "/mnt".to_owned(), ..options() };
    (Client::open(seat.clone(), SystemClock::shared(), options).unwrap(), seat)
}

fn make(client: &Client, dir: Ino, name: &str, kind: FileKind) -> Ino {
    let new = New { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, target: Bytes::new() };
    client.create(CALLER, dir, name.as_bytes(), new).unwrap().ino
}

fn file(client: &Client, dir: Ino, name: &str) -> (Ino, Handle) {
    let ino = make(client, dir, name, FileKind::File);
    (ino, client.open_file(CALLER, ino, true).unwrap())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// What is in a file.
#[derive(Default)]
struct Saved {
    head: Option<Head>,
    batches: Vec<(bool, Batch)>,
    blocks: Vec<(tsfs::types::BlockId, Bytes)>,
}

fn read(path: &Path) -> Saved {
    let bytes = InMemory(fs::read(path).unwrap());
    let mut reader = Reader::open(&bytes).unwrap();
    let mut saved = Saved::default();
    while let Some(found) = reader.next_found().unwrap() {
        match found {
            Found::Head(head) => saved.head = Some(head),
            Found::Names(_) => {}
            Found::Batch { sent, batch } => saved.batches.push((sent, *batch)),
            Found::Block { block, at, .. } => {
                saved.blocks.push((block, contents(&bytes, at).unwrap()));
            }
            Found::Damage(damage) => panic!("{damage:?}"),
        }
    }
    saved
}

/// What `tsfs status` would say is not well.
fn health(client: &Client) -> Vec<String> {
    let mut health = Vec::new();
    client.control(CALLER, ROOT, &Request::new(Ask::Status), &mut |answer| {
        if let Answer::Status(status) = answer {
            health = status.health;
        }
        ControlFlow::Continue(())
    });
    health
}

/// Closes everything so far and has it sent; nobody waits.
fn send(leader: &Leader, client: &Client) {
    let before = leader.waiting();
    client.fsync(None, Box::new(|_| {}));
    wait_until(SOON, "a batch to be sent", || leader.waiting() > before);
}

#[test]
fn what_was_not_applied_when_a_session_ends_is_in_a_file() {
    let (scratch, leader) = (scratch(), Leader::new());
    let dir = scratch.path().join("state/refused");
    let (client, seat) = join(&leader, &dir, LONG);
    let inner = make(&client, ROOT, "d", FileKind::Directory);
    let (ino, handle) = file(&client, inner, "f");
    write(&client, handle, 0, b"applied");
    fsync(&client, Some(handle)).unwrap();
    leader.hold(true);
    write(&client, handle, 4096, b"sent");
    send(&leader, &client);
    let large = Random(1).bytes(300_000);
    let (second, other) = file(&client, inner, "g");
    write(&client, other, 10, &large);
    client.flush(other).unwrap();
    write(&client, handle, 8192, b"dirty");
    let waiting = {
        let (tell, told) = channel();
        client.fsync(None, Box::new(move |result| tell.send(result).unwrap()));
        told
    };
    write(&client, other, 0, b"last");
    let start = support::now();
    leader.cut_off(seat.session());
    assert!(matches!(waiting.recv_timeout(SOON).unwrap(), Err(FsError::Lost(_))));
    assert!(fsync(&client, Some(handle)).is_err());
    assert!(start.elapsed() < Duration::from_secs(5), "nobody waits for the file");
    wait_until(SOON, "the loss to be told", || {
        health(&client).iter().any(|line| line.contains("tsfs refused"))
    });
    assert!(client.close().is_err());
    let [path] = &files(&dir)[..] else { panic!("{:?}", files(&dir)) };
    let said = health_of(&leader);
    assert_eq!(said, Vec::<String>::new(), "it is this mount's alone");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(path)), (0o700, 0o600));
    let saved = read(path);
    let head = saved.head.unwrap();
    assert_eq!((head.source.as_str(), head.client.as_str()), ("h1,h2:/", "/mnt"));
    assert_eq!((head.store.as_str(), head.session), ("leader", seat.session()));
    assert_eq!(head.why, "it was not heard of");
    let (sent, first) = &saved.batches[0];
    assert_eq!((*sent, first.seq), (true, BatchSeq(head.applied.0 + 1)));
    assert!(saved.batches.iter().map(|(_, batch)| batch.seq.0).is_sorted());
    let writes = |ino: Ino| {
        let ops = saved.batches.iter().flat_map(|(_, batch)| &batch.ops);
        let offset = |op: &Op| match op {
            Op::Write { ino: of, offset, .. } if *of == ino => Some(*offset),
            _ => None,
        };
        ops.filter_map(offset).collect::<Vec<_>>()
    };
    assert_eq!(writes(ino), [4096, 8192], "what was applied is not in it");
    assert_eq!(writes(second)[0], 10);
    let out = scratch.path().join("out");
    support::run(support::tsfs().arg("refused").arg(path).arg("--extract").arg(&out));
    let mut expected = [0; 10];
    expected[..4].copy_from_slice(b"last");
    assert_eq!(fs::read(out.join("d/g")).unwrap(), [&expected[..], &large].concat());
    let mut expected = vec![0; 8197];
    expected[4096..4100].copy_from_slice(b"sent");
    expected[8192..].copy_from_slice(b"dirty");
    assert_eq!(fs::read(out.join("d/f")).unwrap(), expected);
    let list = fs::read_to_string(out.join("refused.txt")).unwrap();
    assert!(list.contains("4 bytes from 4096 to before 4100"), "{list}");
    assert!(list.contains("created      d/g"), "{list}");
}

/// Of another mount.
fn health_of(leader: &Arc<Leader>) -> Vec<String> {
    leader.hold(false);
    let client = Client::open(leader.seat(), SystemClock::shared(), options()).unwrap();
    health(&client)
}

#[test]
fn where_everything_is_applied_there_is_no_file() {
    let (scratch, leader) = (scratch(), Leader::new());
    let dir = scratch.path().join("refused");
    let (client, seat) = join(&leader, &dir, LONG);
    let (_, handle) = file(&client, ROOT, "f");
    write(&client, handle, 0, b"applied");
    fsync(&client, Some(handle)).unwrap();
    leader.end(seat.session());
    assert!(fsync(&client, Some(handle)).is_err());
    drop(client.close());
    assert_eq!(files(&dir), Vec::<PathBuf>::new());
    // Nor where nothing is lost.
    let (client, _seat) = join(&leader, &dir, LONG);
    file(&client, ROOT, "g");
    client.close().unwrap();
    assert_eq!(files(&dir), Vec::<PathBuf>::new());
}

#[test]
fn a_directory_that_takes_no_file_costs_nobody_the_answer() {
    let (scratch, leader) = (scratch(), Leader::new());
    let blocked = scratch.path().join("file");
    fs::write(&blocked, "no directory").unwrap();
    let full = scratch.path().join("full");
    fs::create_dir(&full).unwrap();
    let tmpfs = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"];
    support::run(Command::new("mount").args(tmpfs).arg(&full));
    let full = support::Point::new(&full);
    for (dir, why) in [(blocked.as_path(), "could not be saved"), (full.dir(), "only a part")] {
        let (client, seat) = join(&leader, dir, LONG);
        let (_, handle) = file(&client, ROOT, why);
        fsync(&client, Some(handle)).unwrap();
        write(&client, handle, 0, &Random(2).bytes(300_000));
        leader.end(seat.session());
        assert!(fsync(&client, Some(handle)).is_err());
        wait_until(SOON, "it to be said", || health(&client).iter().any(|line| line.contains(why)));
        assert!(client.close().is_err());
    }
    let out = scratch.path().join("out");
    let [path] = &files(full.dir())[..] else { panic!("{:?}", files(full.dir())) };
    let mut command = support::tsfs();
    let output = command.arg("refused").arg(path).arg("--extract").arg(&out).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("damaged"), "{said}");
}

#[test]
fn what_waits_for_a_node_that_takes_no_contents_is_saved_too() {
    let (scratch, leader) = (scratch(), Leader::new());
    let dir = scratch.path().join("refused");
    let (client, seat) = join(&leader, &dir, Duration::from_millis(5));
    let (_, handle) = file(&client, ROOT, "f");
    fsync(&client, Some(handle)).unwrap();
    leader.stick(true);
    let large = Random(3).bytes(300_000);
    write(&client, handle, 0, &large);
    client.fsync(None, Box::new(|_| {}));
    // It is at the lane's, or before it: whichever, it is not applied.
    support::pause(Duration::from_millis(50));
    leader.cut_off(seat.session());
    wait_until(SOON, "the file", || {
        health(&client).iter().any(|line| line.contains("tsfs refused"))
    });
    leader.stick(false);
    assert!(client.close().is_err());
    let [path] = &files(&dir)[..] else { panic!("{:?}", files(&dir)) };
    let out = scratch.path().join("out");
    support::run(support::tsfs().arg("refused").arg(path).arg("--extract").arg(&out));
    assert_eq!(fs::read(out.join("f")).unwrap(), large);
}

/// Makes random changes.
fn work(client: &Client, random: &mut Random) {
    let name = |random: &mut Random| vec![b'a' + random.below(6) as u8];
    let (from, to) = (name(random), name(random));
    let ino = client.lookup(ROOT, &from, AsOf::Now).ok().map(|attr| attr.ino);
    let new =
        New { kind: FileKind::File, mode: 0o640, uid: 0, gid: 0, rdev: 0, target: Bytes::new() };
    match (random.below(10), ino) {
        (0..=1, _) => drop(client.create(CALLER, ROOT, &from, new)),
        (2, _) => drop(client.rename(CALLER, ROOT, &from, ROOT, &to, RenameHow::Replace)),
        (3, _) => drop(client.unlink(CALLER, ROOT, &from)),
        (4, Some(ino)) => {
            let size = Some(random.below(500_000) as u64);
            client.setattr(CALLER, ino, SetAttr { size, ..SetAttr::default() }).unwrap();
        }
        (5, Some(ino)) => {
            client.setxattr(CALLER, ino, b"user.k", &random.bytes(40), XattrHow::Set).unwrap();
        }
        (_, Some(ino)) => {
            let handle = client.open_file(CALLER, ino, true).unwrap();
            let len = [10, 700, 20_000, 300_000][random.below(4)];
            let bytes = random.bytes(len);
            write(client, handle, random.below(100_000) as u64, &bytes);
            if random.below(2) == 0 {
                client.flush(handle).unwrap();
            }
            // Closed or not, it is written.
            if random.below(2) == 0 {
                client.release(handle);
            }
        }
        (_, None) => {}
    }
    match random.below(12) {
        0 => client.fsync(None, Box::new(|_| {})),
        1 => drop(fsync_within(client)),
        _ => {}
    }
}

/// A sync, for as long as something may come of it.
fn fsync_within(client: &Client) -> Option<Result<(), FsError>> {
    let (tell, told) = channel();
    client.fsync(None, Box::new(move |result| drop(tell.send(result))));
    told.recv_timeout(Duration::from_millis(20)).ok()
}

#[test]
fn what_was_applied_and_what_is_in_the_file_make_what_programs_saw() {
    let mut from_file = 0;
    for seed in 1..=12 {
        let (scratch, leader) = (scratch(), Leader::new());
        let dir = scratch.path().join("refused");
        let window = if seed % 2 == 0 { LONG } else { Duration::from_millis(1) };
        let (client, seat) = join(&leader, &dir, window);
        let mut random = Random(seed);
        for _ in 0..random.below(80) {
            work(&client, &mut random);
        }
        leader.hold(true);
        for _ in 0..random.below(60) {
            work(&client, &mut random);
        }
        let seen = model::shown(&client, AsOf::Now).named();
        leader.cut_off(seat.session());
        assert!(client.close().is_err());
        let applied = leader.drop_work(seat.session());
        for path in files(&dir) {
            let saved = read(&path);
            for (block, raw) in saved.blocks {
                leader.bring_block(block, Frame::pack(&raw, 1).to_bytes());
            }
            for (_, batch) in saved.batches.iter().filter(|(_, batch)| batch.seq > applied) {
                assert_eq!(leader.bring(batch), Outcome::Applied, "seed {seed}: {batch:?}");
                from_file += 1;
            }
        }
        leader.forget(seat.session());
        let late = Client::open(leader.seat(), SystemClock::shared(), options()).unwrap();
        let there = model::shown(&late, AsOf::Now).named();
        assert!(there == seen, "seed {seed}: the file lacks something or has too much");
    }
    assert!(from_file > 10, "little was refused, so little was shown: {from_file}");
}
