//! A store that was one process's becomes three nodes', where it is, with its history.
//!
//! Not here: nodes that are replaced (`cli`).

use super::net::Net;
use super::place::Cluster;
use crate::support;
use crate::support::Mount;

#[test]
fn an_embedded_store_becomes_a_cluster_with_its_history() {
    let scratch = support::scratch();
    let stores: Vec<_> = (1..=3).map(|n| scratch.path().join(format!("store{n}"))).collect();
    let mount = Mount::create(&stores[0], &scratch.path().join("mnt"));
    let make = "mkdir -p a/b; for i in $(seq 300); do echo $i >a/b/f$i; done; head -c 3000000 /dev/urandom >large;
        ln a/b/f1 hard; ln -s a soft";
    support::sh(mount.dir(), make);
    let sum = "find . | sort; find . -type f | sort | xargs sha256sum";
    let before = support::sh(mount.dir(), sum);
    support::run(support::tsfs().args(["mark", "before"]).arg(mount.dir()));
    support::sh(mount.dir(), "rm -r a/b/f1* large; echo new >new");
    let after = support::sh(mount.dir(), sum);
    mount.close();
    let mut cluster = Cluster::on(Net::loopback(), stores, scratch.path());
    let mount = cluster.mount();
    let past = mount.join(".tsfs/marks/before");
    assert_eq!(support::sh(mount.dir(), sum), after);
    assert_eq!(support::sh(&past, sum), before);
    // The other two have all of it: the first is not needed any more.
    cluster.settle();
    cluster.kill(0);
    let late = cluster.mount();
    assert_eq!(support::sh(late.dir(), sum), after);
    assert_eq!(support::sh(&late.join(".tsfs/marks/before"), sum), before);
    std::fs::write(late.join("later"), "written without the first").unwrap();
    late.close();
    mount.close();
    cluster.start_all();
    cluster.settle();
    cluster.close();
}
