//! What commands print: lines for people, or JSON, an object a line; complaints on standard error.
//!
//! Not here: colours. What is printed may be cut, sorted and fed to other programs.

use crate::tsdb_config::unit;
use crate::types::FileKind;
use crate::wire::control::Progress;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use serde::Serialize;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::io::IsTerminal;
use std::io::Write;

pub(super) struct Output {
    pub(super) json: bool,
    bar: RefCell<Option<ProgressBar>>,
}

impl Output {
    pub(super) fn new(json: bool) -> Output {
        Output { json, bar: RefCell::new(None) }
    }

    /// A line for people; nothing where JSON was asked for.
    pub(super) fn say(&self, line: impl fmt::Display) -> io::Result<()> {
        if self.json { Ok(()) } else { self.raw(format!("{line}\n").as_bytes()) }
    }

    /// An object for programs; nothing where people read.
    pub(super) fn object(&self, object: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut line = serde_json::to_vec(object)?;
        line.push(b'\n');
        self.raw(&line)
    }

    /// Bytes as they are.
    pub(super) fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        self.clear();
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    /// Something worth knowing that did not stop the work.
    pub(super) fn note(&self, note: impl fmt::Display) {
        self.clear();
        // Where standard error is gone there is nobody to tell.
        let _ = writeln!(io::stderr(), "tsfs: {note}");
    }

    /// Shows how far long work has come, where somebody watches.
    pub(super) fn progress(&self, progress: &Progress) {
        if self.json || !io::stderr().is_terminal() {
            return;
        }
        let mut bar = self.bar.borrow_mut();
        let bar = bar.get_or_insert_with(ProgressBar::no_length);
        // A bar says how much is left; where nobody knows that, it would stand still.
        let template = match progress.total {
            Some(total) => {
                bar.set_length(total);
                "{msg} {wide_bar} {percent}%"
            }
            None => "{spinner} {msg}",
        };
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.expect("the template names keys that indicatif has"));
        let done = match progress.unit.as_str() {
            "bytes" => unit::show_size(progress.done),
            unit => format!("{} {unit}", thousands(progress.done)),
        };
        bar.set_message(format!("{}: {done}", progress.doing));
        bar.set_position(progress.done);
    }

    /// Takes the progress line away, so that something else can stand there.
    pub(super) fn clear(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

/// The sentence that a failed command ends with.
pub(super) fn complain(error: &anyhow::Error) {
    // Where standard error is gone there is nobody to tell.
    let _ = writeln!(io::stderr(), "tsfs: {error:#}");
}

/// "1 file", "2 files".
pub(super) fn count(n: u64, one: &str) -> String {
    format!("{} {one}{}", thousands(n), if n == 1 { "" } else { "s" })
}

/// `1234567` as `1,234,567`.
pub(super) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}

/// "12 B", or "12 B → 3.4 KiB".
pub(super) fn sizes(before: Option<u64>, after: Option<u64>) -> String {
    match (before, after) {
        (Some(before), Some(after)) if before != after => {
            format!("{} → {}", unit::show_size(before), unit::show_size(after))
        }
        (_, Some(size)) | (Some(size), None) => unit::show_size(size),
        (None, None) => String::new(),
    }
}

/// A path or name as one line: what a terminal would act upon is escaped.
pub(super) fn name(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_shown_as_people_write_them() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(1000, "file"), "1,000 files");
        assert_eq!(sizes(Some(12), Some(2048)), "12 B → 2.0 KiB");
        assert_eq!(sizes(Some(12), Some(12)), "12 B");
        assert_eq!(name("grün".as_bytes()), "grün");
        assert_eq!(name(b"a\nb\x1b[2J\xff"), "a\\nb\\u{1b}[2J\\xff");
    }
}
