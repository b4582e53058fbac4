//! Three nodes and two mounts as real processes, what befalls them, and judges of what programs saw meanwhile.
//!
//! `place` has the processes, `net` their addresses and lines, `faults` what befalls them; `load` works on the mounts and writes
//! down what it saw (`history`), which `judge` and `ledgers` judge; the tests are in the other files. `make chaos` does the same for
//! longer. Not here: the cluster on simulated time.

/// Two mounts, and nothing wrong.
mod alike;
/// Most of the nodes gone.
mod away;
/// Mounts that die, and power cuts.
mod crashes;
/// Lines that are cut.
mod cut;
/// Disks that are full.
mod disks;
/// Mounts that are killed inside the kernel.
mod dying;
/// Nodes that die and come back.
mod failover;
/// What befalls processes.
mod faults;
/// The system's own mount, and fstab.
mod fstab;
/// A store of one process becomes three.
mod grow;
/// What happened, and when.
mod history;
/// More nodes than copies.
mod homes;
/// Whether a history is that of one tree.
mod judge;
/// What starts nodes.
mod keeper;
/// Judgements that need no search.
mod ledgers;
/// Lines do as they are told.
mod lines;
/// Programs at work on several mounts.
mod load;
/// Locks between programs on several mounts.
mod locks;
/// Addresses and lines.
pub(crate) mod net;
/// Registers and names.
mod objects;
/// Nodes and mounts.
pub(crate) mod place;
/// Who may not enter.
mod refused;
/// Mounts that sleep.
mod slept;
/// Nodes that are slow.
mod slow;
/// What one of those programs does.
mod worker;
