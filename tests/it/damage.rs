//! Bytes of a store's files are flipped, cut off and removed, file by file; then the store is opened and read.
//!
//! Whatever was damaged: nothing wrong is ever read, nothing that exists is said not to, and where something needed is
//! gone, an error says where. Not here: damage to what holds nothing (the ballast, RocksDB's own log), power cuts.

use crate::embedded::Contents;
use crate::embedded::Open;
use crate::embedded::fsck;
use crate::support::Random;
use crate::support::run;
use crate::support::scratch;
use std::fs;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use tsfs::types::AsOf;
use tsfs::types::FsError;
use tsfs::types::Kind;
use tsfs::types::Stamp;
use tsfs::wire::Server;

/// A store on disk, and what is in it now and was at an instant.
struct Store {
    scratch: tempfile::TempDir,
    dir: PathBuf,
    then: (Stamp, Contents),
    now: Contents,
}

impl Store {
    /// A store with files of every kind of contents, each with a past. `closed`, it was closed in order; else it is as a
    /// process leaves it that died, with a log to be replayed.
    fn new(closed: bool) -> Store {
        let scratch = scratch();
        let dir = scratch.path().join("store");
        let open = Open::new(&dir, true).unwrap();
        let mut random = Random::new(1);
        let mut contents = |round: u64| -> Contents {
            let mut files: Contents = (0..200_u64)
                .map(|n| (format!("small{n}"), format!("{round} of {n}").into_bytes()))
                .collect();
            files.insert("inline".to_owned(), random.text(400));
            files.insert("payload".to_owned(), random.noise(30_000));
            files.insert("blocks".to_owned(), random.noise(1_000_000));
            files.insert("text".to_owned(), random.text(1_000_000));
            files
        };
        let (old, new) = (contents(1), contents(2));
        open.write(&old);
        let stamp = open.node.barrier().unwrap();
        open.write(&new);
        let dir = if closed {
            open.close().unwrap();
            dir
        } else {
            let copy = scratch.path().join("killed");
            run(Command::new("cp").args(["-a", "--sparse=always"]).arg(&dir).arg(&copy));
            open.close().unwrap();
            copy
        };
        let store = Store { scratch, dir, then: (stamp, old), now: new };
        // Of a copy, because reading a store also replays its log.
        let clean = |label: &Path| assert_eq!(fsck(label.parent().unwrap()), [""; 0]);
        let errors = store.damaged(Path::new("tsfs-store"), clean);
        assert!(errors.is_empty(), "nothing is damaged yet: {errors:?}");
        store
    }

    /// Opens a store and reads everything, now and then: what went wrong.
    ///
    /// # Panics
    /// Where wrong bytes are served, or something is said not to exist.
    #[track_caller]
    fn read_all(&self, dir: &Path) -> Vec<FsError> {
        let open = match Open::new(dir, false) {
            Ok(open) => open,
            Err(error) => return vec![error],
        };
        let mut errors = Vec::new();
        for (at, contents) in [(AsOf::Now, &self.now), (AsOf::At(self.then.0), &self.then.1)] {
            for (name, bytes) in contents {
                match open.read(name, at, bytes.len()) {
                    Ok(read) => assert!(read == bytes, "{name} at {at:?} has other bytes"),
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Damage, "{name} at {at:?}: {error}");
                        errors.push(error);
                    }
                }
            }
        }
        errors.extend(open.close().err());
        errors
    }

    /// The files under a directory of the store whose names end so.
    fn files(&self, dir: &str, end: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.join(dir)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<_> = names
            .filter(|name| name.ends_with(end))
            .map(|name| Path::new(dir).join(name))
            .collect();
        files.sort();
        files
    }

    /// Damages a copy of the store and reads it. What reading meets, fsck must have found before.
    #[track_caller]
    fn damaged(&self, file: &Path, damage: impl FnOnce(&Path)) -> Vec<String> {
        let copy = self.scratch.path().join("copy");
        run(Command::new("cp").args(["-a", "--sparse=always"]).arg(&self.dir).arg(&copy));
        damage(&copy.join(file));
        let found = fsck(&copy);
        let errors = self.read_all(&copy);
        fs::remove_dir_all(&copy).unwrap();
        assert!(errors.is_empty() || !found.is_empty(), "fsck found nothing: {errors:#?}");
        errors.iter().map(ToString::to_string).collect()
    }

    fn len(&self, file: &Path) -> u64 {
        fs::metadata(self.dir.join(file)).unwrap().len()
    }
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn cut(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// Positions all over a file, its first and last byte among them.
fn places(len: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |n| n * (len - 1) / (count - 1))
}

/// Some error names what was damaged.
#[track_caller]
fn told(errors: &[String], words: &[&str], what: &str) {
    let named = |error: &String| words.iter().any(|word| error.contains(word));
    assert!(errors.iter().any(named), "{what}: {errors:#?}");
}

#[test]
fn segments_of_blocks() {
    let store = Store::new(true);
    let files = store.files("blocks", ".blocks");
    assert!(!files.is_empty());
    for file in &files {
        let segment = file.file_stem().unwrap().to_str().unwrap();
        // Most lie in frames, some in headers, few where nothing is.
        let mut noticed = 0;
        let all = 16;
        for at in places(store.len(file), all) {
            let errors = store.damaged(file, |path| flip(path, at));
            if !errors.is_empty() {
                told(&errors, &[segment], &format!("flipped at {at}"));
                noticed += 1;
            }
        }
        assert!(noticed >= all - 3, "{noticed} of {all}");
        let errors = store.damaged(file, |path| cut(path, store.len(file) / 2));
        told(&errors, &[segment], "cut");
        let errors = store.damaged(file, |path| fs::remove_file(path).unwrap());
        told(&errors, &[segment], "removed");
    }
}

#[test]
fn tables_and_payload() {
    let store = Store::new(true);
    for end in [".sst", ".blob"] {
        let files = store.files("table", end);
        assert!(!files.is_empty(), "no {end}");
        for file in files {
            let name = file.file_name().unwrap().to_str().unwrap();
            for at in places(store.len(&file), 8) {
                let errors = store.damaged(&file, |path| flip(path, at));
                // A byte that no read needs may be wrong unnoticed.
                if !errors.is_empty() {
                    told(&errors, &[name, "table"], &format!("{name} flipped at {at}"));
                }
            }
            for len in [0, store.len(&file) / 2] {
                let errors = store.damaged(&file, |path| cut(path, len));
                told(&errors, &[name, "table"], &format!("{name} cut to {len}"));
            }
            let errors = store.damaged(&file, |path| fs::remove_file(path).unwrap());
            told(&errors, &[name, "table"], &format!("{name} removed"));
        }
    }
    for file in store.files("table", "").iter().filter(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name == "CURRENT" || name.starts_with("MANIFEST")
    }) {
        let errors = store.damaged(file, |path| cut(path, 3));
        told(&errors, &["table"], &format!("{} cut", file.display()));
        let errors = store.damaged(file, |path| fs::remove_file(path).unwrap());
        told(&errors, &["table"], &format!("{} removed", file.display()));
    }
}

#[test]
fn the_log() {
    let store = Store::new(false);
    let files = store.files("log", ".log");
    let end = |file: &PathBuf| {
        let bytes = fs::read(store.dir.join(file)).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64
    };
    for file in &files {
        let name = file.file_name().unwrap().to_str().unwrap();
        // The last group of all cannot be told from one that a power cut tore.
        for at in places(end(file) / 2, 8) {
            let errors = store.damaged(file, |path| flip(path, at));
            told(&errors, &[name, "log"], &format!("{name} flipped at {at}"));
        }
    }
    // The one that is to be replayed. What is in those before it is in the table; those after it are prepared and empty.
    let needed = files.iter().max_by_key(|file| end(file)).unwrap();
    for file in &files {
        let errors = store.damaged(file, |path| fs::remove_file(path).unwrap());
        if file == needed {
            told(&errors, &["log"], &format!("{} removed", file.display()));
        }
    }
}

#[test]
fn the_label() {
    let store = Store::new(true);
    let file = Path::new("tsfs-store");
    for at in 0..store.len(file) {
        let errors = store.damaged(file, |path| flip(path, at));
        told(&errors, &["tsfs-store", "store"], &format!("flipped at {at}"));
    }
    for len in [0, store.len(file) / 2] {
        let errors = store.damaged(file, |path| cut(path, len));
        told(&errors, &["tsfs-store", "store"], &format!("cut to {len}"));
    }
}
