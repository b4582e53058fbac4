//! One contract for both disks, then what only the simulated one can do.

use super::*;
use crate::store::disk::RealDisk;

fn write(file: &dyn File, offset: u64, bytes: &[u8]) {
    file.write_at(offset, &[IoSlice::new(bytes)]).unwrap();
}

fn contract(disk: &dyn Disk, root: &Path) {
    let (a, b) = (root.join("a"), root.join("b"));
    let file = disk.create(&a).unwrap();
    assert!(disk.create(&a).is_err(), "a new file must not exist");
    file.write_at(2, &[IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")]).unwrap();
    assert_eq!(file.read_at(0, 100).unwrap(), b"\0\0one two");
    assert_eq!(file.read_at(3, 2).unwrap(), b"ne");
    assert_eq!(file.read_at(50, 2).unwrap(), b"");
    file.allocate(0, 8192).unwrap();
    assert_eq!(file.len().unwrap(), 8192);
    file.punch(0, 4096).unwrap();
    assert_eq!(file.read_at(0, 100).unwrap(), [0; 100]);
    file.set_len(3).unwrap();
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    disk.rename(&a, &b).unwrap();
    disk.sync_dir(root).unwrap();
    assert_eq!((disk.exists(&a).unwrap(), disk.exists(&b).unwrap()), (false, true));
    assert_eq!(disk.list(root).unwrap(), ["b"]);
    let read_only = disk.open(&b, Access::Read).unwrap();
    assert_eq!(read_only.len().unwrap(), 3);
    assert!(read_only.write_at(0, &[IoSlice::new(b"x")]).is_err());
    disk.remove(&b).unwrap();
    assert!(disk.open(&b, Access::Read).is_err());
    assert!(disk.remove(&b).is_err());
    let space = disk.space(root).unwrap();
    assert!(space.free <= space.total && space.total > 0);
}

#[test]
fn the_real_disk_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract(&RealDisk, dir.path());
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    contract(&SimulatedDisk::new(1 << 20), Path::new("/"));
}

#[test]
fn a_crash_keeps_what_was_synced_and_any_sectors_of_the_rest() {
    let (mut torn, mut kept, mut lost) = (0, 0, 0);
    for seed in 0..200 {
        let disk = SimulatedDisk::new(1 << 20);
        let path = Path::new("/file");
        let file = disk.create(path).unwrap();
        write(&*file, 0, &[1; 2048]);
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        write(&*file, 1024, &[2; 2048]);
        disk.crash(seed);
        assert!(file.len().is_err(), "a handle does not survive the power cut");
        let bytes = disk.open(path, Access::Read).unwrap().read_at(0, 4096).unwrap();
        assert_eq!(bytes[..1024], [1; 1024]);
        let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
        for (chunk, first) in bytes.chunks(512).zip(&sectors) {
            assert!(chunk.iter().all(|byte| byte == first), "sectors are written as one");
        }
        match sectors[2..].iter().filter(|sector| **sector == 2).count() {
            4 => kept += 1,
            0 => lost += 1,
            _ => torn += 1,
        }
    }
    assert!(torn > 20 && kept > 20 && lost > 20, "{torn} torn, {kept} kept, {lost} lost");
}

#[test]
fn a_crash_forgets_names_that_were_not_synced() {
    let (mut there, mut gone) = (0, 0);
    for seed in 0..50 {
        let disk = SimulatedDisk::new(1 << 20);
        let file = disk.create(Path::new("/new")).unwrap();
        write(&*file, 0, b"synced, but its name is not");
        file.sync_all().unwrap();
        disk.crash(seed);
        if disk.exists(Path::new("/new")).unwrap() { there += 1 } else { gone += 1 }
    }
    assert!(there > 0 && gone > 0, "{there} there, {gone} gone");
}

#[test]
fn a_failed_sync_loses_data_that_reads_still_show() {
    let disk = SimulatedDisk::new(1 << 20);
    let file = disk.create(Path::new("/file")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    write(&*file, 0, b"lost");
    disk.fail_sync("file");
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(file.read_at(0, 4).unwrap(), b"lost");
    disk.crash(0);
    assert_eq!(disk.open(Path::new("/file"), Access::Read).unwrap().len().unwrap(), 0);
}

#[test]
fn space_runs_out_and_comes_back() {
    let disk = SimulatedDisk::new(16_384);
    let file = disk.create(Path::new("/a")).unwrap();
    file.allocate(0, 8192).unwrap();
    assert_eq!(disk.space(Path::new("/")).unwrap(), Space { total: 16_384, free: 8192 });
    let other = disk.create(Path::new("/b")).unwrap();
    assert_eq!(other.allocate(0, 8193), Err(FsError::NoSpace));
    write(&*file, 0, &[1; 8192]);
    disk.remove(Path::new("/a")).unwrap();
    assert_eq!(other.allocate(0, 8193), Err(FsError::NoSpace), "an open file keeps its space");
    drop(file);
    other.allocate(0, 8193).unwrap();
    assert_eq!(disk.used(), 12_288);
    other.punch(0, 4096).unwrap();
    assert_eq!(disk.used(), 8192);
}

#[test]
fn the_power_goes_when_it_is_told_to() {
    let disk = SimulatedDisk::new(1 << 20);
    let file = disk.create(Path::new("/file")).unwrap();
    disk.power_off_after(1);
    write(&*file, 0, b"x");
    assert!(file.write_at(0, &[IoSlice::new(b"y")]).is_err());
    assert!(file.sync_data().is_err());
    assert!(disk.list(Path::new("/")).is_err());
    disk.crash(1);
    assert!(disk.list(Path::new("/")).is_ok());
}
