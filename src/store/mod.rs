//! Bytes on disk.

pub mod block;
pub mod disk;
pub mod holder;
pub mod label;
pub mod log;
pub mod segment;
pub mod space;
pub mod table;
