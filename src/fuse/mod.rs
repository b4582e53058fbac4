//! The kernel's requests, translated; the history view.
//!
//! `vfs.rs` is the seam: a transport on one side (`adapter.rs` over fuser), a file system on the other.
//! Not here: where answers come from (`tsdb_client`), rules about files (`meta`).

mod adapter;
mod convert;
pub mod errno;
pub mod mount;
mod reply;
pub mod vfs;
mod workers;
