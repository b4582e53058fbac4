//! The vocabulary: identifiers, time, ranges, attributes, checksummed bytes, errors.
//!
//! Not here: I/O, a clock, async, or any rule about files. Everything else may import this module.

mod attr;
mod error;
pub mod frame;
mod id;
pub mod instant;
pub mod placement;
mod range;
mod role;
mod time;

pub use attr::Attr;
pub use attr::FileKind;
pub use error::FsError;
pub use error::Kind;
pub use id::BatchSeq;
pub use id::BlockId;
pub use id::Era;
pub use id::Generation;
pub use id::Ino;
pub use id::LogIndex;
pub use id::NodeId;
pub use id::SessionId;
pub use id::Term;
pub use range::BLOCK_BYTES_MAX;
pub use range::FILE_BYTES_MAX;
pub use range::INLINE_BYTES_MAX;
pub use range::NAME_BYTES_MAX;
pub use range::OP_PAYLOAD_BYTES_MAX;
pub use range::REGION_BYTES;
pub use range::Region;
pub use range::SYMLINK_BYTES_MAX;
pub use range::XATTR_BYTES_MAX;
pub use range::regions;
pub use role::Role;
pub use role::Roles;
pub use time::AsOf;
pub use time::Stamp;
pub use time::Time;
