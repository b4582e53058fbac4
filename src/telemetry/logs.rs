//! Where diagnostic logs go, and in which form.
//!
//! Not here: what is logged. An ERROR means that a human must look, a WARN that it went on regardless.

use crate::env::Clock;
use crate::env::SystemClock;
use std::fmt;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use tracing::Level;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// A log file that grows beyond this is set aside as `….1`, and the one set aside before it goes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Where to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    Stderr,
    /// Standard error with the priorities that the systemd journal reads from the start of a line.
    Journal,
    File(PathBuf),
}

/// A line for people, or a JSON object a line for programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Text,
    Json,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// As `info` or `info,tsfs::store=debug`: a level, and others for parts.
    pub filter: String,
    pub format: Format,
    pub target: Target,
}

/// Starts logging for the process, panics included. Once.
///
/// # Errors
/// A filter that cannot be read, a file that cannot be opened, or logging that was started before.
pub fn start(options: &Options) -> Result<(), String> {
    // A caller that was killed while it waited is gone when its answer comes. The crate below calls that an error; it is
    // none. Whoever wants to see it names it in the filter.
    let filter = EnvFilter::try_new(format!("fuser::reply=off,{}", options.filter))
        .map_err(|error| format!("log level '{}' is not understood: {error}", options.filter))?;
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default().to_owned();
        let trace = std::backtrace::Backtrace::capture();
        tracing::error!(thread = name, %trace, "{panic}");
    }));
    match &options.target {
        Target::Stderr => install(filter, options.format, io::stderr),
        Target::Journal => install(filter, options.format, Journal),
        Target::File(path) => {
            let file = LogFile::open(path).map_err(|error| {
                format!("cannot write the log file {}: {error}", path.display())
            })?;
            install(filter, options.format, Mutex::new(file))
        }
    }
}

fn install<W>(filter: EnvFilter, format: Format, writer: W) -> Result<(), String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let subscriber: Box<dyn Subscriber + Send + Sync> = match format {
        Format::Text => Box::new(
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_ansi(false)
                .with_timer(Rfc3339)
                .with_writer(writer)
                .finish(),
        ),
        Format::Json => Box::new(
            tracing_subscriber::fmt()
                .json()
                .with_env_filter(filter)
                .with_timer(Rfc3339)
                .with_writer(writer)
                .finish(),
        ),
    };
    use tracing_subscriber::util::SubscriberInitExt;
    subscriber.try_init().map_err(|error| error.to_string())
}

/// Times in UTC, so that logs of several machines can be laid side by side.
struct Rfc3339;

impl FormatTime for Rfc3339 {
    fn format_time(&self, line: &mut Writer<'_>) -> fmt::Result {
        let now = i128::from(SystemClock.wall().0);
        let now = jiff::Timestamp::from_nanosecond(now).map_err(|_| fmt::Error)?;
        write!(line, "{now:.6}")
    }
}

/// Lines for the systemd journal: `<3>` before an error, `<6>` before information.
struct Journal;

impl<'w> MakeWriter<'w> for Journal {
    type Writer = io::Stderr;

    fn make_writer(&'w self) -> io::Stderr {
        io::stderr()
    }

    fn make_writer_for(&'w self, meta: &tracing::Metadata<'_>) -> io::Stderr {
        let priority = match *meta.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let mut stderr = io::stderr();
        // A log that cannot be written has nowhere to say so.
        let _ = write!(stderr, "<{priority}>");
        stderr
    }
}

/// A file of bounded size.
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<LogFile> {
        let file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, bytes })
    }

    fn set_aside(&mut self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        fs::rename(&self.path, old)?;
        *self = LogFile::open(&self.path)?;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Where the file cannot be set aside, logging goes on in it: a long log beats none.
        if self.bytes + line.len() as u64 > FILE_BYTES_MAX && self.set_aside().is_err() {
            self.bytes = 0;
        }
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_stays_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tsfs.log");
        let mut log = LogFile::open(&path).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            log.write_all(&line).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() <= FILE_BYTES_MAX);
        let old = dir.path().join("tsfs.log.1");
        assert_eq!(fs::metadata(old).unwrap().len(), FILE_BYTES_MAX);
    }

    #[test]
    fn a_filter_that_cannot_be_read_says_so() {
        let options =
            Options { filter: "info,=,".to_owned(), format: Format::Text, target: Target::Stderr };
        let fault = start(&options).unwrap_err();
        assert!(fault.contains("info,=,"), "{fault}");
    }
}
