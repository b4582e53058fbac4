//! Writing the contents that are in a file of refused work into files of a new directory, with a list of everything.
//!
//! Bytes lie where they were written, with holes between. A file is made under its number, and gets its name at the end: of two
//! with one name the newer has it. Not here: putting anything back.

use crate::cli::Context;
use crate::cli::Exit;
use crate::cli::output;
use crate::cli::refused::OnDisk;
use crate::cli::refused::show;
use crate::cli::refused::show::Names;
use crate::cli::refused::tell;
use crate::meta::op::Op;
use crate::meta::op::Piece;
use crate::tsdb_config::unit::show_size;
use crate::types::BlockId;
use crate::types::FsError;
use crate::types::Ino;
use crate::types::frame;
use crate::wire::refused;
use crate::wire::refused::Found;
use anyhow::Context as _;
use anyhow::bail;
use bytes::Bytes;
use rustix::fs::FallocateFlags;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::BufWriter;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

/// The list, in the directory.
const LIST: &str = "refused.txt";

const ABOUT_RANGES: &str = "\
Contents, by file. Bytes lie where they were written; what lies between them was not written, and is a hole in the file here.
";

struct Extract<'a> {
    from: &'a OnDisk,
    dir: &'a Path,
    names: Names,
    /// Where contents are that an op names.
    blocks: HashMap<BlockId, u64>,
    /// What was written to each file that was made: start to end.
    written: BTreeMap<Ino, BTreeMap<u64, u64>>,
    list: BufWriter<File>,
    bytes: u64,
    damages: Vec<String>,
}

pub(super) fn run(from: &OnDisk, dir: &Path, context: &Context) -> anyhow::Result<Exit> {
    let mut reader = from.reader()?;
    make(dir)?;
    let list = new_file(&dir.join(LIST))?;
    let mut extract = Extract {
        from,
        dir,
        names: Names::default(),
        blocks: HashMap::new(),
        written: BTreeMap::new(),
        list: BufWriter::new(list),
        bytes: 0,
        damages: Vec::new(),
    };
    while let Some(found) = reader.next_found()? {
        extract.take(found, context)?;
    }
    let files = extract.written.len() as u64;
    extract.finish()?;
    for damage in &extract.damages {
        tell(damage, context)?;
    }
    let (bytes, damages) = (extract.bytes, extract.damages.len());
    context.out.object(&serde_json::json!({ "files": files, "bytes": bytes, "dir": dir }))?;
    context.out.say(format_args!(
        "{} with {} are in {}; {} there lists their ranges and every other change",
        output::count(files, "file"),
        show_size(bytes),
        dir.display(),
        LIST
    ))?;
    Ok(if damages == 0 { Exit::Done } else { Exit::NotDone })
}

/// A directory with nothing in it: nothing is written over.
fn make(dir: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot make {}", dir.display());
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => bail!(
                "{} is not empty, and nothing is overwritten; name a new directory",
                dir.display()
            ),
        },
        Err(_) => DirBuilder::new().mode(0o700).create(dir).with_context(cannot),
    }
}

fn new_file(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.with_context(|| format!("cannot make {}", path.display()))
}

impl Extract<'_> {
    fn take(&mut self, found: Found, context: &Context) -> anyhow::Result<()> {
        match found {
            Found::Head(head) => {
                for line in show::head(&head, &context.zone) {
                    writeln!(self.list, "{line}")?;
                }
                writeln!(self.list)?;
            }
            Found::Names(names) => self.names.add(names),
            Found::Block { block, at, .. } => drop(self.blocks.insert(block, at)),
            Found::Damage(damage) => self.damaged(show::damage(&damage))?,
            Found::Batch { sent, batch } => {
                writeln!(self.list, "{}", show::batch(sent, &batch))?;
                let lines = show::ops(sent, &batch, &mut self.names, &context.zone);
                for (op, line) in batch.ops.iter().zip(lines) {
                    writeln!(self.list, "{}", line.line())?;
                    // A file that cannot be made so large, say, costs none of the others.
                    if let Err(error) = self.apply(op) {
                        self.damaged(format!("not extracted:{}: {error:#}", line.line()))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn damaged(&mut self, what: String) -> anyhow::Result<()> {
        writeln!(self.list, "{what}")?;
        self.damages.push(what);
        Ok(())
    }

    /// What an op does to contents that are here.
    fn apply(&mut self, op: &Op) -> anyhow::Result<()> {
        match op {
            Op::Write { ino, offset, pieces, .. } => {
                let mut at = *offset;
                for piece in pieces {
                    match self.piece(piece) {
                        Ok(bytes) => self.write(*ino, at, &bytes)?,
                        Err(error) => {
                            let (path, len) = (self.names.of(*ino), piece.len());
                            let path = String::from_utf8_lossy(&path).into_owned();
                            self.damaged(format!("{len} bytes at {at} of {path}: {error}"))?;
                        }
                    }
                    at += u64::from(piece.len());
                }
            }
            Op::Zero { ino, offset, len, extend, .. } => {
                if let Some(file) = self.known(*ino)? {
                    let end = offset.saturating_add(*len);
                    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(&file, flags, *offset, (*len).max(1))?;
                    if *extend && file.metadata()?.len() < end {
                        file.set_len(end)?;
                    }
                    self.cut(*ino, *offset, end);
                }
            }
            Op::SetAttr { ino, set, .. } => {
                if let (Some(size), Some(file)) = (set.size, self.known(*ino)?) {
                    file.set_len(size)?;
                    self.cut(*ino, size, u64::MAX);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn piece(&self, piece: &Piece) -> Result<Bytes, FsError> {
        let bytes = match piece {
            Piece::Inline(bytes) => return Ok(bytes.clone()),
            Piece::Payload { frame, .. } => frame::unpack(frame)?,
            Piece::Block { block, .. } => match self.blocks.get(block) {
                Some(at) => refused::contents(self.from, *at)?,
                None => return Err(FsError::Damaged(format!("block {block} is missing"))),
            },
        };
        if bytes.len() as u64 != u64::from(piece.len()) {
            return Err(FsError::Damaged("they are of another length".to_owned()));
        }
        Ok(bytes)
    }

    fn made(&self, ino: Ino) -> PathBuf {
        self.dir.join(OsStr::from_bytes(&show::number(ino)))
    }

    /// The file of an inode of which contents are here.
    fn known(&self, ino: Ino) -> anyhow::Result<Option<File>> {
        if !self.written.contains_key(&ino) {
            return Ok(None);
        }
        let path = self.made(ino);
        let file = OpenOptions::new().write(true).open(&path);
        file.map(Some).with_context(|| format!("cannot open {}", path.display()))
    }

    fn write(&mut self, ino: Ino, at: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let file = match self.known(ino)? {
            Some(file) => file,
            None => {
                let file = new_file(&self.made(ino))?;
                // It is there from now on, also if this cannot be written to it.
                self.written.insert(ino, BTreeMap::new());
                file
            }
        };
        file.write_all_at(bytes, at).with_context(|| format!("cannot write inode {ino}"))?;
        let (mut start, mut end) = (at, at + bytes.len() as u64);
        self.bytes += end - start;
        // What it meets or touches becomes one range.
        let ranges = self.written.entry(ino).or_default();
        while let Some((&from, &to)) =
            ranges.range(..=end).next_back().filter(|(_, to)| **to >= start)
        {
            ranges.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        ranges.insert(start, end);
        Ok(())
    }

    /// `start..end` is not written any more.
    fn cut(&mut self, ino: Ino, start: u64, end: u64) {
        let Some(ranges) = self.written.get_mut(&ino) else { return };
        while let Some((&from, &to)) =
            ranges.range(..end).next_back().filter(|(_, to)| **to > start)
        {
            ranges.remove(&from);
            if to > end {
                ranges.insert(end, to);
            }
            if from < start {
                ranges.insert(from, start);
            }
        }
    }

    /// Gives the files their names, and ends the list.
    fn finish(&mut self) -> anyhow::Result<()> {
        write!(self.list, "\n{ABOUT_RANGES}")?;
        let written = std::mem::take(&mut self.written);
        for (ino, ranges) in written.iter().rev() {
            let path = self.name(*ino);
            writeln!(self.list, "{} (inode {ino})", output::name(path.as_os_str().as_bytes()))?;
            for (start, end) in ranges {
                writeln!(self.list, "  {} bytes from {start} to before {end}", end - start)?;
            }
        }
        self.list.flush()?;
        Ok(())
    }

    /// Moves a file to where its name says, if it has one that can be had; where it is then, in the directory.
    fn name(&self, ino: Ino) -> PathBuf {
        let (number, path) = (show::number(ino), self.names.of(ino));
        if path == number {
            return PathBuf::from(OsStr::from_bytes(&number));
        }
        let beside = [&path[..], b".", &number].concat();
        for path in [path, beside] {
            let fits = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
            if !path.split(|byte| *byte == b'/').all(fits) {
                continue;
            }
            let path = PathBuf::from(OsStr::from_bytes(&path));
            if self.move_to(ino, &self.dir.join(&path)).is_ok() {
                return path;
            }
        }
        PathBuf::from(OsStr::from_bytes(&number))
    }

    fn move_to(&self, ino: Ino, to: &Path) -> std::io::Result<()> {
        if let Some(parent) = to.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        Ok(rustix::fs::renameat_with(rustix::fs::CWD, self.made(ino), rustix::fs::CWD, to, flags)?)
    }
}
