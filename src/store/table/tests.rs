//! What every table must do, run on both; and what only a table on disk can meet: damage, locks, other formats.

mod contract;
mod on_disk;
