//! How much may still be written, and the reserve that keeps deleting, purging and flushing possible on a full disk.
//!
//! Writers are refused while more than the reserve is free; what shrinks or saves the store goes on and eats from it.
//! Half of the reserve is a file, the ballast, which holds its space even against other users of the disk. It is let go
//! when the disk runs out under us, and taken again when there is room. Not here: who is refused what, and when
//! [`Reserve::tend`] is called.

use crate::store::disk::Access;
use crate::store::disk::Disk;
use crate::store::disk::File;
use crate::store::disk::Space;
use crate::types::FsError;
use parking_lot::Mutex;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The ballast's name in the store's directory. Only its size matters.
pub const BALLAST: &str = "ballast";
/// The reserve is at most this part of the disk, so that a small disk is not all reserve.
const PART_OF_DISK: u64 = 8;
/// The disk is asked again after this time, or after this much was written.
const ASK_AFTER: Duration = Duration::from_millis(100);
const ASK_AFTER_BYTES: u64 = 8 << 20;

/// Space that is not given to writers.
pub struct Reserve {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    wanted: u64,
    state: Mutex<State>,
}

struct State {
    ballast: Arc<dyn File>,
    /// Bytes that the ballast holds.
    held: u64,
    space: Space,
    asked: Duration,
    /// Said to be written since the disk was asked.
    spent: u64,
}

/// What the numbers of a disk call for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Nothing,
    LetGo,
    Take,
}

/// The reserve on this disk, in bytes: what is wanted, or an eighth of the disk where that is less.
pub fn reserved(wanted: u64, space: Space) -> u64 {
    wanted.min(space.total / PART_OF_DISK)
}

/// Bytes that writers may still have.
fn left(wanted: u64, space: Space, held: u64) -> u64 {
    (space.free + held).saturating_sub(reserved(wanted, space))
}

/// Lets go when half of what lies before the ballast is gone, long before anything fails; takes it again only where
/// that leaves as much as there was, so that it does not go to and fro.
fn plan(wanted: u64, space: Space, held: u64) -> Step {
    let reserved = reserved(wanted, space);
    if held > 0 && space.free < reserved / 4 {
        Step::LetGo
    } else if held < reserved / 2 && space.free + held >= reserved {
        Step::Take
    } else {
        Step::Nothing
    }
}

impl Reserve {
    /// The reserve of the store in `dir`: `wanted` bytes, or an eighth of the disk where that is less. `now` is a
    /// steady clock's.
    ///
    /// # Errors
    /// `Io`. A disk too full for the ballast is no error.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        wanted: u64,
        now: Duration,
    ) -> Result<Reserve, FsError> {
        let path = dir.join(BALLAST);
        let ballast = match disk.exists(&path)? {
            true => disk.open(&path, Access::ReadWrite)?,
            false => disk.create(&path)?,
        };
        // A copied store has one with the right length and no space under it.
        let held = match ballast.len()? {
            0 => 0,
            len => ballast.allocate(0, len).map_or(0, |()| len),
        };
        let (space, asked, spent) = (disk.space(dir)?, now, 0);
        let state = Mutex::new(State { ballast, held, space, asked, spent });
        let reserve = Reserve { disk, dir: dir.to_path_buf(), wanted, state };
        reserve.tend(now)?;
        Ok(reserve)
    }

    /// Bytes that writers may still have: what is free less the reserve. Cheap; the disk is asked now and then.
    pub fn space_left(&self, now: Duration) -> u64 {
        let state = &mut *self.state.lock();
        let old = now.saturating_sub(state.asked) >= ASK_AFTER;
        // Near the end every answer decides whether somebody is refused: space that came back is not overlooked.
        let near = left(self.wanted, state.space, state.held) < state.spent + ASK_AFTER_BYTES;
        if old || near || state.spent >= ASK_AFTER_BYTES {
            // Where the disk does not answer, the last answer less what was written since is as good as any.
            if let Ok(space) = self.disk.space(&self.dir) {
                (state.space, state.asked, state.spent) = (space, now, 0);
            }
            if plan(self.wanted, state.space, state.held) == Step::LetGo {
                // Failing here, it is tried again by `tend`, which can say so.
                let _ = self.give_back(state);
            }
        }
        left(self.wanted, state.space, state.held).saturating_sub(state.spent)
    }

    /// Notes bytes that were written, so that many writers between two questions to the disk do not all get the same
    /// space.
    pub fn spend(&self, bytes: u64) {
        self.state.lock().spent += bytes;
    }

    /// Lets the ballast go where the disk is nearly full, or takes it where there is room again. To be called about
    /// every second, and when something failed for want of space.
    ///
    /// # Errors
    /// `Io`.
    pub fn tend(&self, now: Duration) -> Result<(), FsError> {
        let state = &mut *self.state.lock();
        (state.space, state.asked, state.spent) = (self.disk.space(&self.dir)?, now, 0);
        match plan(self.wanted, state.space, state.held) {
            Step::Nothing => Ok(()),
            Step::LetGo => self.give_back(state),
            Step::Take => {
                let half = reserved(self.wanted, state.space) / 2;
                match state.ballast.allocate(0, half) {
                    // Somebody else was faster.
                    Err(FsError::NoSpace) => self.give_back(state),
                    other => {
                        other?;
                        state.held = half;
                        state.space = self.disk.space(&self.dir)?;
                        Ok(())
                    }
                }
            }
        }
    }

    fn give_back(&self, state: &mut State) -> Result<(), FsError> {
        state.ballast.set_len(0)?;
        // A journalling file system hands the space out again only when the change is in its journal.
        state.ballast.sync_all()?;
        state.held = 0;
        state.space = self.disk.space(&self.dir)?;
        Ok(())
    }

    /// Bytes set aside at present, the ballast included.
    pub fn reserved(&self) -> u64 {
        reserved(self.wanted, self.state.lock().space)
    }

    /// Bytes that the ballast holds at present.
    pub fn ballast(&self) -> u64 {
        self.state.lock().held
    }

    /// The disk's space as last asked.
    pub fn space(&self) -> Space {
        self.state.lock().space
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::SimulatedDisk;

    const MIB: u64 = 1 << 20;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// A disk of 64 MiB with a reserve of 8, and a file of somebody else's.
    fn world() -> (SimulatedDisk, Reserve, Arc<dyn File>) {
        let disk = SimulatedDisk::new(64 * MIB);
        let reserve = Reserve::open(disk.shared(), Path::new("/"), 256 * MIB, seconds(0)).unwrap();
        let other = disk.create(Path::new("/other")).unwrap();
        (disk, reserve, other)
    }

    #[test]
    fn writers_get_all_but_the_reserve() {
        let (_disk, reserve, other) = world();
        assert_eq!((reserve.reserved(), reserve.ballast()), (8 * MIB, 4 * MIB));
        assert_eq!(reserve.space_left(seconds(0)), 56 * MIB);
        other.allocate(0, 10 * MIB).unwrap();
        assert_eq!(reserve.space_left(seconds(0)), 56 * MIB, "not asked yet");
        assert_eq!(reserve.space_left(seconds(1)), 46 * MIB);
        reserve.spend(MIB);
        assert_eq!(reserve.space_left(seconds(1)), 45 * MIB);
        other.allocate(0, 30 * MIB).unwrap();
        reserve.spend(7 * MIB);
        assert_eq!(reserve.space_left(seconds(1)), 26 * MIB, "asked after so many bytes");
    }

    #[test]
    fn the_ballast_goes_when_others_fill_the_disk_and_comes_back() {
        let (disk, reserve, other) = world();
        other.allocate(0, 56 * MIB).unwrap();
        assert_eq!(reserve.space_left(seconds(1)), 0);
        assert_eq!(reserve.ballast(), 4 * MIB, "half the reserve is free beside it");
        other.allocate(0, 60 * MIB).unwrap();
        assert_eq!(disk.space(Path::new("/")).unwrap().free, 0);
        assert_eq!(reserve.space_left(seconds(2)), 0);
        assert_eq!(reserve.ballast(), 0);
        // Now what shrinks the store can be written.
        let flush = disk.create(Path::new("/flush")).unwrap();
        flush.allocate(0, 4 * MIB).unwrap();
        reserve.tend(seconds(3)).unwrap();
        assert_eq!((reserve.space_left(seconds(3)), reserve.ballast()), (0, 0));
        other.set_len(57 * MIB).unwrap();
        reserve.tend(seconds(4)).unwrap();
        assert_eq!(reserve.ballast(), 0, "not with so little room");
        other.set_len(40 * MIB).unwrap();
        reserve.tend(seconds(5)).unwrap();
        assert_eq!(reserve.ballast(), 4 * MIB);
        assert_eq!(reserve.space_left(seconds(5)), 12 * MIB);
    }

    #[test]
    fn it_opens_on_a_full_disk_and_again() {
        let (disk, reserve, other) = world();
        drop(reserve);
        other.allocate(0, 59 * MIB).unwrap();
        let open = || Reserve::open(disk.shared(), Path::new("/"), 256 * MIB, seconds(0)).unwrap();
        assert_eq!(open().ballast(), 0);
        assert_eq!(open().ballast(), 0);
        other.set_len(0).unwrap();
        let reserve = open();
        assert_eq!((reserve.ballast(), reserve.space_left(seconds(0))), (4 * MIB, 56 * MIB));
        assert_eq!(open().ballast(), 4 * MIB);
    }
}
