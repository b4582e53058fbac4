//! Faults that last: which ones do, and how disks get well again.

use super::Fault;
use super::rot::Rot;
use crate::chance::Chance;
use crate::member::Member;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use tsfs::store::disk::Access;
use tsfs::store::disk::Disk;
use tsfs::types::NodeId;

const DISK_BYTES: u64 = 256 << 20;
/// What a full disk still has: a page or two of the log.
const LEFT_BYTES_MAX: u64 = 64 << 10;

struct Flip {
    member: usize,
    path: PathBuf,
    at: u64,
    bit: u8,
    /// The byte as it was left.
    byte: u8,
}

#[derive(Default)]
pub(crate) struct Harm {
    until: BTreeMap<Fault, u64>,
    /// When which disk is well again.
    ill: Vec<(u64, usize)>,
    flips: Vec<Flip>,
    pub(super) rot: Option<Rot>,
    /// Nodes that are to keep no blocks.
    pub(crate) leaving: BTreeSet<NodeId>,
    /// Blocks that rotted and were replaced, or went.
    pub(crate) replaced: u64,
    /// How often a node found out that its log is damaged.
    pub(crate) found: u64,
}

impl Harm {
    pub(super) fn lasts(&mut self, fault: Fault, until: u64) {
        let known = self.until.entry(fault).or_default();
        *known = until.max(*known);
    }

    /// The network is whole.
    pub(super) fn mended(&mut self) {
        self.until.retain(|_, until| *until != u64::MAX);
    }

    pub(crate) fn active(&self, now: u64) -> BTreeSet<Fault> {
        self.until.iter().filter(|(_, until)| **until > now).map(|(fault, _)| *fault).collect()
    }

    /// Something happens to a disk; until when.
    pub(super) fn disk(
        &mut self,
        fault: Fault,
        who: usize,
        now: u64,
        members: &mut [Member],
        (mounted, chance): (bool, &mut Chance),
    ) -> u64 {
        // What lies on the disk besides the log is of use with mounts only.
        let of_blocks = mounted && chance.once_in(2);
        let part = if of_blocks { "/blocks" } else { "/log" };
        if fault == Fault::BitFlip && of_blocks {
            return self.rot(who, now, members, chance);
        }
        let member = &mut members[who];
        let until = now + chance.between(50, 1500);
        match fault {
            Fault::FailedSync => {
                member.disk.fail_sync(part);
                member.doubtful = true;
                return now + 300;
            }
            Fault::FailedReads => {
                member.disk.fail_reads(part);
                member.cannot_read = true;
            }
            Fault::FullDisk => {
                member.disk.set_capacity(member.disk.used() + chance.below(LEFT_BYTES_MAX));
            }
            Fault::SlowDisk => member.slow_ms = chance.between(2, 60),
            _ => return self.flip(who, member, now, chance),
        }
        self.ill.push((until, who));
        until
    }

    /// A bit of what was written long ago turns over.
    fn flip(&mut self, who: usize, member: &Member, now: u64, chance: &mut Chance) -> u64 {
        let names = member.disk.list(Path::new("/log")).unwrap_or_default();
        let logs: Vec<&String> = names.iter().filter(|name| name.ends_with(".log")).collect();
        // What is synced last cannot be told from a torn write: only what stands far behind the end.
        let [first, _, _, _, ..] = logs[..] else { return now };
        let path = Path::new("/log").join(first);
        let Ok(file) = member.disk.open(&path, Access::Read) else { return now };
        let Ok(len) = file.len() else { return now };
        let (at, bit) = (chance.below(len.clamp(1, 4096)), chance.below(8) as u8);
        let Ok(byte) = file.read_at(at, 1) else { return now };
        if byte.is_empty() || member.disk.flip_bit(&path, at, bit).is_err() {
            return now;
        }
        self.flips.push(Flip { member: who, path, at, bit, byte: byte[0] ^ 1 << bit });
        now + 1000
    }

    /// Whether what this member reads may not be what was written.
    pub(crate) fn is_flipped(&self, who: usize) -> bool {
        self.flips.iter().any(|flip| flip.member == who)
    }

    /// A node does not start, for its log is damaged: somebody puts it right from a copy.
    pub(crate) fn repair(&mut self, who: usize, member: &Member) {
        if member.cannot_read {
            return;
        }
        let (of, others) =
            std::mem::take(&mut self.flips).into_iter().partition(|flip| flip.member == who);
        self.flips = others;
        let of: Vec<Flip> = of;
        self.found += u64::from(!of.is_empty());
        // The last first, for one byte may have been hit twice.
        for Flip { path, at, bit, byte, .. } in of.into_iter().rev() {
            let now = member.disk.open(&path, Access::Read).and_then(|file| file.read_at(at, 1));
            // What was written over since is right.
            if now.is_ok_and(|now| now == [byte]) {
                member.disk.flip_bit(&path, at, bit).unwrap();
            }
        }
    }

    /// Disks whose time has come are well.
    pub(crate) fn pass(&mut self, now: u64, members: &mut [Member]) {
        let (due, later) = std::mem::take(&mut self.ill).into_iter().partition(|ill| ill.0 <= now);
        self.ill = later;
        let due: Vec<(u64, usize)> = due;
        due.iter().for_each(|(_, who)| heal(&mut members[*who]));
        self.look_at_rot(now, members);
    }

    pub(crate) fn end(&mut self, members: &mut [Member]) {
        self.until.clear();
        self.ill.clear();
        for (who, member) in members.iter_mut().enumerate() {
            heal(member);
            self.repair(who, member);
        }
    }
}

fn heal(member: &mut Member) {
    member.disk.set_capacity(DISK_BYTES);
    member.disk.mend_reads();
    (member.cannot_read, member.slow_ms) = (false, 0);
}
