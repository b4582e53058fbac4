//! Changes that only the server can run: contents of the past, whose blocks it alone can name.
//!
//! They go as a batch without the session's number, so a refusal (the instant was purged meanwhile, say) costs nothing but
//! the batch. Changes through the mount wait while one is on its way, and what it changed is asked for anew.

use crate::meta::key;
use crate::meta::op::Op;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::tsdb_client::Caller;
use crate::tsdb_client::Client;
use crate::tsdb_client::Invalidate;
use crate::tsdb_client::Tell;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::lane::Driver;
use crate::tsdb_client::local::OP_BYTES;
use crate::types::AsOf;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use crate::types::regions;
use crate::wire::Server;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

impl Client {
    pub(super) fn server(&self) -> &dyn Server {
        &*self.core.server
    }

    /// Who mounted.
    pub(super) fn owner(&self) -> u32 {
        self.core.options.owner
    }

    /// A number for a new inode, used up.
    ///
    /// # Errors
    /// `Lost`, `Closing`, `Io`.
    pub(super) fn fresh_ino(&self) -> Result<Ino, FsError> {
        self.core.change(|change| {
            let ino = change.fresh_ino()?;
            change.local.ino_used();
            Ok(ino)
        })
    }

    /// Has ops applied as one batch that the server resolves, after everything done before on this mount and before
    /// everything that follows. Waits; the stamp of its last step. The kernel is not told: see [`Client::invalidate`].
    ///
    /// # Errors
    /// `Refused` with the reason: nothing was changed. `NoSpace`, `Lost`, `Closing`.
    pub(super) fn change_at_server(&self, caller: Caller, ops: Vec<Op>) -> Result<Stamp, FsError> {
        let core = &*self.core;
        core.change(|change| change.need(OP_BYTES * ops.len() as u64))?;
        if !core.near {
            return core.direct_at_server(caller.uid, &ops);
        }
        let frozen = core.freeze()?;
        let last = frozen.close();
        core.drive(Driver::Flusher);
        core.await_applied(last)?;
        let touched: Vec<Touched> = ops.iter().map(|op| core.touched(op)).collect();
        let applied = core.server.administer_all(Some(caller.uid), ops);
        // Entering demotes what is left of earlier batches, so the server's rows are the newest now; and with the next
        // turn nobody caches what was asked for before.
        core.enter().turn += 1;
        touched.into_iter().for_each(|touched| core.drop_rows(touched));
        applied
    }

    /// Has the kernel forget something, soon.
    pub(super) fn invalidate(&self, what: Invalidate) {
        if let Some(forget) = &*self.forget.lock() {
            // The thread takes what is queued until the client closes.
            let _ = forget.queue.send(Tell::Forget(vec![what]));
        }
    }

    /// Waits until the kernel has forgotten everything it was to forget: whoever is told after this that a restore is
    /// done sees it.
    pub(super) fn wait_forgotten(&self) {
        let (waiting, reached) = sync_channel(0);
        match &*self.forget.lock() {
            // A thread that has ended lets go of it with the queue.
            Some(forget) => drop(forget.queue.send(Tell::Reached(waiting))),
            None => drop(waiting),
        }
        // It is let go of, never sent: that is the end of the wait.
        let _ = reached.recv();
    }

    /// Whether former states of a directory's entries are kept.
    ///
    /// # Errors
    /// `Stale`, `NotDirectory`.
    pub(super) fn keeps_history(&self, dir: Ino) -> Result<bool, FsError> {
        Ok(!self.core.dir(dir, AsOf::Now)?.no_history)
    }

    /// Waits, to leave the machine to others; less where the client closes.
    pub(super) fn pause(&self, time: Duration) {
        self.core.pause(time);
    }
}

/// Which rows an op may change.
enum Touched {
    Name {
        dir: Ino,
        name: Vec<u8>,
        inos: Vec<Ino>,
    },
    Xattr {
        ino: Ino,
        name: Vec<u8>,
    },
    /// The inode, and its contents from one byte to another.
    Contents {
        ino: Ino,
        start: u64,
        end: u64,
    },
    /// Only the server knows.
    Anything,
}

impl Core {
    fn touched(&self, op: &Op) -> Touched {
        match op {
            Op::Create { dir, name, ino, .. } | Op::Link { dir, name, ino, .. } => {
                Touched::Name { dir: *dir, name: name.to_vec(), inos: vec![*dir, *ino] }
            }
            Op::SetXattr { ino, name, .. } | Op::RemoveXattr { ino, name, .. } => {
                Touched::Xattr { ino: *ino, name: name.to_vec() }
            }
            Op::SetAttr { ino, set, .. } => {
                // What a file loses by being shortened; nothing where its contents begin anew.
                let start = set.size.filter(|size| *size > 0).unwrap_or(u64::MAX);
                let end = self.inode(*ino, AsOf::Now).map_or(0, |inode| inode.size);
                Touched::Contents { ino: *ino, start, end }
            }
            Op::Clone { ino, offset, len, .. } | Op::Zero { ino, offset, len, .. } => {
                Touched::Contents { ino: *ino, start: *offset, end: offset + len }
            }
            Op::Version { ino } | Op::SetHistory { ino, .. } | Op::Accessed { ino, .. } => {
                Touched::Contents { ino: *ino, start: 0, end: 0 }
            }
            _ => Touched::Anything,
        }
    }

    fn drop_rows(&self, touched: Touched) {
        let names = self.rules.names();
        match touched {
            Touched::Anything => self.rows.clear(),
            Touched::Name { dir, name, inos } => {
                self.rows.remove(&key::dirent(dir, names.of(&name), &name));
                inos.into_iter().for_each(|ino| self.rows.remove(&key::inode(ino)));
            }
            Touched::Xattr { ino, name } => {
                self.rows.remove(&key::xattr(ino, &name));
                self.rows.remove(&key::inode(ino));
            }
            Touched::Contents { ino, start, end } => self.drop_contents(ino, start, end),
        }
    }

    fn drop_contents(&self, ino: Ino, start: u64, end: u64) {
        let key = key::inode(ino);
        self.rows.remove(&key);
        if start >= end {
            return;
        }
        // Contents of an earlier generation are never asked for again.
        let row = self.server.get(&key, AsOf::Now).ok().flatten();
        match row.map(|row| Inode::from_row(&key, &row)) {
            Some(Ok(inode)) => {
                for (region, _, _) in regions(start, end - start) {
                    self.rows.remove(&key::extents(ino, inode.generation, region));
                }
            }
            _ => self.rows.clear(),
        }
    }
}
