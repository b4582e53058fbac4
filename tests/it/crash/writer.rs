//! A writer: a process of its own that changes a directory by single system calls and keeps a ledger.
//!
//! Which change is the n-th follows from a seed, so whoever checks can replay it on a model. The ledger lies on another
//! file system: it says which changes returned, with what, and when. Each change is one request to the file system,
//! because what survives a crash is a prefix of requests; only a write may become several, for the kernel may cut it where a
//! page ends, and then a crash may leave its beginning alone ([`Change::beginnings`]).

use super::tree::Model;
use super::tree::NOTE;
use crate::support::Random;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

/// One change.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Change {
    Create(String, u32),
    Write(String, usize, Vec<u8>),
    Append(String, Vec<u8>),
    Truncate(String, usize),
    Chmod(String, u32),
    Note(String, Vec<u8>),
    Link(String, String),
    Symlink(String, Vec<u8>),
    Unlink(String),
    Rename(String, String),
    Mkdir(String),
    Rmdir(String),
    /// Not a change but a promise: what returned before it is durable when it returns.
    SyncFile(String),
    SyncTop,
}

/// The n-th change of a writer. Names come from a small set, so that changes meet; one in eight is a sync.
pub(super) fn change(seed: u64, n: u64) -> Change {
    let random = &mut Random::new(seed.wrapping_mul(0x1_0001).wrapping_add(n));
    random.next();
    let file = |random: &mut Random| match random.below(16) {
        n @ 0..8 => format!("f{n}"),
        n => format!("d{}/f{}", n % 2, n % 4),
    };
    let link = |random: &mut Random| format!("l{}", random.below(4));
    let name = file(random);
    match random.below(32) {
        0..6 => Change::Create(name, 0o600 | random.below(0o200) as u32 & 0o177),
        6..12 => {
            // Mostly small; some of a size that travels outside the log, some that do not compress.
            let len = 1 + match random.below(8) {
                0 => random.below(150_000),
                1 | 2 => random.below(20_000),
                _ => random.below(600),
            } as usize;
            let offset = random.below(100_000) as usize * (random.below(3) as usize) / 2;
            let bytes = if random.below(2) == 0 { random.noise(len) } else { random.text(len) };
            Change::Write(name, offset, bytes)
        }
        12..16 => {
            let len = 1 + random.below(300) as usize;
            Change::Append(name, random.text(len))
        }
        16..18 => Change::Truncate(name, random.below(2) as usize * random.below(90_000) as usize),
        18 => Change::Chmod(name, 0o600 | random.below(0o200) as u32 & 0o177),
        19 => Change::Note(name, random.noise(8)),
        20 => Change::Link(name, file(random)),
        21 => Change::Symlink(link(random), random.text(20)),
        22 => Change::Unlink(link(random)),
        23..25 => Change::Unlink(name),
        25 | 26 => Change::Rename(name, file(random)),
        27 => Change::Mkdir(format!("d{}", random.below(2))),
        28 if random.below(3) == 0 => Change::Rmdir(format!("d{}", random.below(2))),
        28 => Change::Mkdir(format!("d{}", random.below(2))),
        29 | 30 => Change::SyncFile(name),
        _ => Change::SyncTop,
    }
}

impl Change {
    /// Whether it promises durability.
    pub(super) fn is_sync(&self) -> bool {
        matches!(self, Change::SyncFile(_) | Change::SyncTop)
    }

    /// Does it to the model.
    pub(super) fn apply(&self, model: &mut Model) -> Result<(), Errno> {
        match self {
            Change::Create(name, mode) => model.create(name, *mode),
            Change::Write(name, offset, data) => model.write(name, *offset, data),
            Change::Append(name, data) => model.append(name, data),
            Change::Truncate(name, len) => model.truncate(name, *len),
            Change::Chmod(name, mode) => model.chmod(name, *mode),
            Change::Note(name, note) => model.note(name, note),
            Change::Link(name, new) => model.link(name, new),
            Change::Symlink(name, target) => model.symlink(name, target),
            Change::Unlink(name) => model.unlink(name),
            Change::Rename(name, new) => model.rename(name, new),
            Change::Mkdir(name) => model.mkdir(name),
            Change::Rmdir(name) => model.rmdir(name),
            // Opening what is not there fails as writing nothing to it does.
            Change::SyncFile(name) => model.append(name, &[]),
            Change::SyncTop => Ok(()),
        }
    }

    /// What a crash may leave of it alone, on `model`, which has not seen it yet: of a write, what lies before the end of a page.
    pub(super) fn beginnings(&self, model: &Model) -> Vec<Change> {
        const PAGE: usize = 4096;
        let cuts = |start: usize, len: usize| (PAGE - start % PAGE..len).step_by(PAGE);
        match self {
            Change::Write(name, offset, data) => cuts(*offset, data.len())
                .map(|cut| Change::Write(name.clone(), *offset, data[..cut].to_vec()))
                .collect(),
            Change::Append(name, data) => {
                let Some(end) = model.len(name) else { return Vec::new() };
                cuts(end, data.len())
                    .map(|cut| Change::Append(name.clone(), data[..cut].to_vec()))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// Does it to a real directory, as one changing system call.
    fn perform(&self, top: &Path) -> Result<(), Errno> {
        let open = |name: &str, flags: OFlags| -> Result<OwnedFd, Errno> {
            rustix::fs::open(
                top.join(name),
                OFlags::WRONLY | OFlags::CLOEXEC | flags,
                Mode::empty(),
            )
        };
        match self {
            Change::Create(name, mode) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                rustix::fs::open(top.join(name), flags, Mode::from_raw_mode(*mode)).map(drop)
            }
            Change::Write(name, offset, data) => {
                let done = rustix::io::pwrite(open(name, OFlags::empty())?, data, *offset as u64)?;
                whole(done, data)
            }
            Change::Append(name, data) => {
                let done = rustix::io::write(open(name, OFlags::APPEND)?, data)?;
                whole(done, data)
            }
            Change::Truncate(name, len) => {
                rustix::fs::ftruncate(open(name, OFlags::empty())?, *len as u64)
            }
            Change::Chmod(name, mode) => {
                rustix::fs::chmod(top.join(name), Mode::from_raw_mode(*mode))
            }
            Change::Note(name, note) => {
                rustix::fs::setxattr(top.join(name), NOTE, note, XattrFlags::empty())
            }
            Change::Link(name, new) => rustix::fs::link(top.join(name), top.join(new)),
            Change::Symlink(name, target) => rustix::fs::symlink(&target[..], top.join(name)),
            Change::Unlink(name) => rustix::fs::unlink(top.join(name)),
            Change::Rename(name, new) => rustix::fs::rename(top.join(name), top.join(new)),
            Change::Mkdir(name) => rustix::fs::mkdir(top.join(name), Mode::from_raw_mode(0o755)),
            Change::Rmdir(name) => rustix::fs::unlinkat(CWD, top.join(name), AtFlags::REMOVEDIR),
            Change::SyncFile(name) => rustix::fs::fsync(open(name, OFlags::empty())?),
            Change::SyncTop => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::fsync(rustix::fs::open(top, flags, Mode::empty())?)
            }
        }
    }
}

/// That a change has returned: the answer, and when it was asked and answered (nanoseconds of one steady clock).
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Entry {
    pub errno: i32,
    pub asked: u64,
    pub answered: u64,
}

impl Entry {
    pub(super) const BYTES: usize = 20;

    fn to_bytes(self) -> [u8; Entry::BYTES] {
        let mut bytes = [0; Entry::BYTES];
        bytes[..4].copy_from_slice(&self.errno.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.asked.to_le_bytes());
        bytes[12..].copy_from_slice(&self.answered.to_le_bytes());
        bytes
    }

    /// The whole entries of a ledger; a writer that is killed may leave half a one.
    pub(super) fn read(ledger: &Path) -> Vec<Entry> {
        let bytes = std::fs::read(ledger).unwrap();
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let entry = |bytes: &[u8]| Entry {
            errno: i32::from_le_bytes(bytes[..4].try_into().unwrap()),
            asked: number(&bytes[4..12]),
            answered: number(&bytes[12..]),
        };
        bytes.chunks_exact(Entry::BYTES).map(entry).collect()
    }
}

/// A write is cut short by nothing but the server's end.
fn whole(done: usize, data: &[u8]) -> Result<(), Errno> {
    if done == data.len() { Ok(()) } else { Err(Errno::NOTCONN) }
}

/// What a program is told once the server is gone.
fn server_gone(errno: Errno) -> bool {
    [Errno::NOTCONN, Errno::CONNABORTED, Errno::IO].contains(&errno)
}

/// Changes `top` until the server is gone, or `most` times.
pub(super) fn write(top: &Path, ledger: &Path, seed: u64, most: u64) {
    rustix::process::umask(Mode::empty());
    let mut ledger = std::fs::File::options().append(true).open(ledger).unwrap();
    let clock = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    };
    for n in 0..most {
        let change = change(seed, n);
        let asked = clock();
        let result = change.perform(top);
        let errno = match result {
            Ok(()) => 0,
            Err(errno) if server_gone(errno) => return,
            Err(errno) => errno.raw_os_error(),
        };
        ledger.write_all(&Entry { errno, asked, answered: clock() }.to_bytes()).unwrap();
    }
}
