//! Integration tests in one binary, because each binary links RocksDB.
//!
//! Run one part with `cargo test --test it crash::`. Tests that mount need `/dev/fuse` and root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the suites report their figures")]

/// The commands, from outside.
mod among;
mod cli;
/// The client against a model, over a server in memory.
mod client;
/// Nodes, mounts and faults.
mod cluster;
/// The server killed under real writers.
mod crash;
/// A file system that loses what was not synced, for the tests that cut the power.
mod crashfs;
/// Files of a store, damaged one by one.
mod damage;
/// A store in the test's own process.
mod embedded;
/// Stores that earlier versions wrote.
mod format;
/// A full disk.
mod full;
/// The process that guards a mount.
mod guard;
/// The file system's rules against a tree in memory.
mod model;
/// Calls on a mount, one by one.
mod mount;
/// The commands of a node and its cluster.
mod nodes;
/// The hidden `.tsfs`.
mod past;
/// pjdfstest and fsx on a mount.
mod posix;
/// The power cut at every step of every small workload.
mod power;
/// git, rsync, tar, SQLite and others on a mount.
mod programs;
/// Files of refused work, and the command that reads them.
mod refused;
/// Damage that can be repaired.
mod repair;
/// Scratch directories, mounts and processes that clean up after themselves.
mod support;
/// The units, under a systemd of their own.
mod systemd;
/// Mounting, and requests through the adapter.
mod transport;
