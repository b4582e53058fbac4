//! Blocks as stored and sent: compressed once, checksummed, verified on every read.
//!
//! `docs/format.md` draws the bytes. Client and store share this file, so a block is compressed at the
//! client and opened only where it is read.
