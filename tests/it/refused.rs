//! Files of refused work: one that an earlier version wrote is read for ever, and the command shows and extracts what is in it.
//!
//! Not here: when such a file is written (`client::refused`, `cluster::refused`).

use crate::support::Random;
use crate::support::run;
use crate::support::scratch;
use crate::support::tsfs;
use bytes::Bytes;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use tsfs::meta::op::Batch;
use tsfs::meta::op::By;
use tsfs::meta::op::Op;
use tsfs::meta::op::Piece;
use tsfs::meta::op::RenameHow;
use tsfs::meta::op::SetAttr;
use tsfs::types::BatchSeq;
use tsfs::types::BlockId;
use tsfs::types::FileKind;
use tsfs::types::Ino;
use tsfs::types::SessionId;
use tsfs::types::Stamp;
use tsfs::types::Time;
use tsfs::types::frame;
use tsfs::wire::refused::Head;
use tsfs::wire::refused::Named;
use tsfs::wire::refused::Writer;

const SESSION: SessionId = SessionId(7);
/// 2026-11-28 12:00 UTC.
const SAVED: u64 = 1_795_867_200_000_000_000;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/refused-1.refused")
}

fn ino(number: u64) -> Ino {
    Ino::new(number).unwrap()
}

fn large() -> Vec<u8> {
    Random::new(1).noise(10_000)
}

fn batch(seq: u64, ops: Vec<Op>) -> Batch {
    let by = vec![By { uid: 1000, ops: ops.len() as u32 }];
    Batch { session: SESSION, seq: BatchSeq(seq), epoch: 2, by, ops, direct: None }
}

fn write_op(ino: Ino, offset: u64, pieces: Vec<Piece>) -> Op {
    let time = Time { secs: 1_795_867_190, nanos: 500_000_000 };
    Op::Write { ino, offset, pieces, clear_suid: false, time }
}

/// What the fixture has: a batch that was sent and one that was not, contents in every form, names known and not.
fn write_file(path: &Path) {
    let head = Head {
        store: "000102030405060708090a0b0c0d0e0f".to_owned(),
        session: SESSION,
        client: "/mnt/data".to_owned(),
        source: "h1,h2,h3:/".to_owned(),
        opened: Stamp(SAVED - 3_600_000_000_000),
        saved: Stamp(SAVED),
        why: "it was not heard of for longer than its lease".to_owned(),
        applied: BatchSeq(41),
    };
    let time = Time { secs: 1_795_867_180, nanos: 0 };
    let (block, large) = (BlockId { session: SESSION, number: 3 }, large());
    let travels = BlockId { session: SESSION, number: 2 };
    let frame = frame::plain(&[b'p'; 600]);
    let sent = batch(
        42,
        vec![
            write_op(ino(20), 0, vec![Piece::Inline(Bytes::from_static(b"hello"))]),
            write_op(ino(20), 8192, vec![Piece::Payload { block: travels, frame, len: 600 }]),
            Op::Version { ino: ino(20) },
        ],
    );
    let (dir, name) = (ino(10), Bytes::from_static(b"new"));
    let (how, new_name) = (RenameHow::Replace, Bytes::from_static(b"newer"));
    let create = Op::Create {
        dir,
        name: name.clone(),
        ino: ino(21),
        kind: FileKind::File,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        rdev: 0,
        target: Bytes::new(),
        time,
    };
    let rename = Op::Rename { dir, name, new_dir: dir, new_name, how, keep_open: false, time };
    let set = SetAttr { size: Some(9000), ..SetAttr::default() };
    let unsent = batch(
        43,
        vec![
            create,
            write_op(ino(21), 100, vec![Piece::Block { block, len: large.len() as u32 }]),
            rename,
            Op::SetAttr { ino: ino(21), set, time },
            write_op(ino(99), 1, vec![Piece::Inline(Bytes::from_static(b"whose?"))]),
            Op::Unlink { dir, name: Bytes::from_static(b"old"), keep_open: false, time },
        ],
    );
    let file = fs::OpenOptions::new().write(true).create_new(true).open(path).unwrap();
    let mut writer = Writer::begin(file, &head).unwrap();
    let named = |number, path: &'static [u8]| Named {
        ino: ino(number),
        under: Ino::ROOT,
        path: Bytes::from_static(path),
    };
    writer.names(&[named(10, b"d"), named(20, b"d/file"), named(21, b"d/newer")]).unwrap();
    writer.batch(sent.seq, true, &sent.encode()).unwrap();
    writer.block(block, &large.into()).unwrap();
    writer.batch(unsent.seq, false, &unsent.encode()).unwrap();
    writer.end().unwrap();
}

#[test]
#[ignore = "writes into the tree; `make fixture` runs it when the format has changed"]
fn make_the_fixture_of_refused_work() {
    match fixture().exists() {
        true => println!("{} is there, and never made again", fixture().display()),
        false => write_file(&fixture()),
    }
}

#[test]
fn each_change_is_a_line() {
    let output = run(tsfs().arg("refused").arg(fixture()).env("TZ", "UTC"));
    let said = String::from_utf8(output.stdout).unwrap();
    println!("{said}");
    for part in [
        "h1,h2,h3:/ mounted at /mnt/data",
        "it was not heard of for longer than its lease",
        "every batch up to 41",
        "batch 42, 3 changes; sent, and nobody knows whether the store has it",
        "batch 43, 6 changes; never sent",
        "contents     d/file (inode 20), at 8192",
        "created      d/new (inode 21), file 0640 1000:100",
        "renamed      d/new, to d/newer",
        "attributes   d/newer (inode 21), size 9000",
        "contents     inode-99 (inode 99), at 1",
        "deleted      d/old",
    ] {
        assert!(said.contains(part), "no '{part}' in\n{said}");
    }
    let output = run(tsfs().args(["refused", "--json"]).arg(fixture()));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines[0]["session"].as_u64(), lines.len()), (Some(7), 10));
    let write = &lines[2];
    assert_eq!((&write["what"], &write["path"]), (&"contents".into(), &"d/file".into()));
    assert_eq!((&write["size"], &write["by"]), (&600.into(), &1000.into()));
}

#[test]
fn contents_are_extracted_and_nothing_is_overwritten() {
    let scratch = scratch();
    let out = scratch.path().join("out");
    let extract = |out: &Path| {
        let mut command = tsfs();
        command.arg("refused").arg(fixture()).arg("--extract").arg(out);
        command
    };
    run(&mut extract(&out));
    let mut file = vec![0; 8792];
    file[..5].copy_from_slice(b"hello");
    file[8192..].fill(b'p');
    assert_eq!(fs::read(out.join("d/file")).unwrap(), file);
    let newer = fs::read(out.join("d/newer")).unwrap();
    assert_eq!((newer.len(), &newer[100..]), (9000, &large()[..8900]));
    assert_eq!(fs::read(out.join("inode-99")).unwrap(), b"\0whose?");
    let list = fs::read_to_string(out.join("refused.txt")).unwrap();
    assert!(list.contains("d/newer (inode 21)\n  8900 bytes from 100 to before 9000"), "{list}");
    assert!(list.contains("deleted      d/old"), "{list}");
    let again = extract(&out).output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("nothing is overwritten"), "{said}");
}

#[test]
fn of_a_damaged_file_the_rest_is_extracted() {
    let scratch = scratch();
    let (damaged, out) = (scratch.path().join("a.refused"), scratch.path().join("out"));
    let mut bytes = fs::read(fixture()).unwrap();
    let (at, len) = (bytes.len() - 5000, bytes.len());
    bytes[at] ^= 1;
    fs::write(&damaged, &bytes).unwrap();
    let output = tsfs().arg("refused").arg(&damaged).arg("--extract").arg(&out).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the checksum does not match"), "{said}");
    assert!(said.contains("10000 bytes at 100 of d/newer"), "{said}");
    assert_eq!(fs::read(out.join("d/file")).unwrap().len(), 8792);
    assert_eq!(fs::read(out.join("inode-99")).unwrap(), b"\0whose?");
    assert!(!out.join("d/newer").exists());
    // Cut as by a disk that was full.
    fs::write(&damaged, &bytes[..len - 200]).unwrap();
    let output = tsfs().arg("refused").arg(&damaged).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("cut"), "{said}");
    let output = tsfs().arg("refused").arg(fixture().with_extension("none")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_a_disk_cannot_hold_costs_nothing_else() {
    let scratch = scratch();
    let (path, out) = (scratch.path().join("a.refused"), scratch.path().join("out"));
    let set = |number, size| {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        Op::SetAttr { ino: ino(number), set, time: Time::default() }
    };
    let inline = |text: &'static str| vec![Piece::Inline(Bytes::from_static(text.as_bytes()))];
    let ops = vec![
        write_op(ino(30), 0, inline("one")),
        set(30, u64::MAX),
        write_op(ino(31), i64::MAX as u64 - 1, inline("nowhere")),
        write_op(ino(31), 4, inline("there")),
        write_op(ino(32), 0, inline("two")),
    ];
    let head = Head {
        store: String::new(),
        session: SESSION,
        client: String::new(),
        source: String::new(),
        opened: Stamp(SAVED),
        saved: Stamp(SAVED),
        why: String::new(),
        applied: BatchSeq(0),
    };
    let mut writer = Writer::begin(fs::File::create(&path).unwrap(), &head).unwrap();
    // A path that leads out of the directory is none.
    let evil = Named { ino: ino(32), under: Ino::ROOT, path: Bytes::from_static(b"../../x") };
    writer.names(&[evil]).unwrap();
    writer.batch(BatchSeq(1), false, &batch(1, ops).encode()).unwrap();
    writer.end().unwrap();
    let output = tsfs().arg("refused").arg(&path).arg("--extract").arg(&out).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.matches("not extracted").count(), 2, "{said}");
    assert_eq!(fs::read(out.join("inode-30")).unwrap(), b"one");
    assert_eq!(fs::read(out.join("inode-31")).unwrap(), b"\0\0\0\0there");
    assert_eq!(fs::read(out.join("inode-32")).unwrap(), b"two");
    let list = fs::read_to_string(out.join("refused.txt")).unwrap();
    let ranges = "(inode 31)\n  5 bytes from 4 to before 9\n";
    assert!(list.contains(ranges), "{list}");
}

#[test]
fn the_files_of_a_directory_are_listed() {
    let scratch = scratch();
    let set = format!("mount.refused={}", scratch.path().join("none").display());
    let list = |set: &str| {
        let output = run(tsfs().args(["refused", "--set", set]).env("TZ", "UTC"));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(list(&set).contains("nothing was refused"));
    fs::copy(fixture(), scratch.path().join("x.refused")).unwrap();
    fs::write(scratch.path().join("other"), "").unwrap();
    let said = list(&format!("mount.refused={}", scratch.path().display()));
    assert!(said.contains("h1,h2,h3:/ at /mnt/data") && said.contains("x.refused"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    let off = tsfs().args(["refused", "--set", "mount.refused=off"]).output().unwrap();
    assert!(String::from_utf8_lossy(&off.stderr).contains("mount.refused is off"));
}
