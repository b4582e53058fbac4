//! Refused work in words: a line for each change.
//!
//! Not here: what it is read from.

use crate::cli::output;
use crate::cli::when;
use crate::meta::op::Batch;
use crate::meta::op::Op;
use crate::meta::op::Piece;
use crate::meta::op::SetAttr;
use crate::tsdb_config::unit::show_size;
use crate::types::Ino;
use crate::types::Stamp;
use crate::types::Time;
use crate::wire::control::Raw;
use crate::wire::refused::Damage;
use crate::wire::refused::Head;
use crate::wire::refused::Named;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::collections::HashMap;

/// Where inodes are, as far as the file tells. No path begins with `/`.
#[derive(Default)]
pub(super) struct Names(HashMap<Ino, Vec<u8>>);

impl Names {
    pub(super) fn add(&mut self, named: Vec<Named>) {
        for Named { ino, under, path } in named {
            self.0.insert(ino, below(under, &path));
        }
    }

    /// What an op tells, where nobody knew better.
    fn learn(&mut self, op: &Op) {
        if let Op::Create { dir, name, ino, .. } | Op::Link { dir, name, ino, .. } = op {
            let path = self.entry(*dir, name);
            self.0.entry(*ino).or_insert(path);
        }
    }

    pub(super) fn of(&self, ino: Ino) -> Vec<u8> {
        match self.0.get(&ino) {
            _ if ino == Ino::ROOT => Vec::new(),
            Some(path) => path.clone(),
            None => number(ino),
        }
    }

    fn entry(&self, dir: Ino, name: &[u8]) -> Vec<u8> {
        let dir = self.of(dir);
        if dir.is_empty() { name.to_vec() } else { [&dir, &b"/"[..], name].concat() }
    }
}

/// What an inode is called that has no name here.
pub(super) fn number(ino: Ino) -> Vec<u8> {
    format!("inode-{ino}").into_bytes()
}

fn below(under: Ino, path: &[u8]) -> Vec<u8> {
    if under == Ino::ROOT { path.to_vec() } else { [&number(under), &b"/"[..], path].concat() }
}

pub(super) fn head(head: &Head, zone: &TimeZone) -> [String; 4] {
    [
        format!(
            "store     {}, {} mounted at {}",
            head.store,
            output::name(head.source.as_bytes()),
            output::name(head.client.as_bytes())
        ),
        format!("session   {}, from {}", head.session.0, when::show(head.opened, zone)),
        format!(
            "refused   {}: {}",
            when::show(head.saved, zone),
            output::name(head.why.as_bytes())
        ),
        format!("applied   every batch up to {}", head.applied.0),
    ]
}

/// What is known of a batch.
pub(super) fn batch(sent: bool, batch: &Batch) -> String {
    let state = match (sent, &batch.direct) {
        (true, None) => "sent, and nobody knows whether the store has it: compare",
        (false, None) => "never sent: the store does not have it",
        (true, Some(_)) => {
            "sent; its program was told that it failed, but nobody knows whether the store has it"
        }
        (false, Some(_)) => "never sent; its program was told that it failed",
    };
    format!("batch {}, {}; {state}", batch.seq.0, output::count(batch.ops.len() as u64, "change"))
}

pub(super) fn damage(damage: &Damage) -> String {
    let Damage { at, bytes, what } = damage;
    match bytes {
        0 => format!("damaged at byte {at}: {what}"),
        _ => format!("damaged, {bytes} bytes at byte {at}: {what}"),
    }
}

/// One change.
#[derive(Serialize)]
pub(super) struct Line {
    batch: u64,
    sent: bool,
    direct: bool,
    what: &'static str,
    /// Relative to the root of the store.
    path: Raw,
    ino: Option<u64>,
    offset: Option<u64>,
    size: Option<u64>,
    /// Null where the change has none of its own.
    time: Option<String>,
    /// The user.
    by: Option<u32>,
    detail: String,
}

/// The changes of a batch, in order.
pub(super) fn ops(sent: bool, batch: &Batch, names: &mut Names, zone: &TimeZone) -> Vec<Line> {
    let users = batch.by.iter().flat_map(|by| (0..by.ops).map(|_| by.uid));
    let mut users = users.map(Some).chain(std::iter::repeat(None));
    let mut lines = Vec::new();
    for op in &batch.ops {
        names.learn(op);
        let Told { what, path, size, offset, detail } = told(op, names);
        lines.push(Line {
            batch: batch.seq.0,
            sent,
            direct: batch.direct.is_some(),
            what,
            path: Raw(path),
            ino: about(op).map(Ino::get),
            offset,
            size,
            time: op.time().and_then(|time| show_time(time, zone)),
            by: users.next().flatten(),
            detail,
        });
    }
    lines
}

impl Line {
    pub(super) fn line(&self) -> String {
        let time = self.time.as_deref().unwrap_or("-");
        let size = self.size.map_or_else(|| "-".to_owned(), show_size);
        let path = output::name(self.path.as_bytes());
        let ino = self.ino.map_or_else(String::new, |ino| format!(" (inode {ino})"));
        let detail = match self.detail.as_str() {
            "" => String::new(),
            detail => format!(", {}", output::name(detail.as_bytes())),
        };
        format!("  {time}  {size:>10}  {:11}  {path}{ino}{detail}", self.what)
    }
}

fn show_time(time: Time, zone: &TimeZone) -> Option<String> {
    let secs = u64::try_from(time.secs).ok()?;
    let stamp = secs.checked_mul(1_000_000_000)?.checked_add(u64::from(time.nanos))?;
    Some(when::show(Stamp(stamp), zone))
}

/// The inode that an op is mostly about; of a name that goes nobody says which it had.
fn about(op: &Op) -> Option<Ino> {
    match op {
        Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename { .. } | Op::Yield { .. } => None,
        op => op.inos().first().copied(),
    }
}

struct Told {
    what: &'static str,
    path: Vec<u8>,
    size: Option<u64>,
    offset: Option<u64>,
    detail: String,
}

fn told(op: &Op, names: &Names) -> Told {
    let of = |what, path| Told { what, path, size: None, offset: None, detail: String::new() };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match op {
        Op::Create { dir, name, kind, mode, uid, gid, target, .. } => {
            let to =
                if target.is_empty() { String::new() } else { format!(" to {}", text(target)) };
            let detail = format!("{}{to} {mode:04o} {uid}:{gid}", output::kind(*kind));
            Told { detail, ..of("created", names.entry(*dir, name)) }
        }
        Op::Link { dir, name, .. } => of("linked", names.entry(*dir, name)),
        Op::Unlink { dir, name, .. } | Op::Rmdir { dir, name, .. } => {
            of("deleted", names.entry(*dir, name))
        }
        Op::Rename { dir, name, new_dir, new_name, .. } => {
            let detail = format!("to {}", text(&names.entry(*new_dir, new_name)));
            Told { detail, ..of("renamed", names.entry(*dir, name)) }
        }
        Op::SetAttr { ino, set, .. } => {
            Told { detail: attributes(set), size: set.size, ..of("attributes", names.of(*ino)) }
        }
        Op::Write { ino, offset, pieces, .. } => {
            let size: u64 = pieces.iter().map(Piece::len).map(u64::from).sum();
            let detail = format!("at {offset}");
            Told {
                detail,
                size: Some(size),
                offset: Some(*offset),
                ..of("contents", names.of(*ino))
            }
        }
        Op::Zero { ino, offset, len, .. } => {
            let detail = format!("at {offset}");
            Told { detail, size: Some(*len), offset: Some(*offset), ..of("zeros", names.of(*ino)) }
        }
        Op::SetXattr { ino, name, value, .. } => Told {
            detail: format!("{} set", text(name)),
            size: Some(value.len() as u64),
            ..of("attributes", names.of(*ino))
        },
        Op::RemoveXattr { ino, name, .. } => {
            Told { detail: format!("{} removed", text(name)), ..of("attributes", names.of(*ino)) }
        }
        Op::Clone { from, from_offset, ino, offset, len, .. } => Told {
            detail: format!("at {offset}, from {} at {from_offset}", text(&names.of(*from))),
            size: Some(*len),
            offset: Some(*offset),
            ..of("copied", names.of(*ino))
        },
        Op::Version { ino } => of("version", names.of(*ino)),
        Op::Release { ino } => of("closed", names.of(*ino)),
        Op::SetLocks { ino, .. } => of("locks", names.of(*ino)),
        Op::SetHistory { ino, keep, .. } => {
            let detail = if *keep { "on" } else { "off" }.to_owned();
            Told { detail, ..of("history", names.of(*ino)) }
        }
        Op::Accessed { ino, .. } => of("read", names.of(*ino)),
        Op::Yield { inos, .. } => {
            Told { detail: output::count(inos.len() as u64, "inode"), ..of("given back", vec![]) }
        }
        Op::Mark { name, .. } => of("marked", name.to_vec()),
        Op::Unmark { name } => of("unmarked", name.to_vec()),
        _ => of("of the store", Vec::new()),
    }
}

fn attributes(set: &SetAttr) -> String {
    let SetAttr { mode, uid, gid, size, atime, mtime, clear_suid } = set;
    let mut said = Vec::new();
    said.extend(mode.map(|mode| format!("mode {mode:04o}")));
    said.extend(uid.map(|uid| format!("owner {uid}")));
    said.extend(gid.map(|gid| format!("group {gid}")));
    said.extend(size.map(|size| format!("size {size}")));
    said.extend((atime.is_some() || mtime.is_some()).then(|| "times".to_owned()));
    said.extend(clear_suid.then(|| "no set-user-id".to_owned()));
    said.join(", ")
}
