//! Bytes on disk.

pub mod disk;
pub mod table;
