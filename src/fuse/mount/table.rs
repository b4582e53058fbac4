//! The kernel's table of mounts, as `/proc/self/mountinfo` shows it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

const TABLE: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The kernel's number of the mount; used again after it is gone.
    pub id: u32,
    /// Of the file system, as `0:52`.
    pub device: String,
    pub at: PathBuf,
    /// As `fuse.tsfs`.
    pub kind: String,
    pub source: String,
}

/// The mount on top at exactly that path, which is absolute and resolved.
///
/// # Errors
/// The table cannot be read.
pub fn top(at: &Path) -> io::Result<Option<Row>> {
    Ok(all()?.into_iter().rfind(|row| row.at == at))
}

/// Every mount. Those that lie on one another are listed from the bottom.
///
/// # Errors
/// The table cannot be read.
pub fn all() -> io::Result<Vec<Row>> {
    let table = std::fs::read(TABLE)?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(row).collect())
}

/// `36 35 98:0 /root /mount\040point rw,noatime master:1 - ext3 /dev/sda1 rw`: any number of optional fields stand
/// before the dash.
fn row(line: &[u8]) -> Option<Row> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |at: usize| fields.get(at).map(|field| unescape(field));
    let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Some(Row {
        id: lossy(text(0)?).parse().ok()?,
        device: lossy(text(2)?),
        at: PathBuf::from(OsString::from_vec(text(4)?)),
        kind: lossy(text(dash + 1)?),
        source: lossy(text(dash + 2)?),
    })
}

/// Space, tab, newline and backslash are written as `\040` and so on.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_with_its_escapes() {
        let line =
            br"97 62 0:52 / /mnt/a\040b\134c rw,relatime shared:3 master:1 - fuse.tsfs tsfs#/s rw";
        let expected = Row {
            id: 97,
            device: "0:52".to_owned(),
            at: PathBuf::from(r"/mnt/a b\c"),
            kind: "fuse.tsfs".to_owned(),
            source: "tsfs#/s".to_owned(),
        };
        assert_eq!(row(line), Some(expected));
        assert_eq!(row(b"garbage"), None);
        assert_eq!(row(b""), None);
        assert_eq!(unescape(br"\9x\04"), br"\9x\04");
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(top(Path::new("/proc")).unwrap().is_some_and(|row| row.kind == "proc"));
        assert_eq!(top(Path::new("/proc/self")).unwrap(), None);
    }
}
