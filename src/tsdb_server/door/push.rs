//! Telling a session over its connection what it is told unasked.
//!
//! Nothing here waits: what does not fit on the connection is told again by whoever still wants it, or its wait is bounded.

use crate::net::Connection;
use crate::types::FsError;
use crate::types::Ino;
use crate::wire::Listener;
use crate::wire::Recall;
use crate::wire::Whole;
use crate::wire::message;
use crate::wire::message::Told;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;

type Done = Box<dyn FnOnce() + Send>;

/// The other end of a session's connection.
pub(super) struct Push {
    connection: Connection,
    flushes: Mutex<Flushes>,
}

#[derive(Default)]
struct Flushes {
    last: u64,
    /// Those that were asked for and not answered.
    open: HashMap<u64, Done>,
}

impl Push {
    pub(super) fn new(connection: Connection) -> Push {
        Push { connection, flushes: Mutex::default() }
    }

    /// The client has flushed.
    pub(super) fn flushed(&self, number: u64) {
        let done = self.flushes.lock().open.remove(&number);
        if let Some(done) = done {
            done();
        }
    }

    fn tell(&self, told: &Told) -> Result<(), FsError> {
        Ok(self.connection.tell(message::TOLD, message::encode(told), Bytes::new())?)
    }
}

impl Listener for Push {
    fn recall(&self, what: Recall) {
        if let Err(error) = self.tell(&Told::Recall(what)) {
            tracing::debug!(%error, "a recall was not told; it will be again");
        }
    }

    fn flush(&self, done: Done) {
        let number = {
            let mut flushes = self.flushes.lock();
            flushes.last += 1;
            let number = flushes.last;
            flushes.open.insert(number, done);
            number
        };
        if let Err(error) = self.tell(&Told::Flush { number }) {
            tracing::debug!(%error, "a session was not asked to flush");
            self.flushes.lock().open.remove(&number);
        }
    }

    fn whole(&self, whole: Whole) {
        if let Err(error) = self.tell(&Told::Whole(whole)) {
            tracing::debug!(%error, "a session learns with its next renewal that it has the whole");
        }
    }

    fn unlocked(&self, ino: Ino) {
        if let Err(error) = self.tell(&Told::Unlocked { ino }) {
            tracing::debug!(%error, "whoever waits for a lock asks again by himself");
        }
    }

    fn ended(&self, why: &str) {
        if let Err(error) = self.tell(&Told::Ended { why: why.to_owned() }) {
            tracing::debug!(%error, "a session learns with its next renewal that it is over");
        }
    }
}
