//! A node whose disk is full, while the others have room.
//!
//! Not here: a full disk of a store that is alone (`full`).

use super::failover::Stage;
use super::net::Net;
use super::place::Cluster;
use crate::full::Image;
use crate::support;
use crate::support::wait_until;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Takes what is left of a disk but for so many bytes, as somebody else's program does.
fn take_all_but(image: &Image, left: u64) {
    let file = std::fs::File::create(image.dir().join("somebody's")).unwrap();
    let take = image.free().saturating_sub(left);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, take).unwrap();
}

/// Takes all that is left of a disk, as somebody else's program does.
fn take_all(image: &Image) -> std::path::PathBuf {
    let path = image.dir().join("somebody's");
    let mut file = std::fs::File::create(&path).unwrap();
    let chunk = vec![0; 16 << 10];
    wait_until(Duration::from_secs(60), "the disk to be full", || {
        while file.write(&chunk).is_ok_and(|written| written > 0) {}
        image.free() < 64 << 10
    });
    path
}

fn image(scratch: &Path, node: usize) -> Image {
    image_of(scratch, node, 400)
}

fn image_of(scratch: &Path, node: usize, mib: u64) -> Image {
    let dir = scratch.join(format!("node{node}"));
    std::fs::create_dir(&dir).unwrap();
    Image::new(&dir, mib)
}

/// What programs may still write, as `df` says.
fn available(dir: &Path) -> u64 {
    let space = rustix::fs::statvfs(dir).unwrap();
    space.f_bavail * space.f_frsize
}

#[test]
fn a_node_whose_disk_is_full_holds_nobody_up() {
    let scratch = support::scratch();
    let images: Vec<Image> = (1..=3).map(|node| image(scratch.path(), node)).collect();
    let stores = images.iter().map(|image| image.dir().join("store")).collect();
    let mut cluster = Cluster::on(Net::loopback(), stores, scratch.path());
    let (one, other) = (cluster.mount(), cluster.mount());
    let mut stage = Stage::new(&cluster, [&one, &other], 0, super::failover::seed());
    for leads in [false, true] {
        let leader = cluster.settle();
        let node = if leads { leader } else { (leader + 1) % 3 };
        stage.fault();
        let somebodys = take_all(&images[node]);
        stage.load.work(1_000);
        std::fs::remove_file(somebodys).unwrap();
        if cluster.has_ended(node) {
            // One that could not go on says why and ends; its operator starts it again.
            assert!(cluster.logged(node).contains("full"), "{}", cluster.logged(node));
            cluster.start(node);
        }
        cluster.settle();
    }
    stage.load.work(300);
    stage.judge(0);
    other.close();
    one.close();
    cluster.close();
}

/// The node that leads has room, and is no majority: programs are refused what two others could not keep, before it is taken from
/// them and not after.
#[test]
fn what_a_majority_has_no_room_for_is_refused_in_time() {
    let scratch = support::scratch();
    let images: Vec<Image> = [2_000, 400, 400]
        .into_iter()
        .enumerate()
        .map(|(node, mib)| image_of(scratch.path(), node + 1, mib))
        .collect();
    let stores = images.iter().map(|image| image.dir().join("store")).collect();
    let mut cluster = Cluster::on(Net::loopback(), stores, scratch.path());
    let mount = cluster.mount();
    cluster.settle();
    let before = available(mount.dir());
    assert!((100 << 20..400 << 20).contains(&before), "that is not the small ones' room: {before}");
    images[1..].iter().for_each(|image| take_all_but(image, 90 << 20));
    wait_until(Duration::from_secs(60), "the mount to hear of it", || {
        available(mount.dir()) < before - (50 << 20)
    });
    let mut random = support::Random::new(21);
    let mut whole = Vec::new();
    let refused = (0..400).find_map(|n| {
        let (path, data) = (mount.dir().join(format!("file{n}")), random.noise(1 << 20));
        let write = || {
            let mut file = std::fs::File::create(&path)?;
            file.write_all(&data)?;
            file.sync_all()
        };
        match write() {
            Ok(()) => whole.push((path, data)),
            Err(error) => return Some(error),
        }
        None
    });
    let refused = refused.expect("two of three disks are finite");
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC), "{refused}, after {}", whole.len());
    assert!(whole.len() > 10, "full after {} MiB", whole.len());
    let leader = cluster.settle();
    wait_until(Duration::from_secs(30), "the status to say so", || {
        cluster.status(leader).is_some_and(|status| status.to_string().contains("no room left on"))
    });
    // Every node goes on, and what makes the store smaller is taken.
    (0..3).for_each(|node| assert!(!cluster.has_ended(node), "{}", cluster.logged(node)));
    let (gone, _) = whole.pop().unwrap();
    std::fs::remove_file(gone).unwrap();
    images[1..]
        .iter()
        .for_each(|image| std::fs::remove_file(image.dir().join("somebody's")).unwrap());
    wait_until(Duration::from_secs(60), "the mount to hear of it", || {
        available(mount.dir()) > before / 4
    });
    let file = mount.dir().join("more");
    std::fs::write(&file, random.noise(4 << 20)).unwrap();
    std::fs::File::open(&file).unwrap().sync_all().unwrap();
    let dir = mount.dir().to_owned();
    mount.close();
    let mount = cluster.mount_again(&dir);
    let is_whole =
        |(path, data): &(_, Vec<u8>)| std::fs::read::<&std::path::PathBuf>(path).unwrap() == *data;
    assert!(whole.iter().all(is_whole));
    mount.close();
    cluster.close();
}
