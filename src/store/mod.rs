//! Bytes on disk.

pub mod disk;
