//! What the server tells this client unasked.
//!
//! Not here: what is done about it takes place on the flusher's thread, for a server's thread may not wait.

use crate::tsdb_client::core::Core;
use crate::wire::Listener;
use crate::wire::Recall;
use crate::wire::Whole;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::Weak;

/// The server gets it before there is a session to speak of.
#[derive(Default)]
pub(super) struct Ear(pub(super) OnceLock<Weak<Core>>);

impl Ear {
    fn core(&self) -> Option<Arc<Core>> {
        self.0.get()?.upgrade()
    }
}

impl Listener for Ear {
    fn recall(&self, what: Recall) {
        tracing::debug!(?what, "asked to give back");
    }

    fn flush(&self, done: Box<dyn FnOnce() + Send>) {
        done();
    }

    fn whole(&self, whole: Whole) {
        tracing::debug!(whole.epoch, "owns the whole");
    }

    fn ended(&self, why: &str) {
        if let Some(core) = self.core() {
            core.journal.lose(why);
        }
    }
}
