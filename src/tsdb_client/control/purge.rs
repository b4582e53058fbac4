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
use std::ops::ControlFlow;

/// Versions that one op forgets: well below the thousand rows that an op may touch.
const VERSIONS_PER_OP: u32 = 400;
/// Records of batches read at a time.
const RECORDS_PER_PAGE: usize = 64;
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

/// Keys that go into one op, and how many versions of them ended.
#[derive(PartialEq, Eq, Debug)]
struct Portion {
    keys: Vec<Bytes>,
    versions: u64,
}

/// Inodes come first, and not in one op with others: contents go only where no version of their inode shows them.
fn portions(ended: HashMap<Vec<u8>, u64>) -> Vec<Portion> {
    let is_inode = |key: &[u8]| matches!(Key::decode(key), Some(Key::Inode { .. }));
    let mut ended: Vec<_> = ended.into_iter().collect();
    ended.sort_unstable_by(|(a, _), (b, _)| (!is_inode(a), a).cmp(&(!is_inode(b), b)));
    let mut portions: Vec<Portion> = Vec::new();
    for (key, versions) in ended {
        match portions.last_mut() {
            Some(last)
                if last.versions + versions <= u64::from(VERSIONS_PER_OP)
                    && is_inode(&last.keys[0]) == is_inode(&key) =>
            {
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
            self.each_ended(&scope, before, &mut freed, &mut |_| Ok(()))?;
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
        self.each_ended(&Scope::Everything, before, freed, &mut |_| Ok(()))?;
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

    fn purge_under(&mut self, scope: &Scope, before: Stamp, freed: &mut Freed) -> Result<(), End> {
        let mut ended: HashMap<Vec<u8>, u64> = HashMap::new();
        self.each_ended(scope, before, freed, &mut |event| {
            *ended.entry(event.key.clone()).or_default() += 1;
            Ok(())
        })?;
        let (total, mut done) = (ended.values().sum(), 0);
        for Portion { keys, versions } in portions(ended) {
            // A key may have more versions than one op forgets.
            for _ in 0..versions.div_ceil(u64::from(VERSIONS_PER_OP)) {
                let begun = self.client.clock().steady();
                self.client.server().administer(Op::Forget { keys: keys.clone(), before })?;
                let took = self.client.clock().steady().saturating_sub(begun);
                self.client.pause(took);
            }
            done += versions;
            self.progress("purging", done, Some(total), "versions")?;
        }
        Ok(())
    }

    /// Visits the versions in scope that ended at or before an instant and that no mark keeps, and counts them.
    fn each_ended(
        &mut self,
        scope: &Scope,
        before: Stamp,
        freed: &mut Freed,
        visit: &mut dyn FnMut(&Event) -> Result<(), FsError>,
    ) -> Result<(), End> {
        let mut marks: Vec<_> = self.client.marks()?.iter().map(|mark| mark.stamp).collect();
        marks.sort_unstable();
        let mut since = Stamp::ZERO;
        loop {
            let page = self.client.server().changes(since, before, RECORDS_PER_PAGE)?;
            let Some((last, _)) = page.rows.last() else { return Ok(()) };
            since = Stamp(
                changes::Record::decode(last, &page.rows[page.rows.len() - 1].1)?.stamp.0 + 1,
            );
            for (key, row) in &page.rows {
                let record = changes::Record::decode(key, row)?;
                for event in record.events.iter().filter(|event| event.what.ended()) {
                    if event.stamp > before {
                        continue;
                    }
                    if let Scope::Under(under) = scope
                        && !Key::decode(&event.key).is_some_and(|key| under.holds(&key))
                    {
                        continue;
                    }
                    visit(event)?;
                    self.count(event, &marks, freed)?;
                }
            }
            self.progress("counting", freed.versions, None, "versions")?;
        }
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
    use crate::types::Generation;
    use crate::types::Region;

    #[test]
    fn inodes_are_forgotten_before_what_they_show() {
        let ino = |raw| Ino::new(raw).unwrap();
        let extents = |raw| key::extents(ino(raw), Generation(0), Region(0)).to_vec();
        let inode = |raw| key::inode(ino(raw)).to_vec();
        let ended = HashMap::from([
            (extents(1), 300),
            (inode(1), 1000),
            (extents(2), 100),
            (inode(2), 2),
            (inode(3), 5),
        ]);
        let portion = |keys: &[Vec<u8>], versions| Portion {
            keys: keys.iter().map(|key| Bytes::copy_from_slice(key)).collect(),
            versions,
        };
        assert_eq!(
            portions(ended),
            [
                portion(&[inode(1)], 1000),
                portion(&[inode(2), inode(3)], 7),
                portion(&[extents(1), extents(2)], 400),
            ]
        );
    }
}
