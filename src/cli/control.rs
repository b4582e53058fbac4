//! Asking a mount: finds the mount that a path is in, opens the control file of the nearest directory, writes a
//! request and reads the answers.
//!
//! Not here: what is asked and how answers are shown (each command), what they mean (`wire::control`).

use crate::cli::output::Output;
use crate::cli::when;
use crate::fuse::mount;
use crate::fuse::mount::table;
use crate::wire::control::Answer;
use crate::wire::control::Ask;
use crate::wire::control::Done;
use crate::wire::control::Failure;
use crate::wire::control::Raw;
use crate::wire::control::Request;
use anyhow::Context as _;
use anyhow::anyhow;
use anyhow::bail;
use jiff::tz::TimeZone;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::ErrorKind;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

/// The hidden name that every directory of a mount has.
const HIDDEN: &str = ".tsfs";
const CONTROL: &str = "control";

/// A path in a mount: the control file of a directory at or above it, and the rest of the way.
#[derive(Debug)]
pub(super) struct Place {
    control: File,
    /// Relative to the control file's directory; empty for that directory itself.
    pub(super) path: Raw,
    /// As the user wrote it.
    pub(super) given: PathBuf,
}

impl Place {
    /// Where the path is. It need not exist (any more), but must lie in a mount. A last component that is a
    /// symbolic link stands for the link, not for where it leads.
    ///
    /// # Errors
    /// A sentence for a path that is outside, in the past, or in a mount whose process is gone.
    pub(super) fn find(given: &Path) -> anyhow::Result<Place> {
        let whole = resolve(given)?;
        if whole.components().any(|part| part.as_os_str() == HIDDEN) {
            bail!(
                "{} is in the past already; name the path as it is now, and the instant with an option",
                given.display()
            );
        }
        // A name is asked of the directory that holds it; only a mount's root, which has none, of itself.
        if let (Some(parent), Some(name)) = (whole.parent(), whole.file_name())
            && !is_mount_point(parent, &whole)
            && let Some(control) = open(parent)?
        {
            return Ok(Place::new(control, name.as_bytes(), given));
        }
        if let Some(control) = open(&whole)? {
            return Ok(Place::new(control, b"", given));
        }
        // Directories that were deleted: the nearest one that still stands knows the way.
        let standing = whole.ancestors().skip(1).find(|dir| dir.symlink_metadata().is_ok());
        if let Some(dir) = standing
            && let Some(control) = open(dir)?
        {
            let rest = whole.strip_prefix(dir).expect("an ancestor is a prefix");
            return Ok(Place::new(control, rest.as_os_str().as_bytes(), given));
        }
        // A mount without a control file shows the past alone.
        if table::all()?.iter().any(|row| row.kind == mount::KIND && whole.starts_with(&row.at)) {
            bail!(
                "{} is in a mount of the past (-o at=), which only shows its instant; ask a mount of the present",
                given.display()
            );
        }
        bail!(
            "{} is not in a tsfs mount; name a path inside one, or mount a store with 'tsfs mount'",
            given.display()
        )
    }

    fn new(control: File, path: &[u8], given: &Path) -> Place {
        Place { control, path: Raw(path.to_vec()), given: given.to_owned() }
    }

    /// Asks, shows progress, and hands every other line to `each`.
    ///
    /// # Errors
    /// The mount's own sentence; or why it could not be asked.
    pub(super) fn ask(
        &mut self,
        ask: Ask,
        out: &Output,
        mut each: impl FnMut(Answer) -> anyhow::Result<()>,
    ) -> anyhow::Result<Done> {
        let mut request = Request::new(ask).encode();
        request.push(b'\n');
        self.control.write_all(&request).with_context(|| self.cannot_ask())?;
        for line in BufReader::new(&self.control).split(b'\n') {
            let line = line.with_context(|| self.cannot_ask())?;
            // The mount's way of saying that it is still at it.
            if line.is_empty() {
                continue;
            }
            match Answer::decode(&line)? {
                Answer::Progress(progress) => out.progress(&progress),
                Answer::Error(failure) => {
                    out.clear();
                    let message = said(&failure);
                    if self.given == Path::new(".") {
                        bail!("{message}");
                    }
                    return Err(anyhow!("{}: {message}", self.given.display()));
                }
                Answer::Done(done) => {
                    out.clear();
                    for note in &done.notes {
                        out.note(note);
                    }
                    return Ok(done);
                }
                answer => each(answer)?,
            }
        }
        bail!("the mount ended before it had answered; what was asked may be done in part")
    }

    fn cannot_ask(&self) -> String {
        format!("cannot ask the mount of {}", self.given.display())
    }
}

/// What went wrong, with instants in the user's time zone.
fn said(failure: &Failure) -> String {
    let Some((asked, oldest)) = failure.horizon else { return failure.message.clone() };
    let zone = TimeZone::system();
    format!(
        "{} is before the oldest instant kept, {}",
        when::show(asked, &zone),
        when::show(oldest, &zone)
    )
}

/// Whether something is mounted at `path`, which is in `parent`: then nothing in the parent knows of it.
fn is_mount_point(parent: &Path, path: &Path) -> bool {
    let device = |path: &Path| path.symlink_metadata().map(|metadata| metadata.dev()).ok();
    matches!((device(parent), device(path)), (Some(outer), Some(inner)) if outer != inner)
}

/// The control file of a directory, or `None` where there is none.
fn open(dir: &Path) -> anyhow::Result<Option<File>> {
    let path = dir.join(HIDDEN).join(CONTROL);
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(explained(error, dir)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// A mount whose process is gone gets its own sentence: "transport endpoint is not connected" tells nobody anything.
pub(super) fn explained(error: io::Error, path: &Path) -> anyhow::Error {
    if error.kind() == ErrorKind::NotConnected {
        return anyhow!(
            "the process behind the mount of {} is gone; mount the store again, or clean up with 'tsfs umount'",
            path.display()
        );
    }
    if error.kind() == ErrorKind::ReadOnlyFilesystem {
        return anyhow!(
            "{} is mounted read-only, and a command writes its question into the mount; look into .tsfs with ordinary \
             tools, or mount it without 'ro'",
            path.display()
        );
    }
    anyhow::Error::new(error).context(path.display().to_string())
}

/// An absolute path without links in it, but for the last name; what does not exist is taken as written.
fn resolve(given: &Path) -> anyhow::Result<PathBuf> {
    if given.as_os_str().is_empty() {
        bail!("an empty path names nothing");
    }
    // `dir/`, `.` and `..` stand for the directory itself, whatever name leads there.
    let bytes = given.as_os_str().as_bytes();
    let names_dir = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
    let name = match given.components().next_back() {
        Some(Component::Normal(name)) if !names_dir => name,
        _ => return canonical(given),
    };
    let parent = match given.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(canonical(parent)?.join(name))
}

/// The canonical form of what exists of a path, and the rest as written.
///
/// # Errors
/// A sentence for what may not be looked at.
pub(super) fn canonical(path: &Path) -> anyhow::Result<PathBuf> {
    match path.canonicalize() {
        Ok(path) => return Ok(path),
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(explained(error, path)),
    }
    let Some(name) = path.file_name() else {
        bail!("{} does not exist", path.display());
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(canonical(parent)?.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_resolve_though_their_ends_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let resolved = |path: &str| resolve(&root.join(path)).unwrap();
        assert_eq!(resolved("link"), root.join("link"), "the link itself");
        assert_eq!(resolved("link/"), root.join("real"));
        assert_eq!(resolved("link/."), root.join("real"));
        assert_eq!(resolved("link/gone/file"), root.join("real/gone/file"));
        assert_eq!(resolved("real/.."), root);
        assert!(resolve(&root.join("gone/..")).is_err());
        assert!(resolve(Path::new("")).is_err());
    }

    #[test]
    fn a_path_outside_says_so() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["", "file", "gone/file"] {
            let fault = Place::find(&dir.path().join(path)).unwrap_err().to_string();
            assert!(fault.contains("not in a tsfs mount"), "{fault}");
        }
        let fault = Place::find(&dir.path().join(".tsfs/at/now/file")).unwrap_err().to_string();
        assert!(fault.contains("in the past already"), "{fault}");
    }
}
