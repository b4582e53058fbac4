//! Forgetting on request: everything before an instant, or the past of one path.
//!
//! The whole past goes by raising the horizon; the batches' own records say which versions ended before it, and
//! the log's `Purge` ops take them, a few hundred rows each. The past of one path is the same records, filtered by the
//! inodes that were ever under it.

use crate::meta::extents::Extents;
use crate::meta::key::Key;
use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::meta::record::Inode;
use crate::meta::record::Record;
use crate::series::changes;
use crate::series::changes::Event;
use crate::tsdb_client::control::End;
use crate::tsdb_client::control::Job;
use crate::tsdb_client::control::diff::optional;
use crate::tsdb_client::control::refuse;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use crate::wire::control::Answer;
use crate::wire::control::Done;
use crate::wire::control::FailureKind;
use crate::wire::control::Freed;
use crate::wire::control::Moment;
use crate::wire::control::Raw;
use bytes::Bytes;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Versions that one op forgets: well below the thousand rows that an op may touch.
const VERSIONS_PER_OP: u32 = 400;
/// Records of batches read at a time. Those of large batches have megabytes.
const RECORDS_PER_PAGE: usize = 16;
/// Keys held at a time while the past of a path is forgotten: some ops' worth.
const KEYS_HELD_MAX: usize = 2_000;
/// An estimate looks at so many ended versions, then says "at least".
const ESTIMATED_MAX: u64 = 500_000;

/// Whose past goes.
enum Scope {
    Everything,
    /// What was ever known under these inodes, and these names.
    Under(Under),
}

#[derive(Default)]
struct Under {
    inodes: HashSet<Ino>,
    /// The path itself: one name of a directory that is not under it.
    name: Option<(Ino, Bytes)>,
}

impl Under {
    fn holds(&self, key: &Key) -> bool {
        match key {
            Key::Dirent { dir, name, .. } => {
                self.inodes.contains(dir)
                    || self.name.as_ref().is_some_and(|(d, n)| d == dir && n == name)
            }
            Key::Extents { ino, .. } | Key::Inode { ino } | Key::Xattr { ino, .. } => {
                self.inodes.contains(ino)
            }
        }
    }
}

/// A walk over the batches' records, oldest first, for versions in scope that ended at or before an instant.
struct Ended<'a> {
    scope: &'a Scope,
    since: Stamp,
    before: Stamp,
    /// Records that were read and not yet looked at, as they are stored.
    page: VecDeque<(Bytes, Bytes)>,
    /// Seen so far.
    batches: u64,
}

impl Ended<'_> {
    fn new(scope: &Scope, before: Stamp) -> Ended<'_> {
        Ended { scope, since: Stamp::ZERO, before, page: VecDeque::new(), batches: 0 }
    }

    fn holds(&self, event: &Event) -> bool {
        let in_scope = match self.scope {
            Scope::Everything => true,
            Scope::Under(under) => Key::decode(&event.key).is_some_and(|key| under.holds(&key)),
        };
        event.what.ended() && event.stamp <= self.before && in_scope
    }
}

fn is_inode(key: &[u8]) -> bool {
    matches!(Key::decode(key), Some(Key::Inode { .. }))
}

/// Keys that go into one op, and how many versions of them ended.
#[derive(PartialEq, Eq, Debug)]
struct Portion {
    keys: Vec<Bytes>,
    versions: u64,
}

/// In the order of the keys, so that what lies together is forgotten together.
fn portions(ended: HashMap<Vec<u8>, u64>) -> Vec<Portion> {
    let mut ended: Vec<_> = ended.into_iter().collect();
    ended.sort_unstable();
    let mut portions: Vec<Portion> = Vec::new();
    for (key, versions) in ended {
        match portions.last_mut() {
            Some(last) if last.versions + versions <= u64::from(VERSIONS_PER_OP) => {
                last.keys.push(key.into());
                last.versions += versions;
            }
            _ => portions.push(Portion { keys: vec![key.into()], versions }),
        }
    }
    portions
}

impl Job<'_> {
    pub(super) fn purge(
        &mut self,
        before: &Moment,
        path: Option<&Raw>,
        dry_run: bool,
    ) -> Result<Done, End> {
        self.owner_only("purge history")?;
        // What programs did until now, and had not been sent yet, counts as done.
        self.client.core.settle()?;
        let present = self.client.server().barrier()?;
        let before = match before {
            Moment::Now => present,
            Moment::At(stamp) if *stamp > present => {
                return refuse(FailureKind::Invalid, "that instant is in the future");
            }
            // An instant that is gone already is no error: there is nothing before it to forget.
            Moment::At(stamp) => *stamp,
            mark => match self.instant(mark)? {
                AsOf::At(stamp) => stamp,
                AsOf::Now => present,
            },
        };
        let scope = match path {
            None => Scope::Everything,
            Some(path) => Scope::Under(self.ever_under(path)?),
        };
        let mut freed = Freed::default();
        if dry_run {
            self.count_ended(&scope, before, &mut freed)?;
            self.say(Answer::Freed(freed.clone()))?;
            return Ok(Done { changed: freed.versions, ..Done::default() });
        }
        match scope {
            Scope::Everything => self.purge_everything(before, &mut freed)?,
            scope @ Scope::Under(_) => self.purge_under(&scope, before, &mut freed)?,
        }
        self.say(Answer::Freed(freed.clone()))?;
        Ok(Done { changed: freed.versions, ..Done::default() })
    }

    /// Once the first op is in the log the horizon is raised: where the caller leaves, the node's own purge goes on.
    fn purge_everything(&mut self, before: Stamp, freed: &mut Freed) -> Result<(), End> {
        self.count_ended(&Scope::Everything, before, freed)?;
        let server = self.client.server();
        let mut ops = 0;
        loop {
            let begun = self.client.clock().steady();
            server.administer(Op::Purge { horizon: before, rows: VERSIONS_PER_OP })?;
            ops += 1;
            // What was forgotten may have left contents that nothing leads to any more; they are swept last.
            if server.changes(Stamp::ZERO, before, 1)?.rows.is_empty()
                && server.state(&StateKey::unmarked(), 1)?.rows.is_empty()
                && server.state(&StateKey::sweeps(), 1)?.rows.is_empty()
            {
                return Ok(());
            }
            let done = (ops * u64::from(VERSIONS_PER_OP)).min(freed.versions);
            self.progress("purging", done, Some(freed.versions), "versions")?;
            // As long a pause as the work took: programs that use the mount come first.
            let took = self.client.clock().steady().saturating_sub(begun);
            self.client.pause(took);
        }
    }

    /// Goes over the batches' records three times: to count, to forget inodes, to forget the rest, for contents go only where
    /// no version of their inode shows them. Each time it holds a bounded number of keys, however long the past is.
    fn purge_under(&mut self, scope: &Scope, before: Stamp, freed: &mut Freed) -> Result<(), End> {
        self.count_ended(scope, before, freed)?;
        let (total, mut done) = (freed.versions, 0);
        for inodes in [true, false] {
            let mut ended = Ended::new(scope, before);
            let mut keys: HashMap<Vec<u8>, u64> = HashMap::new();
            while let Some(events) = self.next_ended(&mut ended)? {
                for event in events.into_iter().filter(|event| is_inode(&event.key) == inodes) {
                    *keys.entry(event.key).or_default() += 1;
                }
                if keys.len() >= KEYS_HELD_MAX {
                    self.forget(std::mem::take(&mut keys), before, &mut done, total)?;
                }
            }
            self.forget(keys, before, &mut done, total)?;
        }
        Ok(())
    }

    /// Forgets what ended of these keys, as many versions of each as were met.
    fn forget(
        &mut self,
        ended: HashMap<Vec<u8>, u64>,
        before: Stamp,
        done: &mut u64,
        total: u64,
    ) -> Result<(), End> {
        for Portion { keys, versions } in portions(ended) {
            // A key may have more versions than one op forgets.
            for _ in 0..versions.div_ceil(u64::from(VERSIONS_PER_OP)) {
                let begun = self.client.clock().steady();
                self.client.server().administer(Op::Forget { keys: keys.clone(), before })?;
                let took = self.client.clock().steady().saturating_sub(begun);
                self.client.pause(took);
            }
            *done += versions;
            self.progress("purging", (*done).min(total), Some(total), "versions")?;
        }
        Ok(())
    }

    /// Counts the versions in scope, and what forgetting them frees.
    fn count_ended(&mut self, scope: &Scope, before: Stamp, freed: &mut Freed) -> Result<(), End> {
        let mut marks: Vec<_> = self.client.marks()?.iter().map(|mark| mark.stamp).collect();
        marks.sort_unstable();
        let mut ended = Ended::new(scope, before);
        while let Some(events) = self.next_ended(&mut ended)? {
            for event in &events {
                self.count(event, &marks, freed)?;
            }
        }
        Ok(())
    }

    /// The versions in scope that ended in the next batch; `None` behind the last.
    fn next_ended(&mut self, ended: &mut Ended<'_>) -> Result<Option<Vec<Event>>, End> {
        if ended.page.is_empty() {
            let server = self.client.server();
            ended.page = server.changes(ended.since, ended.before, RECORDS_PER_PAGE)?.rows.into();
            self.progress("reading what changed", ended.batches, None, "batches")?;
        }
        let Some((key, row)) = ended.page.pop_front() else { return Ok(None) };
        let record = changes::Record::decode(&key, &row)?;
        ended.since = Stamp(record.stamp.0 + 1);
        ended.batches += 1;
        Ok(Some(record.events.into_iter().filter(|event| ended.holds(event)).collect()))
    }

    /// Adds what forgetting one version frees. Above [`ESTIMATED_MAX`] only the versions are counted.
    fn count(&self, event: &Event, marks: &[Stamp], freed: &mut Freed) -> Result<(), End> {
        if freed.versions >= ESTIMATED_MAX {
            freed.versions += 1;
            freed.at_least = true;
            return Ok(());
        }
        let server = self.client.server();
        let last = Stamp(event.stamp.0 - 1);
        let Some(version) = server.versions(&event.key, last, last, 1)?.into_iter().next() else {
            // An earlier purge took it.
            return Ok(());
        };
        let mark = marks.partition_point(|mark| *mark < version.from);
        if marks.get(mark).is_some_and(|mark| *mark < version.to) {
            freed.kept_by_marks += 1;
            return Ok(());
        }
        freed.versions += 1;
        let next = server.get(&event.key, AsOf::At(version.to))?;
        match Key::decode(&event.key) {
            Some(Key::Extents { .. }) => {
                let old = Extents::from_row(&event.key, &version.value)?;
                let new = match &next {
                    Some(row) => Extents::from_row(&event.key, row)?,
                    None => Extents::default(),
                };
                let kept: HashSet<_> = new.blocks().map(|(block, _)| block).collect();
                freed.bytes += old.bytes_of_blocks(|block| !kept.contains(&block));
            }
            Some(Key::Inode { .. }) => {
                // With the last version of a generation go its contents, which no extent row of `changes` tells.
                let old = Inode::from_row(&event.key, &version.value)?;
                let next = match &next {
                    Some(row) => Some(Inode::from_row(&event.key, row)?),
                    None => None,
                };
                if next.is_none_or(|next| next.generation != old.generation) {
                    freed.bytes += old.allocated;
                }
            }
            Some(Key::Dirent { .. } | Key::Xattr { .. }) | None => {}
        }
        Ok(())
    }

    /// Every inode that was ever at or under a path, as far as the past is kept.
    fn ever_under(&mut self, path: &Raw) -> Result<Under, End> {
        let mut under = Under::default();
        let mut waiting: Vec<Attr> = Vec::new();
        if path.0.is_empty() || path.0 == b"." {
            waiting.push(self.client.getattr(self.dir, AsOf::Now)?);
        } else {
            let (dir, name) = self.named(path)?;
            waiting.extend(optional(self.client.lookup(dir, &name, AsOf::Now))?);
            match self.client.file_versions(dir, &name) {
                Ok(versions) => waiting.extend(versions.into_iter().map(|version| version.attr)),
                Err(FsError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
            if waiting.is_empty() {
                return refuse(FailureKind::NotFound, format!("\"{path}\" never was there"));
            }
            under.name = Some((dir, name));
        }
        while let Some(attr) = waiting.pop() {
            if !under.inodes.insert(attr.ino) || attr.kind != FileKind::Directory {
                continue;
            }
            self.progress("looking", under.inodes.len() as u64, None, "files")?;
            let listed = self.client.readdir(attr.ino, AsOf::Now, 0, true, &mut |entry| {
                waiting.extend(entry.attr);
                ControlFlow::Continue(())
            });
            match listed {
                // A directory that is no more has no entries now.
                Ok(()) | Err(FsError::Stale | FsError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
            for gone in self.client.deleted(attr.ino)? {
                waiting.extend(optional(self.client.getattr(gone.ino, AsOf::At(gone.last)))?);
            }
        }
        Ok(under)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::key;

    #[test]
    fn an_op_forgets_a_few_hundred_versions_or_one_key() {
        let ino = |raw| Ino::new(raw).unwrap();
        let inode = |raw| key::inode(ino(raw)).to_vec();
        let ended =
            HashMap::from([(inode(1), 1000), (inode(2), 2), (inode(3), 5), (inode(4), 400)]);
        let portion = |keys: &[Vec<u8>], versions| Portion {
            keys: keys.iter().map(|key| Bytes::copy_from_slice(key)).collect(),
            versions,
        };
        assert_eq!(
            portions(ended),
            [
                portion(&[inode(1)], 1000),
                portion(&[inode(2), inode(3)], 7),
                portion(&[inode(4)], 400),
            ]
        );
    }
}
