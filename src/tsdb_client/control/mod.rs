//! What commands ask of a mount: log, diff, restore, undelete, marks, purge, retention, status.
//!
//! Everything is done with the client's own calls, so a restore is an ordinary change: it makes new versions and can be
//! undone like any other. Not here: the control file (`fuse`), words and dates as people type them (`cli`).

mod diff;
mod made;
mod path;
mod plan;
mod purge;
mod restore;

use crate::meta::key::StateKey;
use crate::meta::op::Op;
use crate::meta::record::Record;
use crate::meta::record::Retention;
use crate::series::changes;
use crate::telemetry::counter;
use crate::tsdb_client::Caller;
use crate::tsdb_client::Client;
use crate::tsdb_client::FileVersion;
use crate::tsdb_client::permission::READ;
use crate::tsdb_client::permission::SEARCH;
use crate::tsdb_client::permission::WRITE;
use crate::types::AsOf;
use crate::types::Attr;
use crate::types::FileKind;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::Stamp;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use crate::wire::control::DeletedRow;
use crate::wire::control::Done;
use crate::wire::control::Failure;
use crate::wire::control::FailureKind;
use crate::wire::control::MarkRow;
use crate::wire::control::Moment;
use crate::wire::control::Progress;
use crate::wire::control::Raw;
use crate::wire::control::Request;
use crate::wire::control::VERSION;
use crate::wire::control::VersionRow;
use std::ops::ControlFlow;
use std::time::Duration;

/// At most this often is progress told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Why a request ended before it was done.
enum End {
    /// Whoever asked does not listen any more.
    Stopped,
    Failed(Failure),
}

impl From<FsError> for End {
    fn from(error: FsError) -> End {
        End::Failed((&error).into())
    }
}

fn refuse<T>(kind: FailureKind, message: impl Into<String>) -> Result<T, End> {
    Err(End::Failed(Failure::new(kind, message)))
}

fn no_mark<T>(name: &Raw) -> Result<T, End> {
    refuse(FailureKind::NotFound, format!("there is no mark \"{name}\"; 'tsfs marks' lists them"))
}

/// More stamps than one batch has.
const BATCH_STAMPS_MAX: u64 = 1 << 16;

/// How long the figures of a store wait for what was done just before.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

/// One request being worked on.
struct Job<'a> {
    client: &'a Client,
    caller: Caller,
    /// The directory whose control file was opened.
    dir: Ino,
    send: &'a mut dyn FnMut(Answer) -> ControlFlow<()>,
    told: Duration,
}

/// See [`Client::control`].
pub(super) fn answer(
    client: &Client,
    caller: Caller,
    dir: Ino,
    request: &Request,
    send: &mut dyn FnMut(Answer) -> ControlFlow<()>,
) {
    let mut job = Job { client, caller, dir, send, told: Duration::ZERO };
    let outcome = job.run(request);
    client.wait_forgotten();
    let last = match outcome {
        Ok(done) => Answer::Done(done),
        Err(End::Failed(failure)) => Answer::Error(failure),
        Err(End::Stopped) => return,
    };
    // It is the last line: whether anybody listens changes nothing.
    let _ = send(last);
}

impl Job<'_> {
    fn run(&mut self, request: &Request) -> Result<Done, End> {
        if request.version != VERSION {
            return refuse(
                FailureKind::Invalid,
                format!("the command speaks version {} and this mount {VERSION}", request.version),
            );
        }
        match &request.ask {
            Ask::Log { path } => self.log(path),
            Ask::Diff { path, from, to, contents_bytes_max } => {
                self.diff(path, from, to, *contents_bytes_max)
            }
            Ask::Restore { path, at, remove, dry_run } => self.restore(path, at, *remove, *dry_run),
            Ask::Undelete { path, at, to, dry_run } => {
                self.undelete(path, at.as_ref(), to.as_ref(), *dry_run)
            }
            Ask::Deleted { path } => self.deleted(path),
            Ask::Mark { name, note, path } => self.mark(name, note, path),
            Ask::Unmark { name } => self.unmark(name),
            Ask::Marks => self.marks(),
            Ask::Sync => self.sync(),
            Ask::Purge { before, path, dry_run } => self.purge(before, path.as_ref(), *dry_run),
            Ask::History { path, keep } => self.history(path, *keep),
            Ask::Retention { set } => self.retention(set.as_ref()),
            Ask::Status => {
                // Its figures count what was done just before; but on a full disk that may take for ever, and the answer says why.
                self.client.core.settle_within(SETTLED_WITHIN);
                let mut status = self.client.server().status()?;
                status.health.extend(self.client.core.loss_sentence());
                // Over a network it is the node that counted the rest.
                let own = counter::all().filter(|(counter, _)| counter.is_of_mount());
                status.counters.extend(own.map(|(counter, value)| (counter.name(), value)));
                self.say(Answer::Status(Box::new(status)))?;
                Ok(Done::default())
            }
        }
    }

    fn say(&mut self, answer: Answer) -> Result<(), End> {
        match (self.send)(answer) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(End::Stopped),
        }
    }

    /// Tells how far the work is, unless that was told a moment ago.
    fn progress(
        &mut self,
        doing: &str,
        done: u64,
        total: Option<u64>,
        unit: &str,
    ) -> Result<(), End> {
        let now = self.client.clock().steady();
        if now < self.told + PROGRESS_EVERY {
            return Ok(());
        }
        self.told = now;
        let (doing, unit) = (doing.to_owned(), unit.to_owned());
        self.say(Answer::Progress(Progress { doing, done, total, unit }))
    }

    /// The instant that a request names, checked to be readable.
    fn instant(&self, moment: &Moment) -> Result<AsOf, End> {
        let stamp = match moment {
            Moment::Now => return Ok(AsOf::Now),
            Moment::At(stamp) => *stamp,
            Moment::Mark(name) => {
                let marks = self.client.marks()?;
                match marks.into_iter().find(|mark| mark.name == name.as_bytes()) {
                    Some(mark) => mark.stamp,
                    None => return no_mark(name),
                }
            }
        };
        self.client.now_readable(stamp)?;
        Ok(AsOf::At(stamp))
    }

    /// What may be done by root and the owner of the mount alone.
    fn owner_only(&self, what: &str) -> Result<(), End> {
        if self.caller.uid == 0 || self.caller.uid == self.client.owner() {
            return Ok(());
        }
        refuse(FailureKind::Denied, format!("only root and the owner of the mount may {what}"))
    }

    /// As `mkdir` among the marks: it needs the right to write in a directory, for what a mark shows takes space.
    fn mark(&mut self, name: &Raw, note: &str, path: &Raw) -> Result<Done, End> {
        let dir = self.client.getattr(self.nearest(path)?, AsOf::Now)?;
        self.need(&dir, WRITE | SEARCH, path)?;
        if name.0.is_empty() {
            return refuse(FailureKind::Invalid, "a mark has a name");
        }
        match self.client.mark(self.caller, name.as_bytes(), note) {
            Err(FsError::Exists) => refuse(
                FailureKind::Exists,
                format!(
                    "there is a mark \"{name}\" already; choose another name, or remove it first"
                ),
            ),
            stamp => Ok(Done { changed: 1, stamp: Some(stamp?), notes: Vec::new() }),
        }
    }

    fn unmark(&mut self, name: &Raw) -> Result<Done, End> {
        match self.client.unmark(self.caller, name.as_bytes()) {
            Err(FsError::NotFound) => no_mark(name),
            Err(FsError::Denied) => refuse(
                FailureKind::Denied,
                format!(
                    "only root, the owner of the mount and who made the mark \"{name}\" may remove it"
                ),
            ),
            other => {
                other?;
                Ok(Done { changed: 1, ..Done::default() })
            }
        }
    }

    fn log(&mut self, path: &Raw) -> Result<Done, End> {
        let (dir, name) = self.named(path)?;
        let versions = match self.client.file_versions(dir, &name) {
            Err(FsError::NotFound) => {
                return refuse(FailureKind::NotFound, format!("\"{path}\" never was there"));
            }
            other => other?,
        };
        let oldest = self.client.readable()?.oldest;
        let mut count = 0;
        for (n, version) in versions.iter().enumerate() {
            // Who could not look into the directory then is not told now what was in it.
            if self.caller.uid != 0 {
                match self.client.getattr(dir, AsOf::At(version.stamp)) {
                    Ok(attr) if !self.caller.may(&attr, SEARCH) => continue,
                    Ok(_) | Err(FsError::NotFound | FsError::Stale) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            count += 1;
            // Where the horizon cut something off, nobody knows whether the name was there.
            let follows = versions.get(n + 1).is_some_and(|older| older.named.1 >= version.named.0);
            let begins = !follows && version.stamp < oldest;
            let by = self.who(version.stamp)?;
            self.say(Answer::Version(VersionRow { by, ..version_row(version, begins) }))?;
        }
        Ok(Done { changed: count, ..Done::default() })
    }

    fn deleted(&mut self, path: &Raw) -> Result<Done, End> {
        let dir = self.directory(path)?;
        self.need(&self.client.getattr(dir, AsOf::Now)?, READ | SEARCH, path)?;
        let gone = self.client.deleted(dir)?;
        let count = gone.len() as u64;
        for gone in gone {
            let size = match self.client.getattr(gone.ino, AsOf::At(gone.last)) {
                Ok(attr) => attr.size,
                Err(FsError::BeforeHorizon { .. } | FsError::Stale) => 0,
                Err(error) => return Err(error.into()),
            };
            self.say(Answer::Deleted(DeletedRow {
                name: Raw(gone.name.to_vec()),
                when: gone.when,
                last: gone.last,
                kind: gone.kind,
                size,
            }))?;
        }
        Ok(Done { changed: count, ..Done::default() })
    }

    fn marks(&mut self) -> Result<Done, End> {
        let marks = self.client.marks()?;
        let count = marks.len() as u64;
        for mark in marks {
            self.say(Answer::Mark(MarkRow {
                name: Raw(mark.name.to_vec()),
                stamp: mark.stamp,
                uid: mark.uid,
                note: mark.note,
            }))?;
        }
        Ok(Done { changed: count, ..Done::default() })
    }

    /// Waits, as every long request does: its thread is not one that answers the kernel.
    fn sync(&mut self) -> Result<Done, End> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        self.client.fsync(
            None,
            Box::new(move |result| {
                // The receiver waits below, whatever happens.
                let _ = tell.send(result);
            }),
        );
        told.recv().unwrap_or(Err(FsError::Closing))?;
        let stamp = self.client.server().barrier()?;
        Ok(Done { stamp: Some(stamp), ..Done::default() })
    }

    fn history(&mut self, path: &Raw, keep: Option<bool>) -> Result<Done, End> {
        let dir = self.directory(path)?;
        let Some(keep) = keep else {
            let keep = self.client.keeps_history(dir)?;
            self.say(Answer::History { keep })?;
            return Ok(Done::default());
        };
        self.owner_only("say which directories keep history")?;
        let time = self.client.clock().time();
        self.client.change_at_server(self.caller, vec![Op::SetHistory { ino: dir, keep, time }])?;
        self.say(Answer::History { keep })?;
        Ok(Done { changed: 1, ..Done::default() })
    }

    fn retention(&mut self, set: Option<&Retention>) -> Result<Done, End> {
        let server = self.client.server();
        if let Some(set) = set {
            self.owner_only("change how long history is kept")?;
            let percent = set.disk_percent;
            if percent.is_some_and(|percent| percent == 0 || percent > 95) {
                return refuse(
                    FailureKind::Invalid,
                    "the share of the disk for history is 1 to 95 percent",
                );
            }
            server.administer(Op::SetRetention { retention: set.clone() })?;
        }
        let key = StateKey::Retention.encode();
        let range = crate::series::KeyRange::prefix(&key);
        let page = server.state(&range, 1)?;
        let retention = match page.rows.first() {
            Some((key, row)) => Retention::from_row(key, row)?,
            None => Retention { age_ns: None, disk_percent: None },
        };
        self.say(Answer::Retention(retention))?;
        Ok(Done { changed: u64::from(set.is_some()), ..Done::default() })
    }

    /// The user who did what is stamped so; `None` where purge has worked off the record of it.
    fn who(&self, stamp: Stamp) -> Result<Option<u32>, FsError> {
        // The record stands under the batch's first stamp, and a batch has no more stamps than ops.
        let since = Stamp(stamp.0.saturating_sub(BATCH_STAMPS_MAX));
        let page = self.client.server().changes(since, stamp, BATCH_STAMPS_MAX as usize)?;
        let Some((key, row)) = page.rows.last() else { return Ok(None) };
        let record = changes::Record::decode(key, row)?;
        let told = record.events.iter().any(|event| event.stamp == stamp);
        Ok(record.who(stamp).filter(|_| told))
    }
}

fn version_row(version: &FileVersion, begins: bool) -> VersionRow {
    let attr = &version.attr;
    VersionRow {
        begins,
        named: version.named,
        from: version.stamp,
        to: version.until,
        ino: attr.ino,
        kind: attr.kind,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        size: attr.size,
        mtime_ns: attr
            .mtime
            .secs
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(attr.mtime.nanos)),
        by: None,
    }
}

/// A directory's size counts its entries, which says nothing about contents.
fn content_size(attr: &Attr) -> u64 {
    if attr.kind == FileKind::Directory { 0 } else { attr.size }
}
