//! Names under `.tsfs`, and names in directories of the past.

use crate::fuse::history::A_MOMENT;
use crate::fuse::history::FOR_EVER;
use crate::fuse::history::History;
use crate::fuse::history::permission::Step;
use crate::fuse::history::permission::Way;
use crate::fuse::history::permission::may;
use crate::fuse::history::permission::may_walk;
use crate::fuse::history::view::Door;
use crate::fuse::history::view::Past;
use crate::fuse::history::view::View;
use crate::fuse::vfs::Answer;
use crate::fuse::vfs::Entry;
use crate::fuse::vfs::Lookup;
use crate::fuse::vfs::Request;
use crate::fuse::vfs::Stop;
use crate::tsdb_client::Deleted;
use crate::tsdb_client::FileVersion;
use crate::tsdb_client::Wait;
use crate::tsdb_client::permission::SEARCH;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use crate::types::instant;
use bytes::Bytes;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// Younger instants may not be settled yet: reading them asks for a commit, which waits.
const SETTLED_NS: u64 = 70_000_000_000;

const NOTHING: Lookup = Lookup::Missing { valid: Duration::ZERO };

impl History {
    pub(in crate::fuse) fn lookup(
        &self,
        request: &Request,
        dir: Ino,
        name: &[u8],
    ) -> Answer<Lookup> {
        let (view, way) = self.get(dir)?;
        let door = || Door::new(&view, name);
        let found = match &view {
            _ if name == b"." => Ok(self.found(&view, way, FOR_EVER)?),
            View::Hub(dir) => self.in_hub(*dir, name),
            View::At(dir) => self.in_at(request, *dir, name, door()),
            View::Versions(dir) => self.in_versions(request, *dir, name),
            View::VersionsOf(dir, file) => self.in_versions_of(request, *dir, file, name, door()),
            View::Deleted(dir) => self.in_deleted(request, *dir, name, door()),
            View::Marks(dir) => self.in_marks(request, *dir, name, door()),
            View::Control(_) => Err(FsError::NotDirectory.into()),
            View::Past(past) => self.in_past(request, past, &way, name),
        };
        match found {
            // Nothing was there then, or nothing that a name could lead to.
            Err(Stop::Error(FsError::NotFound | FsError::Stale)) => Ok(NOTHING),
            found => found,
        }
    }

    fn found(&self, view: &View, way: Way, valid: Duration) -> Result<Lookup, FsError> {
        let attr = self.attr(view)?;
        Ok(Lookup::Found(self.entry(view, attr, way, valid)))
    }

    fn in_hub(&self, dir: Ino, name: &[u8]) -> Answer<Lookup> {
        let view = match name {
            b"at" => View::At(dir),
            b"versions" => View::Versions(dir),
            b"deleted" => View::Deleted(dir),
            b"marks" => View::Marks(dir),
            b"control" => View::Control(dir),
            _ => return Ok(NOTHING),
        };
        Ok(self.found(&view, Way::default(), FOR_EVER)?)
    }

    fn in_at(&self, request: &Request, ino: Ino, name: &[u8], door: Door) -> Answer<Lookup> {
        let (at, moves) = self.instant(request, name)?;
        let attr = self.client.getattr(ino, AsOf::At(at))?;
        Ok(Lookup::Found(self.behind(door, at, moves, attr, Way::default())))
    }

    fn in_versions(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<Lookup> {
        self.versions(request, dir, name)?;
        let view = View::VersionsOf(dir, Bytes::copy_from_slice(name));
        Ok(self.found(&view, Way::default(), A_MOMENT)?)
    }

    /// Any instant will do, not only those listed.
    fn in_versions_of(
        &self,
        request: &Request,
        dir: Ino,
        file: &[u8],
        name: &[u8],
        door: Door,
    ) -> Answer<Lookup> {
        let (at, moves) = match self.instant(request, name) {
            Err(Stop::Error(error @ FsError::BeforeHorizon { .. })) => {
                (self.still_kept(request, dir, file, error)?, true)
            }
            instant => instant?,
        };
        let way = alone(dir, at);
        may_walk(&self.client, request, &way)?;
        let attr = self.client.lookup(dir, file, AsOf::At(at))?;
        Ok(Lookup::Found(self.behind(door, at, moves, attr, way)))
    }

    /// A version that began before the oldest instant and was kept: an instant at which it can be read.
    fn still_kept(
        &self,
        request: &Request,
        dir: Ino,
        file: &[u8],
        error: FsError,
    ) -> Answer<Stamp> {
        let FsError::BeforeHorizon { asked, .. } = error else { return Err(error.into()) };
        let versions = self.versions(request, dir, file)?;
        let version =
            versions.iter().find(|version| version.stamp <= asked && asked < version.until);
        let Some(version) = version else { return Err(error.into()) };
        let kept = self.client.readable()?.within(version.stamp, version.until);
        kept.ok_or_else(|| error.into())
    }

    /// What the name of an instant leads to. Another walk may read a relative one otherwise.
    fn behind(&self, door: Door, at: Stamp, moves: bool, attr: Attr, way: Way) -> Entry {
        let (past, valid) = match moves {
            true => (Past::moving(&attr, at, door), Duration::ZERO),
            false => (Past::fixed(attr.ino, at, door), FOR_EVER),
        };
        self.entry(&View::Past(past), attr, way, valid)
    }

    /// What a name was last, if there is nothing of that name now.
    fn in_deleted(&self, request: &Request, dir: Ino, name: &[u8], door: Door) -> Answer<Lookup> {
        let versions = self.versions(request, dir, name)?;
        let Some(newest) = versions.first().filter(|newest| newest.until != Stamp::MAX) else {
            return Ok(NOTHING);
        };
        let gone = Deleted {
            name: Bytes::copy_from_slice(name),
            when: newest.until,
            last: Stamp(newest.until.0 - 1),
            ino: newest.attr.ino,
            kind: newest.attr.kind,
        };
        let (past, way) = self.deleted(dir, &gone, door)?;
        may_walk(&self.client, request, &way)?;
        Ok(self.found(&View::Past(past), way, Duration::ZERO)?)
    }

    /// What is shown of something deleted, and the way to it.
    pub(super) fn deleted(
        &self,
        dir: Ino,
        gone: &Deleted,
        door: Door,
    ) -> Result<(Past, Way), FsError> {
        let at = self.client.last_whole(gone)?;
        let past = Past { gone: Some(gone.when), ..Past::fixed(gone.ino, at, door) };
        Ok((past, alone(dir, at)))
    }

    fn in_marks(&self, request: &Request, ino: Ino, name: &[u8], door: Door) -> Answer<Lookup> {
        let marks = self.client.marks()?;
        let Some(mark) = marks.iter().find(|mark| mark.name == name) else {
            return Ok(NOTHING);
        };
        self.readable(request, mark.stamp)?;
        let view = View::Past(Past::fixed(ino, mark.stamp, door));
        Ok(self.found(&view, Way::default(), Duration::ZERO)?)
    }

    fn in_past(&self, request: &Request, past: &Past, way: &Way, name: &[u8]) -> Answer<Lookup> {
        may_walk(&self.client, request, way)?;
        may(&self.client, request, past.ino, AsOf::Now, SEARCH)?;
        if name == b".." {
            let parent = self.client.parent(past.ino, AsOf::At(past.at))?;
            let view = View::Past(past.beside(parent));
            return Ok(self.found(&view, Way::default(), Duration::ZERO)?);
        }
        let valid = self.names_believed(past);
        let attr = match self.client.lookup(past.ino, name, AsOf::At(past.at)) {
            Err(FsError::NotFound) => return Ok(Lookup::Missing { valid }),
            attr => attr?,
        };
        let view = View::Past(past.below(&attr));
        Ok(Lookup::Found(self.entry(&view, attr, below(past, way), valid)))
    }

    /// How long names in a directory of the past may be believed. Where its permissions are others now, the kernel asks
    /// each time, and whoever asks is looked at; and where its instant moves on, what is there may be another version.
    pub(super) fn names_believed(&self, past: &Past) -> Duration {
        if past.moves() {
            return Duration::ZERO;
        }
        let now = self.client.getattr(past.ino, AsOf::Now);
        let then = self.client.getattr(past.ino, AsOf::At(past.at));
        match (now, then) {
            (Ok(now), Ok(then))
                if (now.mode, now.uid, now.gid) == (then.mode, then.uid, then.gid) =>
            {
                FOR_EVER
            }
            (Err(FsError::Stale | FsError::NotFound), _) => FOR_EVER,
            _ => Duration::ZERO,
        }
    }

    fn versions(&self, request: &Request, dir: Ino, name: &[u8]) -> Answer<Vec<FileVersion>> {
        if request.wait == Wait::Never {
            return Err(Stop::Waits);
        }
        Ok(self.client.file_versions(dir, name)?)
    }

    /// The instant that a name says, settled, and whether it will say another one later.
    fn instant(&self, request: &Request, name: &[u8]) -> Answer<(Stamp, bool)> {
        let text = std::str::from_utf8(name).map_err(|_| FsError::NotFound)?;
        if text == instant::NOW {
            // Not what the clock says: what was done before has its stamp only when it goes into the log.
            return match request.wait {
                Wait::Never => Err(Stop::Waits),
                Wait::Allowed => Ok((self.client.present()?, true)),
            };
        }
        let now = self.client.clock().wall();
        // Programs try names everywhere (`.git`): what is no instant is a name that is not there.
        let at = instant::parse(text, now, &self.zone).map_err(|_| FsError::NotFound)?;
        self.readable(request, at)?;
        Ok((at, instant::is_relative(text)))
    }

    fn readable(&self, request: &Request, at: Stamp) -> Answer<()> {
        let now = self.client.clock().wall();
        if request.wait == Wait::Never && at.0.saturating_add(SETTLED_NS) > now.0 {
            return Err(Stop::Waits);
        }
        Ok(self.client.now_readable(at)?)
    }
}

/// The way to something that is shown without the directory it was in.
pub(super) fn alone(dir: Ino, then: Stamp) -> Way {
    Arc::new(Some(Step { dir, then: Some(then), up: Way::default() }))
}

/// The way to what is in a directory of the past.
pub(super) fn below(past: &Past, way: &Way) -> Way {
    Arc::new(Some(Step { dir: past.ino, then: None, up: Arc::clone(way) }))
}

/// A stamp as a name: an instant in UTC to the nanosecond, which `at` takes as well.
pub(super) fn stamp_name(stamp: Stamp) -> String {
    match Timestamp::from_nanosecond(i128::from(stamp.0)) {
        Ok(timestamp) => format!("{timestamp:.9}"),
        Err(_) => stamp.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    #[test]
    fn names_of_stamps_are_read_back() {
        let stamp = Stamp(1_795_368_600_123_456_789);
        let name = stamp_name(stamp);
        assert_eq!(name, "2026-11-22T17:30:00.123456789Z");
        assert_eq!(instant::parse(&name, Stamp::ZERO, &TimeZone::UTC), Ok(stamp));
    }
}
