//! What the steps of a restore have made so far, and which of them wait to be done together.
//!
//! A change at the server holds up the whole mount until it is on disk, so a tree of small files goes there many files at
//! a time. Each file is still whole at every instant: all of its ops are in one batch. Not here: what the steps are.

use crate::meta::op::Op;
use crate::tsdb_client::Invalidate;
use crate::tsdb_client::control::End;
use crate::tsdb_client::control::Job;
use crate::types::Ino;
use crate::wire::control::Answer;
use crate::wire::control::ChangeRow;
use std::collections::HashMap;

/// Ops that are done together: some dozens of files, a few milliseconds.
const OPS_TOGETHER: usize = 256;

#[derive(Default)]
pub(super) struct Made {
    /// Directories, by path.
    pub(super) dirs: HashMap<Vec<u8>, Ino>,
    /// Files with several links, by their inode of then.
    pub(super) files: HashMap<Ino, Ino>,
    /// Not yet done; and what is to be forgotten and said when it is.
    ops: Vec<Op>,
    forget: Vec<Invalidate>,
    rows: Vec<ChangeRow>,
}

impl Made {
    /// Adds the ops of one file.
    pub(super) fn add(&mut self, ops: Vec<Op>) {
        self.ops.extend(ops);
    }

    /// Has the kernel forget something when what waits is done.
    pub(super) fn forget(&mut self, what: impl IntoIterator<Item = Invalidate>) {
        self.forget.extend(what);
    }

    pub(super) fn is_full(&self) -> bool {
        self.ops.len() >= OPS_TOGETHER
    }
}

impl Job<'_> {
    /// Says a line once what it tells of is done.
    pub(super) fn say_when_done(&mut self, row: ChangeRow, made: &mut Made) -> Result<(), End> {
        made.rows.push(row);
        if made.ops.is_empty() { self.finish(made) } else { Ok(()) }
    }

    /// Does what waits.
    pub(super) fn finish(&mut self, made: &mut Made) -> Result<(), End> {
        if !made.ops.is_empty() {
            self.client.change_at_server(self.caller, std::mem::take(&mut made.ops))?;
        }
        for what in made.forget.drain(..) {
            self.client.invalidate(what);
        }
        made.rows.drain(..).try_for_each(|row| self.say(Answer::Change(row)))
    }
}
