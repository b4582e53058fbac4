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
    let dir = scratch.join(format!("node{node}"));
    std::fs::create_dir(&dir).unwrap();
    Image::new(&dir, 400)
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
