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
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    last: u64,
    /// Those that were asked for and not answered.
    open: HashMap<u64, Done>,
}

impl Push {
    pub(super) fn new(connection: Connection) -> Push {
        Push { connection, asked: Mutex::default() }
    }

    /// The client has done what it was asked for under this number.
    pub(super) fn done(&self, number: u64) {
        let done = self.asked.lock().open.remove(&number);
        if let Some(done) = done {
            done();
        }
    }

    /// Tells something that is answered.
    fn ask(&self, told: impl FnOnce(u64) -> Told, done: Done) {
        let number = {
            let mut asked = self.asked.lock();
            asked.last += 1;
            let number = asked.last;
            asked.open.insert(number, done);
            number
        };
        if let Err(error) = self.tell(&told(number)) {
            tracing::debug!(%error, "a session was not asked for something");
            self.asked.lock().open.remove(&number);
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
        self.ask(|number| Told::Flush { number }, done);
    }

    fn take_back(&self, inos: Option<Vec<Ino>>, done: Done) {
        self.ask(|number| Told::TakeBack { number, inos }, done);
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
