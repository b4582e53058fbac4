//! Large files, written and synced, and read again with every cache cold.

use crate::Plan;
use crate::place::Measured;
use crate::place::Place;
use crate::support::Random;
use crate::table::Bar;
use crate::table::Row;
use std::fs::File;
use std::io::Read;
use std::io::Write;

const MIB: usize = 1 << 20;

/// Sequential write + fsync, and cold read, of data that compresses by half and of data that does not.
pub(crate) fn sequential(plan: &Plan) -> Vec<Row> {
    let mut places = [Place::disk(plan.dir()), plan.ours()];
    let mib = plan.count(512, 128) as usize;
    let mut random = Random::new(5);
    let mut rows = Vec::new();
    for (kind, data) in [("text", random.text(64 * MIB)), ("noise", random.noise(64 * MIB))] {
        let (mut write, mut read) = (Measured::new(places.len()), Measured::new(places.len()));
        for _ in plan.rounds(3) {
            for (index, place) in places.iter().enumerate() {
                let path = place.join("large");
                let _ = std::fs::remove_file(&path);
                write.time(index, place, || {
                    let mut file = File::create(&path).unwrap();
                    for n in 0..mib {
                        file.write_all(&data[n % 64 * MIB..][..MIB]).unwrap();
                    }
                    file.sync_all().unwrap();
                });
            }
            for (index, place) in places.iter_mut().enumerate() {
                place.cool();
                let path = place.join("large");
                let mut buffer = vec![0; MIB];
                read.time(index, place, || {
                    let mut file = File::open(&path).unwrap();
                    for n in 0..mib {
                        file.read_exact(&mut buffer).unwrap();
                        assert!(buffer == data[n % 64 * MIB..][..MIB], "wrong bytes at {n} MiB");
                    }
                });
            }
        }
        // Three nodes on one disk write everything three times; one of them is read.
        let copies = plan.bar(1.0, 3.0);
        for (name, measured, bar, copies) in [
            ("sequential write + fsync", write, 0.8, copies),
            ("cold sequential read", read, 0.5, 1.0),
        ] {
            rows.push(Row {
                name: format!("{name}, {kind}"),
                unit: "MiB/s",
                ours: measured.rates(1, mib as f64),
                base: Some((
                    if copies > 1.0 { "ext4 / 3" } else { "ext4" },
                    measured.rates(0, mib as f64 / copies),
                )),
                bar: Bar::AtLeast(bar),
                server: Some(measured.server_each(mib as f64)),
            });
        }
    }
    rows
}
