//! The file system as a state machine over series.
//!
//! Not here: disks, sockets, clocks, errno. Every replica applies the same ops in the same order and reaches the
//! same rows; a client runs the same rules over its cache and so knows the answer before the log does.

pub mod apply;
pub mod check;
pub mod extents;
pub mod key;
pub mod lock;
pub mod op;
pub mod own;
pub mod read;
pub mod record;
pub mod repair;
