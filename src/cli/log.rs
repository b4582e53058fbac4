//! `tsfs log`: the versions of a file.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::control::Place;
use crate::cli::output;
use crate::cli::when;
use crate::tsdb_config::unit;
use crate::types::FileKind;
use crate::types::Stamp;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use crate::wire::control::VersionRow;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tsfs log report.txt                      each version, newest first, with the instant it began
  tsfs log -n 5 report.txt                 the last five
  tsfs log --json report.txt | jq .size
  cat .tsfs/at/2026-11-22T17:30:00.5+01:00/report.txt   the file at a printed time";

/// Print the versions of a file, newest first
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A file or directory in a mount; it may be deleted
    #[arg(value_name = "FILE")]
    path: PathBuf,
    /// Print at most so many
    #[arg(short = 'n', long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// What JSON has of a version.
#[derive(Serialize)]
struct Row<'a> {
    from: String,
    /// Null for what is there now.
    to: Option<String>,
    /// When the name was deleted or led elsewhere; null where it is there.
    gone: Option<String>,
    what: &'a [&'static str],
    kind: &'static str,
    size: u64,
    mode: String,
    uid: u32,
    gid: u32,
    /// The user who made it so; null where purge has worked off the record of it.
    by: Option<u32>,
    mtime: String,
    ino: u64,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let mut place = Place::find(&args.path)?;
    let path = place.path.clone();
    let mut newer: Option<VersionRow> = None;
    let mut shown = 0;
    let limit = args.limit.unwrap_or(usize::MAX);
    // Newest first: what a version changed is known when the one before it has come.
    let mut print = |version: &VersionRow, older: Option<&VersionRow>| {
        shown += 1;
        if shown > limit { Ok(()) } else { show(version, older, context) }
    };
    place.ask(Ask::Log { path }, &context.out, |answer| {
        if let Answer::Version(version) = answer {
            if let Some(newer) = &newer {
                print(newer, Some(&version))?;
            } else if version.named.1 != Stamp::MAX && limit > 0 {
                deleted(version.named.1, context)?;
            }
            newer = Some(version);
        }
        Ok(())
    })?;
    if let Some(oldest) = &newer {
        print(oldest, None)?;
    }
    Ok(Exit::Done)
}

fn show(version: &VersionRow, older: Option<&VersionRow>, context: &Context) -> anyhow::Result<()> {
    let what = changes(version, older);
    let from = when::show(version.from, &context.zone);
    context.out.object(&Row {
        from: from.clone(),
        to: when::show_end(version.to, &context.zone),
        gone: when::show_end(version.named.1, &context.zone),
        what: &what,
        kind: output::kind(version.kind),
        size: version.size,
        mode: format!("{:04o}", version.mode),
        uid: version.uid,
        gid: version.gid,
        by: version.by,
        mtime: show_mtime(version.mtime_ns, &context.zone),
        ino: version.ino.get(),
    })?;
    let size = match version.kind {
        FileKind::Directory => output::count(version.size, "entry").replace("entrys", "entries"),
        _ => unit::show_size(version.size),
    };
    // Whose file it is changes it mostly: told is who else did.
    let by = version.by.filter(|uid| *uid != version.uid);
    let by = by.map_or_else(String::new, |uid| format!(" by user {uid}"));
    context.out.say(format_args!(
        "{from}  {size:>10}  {:04o}  {}{by}",
        version.mode,
        what.join(", ")
    ))?;
    // A time in which the name named nothing stands between two versions.
    if let Some(older) = older.filter(|older| was_gone(older, version) && !version.begins) {
        deleted(older.named.1, context)?;
    }
    Ok(())
}

fn was_gone(older: &VersionRow, version: &VersionRow) -> bool {
    older.named.1 < version.named.0
}

fn deleted(at: Stamp, context: &Context) -> anyhow::Result<()> {
    let at = when::show(at, &context.zone);
    context.out.say(format_args!("{at}  {:>10}  {:4}  deleted", "", ""))?;
    Ok(())
}

/// In what a version differs from the one before it.
fn changes(version: &VersionRow, older: Option<&VersionRow>) -> Vec<&'static str> {
    if version.begins {
        return vec!["history begins"];
    }
    let Some(older) = older.filter(|older| !was_gone(older, version)) else {
        return vec!["created"];
    };
    if older.ino != version.ino {
        return vec!["replaced"];
    }
    let mut what = Vec::new();
    if version.mtime_ns != older.mtime_ns || version.size != older.size {
        what.push("contents");
    }
    if version.mode != older.mode {
        what.push("mode");
    }
    if (version.uid, version.gid) != (older.uid, older.gid) {
        what.push("owner");
    }
    if what.is_empty() {
        what.push("attributes");
    }
    what
}

fn show_mtime(nanos: i64, zone: &TimeZone) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanos))
        .map(|time| format!("{:.9}", time.display_with_offset(zone.to_offset(time))))
        .expect("an i64 of nanoseconds ends in the year 2262")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Ino;

    fn version(from: u64, to: u64) -> VersionRow {
        VersionRow {
            begins: false,
            named: (Stamp(from), Stamp(to)),
            from: Stamp(from),
            to: Stamp(to),
            ino: Ino::ROOT,
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 5,
            mtime_ns: 1,
            by: None,
        }
    }

    #[test]
    fn a_version_says_what_it_changed() {
        let older = version(1, 2);
        assert_eq!(changes(&version(1, 2), None), ["created"]);
        assert_eq!(changes(&version(9, 10), Some(&older)), ["created"], "it was gone from 2 to 9");
        assert_eq!(changes(&version(2, 3), Some(&older)), ["attributes"]);
        // Between them it was being written: no version, but there.
        let named = (Stamp(1), Stamp(10));
        let (older_named, rewritten) = (
            VersionRow { named, ..version(1, 2) },
            VersionRow { named, mtime_ns: 2, ..version(9, 10) },
        );
        assert_eq!(changes(&rewritten, Some(&older_named)), ["contents"]);
        let grown = VersionRow { size: 6, mode: 0o600, ..version(2, 3) };
        assert_eq!(changes(&grown, Some(&older)), ["contents", "mode"]);
        let other = VersionRow { ino: Ino::new(7).unwrap(), ..version(2, 3) };
        assert_eq!(changes(&other, Some(&older)), ["replaced"]);
    }
}
