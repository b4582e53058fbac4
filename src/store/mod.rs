//! Bytes on disk.

pub mod disk;
pub mod holder;
pub mod label;
pub mod log;
pub mod table;
