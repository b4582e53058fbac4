//! What programs saw succeed and the store will not take any more: saved to a file on this machine, for a person to look at.
//!
//! On a thread of its own, once, when something is lost; calls are told of the loss without it. It holds what is in memory
//! anyway, and encodes one batch at a time. It asks the server nothing, which may not answer. Not here: the bytes of the file
//! (`wire::refused`), when something is lost (`journal`).

use crate::meta::op::Batch;
use crate::meta::op::By;
use crate::meta::op::Op;
use crate::tsdb_client::core::Core;
use crate::tsdb_client::journal::Sent;
use crate::tsdb_client::local::ClosedBatch;
use crate::tsdb_client::local::Local;
use crate::tsdb_client::pending::Pending;
use crate::tsdb_client::seal::pieces;
use crate::tsdb_client::seal::runs;
use crate::types::BatchSeq;
use crate::types::Ino;
use crate::types::Time;
use crate::types::instant;
use crate::wire::refused::Head;
use crate::wire::refused::Named;
use crate::wire::refused::Writer;
use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// How such a file's name ends.
pub const ENDING: &str = ".refused";
/// Files of one session and second.
const FILES_MAX: u32 = 100;

/// Where refused work goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SaveTo {
    pub dir: PathBuf,
    /// What is mounted, for whoever reads the file.
    pub source: String,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Saved {
    Whole(PathBuf),
    /// Why not, or not all of it.
    Not(String),
}

/// What is not applied, in order.
struct Work {
    applied: BatchSeq,
    sent: Vec<Sent>,
    unsent: Vec<ClosedBatch>,
}

/// What of it is worth a file.
#[derive(Default)]
struct Account {
    changes: u64,
    inos: BTreeSet<Ino>,
}

impl Core {
    /// Whether work that is refused is to be saved.
    pub(super) fn saves(&self) -> bool {
        self.options.refused.is_some()
    }

    /// Waits until something is lost, and saves what was not applied; or until the client has closed without a loss.
    pub(super) fn save_when_lost(&self) {
        let Some(to) = &self.options.refused else { return };
        let Some(why) = self.journal.await_loss() else { return };
        let work = self.unapplied();
        let account = self.account(&work);
        if account.changes == 0 {
            return;
        }
        let saved = self.save(to, why, &work, &account);
        if let Saved::Whole(path) = &saved {
            let (path, changes) = (path.display(), account.changes);
            tracing::error!(
                "{changes} changes that the store did not take are saved in {path}: 'tsfs refused {path}' shows them"
            );
        }
        if let Saved::Not(why) = &saved {
            let changes = account.changes;
            tracing::error!(
                "{changes} changes that the store did not take could not be saved: {why}"
            );
        }
        let _ = self.saved.set(saved);
    }

    /// For `tsfs status`, where this session has ended before its time.
    pub(super) fn loss_sentence(&self) -> Option<String> {
        let why = self.journal.lost().filter(|_| !self.near)?;
        let saved = match self.saved.get() {
            None => String::new(),
            Some(Saved::Whole(path)) => format!(
                "; what was not applied is in {path}: 'tsfs refused {path}' shows it",
                path = path.display()
            ),
            Some(Saved::Not(why)) => format!("; what was not applied could not be saved: {why}"),
        };
        Some(format!(
            "this mount takes no more changes, unmount it and mount it again: {why}{saved}"
        ))
    }

    /// Everything that is not known to be applied. From the loss on nothing is added to it: whoever changes something looks for a
    /// loss first, under the same lock. What is dirty or open stays where it is, for reads.
    fn unapplied(&self) -> Work {
        let mut local = self.enter();
        let mut leaving = self.leaving.lock();
        let (applied, sent) = self.journal.take_sent();
        let mut unsent: Vec<ClosedBatch> = leaving.drain(..).collect();
        drop(leaving);
        for batch in local.closed.drain(..) {
            self.journal.let_go(batch.bytes);
            unsent.push(batch);
        }
        let open = self.open_with_dirty(&local);
        unsent.extend((!open.ops.is_empty()).then_some(open));
        Work { applied, sent, unsent }
    }

    /// The open batch, with what was written since as if it were sealed. The rules are not run, for they may need rows that the
    /// server has.
    fn open_with_dirty(&self, local: &Local) -> ClosedBatch {
        let (mut ops, mut by) = (local.open.ops.clone(), local.open.by.clone());
        let mut pending = local.open.pending.clone();
        let mut next = local.next_block;
        let dirty: BTreeSet<Ino> = local.files.keys().copied().collect();
        for ino in dirty {
            let file = &local.files[&ino];
            let time = file.written.map_or_else(Time::default, |written| written.time);
            for run in runs(file.dirty.slices(0, u64::MAX)) {
                let (pieces, blocks) = pieces(self.session, next, &run);
                next += blocks.len() as u64;
                pending.extend(blocks);
                let offset = run[0].start;
                ops.push(Op::Write { ino, offset, pieces, clear_suid: false, time });
                by.push(By { uid: file.by, ops: 1 });
            }
        }
        ClosedBatch { seq: local.open.seq, ops, by, bytes: 0, pending, direct: None }
    }

    fn account(&self, work: &Work) -> Account {
        let mut account = Account::default();
        for sent in &work.sent {
            // It was encoded here.
            if let Ok(batch) = Batch::decode(&sent.batch) {
                account.add(&batch.ops);
            }
        }
        work.unsent.iter().for_each(|batch| account.add(&batch.ops));
        account
    }

    fn save(&self, to: &SaveTo, why: String, work: &Work, account: &Account) -> Saved {
        let saved = self.clock.wall();
        let head = Head {
            store: self.store.clone(),
            session: self.session,
            client: self.options.name.clone(),
            source: to.source.clone(),
            opened: self.opened,
            saved,
            why,
            applied: work.applied,
        };
        let (path, file) = match create(&to.dir, &head) {
            Ok(made) => made,
            Err(error) => return Saved::Not(format!("in {}: {error}", to.dir.display())),
        };
        let written = self.write(file, &head, work, account).and_then(|file| {
            file.sync_all()?;
            File::open(&to.dir)?.sync_all()
        });
        match written {
            Ok(()) => Saved::Whole(path),
            // What is there of it may be what somebody needs.
            Err(error) => {
                Saved::Not(format!("{} has only a part of them: {error}", path.display()))
            }
        }
    }

    fn write(&self, file: File, head: &Head, work: &Work, account: &Account) -> io::Result<File> {
        let mut writer = Writer::begin(BufWriter::new(file), head)?;
        let named = |ino: &Ino| {
            let (under, path) = self.paths.find(*ino)?;
            Some(Named { ino: *ino, under, path: path.into() })
        };
        writer.names(&account.inos.iter().filter_map(named).collect::<Vec<_>>())?;
        for Sent { seq, batch, pending } in &work.sent {
            write_blocks(&mut writer, pending)?;
            writer.batch(*seq, true, batch)?;
        }
        for ClosedBatch { seq, ops, by, pending, direct, .. } in &work.unsent {
            write_blocks(&mut writer, pending)?;
            let (session, epoch) = (self.session, self.epoch);
            let (by, ops, direct) = (by.clone(), ops.clone(), direct.clone());
            let batch = Batch { session, seq: *seq, epoch, by, ops, direct };
            writer.batch(*seq, false, &batch.encode())?;
        }
        writer.end()?.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl Account {
    fn add(&mut self, ops: &[Op]) {
        for op in ops.iter().filter(|op| is_work(op)) {
            self.changes += 1;
            self.inos.extend(op.inos());
        }
    }
}

/// Whether a program has something to do again. What a session says of itself means nothing without it.
fn is_work(op: &Op) -> bool {
    let own = matches!(
        op,
        Op::Yield { .. } | Op::SetLocks { .. } | Op::Release { .. } | Op::Version { .. }
    );
    !own
}

fn write_blocks<W: Write>(writer: &mut Writer<W>, pending: &[Arc<Pending>]) -> io::Result<()> {
    pending.iter().try_for_each(|block| writer.block(block.id, &block.raw()))
}

/// A new file that nobody else may read, in a directory that nobody else may enter.
fn create(dir: &Path, head: &Head) -> io::Result<(PathBuf, File)> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let time = instant::utc(head.saved).to_string();
    // To the second, and in a form that no shell minds.
    let time: String = time.chars().take(19).filter(char::is_ascii_alphanumeric).collect();
    let name = format!("{}-{}-{time}Z", head.store, head.session.0);
    for n in 1..=FILES_MAX {
        let more = if n == 1 { String::new() } else { format!("-{n}") };
        let path = dir.join(format!("{name}{more}{ENDING}"));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
