//! Diagnostic logs and the one list of counters.
//!
//! Not here: the replicated log of the tree's changes (`tsdb_log`). What is logged with `tracing` helps whoever runs
//! tsfs; losing it loses nothing.

pub mod counter;
pub mod exposition;
pub mod logs;
