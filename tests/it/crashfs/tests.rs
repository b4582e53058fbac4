//! The harness loses what it should, and only that.

use super::*;
use crate::support::scratch;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

fn sync_dir(dir: &Path) {
    File::open(dir).unwrap().sync_all().unwrap();
}

#[test]
fn what_is_synced_survives_and_the_rest_may_not() {
    let scratch = scratch();
    let disk = CrashFs::mount(&scratch.path().join("disk"));
    let mut random = Random::new(1);
    let mut seen = [0; 3];
    for round in 0..60 {
        let dir = disk.dir().join(format!("d{round}"));
        fs::create_dir(&dir).unwrap();
        let path = dir.join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(&[1; 20_000]).unwrap();
        file.sync_data().unwrap();
        sync_dir(&dir);
        sync_dir(disk.dir());
        file.write_all_at(&[2; 10_000], 4000).unwrap();
        assert_eq!(fs::read(&path).unwrap()[4000], 2, "seen before it is synced");
        drop(file);
        disk.crash(&mut random);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 20_000);
        assert!(bytes[..4000].iter().chain(&bytes[14_000..]).all(|byte| *byte == 1));
        match bytes.iter().filter(|byte| **byte == 2).count() {
            0 => seen[0] += 1,
            10_000 => seen[1] += 1,
            _ => seen[2] += 1,
        }
    }
    assert!(seen.iter().all(|count| *count > 5), "lost, kept, torn: {seen:?}");
}

#[test]
fn names_come_back_in_the_order_they_went() {
    let scratch = scratch();
    let disk = CrashFs::mount(&scratch.path().join("disk"));
    let (a, b, c) = (disk.dir().join("a"), disk.dir().join("b"), disk.dir().join("c"));
    let mut random = Random::new(2);
    // After each of the three changes below, and before the first.
    let states =
        [("old", false, false), ("old", true, false), ("new", false, false), ("new", false, true)];
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        for path in [&a, &b, &c] {
            let _ = fs::remove_file(path);
        }
        fs::write(&a, "old").unwrap();
        File::open(&a).unwrap().sync_all().unwrap();
        sync_dir(disk.dir());
        fs::write(&b, "new").unwrap();
        File::open(&b).unwrap().sync_all().unwrap();
        fs::rename(&b, &a).unwrap();
        fs::write(&c, "").unwrap();
        let lost = disk.crash(&mut random);
        let state = (fs::read_to_string(&a).unwrap(), b.exists(), c.exists());
        let kept =
            states.iter().position(|(text, b, c)| (*text, *b, *c) == (&state.0, state.1, state.2));
        assert_eq!(kept.map(|kept| 3 - kept as u64), Some(lost.names), "{state:?}");
        seen.insert(state);
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn it_does_for_files_what_a_store_needs() {
    let scratch = scratch();
    let disk = CrashFs::mount(&scratch.path().join("disk"));
    let path = disk.dir().join("file");
    let file = File::create_new(&path).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 100_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 100_000);
    file.write_all_at(b"abc", 5000).unwrap();
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 5001, 1).unwrap();
    file.set_len(5003).unwrap();
    file.set_len(6000).unwrap();
    assert_eq!(fs::read(&path).unwrap()[4999..5004], *b"\0a\0c\0");
    // Open and without a name it can still be used.
    fs::remove_file(&path).unwrap();
    sync_dir(disk.dir());
    file.write_all_at(b"xyz", 0).unwrap();
    let mut bytes = [0; 3];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, *b"xyz");
    assert_eq!(fs::read_dir(disk.dir()).unwrap().count(), 0);
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
}
