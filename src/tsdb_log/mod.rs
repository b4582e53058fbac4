//! The replicated log: consensus wrapped so that its types do not leak.
//!
//! [`core::Core`] is a state machine: input goes in (`propose`, `step`, `tick`, `persisted`, `applied`), and
//! [`core::Ready`] says what is to be done about it, in which order. One driver does it. [`store::LogStore`] is the seam
//! to the disk. The engine inside is raft-rs, which does no I/O and reads no clock, so one sequence of
//! inputs always gives one sequence of actions.
//!
//! Not here: disks, sockets, clocks, and what an entry means. Not here yet: changing the members and sending a
//! snapshot to a member that has fallen behind the log; with one voter neither can happen.

pub mod core;
pub mod entry;
pub mod header;
mod shelf;
pub mod store;
