//! The kernel's requests, translated; the history view.
//!
//! `vfs.rs` is the seam: a transport on one side (`adapter.rs` over fuser), a file system on the other.
//! Not here: where answers come from (`tsdb_client`), rules about files (`meta`).

mod adapter;
mod calls;
mod convert;
pub mod errno;
mod history;
mod linger;
pub mod mount;
mod parked;
mod present;
mod reply;
mod rooted;
mod syscall;
mod told;
mod tree;
pub mod vfs;
mod workers;

pub use rooted::Rooted;
pub use tree::Tree;
