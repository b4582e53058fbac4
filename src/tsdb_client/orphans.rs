//! Files without a name that are kept because this mount may have them open: those that it has not are let go of.
//!
//! `docs/decisions/0016-files-open-elsewhere.md` says who puts them there. On a thread of its own, as it may have to wait for
//! others. Not here: files whose last name went through this mount while it had them open; their last handle releases them.

use crate::meta::key;
use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::direct::Direct;
use crate::tsdb_client::local::Local;
use crate::tsdb_client::local::OP_BYTES;
use crate::types::FsError;
use crate::types::Ino;
use std::time::Duration;

/// How often somebody looks.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Looked at, and released, at a time.
const AT_ONCE: usize = 500;

impl Core {
    /// Looks after them until the client closes.
    pub(super) fn look_after_orphans(&self) {
        loop {
            self.pause(LOOK_EVERY);
            if self.enter().ended || self.journal.check().is_err() {
                return;
            }
            if let Err(error) = self.release_idle() {
                tracing::debug!(%error, "files that were removed elsewhere are let go of later");
            }
        }
    }

    fn release_idle(&self) -> Result<(), FsError> {
        let mut range = StateKey::orphans(self.session);
        loop {
            let page = self.server.state(&range, AT_ONCE)?;
            let orphan = |key: &[u8]| match StateKey::decode(key) {
                Some(StateKey::Orphan { ino, .. }) => Some(ino),
                _ => None,
            };
            let inos: Vec<Ino> = page.rows.iter().filter_map(|(key, _)| orphan(key)).collect();
            self.release_of(&inos)?;
            match page.rows.last().filter(|_| page.more) {
                Some((last, _)) => range.start = [last, &[0][..]].concat(),
                None => return Ok(()),
            }
        }
    }

    /// Lets go of those that are not open; the others go with their last handle.
    fn release_of(&self, inos: &[Ino]) -> Result<(), FsError> {
        let idle = {
            let mut local = self.enter();
            inos.iter().copied().filter(|ino| local.is_idle_orphan(*ino)).collect::<Vec<_>>()
        };
        if idle.is_empty() {
            return Ok(());
        }
        match self.send_releases(&idle) {
            // One of them was not to be released any more: nothing of the batch holds.
            Err(error) if error.kind() == crate::types::Kind::Answer && idle.len() > 1 => {
                idle.chunks(1).try_for_each(|one| match self.send_releases(one) {
                    Err(error) if error.kind() == crate::types::Kind::Answer => Ok(()),
                    sent => sent,
                })
            }
            sent => sent,
        }
    }

    fn send_releases(&self, inos: &[Ino]) -> Result<(), FsError> {
        let _turn = self.one_direct()?;
        let mut local = self.enter_change()?;
        self.close_open(&mut local);
        let mut direct = Direct::new();
        let idle: Vec<Ino> =
            inos.iter().copied().filter(|ino| local.is_idle_orphan(*ino)).collect();
        for ino in idle {
            local.releasing.insert(ino);
            direct.batch.push(Op::Release { ino }, self.options.owner);
            direct.batch.bytes += OP_BYTES;
        }
        if direct.batch.ops.is_empty() {
            return Ok(());
        }
        // What is not applied now is found again.
        self.send_direct(local, direct).map(drop)
    }
}

impl Local {
    /// Whether nobody here needs the file any more. Whoever does releases it.
    fn is_idle_orphan(&mut self, ino: Ino) -> bool {
        if let Some(file) = self.files.get_mut(&ino)
            && file.handles > 0
        {
            file.orphan = true;
            return false;
        }
        // Its release is on its way.
        !matches!(self.series.get(&key::inode(ino)), Some(None))
    }
}
