//! tsfs: a file system that never forgets and survives its machines.
//!
//! The modules in reading order; `docs/ARCHITECTURE.md` has the map and says who may import whom.

pub mod types;

pub mod env;
pub mod telemetry;

pub mod lease;
pub mod meta;
pub mod series;
pub mod tsdb_log;
pub mod wire;

pub mod net;
pub mod store;
pub mod tsdb_config;

pub mod tsdb_client;
pub mod tsdb_server;

pub mod fuse;

pub mod cli;
