//! Tables: `series::table` on RocksDB, and in memory.
//!
//! Both are always compiled, and one contract suite runs on both. Not here: what the rows mean, the log that a
//! table is replayed from, blocks.

mod memory;
mod rocks;

#[cfg(test)]
mod tests;

pub use memory::MemoryTable;
pub use rocks::Options;
pub use rocks::RocksTable;
