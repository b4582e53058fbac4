//! The files of a table's checkpoint, on their way to another node: a plan of them, chunks in order, a receiver that knows
//! what it has.
//!
//! | in `table.incoming/` | means |
//! |---|---|
//! | `plan` | files are being received; what is there is a beginning |
//! | `complete` | all files are there, verified and durable |
//!
//! Not here: how chunks travel ([`Source`] is the seam), and what becomes of the table then (`adopt`).

use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::disk::File;
use crate::tsdb_server::data::adopt;
use crate::types::FsError;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use std::io::IoSlice;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// At most so much is asked for at once.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;
/// A plan has no more files than this.
const FILES_MAX: usize = 1 << 20;
/// What is read at once where a file is only summed.
const SUM_BYTES: usize = 1 << 20;
const VERSION: u8 = 1;
const PLAN: &str = "plan";
/// The plan until it is durable.
const PLAN_BEGUN: &str = "plan.new";
pub(super) const COMPLETE: &str = "complete";

/// A file of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedFile {
    /// In the directory of the table, without a path.
    pub name: String,
    pub bytes: u64,
    /// CRC-32C of all of it.
    pub checksum: u32,
}

/// What there is to be sent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// In order of their names.
    pub files: Vec<PlannedFile>,
}

/// Where a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// Which file of the plan.
    pub file: u32,
    pub offset: u64,
    pub bytes: u32,
}

/// Whoever has the checkpoint.
pub trait Source: Send + Sync {
    /// The bytes of a chunk. Waits.
    ///
    /// # Errors
    /// `Stale` where the checkpoint is not kept any more: ask for a new plan. `Io` where the other node cannot be reached.
    fn read(&self, chunk: Chunk) -> Result<Bytes, FsError>;
}

impl Plan {
    /// Of the files in `dir`, which nobody changes. Reads them all.
    ///
    /// # Errors
    /// `Io`.
    pub fn of(disk: &dyn Disk, dir: &Path) -> Result<Plan, FsError> {
        let mut files = Vec::new();
        for name in disk.list(dir)? {
            let file = disk.open(&dir.join(&name), Access::Read)?;
            let bytes = file.len()?;
            let checksum = sum(&*file, bytes)?;
            files.push(PlannedFile { name, bytes, checksum });
        }
        Ok(Plan { files })
    }

    /// Of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub fn encode(&self) -> Bytes {
        let bytes = postcard::to_extend(self, vec![VERSION]);
        bytes.expect("writing to memory does not fail").into()
    }

    /// A plan that another node sent: nothing in it leads out of the directory.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn decode(bytes: &[u8]) -> Result<Plan, FsError> {
        let damaged = |what: &str| FsError::Damaged(format!("the plan of a table's files {what}"));
        let plan: Plan = match bytes.split_first() {
            Some((&VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|_| damaged("cannot be read"))?
            }
            _ => return Err(damaged("is of another version")),
        };
        let fits = |name: &str| {
            let own = [PLAN, PLAN_BEGUN, COMPLETE, adopt::ADOPTED].contains(&name);
            let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
            plain && name.len() <= 255 && !own
        };
        if plan.files.len() > FILES_MAX || !plan.files.iter().all(|file| fits(&file.name)) {
            return Err(damaged("names files that no table has"));
        }
        if !plan.files.is_sorted_by(|a, b| a.name < b.name) {
            return Err(damaged("names a file twice"));
        }
        Ok(plan)
    }
}

fn sum(file: &dyn File, bytes: u64) -> Result<u32, FsError> {
    let (mut at, mut checksum) = (0, 0);
    while at < bytes {
        let wanted = (bytes - at).min(SUM_BYTES as u64) as usize;
        let part = file.read_at(at, wanted)?;
        if part.is_empty() {
            return Err(FsError::Io("a file of the table became shorter".to_owned()));
        }
        checksum = crc32c::crc32c_append(checksum, &part);
        at += part.len() as u64;
    }
    Ok(checksum)
}

/// The file that is being received.
struct Receiving {
    file: Arc<dyn File>,
    /// What is there, and its sum.
    bytes: u64,
    checksum: u32,
}

/// Receives the files of a plan into a directory. Dropped at any time, or cut off by a power failure, another one goes on
/// with what is there.
pub struct Receiver {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    plan: Plan,
    /// Files before this one are whole and durable.
    next: usize,
    receiving: Option<Receiving>,
    /// Bytes of the files that are whole.
    done: u64,
}

impl Receiver {
    /// Takes up what is in `dir` if it is of the same plan, else begins anew.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, plan: Plan) -> Result<Receiver, FsError> {
        disk.make_dir(dir)?;
        let encoded = plan.encode();
        if !is_there(&*disk, dir, &encoded)? {
            clear(&*disk, dir)?;
            let begun = dir.join(PLAN_BEGUN);
            let file = disk.create(&begun)?;
            file.write_at(0, &[IoSlice::new(&encoded)])?;
            file.sync_all()?;
            disk.rename(&begun, &dir.join(PLAN))?;
            disk.sync_dir(dir)?;
        }
        let dir = dir.to_path_buf();
        let mut receiver = Receiver { disk, dir, plan, next: 0, receiving: None, done: 0 };
        receiver.take_up()?;
        Ok(receiver)
    }

    /// Goes on to the first file that is not whole.
    fn take_up(&mut self) -> Result<(), FsError> {
        while let Some(planned) = self.plan.files.get(self.next) {
            let path = self.dir.join(&planned.name);
            let file = match self.disk.exists(&path)? {
                true => self.disk.open(&path, Access::ReadWrite)?,
                false => self.disk.create(&path)?,
            };
            let mut bytes = file.len()?;
            if bytes > planned.bytes {
                file.set_len(0)?;
                bytes = 0;
            }
            let checksum = sum(&*file, bytes)?;
            self.receiving = Some(Receiving { file, bytes, checksum });
            if bytes < planned.bytes || self.end_file().is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The file is as long as it is to be: it is whole, or it is begun anew.
    fn end_file(&mut self) -> Result<(), FsError> {
        let planned = &self.plan.files[self.next];
        let Some(receiving) = &mut self.receiving else { return Ok(()) };
        if receiving.checksum != planned.checksum {
            receiving.file.set_len(0)?;
            (receiving.bytes, receiving.checksum) = (0, 0);
            let name = &planned.name;
            return Err(FsError::Damaged(format!(
                "the file {name} of the other node's table did not arrive whole; it is fetched anew"
            )));
        }
        receiving.file.sync_all()?;
        self.done += planned.bytes;
        self.next += 1;
        self.receiving = None;
        Ok(())
    }

    /// What is to be asked for next; `None` when all is there.
    pub fn wanted(&self) -> Option<Chunk> {
        let planned = self.plan.files.get(self.next)?;
        let offset = self.receiving.as_ref().map_or(0, |receiving| receiving.bytes);
        let bytes = (planned.bytes - offset).min(u64::from(CHUNK_BYTES_MAX)) as u32;
        Some(Chunk { file: self.next as u32, offset, bytes })
    }

    /// How many bytes are there, and how many there will be.
    pub fn progress(&self) -> (u64, u64) {
        let part = self.receiving.as_ref().map_or(0, |receiving| receiving.bytes);
        (self.done + part, self.plan.bytes())
    }

    /// Takes the chunk that was [wanted](Receiver::wanted), or a beginning of it.
    ///
    /// # Errors
    /// `Damaged` where the file is not what was planned: it is wanted again from its beginning. `NoSpace`, `Io`.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        let wanted = self.wanted().ok_or(FsError::Invalid("nothing more is wanted"))?;
        let nothing = bytes.is_empty() && wanted.bytes > 0;
        if bytes.len() > wanted.bytes as usize || nothing {
            let (got, asked) = (bytes.len(), wanted.bytes);
            return Err(FsError::Damaged(format!(
                "another node sent {got} bytes of its table instead of {asked}"
            )));
        }
        let planned = self.plan.files[self.next].bytes;
        let receiving = self.receiving.as_mut().expect("a file that is wanted is open");
        receiving.file.write_at(receiving.bytes, &[IoSlice::new(bytes)])?;
        receiving.checksum = crc32c::crc32c_append(receiving.checksum, bytes);
        receiving.bytes += bytes.len() as u64;
        if receiving.bytes < planned {
            return Ok(());
        }
        self.end_file()?;
        self.take_up()
    }

    /// Receives all that is still wanted. Where it fails, another receiver goes on.
    ///
    /// # Errors
    /// The source's; `Damaged` where a file arrives broken again and again; `NoSpace`, `Io`.
    pub fn run(
        &mut self,
        source: &dyn Source,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), FsError> {
        let mut broken = None;
        while let Some(chunk) = self.wanted() {
            match self.take(&source.read(chunk)?) {
                // Once may be chance, on the way or on a disk.
                Err(FsError::Damaged(what)) if broken != Some(chunk.file) => {
                    tracing::warn!(what, "receiving a table");
                    broken = Some(chunk.file);
                }
                other => other?,
            }
            let (there, all) = self.progress();
            progress(there, all);
        }
        Ok(())
    }

    /// All is there: makes it durable, and says so in the directory.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn finish(self) -> Result<(), FsError> {
        if self.wanted().is_some() {
            return Err(FsError::Invalid("the table is not there yet"));
        }
        // The names first: what is said to be complete is.
        self.disk.sync_dir(&self.dir)?;
        self.disk.rename(&self.dir.join(PLAN), &self.dir.join(COMPLETE))?;
        self.disk.sync_dir(&self.dir)
    }
}

/// Empties the directory. First goes what says that something is there: it must not outlive that.
fn clear(disk: &dyn Disk, dir: &Path) -> Result<(), FsError> {
    for mark in [COMPLETE, adopt::ADOPTED] {
        if disk.exists(&dir.join(mark))? {
            disk.remove(&dir.join(mark))?;
        }
    }
    disk.sync_dir(dir)?;
    for name in disk.list(dir)? {
        disk.remove(&dir.join(name))?;
    }
    disk.sync_dir(dir)
}

/// Whether the directory has files of this plan.
fn is_there(disk: &dyn Disk, dir: &Path, encoded: &[u8]) -> Result<bool, FsError> {
    let path = dir.join(PLAN);
    if !disk.exists(&path)? {
        return Ok(false);
    }
    let file = disk.open(&path, Access::Read)?;
    Ok(file.len()? == encoded.len() as u64 && file.read_at(0, encoded.len())? == encoded)
}

#[cfg(test)]
mod tests;
