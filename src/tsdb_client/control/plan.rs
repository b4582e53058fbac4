//! What a restore has to do: the tree of then is compared with the tree of now.
//!
//! A plan is a list of steps in an order in which they can be done: what is in the way goes first, directories come before
//! what is in them. Not here: doing it (`restore`).

use crate::tsdb_client::control::End;
use crate::tsdb_client::control::Job;
use crate::tsdb_client::control::diff::Listing;
use crate::tsdb_client::control::diff::join;
use crate::tsdb_client::control::refuse;
use crate::tsdb_client::permission::SEARCH;
use crate::tsdb_client::permission::WRITE;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::Ino;
use crate::types::Stamp;
use crate::wire::control::FailureKind;
use crate::wire::control::Raw;
use bytes::Bytes;

/// Where something goes: in a directory that is there, or in one that an earlier step makes.
#[derive(Clone)]
pub(super) struct Spot {
    /// Relative to what is restored.
    pub(super) path: Vec<u8>,
    pub(super) parent: Parent,
    pub(super) name: Bytes,
}

#[derive(Clone)]
pub(super) enum Parent {
    Now(Ino),
    /// Made by the step for this path.
    Made(Vec<u8>),
    /// The root of the mount, which has no name to be restored under.
    Nothing,
}

/// One thing to be done.
pub(super) enum Step {
    /// Remove what is there now; directories are empty by then.
    Remove { spot: Spot, now: Attr },
    /// Make what is not there now.
    Make { spot: Spot, then: Attr },
    /// Give the file that is there now its contents and attributes of then.
    Contents { spot: Spot, then: Attr, now: Attr },
    /// Give what is there now its attributes of then.
    Attributes { spot: Spot, then: Attr, now: Attr },
}

impl Step {
    /// It may be done together with others: nothing of it is asked for before.
    pub(super) fn waits(&self) -> bool {
        match self {
            Step::Make { then, .. } => then.kind == FileKind::File,
            Step::Contents { .. } => true,
            Step::Remove { .. } | Step::Attributes { .. } => false,
        }
    }

    /// The path that it makes.
    pub(super) fn makes(&self) -> Option<Vec<u8>> {
        match self {
            Step::Make { spot, .. } => Some(spot.path.clone()),
            _ => None,
        }
    }
}

/// What is restored and as of when.
pub(super) struct Plan {
    pub(super) at: Stamp,
    /// Whether names that did not exist then are removed.
    pub(super) remove: bool,
    pub(super) steps: Vec<Step>,
}

impl Job<'_> {
    /// Adds what has to be done for one path and everything under it.
    pub(super) fn plan(
        &mut self,
        plan: &mut Plan,
        spot: Spot,
        then: &Attr,
        now: Option<&Attr>,
    ) -> Result<(), End> {
        self.progress("planning", plan.steps.len() as u64, None, "changes")?;
        let now = match now {
            Some(now) if now.kind != then.kind => {
                self.plan_removal(plan, spot.clone(), now)?;
                None
            }
            now => now,
        };
        self.allowed(&spot, then, now)?;
        let Some(now) = now else {
            plan.steps.push(Step::Make { spot: spot.clone(), then: then.clone() });
            if then.kind == FileKind::Directory {
                let parent = Parent::Made(spot.path.clone());
                self.plan_children(plan, &spot, parent, then, Listing::new())?;
                // Last, because filling it changed its times.
                let (then, now) = (then.clone(), then.clone());
                plan.steps.push(Step::Attributes { spot, then, now });
            }
            return Ok(());
        };
        let then_at = AsOf::At(plan.at);
        match then.kind {
            FileKind::Directory => {
                let listed = self.list(now.ino, AsOf::Now)?;
                let before = plan.steps.len();
                self.plan_children(plan, &spot, Parent::Now(now.ino), then, listed)?;
                if plan.steps.len() > before || self.attributes_differ(then, now, then_at)? {
                    plan.steps.push(Step::Attributes {
                        spot,
                        then: then.clone(),
                        now: now.clone(),
                    });
                }
            }
            FileKind::File
                if then.size != now.size || !self.same_bytes(then, now, then_at, AsOf::Now)? =>
            {
                plan.steps.push(Step::Contents { spot, then: then.clone(), now: now.clone() });
            }
            FileKind::Symlink
                if self.client.readlink(then.ino, then_at)?
                    != self.client.readlink(now.ino, AsOf::Now)? =>
            {
                plan.steps.push(Step::Remove { spot: spot.clone(), now: now.clone() });
                plan.steps.push(Step::Make { spot, then: then.clone() });
            }
            _ if self.attributes_differ(then, now, then_at)? => {
                plan.steps.push(Step::Attributes { spot, then: then.clone(), now: now.clone() });
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn plan_children(
        &mut self,
        plan: &mut Plan,
        spot: &Spot,
        parent: Parent,
        then: &Attr,
        mut listed: Listing,
    ) -> Result<(), End> {
        let child = |name: &[u8]| Spot {
            path: join(&spot.path, name),
            parent: parent.clone(),
            name: Bytes::copy_from_slice(name),
        };
        let wanted = self.list(then.ino, AsOf::At(plan.at))?;
        if plan.remove {
            for (name, now) in listed.extract_if(.., |name, _| !wanted.contains_key(name)) {
                self.plan_removal(plan, child(&name), &now)?;
            }
        }
        for (name, then) in &wanted {
            self.plan(plan, child(name), then, listed.get(name))?;
        }
        Ok(())
    }

    pub(super) fn plan_removal(
        &mut self,
        plan: &mut Plan,
        spot: Spot,
        now: &Attr,
    ) -> Result<(), End> {
        self.allowed(&spot, now, Some(now))?;
        if now.kind == FileKind::Directory {
            for (name, below) in self.list(now.ino, AsOf::Now)? {
                let path = join(&spot.path, &name);
                let spot = Spot { path, parent: Parent::Now(now.ino), name: name.into() };
                self.plan_removal(plan, spot, &below)?;
            }
        }
        plan.steps.push(Step::Remove { spot, now: now.clone() });
        Ok(())
    }

    /// Root may restore anything. Anybody else: what was theirs then and is theirs now, where they may write.
    pub(super) fn allowed(&self, spot: &Spot, then: &Attr, now: Option<&Attr>) -> Result<(), End> {
        let uid = self.caller.uid;
        if uid == 0 {
            return Ok(());
        }
        let shown = Raw(if spot.path.is_empty() { spot.name.to_vec() } else { spot.path.clone() });
        if then.uid != uid || now.is_some_and(|now| now.uid != uid) {
            return refuse(FailureKind::Denied, format!("\"{shown}\" is not yours to restore"));
        }
        match spot.parent {
            Parent::Now(dir) => {
                self.need(&self.client.getattr(dir, AsOf::Now)?, WRITE | SEARCH, &shown)
            }
            Parent::Made(_) | Parent::Nothing => Ok(()),
        }
    }

    pub(super) fn attributes_differ(
        &self,
        then: &Attr,
        now: &Attr,
        then_at: AsOf,
    ) -> Result<bool, End> {
        let told = |attr: &Attr| (attr.mode, attr.uid, attr.gid, attr.mtime);
        Ok(told(then) != told(now)
            || self.xattrs(then.ino, then_at)? != self.xattrs(now.ino, AsOf::Now)?)
    }
}
