//! The operating system's files.

use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::disk::File;
use crate::store::disk::Space;
use crate::types::FsError;
use rustix::fs::FallocateFlags;
use std::fs;
use std::io;
use std::io::IoSlice;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// Zeros written at once where a file system cannot set space aside.
const ZEROS_BYTES: usize = 1 << 20;

/// The operating system's files.
#[derive(Default)]
pub struct RealDisk;

impl RealDisk {
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(RealDisk)
    }
}

fn failed<'a>(verb: &'a str, path: &'a Path) -> impl Fn(io::Error) -> FsError + 'a {
    move |error| FsError::io(format_args!("{verb} {}", path.display()), &error)
}

impl Disk for RealDisk {
    fn make_dir(&self, path: &Path) -> Result<(), FsError> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other.map_err(failed("make directory", path)),
        }
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(failed("create", path))?;
        Ok(Arc::new(RealFile { file, path: path.to_path_buf() }))
    }

    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>, FsError> {
        let file = fs::OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path);
        let file = file.map_err(failed("open", path))?;
        Ok(Arc::new(RealFile { file, path: path.to_path_buf() }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, FsError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
            let name = entry.map_err(failed("list", dir))?.file_name();
            names.extend(name.into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> Result<bool, FsError> {
        path.try_exists().map_err(failed("look for", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        fs::rename(from, to).map_err(failed("rename", from))
    }

    fn remove(&self, path: &Path) -> Result<(), FsError> {
        fs::remove_file(path).map_err(failed("remove", path))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), FsError> {
        let handle = fs::File::open(dir).map_err(failed("open", dir))?;
        handle.sync_all().map_err(failed("sync directory", dir))
    }

    fn space(&self, path: &Path) -> Result<Space, FsError> {
        let stat = rustix::fs::statvfs(path);
        let stat = stat.map_err(|errno| failed("ask for the space of", path)(errno.into()))?;
        Ok(Space { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }
}

struct RealFile {
    file: fs::File,
    path: PathBuf,
}

impl RealFile {
    fn done(&self, verb: &str, result: rustix::io::Result<()>) -> Result<(), FsError> {
        result.map_err(|errno| failed(verb, &self.path)(errno.into()))
    }

    /// For file systems without fallocate: zeros where the file does not reach yet. What it has already it keeps, for
    /// space under it cannot be asked for.
    fn write_zeros(&self, end: u64) -> Result<(), FsError> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut at = self.len()?;
        while at < end {
            let part = zeros.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            self.write_at(at, &[IoSlice::new(&zeros[..part])])?;
            at += part as u64;
        }
        Ok(())
    }
}

impl File for RealFile {
    fn len(&self) -> Result<u64, FsError> {
        Ok(self.file.metadata().map_err(failed("stat", &self.path))?.len())
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, FsError> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            // The vector may have got more room than was asked for.
            let wanted = len - bytes.len();
            let room = &mut bytes.spare_capacity_mut()[..wanted];
            let at = offset + (len - wanted) as u64;
            let read = match rustix::io::pread(&self.file, room, at) {
                Ok((read, _)) => read.len(),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(failed("read", &self.path)(errno.into())),
            };
            if read == 0 {
                break;
            }
            let filled = bytes.len() + read;
            #[expect(unsafe_code, reason = "the only way to read without zeroing first")]
            // SAFETY: pread has just initialised the `read` bytes after the vector's end.
            unsafe {
                bytes.set_len(filled);
            }
        }
        Ok(bytes)
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> Result<(), FsError> {
        let mut parts = parts.to_vec();
        let mut parts = parts.as_mut_slice();
        let mut at = offset;
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match rustix::io::pwritev(&self.file, parts, at) {
                Ok(0) => {
                    let error = io::Error::from(io::ErrorKind::WriteZero);
                    return Err(failed("write", &self.path)(error));
                }
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed("write", &self.path)(errno.into())),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), FsError> {
        self.file.sync_data().map_err(failed("sync", &self.path))
    }

    fn sync_all(&self) -> Result<(), FsError> {
        self.file.sync_all().map_err(failed("sync", &self.path))
    }

    fn set_len(&self, len: u64) -> Result<(), FsError> {
        self.file.set_len(len).map_err(failed("set the length of", &self.path))
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<(), FsError> {
        let how = FallocateFlags::empty();
        let done =
            rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.file, how, offset, len));
        match done {
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_zeros(offset + len),
            other => self.done("set space aside for", other),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), FsError> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let done =
            rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.file, how, offset, len));
        self.done("give back space of", done)
    }
}
