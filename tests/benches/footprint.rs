//! What a file costs where it lies and while it is served: rows on disk, memory of the server.

use crate::Plan;
use crate::place::Place;
use crate::place::drop_caches;
use crate::support::Random;
use crate::table::Bar;
use crate::table::Row;

/// So small that they are full long before the first look at the memory.
const SMALL_CACHES: [&str; 2] = ["cache.client=16MiB", "cache.table=16MiB"];

fn fill(place: &Place, from: u64, to: u64) {
    // Long enough to be kept apart from the rows.
    let data = Random::new(10).noise(1000);
    for n in from..to {
        let dir = place.join(format!("dir{}", n / 1000));
        if n % 1000 == 0 {
            std::fs::create_dir(&dir).unwrap();
        }
        std::fs::write(dir.join(format!("some_file_name_{n}")), &data).unwrap();
    }
}

/// Rows on disk for each of many small files, and what the server's memory grows by from one number of files to a
/// larger one, with all bounded caches full before.
pub(crate) fn files(plan: &Plan) -> Vec<Row> {
    let (some, all) = (plan.count(200_000, 40_000), plan.count(500_000, 100_000));
    let mut place = Place::tsfs_with(plan.dir(), "tsfs", &SMALL_CACHES);
    let before = place.finish();
    place.resume();
    let memory = |place: &Place| {
        place.settle();
        // The kernel lets go of its inodes: what the server still keeps for them is its own.
        drop_caches();
        place.settle();
        place.server_memory() as f64
    };
    fill(&place, 0, some);
    let memory_some = memory(&place);
    fill(&place, some, all);
    let memory_all = memory(&place);
    let grown = place.finish().since(before);
    let row = |name: &str, bytes: f64, bar| Row {
        name: name.to_owned(),
        unit: "B",
        ours: vec![bytes],
        base: None,
        bar: Bar::AtMost(bar),
        server: None,
    };
    vec![
        row("rows on disk, each file", grown.rows as f64 / all as f64, 250.0),
        row("memory, each further file", (memory_all - memory_some) / (all - some) as f64, 64.0),
    ]
}
