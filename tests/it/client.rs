//! The client against a model: random calls from several handles, the server lost at random moments, every survivor a
//! prefix of what was done, every instant as it was.

/// A server that does not answer.
mod away;
/// A leader of several clients.
mod leader;
/// Locks on files.
mod locks;
/// What a mount should show, written down as simply as it can be.
mod model;
/// Two clients on one tree, each under a kernel's mount.
mod mounts;
/// Work that the store does not take any more.
mod refused;
/// A server in memory that can be lost: proposals that are not durable go, and blocks that were not synced.
mod server;
/// Two clients on one tree.
mod two;
/// Random calls, made on both.
mod world;

/// Who does everything here, as far as anybody asks.
const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };

use server::Memory;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::channel;
use std::time::Duration;
use tsfs::env::SystemClock;
use tsfs::tsdb_client::Caller;
use tsfs::tsdb_client::Client;
use tsfs::tsdb_client::Handle;
use tsfs::tsdb_client::New;
use tsfs::tsdb_client::Options;
use tsfs::tsdb_client::SetAttr;
use tsfs::tsdb_client::Wait;
use tsfs::types::AsOf;
use tsfs::types::FileKind;
use tsfs::types::FsError;
use tsfs::types::Ino;
use world::Random;
use world::World;

const OWNER: Caller = Caller { uid: 0, gid: 0, pid: 1 };

fn options() -> Options {
    Options { window: Duration::from_millis(5), workers: 2, ..Options::default() }
}

fn open(server: &Arc<Memory>, options: Options) -> Arc<Client> {
    Client::open(server.clone(), SystemClock::shared(), options).unwrap()
}

fn file(client: &Client, name: &[u8]) -> (Ino, Handle) {
    let new = New {
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: bytes::Bytes::new(),
    };
    let ino = client.create(CALLER, Ino::ROOT, name, new).unwrap().ino;
    (ino, client.open_file(CALLER, ino, true).unwrap())
}

fn write(client: &Client, handle: Handle, offset: u64, data: &[u8]) {
    let written = client.write(handle, offset, data, false, false, Wait::Allowed).unwrap();
    assert_eq!(written, Some(data.len() as u32));
}

fn read(client: &Client, ino: Ino, at: AsOf, offset: u64, len: u32) -> Vec<u8> {
    client.read(ino, at, offset, len, Wait::Allowed).unwrap().unwrap().to_vec()
}

fn fsync(client: &Client, handle: Option<Handle>) -> Result<(), FsError> {
    let (tell, told) = channel();
    client.fsync(handle, Box::new(move |result| tell.send(result).unwrap()));
    told.recv_timeout(Duration::from_secs(30)).expect("a sync is answered")
}

#[test]
fn survivors_of_every_crash_are_a_prefix_and_the_past_stays() {
    for seed in 1..=4 {
        World::new(seed).run(400);
    }
}

#[test]
fn a_large_file_streams_and_comes_back() {
    let server = Memory::new();
    let client = open(&server, Options { batch_bytes_max: 2 << 20, ..options() });
    let (ino, handle) = file(&client, b"large");
    let mut model = Vec::new();
    for n in 0..40_u64 {
        // Half of it compresses.
        let data = if n % 2 == 0 { vec![n as u8; 300_000] } else { Random(n).bytes(300_000) };
        write(&client, handle, model.len() as u64, &data);
        model.extend_from_slice(&data);
    }
    fsync(&client, Some(handle)).unwrap();
    client.release(handle);
    assert!(server.blocks() > 10, "what does not compress went as blocks");
    drop(client);
    let client = open(&server, options());
    let attr = client.getattr(ino, AsOf::Now).unwrap();
    assert_eq!(attr.size, model.len() as u64);
    for at in (0..model.len()).step_by(131_072) {
        let end = model.len().min(at + 131_072);
        assert_eq!(read(&client, ino, AsOf::Now, at as u64, 131_072), model[at..end], "at {at}");
    }
    assert_eq!(read(&client, ino, AsOf::Now, 1_048_570, 12), model[1_048_570..1_048_582]);
}

#[test]
fn a_loss_is_told_once_as_a_loss_and_nothing_succeeds_after_it() {
    let server = Memory::new();
    let client = open(&server, options());
    let (_, handle) = file(&client, b"a");
    let (ino, other) = file(&client, b"b");
    client.now_readable(client.clock().wall()).unwrap();
    server.lose();
    write(&client, handle, 0, b"gone");
    assert!(matches!(fsync(&client, Some(handle)), Err(FsError::Lost(_))));
    assert!(matches!(fsync(&client, Some(handle)), Err(FsError::Io(_))));
    assert!(matches!(fsync(&client, Some(other)), Err(FsError::Lost(_))), "each open file is told");
    assert!(
        client.setattr(CALLER, ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }).is_err()
    );
    assert!(client.write(other, 0, b"x", false, false, Wait::Allowed).is_err());
    assert!(client.close().is_err());
}

#[test]
fn a_full_store_refuses_before_it_has_promised_and_still_deletes() {
    let server = Memory::new();
    let client = open(&server, options());
    let (ino, handle) = file(&client, b"a");
    fsync(&client, None).unwrap();
    server.set_space(1 << 20);
    // What is stored would make room here: this server's space does not shrink.
    server.hold(true);
    let data = vec![1; 256 << 10];
    let mut stored = 0;
    let refused = loop {
        match client.write(handle, stored, &data, false, false, Wait::Allowed) {
            Ok(_) => stored += data.len() as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, FsError::NoSpace);
    assert!(stored < 1 << 20, "{stored}");
    server.hold(false);
    fsync(&client, None).unwrap();
    server.set_space(0);
    assert_eq!(client.link(CALLER, ino, Ino::ROOT, b"x"), Err(FsError::NoSpace));
    client.unlink(CALLER, Ino::ROOT, b"a").unwrap();
    fsync(&client, Some(handle)).unwrap();
}

#[test]
fn writers_wait_for_room_and_those_who_may_not_are_told() {
    let server = Memory::new();
    let options = Options { dirty_bytes_max: 1 << 20, ..options() };
    let client = open(&server, options);
    let (_, handle) = file(&client, b"a");
    server.hold(true);
    let data = vec![7; 64 << 10];
    let mut at = 0;
    while client.write(handle, at, &data, false, false, Wait::Never).unwrap().is_some() {
        at += data.len() as u64;
        assert!(at <= 1 << 20, "the bound holds");
    }
    let waiting = {
        let client = client.clone();
        std::thread::spawn(move || write(&client, handle, at, &[7; 64 << 10]))
    };
    server.hold(false);
    waiting.join().unwrap();
    fsync(&client, Some(handle)).unwrap();
}

#[test]
fn an_open_file_outlives_its_name() {
    let server = Memory::new();
    let client = open(&server, options());
    let (ino, handle) = file(&client, b"a");
    write(&client, handle, 0, b"still here");
    client.unlink(CALLER, Ino::ROOT, b"a").unwrap();
    assert_eq!(client.lookup(Ino::ROOT, b"a", AsOf::Now), Err(FsError::NotFound));
    fsync(&client, Some(handle)).unwrap();
    write(&client, handle, 10, b", and grows");
    assert_eq!(read(&client, ino, AsOf::Now, 0, 100), b"still here, and grows");
    client.release(handle);
    assert_eq!(client.getattr(ino, AsOf::Now), Err(FsError::Stale));
}

#[test]
fn each_close_after_a_write_is_a_version_of_the_name() {
    let server = Memory::new();
    let client = open(&server, options());
    let (_, handle) = file(&client, b"a");
    for n in 1..=5_u8 {
        write(&client, handle, 0, &vec![n; usize::from(n) * 100]);
        client.flush(handle).unwrap();
        client.flush(handle).unwrap();
    }
    let versions = client.file_versions(Ino::ROOT, b"a").unwrap();
    let sizes: Vec<u64> = versions.iter().map(|version| version.attr.size).collect();
    assert_eq!(sizes, [500, 400, 300, 200, 100], "newest first, none coalesced away");
    for (n, version) in (1..=5_u8).rev().zip(&versions) {
        let contents = read(&client, version.attr.ino, AsOf::At(version.stamp), 0, 1000);
        assert_eq!(contents, vec![n; usize::from(n) * 100]);
    }
    let mark = client.mark(OWNER, b"before", "").unwrap();
    client.unlink(CALLER, Ino::ROOT, b"a").unwrap();
    let gone = client.deleted(Ino::ROOT).unwrap();
    assert_eq!(gone.len(), 1);
    assert_eq!((&*gone[0].name, gone[0].last >= mark), (&b"a"[..], true));
    assert_eq!(client.lookup(Ino::ROOT, b"a", AsOf::At(gone[0].last)).unwrap().size, 500);
}

#[test]
fn a_crowded_region_is_written_anew_and_reads_the_same() {
    let server = Memory::new();
    let client = open(&server, options());
    let (ino, handle) = file(&client, b"a");
    let mut model = vec![1; 1 << 20];
    write(&client, handle, 0, &model);
    let extents = |client: &Client| {
        fsync(client, Some(handle)).unwrap();
        client.now_readable(client.clock().wall()).unwrap();
        let key = tsfs::meta::key::extents(ino, Default::default(), Default::default());
        let row = tsfs::wire::Server::get(&*server, &key, AsOf::Now).unwrap().unwrap();
        tsfs::meta::extents::Extents::from_row(&key, &row).unwrap().iter().count()
    };
    let mut most = 0;
    for n in 0..1500_usize {
        let at = n * 641 % ((1 << 20) - 8);
        write(&client, handle, at as u64, &[n as u8; 8]);
        model[at..at + 8].fill(n as u8);
        client.flush(handle).unwrap();
        if n % 100 == 99 {
            most = most.max(extents(&client));
        }
    }
    assert!(most > 500, "the edits do not touch each other: {most}");
    let attr = client.getattr(ino, AsOf::Now).unwrap();
    let begun = client.clock().steady();
    while extents(&client) > 1100 {
        let waited = client.clock().steady() - begun;
        assert!(waited < Duration::from_secs(20), "it is written anew");
    }
    assert_eq!(read(&client, ino, AsOf::Now, 0, 1 << 20), model);
    assert_eq!(client.getattr(ino, AsOf::Now).unwrap().mtime, attr.mtime, "nobody wrote");
}

#[test]
fn what_one_thread_saw_no_thread_unsees() {
    const FILES: usize = 200;
    const ROUNDS: u32 = 300;
    let server = Memory::new();
    // Rows leave the cache all the time, and are asked for while they are changed and applied.
    let options =
        Options { window: Duration::from_micros(300), row_cache_bytes: 8 << 10, ..options() };
    let client = open(&server, options);
    let inos: Vec<Ino> = (0..FILES).map(|n| file(&client, n.to_string().as_bytes()).0).collect();
    let seen: Vec<AtomicU32> = (0..FILES).map(|_| AtomicU32::new(0)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (client, inos, seen, done) = (&client, &inos, &seen, &done);
            scope.spawn(move || {
                let mut random = Random(reader);
                while !done.load(SeqCst) {
                    let n = random.below(FILES);
                    let before = seen[n].load(SeqCst);
                    let uid = client.getattr(inos[n], AsOf::Now).unwrap().uid;
                    assert!(uid >= before, "file {n} was {before} and is {uid} again");
                    seen[n].fetch_max(uid, SeqCst);
                }
            });
        }
        for round in 1..=ROUNDS {
            for ino in &inos[..FILES / 10] {
                let set = SetAttr { uid: Some(round), ..SetAttr::default() };
                client.setattr(CALLER, *ino, set).unwrap();
            }
            if round % 50 == 0 {
                fsync(&client, None).unwrap();
            }
        }
        done.store(true, SeqCst);
    });
    for ino in &inos[..FILES / 10] {
        assert_eq!(client.getattr(*ino, AsOf::Now).unwrap().uid, ROUNDS);
    }
}
