//! What sessions have locked.
//!
//! Not here: locks that a client keeps by itself, of inodes that it owns.

use crate::meta::check::Check;
use crate::meta::key::StateKey;
use crate::meta::lock::FileLock;
use crate::meta::lock::FileLocks;
use crate::meta::record::Locks;
use crate::meta::record::Record;
use crate::meta::repair::Remedy;
use crate::series::table::Family;
use crate::types::FsError;
use crate::types::Ino;

impl Check<'_> {
    pub(super) fn locks(&mut self) -> Result<(), FsError> {
        // Of one inode, by the sessions before.
        let mut others: (Option<Ino>, Vec<FileLock>) = (None, Vec::new());
        for (key, row) in self.state_rows(&StateKey::locks())? {
            let held = Locks::from_row(&key, &row);
            let Some(Locks(held)) = self.read(Family::State, &key, held)? else { continue };
            let Some(StateKey::Locks { ino, session }) = StateKey::decode(&key) else { continue };
            self.session_is_open(&key, session)?;
            let of = StateKey::LocksOf { session, ino };
            if self.rows.get(Family::State, &of.encode())?.is_none() {
                let what = "the locks are not listed with their session";
                self.remedied(Family::State, &key, what, Remedy::Sign(of));
            }
            let held: Vec<FileLock> = held.into_iter().map(|(lock, _)| lock).collect();
            if held.is_empty() || FileLocks::of(&held).is_none_or(|sound| sound.all() != held) {
                self.fault(Family::State, &key, "no mount can have these locks together");
            }
            if others.0 != Some(ino) {
                others = (Some(ino), Vec::new());
            }
            if held.iter().any(|held| others.1.iter().any(|other| held.bars(other))) {
                self.fault(Family::State, &key, "two sessions have locks that bar each other");
            }
            others.1.extend(held);
        }
        for (key, _) in self.state_rows(&StateKey::all_locks_of())? {
            let Some(StateKey::LocksOf { session, ino }) = StateKey::decode(&key) else { continue };
            if self.record::<Locks>(&StateKey::Locks { ino, session })?.is_none() {
                let what = "locks are listed that are not there";
                self.remedied(Family::State, &key, what, Remedy::Drop);
            }
        }
        Ok(())
    }
}
