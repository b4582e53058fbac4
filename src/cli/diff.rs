//! `tsfs diff`: what changed under a directory between two instants, or between two versions of a file.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::TIME_HELP;
use crate::cli::control::Place;
use crate::cli::output;
use crate::cli::output::count;
use crate::cli::when;
use crate::tsdb_config::unit;
use crate::types::FileKind;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use crate::wire::control::ChangeKind;
use crate::wire::control::ChangeRow;
use crate::wire::control::Side;
use serde::Serialize;
use similar::TextDiff;
use similar::udiff::UnifiedHunkHeader;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

/// Larger contents are not compared line by line. In bytes.
const CONTENTS_BYTES_MAX: u64 = 16 << 20;

const EXAMPLES: &str = "\
Examples:
  tsfs diff . --from -2h                   what changed below here in the last two hours
  tsfs diff src --from mark:release --to yesterday
  tsfs diff notes.txt --from 2026-11-20    the lines that changed in a file since then

Each path is marked:  + added  - removed  ~ contents  a attributes  > renamed  ! another kind of file";

/// Show what changed between two instants
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{TIME_HELP}"))]
pub(super) struct Args {
    /// A file or directory in a mount
    path: PathBuf,
    /// The earlier instant
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: String,
    /// The later instant
    #[arg(long, value_name = "TIME", default_value = "now", allow_hyphen_values = true)]
    to: String,
}

/// What JSON has of a change; `restore` prints the same.
#[derive(Serialize)]
pub(super) struct Row {
    path: String,
    change: ChangeKind,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    size_before: Option<u64>,
    size_after: Option<u64>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    let from = when::moment(&args.from, context)?;
    let to = when::moment(&args.to, context)?;
    let mut place = Place::find(&args.path)?;
    let ask =
        Ask::Diff { path: place.path.clone(), from, to, contents_bytes_max: CONTENTS_BYTES_MAX };
    let (mut changes, mut old, mut new, mut text) = (0, Vec::new(), Vec::new(), false);
    let mut largest = 0;
    place.ask(ask, &context.out, |answer| {
        match answer {
            Answer::Change(change) => {
                changes += 1;
                largest = largest.max(change.size_before.max(change.size_after).unwrap_or(0));
                show(&change, &args.path, context)?;
            }
            Answer::Contents { side, bytes, .. } => {
                text = true;
                match side {
                    Side::From => old.extend(bytes.0),
                    Side::To => new.extend(bytes.0),
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    if text && largest > CONTENTS_BYTES_MAX {
        // A part of the lines would look like all of them.
        context.out.say(format_args!(
            "the contents are larger than {}; compare them with diff(1) under .tsfs/at or .tsfs/versions",
            unit::show_size(CONTENTS_BYTES_MAX)
        ))?;
    } else if text && !context.out.json {
        context.out.raw(&unified(&old, &new, args))?;
    }
    if changes == 0 {
        context.out.say("no change")?;
    } else if changes > 1 {
        context.out.say(count(changes, "change"))?;
    }
    Ok(Exit::Done)
}

/// Prints one changed path. `top` is what the command was given: a file has no other name here.
pub(super) fn show(change: &ChangeRow, top: &Path, context: &Context) -> anyhow::Result<()> {
    context.out.object(&Row {
        path: output::name(change.path.as_bytes()),
        change: change.kind,
        kind: output::kind(change.file),
        before: change.before.as_ref().map(|path| output::name(path.as_bytes())),
        size_before: change.size_before,
        size_after: change.size_after,
    })?;
    let mark = match change.kind {
        ChangeKind::Added => '+',
        ChangeKind::Removed => '-',
        ChangeKind::Changed => '~',
        ChangeKind::Attributes => 'a',
        ChangeKind::Renamed => '>',
        ChangeKind::Replaced => '!',
    };
    let path = match change.path.as_bytes() {
        b"" if change.file == FileKind::Directory => ".".to_owned(),
        b"" => output::name(top.as_os_str().as_bytes()),
        path => output::name(path),
    };
    let before =
        change.before.as_ref().map(|path| format!(" (was {})", output::name(path.as_bytes())));
    let size = match change.file {
        FileKind::Directory => String::new(),
        _ => output::sizes(change.size_before, change.size_after),
    };
    let line = format!("{mark} {path}{}  {size}", before.unwrap_or_default());
    context.out.say(line.trim_end())?;
    Ok(())
}

/// The differing lines of two contents, or one line where they are not text.
fn unified(old: &[u8], new: &[u8], args: &Args) -> Vec<u8> {
    if [old, new].iter().any(|bytes| bytes.contains(&0)) {
        return b"the contents are not text\n".to_vec();
    }
    let diff = TextDiff::from_lines(old, new);
    let mut text =
        format!("--- {0} at {1}\n+++ {0} at {2}\n", args.path.display(), args.from, args.to)
            .into_bytes();
    for group in diff.grouped_ops(3) {
        text.extend(format!("{}\n", UnifiedHunkHeader::new(&group)).into_bytes());
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            text.extend(change.tag().to_string().bytes());
            text.extend(change.value());
            if change.missing_newline() {
                text.extend(b"\n\\ No newline at end of file\n");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_diff_is_a_patch() {
        let args = Args { path: "note".into(), from: "-1h".into(), to: "now".into() };
        let text = |old: &[u8], new: &[u8]| String::from_utf8(unified(old, new, &args)).unwrap();
        assert_eq!(
            text(b"a\nb\nc\n", b"a\nB\nc"),
            "--- note at -1h\n+++ note at now\n@@ -1,3 +1,3 @@\n a\n-b\n-c\n+B\n+c\n\\ No newline at end of file\n"
        );
        assert_eq!(text(b"\0", b"x"), "the contents are not text\n");
    }
}
