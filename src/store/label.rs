//! The file that makes a directory a store: which format, and which store.
//!
//! It is written first under another name and gets its own when everything else is there, so a store whose making was
//! cut short is known for what it is. Not here: what else is in the directory.

use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::types::FsError;
use std::fmt;
use std::io::IoSlice;
use std::path::Path;

/// Which layout of the directory this program writes and reads.
pub const FORMAT: u32 = 1;
/// Its name, and the one it has while the store is being made.
pub const FILE: &str = "tsfs-store";
pub const MAKING: &str = "tsfs-store.making";
/// The first line.
const MAGIC: &str = "tsfs store";
/// Longer is none of ours.
const BYTES_MAX: usize = 4096;

/// A store's identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    pub store: [u8; 16],
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Label {
    /// Begins to make a store in `dir`, which exists.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn begin(self, disk: &dyn Disk, dir: &Path) -> Result<(), FsError> {
        let file = disk.create(&dir.join(MAKING))?;
        file.write_at(0, &[IoSlice::new(self.encode().as_bytes())])?;
        file.sync_all()?;
        disk.sync_dir(dir)
    }

    /// The store is complete.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn finish(disk: &dyn Disk, dir: &Path) -> Result<(), FsError> {
        disk.rename(&dir.join(MAKING), &dir.join(FILE))?;
        disk.sync_dir(dir)
    }

    /// The label of the store in `dir`; `None` where it is no store.
    ///
    /// # Errors
    /// `NotSupported` for a newer format, `Damaged` for a label that is none, `Io`.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Label>, FsError> {
        let path = dir.join(FILE);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let bytes = disk.open(&path, Access::Read)?.read_at(0, BYTES_MAX)?;
        Label::decode(&bytes).map(Some)
    }

    fn encode(self) -> String {
        let body = format!("{MAGIC}\nformat {FORMAT}\nid {self}\n");
        let sum = crc32c::crc32c(body.as_bytes());
        format!("{body}checksum {sum:08x}\n")
    }

    fn decode(bytes: &[u8]) -> Result<Label, FsError> {
        let damaged =
            || FsError::Damaged(format!("the file {FILE} of the store is not what was written"));
        let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
        let mut lines = text.lines();
        if lines.next() != Some(MAGIC) {
            return Err(damaged());
        }
        let format = lines.next().and_then(|line| line.strip_prefix("format "));
        let format: u32 = format.and_then(|number| number.parse().ok()).ok_or_else(damaged)?;
        if format > FORMAT {
            // Checked before the checksum: a newer format may have another one.
            return Err(FsError::NotSupported(
                "the store was written by a newer tsfs; use that version or a later one",
            ));
        }
        let body = text.find("checksum ").map(|at| text.split_at(at)).ok_or_else(damaged)?;
        let (body, sum) = (body.0, body.1.trim_end().trim_start_matches("checksum "));
        if u32::from_str_radix(sum, 16) != Ok(crc32c::crc32c(body.as_bytes())) {
            return Err(damaged());
        }
        let id = lines.next().and_then(|line| line.strip_prefix("id ")).ok_or_else(damaged)?;
        let id = u128::from_str_radix(id, 16).map_err(|_| damaged())?;
        Ok(Label { store: id.to_be_bytes() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::RealDisk;

    #[test]
    fn a_directory_becomes_a_store_at_the_end_of_its_making() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, dir) = (RealDisk, dir.path());
        let label = Label { store: *b"sixteen bytes ok" };
        assert_eq!(Label::read(&disk, dir), Ok(None));
        label.begin(&disk, dir).unwrap();
        assert_eq!(Label::read(&disk, dir), Ok(None));
        Label::finish(&disk, dir).unwrap();
        assert_eq!(Label::read(&disk, dir), Ok(Some(label)));
    }

    #[test]
    fn damage_and_newer_formats_are_refused() {
        let good = Label { store: [7; 16] }.encode();
        assert_eq!(Label::decode(good.as_bytes()), Ok(Label { store: [7; 16] }));
        let newer = good.replace("format 1", "format 2");
        let Err(FsError::NotSupported(why)) = Label::decode(newer.as_bytes()) else { panic!() };
        assert!(why.contains("newer tsfs"));
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] ^= 1;
            let read = Label::decode(&bytes);
            assert!(read.is_err() || at == good.len() - 1, "byte {at}: {read:?}");
            assert!(Label::decode(&good.as_bytes()[..at]).is_err() || at == good.len() - 1);
        }
    }
}
