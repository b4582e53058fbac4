//! Who uses a store: one process at a time, and whoever comes second learns its name.
//!
//! The lock is on the file `holder` in the store; the kernel drops it when its process ends, however it ends. What is
//! written in the file is for people, and is believed only while the lock is held.

use crate::types::FsError;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::path::Path;

const FILE: &str = "holder";
/// How often a lock without a name is tried again.
const ATTEMPTS: u32 = 1000;

/// The right to use a store, until dropped.
#[derive(Debug)]
#[must_use = "the store is free for others when this is dropped"]
pub struct Holder {
    file: File,
}

impl Holder {
    /// Takes the store at `dir`, which exists, for `purpose`, as "mounted at /mnt/data".
    ///
    /// # Errors
    /// `Io` naming the process that has it, or what the disk said.
    pub fn take(dir: &Path, purpose: &str) -> Result<Holder, FsError> {
        let path = dir.join(FILE);
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file =
            open.map_err(|error| FsError::io(format!("open {}", path.display()), &error))?;
        for attempt in 0.. {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => {
                    return Err(FsError::io(format!("lock {}", path.display()), &error.into()));
                }
            }
            let who = read(&mut file);
            // Without a name it may be somebody in `who`, which holds the lock for microseconds.
            if !who.is_empty() || attempt == ATTEMPTS {
                let who = if who.is_empty() { "another process" } else { &who };
                return Err(FsError::Io(format!(
                    "the store {} is in use by {who}; end that first",
                    dir.display()
                )));
            }
            std::thread::yield_now();
        }
        let pid = rustix::process::getpid();
        sign(&mut file, &format!("process {pid}, {purpose}\n"))
            .map_err(|error| FsError::io(format!("write {}", path.display()), &error))?;
        Ok(Holder { file })
    }
}

fn sign(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

impl Drop for Holder {
    fn drop(&mut self) {
        // A name that stays behind is not believed without the lock.
        let _ = self.file.set_len(0);
    }
}

/// What the holder of a store wrote about itself; `None` where nobody holds it.
pub fn who(dir: &Path) -> Option<String> {
    let mut file = File::open(dir.join(FILE)).ok()?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => Some(read(&mut file)),
    }
}

/// What is written in the file; empty where it cannot be read.
fn read(file: &mut File) -> String {
    let mut who = String::new();
    let whole = file.rewind().and_then(|()| file.read_to_string(&mut who));
    whole.map(|_| who.trim().to_owned()).unwrap_or_default()
}

/// Waits until nobody holds the store. At once where there is none.
///
/// # Errors
/// What the kernel said of the lock.
pub fn wait_until_free(dir: &Path) -> io::Result<()> {
    match File::open(dir.join(FILE)) {
        Ok(file) => Ok(rustix::fs::flock(&file, FlockOperation::LockShared)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_learns_the_name_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        wait_until_free(dir.path()).unwrap();
        assert_eq!(who(dir.path()), None);
        let first = Holder::take(dir.path(), "mounted at /mnt/data").unwrap();
        let fault = Holder::take(dir.path(), "checking it").unwrap_err().to_string();
        assert!(fault.contains(&format!("process {}, mounted at", std::process::id())), "{fault}");
        assert!(who(dir.path()).unwrap().ends_with("mounted at /mnt/data"));
        drop(first);
        assert_eq!(who(dir.path()), None);
        drop(Holder::take(dir.path(), "checking it").unwrap());
    }
}
