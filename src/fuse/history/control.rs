//! The control file: a command opens it, writes one line of JSON and reads the lines of the answer.
//!
//! The work runs on a thread of its own, because the kernel may have to be answered for it. Whoever reads waits for
//! the next line, but never for long: an empty line comes in between, so that a command can be interrupted (fuser
//! does not tell of signals) and closing the file is noticed, which ends the work at its next safe place.
//!
//! Not here: what is asked and answered (`wire::control`), doing it (`tsdb_client`).

use crate::fuse::vfs::Answer;
use crate::fuse::vfs::Stop;
use crate::tsdb_client::Caller;
use crate::tsdb_client::Client;
use crate::tsdb_client::Wait;
use crate::types::FsError;
use crate::types::Ino;
use crate::wire::control;
use crate::wire::control::REQUEST_BYTES_MAX;
use bytes::Bytes;
use bytes::BytesMut;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// An empty line is read after that long without another.
const PATIENCE: Duration = Duration::from_millis(500);
/// Lines that may wait for a reader, in bytes; beyond it the work waits.
const UNREAD_BYTES_MAX: usize = 1 << 20;
/// Commands that may run at once: each takes a thread here, and one that waits for readers while its line is read.
const COMMANDS_MAX: usize = 8;

/// Commands that run now.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// One opening of a control file.
pub(super) struct Session {
    caller: Caller,
    dir: Ino,
    state: Mutex<State>,
    /// Something was written, read or closed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    asked: BytesMut,
    started: bool,
    /// Lines not yet read.
    unread: BytesMut,
    finished: bool,
    /// Nobody will read any more.
    closed: bool,
}

impl Session {
    pub(super) fn new(caller: Caller, dir: Ino) -> Arc<Session> {
        Arc::new(Session { caller, dir, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Takes a part of the request. Its newline starts the work.
    pub(super) fn write(self: &Arc<Session>, client: &Arc<Client>, data: &[u8]) -> Answer<u32> {
        let mut state = self.state.lock();
        if state.started {
            return Err(FsError::Invalid("one request for each opening of the control file").into());
        }
        if state.asked.len() + data.len() > REQUEST_BYTES_MAX {
            return Err(FsError::FileTooBig.into());
        }
        state.asked.extend_from_slice(data);
        if state.asked.last() == Some(&b'\n') {
            state.started = true;
            let line = std::mem::take(&mut state.asked).freeze();
            drop(state);
            self.start(client, line);
        }
        Ok(data.len() as u32)
    }

    /// The next bytes of the answer; none at its end.
    pub(super) fn read(&self, len: u32, wait: Wait) -> Answer<Bytes> {
        let mut state = self.state.lock();
        if !state.started {
            return Err(FsError::Invalid("write a request and a newline first").into());
        }
        if state.unread.is_empty() && !state.finished {
            if wait == Wait::Never {
                return Err(Stop::Waits);
            }
            let empty = |state: &mut State| state.unread.is_empty() && !state.finished;
            if self.changed.wait_while_for(&mut state, empty, PATIENCE).timed_out() {
                return Ok(Bytes::from_static(b"\n"));
            }
        }
        let len = state.unread.len().min(len as usize);
        let bytes = state.unread.split_to(len).freeze();
        self.changed.notify_all();
        Ok(bytes)
    }

    /// Nobody reads any more: the work ends when it next says something.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    fn start(self: &Arc<Session>, client: &Arc<Client>, line: Bytes) {
        let Some(slot) = Slot::take() else {
            return self.refuse("too many commands are running on this mount; try again later");
        };
        let (session, client) = (Arc::clone(self), Arc::clone(client));
        let thread = std::thread::Builder::new().name("control".to_owned());
        let started = thread.spawn(move || {
            let _slot = slot;
            let work = AssertUnwindSafe(|| session.work(&client, &line));
            if catch_unwind(work).is_err() {
                tracing::error!(caller = session.caller.uid, "a command panicked");
                session.refuse("the mount failed at this, which is a bug; see its log");
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for a command");
            self.refuse("the mount could not start a thread for this; try again later");
        }
    }

    fn work(&self, client: &Client, line: &[u8]) {
        match control::Request::decode(line) {
            Ok(request) => {
                client.control(self.caller, self.dir, &request, &mut |answer| self.send(&answer));
            }
            Err(error) => {
                let _ = self.send(&control::Answer::Error((&error).into()));
            }
        }
        self.finish();
    }

    fn finish(&self) {
        self.state.lock().finished = true;
        self.changed.notify_all();
    }

    fn refuse(&self, why: &str) {
        let failure = control::Failure::new(control::FailureKind::Store, why);
        let _ = self.send(&control::Answer::Error(failure));
        self.finish();
    }

    /// Waits where a reader is slow; breaks where it is gone.
    fn send(&self, answer: &control::Answer) -> ControlFlow<()> {
        let mut state = self.state.lock();
        while state.unread.len() >= UNREAD_BYTES_MAX && !state.closed {
            self.changed.wait(&mut state);
        }
        if state.closed {
            return ControlFlow::Break(());
        }
        state.unread.extend_from_slice(&answer.encode());
        state.unread.extend_from_slice(b"\n");
        self.changed.notify_all();
        ControlFlow::Continue(())
    }
}

/// One of the commands that may run at once.
struct Slot;

impl Slot {
    fn take() -> Option<Slot> {
        let more = |running| (running < COMMANDS_MAX).then_some(running + 1);
        RUNNING.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::Answer as Line;
    use crate::wire::control::Done;

    const CALLER: Caller = Caller { uid: 1, gid: 1, pid: 1 };

    fn started() -> Arc<Session> {
        let session = Session::new(CALLER, Ino::ROOT);
        session.state.lock().started = true;
        session
    }

    #[test]
    fn lines_are_read_in_pieces_and_end() {
        let session = started();
        assert!(matches!(session.read(9, Wait::Never), Err(Stop::Waits)));
        assert_eq!(session.read(9, Wait::Allowed).unwrap(), &b"\n"[..], "a sign of life");
        assert!(session.send(&Line::Done(Done::default())).is_continue());
        session.finish();
        let mut read = Vec::new();
        loop {
            let bytes = session.read(7, Wait::Never).unwrap();
            if bytes.is_empty() {
                break;
            }
            read.extend_from_slice(&bytes);
        }
        assert!(read.ends_with(b"\n"));
        assert!(Line::decode(&read).unwrap().is_last());
    }

    #[test]
    fn work_waits_for_a_slow_reader_and_ends_with_a_gone_one() {
        let session = started();
        let sender = Arc::clone(&session);
        let work = std::thread::spawn(move || {
            let line = Line::History { keep: true };
            let mut lines = 0u64;
            while sender.send(&line).is_continue() {
                lines += 1;
            }
            lines
        });
        let mut read = 0;
        while read < 3 * UNREAD_BYTES_MAX {
            read += session.read(1 << 16, Wait::Allowed).unwrap().len();
        }
        assert!(session.state.lock().unread.len() < 2 * UNREAD_BYTES_MAX);
        session.close();
        assert!(work.join().unwrap() > 0);
    }

    #[test]
    fn reading_before_asking_is_refused() {
        let session = Session::new(CALLER, Ino::ROOT);
        assert!(matches!(session.read(9, Wait::Allowed), Err(Stop::Error(FsError::Invalid(_)))));
    }
}
