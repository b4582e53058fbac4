//! What the server tells this client unasked: taken down by whoever tells it, and done by a thread of its own.
//!
//! Not here: giving back (`recall`).

use crate::tsdb_client::journal::Journal;
use crate::types::Ino;
use crate::wire::Listener;
use crate::wire::Recall;
use crate::wire::Whole;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::OnceLock;

/// Something that was told.
pub(super) enum Heard {
    Recall(Vec<Recall>),
    Flush(Box<dyn FnOnce() + Send>),
    Whole(Whole),
    /// Copies of these, or all.
    TakeBack(Option<Vec<Ino>>, Box<dyn FnOnce() + Send>),
    /// A lock on it has gone that was in the way.
    Unlocked(Ino),
    Ended,
}

/// The server gets it before there is a session to speak of.
#[derive(Default)]
pub(super) struct Ear {
    /// In order; recalls that follow each other are one.
    heard: Mutex<Queue>,
    came: Condvar,
    journal: OnceLock<Arc<Journal>>,
}

#[derive(Default)]
struct Queue {
    heard: Vec<Heard>,
    closed: bool,
    /// The session was ended before there was a journal.
    ended: Option<String>,
}

impl Ear {
    /// Whom a loss is told.
    pub(super) fn attach(&self, journal: Arc<Journal>) {
        let ended = self.heard.lock().ended.take();
        if let Some(why) = ended {
            journal.lose(&why);
        }
        let _ = self.journal.set(journal);
    }

    /// Waits for something to be told; `None` at the end.
    pub(super) fn next(&self) -> Option<Vec<Heard>> {
        let mut queue = self.heard.lock();
        loop {
            if !queue.heard.is_empty() {
                return Some(std::mem::take(&mut queue.heard));
            }
            if queue.closed {
                return None;
            }
            self.came.wait(&mut queue);
        }
    }

    /// Nothing is listened to any more.
    pub(super) fn close(&self) {
        self.heard.lock().closed = true;
        self.came.notify_all();
    }

    fn hear(&self, heard: Heard) {
        let mut queue = self.heard.lock();
        match (heard, queue.heard.last_mut()) {
            (Heard::Recall(more), Some(Heard::Recall(what))) => {
                for more in more {
                    if !what.contains(&more) {
                        what.push(more);
                    }
                }
            }
            (heard, _) => queue.heard.push(heard),
        }
        drop(queue);
        self.came.notify_all();
    }
}

impl Listener for Ear {
    fn recall(&self, what: Recall) {
        self.hear(Heard::Recall(vec![what]));
    }

    fn flush(&self, done: Box<dyn FnOnce() + Send>) {
        self.hear(Heard::Flush(done));
    }

    fn whole(&self, whole: Whole) {
        self.hear(Heard::Whole(whole));
    }

    fn take_back(&self, inos: Option<Vec<Ino>>, done: Box<dyn FnOnce() + Send>) {
        self.hear(Heard::TakeBack(inos, done));
    }

    fn unlocked(&self, ino: Ino) {
        self.hear(Heard::Unlocked(ino));
    }

    fn ended(&self, why: &str) {
        if self.heard.lock().closed {
            return;
        }
        match self.journal.get() {
            Some(journal) => journal.lose(why),
            None => self.heard.lock().ended = Some(why.to_owned()),
        }
        self.hear(Heard::Ended);
    }

    fn away(&self, why: Option<&str>) {
        if let Some(journal) = self.journal.get() {
            journal.away(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_ended_by_himself_has_lost_nothing() {
        let (ear, journal) = (Ear::default(), Arc::new(Journal::default()));
        ear.attach(journal.clone());
        ear.close();
        ear.ended("its session was ended");
        assert!(journal.lost().is_none() && ear.next().is_none());
        let (ear, journal) = (Ear::default(), Arc::new(Journal::default()));
        ear.attach(journal.clone());
        ear.ended("it was cut off");
        assert_eq!(journal.lost().as_deref(), Some("it was cut off"));
    }
}
