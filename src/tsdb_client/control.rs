//! What commands ask.

use crate::tsdb_client::Caller;
use crate::tsdb_client::Client;
use crate::types::FsError;
use crate::types::Ino;
use crate::wire::control::Answer;
use crate::wire::control::Request;
use std::ops::ControlFlow;

impl Client {
    /// Does what a command asks, paths relative to `dir`. Every line goes to `send`; the last is `Done` or `Error`. Where
    /// `send` breaks, the work stops at the next safe place. Waits; never call it on a thread that answers the kernel,
    /// which may have to answer for it.
    pub fn control(
        &self,
        _caller: Caller,
        _dir: Ino,
        _request: &Request,
        send: &mut dyn FnMut(Answer) -> ControlFlow<()>,
    ) {
        let later = FsError::NotSupported("commands are answered in a later change");
        let _ = send(Answer::Error((&later).into()));
    }
}
