//! A change inside one hold of the lock: runs the rules, and puts the op that holds into the open batch.
//!
//! Not here: what calls do with it, sealing written bytes (`seal`), the lock itself (`core`).

use crate::meta::key;
use crate::meta::key::KeyBytes;
use crate::meta::op::Op;
use crate::meta::record::Dirent;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::series::Present;
use crate::telemetry::counter::CLIENT_OPS;
use crate::tsdb_client::Handle;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::local::Local;
use crate::tsdb_client::local::OP_BYTES;
use crate::tsdb_client::local::OpenBatch;
use crate::tsdb_client::view::Fetch;
use crate::tsdb_client::view::Missed;
use crate::tsdb_client::view::Mode;
use crate::tsdb_client::view::View;
use crate::types::FsError;
use crate::types::Ino;
use bytes::Bytes;

pub(super) struct Change<'a> {
    pub(super) core: &'a Core,
    pub(super) local: &'a mut Local,
    /// The user whose ops these are.
    pub(super) by: u32,
    mode: Mode<'a>,
    fetch: Fetch,
    lapsed: bool,
    missed: Option<Missed>,
    /// Rows of its own were looked at, or copies.
    pub(super) saw_own: bool,
    /// Of the copies, some may be of a later moment than what was asked for.
    pub(super) torn: bool,
}

impl<'a> Change<'a> {
    /// `fetch`: of what is owned.
    pub(super) fn new(
        core: &'a Core,
        local: &'a mut Local,
        fetch: Fetch,
        mode: Mode<'a>,
    ) -> Change<'a> {
        let lapsed = core.is_lapsed();
        let by = core.options.owner;
        let (missed, saw_own, torn) = (None, false, false);
        Change { core, local, by, mode, fetch, lapsed, missed, saw_own, torn }
    }

    /// Seals what was written, come what may.
    pub(super) fn sealing(core: &'a Core, local: &'a mut Local) -> Change<'a> {
        Change::new(core, local, Fetch::Now, Mode::Seal)
    }

    /// What the attempt lacked, if it failed for that.
    pub(super) fn missed(&mut self) -> Option<Missed> {
        self.missed.take()
    }

    /// Something was missing: the error that it caused means nothing.
    pub(super) fn is_short(&self) -> bool {
        self.missed.is_some()
    }

    fn view<T>(
        &mut self,
        run: impl FnOnce(&mut View<'_, 'a>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let mut view = View::new(self.core, self.local, &mut self.mode, self.fetch, self.lapsed);
        let result = run(&mut view);
        self.missed = view.missed();
        self.saw_own |= view.saw_own();
        self.torn |= view.is_torn();
        result
    }

    /// Whether what this client holds of an inode is the present; otherwise it may only look, or is making a direct change.
    ///
    /// # Errors
    /// Where the attempt is to be repeated.
    pub(super) fn owns(&mut self, ino: Ino) -> Result<bool, FsError> {
        self.view(|view| view.owns(ino))
    }

    /// Rows that will be needed: where the server is far, those that have to be asked for are asked for together.
    ///
    /// # Errors
    /// Where one is not at hand: the attempt is repeated.
    pub(super) fn ahead(
        &mut self,
        keys: impl IntoIterator<Item = KeyBytes>,
    ) -> Result<(), FsError> {
        if self.core.near {
            return Ok(());
        }
        self.view(|view| view.ahead(&mut keys.into_iter()))
    }

    /// Has something become of this client's own state once the ops hold: now, or when a direct batch is applied.
    pub(super) fn after(&mut self, effect: impl FnOnce(&mut Local) + Send + 'static) {
        match &mut self.mode {
            Mode::Direct(_, direct) => direct.after.push(Box::new(effect)),
            _ => effect(self.local),
        }
    }

    /// A row as an op has just put it.
    pub(super) fn put(&self, key: &[u8]) -> Option<Option<Bytes>> {
        match &self.mode {
            Mode::Direct(_, direct) => direct.rows.get(key),
            _ => self.local.series.get(key),
        }
    }

    /// Where ops go.
    pub(super) fn batch(&mut self) -> &mut OpenBatch {
        match &mut self.mode {
            Mode::Direct(_, direct) => &mut direct.batch,
            _ => &mut self.local.open,
        }
    }

    pub(super) fn is_direct(&self) -> bool {
        matches!(self.mode, Mode::Direct(..))
    }

    /// A row of the present.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub(super) fn row(&mut self, key: &[u8]) -> Result<Option<Bytes>, FsError> {
        self.view(|view| view.get(key))
    }

    /// # Errors
    /// `Stale` where there is no such inode.
    pub(super) fn inode(&mut self, ino: Ino) -> Result<Inode, FsError> {
        let key = key::inode(ino);
        let row = self.row(&key)?.ok_or(FsError::Stale)?;
        Inode::from_row(&key, &row)
    }

    /// # Errors
    /// `NoSpace` where `bytes` more would not fit with everything that is still on its way.
    pub(super) fn need(&mut self, bytes: u64) -> Result<(), FsError> {
        let wanted = self.core.journal.held() + bytes;
        // Asked once for a batch, and before anybody is refused.
        if self.local.began.is_some() && wanted <= self.local.space {
            return Ok(());
        }
        self.local.space = self.core.server.space_left();
        if wanted <= self.local.space { Ok(()) } else { Err(FsError::NoSpace) }
    }

    /// Runs an op's rules and puts it into the open batch.
    ///
    /// # Errors
    /// The op's; nothing is left behind.
    pub(super) fn run(&mut self, op: Op) -> Result<(), FsError> {
        if !self.is_direct() {
            self.begin();
        }
        // The bytes of a write counted when they were written.
        let value_bytes = if let Op::SetXattr { value, .. } = &op { value.len() } else { 0 };
        let (core, bytes) = (self.core, OP_BYTES + value_bytes as u64);
        self.view(|view| core.rules.apply(view, core.session, &op))?;
        if core.saves() {
            self.note_path(&op);
        }
        if !self.is_direct() {
            core.journal.hold(bytes);
        }
        let by = self.by;
        let batch = self.batch();
        batch.bytes += bytes;
        batch.push(op, by);
        CLIENT_OPS.add(1);
        Ok(())
    }

    /// The name that an op gave.
    fn note_path(&self, op: &Op) {
        let (dir, name) = match op {
            Op::Create { dir, name, .. } | Op::Link { dir, name, .. } => (*dir, name),
            Op::Rename { new_dir, new_name, .. } => (*new_dir, new_name),
            _ => return,
        };
        let key = key::dirent(dir, self.core.rules.names().of(name), name);
        // The op has put it.
        if let Some(Some(row)) = self.put(&key)
            && let Ok(dirent) = Dirent::from_row(&key, &row)
        {
            self.core.paths.note(dir, name, dirent.ino);
        }
    }

    /// Runs an op that tells of contents: whoever wrote them last made it, though somebody else may have it sent.
    ///
    /// # Errors
    /// As for [`Change::run`].
    pub(super) fn run_for_writer(&mut self, ino: Ino, op: Op) -> Result<(), FsError> {
        let writer = self.local.files.get(&ino).map_or(self.by, |file| file.by);
        let by = std::mem::replace(&mut self.by, writer);
        let done = self.run(op);
        self.by = by;
        done
    }

    /// The file that a handle for writing is of. From now on the ops are those of whoever opened it.
    ///
    /// # Errors
    /// `BadHandle`.
    pub(super) fn writer(&mut self, handle: Handle) -> Result<Ino, FsError> {
        let open = self.local.writer(handle)?;
        self.by = open.by;
        Ok(open.ino)
    }

    /// From now on there is something to send.
    pub(super) fn begin(&mut self) {
        if self.local.began.is_some() {
            return;
        }
        let now = self.core.clock.steady();
        let due = now + self.core.options.window;
        self.local.began = Some(now);
        if self.local.flusher_wakes > due {
            self.local.flusher_wakes = due;
            self.core.work.notify_one();
        }
    }
}

impl Change<'_> {
    /// The contents of a file, as written so far, are a version, unless they are one already.
    ///
    /// # Errors
    /// As for [`Change::run`].
    pub(super) fn finish(&mut self, ino: Ino) -> Result<(), FsError> {
        self.seal(ino)?;
        if self.local.files.get(&ino).is_some_and(|file| file.unfinished.is_some()) {
            self.run_for_writer(ino, Op::Version { ino })?;
            self.after(move |local| local.note_finished(ino));
        }
        Ok(())
    }

    /// The number for a new inode; it counts as used once [`Local::ino_used`] says so.
    ///
    /// # Errors
    /// Where none is at hand: the attempt is repeated.
    pub(super) fn fresh_ino(&mut self) -> Result<Ino, FsError> {
        let next = self.local.next_ino();
        if next.is_none() {
            self.missed = Some(Missed::Inos);
        }
        next.ok_or_else(|| FsError::Io("no inode number is at hand".to_owned()))
    }
}
