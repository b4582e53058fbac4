//! The replicated log: consensus wrapped so that its types do not leak.
//!
//! [`core::Core`] is a state machine: input goes in (`propose`, `step`, `tick`, `persisted`, `applied`), and
//! [`core::Ready`] says what is to be done about it, in which order. One driver does it. [`store::LogStore`] is the seam
//! to the disk. The engine inside is raft-rs, which does no I/O and reads no clock, so one sequence of
//! inputs always gives one sequence of actions.
//!
//! Not here: disks, sockets, clocks, what an entry means, and how a table gets to a member that has fallen behind the
//! log: here it is only said who needs one.

pub mod core;
pub mod entry;
pub mod header;
pub mod members;
mod shelf;
pub mod store;
