//! Files on their way, over breaks, power cuts and bad chunks; and plans that mean harm.

use super::*;
use crate::store::disk::SimulatedDisk;
use parking_lot::Mutex;

const DIR: &str = "/table.incoming";

/// The most that is answered at once: files are short, so that disks are simulated quickly.
const ANSWER_BYTES_MAX: usize = 10_000;

fn contents(number: u8) -> Vec<u8> {
    let len = [0, 1, 7_000, ANSWER_BYTES_MAX, 25_000][number as usize];
    (0..len).map(|at| (at as u8).wrapping_mul(number | 1) ^ (at >> 8) as u8).collect()
}

/// A directory of five files, and what was asked for in it.
struct Other {
    disk: SimulatedDisk,
    plan: Plan,
    asked: Mutex<Vec<Chunk>>,
    /// So many more are answered.
    left: Mutex<u64>,
    /// The chunk of this number is answered with a wrong byte.
    spoils: Mutex<Option<u64>>,
}

impl Other {
    fn new() -> Other {
        let disk = SimulatedDisk::new(64 << 20);
        disk.make_dir(Path::new("/there")).unwrap();
        for number in 0..5 {
            let file = disk.create(&Path::new("/there").join(format!("f{number}.sst"))).unwrap();
            file.write_at(0, &[IoSlice::new(&contents(number))]).unwrap();
            file.sync_all().unwrap();
        }
        let plan = Plan::of(&disk, Path::new("/there")).unwrap();
        let (asked, left, spoils) = (Mutex::default(), Mutex::new(u64::MAX), Mutex::default());
        Other { disk, plan, asked, left, spoils }
    }

    fn asked_bytes(&self) -> u64 {
        std::mem::take(&mut *self.asked.lock()).iter().map(|chunk| u64::from(chunk.bytes)).sum()
    }
}

impl Source for Other {
    fn read(&self, chunk: Chunk) -> Result<Bytes, FsError> {
        let left = &mut *self.left.lock();
        if *left == 0 {
            return Err(FsError::Io("the connection broke".to_owned()));
        }
        *left -= 1;
        let wanted = ANSWER_BYTES_MAX.min(chunk.bytes as usize);
        self.asked.lock().push(Chunk { bytes: wanted as u32, ..chunk });
        let path = Path::new("/there").join(&self.plan.files[chunk.file as usize].name);
        let file = self.disk.open(&path, Access::Read)?;
        let mut bytes = file.read_at(chunk.offset, wanted)?;
        let spoils = &mut *self.spoils.lock();
        if let Some(number) = spoils {
            *number = number.wrapping_sub(1);
            if *number == u64::MAX {
                bytes[0] ^= 1;
                *spoils = None;
            }
        }
        Ok(bytes.into())
    }
}

fn open(disk: &SimulatedDisk, other: &Other) -> Result<Receiver, FsError> {
    Receiver::open(disk.shared(), Path::new(DIR), other.plan.clone())
}

fn receive(disk: &SimulatedDisk, other: &Other) -> Result<(), FsError> {
    let mut receiver = open(disk, other)?;
    receiver.run(other, &mut |_, _| ())?;
    receiver.finish()
}

#[track_caller]
fn check_complete(disk: &SimulatedDisk) {
    let dir = Path::new(DIR);
    assert!(disk.exists(&dir.join(COMPLETE)).unwrap());
    assert_eq!(disk.list(dir).unwrap().len(), 6);
    for number in 0..5 {
        let file = disk.open(&dir.join(format!("f{number}.sst")), Access::Read).unwrap();
        let wanted = contents(number);
        assert!(file.read_at(0, wanted.len() + 1).unwrap() == wanted, "file {number}");
    }
}

#[test]
fn files_arrive_whole_and_nothing_is_asked_for_twice_over_breaks() {
    let (other, disk) = (Other::new(), SimulatedDisk::new(64 << 20));
    let mut breaks = 0;
    *other.left.lock() = 1;
    while let Err(error) = receive(&disk, &other) {
        assert_eq!(error, FsError::Io("the connection broke".to_owned()));
        breaks += 1;
        *other.left.lock() = 1;
    }
    assert_eq!((breaks, other.asked_bytes()), (5, other.plan.bytes()));
    check_complete(&disk);
}

#[test]
fn a_power_cut_anywhere_only_means_to_go_on() {
    for operations in 0..60 {
        let (other, disk) = (Other::new(), SimulatedDisk::new(64 << 20));
        disk.power_off_after(operations);
        let cut = receive(&disk, &other).is_err();
        disk.crash(operations);
        // Done before the cut, it is done for good.
        if cut {
            receive(&disk, &other).unwrap();
            disk.crash(operations + 1);
        }
        check_complete(&disk);
    }
}

#[test]
fn what_is_there_is_not_fetched_again_and_what_is_rotten_is() {
    let (other, disk) = (Other::new(), SimulatedDisk::new(64 << 20));
    *other.left.lock() = 5;
    assert!(receive(&disk, &other).is_err());
    let before = other.asked_bytes();
    disk.flip_bit(&Path::new(DIR).join("f2.sst"), 5_000, 1).unwrap();
    *other.left.lock() = u64::MAX;
    receive(&disk, &other).unwrap();
    let again = contents(2).len() as u64;
    assert_eq!(before + other.asked_bytes(), other.plan.bytes() + again);
    check_complete(&disk);
}

#[test]
fn a_chunk_that_came_broken_costs_its_file_once() {
    let (other, disk) = (Other::new(), SimulatedDisk::new(64 << 20));
    *other.spoils.lock() = Some(4);
    receive(&disk, &other).unwrap();
    assert_eq!(other.asked_bytes(), other.plan.bytes() + contents(4).len() as u64);
    check_complete(&disk);
    // Broken at the source, it is said so.
    let (other, disk) = (Other::new(), SimulatedDisk::new(64 << 20));
    other.disk.flip_bit(Path::new("/there/f4.sst"), 9, 0).unwrap();
    let error = receive(&disk, &other).unwrap_err();
    assert!(matches!(&error, FsError::Damaged(what) if what.contains("f4.sst")), "{error}");
}

#[test]
fn another_plan_begins_anew() {
    let (other, disk) = (Other::new(), SimulatedDisk::new(64 << 20));
    *other.left.lock() = 3;
    assert!(receive(&disk, &other).is_err());
    let mut newer = Other::new();
    newer.plan.files.remove(2);
    let mut receiver = open(&disk, &newer).unwrap();
    assert_eq!(receiver.progress().1, newer.plan.bytes());
    assert!(matches!(receiver.take(&[0; 2 << 20]), Err(FsError::Damaged(_))));
    receiver.run(&newer, &mut |_, _| ()).unwrap();
    assert!(!disk.exists(&Path::new(DIR).join("f2.sst")).unwrap(), "it is of the older plan");
    receiver.finish().unwrap();
}

#[test]
fn what_says_that_all_is_there_does_not_outlive_it() {
    let mut newer = Other::new();
    newer.plan.files.pop();
    for operations in 0..12 {
        let (other, disk) = (Other::new(), SimulatedDisk::new(64 << 20));
        receive(&disk, &other).unwrap();
        disk.power_off_after(operations);
        let begun = open(&disk, &newer).is_ok();
        disk.crash(operations);
        if disk.exists(&Path::new(DIR).join(COMPLETE)).unwrap() {
            assert!(!begun);
            check_complete(&disk);
        }
        receive(&disk, &newer).unwrap();
    }
}

#[test]
fn a_plan_comes_back_and_leads_nowhere_else() {
    let plan = Other::new().plan;
    assert_eq!(plan.files.len(), 5);
    assert_eq!(Plan::decode(&plan.encode()), Ok(plan.clone()));
    assert_eq!(plan.encode()[..9], [1, 5, 6, b'f', b'0', b'.', b's', b's', b't']);
    for cut in 0..plan.encode().len() {
        assert!(Plan::decode(&plan.encode()[..cut]).is_err(), "cut at {cut}");
    }
    for name in ["../x", "/etc/x", "", "a/b", "..", "a\0b", "plan", "complete", "adopted"] {
        let file = PlannedFile { name: name.to_owned(), bytes: 1, checksum: 0 };
        assert!(Plan::decode(&Plan { files: vec![file] }.encode()).is_err(), "{name:?}");
    }
    let twice = Plan { files: vec![plan.files[0].clone(), plan.files[0].clone()] };
    assert!(Plan::decode(&twice.encode()).is_err());
}
