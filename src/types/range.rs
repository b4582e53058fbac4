//! Sizes and limits of files, names and blocks, and the only division of a file into regions.

use serde::Deserialize;
use serde::Serialize;

/// Longest name of a directory entry or extended attribute, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes: the kernel's PATH_MAX less its terminator.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Longest value of an extended attribute, in bytes: the kernel's XATTR_SIZE_MAX.
pub const XATTR_BYTES_MAX: usize = 65_536;
/// Largest file, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 50;
/// The extent map is kept one row per this many bytes of file.
pub const REGION_BYTES: u64 = 1 << 20;
/// Most bytes of file that one block holds, before compression.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// A block of at most this many stored bytes travels inside its op; a larger one is synced before it is named.
pub const OP_PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// Contents up to this many bytes stand in the extent row itself.
pub const INLINE_BYTES_MAX: usize = 512;

const _: () = assert!(BLOCK_BYTES_MAX as u64 <= REGION_BYTES, "an extent lies in one region");
const _: () = assert!(FILE_BYTES_MAX / REGION_BYTES <= u32::MAX as u64 + 1, "a region fits in u32");

/// Which [`REGION_BYTES`] of a file, counted from zero.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Region(pub u32);

impl Region {
    /// Where it starts in the file.
    pub fn start(self) -> u64 {
        u64::from(self.0) * REGION_BYTES
    }

    /// The region that holds byte `offset`, which is below [`FILE_BYTES_MAX`].
    pub fn of(offset: u64) -> Region {
        Region(u32::try_from(offset / REGION_BYTES).expect("offsets are below FILE_BYTES_MAX"))
    }
}

/// The parts of `offset..offset + len` by region: the region, where the part starts inside it, and its length.
/// `offset + len` is at most [`FILE_BYTES_MAX`].
pub fn regions(offset: u64, len: u64) -> impl Iterator<Item = (Region, u32, u32)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let region = Region::of(at);
        let part_end = end.min(region.start() + REGION_BYTES);
        let part = (region, (at - region.start()) as u32, (part_end - at) as u32);
        at = part_end;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_falls_into_regions_without_gap() {
        assert_eq!(regions(7, 0).count(), 0);
        assert_eq!(regions(7, 5).collect::<Vec<_>>(), [(Region(0), 7, 5)]);
        let parts: Vec<_> = regions(REGION_BYTES - 1, REGION_BYTES + 2).collect();
        assert_eq!(parts, [(Region(0), 1_048_575, 1), (Region(1), 0, 1 << 20), (Region(2), 0, 1)]);
    }
}
