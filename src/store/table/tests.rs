//! What every table must do, run on both; and what only a table on disk can meet: damage, locks, other formats.
//!
//! The versioned map is tested here, too, against a model: it stands below and may not know of tables.

mod checked;
mod contract;
mod model;
mod on_disk;
mod past;
