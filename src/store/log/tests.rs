//! The log against a vector, on a disk that loses power at any operation: nothing synced is lost, what else survives is
//! a prefix of what was being written, nothing that was overwritten or purged comes back, and damage is never
//! taken for a torn tail.

use crate::store::disk::Disk;
use crate::store::disk::SimulatedDisk;
use crate::store::log::Log;
use crate::store::log::Options;
use crate::tsdb_log::entry::Entry;
use crate::tsdb_log::entry::EntryKind;
use crate::tsdb_log::entry::HardState;
use crate::tsdb_log::entry::Members;
use crate::tsdb_log::store::Group;
use crate::tsdb_log::store::LogRead;
use crate::tsdb_log::store::LogStore;
use crate::types::FsError;
use crate::types::LogIndex;
use crate::types::NodeId;
use crate::types::Term;
use bytes::Bytes;
use proptest::prelude::*;
use std::path::Path;
use std::path::PathBuf;

const STORE: [u8; 16] = *b"the test's store";
const DIR: &str = "/log";
/// A few groups fill one.
const OPTIONS: Options = Options { segment_bytes: 4096 * 3, spares_max: 2 };

fn new_disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new(64 << 20);
    disk.make_dir(Path::new(DIR)).unwrap();
    Log::create(&disk, Path::new(DIR), STORE, &Members::alone(NodeId(1))).unwrap();
    disk
}

fn open(disk: &SimulatedDisk) -> Result<Log, FsError> {
    Log::open(disk.shared(), Path::new(DIR), STORE, &OPTIONS)
}

/// The segments of the log, oldest first.
fn logs(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new(DIR)).unwrap().into_iter();
    names.filter(|name| name.ends_with(".log")).map(|name| Path::new(DIR).join(name)).collect()
}

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    // The contents tell entries of one index apart.
    let body = (0..bytes).map(|n| (index as u8) ^ (term as u8).rotate_left(3) ^ n as u8).collect();
    Entry {
        index: LogIndex(index),
        term: Term(term),
        kind: EntryKind::Command,
        header: Bytes::from(format!("{index}@{term}")),
        body,
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Appends entries of these sizes, `back` before the end, in a new term if that overwrites any.
    Append {
        sizes: Vec<usize>,
        back: u64,
    },
    Vote,
    Purge {
        share: u8,
    },
    Keep,
    Settle,
    Reopen,
    /// The power goes so many operations later; comes back when somebody noticed.
    Crash {
        after: u64,
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![0..40usize, 0..700usize, Just(3000usize)];
    prop_oneof![
        8 => (prop::collection::vec(size, 1..6), prop_oneof![9 => Just(0), 1 => 1..4u64])
            .prop_map(|(sizes, back)| Step::Append { sizes, back }),
        1 => Just(Step::Vote),
        1 => any::<u8>().prop_map(|share| Step::Purge { share }),
        1 => Just(Step::Keep),
        1 => Just(Step::Settle),
        1 => Just(Step::Reopen),
        2 => (0..12u64, any::<u64>()).prop_map(|(after, seed)| Step::Crash { after, seed }),
    ]
}

/// What the log must hold.
#[derive(Clone, Default)]
struct Model {
    entries: Vec<Entry>,
    hard: HardState,
    /// Everything up to here may be gone.
    purged: u64,
    term: u64,
}

impl Model {
    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    fn after(&self, group: &Group) -> Model {
        let mut model = self.clone();
        model.hard = group.hard.unwrap_or(model.hard);
        for entry in &group.entries {
            model.entries.truncate(entry.index.0 as usize - 1);
            model.entries.push(entry.clone());
        }
        model
    }

    /// The states that a group may leave when it is cut: each adds one record.
    fn on_the_way(&self, group: &Group) -> Vec<Model> {
        let mut states = vec![self.clone()];
        // A group that begins a segment says first which entries stay.
        let mut shortened = self.clone();
        if let Some(first) = group.entries.first() {
            shortened.entries.truncate(first.index.0 as usize - 1);
        }
        let first = Group { hard: group.hard, entries: Vec::new() };
        states.extend([self.after(&first), shortened.after(&first), shortened]);
        for count in 1..=group.entries.len() {
            let part = Group { hard: group.hard, entries: group.entries[..count].to_vec() };
            states.push(self.after(&part));
        }
        states
    }

    fn matches(&self, log: &Log) -> bool {
        let reader = log.reader();
        let (first, last) = (reader.first().0, reader.last().0);
        last == self.last()
            && first <= self.purged + 1
            && log.hard_state() == self.hard
            && read(&*reader) == self.entries[first as usize - 1..]
            && (first..=last)
                .all(|n| reader.term(LogIndex(n)) == Some(self.entries[n as usize - 1].term))
            && reader.term(LogIndex(last + 1)).is_none()
    }
}

fn read(reader: &dyn LogRead) -> Vec<Entry> {
    let end = LogIndex(reader.last().0 + 1);
    let mut entries = Vec::new();
    let mut next = reader.first();
    while next < end {
        let page = reader.entries(next, end, 1000).unwrap();
        assert!(!page.is_empty());
        next = LogIndex(next.0 + page.len() as u64);
        entries.extend(page);
    }
    entries
}

struct World {
    disk: SimulatedDisk,
    log: Log,
    model: Model,
    /// Seed of the cut that is coming.
    cut: Option<u64>,
}

impl World {
    fn new() -> World {
        let disk = new_disk();
        let log = open(&disk).unwrap();
        World { disk, log, model: Model::default(), cut: None }
    }

    /// What the log is told to do, as it stands in `group`, may have been done in part if it failed.
    fn settle_up(&mut self, done: Result<(), FsError>, group: &Group) {
        match done {
            Ok(()) => self.model = self.model.after(group),
            Err(_) => self.power_cut(group),
        }
    }

    fn power_cut(&mut self, group: &Group) {
        let seed = self.cut.take().expect("nothing fails while there is power");
        self.disk.crash(seed);
        self.log = open(&self.disk).unwrap();
        let states = self.model.on_the_way(group);
        let found = states.into_iter().rev().find(|state| state.matches(&self.log));
        self.model = Model { term: self.model.term, ..found.expect("a state on the way") };
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append { sizes, back } => {
                let back = (*back).min(self.model.last() - self.model.purged);
                self.model.term += u64::from(back > 0 || self.model.term == 0);
                let next = self.model.last() - back + 1;
                let indexed = (next..).zip(sizes);
                let entries = indexed.map(|(n, size)| entry(n, self.model.term, *size)).collect();
                let group = Group { hard: None, entries };
                let done = self.log.append(&group);
                self.settle_up(done, &group);
            }
            Step::Vote => {
                let term = Term(self.model.hard.term.0 + 1);
                let hard = HardState { term, vote: NodeId(1), commit: LogIndex(0) };
                let group = Group { hard: Some(hard), entries: Vec::new() };
                let done = self.log.append(&group);
                self.settle_up(done, &group);
            }
            Step::Purge { share } => {
                let upto = self.model.last() * u64::from(*share) / 255;
                self.model.purged = self.model.purged.max(upto);
                self.log.purge(LogIndex(upto));
            }
            Step::Keep => {
                let done = self.log.keeper().work();
                self.settle_up(done, &Group::default());
            }
            Step::Settle => {
                let done = self.log.settle();
                self.settle_up(done, &Group::default());
            }
            Step::Reopen if self.cut.is_none() => self.log = open(&self.disk).unwrap(),
            Step::Reopen => {}
            Step::Crash { after, seed } => {
                self.cut = Some(*seed);
                self.disk.power_off_after(*after);
            }
        }
        if self.cut.is_none() {
            assert!(self.model.matches(&self.log), "after {step:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_survives_every_power_cut(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
    }

    #[test]
    fn a_turned_bit_is_reported_or_costs_nothing(
        steps in prop::collection::vec(step(), 5..40),
        place in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut world = World::new();
        for step in steps.iter().filter(|step| !matches!(step, Step::Crash { .. })) {
            world.run(step);
        }
        world.log.settle().unwrap();
        let names = world.disk.list(Path::new(DIR)).unwrap();
        let files = names.iter().map(|name| Path::new(DIR).join(name));
        let sizes: Vec<_> = files
            .map(|path| {
                let file = world.disk.open(&path, crate::store::disk::Access::Read).unwrap();
                (path, file.len().unwrap())
            })
            .collect();
        let mut at = place.index(sizes.iter().map(|(_, len)| len).sum::<u64>() as usize) as u64;
        let (path, _) = sizes.iter().find(|(_, len)| at < *len || { at -= len; false }).unwrap();
        world.disk.flip_bit(path, at, bit).unwrap();
        match open(&world.disk) {
            Err(error) => prop_assert!(matches!(error, FsError::Damaged(_)), "{error}"),
            Ok(log) => prop_assert!(world.model.matches(&log)),
        }
    }

    #[test]
    fn what_damage_leaves_of_a_log_is_salvaged(
        steps in prop::collection::vec(step(), 5..40),
        place in any::<prop::sample::Index>(),
        share in any::<u8>(),
    ) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Crash { .. } => {}
                // Who is alone never replaces what it has.
                Step::Append { sizes, .. } => world.run(&Step::Append { sizes, back: 0 }),
                step => world.run(&step),
            }
        }
        world.log.settle().unwrap();
        let segments = logs(&world.disk);
        let path = &segments[place.index(segments.len())];
        let len = world.disk.open(path, crate::store::disk::Access::Read).unwrap().len().unwrap();
        world.disk.flip_bit(path, place.index(len as usize) as u64, 3).unwrap();
        if open(&world.disk).is_ok() {
            return Ok(());
        }
        let World { disk, model, .. } = world;
        let after = model.purged + (model.last() - model.purged) * u64::from(share) / 255;
        let members = Members::alone(NodeId(1));
        let salvage =
            Log::salvage(&disk, Path::new(DIR), STORE, LogIndex(after), members).unwrap();
        let last = salvage.last().0;
        prop_assert!((after..=model.last()).contains(&last));
        let lost = (last < model.last()).then(|| (LogIndex(last + 1), LogIndex(model.last())));
        prop_assert_eq!(salvage.lost(), lost);
        Log::replace(&disk, Path::new(DIR), STORE, &salvage).unwrap();
        disk.crash(1);
        let mut log = open(&disk).unwrap();
        let kept = &model.entries[after as usize..last as usize];
        prop_assert_eq!(&read(&*log.reader())[..], kept);
        let next = entry(last + 1, model.term + 1, 20);
        log.append(&Group { hard: None, entries: vec![next] }).unwrap();
        log.settle().unwrap();
        prop_assert_eq!(open(&disk).unwrap().reader().last(), LogIndex(last + 1));
    }
}

#[test]
fn damage_under_a_mark_is_told_from_a_torn_tail() {
    let disk = new_disk();
    let mut log = open(&disk).unwrap();
    let group = |index| Group { hard: None, entries: vec![entry(index, 1, 100)] };
    log.append(&group(1)).unwrap();
    log.append(&group(2)).unwrap();
    let path = logs(&disk).pop().unwrap();
    // The second group's entry: no mark stands behind it, so it may as well never have been written whole.
    let second = 4096 + 400;
    disk.flip_bit(&path, second, 0).unwrap();
    assert_eq!(open(&disk).unwrap().reader().last(), LogIndex(1));
    disk.flip_bit(&path, second, 0).unwrap();
    log.settle().unwrap();
    disk.flip_bit(&path, second, 0).unwrap();
    let error = open(&disk).err().unwrap();
    assert!(
        matches!(&error, FsError::Damaged(what) if what.contains("is damaged at offset")),
        "{error}"
    );
}

#[test]
fn a_missing_segment_and_a_foreign_one_are_named() {
    let disk = new_disk();
    let mut log = open(&disk).unwrap();
    for index in 1..=12 {
        log.append(&Group { hard: None, entries: vec![entry(index, 1, 2500)] }).unwrap();
    }
    let logs = logs(&disk);
    disk.rename(&logs[2], Path::new("/log/away")).unwrap();
    let error = open(&disk).err().unwrap();
    assert!(matches!(&error, FsError::Damaged(what) if what.contains("is missing")), "{error}");
    disk.rename(&logs[3], &logs[2]).unwrap();
    let error = open(&disk).err().unwrap();
    assert!(matches!(&error, FsError::Damaged(what) if what.contains("was renamed")), "{error}");
    let other = Log::open(disk.shared(), Path::new(DIR), [7; 16], &OPTIONS).err().unwrap();
    assert!(matches!(other, FsError::Damaged(_)));
}

#[test]
fn a_failed_sync_is_final() {
    let disk = new_disk();
    let mut log = open(&disk).unwrap();
    let group = |index| Group { hard: None, entries: vec![entry(index, 1, 10)] };
    log.append(&group(1)).unwrap();
    disk.fail_sync(DIR);
    assert!(log.append(&group(2)).is_err());
    let again = log.append(&group(2)).unwrap_err();
    assert!(again.to_string().contains("takes nothing more"), "{again}");
    assert_eq!(log.reader().last(), LogIndex(1));
    disk.crash(1);
    assert_eq!(open(&disk).unwrap().reader().last(), LogIndex(1));
}

#[test]
fn a_purged_log_takes_no_more_space() {
    let disk = new_disk();
    let mut log = open(&disk).unwrap();
    let mut used = 0;
    for index in 1..=400 {
        log.append(&Group { hard: None, entries: vec![entry(index, 1, 1000)] }).unwrap();
        log.purge(LogIndex(index));
        log.keeper().work().unwrap();
        if index == 40 {
            used = disk.used();
        }
    }
    assert_eq!(disk.used(), used, "segments are used again");
    assert!(disk.used() <= 6 * OPTIONS.segment_bytes);
    assert_eq!(log.reader().last(), LogIndex(400));
}

#[test]
fn a_log_begins_anew_behind_a_table_whenever_the_power_goes() {
    let vote = HardState { term: Term(9), vote: NodeId(1), commit: LogIndex(0) };
    for cut in 0..14 {
        let disk = new_disk();
        let mut log = open(&disk).unwrap();
        for index in 1..=12 {
            let hard = (index == 1).then_some(vote);
            log.append(&Group { hard, entries: vec![entry(index, 1, 2500)] }).unwrap();
        }
        log.settle().unwrap();
        drop(log);
        let install = |index, term| {
            let members = Members::alone(NodeId(2));
            let (index, term) = (LogIndex(index), Term(term));
            Log::install(&disk, Path::new(DIR), STORE, index, term, &members)
        };
        // It has that entry: what follows it stays.
        install(10, 1).unwrap();
        assert_eq!(open(&disk).unwrap().reader().last(), LogIndex(12));
        disk.power_off_after(cut);
        let done = install(40, 3);
        disk.crash(cut);
        let log = open(&disk).unwrap();
        let reader = log.reader();
        assert_eq!(log.hard_state().term, Term(9), "what it voted for stays");
        assert_eq!(log.hard_state().vote, NodeId(1));
        if reader.last() == LogIndex(12) {
            assert!(done.is_err());
            assert_eq!(reader.first(), LogIndex(1));
        }
        drop(log);
        install(40, 3).unwrap();
        let mut log = open(&disk).unwrap();
        let reader = log.reader();
        assert_eq!((reader.first(), reader.last()), (LogIndex(41), LogIndex(40)));
        assert_eq!(reader.term(LogIndex(40)), Some(Term(3)));
        assert_eq!(log.members(), Members::alone(NodeId(2)));
        log.append(&Group { hard: None, entries: vec![entry(41, 9, 2500)] }).unwrap();
        log.keeper().work().unwrap();
        drop(log);
        disk.crash(cut);
        assert_eq!(read(&*open(&disk).unwrap().reader()), [entry(41, 9, 2500)]);
        let older = install(20, 1);
        assert!(matches!(older, Err(FsError::Refused(_))), "{older:?}");
    }
}
