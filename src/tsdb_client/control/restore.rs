//! Making a file or a tree what it was: plan first, then do.
//!
//! Each file's step is in one batch, so no instant shows half a file. Contents are not copied: the new version names the
//! blocks of the old one. Not here: what has to be done (`plan`), doing many files at a time (`made`).

use crate::meta::op::Op;
use crate::meta::op::XattrHow;
use crate::tsdb_client::Invalidate;
use crate::tsdb_client::New;
use crate::tsdb_client::SetAttr;
use crate::tsdb_client::control::End;
use crate::tsdb_client::control::Job;
use crate::tsdb_client::control::content_size;
use crate::tsdb_client::control::diff::optional;
use crate::tsdb_client::control::made::Made;
use crate::tsdb_client::control::path::shown;
use crate::tsdb_client::control::plan::Parent;
use crate::tsdb_client::control::plan::Plan;
use crate::tsdb_client::control::plan::Spot;
use crate::tsdb_client::control::plan::Step;
use crate::tsdb_client::control::refuse;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::REGION_BYTES;
use crate::types::Stamp;
use crate::types::Time;
use crate::wire::control::ChangeKind;
use crate::wire::control::ChangeRow;
use crate::wire::control::Done;
use crate::wire::control::FailureKind;
use crate::wire::control::Moment;
use crate::wire::control::Raw;
use bytes::Bytes;
use std::collections::HashSet;

/// One op touches at most a thousand rows: a longer file is cloned in parts of this many bytes.
const CLONE_BYTES: u64 = 400 * REGION_BYTES;

impl Job<'_> {
    pub(super) fn restore(
        &mut self,
        path: &Raw,
        at: &Moment,
        remove: bool,
        dry_run: bool,
    ) -> Result<Done, End> {
        let AsOf::At(at) = self.instant(at)? else {
            return refuse(FailureKind::Invalid, "name an instant of the past to restore from");
        };
        let (spot, then, now) = if path.0.is_empty() || path.0 == b"." {
            let spot = Spot { path: Vec::new(), parent: Parent::Nothing, name: Bytes::new() };
            let look = |as_of| optional(self.client.getattr(self.dir, as_of));
            (spot, look(AsOf::At(at))?, look(AsOf::Now)?)
        } else {
            let (dir, name) = self.named(path)?;
            let look = |as_of| optional(self.client.lookup(dir, &name, as_of));
            let (then, now) = (look(AsOf::At(at))?, look(AsOf::Now)?);
            (Spot { path: Vec::new(), parent: Parent::Now(dir), name }, then, now)
        };
        let Some(then) = then else {
            let hint = if path.0.is_empty() { "" } else { "; 'tsfs log' lists its versions" };
            return refuse(
                FailureKind::NotFound,
                format!("{} did not exist at that instant{hint}", shown(path)),
            );
        };
        let mut plan = Plan { at, remove, steps: Vec::new() };
        self.plan(&mut plan, spot, &then, now.as_ref())?;
        self.carry_out(plan, dry_run)
    }

    pub(super) fn undelete(
        &mut self,
        path: &Raw,
        at: Option<&Moment>,
        to: Option<&Raw>,
        dry_run: bool,
    ) -> Result<Done, End> {
        let (dir, name) = self.named(path)?;
        let at = at.map(|moment| self.instant(moment)).transpose()?;
        let gone = self.client.deleted(dir)?.into_iter().find(|gone| {
            let wanted = match at {
                Some(AsOf::At(at)) => gone.when > at,
                Some(AsOf::Now) | None => true,
            };
            gone.name == name && wanted
        });
        let Some(gone) = gone else {
            if optional(self.client.lookup(dir, &name, AsOf::Now))?.is_some() {
                return refuse(
                    FailureKind::Exists,
                    format!("\"{path}\" is there; 'tsfs log' lists what it was before"),
                );
            }
            return refuse(
                FailureKind::NotFound,
                format!("nothing named \"{path}\" was deleted here that is still kept"),
            );
        };
        let last = match at {
            Some(AsOf::At(at)) => at,
            Some(AsOf::Now) | None => self.client.last_whole(&gone)?,
        };
        let then = self.client.lookup(dir, &name, AsOf::At(last))?;
        let (to_dir, to_name) = to.map_or(Ok((dir, name)), |to| self.named(to))?;
        if optional(self.client.lookup(to_dir, &to_name, AsOf::Now))?.is_some() {
            return refuse(
                FailureKind::Exists,
                format!("\"{}\" exists now; choose another name with --to", to.unwrap_or(path)),
            );
        }
        let spot = Spot { path: Vec::new(), parent: Parent::Now(to_dir), name: to_name };
        let mut plan = Plan { at: last, remove: false, steps: Vec::new() };
        self.plan(&mut plan, spot, &then, None)?;
        self.carry_out(plan, dry_run)
    }

    fn carry_out(&mut self, plan: Plan, dry_run: bool) -> Result<Done, End> {
        let total = plan.steps.len() as u64;
        let mut made = Made::default();
        let filled: HashSet<Vec<u8>> = plan.steps.iter().filter_map(Step::makes).collect();
        let mut changed = 0;
        for (done, step) in plan.steps.iter().enumerate() {
            if !dry_run {
                self.progress("restoring", done as u64, Some(total), "changes")?;
                if !step.waits() || made.is_full() {
                    self.finish(&mut made)?;
                }
                self.take(step, plan.at, &mut made)?;
            }
            if let Some(row) = told(step, &filled) {
                changed += 1;
                self.say_when_done(row, &mut made)?;
            }
        }
        self.finish(&mut made)?;
        Ok(Done { changed, ..Done::default() })
    }

    fn take(&mut self, step: &Step, at: Stamp, made: &mut Made) -> Result<(), End> {
        match step {
            Step::Remove { spot, now } => {
                let dir = parent(made, spot)?;
                match now.kind {
                    FileKind::Directory => self.client.rmdir(self.caller, dir, &spot.name)?,
                    _ => self.client.unlink(self.caller, dir, &spot.name)?,
                }
                made.forget([Invalidate::Inode(now.ino)]);
                made.forget(changed_in(dir, &spot.name));
            }
            Step::Make { spot, then } => {
                let dir = parent(made, spot)?;
                self.make(spot, dir, then, at, made)?;
                made.forget(changed_in(dir, &spot.name));
            }
            Step::Contents { then, now, .. } => {
                let set = SetAttr { size: Some(0), ..SetAttr::default() };
                let time = self.client.clock().time();
                let mut ops = vec![Op::SetAttr { ino: now.ino, set, time }];
                ops.extend(self.contents_of(then, at, now.ino, time));
                ops.extend(self.xattrs_of(then, at, now.ino, Some(now))?);
                ops.push(Op::Version { ino: now.ino });
                made.add(ops);
                made.forget([Invalidate::Inode(now.ino)]);
            }
            Step::Attributes { spot, then, now } => {
                let ino = made.dirs.get(&spot.path).copied().unwrap_or(now.ino);
                let was_made = made.dirs.contains_key(&spot.path);
                let xattrs = self.xattrs_of(then, at, ino, (!was_made).then_some(now))?;
                if !xattrs.is_empty() {
                    self.client.change_at_server(self.caller, xattrs)?;
                }
                self.client.setattr(self.caller, ino, self.attributes(then))?;
                made.forget([Invalidate::Inode(ino)]);
            }
        }
        Ok(())
    }

    fn make(
        &mut self,
        spot: &Spot,
        dir: Ino,
        then: &Attr,
        at: Stamp,
        made: &mut Made,
    ) -> Result<(), End> {
        if let Some(&ino) = made.files.get(&then.ino) {
            // A hard link then is a hard link again, of a file that may still wait.
            self.finish(made)?;
            self.client.link(self.caller, ino, dir, &spot.name)?;
            return Ok(());
        }
        let ino = match then.kind {
            FileKind::File => {
                let (ino, time) = (self.client.fresh_ino()?, self.client.clock().time());
                let mut ops = vec![Op::Create {
                    dir,
                    name: spot.name.clone(),
                    ino,
                    kind: FileKind::File,
                    mode: then.mode & !0o6000,
                    uid: then.uid,
                    gid: then.gid,
                    rdev: 0,
                    target: Bytes::new(),
                    time,
                }];
                ops.extend(self.contents_of(then, at, ino, time));
                ops.extend(self.xattrs_of(then, at, ino, None)?);
                ops.push(Op::Version { ino });
                made.add(ops);
                ino
            }
            kind => {
                let target = match kind {
                    FileKind::Symlink => self.client.readlink(then.ino, AsOf::At(at))?,
                    _ => Bytes::new(),
                };
                let new = New {
                    kind,
                    mode: then.mode,
                    uid: then.uid,
                    gid: then.gid,
                    rdev: then.rdev,
                    target,
                };
                let ino = self.client.create(self.caller, dir, &spot.name, new)?.ino;
                if kind == FileKind::Directory {
                    // Its attributes follow when it is filled.
                    made.dirs.insert(spot.path.clone(), ino);
                    return Ok(());
                }
                self.client.setattr(self.caller, ino, self.attributes(then))?;
                ino
            }
        };
        if then.nlink > 1 {
            made.files.insert(then.ino, ino);
        }
        Ok(())
    }

    /// The ops that give an empty file the contents and attributes of then.
    fn contents_of(&self, then: &Attr, at: Stamp, ino: Ino, time: Time) -> Vec<Op> {
        let starts = (0..then.size).step_by(CLONE_BYTES as usize);
        let mut ops: Vec<_> = starts
            .map(|offset| Op::Clone {
                from: then.ino,
                as_of: AsOf::At(at),
                from_offset: offset,
                ino,
                offset,
                len: CLONE_BYTES.min(then.size - offset),
                time,
            })
            .collect();
        // A hole at the end is cloned as nothing: the size says that it is there.
        let set = SetAttr { size: Some(then.size), ..self.attributes(then) };
        ops.push(Op::SetAttr { ino, set, time });
        ops
    }

    /// Mode, owner and times of then. Only root gives away set-user-id and set-group-id.
    fn attributes(&self, then: &Attr) -> SetAttr {
        let mode = match self.caller.uid {
            0 => then.mode,
            _ if then.kind == FileKind::Directory => then.mode,
            _ => then.mode & !0o6000,
        };
        let gid = (self.caller.uid == 0 || self.caller.gid == then.gid).then_some(then.gid);
        SetAttr {
            // The mode of a symbolic link cannot be set.
            mode: (then.kind != FileKind::Symlink).then_some(mode),
            uid: (self.caller.uid == 0).then_some(then.uid),
            gid,
            atime: Some(then.atime),
            mtime: Some(then.mtime),
            ..SetAttr::default()
        }
    }

    /// The ops that make the extended attributes of `ino` those of then.
    fn xattrs_of(
        &self,
        then: &Attr,
        at: Stamp,
        ino: Ino,
        now: Option<&Attr>,
    ) -> Result<Vec<Op>, End> {
        let wanted = self.xattrs(then.ino, AsOf::At(at))?;
        let present = match now {
            Some(now) => self.xattrs(now.ino, AsOf::Now)?,
            None => Default::default(),
        };
        let time = self.client.clock().time();
        let gone = present
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .map(|name| Op::RemoveXattr { ino, name: name.clone(), time });
        let set = wanted
            .iter()
            .filter(|(name, value)| present.get(*name) != Some(value))
            .filter(|(name, _)| self.caller.uid == 0 || name.starts_with(b"user."))
            .map(|(name, value)| {
                let (name, value) = (name.clone(), value.clone());
                Op::SetXattr { ino, name, value, how: XattrHow::Set, time }
            });
        Ok(gone.chain(set).collect())
    }
}

/// The directory of a spot.
fn parent(made: &Made, spot: &Spot) -> Result<Ino, FsError> {
    match &spot.parent {
        Parent::Now(dir) => Ok(*dir),
        Parent::Made(path) => made.dirs.get(path).copied().ok_or(FsError::NotFound),
        Parent::Nothing => Err(FsError::Invalid("the root of the mount is always there")),
    }
}

/// What the kernel remembers of a name and its directory.
fn changed_in(dir: Ino, name: &Bytes) -> [Invalidate; 2] {
    [Invalidate::Entry { dir, name: name.clone() }, Invalidate::Inode(dir)]
}

/// The line for a step; none for one that only completes another.
fn told(step: &Step, made: &HashSet<Vec<u8>>) -> Option<ChangeRow> {
    let row = |spot: &Spot, kind, then: Option<&Attr>, now: Option<&Attr>| ChangeRow {
        path: Raw(spot.path.clone()),
        kind,
        file: then.or(now).map_or(FileKind::File, |attr| attr.kind),
        before: None,
        size_before: now.map(content_size),
        size_after: then.map(content_size),
    };
    match step {
        Step::Remove { spot, now } => Some(row(spot, ChangeKind::Removed, None, Some(now))),
        Step::Make { spot, then } => Some(row(spot, ChangeKind::Added, Some(then), None)),
        Step::Contents { spot, then, now } => {
            Some(row(spot, ChangeKind::Changed, Some(then), Some(now)))
        }
        Step::Attributes { spot, then, now } => {
            let completes = made.contains(&spot.path);
            (!completes).then(|| row(spot, ChangeKind::Attributes, Some(then), Some(now)))
        }
    }
}
